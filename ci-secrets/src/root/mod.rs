//! Where the root key comes from: the one key that is not kept in the database.

#[cfg(unix)]
mod file;
#[cfg(any(feature = "kms", feature = "transit"))]
mod https;
#[cfg(feature = "kms")]
mod kms;
#[cfg(unix)]
mod local;
#[cfg(all(unix, feature = "passphrase"))]
mod passphrase;
#[cfg(unix)]
mod private_file;
#[cfg(any(feature = "kms", feature = "transit"))]
mod remote;
#[cfg(feature = "transit")]
mod transit;
#[cfg(any(feature = "kms", feature = "transit"))]
mod wiped;

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use ci_core::seal::Context;
use ci_core::{Error, ErrorKind, Result};
use secrecy::SecretBox;

#[cfg(unix)]
pub use file::FileRoot;
#[cfg(all(unix, feature = "passphrase"))]
pub use passphrase::{PassphraseCost, PassphraseRoot};

#[cfg(any(feature = "kms", feature = "transit"))]
pub use https::CertificateAuthorities;
#[cfg(feature = "kms")]
pub use kms::{AwsCredentials, KmsConfig, KmsRoot};
#[cfg(any(feature = "kms", feature = "transit"))]
pub use remote::Patience;
#[cfg(feature = "transit")]
pub use transit::{TransitConfig, TransitRoot};

/// The key at the top of the hierarchy. It wraps the keys of tenants and nothing else.
///
/// An implementor is a file, a key management service, a security module. It must bind what it wraps to the
/// [`Context`]: as associated data or encryption context where the provider has such a thing. It keeps no key that it
/// unwrapped: the vault does, for as long as [`VaultOptions`](crate::VaultOptions) say. The conformance kit checks it.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use async_trait::async_trait;
/// use bytes::Bytes;
/// use ci_core::seal::{Context, DataKey};
/// use ci_core::{Error, ErrorKind, Result};
/// use ci_secrets::RootKey;
/// use secrecy::SecretBox;
///
/// /// A slot of a security module, which this example keeps in memory.
/// #[derive(Debug)]
/// struct Slot(DataKey);
///
/// #[async_trait]
/// impl RootKey for Slot {
///     async fn wrap(&self, context: &Context, key: &[u8; 32]) -> Result<Bytes> {
///         Ok(self.0.seal(context, key))
///     }
///
///     async fn unwrap(&self, context: &Context, wrapped: &[u8]) -> Result<SecretBox<[u8; 32]>> {
///         let key = self.0.open(context, wrapped)?[..].try_into();
///         let key = key.map_err(|_| Error::new(ErrorKind::Tampered, "unwrap a key"))?;
///         Ok(SecretBox::new(Box::new(key)))
///     }
///
///     fn key_ref(&self) -> &str {
///         "module-7:slot-1"
///     }
/// }
/// # let root = Slot(DataKey::random());
/// # let (acme, other) = (Context::new("tenant").field("acme"), Context::new("tenant").field("other"));
/// # let wrapped = root.wrap(&acme, &[7; 32]).await?;
/// # assert!(root.unwrap(&acme, &wrapped).await.is_ok());
/// # assert!(root.unwrap(&other, &wrapped).await.is_err());
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[async_trait]
pub trait RootKey: fmt::Debug + Send + Sync + 'static {
    /// Wraps `key` so that it can be unwrapped with this root key and the same `context` only. Wrapping the same
    /// key twice gives different bytes. Whether it can be unwrapped need not be tried: the vault does so before it keeps
    /// anything.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] when the provider cannot be reached.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    async fn wrap(&self, context: &Context, key: &[u8; 32]) -> Result<Bytes>;

    /// Unwraps what [`wrap`](Self::wrap) made, if and only if it was made with this root key and the same
    /// `context`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Tampered`] for anything else, whatever was different;
    /// [`ErrorKind::Unavailable`] when the provider cannot be reached.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    async fn unwrap(&self, context: &Context, wrapped: &[u8]) -> Result<SecretBox<[u8; 32]>>;

    /// Which key this is, in at most 256 bytes of text without anything secret: stored beside everything that it
    /// wraps. Two different keys never have the same reference.
    fn key_ref(&self) -> &str;
}

/// A copy of a key in a box that wipes it, made without one on the stack.
pub(crate) fn boxed(key: &[u8; 32]) -> SecretBox<[u8; 32]> {
    SecretBox::init_with_mut(|boxed: &mut [u8; 32]| boxed.copy_from_slice(key))
}

/// The same for a key that was unwrapped.
pub(crate) fn boxed_key(plain: &[u8]) -> Result<SecretBox<[u8; 32]>> {
    let key = plain.try_into().map_err(|_| {
        Error::new(ErrorKind::Tampered, "unwrap a key").because("it does not have the length of a key")
    })?;
    Ok(boxed(key))
}
