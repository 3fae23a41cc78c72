//! What is written down before anything is changed, so that whoever comes after a crash goes on with it.
//!
//! ```text
//! rotation/root                                        the reference of the root key that wraps from now on
//! rotation/tenant/<tenant>                             from which key to which
//! rotation/repository/<tenant>/<forge>/<native>/note   from which key to which, and what becomes of the secrets
//! rotation/repository/<tenant>/<forge>/<native>/former/<id>   since when that key is a former one
//! rotation/all/<tenant>                                the repository that was rotated last
//! ```
//!
//! None of them is believed where it would matter: which key is current is what its pointer says, and what a row was
//! sealed with is what stands in front of it. A note that was changed or removed makes a rotation begin anew, or not
//! end: one that cannot be read, or leads to another key than the current one, is replaced, and one of which nothing was
//! left to do is not taken for a rotation that was done.

use bytes::Bytes;
use ci_core::clock::Timestamp;
use ci_core::id::{KeyId, RepositoryId, TenantId};
use ci_core::records::{Condition, Key, Record};
use ci_core::{Error, ErrorKind, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::vault::Treatment;

/// From which key to which.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    pub(super) from: KeyId,
    pub(super) to: KeyId,
    pub(super) then: Then,
}

/// What becomes of what the former key sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Then {
    /// It is sealed with the new key.
    Reseal,
    /// It is deleted.
    Delete,
    /// Its value is destroyed; its name stays, to be set anew.
    Withdraw,
}

impl Then {
    pub(super) fn treatment(self) -> Treatment {
        match self {
            Self::Reseal => Treatment::Reseal,
            Self::Delete => Treatment::Delete,
            Self::Withdraw => Treatment::Withdraw,
        }
    }
}

/// A note as it stands in the records.
#[derive(Clone, Debug)]
pub(super) struct Noted {
    pub(super) note: Note,
    pub(super) still: Condition,
}

impl Noted {
    pub(super) fn read(record: &Record) -> Result<Self> {
        let still = Condition::Is(record.key.clone(), record.version);
        Ok(Self { note: read(record)?, still })
    }

    /// What is noted in `record` of a rotation that leads to the key `current`; `None` when that is another one's, or
    /// nobody's.
    pub(super) fn of(record: Option<&Record>, current: &KeyId) -> Option<Self> {
        Self::read(record?).ok().filter(|noted| noted.note.to == *current)
    }
}

/// The condition that at `place` there is what there was.
pub(super) fn unchanged(place: &Key, record: Option<&Record>) -> Condition {
    record.map_or_else(
        || Condition::Absent(place.clone()),
        |record| Condition::Is(place.clone(), record.version),
    )
}

/// How far a rotation of everything of a tenant is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Everything {
    /// The key of the record of the repository that was done last.
    pub(super) after: Option<String>,
}

/// Since when a key is a former one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Former {
    pub(super) since: Timestamp,
}

pub(super) fn tenant_place(tenant: &TenantId) -> Key {
    Key::new("rotation").part("tenant").part(tenant.as_str())
}

/// Everything that is noted of a repository.
pub(crate) fn repository_folder(repository: &RepositoryId) -> Key {
    Key::new("rotation").part("repository").repository(repository)
}

pub(super) fn repository_place(repository: &RepositoryId) -> Key {
    repository_folder(repository).part("note")
}

pub(super) fn former_folder(repository: &RepositoryId) -> Key {
    repository_folder(repository).part("former")
}

pub(super) fn all_place(tenant: &TenantId) -> Key {
    Key::new("rotation").part("all").part(tenant.as_str())
}

pub(super) fn write<T: Serialize>(value: &T) -> Result<Bytes> {
    let json = serde_json::to_vec(value);
    json.map(Bytes::from).map_err(|error| Error::new(ErrorKind::Internal, "note a rotation").caused_by(error))
}

pub(super) fn read<T: DeserializeOwned>(record: &Record) -> Result<T> {
    serde_json::from_slice(&record.value).map_err(|error| {
        Error::new(ErrorKind::Tampered, "go on with a rotation")
            .because("what was noted of it is not what was written; delete the record, and rotate anew")
            .with("record", &record.key)
            .caused_by(error)
    })
}
