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

/// Where console output is kept: one sequence of bytes per job, exactly as it was appended.
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

    /// Closes the log: readers then know that nothing follows. Idempotent. A later lease of the job, if there is
    /// one, finds it open.
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

/// A place in a log: before its chunk number `0.0`.
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
    /// Whether nothing will ever follow.
    pub end: bool,
}

/// What callers do with a [`LogStore`], built from what implementors write.
#[async_trait]
pub trait LogStoreExt: LogStore {
    /// The log from `from` on, as it grows, until it is closed: that is shortly before the job's outcome is recorded.
    ///
    /// The `authority` is asked again whenever the grant has expired: the stream ends with
    /// [`ErrorKind::Denied`] when the person may no longer read.
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
