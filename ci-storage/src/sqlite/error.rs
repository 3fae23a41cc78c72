//! What goes wrong in the database, and what callers are told about it: one table.

use ci_core::id::JobId;
use ci_core::records::Key;
use ci_core::{Error, ErrorKind};
use rusqlite::ErrorCode;

/// What went wrong, precisely.
#[derive(Debug)]
pub(super) enum Fault {
    /// SQLite said so.
    Sqlite(rusqlite::Error),
    /// A condition on this key does not hold.
    Unmet(Key),
    /// The lease on this job is over.
    Lost(JobId),
    /// There is a job with this id.
    Exists(JobId),
    /// There is no job with this id, or none that the caller may know of.
    Unknown(JobId),
    /// A row holds what nobody wrote there.
    Forged(&'static str),
    /// The log is closed.
    Closed(JobId),
    /// The log has as many bytes as it may have.
    Full(JobId),
    /// The folder of the file does not exist, or the file cannot be made in it.
    Folder(std::io::Error),
    /// The file's raw bytes cannot be read.
    Raw(std::io::Error),
    /// The file is a database of another program.
    Foreign,
    /// The file was written by a later version of this program.
    Newer(i64),
    /// Another connection holds the database, and did not let go for as long as we wait.
    Busy,
    /// The thread that owns the connection has ended.
    Gone,
    /// What a caller is told already.
    Told(Box<Error>),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl Fault {
    /// What a caller is told who wanted to do `operation`.
    pub(super) fn told(self, operation: &'static str) -> Error {
        let told = |kind, reason: &'static str| Error::new(kind, operation).because(reason);
        match self {
            Self::Sqlite(error) => of_sqlite(error, operation),
            Self::Unmet(key) => Error::new(ErrorKind::Conflict, operation).with("record", key),
            Self::Lost(job) => Error::new(ErrorKind::Fenced, operation).with("job", job),
            Self::Exists(job) => told(ErrorKind::Conflict, "there is a job with this id").with("job", job),
            Self::Unknown(job) => {
                told(ErrorKind::NotFound, "the repository has no job of that id").with("job", job)
            }
            Self::Forged(what) => Error::new(ErrorKind::Tampered, operation).detail(what),
            Self::Closed(job) => told(ErrorKind::Conflict, "the log is closed").with("job", job),
            Self::Full(job) => {
                told(ErrorKind::LimitExceeded, "the log has as many bytes as it may have").with("job", job)
            }
            Self::Folder(error) => {
                let reason =
                    "the file cannot be made; its folder must exist, and be this program's to write to";
                told(ErrorKind::Invalid, reason).caused_by(error)
            }
            Self::Raw(error) => Error::new(ErrorKind::Unavailable, operation).caused_by(error),
            Self::Foreign => told(ErrorKind::Invalid, "the file is a database of another program"),
            Self::Newer(version) => told(
                ErrorKind::Unsupported,
                "a later version of this program wrote the file; update this one",
            )
            .with("version", version),
            Self::Busy => told(ErrorKind::Unavailable, "another process holds the database"),
            Self::Told(error) => *error,
            Self::Gone => told(ErrorKind::Internal, "the thread that owns the database has ended"),
        }
    }

    /// The same fault again, for everybody whose work was in a transaction that failed as a whole.
    pub(super) fn shared(error: &rusqlite::Error) -> Self {
        match error {
            rusqlite::Error::SqliteFailure(code, text) => {
                Self::Sqlite(rusqlite::Error::SqliteFailure(*code, text.clone()))
            }
            _ => Self::Gone,
        }
    }
}

/// `SQLITE_IOERR_SHMSIZE` of SQLite's result codes.
const SQLITE_IOERR_SHMSIZE: i32 = 4874;

fn of_sqlite(error: rusqlite::Error, operation: &'static str) -> Error {
    // The memory that connections share lies in a file too, and finds out first that a small disk is full.
    let no_room_to_share =
        error.sqlite_error().is_some_and(|error| error.extended_code == SQLITE_IOERR_SHMSIZE);
    let (kind, reason) = match error.sqlite_error_code() {
        _ if no_room_to_share => (ErrorKind::Unavailable, Some("the disk is full; free space")),
        Some(ErrorCode::DiskFull) => (ErrorKind::Unavailable, Some("the disk is full; free space")),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            (ErrorKind::Unavailable, Some("another process holds the database"))
        }
        Some(ErrorCode::SystemIoFailure | ErrorCode::FileLockingProtocolFailed) => {
            (ErrorKind::Unavailable, Some("the disk cannot be read or written"))
        }
        Some(ErrorCode::CannotOpen) => (ErrorKind::Unavailable, Some("the file cannot be opened")),
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            (ErrorKind::Unavailable, Some("the file can only be read; make it writable"))
        }
        // Aborted: the work of somebody else in the same transaction failed, and ended it.
        Some(ErrorCode::OutOfMemory | ErrorCode::OperationAborted) => (ErrorKind::Unavailable, None),
        Some(ErrorCode::NotADatabase) => {
            (ErrorKind::Invalid, Some("the file is not an SQLite database; is it the right path?"))
        }
        Some(ErrorCode::TooBig) => (ErrorKind::LimitExceeded, None),
        // Not SQLite itself: a column that holds another type than this program ever writes.
        Some(ErrorCode::DatabaseCorrupt) | None => (ErrorKind::Tampered, None),
        Some(_) => (ErrorKind::Internal, None),
    };
    let told = Error::new(kind, operation).caused_by(error);
    match reason {
        Some(reason) => told.because(reason),
        None => told,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sqlite(code: i32) -> Fault {
        Fault::Sqlite(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None))
    }

    #[test]
    fn every_fault_has_its_words() {
        use rusqlite::ffi;
        let job = || JobId::parse("0123456789abcdef0123456789abcdef").expect("an id");
        let io = || std::io::Error::from(std::io::ErrorKind::NotFound);
        let expected = [
            (sqlite(ffi::SQLITE_FULL), "Unavailable do it: the disk is full; free space"),
            (sqlite(ffi::SQLITE_BUSY), "Unavailable do it: another process holds the database"),
            (sqlite(ffi::SQLITE_IOERR), "Unavailable do it: the disk cannot be read or written"),
            (sqlite(ffi::SQLITE_CANTOPEN), "Unavailable do it: the file cannot be opened"),
            (sqlite(ffi::SQLITE_READONLY), "Unavailable do it: the file can only be read; make it writable"),
            (sqlite(ffi::SQLITE_NOMEM), "Unavailable do it: temporarily unavailable"),
            (sqlite(ffi::SQLITE_CORRUPT), "Tampered do it: stored data has been tampered with"),
            (
                sqlite(ffi::SQLITE_NOTADB),
                "Invalid do it: the file is not an SQLite database; is it the right path?",
            ),
            (sqlite(ffi::SQLITE_TOOBIG), "LimitExceeded do it: limit exceeded"),
            (sqlite(ffi::SQLITE_MISUSE), "Internal do it: internal error"),
            (
                Fault::Unmet(Key::new("a")),
                "Conflict do it: changed by somebody else in the meantime (record: a)",
            ),
            (
                Fault::Lost(job()),
                "Fenced do it: the lease on this job is over (job: 0123456789abcdef0123456789abcdef)",
            ),
            (
                Fault::Exists(job()),
                "Conflict do it: there is a job with this id (job: 0123456789abcdef0123456789abcdef)",
            ),
            (
                Fault::Unknown(job()),
                "NotFound do it: the repository has no job of that id (job: 0123456789abcdef0123456789abcdef)",
            ),
            (Fault::Forged("a row"), "Tampered do it: stored data has been tampered with"),
            (
                Fault::Closed(job()),
                "Conflict do it: the log is closed (job: 0123456789abcdef0123456789abcdef)",
            ),
            (
                Fault::Full(job()),
                "LimitExceeded do it: the log has as many bytes as it may have \
                 (job: 0123456789abcdef0123456789abcdef)",
            ),
            (
                Fault::Folder(io()),
                "Invalid do it: the file cannot be made; its folder must exist, and be this program's to write to",
            ),
            (Fault::Raw(io()), "Unavailable do it: temporarily unavailable"),
            (Fault::Foreign, "Invalid do it: the file is a database of another program"),
            (
                Fault::Newer(9),
                "Unsupported do it: a later version of this program wrote the file; update this one (version: 9)",
            ),
            (Fault::Busy, "Unavailable do it: another process holds the database"),
            (Fault::Gone, "Internal do it: the thread that owns the database has ended"),
        ];
        for (fault, text) in expected {
            let told = fault.told("do it");
            assert_eq!(format!("{:?} {told}", told.kind()), text);
        }
    }
}
