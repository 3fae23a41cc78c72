//! The ciphers that content may be sealed with, and no other.

use chacha20poly1305::aead::inout::InOutBuf;
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};

use super::{Opened, TAG, tampered};
use crate::error::Result;

#[cfg(feature = "aws-lc")]
const AES_NONCE: usize = 12;
const AES_256_GCM: u8 = 2;
const XCHACHA20_POLY1305: u8 = 1;

/// The cipher that new content is sealed with; [`DataKey::with_suite`](super::DataKey::with_suite) chooses it.
///
/// What was sealed says which one it was, and that one opens it: no other is ever tried. None leaves content readable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Suite {
    /// XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03), in every build: number 1.
    #[default]
    XChaCha20Poly1305,
    /// AES-256-GCM (NIST SP 800-38D), many times as fast where the processor has instructions for it: number 2. Only
    /// builds with the feature `aws-lc` have it; others refuse such content and say so.
    #[cfg(feature = "aws-lc")]
    Aes256Gcm,
}

impl Suite {
    pub(super) fn id(self) -> u8 {
        match self {
            Self::XChaCha20Poly1305 => XCHACHA20_POLY1305,
            #[cfg(feature = "aws-lc")]
            Self::Aes256Gcm => AES_256_GCM,
        }
    }

    /// The suite that content with `id` in its header was sealed with.
    pub(super) fn of(id: u8) -> Result<Self> {
        match id {
            XCHACHA20_POLY1305 => Ok(Self::XChaCha20Poly1305),
            #[cfg(feature = "aws-lc")]
            AES_256_GCM => Ok(Self::Aes256Gcm),
            #[cfg(not(feature = "aws-lc"))]
            AES_256_GCM => Err(lacking()),
            _ => Err(tampered()),
        }
    }
}

#[cfg(not(feature = "aws-lc"))]
fn lacking() -> crate::error::Error {
    crate::error::Error::new(crate::error::ErrorKind::Unsupported, "open sealed data")
        .because("it was sealed with AES-256-GCM; build this program with the feature `aws-lc` of ci-core")
}

/// The number of a message under its key: all of it for one suite, the last 12 bytes for the other.
///
/// A key is derived for every content from a salt of 32 random bytes, and used for nothing else. So a counter is nonce
/// enough, for a cipher with short nonces too, and none has to be drawn or stored.
#[derive(Clone, Copy)]
pub(super) struct Nonce(pub(super) [u8; 24]);

impl Nonce {
    /// That of content in one piece.
    pub(super) const ONLY: Self = Self([0; 24]);

    /// That of a chunk.
    pub(super) fn of_chunk(number: u64, is_last: bool) -> Self {
        let mut nonce = Self::ONLY;
        nonce.0[15..23].copy_from_slice(&number.to_be_bytes());
        nonce.0[23] = u8::from(is_last);
        nonce
    }

    #[cfg(feature = "aws-lc")]
    fn short(self) -> aws_lc_rs::aead::Nonce {
        let short = self.0.last_chunk::<AES_NONCE>().expect("24 bytes have a last 12");
        aws_lc_rs::aead::Nonce::assume_unique_for_key(*short)
    }
}

/// A cipher with its key, which is wiped when it is dropped.
pub(super) enum Cipher {
    XChaCha20Poly1305(XChaCha20Poly1305),
    #[cfg(feature = "aws-lc")]
    Aes256Gcm(aws_lc_rs::aead::LessSafeKey),
}

impl Cipher {
    pub(super) fn new(suite: Suite, key: &[u8; 32]) -> Self {
        match suite {
            Suite::XChaCha20Poly1305 => {
                let key: &Key = key.into();
                Self::XChaCha20Poly1305(XChaCha20Poly1305::new(key))
            }
            #[cfg(feature = "aws-lc")]
            Suite::Aes256Gcm => {
                use aws_lc_rs::aead::{AES_256_GCM, LessSafeKey, UnboundKey};
                let key = UnboundKey::new(&AES_256_GCM, key).expect("a key of AES-256 has 32 bytes");
                Self::Aes256Gcm(LessSafeKey::new(key))
            }
        }
    }

    /// Encrypts `buffer` in place.
    pub(super) fn encrypt(&self, nonce: Nonce, associated: &[u8], buffer: &mut [u8]) -> [u8; TAG] {
        const FITS: &str = "a buffer in memory is far below the cipher's bound of 64 GiB";
        match self {
            Self::XChaCha20Poly1305(cipher) => {
                let nonce = XNonce::from(nonce.0);
                cipher.encrypt_inout_detached(&nonce, associated, buffer.into()).expect(FITS).into()
            }
            #[cfg(feature = "aws-lc")]
            Self::Aes256Gcm(key) => {
                let associated = aws_lc_rs::aead::Aad::from(associated);
                let tag = key.seal_in_place_separate_tag(nonce.short(), associated, buffer).expect(FITS);
                tag.as_ref().try_into().expect("a tag has 16 bytes")
            }
        }
    }

    /// Decrypts what has its tag behind it.
    pub(super) fn decrypt(&self, nonce: Nonce, associated: &[u8], sealed: &[u8]) -> Result<Opened> {
        let (body, tag) = sealed.split_last_chunk::<TAG>().ok_or_else(tampered)?;
        let mut plain = Opened::zeroed(body.len());
        match self {
            Self::XChaCha20Poly1305(cipher) => {
                let buffer = InOutBuf::new(body, plain.as_mut_slice()).map_err(|_| tampered())?;
                let nonce = XNonce::from(nonce.0);
                cipher
                    .decrypt_inout_detached(&nonce, associated, buffer, &(*tag).into())
                    .map_err(|_| tampered())?;
            }
            #[cfg(feature = "aws-lc")]
            Self::Aes256Gcm(key) => {
                let associated = aws_lc_rs::aead::Aad::from(associated);
                key.open_separate_gather(nonce.short(), associated, body, tag, &mut plain)
                    .map_err(|_| tampered())?;
            }
        }
        Ok(plain)
    }
}
