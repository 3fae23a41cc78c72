//! Records that fail when they are told to.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;

use crate::clock::ManualClock;
use crate::error::{Error, ErrorKind, Result};
use crate::lock::lock;
use crate::records::{Batch, Key, Record, Records, Version};

/// How a store fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// A write does not happen, and who asked for it is told so.
    Refused,
    /// A write happens, and its answer is lost: who asked for it is told that the store cannot be reached.
    AnswerLost,
    /// A write does not happen, and is said to have: a disk that lies. Its conditions are looked at all the same.
    Dropped,
    /// Nothing can be read.
    Unreadable,
    /// A read or a write happens when so much time has passed on the clock.
    Slow(Duration),
}

/// Records over others, which fail as they are told to and count what they are asked: for tests of what stands on a store.
///
/// A write is a commit, a purge or a scrub. The latest call of [`fail`](Self::fail), [`fail_once`](Self::fail_once) or
/// [`stop_after`](Self::stop_after) counts, until [`heal`](Self::heal). A clock that jumps is
/// [`ManualClock::jump_to`].
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use ci_core::audit::{Audit, Entry};
/// use ci_core::conformance::{Fault, FaultyRecords};
/// use ci_core::id::TenantId;
/// use ci_core::memory::Rig;
/// use ci_core::records::Key;
///
/// let (rig, tenant) = (Rig::new()?, TenantId::parse("acme")?);
/// let records = FaultyRecords::over(rig.records(), rig.clock.clone());
/// let audit = Audit::new(records.clone(), rig.clock.clone());
/// let entry = || Entry::new("thing.done", "job");
///
/// records.fail(Fault::Refused, Key::new("audit")); // until it heals
/// assert!(audit.record(&tenant, entry()).await.is_err());
/// records.heal();
/// assert!(audit.record(&tenant, entry()).await.is_ok());
///
/// records.stop_after(1, Fault::AnswerLost); // as when a process is killed at its second write
/// assert!(audit.record(&tenant, entry()).await.is_ok());
/// assert!(audit.record(&tenant, entry()).await.is_err());
/// assert_eq!(audit.verify(&tenant).await?.count, 3); // it was written all the same
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct FaultyRecords {
    inner: Arc<dyn Records>,
    clock: Arc<ManualClock>,
    plan: Mutex<Plan>,
    reads: AtomicUsize,
    writes: AtomicUsize,
}

#[derive(Debug)]
enum Plan {
    Well,
    Always(Fault, Key),
    Once(Fault, Key),
    Stop { writes_left: usize, fault: Fault },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Read,
    Write,
}

impl FaultyRecords {
    /// Records that do what `inner` does until they are told otherwise. [`Fault::Slow`] lets time pass on `clock`.
    pub fn over(inner: Arc<dyn Records>, clock: Arc<ManualClock>) -> Arc<Self> {
        let (reads, writes) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { inner, clock, plan: Mutex::new(Plan::Well), reads, writes })
    }

    /// Fails from now on wherever a record at `prefix` or below it is read or written.
    pub fn fail(&self, fault: Fault, prefix: Key) {
        *lock(&self.plan) = Plan::Always(fault, prefix);
    }

    /// Fails the next time that a record at `prefix` or below it is read or written, whichever `fault` is about.
    pub fn fail_once(&self, fault: Fault, prefix: Key) {
        *lock(&self.plan) = Plan::Once(fault, prefix);
    }

    /// Lets so many more writes happen, fails at the next one as `fault` says, and refuses every one after it: as when a
    /// process is killed there. What is written can be read all the time.
    pub fn stop_after(&self, writes: usize, fault: Fault) {
        *lock(&self.plan) = Plan::Stop { writes_left: writes, fault };
    }

    /// Does from now on what it should.
    pub fn heal(&self) {
        *lock(&self.plan) = Plan::Well;
    }

    /// How many reads and how many writes have been asked for since this was called last.
    pub fn counts(&self) -> (usize, usize) {
        (self.reads.swap(0, Ordering::AcqRel), self.writes.swap(0, Ordering::AcqRel))
    }

    /// What happens to an access that concerns the places of which `concerns` is true.
    fn fault(&self, access: Access, concerns: impl Fn(&Key) -> bool) -> Option<Fault> {
        let mut plan = lock(&self.plan);
        match &mut *plan {
            Plan::Always(fault, prefix) => (fault.is_about(access) && concerns(prefix)).then_some(*fault),
            Plan::Once(fault, prefix) if fault.is_about(access) && concerns(prefix) => {
                let fault = *fault;
                *plan = Plan::Well;
                Some(fault)
            }
            Plan::Stop { writes_left: 0, fault } if access == Access::Write => {
                Some(std::mem::replace(fault, Fault::Refused))
            }
            Plan::Stop { writes_left, .. } if access == Access::Write => {
                *writes_left -= 1;
                None
            }
            Plan::Well | Plan::Once(..) | Plan::Stop { .. } => None,
        }
    }

    fn read(&self, concerns: impl Fn(&Key) -> bool) -> Result<()> {
        self.reads.fetch_add(1, Ordering::AcqRel);
        match self.fault(Access::Read, concerns) {
            Some(Fault::Unreadable) => Err(failed("read a record")),
            Some(Fault::Slow(by)) => {
                self.clock.advance(by);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Does `write`, or `pretence` in its place, which changes nothing and answers as if it had.
    async fn write<T>(
        &self,
        concerns: impl Fn(&Key) -> bool,
        write: impl Future<Output = Result<T>>,
        pretence: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.writes.fetch_add(1, Ordering::AcqRel);
        match self.fault(Access::Write, concerns) {
            Some(Fault::Refused) => Err(failed("write a record")),
            Some(Fault::AnswerLost) => {
                // Nobody hears either that it failed.
                let _ = write.await;
                Err(failed("hear that a record was written"))
            }
            Some(Fault::Dropped) => pretence.await,
            Some(Fault::Slow(by)) => {
                self.clock.advance(by);
                write.await
            }
            Some(Fault::Unreadable) | None => write.await,
        }
    }
}

impl Fault {
    fn is_about(self, access: Access) -> bool {
        match self {
            Self::Refused | Self::AnswerLost | Self::Dropped => access == Access::Write,
            Self::Unreadable => access == Access::Read,
            Self::Slow(_) => true,
        }
    }
}

fn failed(operation: &'static str) -> Error {
    Error::new(ErrorKind::Unavailable, operation).because("the test said so")
}

fn is_in(key: &Key, prefix: &Key) -> bool {
    key == prefix || key.is_below(prefix)
}

fn overlaps(folder: &Key, prefix: &Key) -> bool {
    is_in(folder, prefix) || prefix.is_below(folder)
}

#[deny(
    clippy::missing_trait_methods,
    reason = "a default in place of what the store does would be a fault of its own"
)]
#[async_trait]
impl Records for FaultyRecords {
    async fn get(&self, key: &Key) -> Result<Option<Record>> {
        self.read(|prefix| is_in(key, prefix))?;
        self.inner.get(key).await
    }

    async fn get_all(&self, keys: &[Key]) -> Result<Vec<Option<Record>>> {
        self.read(|prefix| keys.iter().any(|key| is_in(key, prefix)))?;
        self.inner.get_all(keys).await
    }

    async fn list(&self, prefix: &Key, after: Option<&Key>, limit: usize) -> Result<Vec<Record>> {
        self.read(|place| overlaps(prefix, place))?;
        self.inner.list(prefix, after, limit).await
    }

    async fn commit(&self, batch: Batch) -> Result<Version> {
        let mut keys: Vec<Key> = batch.puts.iter().map(|(key, _)| key.clone()).collect();
        keys.extend_from_slice(&batch.deletes);
        let conditions = batch.conditions.iter().cloned().fold(Batch::new(), Batch::require);
        let concerns = |prefix: &Key| keys.iter().any(|key| is_in(key, prefix));
        self.write(concerns, self.inner.commit(batch), self.inner.commit(conditions)).await
    }

    async fn purge(&self, prefix: &Key) -> Result<usize> {
        let count = async { Ok(self.inner.list(prefix, None, usize::MAX).await?.len()) };
        self.write(|place| overlaps(prefix, place), self.inner.purge(prefix), count).await
    }

    async fn scrub(&self) -> Result<()> {
        self.write(|_| true, self.inner.scrub(), async { Ok(()) }).await
    }

    async fn scan_raw(&self, needle: &[u8]) -> Result<usize> {
        self.read(|_| true)?;
        self.inner.scan_raw(needle).await
    }
}
