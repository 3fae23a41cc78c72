//! The runner over the ports in memory: what a job sees, leaves, and gives back.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use ci_core::access::Read;
use ci_core::clock::{Clock as _, ManualClock, Timestamp};
use ci_core::forge::{CheckState, Revision, RevisionName};
use ci_core::id::{ArtifactName, CommitId, JobId, SecretName, StepName};
use ci_core::job::{JobSpec, Script, Step, Timeouts};
use ci_core::log::{Cursor, LogStore};
use ci_core::memory::{Database, Logs, Recorder, Reply, Rig, Secrets};
use ci_core::network::{Flow, NetworkReport, Verdict};
use ci_core::outcome::Conclusion;
use ci_core::queue::{Claim, NewJob, Released, State};
use ci_core::runner::{Parts, Runner, Stop};
use ci_core::sandbox::{ExitStatus, Residue, SandboxPath, SandboxUsage};
use ci_core::secret::{SecretStore as _, SecretValue};
use ci_core::trust::Origin;
use ci_core::{ByteSize, ErrorKind, External, Result};
use futures_util::poll;

use crate::hooked::Hooked;
use crate::hostile::Deaf;
use crate::{ours, refused, writer};

pub(crate) struct Service {
    pub(crate) rig: Rig,
    pub(crate) secrets: Arc<Secrets>,
    logs: Arc<Logs>,
    pub(crate) seen: Arc<Recorder>,
    pub(crate) runner: Runner,
}

impl Service {
    fn new() -> Result<Self> {
        Ok(Self::of(Rig::new()?))
    }

    fn of(rig: Rig) -> Self {
        Self::with_parts(rig, |_| {})
    }

    pub(crate) fn with_parts(rig: Rig, change: impl FnOnce(&mut Parts)) -> Self {
        let secrets = Arc::new(Secrets::new(rig.audit.clone(), rig.clock.clone()));
        let logs = Arc::new(Logs::new(rig.database.clone(), rig.clock.clone()));
        let seen = Arc::new(Recorder::new());
        let mut parts =
            Parts { secrets: secrets.clone(), logs: logs.clone(), observer: seen.clone(), ..rig.parts() };
        change(&mut parts);
        let runner = Runner::new(parts);
        Self { rig, secrets, logs, seen, runner }
    }

    /// Claims a job whose commit holds `main.rs`.
    pub(crate) async fn claim(&self, spec: JobSpec) -> Result<Claim> {
        self.enqueue(spec).await?;
        Ok(self.rig.dispatcher.next(&[]).await?.expect("the job"))
    }

    /// Enqueues a job whose commit holds `main.rs`.
    pub(crate) async fn enqueue(&self, spec: JobSpec) -> Result<JobId> {
        let commit = CommitId::parse("0123456789abcdef0123456789abcdef01234567")?;
        let revision = Revision::new(commit, Origin::Repository);
        self.rig.forge.add_commit(&ours(), revision, [("main.rs", "fn main() {}")])?;
        let grant = writer(&self.rig, &ours()).await?;
        let (forge, sandboxes) = (self.rig.forge.as_ref(), &self.rig.sandboxes);
        let code =
            ci_core::forge::resolve(forge, grant.scope()?, sandboxes, &RevisionName::parse("HEAD")?).await?;
        self.rig.dispatcher.enqueue(&NewJob::requested(&grant, code, spec)?).await
    }

    pub(crate) async fn output(&self, job: &JobId) -> Result<String> {
        let grant = writer(&self.rig, &ours()).await?.lower::<Read>();
        let page = self.logs.read(&grant, job, Cursor(0), 1 << 20).await?;
        Ok(String::from_utf8_lossy(&page.bytes).into_owned())
    }
}

pub(crate) fn never() -> impl Future<Output = Stop> + Send {
    std::future::pending()
}

#[tokio::test]
async fn a_job_sees_its_code_and_leaves_what_it_may() -> Result<()> {
    let service = Service::new()?;
    let token = SecretName::parse("TOKEN")?;
    let grant = writer(&service.rig, &ours()).await?;
    service.secrets.put(&grant, &token, SecretValue::new("hunter2")).await?;
    service.rig.backend.on("sh", |call| {
        let code = SandboxPath::work().join("main.rs").ok().and_then(|path| call.files().read(&path));
        let token = call.variable("TOKEN").unwrap_or_default().to_vec();
        let report = SandboxPath::work().join("report");
        let written = report.and_then(|path| call.files().write(&path, "fine"));
        let said = [code.as_deref().unwrap_or_default(), b" with ", &token].concat();
        Reply::exit(u8::from(written.is_err())).stdout(said)
    });
    let step = Step::script(StepName::parse("build")?, Script::literal("build")).with_secret(token.clone());
    let spec = JobSpec::new(Rig::spec().image)
        .with_step(step)
        .with_secret(token)
        .with_artifact(ArtifactName::parse("report")?, SandboxPath::work().join("report")?);
    let claim = service.claim(spec).await?;
    let job = claim.job().clone();

    let outcome = service.runner.run(claim, never()).await?;
    assert_eq!(outcome.conclusion, Conclusion::Succeeded);
    assert_eq!(outcome.artifacts.len(), 1);
    assert_eq!(service.output(&job).await?, "fn main() {} with ***");
    assert_eq!(service.rig.backend.living(), []);
    let reported: Vec<_> = service.rig.forge.reports().into_iter().map(|report| report.state).collect();
    assert_eq!(reported, [CheckState::Running, CheckState::Succeeded]);
    let grant = writer(&service.rig, &ours()).await?.lower();
    assert_eq!(service.rig.dispatcher.state(&grant, &job).await?, State::Finished(Box::new(outcome)));
    let events: Vec<String> = service.seen.events(&job);
    let names: Vec<&str> =
        events.iter().map(|event| event.split([' ', '(']).next().unwrap_or_default()).collect();
    assert_eq!(
        names,
        [
            "SandboxCreated",
            "CheckedOut",
            "StepStarted",
            "Output",
            "StepFinished",
            "ArtifactKept",
            "SandboxDestroyed",
            "Finished",
        ]
    );
    Ok(())
}

#[tokio::test]
async fn the_first_step_that_fails_ends_the_job() -> Result<()> {
    let service = Service::new()?;
    service.rig.backend.on("sh", |_| Reply::exit(3).stderr("no"));
    let step = |name| Ok::<_, ci_core::Error>(Step::script(StepName::parse(name)?, Script::literal("x")));
    let spec = JobSpec::new(Rig::spec().image).with_step(step("one")?).with_step(step("two")?);
    let outcome = service.runner.run(service.claim(spec).await?, never()).await?;
    assert_eq!((outcome.conclusion, outcome.exit_code(), outcome.steps.len()), (Conclusion::Failed, 3, 1));
    Ok(())
}

#[tokio::test]
async fn a_job_that_was_given_back_goes_on_in_the_same_log() -> Result<()> {
    let service = Service::new()?;
    let (failed, backend) = (AtomicBool::new(false), service.rig.backend.clone());
    service.rig.backend.on("sh", move |_| {
        if !failed.swap(true, Ordering::Relaxed) {
            // The machine is lost after this.
            backend.restart();
            return Reply::exit(0).stdout("first ");
        }
        Reply::exit(0).stdout("second")
    });
    let claim = service.claim(Rig::spec()).await?;
    let job = claim.job().clone();
    let error = service.runner.run(claim, never()).await.expect_err("the machine is lost");
    assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Internal), "{error}");
    assert!(service.rig.dispatcher.next(&[]).await?.is_none(), "what failed is given time");
    service.rig.clock.advance(Duration::from_secs(30));
    let again = service.rig.dispatcher.next(&[]).await?.expect("the job waits again");
    let outcome = service.runner.run(again, never()).await?;
    assert_eq!(outcome.conclusion, Conclusion::Succeeded, "{outcome:?}");
    assert!(service.output(&job).await?.ends_with("second"));
    Ok(())
}

#[tokio::test]
async fn a_job_has_its_result_even_where_something_is_left() -> Result<()> {
    let service = Service::new()?;
    service.rig.backend.on("sh", |_| Reply::exit(0));
    let claim = service.claim(Rig::spec()).await?;
    let job = claim.job().clone();
    let residue = Residue { mounts: 1, ..Residue::default() };
    service.rig.backend.leave_residue(residue);
    assert_eq!(refused(service.runner.run(claim, never()).await), ErrorKind::Internal);
    let grant = writer(&service.rig, &ours()).await?.lower();
    assert!(matches!(service.rig.dispatcher.state(&grant, &job).await?, State::Finished(_)));
    assert_eq!(service.rig.sandboxes.reap().await?, 1);
    Ok(())
}

#[tokio::test]
async fn a_worker_that_ends_gives_the_job_to_the_next_one() -> Result<()> {
    let service = Service::new()?;
    let claim = service.claim(Rig::spec()).await?;
    let job = claim.job().clone();
    let stopped = service.runner.run(claim, std::future::ready(Stop::ShutDown)).await;
    assert_eq!(refused(stopped), ErrorKind::Cancelled);
    let again = service.rig.dispatcher.next(&[]).await?.expect("it waits");
    assert_eq!((again.job(), again.attempt()), (&job, 1));
    Ok(())
}

#[tokio::test]
async fn a_fork_that_asks_for_secrets_does_not_run() -> Result<()> {
    let service = Service::new()?;
    service.rig.backend.on("sh", |_| Reply::exit(0));
    let spec = Rig::spec().with_secret(SecretName::parse("TOKEN")?);
    let claim = service.rig.claim(&ours(), Origin::Fork, spec).await?;
    let job = claim.job().clone();
    let outcome = service.runner.run(claim, never()).await?;
    assert_eq!(outcome.conclusion, Conclusion::Refused);
    assert!(service.seen.events(&job).iter().all(|event| !event.starts_with("SandboxCreated")));
    Ok(())
}

#[tokio::test]
async fn a_stopped_job_leaves_no_sandbox() -> Result<()> {
    let service = Service::new()?;
    service.rig.backend.on("sh", |_| Reply::hang());
    let outcome =
        service.runner.run(service.claim(Rig::spec()).await?, std::future::ready(Stop::Cancel)).await?;
    assert_eq!(outcome.conclusion, Conclusion::Cancelled, "by whoever runs the worker");
    assert_eq!(service.rig.backend.living(), []);

    let claim = service.claim(Rig::spec()).await?;
    let job = claim.job().clone();
    let mut run = pin!(service.runner.run(claim, never()));
    assert!(poll!(&mut run).is_pending());
    assert_eq!(service.rig.backend.living().len(), 1);
    service.rig.dispatcher.cancel(&writer(&service.rig, &ours()).await?, &job).await?;
    service.rig.clock.advance(Duration::from_secs(10));
    assert_eq!(run.await?.conclusion, Conclusion::Cancelled, "by whoever may");
    assert_eq!(service.rig.backend.living(), []);
    Ok(())
}

#[tokio::test]
async fn a_step_that_says_nothing_for_too_long_is_stopped() -> Result<()> {
    let service = Service::new()?;
    service.rig.backend.on("sh", |_| Reply::hang().stdout("last words"));
    let spec = Rig::spec().with_timeouts(Timeouts::default().with_silence(Duration::from_mins(1)));
    let claim = service.claim(spec).await?;
    let job = claim.job().clone();
    let mut run = pin!(service.runner.run(claim, never()));
    for _ in 0..6 {
        assert!(poll!(&mut run).is_pending());
        service.rig.clock.advance(Duration::from_secs(10));
    }
    let outcome = run.await?;
    assert_eq!((outcome.conclusion, outcome.exit_code()), (Conclusion::TimedOut, 124));
    assert_eq!(service.output(&job).await?, "last words");
    assert_eq!(service.rig.backend.living(), []);
    Ok(())
}

#[tokio::test]
async fn what_a_job_uses_is_told_while_it_runs_and_at_its_end() -> Result<()> {
    let service = Service::new()?;
    let used = SandboxUsage::default().with_cpu(Duration::from_secs(7));
    service.rig.backend.on("sh", |call| {
        let file = SandboxPath::work().join("made-here").expect("a path");
        call.files().write(&file, "12345").expect("room");
        Reply::hang()
    });
    let claim = service.claim(Rig::spec()).await?;
    let job = claim.job().clone();
    let samples = || service.seen.events(&job).into_iter().filter(|event| event.starts_with("Usage"));
    let timeouts = Rig::spec().timeouts;
    let mut run = pin!(service.runner.run(claim, async {
        service.rig.clock.sleep(Duration::from_secs(25)).await;
        Stop::Cancel
    }));
    assert!(timeouts.silence > Duration::from_secs(25));
    assert!(poll!(&mut run).is_pending());
    assert_eq!(samples().count(), 0);
    for expected in 1..=2 {
        service.rig.backend.set_usage(used.with_processes(expected));
        service.rig.clock.advance(Duration::from_secs(10));
        assert!(poll!(&mut run).is_pending());
        let last = samples().next_back().expect("a sample");
        assert_eq!(samples().count(), expected as usize);
        assert!(last.contains(&format!("processes: Some({expected})")), "{last}");
    }
    service.rig.backend.set_usage(used.with_peak_memory(ByteSize::mib(3)));
    service.rig.clock.advance(Duration::from_secs(5));
    let outcome = run.await?;
    let source = "fn main() {}".len() as u64;
    let at_the_end = used.with_peak_memory(ByteSize::mib(3)).with_files(ByteSize::bytes(source + 5));
    assert_eq!((outcome.conclusion, outcome.usage), (Conclusion::Cancelled, Some(at_the_end)));
    assert_eq!(samples().count(), 2);
    Ok(())
}

#[tokio::test]
async fn a_job_that_ran_out_of_memory_has_nothing_to_keep() -> Result<()> {
    let service = Service::new()?;
    service.rig.backend.on("sh", |_| Reply::end(ExitStatus::OutOfMemory));
    let spec = Rig::spec().with_artifact(ArtifactName::parse("source")?, SandboxPath::work());
    let outcome = service.runner.run(service.claim(spec).await?, never()).await?;
    assert_eq!((outcome.conclusion, outcome.exit_code()), (Conclusion::LimitExceeded, 137));
    assert_eq!((outcome.artifacts.len(), outcome.reason), (0, None));
    Ok(())
}

#[tokio::test]
async fn a_worker_that_lost_its_lease_stops_and_says_nothing() -> Result<()> {
    let service = Service::new()?;
    service.rig.backend.on("sh", |_| Reply::hang());
    let claim = service.claim(Rig::spec()).await?;
    let (job, fence) = (claim.job().clone(), claim.fence()?.clone());
    let mut run = pin!(service.runner.run(claim, never()));
    assert!(poll!(&mut run).is_pending());
    service.rig.database.release(&fence, Released::InfrastructureFailed, Duration::ZERO).await?;
    service.rig.clock.advance(Duration::from_secs(10));
    assert_eq!(refused(run.await), ErrorKind::Fenced);
    assert_eq!(service.rig.backend.living(), []);
    assert_eq!(service.rig.dispatcher.next(&[]).await?.expect("the job waits again").job(), &job);
    Ok(())
}

#[tokio::test]
async fn a_runner_that_is_dropped_abandons_its_sandbox() -> Result<()> {
    let service = Service::new()?;
    service.rig.backend.on("sh", |_| Reply::hang());
    let claim = service.claim(Rig::spec()).await?;
    {
        let mut run = pin!(service.runner.run(claim, never()));
        assert!(poll!(&mut run).is_pending());
        assert_eq!(service.rig.backend.living().len(), 1);
    }
    assert_eq!(service.rig.backend.living(), []);
    assert_eq!(service.rig.backend.abandoned().len(), 1);
    service.rig.clock.advance(Duration::from_secs(30));
    assert!(service.rig.dispatcher.next(&[]).await?.is_some());
    Ok(())
}

#[tokio::test]
async fn a_forge_hears_of_an_end_only_when_it_is_recorded() -> Result<()> {
    let clock = Arc::new(ManualClock::new());
    let database = Arc::new(Database::new(clock.clone()));
    let service = Service::of(Rig::on(clock)?.with_database(database.clone())?);
    service.rig.backend.on("sh", |_| Reply::exit(0));
    // A queue that is gone when the job ends: the job is never finished, and runs again.
    let deaf = service.rig.dispatcher_of(Arc::new(Hooked::new(database, Deaf)));
    let claim = service.rig.claim_by(&deaf, &ours(), Origin::Repository, Rig::spec()).await?;
    let mut run = pin!(service.runner.run(claim, never()));
    while poll!(&mut run).is_pending() {
        service.rig.clock.advance(Duration::from_secs(1));
    }
    let reported: Vec<_> = service.rig.forge.reports().into_iter().map(|report| report.state).collect();
    assert_eq!(reported, [CheckState::Running]);
    Ok(())
}

#[tokio::test]
async fn a_secret_split_over_two_steps_is_hidden() -> Result<()> {
    for (first, second) in [("xyz", "xyz"), ("hun", "ter2")] {
        let began = AtomicBool::new(false);
        let reply = move || {
            if began.swap(true, Ordering::Relaxed) {
                return Reply::exit(0).stdout(second);
            }
            Reply::exit(0).stdout(first)
        };
        let secret = format!("{first}{second}");
        let log = log_of(&secret, &["one", "two"], reply).await?;
        assert!(!log.contains(&secret), "{log:?}");
    }
    Ok(())
}

/// A lost lease, a forged row and a server that is away end no worker; a request to shut down does, in order.
#[tokio::test]
async fn a_worker_goes_on_until_it_is_stopped() -> Result<()> {
    let service = Service::new()?;
    let (runs, clock) = (Arc::new(AtomicUsize::new(0)), service.rig.clock.clone());
    let counted = runs.clone();
    service.rig.backend.on("sh", move |_| {
        // The machine sleeps through the lease of the first one.
        if counted.fetch_add(1, Ordering::Relaxed) == 0 {
            clock.advance(Duration::from_mins(2));
        }
        Reply::exit(0)
    });
    for _ in 0..3 {
        service.rig.enqueue(&ours(), Origin::Repository, Rig::spec()).await?;
    }
    service.rig.permissions.go_down();
    let stop = tokio::sync::Notify::new();
    let mut work = pin!(service.runner.work(&service.rig.dispatcher, &[], async {
        stop.notified().await;
        Stop::ShutDown
    }));
    for turn in 0..200 {
        assert!(poll!(&mut work).is_pending(), "it has not been stopped");
        if turn == 10 {
            service.rig.permissions.come_back();
        }
        service.rig.clock.advance(Duration::from_secs(5));
        tokio::task::yield_now().await;
    }
    assert_eq!(runs.load(Ordering::Relaxed), 4, "three jobs, one of them twice");
    service.rig.backend.on("sh", |_| Reply::hang());
    let last = service.rig.enqueue(&ours(), Origin::Repository, Rig::spec()).await?;
    for _ in 0..20 {
        assert!(poll!(&mut work).is_pending());
        service.rig.clock.advance(Duration::from_secs(1));
        tokio::task::yield_now().await;
    }
    let grant = writer(&service.rig, &ours()).await?.lower::<Read>();
    assert_eq!(service.rig.dispatcher.state(&grant, &last).await?, State::Running);
    stop.notify_one();
    work.await;
    assert_eq!(service.rig.dispatcher.state(&grant, &last).await?, State::Waiting);
    Ok(())
}

/// What one stream held back, and what the other did, stand side by side in the log.
#[tokio::test]
async fn a_secret_split_over_two_streams_is_hidden() -> Result<()> {
    let (first, second) = ("hunter2-and-more-", "h");
    let secret = format!("{first}{second}");
    let log = log_of(&secret, &["one"], move || Reply::exit(0).stdout(first).stderr(second)).await?;
    assert!(!log.contains(&secret), "{log:?}");
    Ok(())
}

#[tokio::test]
async fn where_a_job_connected_to_is_in_its_outcome_without_secrets() -> Result<()> {
    let service = Service::new()?;
    let token = SecretName::parse("TOKEN")?;
    let grant = writer(&service.rig, &ours()).await?;
    service.secrets.put(&grant, &token, SecretValue::new("Hunter2")).await?;
    let at = Timestamp::from_unix_millis(5);
    let asked = External::new("Hunter2.evil.example");
    let mut report = NetworkReport::default();
    (report.connections, report.refused, report.sent, report.received) = (3, 1, 10, 20);
    report.flows = vec![Flow::new(asked, Some(443), None, Verdict::NoRule, at)];
    service.rig.backend.set_network(report.clone());
    service.rig.backend.on("sh", |_| Reply::exit(0));

    let claim = service.claim(Rig::spec().with_secret(token)).await?;
    let outcome = service.runner.run(claim, never()).await?;
    report.flows[0].asked = External::new("***.evil.example");
    assert_eq!(outcome.network.as_deref(), Some(&report));
    Ok(())
}

/// The log of a job whose steps have `secret`, and each of which does as `reply` says.
/// What a job prints of its secrets is hidden, and its outcome says where somebody has to look.
#[tokio::test]
async fn what_a_job_prints_of_its_secrets_is_in_its_outcome() -> Result<()> {
    let service = Service::new()?;
    let token = SecretName::parse("TOKEN")?;
    let grant = writer(&service.rig, &ours()).await?;
    service.secrets.put(&grant, &token, SecretValue::new("correct-horse")).await?;
    service.rig.backend.on("sh", |_| {
        Reply::exit(0).stdout("correct-horse Y29ycmVjdC1ob3JzZQ== correct-horse").stderr("correct-horse")
    });
    let mut spec = JobSpec::new(Rig::spec().image).with_secret(token.clone());
    for name in ["build", "test"] {
        spec = spec.with_step(Step::script(StepName::parse(name)?, Script::literal("x")));
    }
    let outcome = service.runner.run(service.claim(spec).await?, never()).await?;
    let told: Vec<String> = outcome.leaks.iter().map(|leak| format!("{leak} ({:?})", leak.stream)).collect();
    let of_step = |step: &str| {
        [
            format!("TOKEN was printed as plain text in step {step}, 2 times (Some(Stdout))"),
            format!("TOKEN was printed as Base64 in step {step} (Some(Stdout))"),
            format!("TOKEN was printed as plain text in step {step} (Some(Stderr))"),
        ]
    };
    assert_eq!(told, [of_step("build"), of_step("test")].concat());
    Ok(())
}

/// Readers of a job see why it failed, and so does the forge.
#[tokio::test]
async fn why_a_job_failed_is_told_without_secrets() -> Result<()> {
    let service = Service::new()?;
    let token = SecretName::parse("TOKEN")?;
    let grant = writer(&service.rig, &ours()).await?;
    service.secrets.put(&grant, &token, SecretValue::new("hunter2hunter2")).await?;
    service.rig.backend.on("sh", |_| Reply::exit(0));
    let path = SandboxPath::work().join("hunter2hunter2/report")?;
    let spec = JobSpec::new(Rig::spec().image)
        .with_secret(token)
        .with_step(Step::script(StepName::parse("build")?, Script::literal("x")))
        .with_artifact(ArtifactName::parse("report")?, path);
    let outcome = service.runner.run(service.claim(spec).await?, never()).await?;
    assert_eq!(outcome.reason.as_deref(), Some("there is no /work/***/report to keep as report"));
    assert_eq!(outcome.leaks.len(), 1);
    let described: Vec<_> =
        service.rig.forge.reports().into_iter().map(|report| report.description).collect();
    assert!(described.iter().all(|description| !description.contains("hunter2")), "{described:?}");
    Ok(())
}

async fn log_of(
    secret: &str,
    steps: &[&str],
    reply: impl Fn() -> Reply + Send + Sync + 'static,
) -> Result<String> {
    let service = Service::new()?;
    let token = SecretName::parse("TOKEN")?;
    let grant = writer(&service.rig, &ours()).await?;
    service.secrets.put(&grant, &token, SecretValue::new(secret)).await?;
    service.rig.backend.on("sh", move |_| reply());
    let mut spec = JobSpec::new(Rig::spec().image).with_secret(token.clone());
    for name in steps {
        let step = Step::script(StepName::parse(*name)?, Script::literal("x"));
        spec = spec.with_step(step.with_secret(token.clone()));
    }
    let claim = service.claim(spec).await?;
    let job = claim.job().clone();
    service.runner.run(claim, never()).await?;
    service.output(&job).await
}
