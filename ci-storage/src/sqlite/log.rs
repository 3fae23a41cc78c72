//! Logs as rows, every chunk sealed.
//!
//! Beside its chunks, a log has a head: how many chunks there are, and whether more may follow, sealed anew with
//! every chunk and in the same transaction. A chunk is bound to its job and number, the head to its job, so
//! chunks that were cut off, removed, swapped or taken from another log, and a log that was closed and is shown
//! as open, are noticed. A log that is put back *as a whole* to what it once was, or removed as a whole, is not:
//! that takes a [`FreshnessAnchor`](ci_core::secret::FreshnessAnchor).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ci_core::access::{Grant, Read, Scope};
use ci_core::id::{JobId, RepositoryId};
use ci_core::log::{Appended, Cursor, LogStore, MOST_CHUNK, Page};
use ci_core::queue::Claim;
use ci_core::records::Fence;
use ci_core::seal::{self, DataKey};
use ci_core::secret::{KeyRing, Masked, Purpose};
use ci_core::{ByteSize, Error, ErrorKind, Result};
use rusqlite::{Connection, OptionalExtension as _};

use super::Sqlite;
use super::error::Fault;
use super::queue::{check_held, parts};

/// How many bytes a page has at most, however many are asked for.
const MOST_PAGE: usize = 16 * 1024 * 1024;
/// How long a reader waits at most before it looks again: other processes ring no bell here.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// The place of the head, which no chunk ever has.
const HEAD: u64 = u64::MAX;

/// The logs of a database's jobs; [`Sqlite::logs`] makes it.
///
/// A log is kept once per job. A later lease of a job goes on behind what an earlier one has written: its chunk
/// number 0 is answered with [`Appended::Gap`], which says where.
///
/// What it keeps is sealed with the repository's keys. Chunks that were cut off, removed, swapped or taken from another
/// log are [`ErrorKind::Tampered`]. That a log was removed as a whole, or put back as a whole to what it once was,
/// stays unnoticed without a [`FreshnessAnchor`](ci_core::secret::FreshnessAnchor), which the service asks when it
/// starts.
///
/// One log may take 1 GiB, or what [`with_most`](Self::with_most) says; what is more is [`ErrorKind::LimitExceeded`]. A
/// page has at most 16 MiB, however many are asked for.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// use std::sync::Arc;
/// use ci_core::access::Read;
/// use ci_core::log::{Cursor, LogStore as _};
/// use ci_core::memory::{Masking, Rig};
/// use ci_core::{ByteSize, secret::SecretLease, trust::Origin};
/// use ci_storage::sqlite::Sqlite;
/// # let folder = tempfile::tempdir()?;
/// # let (path, repository) = (folder.path().join("ci.db"), Rig::repository("1", "acme")?);
/// # let clock = Arc::new(ci_core::clock::ManualClock::new());
///
/// let database = Sqlite::open(path, clock.clone()).await?;
/// let rig = Rig::on(clock)?.with_database(Arc::new(database.clone()))?;
/// let logs = database.logs(rig.ring.clone()).with_most(ByteSize::mib(64));
///
/// let claim = rig.claim(&repository, Origin::Repository, Rig::spec()).await?;
/// let lease = SecretLease::empty(&claim, Arc::new(Masking::new()));
/// logs.append(&claim, 0, lease.mask().push(b"one\n")).await?;
/// logs.close(&claim).await?;
///
/// let grant = rig.grant::<Read>(&Rig::user("ada")?, &repository).await?;
/// let page = logs.read(&grant, claim.job(), Cursor::default(), 64 * 1024).await?;
/// assert_eq!((&page.bytes[..], page.end), (&b"one\n"[..], true));
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct SqliteLogs {
    database: Sqlite,
    ring: Arc<dyn KeyRing>,
    most: ByteSize,
}

impl SqliteLogs {
    pub(super) fn new(database: Sqlite, ring: Arc<dyn KeyRing>) -> Self {
        Self { database, ring, most: ByteSize::gib(1) }
    }

    /// Replaces how many bytes one log may take in the database: 1 GiB.
    pub fn with_most(mut self, most: ByteSize) -> Self {
        self.most = most;
        self
    }

    async fn key(&self, scope: Scope<'_>, job: &JobId) -> Result<Arc<DataKey>> {
        self.ring.data_key(scope, &Purpose::log(job, HEAD), None).await
    }

    /// What the sealed head says, if it says the same as the row around it.
    async fn open_head(&self, scope: Scope<'_>, job: &JobId, stored: &StoredHead) -> Result<Head> {
        let StoredHead { head, sealed } = stored;
        let Some(sealed) = sealed else { return Ok(Head::START) };
        let plain = self.ring.open(scope, &Purpose::log(job, HEAD), sealed).await?;
        if Head::decode(&plain) == Some(*head) {
            return Ok(*head);
        }
        Err(tampered(job))
    }
}

impl fmt::Debug for SqliteLogs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteLogs").field("database", &self.database).finish_non_exhaustive()
    }
}

#[async_trait]
impl LogStore for SqliteLogs {
    async fn append(&self, claim: &Claim, seq: u64, chunk: Masked) -> Result<Appended> {
        let (fence, bytes) = (claim.fence()?.clone(), chunk.for_log_of(claim)?);
        let job = fence.job.clone();
        if bytes.len() > MOST_CHUNK {
            return Err(Error::new(ErrorKind::LimitExceeded, "append to a log").with("bytes", bytes.len()));
        }
        let key = self.key(claim.scope()?, &job).await?;
        let next = seq.saturating_add(1);
        let chunk = NewChunk {
            fence,
            seq,
            sealed: key.seal(Purpose::log(&job, seq).context(), &bytes),
            head: Head { next, closed_by: OPEN }.seal(&key, &job),
            key: key.clone(),
            most: i64::try_from(self.most.as_u64()).unwrap_or(i64::MAX),
        };
        let found = self.database.write("append to a log", move |c, now| append(c, &chunk, now)).await?;
        match found {
            Found::Stored => {
                self.database.0.bells.ring(&job);
                Ok(Appended::Stored)
            }
            Found::Earlier(sealed) => {
                let stored = self.ring.open(claim.scope()?, &Purpose::log(&job, seq), &sealed).await?;
                if stored == bytes {
                    return Ok(Appended::Repeated);
                }
                Err(Error::new(ErrorKind::Conflict, "append to a log")
                    .because("this chunk was stored with other bytes")
                    .with("job", job)
                    .with("chunk", seq))
            }
            Found::Behind(head) => {
                let head = self.open_head(claim.scope()?, &job, &head).await?;
                Ok(Appended::Gap { expected: head.next })
            }
        }
    }

    async fn close(&self, claim: &Claim) -> Result<()> {
        // Only the holder of the lease appends, so nobody can be faster more than once or twice.
        const MOST_ROUNDS: usize = 10;
        let job = claim.job();
        let key = self.key(claim.scope()?, job).await?;
        for _ in 0..MOST_ROUNDS {
            let asked = job.clone();
            let stored = self.database.read("close a log", move |c, _| find_head(c, &asked)).await?;
            let last = self.open_head(claim.scope()?, job, &stored).await?;
            let fence = claim.fence()?.clone();
            let sealed = Head { closed_by: fence.token, ..last }.seal(&key, job);
            let closed = self
                .database
                .write("close a log", move |c, now| close(c, &fence, last, &sealed, now))
                .await?;
            if closed {
                self.database.0.bells.ring(job);
                return Ok(());
            }
        }
        Err(Error::new(ErrorKind::Unavailable, "close a log")
            .because("it is still being written")
            .with("job", job))
    }

    async fn read(&self, grant: &Grant<Read>, job: &JobId, from: Cursor, limit: usize) -> Result<Page> {
        let repository = grant.scope()?.repository().clone();
        let asked = job.clone();
        let look = move |c: &Connection, _| find_page(c, &repository, &asked, from.0, limit.min(MOST_PAGE));
        let found = self.database.read("read a log", look).await?;
        let head = self.open_head(grant.scope()?, job, &found.head).await?;
        let (mut next, mut bytes, mut key) = (from.0, Vec::new(), None::<Arc<DataKey>>);
        for (seq, sealed) in &found.chunks {
            if *seq != next || *seq >= head.next {
                return Err(tampered(job));
            }
            let (purpose, id) = (Purpose::log(job, *seq), seal::key_id(sealed)?);
            let opener = match key.take() {
                Some(key) if *key.id() == id => key,
                _ => self.ring.data_key(grant.scope()?, &purpose, Some(&id)).await?,
            };
            bytes.extend_from_slice(&opener.open(purpose.context(), sealed)?);
            key = Some(opener);
            next += 1;
        }
        if found.is_rest && next < head.next {
            return Err(tampered(job));
        }
        let end = next >= head.next && found.has_ended();
        Ok(Page { bytes: bytes.into(), next: Cursor(next), end })
    }

    async fn changed(&self, grant: &Grant<Read>, job: &JobId, from: Cursor) -> Result<()> {
        let repository = grant.scope()?.repository().clone();
        // Listens before it looks, so that nothing can happen in between.
        let mut bell = self.database.0.bells.listen(job);
        let asked = job.clone();
        let look = move |c: &Connection, _| find_page(c, &repository, &asked, from.0, 0);
        let found = self.database.read("wait for a log", look).await?;
        if !found.chunks.is_empty() || found.has_ended() {
            return Ok(());
        }
        tokio::select! {
            () = bell.rung() => {}
            () = self.database.0.clock.sleep(LOOK_AGAIN) => {}
        }
        Ok(())
    }
}

/// How far a log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    next: u64,
    /// The token of the lease that closed it: a later lease finds it open.
    closed_by: u64,
}

/// What no lease has as its token.
const OPEN: u64 = 0;

impl Head {
    const START: Self = Self { next: 0, closed_by: OPEN };

    fn seal(self, key: &DataKey, job: &JobId) -> bytes::Bytes {
        let mut plain = self.next.to_be_bytes().to_vec();
        plain.extend_from_slice(&self.closed_by.to_be_bytes());
        key.seal(Purpose::log(job, HEAD).context(), &plain)
    }

    fn decode(plain: &[u8]) -> Option<Self> {
        let (next, closed_by) = plain.split_first_chunk()?;
        let closed_by = closed_by.try_into().ok()?;
        Some(Self { next: u64::from_be_bytes(*next), closed_by: u64::from_be_bytes(closed_by) })
    }
}

/// What the row of a log says, and the sealed bytes that it has to agree with; none before the first chunk.
struct StoredHead {
    head: Head,
    sealed: Option<Vec<u8>>,
}

struct NewChunk {
    fence: Fence,
    seq: u64,
    sealed: bytes::Bytes,
    /// The head of the log when this chunk is its last.
    head: bytes::Bytes,
    /// What opens the head that it goes behind.
    key: Arc<DataKey>,
    most: i64,
}

/// What an append finds.
enum Found {
    /// The place for it.
    Stored,
    /// A chunk of that number, which this lease has stored before.
    Earlier(Vec<u8>),
    /// A log that goes on elsewhere.
    Behind(StoredHead),
}

fn append(connection: &Connection, chunk: &NewChunk, now: i64) -> Result<Found, Fault> {
    let NewChunk { fence, seq, sealed, head, key, most } = chunk;
    let job = &fence.job;
    check_held(connection, fence, now)?;
    let stored = find_head(connection, job)?;
    if stored.head.closed_by == fence.token {
        return Err(Fault::Closed(job.clone()));
    }
    if *seq < stored.head.next {
        let (token, sealed) = find_chunk(connection, job, *seq)?;
        if token == fence.token {
            return Ok(Found::Earlier(sealed));
        }
    }
    let (place, true) = (to_stored(*seq), *seq == stored.head.next) else { return Ok(Found::Behind(stored)) };
    if let Some(before) = &stored.sealed
        && seal::key_id(before).is_ok_and(|id| id == *key.id())
    {
        // A head that does not fit must not be replaced by one that does.
        let plain = key.open(Purpose::log(job, HEAD).context(), before).ok();
        if plain.and_then(|plain| Head::decode(&plain)) != Some(stored.head) {
            return Err(Fault::Forged("a log whose head says something else than its row"));
        }
    }
    let mut insert =
        connection.prepare_cached("INSERT INTO chunks (job, seq, token, sealed) VALUES (?1, ?2, ?3, ?4)")?;
    insert.execute((job.as_str(), place, to_stored(fence.token), &sealed[..]))?;
    let mut upsert = connection.prepare_cached(
        "INSERT INTO logs (job, next, bytes, closed, head) VALUES (?1, ?2, ?3, 0, ?4)
         ON CONFLICT (job) DO UPDATE SET next = excluded.next, bytes = bytes + excluded.bytes, closed = 0,
             head = excluded.head
         RETURNING bytes",
    )?;
    let size = i64::try_from(sealed.len()).unwrap_or(i64::MAX);
    let bytes: i64 = upsert.query_row((job.as_str(), place + 1, size, &head[..]), |row| row.get(0))?;
    if bytes > *most { Err(Fault::Full(job.clone())) } else { Ok(Found::Stored) }
}

/// Closes the log if it still is as `last` says, and says whether it is closed now.
fn close(connection: &Connection, fence: &Fence, last: Head, sealed: &[u8], now: i64) -> Result<bool, Fault> {
    check_held(connection, fence, now)?;
    let stored = find_head(connection, &fence.job)?;
    let is_closed = stored.head.closed_by == fence.token;
    if stored.head != last || is_closed {
        return Ok(is_closed);
    }
    let mut upsert = connection.prepare_cached(
        "INSERT INTO logs (job, next, bytes, closed, head) VALUES (?1, ?2, 0, ?3, ?4)
         ON CONFLICT (job) DO UPDATE SET closed = excluded.closed, head = excluded.head",
    )?;
    upsert.execute((fence.job.as_str(), to_stored(last.next), to_stored(fence.token), sealed))?;
    Ok(true)
}

fn find_head(connection: &Connection, job: &JobId) -> Result<StoredHead, Fault> {
    let mut find = connection.prepare_cached("SELECT next, closed, head FROM logs WHERE job = ?1")?;
    let found = find.query_row([job.as_str()], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, Vec<u8>>(2)?))
    });
    if let Some((next, closed_by, sealed)) = found.optional()? {
        let head = Head { next: to_unsigned(next)?, closed_by: to_unsigned(closed_by)? };
        return Ok(StoredHead { head, sealed: Some(sealed) });
    }
    let mut find = connection.prepare_cached("SELECT EXISTS (SELECT 1 FROM chunks WHERE job = ?1)")?;
    if find.query_row([job.as_str()], |row| row.get(0))? {
        return Err(Fault::Forged("a log with chunks and without a head"));
    }
    Ok(StoredHead { head: Head::START, sealed: None })
}

fn find_chunk(connection: &Connection, job: &JobId, seq: u64) -> Result<(u64, Vec<u8>), Fault> {
    let mut find =
        connection.prepare_cached("SELECT token, sealed FROM chunks WHERE job = ?1 AND seq = ?2")?;
    let found =
        find.query_row((job.as_str(), to_stored(seq)), |row| Ok((row.get::<_, i64>(0)?, row.get(1)?)));
    let (token, sealed) = found.optional()?.ok_or(Fault::Forged("a log that lacks a chunk"))?;
    Ok((to_unsigned(token)?, sealed))
}

/// A part of a log as it is stored.
struct StoredPage {
    head: StoredHead,
    chunks: Vec<(u64, Vec<u8>)>,
    /// Whether these are all chunks from the asked one on.
    is_rest: bool,
    /// Whether the job has ended, so that nothing can follow although the log may be open: its worker was lost.
    is_finished: bool,
    /// The token of the job's latest lease.
    token: u64,
}

impl StoredPage {
    /// Whether nothing will follow.
    fn has_ended(&self) -> bool {
        self.is_finished || (self.head.head.closed_by != OPEN && self.head.head.closed_by == self.token)
    }
}

fn find_page(
    connection: &Connection,
    repository: &RepositoryId,
    job: &JobId,
    from: u64,
    limit: usize,
) -> Result<StoredPage, Fault> {
    let (tenant, forge, native) = parts(repository);
    let mut find = connection.prepare_cached(
        "SELECT state = 'finished', token FROM jobs
         WHERE job = ?1 AND tenant = ?2 AND forge = ?3 AND native = ?4",
    )?;
    let found = find.query_row((job.as_str(), tenant, forge, native), |row| {
        Ok((row.get::<_, bool>(0)?, row.get::<_, i64>(1)?))
    });
    let (is_finished, token) = found.optional()?.ok_or_else(|| Fault::Unknown(job.clone()))?;
    let token = to_unsigned(token)?;
    let head = find_head(connection, job)?;
    let mut find = connection
        .prepare_cached("SELECT seq, sealed FROM chunks WHERE job = ?1 AND seq >= ?2 ORDER BY seq")?;
    let mut rows = find.query((job.as_str(), to_stored(from)))?;
    let (mut chunks, mut bytes, mut is_rest) = (Vec::new(), 0, true);
    while let Some(row) = rows.next()? {
        let sealed = row.get_ref(1)?.as_blob().map_err(|_| Fault::Forged("a chunk that is no bytes"))?;
        // Sealed bytes are more than what is in them, so the page cannot become too large.
        bytes += sealed.len();
        if bytes > limit && !chunks.is_empty() {
            is_rest = false;
            break;
        }
        chunks.push((to_unsigned(row.get(0)?)?, sealed.to_vec()));
    }
    Ok(StoredPage { head, chunks, is_rest, is_finished, token })
}

fn to_stored(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn to_unsigned(stored: i64) -> Result<u64, Fault> {
    u64::try_from(stored).map_err(|_| Fault::Forged("a number below zero"))
}

fn tampered(job: &JobId) -> Error {
    Error::new(ErrorKind::Tampered, "read a log").with("job", job)
}
