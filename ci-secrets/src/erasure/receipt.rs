//! What an erasure tells.

use std::fmt;
use std::time::Duration;

use ci_core::clock::Timestamp;
use ci_core::id::{JobId, KeyId, RepositoryId};
use serde::Serialize;

/// What was erased, whether it was looked for afterwards, and what is out of reach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ErasureReceipt {
    /// Whose data it was.
    pub repository: RepositoryId,
    /// When it was done.
    pub at: Timestamp,
    /// Whether an earlier call had begun it and did not end: what that one destroyed is counted here by its keys only.
    pub resumed: bool,
    /// The keys that were destroyed. Whatever they sealed can no longer be read, wherever it lies.
    pub keys: Vec<KeyId>,
    /// How many records were deleted: keys, secrets, and what was noted of rotations.
    pub records: usize,
    /// The jobs whose leases this vault has ended. What their sandboxes hold already, they hold until they end.
    pub jobs: Vec<JobId>,
    /// Whether the store's files still hold the wrapped keys.
    pub traces: Traces,
    /// What may still hold a key or a value.
    pub out_of_reach: Vec<OutOfReach>,
}

impl ErasureReceipt {
    /// Whether the store was looked through, and holds nothing of the wrapped keys.
    pub fn is_verified(&self) -> bool {
        self.traces == Traces::None
    }
}

/// What is left of wrapped keys in the files of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub enum Traces {
    /// Nothing: they were looked for.
    None,
    /// So many places. Somebody may be reading an old state of the database right now, or a row was copied elsewhere;
    /// call it again.
    Found(usize),
    /// The store cannot look.
    Unknown,
}

/// What an erasure cannot reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub enum OutOfReach {
    /// Copies of the database. With the root key of their time they still open; destroy them, or wait until their time
    /// is over.
    Backups,
    /// Replicas of the database, its archives and snapshots of its disk.
    Replicas,
    /// The memory of other programs that use the database, and of those that were reading a key just now, for at most so
    /// long. They can no longer use it, because every use looks at the row that is gone.
    Memory(Duration),
    /// What jobs of other programs have leased, until their claims end.
    OtherLeases,
    /// The files of the store: it cannot look through them.
    Files,
}

impl fmt::Display for OutOfReach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Backups => {
                f.write_str("copies of the database, which open with the root key of their time")
            }
            Self::Replicas => f.write_str("replicas and archives of the database, and snapshots of its disk"),
            Self::Memory(time) => write!(f, "the memory of other programs, for at most {time:?}"),
            Self::OtherLeases => {
                f.write_str("what jobs of other programs have leased, until their claims end")
            }
            Self::Files => f.write_str("the files of the store, which cannot be looked through"),
        }
    }
}
