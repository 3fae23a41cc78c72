//! Rotation: other keys in place of those that are in use, while jobs go on.
//!
//! Every rotation has the same steps. The new key, the pointer to it and a note "from this key to that one" are
//! written in one transaction; from then on nothing new is written under the former key, because whoever writes
//! does so on the condition that the key is still current. Then what the former key wrapped or sealed is done anew,
//! row by row, each on the condition that neither the row nor the pointer has changed. Then the former key is
//! destroyed, and then the note. A process that is killed in between, several that do the same at once, and calls that
//! are repeated all end in the same state. At each moment every row names the key that opens it.

mod all;
mod note;
mod report;
mod repository;
mod revoke;
mod rewrap;
mod root;
mod tenant;

use ci_core::records::{Batch, Condition};
use ci_core::{Error, ErrorKind, Result};

use crate::Vault;

pub use self::report::{Forgotten, Left, Progress, RotationReport, Step};
pub use self::revoke::{Revocation, Revoke};

pub(crate) use self::note::repository_folder as notes_of;

use self::note::Noted;

/// How many records are read, and rewritten in one transaction.
const PAGE: usize = 200;
/// How often somebody else may rotate the same key first.
const MOST_ROUNDS: usize = 16;
/// How many keys a provider is asked for at once.
const AT_ONCE: usize = 8;

impl Vault {
    /// Has the store forget the bytes of what was replaced and deleted.
    pub(crate) async fn scrub(&self) -> Result<Forgotten> {
        match self.records.scrub().await {
            Ok(()) => Ok(Forgotten::Yes),
            Err(error) if error.kind() == ErrorKind::Unsupported => Ok(Forgotten::Unsupported),
            Err(error) => Err(error),
        }
    }

    /// Takes the note away; when it is gone already, somebody else was faster with the same.
    async fn end(&self, noted: &Noted) -> Result<()> {
        let Condition::Is(place, _) = &noted.still else { return Ok(()) };
        let batch = Batch::new().require(noted.still.clone()).delete(place.clone());
        match self.records.commit(batch).await {
            Err(error) if error.kind() != ErrorKind::Conflict => Err(error),
            _ => Ok(()),
        }
    }
}

/// Somebody else has moved on further.
fn overtaken() -> Error {
    Error::new(ErrorKind::Unavailable, "rotate a key")
        .because("somebody else rotates it at the same time; call it again")
}
