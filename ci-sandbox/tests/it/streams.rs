//! What programs are given to read and what they write.

use std::time::Duration;

use bytes::Bytes;
use ci_core::ErrorKind;
use ci_core::sandbox::{ExitStatus, Input, OutputStream, Process, ProcessEvent, Signal, TerminalSize};
use tokio::time::timeout;

use crate::support::{Rig, finish, refusal, shell};

/// More than all pipes on the way hold.
const MUCH: usize = 3_000_000;

/// The next piece of output as text.
pub(crate) async fn text(process: &mut dyn Process) -> String {
    match process.next().await.unwrap() {
        ProcessEvent::Output(_, bytes) => String::from_utf8(bytes.into()).unwrap(),
        ProcessEvent::Exited(exit) => panic!("{exit:?}"),
    }
}

/// Writes for as long as it is taken, and returns why it is not any more.
pub(crate) async fn refused(input: &mut dyn Input) -> ci_core::Error {
    loop {
        if let Err(error) = input.write(Bytes::from_static(&[b'x'; 4096])).await {
            break error;
        }
    }
}

/// Whether a write waits: for as long as a test can wait for something not to happen.
pub(crate) async fn waits(input: &mut dyn Input) -> bool {
    timeout(Duration::from_millis(200), input.write(vec![b'x'; MUCH].into())).await.is_err()
}

#[tokio::test]
async fn a_program_reads_what_it_is_given() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    let given: Bytes = (0..MUCH).map(|index| index.to_le_bytes()[0]).collect();
    let mut process = sandbox.exec(&shell("tr '\\000-\\377' '\\001-\\377\\000'").with_input()).await.unwrap();
    let mut input = process.input().unwrap();
    assert!(process.input().is_none(), "there is one");
    let feed = async {
        for piece in given.chunks(100_000) {
            input.write(Bytes::copy_from_slice(piece)).await.unwrap();
        }
        drop(input);
    };
    let read = async {
        let mut read = Vec::new();
        loop {
            match process.next().await.unwrap() {
                ProcessEvent::Output(_, bytes) => read.extend_from_slice(&bytes),
                ProcessEvent::Exited(exit) => break (read, exit.status),
            }
        }
    };
    let ((), (read, status)) = tokio::join!(feed, read);
    assert_eq!(status, ExitStatus::Code(0));
    assert!(read.iter().zip(&given).all(|(read, given)| *read == given.wrapping_add(1)));
    assert_eq!(read.len(), MUCH);
    drop(process);
    sandbox.destroy().await;
}

#[tokio::test]
async fn without_an_input_there_is_nothing_to_read() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    let mut process = sandbox.start("cat; echo end").await.unwrap();
    assert!(process.input().is_none());
    assert_eq!(finish(&mut *process).await.stdout, "end\n");
    let size = TerminalSize { rows: 24, columns: 80 };
    assert_eq!(refusal(process.resize(size).await).kind(), ErrorKind::Unsupported);
    drop(process);
    sandbox.destroy().await;
}

#[tokio::test]
async fn an_input_that_is_not_taken_stays_open() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    let mut process = sandbox.exec(&shell("cat; echo end").with_input()).await.unwrap();
    assert!(timeout(Duration::from_millis(100), process.next()).await.is_err());
    drop(process.input());
    assert_eq!(finish(&mut *process).await.stdout, "end\n");
    drop(process);
    sandbox.destroy().await;
}

#[tokio::test]
async fn who_writes_to_a_program_that_does_not_read_waits_until_it_ends() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    let mut process = sandbox.exec(&shell("exec sleep 1000").with_input()).await.unwrap();
    let mut input = process.input().unwrap();
    assert!(waits(&mut *input).await);
    process.signal(Signal::Kill).await.unwrap();
    let (error, ran) = tokio::join!(refused(&mut *input), finish(&mut *process));
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Conflict, false));
    assert_eq!(ran.exit.status, ExitStatus::Signal(9));
    drop(process);

    let mut process = sandbox.exec(&shell("exec sleep 1000").with_input()).await.unwrap();
    let mut input = process.input().unwrap();
    assert!(waits(&mut *input).await);
    drop(process);
    assert_eq!(refused(&mut *input).await.kind(), ErrorKind::Conflict, "dropping the program ends it");
    sandbox.destroy().await;
}

#[tokio::test]
async fn an_input_can_be_closed_by_its_program() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    let script = "exec 0<&-; echo closed; exec sleep 1000";
    let mut process = sandbox.exec(&shell(script).with_input()).await.unwrap();
    let mut input = process.input().unwrap();
    assert_eq!(text(&mut *process).await, "closed\n");
    assert_eq!(refused(&mut *input).await.kind(), ErrorKind::Conflict);
    drop(process);
    sandbox.destroy().await;
}

#[tokio::test]
async fn an_input_ends_with_its_program_though_another_holds_it() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    // A shell gives what it starts in the background another standard input.
    let command = shell("exec 3<&0; sleep 1000 & exit 3").with_input();
    let mut process = sandbox.exec(&command).await.unwrap();
    let mut input = process.input().unwrap();
    let both = async { tokio::join!(refused(&mut *input), finish(&mut *process)) };
    let (error, ran) =
        timeout(Duration::from_secs(20), both).await.expect("neither waits for the other program");
    assert_eq!((error.kind(), ran.exit.status), (ErrorKind::Conflict, ExitStatus::Code(3)));
    drop(process);
    sandbox.destroy().await;
}

#[tokio::test]
async fn an_input_does_not_keep_its_sandbox() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    let mut process = sandbox.exec(&shell("exec sleep 1000").with_input()).await.unwrap();
    let mut input = process.input().unwrap();
    drop(process);
    sandbox.destroy().await;
    assert_eq!(refused(&mut *input).await.kind(), ErrorKind::Unavailable);
    assert_eq!(rig.entries(), 0);
}

#[tokio::test]
async fn merged_output_keeps_its_order() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    let script = "i=0; while [ $i -lt 500 ]; do echo out $i; echo err $i >&2; i=$((i+1)); done";
    let mut process = sandbox.exec(&shell(script).with_merged_output()).await.unwrap();
    let ran = finish(&mut *process).await;
    let lines = (0..500).map(|number| format!("out {number}\nerr {number}\n"));
    let expected = lines.collect::<Vec<_>>().concat();
    assert_eq!((ran.stdout, ran.stderr), (expected, String::new()));
    drop(process);
    sandbox.destroy().await;
}

#[tokio::test]
async fn output_without_end_and_lines_is_held_back_by_its_reader() {
    const ALL: usize = 512 * 1024 * 1024;
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    let mut process = sandbox.start(&format!("head -c {ALL} /dev/zero; touch /work/done")).await.unwrap();
    let mut length = 0;
    // The reader stops after a little, and so does the program.
    while length < 1_000_000 {
        match process.next().await.unwrap() {
            ProcessEvent::Output(_, bytes) => length += bytes.len(),
            ProcessEvent::Exited(exit) => panic!("{exit:?}"),
        }
    }
    sandbox.output("sleep 0.3; test ! -e /work/done").await;
    loop {
        match process.next().await.unwrap() {
            ProcessEvent::Output(OutputStream::Stdout, bytes) => {
                assert!(bytes.len() <= 64 * 1024);
                length += bytes.len();
            }
            ProcessEvent::Output(..) => panic!("to the wrong stream"),
            ProcessEvent::Exited(exit) => break assert!(exit.status.is_success()),
        }
    }
    assert_eq!(length, ALL);
    drop(process);
    sandbox.destroy().await;
}

#[tokio::test]
async fn a_little_output_takes_a_little_memory() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    let mut process = sandbox.start("echo x").await.unwrap();
    let ProcessEvent::Output(_, bytes) = process.next().await.unwrap() else { panic!("no output") };
    let capacity = bytes.try_into_mut().map_or(0, |bytes| bytes.capacity());
    assert!(capacity < 1024, "{capacity} bytes are kept for two");
    drop(process);
    sandbox.destroy().await;
}

/// What the init tells the supervisor looks like this, and so does what the supervisor asks.
#[tokio::test]
async fn what_a_program_writes_is_never_more_than_that() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    let forged = r"\003\000\000\000\001\000\000\000\000\000\000\000\000\000\000\000";
    let script =
        format!("for i in 1 2 3; do printf '{forged}{forged}{forged}\\033]0;title\\007'; done; exit 7");
    for command in [shell(&script), shell(&script).with_merged_output()] {
        let mut process = sandbox.exec(&command).await.unwrap();
        let ran = finish(&mut *process).await;
        assert_eq!((ran.stdout.len(), ran.exit.status), (3 * (3 * 16 + 10), ExitStatus::Code(7)));
    }
    sandbox.destroy().await;
}

#[tokio::test]
async fn a_thousand_programs_leave_nothing_behind() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    for number in 0..1_000 {
        let options = [shell("exit 0"), shell("exit 0").with_input(), shell("exit 0").with_merged_output()];
        let mut process = sandbox.exec(&options[number % 3]).await.unwrap();
        assert_eq!(finish(&mut *process).await.exit.status, ExitStatus::Code(0));
    }
    nothing_runs(&sandbox).await;
    sandbox.destroy().await;
}

#[tokio::test]
async fn a_storm_of_cancelled_starts_leaves_nothing_behind() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    let size = TerminalSize { rows: 24, columns: 80 };
    for round in 0..300 {
        let command = shell("exec sleep 1000");
        let command = if round % 2 == 0 { command.with_terminal(size) } else { command.with_input() };
        let _ = timeout(Duration::from_micros(round * 10), async {
            let mut process = sandbox.exec(&command).await.unwrap();
            let _ = process.next().await;
        })
        .await;
    }
    nothing_runs(&sandbox).await;
    sandbox.destroy().await;
}

/// Waits until process 1, the shell and what the shell starts are alone, and all terminals are free again.
async fn nothing_runs(sandbox: &crate::support::Sandbox) {
    for _ in 0..200 {
        if sandbox
            .output("ls -d /proc/[0-9]* /dev/pts/[0-9]* 2> /dev/null | wc -l")
            .await
            .parse::<u32>()
            .unwrap()
            <= 4
        {
            return;
        }
    }
    panic!("still there: {}", sandbox.output("cat /proc/[0-9]*/cmdline; ls /dev/pts").await);
}
