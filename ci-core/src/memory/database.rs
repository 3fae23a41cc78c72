//! Records and queue behind one mutex, so that fences hold.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::queue::Rows;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{JobId, Label, RepositoryId};
use crate::lock::lock;
use crate::queue::{End, Extended, Leased, NewRow, Queue, Released, Row};
use crate::records::{Batch, Condition, Fence, Key, Record, Records, Version};

/// Records and queue, in memory.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use std::sync::Arc;
/// use ci_core::ErrorKind;
/// use ci_core::clock::ManualClock;
/// use ci_core::memory::Database;
/// use ci_core::records::{Batch, Condition, Key, Records as _};
///
/// let database = Database::new(Arc::new(ManualClock::new()));
/// let key = Key::new("greeting");
/// let once = Batch::new().require(Condition::Absent(key.clone())).put(key, "hello");
/// database.commit(once.clone()).await?;
/// assert_eq!(database.commit(once).await.expect_err("it is there").kind(), ErrorKind::Conflict);
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Database {
    state: Mutex<State>,
    clock: Arc<dyn Clock>,
}

#[derive(Debug, Default)]
struct State {
    version: u64,
    records: BTreeMap<Key, (Bytes, Version)>,
    rows: Rows,
}

impl Database {
    /// An empty database; leases run out by `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { state: Mutex::default(), clock }
    }
}

#[async_trait]
impl Records for Database {
    async fn get(&self, key: &Key) -> Result<Option<Record>> {
        let state = lock(&self.state);
        Ok(state.records.get(key).map(|stored| record(key, stored)))
    }

    async fn get_all(&self, keys: &[Key]) -> Result<Vec<Option<Record>>> {
        let state = lock(&self.state);
        Ok(keys.iter().map(|key| state.records.get(key).map(|stored| record(key, stored))).collect())
    }

    async fn list(&self, prefix: &Key, after: Option<&Key>, limit: usize) -> Result<Vec<Record>> {
        let state = lock(&self.state);
        let start = after.map_or(prefix, |after| after.max(prefix));
        // Between a prefix and what lies below it sort keys like `prefix-x`.
        let found = state
            .records
            .range((Bound::Excluded(start), Bound::Unbounded))
            .take_while(|(key, _)| key.as_str().starts_with(prefix.as_str()))
            .filter(|(key, _)| key.is_below(prefix))
            .take(limit);
        Ok(found.map(|(key, stored)| record(key, stored)).collect())
    }

    async fn commit(&self, batch: Batch) -> Result<Version> {
        lock(&self.state).commit(batch, self.clock.as_ref())
    }

    async fn purge(&self, prefix: &Key) -> Result<usize> {
        let mut state = lock(&self.state);
        let before = state.records.len();
        state.records.retain(|key, _| !key.is_below(prefix));
        Ok(before - state.records.len())
    }

    async fn scrub(&self) -> Result<()> {
        Ok(())
    }

    async fn scan_raw(&self, needle: &[u8]) -> Result<usize> {
        const FEWEST: usize = 8;
        if needle.len() < FEWEST {
            return Err(Error::new(ErrorKind::Invalid, "look for bytes")
                .because("fewer than 8 bytes lie anywhere by chance"));
        }
        let state = lock(&self.state);
        let places = |bytes: &[u8]| bytes.windows(needle.len()).filter(|window| *window == needle).count();
        let records =
            state.records.iter().map(|(key, (value, _))| places(key.as_str().as_bytes()) + places(value));
        Ok(records.sum::<usize>() + state.rows.tickets().map(places).sum::<usize>())
    }
}

#[async_trait]
impl Queue for Database {
    async fn push(&self, row: NewRow) -> Result<()> {
        lock(&self.state).rows.push(row, self.clock.as_ref())
    }

    async fn lease(&self, labels: &[Label], ttl: Duration) -> Result<Option<Leased>> {
        Ok(lock(&self.state).rows.lease(labels, ttl, self.clock.as_ref()))
    }

    async fn extend(&self, fence: &Fence, ttl: Duration) -> Result<Extended> {
        lock(&self.state).rows.extend(fence, ttl, self.clock.as_ref())
    }

    async fn release(&self, fence: &Fence, why: Released, pause: Duration) -> Result<()> {
        tracing::debug!(job = %fence.job, ?why, "lease given back");
        lock(&self.state).rows.release(fence, why, pause, self.clock.as_ref())
    }

    async fn finish(&self, fence: &Fence, end: &End, with: Batch) -> Result<()> {
        let mut state = lock(&self.state);
        state.commit(with.require(Condition::Held(fence.clone())), self.clock.as_ref())?;
        state.rows.finish(fence, end, self.clock.as_ref())
    }

    async fn cancel(&self, job: &JobId) -> Result<()> {
        lock(&self.state).rows.cancel(job, self.clock.as_ref())
    }

    async fn row(&self, job: &JobId) -> Result<Option<Row>> {
        Ok(lock(&self.state).rows.row(job, self.clock.as_ref()))
    }

    async fn jobs(
        &self,
        repository: &RepositoryId,
        before: Option<&JobId>,
        limit: usize,
    ) -> Result<Vec<JobId>> {
        Ok(lock(&self.state).rows.jobs(repository, before, limit))
    }
}

impl State {
    fn commit(&mut self, batch: Batch, clock: &dyn Clock) -> Result<Version> {
        let Batch { conditions, puts, deletes } = batch;
        // Fences first: who lost its lease must not be told to try again.
        for condition in &conditions {
            if let Condition::Held(fence) = condition {
                self.rows.check(fence, clock)?;
            }
        }
        for condition in &conditions {
            let (key, holds) = match condition {
                Condition::Absent(key) => (key, !self.records.contains_key(key)),
                Condition::Is(key, version) => {
                    (key, self.records.get(key).is_some_and(|(_, is)| is == version))
                }
                Condition::Held(_) => continue,
            };
            if !holds {
                return Err(Error::new(ErrorKind::Conflict, "commit").with("record", key));
            }
        }
        self.version += 1;
        let version = Version(self.version);
        for key in deletes {
            self.records.remove(&key);
        }
        self.records.extend(puts.into_iter().map(|(key, value)| (key, (value, version))));
        Ok(version)
    }
}

fn record(key: &Key, (value, version): &(Bytes, Version)) -> Record {
    Record { key: key.clone(), value: value.clone(), version: *version }
}
