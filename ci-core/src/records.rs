//! Small records in one store: keys, values, and commits that happen whole or not at all.
//!
//! This is the layer below the capabilities: whoever holds a [`Records`] can read and write every row. What
//! must stay secret or whole is therefore sealed before it comes here.
//!
//! The first parts of the SDK's own keys are `artifact`, `audit`, `cache`, `erasure`, `inbox`, `key`, `log`, `object`,
//! `rotation` and `secret`; a product that keeps rows of its own begins theirs with `product`.

use std::fmt;
use std::fmt::Write as _;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::id::{JobId, RepositoryId};

/// A store of records with atomic commits. Values are small; the conformance kit stores up to 300,000 bytes in one.
///
/// # Cancel safety
///
/// When the future of a call is dropped, what it asked for happens wholly or not at all, except for
/// [`purge`](Self::purge), which may have deleted a part: calling again finishes it.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use ci_core::ErrorKind;
/// use ci_core::memory::Rig;
/// use ci_core::records::{Batch, Condition, Key};
///
/// let records = Rig::new()?.records();
/// let key = Key::new("counter");
/// records.commit(Batch::new().require(Condition::Absent(key.clone())).put(key.clone(), "1")).await?;
///
/// let record = records.get(&key).await?.expect("it is there");
/// let next = Batch::new().require(Condition::Is(key.clone(), record.version)).put(key, "2");
/// records.commit(next.clone()).await?;
/// let again = records.commit(next).await.expect_err("it has another version now");
/// assert_eq!(again.kind(), ErrorKind::Conflict);
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[async_trait]
pub trait Records: fmt::Debug + Send + Sync + 'static {
    /// The record at `key`, if there is one.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] when the store cannot be reached.
    async fn get(&self, key: &Key) -> Result<Option<Record>>;

    /// The records at `keys`, in their order. A store that has transactions gives all of them as they were at one moment;
    /// this default asks for one after the other, and whoever must know keeps something in one of them by which it can
    /// tell.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] when the store cannot be reached.
    async fn get_all(&self, keys: &[Key]) -> Result<Vec<Option<Record>>> {
        let mut found = Vec::with_capacity(keys.len());
        for key in keys {
            found.push(self.get(key).await?);
        }
        Ok(found)
    }

    /// At most `limit` records whose keys lie below `prefix` and after `after`, in the order of their keys.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] when the store cannot be reached.
    async fn list(&self, prefix: &Key, after: Option<&Key>, limit: usize) -> Result<Vec<Record>>;

    /// Does everything in `batch`, durably, if and only if all of its conditions hold; returns the version that
    /// every record it wrote now has. Versions only grow. Deletes come before puts, and fences are looked at
    /// before keys.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Conflict`] when a key condition does not hold; [`ErrorKind::Fenced`] when a fence does not;
    /// [`ErrorKind::Unsupported`] for a fence, when the store has no queue beside it;
    /// [`ErrorKind::Unavailable`] when the store cannot be reached. Nothing has been written then, except that
    /// after `Unavailable` the caller must look.
    async fn commit(&self, batch: Batch) -> Result<Version>;

    /// Deletes every record below `prefix` and everything that the store still keeps of it (free pages, logs of
    /// its own), and returns how many there were.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] when it cannot be done now; calling again finishes it.
    async fn purge(&self, prefix: &Key) -> Result<usize>;

    /// Has the store forget the bytes of every record that was deleted or replaced (free pages, logs of its own). After
    /// this [`scan_raw`](Self::scan_raw) finds them no more. It may take as long as rewriting all records; other writes
    /// wait for so long.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] when the store cannot do so, which is what it says unless an implementor says
    /// otherwise; [`ErrorKind::Unavailable`] when it cannot be done now: calling again finishes it.
    async fn scrub(&self) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, "forget deleted records").because("this store cannot do so"))
    }

    /// In how many places of the store's files the bytes of `needle` lie, deleted records included: how an
    /// erasure is verified.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] when the store cannot look; [`ErrorKind::Unavailable`] when it cannot now;
    /// [`ErrorKind::Invalid`] for fewer than 8 bytes, which lie anywhere by chance.
    async fn scan_raw(&self, needle: &[u8]) -> Result<usize>;
}

/// The place of a record: a path of parts.
///
/// Parts are text or numbers; whatever they hold, two different paths are two different keys.
///
/// # Example
///
/// ```
/// use ci_core::records::Key;
///
/// let key = Key::new("secret").part("acme").part("a/b").number(7);
/// assert_eq!(key.as_str(), "secret/acme/a%2Fb/+0000000000000007");
/// assert!(key.is_below(&Key::new("secret").part("acme")));
/// assert!(!key.is_below(&Key::new("secret").part("ac")));
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

impl Key {
    /// A path of one part.
    pub fn new(part: &str) -> Self {
        Self(String::new()).encoded(part)
    }

    /// The path with one more part.
    pub fn part(mut self, part: impl AsRef<str>) -> Self {
        self.0.push('/');
        self.encoded(part.as_ref())
    }

    /// The path with a number as one more part; such keys sort like their numbers.
    pub fn number(mut self, number: u64) -> Self {
        let _ = write!(self.0, "/+{number:016x}");
        self
    }

    /// The path with the parts of a repository's id.
    pub fn repository(self, repository: &RepositoryId) -> Self {
        self.part(repository.tenant().as_str())
            .part(repository.forge().as_str())
            .part(repository.native().as_str())
    }

    /// Takes a key that a store kept as text.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Tampered`] when no key has this text.
    pub fn from_stored(text: String) -> Result<Self> {
        let is_part = |part: &str| {
            !part.is_empty() && part.bytes().all(|byte| is_plain(byte) || matches!(byte, b'%' | b'+'))
        };
        if text.split('/').all(is_part) {
            return Ok(Self(text));
        }
        Err(Error::new(ErrorKind::Tampered, "read a record").because("its key is not one"))
    }

    /// The key as text: plain characters, parts joined by `/`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it has all parts of `prefix` and at least one more.
    pub fn is_below(&self, prefix: &Self) -> bool {
        self.0.strip_prefix(&prefix.0).is_some_and(|rest| rest.starts_with('/'))
    }

    fn encoded(mut self, part: &str) -> Self {
        if part.is_empty() {
            self.0.push('%');
        }
        for byte in part.bytes() {
            if is_plain(byte) {
                self.0.push(char::from(byte));
            } else {
                let _ = write!(self.0, "%{byte:02X}");
            }
        }
        self
    }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.0)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A record as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its place.
    pub key: Key,
    /// Its content.
    pub value: Bytes,
    /// The commit that wrote it last.
    pub version: Version,
}

/// The number of a commit. A store never gives a number twice, also not for a record that was deleted in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u64);

/// That a worker holds a lease on a job: which job, and which of its leases.
///
/// Every lease of a job has a larger token than the ones before. A store refuses a batch whose fence is not the
/// latest, so a worker that lost its lease can write nothing more.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fence {
    /// The job.
    pub job: JobId,
    /// Which of its leases.
    pub token: u64,
}

/// What must hold for a batch to be committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// There is no record at this key.
    Absent(Key),
    /// The record at this key has this version.
    Is(Key, Version),
    /// This is the latest lease of its job, and it has not run out.
    Held(Fence),
}

/// Writes that happen together.
///
/// # Example
///
/// ```
/// use ci_core::records::{Batch, Condition, Key};
///
/// let key = Key::new("counter");
/// let batch = Batch::new().require(Condition::Absent(key.clone())).put(key, "0");
/// assert_eq!(batch.puts.len(), 1);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Batch {
    /// What must hold.
    pub conditions: Vec<Condition>,
    /// What is written.
    pub puts: Vec<(Key, Bytes)>,
    /// What is deleted.
    pub deletes: Vec<Key>,
}

impl Batch {
    /// A batch that does nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a condition.
    pub fn require(mut self, condition: Condition) -> Self {
        self.conditions.push(condition);
        self
    }

    /// Writes a record, in place of an earlier one at that key.
    pub fn put(mut self, key: Key, value: impl Into<Bytes>) -> Self {
        self.puts.push((key, value.into()));
        self
    }

    /// Deletes a record, if there is one.
    pub fn delete(mut self, key: Key) -> Self {
        self.deletes.push(key);
        self
    }

    /// Adds everything that `other` does and requires.
    pub fn and(mut self, other: Self) -> Self {
        let Self { conditions, puts, deletes } = other;
        self.conditions.extend(conditions);
        self.puts.extend(puts);
        self.deletes.extend(deletes);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_paths_are_different_keys() {
        let keys = [
            Key::new("a").part("b").part("c"),
            Key::new("a").part("b/c"),
            Key::new("a/b").part("c"),
            Key::new("a").part("b").part("").part("c"),
            Key::new("a").part("b").part("%").part("c"),
            Key::new("a%2Fb").part("c"),
        ];
        for (index, one) in keys.iter().enumerate() {
            assert!(!keys[index + 1..].contains(one), "{one}");
        }
    }

    #[test]
    fn numbers_sort_as_numbers() {
        assert!(Key::new("a").number(9) < Key::new("a").number(10));
        assert!(Key::new("a").number(255) < Key::new("a").number(256));
    }
}
