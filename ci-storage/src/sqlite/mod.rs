//! Records, queue and logs in one SQLite file.

mod bell;
mod error;
mod log;
mod queue;
mod records;
mod scan;
mod schema;
mod thread;

use std::fmt;
use std::fs::File;
use std::io::BufReader;
use std::mem::ManuallyDrop;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use ci_core::clock::Clock;
use ci_core::id::{JobId, Label, RepositoryId};
use ci_core::queue::{End, Extended, Leased, NewRow, Queue, Released, Row};
use ci_core::records::{Batch, Fence, Key, Record, Records, Version};
use ci_core::secret::KeyRing;
use ci_core::{Error, ErrorKind, Result};
use rusqlite::Connection;
use tokio::sync::oneshot;

pub use self::log::SqliteLogs;

use self::bell::Bells;
use self::error::Fault;
use self::scan::Layout;
use self::thread::Worker;

/// The fewest bytes that are searched for: fewer lie anywhere by chance.
const SHORTEST_NEEDLE: usize = 8;

/// A database in one SQLite file: [`Records`] and [`Queue`] with fences in one transaction, and, through
/// [`logs`](Self::logs), a [`LogStore`](ci_core::log::LogStore).
///
/// What a call has answered is on the disk: the write-ahead log is synced before every answer, and what waits at
/// the same time is synced together. Several handles and several processes may share a file on a local disk;
/// they take turns. A network file system is not enough, because SQLite's locks do not hold there.
///
/// The file is made so that only its owner can read it. It does not protect from somebody who can write to it
/// all the same: rows can then be changed, removed, or put back as they once were. What must not be believed in
/// that case (tickets, secrets, logs, what is known of artifacts) is sealed by whoever stores it, so that a
/// change is noticed; noticing that the whole file was put back to an earlier state takes a
/// [`FreshnessAnchor`](ci_core::secret::FreshnessAnchor), which the service asks when it starts.
///
/// [`purge`](Records::purge) rewrites all records, so that nothing of what was deleted stays in any page: it takes seconds
/// for every hundred thousand of them, and other writes, heartbeats too, wait for so long.
///
/// A clone is another handle to the same database. Dropping the last one waits until what was asked for is
/// written, and closes the file.
///
/// # Cancel safety
///
/// When the future of a call is dropped, what it asked for happens wholly or not at all.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// use std::sync::Arc;
/// use ci_core::clock::SystemClock;
/// use ci_core::records::{Batch, Condition, Key, Records as _};
/// use ci_storage::sqlite::Sqlite;
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("ci.db");
/// let key = Key::new("greeting");
///
/// let database = Sqlite::open(&path, Arc::new(SystemClock::new())).await?;
/// database.commit(Batch::new().require(Condition::Absent(key.clone())).put(key.clone(), "hello")).await?;
/// drop(database);
///
/// let database = Sqlite::open(&path, Arc::new(SystemClock::new())).await?;
/// assert_eq!(database.get(&key).await?.expect("it is kept").value, "hello");
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Sqlite(Arc<Inner>);

struct Inner {
    // Dropped first, so that the writer is the last to close the file and tidies it up.
    reader: Worker,
    writer: Worker,
    path: PathBuf,
    clock: Arc<dyn Clock>,
    bells: Bells,
    raw: OnceLock<ManuallyDrop<File>>,
}

impl Sqlite {
    /// Opens the database at `path`, or makes it; its folder must exist. Leases run out by `clock`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when the folder does not exist, or the file is something else than such a
    /// database; [`ErrorKind::Unsupported`] when a later version of this crate wrote it;
    /// [`ErrorKind::Unavailable`] when it cannot be read and written now; [`ErrorKind::Tampered`] when it is
    /// damaged.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, an empty database may have been made.
    pub async fn open(path: impl AsRef<Path>, clock: Arc<dyn Clock>) -> Result<Self> {
        let path = path.as_ref().to_owned();
        let told = |fault: Fault| fault.told("open the database").detail(path.display().to_string());
        let writer = Worker::writer(&path).await.map_err(told)?;
        let reader = Worker::reader(&path).await.map_err(told)?;
        Ok(Self(Arc::new(Inner {
            reader,
            writer,
            path,
            clock,
            bells: Bells::default(),
            raw: OnceLock::new(),
        })))
    }

    /// The logs of this database's jobs, sealed with the keys of `ring`.
    pub fn logs(&self, ring: Arc<dyn KeyRing>) -> SqliteLogs {
        SqliteLogs::new(self.clone(), ring)
    }

    /// Does `work`, which is told the time, in a transaction that writes.
    async fn write<T, F>(&self, operation: &'static str, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection, i64) -> Result<T, Fault> + Send + 'static,
    {
        let clock = self.0.clock.clone();
        // The time is asked for within the transaction: a lease must not run out while its holder waits for it.
        let work = move |connection: &Connection| work(connection, queue::stored(clock.now()));
        self.0.writer.run(work).await.map_err(|fault| fault.told(operation))
    }

    /// Does `work`, which is told the time, on one state of the database.
    async fn read<T, F>(&self, operation: &'static str, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection, i64) -> Result<T, Fault> + Send + 'static,
    {
        let clock = self.0.clock.clone();
        let work = move |connection: &Connection| work(connection, queue::stored(clock.now()));
        self.0.reader.run(work).await.map_err(|fault| fault.told(operation))
    }
}

impl fmt::Debug for Sqlite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sqlite").field("path", &self.0.path).finish_non_exhaustive()
    }
}

#[async_trait]
impl Records for Sqlite {
    async fn get(&self, key: &Key) -> Result<Option<Record>> {
        let key = key.clone();
        self.read("read a record", move |connection, _| records::get(connection, &key)).await
    }

    async fn get_all(&self, keys: &[Key]) -> Result<Vec<Option<Record>>> {
        let keys = keys.to_vec();
        self.read("read records", move |connection, _| {
            keys.iter().map(|key| records::get(connection, key)).collect()
        })
        .await
    }

    async fn list(&self, prefix: &Key, after: Option<&Key>, limit: usize) -> Result<Vec<Record>> {
        let (prefix, after) = (prefix.clone(), after.cloned());
        self.read("list records", move |connection, _| {
            records::list(connection, &prefix, after.as_ref(), limit)
        })
        .await
    }

    async fn commit(&self, batch: Batch) -> Result<Version> {
        self.write("commit", move |connection, now| records::commit(connection, &batch, now)).await
    }

    async fn purge(&self, prefix: &Key) -> Result<usize> {
        let prefix = prefix.clone();
        let purged =
            self.write("purge records", move |connection, _| records::purge(connection, &prefix)).await?;
        let emptied = self.0.writer.run_alone(records::empty_journal).await;
        emptied.map_err(|fault| fault.told("purge records"))?;
        Ok(purged)
    }

    async fn scrub(&self) -> Result<()> {
        const OPERATION: &str = "forget deleted records";
        self.write(OPERATION, move |connection, _| records::rewrite(connection)).await?;
        let emptied = self.0.writer.run_alone(records::empty_journal).await;
        emptied.map_err(|fault| fault.told(OPERATION))
    }

    async fn scan_raw(&self, needle: &[u8]) -> Result<usize> {
        const OPERATION: &str = "look through the database's files";
        if needle.len() < SHORTEST_NEEDLE {
            let reason = "fewer than 8 bytes lie anywhere by chance; look for more";
            return Err(Error::new(ErrorKind::Invalid, OPERATION).because(reason));
        }
        let (needle, inner) = (needle.to_owned(), self.0.clone());
        let (reply, answer) = oneshot::channel();
        let look = move || drop(reply.send(inner.scan(&needle)));
        let spawned = std::thread::Builder::new().name("ci-storage-scan".to_owned()).spawn(look);
        spawned.map_err(|error| Fault::Raw(error).told(OPERATION))?;
        let found = answer.await.map_err(|_| Fault::Gone.told(OPERATION))?;
        found.map_err(|error| Fault::Raw(error).told(OPERATION))
    }
}

#[async_trait]
impl Queue for Sqlite {
    async fn push(&self, row: NewRow) -> Result<()> {
        self.write("add a job to the queue", move |connection, now| queue::push(connection, &row, now)).await
    }

    async fn lease(&self, labels: &[Label], ttl: Duration) -> Result<Option<Leased>> {
        let labels = labels.to_owned();
        self.write("lease a job", move |connection, now| queue::lease(connection, &labels, ttl, now)).await
    }

    async fn extend(&self, fence: &Fence, ttl: Duration) -> Result<Extended> {
        let fence = fence.clone();
        self.write("extend a lease", move |connection, now| queue::extend(connection, &fence, ttl, now)).await
    }

    async fn release(&self, fence: &Fence, why: Released, pause: Duration) -> Result<()> {
        tracing::debug!(job = %fence.job, ?why, "lease given back");
        let fence = fence.clone();
        self.write("give a lease back", move |connection, now| {
            queue::release(connection, &fence, why, pause, now)
        })
        .await
    }

    async fn finish(&self, fence: &Fence, end: &End, with: Batch) -> Result<()> {
        let (held, end) = (fence.clone(), end.clone());
        self.write("finish a job", move |connection, now| queue::finish(connection, &held, &end, &with, now))
            .await?;
        self.0.bells.ring(&fence.job);
        Ok(())
    }

    async fn cancel(&self, job: &JobId) -> Result<()> {
        let asked = job.clone();
        self.write("cancel a job", move |connection, now| queue::cancel(connection, &asked, now)).await?;
        self.0.bells.ring(job);
        Ok(())
    }

    async fn row(&self, job: &JobId) -> Result<Option<Row>> {
        let job = job.clone();
        self.read("look at a job", move |connection, now| queue::row(connection, &job, now)).await
    }

    async fn jobs(
        &self,
        repository: &RepositoryId,
        before: Option<&JobId>,
        limit: usize,
    ) -> Result<Vec<JobId>> {
        let (repository, before) = (repository.clone(), before.cloned());
        let look = move |c: &Connection, _| queue::jobs(c, &repository, before.as_ref(), limit);
        self.read("list jobs", look).await
    }
}

impl Inner {
    /// In how many places of the files `needle` lies. The shared-memory file is left out: it holds numbers of
    /// pages and nothing of their content.
    fn scan(&self, needle: &[u8]) -> std::io::Result<usize> {
        // What moves while this looks moves from the write-ahead log to the database, so it is looked for there
        // first: it may be seen twice, and is never missed.
        let mut journal = self.path.clone().into_os_string();
        journal.push("-wal");
        let in_journal = match File::open(&journal) {
            Ok(journal) => scan::count(BufReader::new(journal), Layout::JOURNAL, needle)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        let database = BufReader::new(RawFile { file: self.raw_file()?, at: 0 });
        Ok(in_journal + scan::count(database, Layout::DATABASE, needle)?)
    }

    /// The database's file, for reading past SQLite.
    ///
    /// It is opened once and never closed: closing any descriptor of a file drops all locks that this process
    /// holds on it (fcntl(2)), those of every connection included, and another process could then take the
    /// write-ahead log away from under us.
    fn raw_file(&self) -> std::io::Result<&File> {
        if self.raw.get().is_none() {
            let opened = ManuallyDrop::new(File::open(&self.path)?);
            // Who comes second keeps a descriptor open in vain.
            drop(self.raw.set(opened));
        }
        self.raw.get().map(|file| &**file).ok_or_else(|| std::io::ErrorKind::NotFound.into())
    }
}

/// A file that is read from its beginning, wherever others read it.
struct RawFile<'a> {
    file: &'a File,
    at: u64,
}

impl std::io::Read for RawFile<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}
