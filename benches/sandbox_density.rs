//! Many sandboxes on one host: how long it takes until so many are there at once, and what each takes of its memory.
//!
//! `native` makes them as a worker does that has so many jobs at the same moment: all in tasks of one runtime. `bwrap`
//! starts as many of its own at once, and each tells when it stands; its isolation is less (see `sandbox_life.rs`).
//!
//! The memory of one is what the host has less of (`MemAvailable`, proc(5)) while they stand, divided by their number:
//! what their processes hold and what the kernel keeps for them.

#![expect(unreachable_pub, reason = "a program has no outside")]

mod common;

use std::fs;
use std::io::Read as _;
use std::process::{Child, Command as Program, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ci_core::Result;
use ci_core::id::{ImageName, SandboxId};
use ci_core::sandbox::{Backend as _, Instance, Spec};
use ci_sandbox::native::{Config, ImageSource, Native};
use tokio::task::JoinSet;

/// How many at once, and what each may take of the host's memory by the project's own bounds.
const CROWDS: [(usize, &str, u64); 2] = [(100, "300 ms", 256), (500, "1.5 s", 512)];

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let _inside = runtime.enter();
    let folder = tempfile::tempdir().expect("a folder");
    let image = ImageName::parse("host")?;
    let config = Config::new(folder.path()).with_image(image.clone(), ImageSource::host_toolchain());
    let native = Native::new(config)?;
    let spec = Arc::new(Spec::new(image));

    let mut criterion = common::criterion();
    for (count, time, kib) in CROWDS {
        let name = format!("{count} sandboxes at once");
        let mut memory = Vec::new();
        let mut group = criterion.benchmark_group(&name);
        group.sample_size(10);
        group.bench_function("native", |bencher| {
            bencher.iter_custom(|rounds| {
                let crowds = crowds(native.clone(), spec.clone(), count, rounds);
                let (taken, each) = runtime.block_on(async { tokio::spawn(crowds).await.expect("crowds") });
                memory.extend(each);
                taken
            });
        });
        if Program::new("bwrap").arg("--version").stdout(Stdio::null()).status().is_ok() {
            group.bench_function("bwrap", |bencher| {
                bencher.iter_custom(|rounds| (0..rounds).map(|_| crowd_of_bwrap(count)).sum());
            });
        }
        group.finish();
        common::print_ratio(&name, "native", "bwrap", &format!("none; at most {time}"));
        memory.sort_unstable();
        if let Some(median) = memory.get(memory.len() / 2) {
            println!("{name}: each takes {median} KiB of the host's memory (median; goal: at most {kib})");
        }
    }
    criterion.final_summary();
    Ok(())
}

/// How long it took `rounds` times until `count` sandboxes stood, and how many KiB of memory each took.
async fn crowds(native: Native, spec: Arc<Spec>, count: usize, rounds: u64) -> (Duration, Vec<i64>) {
    let (mut taken, mut memory) = (Duration::ZERO, Vec::new());
    for _ in 0..rounds {
        let before = available();
        let start = Instant::now();
        let mut making = JoinSet::new();
        for _ in 0..count {
            let (native, spec) = (native.clone(), spec.clone());
            making.spawn(async move {
                let id = SandboxId::random();
                let instance = native.create(&id, &spec).await.expect("a sandbox");
                (id, instance)
            });
        }
        let crowd: Vec<(SandboxId, Box<dyn Instance>)> = making.join_all().await;
        taken += start.elapsed();
        // Others use memory meanwhile, and give some back.
        memory.push(before.cast_signed().saturating_sub_unsigned(available()) / count.cast_signed() as i64);
        for (id, instance) in crowd {
            drop(instance);
            assert!(native.destroy(&id).await.expect("its end").is_empty());
        }
        settled().await;
    }
    (taken, memory)
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
    let mut program = Program::new("bwrap");
    program.args(["--unshare-all", "--die-with-parent", "--clearenv", "--ro-bind", "/usr", "/usr"]);
    program.args(["--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib"]);
    program.args(["--symlink", "usr/lib64", "/lib64", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]);
    program.args(["/bin/sh", "-c", "echo up; read end"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    program
}
