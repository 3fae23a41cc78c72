//! Work that waits, and the right to do it.
//!
//! A [`Queue`] stores rows and leases them out. It is not believed: what a job may do stands in its
//! [`Ticket`], sealed when the job was enqueued and bound to its id. [`Dispatcher`] opens the ticket, asks again
//! whether whoever started the job still may, and only then makes the [`Claim`].

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::access::{Authority, Grant, Read, Scope, Write};
use crate::clock::{Clock, Deadline, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::forge::Event;
use crate::id::{JobId, Label, RepositoryId, UserId};
use crate::job::JobSpec;
use crate::operator::Act;
use crate::outcome::Outcome;
use crate::records::{Batch, Fence, Records};
use crate::secret::{KeyRing, Purpose};
use crate::trust::{Provenance, Trust};

/// How often a job is handed out before it is given up.
pub const MOST_ATTEMPTS: u32 = 3;

/// Rows that wait for a worker.
#[async_trait]
pub trait Queue: fmt::Debug + Send + Sync + 'static {
    /// Adds a row, durably.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Conflict`] when there is a row with that job id; [`ErrorKind::Unavailable`] when the queue
    /// cannot be reached.
    async fn push(&self, row: NewRow) -> Result<()>;

    /// Leases the oldest waiting row all of whose labels are among `labels`, for `ttl`, with a larger token than
    /// any lease of that job before; `None` when there is none.
    ///
    /// A row whose lease ran out waits again, and counts as one attempt. A row that would be handed out for
    /// more than the [`MOST_ATTEMPTS`]th time is finished with [`Outcome::gave_up`] instead.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] when the queue cannot be reached.
    async fn lease(&self, labels: &[Label], ttl: Duration) -> Result<Option<Leased>>;

    /// Extends a lease to `ttl` from now, if and only if it is the latest one of its job and has not run out.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Fenced`] when it is not; [`ErrorKind::Unavailable`] when the queue cannot be reached.
    async fn extend(&self, fence: &Fence, ttl: Duration) -> Result<Extended>;

    /// Gives a lease back, for no fault of the job's: the row waits again. `why` says whether the lease counts as an
    /// attempt.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Fenced`] when the lease is over; [`ErrorKind::Unavailable`] when the queue cannot be reached.
    async fn release(&self, fence: &Fence, why: Released) -> Result<()>;

    /// Records how a job ended, and commits `with` in the same transaction.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Fenced`] when the lease is over; [`ErrorKind::Conflict`] when a condition of `with` does not
    /// hold; [`ErrorKind::Unsupported`] when `with` is not empty and the queue has no records beside it;
    /// [`ErrorKind::Unavailable`] when the queue cannot be reached.
    async fn finish(&self, fence: &Fence, outcome: &Outcome, with: Batch) -> Result<()>;

    /// Asks for a job to stop: a waiting row is finished as cancelled, a leased one is told at its next
    /// [`extend`](Self::extend), and a finished one stays as it is.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] when there is no such job; [`ErrorKind::Unavailable`] when the queue cannot be
    /// reached.
    async fn cancel(&self, job: &JobId) -> Result<()>;

    /// How far a job is, or `None` when there is no such job.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] when the queue cannot be reached.
    async fn row(&self, job: &JobId) -> Result<Option<Row>>;
}

/// A store that holds records and queue together, so that fences hold within one transaction.
pub trait Database: Records + Queue {}

impl<T: Records + Queue> Database for T {}

/// A row to be added.
#[derive(Clone, Debug)]
pub struct NewRow {
    /// The job.
    pub job: JobId,
    /// On whose behalf it runs.
    pub repository: RepositoryId,
    /// What a worker must offer.
    pub labels: Vec<Label>,
    /// What the job may do, sealed.
    pub ticket: Ticket,
}

/// A row as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Row {
    /// On whose behalf the job runs.
    pub repository: RepositoryId,
    /// How far it is.
    pub state: State,
}

impl Row {
    /// The row of a job of `repository`.
    pub fn new(repository: RepositoryId, state: State) -> Self {
        Self { repository, state }
    }
}

/// How far a job is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// It waits for a worker.
    Waiting,
    /// A worker has it.
    Running,
    /// It has ended.
    Finished(Outcome),
}

/// What a queue hands out.
#[derive(Clone, Debug)]
pub struct Leased {
    /// The lease.
    pub fence: Fence,
    /// On whose behalf the row says the job runs.
    pub repository: RepositoryId,
    /// The sealed ticket.
    pub ticket: Ticket,
    /// How often the row has been handed out, this time included.
    pub attempt: u32,
}

/// What an extended lease says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extended {
    /// How long the lease now lasts.
    pub ttl: Duration,
    /// Whether somebody asked for the job to stop.
    pub cancelled: bool,
}

/// Why a lease was given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Released {
    /// A server, disk or machine failed. It counts as an attempt.
    InfrastructureFailed,
    /// The worker was asked to end. It counts as no attempt.
    ShuttingDown,
    /// A server that is asked before a job begins could not be reached. It counts as no attempt.
    NotBegun,
}

/// A job's sealed permission slip: what it is, where its code comes from, and who started it.
#[derive(Clone, PartialEq, Eq)]
pub struct Ticket(Bytes);

impl Ticket {
    /// A ticket as a queue stored it. It is believed only if it opens.
    pub fn from_stored(sealed: impl Into<Bytes>) -> Self {
        Self(sealed.into())
    }

    /// The sealed bytes, for a queue to store.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ticket({} bytes)", self.0.len())
    }
}

/// What a ticket says when it is open.
#[derive(Debug, Serialize, Deserialize)]
struct Slip {
    job: JobId,
    #[serde(with = "crate::trust::InTicket")]
    code: Provenance,
    trigger: Trigger,
    spec: JobSpec,
    enqueued_at: Timestamp,
}

/// What started a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Trigger {
    /// A person who could write to the repository; it is asked again before the job runs.
    Person {
        /// Who.
        user: UserId,
        /// When they had signed in.
        signed_in_at: Timestamp,
    },
    /// A verified webhook delivery.
    Event,
    /// A schedule of the operator's.
    Schedule,
}

/// A job that may be enqueued: its spec, where its code comes from, and what started it.
#[derive(Debug)]
pub struct NewJob {
    code: Provenance,
    trigger: Trigger,
    spec: JobSpec,
}

impl NewJob {
    /// A job that a person asked for.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when the grant is over or for another repository; [`ErrorKind::Invalid`] when the
    /// spec cannot run.
    pub fn requested(grant: &Grant<Write>, code: Provenance, spec: JobSpec) -> Result<Self> {
        if grant.scope()?.repository() != code.repository() {
            return Err(Error::new(ErrorKind::Denied, "start a job")
                .because("the permission is for another repository than the code"));
        }
        let trigger = Trigger::Person { user: grant.user().clone(), signed_in_at: grant.signed_in_at() };
        Self::checked(code, trigger, spec)
    }

    /// A job that a verified event asks for.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when the event names no code, or the spec cannot run.
    pub fn from_event(event: &Event, spec: JobSpec) -> Result<Self> {
        let code = event.code().cloned().ok_or_else(|| {
            Error::new(ErrorKind::Invalid, "start a job").because("the event names no code to run")
        })?;
        Self::checked(code, Trigger::Event, spec)
    }

    /// A job that a schedule of the operator's asks for.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when the act is for another tenant; [`ErrorKind::Invalid`] when the spec cannot run.
    pub fn scheduled(act: &Act<'_>, code: Provenance, spec: JobSpec) -> Result<Self> {
        act.covers(code.repository().tenant())?;
        Self::checked(code, Trigger::Schedule, spec)
    }

    fn checked(code: Provenance, trigger: Trigger, spec: JobSpec) -> Result<Self> {
        spec.check()?;
        Ok(Self { code, trigger, spec })
    }
}

/// Puts jobs into a queue and takes them out again, sealed in between.
#[derive(Clone, Debug)]
pub struct Dispatcher {
    queue: Arc<dyn Queue>,
    ring: Arc<dyn KeyRing>,
    authority: Authority,
    clock: Arc<dyn Clock>,
    ttl: Duration,
}

impl Dispatcher {
    /// A dispatcher whose leases last 30 seconds between heartbeats.
    pub fn new(
        queue: Arc<dyn Queue>,
        ring: Arc<dyn KeyRing>,
        authority: Authority,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { queue, ring, authority, clock, ttl: Duration::from_secs(30) }
    }

    /// Replaces how long a lease lasts without a heartbeat. A worker takes its sandbox down before that.
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Seals a job's ticket and adds the job to the queue.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] when a key or the queue cannot be reached.
    pub async fn enqueue(&self, new: NewJob) -> Result<JobId> {
        let NewJob { code, trigger, spec } = new;
        let (job, repository, labels) = (JobId::random(), code.repository().clone(), spec.labels.clone());
        let slip = Slip { job: job.clone(), code, trigger, spec, enqueued_at: self.clock.now() };
        let plain = serde_json::to_vec(&slip)
            .map_err(|error| Error::new(ErrorKind::Internal, "write a ticket").caused_by(error))?;
        let sealed = self.ring.seal(Scope::new(&repository), &Purpose::ticket(&job), &plain).await?;
        let row = NewRow { job: job.clone(), repository, labels, ticket: Ticket(sealed) };
        self.queue.push(row).await?;
        Ok(job)
    }

    /// Claims the next job that a worker with `labels` can do, or `None` when there is none.
    ///
    /// A job whose starter has lost the permission meanwhile is finished as refused, and the next one is
    /// looked at.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Tampered`] when a row was forged or swapped: it has been finished as refused, and the next
    /// call goes on; [`ErrorKind::Unavailable`] when a key, the forge or the queue cannot be reached.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, a row may have been leased; it waits again when that lease runs out.
    pub async fn next(&self, labels: &[Label]) -> Result<Option<Claim>> {
        // A bound for a call: whoever is refused does not hold up the worker for ever.
        const MOST_REFUSED: usize = 100;
        for _ in 0..MOST_REFUSED {
            let until = Deadline::after(self.clock.as_ref(), self.ttl);
            let Some(leased) = self.queue.lease(labels, self.ttl).await? else { return Ok(None) };
            let fence = leased.fence.clone();
            match self.admit(leased, labels, until).await {
                Ok(claim) => return Ok(Some(claim)),
                Err(error) if error.kind() == ErrorKind::Denied => self.refuse(&fence, &error).await?,
                Err(error) if error.is_retryable() => {
                    self.queue.release(&fence, Released::NotBegun).await?;
                    return Err(error);
                }
                Err(error) => {
                    self.refuse(&fence, &error).await?;
                    return Err(error);
                }
            }
        }
        Ok(None)
    }

    async fn admit(&self, leased: Leased, labels: &[Label], until: Deadline) -> Result<Claim> {
        let Leased { fence, repository, ticket, attempt } = leased;
        let forged = || Error::new(ErrorKind::Tampered, "open a ticket").with("job", &fence.job);
        let purpose = Purpose::ticket(&fence.job);
        let plain = match self.ring.open(Scope::new(&repository), &purpose, ticket.as_bytes()).await {
            // A row that was moved names a key that its new repository does not have.
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(forged().caused_by(error)),
            plain => plain?,
        };
        let slip: Slip = serde_json::from_slice(&plain).map_err(|error| forged().caused_by(error))?;
        let offered = slip.spec.labels.iter().all(|label| labels.contains(label));
        if slip.job != fence.job || *slip.code.repository() != repository || !offered {
            return Err(forged());
        }
        if let Trigger::Person { user, signed_in_at } = &slip.trigger {
            self.authority.recheck(user, *signed_in_at, &repository).await?;
        }
        Ok(Claim {
            tenure: Arc::new(Tenure {
                fence,
                until: Mutex::new(until),
                standing: watch::Sender::new(Standing::Held),
                clock: self.clock.clone(),
            }),
            slip,
            attempt,
            ttl: self.ttl,
            queue: self.queue.clone(),
        })
    }

    async fn refuse(&self, fence: &Fence, error: &Error) -> Result<()> {
        tracing::warn!(job = %fence.job, %error, "job refused");
        self.queue.finish(fence, &Outcome::refused(error), Batch::new()).await
    }

    /// Asks for a job to stop. One that runs hears of it with its next heartbeat, within a third of the time that a
    /// lease lasts.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] when the repository has no such job; [`ErrorKind::Denied`] when the grant is
    /// over; [`ErrorKind::Unavailable`] when the queue cannot be reached.
    pub async fn cancel(&self, grant: &Grant<Write>, job: &JobId) -> Result<()> {
        self.state(&grant.lower(), job).await?;
        self.queue.cancel(job).await
    }

    /// How far a job is.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] when the repository has no such job; [`ErrorKind::Denied`] when the grant is
    /// over; [`ErrorKind::Unavailable`] when the queue cannot be reached.
    pub async fn state(&self, grant: &Grant<Read>, job: &JobId) -> Result<State> {
        let repository = grant.scope()?.repository();
        let row = self.queue.row(job).await?;
        match row {
            Some(row) if row.repository == *repository => Ok(row.state),
            _ => Err(Error::new(ErrorKind::NotFound, "look at a job").with("job", job)),
        }
    }
}

/// A job's right to act: that this worker holds its lease, what the job is, and how far its code is trusted.
///
/// Only [`Dispatcher::next`] makes one.
///
/// ```compile_fail
/// # use ci_core::queue::Claim;
/// let claim = Claim { ..todo!() }; // its fields are private
/// ```
#[derive(Debug)]
pub struct Claim {
    tenure: Arc<Tenure>,
    slip: Slip,
    attempt: u32,
    ttl: Duration,
    queue: Arc<dyn Queue>,
}

impl Claim {
    /// The lease, while it holds.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Fenced`] when it has run out or was lost.
    pub fn fence(&self) -> Result<&Fence> {
        self.tenure.check("act for a job")?;
        Ok(&self.tenure.fence)
    }

    /// The repository, while the lease holds.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Fenced`] when the lease has run out or was lost.
    pub fn scope(&self) -> Result<Scope<'_>> {
        self.tenure.check("act for a job")?;
        Ok(Scope::new(self.slip.code.repository()))
    }

    /// The right to secrets, if the code is trusted.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when it is not; [`ErrorKind::Fenced`] when the lease has run out or was lost.
    pub fn trusted(&self) -> Result<TrustedClaim<'_>> {
        self.tenure.check("lease secrets")?;
        if self.trust() < Trust::Trusted {
            return Err(Error::new(ErrorKind::Denied, "lease secrets")
                .because("the code comes from a fork, which gets no secrets")
                .with("job", self.job()));
        }
        Ok(TrustedClaim(self))
    }

    /// The job.
    pub fn job(&self) -> &JobId {
        &self.tenure.fence.job
    }

    /// What it runs.
    pub fn spec(&self) -> &JobSpec {
        &self.slip.spec
    }

    /// Where its code comes from.
    pub fn code(&self) -> &Provenance {
        &self.slip.code
    }

    /// How far its code is trusted.
    pub fn trust(&self) -> Trust {
        self.slip.code.trust()
    }

    /// What started it.
    pub fn trigger(&self) -> &Trigger {
        &self.slip.trigger
    }

    /// How often the job has been handed out, this time included.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Keeps the lease with heartbeats, until it is lost: then it returns [`ErrorKind::Fenced`].
    ///
    /// It gives up while a quarter of the lease is left, so that the sandbox is gone before another worker can
    /// be given the job. Go on with it until the outcome is recorded, the sandbox's end included.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future only stops the heartbeats.
    pub fn keep(&self) -> impl Future<Output = Error> + Send + '_ {
        let tenure = &self.tenure;
        async move {
            loop {
                let margin = self.ttl / 4;
                let left = tenure.left();
                if left <= margin {
                    tenure.comes_to(Standing::Over);
                    return tenure.fenced("keep a job");
                }
                tenure.clock.sleep((self.ttl / 3).min(left.saturating_sub(margin))).await;
                match self.heartbeat().await {
                    Ok(()) => {}
                    Err(error) if error.is_retryable() => {
                        tracing::warn!(job = %self.job(), %error, "heartbeat failed");
                    }
                    Err(error) => return error,
                }
            }
        }
    }

    /// Returns when a heartbeat has learned that the job must stop: [`ErrorKind::Cancelled`] when somebody asked
    /// for it, [`ErrorKind::Fenced`] when the lease is lost.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub fn stopped(&self) -> impl Future<Output = Error> + Send + '_ {
        let mut standing = self.tenure.standing.subscribe();
        async move {
            let stopped = standing.wait_for(|standing| *standing != Standing::Held).await;
            match stopped.as_deref() {
                Ok(Standing::Cancelled) => {
                    Error::new(ErrorKind::Cancelled, "run a job").with("job", self.job())
                }
                _ => self.tenure.fenced("run a job"),
            }
        }
    }

    async fn heartbeat(&self) -> Result<()> {
        let clock = self.tenure.clock.as_ref();
        let asked = Deadline::after(clock, Duration::ZERO);
        let longest = Deadline::after(clock, self.ttl);
        match self.queue.extend(&self.tenure.fence, self.ttl).await {
            Ok(Extended { ttl, cancelled }) => {
                *self.tenure.until.lock().unwrap_or_else(PoisonError::into_inner) =
                    longest.within(asked, ttl);
                if cancelled {
                    self.tenure.comes_to(Standing::Cancelled);
                }
                Ok(())
            }
            Err(error) => {
                if error.kind() == ErrorKind::Fenced {
                    self.tenure.comes_to(Standing::Over);
                }
                Err(error)
            }
        }
    }

    /// Makes a call that can be repeated again and again, as long as that may help and the lease lasts.
    pub(crate) async fn retried<'a, T, F>(&'a self, call: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>> + 'a,
    {
        const LONGEST_WAIT: Duration = Duration::from_secs(5);
        let mut wait = Duration::from_millis(100);
        loop {
            match call().await {
                Err(error) if error.is_retryable() && self.fence().is_ok() => {
                    self.tenure.clock.sleep(error.retry_after().unwrap_or(wait)).await;
                    wait = (wait * 2).min(LONGEST_WAIT);
                }
                done => return done,
            }
        }
    }

    /// Ends the claim and gives the job back for another try.
    ///
    /// # Errors
    ///
    /// As for [`Queue::release`].
    pub async fn release(self, why: Released) -> Result<()> {
        let done = self.queue.release(&self.tenure.fence, why).await;
        self.tenure.comes_to(Standing::Over);
        done
    }

    /// Records how the job ended, with `audit` in the same transaction.
    pub(crate) async fn finish(&self, outcome: &Outcome, audit: Batch) -> Result<()> {
        match self.queue.finish(&self.tenure.fence, outcome, audit).await {
            // It may have been recorded by an earlier call, whose answer was lost.
            Err(error) if error.kind() == ErrorKind::Fenced => match self.queue.row(self.job()).await {
                Ok(Some(row)) if row.state == State::Finished(outcome.clone()) => Ok(()),
                _ => Err(error),
            },
            done => done,
        }
    }

    pub(crate) fn tenure(&self) -> Arc<Tenure> {
        self.tenure.clone()
    }
}

impl Drop for Claim {
    /// What was leased for the claim ends with it.
    fn drop(&mut self) {
        self.tenure.comes_to(Standing::Over);
    }
}

/// The right of a job to secrets: its code is trusted, and its lease held when this was made.
#[derive(Clone, Copy, Debug)]
pub struct TrustedClaim<'a>(&'a Claim);

impl<'a> TrustedClaim<'a> {
    /// The claim.
    pub fn claim(&self) -> &'a Claim {
        self.0
    }

    pub(crate) fn tenure(self) -> Arc<Tenure> {
        self.0.tenure()
    }
}

/// How long a claim lasts; shared with what was leased for it.
#[derive(Debug)]
pub(crate) struct Tenure {
    fence: Fence,
    until: Mutex<Deadline>,
    standing: watch::Sender<Standing>,
    clock: Arc<dyn Clock>,
}

/// How a claim stands. It only ever gets worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    Held,
    Cancelled,
    Over,
}

impl Tenure {
    pub(crate) fn check(&self, operation: &'static str) -> Result<()> {
        if *self.standing.borrow() == Standing::Over || self.left().is_zero() {
            return Err(self.fenced(operation));
        }
        Ok(())
    }

    fn comes_to(&self, worse: Standing) {
        self.standing.send_if_modified(|standing| {
            let is_worse = worse > *standing;
            *standing = worse.max(*standing);
            is_worse
        });
    }

    fn left(&self) -> Duration {
        self.until.lock().unwrap_or_else(PoisonError::into_inner).left(self.clock.as_ref())
    }

    fn fenced(&self, operation: &'static str) -> Error {
        Error::new(ErrorKind::Fenced, operation).with("job", &self.fence.job)
    }
}
