//! Programs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ci_core::ErrorKind;
use ci_core::job::{Arg, Environment};
use ci_core::sandbox::{Command, ExitStatus, Signal};

use super::{alternating, gone, refusal, sandbox};
use crate::conformance::Bench;
use crate::conformance::guest::{command, finish, path};
use crate::conformance::machine::{backwards, unique};

/// All 256 where that is quick, and those that something else could mean in any case.
#[doc(hidden)]
pub async fn a_program_ends_with_any_code(bench: Arc<dyn Bench>) {
    const LONG_ENOUGH: Duration = Duration::from_secs(8);
    let guest = sandbox(&bench).await;
    let telling = [0, 1, 2, 77, 125, 126, 127, 128, 130, 137, 139, 143, 254, 255];
    let start = Instant::now();
    for (count, code) in telling.into_iter().chain(0..=255_u8).enumerate() {
        if count >= telling.len() && start.elapsed() > LONG_ENOUGH {
            break;
        }
        let ran = guest.run(&["exit", &code.to_string()]).await.expect("it runs");
        assert_eq!(ran.exit.status, ExitStatus::Code(code));
    }
    gone(guest).await;
}

#[doc(hidden)]
pub async fn a_program_ends_by_its_signal(bench: Arc<dyn Bench>) {
    let guest = sandbox(&bench).await;
    for signal in [1, 2, 3, 4, 6, 8, 9, 11, 13, 14, 15, 31] {
        let ran = guest.run(&["signal", &signal.to_string()]).await.expect("it runs");
        assert_eq!(ran.exit.status, ExitStatus::Signal(signal));
    }
    gone(guest).await;
}

#[doc(hidden)]
pub async fn arguments_arrive_as_they_are(bench: Arc<dyn Bench>) {
    let guest = sandbox(&bench).await;
    let long = "x".repeat(100_000);
    let words =
        ["", " ", "two words", "quote\"'`$(id)\\", "line\nline", "-n", "--", "*", "\u{e4}\u{1f980}", &long];
    let all: Vec<&str> = std::iter::once("arguments").chain(words).collect();
    let ran = guest.run(&all).await.expect("it runs");
    assert_eq!(ran.text(), words.map(|word| format!("{word}\0")).concat());
    gone(guest).await;
}

#[doc(hidden)]
pub async fn variables_are_those_of_the_command_alone(bench: Arc<dyn Bench>) {
    let guest = sandbox(&bench).await;
    let ran = guest.run(&["environment"]).await.expect("it runs");
    assert_eq!(ran.text(), "", "no variable was given");
    let mut environment = Environment::default();
    environment.set("GREETING".parse().expect("a name"), "good morning\n2nd line $HOME");
    let asking = command(&["environment"]).with_environment(&environment);
    let ran = finish(&mut *guest.exec(&asking).await.expect("it starts")).await.expect("it ends");
    assert_eq!(ran.text(), "GREETING=good morning\n2nd line $HOME\0");
    gone(guest).await;
}

#[doc(hidden)]
pub async fn it_runs_where_it_is_told(bench: Arc<dyn Bench>) {
    let guest = sandbox(&bench).await;
    assert_eq!(guest.run(&["directory"]).await.expect("it runs").text(), "/work");
    for folder in ["/", "/tmp"] {
        let there = command(&["directory"]).with_directory(path(folder));
        let ran = finish(&mut *guest.exec(&there).await.expect("it starts")).await.expect("it ends");
        assert_eq!(ran.text(), folder);
    }
    gone(guest).await;
}

#[doc(hidden)]
pub async fn there_is_nothing_on_its_input(bench: Arc<dyn Bench>) {
    let guest = sandbox(&bench).await;
    let ran = guest.run(&["input"]).await.expect("it runs");
    assert_eq!((ran.text(), ran.exit.status), (String::new(), ExitStatus::Code(0)));
    gone(guest).await;
}

#[doc(hidden)]
pub async fn both_streams_are_whole_and_apart(bench: Arc<dyn Bench>) {
    const PERIOD: usize = 251;
    let guest = sandbox(&bench).await;
    let expected =
        |count: usize| (0..count).map(|at| u8::try_from(at % PERIOD).unwrap_or(0)).collect::<Vec<u8>>();
    for (word, count) in [("write", 5_000_000), ("write-errors", 300_000), ("drip", 20_000)] {
        let ran = guest.run(&[word, &count.to_string()]).await.expect("it runs");
        let (mine, other) =
            if word == "write-errors" { (&ran.stderr, &ran.stdout) } else { (&ran.stdout, &ran.stderr) };
        assert!(*mine == expected(count), "{word}: {} bytes of {count} came", mine.len());
        assert!(other.is_empty(), "{word}: {} bytes came from the other stream", other.len());
        assert_eq!(ran.exit.status, ExitStatus::Code(0));
    }
    gone(guest).await;
}

#[doc(hidden)]
pub async fn merged_output_keeps_its_order(bench: Arc<dyn Bench>) {
    const LINES: usize = 5_000;
    let guest = sandbox(&bench).await;
    let alternate = command(&["alternate", &LINES.to_string()]);
    let merged = alternate.clone().with_merged_output();
    let ran = finish(&mut *guest.exec(&merged).await.expect("it starts")).await.expect("it ends");
    let expected = alternating(LINES, "\n");
    assert!(
        ran.text() == expected,
        "{} bytes of {} came, or in another order",
        ran.stdout.len(),
        expected.len()
    );
    assert!(ran.stderr.is_empty(), "{} bytes came from the other stream", ran.stderr.len());
    let ran = finish(&mut *guest.exec(&alternate).await.expect("it starts")).await.expect("it ends");
    let lines = |bytes: &[u8], word: &str| {
        String::from_utf8_lossy(bytes).lines().filter(|line| line.starts_with(word)).count()
    };
    assert_eq!((lines(&ran.stdout, "out "), lines(&ran.stderr, "err ")), (LINES, LINES), "each whole");
    assert_eq!((lines(&ran.stdout, "err "), lines(&ran.stderr, "out ")), (0, 0), "and apart");
    gone(guest).await;
}

#[doc(hidden)]
pub async fn what_cannot_be_started_says_why(bench: Arc<dyn Bench>) {
    let guest = sandbox(&bench).await;
    let program = |text: &str| Command::new(Arg::new(text).expect("a program"), []);
    let nowhere = path("/no/such/folder");
    for missing in
        [program("/no/such/program"), program("no-such-program"), command(&["exit"]).with_directory(nowhere)]
    {
        let error = refusal(guest.exec(&missing).await);
        assert_eq!(error.kind(), ErrorKind::NotFound, "{missing:?}: {error:?}");
    }
    guest.run(&["put", "/work/text", "no program"]).await.expect("it runs");
    let error = refusal(guest.exec(&program("/work/text")).await);
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
    gone(guest).await;
}

#[doc(hidden)]
pub async fn a_signal_reaches_the_program(bench: Arc<dyn Bench>) {
    let guest = sandbox(&bench).await;
    for (signal, number) in [(Signal::Terminate, 15), (Signal::Kill, 9)] {
        let mut process = guest.start_up(&["wait"]).await.expect("it starts");
        process.signal(signal).await.expect("it is there");
        let ran = finish(&mut *process).await.expect("it ends");
        assert_eq!(ran.exit.status, ExitStatus::Signal(number));
        process.signal(signal).await.expect("a program that has ended takes no notice");
    }
    gone(guest).await;
}

#[doc(hidden)]
pub async fn a_dropped_process_is_stopped(bench: Arc<dyn Bench>) {
    const PATIENCE: Duration = Duration::from_secs(5);
    let guest = sandbox(&bench).await;
    let marker = unique("dropped-");
    let process = guest.start_up(&["stubborn", &marker]).await.expect("it starts");
    let find = ["find", &backwards(&marker)];
    assert_ne!(guest.run(&find).await.expect("it runs").text(), "", "it runs, and is not found");
    drop(process);
    let start = Instant::now();
    while !guest.run(&find).await.expect("it runs").text().is_empty() {
        assert!(start.elapsed() < PATIENCE, "a program that was dropped still runs");
    }
    gone(guest).await;
}

#[doc(hidden)]
pub async fn programs_share_their_files(bench: Arc<dyn Bench>) {
    let guest = sandbox(&bench).await;
    for folder in ["/work", "/tmp"] {
        let file = format!("{folder}/file");
        let put = guest.run(&["put", &file, "hello"]).await.expect("it runs");
        assert_eq!(put.exit.status, ExitStatus::Code(0), "{folder} is writable");
        assert_eq!(guest.run(&["read", &file]).await.expect("it runs").text(), "hello");
    }
    gone(guest).await;
}
