//! The threads that own the connections: SQLite blocks, so no runtime's thread ever waits for it.
//!
//! Work that waits at the same time goes to the disk together: one transaction with a savepoint for each, one
//! `fsync` for all, and nobody is answered before it is done.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

use rusqlite::{Connection, ffi};
use tokio::sync::{mpsc, oneshot};

use super::error::Fault;
use super::schema;

/// How much work may wait before callers do.
const QUEUE: usize = 256;
/// How much work goes to the disk together.
const GROUP: usize = 64;

/// A thread with a connection of its own.
#[derive(Debug)]
pub(super) struct Worker {
    // `None` only while it is dropped.
    work: Option<mpsc::Sender<Box<dyn Work>>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// A thread that writes. The file is made and brought up to date before this returns.
    pub(super) async fn writer(path: &Path) -> Result<Self, Fault> {
        Self::start(path, schema::open_writer, write).await
    }

    /// A thread that reads, next to the writer.
    pub(super) async fn reader(path: &Path) -> Result<Self, Fault> {
        Self::start(path, schema::open_reader, read).await
    }

    async fn start(path: &Path, open: Open, serve: Serve) -> Result<Self, Fault> {
        let (work, mut waiting) = mpsc::channel(QUEUE);
        let (opened, is_open) = oneshot::channel();
        let path: PathBuf = path.to_owned();
        let run = move || match open(&path) {
            Ok(connection) => {
                if opened.send(Ok(())).is_ok() {
                    serve(&connection, &mut waiting);
                }
            }
            Err(fault) => drop(opened.send(Err(fault))),
        };
        let thread = thread::Builder::new().name("ci-storage".to_owned()).spawn(run).map_err(Fault::Raw)?;
        is_open.await.unwrap_or(Err(Fault::Gone))?;
        Ok(Self { work: Some(work), thread: Some(thread) })
    }

    /// Does `work` within a transaction; what it returns counts when the transaction is on the disk.
    ///
    /// When the future is dropped, the work may or may not be done.
    pub(super) async fn run<T, F>(&self, work: F) -> Result<T, Fault>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    {
        self.ask(Company::Any, work).await
    }

    /// Does `work` outside of any transaction, for what SQLite does nowhere else.
    pub(super) async fn run_alone<T, F>(&self, work: F) -> Result<T, Fault>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    {
        self.ask(Company::Alone, work).await
    }

    async fn ask<T, F>(&self, company: Company, work: F) -> Result<T, Fault>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let asked: Box<dyn Work> = Box::new(Asked { company, work: Some(work), done: None, reply });
        let sender = self.work.as_ref().ok_or(Fault::Gone)?;
        sender.send(asked).await.map_err(|_| Fault::Gone)?;
        answer.await.unwrap_or(Err(Fault::Gone))
    }
}

impl Drop for Worker {
    /// Waits until what was asked for is done, so that the file is free when this returns.
    fn drop(&mut self) {
        drop(self.work.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

type Open = fn(&Path) -> Result<Connection, Fault>;
type Serve = fn(&Connection, &mut mpsc::Receiver<Box<dyn Work>>);

/// What else may happen in the same transaction.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Company {
    Any,
    Alone,
}

/// Something to do, and somebody who waits for it.
trait Work: Send {
    fn company(&self) -> Company;

    /// Whether nobody waits for it any more.
    fn is_abandoned(&self) -> bool;

    /// Does it, and says whether it succeeded.
    fn run(&mut self, connection: &Connection) -> bool;

    /// Tells how it went; `failure` is why the transaction as a whole did not happen.
    fn answer(self: Box<Self>, failure: Option<&rusqlite::Error>);
}

struct Asked<T, F> {
    company: Company,
    work: Option<F>,
    done: Option<Result<T, Fault>>,
    reply: oneshot::Sender<Result<T, Fault>>,
}

impl<T, F> Work for Asked<T, F>
where
    T: Send,
    F: FnOnce(&Connection) -> Result<T, Fault> + Send,
{
    fn company(&self) -> Company {
        self.company
    }

    fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    fn run(&mut self, connection: &Connection) -> bool {
        let Some(work) = self.work.take() else { return false };
        // A defect in one caller's work must not take the database away from all others.
        let done = catch_unwind(AssertUnwindSafe(|| work(connection))).unwrap_or(Err(Fault::Gone));
        self.done.insert(done).is_ok()
    }

    fn answer(self: Box<Self>, failure: Option<&rusqlite::Error>) {
        let Self { company: _, work: _, done, reply } = *self;
        let done = match (done, failure) {
            // What the work itself refused stands, whatever became of the others.
            (Some(Err(fault)), _) => Err(fault),
            (_, Some(failure)) => Err(Fault::shared(failure)),
            (Some(done), None) => done,
            (None, None) => Err(Fault::Gone),
        };
        // Whoever no longer waits does not want to know.
        let _ = reply.send(done);
    }
}

fn read(connection: &Connection, waiting: &mut mpsc::Receiver<Box<dyn Work>>) {
    while let Some(mut work) = waiting.blocking_recv() {
        if work.is_abandoned() {
            continue;
        }
        let failure = connection.execute_batch("BEGIN").err();
        if failure.is_none() {
            work.run(connection);
        }
        end(connection, "COMMIT");
        work.answer(failure.as_ref());
    }
}

fn write(connection: &Connection, waiting: &mut mpsc::Receiver<Box<dyn Work>>) {
    let mut group = Vec::with_capacity(GROUP);
    while waiting.blocking_recv_many(&mut group, GROUP) > 0 {
        let asked = group.drain(..).filter(|work| !work.is_abandoned());
        let (mut together, alone): (Vec<_>, Vec<_>) = asked.partition(|work| work.company() == Company::Any);
        let failure = write_together(connection, &mut together).err();
        end(connection, "ROLLBACK");
        for work in together {
            work.answer(failure.as_ref());
        }
        for mut work in alone {
            work.run(connection);
            work.answer(None);
        }
    }
}

fn write_together(connection: &Connection, all: &mut [Box<dyn Work>]) -> Result<(), rusqlite::Error> {
    if all.is_empty() {
        return Ok(());
    }
    connection.execute_batch("BEGIN IMMEDIATE")?;
    for work in all {
        connection.prepare_cached("SAVEPOINT work")?.execute([])?;
        if !work.run(connection) {
            // Some failures, a full disk among them, end the whole transaction, and with it everybody's work.
            if connection.is_autocommit() {
                return Err(rusqlite::Error::SqliteFailure(
                    ffi::Error::new(ffi::SQLITE_ABORT_ROLLBACK),
                    None,
                ));
            }
            connection.prepare_cached("ROLLBACK TO work")?.execute([])?;
        }
        connection.prepare_cached("RELEASE work")?.execute([])?;
    }
    connection.execute_batch("COMMIT")
}

/// Ends a transaction, if there still is one.
fn end(connection: &Connection, how: &str) {
    if connection.is_autocommit() {
        return;
    }
    if let Err(error) = connection.execute_batch(how) {
        tracing::error!(%error, "a transaction could not be ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Answer = oneshot::Receiver<Result<usize, Fault>>;

    fn ask(sql: &'static str) -> (Box<dyn Work>, Answer) {
        let work = move |connection: &Connection| Ok(connection.execute(sql, [])?);
        let (reply, answer) = oneshot::channel();
        (Box::new(Asked { company: Company::Any, work: Some(work), done: None, reply }), answer)
    }

    fn answers(connection: &Connection, statements: [&'static str; 3]) -> [String; 3] {
        let (works, answers): (Vec<_>, Vec<_>) = statements.map(ask).into_iter().unzip();
        let (work, mut waiting) = mpsc::channel(works.len());
        for asked in works {
            work.try_send(asked).unwrap_or_else(|_| panic!("there is room"));
        }
        drop(work);
        write(connection, &mut waiting);
        let text = |mut answer: Answer| match answer.try_recv().expect("answered") {
            Ok(rows) => format!("{rows} rows"),
            Err(fault) => fault.told("write").to_string(),
        };
        answers.into_iter().map(text).collect::<Vec<_>>().try_into().expect("three")
    }

    fn count(connection: &Connection) -> i64 {
        connection.query_row("SELECT count(*) FROM records", [], |row| row.get(0)).expect("a number")
    }

    #[test]
    fn work_that_fails_takes_nobody_with_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let connection = schema::open_writer(&folder.path().join("db")).expect("a database");
        let statements = [
            "INSERT INTO records VALUES ('a', 1, x'')",
            "INSERT INTO records VALUES ('a', 2, x''), ('b', 2, x'')",
            "INSERT INTO records VALUES ('c', 3, x'')",
        ];
        assert_eq!(answers(&connection, statements), ["1 rows", "write: internal error", "1 rows"]);
        assert_eq!(count(&connection), 2);
    }

    #[test]
    fn nobody_is_told_that_work_was_done_which_a_full_disk_undid() {
        let folder = tempfile::tempdir().expect("a folder");
        let connection = schema::open_writer(&folder.path().join("db")).expect("a database");
        let pages: i64 =
            connection.pragma_query_value(None, "page_count", |row| row.get(0)).expect("a number");
        connection.pragma_update(None, "max_page_count", pages).expect("a bound");
        let statements = [
            "INSERT INTO records VALUES ('a', 1, x'')",
            "INSERT INTO records VALUES ('b', 2, zeroblob(100000))",
            "INSERT INTO records VALUES ('c', 3, x'')",
        ];
        let told = answers(&connection, statements);
        assert_eq!(told[1], "write: the disk is full; free space");
        let kept = told.iter().filter(|answer| *answer == "1 rows").count();
        assert_eq!(i64::try_from(kept).expect("few"), count(&connection), "{told:?}");
    }

    #[tokio::test]
    async fn a_panic_ends_nothing_but_its_own_work() {
        let folder = tempfile::tempdir().expect("a folder");
        let writer = Worker::writer(&folder.path().join("db")).await.expect("a database");
        let failed = writer.run::<(), _>(|_| panic!("a defect")).await;
        assert!(matches!(failed, Err(Fault::Gone)));
        assert!(writer.run(|connection| Ok(count(connection))).await.is_ok());
    }
}
