//! A log of every use of power in which a change leaves a trace.
//!
//! Every tenant has a chain: an entry holds the hash of the one before, and the chain's head holds the number
//! and the hash of the last. An entry that was changed, removed, added or moved breaks the chain. Somebody who can
//! write to the store could make a whole new chain, or cut off its end: keep the [`Head`] that [`Audit::verify`]
//! returns elsewhere, and pass it to [`Audit::verify_since`] the next time. An entry names people by the forge's ids
//! and never holds a secret or a name.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::clock::{Clock, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Digest, TenantId};
use crate::operator::Act;
use crate::records::{Batch, Condition, Key, Record, Records};

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
/// audit.record(&tenant, Entry::new("secret.set", "github/17").about("repository", "github/1")).await?;
/// let kept = audit.verify(&tenant).await?; // to be kept where whoever can write to the store cannot
///
/// audit.record(&tenant, Entry::new("secret.deleted", "github/17")).await?;
/// assert_eq!(audit.verify_since(&tenant, &kept).await?.count, 2);
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Audit {
    records: Arc<dyn Records>,
    clock: Arc<dyn Clock>,
    pub(crate) has_operator: Arc<AtomicBool>,
}

/// One entry, before it is in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What was done: `secret.leased`.
    pub action: String,
    /// Who did it: a person's id at the forge, `job` or `operator`.
    pub actor: String,
    /// To what, as names and ids.
    pub about: Vec<(String, String)>,
}

impl Entry {
    /// `actor` did `action`.
    pub fn new(action: &str, actor: impl fmt::Display) -> Self {
        Self { action: action.to_owned(), actor: actor.to_string(), about: Vec::new() }
    }

    /// Says to what.
    pub fn about(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.about.push((name.to_owned(), value.to_string()));
        self
    }
}

/// An entry in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logged {
    /// Its number, from 0.
    pub number: u64,
    /// When it was written.
    pub at: Timestamp,
    /// The hash of the entry before it.
    pub previous: Digest,
    /// What it says.
    pub entry: Entry,
}

/// The end of a chain. Who keeps it elsewhere notices when the whole log is put back to an earlier state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// How many entries there are.
    pub count: u64,
    /// The hash of the last one.
    pub hash: Digest,
}

impl Audit {
    /// The audit log in `records`.
    pub fn new(records: Arc<dyn Records>, clock: Arc<dyn Clock>) -> Self {
        Self { records, clock, has_operator: Arc::new(AtomicBool::new(false)) }
    }

    /// Adds an entry to the chain of `tenant`, durably.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] when it cannot be written: do not do then what it was to record;
    /// [`ErrorKind::Tampered`] when the chain is broken where the entry would go.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, the entry may have been written.
    pub async fn record(&self, tenant: &TenantId, entry: Entry) -> Result<()> {
        self.attempt(tenant, entry, |batch| async { self.records.commit(batch).await.map(drop) }).await
    }

    /// Adds an entry in the same transaction as something else: `commit` gets the batch that adds it, and is
    /// called again with a new one when another entry came first.
    ///
    /// # Errors
    ///
    /// What `commit` returns, except for [`ErrorKind::Conflict`], after which it is called again; as for
    /// [`record`](Self::record).
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, what was committed may have happened, together with the entry.
    pub async fn attempt<F>(&self, tenant: &TenantId, entry: Entry, commit: impl Fn(Batch) -> F) -> Result<()>
    where
        F: Future<Output = Result<()>>,
    {
        // Many jobs of a tenant may end at once; each round one of them succeeds.
        const MOST_ROUNDS: usize = 1_000;
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
        Err(Error::new(ErrorKind::Unavailable, "write to the audit log")
            .because("too many others write to it"))
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
        let (head, condition) = self.head(tenant).await?;
        let (at, previous) = (self.clock.now(), head.hash.clone());
        let logged = Logged { number: head.count, at, previous, entry: entry.clone() };
        let value = write(&logged)?;
        let next = Head { count: head.count + 1, hash: Digest::of(&value) };
        let place = entries_key(tenant).number(logged.number);
        let batch = Batch::new()
            .require(condition)
            .require(Condition::Absent(place.clone()))
            .put(place.clone(), value)
            .put(head_key(tenant), write(&next)?);
        Ok((batch, head, place))
    }

    /// Checks the whole chain of `tenant`, which reads all of it, and returns its end.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Tampered`] when an entry was changed, removed, added or moved;
    /// [`ErrorKind::Unavailable`] when the log cannot be read.
    pub async fn verify(&self, tenant: &TenantId) -> Result<Head> {
        self.verify_since(tenant, &Head::start()).await
    }

    /// Checks the whole chain of `tenant`, and that it goes on from where it ended when `kept` was its end.
    ///
    /// # Errors
    ///
    /// As for [`verify`](Self::verify); [`ErrorKind::Tampered`] also when what came before `kept` is not what it was,
    /// however well the chain fits together.
    pub async fn verify_since(&self, tenant: &TenantId, kept: &Head) -> Result<Head> {
        let mut head = Head::start();
        let mut after = None;
        loop {
            let page = self.page(tenant, after.as_ref()).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.key.clone());
            for record in &page {
                let logged: Logged = read(record)?;
                let in_place = record.key == entries_key(tenant).number(head.count);
                if !in_place || logged.number != head.count || logged.previous != head.hash {
                    return Err(broken(tenant, head.count));
                }
                head = Head { count: head.count + 1, hash: Digest::of(&record.value) };
                if head.count == kept.count && head != *kept {
                    return Err(broken(tenant, logged.number));
                }
            }
        }
        if head.count < kept.count {
            return Err(Error::new(ErrorKind::Tampered, "verify the audit log")
                .because("its end was cut off: there were more entries")
                .with("tenant", tenant)
                .with("entries", head.count)
                .with("earlier", kept.count));
        }
        let stored = match self.records.get(&head_key(tenant)).await? {
            Some(record) => read(&record)?,
            None => Head::start(),
        };
        if stored == head { Ok(head) } else { Err(broken(tenant, head.count)) }
    }

    /// The entries of `tenant` from number `from` on, at most 500.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when the act is for another tenant; [`ErrorKind::Tampered`] when one cannot be read;
    /// [`ErrorKind::Unavailable`] when the log cannot be read.
    pub async fn entries(&self, act: &Act<'_>, tenant: &TenantId, from: u64) -> Result<Vec<Logged>> {
        act.covers(tenant)?;
        let after = from.checked_sub(1).map(|before| entries_key(tenant).number(before));
        self.page(tenant, after.as_ref()).await?.iter().map(read).collect()
    }

    async fn page(&self, tenant: &TenantId, after: Option<&Key>) -> Result<Vec<Record>> {
        const PAGE: usize = 500;
        self.records.list(&entries_key(tenant), after, PAGE).await
    }

    pub(crate) fn take_operator(&self) -> bool {
        !self.has_operator.swap(true, Ordering::AcqRel)
    }
}

impl Head {
    fn start() -> Self {
        Self { count: 0, hash: Digest::of(b"ci audit log") }
    }
}

fn entries_key(tenant: &TenantId) -> Key {
    Key::new("audit").part(tenant.as_str()).part("entry")
}

fn head_key(tenant: &TenantId) -> Key {
    Key::new("audit").part(tenant.as_str()).part("head")
}

fn write<T: Serialize>(value: &T) -> Result<Bytes> {
    let json = serde_json::to_vec(value);
    json.map(Bytes::from)
        .map_err(|error| Error::new(ErrorKind::Internal, "write to the audit log").caused_by(error))
}

fn read<T: for<'de> Deserialize<'de>>(record: &Record) -> Result<T> {
    serde_json::from_slice(&record.value).map_err(|error| {
        Error::new(ErrorKind::Tampered, "read the audit log").with("record", &record.key).caused_by(error)
    })
}

fn broken(tenant: &TenantId, number: u64) -> Error {
    Error::new(ErrorKind::Tampered, "verify the audit log")
        .because("an entry was changed, removed, added or moved")
        .with("tenant", tenant)
        .with("entry", number)
}
