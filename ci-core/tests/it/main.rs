//! The capabilities over the backends in memory, as scripts.
//!
//! Nothing here sleeps: time is a clock that the test moves.

mod access;
mod audit;
#[cfg(feature = "conformance")]
mod audit_kit;
mod claims;
mod debugging;
mod endless;
mod faults;
#[cfg(feature = "conformance")]
mod faulty_records;
mod forgery;
mod hanging;
mod hooked;
mod hostile;
mod identity;
mod inbox;
mod injection;
mod jobs;
mod logs;
mod masking;
mod outages;
mod processes;
mod queue;
mod runner;
mod sandboxes;
mod secrets;
mod services;
mod source;
mod ui;

use ci_core::access::{Grant, Write};
use ci_core::id::RepositoryId;
use ci_core::memory::Rig;
use ci_core::{Error, ErrorKind, Result};

/// The repository that most tests are about.
fn ours() -> RepositoryId {
    Rig::repository("1", "acme").expect("a repository")
}

/// A repository of somebody else.
fn theirs() -> RepositoryId {
    Rig::repository("2", "globex").expect("a repository")
}

/// The grant of somebody who may write to a repository.
async fn writer(rig: &Rig, repository: &RepositoryId) -> Result<Grant<Write>> {
    rig.grant(&Rig::user("ada")?, repository).await
}

/// Of which kind a refusal is.
#[track_caller]
fn refused<T>(result: Result<T>) -> ErrorKind {
    result.err().as_ref().map(Error::kind).expect("a refusal")
}
