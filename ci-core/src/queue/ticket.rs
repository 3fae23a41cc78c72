//! What a job may do, sealed between enqueue and claim.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::access::{Grant, Scope, Write};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::forge::{Event, EventKind};
use crate::id::{JobId, RepositoryId, UserId};
use crate::job::JobSpec;
use crate::operator::Act;
use crate::outcome::Outcome;
use crate::secret::{KeyRing, Purpose};
use crate::trust::Provenance;

macro_rules! sealed_bytes {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq)]
        pub struct $name(Bytes);

        impl $name {
            /// What a queue stored. It is believed only if it opens.
            pub fn from_stored(sealed: impl Into<Bytes>) -> Self {
                Self(sealed.into())
            }

            /// The sealed bytes, for a queue to store.
            pub fn as_bytes(&self) -> &[u8] {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({} bytes)", stringify!($name), self.0.len())
            }
        }
    };
}

sealed_bytes! {
    /// A job's sealed permission slip: what it is, where its code comes from, and who started it.
    Ticket
}
sealed_bytes! {
    /// How a job ended, sealed by the worker that ran it.
    SealedOutcome
}

/// What a ticket says when it is open. A worker that is older than the ticket refuses what it does not know.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Slip {
    pub(super) job: JobId,
    #[serde(with = "crate::trust::InTicket")]
    pub(super) code: Provenance,
    pub(super) trigger: Trigger,
    pub(super) spec: JobSpec,
    pub(super) enqueued_at: Timestamp,
}

impl Slip {
    pub(super) async fn seal(&self, ring: &dyn KeyRing) -> Result<Ticket> {
        let plain = serde_json::to_vec(self)
            .map_err(|error| Error::new(ErrorKind::Internal, "write a ticket").caused_by(error))?;
        let scope = Scope::new(self.code.repository());
        Ok(Ticket(ring.seal(scope, &Purpose::ticket(&self.job), &plain).await?))
    }

    /// Opens the ticket that a row of `job` and `repository` holds.
    pub(super) async fn open(
        ticket: &Ticket,
        job: &JobId,
        repository: &RepositoryId,
        ring: &dyn KeyRing,
    ) -> Result<Self> {
        let forged = || Error::new(ErrorKind::Tampered, "open a ticket").with("job", job);
        let plain = open(ring, Scope::new(repository), &Purpose::ticket(job), &ticket.0, forged).await?;
        let slip: Self = serde_json::from_slice(&plain).map_err(|error| forged().caused_by(error))?;
        if slip.job == *job && slip.code.repository() == repository { Ok(slip) } else { Err(forged()) }
    }
}

impl SealedOutcome {
    /// Seals how `job` ended.
    pub(super) async fn seal(
        outcome: &Outcome,
        job: &JobId,
        scope: Scope<'_>,
        ring: &dyn KeyRing,
    ) -> Result<Self> {
        let plain = serde_json::to_vec(outcome)
            .map_err(|error| Error::new(ErrorKind::Internal, "write an outcome").caused_by(error))?;
        Ok(Self(ring.seal(scope, &Purpose::outcome(job), &plain).await?))
    }

    /// How `job` ended.
    pub(super) async fn open(&self, job: &JobId, scope: Scope<'_>, ring: &dyn KeyRing) -> Result<Outcome> {
        let forged = || Error::new(ErrorKind::Tampered, "read how a job ended").with("job", job);
        let plain = open(ring, scope, &Purpose::outcome(job), &self.0, forged).await?;
        serde_json::from_slice(&plain).map_err(|error| forged().caused_by(error))
    }
}

/// Opens what a row holds.
async fn open(
    ring: &dyn KeyRing,
    scope: Scope<'_>,
    purpose: &Purpose,
    sealed: &[u8],
    forged: impl Fn() -> Error,
) -> Result<Bytes> {
    match ring.open(scope, purpose, sealed).await {
        // What was moved names a key that is not there for its new place.
        Err(error) if error.kind() == ErrorKind::NotFound => Err(forged().caused_by(error)),
        opened => opened,
    }
}

/// What started a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Trigger {
    /// A person who could write to the repository; it is asked again before the job runs.
    Person {
        /// Who.
        user: UserId,
        /// When they had signed in.
        signed_in_at: Timestamp,
    },
    /// A verified webhook delivery that says that a branch or tag moved.
    Push,
    /// A verified webhook delivery about a pull request.
    PullRequest,
    /// Another verified webhook delivery.
    Event,
    /// A schedule of the operator's.
    Schedule,
}

impl Trigger {
    /// The same in one word.
    pub fn cause(&self) -> Cause {
        match self {
            Self::Person { .. } => Cause::Person,
            Self::Push => Cause::Push,
            Self::PullRequest => Cause::PullRequest,
            Self::Event => Cause::Event,
            Self::Schedule => Cause::Schedule,
        }
    }

    fn of(event: &EventKind) -> Self {
        match event {
            EventKind::Push => Self::Push,
            EventKind::PullRequest { .. } => Self::PullRequest,
            _ => Self::Event,
        }
    }
}

/// What started a job, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Cause {
    /// A person who pressed a button.
    Person,
    /// A branch or tag that moved.
    Push,
    /// A pull request that was opened or changed.
    PullRequest,
    /// Another event of the forge.
    Event,
    /// A schedule of the operator's.
    Schedule,
}

impl Cause {
    /// Its name, which is also how it is written in a file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Person => "person",
            Self::Push => "push",
            Self::PullRequest => "pull-request",
            Self::Event => "event",
            Self::Schedule => "schedule",
        }
    }
}

/// A job that may be enqueued: its id, its spec, where its code comes from, and what started it.
///
/// It becomes one job, however often it is enqueued: keep it for another try when the queue's answer was lost.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use ci_core::access::Write;
/// use ci_core::memory::Rig;
/// use ci_core::queue::NewJob;
/// use ci_core::trust::Origin;
///
/// let (rig, repository) = (Rig::new()?, Rig::repository("1", "acme")?);
/// let grant = rig.grant::<Write>(&Rig::user("ada")?, &repository).await?;
/// let code = rig.code(&repository, Origin::Repository).await?;
/// let new = NewJob::requested(&grant, code, Rig::spec())?;
/// rig.dispatcher.enqueue(&new).await?;
/// rig.dispatcher.enqueue(&new).await?;
///
/// assert!(rig.dispatcher.next(&[]).await?.is_some_and(|claim| claim.job() == new.id()));
/// assert!(rig.dispatcher.next(&[]).await?.is_none());
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct NewJob {
    pub(super) job: JobId,
    pub(super) code: Provenance,
    pub(super) trigger: Trigger,
    pub(super) spec: JobSpec,
}

impl NewJob {
    /// A job that a person asked for.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when the grant is over or for another repository; [`ErrorKind::Invalid`] when the
    /// spec cannot run.
    pub fn requested(grant: &Grant<Write>, code: Provenance, spec: JobSpec) -> Result<Self> {
        if grant.scope()?.repository() != code.repository() {
            return Err(Error::new(ErrorKind::Denied, "start a job")
                .because("the permission is for another repository than the code"));
        }
        let trigger = Trigger::Person { user: grant.user().clone(), signed_in_at: grant.signed_in_at() };
        Self::checked(code, trigger, spec)
    }

    /// A job that a verified event asks for: on the event's own code, or on other code of its repository. `name` tells
    /// the jobs of one event apart; whenever the delivery comes again, the same name makes the same job.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when the code is of another repository than the event; [`ErrorKind::Invalid`] when the
    /// spec cannot run.
    pub fn from_event(event: &Event, code: Provenance, name: &str, spec: JobSpec) -> Result<Self> {
        if event.repository() != code.repository() {
            return Err(Error::new(ErrorKind::Denied, "start a job")
                .because("the event is about another repository than the code"));
        }
        Ok(Self { job: event.job(name), ..Self::checked(code, Trigger::of(event.kind()), spec)? })
    }

    /// A job that a schedule of the operator's asks for.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when the act is for another tenant; [`ErrorKind::Invalid`] when the spec cannot run.
    pub fn scheduled(act: &Act<'_>, code: Provenance, spec: JobSpec) -> Result<Self> {
        act.covers(code.repository().tenant())?;
        Self::checked(code, Trigger::Schedule, spec)
    }

    fn checked(code: Provenance, trigger: Trigger, spec: JobSpec) -> Result<Self> {
        spec.check()?;
        Ok(Self { job: JobId::random(), code, trigger, spec })
    }

    /// The id that the job will have.
    pub fn id(&self) -> &JobId {
        &self.job
    }
}
