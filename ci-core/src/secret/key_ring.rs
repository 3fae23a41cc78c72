//! Keys for what is stored on behalf of repositories.

use std::sync::Arc;
use std::{fmt, mem};

use async_trait::async_trait;
use bytes::Bytes;

use crate::access::Scope;
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::Result;
use crate::id::{ArtifactName, CacheKey, JobId, KeyId};
use crate::seal::{self, Context, DataKey};

/// Keys for what is stored on behalf of a repository. No key serves two repositories.
///
/// An implementor writes [`data_key`](Self::data_key); sealing and opening are built on it.
///
/// # Cancel safety
///
/// Dropping a future has no effect, except that the first key of a repository may have been made.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use std::sync::Arc;
/// use ci_core::access::Read;
/// use ci_core::id::JobId;
/// use ci_core::memory::{Rig, Ring};
/// use ci_core::secret::{KeyRing, Purpose};
///
/// # let (rig, repository) = (Rig::new()?, Rig::repository("1", "acme")?);
/// let ring: Arc<dyn KeyRing> = Arc::new(Ring::new());
/// let grant = rig.grant::<Read>(&Rig::user("ada")?, &repository).await?;
/// let (first, second) = (Purpose::log(&JobId::random(), 0), Purpose::log(&JobId::random(), 0));
///
/// let sealed = ring.seal(grant.scope()?, &first, b"12 passed").await?;
/// assert_eq!(ring.open(grant.scope()?, &first, &sealed).await?, "12 passed");
/// assert!(ring.open(grant.scope()?, &second, &sealed).await.is_err()); // moved to another job's log
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[async_trait]
pub trait KeyRing: fmt::Debug + Send + Sync + 'static {
    /// Seals `plain` for `scope` and `purpose`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] when the key cannot be had now; [`ErrorKind::Tampered`] when the stored key
    /// is not what was stored.
    async fn seal(&self, scope: Scope<'_>, purpose: &Purpose, plain: &[u8]) -> Result<Bytes> {
        Ok(self.data_key(scope, purpose, None).await?.seal(purpose.context(), plain))
    }

    /// Opens what was sealed for the same scope and purpose.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Tampered`] for anything else; [`ErrorKind::NotFound`] when the key has been destroyed;
    /// [`ErrorKind::Unavailable`] when it cannot be had now.
    async fn open(&self, scope: Scope<'_>, purpose: &Purpose, sealed: &[u8]) -> Result<Bytes> {
        let id = seal::key_id(sealed)?;
        let key = self.data_key(scope, purpose, Some(&id)).await?;
        Ok(Bytes::from(mem::take(&mut *key.open(purpose.context(), sealed)?)))
    }

    /// The key for `scope` and the kind of `purpose`: the current one, or the one with `id`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] when there is no key with that id, or it has been destroyed;
    /// [`ErrorKind::Unavailable`] when it cannot be had now; [`ErrorKind::Tampered`] when the stored key is
    /// not what was stored.
    async fn data_key(&self, scope: Scope<'_>, purpose: &Purpose, id: Option<&KeyId>)
    -> Result<Arc<DataKey>>;
}

/// What something is sealed for. Things sealed for different purposes have different keys, and content that is
/// moved to another place within its purpose does not open. The example of [`KeyRing`] moves some.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Purpose {
    kind: &'static str,
    context: Context,
}

impl Purpose {
    /// The ticket of a job. Only a [`Dispatcher`](crate::queue::Dispatcher) seals and opens one: with a key ring alone
    /// nobody makes a job that is trusted more than its code.
    pub(crate) fn ticket(job: &JobId) -> Self {
        Self::of("ticket", &[job.as_str().as_bytes()])
    }

    /// How a job ended. Only its claim seals one.
    pub(crate) fn outcome(job: &JobId) -> Self {
        Self::of("outcome", &[job.as_str().as_bytes()])
    }

    /// One chunk of a job's log.
    pub fn log(job: &JobId, seq: u64) -> Self {
        Self::of("log", &[job.as_str().as_bytes(), &seq.to_be_bytes()])
    }

    /// One artifact of a job.
    pub fn artifact(job: &JobId, name: &ArtifactName) -> Self {
        Self::of("artifact", &[job.as_str().as_bytes(), name.as_str().as_bytes()])
    }

    /// One cache, in the namespace of one trust level.
    pub fn cache(namespace: &str, key: &CacheKey) -> Self {
        Self::of("cache", &[namespace.as_bytes(), key.as_str().as_bytes()])
    }

    fn of(kind: &'static str, fields: &[&[u8]]) -> Self {
        let context = fields.iter().fold(Context::new(kind), Context::field);
        Self { kind, context }
    }

    /// The kind of thing: what a key is for.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// The exact place: what content is bound to.
    pub fn context(&self) -> &Context {
        &self.context
    }
}
