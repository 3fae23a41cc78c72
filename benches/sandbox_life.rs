//! A sandbox's life (create, run `/bin/true`, destroy) beside the programs that others start for it.
//!
//! Equal work: fresh user, mount, PID, network, IPC, UTS and cgroup namespaces, the host's `/usr`, an empty `/tmp`,
//! `/proc`, a few devices, `/bin/true`, and everything gone at the end. Where they differ, ours does more: it maps the
//! job to ids of its own, shows the image under an overlay in memory, drops every capability, filters system calls as
//! strictly as Docker, keeps its files from being swapped out, sets limits in control groups, and proves the end. The
//! peers are whole programs, as their users start them; ours is a library call that starts one.
//!
//! - `bare` is `bare.c`: the same system calls one after the other, without anybody who could stop or ask.
//! - `warm` takes a sandbox that was ready, to the first byte of output; making the next one is not measured.
//! - `crun` 1.8 refuses to run at all on hosts with the hybrid hierarchy of control groups. The benchmark therefore runs
//!   in a mount namespace in which the second one is not mounted, and `crun` with its control groups off. `crun filtered`
//!   filters system calls too, by the profile that Docker gives it: that is nearest to what ours does.
//! - `docker` is an engine of the benchmark's own, with an image in which there is nothing but the program.

#![expect(unreachable_pub, reason = "a program has no outside")]

#[path = "common/bwrap.rs"]
mod bwrap;
mod common;
#[path = "common/docker.rs"]
mod docker;

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command as Program, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ci_core::Result;
use ci_core::access::{Grant, Level, Read};
use ci_core::id::ImageName;
use ci_core::job::Arg;
use ci_core::memory::{Masking, Rig};
use ci_core::sandbox::{Command, ExitStatus, ProcessEvent, Sandboxes, Spec};
use ci_core::secret::SecretLease;
use ci_sandbox::native::{Config, ImageSource, Native};
use criterion::Criterion;
use docker::Docker;
use serde_json::{Value, json};

const GROUP: &str = "sandbox life";

fn main() -> Result<()> {
    leave_the_hybrid_hierarchy();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let image = ImageName::parse("host")?;
    let config = Config::new(folder.path()).with_image(image.clone(), ImageSource::host_toolchain());
    let native = {
        let _inside = runtime.enter();
        Native::new(config.clone())?
    };
    let sandboxes = Sandboxes::new(Arc::new(native));
    let warm = {
        let _inside = runtime.enter();
        Native::new(config.with_warm(Spec::new(image.clone()), 4))?
    };
    println!("{:#?}", sandboxes.capabilities().isolation);

    let grant = Arc::new(runtime.block_on(grant())?);
    runtime.block_on(print_percentiles(&sandboxes, &grant, &image))?;
    let mut criterion = common::criterion();
    let mut group = criterion.benchmark_group(GROUP);
    group.bench_function("native", |bencher| {
        bencher.iter_custom(|count| {
            let (sandboxes, grant, image) = (sandboxes.clone(), grant.clone(), image.clone());
            // As a worker does: in a task of the runtime, and not on the thread that waits for it.
            let lives = runtime.spawn(async move {
                let start = Instant::now();
                for _ in 0..count {
                    life(&sandboxes, &grant, &image).await.expect("a life");
                }
                start.elapsed()
            });
            runtime.block_on(lives).expect("the lives")
        });
    });
    group.bench_function("warm", |bencher| {
        bencher.iter_custom(|count| {
            let (warm, grant, image) = (warm.clone(), grant.clone(), image.clone());
            let lives = runtime.spawn(async move { from_the_pool(&warm, &grant, &image, count).await });
            runtime.block_on(lives).expect("the lives").expect("a life")
        });
    });
    group.finish();
    peers(&mut criterion, folder.path());
    runtime.block_on(warm.drain());
    criterion.final_summary();
    common::print_ratio(GROUP, "native", "bare", "at most 1.3");
    common::print_ratio(GROUP, "native", "bwrap", "at most 0.5");
    common::print_ratio(GROUP, "native", "crun", "at most 0.3");
    common::print_ratio(GROUP, "native", "crun filtered", "none");
    common::print_ratio(GROUP, "native", "docker", "at most 0.02");
    common::print_ratio(GROUP, "warm", "bare", "none; at most 1 ms");
    Ok(())
}

/// How long the slow ones take, which the median does not tell.
async fn print_percentiles(sandboxes: &Sandboxes, grant: &Grant<Read>, image: &ImageName) -> Result<()> {
    let mut lives = Vec::new();
    for _ in 0..2_000 {
        let start = Instant::now();
        life(sandboxes, grant, image).await?;
        lives.push(start.elapsed());
    }
    lives.sort();
    let at = |percent: usize| lives[lives.len() * percent / 100];
    println!(
        "{GROUP}: of {} lives half took less than {:.2?}, 99 of 100 less than {:.2?} (goal: at most 10 ms), all less than {:.2?}",
        lives.len(),
        at(50),
        at(99),
        lives[lives.len() - 1]
    );
    Ok(())
}

/// `count` times from the request for a sandbox that is ready to the first byte that a program in it prints.
async fn from_the_pool(
    warm: &Native,
    grant: &Grant<Read>,
    image: &ImageName,
    count: u64,
) -> Result<Duration> {
    let sandboxes = Sandboxes::new(Arc::new(warm.clone()));
    let lease = SecretLease::for_helper(Arc::new(Masking::new()));
    let hello = Command::new(Arg::new("/bin/echo")?, [Arg::new("hello")?]);
    let mut taken = Duration::ZERO;
    for _ in 0..count {
        while warm.ready() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let start = Instant::now();
        let sandbox = sandboxes.create_helper(grant.scope()?, &Spec::new(image.clone())).await?;
        let mut process = sandbox.exec(&hello, &lease).await?;
        let first = process.next().await?;
        taken += start.elapsed();
        assert!(matches!(first, ProcessEvent::Output(..)), "{first:?}");
        drop(process);
        let _gone = sandbox.destroy().await?;
    }
    Ok(taken)
}

/// Starts the benchmark again where `crun` runs too, if this is not there yet and can be had.
fn leave_the_hybrid_hierarchy() {
    const HYBRID: &str = "/sys/fs/cgroup/unified/cgroup.controllers";
    const HIDE: &str = "umount /sys/fs/cgroup/unified && exec \"$0\" \"$@\"";
    let is_root = fs::metadata("/proc/self").is_ok_and(|itself| itself.uid() == 0);
    if is_root && Path::new(HYBRID).exists() {
        let mut again = Program::new("unshare");
        again.args(["--mount", "--propagation", "private", "sh", "-c", HIDE]);
        let error = again.args(std::env::args_os()).exec();
        println!("crun cannot be compared with on this machine: {error}");
    }
}

/// Somebody's permission, so that a sandbox can be asked for; it costs nothing of what is measured.
async fn grant() -> Result<Grant<Read>> {
    let rig = Rig::new()?;
    let (user, repository) = (Rig::user("bench")?, Rig::repository("1", "bench")?);
    rig.permissions.allow(&user, &repository, Level::Read);
    rig.grant::<Read>(&user, &repository).await
}

async fn life(sandboxes: &Sandboxes, grant: &Grant<Read>, image: &ImageName) -> Result<()> {
    let sandbox = sandboxes.create_helper(grant.scope()?, &Spec::new(image.clone())).await?;
    let lease = SecretLease::for_helper(Arc::new(Masking::new()));
    let mut process = sandbox.exec(&Command::new(Arg::new("/bin/true")?, []), &lease).await?;
    loop {
        if let ProcessEvent::Exited(exit) = process.next().await? {
            assert_eq!(exit.status, ExitStatus::Code(0));
            break;
        }
    }
    drop(process);
    let _gone = sandbox.destroy().await?;
    Ok(())
}

fn peers(criterion: &mut Criterion, folder: &Path) {
    let mut group = criterion.benchmark_group(GROUP);
    if let Some(bare) = bare(folder) {
        group.bench_function("bare", |bencher| bencher.iter_custom(|count| lives_of(&bare, count)));
    }
    if is_there("bwrap") {
        group.bench_function("bwrap", |bencher| bencher.iter(|| succeed(&mut bwrap())));
    }
    let docker = (is_there("docker") && is_there("dockerd")).then(|| Docker::start(folder)).flatten();
    if is_there("crun") {
        let mut measure = |name: &str, seccomp: Option<Value>| {
            let at = folder.join(name);
            bundle(&at, seccomp);
            let mut number = 0;
            group.bench_function(name, |bencher| {
                bencher.iter(|| {
                    number += 1;
                    succeed(&mut crun(&at, folder, &format!("bench-{}-{number}", std::process::id())));
                });
            });
        };
        measure("crun", None);
        if let Some(docker) = &docker {
            measure("crun filtered", Some(docker.seccomp()));
        }
    }
    if let Some(docker) = docker {
        group
            .sample_size(10)
            .bench_function("docker", |bencher| bencher.iter(|| succeed(&mut docker.life())));
    }
    group.finish();
}

fn is_there(program: &str) -> bool {
    let there = Program::new(program).arg("--version").stdout(Stdio::null()).status().is_ok();
    if !there {
        println!("{program} is not installed: no comparison with it");
    }
    there
}

fn succeed(program: &mut Program) {
    // Not the machine's /dev/null: crun gives its standard streams to the container's root, for good.
    let status = program.stdin(Stdio::piped()).stdout(Stdio::piped()).status().expect("it starts");
    assert!(status.success(), "{program:?}: {status}");
}

/// The program of `bare.c`, where it can be compiled and run: it takes root.
fn bare(folder: &Path) -> Option<std::path::PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/bare.c");
    let program = folder.join("bare");
    let compiled = Program::new("cc").arg("-O2").arg("-o").args([&program, &source]).status();
    let works = compiled.is_ok_and(|status| status.success())
        && Program::new(&program)
            .arg("1")
            .args(groups())
            .stdout(Stdio::null())
            .status()
            .is_ok_and(|s| s.success());
    if !works {
        println!("the bare system calls cannot be measured: they take a C compiler and root");
    }
    works.then_some(program)
}

/// How long `count` of its lives took, as it says.
fn lives_of(bare: &Path, count: u64) -> Duration {
    let output = Program::new(bare).arg(count.to_string()).args(groups()).output().expect("it starts");
    let nanoseconds = String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number");
    Duration::from_nanos(nanoseconds)
}

/// The control groups of this process that limits can be set below: those of version 1.
fn groups() -> Vec<String> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mine = own.lines().filter_map(|line| line.splitn(3, ':').skip(1).collect::<Vec<_>>().try_into().ok());
    let wanted = mine.filter(|[names, _]: &[&str; 2]| ["memory", "pids", "cpu"].contains(names));
    wanted.map(|[name, path]| format!("/sys/fs/cgroup/{name}{path}")).collect()
}

fn bwrap() -> Program {
    let mut program = bwrap::command();
    program.arg("/bin/true");
    program
}

fn crun(bundle: &Path, folder: &Path, id: &str) -> Program {
    let mut program = Program::new("crun");
    program.arg("--root").arg(folder.join("crun")).arg("--cgroup-manager=disabled");
    program.args(["run", "--bundle"]).arg(bundle).arg(id);
    program
}

/// A bundle by the OCI runtime specification, 1.0.
fn bundle(bundle: &Path, seccomp: Option<Value>) {
    for name in ["usr", "proc", "dev", "tmp"] {
        fs::create_dir_all(bundle.join("rootfs").join(name)).expect("a folder");
    }
    for (target, link) in [("usr/bin", "bin"), ("usr/lib", "lib"), ("usr/lib64", "lib64")] {
        std::os::unix::fs::symlink(target, bundle.join("rootfs").join(link)).expect("a link");
    }
    let mount = |kind: &str, target: &str, source: &str, options: Value| json!({ "type": kind, "destination": target, "source": source, "options": options });
    let namespaces = ["user", "mount", "pid", "network", "ipc", "uts", "cgroup"];
    let mapping = json!([{ "containerID": 0, "hostID": 1_879_048_192_u32, "size": 65_536 }]);
    let mut config = json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false, "user": { "uid": 0, "gid": 0 }, "args": ["/bin/true"], "env": [], "cwd": "/",
            "noNewPrivileges": true, "capabilities": {}
        },
        "root": { "path": "rootfs", "readonly": true },
        "hostname": "bench",
        "mounts": [
            mount("proc", "/proc", "proc", json!(["nosuid", "noexec", "nodev"])),
            mount("tmpfs", "/dev", "tmpfs", json!(["nosuid", "strictatime", "mode=755", "size=65536k"])),
            mount("tmpfs", "/tmp", "tmpfs", json!(["nosuid", "nodev", "mode=1777"])),
            mount("bind", "/usr", "/usr", json!(["rbind", "ro"])),
        ],
        "linux": {
            "namespaces": namespaces.map(|kind| json!({ "type": kind })),
            "uidMappings": mapping, "gidMappings": mapping
        }
    });
    if let Some(seccomp) = seccomp {
        config["linux"]["seccomp"] = seccomp;
    }
    fs::write(bundle.join("config.json"), config.to_string()).expect("a file");
}
