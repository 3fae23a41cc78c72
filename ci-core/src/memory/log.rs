//! Console output, as records of a database.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::access::{Grant, Read};
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{JobId, RepositoryId};
use crate::log::{Appended, Cursor, LogStore, MOST_CHUNK, Page};
use crate::queue::{Claim, Database, Stage};
use crate::records::{Batch, Condition, Key, Version};
use crate::secret::Masked;

/// A log store over any database, unsealed.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use ci_core::access::Read;
/// use ci_core::log::{Cursor, LogStore as _};
/// use ci_core::memory::{Logs, Masking, Rig};
/// use ci_core::secret::SecretLease;
/// use ci_core::trust::Origin;
/// use std::sync::Arc;
///
/// let rig = Rig::new()?;
/// let logs = Logs::new(rig.database.clone(), rig.clock.clone());
/// let repository = Rig::repository("1", "acme")?;
/// let claim = rig.claim(&repository, Origin::Repository, Rig::spec()).await?;
/// let lease = SecretLease::empty(&claim, Arc::new(Masking::new()));
/// logs.append(&claim, 0, lease.mask().push(b"hello\n")).await?;
///
/// let grant = rig.grant::<Read>(&Rig::user("ada")?, &repository).await?;
/// let page = logs.read(&grant, claim.job(), Cursor::default(), 1_024).await?;
/// assert_eq!(page.bytes, "hello\n");
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Logs {
    database: Arc<dyn Database>,
    clock: Arc<dyn Clock>,
    /// Counts what was written, to wake readers.
    writes: watch::Sender<u64>,
}

/// What is known of one log.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Head {
    /// How many chunks there are.
    chunks: u64,
    /// The token of the lease that wrote last, and how many chunks there were before its first.
    lease: u64,
    earlier: u64,
    is_closed: bool,
}

impl Head {
    /// The same log, seen by the lease with `token`.
    fn seen_by(self, token: u64) -> Self {
        if self.lease == token {
            return self;
        }
        Self { lease: token, earlier: self.chunks, is_closed: false, ..self }
    }
}

impl Logs {
    /// The logs in `database`.
    pub fn new(database: Arc<dyn Database>, clock: Arc<dyn Clock>) -> Self {
        Self { database, clock, writes: watch::Sender::new(0) }
    }

    async fn head(&self, place: &Place) -> Result<(Head, Option<Version>)> {
        let Some(record) = self.database.get(&place.head()).await? else {
            return Ok((Head::default(), None));
        };
        let head = serde_json::from_slice(&record.value).map_err(|error| tampered(place).caused_by(error))?;
        Ok((head, Some(record.version)))
    }

    /// Writes `head` and what `batch` holds, if the claim's lease holds and nobody wrote since `version`.
    async fn write(
        &self,
        claim: &Claim,
        place: &Place,
        head: Head,
        version: Option<Version>,
        batch: Batch,
    ) -> Result<()> {
        let unchanged = match version {
            None => Condition::Absent(place.head()),
            Some(version) => Condition::Is(place.head(), version),
        };
        let value = serde_json::to_vec(&head)
            .map_err(|error| Error::new(ErrorKind::Internal, "write to a log").caused_by(error))?;
        let batch = batch.require(Condition::Held(claim.fence()?.clone())).require(unchanged);
        self.database.commit(batch.put(place.head(), value)).await?;
        self.writes.send_modify(|writes| *writes += 1);
        Ok(())
    }

    /// The log of a job, if the repository has it, and whether the job has ended.
    async fn place(&self, grant: &Grant<Read>, job: &JobId) -> Result<(Place, bool)> {
        let row = self.database.row(job).await?;
        let repository = grant.scope()?.repository();
        match row {
            Some(row) if row.repository == *repository => {
                Ok((Place::new(repository, job), matches!(row.stage, Stage::Ended(_))))
            }
            _ => Err(Error::new(ErrorKind::NotFound, "read a log")
                .because("the repository has no job of that id")
                .with("job", job)),
        }
    }
}

#[async_trait]
impl LogStore for Logs {
    async fn append(&self, claim: &Claim, seq: u64, chunk: Masked) -> Result<Appended> {
        let place = Place::new(claim.scope()?.repository(), claim.job());
        let chunk = chunk.for_log_of(claim)?;
        if chunk.len() > MOST_CHUNK {
            return Err(Error::new(ErrorKind::LimitExceeded, "append to a log").with("bytes", chunk.len()));
        }
        let conflict = |why: &'static str| {
            Err(Error::new(ErrorKind::Conflict, "append to a log").because(why).with("job", claim.job()))
        };
        loop {
            let (head, version) = self.head(&place).await?;
            let head = head.seen_by(claim.fence()?.token);
            if head.is_closed {
                return conflict("it is closed");
            }
            if seq > head.chunks || seq < head.earlier {
                return Ok(Appended::Gap { expected: head.chunks });
            }
            if seq < head.chunks {
                let stored = self.database.get(&place.chunk(seq)).await?;
                return match stored {
                    Some(record) if record.value == chunk => Ok(Appended::Repeated),
                    Some(_) => conflict("this chunk was stored with other bytes"),
                    None => Err(tampered(&place)),
                };
            }
            let batch = Batch::new().put(place.chunk(seq), chunk.clone());
            let next = Head { chunks: seq + 1, ..head };
            match self.write(claim, &place, next, version, batch).await {
                // Somebody else appended first: look again at what there is now.
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                written => return written.map(|()| Appended::Stored),
            }
        }
    }

    async fn close(&self, claim: &Claim) -> Result<()> {
        let place = Place::new(claim.scope()?.repository(), claim.job());
        loop {
            let (head, version) = self.head(&place).await?;
            let head = head.seen_by(claim.fence()?.token);
            if head.is_closed {
                return Ok(());
            }
            match self.write(claim, &place, Head { is_closed: true, ..head }, version, Batch::new()).await {
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                written => return written,
            }
        }
    }

    async fn read(&self, grant: &Grant<Read>, job: &JobId, from: Cursor, limit: usize) -> Result<Page> {
        let (place, has_ended) = self.place(grant, job).await?;
        let (head, _) = self.head(&place).await?;
        let (mut bytes, mut next) = (Vec::new(), from.0);
        while next < head.chunks {
            let Some(record) = self.database.get(&place.chunk(next)).await? else {
                return Err(tampered(&place));
            };
            if next > from.0 && bytes.len() + record.value.len() > limit {
                break;
            }
            bytes.extend_from_slice(&record.value);
            next += 1;
        }
        let end = (head.is_closed || has_ended) && next >= head.chunks;
        Ok(Page { bytes: Bytes::from(bytes), next: Cursor(next), end })
    }

    async fn changed(&self, grant: &Grant<Read>, job: &JobId, from: Cursor) -> Result<()> {
        const LONGEST: Duration = Duration::from_secs(2);
        // Before the look, so that what is written after it is not missed.
        let mut writes = self.writes.subscribe();
        let (place, has_ended) = self.place(grant, job).await?;
        let (head, _) = self.head(&place).await?;
        if head.is_closed || has_ended || head.chunks > from.0 {
            return Ok(());
        }
        tokio::select! {
            _ = writes.changed() => {}
            () = self.clock.sleep(LONGEST) => {}
        }
        Ok(())
    }
}

/// Where a log lies.
struct Place(Key);

impl Place {
    fn new(repository: &RepositoryId, job: &JobId) -> Self {
        Self(Key::new("log").repository(repository).part(job.as_str()))
    }

    fn head(&self) -> Key {
        self.0.clone().part("head")
    }

    fn chunk(&self, number: u64) -> Key {
        self.0.clone().part("chunk").number(number)
    }
}

fn tampered(place: &Place) -> Error {
    Error::new(ErrorKind::Tampered, "read a log").with("record", &place.0)
}
