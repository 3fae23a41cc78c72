//! Many sandboxes on one host: how long it takes until so many are there at once, and what each takes of its memory.
//!
//! `native` makes them as a worker does that has so many jobs at the same moment: all in tasks of one runtime. `bwrap`
//! starts as many of its own at once; its isolation is less (see `sandbox_life.rs`). In each the same program tells that it
//! stands.
//!
//! The memory of one is what the host has less of (`MemAvailable`, proc(5)) while they stand and nothing runs in them,
//! divided by their number: what their own processes hold and what the kernel keeps for them.

#![expect(unreachable_pub, reason = "a program has no outside")]

#[path = "common/bwrap.rs"]
mod bwrap;
mod common;

use std::fs;
use std::io::Read as _;
use std::process::{Child, Command as Program, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ci_core::Result;
use ci_core::id::{ImageName, SandboxId};
use ci_core::job::Arg;
use ci_core::memory::Masking;
use ci_core::sandbox::{Backend as _, Command, ProcessEvent, Spec};
use ci_core::secret::SecretLease;
use ci_sandbox::native::{Config, ImageSource, Native};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How many at once, and what each may take of the host's memory by the project's own bounds.
const CROWDS: [(usize, &str, u64); 2] = [(100, "300 ms", 256), (500, "1.5 s", 512)];

/// How often memory is measured.
const ROUNDS: usize = 5;

/// What runs in every one, ours and the peer's: it says that it stands, and waits for the end of its input.
const SAYS_SO: &str = "echo up; read end";

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let _inside = runtime.enter();
    let folder = tempfile::tempdir().expect("a folder");
    let image = ImageName::parse("host")?;
    let config = Config::new(folder.path()).with_image(image.clone(), ImageSource::host_toolchain());
    let native = Native::new(config)?;
    let spec = Arc::new(Spec::new(image));
    let arguments = [Arg::new("-c")?, Arg::new(SAYS_SO)?];
    let program = Arc::new(Command::new(Arg::new("/bin/sh")?, arguments).with_input());

    let mut criterion = common::criterion();
    for (count, time, kib) in CROWDS {
        let name = format!("{count} sandboxes at once");
        let mut group = criterion.benchmark_group(&name);
        group.sample_size(10);
        group.bench_function("native", |bencher| {
            bencher.iter_custom(|rounds| {
                let (native, spec, program) = (native.clone(), spec.clone(), program.clone());
                // As a worker does: in a task of the runtime, and not on the thread that waits for it.
                let crowds = runtime.spawn(async move {
                    let mut taken = Duration::ZERO;
                    for _ in 0..rounds {
                        taken += crowd(&native, &spec, count, Some(&program)).await.0;
                    }
                    taken
                });
                runtime.block_on(crowds).expect("crowds")
            });
        });
        if Program::new("bwrap").arg("--version").stdout(Stdio::null()).status().is_ok() {
            group.bench_function("bwrap", |bencher| {
                bencher.iter_custom(|rounds| (0..rounds).map(|_| crowd_of_bwrap(count)).sum());
            });
        }
        group.finish();
        common::print_ratio(&name, "native", "bwrap", &format!("none; at most {time}"));
        let mut memory: Vec<i64> =
            (0..ROUNDS).map(|_| runtime.block_on(crowd(&native, &spec, count, None)).1).collect();
        memory.sort_unstable();
        let median = memory[ROUNDS / 2];
        println!("{name}: each takes {median} KiB of the host's memory (median; goal: at most {kib})");
    }
    criterion.final_summary();
    Ok(())
}

/// How long it took until `count` sandboxes stood, each with `program` in it as far as its first word, and how many KiB of
/// memory each took.
async fn crowd(
    native: &Native,
    spec: &Arc<Spec>,
    count: usize,
    program: Option<&Arc<Command>>,
) -> (Duration, i64) {
    const PATIENCE: Duration = Duration::from_mins(1);
    let before = available();
    let (up, mut ups) = mpsc::channel(count);
    let (end, _) = watch::channel(());
    let start = Instant::now();
    let mut crowd = JoinSet::new();
    for _ in 0..count {
        crowd.spawn(stand(native.clone(), spec.clone(), program.cloned(), up.clone(), end.subscribe()));
    }
    for _ in 0..count {
        timeout(PATIENCE, ups.recv()).await.expect("it stands in time");
    }
    let taken = start.elapsed();
    // Others use memory meanwhile, and give some back.
    let each = before.cast_signed().saturating_sub_unsigned(available()) / count.cast_signed() as i64;
    drop(end);
    crowd.join_all().await;
    settled().await;
    (taken, each)
}

/// One sandbox of a crowd, until `end` is dropped.
async fn stand(
    native: Native,
    spec: Arc<Spec>,
    program: Option<Arc<Command>>,
    up: mpsc::Sender<()>,
    mut end: watch::Receiver<()>,
) {
    let id = SandboxId::random();
    let instance = native.create(&id, &spec).await.expect("a sandbox");
    let lease = SecretLease::for_helper(Arc::new(Masking::new()));
    let mut running = None;
    if let Some(program) = &program {
        let process = running.insert(instance.exec(program, &lease).await.expect("a program"));
        assert!(
            matches!(process.next().await, Ok(ProcessEvent::Output(..))),
            "it has not said that it stands"
        );
    }
    up.send(()).await.expect("somebody counts");
    let _ = end.changed().await;
    drop(running);
    drop(instance);
    assert!(native.destroy(&id).await.expect("its end").is_empty());
}

/// Waits until the kernel has cleared away what it clears in the background: network namespaces above all.
async fn settled() {
    let mut before = 0;
    for _ in 0..50 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = available();
        if now.abs_diff(before) < 256 {
            break;
        }
        before = now;
    }
}

/// KiB of memory that the host has to give.
fn available() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").expect("proc(5)");
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).expect("a number")
}

/// How long it takes until `count` of `bwrap`'s stand: each has run a program that says so.
fn crowd_of_bwrap(count: usize) -> Duration {
    let start = Instant::now();
    let mut crowd: Vec<Child> = (0..count).map(|_| bwrap().spawn().expect("it starts")).collect();
    for child in &mut crowd {
        let mut word = [0; 3];
        child.stdout.as_mut().expect("a pipe").read_exact(&mut word).expect("it stands");
    }
    let taken = start.elapsed();
    for mut child in crowd {
        // Its program waits for the end of its input.
        drop(child.stdin.take());
        child.wait().expect("its end");
    }
    taken
}

fn bwrap() -> Program {
    let mut program = bwrap::command();
    program.args(["/bin/sh", "-c", SAYS_SO]).stdin(Stdio::piped()).stdout(Stdio::piped());
    program
}
