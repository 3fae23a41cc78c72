//! The books that an owner leaves when it is killed, here made up: when they are taken over, and who is killed
//! for what stands in them.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use ci_core::ErrorKind;
use ci_core::id::SandboxId;
use ci_core::sandbox::Backend as _;
use ci_sandbox::native::Native;
use tokio::time::{sleep, timeout};

use crate::support::{native, refusal};

/// The books of an owner that is gone, with one sandbox in them.
struct Books {
    native: Native,
    id: SandboxId,
    entry: PathBuf,
    lock: PathBuf,
    _state: tempfile::TempDir,
}

impl Books {
    fn with(entry: &str) -> Self {
        let state = tempfile::tempdir().unwrap();
        let native = native(state.path());
        let owner = state.path().join("sandboxes").join(SandboxId::random().as_str());
        let id = SandboxId::random();
        fs::create_dir(&owner).unwrap();
        let books =
            Self { native, entry: owner.join(id.as_str()), lock: owner.join("lock"), id, _state: state };
        fs::write(&books.lock, "").unwrap();
        fs::write(&books.entry, entry).unwrap();
        books
    }

    /// Holds the lock, as an owner does or a child that has its descriptors.
    fn hold(&self) -> File {
        let lock = File::open(&self.lock).unwrap();
        lock.lock().unwrap();
        lock
    }
}

#[tokio::test]
async fn a_lock_that_outlives_its_owner_for_a_moment_is_waited_for() {
    let books = Books::with("");
    let held = books.hold();
    let let_go = async {
        sleep(Duration::from_millis(50)).await;
        drop(held);
    };
    let (leftovers, ()) = tokio::join!(books.native.leftovers(), let_go);
    assert_eq!(leftovers.unwrap(), std::slice::from_ref(&books.id));
}

#[tokio::test]
async fn an_owner_that_keeps_its_lock_is_alive() {
    let books = Books::with("");
    let held = books.hold();
    let leftovers = timeout(Duration::from_secs(5), books.native.leftovers()).await.expect("it gives up");
    assert!(leftovers.unwrap().is_empty());
    assert_eq!(refusal(books.native.destroy(&books.id).await).kind(), ErrorKind::Unavailable);
    assert!(books.entry.exists());
    drop(held);
    assert_eq!(books.native.leftovers().await.unwrap(), std::slice::from_ref(&books.id));
    assert!(books.native.destroy(&books.id).await.unwrap().is_empty());
    assert!(!books.entry.exists());
}

#[tokio::test]
async fn only_the_very_process_in_the_books_is_killed() {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let other_boot = "00000000-0000-0000-0000-000000000000";
    for (boot, later, lives) in [(boot.trim(), 0, false), (boot.trim(), 1, true), (other_boot, 0, true)] {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let started = start_time(&child) + later;
        let books = Books::with(&format!("boot {boot}\nprocess {} {started}\n", child.id()));
        assert!(books.native.destroy(&books.id).await.unwrap().is_empty());
        assert_eq!(matches!(child.try_wait(), Ok(None)), lives, "{boot} {later}");
        // One that was killed has been reaped.
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// When a process was started, in the kernel's ticks: the 20th field after the name (proc(5)).
fn start_time(child: &Child) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    fields.split_whitespace().nth(19).unwrap().parse().unwrap()
}
