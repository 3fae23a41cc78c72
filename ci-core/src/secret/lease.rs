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

    /// The same lease, in which `name` is a credential that was made for the job of `claim`: an identity token, say. It is
    /// hidden, and reported as [`Sensitive::Credential`].
    ///
    /// This is for a [`SecretStore`](crate::secret::SecretStore) around another one, whose jobs ask for the credential as they do for a secret.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when the lease is another job's; [`ErrorKind::Conflict`] when it has a value of that name;
    /// [`ErrorKind::Fenced`] when the claim is over.
    ///
    /// # Example
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
    /// # use ci_core::{id::{SecretName, StepName}, memory::{Rig, Secrets, Tokens}, trust::Origin};
    /// # use ci_core::secret::{SecretStore as _, SecretValue};
    /// use ci_core::identity::{Audience, IssuerUrl, MOST_TTL, TokenIssuer as _};
    ///
    /// # let rig = Rig::new()?;
    /// # let repository = Rig::repository("1", "acme")?;
    /// # let grant = rig.grant::<ci_core::access::Write>(&Rig::user("ada")?, &repository).await?;
    /// # let secrets = Secrets::new(rig.audit.clone(), rig.clock.clone());
    /// # let deploy_key = SecretName::parse("DEPLOY_KEY")?;
    /// # secrets.put(&grant, &deploy_key, SecretValue::new("hunter2")).await?;
    /// # let held = rig.claim(&repository, Origin::Repository, Rig::spec()).await?;
    /// # let claim = held.trusted()?;
    /// # let issuer = Tokens::new(IssuerUrl::parse("https://ci.example.org")?, rig.clock.clone());
    /// // In `lease` of a store around `secrets`, for a job that asks for `DEPLOY_KEY` and for `ID_TOKEN`:
    /// let lease = secrets.lease(claim, &[deploy_key]).await?;
    /// let (name, cloud) = (SecretName::parse("ID_TOKEN")?, Audience::parse("https://cloud.example.org")?);
    /// let token = issuer.token(claim.claim(), &StepName::parse("test")?, &cloud, MOST_TTL).await?;
    /// let lease = lease.with_credential(claim, name.clone(), token)?;
    /// # let printed = String::from_utf8_lossy(lease.value(&name)?.expose()).into_owned();
    /// # assert_eq!(lease.mask_text(&printed), "***");
    /// # Ok::<(), ci_core::Error>(()) })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn with_credential(
        mut self,
        claim: TrustedClaim<'_>,
        name: SecretName,
        value: SecretValue,
    ) -> Result<Self> {
        const ADD: &str = "add a credential to a lease";
        claim.claim().fence()?;
        if !self.is_of(Some(&claim.tenure())) {
            return Err(Error::new(ErrorKind::Denied, ADD).because("it is the lease of another job"));
        }
        if self.values.contains_key(&name) {
            return Err(Error::new(ErrorKind::Conflict, ADD)
                .because("the job has a secret of that name; call the credential otherwise")
                .with("secret", name));
        }
        match self.teach(&value) {
            Learned::Hidden => {}
            why => self.unmasked.push(Unmasked { secret: name.clone(), why }),
        }
        self.values.insert(name, value);
        Ok(self)
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
