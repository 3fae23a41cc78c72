//! A permission that holds right now, and the right that it shows.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use super::{Access, Authority, Covers, Granted};
#[cfg(doc)]
use super::{AuthorityOptions, Verdict};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{RepositoryId, UserId};

/// A person's fresh permission for one repository.
///
/// It holds for as long as the source's [`Verdict`] and [`AuthorityOptions::grant`] allow, whichever is shorter, and
/// ends at once when the source withdraws it.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use std::time::Duration;
/// use ci_core::access::{Grant, Level, Read, Write};
/// use ci_core::memory::Rig;
///
/// let (rig, ada, repository) = (Rig::new()?, Rig::user("ada")?, Rig::repository("1", "acme")?);
/// let grant: Grant<Write> = rig.grant(&ada, &repository).await?;
/// let lower: Grant<Read> = grant.lower();
/// assert_eq!((lower.user(), lower.scope()?.repository()), (&ada, &repository));
/// grant.signed_in_within(Duration::from_secs(300))?; // for what asks for a recent sign-in
///
/// rig.permissions.allow(&ada, &repository, Level::None);
/// assert!(grant.scope().is_err() && lower.scope().is_err()); // withdrawn at once
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A grant of one level cannot be made into a higher one, and cannot be made at all but by [`Authority`]:
///
/// ```compile_fail
/// # use ci_core::access::{Admin, Grant, Read};
/// fn raise(grant: Grant<Read>) -> Grant<Admin> {
///     grant.lower() // `Read` does not cover `Admin`
/// }
/// ```
pub struct Grant<A: Access>(Arc<Granted>, PhantomData<fn() -> A>);

impl<A: Access> Grant<A> {
    pub(super) fn new(granted: Granted) -> Self {
        Self(Arc::new(granted), PhantomData)
    }

    /// The repository, while the permission holds.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when the permission has expired or was withdrawn; ask the [`Authority`] again.
    pub fn scope(&self) -> Result<Scope<'_>> {
        let granted = &*self.0;
        let over = granted.until.has_passed(granted.clock.as_ref())
            || granted.source.withdrawn(&granted.session, &granted.repository, &granted.verdict);
        if over {
            return Err(Error::new(ErrorKind::Denied, "use a permission")
                .because("it has expired or was withdrawn; ask for it again")
                .with("repository", &granted.repository));
        }
        Ok(Scope { repository: &granted.repository })
    }

    /// The same permission at this level or a lower one; it ends at the same time.
    pub fn lower<B: Access>(&self) -> Grant<B>
    where
        A: Covers<B>,
    {
        Grant(self.0.clone(), PhantomData)
    }

    /// Refuses when the person signed in longer than `age` ago, for operations that ask for a fresh sign-in.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when it was longer ago, or in the future.
    pub fn signed_in_within(&self, age: Duration) -> Result<()> {
        let (session, clock) = (&self.0.session, self.0.clock.as_ref());
        let in_the_past = session.signed_in_at <= clock.now();
        // Up to and with the last moment, by calendar and by elapsed time.
        let until = session.start.later(age.saturating_add(Duration::from_millis(1)));
        if in_the_past && !until.has_passed(clock) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Denied, "use a permission")
            .because("this needs a recent sign-in; sign in again")
            .with("repository", &self.0.repository))
    }

    /// Whose permission it is.
    pub fn user(&self) -> &UserId {
        self.0.session.user()
    }

    /// When that person signed in.
    pub fn signed_in_at(&self) -> Timestamp {
        self.0.session.signed_in_at
    }

    /// When the forge said so.
    pub fn observed_at(&self) -> Timestamp {
        self.0.verdict.observed_at
    }

    /// The same person's permission as it is now, for work that outlasts one grant.
    ///
    /// # Errors
    ///
    /// As for [`Authority::grant`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn renew(&self, authority: &Authority) -> Result<Self> {
        authority.grant(&self.0.session, &self.0.repository).await
    }
}

impl<A: Access> fmt::Debug for Grant<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grant")
            .field("level", &A::LEVEL)
            .field("user", self.user())
            .field("repository", &self.0.repository)
            .finish_non_exhaustive()
    }
}

/// That somebody has just shown a right to this repository: a person by [`Grant::scope`], or a job by
/// [`Claim::scope`](crate::queue::Claim::scope).
///
/// It is used up by what it is passed to, so that the next use asks again whether the right still holds.
#[derive(Debug)]
pub struct Scope<'a> {
    repository: &'a RepositoryId,
}

impl<'a> Scope<'a> {
    pub(crate) fn new(repository: &'a RepositoryId) -> Self {
        Self { repository }
    }

    /// The repository.
    pub fn repository(&self) -> &'a RepositoryId {
        self.repository
    }
}
