//! Backends that lie, or fail.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use ci_core::id::{JobId, Label};
use ci_core::memory::Database;
use ci_core::queue::{End, Extended, Leased, NewRow, Queue, Released, Row};
use ci_core::records::{Batch, Fence, Key, Record, Records, Version};
use ci_core::{Error, ErrorKind, Result};

/// A queue whose rows somebody changes before they are handed out.
pub(crate) struct Altered {
    honest: Arc<Database>,
    alter: Mutex<Box<Alter>>,
}

type Alter = dyn FnMut(&mut Leased) + Send;

impl Altered {
    pub(crate) fn new(honest: Arc<Database>, alter: impl FnMut(&mut Leased) + Send + 'static) -> Self {
        Self { honest, alter: Mutex::new(Box::new(alter)) }
    }
}

#[async_trait]
impl Queue for Altered {
    async fn push(&self, row: NewRow) -> Result<()> {
        self.honest.push(row).await
    }

    async fn lease(&self, labels: &[Label], ttl: Duration) -> Result<Option<Leased>> {
        let mut leased = self.honest.lease(labels, ttl).await?;
        if let Some(leased) = &mut leased {
            (self.alter.lock().expect("not poisoned"))(leased);
        }
        Ok(leased)
    }

    async fn extend(&self, fence: &Fence, ttl: Duration) -> Result<Extended> {
        self.honest.extend(fence, ttl).await
    }

    async fn release(&self, fence: &Fence, why: Released, pause: Duration) -> Result<()> {
        self.honest.release(fence, why, pause).await
    }

    async fn finish(&self, fence: &Fence, end: &End, with: Batch) -> Result<()> {
        self.honest.finish(fence, end, with).await
    }

    async fn cancel(&self, job: &JobId) -> Result<()> {
        self.honest.cancel(job).await
    }

    async fn row(&self, job: &JobId) -> Result<Option<Row>> {
        self.honest.row(job).await
    }

    async fn jobs(
        &self,
        repository: &ci_core::id::RepositoryId,
        before: Option<&JobId>,
        limit: usize,
    ) -> Result<Vec<JobId>> {
        self.honest.jobs(repository, before, limit).await
    }
}

impl fmt::Debug for Altered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Altered")
    }
}

/// A queue that cannot be reached any more once jobs are leased: every heartbeat fails.
#[derive(Debug)]
pub(crate) struct Deaf(pub(crate) Arc<Database>);

#[async_trait]
impl Queue for Deaf {
    async fn push(&self, row: NewRow) -> Result<()> {
        self.0.push(row).await
    }

    async fn lease(&self, labels: &[Label], ttl: Duration) -> Result<Option<Leased>> {
        self.0.lease(labels, ttl).await
    }

    async fn extend(&self, _: &Fence, _: Duration) -> Result<Extended> {
        Err(Error::new(ErrorKind::Unavailable, "extend a lease"))
    }

    async fn release(&self, _: &Fence, _: Released, _: Duration) -> Result<()> {
        Err(Error::new(ErrorKind::Unavailable, "release a lease"))
    }

    async fn finish(&self, _: &Fence, _: &End, _: Batch) -> Result<()> {
        Err(Error::new(ErrorKind::Unavailable, "finish a job"))
    }

    async fn cancel(&self, job: &JobId) -> Result<()> {
        self.0.cancel(job).await
    }

    async fn row(&self, job: &JobId) -> Result<Option<Row>> {
        self.0.row(job).await
    }

    async fn jobs(
        &self,
        repository: &ci_core::id::RepositoryId,
        before: Option<&JobId>,
        limit: usize,
    ) -> Result<Vec<JobId>> {
        self.0.jobs(repository, before, limit).await
    }
}

/// Records that cannot be reached.
#[derive(Debug)]
pub(crate) struct Down;

#[async_trait]
impl Records for Down {
    async fn get(&self, _: &Key) -> Result<Option<Record>> {
        Err(Error::new(ErrorKind::Unavailable, "read a record"))
    }

    async fn list(&self, _: &Key, _: Option<&Key>, _: usize) -> Result<Vec<Record>> {
        Err(Error::new(ErrorKind::Unavailable, "list records"))
    }

    async fn commit(&self, _: Batch) -> Result<Version> {
        Err(Error::new(ErrorKind::Unavailable, "commit"))
    }

    async fn purge(&self, _: &Key) -> Result<usize> {
        Err(Error::new(ErrorKind::Unavailable, "purge"))
    }

    async fn scan_raw(&self, _: &[u8]) -> Result<usize> {
        Err(Error::new(ErrorKind::Unavailable, "look for bytes"))
    }
}
