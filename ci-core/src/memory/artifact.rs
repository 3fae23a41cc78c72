//! Files that outlive their job, as records of a database.

use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::access::{Grant, Read, Write};
use crate::artifact::{Artifact, ArtifactStore};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ArtifactName, Digest, JobId, RepositoryId};
use crate::queue::Claim;
use crate::records::{Batch, Condition, Key, Record, Records};
use crate::stream::{self, ByteStream};
use crate::units::ByteSize;

/// An artifact store over any records that know leases, unsealed.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use ci_core::access::Read;
/// use ci_core::artifact::ArtifactStore as _;
/// use ci_core::id::ArtifactName;
/// use ci_core::memory::{Artifacts, Rig};
/// use ci_core::{ByteSize, stream, trust::Origin};
///
/// let rig = Rig::new()?;
/// let artifacts = Artifacts::new(rig.database.clone());
/// let (repository, name) = (Rig::repository("1", "acme")?, ArtifactName::parse("report.tar")?);
/// let claim = rig.claim(&repository, Origin::Repository, Rig::spec()).await?;
/// artifacts.put(&claim, &name, stream::once("content")).await?;
///
/// let grant = rig.grant::<Read>(&Rig::user("ada")?, &repository).await?;
/// let content = artifacts.get(&grant, claim.job(), &name).await?;
/// assert_eq!(stream::collect(content, ByteSize::kib(1)).await?, b"content");
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Artifacts {
    records: Arc<dyn Records>,
}

/// What the records say of an artifact.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    /// The token of the lease that kept it.
    lease: u64,
    artifact: Artifact,
}

impl Artifacts {
    /// The artifacts in `records`.
    pub fn new(records: Arc<dyn Records>) -> Self {
        Self { records }
    }

    /// Where an artifact goes: nothing when it is there, and an error when this lease has put another one there.
    async fn place_for(&self, claim: &Claim, artifact: &Artifact) -> Result<Option<(Key, Condition)>> {
        let place = about(claim.scope()?.repository(), claim.job()).part(artifact.name.as_str());
        let Some(record) = self.records.get(&place).await? else {
            return Ok(Some((place.clone(), Condition::Absent(place))));
        };
        let kept: Kept = read(&record)?;
        if kept.lease < claim.fence()?.token {
            return Ok(Some((place.clone(), Condition::Is(place, record.version))));
        }
        if kept.artifact == *artifact { Ok(None) } else { Err(taken(&artifact.name)) }
    }

    async fn find(
        &self,
        repository: &RepositoryId,
        job: &JobId,
        name: &ArtifactName,
    ) -> Result<(Artifact, Record)> {
        let record = self.records.get(&about(repository, job).part(name.as_str())).await?;
        let record = record.ok_or_else(|| missing(job, name))?;
        let Kept { artifact, .. } = read(&record)?;
        Ok((artifact, record))
    }
}

#[async_trait]
impl ArtifactStore for Artifacts {
    async fn put(&self, claim: &Claim, name: &ArtifactName, content: ByteStream<'_>) -> Result<Artifact> {
        let content = stream::collect(content, claim.spec().limits.artifact).await?;
        let artifact = Artifact {
            name: name.clone(),
            size: ByteSize::bytes(content.len() as u64),
            digest: Digest::of(&content),
        };
        let fence = claim.fence()?.clone();
        let kept = Kept { lease: fence.token, artifact };
        let value = serde_json::to_vec(&kept)
            .map_err(|error| Error::new(ErrorKind::Internal, "keep an artifact").caused_by(error))?;
        let Some((place, free)) = self.place_for(claim, &kept.artifact).await? else {
            return Ok(kept.artifact);
        };
        let batch = Batch::new()
            .require(Condition::Held(fence))
            .require(free)
            .put(place, value)
            .put(contents(claim.scope()?.repository(), claim.job()).part(name.as_str()), content);
        self.records.commit(batch).await.map_err(|error| match error.kind() {
            ErrorKind::Conflict => taken(name),
            _ => error,
        })?;
        Ok(kept.artifact)
    }

    async fn list(&self, grant: &Grant<Read>, job: &JobId) -> Result<Vec<Artifact>> {
        const PAGE: usize = 500;
        let prefix = about(grant.scope()?.repository(), job);
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = self.records.list(&prefix, after.as_ref(), PAGE).await?;
            let Some(last) = page.last() else { return Ok(found) };
            after = Some(last.key.clone());
            for record in &page {
                let Kept { artifact, .. } = read(record)?;
                found.push(artifact);
            }
        }
    }

    async fn get(
        &self,
        grant: &Grant<Read>,
        job: &JobId,
        name: &ArtifactName,
    ) -> Result<ByteStream<'static>> {
        let repository = grant.scope()?.repository();
        let (artifact, _) = self.find(repository, job, name).await?;
        let content = self.records.get(&contents(repository, job).part(name.as_str())).await?;
        match content {
            Some(record) if Digest::of(&record.value) == artifact.digest => Ok(stream::once(record.value)),
            _ => Err(Error::new(ErrorKind::Tampered, "read an artifact").with("artifact", name)),
        }
    }

    async fn delete(&self, grant: &Grant<Write>, job: &JobId, name: &ArtifactName) -> Result<()> {
        let repository = grant.scope()?.repository();
        let (_, record) = self.find(repository, job, name).await?;
        let batch = Batch::new()
            .require(Condition::Is(record.key.clone(), record.version))
            .delete(record.key)
            .delete(contents(repository, job).part(name.as_str()));
        match self.records.commit(batch).await {
            // Somebody else has deleted it, or a later lease of the job has just replaced it.
            Err(error) if error.kind() == ErrorKind::Conflict => Err(missing(job, name)),
            done => done.map(|_| ()),
        }
    }
}

fn about(repository: &RepositoryId, job: &JobId) -> Key {
    Key::new("artifact").repository(repository).part(job.as_str()).part("about")
}

fn contents(repository: &RepositoryId, job: &JobId) -> Key {
    Key::new("artifact").repository(repository).part(job.as_str()).part("content")
}

fn read(record: &Record) -> Result<Kept> {
    serde_json::from_slice(&record.value).map_err(|error| {
        Error::new(ErrorKind::Tampered, "read an artifact").with("record", &record.key).caused_by(error)
    })
}

fn taken(name: &ArtifactName) -> Error {
    Error::new(ErrorKind::Conflict, "keep an artifact")
        .because("the job has kept other content under that name; give each artifact a name of its own")
        .with("artifact", name)
}

fn missing(job: &JobId, name: &ArtifactName) -> Error {
    Error::new(ErrorKind::NotFound, "look for an artifact")
        .because("the job has kept none of that name; list what there is")
        .with("job", job)
        .with("artifact", name)
}
