//! How the secrets and private keys of a repository lie in the records.
//!
//! ```text
//! secret/<tenant>/<forge>/<native>/manifest         which rows must be there, sealed
//! secret/<tenant>/<forge>/<native>/canary           the value of the decoy, sealed
//! secret/<tenant>/<forge>/<native>/ssh-keys         the SSH keys of the repository, sealed
//! secret/<tenant>/<forge>/<native>/token-keys       the keys of an issuer of identity tokens, sealed
//! secret/<tenant>/<forge>/<native>/info/<name>      what people may see of a secret, sealed
//! secret/<tenant>/<forge>/<native>/value/<name>     its value, sealed: whole, or the head of a large one
//! secret/<tenant>/<forge>/<native>/part/<name>/<n>  the chunks of a large value
//! ```
//!
//! Everything is bound to all that [`Belonging`] names. Each kind has its own key, so that listing needs no key that
//! opens a value.

use ci_core::id::{RepositoryId, SecretName};
use ci_core::records::{Batch, Key};
use ci_core::seal::{Context, DataKey};
use ci_core::secret::{SecretInfo, SecretKind};
use ci_core::{Error, ErrorKind};
use data_encoding::HEXLOWER;

use super::context::{Belonging, Kind};
use super::value::MOST_PARTS;

/// Everything that is stored of the secrets of `repository`.
pub(crate) fn folder(repository: &RepositoryId) -> Key {
    Key::new("secret").repository(repository)
}

pub(crate) fn manifest(repository: &RepositoryId) -> Key {
    folder(repository).part("manifest")
}

/// What is stored of them without their values.
pub(super) fn infos(repository: &RepositoryId) -> Key {
    folder(repository).part("info")
}

/// The place of one secret.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) repository: &'a RepositoryId,
    pub(super) name: &'a SecretName,
}

impl<'a> Place<'a> {
    pub(super) fn info(&self) -> Key {
        infos(self.repository).part(self.name.as_str())
    }

    pub(super) fn value(&self) -> Key {
        folder(self.repository).part("value").part(self.name.as_str())
    }

    pub(super) fn parts(&self) -> Key {
        folder(self.repository).part("part").part(self.name.as_str())
    }

    pub(super) fn part(&self, number: usize) -> Key {
        self.parts().number(number as u64)
    }

    /// Deletes all of its rows. Which parts there are is not asked: the row that says so may be another one.
    pub(super) fn clear(&self) -> Batch {
        let rows = Batch::new().delete(self.info()).delete(self.value());
        (0..MOST_PARTS).fold(rows, |rows, number| rows.delete(self.part(number)))
    }

    /// What its info row is bound to.
    pub(super) fn info_context(&self, key: &DataKey, version: u64) -> Context {
        self.belonging(Kind::Info, key, version).context()
    }

    /// What its value is bound to: all that people may see of it but the time.
    pub(super) fn value_context(&self, key: &DataKey, info: &SecretInfo) -> Context {
        let policy = info.policy.digest();
        let belonging = self.belonging(kind_of_value(info), key, info.version);
        Belonging { policy: Some(&policy), ..belonging }.context()
    }

    fn belonging<'b>(&self, kind: Kind, key: &'b DataKey, version: u64) -> Belonging<'b>
    where
        'a: 'b,
    {
        let name = self.name.as_str();
        Belonging { kind, repository: self.repository, name, version, key: key.id(), policy: None }
    }

    /// What the audit log calls this secret: text from which nobody without the repository's key learns the
    /// name, and nobody at all once that key is destroyed.
    pub(super) fn tag(&self, key: &DataKey) -> String {
        let derived = key.derive(&Context::new("audit tag").field(self.name.as_str()));
        HEXLOWER.encode(&derived.expose()[..16])
    }

    pub(super) fn tampered(&self) -> Error {
        Error::new(ErrorKind::Tampered, "read a secret")
            .because("it is not what was stored; delete it and set it anew")
            .with("secret", self.name)
    }
}

pub(super) fn kind_of_value(info: &SecretInfo) -> Kind {
    match info.kind {
        SecretKind::File => Kind::File,
        _ => Kind::Variable,
    }
}

/// What a row of the repository that is no secret's is bound to.
pub(super) fn context(kind: Kind, repository: &RepositoryId, key: &DataKey) -> Context {
    Belonging { kind, repository, name: "", version: 0, key: key.id(), policy: None }.context()
}
