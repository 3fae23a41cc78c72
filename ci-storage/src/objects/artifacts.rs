//! Artifacts: an object each, and a sealed record that names it.

use async_trait::async_trait;
use ci_core::access::{Grant, Read, Scope, Write};
use ci_core::artifact::{Artifact, ArtifactStore};
use ci_core::id::{ArtifactName, Digest, JobId};
use ci_core::queue::Claim;
use ci_core::records::{Batch, Condition, Key, Record};
use ci_core::secret::Purpose;
use ci_core::{ByteStream, Error, ErrorKind, Result, stream};

use futures_util::TryStreamExt as _;
use futures_util::future::ready;
use sha2::{Digest as _, Sha256};

use super::Objects;
use super::sealed::{self, ObjectName, Stored};

/// The artifacts among [`Objects`]; [`Objects::artifacts`] makes it, and the example there uses it.
///
/// A job's artifact may be as large as its [`Limits`](ci_core::job::Limits) say. An artifact that is deleted is
/// gone for readers at once; whoever is reading it then may still come to its end.
#[derive(Clone, Debug)]
pub struct ObjectArtifacts {
    objects: Objects,
}

impl ObjectArtifacts {
    pub(super) fn new(objects: Objects) -> Self {
        Self { objects }
    }

    async fn find(
        &self,
        scope: Scope<'_>,
        job: &JobId,
        name: &ArtifactName,
    ) -> Result<Option<(Record, Stored)>> {
        let record = self.objects.records.get(&folder(&scope, job).part(name.as_str())).await?;
        let Some(record) = record else { return Ok(None) };
        let stored = self.objects.describe(scope, &Purpose::artifact(job, name), &record).await?;
        Ok(Some((record, stored)))
    }

    /// Lets the artifact be what was uploaded, and returns the object that it was in an earlier lease.
    async fn keep(
        &self,
        claim: &Claim,
        name: &ArtifactName,
        stored: &Stored,
        earlier: Option<(Record, Stored)>,
    ) -> Result<Option<ObjectName>> {
        let place = folder(&claim.scope()?, claim.job()).part(name.as_str());
        let held = Batch::new().require(Condition::Held(claim.fence()?.clone()));
        let (batch, earlier) = match earlier {
            None => (held.require(Condition::Absent(place.clone())), None),
            Some((record, earlier)) => {
                let batch = held.require(Condition::Is(place.clone(), record.version));
                (batch.delete(earlier.object.mark()), Some(earlier.object))
            }
        };
        let purpose = Purpose::artifact(claim.job(), name);
        match self.objects.publish(claim.scope()?, &purpose, place, stored, batch).await {
            Ok(()) => Ok(earlier),
            Err(error) if error.kind() == ErrorKind::Conflict => Err(exists(name)),
            Err(error) => Err(error),
        }
    }
}

#[async_trait]
impl ArtifactStore for ObjectArtifacts {
    async fn put(&self, claim: &Claim, name: &ArtifactName, content: ByteStream<'_>) -> Result<Artifact> {
        let (purpose, token) = (Purpose::artifact(claim.job(), name), claim.fence()?.token);
        let earlier = self.find(claim.scope()?, claim.job(), name).await?;
        let content = stream::limited(content, claim.spec().limits.artifact);
        if let Some((_, stored)) = earlier.as_ref().filter(|(_, stored)| stored.token >= token) {
            let is_same = digest(content).await? == stored.digest;
            return if is_same { Ok(artifact(name.clone(), stored)) } else { Err(exists(name)) };
        }
        let stored = self.objects.upload(claim.scope()?, &purpose, token, content).await?;
        let kept = self.keep(claim, name, &stored, earlier).await;
        self.objects.settle(&stored, kept).await?;
        Ok(artifact(name.clone(), &stored))
    }

    async fn list(&self, grant: &Grant<Read>, job: &JobId) -> Result<Vec<Artifact>> {
        const PAGE: usize = 500;
        let prefix = folder(&grant.scope()?, job);
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = self.objects.records.list(&prefix, after.as_ref(), PAGE).await?;
            let Some(last) = page.last() else { return Ok(found) };
            after = Some(last.key.clone());
            for record in &page {
                // An artifact's name is plain in a key, and the record opens under its own name only.
                let name = record.key.as_str().rsplit('/').next().unwrap_or_default();
                let name = ArtifactName::parse(name).map_err(|_| sealed::tampered())?;
                let purpose = Purpose::artifact(job, &name);
                let stored = self.objects.describe(grant.scope()?, &purpose, record).await?;
                found.push(artifact(name, &stored));
            }
        }
    }

    async fn get(
        &self,
        grant: &Grant<Read>,
        job: &JobId,
        name: &ArtifactName,
    ) -> Result<ByteStream<'static>> {
        let (record, stored) =
            self.find(grant.scope()?, job, name).await?.ok_or_else(|| missing(job, name))?;
        let purpose = Purpose::artifact(job, name);
        if let Some(content) = self.objects.download(grant.scope()?, &purpose, &stored).await? {
            return Ok(content);
        }
        // The object may have been deleted or replaced together with its record since that was read.
        match self.objects.records.get(&record.key).await? {
            None => Err(missing(job, name)),
            Some(now) if now.version == record.version => Err(sealed::tampered().with("artifact", name)),
            Some(_) => Err(Error::new(ErrorKind::Unavailable, "read an artifact")
                .because("it is being replaced; try again")),
        }
    }

    async fn delete(&self, grant: &Grant<Write>, job: &JobId, name: &ArtifactName) -> Result<()> {
        let (record, stored) =
            self.find(grant.scope()?, job, name).await?.ok_or_else(|| missing(job, name))?;
        let batch = Batch::new()
            .require(Condition::Is(record.key.clone(), record.version))
            .delete(record.key)
            .delete(stored.object.mark());
        match self.objects.records.commit(batch).await {
            Ok(_) => {}
            // Only somebody else who deleted it can have been faster: its job writes it once.
            Err(error) if error.kind() == ErrorKind::Conflict => return Err(missing(job, name)),
            Err(error) => return Err(error),
        }
        self.objects.discard(&stored.object).await;
        Ok(())
    }
}

fn folder(scope: &Scope<'_>, job: &JobId) -> Key {
    Key::new("artifact").repository(scope.repository()).part(job.as_str())
}

async fn digest(content: ByteStream<'_>) -> Result<Digest> {
    let hash = content.try_fold(Sha256::new(), |hash, piece| ready(Ok(hash.chain_update(piece))));
    Ok(Digest::from_sha256(hash.await?.finalize().into()))
}

fn artifact(name: ArtifactName, stored: &Stored) -> Artifact {
    Artifact { name, size: sealed::size(stored), digest: stored.digest.clone() }
}

fn exists(name: &ArtifactName) -> Error {
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
