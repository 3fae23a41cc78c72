//! Webhooks of the forge in memory.

use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use sha2::Sha256;

use super::forge::Forge;
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::external::External;
use crate::forge::{
    Actor, EventKind, HookScope, Hooks, Occurrence, PullRequestAuthor, RawDelivery, Revision,
};
use crate::id::{CommitId, NativeId, RepositoryId, UserId};
use crate::lock::lock;
use crate::trust::Origin;

const SIGNATURE: &str = "x-ci-signature";
const PREFIX: &[u8] = b"sha256=";

/// A webhook that the forge sends: for what, and signed how.
pub(super) struct Registered {
    scope: HookScope,
    secret: SecretString,
}

impl Registered {
    pub(super) fn new(scope: HookScope, secret: &SecretString) -> Result<Self> {
        if secret.expose_secret().is_empty() {
            return Err(Error::new(ErrorKind::Invalid, "register a webhook")
                .because("with an empty secret anybody could sign; set one"));
        }
        Ok(Self { scope, secret: secret.clone() })
    }

    pub(super) fn has_secret_of(&self, other: &Self) -> bool {
        self.secret.expose_secret() == other.secret.expose_secret()
    }
}

impl Forge {
    /// What the forge would send: `body`, signed with `secret`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::LimitExceeded`] for a body that is too large for a delivery.
    pub fn signed(secret: &SecretString, body: impl Into<Bytes>) -> Result<RawDelivery> {
        let body = body.into();
        let tag = mac(secret, &body).finalize().into_bytes();
        let signature = format!("sha256={}", data_encoding::HEXLOWER.encode(&tag));
        RawDelivery::new([(SIGNATURE, signature)], body)
    }
}

impl Hooks for Forge {
    fn authenticate(&self, raw: &RawDelivery, _now: Timestamp) -> Result<HookScope> {
        let denied = || {
            Error::new(ErrorKind::Denied, "authenticate a webhook")
                .because("its signature is missing or wrong")
        };
        let signature =
            raw.header(SIGNATURE).and_then(|value| value.strip_prefix(PREFIX)).ok_or_else(denied)?;
        let tag = data_encoding::HEXLOWER.decode(signature).map_err(|_| denied())?;
        let hooks = lock(&self.hooks);
        // `verify_slice` compares in constant time.
        let signer = hooks.iter().find(|hook| mac(&hook.secret, raw.body()).verify_slice(&tag).is_ok());
        signer.map(|hook| hook.scope.clone()).ok_or_else(denied)
    }

    fn parse(&self, raw: &RawDelivery) -> Result<Occurrence> {
        let body: Body = serde_json::from_slice(raw.body())
            .map_err(|error| Error::new(ErrorKind::Invalid, "read a webhook").caused_by(error))?;
        Ok(body.into_occurrence())
    }
}

/// The body of a delivery.
#[derive(Deserialize)]
struct Body {
    repository: RepositoryId,
    owner: Option<NativeId>,
    actor: Option<NativeId>,
    #[serde(flatten)]
    kind: Kind,
    revision: Option<Code>,
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Kind {
    Push,
    PullRequest {
        number: u64,
        author: NativeId,
    },
    PermissionsChanged {
        user: Option<NativeId>,
    },
    Gone,
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct Code {
    commit: CommitId,
    origin: Origin,
    reference: Option<External>,
}

impl Body {
    fn into_occurrence(self) -> Occurrence {
        let Self { repository, owner, actor, kind, revision } = self;
        let person = |native| UserId::new(native, repository.forge().clone());
        let kind = match kind {
            Kind::Push => EventKind::Push,
            Kind::PullRequest { number, author } => {
                EventKind::PullRequest { number, author: PullRequestAuthor(person(author)) }
            }
            Kind::PermissionsChanged { user } => EventKind::PermissionsChanged(user.map(person)),
            Kind::Gone => EventKind::Gone,
            Kind::Other => EventKind::Other,
        };
        let actor = actor.map(|actor| Actor(person(actor)));
        let revision = revision.map(|Code { commit, origin, reference }| {
            let revision = Revision::new(commit, origin);
            reference.into_iter().fold(revision, Revision::with_reference)
        });
        let mut occurrence = Occurrence::new(repository, kind);
        (occurrence.owner, occurrence.actor, occurrence.revision) = (owner, actor, revision);
        occurrence
    }
}

fn mac(secret: &SecretString, body: &[u8]) -> Hmac<Sha256> {
    let mac = Hmac::<Sha256>::new_from_slice(secret.expose_secret().as_bytes());
    mac.expect("HMAC takes a key of any length").chain_update(body)
}
