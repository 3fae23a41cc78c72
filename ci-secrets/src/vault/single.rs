//! What a repository has one row of at most, beside its secrets: the decoy, and private keys of each kind.
//!
//! Whether there is such a row, and which, stands in the repository's list.

use bytes::Bytes;
use ci_core::id::RepositoryId;
use ci_core::records::{Batch, Key, Record};
use ci_core::seal::{DataKey, Opened, key_id};
use ci_core::{Error, ErrorKind, Result};

use super::context::Kind;
use super::manifest::{Manifest, digest};
use super::snapshot::{MOST_ROUNDS, Snapshot};
use super::{Keys, Vault, row};

/// A row of which there is one at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Single {
    /// The decoy, which every repository has that has a key.
    Canary,
    /// The SSH keys of the repository.
    SshKeys,
    /// The keys of an issuer of identity tokens.
    TokenKeys,
}

impl Single {
    pub(super) const ALL: [Self; 3] = [Self::Canary, Self::SshKeys, Self::TokenKeys];

    /// What it is called in keys of records, in the list and in errors.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Canary => "canary",
            Self::SshKeys => "ssh-keys",
            Self::TokenKeys => "token-keys",
        }
    }

    fn kind(self) -> Kind {
        match self {
            Self::Canary => Kind::Canary,
            Self::SshKeys => Kind::SshKeys,
            Self::TokenKeys => Kind::TokenKeys,
        }
    }

    pub(super) fn place(self, repository: &RepositoryId) -> Key {
        row::folder(repository).part(self.as_str())
    }

    /// The row that holds `plain`, in place of the one that is there, and the list that goes with it.
    pub(crate) fn fill(
        self,
        repository: &RepositoryId,
        key: &DataKey,
        plain: &[u8],
        mut list: Manifest,
    ) -> (Batch, Manifest) {
        let kind = self.kind();
        let sealed: Bytes = kind.key(key).seal(&row::context(kind, repository, key), plain);
        list.singles.insert(self, digest(&sealed));
        (Batch::new().put(self.place(repository), sealed), list)
    }

    /// What deletes the row, which need not be the one that was stored, and the list that goes with it.
    pub(crate) fn empty(self, repository: &RepositoryId, mut list: Manifest) -> (Batch, Manifest) {
        list.singles.remove(&self);
        (Batch::new().delete(self.place(repository)), list)
    }

    pub(crate) fn tampered(self) -> Error {
        match self {
            Self::Canary => Error::new(ErrorKind::Tampered, "read the canary")
                .because("the decoy of the repository is not what was stored")
                .detail("put the latest copy of the database back, or erase the repository and have its secrets set anew"),
            _ => Error::new(ErrorKind::Tampered, "read stored keys")
                .because("they are not what was stored; replace them, or bring the row back from a copy of the database")
                .with("kind", self.as_str()),
        }
    }
}

impl Vault {
    /// What is in such a row of `repository`; `None` when there is none, and must be none.
    pub(crate) async fn single(&self, repository: &RepositoryId, single: Single) -> Result<Option<Opened>> {
        for _ in 0..MOST_ROUNDS {
            let Some(snapshot) = self.snapshot(repository).await? else { return Ok(None) };
            match self.single_of(repository, &snapshot, single).await {
                Err(error) if self.is_outdated(repository, &snapshot.record, &error).await? => {}
                opened => return opened,
            }
        }
        Err(Error::new(ErrorKind::Unavailable, "read a row")
            .because("the list is being changed over and over"))
    }

    /// What is in such a row now, if it is what `snapshot` says.
    pub(crate) async fn single_of(
        &self,
        repository: &RepositoryId,
        snapshot: &Snapshot,
        single: Single,
    ) -> Result<Option<Opened>> {
        let record = self.records.get(&single.place(repository)).await?;
        self.open_single(&self.keys(repository), &snapshot.manifest, single, record).await
    }

    /// What is in `record`, if it is what the list says; `None` when there is none and the list has none.
    pub(super) async fn open_single(
        &self,
        keys: &Keys<'_>,
        list: &Manifest,
        single: Single,
        record: Option<Record>,
    ) -> Result<Option<Opened>> {
        let Record { value, .. } = match (list.singles.get(&single), record) {
            (None, None) => return Ok(None),
            (Some(listed), Some(record)) if digest(&record.value) == *listed => record,
            _ => return Err(single.tampered()),
        };
        let (key, kind) = (keys.get(&key_id(&value)?).await?, single.kind());
        kind.key(&key).open(&row::context(kind, keys.repository, &key), &value).map(Some)
    }
}
