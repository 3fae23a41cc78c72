//! Sandboxes that are ready before anybody asks for them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use ci_core::ErrorKind;
use ci_core::id::{ImageName, SandboxId};
use ci_core::job::Limits;
use ci_core::sandbox::{Backend as _, Guarantee, Spec};
use ci_sandbox::native::{Config, ImageSource, Native};
use tokio::time::{sleep, timeout};

use crate::support::{Rig, entries, eventually, image, spec};

/// A backend that keeps `count` sandboxes ready, once it does.
async fn rig(count: usize) -> Rig {
    let state = tempfile::tempdir().unwrap();
    let rig = Rig::of(Native::new(config(state.path()).with_warm(spec(), count)).unwrap(), state);
    filled(&rig, count).await;
    rig
}

fn config(state: &Path) -> Config {
    Config::new(state).with_image(image(), ImageSource::host_toolchain())
}

/// Waits until `count` sandboxes are there.
async fn filled(rig: &Rig, count: usize) {
    let full = async {
        while rig.native.ready() != count {
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(Duration::from_secs(20), full).await.expect("the pool is filled");
}

/// Whether a process is gone, or waits only for its parent to take notice.
fn is_dead(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with('Z'))
}

#[tokio::test]
async fn one_that_is_ready_is_used_once_and_made_anew() {
    let rig = rig(2).await;
    let mut seen = BTreeSet::new();
    for _ in 0..6 {
        let sandbox = rig.sandbox().await;
        let marks = sandbox.output("cat /work/mark /tmp/mark 2>/dev/null; readlink /proc/self/ns/*").await;
        assert!(seen.insert(marks.clone()), "used before: {marks}");
        assert_eq!(marks.lines().count(), 10, "{marks}");
        sandbox.output("echo used | tee /work/mark /tmp/mark").await;
        assert_eq!(rig.processes(&sandbox.id).len(), 2, "it stands in the books under its id");
        sandbox.destroy().await;
        filled(&rig, 2).await;
    }
    rig.native.drain().await;
    assert_eq!(rig.entries(), 0);
}

#[tokio::test]
async fn it_has_what_was_asked_for() {
    let rig = rig(1).await;
    let ready = rig.ids();
    let id = SandboxId::random();
    let other = spec().with_limits(Limits::default().with_processes(7));
    drop(rig.native.create(&id, &other).await.unwrap());
    assert!(rig.ids().contains(&ready[0]), "one with other limits is not what was asked for");
    assert!(rig.native.destroy(&id).await.unwrap().is_empty());

    let demanding = spec().with_minimum([Guarantee::OwnKernel]);
    assert_eq!(rig.native.create(&id, &demanding).await.unwrap_err().kind(), ErrorKind::Unsupported);
    let demanding = spec().with_minimum([Guarantee::Namespaces]);
    drop(rig.native.create(&id, &demanding).await.unwrap());
    assert!(!rig.ids().contains(&ready[0]), "what it demands holds for the one that was ready");
    assert!(rig.native.destroy(&id).await.unwrap().is_empty());
    rig.native.drain().await;
}

#[tokio::test]
async fn one_that_has_died_is_not_handed_out() {
    let rig = rig(1).await;
    let ids = rig.ids();
    let [_, init] = rig.processes(&ids[0]);
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(init).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    assert!(eventually(Duration::from_secs(5), || is_dead(init)));
    let sandbox = rig.sandbox().await;
    assert_eq!(sandbox.output("echo fresh").await, "fresh");
    sandbox.destroy().await;
    rig.native.drain().await;
    assert_eq!(rig.entries(), 0);
}

#[tokio::test]
async fn the_same_id_twice_is_refused() {
    let rig = rig(2).await;
    let sandbox = rig.sandbox().await;
    let again = rig.native.create(&sandbox.id, &spec()).await.map(drop);
    assert_eq!(again.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(sandbox.output("echo here").await, "here");
    sandbox.destroy().await;
    rig.native.drain().await;
    let gone = async {
        while rig.entries() > 0 {
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(Duration::from_secs(10), gone).await.expect("the one that was taken for nothing goes too");
}

#[tokio::test]
async fn they_end_with_the_backend() {
    let rig = rig(3).await;
    let ids = rig.ids();
    let pids: Vec<i32> = ids.iter().flat_map(|id| rig.processes(id)).collect();
    let state = rig.into_state();
    let gone = async {
        while !pids.iter().copied().all(is_dead) {
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(Duration::from_secs(10), gone).await.expect("nobody keeps them");
    let next = Native::new(config(state.path())).unwrap();
    for id in next.leftovers().await.unwrap() {
        assert!(next.destroy(&id).await.unwrap().is_empty());
    }
    assert_eq!(entries(state.path()).len(), 0);
}

#[test]
fn without_a_runtime_none_is_kept_ready_and_that_is_said() {
    let state = tempfile::tempdir().unwrap();
    let error = Native::new(config(state.path()).with_warm(spec(), 1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
}

#[tokio::test]
async fn what_cannot_be_kept_ready_is_said_at_once() {
    let state = tempfile::tempdir().unwrap();
    let unknown = Spec::new(ImageName::parse("unknown").unwrap());
    let error = Native::new(config(state.path()).with_warm(unknown, 1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let impossible = spec().with_minimum([Guarantee::OwnKernel]);
    let error = Native::new(config(state.path()).with_warm(impossible, 1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}
