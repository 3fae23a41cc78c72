//! Puts jobs into a queue and takes them out again, sealed in between.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{self, Either};

use super::claim::Claim;
use super::ticket::{NewJob, Slip, Trigger};
use super::{End, Leased, MOST_OFFERED, NewRow, Queue, Released, Stage};
use crate::access::{Authority, Grant, Read, Write};
use crate::clock::{Clock, Deadline};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{JobId, Label};
use crate::outcome::Outcome;
use crate::records::{Batch, Fence};
use crate::secret::KeyRing;

/// Puts jobs into a queue and takes them out again, sealed in between.
///
/// A service has one; clones are the same. Workers on several machines have one each over the same queue and the same
/// keys, and each job goes to one of them.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use ci_core::access::Write;
/// use ci_core::memory::Rig;
/// use ci_core::queue::{Dispatcher, NewJob, State};
/// use ci_core::trust::Origin;
///
/// let (rig, repository) = (Rig::new()?, Rig::repository("1", "acme")?);
/// let dispatcher =
///     Dispatcher::new(rig.database.clone(), rig.ring.clone(), rig.authority.clone(), rig.clock.clone());
///
/// let grant = rig.grant::<Write>(&Rig::user("ada")?, &repository).await?;
/// let code = rig.code(&repository, Origin::Repository).await?;
/// let job = dispatcher.enqueue(&NewJob::requested(&grant, code, Rig::spec())?).await?;
/// assert_eq!(dispatcher.state(&grant.lower(), &job).await?, State::Waiting);
///
/// let claim = dispatcher.next(&[]).await?.expect("the job");
/// assert_eq!(dispatcher.state(&grant.lower(), &job).await?, State::Running);
/// # drop(claim);
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Dispatcher {
    pub(super) queue: Arc<dyn Queue>,
    pub(super) ring: Arc<dyn KeyRing>,
    authority: Authority,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) ttl: Duration,
    longest_wait: Duration,
}

/// How far a job is, as [`Dispatcher::state`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It waits for a worker.
    Waiting,
    /// A worker has it.
    Running,
    /// It has ended.
    Finished(Box<Outcome>),
}

impl Dispatcher {
    /// A dispatcher whose leases last 30 seconds between heartbeats, and whose jobs begin within 24 hours.
    pub fn new(
        queue: Arc<dyn Queue>,
        ring: Arc<dyn KeyRing>,
        authority: Authority,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let (ttl, longest_wait) = (Duration::from_secs(30), Duration::from_hours(24));
        Self { queue, ring, authority, clock, ttl, longest_wait }
    }

    /// Replaces how long a lease lasts without a heartbeat. A worker takes its sandbox down before that.
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Replaces how long after it was enqueued a job may begin, another try included; one that waited longer is refused.
    ///
    /// Somebody who can write to the database can make a job that has ended wait again, and can do so for as long.
    pub fn with_longest_wait(mut self, longest_wait: Duration) -> Self {
        self.longest_wait = longest_wait;
        self
    }

    /// Seals a job's ticket and adds the job to the queue, unless an earlier call with the same `new` has done so.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] when a key or the queue cannot be reached: call again with the same `new`;
    /// [`ErrorKind::Tampered`] when the repository's key is not what was stored.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, the job may be in the queue; call again with the same `new`.
    pub async fn enqueue(&self, new: &NewJob) -> Result<JobId> {
        let NewJob { job, code, trigger, spec } = new;
        let slip = Slip {
            job: job.clone(),
            code: code.clone(),
            trigger: trigger.clone(),
            spec: spec.clone(),
            enqueued_at: self.clock.now(),
        };
        let ticket = slip.seal(self.ring.as_ref()).await?;
        let (repository, labels) = (code.repository().clone(), spec.labels.clone());
        let longest_wait = self.longest_wait;
        match self.queue.push(NewRow { job: job.clone(), repository, labels, ticket, longest_wait }).await {
            // Only an earlier call can have used this id.
            Err(error) if error.kind() == ErrorKind::Conflict => Ok(job.clone()),
            pushed => pushed.map(|()| job.clone()),
        }
    }

    /// Claims the next job that a worker with `labels` can do, or `None` when there is none.
    ///
    /// A job whose starter has lost the permission meanwhile, or that has waited too long, is finished as refused; one
    /// that cannot be begun now, because its forge or a key cannot be reached, waits again for a while. Then the next
    /// one is looked at.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Tampered`] when a row was forged or swapped: it has been finished as refused, and the next call goes
    /// on. Where no job can be begun now, why the last one could not: [`ErrorKind::Unavailable`] when its forge or a key
    /// cannot be reached. [`ErrorKind::Unavailable`] when the queue cannot be reached; [`ErrorKind::Invalid`] for more
    /// than [`MOST_OFFERED`] labels. After any of them but the last, ask again after a pause.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, a row may have been leased; it waits again when that lease runs out.
    pub async fn next(&self, labels: &[Label]) -> Result<Option<Claim>> {
        // A bound for a call: whoever is refused does not hold up the worker for ever.
        const MOST_REFUSED: usize = 100;
        if labels.len() > MOST_OFFERED {
            return Err(Error::new(ErrorKind::Invalid, "ask for work")
                .because("a worker offers at most 16 labels; start several that differ")
                .with("labels", labels.len()));
        }
        let mut trouble = None;
        for _ in 0..MOST_REFUSED {
            let until = Deadline::after(self.clock.as_ref(), self.ttl);
            let Some(leased) = self.queue.lease(labels, self.ttl).await? else { break };
            let (fence, attempt) = (leased.fence.clone(), leased.attempt);
            let claim = match self.soon(self.open(leased, labels, until)).await {
                Ok(claim) => claim,
                Err(error) => {
                    self.give_back(&fence, attempt, &error).await?;
                    if error.kind() == ErrorKind::Tampered {
                        return Err(error);
                    }
                    trouble = Some(error);
                    continue;
                }
            };
            match self.soon(self.check(&claim)).await {
                Ok(()) => return Ok(Some(claim)),
                Err(error) if error.kind() == ErrorKind::Denied => {
                    tracing::warn!(job = %fence.job, %error, "job refused");
                    let end = self.soon(claim.seal(&Outcome::refused(&error))).await?;
                    self.queue.finish(&fence, &end, Batch::new()).await?;
                }
                Err(error) => {
                    self.give_back(&fence, attempt, &error).await?;
                    trouble = Some(error);
                }
            }
        }
        trouble.map_or(Ok(None), Err)
    }

    /// A forge or a key server that does not answer must not keep a worker past the lease.
    async fn soon<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        match future::select(pin!(call), self.clock.sleep(self.ttl / 3)).await {
            Either::Left((done, _)) => done,
            Either::Right(_) => Err(Error::new(ErrorKind::Unavailable, "start a job")
                .because("its forge or a key did not answer in time")),
        }
    }

    async fn open(&self, leased: Leased, labels: &[Label], until: Deadline) -> Result<Claim> {
        let Leased { fence, repository, ticket, attempt } = leased;
        let slip = Slip::open(&ticket, &fence.job, &repository, self.ring.as_ref()).await?;
        // The row's labels were shown to the queue, and those of the ticket are meant.
        if !slip.spec.labels.iter().all(|label| labels.contains(label)) {
            return Err(Error::new(ErrorKind::Tampered, "open a ticket").with("job", &fence.job));
        }
        Ok(Claim::new(fence, until, slip, attempt, self))
    }

    /// Refuses a job that may not begin now.
    async fn check(&self, claim: &Claim) -> Result<()> {
        let Slip { trigger, enqueued_at, code, .. } = claim.slip();
        if enqueued_at.until(self.clock.now()).is_some_and(|waited| waited > self.longest_wait) {
            return Err(Error::new(ErrorKind::Denied, "start a job")
                .because("it waited too long for a worker; start it again")
                .with("hours", self.longest_wait.as_secs() / 3600));
        }
        match trigger {
            Trigger::Person { user, signed_in_at } => {
                self.authority.recheck(user, *signed_in_at, code.repository()).await
            }
            Trigger::Push | Trigger::PullRequest | Trigger::Event | Trigger::Schedule => Ok(()),
        }
    }

    /// Gives back a row that cannot be claimed now, or ends one that never can.
    async fn give_back(&self, fence: &Fence, attempt: u32, error: &Error) -> Result<()> {
        tracing::warn!(job = %fence.job, error = %error.for_operator(), "job not begun");
        if error.kind() == ErrorKind::Tampered {
            return self.queue.finish(fence, &End::Refused, Batch::new()).await;
        }
        let why = if error.is_retryable() { Released::NotBegun } else { Released::InfrastructureFailed };
        let pause = error.retry_after().unwrap_or_else(|| why.pause(attempt));
        self.queue.release(fence, why, pause).await
    }

    /// Asks for a job to stop. One that runs hears of it with its next heartbeat, within a third of the time that a
    /// lease lasts.
    ///
    /// # Errors
    ///
    /// As for [`state`](Self::state).
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, it may have been asked for; asking twice is no error.
    pub async fn cancel(&self, grant: &Grant<Write>, job: &JobId) -> Result<()> {
        self.state(&grant.lower(), job).await?;
        self.queue.cancel(job).await
    }

    /// The newest `limit` jobs of a repository, the newest first; for the next page pass the last of them as `before`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when the grant is over; [`ErrorKind::Unavailable`] when the queue cannot be reached.
    pub async fn jobs(
        &self,
        grant: &Grant<Read>,
        before: Option<&JobId>,
        limit: usize,
    ) -> Result<Vec<JobId>> {
        self.queue.jobs(grant.scope()?.repository(), before, limit).await
    }

    /// How far a job is.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] when the repository has no such job; [`ErrorKind::Denied`] when the grant is
    /// over; [`ErrorKind::Tampered`] when how it ended is not what its worker recorded; [`ErrorKind::Unavailable`]
    /// when a key or the queue cannot be reached.
    pub async fn state(&self, grant: &Grant<Read>, job: &JobId) -> Result<State> {
        let scope = grant.scope()?;
        let row = self.queue.row(job).await?.filter(|row| row.repository == *scope.repository());
        let row = row.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "look at a job")
                .because("the repository has no job of that id")
                .with("job", job)
        })?;
        Ok(match row.stage {
            Stage::Waiting => State::Waiting,
            Stage::Running => State::Running,
            Stage::Ended(end) => State::Finished(Box::new(match end {
                End::Recorded(sealed) => sealed.open(job, scope, self.ring.as_ref()).await?,
                End::Cancelled => Outcome::cancelled(),
                End::Expired => Outcome::expired(),
                End::GaveUp => Outcome::gave_up(),
                End::Refused => Outcome::not_admitted(),
            })),
        })
    }
}
