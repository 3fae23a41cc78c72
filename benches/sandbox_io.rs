//! What goes on in a living sandbox beside the same without one: starting a program, reading what it writes, and
//! taking files in and out.
//!
//! The peers do the same work on the same kernel in the same run: `/bin/true` started and waited for with
//! `posix_spawn(3)`, `cat` read through a pipe, `tar` at the other end of a pipe. All files are in memory.

#![expect(unreachable_pub, reason = "a program has no outside")]

mod common;

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Command as Program, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use ci_core::access::{Grant, Level, Read};
use ci_core::id::ImageName;
use ci_core::job::Arg;
use ci_core::memory::{Masking, Rig};
use ci_core::sandbox::{Command, ProcessEvent, Sandbox, SandboxPath, Sandboxes, Spec};
use ci_core::secret::SecretLease;
use ci_core::{Result, stream};
use ci_sandbox::native::{Config, ImageSource, Native};
use criterion::{Criterion, Throughput};
use futures_util::StreamExt as _;

const START: &str = "start a program";
const OUTPUT: &str = "read its output";
const FILES: &str = "files in and out";

/// How much is read: enough to drown what starting the program takes.
const MUCH: usize = 256 * 1024 * 1024;

fn main() -> Result<()> {
    // As the peers, it waits in one thread; a task of a runtime with several does the same.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let state = tempfile::tempdir().expect("a folder");
    let memory = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
    let image = ImageName::parse("host")?;
    let config = Config::new(state.path()).with_image(image.clone(), ImageSource::host_toolchain());
    let native = {
        let _inside = runtime.enter();
        Native::new(config)?
    };
    let sandboxes = Sandboxes::new(Arc::new(native));
    let sandbox = runtime.block_on(async {
        let grant = grant().await?;
        sandboxes.create_helper(grant.scope()?, &Spec::new(image)).await
    })?;

    let mut criterion = common::criterion();
    start(&mut criterion, &runtime, &sandbox);
    output(&mut criterion, &runtime, &sandbox, memory.path());
    files(&mut criterion, &runtime, &sandbox, memory.path());
    criterion.final_summary();
    common::print_ratio(START, "native", "spawn", "at most 1.5");
    common::print_ratio(OUTPUT, "native", "pipe", "none; 1 GB/s is 268 ms");
    common::print_ratio(FILES, "upload", "tar -x", "at most 1.25");
    common::print_ratio(FILES, "download", "tar -c", "at most 1.25");
    runtime.block_on(async { sandbox.destroy().await.map(drop) })
}

/// Somebody's permission, so that a sandbox can be asked for.
async fn grant() -> Result<Grant<Read>> {
    let rig = Rig::new()?;
    let (user, repository) = (Rig::user("bench")?, Rig::repository("1", "bench")?);
    rig.permissions.allow(&user, &repository, Level::Read);
    rig.grant::<Read>(&user, &repository).await
}

fn start(criterion: &mut Criterion, runtime: &tokio::runtime::Runtime, sandbox: &Sandbox) {
    let mut group = criterion.benchmark_group(START);
    group.bench_function("native", |bencher| {
        bencher.to_async(runtime).iter(|| async { run(sandbox, "/bin/true", &[]).await.expect("it runs") });
    });
    group.bench_function("spawn", |bencher| {
        bencher.iter(|| {
            let mut program = Program::new("/bin/true");
            program.env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            assert!(program.output().expect("it starts").status.success());
        });
    });
    group.finish();
}

fn output(criterion: &mut Criterion, runtime: &tokio::runtime::Runtime, sandbox: &Sandbox, memory: &Path) {
    let make = format!("head -c {MUCH} /dev/zero > /work/much");
    runtime.block_on(run(sandbox, "/bin/sh", &["-c", &make])).expect("it fits");
    let outside = memory.join("much");
    fs::write(&outside, vec![0; MUCH]).expect("it fits");

    let mut group = criterion.benchmark_group(OUTPUT);
    group.sample_size(20).throughput(Throughput::Bytes(MUCH as u64));
    group.bench_function("native", |bencher| {
        bencher.to_async(runtime).iter(|| async {
            assert_eq!(run(sandbox, "/bin/cat", &["/work/much"]).await.expect("it runs"), MUCH);
        });
    });
    group.bench_function("pipe", |bencher| {
        bencher.iter(|| assert_eq!(drain(Program::new("/bin/cat").arg(&outside)), MUCH));
    });
    group.finish();
    runtime.block_on(run(sandbox, "/bin/rm", &["/work/much"])).expect("it is gone");
    fs::remove_file(outside).expect("it is gone");
}

fn files(criterion: &mut Criterion, runtime: &tokio::runtime::Runtime, sandbox: &Sandbox, memory: &Path) {
    let tree = memory.join("tree");
    for folder in 0..20 {
        let folder = tree.join(folder.to_string());
        fs::create_dir_all(&folder).expect("a folder");
        for file in 0..100 {
            fs::write(folder.join(file.to_string()), vec![b'x'; 4_000]).expect("a file");
        }
        fs::write(folder.join("large"), vec![b'x'; 4_000_000]).expect("a file");
    }
    let pack = || {
        let mut tar = Program::new("tar");
        tar.arg("-C").arg(memory).args(["-cf", "-", "tree"]);
        tar
    };
    let archive = Bytes::from(pack().output().expect("an archive").stdout);
    let folder = SandboxPath::work();
    let upload =
        async |archive: Bytes| sandbox.upload(&folder, stream::once(archive)).await.expect("it fits");
    let packed = folder.join("tree").expect("a path");

    let mut group = criterion.benchmark_group(FILES);
    group.sample_size(20).throughput(Throughput::Bytes(archive.len() as u64));
    group.bench_function("upload", |bencher| {
        bencher.to_async(runtime).iter(|| upload(archive.clone()));
    });
    let unpacked = memory.join("unpacked");
    fs::create_dir(&unpacked).expect("a folder");
    group.bench_function("tar -x", |bencher| {
        bencher.iter(|| {
            let mut tar = Program::new("tar");
            tar.arg("-C").arg(&unpacked).args(["-xf", "-"]).stdin(Stdio::piped());
            let mut tar = tar.spawn().expect("it starts");
            tar.stdin.take().expect("a pipe").write_all(&archive).expect("it reads");
            assert!(tar.wait().expect("it ends").success());
        });
    });
    group.bench_function("download", |bencher| {
        bencher.to_async(runtime).iter(|| async {
            let mut pieces = sandbox.download(&packed);
            let mut length = 0;
            while let Some(piece) = pieces.next().await {
                length += piece.expect("a piece").len();
            }
            assert!(length > 80_000_000);
        });
    });
    group.bench_function("tar -c", |bencher| {
        bencher.iter(|| assert!(drain(&mut pack()) > 80_000_000));
    });
    group.finish();
}

/// Runs a program to its end in the sandbox, and returns how much it wrote.
async fn run(sandbox: &Sandbox, program: &str, arguments: &[&str]) -> Result<usize> {
    let lease = SecretLease::for_helper(Arc::new(Masking::new()));
    let arguments = arguments.iter().map(|argument| Arg::new(*argument)).collect::<Result<Vec<_>>>()?;
    let mut process = sandbox.exec(&Command::new(Arg::new(program)?, arguments), &lease).await?;
    let mut length = 0;
    loop {
        match process.next().await? {
            ProcessEvent::Output(_, bytes) => length += bytes.len(),
            ProcessEvent::Exited(exit) => break assert!(exit.status.is_success(), "{program}: {exit:?}"),
        }
    }
    Ok(length)
}

/// Runs a program to its end without a sandbox, and returns how much it wrote.
fn drain(program: &mut Program) -> usize {
    let mut child = program.stdout(Stdio::piped()).spawn().expect("it starts");
    let mut pipe = child.stdout.take().expect("a pipe");
    let (mut buffer, mut length) = (vec![0; 128 * 1024], 0);
    loop {
        match pipe.read(&mut buffer).expect("it writes") {
            0 => break,
            read => length += read,
        }
    }
    assert!(child.wait().expect("it ends").success());
    length
}
