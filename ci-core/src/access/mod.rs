//! What a person may do: sign-in, permission, and the grant that everything guarded asks for.
//!
//! The forge knows; nothing is invented here. A [`SignIn`] says who somebody is, a
//! [`PermissionSource`] says what they may do, and only [`Authority`] turns the two into a [`Session`] and a
//! [`Grant`].
//!
//! A service keeps a [`Session`] for as long as a person is signed in, and asks for a [`Grant`] for every request. What
//! takes a grant checks it by itself; nobody has to remember to.

mod grant;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

pub use self::grant::{Grant, Scope};
use crate::clock::{Clock, Deadline, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::forge::{Challenge, SignIn};
use crate::id::{RepositoryId, UserId};

/// What a person may do with a repository, in rising order. A role that is not known is [`None`](Level::None).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Level {
    /// Nothing; not even to know that it exists.
    None,
    /// To read code, runs, logs and artifacts.
    Read,
    /// To push code, start jobs and set secrets.
    Write,
    /// To change who may do what.
    Admin,
}

/// Says what people may do. A forge, or a mirror in front of one.
///
/// An implementor answers from what the forge says now. Where it remembers answers, `observed_at` and `valid_for`
/// say how old they are; where it learns that an answer no longer holds, [`withdrawn`](Self::withdrawn) says so, and
/// grants end at once instead of when they expire.
///
/// # Cancel safety
///
/// Dropping a future has no effect: [`permission`](Self::permission) only asks.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use std::collections::BTreeSet;
/// use std::sync::Arc;
/// use async_trait::async_trait;
/// use ci_core::Result;
/// use ci_core::access::{Authority, Level, PermissionSource, Read, Session, Verdict};
/// use ci_core::clock::Clock;
/// use ci_core::id::{RepositoryId, UserId};
/// # use ci_core::memory::Rig;
///
/// /// A forge with one team: its members may write everywhere, and nobody else knows that anything exists.
/// #[derive(Debug)]
/// struct Team {
///     members: BTreeSet<UserId>,
///     clock: Arc<dyn Clock>,
/// }
///
/// #[async_trait]
/// impl PermissionSource for Team {
///     async fn permission(&self, who: &Session, _: &RepositoryId) -> Result<Verdict> {
///         let is_member = self.members.contains(who.user());
///         let level = if is_member { Level::Write } else { Level::None };
///         Ok(Verdict::new(level, self.clock.now()))
///     }
/// }
/// # let rig = Rig::new()?;
/// # let (ada, eve, repository) = (Rig::user("ada")?, Rig::user("eve")?, Rig::repository("1", "acme")?);
/// # let team = Team { members: [ada.clone()].into(), clock: rig.clock.clone() };
/// # let authority = Authority::new(Arc::new(team), rig.clock.clone());
/// # assert!(authority.grant::<Read>(&rig.sign_in(&ada).await?, &repository).await.is_ok());
/// # assert!(authority.grant::<Read>(&rig.sign_in(&eve).await?, &repository).await.is_err());
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[async_trait]
pub trait PermissionSource: fmt::Debug + Send + Sync + 'static {
    /// What the person may do with the repository right now. An unknown repository or person is
    /// [`Level::None`], not an error.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] when the answer cannot be had now. Nobody gets a grant then.
    async fn permission(&self, who: &Session, repository: &RepositoryId) -> Result<Verdict>;

    /// Whether the forge has meanwhile said that `verdict` no longer holds. It must not block: a source that
    /// learns of nothing between two questions answers `false`, and the verdict's own bound applies.
    fn withdrawn(&self, who: &Session, repository: &RepositoryId, verdict: &Verdict) -> bool {
        let _ = (who, repository, verdict);
        false
    }
}

/// What a [`PermissionSource`] found out, as its example shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verdict {
    /// What the person may do.
    pub level: Level,
    /// When the forge said so.
    pub observed_at: Timestamp,
    /// How long the answer may be relied on, counted from the question.
    pub valid_for: Duration,
    /// Grows with every change that the source hears of; lets it recognise verdicts from before a change.
    pub generation: u64,
}

impl Verdict {
    /// The person may do `level`, as the forge said at `observed_at`; reliable for one minute.
    pub fn new(level: Level, observed_at: Timestamp) -> Self {
        Self { level, observed_at, valid_for: Duration::from_mins(1), generation: 0 }
    }

    /// Replaces how long the answer may be relied on.
    pub fn with_valid_for(mut self, valid_for: Duration) -> Self {
        self.valid_for = valid_for;
        self
    }

    /// Marks which state of the source the answer belongs to.
    pub fn with_generation(mut self, generation: u64) -> Self {
        self.generation = generation;
        self
    }
}

/// A person who has signed in, for as long as [`AuthorityOptions::session`] says. [`Authority`] makes it, and turns it
/// into grants; by itself it allows nothing.
#[derive(Clone, Debug)]
pub struct Session {
    user: UserId,
    signed_in_at: Timestamp,
    start: Deadline,
    until: Deadline,
}

impl Session {
    /// Who it is.
    pub fn user(&self) -> &UserId {
        &self.user
    }

    /// When the person signed in.
    pub fn signed_in_at(&self) -> Timestamp {
        self.signed_in_at
    }

    /// The session of somebody who started a job earlier, to ask again what they may do. It grants nothing.
    pub(crate) fn recalled(user: UserId, signed_in_at: Timestamp, clock: &dyn Clock) -> Self {
        let start = Deadline::after(clock, Duration::ZERO);
        Self { user, signed_in_at, start, until: start }
    }
}

/// A level as a type: [`Read`], [`Write`] or [`Admin`].
pub trait Access: sealed::Sealed + Send + Sync + 'static {
    /// The level.
    const LEVEL: Level;
}

/// That a level includes another: `Admin` covers `Write` covers `Read`, and each covers itself.
pub trait Covers<B: Access>: Access {}

macro_rules! levels {
    ($($(#[$doc:meta])* $name:ident covers $($below:ident)+;)+) => { $(
        $(#[$doc])*
        #[derive(Debug)]
        pub enum $name {}

        impl sealed::Sealed for $name {}

        impl Access for $name {
            const LEVEL: Level = Level::$name;
        }

        $(impl Covers<$below> for $name {})+
    )+ };
}

levels! {
    /// To read code, runs, logs and artifacts.
    Read covers Read;
    /// To push code, start jobs and set secrets.
    Write covers Read Write;
    /// To change who may do what.
    Admin covers Read Write Admin;
}

mod sealed {
    pub trait Sealed {}
}

/// Turns what forges say into sessions and grants. There is no other way to either.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use std::sync::Arc;
/// use std::time::Duration;
/// use ci_core::access::{Authority, Level, Read, Write};
/// use ci_core::clock::ManualClock;
/// use ci_core::forge::SignIn as _;
/// use ci_core::memory::{People, Permissions, Rig};
///
/// let clock = Arc::new(ManualClock::new());
/// let (people, permissions) = (People::new(), Arc::new(Permissions::new(clock.clone())));
/// let authority = Authority::new(permissions.clone(), clock.clone());
/// # let (ada, repository) = (Rig::user("ada")?, Rig::repository("1", "acme")?);
/// people.add(&ada, &"her token".into())?;
/// permissions.allow(&ada, &repository, Level::Read);
///
/// let challenge = people.begin().await?;
/// let session = authority.sign_in(&people, &challenge, "her token".into()).await?;
/// let grant = authority.grant::<Read>(&session, &repository).await?;
/// assert_eq!(grant.scope()?.repository(), &repository);
/// assert!(authority.grant::<Write>(&session, &repository).await.is_err());
///
/// clock.advance(Duration::from_secs(60));
/// assert!(grant.scope().is_err()); // it has expired
/// assert!(grant.renew(&authority).await?.scope().is_ok());
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Authority {
    source: Arc<dyn PermissionSource>,
    clock: Arc<dyn Clock>,
    options: AuthorityOptions,
}

/// How long sessions and grants last; for [`Authority::with_options`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct AuthorityOptions {
    /// How long a person stays signed in: 12 hours.
    pub session: Duration,
    /// How long a grant holds at most, whatever the source says: 1 minute.
    pub grant: Duration,
}

impl Default for AuthorityOptions {
    fn default() -> Self {
        Self { session: Duration::from_hours(12), grant: Duration::from_mins(1) }
    }
}

impl AuthorityOptions {
    /// Replaces how long a person stays signed in.
    pub fn with_session(mut self, session: Duration) -> Self {
        self.session = session;
        self
    }

    /// Replaces how long a grant holds at most.
    pub fn with_grant(mut self, grant: Duration) -> Self {
        self.grant = grant;
        self
    }
}

impl Authority {
    /// An authority that believes `source`.
    pub fn new(source: Arc<dyn PermissionSource>, clock: Arc<dyn Clock>) -> Self {
        Self { source, clock, options: AuthorityOptions::default() }
    }

    /// Replaces how long sessions and grants last.
    pub fn with_options(mut self, options: AuthorityOptions) -> Self {
        self.options = options;
        self
    }

    /// Signs a person in: `answer` is what came back for `challenge`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when the answer is wrong; [`ErrorKind::Unavailable`] when the forge cannot be asked.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, the forge may have seen the answer, and takes most answers only once: begin anew.
    pub async fn sign_in(
        &self,
        how: &dyn SignIn,
        challenge: &Challenge,
        answer: SecretString,
    ) -> Result<Session> {
        let signed_in_at = self.clock.now();
        let start = Deadline::after(self.clock.as_ref(), Duration::ZERO);
        let until = Deadline::after(self.clock.as_ref(), self.options.session);
        let user = how.complete(challenge, answer).await?;
        Ok(Session { user, signed_in_at, start, until })
    }

    /// A fresh permission of a person for one repository.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when they may not, when there is no such repository (the two are not told apart), and when
    /// the session is over; [`ErrorKind::Unavailable`] when the forge cannot be asked.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn grant<A: Access>(&self, who: &Session, repository: &RepositoryId) -> Result<Grant<A>> {
        let denied = || Error::new(ErrorKind::Denied, "ask for a permission").with("repository", repository);
        if who.until.has_passed(self.clock.as_ref()) {
            return Err(denied().because("the session is over; sign in again"));
        }
        // Counted from before the question, so that a slow answer does not last longer.
        let asked = Deadline::after(self.clock.as_ref(), Duration::ZERO);
        let longest = Deadline::after(self.clock.as_ref(), self.options.grant);
        let verdict = self.source.permission(who, repository).await?;
        if verdict.level < A::LEVEL {
            return Err(denied()
                .because("there is no such repository, or you lack the permission")
                .detail(format!("{} has {:?}, and {:?} was asked for", who.user, verdict.level, A::LEVEL)));
        }
        let until = longest.within(asked, verdict.valid_for);
        Ok(Grant::new(Granted {
            session: who.clone(),
            repository: repository.clone(),
            verdict,
            until,
            source: self.source.clone(),
            clock: self.clock.clone(),
        }))
    }

    /// Refuses when somebody who triggered a job may no longer do so.
    pub(crate) async fn recheck(
        &self,
        user: &UserId,
        signed_in_at: Timestamp,
        repository: &RepositoryId,
    ) -> Result<()> {
        let who = Session::recalled(user.clone(), signed_in_at, self.clock.as_ref());
        let verdict = self.source.permission(&who, repository).await?;
        if verdict.level < Level::Write || self.source.withdrawn(&who, repository, &verdict) {
            return Err(Error::new(ErrorKind::Denied, "start a job")
                .because("whoever started it may no longer write to the repository")
                .with("repository", repository));
        }
        Ok(())
    }
}

/// What [`Authority`] knows of a permission.
struct Granted {
    session: Session,
    repository: RepositoryId,
    verdict: Verdict,
    until: Deadline,
    source: Arc<dyn PermissionSource>,
    clock: Arc<dyn Clock>,
}
