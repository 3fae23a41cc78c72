//! Programs on a terminal of their own.

use std::time::Duration;

use ci_core::ErrorKind;
use ci_core::sandbox::{Command, ExitStatus, OutputStream, Process, ProcessEvent, Signal, TerminalSize};
use tokio::time::timeout;

use crate::streams::{refused, text, waits};
use crate::support::{Rig, Sandbox, finish, refusal, shell};

const SIZE: TerminalSize = TerminalSize { rows: 24, columns: 80 };

fn on_terminal(script: &str) -> Command {
    shell(script).with_terminal(SIZE)
}

async fn run(sandbox: &Sandbox, script: &str) -> String {
    let mut process = sandbox.exec(&on_terminal(script)).await.unwrap();
    let ran = timeout(Duration::from_secs(20), finish(&mut *process)).await.expect("it ends");
    assert_eq!((ran.stderr.as_str(), ran.exit.status), ("", ExitStatus::Code(0)), "{ran:?}");
    ran.stdout
}

/// Reads until the output holds `wanted`.
async fn until(process: &mut dyn Process, wanted: &str) {
    let mut seen = String::new();
    while !seen.contains(wanted) {
        seen += &text(process).await;
    }
}

#[tokio::test]
async fn all_three_streams_are_a_terminal_of_the_program() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    let script =
        "test -t 0 && test -t 1 && test -t 2 && tty && stty size && echo on > /dev/tty && echo two >&2";
    assert_eq!(run(&sandbox, script).await, "/dev/pts/0\r\n24 80\r\non\r\ntwo\r\n");
    assert_eq!(run(&sandbox, "stat -c '%u %a' $(tty)").await, "1000 620\r\n");
    assert_eq!(
        run(&sandbox, "ls /proc/self/fd").await.split_whitespace().collect::<Vec<_>>(),
        ["0", "1", "2", "3"]
    );
    sandbox.destroy().await;
}

#[tokio::test]
async fn what_is_typed_is_read_and_has_its_effect() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    let mut process = sandbox.exec(&on_terminal("read line; echo got $line; cat; echo end")).await.unwrap();
    let mut input = process.input().unwrap();
    input.write("words\nmore\n\x04".into()).await.unwrap();
    until(&mut *process, "end\r\n").await;
    assert_eq!(finish(&mut *process).await.exit.status, ExitStatus::Code(0));
    assert_eq!(refused(&mut *input).await.kind(), ErrorKind::Conflict);
    drop(process);

    let mut process = sandbox.exec(&on_terminal("echo up; exec sleep 1000")).await.unwrap();
    until(&mut *process, "up").await;
    process.input().unwrap().write("\x03".into()).await.unwrap();
    assert_eq!(finish(&mut *process).await.exit.status, ExitStatus::Signal(2));
    drop(process);
    sandbox.destroy().await;
}

#[tokio::test]
async fn dropping_the_input_does_not_hang_up() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    let mut process = sandbox.exec(&on_terminal("echo up; sleep 0.1; tty")).await.unwrap();
    until(&mut *process, "up\r\n").await;
    drop(process.input());
    let ran = finish(&mut *process).await;
    assert_eq!((ran.stdout.as_str(), ran.exit.status), ("/dev/pts/0\r\n", ExitStatus::Code(0)));
    drop(process);
    sandbox.destroy().await;
}

#[tokio::test]
async fn a_program_learns_that_its_terminal_has_another_size() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    let script = "trap 'stty size; exit 4' WINCH; echo up; while :; do sleep 0.01; done";
    let mut process = sandbox.exec(&on_terminal(script)).await.unwrap();
    until(&mut *process, "up").await;
    process.resize(TerminalSize { rows: 50, columns: 132 }).await.unwrap();
    let ran = finish(&mut *process).await;
    assert!(ran.stdout.contains("50 132\r\n"), "{ran:?}");
    assert_eq!(ran.exit.status, ExitStatus::Code(4));
    process.resize(SIZE).await.expect("nobody takes notice");
    drop(process);
    sandbox.destroy().await;
}

#[tokio::test]
async fn every_signal_arrives() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    for signal in [
        Signal::Hangup,
        Signal::Interrupt,
        Signal::Quit,
        Signal::Terminate,
        Signal::Kill,
        Signal::User1,
        Signal::User2,
    ] {
        let mut process = sandbox.exec(&on_terminal("echo up; exec sleep 1000")).await.unwrap();
        until(&mut *process, "up").await;
        process.signal(signal).await.unwrap();
        let status = finish(&mut *process).await.exit.status;
        assert_eq!(status, ExitStatus::Signal(signal.number()), "{signal:?}");
    }
    sandbox.destroy().await;
}

#[tokio::test]
async fn output_is_complete_when_the_program_has_ended() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    let expected = (1..=900).map(|number| format!("{number}\r\n")).collect::<Vec<_>>().concat();
    for _ in 0..100 {
        assert_eq!(run(&sandbox, "exec seq 900").await, expected);
    }
    // More than a terminal holds, from a program that is done with it when it ends.
    let mut process = sandbox.exec(&on_terminal("stty -opost; head -c 1000000 /dev/zero")).await.unwrap();
    let mut length = 0;
    loop {
        match process.next().await.unwrap() {
            ProcessEvent::Output(OutputStream::Stdout, bytes) => length += bytes.len(),
            ProcessEvent::Output(..) => panic!("to the wrong stream"),
            ProcessEvent::Exited(exit) => break assert!(exit.status.is_success()),
        }
    }
    assert_eq!(length, 1_000_000);
    drop(process);
    sandbox.destroy().await;
}

#[tokio::test]
async fn a_terminal_can_be_closed_and_opened_again() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    let script =
        "exec 0<&- 1>&- 2>&-; sleep 0.1; for i in 1 2 3; do echo again $i > /dev/tty; sleep 0.02; done";
    assert_eq!(run(&sandbox, script).await, "again 1\r\nagain 2\r\nagain 3\r\n");
    sandbox.destroy().await;
}

#[tokio::test]
async fn a_program_ends_when_it_ends_though_another_holds_its_terminal() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    let script = "echo before; (trap '' HUP; while :; do echo noise; done) & sleep 0.05";
    assert!(run(&sandbox, script).await.starts_with("before\r\n"));
    sandbox.destroy().await;
}

#[tokio::test]
async fn who_types_to_a_program_that_does_not_read_waits_until_it_ends() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    let mut process = sandbox.exec(&on_terminal("stty raw -echo; echo up; exec sleep 1000")).await.unwrap();
    until(&mut *process, "up").await;
    let mut input = process.input().unwrap();
    assert!(waits(&mut *input).await);
    process.signal(Signal::Kill).await.unwrap();
    let (error, ran) = tokio::join!(refused(&mut *input), finish(&mut *process));
    assert_eq!((error.kind(), ran.exit.status), (ErrorKind::Conflict, ExitStatus::Signal(9)));
    drop(process);
    sandbox.destroy().await;
}

#[tokio::test]
async fn nobody_in_the_sandbox_has_the_steering_end() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    let mut process = sandbox.exec(&on_terminal("echo up; exec sleep 1000")).await.unwrap();
    until(&mut *process, "up").await;
    assert_eq!(sandbox.run("ls -l /proc/[0-9]*/fd | grep ptmx").await.stdout, "");
    // Whoever opens the file system's own door gets a terminal of his own: the second one, here.
    let open = r#"perl -e 'open(my $m, "+<", "/dev/pts/ptmx") or die; ioctl($m, 0x80045430, my $n = "    "); print unpack("l", $n)'"#;
    assert_eq!(sandbox.output(open).await, "1");
    // Typing for others is refused, even into one's own terminal.
    let type_in = r#"perl -e 'ioctl(STDIN, 0x5412, my $c = "x") ? print "typed" : print "refused ", $!+0'"#;
    assert_eq!(run(&sandbox, type_in).await, "refused 1");
    drop(process);
    sandbox.destroy().await;
}

#[tokio::test]
async fn terminals_are_bounded() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    let mut running = Vec::new();
    let error = loop {
        match sandbox.exec(&on_terminal("exec sleep 1000")).await {
            Ok(process) => running.push(process),
            Err(error) => break error,
        }
        assert!(running.len() <= 64);
    };
    assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{error:?}");
    drop(running);
    let freed = async { while sandbox.exec(&on_terminal("exit 0")).await.is_err() {} };
    timeout(Duration::from_secs(5), freed).await.expect("a free one");
    sandbox.destroy().await;
}

/// As an ordinary user the job can: it owns the file system. It harms itself alone, and nothing waits for it.
#[tokio::test]
async fn a_door_that_the_job_has_locked_is_an_error() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    if !sandbox.run("chmod 000 /dev/pts/ptmx").await.exit.status.is_success() {
        assert_eq!(run(&sandbox, "tty").await, "/dev/pts/0\r\n");
        return sandbox.destroy().await;
    }
    assert_eq!(refusal(sandbox.exec(&on_terminal("tty")).await).kind(), ErrorKind::Invalid);
    sandbox.output("echo alive").await;
    sandbox.destroy().await;
}
