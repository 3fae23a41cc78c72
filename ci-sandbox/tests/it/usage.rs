//! What a sandbox uses, as its machine counts it.

use std::time::{Duration, Instant};

use ci_core::ByteSize;
use ci_core::job::Limits;
use ci_core::sandbox::{ExitStatus, Guarantee};

use crate::support::{Rig, Sandbox, skip_here, spec};

const MIB: u64 = 1 << 20;

impl Sandbox {
    async fn cpu(&self) -> Duration {
        self.instance.usage().await.unwrap().cpu.unwrap()
    }
}

#[tokio::test]
async fn files_are_counted_for_everybody() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    let files = async || sandbox.instance.usage().await.unwrap().files.unwrap().as_u64();
    let before = files().await;
    assert!(before < MIB, "{before}");
    sandbox.output("head -c 3145728 /dev/zero > /work/a; truncate -s 1G /tmp/sparse").await;
    let with_them = files().await;
    assert!((before + 3 * MIB..before + 4 * MIB).contains(&with_them), "{before}, {with_them}");
    sandbox.output("rm /work/a").await;
    assert!(files().await < MIB);
    sandbox.destroy().await;
}

#[tokio::test]
async fn what_its_groups_count_is_told_as_long_as_they_are_there() {
    let rig = Rig::new();
    if !rig.holds(Guarantee::MemoryLimit) || !rig.holds(Guarantee::ProcessLimit) {
        return;
    }
    let sandbox = rig.sandbox().await;
    let first = sandbox.instance.usage().await.unwrap();
    assert_eq!(first.processes, Some(0), "its process 1 is not the job's");

    let script =
        "head -c 20000000 /dev/zero > /work/big; perl -e '1 while times() < 0.3'; echo done; exec sleep 1000";
    let mut process = sandbox.start(script).await.unwrap();
    process.next().await.unwrap();
    let now = sandbox.instance.usage().await.unwrap();
    assert_eq!(now.processes, Some(1), "{now:?}");
    assert!(now.peak_processes.is_none_or(|peak| (2..10).contains(&peak)), "{now:?}");
    assert!(now.memory.unwrap() > ByteSize::mib(19), "{now:?}");
    assert!(now.peak_memory.is_none_or(|peak| peak >= now.memory.unwrap()), "{now:?}");
    // Where there is only version 1, the machine may count processor time elsewhere.
    let cpu = now.cpu.unwrap_or(Duration::from_millis(300));
    assert!(cpu > Duration::from_millis(290), "{now:?}");
    drop(process);

    sandbox.output("rm /work/big").await;
    let then = sandbox.instance.usage().await.unwrap();
    assert!(then.memory < now.memory && then.peak_memory >= now.peak_memory, "{then:?}");
    sandbox.destroy().await;
}

#[tokio::test]
async fn after_its_end_by_memory_the_peak_is_still_told() {
    let rig = Rig::new();
    if !rig.holds(Guarantee::MemoryLimit) {
        return;
    }
    let sandbox = rig.sandbox_of(&spec().with_limits(Limits::default().with_memory(ByteSize::mib(32)))).await;
    let ran = sandbox.run("head -c 200000000 /dev/zero | tail").await;
    assert_eq!(ran.exit.status, ExitStatus::OutOfMemory);
    let usage = sandbox.instance.usage().await.unwrap();
    assert!(usage.peak_memory.is_none_or(|peak| peak > ByteSize::mib(30)), "{usage:?}");
    sandbox.destroy().await;
}

/// A job that keeps every processor busy with more processes than there is time for hides at most its files.
#[tokio::test]
async fn a_busy_job_does_not_hold_it_up() {
    let rig = Rig::new();
    let sandbox = rig.sandbox_of(&spec().with_limits(Limits::default().with_cpu_millis(1_000))).await;
    let script = "for i in $(seq 100); do perl -e '1 while 1' & done; echo busy; wait";
    let mut process = sandbox.start(script).await.unwrap();
    process.next().await.unwrap();
    let start = Instant::now();
    sandbox.instance.usage().await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    drop(process);
    sandbox.destroy().await;
}

/// Two jobs that both want all processors get as much as their weights say, however many processes they have.
async fn shares(weights: [u32; 2]) -> Option<f64> {
    const WHILE: Duration = Duration::from_millis(1_500);
    let rig = Rig::new();
    if !rig.holds(Guarantee::CpuLimit) {
        return None;
    }
    let wide = Limits::default().with_cpu_millis(1_000_000);
    let [greedy, modest] = weights.map(|weight| spec().with_limits(wide.with_weight(weight)));
    let (greedy, modest) = (rig.sandbox_of(&greedy).await, rig.sandbox_of(&modest).await);
    if greedy.instance.usage().await.unwrap().cpu.is_none() {
        skip_here("cpu-usage", "this machine does not count processor time of groups");
        return None;
    }
    let processors = std::thread::available_parallelism().unwrap().get();
    let busy =
        |count: usize| format!("for i in $(seq {count}); do perl -e '1 while 1' & done; echo busy; wait");
    let mut many = greedy.start(&busy(8 * processors)).await.unwrap();
    let mut few = modest.start(&busy(processors)).await.unwrap();
    many.next().await.unwrap();
    few.next().await.unwrap();
    let before = [greedy.cpu().await, modest.cpu().await];
    tokio::time::sleep(WHILE).await;
    let used = [greedy.cpu().await.saturating_sub(before[0]), modest.cpu().await.saturating_sub(before[1])];
    drop((many, few));
    greedy.destroy().await;
    modest.destroy().await;
    Some(used[1].as_secs_f64() / used[0].as_secs_f64())
}

#[tokio::test]
async fn a_job_with_many_processes_gets_no_more_than_its_share() {
    if let Some(ratio) = shares([100, 100]).await {
        assert!((0.5..2.0).contains(&ratio), "{ratio}");
    }
}

#[tokio::test]
async fn a_weight_is_a_share() {
    if let Some(ratio) = shares([100, 400]).await {
        assert!((2.0..8.0).contains(&ratio), "{ratio}");
    }
}
