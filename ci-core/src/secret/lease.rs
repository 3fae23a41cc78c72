//! The secrets that one job may use.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::{fmt, mem};

use super::mask::Untold;
use super::{Leak, Learned, LeaseEnd, Mask, Masker, SecretInfo, SecretValue, Sensitive, Unmasked};
use crate::error::{Error, ErrorKind, Result};
use crate::id::SecretName;
use crate::lock::lock;
use crate::queue::{Claim, Tenure, TrustedClaim};

/// The secrets of one job, while it runs.
///
/// It ends with the claim: a worker that lost its lease, or whose job was cancelled, can no longer read a value. Values
/// are wiped when it is dropped. [`SecretStore::lease`](super::SecretStore::lease) makes it, and the example there shows
/// one; [`Mask`] shows what it hides.
pub struct SecretLease {
    values: BTreeMap<SecretName, SecretValue>,
    unmasked: Vec<Unmasked>,
    masker: Arc<dyn Masker>,
    leaks: Untold,
    tenure: Option<Arc<Tenure>>,
    end: LeaseEnd,
}

impl SecretLease {
    /// A lease of `values`; the masker learns all of them.
    ///
    /// This is for implementors of [`SecretStore`](super::SecretStore). A claim that is not trusted enough cannot be passed:
    ///
    /// ```compile_fail
    /// # use ci_core::{queue::Claim, secret::{SecretLease, Masker}};
    /// fn lease(claim: &Claim, masker: std::sync::Arc<dyn Masker>) -> SecretLease {
    ///     SecretLease::new(claim, Vec::new(), masker) // a `Claim` is no `TrustedClaim`
    /// }
    /// ```
    pub fn new(
        claim: TrustedClaim<'_>,
        values: impl IntoIterator<Item = (SecretName, SecretValue)>,
        masker: Arc<dyn Masker>,
    ) -> Self {
        let mut lease = Self::with(masker, Some(claim.tenure()));
        lease.values = values.into_iter().collect();
        for (secret, value) in &lease.values {
            match lease.masker.learn(&Sensitive::Secret(secret.clone()), value) {
                Learned::Hidden => {}
                why => lease.unmasked.push(Unmasked { secret: secret.clone(), why }),
            }
        }
        lease
    }

    /// A lease of secrets under their policies; the masker learns all of them. This is what a store calls that keeps
    /// policies: what it forgot to ask is asked here.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when the job may not have one of them; [`ErrorKind::Fenced`] when the claim is over.
    pub fn under_policies(
        claim: TrustedClaim<'_>,
        secrets: impl IntoIterator<Item = (SecretInfo, SecretValue)>,
        masker: Arc<dyn Masker>,
    ) -> Result<Self> {
        let mut values = Vec::new();
        for (info, value) in secrets {
            info.admit(claim)?;
            values.push((info.name, value));
        }
        claim.claim().fence()?;
        Ok(Self::new(claim, values, masker))
    }

    /// A lease without secrets: for a job that asks for none, or may have none.
    pub fn empty(claim: &Claim, masker: Arc<dyn Masker>) -> Self {
        Self::with(masker, Some(claim.tenure()))
    }

    /// A lease without secrets for a helper sandbox, which belongs to no claim.
    pub fn for_helper(masker: Arc<dyn Masker>) -> Self {
        Self::with(masker, None)
    }

    fn with(masker: Arc<dyn Masker>, tenure: Option<Arc<Tenure>>) -> Self {
        Self {
            values: BTreeMap::new(),
            unmasked: Vec::new(),
            masker,
            leaks: Untold::default(),
            tenure,
            end: LeaseEnd::new(),
        }
    }

    /// The same lease, which also ends with `end`.
    pub fn ending_with(mut self, end: &LeaseEnd) -> Self {
        self.end = end.clone();
        self
    }

    /// A value of this lease, for a backend that injects it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] when the lease has none of that name; [`ErrorKind::Fenced`] when the claim is
    /// over, or the lease was [ended](LeaseEnd) before it; [`ErrorKind::Cancelled`] when somebody has asked for the job
    /// to stop.
    pub fn value(&self, name: &SecretName) -> Result<&SecretValue> {
        if self.end.has_come() {
            return Err(Error::new(ErrorKind::Fenced, "read a leased secret")
                .because("the secrets of the repository were revoked")
                .with("secret", name));
        }
        if let Some(tenure) = &self.tenure {
            tenure.check_wanted("read a leased secret")?;
        }
        self.values.get(name).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "read a leased secret")
                .because("the job did not ask for it")
                .with("secret", name)
        })
    }

    /// Whether it was leased for the job of `tenure`, or for a helper as that is.
    pub(crate) fn is_of(&self, tenure: Option<&Arc<Tenure>>) -> bool {
        match (&self.tenure, tenure) {
            (Some(of), Some(tenure)) => Arc::ptr_eq(of, tenure),
            (None, None) => true,
            _ => false,
        }
    }

    /// Adds a credential that was made after the lease (a checkout token, say) to what is hidden.
    pub fn teach(&self, value: &SecretValue) -> Learned {
        self.masker.learn(&Sensitive::Credential, value)
    }

    /// Hides a decoy as well, and reports it as [`Sensitive::Canary`] where it appears: a value that lies where secrets
    /// lie and is given to no job.
    pub fn watch_for(&self, canary: &SecretName, value: &SecretValue) -> Learned {
        self.masker.learn(&Sensitive::Canary(canary.clone()), value)
    }

    /// The secrets that cannot be hidden, and why; tell their owner.
    pub fn unmasked(&self) -> &[Unmasked] {
        &self.unmasked
    }

    /// A mask for one stream of output.
    pub fn mask(&self) -> Mask {
        let job = self.tenure.as_ref().map(|tenure| tenure.job().clone());
        Mask::new(self.masker.redactor(), job, self.leaks.clone())
    }

    /// A whole text without secrets: an error message, a status description, an annotation, the name of a cache.
    pub fn mask_text(&self, text: &str) -> String {
        let mut mask = self.mask();
        let mut masked = mask.push(text.as_bytes()).as_bytes().to_vec();
        masked.extend_from_slice(mask.finish().as_bytes());
        String::from_utf8_lossy(&masked).into_owned()
    }

    /// What was hidden by [`mask_text`](Self::mask_text), and by masks that ended and had not
    /// [told](Mask::leaks) it, since this was asked last.
    pub fn leaks(&self) -> Vec<Leak> {
        mem::take(&mut *lock(&self.leaks))
    }
}

impl fmt::Debug for SecretLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretLease").field("values", &self.values.len()).finish_non_exhaustive()
    }
}
