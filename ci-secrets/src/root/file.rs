//! A root key in a file of its own.

use std::fmt;
use std::path::Path;

use async_trait::async_trait;
use bytes::Bytes;
use ci_core::seal::{Context, DataKey};
use ci_core::{ErrorKind, Result};
use data_encoding::HEXLOWER;
use secrecy::SecretBox;
use zeroize::Zeroizing;

use super::local::Local;
use super::{RootKey, private_file};

const MAGIC: &[u8] = b"ci-root-key-1 ";
const LENGTH: usize = MAGIC.len() + 32 + 1 + 64 + 1;

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
pub struct FileRoot(Local);

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
        let root = Self::from_key(DataKey::random().expose());
        private_file::create(path.as_ref(), &root.line())?;
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
        parse(&private_file::read(path, LENGTH + 1)?).ok_or_else(|| {
            let reason =
                "the file does not hold a root key; restore its copy, for nothing opens with a new one";
            private_file::refused(ErrorKind::Invalid, path, reason)
        })
    }

    fn from_key(key: &[u8; 32]) -> Self {
        Self(Local::new("file", key))
    }

    fn line(&self) -> Zeroizing<Vec<u8>> {
        let mut line = Zeroizing::new(Vec::with_capacity(LENGTH));
        line.extend_from_slice(MAGIC);
        line.extend_from_slice(self.0.id().as_bytes());
        line.push(b' ');
        let mut digits = Zeroizing::new([0; 64]);
        HEXLOWER.encode_mut(self.0.expose(), digits.as_mut_slice());
        line.extend_from_slice(digits.as_slice());
        line.push(b'\n');
        line
    }
}

#[async_trait]
impl RootKey for FileRoot {
    async fn wrap(&self, context: &Context, key: &[u8; 32]) -> Result<Bytes> {
        Ok(self.0.wrap(context, key))
    }

    async fn unwrap(&self, context: &Context, wrapped: &[u8]) -> Result<SecretBox<[u8; 32]>> {
        self.0.unwrap(context, wrapped)
    }

    fn key_ref(&self) -> &str {
        self.0.reference()
    }
}

impl fmt::Debug for FileRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileRoot").field("key_ref", &self.key_ref()).finish_non_exhaustive()
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
    (root.0.id().as_bytes() == id).then_some(root)
}
