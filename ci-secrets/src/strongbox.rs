//! Private keys that somebody else's protocol needs: SSH keys, the keys that sign tokens.
//!
//! They lie in one row for each kind, sealed as a kind of their own: no lease and no
//! [`Purpose`](ci_core::secret::Purpose) of a key ring leads to the key that opens it. The list of the repository says
//! which row that is, so that keys that were deleted, or put back to an earlier state, are no keys.
//!
//! A change replaces the row, together with the list and an entry in the audit log. Whoever is killed in between has
//! changed nothing.

use ci_core::audit::{Actor, Entry};
use ci_core::id::RepositoryId;
use ci_core::records::Batch;
use ci_core::seal::Opened;
use ci_core::secret::Mark;
use ci_core::{Error, ErrorKind, Result};
use zeroize::Zeroizing;

use crate::hierarchy::Current;
use crate::vault::{Single, Snapshot, Vault, about};

/// The keys of one kind of one repository.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Strongbox<'a> {
    pub(crate) vault: &'a Vault,
    pub(crate) repository: &'a RepositoryId,
    pub(crate) kind: Single,
}

/// What becomes of what lies in a box.
pub(crate) enum Change {
    /// This takes its place.
    Fill(Zeroizing<Vec<u8>>),
    /// It is deleted.
    Empty,
}

impl Strongbox<'_> {
    /// What lies in it, if anything does.
    pub(crate) async fn open(&self) -> Result<Option<Opened>> {
        self.vault.single(self.repository, self.kind).await
    }

    /// Changes what lies in it, in one transaction with `entry`, if the right to it holds `still`. `edit` gets what lies
    /// in it, or why that does not open, and says what becomes of it; `None` when that is so already, and then there is no
    /// entry either.
    pub(crate) async fn change(
        &self,
        entry: Entry,
        still: &(dyn Fn() -> Result<()> + Sync),
        edit: impl Fn(Result<Option<Opened>>) -> Result<Option<Change>> + Sync,
    ) -> Result<()> {
        let commit = async |audit: Batch| {
            let before = self.vault.snapshot(self.repository).await?;
            let change = match edit(self.found(before.as_ref()).await?) {
                Ok(Some(change)) => change,
                Ok(None) => return Ok(Ok(None)),
                // Past the audit log, which takes a conflict for one of its own.
                Err(error) => return Ok(Err(error)),
            };
            let (batch, mark) = self.written(before, change).await?;
            still()?;
            self.vault.records.commit(batch.and(audit)).await?;
            Ok(Ok(Some(mark)))
        };
        match self.vault.audit.attempt(self.repository.tenant(), entry, commit).await?? {
            Some(mark) => self.vault.remember(self.repository, &mark).await,
            None => Ok(()),
        }
    }

    /// What lies in it by the list of `before`, or why that does not open.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Conflict`] when that is because the list is another one by now.
    async fn found(&self, before: Option<&Snapshot>) -> Result<Result<Option<Opened>>> {
        let Some(before) = before else { return Ok(Ok(None)) };
        let found = self.vault.single_of(self.repository, before, self.kind).await;
        match &found {
            Err(error) if self.vault.is_outdated(self.repository, &before.record, error).await? => {
                Err(overtaken())
            }
            _ => Ok(found),
        }
    }

    /// What writes `change` and the list that follows `before`, and what to remember of that.
    async fn written(&self, before: Option<Snapshot>, change: Change) -> Result<(Batch, Mark)> {
        let Self { vault, repository, kind } = *self;
        let Current { key, still } = vault.hierarchy.current_to_write(repository).await?;
        // The repository's first key was made just now, and a list with it.
        let before = before.ok_or_else(overtaken)?;
        let next = before.manifest.next();
        let (row, next) = match change {
            Change::Fill(plain) => kind.fill(repository, &key, &plain, next),
            Change::Empty => kind.empty(repository, next),
        };
        let (list, mark) = before.replace(repository, &key, &next);
        Ok((row.and(list).require(still), mark))
    }

    /// An entry for the audit log about this repository.
    pub(crate) fn entry(&self, action: &str, actor: impl Into<Actor>) -> Entry {
        about(Entry::new(action, actor), self.repository)
    }

    pub(crate) fn tampered(&self) -> Error {
        self.kind.tampered()
    }
}

/// For the audit log, which tries again.
fn overtaken() -> Error {
    Error::new(ErrorKind::Conflict, "change stored keys")
        .because("somebody else changes them at the same time")
}
