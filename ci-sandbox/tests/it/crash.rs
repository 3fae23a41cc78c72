//! The program that embeds the SDK is killed, and nothing stays.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::Duration;

use ci_core::id::SandboxId;
use ci_core::sandbox::{Backend as _, ProcessEvent, Sandboxes};
use ci_sandbox::native::Native;

use crate::support::{self, Rig, entries, eventually, itself, native, processes_with, spec};

const STATE: &str = "CI_SANDBOX_TEST_STATE";
const MARKER: &str = "CI_SANDBOX_TEST_MARKER";

#[tokio::test]
async fn a_killed_program_leaves_nothing_that_the_next_one_does_not_clear() {
    let state = tempfile::tempdir().unwrap();
    let marker = format!("{}.0625", 3_000_000 + std::process::id());
    let (mut victim, id) = start_victim(state.path(), &marker);
    let native = native(state.path());
    assert!(native.leftovers().await.unwrap().is_empty(), "its owner lives");
    assert!(native.destroy(&id).await.is_err(), "its owner lives");

    victim.kill().unwrap();
    victim.wait().unwrap();
    assert!(eventually(Duration::from_secs(1), || processes_with(&marker) == 0));
    assert_eq!(native.leftovers().await.unwrap(), std::slice::from_ref(&id));
    let groups = groups_of(&id);
    let residue = native.destroy(&id).await.unwrap();
    assert!(residue.is_empty(), "{residue:?}");
    assert!(groups.iter().all(|group| !group.exists()));
    assert!(native.leftovers().await.unwrap().is_empty());
    assert!(entries(state.path()).is_empty());
}

#[tokio::test]
async fn a_dropped_backend_leaves_its_books_to_the_next() {
    let state = tempfile::tempdir().unwrap();
    let id = SandboxId::random();
    let first = native(state.path());
    drop(first.create(&id, &spec()).await.unwrap());
    drop(first);
    let second = native(state.path());
    assert_eq!(second.leftovers().await.unwrap(), std::slice::from_ref(&id));
    assert!(second.destroy(&id).await.unwrap().is_empty());
    assert!(second.leftovers().await.unwrap().is_empty());
    assert!(entries(state.path()).is_empty());
}

/// Two workers that start at the same time after a third was killed: both begin with [`Sandboxes::reap`].
#[tokio::test(flavor = "multi_thread")]
async fn two_that_clear_up_at_the_same_time_are_both_well() {
    const ROUNDS: usize = 20;
    let state = tempfile::tempdir().unwrap();
    let reap = |native: Native| tokio::spawn(async move { Sandboxes::new(Arc::new(native)).reap().await });
    for round in 0..ROUNDS {
        let gone = native(state.path());
        for _ in 0..4 {
            drop(gone.create(&SandboxId::random(), &spec()).await.unwrap());
        }
        drop(gone);
        let (one, other) = (native(state.path()), native(state.path()));
        let (one, other) = tokio::join!(reap(one), reap(other));
        for reaped in [one.unwrap(), other.unwrap()] {
            assert!(reaped.is_ok(), "round {round}: {reaped:?}");
        }
        reap(native(state.path())).await.unwrap().unwrap();
        assert!(entries(state.path()).is_empty(), "round {round}");
    }
}

#[tokio::test]
async fn killing_the_launcher_ends_the_sandbox() {
    let rig = Rig::new();
    let marker = format!("{}.03125", 3_000_000 + std::process::id());
    let sandbox = rig.sandbox().await;
    let mut process = sandbox.start(&format!("echo up; sleep {marker}")).await.unwrap();
    assert!(matches!(process.next().await.unwrap(), ProcessEvent::Output(..)));
    let [launcher, _] = rig.processes(&sandbox.id);
    let launcher = rustix::process::Pid::from_raw(launcher).unwrap();
    rustix::process::kill_process(launcher, rustix::process::Signal::KILL).unwrap();
    assert!(process.next().await.is_err());
    drop(process);
    sandbox.destroy().await;
    assert_eq!(processes_with(&marker), 0);
}

/// Not a test of its own: the program that `a_killed_program_...` kills.
#[test]
#[ignore = "run by another test"]
fn victim() {
    let (Ok(state), Ok(marker)) = (std::env::var(STATE), std::env::var(MARKER)) else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let native = native(Path::new(&state));
        let id = SandboxId::random();
        let instance = native.create(&id, &spec()).await.unwrap();
        let script = format!("trap '' TERM HUP; setsid sleep {marker} & echo up; sleep {marker}");
        let mut process = instance.exec(&support::shell(&script), &support::no_secrets()).await.unwrap();
        process.next().await.unwrap();
        println!("victim {id}");
        std::future::pending::<()>().await;
    });
}

/// Not a test of its own: counts descriptors where no other test opens any.
#[test]
#[ignore = "run by another test"]
fn two_hundred_lives() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let rig = Rig::new();
        let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        rig.sandbox().await.destroy().await;
        let before = open();
        for _ in 0..200 {
            let sandbox = rig.sandbox().await;
            sandbox.output("true").await;
            sandbox.destroy().await;
        }
        assert_eq!(open(), before);
    });
}

#[test]
fn two_hundred_lives_leak_no_descriptor() {
    let status = itself(&[], "crash::two_hundred_lives").status().unwrap();
    assert!(status.success());
}

fn start_victim(state: &Path, marker: &str) -> (Child, SandboxId) {
    let mut command = itself(&[], "crash::victim");
    let mut victim = command.env(STATE, state).env(MARKER, marker).stdout(Stdio::piped()).spawn().unwrap();
    let output = BufReader::new(victim.stdout.take().unwrap());
    let id = output.lines().find_map(|line| {
        let line = line.unwrap();
        line.rsplit_once("victim ").map(|(_, id)| SandboxId::parse(id).unwrap())
    });
    (victim, id.unwrap())
}

/// The control groups of a sandbox, wherever the machine has its trees.
fn groups_of(id: &SandboxId) -> Vec<std::path::PathBuf> {
    let mut folders = vec![std::path::PathBuf::from("/sys/fs/cgroup")];
    let mut groups = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry.file_name().to_string_lossy().contains(id.as_str()) {
                    groups.push(entry.path());
                }
                folders.push(entry.path());
            }
        }
    }
    groups
}
