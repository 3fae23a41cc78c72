//! Who somebody is and what they may do, as a test says.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::access::{Level, PermissionSource, Session, Verdict};
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::forge::{Challenge, SignIn};
use crate::id::{RepositoryId, UserId};
use crate::lock::lock;

/// What people may do, in memory.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use ci_core::access::{Level, Write};
/// use ci_core::memory::Rig;
///
/// let rig = Rig::new()?;
/// let (ada, repository) = (Rig::user("ada")?, Rig::repository("1", "acme")?);
/// let grant = rig.grant::<Write>(&ada, &repository).await?;
/// assert!(grant.scope().is_ok());
/// rig.permissions.allow(&ada, &repository, Level::None);
/// assert!(grant.scope().is_err());
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Permissions {
    known: Mutex<BTreeMap<(UserId, RepositoryId), Known>>,
    is_down: AtomicBool,
    valid_for: Duration,
    clock: Arc<dyn Clock>,
}

/// What is known of one person and one repository.
#[derive(Clone, Copy, Debug)]
struct Known {
    level: Level,
    generation: u64,
    /// Verdicts from before this generation were for more than is allowed since.
    lowered: u64,
}

impl Permissions {
    /// A source where nobody may do anything. Its verdicts may be relied on for a minute.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            known: Mutex::default(),
            is_down: AtomicBool::new(false),
            valid_for: Duration::from_mins(1),
            clock,
        }
    }

    /// Replaces how long its verdicts may be relied on.
    pub fn with_valid_for(mut self, valid_for: Duration) -> Self {
        self.valid_for = valid_for;
        self
    }

    /// Sets what a person may do. When that is less than before, grants for the old level are withdrawn at once.
    pub fn allow(&self, user: &UserId, repository: &RepositoryId, level: Level) {
        let mut known = lock(&self.known);
        let unknown = Known { level: Level::None, generation: 0, lowered: 0 };
        let entry = known.entry((user.clone(), repository.clone())).or_insert(unknown);
        entry.generation += 1;
        if level < entry.level {
            entry.lowered = entry.generation;
        }
        entry.level = level;
    }

    /// What a person may do.
    pub fn level(&self, user: &UserId, repository: &RepositoryId) -> Level {
        self.known(user, repository).map_or(Level::None, |known| known.level)
    }

    /// Stops answering: every question fails with [`ErrorKind::Unavailable`].
    pub fn go_down(&self) {
        self.is_down.store(true, Ordering::Release);
    }

    /// Answers again.
    pub fn come_back(&self) {
        self.is_down.store(false, Ordering::Release);
    }

    fn known(&self, user: &UserId, repository: &RepositoryId) -> Option<Known> {
        lock(&self.known).get(&(user.clone(), repository.clone())).copied()
    }
}

#[async_trait]
impl PermissionSource for Permissions {
    async fn permission(&self, who: &Session, repository: &RepositoryId) -> Result<Verdict> {
        if self.is_down.load(Ordering::Acquire) {
            return Err(
                Error::new(ErrorKind::Unavailable, "ask for a permission").with("repository", repository)
            );
        }
        let known = self.known(who.user(), repository);
        let (level, generation) = known.map_or((Level::None, 0), |known| (known.level, known.generation));
        let verdict = Verdict::new(level, self.clock.now()).with_valid_for(self.valid_for);
        Ok(verdict.with_generation(generation))
    }

    fn withdrawn(&self, who: &Session, repository: &RepositoryId, verdict: &Verdict) -> bool {
        self.known(who.user(), repository).is_some_and(|known| verdict.generation < known.lowered)
    }
}

/// People who sign in with a token, in memory.
///
/// It keeps digests of the tokens, and compares with all of them in constant time.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use ci_core::forge::SignIn as _;
/// use ci_core::memory::{People, Rig};
///
/// let (people, ada) = (People::new(), Rig::user("ada")?);
/// people.add(&ada, &"her token".into())?;
/// let challenge = people.begin().await?;
/// assert_eq!(people.complete(&challenge, "her token".into()).await?, ada);
/// assert!(people.complete(&challenge, "a guess".into()).await.is_err());
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Default)]
pub struct People {
    known: Mutex<Vec<(UserId, [u8; 32])>>,
}

impl People {
    /// Nobody.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets `user` sign in with `token`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for an empty token, and for one that somebody else has.
    pub fn add(&self, user: &UserId, token: &SecretString) -> Result<()> {
        let invalid = |why: &'static str| Err(Error::new(ErrorKind::Invalid, "add a person").because(why));
        if token.expose_secret().is_empty() {
            return invalid("an empty token is no credential");
        }
        let digest = digest(token);
        let mut known = lock(&self.known);
        if known.iter().any(|(other, theirs)| *theirs == digest && other != user) {
            return invalid("somebody else has this token");
        }
        known.push((user.clone(), digest));
        Ok(())
    }
}

#[async_trait]
impl SignIn for People {
    async fn begin(&self) -> Result<Challenge> {
        Ok(Challenge::Credential)
    }

    async fn complete(&self, challenge: &Challenge, answer: SecretString) -> Result<UserId> {
        let denied = || Error::new(ErrorKind::Denied, "sign in").because("the token is wrong");
        if !matches!(challenge, Challenge::Credential) {
            return Err(denied());
        }
        let given = digest(&answer);
        let known = lock(&self.known);
        // All of them are compared, so that the time says nothing about which one it was.
        let found = known.iter().fold(
            None,
            |found, (user, token)| {
                if bool::from(token.ct_eq(&given)) { Some(user) } else { found }
            },
        );
        found.cloned().ok_or_else(denied)
    }
}

impl fmt::Debug for People {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = lock(&self.known);
        f.debug_set().entries(known.iter().map(|(user, _)| user)).finish()
    }
}

fn digest(token: &SecretString) -> [u8; 32] {
    Sha256::digest(token.expose_secret()).into()
}
