//! A root key in a file of its own.

use std::fmt;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;

use async_trait::async_trait;
use bytes::Bytes;
use ci_core::id::KeyId;
use ci_core::seal::{Context, DataKey};
use ci_core::{Error, ErrorKind, Result};
use data_encoding::HEXLOWER;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use secrecy::SecretBox;
use zeroize::Zeroizing;

use super::{RootKey, boxed, boxed_key};

const MAGIC: &[u8] = b"ci-root-key-1 ";
const LENGTH: usize = MAGIC.len() + 32 + 1 + 64 + 1;
const OPEN: &str = "open the root key";
const CREATE: &str = "create the root key";

/// A root key in a file that only this process's user can read.
///
/// The file holds one line: `ci-root-key-1`, the key's id, and the key, in hexadecimal digits. The id follows
/// from the key, so that a damaged file is noticed. Keep a copy somewhere else than the copies of the database:
/// without the key nothing in the database can be read, and with both everything can.
///
/// The key lies in this process's memory, in the clear, for as long as this value lives.
///
/// # Example
///
/// ```
/// use ci_secrets::{FileRoot, RootKey as _};
///
/// # let folder = tempfile::tempdir().expect("a folder");
/// let path = folder.path().join("root.key");
/// let created = FileRoot::create(&path)?;
/// let opened = FileRoot::open(&path)?;
/// assert_eq!(created.key_ref(), opened.key_ref());
/// # Ok::<(), ci_core::Error>(())
/// ```
pub struct FileRoot {
    key: DataKey,
    key_ref: String,
}

impl FileRoot {
    /// Makes a new random key and keeps it in a new file at `path`, durably. What is there already is never
    /// overwritten.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Conflict`] when there is something at `path`; [`ErrorKind::NotFound`] when its folder does
    /// not exist; [`ErrorKind::Denied`] when the folder may not be written to; [`ErrorKind::Unavailable`] when
    /// the disk fails: no file is left then.
    pub fn create(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let root = Self::from_key(DataKey::random().expose());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file =
            rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR).map_err(|e| failed(CREATE, path, e))?;
        if let Err(error) = root.write_to(file.into(), path) {
            // Half a key is of no use, and would be in the way of the next try.
            let _ = std::fs::remove_file(path);
            return Err(Error::new(ErrorKind::Unavailable, CREATE).detail(shown(path)).caused_by(error));
        }
        Ok(root)
    }

    /// Takes the key from the file at `path`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when the file can be read or written by anybody but its owner, when its owner is
    /// not this process's user, and when `path` is a symbolic link; [`ErrorKind::Invalid`] when it is no regular
    /// file or does not hold a root key; [`ErrorKind::NotFound`] when there is none;
    /// [`ErrorKind::Unavailable`] when the disk fails.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        // Without NONBLOCK, opening a pipe waits for whoever writes to it.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| failed(OPEN, path, error))?;
        // The opened file is looked at, not the path: the path may mean another file by now.
        let stat = rustix::fs::fstat(&file).map_err(|error| failed(OPEN, path, error))?;
        let refused = |kind, reason: &'static str| Error::new(kind, OPEN).because(reason).detail(shown(path));
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(refused(ErrorKind::Invalid, "it is not a regular file"));
        }
        if stat.st_uid != rustix::process::geteuid().as_raw() {
            return Err(refused(ErrorKind::Denied, "its owner is not the user that this process runs as"));
        }
        if stat.st_mode & 0o7777 & !0o600 != 0 {
            return Err(refused(
                ErrorKind::Denied,
                "others than its owner may use it; run chmod 600 on it, and replace the key if they did",
            ));
        }
        let mut line = Zeroizing::new([0; LENGTH + 1]);
        let length = read_some(File::from(file), line.as_mut_slice())
            .map_err(|error| Error::new(ErrorKind::Unavailable, OPEN).detail(shown(path)).caused_by(error))?;
        parse(&line[..length]).ok_or_else(|| {
            refused(
                ErrorKind::Invalid,
                "the file does not hold a root key; restore its copy, for nothing opens with a new one",
            )
        })
    }

    fn from_key(key: &[u8; 32]) -> Self {
        // Deriving does not depend on the id, which is not known yet.
        let nameless = DataKey::new(KeyId::random(), boxed(key));
        let fingerprint = nameless.derive(&Context::new("root key id"));
        let id = HEXLOWER.encode(&fingerprint.expose()[..16]);
        let id = KeyId::parse(id).expect("16 bytes are 32 hexadecimal digits");
        let key_ref = format!("file:{id}");
        Self { key: DataKey::new(id, boxed(key)), key_ref }
    }

    fn write_to(&self, mut file: File, path: &Path) -> std::io::Result<()> {
        // The umask may have taken the owner's own rights away.
        rustix::fs::fchmod(&file, Mode::RUSR | Mode::WUSR)?;
        let mut line = Zeroizing::new(Vec::with_capacity(LENGTH));
        line.extend_from_slice(MAGIC);
        line.extend_from_slice(self.key.id().as_str().as_bytes());
        line.push(b' ');
        let mut digits = Zeroizing::new([0; 64]);
        HEXLOWER.encode_mut(self.key.expose(), digits.as_mut_slice());
        line.extend_from_slice(digits.as_slice());
        line.push(b'\n');
        file.write_all(&line)?;
        file.sync_all()?;
        // The name is as durable as the folder that holds it.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }
}

#[async_trait]
impl RootKey for FileRoot {
    async fn wrap(&self, context: &Context, key: &[u8; 32]) -> Result<Bytes> {
        Ok(self.key.seal(context, key))
    }

    async fn unwrap(&self, context: &Context, wrapped: &[u8]) -> Result<SecretBox<[u8; 32]>> {
        let plain = self.key.open(context, wrapped)?;
        boxed_key(&plain)
    }

    fn key_ref(&self) -> &str {
        &self.key_ref
    }
}

impl fmt::Debug for FileRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileRoot").field("key_ref", &self.key_ref).finish_non_exhaustive()
    }
}

fn parse(line: &[u8]) -> Option<FileRoot> {
    let rest = line.strip_prefix(MAGIC)?.strip_suffix(b"\n")?;
    let (id, rest) = rest.split_at_checked(32)?;
    let digits = rest.strip_prefix(b" ")?;
    if digits.len() != 64 {
        return None;
    }
    let mut key = Zeroizing::new([0; 32]);
    HEXLOWER.decode_mut(digits, key.as_mut_slice()).ok()?;
    let root = FileRoot::from_key(&key);
    (root.key.id().as_str().as_bytes() == id).then_some(root)
}

fn read_some(mut file: File, into: &mut [u8]) -> std::io::Result<usize> {
    let mut length = 0;
    while length < into.len() {
        match file.read(&mut into[length..]) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

fn failed(operation: &'static str, path: &Path, errno: Errno) -> Error {
    let (kind, reason) = match errno {
        Errno::NOENT | Errno::NOTDIR => (
            ErrorKind::NotFound,
            "there is no such file or folder; restore the copy of the key, or make one for a new installation",
        ),
        Errno::EXIST => (ErrorKind::Conflict, "there is something at its path, which is not overwritten"),
        Errno::LOOP | Errno::MLINK => {
            (ErrorKind::Denied, "its path is a symbolic link; name the file itself")
        }
        Errno::ACCESS | Errno::PERM | Errno::ROFS => (ErrorKind::Denied, "this process's user may not do so"),
        Errno::ISDIR | Errno::NXIO => (ErrorKind::Invalid, "it is not a regular file"),
        _ => (ErrorKind::Unavailable, "the disk or the operating system failed"),
    };
    Error::new(kind, operation).because(reason).detail(shown(path)).caused_by(errno)
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
