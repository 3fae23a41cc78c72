//! A sandbox and its programs, from start to end.

use std::time::Duration;

use ci_core::ErrorKind;
use ci_core::id::{ImageName, SandboxId};
use ci_core::job::{Arg, Environment};
use ci_core::sandbox::{Backend as _, Command, ExitStatus, OutputStream, ProcessEvent, Signal, Spec};
use tokio::task::JoinSet;

use crate::support::{self, Rig, finish, path, processes_with, refusal, shell, spec};

#[tokio::test]
async fn a_program_ends_with_its_code_or_signal() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    for code in 0..=255 {
        let ran = sandbox.run(&format!("exit {code}")).await;
        assert_eq!(ran.exit.status, ExitStatus::Code(code));
    }
    // All that end a process by default.
    for signal in (1..=16).chain([24, 25, 26, 27, 29, 30, 31, 34, 64]) {
        let ran = sandbox.run(&format!("kill -{signal} $$")).await;
        assert_eq!(ran.exit.status, ExitStatus::Signal(signal));
    }
    sandbox.destroy().await;
    assert_eq!(rig.entries(), 0);
}

#[tokio::test]
async fn usage_is_counted() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    let ran = sandbox.run("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done").await;
    assert!(ran.exit.usage.cpu > Duration::from_millis(1), "{ran:?}");
    assert!(ran.exit.usage.peak_memory > 100 * 1024, "{ran:?}");
    sandbox.destroy().await;
}

#[tokio::test]
async fn both_streams_are_told_apart() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    let ran = sandbox.run("echo out; echo err >&2").await;
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("out\n", "err\n"));
    sandbox.destroy().await;
}

#[tokio::test]
async fn output_is_complete_and_in_bounded_pieces() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    let mut process = sandbox.start("head -c 5000000 /dev/zero; head -c 70000 /dev/zero >&2").await.unwrap();
    let (mut out, mut err) = (0, 0);
    loop {
        match process.next().await.unwrap() {
            ProcessEvent::Output(stream, bytes) => {
                assert!(bytes.len() <= 64 * 1024);
                match stream {
                    OutputStream::Stdout => out += bytes.len(),
                    OutputStream::Stderr => err += bytes.len(),
                }
            }
            ProcessEvent::Exited(exit) => break assert!(exit.status.is_success()),
        }
    }
    assert_eq!((out, err), (5_000_000, 70_000));
    drop(process);
    sandbox.destroy().await;
}

#[tokio::test]
async fn a_program_ends_when_it_ends_though_another_holds_its_output() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    let ran = sandbox.run("echo before; (while :; do echo noise; done) & sleep 0.05").await;
    assert_eq!(ran.exit.status, ExitStatus::Code(0));
    assert!(ran.stdout.starts_with("before\n"));
    sandbox.destroy().await;
}

#[tokio::test]
async fn what_cannot_be_started_says_why() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    let arg = |text: &str| Arg::new(text).unwrap();
    sandbox.output("echo text > /work/text; chmod 755 /work/text; echo 'echo x' > /work/locked").await;
    let cases = [
        (
            Command::new(arg("no-such-program"), []),
            ErrorKind::NotFound,
            "start a program: there is no such program (program: no-such-program)",
        ),
        (
            Command::new(arg("/no/such\n/program"), []),
            ErrorKind::NotFound,
            "start a program: there is no such program (program: /no/such\\u{a}/program)",
        ),
        (
            Command::new(arg("/work/locked"), []),
            ErrorKind::Invalid,
            "start a program: the file is not executable (program: /work/locked)",
        ),
        (
            Command::new(arg("/work/text"), []),
            ErrorKind::Invalid,
            "start a program: the file is no program: it has neither a known format nor a #! line (program: /work/text)",
        ),
        (
            shell("true").with_directory(path("/no/such/folder")),
            ErrorKind::NotFound,
            "start a program: there is no such folder (folder: /no/such/folder)",
        ),
    ];
    for (command, kind, text) in cases {
        let error = refusal(sandbox.exec(&command).await);
        assert_eq!((error.kind(), error.to_string().as_str()), (kind, text), "{command:?}");
    }
    sandbox.destroy().await;
}

#[tokio::test]
async fn variables_are_those_of_the_command_alone() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    let mut environment = Environment::default();
    environment.set("GREETING".parse().unwrap(), "good morning\n2nd line");
    let command = Command::new(Arg::new("/usr/bin/env").unwrap(), [Arg::new("-0").unwrap()]);
    let mut process = sandbox.exec(&command.with_environment(&environment)).await.unwrap();
    assert_eq!(finish(&mut *process).await.stdout, "GREETING=good morning\n2nd line\0");
    drop(process);
    sandbox.destroy().await;
}

#[tokio::test]
async fn programs_of_one_sandbox_share_its_files_and_run_where_they_are_told() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    sandbox.output("mkdir -p sub && echo hello > sub/file").await;
    let mut process = sandbox.exec(&shell("pwd; cat file").with_directory(path("/work/sub"))).await.unwrap();
    assert_eq!(finish(&mut *process).await.stdout, "/work/sub\nhello\n");
    drop(process);
    sandbox.destroy().await;
}

#[tokio::test]
async fn signals_reach_the_whole_group() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    let mut polite = sandbox.start("trap 'echo bye; exit 3' TERM; echo up; sleep 1000 & wait").await.unwrap();
    assert!(matches!(polite.next().await.unwrap(), ProcessEvent::Output(..)));
    polite.signal(Signal::Terminate).await.unwrap();
    let ran = finish(&mut *polite).await;
    assert_eq!((ran.stdout.as_str(), ran.exit.status), ("bye\n", ExitStatus::Code(3)));

    let mut stubborn = sandbox.start("trap '' TERM; echo up; while :; do sleep 1000; done").await.unwrap();
    assert!(matches!(stubborn.next().await.unwrap(), ProcessEvent::Output(..)));
    stubborn.signal(Signal::Terminate).await.unwrap();
    stubborn.signal(Signal::Kill).await.unwrap();
    assert_eq!(finish(&mut *stubborn).await.exit.status, ExitStatus::Signal(9));
    drop((polite, stubborn));
    sandbox.destroy().await;
}

#[tokio::test]
async fn what_a_program_has_started_gets_its_signals_too() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    let mut process =
        sandbox.start("sleep 1000 & echo $! > /work/child; echo up; exec sleep 1000").await.unwrap();
    assert!(matches!(process.next().await.unwrap(), ProcessEvent::Output(..)));
    process.signal(Signal::Terminate).await.unwrap();
    assert_eq!(finish(&mut *process).await.exit.status, ExitStatus::Signal(15));
    // It may take a moment until process 1 has reaped the child.
    let script =
        "i=0; while kill -0 $(cat child) && [ $i -lt 2000 ]; do i=$((i+1)); done 2> /dev/null; echo $i";
    assert_ne!(sandbox.output(script).await, "2000");
    drop(process);
    sandbox.destroy().await;
}

#[tokio::test]
async fn a_dropped_process_is_stopped() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    drop(sandbox.start("exec sleep 71.5").await.unwrap());
    let script =
        "i=0; while grep -aq 71.5 /proc/[0-9]*/cmdline && [ $i -lt 200 ]; do i=$((i+1)); done; echo $i";
    assert_ne!(sandbox.output(&script.replace("71.5", "71[.]5")).await, "200");
    sandbox.destroy().await;
}

#[tokio::test]
async fn whatever_runs_dies_with_the_sandbox() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    let marker = format!("{}.25", 1_000_000 + std::process::id());
    let daemon =
        format!("trap '' TERM HUP INT; setsid sh -c 'setsid sleep {marker} & sleep {marker} & wait' &");
    sandbox.output(&daemon).await;
    let running = sandbox.start(&format!("trap '' TERM; sleep {marker}")).await.unwrap();
    assert!(support::eventually(Duration::from_secs(20), || processes_with(&marker) >= 2));
    drop(running);
    sandbox.destroy().await;
    assert_eq!(processes_with(&marker), 0);
}

#[tokio::test]
async fn stopping_itself_delays_nothing() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    let process = sandbox.start("kill -STOP 0").await.unwrap();
    let _ = tokio::time::timeout(Duration::from_millis(20), sandbox.run("kill -STOP -1")).await;
    drop(process);
    sandbox.destroy().await;
}

#[tokio::test]
async fn an_id_is_used_once_at_a_time_and_destroyed_as_often_as_one_likes() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    let id = sandbox.id.clone();
    assert_eq!(refusal(rig.native.create(&id, &spec()).await).kind(), ErrorKind::Conflict);
    sandbox.destroy().await;
    assert!(rig.native.destroy(&id).await.unwrap().is_empty());
    assert!(rig.native.destroy(&SandboxId::random()).await.unwrap().is_empty());
    assert!(rig.native.leftovers().await.unwrap().is_empty());
}

#[tokio::test]
async fn an_unknown_image_is_not_found_and_leaves_nothing() {
    let rig = Rig::new();
    let spec = Spec::new(ImageName::parse("nowhere").unwrap());
    let error = refusal(rig.native.create(&SandboxId::random(), &spec).await);
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(rig.entries(), 0);
}

#[tokio::test]
async fn using_a_sandbox_that_is_gone_is_an_error() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    let mut process = sandbox.start("sleep 1000").await.unwrap();
    assert!(rig.native.destroy(&sandbox.id).await.unwrap().is_empty());
    assert_eq!(refusal(process.next().await).kind(), ErrorKind::Unavailable);
    drop(process);
    assert_eq!(refusal(sandbox.start("true").await).kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_thousand_short_programs_all_end() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    let command = Command::new(Arg::new("/bin/true").unwrap(), []);
    for _ in 0..1_000 {
        let mut process = sandbox.exec(&command).await.unwrap();
        assert_eq!(finish(&mut *process).await.exit.status, ExitStatus::Code(0));
    }
    sandbox.destroy().await;
}

#[tokio::test]
async fn many_programs_run_at_once() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    let runs = (0..100).map(|number| async_output(&sandbox, number));
    let outputs = futures_util::future::join_all(runs).await;
    assert!(outputs.iter().enumerate().all(|(number, output)| *output == number.to_string()));
    sandbox.destroy().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_live_side_by_side() {
    let rig = std::sync::Arc::new(Rig::new());
    let mut all = JoinSet::new();
    for number in 0..20 {
        let rig = rig.clone();
        all.spawn(async move {
            let sandbox = rig.sandbox().await;
            let script = format!("echo {number} > mine; cat /work/*; ls /work | wc -l");
            assert_eq!(sandbox.output(&script).await, format!("{number}\n1"));
            sandbox.destroy().await;
        });
    }
    while let Some(done) = all.join_next().await {
        done.unwrap();
    }
    assert_eq!(rig.entries(), 0);
}

#[tokio::test]
async fn an_abandoned_sandbox_clears_itself() {
    let rig = Rig::new();
    let marker = format!("{}.75", 1_000_000 + std::process::id());
    let sandbox = rig.sandbox().await;
    let process = sandbox.start(&format!("sleep {marker}")).await.unwrap();
    rig.native.abandon(&sandbox.id);
    drop(process);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while rig.entries() > 0 && tokio::time::Instant::now() < deadline {
        tokio::task::yield_now().await;
    }
    assert_eq!((rig.entries(), processes_with(&marker)), (0, 0));
}

#[tokio::test]
async fn a_future_dropped_at_any_moment_leaves_nothing() {
    let rig = Rig::new();
    for micros in (0..6_000).step_by(150) {
        let id = SandboxId::random();
        let life = async {
            let instance = rig.native.create(&id, &spec()).await.unwrap();
            let mut process = instance.exec(&shell("sleep 1000"), &support::no_secrets()).await.unwrap();
            let _ = process.next().await;
        };
        let _ = tokio::time::timeout(Duration::from_micros(micros), life).await;
        let residue = rig.native.destroy(&id).await.unwrap();
        assert!(residue.is_empty(), "after {micros} us: {residue:?}");
    }
    assert_eq!(rig.entries(), 0);
}

async fn async_output(sandbox: &support::Sandbox, number: usize) -> String {
    sandbox.output(&format!("sleep 0.01; echo {number}")).await
}
