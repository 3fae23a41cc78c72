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
#[async_trait]
pub trait ArtifactStore: fmt::Debug + Send + Sync + 'static {
    /// Keeps `content`. It becomes visible if and only if all of it is stored. What an earlier lease of the job
    /// kept under that name is replaced.
    ///
    /// # Errors
    ///
    /// The stream's own error; [`ErrorKind::Conflict`] when this lease has kept an
    /// artifact of that name; [`ErrorKind::Fenced`] when the claim is over;
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
    /// [`ErrorKind::Unavailable`] when the store cannot be reached.
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
/// are those of the archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// Its name.
    pub name: ArtifactName,
    /// How large its content is.
    pub size: ByteSize,
    /// The SHA-256 digest of its content.
    pub digest: Digest,
}
