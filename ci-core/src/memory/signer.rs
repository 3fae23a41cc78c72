//! SSH keys, one per repository.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;

use async_trait::async_trait;
use data_encoding::BASE64;
use ed25519_dalek::{Signer as _, SigningKey};

use super::lock::lock;
use crate::access::{Grant, Read};
use crate::error::Result;
use crate::id::{RepositoryId, random_bytes};
use crate::queue::Claim;
use crate::secret::SshSigner;

/// Ed25519 keys in memory, drawn when a repository first asks.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use ci_core::access::Read;
/// use ci_core::memory::{Rig, Signer};
/// use ci_core::secret::SshSigner as _;
///
/// let (rig, signer) = (Rig::new()?, Signer::new());
/// let grant = rig.grant::<Read>(&Rig::user("ada")?, &Rig::repository("1", "acme")?).await?;
/// assert!(signer.public_key(&grant).await?.starts_with("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI"));
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Default)]
pub struct Signer {
    keys: Mutex<BTreeMap<RepositoryId, SigningKey>>,
}

impl Signer {
    /// A signer without keys.
    pub fn new() -> Self {
        Self::default()
    }

    fn with_key<T>(&self, repository: &RepositoryId, then: impl FnOnce(&SigningKey) -> T) -> T {
        let mut keys = lock(&self.keys);
        then(keys.entry(repository.clone()).or_insert_with(|| SigningKey::from_bytes(&random_bytes())))
    }
}

#[async_trait]
impl SshSigner for Signer {
    async fn public_key(&self, grant: &Grant<Read>) -> Result<String> {
        let public = self.with_key(grant.scope()?.repository(), |key| key.verifying_key().to_bytes());
        let mut blob = Vec::new();
        for field in [b"ssh-ed25519".as_slice(), &public] {
            // Both are far below 4 GiB.
            blob.extend_from_slice(&u32::try_from(field.len()).unwrap_or_default().to_be_bytes());
            blob.extend_from_slice(field);
        }
        Ok(format!("ssh-ed25519 {}", BASE64.encode(&blob)))
    }

    async fn sign(&self, claim: &Claim, data: &[u8]) -> Result<[u8; 64]> {
        Ok(self.with_key(claim.scope()?.repository(), |key| key.sign(data).to_bytes()))
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(lock(&self.keys).keys()).finish()
    }
}
