//! The list of a repository's secrets and private keys as it was read, and whether it is the latest.

use bytes::Bytes;
use ci_core::id::{KeyId, RepositoryId};
use ci_core::records::{Batch, Condition, Record};
use ci_core::seal::{DataKey, key_id};
use ci_core::secret::Mark;
use ci_core::{Error, ErrorKind, Result};

use super::context::Kind;
use super::manifest::Manifest;
use super::{Keys, Vault, row};
use crate::erasure::erased;

const READ: &str = "read the list of secrets";
/// How often somebody may change a secret while they are read.
pub(super) const MOST_ROUNDS: usize = 16;

/// A manifest, and the record that holds it.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) record: Record,
    pub(crate) manifest: Manifest,
}

impl Snapshot {
    /// Writes `next` in its place, sealed with `key`, if it is still the latest; and what to remember of it.
    pub(crate) fn replace(&self, repository: &RepositoryId, key: &DataKey, next: &Manifest) -> (Batch, Mark) {
        let sealed = seal(repository, key, next);
        let mark = Mark::of(next.generation, &sealed);
        let place = row::manifest(repository);
        let unchanged = Condition::Is(place.clone(), self.record.version);
        (Batch::new().require(unchanged).put(place, sealed), mark)
    }
}

pub(super) fn seal(repository: &RepositoryId, key: &DataKey, manifest: &Manifest) -> Bytes {
    let context = row::context(Kind::Manifest, repository, key);
    Kind::Manifest.key(key).seal(&context, &manifest.to_bytes())
}

impl Vault {
    /// The list of `repository`, or `None` when it never had a key, and so nothing that it seals.
    pub(crate) async fn snapshot(&self, repository: &RepositoryId) -> Result<Option<Snapshot>> {
        for _ in 0..MOST_ROUNDS {
            let Some(record) = self.list_record(repository).await? else { return Ok(None) };
            match self.opened(&self.keys(repository), record.clone()).await {
                // While it was opened, somebody may have moved the anchor on, or sealed it with another key.
                Err(error) if self.is_outdated(repository, &record, &error).await? => {}
                opened => return opened.map(Some),
            }
        }
        Err(Error::new(ErrorKind::Unavailable, READ)
            .because("secrets are being set over and over; call it again"))
    }

    async fn list_record(&self, repository: &RepositoryId) -> Result<Option<Record>> {
        let place = row::manifest(repository);
        let mut record = self.records.get(&place).await?;
        if record.is_none() && self.hierarchy.exists(repository).await? {
            // Key and list are made together; they may have been made just now.
            record = self.records.get(&place).await?;
            if record.is_none() {
                return Err(missing());
            }
        }
        if record.is_none() {
            self.never_was(repository).await?;
        }
        Ok(record)
    }

    /// Opens a list, and asks the anchor whether it is the latest.
    pub(super) async fn opened(&self, keys: &Keys<'_>, record: Record) -> Result<Snapshot> {
        let key = keys.get(&key_id(&record.value)?).await?;
        let context = row::context(Kind::Manifest, keys.repository, &key);
        let plain = Kind::Manifest.key(&key).open(&context, &record.value)?;
        let manifest =
            Manifest::from_bytes(&plain).ok_or_else(|| tampered("it is not written as a list is"))?;
        self.compare(keys.repository, key.id(), &Mark::of(manifest.generation, &record.value)).await?;
        Ok(Snapshot { record, manifest })
    }

    /// Whether `error` may come from that the list of `repository` is another one now than `seen`.
    pub(crate) async fn is_outdated(
        &self,
        repository: &RepositoryId,
        seen: &Record,
        error: &Error,
    ) -> Result<bool> {
        if !matches!(error.kind(), ErrorKind::Tampered | ErrorKind::NotFound) {
            return Ok(false);
        }
        let now = self.records.get(&row::manifest(repository)).await?;
        Ok(now.is_none_or(|now| now.version != seen.version))
    }

    /// Refuses a list that is older than the anchor says, and moves the anchor on where somebody could not.
    async fn compare(&self, repository: &RepositoryId, key: &KeyId, read: &Mark) -> Result<()> {
        let Some(anchor) = &self.anchor else { return Ok(()) };
        match anchor.latest(&row::folder(repository)).await? {
            Some(latest) if latest == *read => Ok(()),
            Some(latest) if latest.number >= read.number => {
                Err(tampered("the database was put back, for the freshness anchor has seen a later one")
                    .detail("put the latest copy back, or accept this one with `Vault::accept_restored`")
                    .with("generation", read.number)
                    .with("later", latest.number))
            }
            // An erasure forgets how far the list had come, and remembers its keys.
            _ if anchor.latest(&erased(repository, key)).await?.is_some() => {
                Err(tampered("the database was put back to before the repository was erased")
                    .detail("put the latest copy back, or erase the repository again"))
            }
            _ => self.remember(repository, read).await,
        }
    }

    /// Moves the anchor on to `mark`, unless somebody has moved it further.
    pub(crate) async fn remember(&self, repository: &RepositoryId, mark: &Mark) -> Result<()> {
        let Some(anchor) = &self.anchor else { return Ok(()) };
        match anchor.advance(&row::folder(repository), mark).await {
            Err(error) if error.kind() == ErrorKind::Conflict => Ok(()),
            done => done,
        }
    }

    /// Refuses a repository without a list that must have had one.
    async fn never_was(&self, repository: &RepositoryId) -> Result<()> {
        let folder = row::folder(repository);
        if !self.records.list(&folder, None, 1).await?.is_empty()
            && !self.hierarchy.exists(repository).await?
        {
            // It may have been made just now; whoever calls asks again then.
            return Err(missing());
        }
        match &self.anchor {
            Some(anchor) if anchor.latest(&folder).await?.is_some() => Err(missing()),
            _ => Ok(()),
        }
    }
}

/// There must be a list, and there is none.
pub(super) fn missing() -> Error {
    tampered("it is missing")
}

fn tampered(reason: &'static str) -> Error {
    Error::new(ErrorKind::Tampered, READ).because(reason).detail(
        "put the latest copy of the database back, or erase the repository and have its secrets set anew",
    )
}
