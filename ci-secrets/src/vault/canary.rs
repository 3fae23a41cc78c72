//! The decoy of a repository: a value that lies where secrets lie and is given to no job.

use ci_core::Result;
use ci_core::id::{RepositoryId, SecretName};
use ci_core::records::Batch;
use ci_core::seal::{Context, DataKey, Opened};
use ci_core::secret::SecretValue;
use zeroize::Zeroizing;

use super::manifest::Manifest;
use super::single::Single;
use super::{row, snapshot};

/// What reports call it. A secret may have the same name: it is another one.
pub(super) fn name() -> SecretName {
    SecretName::parse("CANARY").expect("a name")
}

/// The rows that a repository begins with: a decoy, and a list of nothing else.
pub(crate) fn first_rows(repository: &RepositoryId, key: &DataKey) -> Batch {
    let (rows, list) = Single::Canary.fill(repository, key, random().expose(), Manifest::first());
    rows.put(row::manifest(repository), snapshot::seal(repository, key, &list))
}

/// The value of the decoy, which every repository has that has a list.
pub(super) fn value(opened: Option<Opened>) -> Result<SecretValue> {
    let mut plain = opened.ok_or_else(|| Single::Canary.tampered())?;
    Ok(SecretValue::new(std::mem::take(&mut *plain)))
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
