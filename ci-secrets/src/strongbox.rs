//! Private keys that somebody else's protocol needs: SSH keys, the keys that sign tokens.
//!
//! They lie in one row each, sealed as a kind of their own, under a key that nothing but this module derives: no
//! lease and no [`Purpose`](ci_core::secret::Purpose) of a key ring leads there.
//!
//! ```text
//! secret/<tenant>/<forge>/<native>/<kind>    the keys of one kind, sealed
//! ```
//!
//! A change replaces the row, together with its entry in the audit log. Whoever is killed in between has changed
//! nothing.

use std::sync::{Mutex, PoisonError};

use ci_core::audit::{Actor, Entry};
use ci_core::id::RepositoryId;
use ci_core::records::{Batch, Condition, Key, Version};
use ci_core::seal::{Context, DataKey, Opened, key_id};
use ci_core::{Error, ErrorKind, Result};
use zeroize::Zeroizing;

use crate::hierarchy::Current;
use crate::vault::Vault;
use crate::vault::row;

const FORMAT: u8 = 1;

/// The kinds that there are.
pub(crate) const KINDS: [&str; 2] = [SSH_KEYS, TOKEN_KEYS];
/// The SSH keys of a repository.
pub(crate) const SSH_KEYS: &str = "ssh-keys";
/// The keys of an issuer of identity tokens.
pub(crate) const TOKEN_KEYS: &str = "token-keys";

/// The keys of one kind of one repository.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Strongbox<'a> {
    pub(crate) vault: &'a Vault,
    pub(crate) repository: &'a RepositoryId,
    pub(crate) kind: &'static str,
}

/// What lies in a box.
pub(crate) struct Content {
    pub(crate) plain: Opened,
    version: Version,
    is_current: bool,
}

impl Strongbox<'_> {
    /// What lies in it, if it was ever filled.
    pub(crate) async fn open(&self) -> Result<Option<Content>> {
        let Some(record) = self.vault.records.get(&self.place()).await? else { return Ok(None) };
        let id = key_id(&record.value)?;
        let key = self.vault.hierarchy.key(self.repository, &id).await?;
        let plain = self.derived(&key).open(&self.context(&key), &record.value)?;
        let current = self.vault.hierarchy.current(self.repository).await?;
        Ok(Some(Content { plain, version: record.version, is_current: *current.id() == id }))
    }

    /// What puts `plain` in place of what was there `before`.
    async fn fill(&self, plain: &[u8], before: Option<&Content>) -> Result<Batch> {
        self.put(plain, self.unchanged(before.map(|content| content.version))).await
    }

    /// What puts `plain` in place of whatever is there, which need not open.
    pub(crate) async fn refill(&self, plain: &[u8]) -> Result<Batch> {
        let before = self.vault.records.get(&self.place()).await?;
        self.put(plain, self.unchanged(before.map(|record| record.version))).await
    }

    /// What deletes whatever is there, which need not open; `None` when there is nothing.
    pub(crate) async fn empty(&self) -> Result<Option<Batch>> {
        let before = self.vault.records.get(&self.place()).await?;
        let emptied = |version| Batch::new().require(self.unchanged(Some(version))).delete(self.place());
        Ok(before.map(|record| emptied(record.version)))
    }

    /// Changes what lies in it, in one transaction with `entry`, if the right to it holds `still`. `edit` gets what lies
    /// in it and says what shall, or `None` when that is so already; then there is no entry either.
    pub(crate) async fn change(
        &self,
        entry: Entry,
        still: &(dyn Fn() -> Result<()> + Sync),
        edit: impl Fn(Option<&[u8]>) -> Result<Option<Zeroizing<Vec<u8>>>> + Sync,
    ) -> Result<()> {
        let refused = Mutex::new(None);
        let commit = async |audit: Batch| {
            let before = self.open().await?;
            let plain = match edit(before.as_ref().map(|content| content.plain.as_slice())) {
                Ok(Some(plain)) => plain,
                Ok(None) => return Ok(()),
                // Past the audit log, which takes a conflict for one of its own.
                Err(error) => {
                    *refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    return Ok(());
                }
            };
            let batch = self.fill(&plain, before.as_ref()).await?;
            still()?;
            self.vault.records.commit(batch.and(audit)).await.map(drop)
        };
        self.vault.audit.attempt(self.repository.tenant(), entry, commit).await?;
        refused.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    /// Seals the content under the repository's current key, and returns whether it was under another.
    pub(crate) async fn reseal(&self) -> Result<bool> {
        const MOST_ROUNDS: usize = 16;
        for _ in 0..MOST_ROUNDS {
            let Some(before) = self.open().await?.filter(|content| !content.is_current) else {
                return Ok(false);
            };
            match self.vault.records.commit(self.fill(&before.plain, Some(&before)).await?).await {
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                done => return done.map(|_| true),
            }
        }
        Err(Error::new(ErrorKind::Unavailable, "seal keys anew")
            .because("they are being changed over and over"))
    }

    /// An entry for the audit log about this repository.
    pub(crate) fn entry(&self, action: &str, actor: impl Into<Actor>) -> Entry {
        Entry::new(action, actor)
            .about("forge", self.repository.forge())
            .about("repository", self.repository.native())
    }

    pub(crate) fn tampered(&self) -> Error {
        Error::new(ErrorKind::Tampered, "read stored keys").with("kind", self.kind)
    }

    async fn put(&self, plain: &[u8], unchanged: Condition) -> Result<Batch> {
        let Current { key, still } = self.vault.hierarchy.current_to_write(self.repository).await?;
        let sealed = self.derived(&key).seal(&self.context(&key), plain);
        Ok(Batch::new().require(still).require(unchanged).put(self.place(), sealed))
    }

    fn unchanged(&self, version: Option<Version>) -> Condition {
        version
            .map_or_else(|| Condition::Absent(self.place()), |version| Condition::Is(self.place(), version))
    }

    fn place(&self) -> Key {
        row::folder(self.repository).part(self.kind)
    }

    fn derived(&self, key: &DataKey) -> DataKey {
        key.derive(&Context::new("purpose").field(self.kind))
    }

    fn context(&self, key: &DataKey) -> Context {
        Context::new(self.kind)
            .field([FORMAT])
            .field(self.repository.tenant().as_str())
            .field(self.repository.forge().as_str())
            .field(self.repository.native().as_str())
            .field(key.id().as_str())
    }
}
