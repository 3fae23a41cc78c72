//! A log of every use of power in which a change leaves a trace.
//!
//! Every tenant has a chain: an entry holds the hash of the one before, and the chain's head holds the number
//! and the hash of the last. An entry that was changed, removed, added or moved breaks the chain. An entry calls people by
//! [pseudonyms](Audit::pseudonym), and holds neither a secret nor a name.
//!
//! # What takes something outside of the store
//!
//! The hashes have no key. Somebody who can write to the store could make a whole new chain, cut off its end, or put the
//! store back to what it once was, and the chain fits. To notice that takes something that they cannot reach:
//!
//! | What is kept elsewhere | What checks it | By whom |
//! |---|---|---|
//! | a [`Head`] that was returned or printed | [`Audit::verify_since`] | the service |
//! | a signed [`Checkpoint`] that was exported | [`Audit::verify_checkpoint`], or [`Checkpoint::verify`] over exported entries | anybody who has the [`VerifyingKey`] |
//! | the number of entries and their hash in a [`FreshnessAnchor`] | [`Audit::verify_fresh`] | the service, when it starts |
//!
//! Each of them notices that entries which it covers were cut off, reordered, rewritten, or replaced by those of a fork. Of
//! entries that came after it, nothing is known: keep one often. What was never in the log is not in it.
//!
//! # What the crates write
//!
//! | Action | Who | When |
//! |---|---|---|
//! | `job.opened`, `job.finished` | job | a worker begins a job; its outcome is recorded, in the same commit |
//! | `debug.opened`, `debug.closed` | person | a debug session |
//! | `secret.set`, `secret.deleted` | person | a secret changes |
//! | `secret.leased` | job | before values are released |
//! | `secrets.revoked`, `repository.erased` | operator | all secrets of a repository are revoked; its keys are destroyed |
//! | `root_key.rotating`, `tenant_key.rotated`, `repository_key.rotated` | operator | a rotation begins |
//! | `tenant_key.destroyed`, `repository_key.destroyed` | operator | nothing depends on a former key any more, or it is retired |
//! | `ssh_key.made`, `ssh_key.activated`, `ssh_key.removed`, `ssh_key.deleted` | person | an SSH key changes |
//! | `ssh_key.replaced` | operator | all SSH keys of a repository are replaced |
//! | `ssh_key.used` | job | before a signature is released |
//! | `token_keys.made` | issuer | keys that sign identity tokens are made |
//! | `token_keys.replaced` | operator | they are replaced at once |
//! | `token.issued` | job | before an identity token is released |
//!
//! Beside these stands what an [`Operator`](crate::operator::Operator) was asked for: every act, under the name that the
//! caller gives it. What a product does itself it [records](Audit::record) under names of its own.
//!
//! ```text
//! audit/<tenant>/entry/<number>     one entry
//! audit/<tenant>/head               the end of the chain
//! audit/<tenant>/checkpoint         the latest checkpoint
//! audit/<tenant>/person/..          what links people to their pseudonyms
//! ```

mod chain;
mod checkpoint;
mod entry;
mod note;
mod person;
mod tree;
mod verify;

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use self::checkpoint::Stored;
use self::verify::has_come_to;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Digest, TenantId};
use crate::operator::Act;
use crate::records::{Batch, Condition, Key, Record, Records};
#[cfg(doc)]
use crate::secret::FreshnessAnchor;

pub use self::chain::{Chain, Head};
pub use self::checkpoint::Checkpoint;
pub use self::entry::{Actor, Entry, Logged};
pub use self::note::{SigningKey, VerifyingKey};

/// The audit log over a store of records.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use ci_core::audit::{Audit, Entry};
/// use ci_core::id::TenantId;
/// use ci_core::memory::Rig;
///
/// let (rig, tenant) = (Rig::new()?, TenantId::parse("acme")?);
/// let audit = Audit::new(rig.records(), rig.clock.clone());
/// audit.record(&tenant, Entry::new("secret.set", &Rig::user("ada")?).about("repository", "github/1")).await?;
/// let kept = audit.verify(&tenant).await?; // to be kept where whoever can write to the store cannot
///
/// audit.record(&tenant, Entry::new("secret.leased", "job")).await?;
/// assert_eq!(audit.verify_since(&tenant, &kept).await?.count, 2);
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Audit {
    records: Arc<dyn Records>,
    clock: Arc<dyn Clock>,
    has_operator: Arc<AtomicBool>,
    notary: Option<Notary>,
}

/// What signs checkpoints, and after how many entries.
#[derive(Clone, Debug)]
struct Notary {
    key: Arc<SigningKey>,
    every: NonZeroU64,
}

impl Audit {
    /// The audit log in `records`.
    pub fn new(records: Arc<dyn Records>, clock: Arc<dyn Clock>) -> Self {
        Self { records, clock, has_operator: Arc::new(AtomicBool::new(false)), notary: None }
    }

    /// The same log, which signs a checkpoint with every `every`th entry, in one transaction with it, and when it is
    /// [asked to](Self::checkpoint). What it signs goes on from the checkpoint before: a past that was rewritten since is
    /// not signed, and an entry that would be is refused.
    ///
    /// # Example
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
    /// use std::num::NonZeroU64;
    /// use std::sync::Arc;
    /// use ci_core::audit::{Checkpoint, Entry, SigningKey, VerifyingKey};
    /// use ci_core::memory::Rig;
    /// # use ci_core::id::TenantId;
    ///
    /// # let (rig, tenant) = (Rig::new()?, TenantId::parse("acme")?);
    /// let key = Arc::new(SigningKey::random("ci.example.org/audit")?);
    /// let audit = rig.audit.clone().with_checkpoints(key.clone(), NonZeroU64::new(1_000).expect("not zero"));
    /// audit.record(&tenant, Entry::new("job.opened", "job")).await?;
    /// let exported = audit.checkpoint(&tenant).await?.to_string(); // mail it, print it, publish it
    ///
    /// // An auditor, who was given the public key at the beginning:
    /// let public = VerifyingKey::parse(&key.verifying_key(&tenant).to_string())?;
    /// let checkpoint = Checkpoint::open(&exported, &public)?;
    /// assert_eq!(checkpoint.size(), 1);
    /// audit.verify_checkpoint(&tenant, &checkpoint).await?; // the log still begins with what was signed
    /// # Ok::<(), ci_core::Error>(()) })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn with_checkpoints(self, key: Arc<SigningKey>, every: NonZeroU64) -> Self {
        Self { notary: Some(Notary { key, every }), ..self }
    }

    /// Adds an entry to the chain of `tenant`, durably.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] when it cannot be written: do not do then what it was to record;
    /// [`ErrorKind::Tampered`] when the chain is broken where the entry would go, or what a checkpoint is to sign is.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, the entry may have been written.
    pub async fn record(&self, tenant: &TenantId, entry: Entry) -> Result<()> {
        self.attempt(tenant, entry, |batch| async { self.records.commit(batch).await.map(drop) }).await
    }

    /// Adds an entry in the same transaction as something else: `commit` gets the batch that adds it, and is
    /// called again with a new one when another entry came first. Returns what `commit` did.
    ///
    /// # Errors
    ///
    /// What `commit` returns, except for [`ErrorKind::Conflict`], after which it is called again; as for
    /// [`record`](Self::record).
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, what was committed may have happened, together with the entry.
    pub async fn attempt<T, F>(
        &self,
        tenant: &TenantId,
        entry: Entry,
        commit: impl Fn(Batch) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        // Many jobs of a tenant may end at once; each round one of them succeeds.
        const MOST_ROUNDS: usize = 1_000;
        let entry = self.named(tenant, entry).await?;
        for _ in 0..MOST_ROUNDS {
            let (batch, head, place) = self.prepare(tenant, &entry).await?;
            match commit(batch).await {
                Err(error) if error.kind() == ErrorKind::Conflict => {
                    // Whoever was faster has moved the head too.
                    if self.records.get(&place).await?.is_some() && self.head(tenant).await?.0 == head {
                        return Err(broken(tenant, head.count));
                    }
                }
                done => return done,
            }
        }
        Err(busy("write to the audit log"))
    }

    /// The entry, with what the log calls the person who did it.
    async fn named(&self, tenant: &TenantId, mut entry: Entry) -> Result<Entry> {
        if let Some(person) = entry.person.take() {
            entry.actor = self.name(tenant, &person).await?;
        }
        Ok(entry)
    }

    async fn head(&self, tenant: &TenantId) -> Result<(Head, Condition)> {
        let key = head_key(tenant);
        match self.records.get(&key).await? {
            None => Ok((Head::start(), Condition::Absent(key))),
            Some(record) => Ok((read(&record)?, Condition::Is(key, record.version))),
        }
    }

    /// The batch that adds an entry, the head that it goes behind, and its place.
    async fn prepare(&self, tenant: &TenantId, entry: &Entry) -> Result<(Batch, Head, Key)> {
        let latest = match &self.notary {
            // Before the head: what others sign meanwhile may be ahead of it.
            Some(Notary { key, .. }) => self.latest(tenant, key).await?,
            None => None,
        };
        let (head, condition) = self.head(tenant).await?;
        let (at, previous) = (self.clock.now(), head.hash.clone());
        let logged = Logged { number: head.count, at, previous, entry: entry.clone() };
        let value = write(&logged)?;
        // Whoever can write to the store can write any number there.
        let count = head.count.checked_add(1).ok_or_else(|| broken(tenant, head.count))?;
        let next = Head { count, hash: Digest::of(&value) };
        let place = entries_key(tenant).number(logged.number);
        let mut batch = Batch::new()
            .require(condition)
            .require(Condition::Absent(place.clone()))
            .put(place.clone(), value.clone())
            .put(head_key(tenant), write(&next)?);
        if let Some(Notary { key, every }) = &self.notary
            && next.count.is_multiple_of(every.get())
        {
            let latest = latest.map(|(_, chain)| chain);
            let mut chain = self.gone_on(tenant, latest.unwrap_or_default(), &head).await?;
            chain.push(&value)?;
            batch = batch.put(checkpoint_key(tenant), write(&Stored::sign(key, tenant, &chain)?.0)?);
        }
        Ok((batch, head, place))
    }

    /// Signs how far the chain of `tenant` has come, after checking all of it, and keeps that as the latest checkpoint.
    /// Export it: only outside of the store does it say anything about whoever can write to the store.
    ///
    /// # Errors
    ///
    /// As for [`verify`](Self::verify), also when the chain is not what was signed before; [`ErrorKind::Unsupported`]
    /// without a [key](Self::with_checkpoints).
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, the checkpoint may have been kept.
    pub async fn checkpoint(&self, tenant: &TenantId) -> Result<Checkpoint> {
        // Others may sign one at the same time, and of two the later one is kept.
        const MOST_ROUNDS: usize = 16;
        let Notary { key, .. } = self.notary.as_ref().ok_or_else(checkpoint::no_key)?;
        let place = checkpoint_key(tenant);
        for _ in 0..MOST_ROUNDS {
            let record = self.records.get(&place).await?;
            let latest = opened(tenant, key, record.as_ref())?;
            let chain = self.verified(tenant, |chain| match &latest {
                Some((latest, _)) => latest.check(chain),
                None => Ok(()),
            });
            let chain = chain.await?;
            if let Some((latest, _)) = latest {
                has_come_to(tenant, chain.head(), latest.size())?;
            }
            let (stored, checkpoint) = Stored::sign(key, tenant, &chain)?;
            let unchanged = match &record {
                None => Condition::Absent(place.clone()),
                Some(record) => Condition::Is(place.clone(), record.version),
            };
            let batch = Batch::new().require(unchanged).put(place.clone(), write(&stored)?);
            match self.records.commit(batch).await {
                Ok(_) => return Ok(checkpoint),
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                Err(error) => return Err(error),
            }
        }
        Err(busy("sign a checkpoint"))
    }

    /// The latest checkpoint that `key` has signed for the log that it is for, if the store has one. Whoever can write to
    /// the store can remove it, or put an earlier one back.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Tampered`] when it is not what was stored; [`ErrorKind::Unavailable`] when it cannot be read.
    pub async fn latest_checkpoint(
        &self,
        tenant: &TenantId,
        key: &VerifyingKey,
    ) -> Result<Option<Checkpoint>> {
        let Some(record) = self.records.get(&checkpoint_key(tenant)).await? else { return Ok(None) };
        Ok(read::<Stored>(&record)?.open(key)?.map(|(checkpoint, _)| checkpoint))
    }

    async fn latest(&self, tenant: &TenantId, key: &SigningKey) -> Result<Option<(Checkpoint, Chain)>> {
        let record = self.records.get(&checkpoint_key(tenant)).await?;
        opened(tenant, key, record.as_ref())
    }

    /// The entries of `tenant` from number `from` on, at most 500.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when the act is for another tenant; [`ErrorKind::Tampered`] when one cannot be read;
    /// [`ErrorKind::Unavailable`] when the log cannot be read.
    pub async fn entries(&self, act: &Act<'_>, tenant: &TenantId, from: u64) -> Result<Vec<Logged>> {
        act.covers(tenant)?;
        self.page(tenant, from).await?.iter().map(read).collect()
    }

    /// The entries of `tenant` from number `from` on, at most 500, as they are stored: for [`Chain`], which checks them
    /// elsewhere.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when the act is for another tenant; [`ErrorKind::Unavailable`] when the log cannot be read.
    pub async fn export(&self, act: &Act<'_>, tenant: &TenantId, from: u64) -> Result<Vec<Bytes>> {
        act.covers(tenant)?;
        Ok(self.page(tenant, from).await?.into_iter().map(|record| record.value).collect())
    }

    async fn page(&self, tenant: &TenantId, from: u64) -> Result<Vec<Record>> {
        const PAGE: usize = 500;
        let after = from.checked_sub(1).map(|before| entries_key(tenant).number(before));
        self.records.list(&entries_key(tenant), after.as_ref(), PAGE).await
    }

    pub(crate) fn take_operator(&self) -> bool {
        !self.has_operator.swap(true, Ordering::AcqRel)
    }
}

/// What is stored as the latest checkpoint, unless another key has signed it.
fn opened(
    tenant: &TenantId,
    key: &SigningKey,
    record: Option<&Record>,
) -> Result<Option<(Checkpoint, Chain)>> {
    match record {
        Some(record) => read::<Stored>(record)?.open(&key.verifying_key(tenant)),
        None => Ok(None),
    }
}

fn entries_key(tenant: &TenantId) -> Key {
    Key::new("audit").part(tenant.as_str()).part("entry")
}

fn head_key(tenant: &TenantId) -> Key {
    Key::new("audit").part(tenant.as_str()).part("head")
}

fn checkpoint_key(tenant: &TenantId) -> Key {
    Key::new("audit").part(tenant.as_str()).part("checkpoint")
}

fn write<T: Serialize>(value: &T) -> Result<Bytes> {
    let json = serde_json::to_vec(value);
    json.map(Bytes::from)
        .map_err(|error| Error::new(ErrorKind::Internal, "write to the audit log").caused_by(error))
}

fn read<T: for<'de> Deserialize<'de>>(record: &Record) -> Result<T> {
    serde_json::from_slice(&record.value)
        .map_err(|error| tampered("read the audit log").with("record", &record.key).caused_by(error))
}

fn broken(tenant: &TenantId, number: u64) -> Error {
    tampered("verify the audit log")
        .because("an entry was changed, removed, added or moved")
        .with("tenant", tenant)
        .with("entry", number)
}

fn tampered(operation: &'static str) -> Error {
    Error::new(ErrorKind::Tampered, operation)
}

fn busy(operation: &'static str) -> Error {
    Error::new(ErrorKind::Unavailable, operation).because("too many others write to it")
}
