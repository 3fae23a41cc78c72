//! Runs one job, from its claim to its outcome, over the ports.
//!
//! What was taken is given back in reverse order whatever happens: output is closed, the sandbox is destroyed
//! and proven gone, the lease of secrets ends, and the outcome is recorded in the same transaction as the audit
//! entry. If the runner itself is dropped or killed, the sandbox is abandoned, the claim lapses, and another
//! worker gets the job.
//!
//! # What a step sees
//!
//! The variables `CI` (`true`), `CI_COMMIT`, `CI_JOB`, `CI_REF` (where the code was found by a branch or tag),
//! `HOME` (`/tmp`), `LANG` (`C.UTF-8`) and `PATH`; over them those of the job, of the step, and the secrets that the
//! step names. It runs in `/work`, with the files of the exact commit, and can write there and in `/tmp`. A
//! [`Service`](crate::job::Service) sees the same, but for the job's variables, the step's and the files.

mod booth;
mod console;
mod event;
mod files;
mod services;
mod step;
mod tail;
mod tell;
mod work;

use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{self, Either};

use self::booth::Booth;
use self::console::Console;
pub use self::event::{Event, Observer};
use self::services::Services;
use crate::artifact::ArtifactStore;
use crate::audit::Audit;
use crate::cache::CacheStore;
use crate::clock::Clock;
use crate::debug::Desk;
use crate::error::{Error, ErrorKind, Result};
use crate::forge::{Checks, Source};
use crate::log::LogStore;
use crate::outcome::{Conclusion, Outcome, StepOutcome};
use crate::queue::{Claim, MOST_ATTEMPTS, Released};
use crate::sandbox::{ExitStatus, Sandbox, SandboxUsage, Sandboxes, Spec};
use crate::secret::{SecretLease, SecretStore};

/// How long each thing may take that must be done after a job.
const LAST_PATIENCE: Duration = Duration::from_mins(5);

/// How often it is told what a job uses.
const BETWEEN_USAGES: Duration = Duration::from_secs(10);

/// Where a [`Runner`] gets and leaves things. `examples/quickstart/service.rs` in the repository fills them with real
/// backends, and a rig in memory with those in memory.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Secrets.
    pub secrets: Arc<dyn SecretStore>,
    /// Sandboxes for jobs and helpers.
    pub sandboxes: Sandboxes,
    /// Code.
    pub source: Arc<dyn Source>,
    /// Console output.
    pub logs: Arc<dyn LogStore>,
    /// Files that are kept.
    pub artifacts: Arc<dyn ArtifactStore>,
    /// Folders that are kept from job to job.
    pub caches: Arc<dyn CacheStore>,
    /// The forge that is told how it goes, where there is one.
    pub checks: Option<Arc<dyn Checks>>,
    /// The audit log.
    pub audit: Audit,
    /// Who watches.
    pub observer: Arc<dyn Observer>,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// Why a worker ends a job early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The job is not wanted any more: it ends as cancelled.
    Cancel,
    /// The worker ends, and the job is given back for another one to run from its start. It counts as no attempt.
    ShutDown,
}

/// Runs jobs.
///
/// A worker claims a job, runs it, and asks for the next one. One runner may run many jobs at the same time.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use ci_core::memory::Rig;
/// # use ci_core::memory::Reply;
/// use ci_core::outcome::Conclusion;
/// use ci_core::runner::{Runner, Stop};
/// # use ci_core::trust::Origin;
/// use tokio::sync::watch;
///
/// let rig = Rig::new()?;
/// let runner = Runner::new(rig.parts()); // or `Parts { .. }` with backends of your own
/// # rig.backend.on("sh", |_| Reply::exit(0));
/// # rig.enqueue(&Rig::repository("1", "acme")?, Origin::Repository, Rig::spec()).await?;
///
/// let (_shut_down, asked) = watch::channel(false); // a signal handler sends `true`
/// while let Some(claim) = rig.dispatcher.next(&[]).await? {
///     let mut asked = asked.clone();
///     let stop = async move {
///         let _ = asked.wait_for(|asked| *asked).await;
///         Stop::ShutDown
///     };
///     let outcome = runner.run(claim, stop).await?;
///     assert_eq!(outcome.conclusion, Conclusion::Succeeded);
/// }
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Runner {
    parts: Parts,
    desk: Option<Desk>,
}

impl Runner {
    /// A runner over `parts`.
    pub fn new(parts: Parts) -> Self {
        Self { parts, desk: None }
    }

    /// Lets people into the sandboxes of its jobs who are granted it at `desk`; see [`debug`](crate::debug). Without one
    /// nobody is.
    pub fn with_debug(mut self, desk: Desk) -> Self {
        self.desk = Some(desk);
        self
    }

    /// Runs the claimed job to its end, or until `stop` is ready, somebody asks for it to stop, its time is
    /// over, or its lease is lost.
    ///
    /// A job that fails is an [`Outcome`], not an error. When the infrastructure fails instead, the job is given
    /// back for another try after a pause; the last of [`MOST_ATTEMPTS`] ends as an outcome that says what failed.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Fenced`] when the lease was lost: another worker has the job; what the ports report when they
    /// fail in a way that may pass; [`ErrorKind::Cancelled`] after [`Stop::ShutDown`]; what
    /// [`Sandbox::destroy`](crate::sandbox::Sandbox::destroy) reports when the sandbox is not proven gone: the outcome
    /// has been recorded then, and [`Sandboxes::reap`](crate::sandbox::Sandboxes::reap) clears what is left.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped the sandbox is abandoned and the claim ends; another worker gets the job when
    /// the lease runs out. Pass `stop` to end a job in order.
    pub async fn run(&self, claim: Claim, stop: impl Future<Output = Stop> + Send) -> Result<Outcome> {
        // Heartbeats go on to the very end: what is given back slowly must not cost the job its outcome. They come
        // first: a job whose output is always ready uses up all that the runtime lets one task do at a time.
        let kept = async {
            claim.keep().await;
            future::pending::<Infallible>().await
        };
        // In a box, lest every future around it be as large as all that a job does.
        match beside(kept, Box::pin(self.run_to_end(&claim, stop))).await {
            Ok((outcome, torn_down)) => torn_down.map(|()| outcome),
            Err(error) if error.kind() == ErrorKind::Fenced => Err(error),
            Err(error) => {
                let why = match error.kind() {
                    ErrorKind::Cancelled => Released::ShuttingDown,
                    _ => Released::InfrastructureFailed,
                };
                until(pin!(self.late(LAST_PATIENCE, "give a job back")), claim.release(why)).await?;
                Err(error)
            }
        }
    }

    /// Runs the job and records its outcome. An error says that it has none, and can be tried again; the inner
    /// result, whether the sandbox is proven gone.
    async fn run_to_end(
        &self,
        claim: &Claim,
        stop: impl Future<Output = Stop> + Send,
    ) -> Result<(Outcome, Result<()>)> {
        let start = self.parts.clock.elapsed();
        let mut outcome = Outcome::new(Conclusion::Succeeded);
        let torn_down = match self.hold(claim, stop, &mut outcome).await {
            Err(error) if !may_pass(claim, &error) => {
                conclude(&mut outcome, &error, error.to_string());
                Ok(())
            }
            worked => worked?,
        };
        outcome.duration = self.parts.clock.elapsed().saturating_sub(start);
        self.close_log(claim).await?;
        until(pin!(self.late(LAST_PATIENCE, "record how a job ended")), self.record(claim, &outcome)).await?;
        self.tell_end(claim, &outcome).await;
        self.observe(claim, &Event::Finished(&outcome));
        Ok((outcome, torn_down))
    }

    /// Everything that holds something: returns only when it has been given back. The inner result says whether
    /// the sandbox is proven gone; the job has had its result even where it is not.
    async fn hold(
        &self,
        claim: &Claim,
        stop: impl Future<Output = Stop> + Send,
        outcome: &mut Outcome,
    ) -> Result<Result<()>> {
        let mut stop = pin!(self.stop(claim, stop));
        until(stop.as_mut(), self.open(claim)).await?;
        if let Err(error) = services::admit(claim, &self.parts.sandboxes) {
            *outcome = Outcome::refused(&error);
            return Ok(Ok(()));
        }
        let lease = until(stop.as_mut(), self.lease(claim)).await?;
        if !lease.unmasked().is_empty() {
            self.observe(claim, &Event::Unmasked(lease.unmasked()));
        }
        let spec = claim.spec();
        let sandbox_spec = Spec::new(spec.image.clone())
            .with_limits(spec.limits)
            .with_network(spec.network.clone())
            .with_minimum(spec.minimum.iter().copied());
        let created = until(stop.as_mut(), self.parts.sandboxes.create(claim, &sandbox_spec)).await;
        let sandbox = match created {
            Err(error) if !may_pass(claim, &error) => {
                conclude(outcome, &error, lease.mask_text(&error.to_string()));
                outcome.add_leaks(lease.leaks());
                return Ok(Ok(()));
            }
            created => created?,
        };
        self.observe(claim, &Event::SandboxCreated(sandbox.isolation()));
        outcome.isolation = Some(sandbox.isolation().clone());

        let mut services = Services::default();
        let mut console = Console::new(claim, &self.parts, &lease);
        let booth = Booth::new(self.desk.as_ref(), claim, &self.parts, &lease);
        let ran = {
            let mut serving = Box::pin(booth.serve(&sandbox));
            let running =
                Box::pin(self.run_in(claim, &sandbox, &booth, &mut services, &mut console, outcome));
            let ran = until(stop.as_mut(), beside(serving.as_mut(), running)).await;
            if ran.is_ok() && outcome.conclusion == Conclusion::Failed {
                // Whatever ends the wait, the job has its conclusion.
                let _ = future::select(stop, pin!(beside(serving, booth.keep()))).await;
            }
            ran
        };
        outcome.influenced_by = booth.close();
        outcome.usage = self.measure(claim, &sandbox).await;
        outcome.services = self.outcomes_of_services(claim, &services).await;
        outcome.network = Some(Box::new(sandbox.network().masked(|text| lease.mask_text(text))));
        let notices = services.take_notices();
        // First of all: a log that cannot be reached must not keep the sandbox alive past its lease.
        let torn_down = self.destroy_all(sandbox, services).await;
        if torn_down.is_ok() {
            self.observe(claim, &Event::SandboxDestroyed);
        }
        let telling = Box::pin(async {
            let step_ended = self.end_stopped_step(claim, &mut console, outcome).await;
            let told = step_ended.and(console.say(&notices).await).and(console.finish().await);
            outcome.artifacts.extend(Box::pin(booth.finish()).await);
            told
        });
        let told = until(pin!(self.late(LAST_PATIENCE, "store a job's last output")), telling).await;
        match ran.and(told) {
            Ok(()) => {}
            Err(error) if may_pass(claim, &error) => return Err(error),
            Err(error) => conclude(outcome, &error, error.to_string()),
        }
        // Readers of the job see it, and so does the forge.
        outcome.reason = outcome.reason.take().map(|reason| lease.mask_text(&reason));
        outcome.add_leaks(lease.leaks());
        Ok(torn_down)
    }

    async fn run_in<'a>(
        &self,
        claim: &'a Claim,
        sandbox: &Sandbox,
        booth: &Booth<'_>,
        services: &mut Services<'a>,
        console: &mut Console<'a>,
        outcome: &mut Outcome,
    ) -> Result<()> {
        self.parts.source.checkout(claim, &self.parts.sandboxes, sandbox).await?;
        self.observe(claim, &Event::CheckedOut);
        self.restore_caches(claim, sandbox).await?;
        console.open().await?;
        let lease = console.lease();
        self.create_services(claim, sandbox, lease, services).await?;
        let services = &*services;
        let worked = Box::pin(async {
            if self.await_services(claim, services, lease, outcome).await? {
                self.run_steps(claim, sandbox, services, console, outcome).await?;
            }
            Ok(())
        });
        let mut kept = Box::pin(self.keep_services(claim, services, lease));
        beside(self.watch_usage(claim, sandbox), until(kept.as_mut(), worked)).await?;
        // What has not begun or ran out of memory has nothing to keep.
        if outcome.steps.is_empty() || outcome.conclusion == Conclusion::LimitExceeded {
            return Ok(());
        }
        self.keep_artifacts(claim, sandbox, outcome).await?;
        // Nobody changes what is saved, and what somebody may have changed is not.
        if outcome.conclusion == Conclusion::Succeeded && booth.close().is_empty() {
            self.save_caches(claim, sandbox, lease).await;
        }
        Ok(())
    }

    async fn run_steps<'a>(
        &self,
        claim: &'a Claim,
        sandbox: &Sandbox,
        services: &Services<'_>,
        console: &mut Console<'a>,
        outcome: &mut Outcome,
    ) -> Result<()> {
        let steps = &claim.spec().steps;
        for (index, step) in steps.iter().enumerate() {
            self.observe(claim, &Event::StepStarted { index, count: steps.len(), name: &step.name });
            outcome.steps.push(StepOutcome::started(step.name.clone(), console.begin_step(&step.name)));
            let exit = self.step(claim, step, sandbox, console).await?;
            self.end_step(claim, console, outcome, Some(&exit)).await?;
            console.say(&services.take_notices()).await?;
            if !exit.status.is_success() {
                outcome.conclusion = conclusion_of(exit.status);
                break;
            }
        }
        Ok(())
    }

    /// Tells what the sandbox uses, again and again.
    async fn watch_usage(&self, claim: &Claim, sandbox: &Sandbox) -> Infallible {
        loop {
            self.parts.clock.sleep(BETWEEN_USAGES).await;
            if let Some(usage) = self.measure(claim, sandbox).await {
                self.observe(claim, &Event::Usage(&usage));
            }
        }
    }

    /// What the sandbox uses, unless it takes long to find out, or the sandbox has to go at once.
    async fn measure(&self, claim: &Claim, sandbox: &Sandbox) -> Option<SandboxUsage> {
        const PATIENCE: Duration = Duration::from_secs(2);
        claim.fence().ok()?;
        match until(pin!(self.late(PATIENCE, "measure a sandbox")), sandbox.usage()).await {
            Ok(usage) => Some(usage),
            Err(error) => {
                tracing::debug!(job = %claim.job(), %error, "sandbox not measured");
                None
            }
        }
    }

    async fn lease(&self, claim: &Claim) -> Result<SecretLease> {
        let names = &claim.spec().secrets;
        if names.is_empty() {
            return self.parts.secrets.watch(claim).await;
        }
        self.parts.secrets.lease(claim.trusted()?, names).await
    }

    /// Returns when something takes longer than `patience`: what never answers must not keep a worker for ever.
    async fn late(&self, patience: Duration, operation: &'static str) -> Error {
        self.parts.clock.sleep(patience).await;
        Error::new(ErrorKind::Unavailable, operation)
            .because("it took too long")
            .with("seconds", patience.as_secs())
    }

    /// Returns why the job must stop, when it must.
    async fn stop(&self, claim: &Claim, stop: impl Future<Output = Stop> + Send) -> Error {
        let whole = claim.spec().timeouts.job;
        let asked = async {
            let error = Error::new(ErrorKind::Cancelled, "run a job").with("job", claim.job());
            match stop.await {
                Stop::Cancel => error,
                Stop::ShutDown => {
                    error.because("the worker is shutting down; another one gets it").retryable()
                }
            }
        };
        let late = async {
            self.parts.clock.sleep(whole).await;
            Error::new(ErrorKind::TimedOut, "run a job")
                .because("it took longer than it may; raise its timeout, or find out what it waits for")
                .with("job", claim.job())
                .with("seconds", whole.as_secs())
        };
        tokio::select! {
            error = claim.stopped() => error,
            error = asked => error,
            error = late => error,
        }
    }

    fn observe(&self, claim: &Claim, event: &Event<'_>) {
        self.parts.observer.observe(claim.job(), event);
    }
}

/// The result of `work`, with `companion` beside it. The companion comes first, for `work` may always be ready.
async fn beside<T>(companion: impl Future<Output = Infallible>, work: impl Future<Output = T>) -> T {
    match future::select(pin!(companion), pin!(work)).await {
        Either::Left((never, _)) => match never {},
        Either::Right((done, _)) => done,
    }
}

/// The result of `work`, unless `stop` is ready first.
async fn until<T>(
    stop: Pin<&mut (impl Future<Output = Error> + ?Sized)>,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    match future::select(stop, pin!(work)).await {
        Either::Left((error, _)) => Err(error),
        Either::Right((done, _)) => done,
    }
}

/// Whether another try may do better, since the fault is not the job's, and there will be one.
fn may_pass(claim: &Claim, error: &Error) -> bool {
    match error.kind() {
        ErrorKind::Fenced => true,
        // A worker that shuts down uses up no try.
        ErrorKind::Cancelled => error.is_retryable(),
        kind => (error.is_retryable() || kind == ErrorKind::Internal) && claim.attempt() < MOST_ATTEMPTS,
    }
}

/// How a job ends of which a program has failed.
fn conclusion_of(failed: ExitStatus) -> Conclusion {
    match failed {
        ExitStatus::OutOfMemory => Conclusion::LimitExceeded,
        _ => Conclusion::Failed,
    }
}

fn conclude(outcome: &mut Outcome, error: &Error, reason: String) {
    outcome.conclusion = match error.kind() {
        ErrorKind::Cancelled => Conclusion::Cancelled,
        ErrorKind::TimedOut => Conclusion::TimedOut,
        ErrorKind::LimitExceeded => Conclusion::LimitExceeded,
        ErrorKind::Denied => Conclusion::Refused,
        _ => Conclusion::Errored,
    };
    outcome.reason = Some(reason);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_job_can_move_between_threads() {
        fn is_send<T: Send>(_: impl FnOnce(Runner, Claim) -> T) {}
        is_send(|runner, claim| async move { runner.run(claim, std::future::pending()).await });
    }
}
