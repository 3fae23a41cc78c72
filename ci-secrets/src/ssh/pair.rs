//! The key pairs of one repository, and how they follow each other.

use bytes::Buf as _;
use ci_core::clock::Timestamp;
use ci_core::secret::SshPublicKey;
use ci_core::{Error, ErrorKind, Result};
use ed25519_dalek::{SecretKey, Signer as _, SigningKey};
use zeroize::Zeroizing;

const FORMAT: u8 = 1;
const PAIR: usize = 1 + 8 + 32;

/// How far a key has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SshKeyStage {
    /// It is to be installed at the forge, and signs nothing yet.
    Next,
    /// It signs.
    Current,
    /// It signs no more, and is to be removed from the forge.
    Old,
}

/// A key pair. Its private half is wiped when it is dropped.
struct Pair {
    stage: SshKeyStage,
    made_at: Timestamp,
    key: SigningKey,
}

/// All pairs of one repository: at most one of each stage, and one that is current unless there are none.
#[derive(Default)]
pub(super) struct Pairs(Vec<Pair>);

/// What is known of a key: who may see it, may see this.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SshKeyInfo {
    /// Its public half.
    pub key: SshPublicKey,
    /// How far it has come.
    pub stage: SshKeyStage,
    /// When it was made.
    pub made_at: Timestamp,
}

/// A private half that nobody has seen, in memory that is wiped.
pub(super) fn draw() -> Result<Zeroizing<SecretKey>> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(seed.as_mut_slice()).map_err(|error| {
        Error::new(ErrorKind::Internal, "make an SSH key")
            .because("there are no random bytes")
            .caused_by(error)
    })?;
    Ok(seed)
}

/// The public half of `seed`.
pub(super) fn public_half(seed: &SecretKey) -> SshPublicKey {
    leaving_nothing(|| public(&SigningKey::from_bytes(seed)))
}

/// Does `work`, and then overwrites the stack that it has used: a key that is moved leaves a copy behind, which nobody wipes.
fn leaving_nothing<T>(work: impl FnOnce() -> T) -> T {
    const DEPTH: usize = 16 * 1024;
    #[inline(never)]
    fn run<T>(work: impl FnOnce() -> T) -> T {
        work()
    }
    #[inline(never)]
    fn overwrite() {
        std::hint::black_box(&mut [0_u8; DEPTH]);
    }
    let done = run(work);
    overwrite();
    done
}

fn public(key: &SigningKey) -> SshPublicKey {
    SshPublicKey::from_ed25519(key.verifying_key().to_bytes())
}

impl Pairs {
    /// What is known of each, the one that signs first.
    pub(super) fn list(&self) -> Vec<SshKeyInfo> {
        let info =
            |pair: &Pair| SshKeyInfo { key: public(&pair.key), stage: pair.stage, made_at: pair.made_at };
        let mut list: Vec<_> = self.0.iter().map(info).collect();
        list.sort_by_key(|info| info.stage != SshKeyStage::Current);
        list
    }

    pub(super) fn at(&self, stage: SshKeyStage) -> Option<SshPublicKey> {
        self.0.iter().find(|pair| pair.stage == stage).map(|pair| public(&pair.key))
    }

    /// Signs with `key`, if that is the one that signs.
    pub(super) fn sign(&self, key: &SshPublicKey, data: &[u8]) -> Option<[u8; 64]> {
        let current = self.0.iter().find(|pair| pair.stage == SshKeyStage::Current)?;
        (public(&current.key) == *key).then(|| leaving_nothing(|| current.key.sign(data).to_bytes()))
    }

    /// Adds a key: the first one signs at once, because there is nothing else to sign with.
    pub(super) fn add(&mut self, seed: &SecretKey, made_at: Timestamp) {
        let stage = if self.0.is_empty() { SshKeyStage::Current } else { SshKeyStage::Next };
        leaving_nothing(|| self.0.push(Pair { stage, made_at, key: SigningKey::from_bytes(seed) }));
    }

    /// Lets the next key sign, and makes the current one old.
    pub(super) fn activate(&mut self) {
        for pair in &mut self.0 {
            pair.stage = match pair.stage {
                SshKeyStage::Next => SshKeyStage::Current,
                SshKeyStage::Current | SshKeyStage::Old => SshKeyStage::Old,
            };
        }
    }

    pub(super) fn remove(&mut self, key: &SshPublicKey) {
        self.0.retain(|pair| public(&pair.key) != *key);
    }

    pub(super) fn stage(&self, key: &SshPublicKey) -> Option<SshKeyStage> {
        self.0.iter().find(|pair| public(&pair.key) == *key).map(|pair| pair.stage)
    }

    /// `format 1 | (stage 1 | made at 8 | seed 32)*`
    pub(super) fn write(&self) -> Zeroizing<Vec<u8>> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(1 + PAIR * self.0.len()));
        bytes.push(FORMAT);
        for pair in &self.0 {
            bytes.push(match pair.stage {
                SshKeyStage::Next => 0,
                SshKeyStage::Current => 1,
                SshKeyStage::Old => 2,
            });
            bytes.extend_from_slice(&pair.made_at.unix_millis().to_be_bytes());
            bytes.extend_from_slice(pair.key.as_bytes());
        }
        bytes
    }

    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let (pairs, rest) = bytes.strip_prefix(&[FORMAT])?.as_chunks::<PAIR>();
        let read = || pairs.iter().map(|bytes| Pair::read(bytes)).collect();
        let pairs: Option<Vec<_>> = leaving_nothing(read);
        pairs.filter(|_| rest.is_empty()).map(Self).filter(Self::is_sound)
    }

    fn is_sound(&self) -> bool {
        let count = |stage| self.0.iter().filter(|pair| pair.stage == stage).count();
        let others = count(SshKeyStage::Next).max(count(SshKeyStage::Old));
        others <= 1 && count(SshKeyStage::Current) == 1
    }
}

impl Pair {
    fn read(mut bytes: &[u8]) -> Option<Self> {
        let stage = match bytes.try_get_u8().ok()? {
            0 => SshKeyStage::Next,
            1 => SshKeyStage::Current,
            2 => SshKeyStage::Old,
            _ => return None,
        };
        let made_at = Timestamp::from_unix_millis(bytes.try_get_u64().ok()?);
        Some(Self { stage, made_at, key: SigningKey::from_bytes(bytes.try_into().ok()?) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(count: usize) -> Pairs {
        let mut pairs = Pairs::default();
        for round in 0..count {
            pairs.add(&draw().expect("a key"), Timestamp::from_unix_millis(round as u64));
            if round == 1 {
                pairs.activate();
            }
        }
        pairs
    }

    #[test]
    fn what_is_written_is_read() {
        for count in 1..=3 {
            let pairs = pairs(count);
            assert_eq!(Pairs::read(&pairs.write()).expect("pairs").list(), pairs.list());
        }
        let stages: Vec<_> = pairs(3).list().iter().map(|info| info.stage).collect();
        assert_eq!(stages, [SshKeyStage::Current, SshKeyStage::Old, SshKeyStage::Next]);
    }

    #[test]
    fn what_is_no_row_of_keys_is_not_read() {
        let good = pairs(3).write();
        for length in (0..good.len()).filter(|length| *length != 1 + 2 * PAIR) {
            assert!(Pairs::read(&good[..length]).is_none(), "{length}");
        }
        // Two that sign, none that signs, an unknown stage, another format.
        for (place, value) in [(1, 1), (1 + PAIR, 0), (1, 3), (0, 2)] {
            let mut bad = good.clone();
            bad[place] = value;
            assert!(Pairs::read(&bad).is_none(), "{place}");
        }
    }
}
