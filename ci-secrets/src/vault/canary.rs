//! The decoy of a repository: a value that lies where secrets lie and is given to no job.

use ci_core::Result;
use ci_core::id::{RepositoryId, SecretName};
use ci_core::operator::Act;
use ci_core::queue::Claim;
use ci_core::records::Batch;
use ci_core::seal::{Context, DataKey, Opened};
use ci_core::secret::{SecretLease, SecretStore as _, SecretValue};
use zeroize::Zeroizing;

use super::manifest::Manifest;
use super::single::Single;
use super::{Vault, row, snapshot};

impl Vault {
    /// The decoy of `repository`, for the operator to lay out where nobody has business: in a file of the host, say, or
    /// in the database of another service. When a job of the repository prints it, whether it may have secrets or not,
    /// [`Outcome::leaks`](ci_core::outcome::Outcome::leaks) says so.
    ///
    /// The vault makes one for each repository, with its key. No job can lease it, and no list shows it.
    ///
    /// # Errors
    ///
    /// [`Denied`](ci_core::ErrorKind::Denied) when the act is for another tenant;
    /// [`Tampered`](ci_core::ErrorKind::Tampered) when it is not what was stored;
    /// [`Unavailable`](ci_core::ErrorKind::Unavailable) when the store or a key cannot be reached.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, the repository's first key may have been made.
    ///
    /// # Example
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
    /// # use ci_core::{access::Write, id::SecretName, memory::Rig, trust::Origin};
    /// # use ci_secrets::{SecretStore as _, SecretValue, Sensitive};
    /// # let folder = tempfile::tempdir().expect("a folder");
    /// # let root = std::sync::Arc::new(ci_secrets::FileRoot::create(folder.path().join("root.key"))?);
    /// # let rig = Rig::new()?;
    /// # let vault = ci_secrets::Vault::new(rig.records(), rig.audit.clone(), root, rig.clock.clone());
    /// # let repository = Rig::repository("1", "acme")?;
    /// # let (grant, token) = (rig.grant::<Write>(&Rig::user("ada")?, &repository).await?, SecretName::parse("TOKEN")?);
    /// # vault.put(&grant, &token, SecretValue::new("hunter2")).await?;
    /// let act = rig.operator.act(repository.tenant(), "canary.read").await?;
    /// let decoy = vault.canary(&act, &repository).await?;
    ///
    /// let claim = rig.claim(&repository, Origin::Fork, Rig::spec()).await?;
    /// let lease = vault.watch(&claim).await?;
    /// let printed = String::from_utf8_lossy(decoy.expose()).into_owned();
    /// assert_eq!(lease.mask_text(&printed), "***");
    /// assert!(matches!(lease.leaks()[0].what, Sensitive::Canary(_)));
    /// # Ok::<(), ci_core::Error>(()) })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn canary(&self, act: &Act<'_>, repository: &RepositoryId) -> Result<SecretValue> {
        act.covers(repository.tenant())?;
        self.hierarchy.current(repository).await?;
        value(self.single(repository, Single::Canary).await?)
    }

    /// A lease without secrets, which watches for the decoy if there is one.
    pub(super) async fn watched(&self, claim: &Claim) -> Result<SecretLease> {
        let decoy = self.single(claim.scope()?.repository(), Single::Canary).await?;
        let lease = SecretLease::empty(claim, self.masker());
        if decoy.is_some() {
            lease.watch_for(&name(), &value(decoy)?);
        }
        Ok(lease)
    }
}

/// What reports call it. A secret may have the same name: it is another one.
pub(super) fn name() -> SecretName {
    SecretName::parse("CANARY").expect("a name")
}

/// The rows that a repository begins with: a decoy, and a list of nothing else.
pub(crate) fn first_rows(repository: &RepositoryId, key: &DataKey) -> Batch {
    let (rows, list) = Single::Canary.fill(repository, key, random().expose(), Manifest::first());
    rows.put(row::manifest(repository), snapshot::seal(repository, key, &list))
}

/// The value of the decoy, which every repository has that has a list.
pub(super) fn value(opened: Option<Opened>) -> Result<SecretValue> {
    let mut plain = opened.ok_or_else(|| Single::Canary.tampered())?;
    Ok(SecretValue::new(std::mem::take(&mut *plain)))
}

/// 40 letters and digits, as many services make their tokens.
fn random() -> SecretValue {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789XQ";
    // Two keys' worth of random bytes.
    let halves = [DataKey::random(), DataKey::random()];
    let mut value = Zeroizing::new(Vec::with_capacity(40));
    for half in &halves {
        let derived = half.derive(&Context::new("canary"));
        value.extend(derived.expose()[..20].iter().map(|byte| LETTERS[usize::from(byte % 64)]));
    }
    SecretValue::new(std::mem::take(&mut *value))
}
