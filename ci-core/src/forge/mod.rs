//! What the SDK asks of a forge, in small ports: who somebody is ([`SignIn`]), what happened ([`Hooks`]), how a
//! job went ([`Checks`]), and the code itself ([`Source`]). What somebody may do is
//! [`PermissionSource`](crate::access::PermissionSource).
//!
//! An implementor writes the ports that their forge has. An integrator calls what is built on them:
//! [`Authority::sign_in`](crate::access::Authority::sign_in), [`Inbox`], [`resolve`] and [`read()`]; the
//! [`Runner`](crate::runner::Runner) reports to [`Checks`] and checks the code out.

mod hook;
mod inbox;
mod name;
mod source;

use std::fmt;

use async_trait::async_trait;
use secrecy::SecretString;

pub use self::hook::{
    Actor, CommitAuthor, EventKind, HookScope, Hooks, Occurrence, PullRequestAuthor, RawDelivery,
};
pub use self::inbox::{Event, Inbox, VerifiedDelivery};
pub use self::name::{RevisionName, SourcePath};
pub use self::source::{Revision, Source, read, resolve};

#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::Result;
use crate::id::UserId;
use crate::queue::Claim;

/// Finds out who somebody is. [`Authority::sign_in`](crate::access::Authority::sign_in) makes the session.
///
/// An implementor answers with the id that the forge never gives to anybody else: a login name that can be renamed
/// and taken by the next person is none. What was answered once is not believed again where the forge can tell.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use ci_core::forge::SignIn;
/// use ci_core::memory::{People, Rig};
///
/// let (people, ada) = (People::new(), Rig::user("ada")?);
/// people.add(&ada, &"a token of ada's".into())?;
///
/// let challenge = people.begin().await?;
/// assert_eq!(people.complete(&challenge, "a token of ada's".into()).await?, ada);
/// assert!(people.complete(&challenge, "a guess".into()).await.is_err());
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[async_trait]
pub trait SignIn: fmt::Debug + Send + Sync + 'static {
    /// What the person has to answer.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] when the forge cannot be asked.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves nothing that would have to be answered.
    async fn begin(&self) -> Result<Challenge>;

    /// Who answered `challenge` with `answer`. Returns a person if and only if the forge says that it is them.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when the answer is wrong or late; [`ErrorKind::Unavailable`] when the forge cannot be
    /// asked.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, an answer that counts once may be used up: [`begin`](Self::begin) again.
    async fn complete(&self, challenge: &Challenge, answer: SecretString) -> Result<UserId>;
}

/// What somebody who signs in has to answer.
#[derive(Debug)]
#[non_exhaustive]
pub enum Challenge {
    /// A credential of their own, a token for instance.
    Credential,
    /// The code that the forge sends back after the person has agreed there (RFC 6749, section 4.1).
    Redirect {
        /// Where to send the person's browser.
        url: String,
        /// What must come back with the code, bound to the person's browser and used once.
        state: SecretString,
    },
}

/// Tells the forge how a job goes.
///
/// An implementor reports for the claim's exact commit and repository, and repeats nothing of `description` as
/// markup: whoever wrote the job can have a say in it.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use std::time::Duration;
/// use ci_core::ErrorKind;
/// use ci_core::forge::{CheckState, Checks};
/// use ci_core::memory::Rig;
/// use ci_core::trust::Origin;
///
/// let rig = Rig::new()?;
/// let claim = rig.claim(&Rig::repository("1", "acme")?, Origin::Repository, Rig::spec()).await?;
/// rig.forge.report(&claim, CheckState::Running, "step 1 of 3").await?;
/// assert_eq!(rig.forge.reports()[0].state, CheckState::Running);
///
/// rig.clock.advance(Duration::from_mins(5)); // another worker may have the job by now
/// let late = rig.forge.report(&claim, CheckState::Succeeded, "all steps").await.unwrap_err();
/// assert_eq!(late.kind(), ErrorKind::Fenced);
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[async_trait]
pub trait Checks: fmt::Debug + Send + Sync + 'static {
    /// Reports the state of the claim's commit. The same state may be reported again.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Fenced`] when the claim is over; [`ErrorKind::Unavailable`] when the forge cannot be reached.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, the forge may or may not show the state; the next report replaces it.
    async fn report(&self, claim: &Claim, state: CheckState, description: &str) -> Result<()>;
}

/// How a job goes, as forges show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CheckState {
    /// It runs.
    Running,
    /// It succeeded.
    Succeeded,
    /// It failed.
    Failed,
    /// It could not be run, or was stopped.
    Errored,
}
