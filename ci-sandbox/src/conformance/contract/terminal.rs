//! Programs on a terminal.

use std::sync::Arc;

use ci_core::ErrorKind;
use ci_core::sandbox::{ExitStatus, OutputStream, Process, ProcessEvent, Signal, TerminalSize};

use super::{alternating, gone, refusal, sandbox};
use crate::conformance::Bench;
use crate::conformance::guest::{Guest, Ran, command, finish, within};
use crate::conformance::machine::{backwards, unique};

const SIZE: TerminalSize = TerminalSize { rows: 24, columns: 80 };
const OTHER_SIZE: TerminalSize = TerminalSize { rows: 50, columns: 132 };

async fn on_terminal<'a>(guest: &'a Guest, words: &[&str]) -> Box<dyn Process + 'a> {
    guest.exec(&command(words).with_terminal(SIZE)).await.expect("it starts on a terminal")
}

/// Reads until the output holds `wanted`.
async fn until(process: &mut dyn Process, wanted: &str) {
    let mut seen = String::new();
    while !seen.contains(wanted) {
        match within("read from a terminal", process.next()).await.expect("it goes on") {
            ProcessEvent::Output(stream, bytes) => {
                assert_eq!(stream, OutputStream::Stdout, "a terminal has one stream");
                seen += &String::from_utf8_lossy(&bytes);
            }
            ProcessEvent::Exited(exit) => panic!("it ended with {}, after {seen:?}", exit.status),
        }
    }
}

async fn ended(process: &mut dyn Process) -> Ran {
    finish(process).await.expect("it ends")
}

#[doc(hidden)]
pub async fn a_terminal_is_all_three_streams(bench: Arc<dyn Bench>) {
    let guest = sandbox(&bench).await;
    let ran = ended(&mut *on_terminal(&guest, &["terminal"]).await).await;
    assert_eq!(ran.text(), "yes yes yes 24 80 own\r\n");
    assert!(ran.stderr.is_empty(), "a terminal has one stream: {ran:?}");
    // Its terminal is its own, and the next one's another.
    for _ in 0..3 {
        let ran = ended(&mut *on_terminal(&guest, &["terminal"]).await).await;
        assert_eq!(
            (ran.text().as_str(), ran.exit.status),
            ("yes yes yes 24 80 own\r\n", ExitStatus::Code(0))
        );
    }
    gone(guest).await;
}

#[doc(hidden)]
pub async fn there_is_no_terminal_that_nobody_asked_for(bench: Arc<dyn Bench>) {
    let guest = sandbox(&bench).await;
    assert_eq!(guest.run(&["terminal"]).await.expect("it runs").text(), "no no no 0 0 none\n");
    let process = guest.start_up(&["wait"]).await.expect("it starts");
    let error = refusal(process.resize(SIZE).await);
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    drop(process);
    gone(guest).await;
}

#[doc(hidden)]
pub async fn a_terminal_can_be_resized(bench: Arc<dyn Bench>) {
    let guest = sandbox(&bench).await;
    let mut process = on_terminal(&guest, &["resized"]).await;
    until(&mut *process, "up").await;
    process.resize(OTHER_SIZE).await.expect("it is there");
    let ran = ended(&mut *process).await;
    assert!(ran.text().contains("50 132\r\n"), "it does not learn of its new size: {:?}", ran.text());
    assert_eq!(ran.exit.status, ExitStatus::Code(0));
    process.resize(SIZE).await.expect("a program that has ended takes no notice");
    drop(process);
    gone(guest).await;
}

#[doc(hidden)]
pub async fn what_is_typed_has_its_effect(bench: Arc<dyn Bench>) {
    let guest = sandbox(&bench).await;
    for (typed, number) in [("\x03", 2), ("\x1c", 3)] {
        let mut process = on_terminal(&guest, &["wait"]).await;
        until(&mut *process, "up").await;
        process.input().expect("a terminal is written to").write(typed.into()).await.expect("it is taken");
        assert_eq!(ended(&mut *process).await.exit.status, ExitStatus::Signal(number), "{typed:?}");
    }
    let mut process = on_terminal(&guest, &["input"]).await;
    let mut input = process.input().expect("a terminal is written to");
    input.write("words\nwrong\x15more\n\x04".into()).await.expect("it is taken");
    let ran = ended(&mut *process).await;
    // It shows what is typed, and the program what it has read.
    assert_eq!(ran.text().matches("words\r\n").count(), 2, "{:?}", ran.text());
    assert!(ran.text().ends_with("more\r\n"), "{:?}", ran.text());
    assert_eq!(ran.exit.status, ExitStatus::Code(0), "0x04 is the end of its input");
    drop(process);
    gone(guest).await;
}

/// Neither the input that is let go of nor what another process does with it.
#[doc(hidden)]
pub async fn a_terminal_ends_with_its_program(bench: Arc<dyn Bench>) {
    let guest = sandbox(&bench).await;
    let mut process = on_terminal(&guest, &["resized"]).await;
    until(&mut *process, "up").await;
    drop(process.input());
    process.resize(OTHER_SIZE).await.expect("it is there");
    assert_eq!(ended(&mut *process).await.exit.status, ExitStatus::Code(0), "a terminal's input has no end");
    drop(process);
    // Another process keeps it: the program has ended all the same, and then the terminal hangs up.
    let mut process = on_terminal(&guest, &["keep-terminal", "/work/hung"]).await;
    assert_eq!(ended(&mut *process).await.exit.status, ExitStatus::Code(0));
    drop(process);
    within("wait for a terminal to hang up", async {
        while guest.run(&["read", "/work/hung"]).await?.text() != "hung up" {}
        Ok(())
    })
    .await
    .expect("whoever has a terminal that is gone is told");
    gone(guest).await;
}

#[doc(hidden)]
pub async fn signals_and_drops_reach_a_program_on_a_terminal(bench: Arc<dyn Bench>) {
    let guest = sandbox(&bench).await;
    let all =
        [Signal::Hangup, Signal::Interrupt, Signal::Quit, Signal::Terminate, Signal::User1, Signal::User2];
    for signal in all {
        let mut process = on_terminal(&guest, &["wait"]).await;
        until(&mut *process, "up").await;
        process.signal(signal).await.expect("it is there");
        assert_eq!(ended(&mut *process).await.exit.status, ExitStatus::Signal(signal.number()), "{signal:?}");
    }
    let marker = unique("terminal-");
    let mut process = on_terminal(&guest, &["stubborn", &marker]).await;
    until(&mut *process, "up").await;
    drop(process);
    let find = ["find", &backwards(&marker)];
    within("wait for a program to be stopped", async {
        while !guest.run(&find).await?.text().is_empty() {}
        Ok(())
    })
    .await
    .expect("a program that was dropped is stopped");
    gone(guest).await;
}

#[doc(hidden)]
pub async fn a_terminal_changes_nothing_but_line_ends(bench: Arc<dyn Bench>) {
    const LINES: usize = 3_000;
    let guest = sandbox(&bench).await;
    let ran = ended(&mut *on_terminal(&guest, &["alternate", &LINES.to_string()]).await).await;
    let expected = alternating(LINES, "\r\n");
    assert!(ran.text() == expected, "{} bytes of {} came, or others", ran.stdout.len(), expected.len());
    gone(guest).await;
}
