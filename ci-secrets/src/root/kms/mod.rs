//! A root key at AWS KMS.

mod client;
mod config;
mod signature;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use ci_core::Result;
use ci_core::clock::Clock;
use ci_core::seal::Context;
use secrecy::SecretBox;

use self::client::Client;
use super::RootKey;
use super::remote::Remote;

pub use config::{AwsCredentials, KmsConfig};

/// A root key that never leaves AWS KMS.
///
/// The service wraps and unwraps (`Encrypt`, `Decrypt`) over HTTPS, with an encryption context of one pair:
/// `ci-context`, and the [`Context`] in base64. It appears in AWS CloudTrail, and can be required by a key policy. What
/// is wrapped begins with 33 bytes of this crate's; the rest is a ciphertext that every other client of KMS decrypts
/// with the same encryption context.
///
/// Requests are signed by Signature Version 4, with the credentials that are handed in and nothing else: neither
/// environment, files nor a machine's metadata service are looked at. Temporary credentials are replaced with
/// [`set_credentials`](Self::set_credentials) before they end.
///
/// # What the account needs
///
/// A symmetric key (`SYMMETRIC_DEFAULT`), and for these credentials `kms:Encrypt` and `kms:Decrypt` on it. Rotating the
/// key inside KMS needs nothing: it keeps what it was, and decrypts with it. Deleting it takes 7 to 30 days, and makes
/// everything unreadable for ever; where the erasure of one tenant has to be provable, give it a root key of its own.
///
/// # What goes wrong
///
/// A service that is down, slow, or throttles is retried within [`Patience`](crate::Patience), and then a retryable
/// error. Credentials that are refused, and a key that is disabled, are
/// [`ErrorKind::Denied`](ci_core::ErrorKind::Denied): not tried again at once, and retryable later. A clock that is
/// wrong by more than five minutes looks like the former. A service that answers with another key is
/// [`ErrorKind::Tampered`](ci_core::ErrorKind::Tampered).
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
/// use ci_secrets::{AwsCredentials, CertificateAuthorities, KmsConfig, KmsRoot, RootKey as _};
///
/// let authorities = CertificateAuthorities::from_pem(pem.as_bytes())?;
/// let arn = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
/// let credentials = AwsCredentials::new("AKIDEXAMPLE", "a secret".into())?;
/// let root = KmsRoot::new(KmsConfig::new(arn, &authorities)?, credentials, Arc::new(SystemClock::new()));
/// assert_eq!(root.key_ref(), arn);
/// # Ok(())
/// # }
/// # fn example_ca() -> String {
/// #     let key = rcgen::KeyPair::generate().expect("a key");
/// #     rcgen::CertificateParams::default().self_signed(&key).expect("a certificate").pem()
/// # }
/// ```
#[derive(Debug)]
pub struct KmsRoot {
    remote: Remote<Client>,
}

impl KmsRoot {
    /// The key that `config` names, asked for with `credentials`. Nothing is asked yet.
    pub fn new(config: KmsConfig, credentials: AwsCredentials, clock: Arc<dyn Clock>) -> Self {
        let patience = config.patience;
        let provider = Client::new(config, credentials, clock.clone());
        Self { remote: Remote { provider, patience, clock } }
    }

    /// Takes other credentials from now on. Calls that have begun end with the earlier ones.
    pub fn set_credentials(&self, credentials: AwsCredentials) {
        self.remote.provider.set_credentials(credentials);
    }
}

#[async_trait]
impl RootKey for KmsRoot {
    async fn wrap(&self, context: &Context, key: &[u8; 32]) -> Result<Bytes> {
        self.remote.wrap(context, key).await
    }

    async fn unwrap(&self, context: &Context, wrapped: &[u8]) -> Result<SecretBox<[u8; 32]>> {
        self.remote.unwrap(context, wrapped).await
    }

    fn key_ref(&self) -> &str {
        self.remote.provider.arn()
    }
}
