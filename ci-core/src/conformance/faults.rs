//! A store that fails when it is told to.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use crate::error::{Error, ErrorKind, Result};
use crate::records::{Batch, Key, Record, Records, Version};

/// Records that fail while they are told to, over others that do not: for tests of what somebody does who cannot write.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use std::sync::Arc;
/// use ci_core::audit::{Audit, Entry};
/// use ci_core::conformance::{Fault, FaultyRecords};
/// use ci_core::id::TenantId;
/// use ci_core::memory::Rig;
/// use ci_core::records::Key;
///
/// let (rig, tenant) = (Rig::new()?, TenantId::parse("acme")?);
/// let records = Arc::new(FaultyRecords::over(rig.records()));
/// let audit = Audit::new(records.clone(), rig.clock.clone());
///
/// records.fail(Fault::Refused, Key::new("audit"));
/// assert!(audit.record(&tenant, Entry::new("thing.done", "job")).await.is_err());
/// records.heal();
/// assert!(audit.record(&tenant, Entry::new("thing.done", "job")).await.is_ok());
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct FaultyRecords {
    inner: Arc<dyn Records>,
    fault: Mutex<Option<(Fault, Key)>>,
    has_failed: AtomicBool,
}

/// How a store fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// A commit is refused, and nothing is written.
    Refused,
    /// A commit happens, and its answer is lost.
    AnswerLost,
    /// A commit does not happen, and is said to have.
    Dropped,
    /// Nothing can be read.
    Unreadable,
}

impl FaultyRecords {
    /// Records that do what `inner` does.
    pub fn over(inner: Arc<dyn Records>) -> Self {
        Self { inner, fault: Mutex::new(None), has_failed: AtomicBool::new(false) }
    }

    /// From now on fails where a record below `prefix` is written or read.
    pub fn fail(&self, fault: Fault, prefix: Key) {
        self.has_failed.store(false, Ordering::Release);
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some((fault, prefix));
    }

    /// From now on does what it should.
    pub fn heal(&self) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Whether it has failed since it was told to.
    pub fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Acquire)
    }

    fn fault_at<'a>(&self, mut keys: impl Iterator<Item = &'a Key>) -> Option<Fault> {
        let fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        let (fault, prefix) = fault.as_ref()?;
        keys.any(|key| key == prefix || key.is_below(prefix)).then_some(*fault)
    }

    fn failed(&self, operation: &'static str) -> Error {
        self.has_failed.store(true, Ordering::Release);
        Error::new(ErrorKind::Unavailable, operation).because("the test said so")
    }

    fn check_read(&self, key: &Key) -> Result<()> {
        match self.fault_at(std::iter::once(key)) {
            Some(Fault::Unreadable) => Err(self.failed("read a record")),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Records for FaultyRecords {
    async fn get(&self, key: &Key) -> Result<Option<Record>> {
        self.check_read(key)?;
        self.inner.get(key).await
    }

    async fn list(&self, prefix: &Key, after: Option<&Key>, limit: usize) -> Result<Vec<Record>> {
        self.check_read(prefix)?;
        self.inner.list(prefix, after, limit).await
    }

    async fn commit(&self, batch: Batch) -> Result<Version> {
        let fault = self.fault_at(batch.puts.iter().map(|(key, _)| key).chain(&batch.deletes));
        match fault {
            Some(Fault::Refused) => Err(self.failed("write a record")),
            Some(Fault::AnswerLost) => {
                self.inner.commit(batch).await?;
                Err(self.failed("hear that a record was written"))
            }
            Some(Fault::Dropped) => {
                let conditions = batch.conditions.into_iter();
                let version = self.inner.commit(conditions.fold(Batch::new(), Batch::require)).await?;
                self.has_failed.store(true, Ordering::Release);
                Ok(version)
            }
            Some(Fault::Unreadable) | None => self.inner.commit(batch).await,
        }
    }

    async fn purge(&self, prefix: &Key) -> Result<usize> {
        self.inner.purge(prefix).await
    }

    async fn scan_raw(&self, needle: &[u8]) -> Result<usize> {
        self.inner.scan_raw(needle).await
    }
}
