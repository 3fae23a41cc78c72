//! What a rotation tells: how far it is, and at the end what was done and what was not.

use ci_core::{Error, ErrorKind, Result};

/// How many of the things that could not be done a report names.
const MOST_NAMED: usize = 100;

/// How far a rotation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// What it works on.
    pub step: Step,
    /// How many of these are done, since this call began.
    pub done: usize,
    /// How many could not be done.
    pub left: usize,
}

/// What a rotation works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// The keys of tenants, which are wrapped anew.
    TenantKeys,
    /// The keys of repositories, which are wrapped anew.
    RepositoryKeys,
    /// Secrets, which are sealed anew, or revoked.
    Secrets,
}

/// What a rotation has done, what it has not, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RotationReport {
    /// Whether it went on with one that had been begun earlier, and began none itself. Somebody who can write to the
    /// database can make it look as if one had been: whoever rotates because of what somebody has read, and knows of none
    /// that stopped, calls again.
    pub resumed: bool,
    /// How many new keys were made.
    pub made: usize,
    /// How many keys were wrapped anew.
    pub rewrapped: usize,
    /// How many secrets were sealed anew.
    pub resealed: usize,
    /// How many secrets were revoked.
    pub revoked: usize,
    /// How many keys were destroyed.
    pub destroyed: usize,
    /// How many things could not be done.
    pub left: usize,
    /// The first 100 of them.
    pub named: Vec<Left>,
    /// Whether the store has forgotten what was replaced and deleted. When it has not, wrapped keys that were destroyed
    /// may still lie in its files.
    pub forgotten: Forgotten,
}

impl RotationReport {
    /// Whether nothing is left to do. When something is, mend it as [`Left::advice`] says and call the same function
    /// again, which goes on where this stopped; until then no key is destroyed that something left depends on.
    pub fn is_complete(&self) -> bool {
        self.left == 0
    }

    /// Adds what another rotation has done.
    pub(super) fn add(&mut self, other: Self) {
        let Self { resumed, made, rewrapped, resealed, revoked, destroyed, left, named, forgotten } = other;
        self.resumed |= resumed;
        self.made += made;
        self.rewrapped += rewrapped;
        self.resealed += resealed;
        self.revoked += revoked;
        self.destroyed += destroyed;
        self.left += left;
        let room = MOST_NAMED - self.named.len();
        self.named.extend(named.into_iter().take(room));
        self.forgotten = self.forgotten.max(forgotten);
    }
}

/// What the store has made of the bytes of replaced and deleted rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Forgotten {
    /// It was not asked: nothing was destroyed.
    #[default]
    NotAsked,
    /// They are gone from its files.
    Yes,
    /// It cannot do so.
    Unsupported,
}

/// Something that a rotation could not do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Left {
    /// The record, or the repository, for the operator.
    pub what: String,
    /// What kind of failure it was.
    pub kind: ErrorKind,
    /// Why.
    pub why: String,
}

impl Left {
    fn new(what: &dyn ToString, error: &Error) -> Self {
        Self { what: what.to_string(), kind: error.kind(), why: error.to_string() }
    }

    /// What to do before the rotation is called again.
    pub fn advice(&self) -> &'static str {
        match self.kind {
            ErrorKind::Unavailable => "give the vault the root key that the row names, as a former one",
            ErrorKind::Tampered | ErrorKind::NotFound => {
                "the row is not what was stored: bring it back from a copy of the database, delete the secret or \
                 replace the private keys that it holds, or erase the repository that it belongs to"
            }
            _ => "read why, mend that, and call the rotation again",
        }
    }
}

/// The report as it grows, and who watches.
pub(super) struct Work<'a> {
    pub(super) report: RotationReport,
    watch: &'a mut (dyn FnMut(Progress) + Send),
}

impl<'a> Work<'a> {
    pub(super) fn new(watch: &'a mut (dyn FnMut(Progress) + Send)) -> Self {
        Self { report: RotationReport::default(), watch }
    }

    /// How much has been done or was found wanting.
    pub(super) fn count(&self) -> usize {
        let RotationReport { made, rewrapped, resealed, revoked, destroyed, left, .. } = self.report;
        made + rewrapped + resealed + revoked + destroyed + left
    }

    /// Notes that this call began one itself, or went on with another one.
    pub(super) fn began(&mut self, is_first: bool) {
        self.report.resumed = !is_first;
        self.report.made += usize::from(is_first);
    }

    /// Tells how far `step` is.
    pub(super) fn tell(&mut self, step: Step) {
        let RotationReport { rewrapped, resealed, revoked, left, .. } = self.report;
        let done = if step == Step::Secrets { resealed + revoked } else { rewrapped };
        (self.watch)(Progress { step, done, left });
    }

    /// Notes what could not be done.
    ///
    /// # Errors
    ///
    /// `error` itself, when it is an outage: then nothing else can be done either.
    pub(super) fn leave(&mut self, what: &dyn ToString, error: Error) -> Result<()> {
        if error.is_retryable() {
            return Err(error);
        }
        self.leave_for_now(what, &error);
        Ok(())
    }

    /// Notes what could not be done and what can only be done when something was changed.
    pub(super) fn leave_for_now(&mut self, what: &dyn ToString, error: &Error) {
        self.report.left += 1;
        if self.report.named.len() < MOST_NAMED {
            self.report.named.push(Left::new(what, error));
        }
    }

    /// A watch for a part of this.
    pub(super) fn watch(&mut self) -> &mut (dyn FnMut(Progress) + Send) {
        self.watch
    }
}
