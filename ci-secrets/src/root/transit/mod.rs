//! A root key at the transit engine of HashiCorp Vault or OpenBao.

mod client;
mod config;
mod token;

use std::convert::Infallible;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use ci_core::clock::Clock;
use ci_core::seal::Context;
use ci_core::{ErrorKind, Result};
use secrecy::{SecretBox, SecretString};

use self::client::Client;
use super::RootKey;
use super::remote::Remote;

pub use config::TransitConfig;

/// A root key that never leaves the transit engine of HashiCorp Vault or OpenBao.
///
/// The engine wraps and unwraps over HTTPS, with the context as associated data, and as the context of a key that is
/// `derived`. Its `rewrap` is not used, because it takes no associated data: to bring wrapped keys under the latest
/// version of the engine's key, they are unwrapped and wrapped again.
///
/// # What the server needs
///
/// A key of a type with associated data (`aes256-gcm96`, which is the default, or `chacha20-poly1305`); not
/// `exportable`, without `allow_plaintext_backup` and `convergent_encryption`; and a token with this policy. `create`
/// is left out: with it, a misspelt name would make a new key.
///
/// ```text
/// path "transit/encrypt/ci-root" { capabilities = ["update"] }
/// path "transit/decrypt/ci-root" { capabilities = ["update"] }
/// ```
///
/// The token should be periodic and an orphan, so that it can be renewed for ever. It is renewed before a call when a
/// third or less of its time is left; a service that may be idle for longer than that runs
/// [`keep_renewed`](Self::keep_renewed) beside it. Where something else keeps tokens (an agent, another way of signing
/// in), it hands in the next one with [`set_token`](Self::set_token).
///
/// # What goes wrong
///
/// A server that is down, sealed, slow or overloaded is retried within [`Patience`](crate::Patience), and then a
/// retryable error. A token that is refused is [`ErrorKind::Denied`]: not tried again at
/// once, and retryable later, because the next token may do. A server that answers with another key is
/// [`ErrorKind::Tampered`]. No proxy is used and no redirect followed: a standby node
/// has to forward requests, as it does by default.
///
/// Requests and answers are wiped after use, as far as they are this crate's. The TLS and HTTP libraries hold copies of
/// their own for as long as a connection is open, which is one call, and free them without wiping.
///
/// # Example
///
/// ```
/// # fn main() -> ci_core::Result<()> {
/// # let pem = example_ca();
/// use std::sync::Arc;
///
/// use ci_core::clock::SystemClock;
/// use ci_secrets::{CertificateAuthorities, RootKey as _, TransitConfig, TransitRoot};
///
/// let authorities = CertificateAuthorities::from_pem(pem.as_bytes())?;
/// let config = TransitConfig::new("https://vault.internal:8200", &authorities, "ci-root")?.with_namespace("build")?;
/// let root = TransitRoot::new(config, "hvs.a-token".into(), Arc::new(SystemClock::new()))?;
/// assert_eq!(root.key_ref(), "transit:vault.internal:8200/build/transit/ci-root");
/// # Ok(())
/// # }
/// # fn example_ca() -> String {
/// #     let key = rcgen::KeyPair::generate().expect("a key");
/// #     rcgen::CertificateParams::default().self_signed(&key).expect("a certificate").pem()
/// # }
/// ```
#[derive(Debug)]
pub struct TransitRoot {
    remote: Remote<Client>,
    key_ref: String,
}

impl TransitRoot {
    /// The key that `config` names, asked for with `token`. Nothing is asked yet.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when the token is not one line of visible ASCII, or the
    /// server, namespace, mount and name are longer than 240 bytes together.
    pub fn new(config: TransitConfig, token: SecretString, clock: Arc<dyn Clock>) -> Result<Self> {
        let (key_ref, patience) = (config.reference()?, config.patience);
        let provider = Client::new(config, token, clock.clone())?;
        Ok(Self { remote: Remote { provider, patience, clock }, key_ref })
    }

    /// Takes another token from now on. Calls that have begun end with the earlier one.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when it is not one line of visible ASCII.
    pub fn set_token(&self, token: SecretString) -> Result<()> {
        self.remote.provider.token.replace(token)
    }

    /// Renews the token whenever a third or less of its time is left, until it cannot be renewed any more. Spawn it
    /// beside the service, and tell an operator when it returns; [`set_token`](Self::set_token) is noticed within a
    /// minute.
    ///
    /// # Errors
    ///
    /// It returns with nothing else: [`ErrorKind::Denied`] when the token is not accepted
    /// (any more), or is one that cannot be renewed and is about to end. An outage is waited out.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect on the token that is in use.
    pub async fn keep_renewed(&self) -> Result<Infallible> {
        let Remote { provider, patience, clock } = &self.remote;
        loop {
            let pause = match patience.call(&**clock, || provider.renew_when_due()).await {
                Ok(()) => provider.token.check_again_in(&**clock)?,
                Err(error) if error.kind() == ErrorKind::Denied => return Err(error),
                Err(_) => token::CHECK_EVERY,
            };
            clock.sleep(pause).await;
        }
    }
}

#[async_trait]
impl RootKey for TransitRoot {
    async fn wrap(&self, context: &Context, key: &[u8; 32]) -> Result<Bytes> {
        self.remote.wrap(context, key).await
    }

    async fn unwrap(&self, context: &Context, wrapped: &[u8]) -> Result<SecretBox<[u8; 32]>> {
        self.remote.unwrap(context, wrapped).await
    }

    fn key_ref(&self) -> &str {
        &self.key_ref
    }
}
