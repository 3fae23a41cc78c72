//! What a job can see and do, and what not.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command as Program;
use std::time::Duration;

use ci_core::ErrorKind;
use ci_core::id::{ImageName, SandboxId};
use ci_core::sandbox::{Backend as _, Guarantee, Spec};
use ci_sandbox::native::{Config, ImageSource, Native};

use crate::support::{Rig, eventually, is_root, path, refusal, skip_here, spec};

#[tokio::test]
async fn a_job_is_a_plain_user_without_powers() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    assert_eq!(sandbox.output("id -u; id -g").await, "1000\n1000");
    let status = sandbox.output("grep -E '^(Cap|NoNewPrivs)' /proc/self/status").await;
    for line in status.lines() {
        let (name, value) = line.split_once(":\t").unwrap();
        assert_eq!(value.trim_start_matches('0'), if name == "NoNewPrivs" { "1" } else { "" }, "{line}");
    }
    sandbox.destroy().await;
}

#[tokio::test]
async fn ids_are_mapped_away_from_the_host() {
    let rig = Rig::new();
    if !rig.holds(Guarantee::MappedIds) {
        return;
    }
    let sandbox = rig.sandbox().await;
    let marker = format!("{}.125", 2_000_000 + std::process::id());
    let mut process = sandbox.start(&format!("echo up; exec sleep {marker}")).await.unwrap();
    process.next().await.unwrap();
    let mut uid = None;
    eventually(Duration::from_secs(20), || {
        uid = uid_of(&marker);
        uid.is_some()
    });
    assert!(uid.is_some_and(|uid| uid >= 0x7000_0000 && uid % 65_536 == 1000), "{uid:?}");
    drop(process);
    sandbox.destroy().await;
}

/// The user of the process that was started as `sleep <marker>`, as the host sees it.
fn uid_of(marker: &str) -> Option<u32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.map(|entry| entry.path()).find_map(|process| {
        let line = fs::read(process.join("cmdline")).ok()?;
        if line != format!("sleep\0{marker}\0").as_bytes() {
            return None;
        }
        let status = fs::read_to_string(process.join("status")).ok()?;
        status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_whitespace().next()?.parse().ok()
    })
}

#[tokio::test]
async fn two_sandboxes_have_different_ids() {
    let rig = Rig::new();
    if !rig.holds(Guarantee::MappedIds) {
        return;
    }
    let (one, two) = (rig.sandbox().await, rig.sandbox().await);
    let script = "cat /proc/self/uid_map";
    assert_ne!(one.output(script).await, two.output(script).await);
    one.destroy().await;
    two.destroy().await;
}

#[tokio::test]
async fn process_one_is_out_of_reach() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    for file in ["mem", "environ", "maps", "fd/0", "root/etc/passwd"] {
        let ran = sandbox.run(&format!("cat /proc/1/{file}")).await;
        assert!(!ran.exit.status.is_success(), "{file}: {ran:?}");
    }
    sandbox.run("kill -9 1; kill -STOP 1; kill -TERM 1").await;
    assert_eq!(sandbox.output("echo still here").await, "still here");
    sandbox.destroy().await;
}

#[tokio::test]
async fn only_its_own_processes_and_names_are_seen() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    // Process 1, the shell, and what the shell starts.
    let processes: usize = sandbox.output("ls -d /proc/[0-9]* | wc -l").await.parse().unwrap();
    assert!(processes <= 4, "{processes}");
    assert_eq!(sandbox.output("cat /proc/sys/kernel/hostname").await, "sandbox");
    assert_eq!(sandbox.output("cut -d: -f3 /proc/self/cgroup | sort -u").await, "/");
    sandbox.destroy().await;
}

#[tokio::test]
async fn there_is_no_network_but_loopback() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    assert_eq!(sandbox.output("tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '").await, "lo");
    assert_eq!(sandbox.output("tail -n +2 /proc/net/route").await, "");
    sandbox.output("grep -q 127.0.0.1 /proc/net/fib_trie").await;
    sandbox.destroy().await;
}

#[tokio::test]
async fn the_hosts_files_are_not_there() {
    let rig = Rig::new();
    let host = tempfile::NamedTempFile::new().unwrap();
    let sandbox = rig.sandbox().await;
    let marker = host.path().display();
    assert_eq!(sandbox.output(&format!("test ! -e {marker} && ls -A /tmp /work")).await, "/tmp:\n\n/work:");
    for hidden in
        ["/root", "/sys", "/etc/shadow", "/var/lib", "/dev/kmsg", "/dev/mem", "/dev/net/tun", "/dev/fuse"]
    {
        assert!(!sandbox.run(&format!("test -e {hidden}")).await.exit.status.is_success(), "{hidden}");
    }
    sandbox.destroy().await;
}

#[tokio::test]
async fn the_image_and_the_kernels_switches_are_read_only() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    let mut closed = vec!["/usr/new", "/usr/bin/env", "/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger"];
    if is_root() {
        closed.extend(["/new", "/etc/passwd", "/dev/new", "/run/new"]);
    }
    for target in closed {
        let ran = sandbox.run(&format!("echo x >> {target}")).await;
        assert!(!ran.exit.status.is_success(), "{target}: {ran:?}");
    }
    for open in ["/work/new", "/tmp/new", "/home/ci/new", "/dev/shm/new", "/var/tmp/new"] {
        sandbox.output(&format!("echo x > {open}")).await;
    }
    sandbox.destroy().await;
}

#[tokio::test]
async fn mounts_namespaces_and_devices_cannot_be_made() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    for attempt in [
        "unshare -U true",
        "unshare -Ur true",
        "unshare -m true",
        "mount -t tmpfs none /tmp",
        "mount -o remount,rw /usr",
        "umount /proc",
        "umount -l /usr",
        "mknod /tmp/disk b 8 0",
        "chroot /work /bin/true",
        "hostname other",
    ] {
        let ran = sandbox.run(attempt).await;
        assert!(!ran.exit.status.is_success(), "{attempt}: {ran:?}");
    }
    sandbox.destroy().await;
}

#[tokio::test]
async fn what_tells_of_the_machine_is_hidden() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    for file in ["/proc/keys", "/proc/interrupts", "/proc/timer_list", "/proc/kcore"] {
        let ran = sandbox.run(&format!("cat {file} | head -c 100 | wc -c")).await;
        assert_eq!(ran.stdout.trim(), "0", "{file}: {ran:?}");
    }
    sandbox.destroy().await;
}

/// Every watch on it costs a grace period of the whole kernel when its process ends; no signal cuts it short.
#[tokio::test]
async fn the_machines_pressure_cannot_be_watched() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    assert_eq!(sandbox.output("ls -A /proc/pressure 2>/dev/null || true").await, "");
    for file in ["cpu", "io", "irq", "memory"] {
        let ran = sandbox.run(&format!("exec 3<> /proc/pressure/{file}")).await;
        assert!(!ran.exit.status.is_success(), "{file}: {ran:?}");
    }
    sandbox.destroy().await;
}

#[tokio::test]
async fn nothing_is_open_but_the_three_streams() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    // The fourth is the folder that `ls` reads.
    assert_eq!(sandbox.output("ls /proc/self/fd").await, "0\n1\n2\n3");
    assert_eq!(sandbox.output("cat; echo end").await, "end");
    sandbox.destroy().await;
}

#[tokio::test]
async fn devices_work() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    sandbox
        .output("echo x > /dev/null && head -c 4 /dev/zero > /dev/null && head -c 4 /dev/urandom > z")
        .await;
    assert!(!sandbox.run("echo x > /dev/full").await.exit.status.is_success());
    assert_eq!(sandbox.output("echo fed | cat /dev/stdin").await, "fed");
    sandbox.destroy().await;
}

#[tokio::test]
async fn the_tree_is_never_swapped_out() {
    let rig = Rig::new();
    if !is_root() {
        return skip_here("root", "an ordinary user cannot mount without swap");
    }
    let sandbox = rig.sandbox().await;
    let mount = ["--mount", "mount", "-t", "tmpfs", "-o", "noswap", "tmpfs", "/tmp"];
    let kernel_can = Program::new("unshare").args(mount).output().unwrap().status.success();
    // Of the root and of the image's folders it is what is changed in them.
    for folder in ["/dev", "/home", "/run", "/tmp", "/work"] {
        let mount = sandbox.output(&format!("grep ' {folder} ' /proc/mounts")).await;
        assert!(mount.contains(" tmpfs ") && mount.contains("noswap") == kernel_can, "{mount}");
    }
    if !kernel_can {
        let swap_is_off = fs::read_to_string("/proc/swaps").unwrap().lines().count() == 1;
        assert_eq!(sandbox.instance.isolation().held.contains(&Guarantee::MemoryOnly), swap_is_off);
    }
    let image = sandbox.output("grep ' overlay ' /proc/mounts | cut -d ' ' -f 2,4").await;
    for line in image.lines() {
        assert!(line.contains("upperdir=upper") && !line.contains("lowerdir=/"), "{line}");
    }
    sandbox.destroy().await;
}

#[tokio::test]
async fn a_folder_of_its_owner_alone_is_read_through_a_bind() {
    let rig = Rig::new();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config"), "private").unwrap();
    fs::set_permissions(folder.path().join("config"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let spec = spec().with_host_folder_read_only(path("/source/repository"), folder.path());
    let sandbox = rig.sandbox_of(&spec).await;
    assert_eq!(
        sandbox.output("cat /source/repository/config; stat -c %u /source/repository").await,
        "private1000"
    );
    assert!(!sandbox.run("echo x > /source/repository/new").await.exit.status.is_success());
    sandbox.destroy().await;
}

#[tokio::test]
async fn an_image_can_be_a_folder() {
    let root = tempfile::tempdir().unwrap();
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for folder in ["etc", "tools", "tmp", "work"] {
        fs::create_dir(root.path().join(folder)).unwrap();
    }
    fs::write(root.path().join("etc/os-release"), "ID=test\n").unwrap();
    fs::write(root.path().join("tmp/secret"), "of the image").unwrap();
    // Links of a hostile image: all of them must end inside.
    for (name, target) in
        [("var", "/proc/1/root/../../tmp"), ("bin", "usr/bin"), ("dev", "/etc"), ("home", "/")]
    {
        std::os::unix::fs::symlink(target, root.path().join(name)).unwrap();
    }
    let state = tempfile::tempdir().unwrap();
    let image = ImageName::parse("folder").unwrap();
    let config =
        Config::new(state.path()).with_image(image.clone(), ImageSource::Directory(root.path().into()));
    let native = Native::new(config).unwrap();
    let id = SandboxId::random();
    // There is nothing to run in it; that it comes up, and goes, is the test.
    let instance = native.create(&id, &Spec::new(image)).await.unwrap();
    drop(instance);
    assert!(native.destroy(&id).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_cannot_be_guaranteed_is_refused() {
    let rig = Rig::new();
    let capabilities = rig.native.capabilities().isolation;
    assert!(capabilities.missing.contains_key(&Guarantee::OwnKernel));
    let spec = spec().with_minimum([Guarantee::OwnKernel]);
    let error = refusal(rig.native.create(&SandboxId::random(), &spec).await);
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let sandbox = rig.sandbox().await;
    assert_eq!(*sandbox.instance.isolation(), capabilities);
    sandbox.destroy().await;
}

#[tokio::test]
async fn what_knows_no_namespace_is_refused() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    if !sandbox.run("perl -e 1").await.exit.status.is_success() {
        return skip_here("perl", "there is no perl to try system calls with");
    }
    let socket = |family: u32| format!("perl -e 'exit !socket(my $s, {family}, 1, 0)'");
    for (family, name) in [(1, "unix"), (2, "IPv4")] {
        assert!(sandbox.run(&socket(family)).await.exit.status.is_success(), "{name}");
    }
    for (family, name) in [(40, "vsock"), (38, "alg"), (17, "packet"), (31, "bluetooth")] {
        let ran = sandbox
            .run(&format!("{} || perl -e 'socket(my $s, {family}, 1, 0); print $!+0'", socket(family)))
            .await;
        assert_eq!(ran.stdout, "97", "{name}: {ran:?}");
    }
    let calls: [(&str, i64, i64); 6] = if cfg!(target_arch = "x86_64") {
        [
            ("ptrace of process 1", 101, 1),
            ("io_uring_setup", 425, 1),
            ("keyctl", 250, 1),
            ("bpf", 321, 1),
            ("userfaultfd", 323, 1),
            ("perf_event_open", 298, 1),
        ]
    } else {
        [
            ("ptrace of process 1", 117, 1),
            ("io_uring_setup", 425, 1),
            ("keyctl", 219, 1),
            ("bpf", 280, 1),
            ("userfaultfd", 282, 1),
            ("perf_event_open", 241, 1),
        ]
    };
    for (name, number, errno) in calls {
        // For ptrace these are PTRACE_SEIZE and the process; for the others it does not matter.
        let ran = sandbox.run(&format!("perl -e 'syscall({number}, 0x4206, 1, 0, 0, 0); print $!+0'")).await;
        assert_eq!(ran.stdout, errno.to_string(), "{name}: {ran:?}");
    }
    sandbox.destroy().await;
}
