//! What is mounted in a sandbox, and how.

use std::process::Command;

use ci_core::ErrorKind;
use ci_core::id::SandboxId;
use ci_core::sandbox::Backend as _;

use crate::support::{Rig, Sandbox, is_root, itself, path, refusal, spec};

/// Where a thing is mounted, and with which options (proc(5), `mountinfo`).
async fn mounts(sandbox: &Sandbox) -> Vec<(String, Vec<String>)> {
    let table = sandbox.output("cut -d ' ' -f 5,6 /proc/self/mountinfo").await;
    let mounts = table.lines().map(|line| line.split_once(' ').unwrap());
    mounts.map(|(place, options)| (place.into(), options.split(',').map(str::to_owned).collect())).collect()
}

#[tokio::test]
async fn no_mount_brings_privileges_or_devices_in() {
    let rig = Rig::new();
    let host = tempfile::tempdir().unwrap();
    let spec = spec().with_host_folder_read_only(path("/source"), host.path());
    let sandbox = rig.sandbox_of(&spec).await;
    let mounts = mounts(&sandbox).await;
    assert!(
        mounts.iter().any(|(place, _)| place == "/source") && mounts.iter().any(|(place, _)| place == "/usr")
    );
    for (place, options) in mounts {
        let has = |option: &str| options.iter().any(|one| one == option);
        let is_device = !sandbox.run(&format!("test ! -c {place}")).await.exit.status.is_success();
        assert!(has("nosuid"), "{place}: {options:?}");
        assert!(has("nodev") || is_device || place == "/dev/pts", "{place}: {options:?}");
        assert!(has("noexec") || !(is_device || place.starts_with("/dev")), "{place}: {options:?}");
        let is_memory = ["/", "/dev", "/home", "/proc", "/run", "/tmp", "/usr", "/work", "/dev/pts"];
        assert!(has("ro") || is_device || is_memory.contains(&&*place), "{place}: {options:?}");
    }
    sandbox.destroy().await;
}

#[test]
fn what_the_host_has_mounted_elsewhere_changes_nothing() {
    if !is_root() {
        return println!("skipped: an ordinary user mounts nothing");
    }
    for test in ["mounts::below_a_folder", "mounts::over_the_devices"] {
        assert!(itself(&["unshare", "--mount"], test).status().unwrap().success(), "{test}");
    }
}

/// Not a test of its own: it mounts and must have a mount namespace for itself.
#[tokio::test]
#[ignore = "run by another test"]
async fn below_a_folder() {
    let rig = Rig::new();
    let host = tempfile::tempdir().unwrap();
    let below = host.path().join("below");
    std::fs::create_dir(&below).unwrap();
    run(&["mount", "-t", "tmpfs", "-o", "suid,dev,mode=0755", "none", below.to_str().unwrap()]);
    let spec = spec().with_host_folder_read_only(path("/source"), host.path());
    let sandbox = rig.sandbox_of(&spec).await;
    let mounts = mounts(&sandbox).await;
    let (_, options) = mounts.iter().find(|(place, _)| place == "/source/below").unwrap();
    for option in ["ro", "nosuid", "nodev"] {
        assert!(options.iter().any(|one| one == option), "{option}: {options:?}");
    }
    sandbox.destroy().await;
}

/// Not a test of its own: it mounts and must have a mount namespace for itself.
#[tokio::test]
#[ignore = "run by another test"]
async fn over_the_devices() {
    let rig = Rig::new();
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    let disk = disk.to_str().unwrap();
    run(&["mknod", disk, "b", "1", "7"]);
    // Another device of the same kind, and one of the other kind with the same numbers.
    for impostor in ["/dev/zero", disk] {
        run(&["mount", "--bind", impostor, "/dev/full"]);
        let error = refusal(rig.native.create(&SandboxId::random(), &spec()).await);
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{impostor}: {error:?}");
        run(&["umount", "/dev/full"]);
    }
    rig.sandbox().await.destroy().await;
}

fn run(words: &[&str]) {
    let status = Command::new(words[0]).args(&words[1..]).status().unwrap();
    assert!(status.success(), "{words:?}");
}
