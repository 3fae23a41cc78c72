//! The list of a repository's secrets and private keys, by which a row is missed that was deleted, and one is known that
//! was put back.
//!
//! ```text
//! format 1 | generation 8 | singles | secrets
//! singles: count 1 | count x ( kind 1 | row 32 )
//! secrets: count 4 | count x ( length 1 | name | version 8 | info 32 | value 32 )
//! ```
//!
//! Kinds and names are in order and no two the same. `row`, `info` and `value` are the SHA-256 digests of the rows. The
//! whole is sealed under the repository's key, and every change of a row writes the next generation in its own commit.

use std::collections::BTreeMap;

use bytes::{Buf as _, BufMut as _, Bytes};
use ci_core::id::{Digest, SecretName};
use data_encoding::HEXLOWER;

use super::single::Single;

const FORMAT: u8 = 2;

/// What must be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// How often the list has changed.
    pub(crate) generation: u64,
    /// The rows of which there is one of each kind.
    pub(crate) singles: BTreeMap<Single, Digest>,
    /// The rows of the secrets.
    pub(crate) secrets: BTreeMap<SecretName, Listed>,
}

/// What must be there of one secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) version: u64,
    pub(crate) info: Digest,
    pub(crate) value: Digest,
}

impl Manifest {
    /// The first one of a repository, before anything else is in it.
    pub(crate) fn first() -> Self {
        Self { generation: 1, singles: BTreeMap::new(), secrets: BTreeMap::new() }
    }

    /// The next one, before anything else of it is changed.
    pub(crate) fn next(&self) -> Self {
        Self { generation: self.generation.saturating_add(1), ..self.clone() }
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let Self { generation, singles, secrets } = self;
        let mut out = Vec::with_capacity(14 + singles.len() * 33 + secrets.len() * 128);
        out.put_u8(FORMAT);
        out.put_u64(*generation);
        out.put_u8(u8::try_from(singles.len()).expect("there are few kinds"));
        for (single, row) in singles {
            out.put_u8(code(*single));
            put(&mut out, row);
        }
        out.put_u32(u32::try_from(secrets.len()).expect("a repository has at most 1000 secrets"));
        for (name, Listed { version, info, value }) in secrets {
            out.put_u8(u8::try_from(name.as_str().len()).expect("a name has at most 128 bytes"));
            out.put_slice(name.as_str().as_bytes());
            out.put_u64(*version);
            put(&mut out, info);
            put(&mut out, value);
        }
        out
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote, and nothing else.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        if rest.try_get_u8().ok()? != FORMAT {
            return None;
        }
        let generation = rest.try_get_u64().ok()?;
        let mut singles: BTreeMap<Single, Digest> = BTreeMap::new();
        for _ in 0..rest.try_get_u8().ok()? {
            let kind = rest.try_get_u8().ok()?;
            let single = Single::ALL.into_iter().find(|single| code(*single) == kind)?;
            if singles.last_key_value().is_some_and(|(last, _)| *last >= single) {
                return None;
            }
            singles.insert(single, take(&mut rest)?);
        }
        let mut secrets: BTreeMap<SecretName, Listed> = BTreeMap::new();
        for _ in 0..rest.try_get_u32().ok()? {
            let length = usize::from(rest.try_get_u8().ok()?);
            let (name, behind) = rest.split_at_checked(length)?;
            rest = behind;
            let name = SecretName::parse(std::str::from_utf8(name).ok()?).ok()?;
            let version = rest.try_get_u64().ok()?;
            let listed = Listed { version, info: take(&mut rest)?, value: take(&mut rest)? };
            if secrets.last_key_value().is_some_and(|(last, _)| *last >= name) {
                return None;
            }
            secrets.insert(name, listed);
        }
        rest.is_empty().then_some(Self { generation, singles, secrets })
    }
}

fn code(single: Single) -> u8 {
    match single {
        Single::Canary => 0,
        Single::SshKeys => 1,
        Single::TokenKeys => 2,
    }
}

fn put(out: &mut Vec<u8>, digest: &Digest) {
    let bytes = HEXLOWER.decode(digest.as_str().as_bytes());
    out.put_slice(&bytes.expect("a digest is 64 hexadecimal digits"));
}

fn take(rest: &mut &[u8]) -> Option<Digest> {
    let (digest, behind) = rest.split_first_chunk::<32>()?;
    *rest = behind;
    Some(Digest::from_sha256(*digest))
}

/// The digest of a row as it is stored.
pub(crate) fn digest(row: &Bytes) -> Digest {
    Digest::of(row)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn manifest() -> impl Strategy<Value = Manifest> {
        let digest = || any::<u8>().prop_map(|byte| Digest::of(&[byte]));
        let listed = (any::<u64>(), digest(), digest());
        let secrets = prop::collection::btree_map("[A-Z_]{1,128}", listed, 0..20);
        let single = (0..Single::ALL.len()).prop_map(|at| Single::ALL[at]);
        let singles = prop::collection::btree_map(single, digest(), 0..=Single::ALL.len());
        (any::<u64>(), singles, secrets).prop_map(|(generation, singles, secrets)| {
            let listed = |(name, (version, info, value)): (String, _)| {
                (SecretName::parse(name).expect("a name"), Listed { version, info, value })
            };
            Manifest { generation, singles, secrets: secrets.into_iter().map(listed).collect() }
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(manifest in manifest()) {
            prop_assert_eq!(Manifest::from_bytes(&manifest.to_bytes()), Some(manifest));
        }

        #[test]
        fn nothing_else_is_read(manifest in manifest(), cut in any::<prop::sample::Index>(), flip in 1..=255_u8) {
            let bytes = manifest.to_bytes();
            let at = cut.index(bytes.len());
            prop_assert_eq!(Manifest::from_bytes(&bytes[..at]), None);
            let mut changed = bytes.clone();
            changed[at] ^= flip;
            prop_assert_ne!(Manifest::from_bytes(&changed), Some(manifest));
            prop_assert_eq!(Manifest::from_bytes(&[bytes, vec![0]].concat()), None);
        }
    }

    #[test]
    fn kinds_that_are_unknown_out_of_order_or_there_twice_are_not_read() {
        let row = [7; 32];
        let list = |kinds: &[u8]| {
            let singles = kinds.iter().flat_map(|kind| [&[*kind][..], &row].concat());
            let mut bytes = vec![FORMAT, 0, 0, 0, 0, 0, 0, 0, 1];
            bytes.push(u8::try_from(kinds.len()).expect("few"));
            bytes.extend(singles);
            bytes.extend([0; 4]);
            Manifest::from_bytes(&bytes)
        };
        assert_eq!(list(&[0, 1, 2]).expect("a list").singles.len(), 3);
        for wrong in [&[3][..], &[1, 0], &[1, 1]] {
            assert_eq!(list(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn the_largest_one_fits_into_a_record() {
        let listed = || Listed { version: 1, info: Digest::of(b"1"), value: Digest::of(b"2") };
        let name = |index| SecretName::parse(format!("{}{index:08}", "N".repeat(120))).expect("a name");
        let secrets = (0..1000).map(|index| (name(index), listed())).collect();
        let singles = Single::ALL.into_iter().map(|single| (single, Digest::of(b"0"))).collect();
        let manifest = Manifest { generation: 1, singles, secrets };
        assert!(manifest.to_bytes().len() < 290_000, "{}", manifest.to_bytes().len());
    }
}
