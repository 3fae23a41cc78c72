//! SSH keys, one per repository.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;

use async_trait::async_trait;
use ed25519_dalek::{Signer as _, SigningKey};

use crate::access::{Grant, Read};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{RepositoryId, random_bytes};
use crate::lock::lock;
use crate::queue::Claim;
use crate::secret::{SshPublicKey, SshSigner};

/// Ed25519 keys in memory, drawn when somebody first asks for a repository's public keys.
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
/// assert!(signer.public_keys(&grant).await?[0].to_string().starts_with("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI"));
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

    fn public(key: &SigningKey) -> SshPublicKey {
        SshPublicKey::from_ed25519(key.verifying_key().to_bytes())
    }
}

#[async_trait]
impl SshSigner for Signer {
    async fn public_keys(&self, grant: &Grant<Read>) -> Result<Vec<SshPublicKey>> {
        let repository = grant.scope()?.repository();
        let mut keys = lock(&self.keys);
        let key = keys.entry(repository.clone()).or_insert_with(|| SigningKey::from_bytes(&random_bytes()));
        Ok(vec![Self::public(key)])
    }

    async fn identity(&self, claim: &Claim) -> Result<SshPublicKey> {
        let repository = claim.scope()?.repository();
        lock(&self.keys).get(repository).map(Self::public).ok_or_else(no_key)
    }

    async fn sign(&self, claim: &Claim, key: &SshPublicKey, data: &[u8]) -> Result<[u8; 64]> {
        let repository = claim.scope()?.repository();
        let keys = lock(&self.keys);
        let found = keys.get(repository).filter(|found| Self::public(found) == *key);
        Ok(found.ok_or_else(no_key)?.sign(data).to_bytes())
    }
}

fn no_key() -> Error {
    Error::new(ErrorKind::NotFound, "use an SSH key")
        .because("the repository has no such key; ask for its public keys and install them at the forge")
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(lock(&self.keys).keys()).finish()
    }
}
