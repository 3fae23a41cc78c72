//! The decoy of a repository: a value that lies where secrets lie and is given to no job.

use bytes::Bytes;
use ci_core::id::{RepositoryId, SecretName};
use ci_core::records::{Batch, Record};
use ci_core::seal::{Context, DataKey};
use ci_core::secret::SecretValue;
use ci_core::{Error, ErrorKind, Result};
use zeroize::Zeroizing;

use super::context::Kind;
use super::manifest::{Manifest, digest};
use super::{row, snapshot};

/// What reports call it. A secret may have the same name: it is another one.
pub(super) fn name() -> SecretName {
    SecretName::parse("CANARY").expect("a name")
}

/// The rows that a repository begins with: a decoy, and a list of no secrets.
pub(crate) fn first_rows(repository: &RepositoryId, key: &DataKey) -> Batch {
    let row = seal(repository, key, &random());
    let manifest = Manifest::first(digest(&row));
    let sealed = snapshot::seal(repository, key, &manifest);
    Batch::new().put(row::canary(repository), row).put(row::manifest(repository), sealed)
}

pub(super) fn seal(repository: &RepositoryId, key: &DataKey, value: &SecretValue) -> Bytes {
    Kind::Canary.key(key).seal(&row::context(Kind::Canary, repository, key), value.expose())
}

pub(super) fn open(repository: &RepositoryId, key: &DataKey, record: &Record) -> Result<SecretValue> {
    let context = row::context(Kind::Canary, repository, key);
    let mut plain = Kind::Canary.key(key).open(&context, &record.value)?;
    Ok(SecretValue::new(std::mem::take(&mut *plain)))
}

pub(super) fn tampered() -> Error {
    Error::new(ErrorKind::Tampered, "read the canary")
        .because("the decoy of the repository is not what was stored")
        .detail(
            "put the latest copy of the database back, or erase the repository and have its secrets set anew",
        )
}

/// 40 letters and digits, as many services make their tokens.
fn random() -> SecretValue {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789XQ";
    // Two keys' worth of random bytes.
    let halves = [DataKey::random(), DataKey::random()];
    let mut value = Zeroizing::new(Vec::with_capacity(40));
    for half in &halves {
        let derived = half.derive(&Context::new("canary"));
        value.extend(derived.expose()[..20].iter().map(|byte| LETTERS[usize::from(byte % 64)]));
    }
    SecretValue::new(std::mem::take(&mut *value))
}
