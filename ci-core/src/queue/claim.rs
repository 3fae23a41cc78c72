//! A job's right to act, for as long as its lease lasts.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::{self, Either};
use tokio::sync::watch;

use super::dispatcher::Dispatcher;
use super::ticket::{SealedOutcome, Slip, Trigger};
use super::{End, Extended, Queue, Released, Stage};
use crate::access::Scope;
use crate::clock::{Clock, Deadline};
use crate::error::{Error, ErrorKind, Result};
use crate::id::JobId;
use crate::job::JobSpec;
use crate::lock::lock;
use crate::outcome::Outcome;
use crate::records::{Batch, Fence};
use crate::secret::KeyRing;
use crate::trust::{Provenance, Trust};

/// A job's right to act: that this worker holds its lease, what the job is, and how far its code is trusted.
///
/// Only [`Dispatcher::next`] makes one. A worker hands it to [`Runner::run`](crate::runner::Runner::run), which keeps
/// the lease with heartbeats; whoever runs jobs in another way calls [`keep`](Self::keep). What was leased for a
/// claim ends with it.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use std::time::Duration;
/// use ci_core::ErrorKind;
/// use ci_core::memory::Rig;
/// use ci_core::trust::{Origin, Trust};
///
/// let (rig, repository) = (Rig::new()?, Rig::repository("1", "acme")?);
/// let claim = rig.claim(&repository, Origin::Fork, Rig::spec()).await?;
/// assert_eq!((claim.scope()?.repository(), claim.trust(), claim.attempt()), (&repository, Trust::Untrusted, 1));
/// assert_eq!(claim.trusted().expect_err("no secrets for a fork").kind(), ErrorKind::Denied);
///
/// rig.clock.advance(Duration::from_secs(30)); // without a heartbeat
/// assert_eq!(claim.scope().expect_err("the lease is over").kind(), ErrorKind::Fenced);
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// ```compile_fail
/// # use ci_core::queue::Claim;
/// fn another(claim: Claim) -> Claim {
///     Claim { ..claim } // its fields are private
/// }
/// ```
#[derive(Debug)]
pub struct Claim {
    tenure: Arc<Tenure>,
    slip: Slip,
    attempt: u32,
    ttl: Duration,
    queue: Arc<dyn Queue>,
    ring: Arc<dyn KeyRing>,
}

impl Claim {
    pub(super) fn new(fence: Fence, until: Deadline, slip: Slip, attempt: u32, by: &Dispatcher) -> Self {
        let Dispatcher { queue, ring, clock, ttl, .. } = by.clone();
        let (until, standing) = (Mutex::new(until), watch::Sender::new(Standing::Held));
        let tenure = Arc::new(Tenure { fence, until, standing, is_recording: AtomicBool::new(false), clock });
        Self { tenure, slip, attempt, ttl, queue, ring }
    }

    pub(super) fn slip(&self) -> &Slip {
        &self.slip
    }

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
        let margin = self.ttl / 4;
        let spare = move || tenure.left().saturating_sub(margin);
        async move {
            while !spare().is_zero() {
                tenure.clock.sleep((self.ttl / 3).min(spare())).await;
                // A queue that does not answer must not keep the job past its lease.
                match future::select(pin!(self.heartbeat()), tenure.clock.sleep(spare())).await {
                    Either::Left((Ok(()), _)) | Either::Right(_) => {}
                    Either::Left((Err(error), _)) if error.is_retryable() => {
                        tracing::warn!(job = %self.job(), %error, "heartbeat failed");
                    }
                    Either::Left((Err(error), _)) => return error,
                }
            }
            tenure.comes_to(Standing::Over);
            tenure.fenced("keep a job")
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
                *lock(&self.tenure.until) = longest.within(asked, ttl);
                if cancelled {
                    self.tenure.comes_to(Standing::Cancelled);
                }
                Ok(())
            }
            Err(error) => {
                if error.kind() != ErrorKind::Fenced {
                    return Err(error);
                }
                // The queue says so as soon as the outcome is recorded, whatever `finish` has heard of it.
                if self.tenure.is_recording.load(Ordering::Acquire) {
                    return Ok(());
                }
                self.tenure.comes_to(Standing::Over);
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
    /// [`ErrorKind::Fenced`] when the lease is over; [`ErrorKind::Unavailable`] when the queue cannot be reached: the
    /// job waits again when the lease runs out.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, the claim has ended; the job waits again at once or when the lease runs out.
    pub async fn release(self, why: Released) -> Result<()> {
        let done = self.queue.release(&self.tenure.fence, why, why.pause(self.attempt)).await;
        self.tenure.comes_to(Standing::Over);
        done
    }

    /// How the job ended, so that nobody can change it who can write to the queue.
    pub(crate) async fn seal(&self, outcome: &Outcome) -> Result<End> {
        let sealed = SealedOutcome::seal(outcome, self.job(), self.scope()?, self.ring.as_ref()).await?;
        Ok(End::Recorded(sealed))
    }

    /// Records how the job ended, with `audit` in the same transaction.
    pub(crate) async fn finish(&self, end: &End, audit: Batch) -> Result<()> {
        self.tenure.is_recording.store(true, Ordering::Release);
        match self.queue.finish(&self.tenure.fence, end, audit).await {
            // It may be recorded, by this call or an earlier one, and the answer was lost.
            Err(error) if error.kind() == ErrorKind::Fenced || error.is_retryable() => {
                match self.queue.row(self.job()).await {
                    Ok(Some(row)) if row.stage == Stage::Ended(end.clone()) => Ok(()),
                    _ => Err(error),
                }
            }
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

/// The right of a job to secrets: its code is trusted, and its lease held when [`Claim::trusted`] made this.
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
    /// Whether the worker has begun to record the outcome, after which the queue knows of no lease any more.
    is_recording: AtomicBool,
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
    pub(crate) fn job(&self) -> &JobId {
        &self.fence.job
    }

    pub(crate) fn check(&self, operation: &'static str) -> Result<()> {
        if *self.standing.borrow() == Standing::Over || self.left().is_zero() {
            return Err(self.fenced(operation));
        }
        Ok(())
    }

    /// The same, and that nobody has asked for the job to stop.
    pub(crate) fn check_wanted(&self, operation: &'static str) -> Result<()> {
        self.check(operation)?;
        match *self.standing.borrow() {
            Standing::Cancelled => {
                Err(Error::new(ErrorKind::Cancelled, operation).with("job", &self.fence.job))
            }
            _ => Ok(()),
        }
    }

    fn comes_to(&self, worse: Standing) {
        self.standing.send_if_modified(|standing| {
            let is_worse = worse > *standing;
            *standing = worse.max(*standing);
            is_worse
        });
    }

    fn left(&self) -> Duration {
        lock(&self.until).left(self.clock.as_ref())
    }

    fn fenced(&self, operation: &'static str) -> Error {
        Error::new(ErrorKind::Fenced, operation).with("job", &self.fence.job)
    }
}
