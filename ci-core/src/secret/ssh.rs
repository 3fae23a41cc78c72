//! SSH keys of repositories: their public halves, and the port that signs with the private ones.

use std::fmt;

use async_trait::async_trait;
use data_encoding::{BASE64, BASE64_NOPAD};
use sha2::{Digest as _, Sha256};

use crate::access::{Grant, Read};
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::Result;
use crate::queue::Claim;

/// Signs with a repository's SSH key, which never leaves the signer.
///
/// One key signs at a time. While it is replaced, the forge should know two: who replaces keys sees to it that the one
/// which signs has been installed.
///
/// # Cancel safety
///
/// Dropping a future has no effect, except that a repository's key may have been made, and that a signature which
/// nobody has seen may be in the audit log.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use ci_core::access::Read;
/// use ci_core::memory::{Rig, Signer};
/// use ci_core::secret::SshSigner as _;
/// # use ci_core::trust::Origin;
///
/// # let (rig, signer, repository) = (Rig::new()?, Signer::new(), Rig::repository("1", "acme")?);
/// let grant = rig.grant::<Read>(&Rig::user("ada")?, &repository).await?;
/// let keys = signer.public_keys(&grant).await?; // for the forge: deploy keys that can only read
/// assert!(keys[0].to_string().starts_with("ssh-ed25519 "));
///
/// let claim = rig.claim(&repository, Origin::Repository, Rig::spec()).await?;
/// let key = signer.identity(&claim).await?;
/// let signature = signer.sign(&claim, &key, b"what the SSH server asked to be signed").await?;
/// # let _ = signature;
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[async_trait]
pub trait SshSigner: fmt::Debug + Send + Sync + 'static {
    /// The public keys that the forge should know, the one that signs first. A repository that has none gets one.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when the grant is over; [`ErrorKind::Tampered`] when what is stored is not what was;
    /// [`ErrorKind::Unavailable`] when the keys cannot be had now.
    async fn public_keys(&self, grant: &Grant<Read>) -> Result<Vec<SshPublicKey>>;

    /// The key that signs for the checkout of one job.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] when the repository has none yet, which the forge then does not know either;
    /// [`ErrorKind::Fenced`] when the claim is over; [`ErrorKind::Tampered`] when what is stored is not what was;
    /// [`ErrorKind::Unavailable`] when the key cannot be had now.
    async fn identity(&self, claim: &Claim) -> Result<SshPublicKey>;

    /// Signs `data` with `key` for the checkout of one job, if and only if it is the key that signs now, and returns the
    /// 64 bytes of an Ed25519 signature (RFC 8032).
    ///
    /// It signs whatever it is given: what a server may make somebody sign is the business of the agent in front.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] for any other key; otherwise as for [`identity`](Self::identity).
    async fn sign(&self, claim: &Claim, key: &SshPublicKey, data: &[u8]) -> Result<[u8; 64]>;
}

/// The public half of an SSH key. It is Ed25519 (RFC 8709), and `Display` shows it as OpenSSH writes it.
///
/// # Example
///
/// ```
/// use ci_core::secret::SshPublicKey;
///
/// let key = SshPublicKey::from_ed25519([7; 32]);
/// assert_eq!(
///     key.to_string(),
///     "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH"
/// );
/// assert!(key.fingerprint().starts_with("SHA256:"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SshPublicKey([u8; 32]);

impl SshPublicKey {
    /// The name of the only algorithm.
    pub const ALGORITHM: &str = "ssh-ed25519";

    /// The key with these 32 bytes (RFC 8032, section 5.1.5).
    pub const fn from_ed25519(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// The 32 bytes.
    pub const fn as_ed25519(&self) -> &[u8; 32] {
        &self.0
    }

    /// The key as SSH sends it (RFC 8709, section 4).
    pub fn to_blob(&self) -> Vec<u8> {
        let mut blob = Vec::with_capacity(51);
        for field in [Self::ALGORITHM.as_bytes(), &self.0] {
            // Both are a few bytes.
            blob.extend_from_slice(&u32::try_from(field.len()).unwrap_or_default().to_be_bytes());
            blob.extend_from_slice(field);
        }
        blob
    }

    /// What `ssh-keygen -l` calls the key, and most forges do.
    pub fn fingerprint(&self) -> String {
        format!("SHA256:{}", BASE64_NOPAD.encode(&Sha256::digest(self.to_blob())))
    }
}

impl fmt::Display for SshPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", Self::ALGORITHM, BASE64.encode(&self.to_blob()))
    }
}
