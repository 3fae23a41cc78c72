//! Programs: what they are given and write in memory, and the time that they may take anywhere.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use ci_core::clock::ManualClock;
use ci_core::id::SecretName;
use ci_core::job::Arg;
use ci_core::memory::{Masking, Reply, Rig, Secrets};
use ci_core::queue::Claim;
use ci_core::sandbox::{
    Bounded, Bounds, Command, ExitStatus, Input, OutputStream, Process, ProcessEvent, Sandbox, SecretUse,
    Signal, Spec, TerminalSize,
};
use ci_core::secret::{SecretLease, SecretStore as _, SecretValue};
use ci_core::trust::Origin;
use ci_core::{Error, ErrorKind, Result};
use futures_util::future::pending;
use futures_util::poll;

use crate::{ours, refused, writer};

const SECOND: Duration = Duration::from_secs(1);
const SIZE: TerminalSize = TerminalSize { rows: 24, columns: 80 };

struct Place {
    rig: Rig,
    claim: Claim,
    sandbox: Sandbox,
}

impl Place {
    async fn new() -> Result<Self> {
        let rig = Rig::new()?;
        let claim = rig.claim(&ours(), Origin::Repository, Rig::spec()).await?;
        let sandbox = rig.sandboxes.create(&claim, &Spec::new(Rig::spec().image)).await?;
        Ok(Self { rig, claim, sandbox })
    }

    async fn exec(&self, command: Command) -> Result<Box<dyn Process + '_>> {
        self.sandbox.exec(&command, &SecretLease::empty(&self.claim, Arc::new(Masking::new()))).await
    }
}

fn command(program: &str) -> Result<Command> {
    Ok(Command::new(Arg::new(program)?, []))
}

fn stdout(text: &str) -> ProcessEvent {
    ProcessEvent::Output(OutputStream::Stdout, Bytes::copy_from_slice(text.as_bytes()))
}

async fn end(process: &mut dyn Process) -> Result<ExitStatus> {
    loop {
        if let ProcessEvent::Exited(exit) = process.next().await? {
            return Ok(exit.status);
        }
    }
}

#[tokio::test]
async fn a_program_that_reads_runs_when_its_input_has_ended() -> Result<()> {
    let place = Place::new().await?;
    place.rig.backend.on_input("cat", |call| Reply::exit(0).stdout(call.input().clone()));
    let mut process = place.exec(command("cat")?.with_input()).await?;
    let mut input = process.input().expect("one");
    assert!(process.input().is_none());
    input.write("some".into()).await?;
    assert!(poll!(process.next()).is_pending());
    input.write("thing".into()).await?;
    drop(input);
    assert_eq!(process.next().await?, stdout("something"));
    assert_eq!(end(&mut *process).await?, ExitStatus::Code(0));

    let mut process = place.exec(command("cat")?).await?;
    assert!(process.input().is_none());
    assert_eq!(process.next().await?, stdout(""));
    Ok(())
}

#[tokio::test]
async fn an_input_ends_with_its_program() -> Result<()> {
    let place = Place::new().await?;
    place.rig.backend.on("true", |_| Reply::exit(0));
    place.rig.backend.on_input("cat", |_| Reply::exit(0));
    let mut process = place.exec(command("true")?.with_input()).await?;
    let mut input = process.input().expect("one");
    input.write("unread".into()).await?;
    end(&mut *process).await?;
    assert_eq!(refused(input.write("more".into()).await), ErrorKind::Conflict);

    let mut process = place.exec(command("cat")?.with_input()).await?;
    let mut input = process.input().expect("one");
    process.signal(Signal::User1).await?;
    assert_eq!(end(&mut *process).await?, ExitStatus::Signal(10));
    let mut dropped = place.exec(command("cat")?.with_input()).await?;
    let mut other = dropped.input().expect("one");
    drop((process, dropped));
    for input in [&mut input, &mut other] {
        assert_eq!(refused(input.write("more".into()).await), ErrorKind::Conflict);
    }
    Ok(())
}

#[tokio::test]
async fn a_terminal_has_a_size_and_one_stream() -> Result<()> {
    let place = Place::new().await?;
    place.rig.backend.on_input("tty", |call| {
        let size = call.terminal().map(|size| size.rows);
        let typed = String::from_utf8_lossy(call.input()).into_owned();
        Reply::exit(0).stderr(format!("{size:?} {typed}"))
    });
    let mut process = place.exec(command("tty")?.with_terminal(SIZE)).await?;
    process.resize(TerminalSize { rows: 50, ..SIZE }).await?;
    let mut input = process.input().expect("a terminal has one");
    input.write("ls".into()).await?;
    assert!(poll!(process.next()).is_pending());
    input.write("\x04exit".into()).await?;
    assert_eq!(process.next().await?, stdout("Some(50) ls"));

    let mut hung = place.exec(command("tty")?.with_terminal(SIZE)).await?;
    drop(hung.input());
    assert!(poll!(hung.next()).is_pending(), "a terminal's input has no end");

    let mut merged = place.exec(command("tty")?.with_merged_output()).await?;
    assert_eq!(refused(merged.resize(SIZE).await), ErrorKind::Unsupported);
    assert_eq!(merged.next().await?, stdout("None "));
    Ok(())
}

#[tokio::test]
async fn a_secret_is_a_file_as_long_as_its_program_runs() -> Result<()> {
    let place = Place::new().await?;
    let key = SecretName::parse("KEY")?;
    let secrets = Secrets::new(place.rig.audit.clone(), place.rig.clock.clone());
    secrets.put(&writer(&place.rig, &ours()).await?, &key, SecretValue::new(b"a\0key".as_slice())).await?;
    let lease = secrets.lease(place.claim.trusted()?, std::slice::from_ref(&key)).await?;
    place.rig.backend.on("show", |call| {
        let path = call.variable("KEY").map(|path| String::from_utf8_lossy(path).into_owned());
        let path = path.and_then(|path| ci_core::sandbox::SandboxPath::parse(path).ok());
        Reply::exit(0).stdout(path.and_then(|path| call.files().read(&path)).unwrap_or_default())
    });
    place.rig.backend.on("list", |call| {
        let paths: Vec<_> = call.files().paths().map(ToString::to_string).collect();
        Reply::exit(0).stdout(paths.join(" "))
    });
    let show = command("show")?.with_secrets([SecretUse::file(key)]);
    let mut process = place.sandbox.exec(&show, &lease).await?;
    assert_eq!(process.next().await?, stdout("a\0key"));
    assert_eq!(place.exec(command("list")?).await?.next().await?, stdout("/run/secrets/0/KEY"));
    end(&mut *process).await?;
    assert_eq!(place.exec(command("list")?).await?.next().await?, stdout(""));
    drop(place.sandbox.exec(&show, &lease).await?);
    assert_eq!(place.exec(command("list")?).await?.next().await?, stdout(""));
    Ok(())
}

/// A program that does what a test says until it is killed.
#[derive(Debug)]
struct Stub {
    writes: bool,
    killed: Arc<AtomicBool>,
}

#[async_trait]
impl Process for Stub {
    async fn next(&mut self) -> Result<ProcessEvent> {
        if self.writes { Ok(stdout("more")) } else { pending().await }
    }

    async fn signal(&self, signal: Signal) -> Result<()> {
        assert_eq!(signal, Signal::Kill);
        self.killed.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn input(&mut self) -> Option<Box<dyn Input>> {
        None
    }

    async fn resize(&self, _: TerminalSize) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, "resize a terminal"))
    }
}

async fn bounded(clock: &Arc<ManualClock>, bounds: Bounds, stub: Stub) -> Result<Bounded<'static>> {
    Bounded::start("build", clock.clone(), bounds, async { Ok(Box::new(stub) as Box<dyn Process>) }).await
}

#[tokio::test]
async fn a_program_that_writes_without_end_is_killed_in_time() -> Result<()> {
    let (clock, killed) = (Arc::new(ManualClock::new()), Arc::<AtomicBool>::default());
    let bounds = Bounds::default().with_timeout(10 * SECOND).with_silence(SECOND);
    let mut process = bounded(&clock, bounds, Stub { writes: true, killed: killed.clone() }).await?;
    for _ in 0..9 {
        clock.advance(SECOND);
        assert_eq!(process.next().await?, stdout("more"));
    }
    clock.advance(SECOND);
    let error = process.next().await.expect_err("late");
    assert_eq!((error.kind(), killed.load(Ordering::Relaxed)), (ErrorKind::TimedOut, true));
    assert!(error.to_string().starts_with("build: "), "{error}");
    assert!(
        error.to_string().contains("it took longer than it may") && error.to_string().contains("seconds: 10")
    );
    assert_eq!(process.next().await?, stdout("more"), "what it wrote before it died");
    Ok(())
}

#[tokio::test]
async fn a_silent_program_is_killed() -> Result<()> {
    let (clock, killed) = (Arc::new(ManualClock::new()), Arc::<AtomicBool>::default());
    let bounds = Bounds::default().with_silence(5 * SECOND);
    let mut process = bounded(&clock, bounds, Stub { writes: false, killed: killed.clone() }).await?;
    clock.advance(3 * SECOND);
    // Asking again does not start the count again.
    assert!(poll!(process.next()).is_pending());
    clock.advance(SECOND);
    {
        let mut next = pin!(process.next());
        assert!(poll!(&mut next).is_pending());
        assert!(!killed.load(Ordering::Relaxed));
        clock.advance(SECOND);
        let error = next.await.expect_err("silent");
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(error.to_string().contains("it wrote nothing for too long"), "{error}");
    }
    assert!(killed.load(Ordering::Relaxed));
    assert!(poll!(process.next()).is_pending(), "it is told once");
    Ok(())
}

#[tokio::test]
async fn a_slow_reader_makes_no_program_silent() -> Result<()> {
    let (clock, killed) = (Arc::new(ManualClock::new()), Arc::<AtomicBool>::default());
    let bounds = Bounds::default().with_silence(SECOND);
    let mut process = bounded(&clock, bounds, Stub { writes: true, killed: killed.clone() }).await?;
    for _ in 0..3 {
        clock.advance(60 * SECOND);
        assert_eq!(process.next().await?, stdout("more"));
    }
    assert!(!killed.load(Ordering::Relaxed));
    Ok(())
}

#[tokio::test]
async fn a_program_that_does_not_start_is_late_too() -> Result<()> {
    let clock = Arc::new(ManualClock::new());
    let bounds = Bounds::default().with_timeout(SECOND);
    let mut start = pin!(Bounded::start("build", clock.clone(), bounds, pending()));
    assert!(poll!(&mut start).is_pending());
    clock.advance(SECOND);
    assert_eq!(refused(start.await), ErrorKind::TimedOut);
    Ok(())
}
