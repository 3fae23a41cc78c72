//! Where secrets are kept, and leased from.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use super::{Masker, NewSecret, SecretInfo, SecretLease, SecretValue, Stored};
use crate::access::{Grant, Read, Write};
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::Result;
use crate::id::SecretName;
use crate::queue::{Claim, TrustedClaim};

/// Where secrets are kept. People write them; only trusted jobs read them. Every change and every lease has its entry
/// in the audit log, which names no secret and holds no value; a value has between 1 byte and 1 MiB, and one that may be a
/// variable at most [`NewSecret::MOST_IN_VARIABLE`].
///
/// # Cancel safety
///
/// When the future of [`put`](Self::put), [`set`](Self::set) or [`delete`](Self::delete) is dropped, it may have
/// happened: look at [`list`](Self::list). A dropped [`lease`](Self::lease) may have left its entry in the audit log.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use std::sync::Arc;
/// use ci_core::access::Write;
/// use ci_core::id::SecretName;
/// use ci_core::memory::{Rig, Secrets};
/// use ci_core::secret::{Learned, SecretStore, SecretValue};
/// use ci_core::trust::Origin;
///
/// # let (rig, repository) = (Rig::new()?, Rig::repository("1", "acme")?);
/// let secrets: Arc<dyn SecretStore> = Arc::new(Secrets::new(rig.audit.clone(), rig.clock.clone()));
/// let (grant, token) = (rig.grant::<Write>(&Rig::user("ada")?, &repository).await?, SecretName::parse("TOKEN")?);
/// let stored = secrets.put(&grant, &token, SecretValue::new("hunter2")).await?;
/// assert_eq!(stored.masking, Learned::Hidden); // else tell whoever set it
/// assert_eq!(secrets.list(&grant.lower()).await?[0].version, 1); // a name, a version, a time: no value
///
/// let claim = rig.claim(&repository, Origin::Repository, Rig::spec()).await?;
/// let lease = secrets.lease(claim.trusted()?, &[token.clone()]).await?;
/// assert_eq!(lease.value(&token)?.expose(), b"hunter2");
///
/// let fork = rig.claim(&repository, Origin::Fork, Rig::spec()).await?;
/// assert!(fork.trusted().is_err()); // nothing to ask with
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[async_trait]
pub trait SecretStore: fmt::Debug + Send + Sync + 'static {
    /// Opens the named secrets for one job, all or none, each as its [`SecretInfo::admit`] allows. They are released if
    /// and only if the audit log holds the entry that says so.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] when one of them does not exist; [`ErrorKind::Denied`] when the job may not have one of
    /// them, naming it and the rule; [`ErrorKind::Tampered`] when a row is not what was stored;
    /// [`ErrorKind::LimitExceeded`] when together they are more than the store gives to one job;
    /// [`ErrorKind::Fenced`] when the claim is over; [`ErrorKind::Unavailable`] when a key or the audit log cannot be
    /// reached.
    async fn lease(&self, claim: TrustedClaim<'_>, names: &[SecretName]) -> Result<SecretLease>;

    /// A lease without secrets, for a job that asks for none or may have none. It hides and reports what the store
    /// [watches for](SecretLease::watch_for) in the output of every job, trusted or not; a store without decoys leaves
    /// this method as it is.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Tampered`] when a decoy is not what was stored; [`ErrorKind::Fenced`] when the claim is over;
    /// [`ErrorKind::Unavailable`] when the store or a key cannot be reached.
    async fn watch(&self, claim: &Claim) -> Result<SecretLease> {
        Ok(SecretLease::empty(claim, self.masker()))
    }

    /// Sets a value, in place of an earlier one of that name, whose kind and policy it keeps: [`set`](Self::set) without
    /// anything else.
    ///
    /// # Errors
    ///
    /// As for [`set`](Self::set).
    async fn put(&self, grant: &Grant<Write>, name: &SecretName, value: SecretValue) -> Result<Stored> {
        self.set(grant, name, NewSecret::new(value)).await
    }

    /// Sets a secret, in place of an earlier one of that name, and says whether it can be hidden in output.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when the grant is over; [`ErrorKind::Invalid`] when the value is empty, larger than
    /// 1 MiB, or too large for the forms that it may have, and when its policy is too large;
    /// [`ErrorKind::LimitExceeded`] when the repository has as many secrets as the store keeps for one;
    /// [`ErrorKind::Tampered`] when the earlier one is not what was stored; [`ErrorKind::Unavailable`] when the store or
    /// a key cannot be reached.
    async fn set(&self, grant: &Grant<Write>, name: &SecretName, new: NewSecret) -> Result<Stored>;

    /// The secrets of a repository in the order of their names, without their values.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when the grant is over; [`ErrorKind::Tampered`] when a row is not what was stored;
    /// [`ErrorKind::Unavailable`] when the store or a key cannot be reached.
    async fn list(&self, grant: &Grant<Read>) -> Result<Vec<SecretInfo>>;

    /// Deletes a secret, also one that is not what was stored: this is the way out then.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] when there is none of that name; [`ErrorKind::Denied`] when the grant is over;
    /// [`ErrorKind::Unavailable`] when the store or a key cannot be reached.
    async fn delete(&self, grant: &Grant<Write>, name: &SecretName) -> Result<()>;

    /// A masker that knows no value yet, for one job.
    fn masker(&self) -> Arc<dyn Masker>;
}
