//! What is mounted in a sandbox, and how.

use std::path::Path;
use std::process::Command;

use ci_core::ErrorKind;
use ci_core::id::SandboxId;
use ci_core::sandbox::{Backend as _, Guarantee, Spec};
use ci_sandbox::native::ImageSource;

use crate::images::{name, programs, rig};
use crate::support::{Rig, Sandbox, is_root, itself, path, refusal, skip_here, spec};

/// Where a thing is mounted, and with which options (proc(5), `mountinfo`).
async fn mounts(sandbox: &Sandbox) -> Vec<(String, Vec<String>)> {
    let table = sandbox.output("cut -d ' ' -f 5,6 /proc/self/mountinfo").await;
    let mounts = table.lines().map(|line| line.split_once(' ').unwrap());
    mounts.map(|(place, options)| (place.into(), options.split(',').map(str::to_owned).collect())).collect()
}

#[tokio::test]
async fn the_tools_of_this_machine_see_which_system_they_are_of() {
    let Ok(release) = std::fs::read_to_string("/etc/os-release") else { return };
    let rig = Rig::new();
    let sandbox = rig.sandbox_of(&spec()).await;
    assert_eq!(sandbox.output("cat /etc/os-release").await, release.trim_end());
    sandbox.destroy().await;
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
        return skip_here("root", "an ordinary user mounts nothing");
    }
    for test in ["mounts::below_a_folder", "mounts::over_the_devices"] {
        assert!(itself(&["unshare", "--mount"], test).status().unwrap().success(), "{test}");
    }
    // Who may not make devices shows the machine's.
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    run(&["mknod", disk.to_str().unwrap(), "b", "1", "7"]);
    let makes_none = ["unshare", "--mount", "setpriv", "--bounding-set", "-mknod"];
    let mut impostors = itself(&makes_none, "mounts::impostors_among_the_devices");
    assert!(impostors.env(DISK, disk).status().unwrap().success());
}

/// Where a disk is that has the numbers of another device.
const DISK: &str = "CI_SANDBOX_TEST_DISK";

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
    run(&["mount", "--bind", "/dev/zero", "/dev/full"]);
    let sandbox = rig.sandbox().await;
    assert_eq!(sandbox.output("stat -c %F:%t:%T /dev/full").await, "character special file:1:7");
    sandbox.destroy().await;
}

/// Not a test of its own: it mounts, and may not make devices.
#[tokio::test]
#[ignore = "run by another test"]
async fn impostors_among_the_devices() {
    let Ok(disk) = std::env::var(DISK) else { return };
    let rig = Rig::new();
    // Another device of the same kind, and one of the other kind with the same numbers.
    for impostor in ["/dev/zero", &disk] {
        run(&["mount", "--bind", impostor, "/dev/full"]);
        let error = refusal(rig.native.create(&SandboxId::random(), &spec()).await);
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{impostor}: {error:?}");
        run(&["umount", "/dev/full"]);
    }
    rig.sandbox().await.destroy().await;
}

#[test]
fn folders_of_an_image_are_shown_wherever_they_are_mounted() {
    if !is_root() {
        return skip_here("root", "an ordinary user mounts nothing");
    }
    for test in ["mounts::below_an_image", "mounts::where_the_kernel_makes_no_overlay"] {
        assert!(itself(&["unshare", "--mount"], test).status().unwrap().success(), "{test}");
    }
}

/// Not a test of its own: it mounts and must have a mount namespace for itself.
#[tokio::test]
#[ignore = "run by another test"]
async fn below_an_image() {
    let root = tempfile::tempdir().unwrap();
    unpack_programs(root.path());
    let below = root.path().join("opt/a folder");
    std::fs::create_dir_all(&below).unwrap();
    std::fs::write(below.join("covered"), "").unwrap();
    run(&["mount", "-t", "tmpfs", "-o", "mode=0755", "none", below.to_str().unwrap()]);
    std::fs::write(below.join("file"), "from below").unwrap();
    let rig = rig(ImageSource::Directory(root.path().into()));
    assert!(rig.holds(Guarantee::OwnImage));
    let sandbox = rig.sandbox_of(&Spec::new(name())).await;
    assert!(sandbox.instance.isolation().held.contains(&Guarantee::OwnImage));
    assert_eq!(sandbox.output("ls '/opt/a folder'; cat '/opt/a folder/file'").await, "file\nfrom below");
    sandbox.destroy().await;
}

/// Not a test of its own: it mounts and must have a mount namespace for itself.
#[tokio::test]
#[ignore = "run by another test"]
async fn where_the_kernel_makes_no_overlay() {
    // It makes none of one that is made of one.
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    run(&["mount", "-t", "tmpfs", "none", folder.path().to_str().unwrap()]);
    for name in ["lower", "upper", "work", "one", "upper2", "work2", "two"] {
        std::fs::create_dir(at(name)).unwrap();
    }
    unpack_programs(Path::new(&at("lower")));
    std::os::unix::fs::symlink("/bin", at("lower/programs")).unwrap();
    std::os::unix::fs::symlink("/etc", at("lower/dev")).unwrap();
    std::fs::write(at("lower/file"), "of the image").unwrap();
    for (lower, upper, work, target) in [("lower", "upper", "work", "one"), ("one", "upper2", "work2", "two")]
    {
        let options = format!("lowerdir={},upperdir={},workdir={}", at(lower), at(upper), at(work));
        run(&["mount", "-t", "overlay", "-o", &options, "none", &at(target)]);
    }
    let rig = rig(ImageSource::Directory(at("two").into()));
    let sandbox = rig.sandbox_of(&Spec::new(name())).await;
    assert!(sandbox.instance.isolation().missing.contains_key(&Guarantee::OwnImage));
    assert_eq!(sandbox.output("cat /file; echo; /programs/id -u").await, "of the image\n1000");
    assert_eq!(sandbox.output("stat -c %F:%t:%T /dev/null").await, "character special file:1:3");
    assert!(!sandbox.run("echo x > /file").await.exit.status.is_success());
    sandbox.output("echo x > /work/file && echo x > /tmp/file").await;
    sandbox.destroy().await;
    let spec = Spec::new(name()).with_minimum([Guarantee::OwnImage]);
    let error = refusal(rig.native.create(&SandboxId::random(), &spec).await);
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
}

/// A shell and what it needs, as a folder.
fn unpack_programs(folder: &Path) {
    let archive = folder.join("programs.tar");
    std::fs::write(&archive, programs().end()).unwrap();
    run(&["tar", "-xf", archive.to_str().unwrap(), "-C", folder.to_str().unwrap()]);
    std::fs::remove_file(archive).unwrap();
    run(&["chmod", "0755", folder.to_str().unwrap()]);
}

fn run(words: &[&str]) {
    let status = Command::new(words[0]).args(&words[1..]).status().unwrap();
    assert!(status.success(), "{words:?}");
}
