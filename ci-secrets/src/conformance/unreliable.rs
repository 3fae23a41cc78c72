//! Records that fail in the ways in which real ones do, for tests of what is built on them.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use ci_core::clock::ManualClock;
use ci_core::records::{Batch, Key, Record, Records, Version};
use ci_core::{Error, ErrorKind, Result};

/// What goes wrong with a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Nothing is written, and the caller is told so.
    Fails,
    /// It is written, and the answer is lost: the caller is told that the store could not be reached.
    LosesAnswer,
    /// Nothing is written, and the caller is told that it was: a disk that lies.
    DropsWrite,
    /// It is written, when so much time has passed on the clock.
    Takes(Duration),
}

/// Records over others, which fail as they are told to, and count what they are asked.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use ci_core::memory::Rig;
/// use ci_core::records::{Batch, Key, Records as _};
/// use ci_secrets::conformance::unreliable::{Fault, Unreliable};
///
/// let rig = Rig::new()?;
/// let records = Unreliable::over(rig.records(), rig.clock.clone());
/// records.next_commits([Fault::LosesAnswer]);
/// let row = Batch::new().put(Key::new("row"), "content");
/// assert!(records.commit(row).await.is_err());
/// assert!(records.get(&Key::new("row")).await?.is_some()); // it was written all the same
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Unreliable {
    inner: Arc<dyn Records>,
    clock: Arc<ManualClock>,
    faults: Mutex<Vec<Fault>>,
    reads: AtomicUsize,
    commits: AtomicUsize,
}

impl Unreliable {
    /// Records that do not fail before they are told to. Time passes on `clock`.
    pub fn over(inner: Arc<dyn Records>, clock: Arc<ManualClock>) -> Arc<Self> {
        let (reads, commits) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { inner, clock, faults: Mutex::default(), reads, commits })
    }

    /// What happens to the next commits, one after the other; those that follow go well.
    pub fn next_commits(&self, faults: impl IntoIterator<Item = Fault>) {
        let mut faults: Vec<_> = faults.into_iter().collect();
        faults.reverse();
        *self.faults() = faults;
    }

    /// How often records were read, and how often some were committed, since this was asked last.
    pub fn counts(&self) -> (usize, usize) {
        (self.reads.swap(0, Ordering::AcqRel), self.commits.swap(0, Ordering::AcqRel))
    }

    fn faults(&self) -> MutexGuard<'_, Vec<Fault>> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Records for Unreliable {
    async fn get(&self, key: &Key) -> Result<Option<Record>> {
        self.reads.fetch_add(1, Ordering::AcqRel);
        self.inner.get(key).await
    }

    async fn get_all(&self, keys: &[Key]) -> Result<Vec<Option<Record>>> {
        self.reads.fetch_add(1, Ordering::AcqRel);
        self.inner.get_all(keys).await
    }

    async fn list(&self, prefix: &Key, after: Option<&Key>, limit: usize) -> Result<Vec<Record>> {
        self.reads.fetch_add(1, Ordering::AcqRel);
        self.inner.list(prefix, after, limit).await
    }

    async fn commit(&self, batch: Batch) -> Result<Version> {
        self.commits.fetch_add(1, Ordering::AcqRel);
        let fault = self.faults().pop();
        let unavailable =
            || Error::new(ErrorKind::Unavailable, "write records").because("the store fails as told");
        match fault {
            None => self.inner.commit(batch).await,
            Some(Fault::Fails) => Err(unavailable()),
            Some(Fault::LosesAnswer) => match self.inner.commit(batch).await {
                Ok(_) => Err(unavailable()),
                failed => failed,
            },
            // A store that lies gives a version that nothing has.
            Some(Fault::DropsWrite) => Ok(Version(u64::MAX)),
            Some(Fault::Takes(time)) => {
                self.clock.advance(time);
                self.inner.commit(batch).await
            }
        }
    }

    async fn purge(&self, prefix: &Key) -> Result<usize> {
        self.inner.purge(prefix).await
    }

    async fn scan_raw(&self, needle: &[u8]) -> Result<usize> {
        self.inner.scan_raw(needle).await
    }
}

impl fmt::Debug for Unreliable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unreliable").field("faults", &*self.faults()).finish_non_exhaustive()
    }
}
