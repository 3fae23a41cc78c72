//! Files that outlive their job.

use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::access::{Grant, Read, Write};
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::Result;
use crate::id::{ArtifactName, Digest, JobId};
use crate::queue::Claim;
use crate::stream::ByteStream;
use crate::units::ByteSize;

/// Where artifacts are kept: written once by the job that is leased, read by whoever may read its repository.
///
/// # Cancel safety
///
/// Dropping the future of a read has no effect. A dropped [`delete`](Self::delete) may have happened; calling again
/// then answers [`ErrorKind::NotFound`].
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use std::sync::Arc;
/// use ci_core::access::Read;
/// use ci_core::artifact::ArtifactStore;
/// use ci_core::id::ArtifactName;
/// use ci_core::memory::{Artifacts, Rig};
/// use ci_core::{ByteSize, ErrorKind, stream, trust::Origin};
///
/// # let (rig, ada) = (Rig::new()?, Rig::user("ada")?);
/// # let (ours, theirs) = (Rig::repository("1", "acme")?, Rig::repository("2", "acme")?);
/// let store: Arc<dyn ArtifactStore> = Arc::new(Artifacts::new(rig.records()));
/// let (claim, name) = (rig.claim(&ours, Origin::Repository, Rig::spec()).await?, ArtifactName::parse("report")?);
/// let kept = store.put(&claim, &name, stream::once("12 passed")).await?;
///
/// let grant = rig.grant::<Read>(&ada, &ours).await?;
/// assert_eq!(store.list(&grant, claim.job()).await?, [kept]);
/// let content = store.get(&grant, claim.job(), &name).await?;
/// assert_eq!(stream::collect(content, ByteSize::mib(1)).await?, b"12 passed");
///
/// let elsewhere = rig.grant::<Read>(&ada, &theirs).await?;
/// let refused = store.get(&elsewhere, claim.job(), &name).await.err().expect("not theirs");
/// assert_eq!(refused.kind(), ErrorKind::NotFound);
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[async_trait]
pub trait ArtifactStore: fmt::Debug + Send + Sync + 'static {
    /// Keeps `content`. It becomes visible if and only if all of it is stored. What an earlier lease of the job
    /// kept under that name is replaced. A call whose answer was lost can be made again, with the same content.
    ///
    /// # Errors
    ///
    /// The stream's own error; [`ErrorKind::LimitExceeded`] when it is longer than
    /// [`Limits::artifact`](crate::job::Limits::artifact) of the job; [`ErrorKind::Conflict`] when this lease has kept
    /// other content under that name; [`ErrorKind::Fenced`] when the claim is over;
    /// [`ErrorKind::Unavailable`] when the store cannot be reached.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped nothing becomes visible.
    async fn put(&self, claim: &Claim, name: &ArtifactName, content: ByteStream<'_>) -> Result<Artifact>;

    /// The artifacts of a job, by name.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when the grant is over;
    /// [`ErrorKind::Tampered`] when what is stored of one is not what was kept; [`ErrorKind::Unavailable`] when the
    /// store cannot be reached.
    async fn list(&self, grant: &Grant<Read>, job: &JobId) -> Result<Vec<Artifact>>;

    /// The content of an artifact. A piece comes out of the stream if and only if it is verified; the digest
    /// of the whole is checked at the end.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] when the repository has no such artifact;
    /// [`ErrorKind::Denied`] when the grant is over;
    /// [`ErrorKind::Tampered`], also in the stream, when what is stored is not what
    /// was kept; [`ErrorKind::Unavailable`] when the store cannot be reached.
    async fn get(&self, grant: &Grant<Read>, job: &JobId, name: &ArtifactName)
    -> Result<ByteStream<'static>>;

    /// Deletes an artifact.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] when the repository has no such artifact;
    /// [`ErrorKind::Denied`] when the grant is over;
    /// [`ErrorKind::Unavailable`] when the store cannot be reached.
    async fn delete(&self, grant: &Grant<Write>, job: &JobId, name: &ArtifactName) -> Result<()>;
}

/// What is known of an artifact. The runner keeps every artifact as a tar archive, a single file too; size and digest
/// are those of the archive. Records of [debug sessions](crate::debug) are kept as they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// Its name.
    pub name: ArtifactName,
    /// How large its content is.
    pub size: ByteSize,
    /// The SHA-256 digest of its content.
    pub digest: Digest,
}
