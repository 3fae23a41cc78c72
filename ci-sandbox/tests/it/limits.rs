//! Bounds, and how reaching them looks.

use std::path::Path;
use std::time::{Duration, Instant};

use ci_core::id::SandboxId;
use ci_core::job::Limits;
use ci_core::sandbox::{Backend as _, ExitStatus, Guarantee};
use ci_core::{ByteSize, ErrorKind};
use ci_sandbox::native::{Config, ImageSource, Native};

use crate::support::{Rig, image, path, refusal, spec};

#[tokio::test]
async fn the_disk_is_bounded() {
    let rig = Rig::new();
    let sandbox = rig.sandbox_of(&spec().with_limits(Limits::default().with_disk(ByteSize::mib(4)))).await;
    let ran = sandbox.run("head -c 8000000 /dev/zero > /work/big").await;
    assert!(ran.stderr.contains("No space left"), "{ran:?}");
    let ran = sandbox.run("rm /work/big; head -c 8000000 /dev/zero > /dev/shm/big").await;
    assert!(ran.stderr.contains("No space left"), "{ran:?}");
    sandbox.output("rm /dev/shm/big; echo fits > /work/small").await;
    sandbox.destroy().await;
}

#[tokio::test]
async fn no_disk_at_all_is_no_unbounded_disk() {
    let rig = Rig::new();
    let spec = spec().with_limits(Limits::default().with_disk(ByteSize::bytes(0)));
    let sandbox = rig.sandbox_of(&spec).await;
    let ran = sandbox.run("head -c 100000 /dev/zero > /work/big").await;
    assert!(ran.stderr.contains("No space left"), "{ran:?}");
    sandbox.destroy().await;
}

#[tokio::test]
async fn memory_files_count_as_memory() {
    let rig = Rig::new();
    if !rig.holds(Guarantee::MemoryLimit) {
        return;
    }
    let sandbox = rig.sandbox_of(&spec().with_limits(Limits::default().with_memory(ByteSize::mib(32)))).await;
    // Whether the program was killed for it or process 1, the outcome is the same.
    let ran = sandbox.run("head -c 200000000 /dev/zero > /work/big").await;
    assert_eq!(ran.exit.status, ExitStatus::OutOfMemory);
    sandbox.destroy().await;
}

#[tokio::test]
async fn processor_time_is_bounded() {
    let rig = Rig::new();
    if !rig.holds(Guarantee::CpuLimit) {
        return;
    }
    let sandbox = rig.sandbox_of(&spec().with_limits(Limits::default().with_cpu_millis(100))).await;
    let began = Instant::now();
    let ran = sandbox.run("timeout 1 sh -c 'while :; do :; done'").await;
    // A tenth, and some more for the periods that it begins and ends in. On a slow machine it takes longer to start.
    let most = began.elapsed() / 5 + Duration::from_millis(200);
    assert!(ran.exit.usage.cpu < most, "{most:?}: {ran:?}");
    sandbox.destroy().await;
}

#[tokio::test]
async fn files_are_bounded_and_cores_are_not_written() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    assert_eq!(sandbox.output("ulimit -c").await, "0");
    let files: u64 = sandbox.output("ulimit -n").await.parse().unwrap();
    assert!(files <= 65_536);
    sandbox.destroy().await;
}

/// A pipeline file may say any number. What the kernel does not take is no failure of the machine: that would
/// be tried again and again.
#[tokio::test]
async fn limits_that_the_kernel_does_not_take_are_the_jobs_fault() {
    let rig = Rig::new();
    let usual = Limits::default();
    for limits in [
        usual.with_memory(ByteSize::bytes(0)),
        usual.with_memory(ByteSize::bytes(1)),
        usual.with_memory(ByteSize::mib(1)),
        usual.with_memory(ByteSize::bytes(u64::MAX)),
        usual.with_disk(ByteSize::bytes(u64::MAX)),
        usual.with_processes(0),
        usual.with_processes(u32::MAX),
        usual.with_cpu_millis(0),
        usual.with_cpu_millis(u32::MAX),
    ] {
        let id = SandboxId::random();
        let made = rig.native.create(&id, &spec().with_limits(limits)).await.map(drop);
        if let Err(error) = made {
            // On a slow machine a hundredth of a processor, the least there is, does not make a sandbox in time.
            let is_too_slow = limits.cpu_millis == 0 && error.kind() == ErrorKind::Unavailable;
            let is_the_machines = error.is_retryable() || error.kind() == ErrorKind::Internal;
            assert!(is_too_slow || !is_the_machines, "{limits:?}: {error:?}");
        }
        let residue = rig.native.destroy(&id).await.unwrap();
        assert!(residue.is_empty(), "{limits:?}: {residue:?}");
    }
}

/// A backend with a file of the image that is not in memory, and the folder that it lies in.
fn slow_reader() -> (Rig, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let state = tempfile::tempdir().unwrap();
    let ImageSource::HostToolchain { mut paths } = ImageSource::host_toolchain() else { unreachable!() };
    paths.push(folder.path().to_owned());
    // Larger than what is copied into the store.
    write_to_disk(&folder.path().join("large"), 6);
    let config = Config::new(state.path()).with_image(image(), ImageSource::HostToolchain { paths });
    (Rig::of(Native::new(config).unwrap(), state), folder)
}

fn write_to_disk(file: &Path, mebibytes: usize) {
    use std::io::Write as _;
    let mut file = std::fs::File::create(file).unwrap();
    for number in 0..mebibytes {
        file.write_all(&vec![u8::try_from(number).unwrap() + 1; 1024 * 1024]).unwrap();
    }
    file.sync_all().unwrap();
}

/// Takes a file out of memory.
fn forget(file: &Path) {
    let file = std::fs::File::open(file).unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
}

#[tokio::test]
async fn reading_from_disks_is_bounded() {
    let (rig, folder) = slow_reader();
    if !rig.holds(Guarantee::DiskRate) {
        return;
    }
    let large = folder.path().join("large");
    let whole = format!("sum < {}", large.display());
    // Here and there, so that nothing is read ahead.
    let scattered = format!(
        "perl -e 'open F, shift or die; for (reverse 1..23) {{ sysseek F, $_ << 18, 0; sysread F, $b, 4096 or die }}' {}",
        large.display()
    );
    let limits = Limits::default();
    let bytes = limits.with_disk_read_bytes(ByteSize::mib(2));
    let operations = limits.with_disk_read_operations(8);
    for (limits, read, at_least) in
        [(bytes, &whole, Duration::from_secs(2)), (operations, &scattered, Duration::from_secs(1))]
    {
        let sandbox = rig.sandbox_of(&spec().with_limits(limits)).await;
        // The programs are in memory then.
        sandbox.output(read).await;
        forget(&large);
        let began = Instant::now();
        sandbox.output(read).await;
        assert!(began.elapsed() > at_least, "{limits:?}: {:?}", began.elapsed());
        // What is in memory now is read from no disk.
        let began = Instant::now();
        sandbox.output(read).await;
        assert!(began.elapsed() < at_least, "{limits:?}: {:?}", began.elapsed());
        sandbox.destroy().await;
    }
}

#[tokio::test]
async fn a_bound_on_reading_that_cannot_be_held_is_refused() {
    let state = tempfile::tempdir().unwrap();
    // The kernel makes it up.
    let source = ImageSource::Directory("/proc/self".into());
    let native = Native::new(Config::new(state.path()).with_image(image(), source)).unwrap();
    let isolation = native.capabilities().isolation;
    assert!(isolation.missing.contains_key(&Guarantee::DiskRate), "{isolation:?}");
    let slow = spec().with_limits(Limits::default().with_disk_read_bytes(ByteSize::mib(1)));
    let error = refusal(native.create(&SandboxId::random(), &slow).await);
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");

    let rig = Rig::new();
    let shown = slow.with_host_folder_read_only(path("/mnt"), Path::new("/sys/kernel"));
    let error = refusal(rig.native.create(&SandboxId::random(), &shown).await);
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert_eq!(rig.entries(), 0);
}
