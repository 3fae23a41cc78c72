//! Erasure: the keys of a repository are destroyed, and the store is looked through for what is left of them.

mod receipt;

use std::collections::BTreeSet;

use ci_core::audit::Entry;
use ci_core::id::{KeyId, RepositoryId};
use ci_core::operator::Act;
use ci_core::records::{Batch, Condition, Key, Record};
use ci_core::secret::Mark;
use ci_core::{Error, ErrorKind, Result};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use crate::Vault;
use crate::hierarchy::layout;
use crate::rotation::notes_of;
use crate::vault::{about, row};

pub use self::receipt::{ErasureReceipt, OutOfReach, Traces};

const ERASE: &str = "erase a repository";
/// How often others may be in the way.
const MOST_ROUNDS: usize = 16;
/// Which bytes of a wrapped key are its salt: random, and of no use to anybody without the rest.
const SALT: std::ops::Range<usize> = 18..50;
/// How many bytes at its end are the key itself, encrypted, and the tag.
const SEALED: usize = 32 + 16;

/// What is written down before anything is destroyed, for whoever has to go on after a crash.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Note {
    keys: BTreeSet<KeyId>,
    /// The complements of the salts of the wrapped keys, so that this is not what is looked for.
    salts: BTreeSet<String>,
}

impl Vault {
    /// Destroys the keys of a repository and then its secrets, looks through the store for what is left of the wrapped
    /// keys, and ends the leases that this vault has given. Whatever was sealed for the repository, here or elsewhere,
    /// can no longer be read: secrets, logs, artifacts, caches, tickets. The audit log gets an entry.
    ///
    /// Another vault over the same records notices at its next use. Copies of the database and of the root
    /// key that lie elsewhere are out of reach; while both exist, so do the secrets. The receipt says so. A vault with an
    /// [anchor](Self::with_anchor) takes no secret out of such a copy again: the anchor keeps the ids of the keys that were
    /// destroyed. In a database whose purge rewrites all records it takes as long as that, twice or three times.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when the act is for another tenant; [`ErrorKind::Unavailable`] when the records or the anchor
    /// cannot be reached now: calling again finishes it.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped a part may have been destroyed; calling again finishes it, and looks for the same
    /// keys.
    ///
    /// # Example
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
    /// use ci_core::access::Read;
    /// use ci_core::id::JobId;
    /// use ci_core::memory::Rig;
    /// use ci_secrets::{KeyRing as _, Purpose};
    /// # let folder = tempfile::tempdir().expect("a folder");
    /// # let root = std::sync::Arc::new(ci_secrets::FileRoot::create(folder.path().join("root.key"))?);
    /// # let rig = Rig::new()?;
    /// # let vault = ci_secrets::Vault::new(rig.records(), rig.audit.clone(), root, rig.clock.clone());
    ///
    /// let (repository, purpose) = (Rig::repository("1", "acme")?, Purpose::log(&JobId::random(), 1));
    /// let grant = rig.grant::<Read>(&Rig::user("ada")?, &repository).await?;
    /// let sealed = vault.seal(grant.scope()?, &purpose, b"hello").await?;
    ///
    /// let act = rig.operator.act(repository.tenant(), "repository.erased").await?;
    /// let receipt = vault.erase(&act, &repository).await?;
    /// assert!(receipt.is_verified() && receipt.keys.len() == 1);
    /// assert!(vault.open(grant.scope()?, &purpose, &sealed).await.is_err());
    /// # Ok::<(), ci_core::Error>(()) })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn erase(&self, act: &Act<'_>, repository: &RepositoryId) -> Result<ErasureReceipt> {
        act.covers(repository.tenant())?;
        let mut rows = self.wrapped_rows(repository).await?;
        let (mut note, resumed) = self.note_erasure(repository, &rows).await?;
        let mut jobs = self.leases.revoke(repository);
        let mut records = self.destroy_all(repository, &note.keys).await?;
        for round in 0.. {
            let made = self.wrapped_rows(repository).await?;
            if made.is_empty() {
                break;
            }
            if round == MOST_ROUNDS {
                return Err(Error::new(ErrorKind::Unavailable, ERASE)
                    .because("others set secrets over and over; stop them, and call it again"));
            }
            // Somebody has set a secret in between, under a new key: whose list of secrets may be gone already.
            (note, _) = self.note_erasure(repository, &made).await?;
            records += self.destroy_all(repository, &note.keys).await?;
            rows.extend(made);
        }
        if let Some(anchor) = &self.anchor {
            anchor.forget(&row::folder(repository)).await?;
        }
        let notes = notes_of(repository);
        if !self.records.list(&notes, None, 1).await?.is_empty() {
            records += self.records.purge(&notes).await?;
        }
        jobs.extend(self.leases.revoke(repository));
        let traces = self.traces(&note, &rows).await?;
        let receipt = ErasureReceipt {
            repository: repository.clone(),
            at: self.clock.now(),
            resumed,
            keys: note.keys.into_iter().collect(),
            records,
            jobs,
            traces,
            out_of_reach: self.out_of_reach(traces),
        };
        self.close_erasure(&receipt).await?;
        Ok(receipt)
    }

    /// The keys first: when it stops half way, what is left cannot be read.
    async fn destroy_all(&self, repository: &RepositoryId, keys: &BTreeSet<KeyId>) -> Result<usize> {
        self.mark_erased(repository, keys).await?;
        let destroyed = self.hierarchy.destroy(repository).await?;
        Ok(destroyed + self.records.purge(&row::folder(repository)).await?)
    }

    /// Has the anchor remember which keys are gone, lest they come back with a copy of the database.
    async fn mark_erased(&self, repository: &RepositoryId, keys: &BTreeSet<KeyId>) -> Result<()> {
        let Some(anchor) = &self.anchor else { return Ok(()) };
        for key in keys {
            anchor.advance(&erased(repository, key), &Mark::of(1, b"erased")).await?;
        }
        Ok(())
    }

    async fn wrapped_rows(&self, repository: &RepositoryId) -> Result<Vec<Record>> {
        const PAGE: usize = 500;
        let folder = layout::wrapped(&layout::repository_folder(repository));
        let (mut rows, mut after) = (Vec::new(), None);
        loop {
            let page = self.records.list(&folder, after.as_ref(), PAGE).await?;
            let Some(last) = page.last() else { return Ok(rows) };
            after = Some(last.key.clone());
            rows.extend(page);
        }
    }

    /// Writes down what is about to be destroyed, beside what an earlier call has written; says whether one had.
    async fn note_erasure(&self, repository: &RepositoryId, rows: &[Record]) -> Result<(Note, bool)> {
        let place = note_place(repository);
        for _ in 0..MOST_ROUNDS {
            let earlier = self.records.get(&place).await?;
            let mut note: Note = match &earlier {
                None => Note::default(),
                // One that somebody has changed is of no use, and must not be in the way.
                Some(record) => serde_json::from_slice(&record.value).unwrap_or_default(),
            };
            note.keys.extend(rows.iter().filter_map(|row| layout::repository_of(&row.key)).map(|(_, id)| id));
            note.salts.extend(rows.iter().filter_map(|row| row.value.get(SALT)).map(hidden));
            let json = serde_json::to_vec(&note)
                .map_err(|error| Error::new(ErrorKind::Internal, ERASE).caused_by(error))?;
            let unchanged = match &earlier {
                None => Condition::Absent(place.clone()),
                Some(record) => Condition::Is(place.clone(), record.version),
            };
            match self.records.commit(Batch::new().require(unchanged).put(place.clone(), json)).await {
                Ok(_) => return Ok((note, earlier.is_some())),
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::new(ErrorKind::Unavailable, ERASE)
            .because("others erase it at the same time; call it again"))
    }

    /// What is left of the wrapped keys: their salts, which were written down, and what this call has seen of the keys.
    async fn traces(&self, note: &Note, rows: &[Record]) -> Result<Traces> {
        let salts = note.salts.iter().filter_map(|salt| shown(salt));
        let sealed = rows.iter().filter_map(|row| row.value.last_chunk::<SEALED>()).map(|key| key.to_vec());
        let mut found = 0;
        for needle in salts.chain(sealed) {
            match self.records.scan_raw(&needle).await {
                Ok(places) => found += places,
                Err(error) if error.kind() == ErrorKind::Unsupported => return Ok(Traces::Unknown),
                Err(error) => return Err(error),
            }
        }
        Ok(if found == 0 { Traces::None } else { Traces::Found(found) })
    }

    fn out_of_reach(&self, traces: Traces) -> Vec<OutOfReach> {
        let mut list = vec![OutOfReach::Backups, OutOfReach::Replicas, OutOfReach::OtherLeases];
        let remembered = self.hierarchy.remembers_for();
        if !remembered.is_zero() {
            list.push(OutOfReach::Memory(remembered));
        }
        if traces == Traces::Unknown {
            list.push(OutOfReach::Files);
        }
        list
    }

    /// Writes the entry, and takes the note away unless something was found, which the next call has to look for.
    async fn close_erasure(&self, receipt: &ErasureReceipt) -> Result<()> {
        let repository = &receipt.repository;
        let traces = match receipt.traces {
            Traces::None => "none".to_owned(),
            Traces::Found(places) => places.to_string(),
            Traces::Unknown => "unknown".to_owned(),
        };
        let entry = Entry::new("repository.erased", "operator")
            .about("keys", receipt.keys.len())
            .about("records", receipt.records)
            .about("leases", receipt.jobs.len())
            .about("traces", traces);
        let commit = async |batch: Batch| {
            let batch = match receipt.traces {
                Traces::Found(_) => batch,
                _ => batch.delete(note_place(repository)),
            };
            self.records.commit(batch).await.map(drop)
        };
        self.audit.attempt(repository.tenant(), about(entry, repository), commit).await
    }
}

/// What the anchor calls a key that was destroyed.
pub(crate) fn erased(repository: &RepositoryId, key: &KeyId) -> Key {
    Key::new("erased").repository(repository).part(key.as_str())
}

fn note_place(repository: &RepositoryId) -> Key {
    Key::new("erasure").repository(repository)
}

/// The salt as it is written down: see [`Note`].
fn hidden(salt: &[u8]) -> String {
    HEXLOWER.encode(&salt.iter().map(|byte| !byte).collect::<Vec<_>>())
}

fn shown(salt: &str) -> Option<Vec<u8>> {
    let salt = HEXLOWER.decode(salt.as_bytes()).ok().filter(|salt| salt.len() == SALT.len())?;
    Some(salt.into_iter().map(|byte| !byte).collect())
}
