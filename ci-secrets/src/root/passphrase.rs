//! A root key that follows from a passphrase.

use std::fmt;
use std::path::Path;
use std::str;

use argon2::{Algorithm, Argon2, Block, Params, Version};
use async_trait::async_trait;
use bytes::Bytes;
use ci_core::seal::{Context, DataKey};
use ci_core::{Error, ErrorKind, Result};
use data_encoding::HEXLOWER;
use secrecy::{ExposeSecret as _, SecretBox, SecretString};
use zeroize::Zeroizing;

use super::local::Local;
use super::{RootKey, private_file};

const MAGIC: &str = "ci-root-passphrase-1";
/// More than the longest line of [`line`].
const LONGEST: usize = 160;
const SALT: usize = 16;
/// NIST SP 800-63B-4, section 3.1.1.2: a passphrase that is the only factor.
const SHORTEST: usize = 15;
const DERIVE: &str = "derive the root key from its passphrase";

/// A root key that follows from a passphrase, which is kept nowhere; and a file with everything else that it takes.
///
/// The key is made with Argon2id (RFC 9106). The file holds one line: `ci-root-passphrase-1`, what the derivation
/// costs, a random salt, and the id of the key that has to come out, by which a wrong passphrase is noticed. It holds
/// no key. It is as necessary as the passphrase, though: without the salt nothing can be read ever again. Keep a copy.
///
/// Whoever has the file can try passphrases, each at the price of one derivation; so it is readable for its owner
/// only, as the file of a [`FileRoot`](crate::FileRoot). The passphrase is taken byte by byte: "é" as one character
/// and as two are two passphrases.
///
/// To change the passphrase, create another root and rotate to it. The key lies in this process's memory, in the
/// clear, for as long as this value lives.
///
/// # Example
///
/// ```
/// use ci_secrets::{PassphraseRoot, RootKey as _};
/// use secrecy::SecretString;
///
/// # let folder = tempfile::tempdir().expect("a folder");
/// let path = folder.path().join("root.passphrase");
/// let passphrase = SecretString::from("correct horse battery staple");
/// let created = PassphraseRoot::create(&path, &passphrase)?; // once
/// let opened = PassphraseRoot::open(&path, &passphrase)?;
/// assert_eq!(created.key_ref(), opened.key_ref());
/// assert!(PassphraseRoot::open(&path, &SecretString::from("correct horse battery")).is_err());
/// # Ok::<(), ci_core::Error>(())
/// ```
pub struct PassphraseRoot(Local);

/// What one derivation costs, and so what one guess costs somebody who has the file; for
/// [`PassphraseRoot::create_with`].
///
/// The default is the second recommended option of RFC 9106, section 4: 64 MiB, 3 passes, 4 lanes. It is above the
/// minimum of the OWASP Password Storage Cheat Sheet, which is the least that is accepted: 19 MiB, 2 passes, 1 lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassphraseCost {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

impl PassphraseCost {
    /// So many KiB of memory, passes over it, and lanes.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] below 19,456 KiB, 2 passes or 1 lane, and above 1 GiB, 64 passes or 16 lanes: a file
    /// that somebody else wrote shall not stop a service from starting.
    pub fn new(memory_kib: u32, passes: u32, lanes: u32) -> Result<Self> {
        let is_sound = (19_456..=1 << 20).contains(&memory_kib)
            && (2..=64).contains(&passes)
            && (1..=16).contains(&lanes);
        if !is_sound {
            return Err(Error::new(ErrorKind::Invalid, DERIVE)
                .because("take 19456 KiB to 1 GiB of memory, 2 to 64 passes and 1 to 16 lanes"));
        }
        Ok(Self { memory_kib, passes, lanes })
    }
}

impl Default for PassphraseCost {
    fn default() -> Self {
        Self { memory_kib: 65_536, passes: 3, lanes: 4 }
    }
}

impl PassphraseRoot {
    /// Takes a new random salt, keeps it in a new file at `path`, durably, and derives the key. What is there already
    /// is never overwritten.
    ///
    /// This takes a tenth of a second or so, and 64 MiB of memory: call it before the service serves.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when the passphrase has fewer than 15 characters; otherwise those of
    /// [`FileRoot::create`](crate::FileRoot::create), and [`ErrorKind::LimitExceeded`] when the memory cannot be had.
    pub fn create(path: impl AsRef<Path>, passphrase: &SecretString) -> Result<Self> {
        Self::create_with(path, passphrase, PassphraseCost::default())
    }

    /// The same at another price.
    ///
    /// # Errors
    ///
    /// Those of [`create`](Self::create).
    pub fn create_with(
        path: impl AsRef<Path>,
        passphrase: &SecretString,
        cost: PassphraseCost,
    ) -> Result<Self> {
        if passphrase.expose_secret().chars().count() < SHORTEST {
            return Err(Error::new(ErrorKind::Invalid, "create the root key")
                .because("a passphrase has 15 characters or more; take five random words"));
        }
        let mut salt = [0; SALT];
        salt.copy_from_slice(&DataKey::random().expose()[..SALT]);
        let root = Self::derive(passphrase, cost, &salt)?;
        private_file::create(path.as_ref(), line(cost, &salt, root.0.id()).as_bytes())?;
        Ok(root)
    }

    /// Derives the key again, with what the file at `path` says. It takes as long as [`create`](Self::create) did.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when the passphrase is wrong, and never retryable; otherwise those of
    /// [`FileRoot::open`](crate::FileRoot::open), and [`ErrorKind::LimitExceeded`] when the memory cannot be had.
    pub fn open(path: impl AsRef<Path>, passphrase: &SecretString) -> Result<Self> {
        let path = path.as_ref();
        let content = private_file::read(path, LONGEST)?;
        let (cost, salt, id) = parse(&content).ok_or_else(|| {
            let reason =
                "the file does not say how to derive a root key; restore its copy, for nothing opens without";
            private_file::refused(ErrorKind::Invalid, path, reason)
        })?;
        let root = Self::derive(passphrase, cost, &salt)?;
        if root.0.id() != id {
            let reason = "the passphrase is not the one that the file was made with, or the file was altered";
            return Err(private_file::refused(ErrorKind::Denied, path, reason));
        }
        Ok(root)
    }

    fn derive(passphrase: &SecretString, cost: PassphraseCost, salt: &[u8; SALT]) -> Result<Self> {
        let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32));
        let params = params.expect("a cost is within the bounds of Argon2");
        // What is worked in holds what the key is made of, and is wiped with it.
        let mut memory = Zeroizing::new(Vec::<Block>::new());
        memory.try_reserve_exact(params.block_count()).map_err(|error| {
            Error::new(ErrorKind::LimitExceeded, DERIVE).because("the memory cannot be had").caused_by(error)
        })?;
        memory.resize(params.block_count(), Block::default());
        let mut key = Zeroizing::new([0; 32]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into_with_memory(
                passphrase.expose_secret().as_bytes(),
                salt,
                key.as_mut_slice(),
                memory.as_mut_slice(),
            )
            .map_err(|error| Error::new(ErrorKind::Invalid, DERIVE).detail(error.to_string()))?;
        Ok(Self(Local::new("passphrase", &key)))
    }
}

#[async_trait]
impl RootKey for PassphraseRoot {
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

impl fmt::Debug for PassphraseRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PassphraseRoot").field("key_ref", &self.key_ref()).finish_non_exhaustive()
    }
}

fn line(cost: PassphraseCost, salt: &[u8; SALT], id: &str) -> String {
    let PassphraseCost { memory_kib, passes, lanes } = cost;
    format!("{MAGIC} argon2id m={memory_kib},t={passes},p={lanes} {} {id}\n", HEXLOWER.encode(salt))
}

fn parse(content: &[u8]) -> Option<(PassphraseCost, [u8; SALT], &str)> {
    let text = str::from_utf8(content).ok()?;
    let fields = text.strip_prefix(MAGIC)?.strip_prefix(" argon2id m=")?.strip_suffix('\n')?;
    let (memory, rest) = fields.split_once(",t=")?;
    let (passes, rest) = rest.split_once(",p=")?;
    let (lanes, rest) = rest.split_once(' ')?;
    let (salt, id) = rest.split_once(' ')?;
    let cost = PassphraseCost::new(memory.parse().ok()?, passes.parse().ok()?, lanes.parse().ok()?).ok()?;
    let salt = HEXLOWER.decode(salt.as_bytes()).ok()?.try_into().ok()?;
    // One line for one meaning: no leading zeros, signs or other letters.
    (id.len() == 32 && line(cost, &salt, id) == text).then_some((cost, salt, id))
}
