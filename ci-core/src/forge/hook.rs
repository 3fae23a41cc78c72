//! What a webhook delivery is, before and after it is read.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Revision;
#[cfg(doc)]
use super::{Event, Inbox, VerifiedDelivery};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::external::External;
use crate::id::{Digest, ForgeId, NativeId, RepositoryId, UserId};

/// Recognises webhook deliveries of one forge.
///
/// An implementor verifies bytes and reads them; [`Inbox`] makes sure that nothing is read before it is
/// verified, that nothing is received twice, and that a hook speaks for nothing but what it was registered for.
///
/// # Example
///
/// What [`Inbox`] asks of the forge in memory:
///
/// ```
/// use ci_core::clock::Timestamp;
/// use ci_core::forge::{EventKind, HookScope, Hooks};
/// use ci_core::memory::{Forge, Rig};
///
/// let (forge, secret) = (Forge::new(), "webhook secret".into());
/// let ours = HookScope::Repository(Rig::repository("1", "acme")?);
/// forge.add_hook(ours.clone(), &secret)?;
///
/// let body = r#"{"repository": {"tenant": "acme", "forge": "memory", "native": "1"}, "kind": "push"}"#;
/// let raw = Forge::signed(&secret, body)?;
/// assert_eq!(forge.authenticate(&raw, Timestamp::default())?, ours);
/// assert_eq!(forge.parse(&raw)?.kind, EventKind::Push);
///
/// let forged = Forge::signed(&"a guess".into(), body)?;
/// assert!(forge.authenticate(&forged, Timestamp::default()).is_err());
/// # Ok::<(), ci_core::Error>(())
/// ```
pub trait Hooks: fmt::Debug + Send + Sync + 'static {
    /// For whom the sender of `raw` may speak. Returns a scope if and only if the sender has proven that they hold
    /// the secret of a hook that was registered for it. It must look at nothing in the body but its bytes, compare
    /// in constant time, and take an empty or missing secret for no proof. `now` is there for forges that sign the
    /// time.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when the signature is missing or wrong, or the delivery is too old.
    fn authenticate(&self, raw: &RawDelivery, now: Timestamp) -> Result<HookScope>;

    /// What the delivery says. It is called only for authenticated ones; its content is hostile all the same:
    /// titles, names of branches and authors are chosen by whoever pushed.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when the body is not what this forge sends.
    fn parse(&self, raw: &RawDelivery) -> Result<Occurrence>;
}

/// For whom a webhook speaks: what it was registered for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum HookScope {
    /// One repository.
    Repository(RepositoryId),
    /// All repositories of one organisation, group or installation of an app.
    Owner(ForgeId, NativeId),
    /// All repositories of a forge.
    Forge(ForgeId),
}

impl HookScope {
    /// Deliveries of two hooks are two deliveries, whatever is in them.
    pub(super) fn mark(&self) -> Digest {
        Digest::of(&serde_json::to_vec(self).unwrap_or_default())
    }

    pub(super) fn covers(&self, occurrence: &Occurrence) -> bool {
        match self {
            Self::Repository(repository) => *repository == occurrence.repository,
            Self::Owner(forge, owner) => {
                forge == occurrence.repository.forge() && Some(owner) == occurrence.owner.as_ref()
            }
            Self::Forge(forge) => forge == occurrence.repository.forge(),
        }
    }
}

/// A webhook delivery as it arrived: nobody knows yet who sent it.
///
/// # Example
///
/// ```
/// use ci_core::forge::RawDelivery;
///
/// let headers = [("X-Signature", "sha256=5e1c"), ("X-Id", "1"), ("x-id", "2")];
/// let raw = RawDelivery::new(headers, "{}".into())?;
/// assert_eq!(raw.header("x-signature"), Some(&b"sha256=5e1c"[..]));
/// assert_eq!(raw.header("x-id"), None, "it was sent twice");
/// # Ok::<(), ci_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct RawDelivery {
    headers: Vec<(String, Bytes)>,
    body: Bytes,
}

impl RawDelivery {
    /// How many bytes a body may have: what the large forges send at most.
    pub const MOST: usize = 25 * 1024 * 1024;

    /// Takes the headers and the raw body of a request.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::LimitExceeded`] for a body of more than [`MOST`](Self::MOST) bytes.
    pub fn new<N: AsRef<str>, V: Into<Bytes>>(
        headers: impl IntoIterator<Item = (N, V)>,
        body: Bytes,
    ) -> Result<Self> {
        if body.len() > Self::MOST {
            return Err(Error::new(ErrorKind::LimitExceeded, "receive a webhook").with("bytes", body.len()));
        }
        let lower = |(name, value): (N, V)| (name.as_ref().to_ascii_lowercase(), value.into());
        Ok(Self { headers: headers.into_iter().map(lower).collect(), body })
    }

    /// The value of a header, if it was sent exactly once: two values are as good as none.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        let mut values = self.headers.iter().filter(|(given, _)| given.eq_ignore_ascii_case(name));
        let first = values.next()?;
        values.next().is_none().then_some(&first.1)
    }

    /// The raw body.
    pub fn body(&self) -> &Bytes {
        &self.body
    }
}

/// What a delivery says, as a [`Hooks`] read it. It is a claim: [`VerifiedDelivery::parse`] makes an [`Event`] of it.
///
/// # Example
///
/// ```
/// use ci_core::External;
/// use ci_core::forge::{EventKind, Occurrence, Revision};
/// use ci_core::id::CommitId;
/// use ci_core::memory::Rig;
/// use ci_core::trust::Origin;
///
/// let commit = CommitId::parse("a".repeat(40))?;
/// let main = Revision::new(commit, Origin::Protected).with_reference(External::new("refs/heads/main"));
/// let pushed = Occurrence::new(Rig::repository("1", "acme")?, EventKind::Push).with_revision(main);
/// assert_eq!(pushed.kind, EventKind::Push);
/// # Ok::<(), ci_core::Error>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Occurrence {
    /// Which repository it is about.
    pub repository: RepositoryId,
    /// The organisation, group or installation that the repository belongs to, as the body says.
    pub owner: Option<NativeId>,
    /// Who caused it.
    pub actor: Option<Actor>,
    /// What happened.
    pub kind: EventKind,
    /// The code it is about.
    pub revision: Option<Revision>,
}

impl Occurrence {
    /// Something of `kind` happened to `repository`.
    pub fn new(repository: RepositoryId, kind: EventKind) -> Self {
        Self { repository, owner: None, actor: None, kind, revision: None }
    }

    /// Says which organisation, group or installation the repository belongs to.
    pub fn with_owner(mut self, owner: NativeId) -> Self {
        self.owner = Some(owner);
        self
    }

    /// Says who caused it.
    pub fn with_actor(mut self, actor: Actor) -> Self {
        self.actor = Some(actor);
        self
    }

    /// Says which code it is about.
    pub fn with_revision(mut self, revision: Revision) -> Self {
        self.revision = Some(revision);
        self
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventKind {
    /// A branch or tag moved.
    Push,
    /// A pull request was opened or changed.
    PullRequest {
        /// Its number.
        number: u64,
        /// Who opened it.
        author: PullRequestAuthor,
    },
    /// Somebody's permission changed, or everybody's.
    PermissionsChanged(Option<UserId>),
    /// The repository was deleted or disconnected.
    Gone,
    /// Something that the SDK has no use for.
    Other,
}

/// Who caused an event. It need not be who wrote the code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor(pub UserId);

/// Who opened a pull request. It need not be who pushed to it last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullRequestAuthor(pub UserId);

/// Who a commit says wrote it. Anybody can write anything there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitAuthor {
    /// The name.
    pub name: External,
    /// The address.
    pub email: External,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_that_was_sent_twice_is_none() {
        let headers = [("X-Sig", "a"), ("x-sig", "b"), ("X-One", "1")];
        let raw = RawDelivery::new(headers, Bytes::new()).expect("small");
        assert_eq!(raw.header("x-sig"), None);
        assert_eq!(raw.header("x-one"), Some(&b"1"[..]));
    }
}
