//! What goes wrong around a vault, on purpose: for the tests of whoever keeps keys or secrets in records.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use ci_core::records::{Batch, Key, Record, Records, Version};
use ci_core::{Error, ErrorKind, Result};

/// Records whose store fails at one commit or purge, and at every one after it until it is told otherwise: as when a
/// process is killed there.
///
/// A clock that jumps is [`ManualClock::jump_to`](ci_core::clock::ManualClock::jump_to).
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use ci_core::memory::Rig;
/// use ci_core::records::{Batch, Key, Records as _};
/// use ci_secrets::conformance::faults::{FailingRecords, Fault};
///
/// let (rig, key) = (Rig::new()?, Key::new("a"));
/// let records = FailingRecords::new(rig.records());
/// records.fail_at(1, Fault::Before);
/// records.commit(Batch::new().put(key.clone(), "first")).await?;
/// assert!(records.commit(Batch::new().put(key.clone(), "second")).await.is_err());
/// records.mend();
/// assert_eq!(records.get(&key).await?.expect("the first").value, "first");
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct FailingRecords {
    inner: Arc<dyn Records>,
    left: AtomicUsize,
    fault: std::sync::Mutex<Fault>,
    done: AtomicUsize,
}

/// How a commit fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Nothing is written.
    Before,
    /// It is written, and the answer is lost.
    After,
}

impl FailingRecords {
    /// Records in which nothing fails yet.
    pub fn new(inner: Arc<dyn Records>) -> Arc<Self> {
        let fault = std::sync::Mutex::new(Fault::Before);
        Arc::new(Self { inner, left: AtomicUsize::new(usize::MAX), fault, done: AtomicUsize::new(0) })
    }

    /// Lets `count` more commits and purges happen, fails at the next one as `fault` says, and writes nothing from then
    /// on.
    pub fn fail_at(&self, count: usize, fault: Fault) {
        *self.fault.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = fault;
        self.left.store(count.saturating_add(1), Ordering::Release);
    }

    /// Lets everything happen again.
    pub fn mend(&self) {
        self.left.store(usize::MAX, Ordering::Release);
    }

    /// How many commits and purges have happened.
    pub fn writes(&self) -> usize {
        self.done.load(Ordering::Acquire)
    }

    async fn write<T>(&self, write: impl Future<Output = Result<T>>) -> Result<T> {
        let one_less = |left: usize| Some(if left == usize::MAX { left } else { left.saturating_sub(1) });
        let before = self.left.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_less);
        let lost =
            || Err(Error::new(ErrorKind::Unavailable, "commit").because("the store fails, as it was told"));
        let is_last = before == Ok(1);
        if before == Ok(0) {
            return lost();
        }
        let fault = *self.fault.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if is_last && fault == Fault::Before {
            return lost();
        }
        let written = write.await;
        self.done.fetch_add(1, Ordering::AcqRel);
        if is_last { lost() } else { written }
    }
}

#[async_trait]
impl Records for FailingRecords {
    async fn get(&self, key: &Key) -> Result<Option<Record>> {
        self.inner.get(key).await
    }

    async fn list(&self, prefix: &Key, after: Option<&Key>, limit: usize) -> Result<Vec<Record>> {
        self.inner.list(prefix, after, limit).await
    }

    async fn commit(&self, batch: Batch) -> Result<Version> {
        self.write(self.inner.commit(batch)).await
    }

    async fn purge(&self, prefix: &Key) -> Result<usize> {
        self.write(self.inner.purge(prefix)).await
    }

    async fn scrub(&self) -> Result<()> {
        self.write(self.inner.scrub()).await
    }

    async fn scan_raw(&self, needle: &[u8]) -> Result<usize> {
        self.inner.scan_raw(needle).await
    }
}
