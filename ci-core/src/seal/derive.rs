//! From a data key to the key of one content (RFC 5869).

use hkdf::Hkdf;
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::suite::{Cipher, Nonce, Suite};
use super::{Context, DataKey, HEADER, KEY_ID, Opened, SALT, TAG, VERSION, tampered};
use crate::error::Result;
use crate::id::random_bytes;

const COMMITMENT: usize = 32;

/// What is sealed under a key: a key for one opens nothing of the other.
#[derive(Clone, Copy)]
pub(super) enum Shape {
    /// Content in one piece.
    Record,
    /// Content in chunks.
    Chunks,
}

impl Shape {
    fn label(self) -> &'static [u8] {
        match self {
            Self::Record => b"ci record",
            Self::Chunks => b"ci chunks",
        }
    }
}

/// What follows from a data key for one content: its cipher, and what is bound to it.
pub(super) struct Derived {
    cipher: Cipher,
    /// Shape, version, suite, key id and context: `info` of the derivation, and associated data of the cipher.
    bound: Vec<u8>,
}

impl Derived {
    /// For new content, and the header that goes in front of it.
    pub(super) fn new(key: &DataKey, shape: Shape, context: &Context) -> (Self, [u8; HEADER]) {
        Self::salted(key, shape, context, &random_bytes())
    }

    pub(super) fn salted(
        key: &DataKey,
        shape: Shape,
        context: &Context,
        salt: &[u8; SALT],
    ) -> (Self, [u8; HEADER]) {
        let (derived, commitment) = Self::with(key, key.suite, shape, context, salt);
        let mut header = [0; HEADER];
        header[..2].copy_from_slice(&[VERSION, key.suite.id()]);
        header[2..2 + KEY_ID].copy_from_slice(&key.id_bytes);
        header[2 + KEY_ID..2 + KEY_ID + SALT].copy_from_slice(salt);
        header[2 + KEY_ID + SALT..].copy_from_slice(&commitment);
        (derived, header)
    }

    /// For what is behind `header`, if that was made with this key, shape and context.
    pub(super) fn checked(
        key: &DataKey,
        shape: Shape,
        context: &Context,
        header: &[u8; HEADER],
    ) -> Result<Self> {
        let ([version, suite], rest) = header.split_first_chunk().ok_or_else(tampered)?;
        let (id, rest) = rest.split_first_chunk::<KEY_ID>().ok_or_else(tampered)?;
        let (salt, commitment) = rest.split_first_chunk().ok_or_else(tampered)?;
        if *version != VERSION || *id != key.id_bytes {
            return Err(tampered());
        }
        let (derived, expected) = Self::with(key, Suite::of(*suite)?, shape, context, salt);
        if bool::from(expected[..].ct_eq(commitment)) { Ok(derived) } else { Err(tampered()) }
    }

    fn with(
        key: &DataKey,
        suite: Suite,
        shape: Shape,
        context: &Context,
        salt: &[u8; SALT],
    ) -> (Self, [u8; COMMITMENT]) {
        let bound = [shape.label(), &[VERSION, suite.id()], &key.id_bytes, context.as_bytes()].concat();
        let mut both = Zeroizing::new([[0; 32]; 2]);
        expand(key.expose(), salt, &[&bound], both.as_flattened_mut());
        let [record_key, commitment] = &*both;
        (Self { cipher: Cipher::new(suite, record_key), bound }, *commitment)
    }

    pub(super) fn encrypt(&self, nonce: Nonce, buffer: &mut [u8]) -> [u8; TAG] {
        self.cipher.encrypt(nonce, &self.bound, buffer)
    }

    pub(super) fn decrypt(&self, nonce: Nonce, sealed: &[u8]) -> Result<Opened> {
        self.cipher.decrypt(nonce, &self.bound, sealed)
    }
}

/// HKDF leaves what it derives on the stack; this wipes it there.
pub(super) fn expand(key: &[u8], salt: &[u8], info: &[&[u8]], out: &mut [u8]) {
    expand_in_frames_of_its_own(key, salt, info, out);
    wipe_unused_stack();
}

/// Overwrites what the calls before it, from the same function, have left below.
#[inline(never)]
fn wipe_unused_stack() {
    const DEPTH: usize = 4096;
    // By words: by bytes it would take longer than the derivation.
    Zeroizing::new([0_u64; DEPTH / 8]);
}

#[inline(never)]
fn expand_in_frames_of_its_own(key: &[u8], salt: &[u8], info: &[&[u8]], out: &mut [u8]) {
    let hkdf = Hkdf::<Sha256>::new(Some(salt), key);
    hkdf.expand_multi_info(info, out).expect("at most 8,160 bytes come out of HKDF-SHA-256");
}
