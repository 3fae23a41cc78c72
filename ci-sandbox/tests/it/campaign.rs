//! What shows only in the long run. `tests/run --campaign` runs these, each in a process of its own on a machine that
//! makes no other sandboxes meanwhile: what they count is counted for all of it.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ci_core::id::SandboxId;
use ci_core::job::Limits;
use ci_core::network::{Destination, EgressRule, HostName, NetworkPolicy};
use ci_core::sandbox::{Backend as _, Sandboxes, Spec};
use ci_sandbox::native::{Config, ImageSource, Native};
use rustix::process::{WaitOptions, getpid, set_child_subreaper, wait};
use tokio::task::JoinSet;

use crate::support::{entries, eventually, finish, image, itself, native, no_secrets, shell, spec};

const LIVES: usize = 10_000;
const KILLS: u32 = 200;
const STATE: &str = "CI_SANDBOX_TEST_STATE";

/// How many sandboxes are made at a time.
const AT_ONCE: usize = 8;

/// What sandboxes take of a machine, as far as it can be counted.
#[derive(Debug, PartialEq, Eq)]
struct Footprint {
    descriptors: usize,
    threads: usize,
    groups: usize,
    mounts: usize,
    children: usize,
    /// As many network namespaces as the kernel keeps memory for; zero where it does not say that.
    networks: usize,
}

impl Footprint {
    fn now() -> Self {
        let count = |folder: &str| fs::read_dir(folder).map_or(0, Iterator::count);
        Self {
            descriptors: count("/proc/self/fd"),
            threads: count("/proc/self/task"),
            groups: folders(Path::new("/sys/fs/cgroup")),
            mounts: fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count(),
            children: children().len(),
            networks: networks(),
        }
    }

    /// Waits until there is no more than `before`: the kernel clears some things away in the background.
    async fn returns_to(before: &Self) {
        for _ in 0..200 {
            if Self::now().is_within(before) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(Self::now(), *before);
    }

    /// Whether there is no more of anything. There may be less: of what others have left, for instance.
    fn is_within(&self, before: &Self) -> bool {
        let all = |of: &Self| [of.descriptors, of.threads, of.groups, of.mounts, of.children];
        let is_within = all(self).iter().zip(all(before)).all(|(now, before)| *now <= before);
        is_within && self.networks <= before.networks + unsure_networks()
    }
}

/// How many folders there are below this one.
fn folders(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let below = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    below.map(|entry| 1 + folders(&entry.path())).sum()
}

/// The processes whose parent is this one.
fn children() -> Vec<i32> {
    let threads = fs::read_dir("/proc/self/task").unwrap().flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>())
        .collect()
}

/// As many network namespaces as the kernel keeps memory for (slabinfo(5)).
fn networks() -> usize {
    slab(1)
}

/// By how many that count may be too high: the kernel takes a slab that a processor holds for one that is all in use.
fn unsure_networks() -> usize {
    slab(4) * std::thread::available_parallelism().map_or(1, usize::from)
}

/// A number of what the kernel says of its network namespaces (slabinfo(5)).
fn slab(column: usize) -> usize {
    let slabs = fs::read_to_string("/proc/slabinfo").unwrap_or_default();
    let line = slabs.lines().find(|line| line.starts_with("net_namespace "));
    line.and_then(|line| line.split_whitespace().nth(column)?.parse().ok()).unwrap_or(0)
}

async fn life(native: &Native, spec: &Spec, script: &str) {
    let id = SandboxId::random();
    let instance = native.create(&id, spec).await.unwrap();
    let mut process = instance.exec(&shell(script), &no_secrets()).await.unwrap();
    finish(&mut *process).await;
    drop(process);
    drop(instance);
    let residue = native.destroy(&id).await.unwrap();
    assert!(residue.is_empty(), "{residue:?}");
}

/// `count` lives, some of them at the same time.
async fn lives(native: &Native, count: usize) {
    let mut running = JoinSet::new();
    for number in 0..count {
        if running.len() == AT_ONCE {
            running.join_next().await.unwrap().unwrap();
        }
        let native = native.clone();
        running.spawn(async move {
            let spec = if number % 4 == 0 { proxied() } else { spec() };
            life(&native, &spec, "true").await;
        });
    }
    running.join_all().await;
}

/// A sandbox with a way out.
fn proxied() -> Spec {
    let destination = Destination::Host(HostName::parse("git.example").unwrap());
    spec().with_network(NetworkPolicy::Allow(vec![EgressRule { destination, ports: vec![443] }]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a campaign: tests/run --campaign"]
async fn ten_thousand_lives_leave_nothing() {
    let state = tempfile::tempdir().unwrap();
    let native = native(state.path());
    // What is made once, by the runtime and the backend, is there afterwards.
    lives(&native, 4 * AT_ONCE).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = Footprint::now();
    let start = Instant::now();
    lives(&native, LIVES).await;
    println!("{LIVES} lives in {:.1?}: {before:?} before", start.elapsed());
    Footprint::returns_to(&before).await;
    assert!(entries(state.path()).is_empty());
    assert!(native.leftovers().await.unwrap().is_empty());
}

#[tokio::test]
#[ignore = "a campaign: tests/run --campaign"]
async fn two_hundred_kills_leave_nothing() {
    // Whatever the killed program leaves becomes a child of this one, and can be seen.
    set_child_subreaper(Some(getpid())).unwrap();
    let state = tempfile::tempdir().unwrap();
    lives(&native(state.path()), 1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = Footprint::now();
    let (mut slowest, mut left) = (Duration::ZERO, 0);
    for round in 0..KILLS {
        let mut victim = start_victim(state.path());
        // From the first moments of its life to the middle of its work, never twice at the same moment.
        std::thread::sleep(Duration::from_micros((u64::from(round) * 7_919) % 60_000));
        victim.kill().unwrap();
        let killed = Instant::now();
        victim.wait().unwrap();
        assert!(eventually(Duration::from_secs(1), || orphans() == 0), "round {round}: {} live", orphans());
        slowest = slowest.max(killed.elapsed());
        let next = native(state.path());
        left += next.leftovers().await.unwrap().len();
        Sandboxes::new(Arc::new(next)).reap().await.unwrap();
        assert!(entries(state.path()).is_empty(), "round {round}");
    }
    println!(
        "{KILLS} kills left {left} sandboxes to clear up; the last process was gone after {slowest:.0?}"
    );
    assert!(left >= KILLS as usize, "they were killed before they had anything");
    Footprint::returns_to(&before).await;
}

/// How many children live; those that have ended are waited for.
fn orphans() -> usize {
    while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
    children().len()
}

fn start_victim(state: &Path) -> Child {
    let mut victim = itself(&[], "campaign::victim");
    let mut victim = victim.env(STATE, state).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(victim.stdout.as_mut().unwrap());
    let mut line = String::new();
    while !line.contains("victim") {
        line.clear();
        assert_ne!(output.read_line(&mut line).unwrap(), 0, "it has ended");
    }
    victim
}

/// Not a test of its own: the program that is killed. It lives until then.
#[test]
#[ignore = "run by another test"]
fn victim() {
    let Ok(state) = std::env::var(STATE) else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let warm = spec().with_limits(Limits::default().with_processes(16));
        let config = Config::new(state).with_image(image(), ImageSource::host_toolchain());
        let native = Native::new(config.with_warm(warm.clone(), 2)).unwrap();
        println!("victim");
        loop {
            let mut running = JoinSet::new();
            for script in ["true", "trap '' TERM HUP; setsid sleep 1000 & sleep 0.01", "exec sleep 0.02"] {
                for spec in [spec(), proxied(), warm.clone()] {
                    let native = native.clone();
                    running.spawn(async move { life(&native, &spec, script).await });
                }
            }
            running.join_all().await;
        }
    });
}
