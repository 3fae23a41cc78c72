//! What one connection to the agent may have.

use ci_core::queue::Claim;
use ci_core::secret::SshSigner;

use super::agent::{Destination, Quota};
use super::host::HostKey;
use super::message::{Bind, Request, SignIn, failure, identities, signed, success};

/// One connection of a client, which goes to one server.
pub(super) struct Session<'a> {
    destination: &'a Destination,
    signer: &'a dyn SshSigner,
    claim: &'a Claim,
    quota: &'a Quota,
    bound: Bound<'a>,
}

/// Which server the client has shown to be connected to.
enum Bound<'a> {
    /// None yet.
    Not,
    /// The one with this key, in the session with this id.
    To(&'a HostKey, Vec<u8>),
    /// It has shown what it must not, and gets nothing any more.
    Spoiled,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        destination: &'a Destination,
        signer: &'a dyn SshSigner,
        claim: &'a Claim,
        quota: &'a Quota,
    ) -> Self {
        Self { destination, signer, claim, quota, bound: Bound::Not }
    }

    /// The answer to one message.
    pub(super) async fn answer(&mut self, message: &[u8]) -> Vec<u8> {
        let answer = match Request::read(message) {
            Some(Request::Identities) => {
                Some(identities(self.signer.identity(self.claim).await.ok().as_ref()))
            }
            Some(Request::Bind(bind)) => self.bind(bind).map(|()| success()),
            Some(Request::Sign { key, data, flags: 0 }) => self.sign(key, data).await.map(|s| signed(&s)),
            Some(Request::Sign { .. }) | None => None,
        };
        answer.unwrap_or_else(failure)
    }

    /// Believes the client that it is connected to a pinned server, if that server has signed so.
    ///
    /// Whoever shows anything else gets nothing any more, lest somebody far away, to whom this connection is forwarded,
    /// shows something right afterwards.
    fn bind(&mut self, bind: Bind<'_>) -> Option<()> {
        let Bind { host_key, session, signature, is_forwarding } = bind;
        let host = self.destination.host_keys.iter().find(|key| key.blob() == host_key);
        let host = host.filter(|key| {
            let is_first = matches!(self.bound, Bound::Not);
            let is_id = (16..=64).contains(&session.len());
            is_first && !is_forwarding && is_id && key.verifies(session, signature)
        });
        self.bound = host.map_or(Bound::Spoiled, |key| Bound::To(key, session.to_vec()));
        matches!(self.bound, Bound::To(..)).then_some(())
    }

    /// Signs for signing in to the bound server, as the expected user, with the one key.
    async fn sign(&self, key: &[u8], data: &[u8]) -> Option<[u8; 64]> {
        let Bound::To(host, session) = &self.bound else { return None };
        let asked = SignIn::read(data)?;
        let is_for_host = asked.host_key.is_none_or(|named| named == host.blob());
        let is_for_user = asked.user == self.destination.user.as_bytes();
        if asked.session != session || asked.key != key || !is_for_host || !is_for_user {
            return None;
        }
        let identity = self.signer.identity(self.claim).await.ok()?;
        if key != identity.to_blob() || !self.quota.take() {
            return None;
        }
        self.signer.sign(self.claim, &identity, data).await.ok()
    }
}
