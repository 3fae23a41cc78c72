//! How a secret lies in the records: one row that says what it is, and one that holds its value.
//!
//! ```text
//! secret/<tenant>/<forge>/<native>/info/<name>   what people may see, sealed
//! secret/<tenant>/<forge>/<native>/value/<name>  the value, sealed
//! ```
//!
//! Both are bound to repository, name and key; the value is bound to its version too. The two have different
//! keys, so that listing needs no key that opens a value.

use ci_core::id::{Digest, RepositoryId, SecretName};
use ci_core::records::{Batch, Condition, Key, Record};
use ci_core::seal::{Context, DataKey};
use ci_core::secret::{SecretInfo, SecretValue};
use ci_core::{Error, ErrorKind, Result};
use data_encoding::HEXLOWER;

const FORMAT: u8 = 1;

/// Everything that is stored of the secrets of `repository`.
pub(crate) fn folder(repository: &RepositoryId) -> Key {
    Key::new("secret").repository(repository)
}

/// What is stored of them without their values.
pub(crate) fn infos(repository: &RepositoryId) -> Key {
    folder(repository).part("info")
}

/// The place of one secret.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) repository: &'a RepositoryId,
    pub(crate) name: &'a SecretName,
}

impl Place<'_> {
    pub(crate) fn info(&self) -> Key {
        infos(self.repository).part(self.name.as_str())
    }

    pub(crate) fn value(&self) -> Key {
        folder(self.repository).part("value").part(self.name.as_str())
    }

    /// Writes a secret in place of `before`, which must still be there then.
    pub(crate) fn put(
        &self,
        key: &DataKey,
        info: &SecretInfo,
        value: &SecretValue,
        before: Option<&Record>,
    ) -> Result<Batch> {
        let shown = serde_json::to_vec(info)
            .map_err(|error| Error::new(ErrorKind::Internal, "set a secret").caused_by(error))?;
        let shown = info_key(key).seal(&self.context("secret info", key), &shown);
        let sealed = value_key(key).seal(&self.value_context(key, info.version, &shown), value.expose());
        let unchanged = match before {
            None => Condition::Absent(self.info()),
            Some(record) => Condition::Is(self.info(), record.version),
        };
        Ok(Batch::new().require(unchanged).put(self.info(), shown).put(self.value(), sealed))
    }

    pub(crate) fn open_info(&self, key: &DataKey, sealed: &[u8]) -> Result<SecretInfo> {
        let shown = info_key(key).open(&self.context("secret info", key), sealed)?;
        let info: SecretInfo =
            serde_json::from_slice(&shown).map_err(|error| self.tampered().caused_by(error))?;
        if info.name == *self.name { Ok(info) } else { Err(self.tampered()) }
    }

    pub(crate) fn open_value(
        &self,
        key: &DataKey,
        version: u64,
        info: &[u8],
        sealed: &[u8],
    ) -> Result<SecretValue> {
        let mut plain = value_key(key).open(&self.value_context(key, version, info), sealed)?;
        // Moved out, not copied: nothing is left behind that nobody wipes.
        Ok(SecretValue::new(std::mem::take(&mut *plain)))
    }

    /// What the audit log calls this secret: text from which nobody without the repository's key learns the
    /// name, and nobody at all once that key is destroyed.
    pub(crate) fn tag(&self, key: &DataKey) -> String {
        let derived = key.derive(&Context::new("audit tag").field(self.name.as_str()));
        HEXLOWER.encode(&derived.expose()[..16])
    }

    pub(crate) fn tampered(&self) -> Error {
        Error::new(ErrorKind::Tampered, "read a secret").with("secret", self.name)
    }

    /// A value belongs to the very row that is written with it: versions begin again after a deletion.
    fn value_context(&self, key: &DataKey, version: u64, info: &[u8]) -> Context {
        let info = Digest::of(info);
        self.context("secret value", key).field(version.to_be_bytes()).field(info.as_str())
    }

    fn context(&self, kind: &str, key: &DataKey) -> Context {
        Context::new(kind)
            .field([FORMAT])
            .field(self.repository.tenant().as_str())
            .field(self.repository.forge().as_str())
            .field(self.repository.native().as_str())
            .field(self.name.as_str())
            .field(key.id().as_str())
    }
}

/// Which secret an info row below [`infos`] is about.
pub(crate) fn name_of(infos: &Key, record: &Record) -> Result<SecretName> {
    let name = record.key.as_str().strip_prefix(infos.as_str()).and_then(|rest| rest.strip_prefix('/'));
    name.and_then(|name| SecretName::parse(name).ok()).ok_or_else(|| {
        Error::new(ErrorKind::Tampered, "list secrets").because("there is a row that is no secret's")
    })
}

fn info_key(key: &DataKey) -> DataKey {
    key.derive(&Context::new("purpose").field("secret info"))
}

fn value_key(key: &DataKey) -> DataKey {
    key.derive(&Context::new("purpose").field("secret value"))
}
