//! How far code is trusted. It follows from where the code comes from, and from nothing else.

use serde::{Deserialize, Serialize};

use crate::access::{Grant, Write};
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::Result;
use crate::external::External;
use crate::forge::Revision;
use crate::id::{CommitId, RepositoryId, UserId};

/// How far a job's code is trusted. There is no way to raise it: who presses the button does not matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Trust {
    /// Anybody may have written it: a fork. No secrets, and nothing it leaves is seen by trusted jobs.
    Untrusted,
    /// Somebody who can write to the repository pushed it.
    Trusted,
    /// It lies on a branch or tag that the forge protects.
    Protected,
}

/// Where a commit was found, as the forge says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Origin {
    /// In another repository, or in none that is known.
    Fork,
    /// In the repository itself, on a branch or tag that any writer can move.
    Repository,
    /// In the repository itself, on a branch or tag that the forge protects.
    Protected,
}

/// Which exact code, and where it comes from.
///
/// This crate makes it, from what a forge reports: [`forge::resolve`](crate::forge::resolve) for a branch, tag
/// or commit, and a verified webhook delivery for an event.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use ci_core::memory::Rig;
/// use ci_core::trust::{Origin, Trust};
///
/// let (rig, repository) = (Rig::new()?, Rig::repository("1", "acme")?);
/// let code = rig.code(&repository, Origin::Fork).await?; // what a forge says of a pull request
/// assert_eq!((code.repository(), code.trust()), (&repository, Trust::Untrusted));
/// assert_eq!(rig.code(&repository, Origin::Protected).await?.trust(), Trust::Protected);
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provenance {
    repository: RepositoryId,
    commit: CommitId,
    origin: Origin,
    reference: Option<External>,
}

/// How a ticket holds a [`Provenance`]. Were that itself `Deserialize`, anybody could make one of any trust.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Provenance")]
pub(crate) struct InTicket {
    repository: RepositoryId,
    commit: CommitId,
    origin: Origin,
    reference: Option<External>,
}

impl Provenance {
    pub(crate) fn new(repository: RepositoryId, revision: Revision) -> Self {
        let Revision { commit, origin, reference } = revision;
        Self { repository, commit, origin, reference }
    }

    /// The repository on whose behalf the code runs.
    pub fn repository(&self) -> &RepositoryId {
        &self.repository
    }

    /// The exact commit.
    pub fn commit(&self) -> &CommitId {
        &self.commit
    }

    /// The branch or tag it was found by, if any.
    pub fn reference(&self) -> Option<&External> {
        self.reference.as_ref()
    }

    /// How far the code is trusted.
    pub fn trust(&self) -> Trust {
        match self.origin {
            Origin::Fork => Trust::Untrusted,
            Origin::Repository => Trust::Trusted,
            Origin::Protected => Trust::Protected,
        }
    }
}

/// A person's word that one exact commit of a fork may run. It raises no trust, and says nothing about the next
/// commit.
///
/// The SDK runs a fork's code without one, because it runs without secrets. A product that wants somebody to look at
/// it first asks [`covers`](Self::covers) before it makes a [`NewJob`](crate::queue::NewJob).
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use ci_core::access::Write;
/// use ci_core::memory::Rig;
/// use ci_core::trust::{Approval, Origin};
///
/// let (rig, repository) = (Rig::new()?, Rig::repository("1", "acme")?);
/// let grant = rig.grant::<Write>(&Rig::user("ada")?, &repository).await?;
/// let code = rig.code(&repository, Origin::Fork).await?;
/// let approval = Approval::new(&grant, code.commit().clone())?;
/// assert!(approval.covers(&code));
/// assert!(!approval.covers(&rig.code(&repository, Origin::Fork).await?)); // the next push
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approval {
    repository: RepositoryId,
    commit: CommitId,
    by: UserId,
}

impl Approval {
    /// The word of the person who holds `grant` for `commit`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when the grant is over.
    pub fn new(grant: &Grant<Write>, commit: CommitId) -> Result<Self> {
        let repository = grant.scope()?.repository().clone();
        Ok(Self { repository, commit, by: grant.user().clone() })
    }

    /// Whether it is about exactly this code.
    pub fn covers(&self, code: &Provenance) -> bool {
        self.repository == code.repository && self.commit == code.commit
    }

    /// Who gave it.
    pub fn by(&self) -> &UserId {
        &self.by
    }
}
