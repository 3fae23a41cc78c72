//! Work that waits, and the right to do it.
//!
//! A [`Queue`] stores rows and leases them out. It is not believed: what a job may do stands in its
//! [`Ticket`], sealed when the job was enqueued and bound to its id. [`Dispatcher`] opens the ticket, asks again
//! whether whoever started the job still may, and only then makes the [`Claim`].

mod claim;
mod dispatcher;
mod ticket;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

pub use self::claim::{Claim, TrustedClaim};
pub use self::dispatcher::{Dispatcher, State};
pub use self::ticket::{Cause, NewJob, SealedOutcome, Ticket, Trigger};

pub(crate) use self::claim::Tenure;

#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::Result;
use crate::id::{JobId, Label, RepositoryId};
use crate::records::{Batch, Fence, Records};

/// How often a job is handed out before it is given up.
pub const MOST_ATTEMPTS: u32 = 3;

/// How many labels a job may demand.
pub const MOST_LABELS: usize = 5;

/// How many labels a worker may offer.
pub const MOST_OFFERED: usize = 16;

/// Rows that wait for a worker: what an implementor writes. Products enqueue and claim through a [`Dispatcher`].
///
/// # Cancel safety
///
/// When the future of a call is dropped, what it asked for happens wholly or not at all. A row that a dropped
/// [`lease`](Self::lease) has leased waits again when the lease runs out, one attempt poorer.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use std::time::Duration;
/// use ci_core::ErrorKind;
/// use ci_core::memory::Rig;
/// # use ci_core::trust::Origin;
///
/// const TTL: Duration = Duration::from_secs(30);
/// let (rig, repository) = (Rig::new()?, Rig::repository("1", "acme")?);
/// let job = rig.enqueue(&repository, Origin::Repository, Rig::spec()).await?;
/// let queue = rig.database.clone();
///
/// let first = queue.lease(&[], TTL).await?.expect("the job waits");
/// rig.clock.advance(TTL); // its worker is lost
/// let second = queue.lease(&[], TTL).await?.expect("it waits again");
/// assert_eq!((&second.fence.job, second.attempt), (&job, 2));
/// assert!(second.fence.token > first.fence.token);
/// assert_eq!(queue.extend(&first.fence, TTL).await.expect_err("over").kind(), ErrorKind::Fenced);
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[async_trait]
pub trait Queue: fmt::Debug + Send + Sync + 'static {
    /// Adds a row, durably.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Conflict`] when there is a row with that job id; [`ErrorKind::Unavailable`] when the queue
    /// cannot be reached.
    async fn push(&self, row: NewRow) -> Result<()>;

    /// Leases the row that has waited longest of those all of whose labels are among `labels`, for `ttl`, with a larger
    /// token than any lease of that job before; `None` when there is none.
    ///
    /// A row whose lease ran out waits again from then on, and counts as one attempt. A row that would be handed out
    /// for more than the [`MOST_ATTEMPTS`]th time ends with [`End::GaveUp`] instead, and one that is older than its
    /// [`longest_wait`](NewRow::longest_wait) with [`End::Expired`]. A calendar that is set back makes no lease and no
    /// pause longer than it was given for.
    ///
    /// What other jobs wait for does not make the call slow: it depends on how many `labels` there are, of which no
    /// more than [`MOST_OFFERED`] are passed.
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

    /// Gives a lease back, for no fault of the job's: the row waits again, and is handed out when `pause` has passed at
    /// the earliest. `why` says whether the lease counts as an attempt.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Fenced`] when the lease is over; [`ErrorKind::Unavailable`] when the queue cannot be reached.
    async fn release(&self, fence: &Fence, why: Released, pause: Duration) -> Result<()>;

    /// Records how a job ended, and commits `with` in the same transaction.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Fenced`] when the lease is over; [`ErrorKind::Conflict`] when a condition of `with` does not
    /// hold; [`ErrorKind::Unsupported`] when `with` is not empty and the queue has no records beside it;
    /// [`ErrorKind::Unavailable`] when the queue cannot be reached.
    async fn finish(&self, fence: &Fence, end: &End, with: Batch) -> Result<()>;

    /// Asks for a job to stop: a waiting row ends with [`End::Cancelled`], a leased one is told at its next
    /// [`extend`](Self::extend), and one that has ended stays as it is.
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

    /// The newest `limit` jobs of a repository, the newest first; of those that were pushed before `before`, if that is
    /// one of them.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] when the queue cannot be reached.
    async fn jobs(
        &self,
        repository: &RepositoryId,
        before: Option<&JobId>,
        limit: usize,
    ) -> Result<Vec<JobId>>;
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
    /// How long after it was added it may still be handed out.
    pub longest_wait: Duration,
}

/// A row as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Row {
    /// On whose behalf the job runs.
    pub repository: RepositoryId,
    /// How far it is.
    pub stage: Stage,
}

impl Row {
    /// The row of a job of `repository`.
    pub fn new(repository: RepositoryId, stage: Stage) -> Self {
        Self { repository, stage }
    }
}

/// How far a row is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It waits for a worker.
    Waiting,
    /// A worker has it.
    Running,
    /// It has ended.
    Ended(End),
}

/// How a row ended. What a worker says is sealed, so that nobody makes it up who can only write to the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// A worker recorded the outcome.
    Recorded(SealedOutcome),
    /// It was stopped while no worker had it.
    Cancelled,
    /// It was not begun within its [`longest_wait`](NewRow::longest_wait).
    Expired,
    /// It was handed out [`MOST_ATTEMPTS`] times, and no worker brought it to an end.
    GaveUp,
    /// It is not what was put into the queue.
    Refused,
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

impl Released {
    /// How long to wait before the next try: what failed is given time to come back, and more every time.
    fn pause(self, attempt: u32) -> Duration {
        match self {
            Self::InfrastructureFailed => {
                Duration::from_secs(30) * 4_u32.pow(attempt.saturating_sub(1).min(3))
            }
            Self::ShuttingDown => Duration::ZERO,
            Self::NotBegun => Duration::from_secs(10),
        }
    }
}
