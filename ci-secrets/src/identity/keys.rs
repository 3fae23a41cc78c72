//! The keys that sign tokens, and how they follow each other.
//!
//! Nothing happens at a moment but the writing of the row: which key signs and which are published follows from the
//! times in it and the clock. A process that is killed leaves the row from before or the one from afterwards.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Buf as _;
use ci_core::Result;
use ci_core::clock::Timestamp;
use ci_core::identity::MOST_TTL;
use zeroize::Zeroizing;

use super::algorithm::{Algorithm, PrivateKey};

const FORMAT: u8 = 1;
/// A key in use has this in place of a time.
const IN_USE: u64 = u64::MAX;
/// By how much the clocks of two processes of a service may differ.
const SKEW: Duration = Duration::from_mins(5);

/// One key and its times.
pub(super) struct Entry {
    pub(super) algorithm: Algorithm,
    signs_from: Timestamp,
    signs_until: Option<Timestamp>,
    pkcs8: Zeroizing<Vec<u8>>,
}

/// All keys of an issuer, in the order in which they were made.
#[derive(Default)]
pub(super) struct Keys(Vec<Entry>);

impl Keys {
    /// Makes a key for each of `algorithms` that has none. The very first ones sign at once, since nobody has fetched
    /// any; later ones when they have been published for `lead`. Returns whether any was made.
    pub(super) fn complete(
        &mut self,
        algorithms: &BTreeSet<Algorithm>,
        now: Timestamp,
        lead: Duration,
    ) -> Result<bool> {
        let from = if self.0.is_empty() { Timestamp::default() } else { now.after(lead) };
        let has =
            |keys: &[Entry], algorithm| keys.iter().any(|key| key.algorithm == algorithm && key.is_in_use());
        let missing: Vec<_> = algorithms.iter().filter(|algorithm| !has(&self.0, **algorithm)).collect();
        for algorithm in &missing {
            self.0.push(Entry::made(**algorithm, from)?);
        }
        Ok(!missing.is_empty())
    }

    /// Makes the next key for each of `algorithms`, unless one waits already, and forgets those whose last token has
    /// expired. Returns whether anything changed.
    pub(super) fn rotate(
        &mut self,
        algorithms: &BTreeSet<Algorithm>,
        now: Timestamp,
        lead: Duration,
    ) -> Result<bool> {
        let before = self.0.len();
        self.0.retain(|key| key.is_published(now));
        let from = now.after(lead);
        let mut is_changed = self.complete(algorithms, now, lead)? || self.0.len() != before;
        for key in &mut self.0 {
            if !algorithms.contains(&key.algorithm) && key.signs_until.is_none() {
                (key.signs_until, is_changed) = (Some(now), true);
            }
        }
        for algorithm in algorithms {
            let waits = |key: &&mut Entry| key.algorithm == *algorithm && key.is_in_use();
            let Some(last) = self.0.iter_mut().find(waits).filter(|key| key.signs_from <= now) else {
                continue;
            };
            last.signs_until = Some(from);
            self.0.push(Entry::made(*algorithm, from)?);
            is_changed = true;
        }
        Ok(is_changed)
    }

    /// The key that signs at `now`, if its time has come.
    pub(super) fn signing(&self, algorithm: Algorithm, now: Timestamp) -> Option<&Entry> {
        let mut of_algorithm = self.0.iter().filter(|key| key.algorithm == algorithm);
        of_algorithm.rfind(|key| key.signs_from <= now)
    }

    /// How long it takes until a key signs.
    pub(super) fn wait(&self, algorithm: Algorithm, now: Timestamp) -> Option<Duration> {
        let first = self.0.iter().find(|key| key.algorithm == algorithm)?;
        now.until(first.signs_from)
    }

    /// The keys whose tokens may be met at `now`, and those whose tokens will be.
    pub(super) fn published(&self, now: Timestamp) -> impl Iterator<Item = &Entry> {
        self.0.iter().filter(move |key| key.is_published(now))
    }

    /// `format 1 | (algorithm 1 | signs from 8 | signs until 8 | length 2 | PKCS #8)*`
    pub(super) fn write(&self) -> Zeroizing<Vec<u8>> {
        let length: usize = self.0.iter().map(|key| 19 + key.pkcs8.len()).sum();
        let mut bytes = Zeroizing::new(Vec::with_capacity(1 + length));
        bytes.push(FORMAT);
        for key in &self.0 {
            bytes.push(match key.algorithm {
                Algorithm::Rs256 => 0,
                Algorithm::Es256 => 1,
                Algorithm::EdDsa => 2,
            });
            let until = key.signs_until.map_or(IN_USE, Timestamp::unix_millis);
            bytes.extend_from_slice(&key.signs_from.unix_millis().to_be_bytes());
            bytes.extend_from_slice(&until.to_be_bytes());
            let length = u16::try_from(key.pkcs8.len()).expect("a private key has a few kilobytes");
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(&key.pkcs8);
        }
        bytes
    }

    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes.strip_prefix(&[FORMAT])?;
        let mut keys = Vec::new();
        while !rest.is_empty() {
            keys.push(Entry::read(&mut rest)?);
        }
        Some(Self(keys))
    }
}

impl Entry {
    fn made(algorithm: Algorithm, signs_from: Timestamp) -> Result<Self> {
        Ok(Self { algorithm, signs_from, signs_until: None, pkcs8: algorithm.generate()? })
    }

    pub(super) fn private(&self) -> Option<PrivateKey> {
        PrivateKey::read(self.algorithm, &self.pkcs8)
    }

    /// Whether no other takes its place, now or later.
    fn is_in_use(&self) -> bool {
        self.signs_until.is_none()
    }

    fn is_published(&self, now: Timestamp) -> bool {
        self.signs_until.is_none_or(|until| now < until.after(MOST_TTL + SKEW))
    }

    fn read(rest: &mut &[u8]) -> Option<Self> {
        let algorithm = match rest.try_get_u8().ok()? {
            0 => Algorithm::Rs256,
            1 => Algorithm::Es256,
            2 => Algorithm::EdDsa,
            _ => return None,
        };
        let signs_from = Timestamp::from_unix_millis(rest.try_get_u64().ok()?);
        let until = rest.try_get_u64().ok()?;
        let signs_until = (until != IN_USE).then(|| Timestamp::from_unix_millis(until));
        let length = rest.try_get_u16().ok()?;
        let (pkcs8, after) = rest.split_at_checked(usize::from(length))?;
        *rest = after;
        Some(Self { algorithm, signs_from, signs_until, pkcs8: Zeroizing::new(pkcs8.to_vec()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let algorithms = BTreeSet::from([Algorithm::Es256, Algorithm::EdDsa]);
        let (mut keys, now) = (Keys::default(), Timestamp::from_unix_millis(1_000_000));
        assert!(keys.complete(&algorithms, now, SKEW).expect("keys"));
        assert!(keys.rotate(&algorithms, now, SKEW).expect("keys"));
        let written = keys.write();
        assert_eq!(*Keys::read(&written).expect("keys").write(), *written);
        let ends: Vec<usize> = keys
            .0
            .iter()
            .scan(1, |end, key| {
                *end += 19 + key.pkcs8.len();
                Some(*end)
            })
            .collect();
        for length in (0..written.len()).filter(|length| *length != 1 && !ends.contains(length)) {
            assert!(Keys::read(&written[..length]).is_none(), "{length}");
        }
        assert!(Keys::read(&[2]).is_none() && Keys::read(&[1, 3]).is_none());
    }
}
