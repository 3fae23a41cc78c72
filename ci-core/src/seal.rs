//! The one format in which anything is sealed at rest.
//!
//! Every sealed record is encrypted under a key of its own, derived from a [`DataKey`], a random salt and the
//! record's [`Context`]: where it belongs. A record that was moved, swapped or renamed does not open, because
//! under its new context another key comes out.
//!
//! ```text
//! version 1 | suite 1 | key id 16 | salt 32 | nonce 24 | commitment 32 | ciphertext | tag 16
//! ```
//!
//! `record key || commitment = HKDF-SHA-256(data key, salt, "ci record" || version .. key id || context)`
//! (RFC 5869), then XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03) with the context as associated data.
//! XChaCha20-Poly1305 alone does not commit to its key: a ciphertext can be made that opens under two. The
//! commitment is therefore compared, in constant time, before anything is opened.
//!
//! Large content is sealed in chunks ([`ChunkSealer`]) under one derived key; a chunk's nonce holds its number
//! and whether it is the last one (STREAM, Hoang and others, 2015), so that cutting, repeating or reordering
//! is noticed.

use std::fmt;

use bytes::Bytes;
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{Key, Tag, XChaCha20Poly1305, XNonce};
use hkdf::Hkdf;
use secrecy::{ExposeSecret as _, SecretBox};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::error::{Error, ErrorKind, Result};
use crate::id::{KeyId, fill_random, random_bytes};

const VERSION: u8 = 1;
const XCHACHA20_POLY1305: u8 = 1;
const KEY_ID: usize = 16;
const SALT: usize = 32;
const NONCE: usize = 24;
const COMMITMENT: usize = 32;
const TAG: usize = 16;
const PREFIX: usize = 2 + KEY_ID;
const RECORD_HEADER: usize = PREFIX + SALT + NONCE + COMMITMENT;

/// How many bytes the header of chunked content has.
pub const CHUNK_HEADER: usize = PREFIX + SALT + COMMITMENT;
/// How many bytes of content every chunk but the last one holds.
pub const CHUNK: usize = 64 * 1024;
/// How many bytes sealing adds to a chunk.
pub const CHUNK_OVERHEAD: usize = TAG;

/// A key that seals for one repository and one purpose; [`seal`](Self::seal) shows it. It is wiped when it is dropped.
pub struct DataKey {
    id: KeyId,
    key: SecretBox<[u8; 32]>,
}

impl DataKey {
    /// A new random key.
    pub fn random() -> Self {
        // In its box from the start: a copy on the stack would stay there.
        Self { id: KeyId::random(), key: SecretBox::init_with_mut(|key: &mut [u8; 32]| fill_random(key)) }
    }

    /// The key `key`, known as `id`.
    pub fn new(id: KeyId, key: SecretBox<[u8; 32]>) -> Self {
        Self { id, key }
    }

    /// Which key it is.
    pub fn id(&self) -> &KeyId {
        &self.id
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
        Self { id: self.id.clone(), key: SecretBox::new(key) }
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
        let (salt, nonce) = (random_bytes::<SALT>(), random_bytes::<NONCE>());
        let prefix = self.prefix();
        let derived = Derived::new(self, &prefix, &salt, context);
        let mut sealed = Vec::with_capacity(RECORD_HEADER + plain.len() + TAG);
        for part in [&prefix[..], &salt, &nonce, &derived.commitment, plain] {
            sealed.extend_from_slice(part);
        }
        let tag = encrypt(&derived.cipher, &nonce, context.as_bytes(), &mut sealed[RECORD_HEADER..]);
        sealed.extend_from_slice(&tag);
        Bytes::from(sealed)
    }

    /// Opens what [`seal`](Self::seal) made with the same key and context.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Tampered`] for anything else, without saying which part was wrong.
    pub fn open(&self, context: &Context, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let (header, body) = sealed.split_at_checked(RECORD_HEADER).ok_or_else(tampered)?;
        let (prefix, rest) = header.split_at(PREFIX);
        let (salt, rest) = rest.split_at(SALT);
        let (nonce, commitment) = rest.split_at(NONCE);
        let derived = self.derive_checked(prefix, salt, commitment, context)?;
        let nonce: [u8; NONCE] = nonce.try_into().map_err(|_| tampered())?;
        decrypt(&derived.cipher, &nonce, context.as_bytes(), body)
    }

    fn prefix(&self) -> [u8; PREFIX] {
        let mut prefix = [0; PREFIX];
        prefix[0] = VERSION;
        prefix[1] = XCHACHA20_POLY1305;
        let id = data_encoding::HEXLOWER.decode(self.id.as_str().as_bytes());
        prefix[2..].copy_from_slice(&id.expect("a key id is 32 hexadecimal digits"));
        prefix
    }

    fn derive_checked(
        &self,
        prefix: &[u8],
        salt: &[u8],
        commitment: &[u8],
        context: &Context,
    ) -> Result<Derived> {
        if prefix != self.prefix() {
            return Err(tampered());
        }
        let derived = Derived::new(self, prefix, salt, context);
        if bool::from(derived.commitment[..].ct_eq(commitment)) { Ok(derived) } else { Err(tampered()) }
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Says which key sealed `sealed`, so that it can be fetched by its id; no key is ever tried at random.
///
/// # Errors
///
/// [`ErrorKind::Tampered`] when this is not sealed content of a known version and suite.
pub fn key_id(sealed: &[u8]) -> Result<KeyId> {
    match sealed.get(..PREFIX) {
        Some([VERSION, XCHACHA20_POLY1305, id @ ..]) => KeyId::parse(data_encoding::HEXLOWER.encode(id)),
        _ => Err(tampered()),
    }
}

/// Where sealed content belongs: a list of fields, each with its length in front, so that no two lists look
/// the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context(Vec<u8>);

impl Context {
    /// The context of things of `kind`.
    pub fn new(kind: &str) -> Self {
        Self(Vec::new()).field(kind)
    }

    /// Adds a field.
    pub fn field(mut self, field: impl AsRef<[u8]>) -> Self {
        let field = field.as_ref();
        self.0.extend_from_slice(&(field.len() as u64).to_be_bytes());
        self.0.extend_from_slice(field);
        self
    }

    /// The encoded list.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Seals content that is too large for one record, chunk by chunk.
///
/// # Example
///
/// ```
/// use ci_core::seal::{CHUNK, ChunkOpener, ChunkSealer, Context, DataKey, Place};
///
/// let (key, here) = (DataKey::random(), Context::new("file").field("report.tar"));
/// let (mut first, mut last) = (vec![7; CHUNK], b"the rest".to_vec());
/// let (mut sealer, header) = ChunkSealer::new(&key, &here);
/// sealer.seal(&mut first, Place::Inner);
/// sealer.seal(&mut last, Place::Last);
///
/// let mut opener = ChunkOpener::new(&key, &here, &header)?;
/// assert_eq!(*opener.open(&first, Place::Inner)?, [7; CHUNK]);
/// assert_eq!(*opener.open(&last, Place::Last)?, b"the rest");
///
/// let mut cut = ChunkOpener::new(&key, &here, &header)?;
/// assert!(cut.open(&first, Place::Last).is_err()); // the end is missing
/// # Ok::<(), ci_core::Error>(())
/// ```
pub struct ChunkSealer {
    cipher: XChaCha20Poly1305,
    next: u64,
}

impl ChunkSealer {
    /// A sealer, and the header that must be stored in front of the chunks.
    pub fn new(key: &DataKey, context: &Context) -> (Self, [u8; CHUNK_HEADER]) {
        let (prefix, salt) = (key.prefix(), random_bytes::<SALT>());
        let derived = Derived::new(key, &prefix, &salt, context);
        let mut header = [0; CHUNK_HEADER];
        header[..PREFIX].copy_from_slice(&prefix);
        header[PREFIX..PREFIX + SALT].copy_from_slice(&salt);
        header[PREFIX + SALT..].copy_from_slice(&derived.commitment);
        (Self { cipher: derived.cipher, next: 0 }, header)
    }

    /// Seals `chunk` in place and adds its tag. Every chunk but the last must hold [`CHUNK`] bytes.
    pub fn seal(&mut self, chunk: &mut Vec<u8>, place: Place) {
        let tag = encrypt(&self.cipher, &chunk_nonce(self.next, place), &[], chunk);
        chunk.extend_from_slice(&tag);
        self.next += 1;
    }
}

impl fmt::Debug for ChunkSealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChunkSealer").field("next", &self.next).finish_non_exhaustive()
    }
}

/// Opens what a [`ChunkSealer`] sealed, in the same order; its example shows both.
pub struct ChunkOpener {
    cipher: XChaCha20Poly1305,
    next: u64,
}

impl ChunkOpener {
    /// An opener for the chunks behind `header`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Tampered`] when the header was not made with this key and context.
    pub fn new(key: &DataKey, context: &Context, header: &[u8; CHUNK_HEADER]) -> Result<Self> {
        let (prefix, rest) = header.split_at(PREFIX);
        let (salt, commitment) = rest.split_at(SALT);
        Ok(Self { cipher: key.derive_checked(prefix, salt, commitment, context)?.cipher, next: 0 })
    }

    /// Opens the next chunk.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Tampered`] when it is not the next one, or its place is not `place`.
    pub fn open(&mut self, chunk: &[u8], place: Place) -> Result<Zeroizing<Vec<u8>>> {
        let plain = decrypt(&self.cipher, &chunk_nonce(self.next, place), &[], chunk)?;
        self.next += 1;
        Ok(plain)
    }
}

impl fmt::Debug for ChunkOpener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChunkOpener").field("next", &self.next).finish_non_exhaustive()
    }
}

/// Where in its content a chunk stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// More chunks follow.
    Inner,
    /// Nothing follows.
    Last,
}

/// What follows from a data key for one record.
struct Derived {
    cipher: XChaCha20Poly1305,
    commitment: [u8; COMMITMENT],
}

impl Derived {
    fn new(key: &DataKey, prefix: &[u8], salt: &[u8], context: &Context) -> Self {
        let mut both = Zeroizing::new([0; 32 + COMMITMENT]);
        expand(key.expose(), salt, &[b"ci record", prefix, context.as_bytes()], both.as_mut_slice());
        let (record_key, commitment) = both.split_at(32);
        let record_key: &Key = record_key.try_into().expect("a key has 32 bytes");
        let commitment = commitment.try_into().expect("a commitment has 32 bytes");
        Self { cipher: XChaCha20Poly1305::new(record_key), commitment }
    }
}

/// HKDF leaves what it derives on the stack; this wipes it there.
fn expand(key: &[u8], salt: &[u8], info: &[&[u8]], out: &mut [u8]) {
    expand_in_frames_of_its_own(key, salt, info, out);
    wipe_unused_stack();
}

/// Overwrites what the calls before it, from the same function, have left below.
#[inline(never)]
fn wipe_unused_stack() {
    const DEPTH: usize = 4096;
    Zeroizing::new([0_u8; DEPTH]).fill(0);
}

#[inline(never)]
fn expand_in_frames_of_its_own(key: &[u8], salt: &[u8], info: &[&[u8]], out: &mut [u8]) {
    let hkdf = Hkdf::<Sha256>::new(Some(salt), key);
    hkdf.expand_multi_info(info, out).expect("at most 8,160 bytes come out of HKDF-SHA-256");
}

fn encrypt(cipher: &XChaCha20Poly1305, nonce: &[u8; NONCE], aad: &[u8], buffer: &mut [u8]) -> Tag {
    let sealed = cipher.encrypt_inout_detached(&XNonce::from(*nonce), aad, buffer.into());
    sealed.expect("a buffer in memory is far below the cipher's bound of 256 GiB")
}

fn decrypt(
    cipher: &XChaCha20Poly1305,
    nonce: &[u8; NONCE],
    aad: &[u8],
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>> {
    let (body, tag) = sealed.split_last_chunk::<TAG>().ok_or_else(tampered)?;
    let mut plain = Zeroizing::new(body.to_vec());
    let tag = Tag::from(*tag);
    cipher
        .decrypt_inout_detached(&XNonce::from(*nonce), aad, plain.as_mut_slice().into(), &tag)
        .map_err(|_| tampered())?;
    Ok(plain)
}

/// The key is used for one content only, so a counter is nonce enough.
fn chunk_nonce(number: u64, place: Place) -> [u8; NONCE] {
    let mut nonce = [0; NONCE];
    nonce[NONCE - 9..NONCE - 1].copy_from_slice(&number.to_be_bytes());
    nonce[NONCE - 1] = u8::from(place == Place::Last);
    nonce
}

fn tampered() -> Error {
    Error::new(ErrorKind::Tampered, "open sealed data")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> Context {
        Context::new("test").field("repository").field("name")
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let key = DataKey::random();
        let sealed = key.seal(&context(), b"secret");
        for index in 0..sealed.len() {
            let mut bad = sealed.to_vec();
            bad[index] ^= 1;
            assert_eq!(key.open(&context(), &bad).expect_err("noticed").kind(), ErrorKind::Tampered);
        }
        for length in 0..sealed.len() {
            assert!(key.open(&context(), &sealed[..length]).is_err());
        }
    }

    #[test]
    fn another_key_under_the_same_id_does_not_open() {
        let key = DataKey::random();
        let other = DataKey::new(key.id().clone(), SecretBox::new(Box::new([7; 32])));
        assert!(other.open(&context(), &key.seal(&context(), b"x")).is_err());
    }

    #[test]
    fn the_commitment_is_checked_by_itself() {
        // The ciphertext is right and only the commitment is wrong: without the check this would open.
        let key = DataKey::random();
        let mut sealed = key.seal(&context(), b"x").to_vec();
        sealed[RECORD_HEADER - 1] ^= 1;
        assert!(key.open(&context(), &sealed).is_err());
    }

    #[test]
    fn no_two_lists_of_fields_look_the_same() {
        assert_ne!(Context::new("a").field("bc"), Context::new("ab").field("c"));
        assert_ne!(Context::new("a").field(""), Context::new("a"));
    }

    #[test]
    fn chunks_open_in_their_order_only() {
        let key = DataKey::random();
        let (mut sealer, header) = ChunkSealer::new(&key, &context());
        let mut chunks = [b"one".to_vec(), b"two".to_vec(), b"end".to_vec()];
        for (index, chunk) in chunks.iter_mut().enumerate() {
            sealer.seal(chunk, if index == 2 { Place::Last } else { Place::Inner });
        }
        let opener = || ChunkOpener::new(&key, &context(), &header).expect("the header is right");
        let mut right = opener();
        assert_eq!(*right.open(&chunks[0], Place::Inner).expect("first"), b"one");
        assert_eq!(*right.open(&chunks[1], Place::Inner).expect("second"), b"two");
        assert_eq!(*right.open(&chunks[2], Place::Last).expect("last"), b"end");
        assert!(opener().open(&chunks[1], Place::Inner).is_err(), "reordered");
        assert!(opener().open(&chunks[0], Place::Last).is_err(), "cut short");
        assert!(ChunkOpener::new(&key, &Context::new("other"), &header).is_err());
    }

    #[test]
    fn the_key_id_is_read_without_a_key() {
        let key = DataKey::random();
        assert_eq!(&key_id(&key.seal(&context(), b"x")).expect("an id"), key.id());
        assert!(key_id(b"\x01\x09 not ours").is_err());
    }
}
