//! A sealed value: whole in one row, or in chunks over several.
//!
//! ```text
//! whole    0 | sealed record
//! chunked  1 | length 4 | header of the chunks;  the chunks, each of 64 KiB, lie in rows of four
//! ```
//!
//! A chunk holds its number and whether it is the last one, so that none can be cut off, repeated or moved; no byte is
//! given out before all of them have been opened.

use bytes::{BufMut as _, Bytes};
use ci_core::id::KeyId;
use ci_core::seal::{
    CHUNK, CHUNK_HEADER, CHUNK_OVERHEAD, ChunkOpener, ChunkSealer, Context, DataKey, Place, key_id,
};
use ci_core::secret::{NewSecret, SecretValue};
use zeroize::Zeroizing;

/// How many bytes a value may have: 1 MiB.
pub(super) const MOST_BYTES: usize = NewSecret::MOST;
/// How many rows of chunks that makes.
pub(super) const MOST_PARTS: usize = MOST_BYTES / (CHUNK * CHUNKS_IN_PART);

/// Chunks of one row: below what every store of records takes in one.
const CHUNKS_IN_PART: usize = 4;
const WHOLE: u8 = 0;
const CHUNKED: u8 = 1;
const LENGTH: usize = 4;

/// A value as it is stored.
#[derive(Debug)]
pub(super) struct Sealed {
    pub(super) row: Bytes,
    pub(super) parts: Vec<Bytes>,
}

pub(super) fn seal(key: &DataKey, context: &Context, value: &SecretValue) -> Sealed {
    let plain = value.expose();
    let mut row = Vec::new();
    if plain.len() <= CHUNK {
        row.put_u8(WHOLE);
        row.put_slice(&key.seal(context, plain));
        return Sealed { row: row.into(), parts: Vec::new() };
    }
    let (mut sealer, header) = ChunkSealer::new(key, context);
    row.put_u8(CHUNKED);
    row.put_u32(u32::try_from(plain.len()).expect("a value has at most 1 MiB"));
    row.put_slice(&header);
    let last = plain.len().div_ceil(CHUNK) - 1;
    let mut parts = vec![Vec::new(); plain.len().div_ceil(CHUNK * CHUNKS_IN_PART)];
    for (index, chunk) in plain.chunks(CHUNK).enumerate() {
        // Large enough for the tag: a buffer that grows leaves what it held behind.
        let mut sealed = Vec::with_capacity(CHUNK + CHUNK_OVERHEAD);
        sealed.extend_from_slice(chunk);
        sealer.seal(&mut sealed, place(index, last));
        parts[index / CHUNKS_IN_PART].extend_from_slice(&sealed);
    }
    Sealed { row: row.into(), parts: parts.into_iter().map(Bytes::from).collect() }
}

/// A row of a value, before it is opened.
#[derive(Debug)]
pub(super) enum Row<'a> {
    Whole(&'a [u8]),
    Chunked { length: usize, header: &'a [u8; CHUNK_HEADER] },
}

impl<'a> Row<'a> {
    /// Takes a row apart; `None` when it is none.
    pub(super) fn parse(row: &'a [u8]) -> Option<Self> {
        match row.split_first()? {
            (&WHOLE, sealed) => Some(Self::Whole(sealed)),
            (&CHUNKED, rest) => {
                let (length, header) = rest.split_first_chunk::<LENGTH>()?;
                let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
                let header = header.try_into().ok()?;
                (CHUNK + 1..=MOST_BYTES).contains(&length).then_some(Self::Chunked { length, header })
            }
            _ => None,
        }
    }

    /// Which key sealed it.
    pub(super) fn key_id(&self) -> Option<KeyId> {
        match self {
            Self::Whole(sealed) => key_id(sealed).ok(),
            Self::Chunked { header, .. } => key_id(*header).ok(),
        }
    }

    /// How many rows of chunks belong to it.
    pub(super) fn parts(&self) -> usize {
        match self {
            Self::Whole(_) => 0,
            Self::Chunked { length, .. } => length.div_ceil(CHUNK * CHUNKS_IN_PART),
        }
    }

    /// The value, if `parts` are exactly its rows of chunks.
    pub(super) fn open(&self, key: &DataKey, context: &Context, parts: &[Bytes]) -> Option<SecretValue> {
        // Moved out, not copied: nothing is left behind that nobody wipes.
        let plain = match self {
            Self::Whole(sealed) if parts.is_empty() => std::mem::take(&mut *key.open(context, sealed).ok()?),
            Self::Whole(_) => return None,
            Self::Chunked { length, header } => {
                std::mem::take(&mut *open_chunks(key, context, *length, header, parts)?)
            }
        };
        Some(SecretValue::new(plain))
    }
}

fn open_chunks(
    key: &DataKey,
    context: &Context,
    length: usize,
    header: &[u8; CHUNK_HEADER],
    parts: &[Bytes],
) -> Option<Zeroizing<Vec<u8>>> {
    let mut opener = ChunkOpener::new(key, context, header).ok()?;
    let last = length.div_ceil(CHUNK) - 1;
    let mut plain = Zeroizing::new(Vec::with_capacity(length));
    let mut index = 0;
    for part in parts {
        for chunk in part.chunks(CHUNK + CHUNK_OVERHEAD) {
            if index > last {
                return None;
            }
            let opened = opener.open(chunk, place(index, last)).ok()?;
            if plain.len() + opened.len() > length {
                return None;
            }
            plain.extend_from_slice(&opened);
            index += 1;
        }
    }
    (index == last + 1 && plain.len() == length).then_some(plain)
}

fn place(index: usize, last: usize) -> Place {
    if index == last { Place::Last } else { Place::Inner }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> Context {
        Context::new("test")
    }

    fn bytes(length: usize) -> Vec<u8> {
        (0..length).map(|at| u8::try_from(at % 251).expect("a byte")).collect()
    }

    fn open(key: &DataKey, sealed: &Sealed) -> Option<Vec<u8>> {
        let row = Row::parse(&sealed.row)?;
        (row.parts() == sealed.parts.len()).then_some(())?;
        row.open(key, &context(), &sealed.parts).map(|value| value.expose().to_vec())
    }

    #[test]
    fn every_length_is_read_again() {
        let key = DataKey::random();
        let part = CHUNK * CHUNKS_IN_PART;
        for length in [1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, part, part + 1, MOST_BYTES - 1, MOST_BYTES]
        {
            let sealed = seal(&key, &context(), &SecretValue::new(bytes(length)));
            assert_eq!(open(&key, &sealed), Some(bytes(length)), "{length}");
            assert!(sealed.parts.len() <= MOST_PARTS);
            assert!(sealed.parts.iter().all(|part| part.len() <= 300_000));
        }
    }

    #[test]
    fn what_is_cut_repeated_or_moved_is_refused() {
        let key = DataKey::random();
        let sealed = seal(&key, &context(), &SecretValue::new(bytes(MOST_BYTES - 7)));
        let refused = |parts: Vec<Bytes>, what| {
            assert_eq!(open(&key, &Sealed { row: sealed.row.clone(), parts: parts.clone() }), None, "{what}");
            let row = Row::parse(&sealed.row).expect("a row");
            assert!(row.open(&key, &context(), &parts).is_none(), "{what}");
        };
        let changed = |change: &dyn Fn(&mut Vec<Bytes>)| {
            let mut parts = sealed.parts.clone();
            change(&mut parts);
            parts
        };
        refused(changed(&|parts| drop(parts.pop())), "cut at a row");
        refused(changed(&|parts| parts.swap(0, 1)), "rows swapped");
        refused(changed(&|parts| parts[1] = parts[0].clone()), "a row repeated");
        refused(changed(&|parts| parts.push(parts[0].clone())), "a row added");
        let one = CHUNK + CHUNK_OVERHEAD;
        refused(changed(&|parts| parts[3] = parts[3].slice(..one)), "cut at a chunk");
        refused(changed(&|parts| parts[0] = parts[0].slice(one..)), "a chunk missing");
        let swapped = |part: &Bytes| [&part[one..2 * one], &part[..one], &part[2 * one..]].concat();
        refused(changed(&|parts| parts[2] = swapped(&parts[2]).into()), "chunks swapped");
        let mut flipped = sealed.parts[2].to_vec();
        flipped[one + 5] ^= 1;
        refused(changed(&|parts| parts[2] = flipped.clone().into()), "a bit flipped");
    }

    #[test]
    fn a_length_that_is_not_its_own_is_refused() {
        let key = DataKey::random();
        let sealed = seal(&key, &context(), &SecretValue::new(bytes(CHUNK + 1)));
        for wrong in [0, 1, CHUNK, CHUNK + 2, 2 * CHUNK, MOST_BYTES + 1] {
            let mut row = sealed.row.to_vec();
            row[1..5].copy_from_slice(&u32::try_from(wrong).expect("a length").to_be_bytes());
            assert_eq!(open(&key, &Sealed { row: row.into(), parts: sealed.parts.clone() }), None, "{wrong}");
        }
    }
}
