//! What the kernel counts or shares across namespaces: one job must not take it from the others, or from the host.

use std::process::Command as Program;

use ci_core::sandbox::ProcessEvent;
use ci_sandbox::native::{Config, ImageSource, Native};

use crate::support::{Rig, Sandbox, image, itself, path, spec};

/// Takes as much as it can get, by a Perl expression that is true as long as there is more, and holds it.
async fn hoard<'a>(greedy: &'a Sandbox, take: &str) -> Box<dyn ci_core::sandbox::Process + 'a> {
    let script =
        format!("exec perl -e '$| = 1; $n++ while $n < 200000 && {take}; print qq(full $n); sleep 60'");
    let mut process = greedy.start(&script).await.unwrap();
    let ProcessEvent::Output(_, said) = process.next().await.unwrap() else { panic!("it ended") };
    println!("{}", String::from_utf8_lossy(&said));
    process
}

/// Checks that, after one job has hoarded, the host can still `take` one, and another job too.
async fn others_get_one(take: &str) {
    let rig = Rig::new();
    let (greedy, modest) = (rig.sandbox().await, rig.sandbox().await);
    let full = hoard(&greedy, take).await;
    let program = format!("{take} or die qq($!\\n)");
    let host = Program::new("perl").args(["-e", &program]).output().unwrap();
    let other = modest.run(&format!("perl -e '{program}'")).await;
    drop(full);
    greedy.destroy().await;
    modest.destroy().await;
    assert!(host.status.success(), "the host gets none: {host:?}");
    assert!(other.exit.status.is_success(), "another job gets none: {other:?}");
}

#[tokio::test]
#[cfg(target_arch = "x86_64")]
async fn a_job_cannot_use_up_the_inotify_instances() {
    others_get_one("syscall(294, 0) >= 0").await;
}

#[tokio::test]
#[cfg(target_arch = "x86_64")]
async fn a_job_cannot_use_up_the_pending_signals() {
    // timer_create(2) holds one pending signal.
    others_get_one("syscall(222, 1, 0, $t = pack(q(i), 0)) >= 0").await;
}

#[tokio::test]
#[cfg(target_arch = "x86_64")]
async fn a_job_cannot_use_up_the_locked_memory() {
    // Shared memory that is locked (SHM_LOCK): mlock(2) counts per process, this per user.
    others_get_one("defined($m = shmget(0, 65536, 01600)) && defined(shmctl($m, 11, 0))").await;
}

#[tokio::test]
#[cfg(target_arch = "x86_64")]
async fn a_job_cannot_use_up_the_machines_asynchronous_io() {
    let rig = Rig::new();
    let greedy = rig.sandbox().await;
    // As a call that is forbidden altogether would be, too.
    let take = "syscall(206, 128, $c = pack(q(Q), 0)) >= 0";
    let full = hoard(&greedy, take).await;
    let host = Program::new("perl").args(["-e", &format!("{take} or die qq($!\\n)")]).output().unwrap();
    drop(full);
    greedy.destroy().await;
    assert!(host.status.success(), "the host gets none: {host:?}");
}

#[tokio::test]
async fn a_job_cannot_use_up_the_machines_terminals() {
    others_get_one("open($t[$n], q(+<), q(/dev/ptmx))").await;
}

#[tokio::test]
#[cfg(target_arch = "x86_64")]
async fn a_pair_of_sockets_goes_through_the_filter_too() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    // AF_VSOCK: `socket` is refused with EAFNOSUPPORT (97), and so must this be, before the kernel makes one.
    let errno = sandbox.output("perl -e 'syscall(53, 40, 1, 0, $p = pack(q(ii), 0, 0)); print $! + 0'").await;
    assert_eq!(errno, "97");
    sandbox.destroy().await;
}

#[test]
fn mounts_do_not_pass_between_the_host_and_a_sandbox() {
    if !crate::support::is_root() {
        return;
    }
    // As every machine with systemd has its mounts: shared.
    let unshare = ["unshare", "--mount", "--propagation", "shared"];
    assert!(itself(&unshare, "shared::on_shared_mounts").status().unwrap().success());
}

/// Not a test of its own: it mounts and must have a mount namespace for itself.
#[tokio::test]
#[ignore = "run by another test"]
async fn on_shared_mounts() {
    let (state, host, below) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for name in ["later", "shown"] {
        std::fs::create_dir(host.path().join(name)).unwrap();
    }
    let ImageSource::HostToolchain { mut paths } = ImageSource::host_toolchain() else { unreachable!() };
    paths.push(host.path().to_owned());
    let config = Config::new(state.path()).with_image(image(), ImageSource::HostToolchain { paths });
    let shown = host.path().join("shown");
    let spec = spec().with_host_folder_read_only(path(shown.to_str().unwrap()), below.path());
    let rig = Rig::of(Native::new(config).unwrap(), state);
    let sandbox = rig.sandbox_of(&spec).await;

    let later = host.path().join("later");
    let mount = ["-t", "tmpfs", "-o", "mode=0777", "none"];
    assert!(Program::new("mount").args(mount).arg(&later).status().unwrap().success());
    let written = sandbox.run(&format!("echo x > {}/by-the-job", later.display())).await;
    let reached = later.join("by-the-job").exists();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    sandbox.destroy().await;
    assert!(!reached, "the job writes to the host: {written:?}");
    assert!(!mounts.contains(shown.to_str().unwrap()), "the sandbox's mount is on the host");
}

#[test]
fn the_books_are_closed_to_others() {
    use std::os::unix::fs::PermissionsExt as _;
    let state = tempfile::tempdir().unwrap();
    std::fs::set_permissions(state.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let _native = crate::support::native(state.path());
    // Whoever can open a lock can hold it: the books of an owner that died are then never cleared.
    let mode = std::fs::metadata(state.path().join("sandboxes")).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "{mode:o}");
}
