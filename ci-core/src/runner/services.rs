//! What runs beside a job's steps: made when its code is there, ready before its first step, ended with its last.

use std::fmt::Write as _;
use std::mem;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard};
use std::task::Poll;
use std::time::Duration;

use futures_util::future;
use tokio::sync::watch;

use super::tail::Tail;
use super::{Event, LAST_PATIENCE, Runner, conclusion_of, step, until};
use crate::error::{Error, ErrorKind, Result};
use crate::job::{Run, Service};
use crate::lock::lock;
use crate::outcome::{Conclusion, Outcome, ServiceOutcome};
use crate::queue::Claim;
use crate::sandbox::{Command, ExitStatus, Process, ProcessEvent, Sandbox, Sandboxes, Spec};
use crate::secret::SecretLease;
use crate::units::ByteSize;

/// How long it is until somebody asks again whether a service is ready.
const BETWEEN_CHECKS: Duration = Duration::from_millis(250);

/// How long the end of a service may come after a check has found its sandbox gone.
const LATEST_END: Duration = Duration::from_secs(2);

/// How long the sandboxes of services may take to go before that of the job goes too.
const HEAD_START: Duration = Duration::from_secs(2);

/// The services of one job, in the order in which they were made.
#[derive(Debug, Default)]
pub(super) struct Services<'a>(Vec<Member<'a>>);

#[derive(Debug)]
struct Member<'a> {
    service: &'a Service,
    sandbox: Sandbox,
    /// How much it may print.
    most: ByteSize,
    progress: watch::Sender<Progress>,
    printed: Mutex<Printed>,
    /// What the log has to say and does not yet.
    notice: Mutex<Option<String>>,
}

/// How far a service is.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    started: Option<Duration>,
    is_ready: bool,
    ended: Option<(ExitStatus, Duration)>,
}

/// What a service and whoever asks whether it is ready have printed.
#[derive(Debug)]
struct Printed {
    by_service: Tail,
    by_check: Tail,
    bytes: u64,
}

/// Why a service is not ready.
enum Unready {
    /// It is the service's own fault.
    Service {
        conclusion: Conclusion,
        reason: String,
    },
    Other(Error),
}

impl From<Error> for Unready {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

/// Refuses a job with services where there can be none.
pub(super) fn admit(claim: &Claim, sandboxes: &Sandboxes) -> Result<()> {
    if claim.spec().services.is_empty() || sandboxes.capabilities().services {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Unsupported, "run a job with services").because(
        "sandboxes here cannot share a network; use another machine, or start the service in a step",
    ))
}

impl Runner {
    /// Makes the sandboxes. Those that are made are in `services`, also when a later one fails.
    pub(super) async fn create_services<'a>(
        &self,
        claim: &'a Claim,
        beside: &Sandbox,
        lease: &SecretLease,
        services: &mut Services<'a>,
    ) -> Result<()> {
        let job = claim.spec();
        for service in &job.services {
            let limits = service.limits.unwrap_or(job.limits);
            let spec = Spec::new(service.image.clone())
                .with_limits(limits)
                .with_minimum(job.minimum.iter().copied());
            let sandbox = beside.create_beside(&spec).await.map_err(|error| of(service, error))?;
            services.0.push(Member::new(service, sandbox, limits.output, lease));
        }
        Ok(())
    }

    /// Runs all services, and reads what they print, until the future is dropped: they end with that. It returns when
    /// one of them cannot go on or prints more than it may, but not when its program ends.
    pub(super) async fn keep_services(
        &self,
        claim: &Claim,
        services: &Services<'_>,
        lease: &SecretLease,
    ) -> Error {
        let keep = async |member: &Member<'_>| {
            self.keep_service(claim, member, lease).await.map_err(|error| of(member.service, error))
        };
        match future::try_join_all(services.0.iter().map(keep)).await {
            Err(error) => error,
            Ok(_) => future::pending().await,
        }
    }

    async fn keep_service(&self, claim: &Claim, member: &Member<'_>, lease: &SecretLease) -> Result<()> {
        let command = command(claim, member.service, &member.service.run)?;
        let process = member.sandbox.exec(&command, lease).await?;
        let (started, is_ready) = (Some(self.parts.clock.elapsed()), member.service.ready.is_none());
        member.progress.send_modify(|progress| *progress = Progress { started, is_ready, ended: None });
        let status = member.follow(process, |printed| &mut printed.by_service).await?;
        member.has_ended(status, self.parts.clock.elapsed(), lease);
        Ok(())
    }

    /// Waits until all services are ready, and says whether they are. Where one is not, the outcome says why.
    pub(super) async fn await_services(
        &self,
        claim: &Claim,
        services: &Services<'_>,
        lease: &SecretLease,
        outcome: &mut Outcome,
    ) -> Result<bool> {
        let await_one = |member| self.await_service(claim, member, lease);
        match future::try_join_all(services.0.iter().map(await_one)).await {
            Ok(_) => Ok(true),
            Err(Unready::Service { conclusion, reason }) => {
                (outcome.conclusion, outcome.reason) = (conclusion, Some(lease.mask_text(&reason)));
                Ok(false)
            }
            Err(Unready::Other(error)) => Err(error),
        }
    }

    async fn await_service(
        &self,
        claim: &Claim,
        member: &Member<'_>,
        lease: &SecretLease,
    ) -> Result<(), Unready> {
        tokio::select! {
            biased;
            unready = member.failed() => Err(unready),
            () = self.parts.clock.sleep(member.service.patience) => Err(member.is_late(lease)),
            checked = self.check_service(claim, member, lease) => {
                checked.map_err(|error| of(member.service, error))?;
                member.progress.send_modify(|progress| progress.is_ready = true);
                self.observe(claim, &Event::ServiceReady(&member.service.name));
                Ok(())
            }
        }
    }

    /// Returns when the service has started and its check succeeds.
    async fn check_service(&self, claim: &Claim, member: &Member<'_>, lease: &SecretLease) -> Result<()> {
        member.reaches(|progress| progress.started.is_some()).await;
        let Some(ready) = &member.service.ready else { return Ok(()) };
        let command = command(claim, member.service, ready)?;
        loop {
            member.printed().by_check = Tail::new(lease);
            let checked = async {
                let process = member.sandbox.exec(&command, lease).await?;
                member.follow(process, |printed| &mut printed.by_check).await
            };
            match checked.await {
                Ok(status) if status.is_success() => return Ok(()),
                Ok(_) => self.parts.clock.sleep(BETWEEN_CHECKS).await,
                Err(error) => {
                    // The sandbox is gone, and by the service's own doing: how that ended says more.
                    if error.kind() == ErrorKind::Unavailable && !error.is_retryable() {
                        self.parts.clock.sleep(LATEST_END).await;
                    }
                    return Err(error);
                }
            }
        }
    }

    /// How the services ended, and what their sandboxes use.
    pub(super) async fn outcomes_of_services(
        &self,
        claim: &Claim,
        services: &Services<'_>,
    ) -> Vec<ServiceOutcome> {
        let now = self.parts.clock.elapsed();
        let outcome = async |member: &Member<'_>| {
            let Progress { started, ended, .. } = *member.progress.borrow();
            let until = ended.map_or(now, |(_, at)| at);
            ServiceOutcome {
                name: member.service.name.clone(),
                status: ended.map(|(status, _)| status),
                duration: started.map_or(Duration::ZERO, |started| until.saturating_sub(started)),
                usage: self.measure(claim, &member.sandbox).await,
            }
        };
        future::join_all(services.0.iter().map(outcome)).await
    }

    /// Takes down all sandboxes of a job: those of its services first, the last one first, and its own when they are
    /// gone. That one does not wait for long: it must not outlive its lease because a service does.
    pub(super) async fn destroy_all(&self, sandbox: Sandbox, services: Services<'_>) -> Result<()> {
        let destroy = async |sandbox: Sandbox| {
            until(pin!(self.late(LAST_PATIENCE, "destroy a sandbox")), sandbox.destroy()).await.map(drop)
        };
        let beside = services.0.into_iter().rev().map(|member| destroy(member.sandbox));
        let mut beside = Box::pin(future::maybe_done(future::join_all(beside)));
        future::select(beside.as_mut(), self.parts.clock.sleep(HEAD_START)).await;
        let (own, ()) = future::join(destroy(sandbox), beside.as_mut()).await;
        beside.as_mut().take_output().unwrap_or_default().into_iter().fold(own, Result::and)
    }
}

impl Services<'_> {
    /// What the log has to say of services and does not yet.
    pub(super) fn take_notices(&self) -> Vec<String> {
        self.0.iter().filter_map(|member| lock(&member.notice).take()).collect()
    }
}

impl<'a> Member<'a> {
    fn new(service: &'a Service, sandbox: Sandbox, most: ByteSize, lease: &SecretLease) -> Self {
        let printed = Printed { by_service: Tail::new(lease), by_check: Tail::new(lease), bytes: 0 };
        Self {
            service,
            sandbox,
            most,
            progress: watch::Sender::default(),
            printed: Mutex::new(printed),
            notice: Mutex::default(),
        }
    }

    fn printed(&self) -> MutexGuard<'_, Printed> {
        lock(&self.printed)
    }

    /// Reads what a program prints, to its end.
    async fn follow(
        &self,
        mut process: Box<dyn Process + '_>,
        tail: impl Fn(&mut Printed) -> &mut Tail,
    ) -> Result<ExitStatus> {
        loop {
            match process.next().await? {
                ProcessEvent::Output(_, bytes) => {
                    let mut printed = self.printed();
                    printed.count(bytes.len(), self.most)?;
                    tail(&mut printed).push(&bytes);
                }
                ProcessEvent::Exited(exit) => return Ok(exit.status),
            }
            give_way().await;
        }
    }

    async fn reaches(&self, stage: impl FnMut(&Progress) -> bool) -> Progress {
        let mut progress = self.progress.subscribe();
        let reached = progress.wait_for(stage).await.map(|progress| *progress);
        match reached {
            Ok(progress) => progress,
            // The sender is our own, so it is there.
            Err(_) => future::pending().await,
        }
    }

    /// Returns when the program has failed before it was ready.
    async fn failed(&self) -> Unready {
        let failure = |progress: &Progress| {
            let by_itself = progress.ended.filter(|_| !progress.is_ready).map(|(status, _)| status);
            by_itself.filter(|status| !status.is_success())
        };
        let progress = self.reaches(|progress| failure(progress).is_some()).await;
        let Some(status) = failure(&progress) else { return future::pending().await };
        let (name, how) = (&self.service.name, how_it_ended(status));
        let reason = format!("service `{name}` {how} before it was ready; its last output is in the log");
        Unready::Service { conclusion: conclusion_of(status), reason }
    }

    /// Its program has ended by itself.
    fn has_ended(&self, status: ExitStatus, at: Duration, lease: &SecretLease) {
        let (name, how) = (&self.service.name, how_it_ended(status));
        let when = if self.progress.borrow().is_ready { "" } else { " before it was ready" };
        let mut notice = format!("service `{name}` {how}{when}");
        if !status.is_success() {
            let last = self.printed().by_service.take(lease);
            let _ = write!(notice, "; its last output:\n{last}");
        }
        *lock(&self.notice) = Some(notice);
        self.progress.send_modify(|progress| progress.ended = Some((status, at)));
    }

    /// It was not ready in time.
    fn is_late(&self, lease: &SecretLease) -> Unready {
        let Service { name, patience, .. } = self.service;
        let what = format!("service `{name}` was not ready within {patience:?}");
        let last = self.printed().by_service.take(lease);
        let mut notice = format!("{what}; its last output:\n{last}");
        let check = self.printed().by_check.take(lease);
        if !check.is_empty() {
            let _ = write!(notice, "\nthe last output of its check:\n{check}");
        }
        *lock(&self.notice) = Some(notice);
        let reason =
            format!("{what}; its last output is in the log; raise its patience, or look at its check");
        Unready::Service { conclusion: Conclusion::TimedOut, reason }
    }
}

impl Printed {
    fn count(&mut self, bytes: usize, most: ByteSize) -> Result<()> {
        self.bytes = self.bytes.saturating_add(bytes as u64);
        if self.bytes <= most.as_u64() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::LimitExceeded, "read a service's output")
            .because("the service printed more than it may; raise its limit or let it print less")
            .with("limit", most))
    }
}

/// A program of a service: the service itself, or its check.
fn command(claim: &Claim, service: &Service, run: &Run) -> Result<Command> {
    let command = step::command(claim, run, &[&service.environment])?;
    Ok(command.with_secrets(service.secrets.iter().cloned()).with_merged_output())
}

fn how_it_ended(status: ExitStatus) -> String {
    match status {
        ExitStatus::Code(_) => format!("ended with {status}"),
        ExitStatus::Signal(_) => format!("was ended by {status}"),
        ExitStatus::OutOfMemory => "ran out of memory".to_owned(),
    }
}

fn of(service: &Service, error: Error) -> Error {
    error.with("service", &service.name)
}

/// Lets everybody else have their turn: a program that prints without end is always ready.
async fn give_way() {
    let mut has_waited = false;
    future::poll_fn(|context| {
        if mem::replace(&mut has_waited, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
