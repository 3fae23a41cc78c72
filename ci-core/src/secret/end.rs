//! The end of a lease before the end of its claim.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Ends leases that were made with it ([`SecretLease::ending_with`](super::SecretLease::ending_with)), for a
/// [`SecretStore`](super::SecretStore) whose secrets can be revoked.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// # use std::sync::Arc;
/// # use ci_core::id::SecretName;
/// # use ci_core::memory::{Masking, Rig};
/// # use ci_core::trust::Origin;
/// use ci_core::secret::{LeaseEnd, SecretLease, SecretValue};
///
/// # let rig = Rig::new()?;
/// # let claim = rig.claim(&Rig::repository("1", "acme")?, Origin::Protected, Rig::spec()).await?;
/// # let token = SecretName::parse("TOKEN")?;
/// let value = (token.clone(), SecretValue::new("hunter2"));
/// let end = LeaseEnd::new();
/// let lease = SecretLease::new(claim.trusted()?, [value], Arc::new(Masking::new())).ending_with(&end);
/// assert!(lease.value(&token).is_ok());
/// end.end();
/// assert!(lease.value(&token).is_err());
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct LeaseEnd(Arc<AtomicBool>);

impl LeaseEnd {
    /// One that has not come.
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on no value can be read from the leases; they still mask what they have given.
    pub fn end(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether they have ended.
    pub fn has_come(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Whether a lease, or another clone of this, is there.
    pub fn is_held(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}
