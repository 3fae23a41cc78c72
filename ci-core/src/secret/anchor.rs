//! How far a database had come, remembered outside of it.

use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::Result;
use crate::id::Digest;
use crate::records::Key;

/// How far something had come that only grows: a number, and the digest of what it was then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// How far: the generation of a manifest, the length of an audit log.
    pub number: u64,
    /// Of what it was at that number, so that two states of the same number are told apart.
    pub digest: Digest,
}

impl Mark {
    /// `content` as it is at `number`.
    pub fn of(number: u64, content: &[u8]) -> Self {
        Self { number, digest: Digest::of(content) }
    }
}

/// A place outside of the database that remembers how far things in it had come, so that putting back an old copy of
/// the whole database is noticed.
///
/// Each thing has a key of its own: `secret/..` for the secrets of a repository, `audit/..` for a tenant's log, `erased/..`
/// for a key that was destroyed. Who can write to the database must not be able to write here.
///
/// # Cancel safety
///
/// When the future of [`advance`](Self::advance) or [`forget`](Self::forget) is dropped, it may have happened: look at
/// [`latest`](Self::latest).
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use ci_core::id::TenantId;
/// use ci_core::memory::{Anchor, Rig};
/// use ci_core::records::Key;
/// use ci_core::secret::{FreshnessAnchor as _, Mark};
///
/// let (rig, anchor, books) = (Rig::new()?, Anchor::default(), TenantId::service());
/// rig.operator.act(&books, "service.started").await?;
/// let (head, place) = (rig.audit.verify(&books).await?, Key::new("audit").part(books.as_str()));
/// anchor.advance(&place, &Mark { number: head.count, digest: head.hash }).await?;
///
/// // At the next start, perhaps on an older copy of the database:
/// let head = rig.audit.verify(&books).await?;
/// assert!(anchor.latest(&place).await?.is_none_or(|latest| latest.number <= head.count));
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[async_trait]
pub trait FreshnessAnchor: fmt::Debug + Send + Sync + 'static {
    /// The latest mark of `of`, or `None` before the first.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] when it cannot be read now; [`ErrorKind::Tampered`] when it is not what was
    /// remembered.
    async fn latest(&self, of: &Key) -> Result<Option<Mark>>;

    /// Remembers `mark` durably if and only if its number is larger than that of the latest one. The latest one itself
    /// may be given again.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Conflict`] when it is neither; [`ErrorKind::Unavailable`] when it cannot be written now.
    async fn advance(&self, of: &Key, mark: &Mark) -> Result<()>;

    /// Forgets `of`, whose rows were erased or replaced on purpose. It may have been forgotten before.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] when it cannot be written now.
    async fn forget(&self, of: &Key) -> Result<()>;
}
