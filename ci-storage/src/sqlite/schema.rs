//! The tables, and how a file becomes a database of this program.

use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use ci_core::id::JobId;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::error::Fault;

/// Marks a file as ours in its header ("cist"), so that another program's database is never written to.
const APPLICATION_ID: i64 = 0x6369_7374;

/// How many bytes a page has.
pub(super) const PAGE: usize = 4096;

/// How long a connection waits for another one.
const PATIENCE: Duration = Duration::from_secs(10);

/// What brings a file from one version to the next; the version of a file is how many of these it has had.
const MIGRATIONS: &[&str] = &["
    CREATE TABLE commits (id INTEGER PRIMARY KEY CHECK (id = 1), version INTEGER NOT NULL) STRICT;
    INSERT INTO commits VALUES (1, 0);

    CREATE TABLE records (key TEXT NOT NULL PRIMARY KEY, version INTEGER NOT NULL, value BLOB NOT NULL) STRICT;

    CREATE TABLE jobs (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        job TEXT NOT NULL UNIQUE,
        tenant TEXT NOT NULL,
        forge TEXT NOT NULL,
        native TEXT NOT NULL,
        labels TEXT NOT NULL,
        ticket BLOB NOT NULL,
        state TEXT NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'running', 'finished')),
        attempts INTEGER NOT NULL DEFAULT 0,
        token INTEGER NOT NULL DEFAULT 0,
        until INTEGER NOT NULL DEFAULT 0,
        ttl INTEGER NOT NULL DEFAULT 0,
        expires INTEGER NOT NULL,
        cancelled INTEGER NOT NULL DEFAULT 0,
        ending TEXT,
        outcome BLOB
    ) STRICT;
    CREATE INDEX open_jobs ON jobs (labels, until, id) WHERE state <> 'finished';
    CREATE INDEX given_at ON jobs (until - ttl) WHERE state <> 'finished';
    CREATE INDEX jobs_of_repository ON jobs (tenant, forge, native, id);

    CREATE TABLE logs (
        job TEXT NOT NULL PRIMARY KEY REFERENCES jobs (job),
        next INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        closed INTEGER NOT NULL,
        head BLOB NOT NULL
    ) STRICT;
    CREATE TABLE chunks (
        job TEXT NOT NULL REFERENCES jobs (job),
        seq INTEGER NOT NULL,
        token INTEGER NOT NULL,
        sealed BLOB NOT NULL,
        UNIQUE (job, seq)
    ) STRICT;
"];

/// Rewrites the records into fresh pages. A page that SQLite has re-arranged may hold a copy of a row that was
/// deleted later; dropping the table zeroes every page whole (`secure_delete`).
pub(super) const REWRITE_RECORDS: &str = "
    CREATE TABLE rewritten (key TEXT NOT NULL PRIMARY KEY, version INTEGER NOT NULL, value BLOB NOT NULL) STRICT;
    INSERT INTO rewritten SELECT key, version, value FROM records ORDER BY key;
    DROP TABLE records;
    ALTER TABLE rewritten RENAME TO records;
";

/// Opens the file for the thread that writes: makes it if it is not there, and brings it up to date.
pub(super) fn open_writer(path: &Path) -> Result<Connection, Fault> {
    create(path).map_err(Fault::Folder)?;
    let mut connection = connect(path)?;
    let is_new = check_owner(&connection)?;
    if is_new {
        connection.pragma_update(None, "page_size", i64::try_from(PAGE).unwrap_or(i64::MAX))?;
        set_journal(&connection)?;
    }
    configure(&connection)?;
    migrate(&mut connection)?;
    Ok(connection)
}

/// Opens the file, which a writer has made, for a thread that only reads.
pub(super) fn open_reader(path: &Path) -> Result<Connection, Fault> {
    let connection = connect(path)?;
    configure(&connection)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

/// Makes an empty file that only its owner can read.
///
/// It is made under another name and linked into place: closing any descriptor of a database drops the locks
/// that this process holds on it (fcntl(2)), so a file that SQLite may have open must not be opened here.
fn create(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path).is_ok() {
        return Ok(());
    }
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(format!(".{}.new", JobId::random()));
    let fresh = path.with_file_name(name);
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?.sync_all()?;
    let linked = fs::hard_link(&fresh, path);
    fs::remove_file(&fresh)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn connect(path: &Path) -> Result<Connection, Fault> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(PATIENCE)?;
    // Whoever can write to the file could leave code in it: it is not run.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false)?;
    Ok(connection)
}

/// Whether the file is new; refuses one that is not ours before anything is written to it.
fn check_owner(connection: &Connection) -> Result<bool, Fault> {
    let number = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    match (number("application_id")?, number("user_version")?) {
        (0, 0) if tables == 0 => Ok(true),
        (APPLICATION_ID, version) if to_version(version).is_some() => Ok(false),
        (APPLICATION_ID, version) => Err(Fault::Newer(version)),
        _ => Err(Fault::Foreign),
    }
}

/// Switches a new file to a write-ahead log, which stays a property of the file.
fn set_journal(connection: &Connection) -> Result<(), Fault> {
    let start = Instant::now();
    loop {
        // SQLite does not wait here by itself when another process does the same at the same time.
        let switched =
            connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0));
        match switched {
            Err(error) if is_busy(&error) && start.elapsed() < PATIENCE => {
                thread::sleep(Duration::from_millis(5));
            }
            switched => return Ok(switched.map(|_| ())?),
        }
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

fn configure(connection: &Connection) -> Result<(), Fault> {
    // A commit is on the disk when it is answered.
    connection.pragma_update(None, "synchronous", "FULL")?;
    // What is deleted is overwritten.
    connection.pragma_update(None, "secure_delete", true)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // A file that somebody cuts short must be an error, not a signal that ends the process.
    connection.pragma_update(None, "mmap_size", 0)?;
    // Nothing of what is stored goes to temporary files, which no purge would find.
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "journal_size_limit", 64 * 1024 * 1024)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

fn migrate(connection: &mut Connection) -> Result<(), Fault> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Asked again, now that no other process can be at it.
    let version = transaction.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0))?;
    let done = to_version(version).ok_or(Fault::Newer(version))?;
    for migration in &MIGRATIONS[done..] {
        transaction.execute_batch(migration)?;
    }
    if done < MIGRATIONS.len() {
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(
            None,
            "user_version",
            i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX),
        )?;
    }
    Ok(transaction.commit()?)
}

fn to_version(stored: i64) -> Option<usize> {
    usize::try_from(stored).ok().filter(|version| *version <= MIGRATIONS.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_said_to_be_full_and_nothing_is_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let connection = open_writer(&folder.path().join("db")).expect("a database");
        let pages: i64 =
            connection.pragma_query_value(None, "page_count", |row| row.get(0)).expect("a number");
        connection.pragma_update(None, "max_page_count", pages).expect("a bound");
        let insert = "INSERT INTO records VALUES ('a', 1, zeroblob(100000))";
        let fault = Fault::from(connection.execute(insert, []).expect_err("no space"));
        assert_eq!(fault.told("commit").to_string(), "commit: the disk is full; free space");
        let count: i64 =
            connection.query_row("SELECT count(*) FROM records", [], |r| r.get(0)).expect("a number");
        assert_eq!(count, 0);
    }

    #[test]
    fn every_promise_to_sqlite_is_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("db");
        let writer = open_writer(&path).expect("a database");
        let reader = open_reader(&path).expect("a database");
        for connection in [&writer, &reader] {
            let number =
                |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).expect(name);
            let journal = connection.pragma_query_value(None, "journal_mode", |row| row.get::<_, String>(0));
            assert_eq!(journal.expect("a mode"), "wal");
            assert_eq!(number("synchronous"), 2);
            assert_eq!(number("secure_delete"), 1);
            assert_eq!(number("foreign_keys"), 1);
            assert_eq!(number("trusted_schema"), 0);
        }
        assert!(reader.execute("DELETE FROM records", []).is_err(), "the reader cannot write");
    }
}
