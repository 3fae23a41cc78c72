//! What the log says.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::id::{Digest, UserId};

/// Who does something.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Actor {
    /// A part of the service, by its name: `job`, `operator`.
    Service(&'static str),
    /// A person. The log holds a [pseudonym](super::Audit::pseudonym) in place of their id.
    Person(UserId),
}

impl From<&'static str> for Actor {
    fn from(name: &'static str) -> Self {
        Self::Service(name)
    }
}

impl From<&UserId> for Actor {
    fn from(person: &UserId) -> Self {
        Self::Person(person.clone())
    }
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Entry {
    /// What was done: `secret.leased`.
    pub action: String,
    /// Who did it: `job`, `operator`, or the [pseudonym](super::Audit::pseudonym) of a person, which is `person` until the
    /// entry is in the log.
    pub actor: String,
    /// To what, as names and ids.
    pub about: Vec<(String, String)>,
    #[serde(skip)]
    pub(super) person: Option<UserId>,
}

impl Entry {
    /// `actor` did `action`.
    pub fn new(action: &str, actor: impl Into<Actor>) -> Self {
        let (actor, person) = match actor.into() {
            Actor::Service(name) => (name, None),
            Actor::Person(person) => ("person", Some(person)),
        };
        Self { action: action.to_owned(), actor: actor.to_owned(), about: Vec::new(), person }
    }

    /// Says to what. It stays for as long as the log does: name jobs and repositories by the ids that their forge never
    /// gives again, and no secret, no value, and nobody's name.
    pub fn about(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.about.push((name.to_owned(), value.to_string()));
        self
    }
}

/// An entry in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logged {
    /// Its number, from 0.
    pub number: u64,
    /// When it was written.
    pub at: Timestamp,
    /// The hash of the entry before it.
    pub previous: Digest,
    /// What it says.
    pub entry: Entry,
}
