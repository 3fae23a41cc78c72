//! A freshness anchor in a folder of its own.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use ci_core::id::Digest;
use ci_core::records::Key;
use ci_core::secret::{FreshnessAnchor, Mark};
use ci_core::{Error, ErrorKind, Result};
use rustix::fs::{FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

const OPEN: &str = "open the freshness anchor";
const READ: &str = "read the freshness anchor";
const WRITE: &str = "write the freshness anchor";
const MAGIC: &str = "ci-anchor-1";
/// More than any mark takes: a key, a number and a digest.
const MOST: u64 = 4 * 1024;

/// Marks in files of a folder that lies outside of the database: on another disk, or at least where whoever can write to
/// the database cannot.
///
/// Each mark is a file of its own with the mode 0600, replaced as a whole and synchronised with the disk before
/// [`advance`](FreshnessAnchor::advance) returns. The folder is locked for as long as the value lives: it has one writer.
/// Copy it with the database if you must, but never put it back with it.
///
/// Files are read and written on tokio's threads for blocking work.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use ci_core::records::Key;
/// use ci_core::secret::{FreshnessAnchor as _, Mark};
/// use ci_secrets::FileAnchor;
///
/// # let folder = tempfile::tempdir().expect("a folder");
/// # let path = folder.path().join("anchor");
/// let (anchor, log) = (FileAnchor::open(&path)?, Key::new("audit").part("acme"));
/// anchor.advance(&log, &Mark::of(7, b"seven entries")).await?;
/// assert!(FileAnchor::open(&path).is_err()); // it has one writer
/// drop(anchor);
///
/// let anchor = FileAnchor::open(&path)?; // after a restart
/// assert_eq!(anchor.latest(&log).await?.map(|mark| mark.number), Some(7));
/// assert!(anchor.advance(&log, &Mark::of(6, b"six entries")).await.is_err());
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct FileAnchor(Arc<Folder>);

struct Folder {
    path: PathBuf,
    /// Holds the lock of the folder; taken by whoever reads or writes.
    lock: Mutex<File>,
}

impl FileAnchor {
    /// Opens the folder at `path`, or makes it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when others than its owner may use the folder, when its owner is not this process's user, and
    /// when `path` is a symbolic link; [`ErrorKind::Conflict`] when another anchor has it open; [`ErrorKind::Invalid`]
    /// when it is no folder; [`ErrorKind::Unavailable`] when the disk fails.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        make_folder(path)?;
        check_folder(path)?;
        let failed =
            |error: io::Error| refused(ErrorKind::Unavailable, path, "the disk failed").caused_by(error);
        let lock = open_file(&path.join("lock"), OFlags::RDWR | OFlags::CREATE).map_err(failed)?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self(Arc::new(Folder { path: path.to_owned(), lock: Mutex::new(lock) }))),
            Err(Errno::WOULDBLOCK) => {
                Err(refused(ErrorKind::Conflict, path, "another process has it open; it has one writer"))
            }
            Err(errno) => Err(failed(errno.into())),
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Folder) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let folder = self.0.clone();
        let done = tokio::task::spawn_blocking(move || work(&folder)).await;
        done.map_err(|error| Error::new(ErrorKind::Unavailable, operation).caused_by(error))?
    }
}

#[async_trait]
impl FreshnessAnchor for FileAnchor {
    async fn latest(&self, of: &Key) -> Result<Option<Mark>> {
        let of = of.clone();
        self.blocking(READ, move |folder| {
            let _held = folder.held();
            folder.read(&of)
        })
        .await
    }

    async fn advance(&self, of: &Key, mark: &Mark) -> Result<()> {
        let (of, mark) = (of.clone(), mark.clone());
        self.blocking(WRITE, move |folder| {
            let _held = folder.held();
            match folder.read(&of)? {
                Some(latest) if latest == mark => Ok(()),
                Some(latest) if latest.number >= mark.number => {
                    Err(Error::new(ErrorKind::Conflict, "advance the freshness anchor")
                        .because("it has come further")
                        .with("number", mark.number))
                }
                _ => folder.write(&of, &mark).map_err(|error| failed(WRITE, &of, error)),
            }
        })
        .await
    }

    async fn forget(&self, of: &Key) -> Result<()> {
        let of = of.clone();
        self.blocking(WRITE, move |folder| {
            let _held = folder.held();
            match fs::remove_file(folder.place(&of)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                removed => removed.and_then(|()| sync_folder(&folder.path)),
            }
            .map_err(|error| failed(WRITE, &of, error))
        })
        .await
    }
}

impl Folder {
    fn held(&self) -> MutexGuard<'_, File> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keys can be longer than the name of a file.
    fn place(&self, of: &Key) -> PathBuf {
        self.path.join(Digest::of(of.as_str().as_bytes()).as_str())
    }

    fn read(&self, of: &Key) -> Result<Option<Mark>> {
        let file = match open_file(&self.place(of), OFlags::RDONLY) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(|error| failed(READ, of, error))?,
        };
        let mut text = String::new();
        file.take(MOST).read_to_string(&mut text).map_err(|error| failed(READ, of, error))?;
        let damaged = || {
            Error::new(ErrorKind::Tampered, READ)
                .because("a file in it is not what was written; look at the disk, and restore nothing older")
                .with("of", of)
        };
        parse(&text, of).map(Some).ok_or_else(damaged)
    }

    fn write(&self, of: &Key, mark: &Mark) -> io::Result<()> {
        let (place, new) = (self.place(of), self.path.join("new"));
        let mut file = open_file(&new, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC)?;
        file.write_all(format(of, mark).as_bytes())?;
        file.sync_all()?;
        fs::rename(new, place)?;
        sync_folder(&self.path)
    }
}

/// Makes the folder, durably, unless it is there.
fn make_folder(path: &Path) -> Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let made = match rustix::fs::mkdir(path, Mode::RWXU) {
        Ok(()) => sync_folder(parent),
        Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    };
    made.map_err(|error| refused(ErrorKind::Unavailable, path, "the disk failed").caused_by(error))
}

/// Refuses what is no folder of this process's user alone.
fn check_folder(path: &Path) -> Result<()> {
    let stat = rustix::fs::lstat(path)
        .map_err(|errno| refused(ErrorKind::Unavailable, path, "the disk failed").caused_by(errno))?;
    let (kind, reason) = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => (ErrorKind::Denied, "its path is a symbolic link; name the folder itself"),
        FileType::Directory if stat.st_uid != rustix::process::geteuid().as_raw() => {
            (ErrorKind::Denied, "its owner is not the user that this process runs as")
        }
        FileType::Directory if stat.st_mode & 0o077 != 0 => {
            (ErrorKind::Denied, "others than its owner may use it; run chmod 700 on it")
        }
        FileType::Directory => return Ok(()),
        _ => (ErrorKind::Invalid, "it is not a folder"),
    };
    Err(refused(kind, path, reason))
}

fn refused(kind: ErrorKind, path: &Path, reason: &'static str) -> Error {
    Error::new(kind, OPEN).because(reason).detail(path.display().to_string())
}

fn format(of: &Key, mark: &Mark) -> String {
    format!("{MAGIC} {of} {} {}\n", mark.number, mark.digest)
}

fn parse(text: &str, of: &Key) -> Option<Mark> {
    let mut words = text.strip_suffix('\n')?.split(' ').skip(2);
    let mark = Mark { number: words.next()?.parse().ok()?, digest: Digest::parse(words.next()?).ok()? };
    (format(of, &mark) == text).then_some(mark)
}

fn open_file(path: &Path, flags: OFlags) -> io::Result<File> {
    let file = rustix::fs::open(path, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR)?;
    Ok(File::from(file))
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn failed(operation: &'static str, of: &Key, error: io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, operation).because("the disk failed").with("of", of).caused_by(error)
}

impl fmt::Debug for FileAnchor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileAnchor").field("path", &self.0.path).finish_non_exhaustive()
    }
}
