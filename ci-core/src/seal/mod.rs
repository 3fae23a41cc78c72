//! The one format in which anything is sealed at rest.
//!
//! Every content is encrypted under a key of its own, derived from a [`DataKey`], a random salt and the content's
//! [`Context`]: where it belongs. A record that was moved, swapped or renamed does not open, because under its new
//! context another key comes out.
//!
//! ```text
//! header:   version 1 | suite 1 | key id 16 | salt 32 | commitment 32
//! record:   header | ciphertext | tag 16
//! chunks:   header, then for each chunk: ciphertext | tag 16
//! ```
//!
//! With `bound = "ci record" or "ci chunks" || version || suite || key id || context`:
//! `content key || commitment = HKDF-SHA-256(data key, salt, bound)` (RFC 5869), then the cipher of the [`Suite`] under
//! the content key, with `bound` as associated data.
//!
//! - Neither cipher commits to its key: a ciphertext can be made that opens under two. The commitment is therefore
//!   compared, in constant time, before anything is opened.
//! - The salt makes every content key a new one, which seals one content. So the nonce of a record is zero, and that of a
//!   chunk its number and whether it is the last one (STREAM, Hoang and others, 2015): cutting, repeating or reordering
//!   chunks ([`ChunkSealer`]) is noticed. The short nonces of AES-256-GCM are no limit then: how much may be sealed under
//!   one data key is bounded by when two salts of 32 random bytes meet.
//! - The suite is part of what keys are derived from, and of what is authenticated: content of one suite cannot be passed
//!   off as that of the other.

mod chunks;
mod context;
mod derive;
mod opened;
mod suite;
#[cfg(test)]
mod tests;

use std::fmt;

use bytes::Bytes;
use secrecy::{ExposeSecret as _, SecretBox};

use self::derive::{Derived, Shape, expand};
use self::suite::Nonce;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{KeyId, fill_random};

pub use self::chunks::{ChunkOpener, ChunkSealer, Place};
pub use self::context::Context;
pub use self::opened::Opened;
pub use self::suite::Suite;

const VERSION: u8 = 1;
const KEY_ID: usize = 16;
const SALT: usize = 32;
const TAG: usize = 16;
const HEADER: usize = 2 + KEY_ID + SALT + 32;

/// How many bytes the header of chunked content has.
pub const CHUNK_HEADER: usize = HEADER;
/// How many bytes of content every chunk but the last one holds.
pub const CHUNK: usize = 64 * 1024;
/// How many bytes sealing adds to a chunk.
pub const CHUNK_OVERHEAD: usize = TAG;

/// A key that seals for one repository and one purpose; [`seal`](Self::seal) shows it. It is wiped when it is dropped.
pub struct DataKey {
    id: KeyId,
    id_bytes: [u8; KEY_ID],
    key: SecretBox<[u8; 32]>,
    suite: Suite,
}

impl DataKey {
    /// A new random key.
    pub fn random() -> Self {
        // In its box from the start: a copy on the stack would stay there.
        Self::new(KeyId::random(), SecretBox::init_with_mut(|key: &mut [u8; 32]| fill_random(key)))
    }

    /// The key `key`, known as `id`.
    pub fn new(id: KeyId, key: SecretBox<[u8; 32]>) -> Self {
        Self { id_bytes: id_bytes(&id), id, key, suite: Suite::default() }
    }

    /// The same key, which seals new content with `suite`, and so do keys that follow from it. Which content it opens does
    /// not change.
    ///
    /// # Example
    ///
    /// ```
    /// use ci_core::seal::{Context, DataKey, Suite};
    ///
    /// let (key, here) = (DataKey::random(), Context::new("note"));
    /// let before = key.seal(&here, b"hello");
    /// # #[cfg(feature = "aws-lc")]
    /// let key = key.with_suite(Suite::Aes256Gcm);
    /// # #[cfg(not(feature = "aws-lc"))]
    /// # let key = key.with_suite(Suite::XChaCha20Poly1305);
    /// for sealed in [before, key.seal(&here, b"hello")] {
    ///     assert_eq!(*key.open(&here, &sealed)?, b"hello");
    /// }
    /// # Ok::<(), ci_core::Error>(())
    /// ```
    pub fn with_suite(mut self, suite: Suite) -> Self {
        self.suite = suite;
        self
    }

    /// Which key it is.
    pub fn id(&self) -> &KeyId {
        &self.id
    }

    /// What it seals new content with.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// Hands the key itself to a key hierarchy that wraps it.
    pub fn expose(&self) -> &[u8; 32] {
        self.key.expose_secret()
    }

    /// Another key that follows from this one and `context`.
    ///
    /// It carries the same id: who knows the id and the context can derive it again.
    pub fn derive(&self, context: &Context) -> Self {
        let mut key = Box::new([0; 32]);
        expand(self.expose(), &[], &[b"ci key", context.as_bytes()], key.as_mut_slice());
        let Self { id, id_bytes, suite, .. } = self;
        Self { id: id.clone(), id_bytes: *id_bytes, key: SecretBox::new(key), suite: *suite }
    }

    /// Seals `plain` so that it opens only with this key and the same `context`.
    ///
    /// # Example
    ///
    /// ```
    /// use ci_core::seal::{Context, DataKey};
    ///
    /// let key = DataKey::random();
    /// let here = Context::new("note").field("repository 1");
    /// let sealed = key.seal(&here, b"hello");
    /// assert_eq!(*key.open(&here, &sealed)?, b"hello");
    /// assert!(key.open(&Context::new("note").field("repository 2"), &sealed).is_err());
    /// # Ok::<(), ci_core::Error>(())
    /// ```
    pub fn seal(&self, context: &Context, plain: &[u8]) -> Bytes {
        seal_behind(Derived::new(self, Shape::Record, context), plain)
    }

    /// Opens what [`seal`](Self::seal) made with the same key and context.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Tampered`] for anything else, without saying which part was wrong; [`ErrorKind::Unsupported`] for a
    /// [`Suite`] that this build does not have.
    pub fn open(&self, context: &Context, sealed: &[u8]) -> Result<Opened> {
        let (header, body) = sealed.split_first_chunk().ok_or_else(tampered)?;
        Derived::checked(self, Shape::Record, context, header)?.decrypt(Nonce::ONLY, body)
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataKey").field("id", &self.id).field("suite", &self.suite).finish_non_exhaustive()
    }
}

/// Says which key sealed `sealed`, so that it can be fetched by its id; no key is ever tried at random.
///
/// # Errors
///
/// [`ErrorKind::Tampered`] when this is not sealed content of a known version and suite; [`ErrorKind::Unsupported`] for a
/// [`Suite`] that this build does not have.
pub fn key_id(sealed: &[u8]) -> Result<KeyId> {
    match sealed.split_first_chunk() {
        Some(([VERSION, suite], rest)) if rest.len() >= KEY_ID => {
            Suite::of(*suite)?;
            KeyId::parse(data_encoding::HEXLOWER.encode(&rest[..KEY_ID]))
        }
        _ => Err(tampered()),
    }
}

fn id_bytes(id: &KeyId) -> [u8; KEY_ID] {
    let mut bytes = [0; KEY_ID];
    let decoded = data_encoding::HEXLOWER.decode_mut(id.as_str().as_bytes(), &mut bytes);
    decoded.expect("a key id is 32 hexadecimal digits");
    bytes
}

fn seal_behind((derived, header): (Derived, [u8; HEADER]), plain: &[u8]) -> Bytes {
    let mut sealed = Vec::with_capacity(HEADER + plain.len() + TAG);
    sealed.extend_from_slice(&header);
    sealed.extend_from_slice(plain);
    let tag = derived.encrypt(Nonce::ONLY, &mut sealed[HEADER..]);
    sealed.extend_from_slice(&tag);
    Bytes::from(sealed)
}

fn tampered() -> Error {
    Error::new(ErrorKind::Tampered, "open sealed data")
        .because("it is not what was sealed for this place; it was changed, or put here from elsewhere")
}
