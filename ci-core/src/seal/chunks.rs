//! Content that is too large for one record.

use std::fmt;

use super::derive::{Derived, Shape};
use super::suite::Nonce;
use super::{CHUNK_HEADER, Context, DataKey, Opened};
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::Result;

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
    derived: Derived,
    next: u64,
}

impl ChunkSealer {
    /// A sealer, and the header that must be stored in front of the chunks.
    pub fn new(key: &DataKey, context: &Context) -> (Self, [u8; CHUNK_HEADER]) {
        let (derived, header) = Derived::new(key, Shape::Chunks, context);
        (Self { derived, next: 0 }, header)
    }

    /// Seals `chunk` in place and adds its tag. Every chunk but the last must hold [`CHUNK`](super::CHUNK) bytes.
    pub fn seal(&mut self, chunk: &mut Vec<u8>, place: Place) {
        let tag = self.derived.encrypt(nonce(self.next, place), chunk);
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
    derived: Derived,
    next: u64,
}

impl ChunkOpener {
    /// An opener for the chunks behind `header`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Tampered`] when the header was not made with this key and context; [`ErrorKind::Unsupported`] for a
    /// [suite](super::Suite) that this build does not have.
    pub fn new(key: &DataKey, context: &Context, header: &[u8; CHUNK_HEADER]) -> Result<Self> {
        Ok(Self { derived: Derived::checked(key, Shape::Chunks, context, header)?, next: 0 })
    }

    /// Opens the next chunk.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Tampered`] when it is not the next one, or its place is not `place`.
    pub fn open(&mut self, chunk: &[u8], place: Place) -> Result<Opened> {
        let plain = self.derived.decrypt(nonce(self.next, place), chunk)?;
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

fn nonce(number: u64, place: Place) -> Nonce {
    Nonce::of_chunk(number, place == Place::Last)
}
