//! Bounds, and how reaching them looks.

use std::time::{Duration, Instant};

use ci_core::id::SandboxId;
use ci_core::job::Limits;
use ci_core::sandbox::{Backend as _, ExitStatus, Guarantee};
use ci_core::{ByteSize, ErrorKind};

use crate::support::{Rig, spec};

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
