//! Console output: written by the job that is leased, read by whoever may read its repository.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream;
use serde::{Deserialize, Serialize};

use crate::access::{Authority, Grant, Read};
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::Result;
use crate::id::JobId;
use crate::queue::Claim;
use crate::secret::Masked;
use crate::stream::ByteStream;

/// How many bytes one chunk may have.
pub const MOST_CHUNK: usize = 1024 * 1024;

/// Where console output is kept: one sequence of bytes per job, exactly as it was appended. Readers call
/// [`read`](Self::read), or [`follow`](LogStoreExt::follow) a log as it grows.
///
/// # Cancel safety
///
/// When the future of [`append`](Self::append) or [`close`](Self::close) is dropped, it has happened wholly or not at
/// all; calling again is harmless. Dropping a future that reads or waits has no effect.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use std::sync::Arc;
/// use ci_core::access::Read;
/// use ci_core::log::{Appended, Cursor, LogStore};
/// use ci_core::memory::{Logs, Masking, Rig};
/// use ci_core::secret::SecretLease;
/// # use ci_core::trust::Origin;
///
/// # let (rig, repository) = (Rig::new()?, Rig::repository("1", "acme")?);
/// # let claim = rig.claim(&repository, Origin::Repository, Rig::spec()).await?;
/// let logs: Arc<dyn LogStore> = Arc::new(Logs::new(rig.database.clone(), rig.clock.clone()));
/// let lease = SecretLease::empty(&claim, Arc::new(Masking::new()));
/// let chunk = lease.mask().push(b"one\n");
/// assert_eq!(logs.append(&claim, 0, chunk.clone()).await?, Appended::Stored);
/// assert_eq!(logs.append(&claim, 0, chunk.clone()).await?, Appended::Repeated); // the answer was lost
/// assert_eq!(logs.append(&claim, 7, chunk).await?, Appended::Gap { expected: 1 });
///
/// let grant = rig.grant::<Read>(&Rig::user("ada")?, &repository).await?;
/// let page = logs.read(&grant, claim.job(), Cursor::default(), 64 * 1024).await?;
/// assert_eq!((&page.bytes[..], page.next, page.end), (&b"one\n"[..], Cursor(1), false));
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[async_trait]
pub trait LogStore: fmt::Debug + Send + Sync + 'static {
    /// Appends chunk number `seq`, counted from 0. The chunk is durable if and only if the answer is
    /// [`Appended::Stored`] or [`Appended::Repeated`], so a call that failed is made again with the same number.
    ///
    /// Chunks are counted through all leases of a job. A number that an earlier lease has used is answered with
    /// [`Appended::Gap`], which says where to go on. A chunk may be empty.
    ///
    /// Only masked bytes can be appended:
    ///
    /// ```compile_fail
    /// # use ci_core::{log::LogStore, queue::Claim};
    /// async fn append(log: &dyn LogStore, claim: &Claim) {
    ///     log.append(claim, 0, bytes::Bytes::from("raw output")).await; // not `Masked`
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Fenced`] when the claim is over;
    /// [`ErrorKind::Denied`] when the bytes were masked for another job
    /// ([`Masked::for_log_of`]);
    /// [`ErrorKind::Conflict`] when this lease has closed the log, or stored chunk
    /// `seq` with other bytes; [`ErrorKind::LimitExceeded`] for more than [`MOST_CHUNK`]
    /// bytes; [`ErrorKind::Unavailable`] when the store cannot be reached.
    async fn append(&self, claim: &Claim, seq: u64, chunk: Masked) -> Result<Appended>;

    /// Closes the log: readers then know that this lease writes nothing more. Idempotent. A later lease of the job, if
    /// there is one, finds it open.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Fenced`] when the claim is over;
    /// [`ErrorKind::Unavailable`] when the store cannot be reached.
    async fn close(&self, claim: &Claim) -> Result<()>;

    /// At most `limit` bytes (and at least one chunk, if there is one) from `from` on. A job that has written
    /// nothing has an empty page. The log of a job that has ended is at its end where its chunks are, closed or not.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when the grant is over;
    /// [`ErrorKind::NotFound`] when the repository has no such job;
    /// [`ErrorKind::Tampered`] when what is stored is not what was appended;
    /// [`ErrorKind::Unavailable`] when the store cannot be reached.
    async fn read(&self, grant: &Grant<Read>, job: &JobId, from: Cursor, limit: usize) -> Result<Page>;

    /// Returns when there may be something to read after `from`. It is a hint: it may return early, and must
    /// return within a few seconds.
    ///
    /// # Errors
    ///
    /// As for [`read`](Self::read).
    async fn changed(&self, grant: &Grant<Read>, job: &JobId, from: Cursor) -> Result<()>;
}

/// What became of an appended chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// It is stored.
    Stored,
    /// It had been stored before, with the same bytes.
    Repeated,
    /// It is not stored: chunk `expected` is missing before it, or its number belongs to an earlier lease.
    Gap {
        /// The number to go on with.
        expected: u64,
    },
}

/// A place in a log: before the chunk of this number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cursor(pub u64);

/// A part of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The bytes.
    pub bytes: Bytes,
    /// Where to go on.
    pub next: Cursor,
    /// Whether the log is closed or its job has ended. Nothing follows then, unless the worker that closed it was lost
    /// before it could record the outcome, and another one runs the job again.
    pub end: bool,
}

/// What callers do with a [`LogStore`], built from what implementors write.
#[async_trait]
pub trait LogStoreExt: LogStore {
    /// The log from `from` on, as it grows, in pieces of up to 256 KiB or one chunk, until it is closed: that is shortly
    /// before the job's outcome is recorded.
    ///
    /// The `authority` is asked again whenever the grant has expired or was withdrawn: the stream ends with
    /// [`ErrorKind::Denied`] when the person may no longer read. Other errors are those of [`LogStore::read`], and end
    /// it too; follow again from the last place that was read.
    ///
    /// # Example
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
    /// use std::sync::Arc;
    /// use ci_core::access::{Level, Read};
    /// use ci_core::log::{Cursor, LogStore as _, LogStoreExt as _};
    /// use futures_util::StreamExt as _;
    /// # use ci_core::memory::{Logs, Masking, Rig};
    /// # use ci_core::{ErrorKind, secret::SecretLease, trust::Origin};
    /// # let (rig, ada, repository) = (Rig::new()?, Rig::user("ada")?, Rig::repository("1", "acme")?);
    /// # let logs = Arc::new(Logs::new(rig.database.clone(), rig.clock.clone()));
    /// # let claim = rig.claim(&repository, Origin::Repository, Rig::spec()).await?;
    /// # let lease = SecretLease::empty(&claim, Arc::new(Masking::new()));
    /// # logs.append(&claim, 0, lease.mask().push(b"one\n")).await?;
    ///
    /// let (grant, job) = (rig.grant::<Read>(&ada, &repository).await?, claim.job().clone());
    /// let mut log = logs.follow(grant, rig.authority.clone(), job, Cursor::default());
    /// assert_eq!(log.next().await.transpose()?.as_deref(), Some(&b"one\n"[..]));
    ///
    /// rig.permissions.allow(&ada, &repository, Level::None);
    /// let refused = log.next().await.expect("an answer").expect_err("she may not read any more");
    /// assert_eq!(refused.kind(), ErrorKind::Denied);
    /// assert!(log.next().await.is_none());
    /// # Ok::<(), ci_core::Error>(()) })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn follow(
        self: Arc<Self>,
        grant: Grant<Read>,
        authority: Authority,
        job: JobId,
        from: Cursor,
    ) -> ByteStream<'static>;
}

impl<T: LogStore + ?Sized> LogStoreExt for T {
    fn follow(
        self: Arc<Self>,
        grant: Grant<Read>,
        authority: Authority,
        job: JobId,
        from: Cursor,
    ) -> ByteStream<'static> {
        let start = Follow { log: self, grant, authority, job, cursor: from, end: false };
        Box::pin(stream::try_unfold(start, |mut follow| async move {
            let page = follow.next().await?;
            Ok(page.map(|bytes| (bytes, follow)))
        }))
    }
}

struct Follow<T: ?Sized> {
    log: Arc<T>,
    grant: Grant<Read>,
    authority: Authority,
    job: JobId,
    cursor: Cursor,
    end: bool,
}

impl<T: LogStore + ?Sized> Follow<T> {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        const PAGE: usize = 256 * 1024;
        while !self.end {
            if self.grant.scope().is_err() {
                self.grant = self.grant.renew(&self.authority).await?;
            }
            let page = self.log.read(&self.grant, &self.job, self.cursor, PAGE).await?;
            (self.cursor, self.end) = (page.next, page.end);
            if !page.bytes.is_empty() {
                return Ok(Some(page.bytes));
            }
            if !self.end {
                self.log.changed(&self.grant, &self.job, self.cursor).await?;
            }
        }
        Ok(None)
    }
}
