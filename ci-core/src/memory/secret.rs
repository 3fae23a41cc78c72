//! Secrets, leased to trusted jobs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;

use super::mask::Masking;
use crate::access::{Grant, Read, Write};
use crate::audit::{Audit, Entry};
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{RepositoryId, SecretName};
use crate::lock::lock;
use crate::queue::TrustedClaim;
use crate::secret::{
    Masker, NewSecret, SecretInfo, SecretLease, SecretStore, SecretValue, Sensitive, Stored,
};

/// A secret store in memory, for any number of secrets.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use ci_core::access::Write;
/// use ci_core::id::SecretName;
/// use ci_core::memory::{Rig, Secrets};
/// use ci_core::secret::{SecretStore as _, SecretValue};
/// use ci_core::trust::Origin;
///
/// let rig = Rig::new()?;
/// let secrets = Secrets::new(rig.audit.clone(), rig.clock.clone());
/// let (repository, token) = (Rig::repository("1", "acme")?, SecretName::parse("TOKEN")?);
/// let grant = rig.grant::<Write>(&Rig::user("ada")?, &repository).await?;
/// secrets.put(&grant, &token, SecretValue::new("hunter2")).await?;
///
/// let claim = rig.claim(&repository, Origin::Repository, Rig::spec()).await?;
/// let lease = secrets.lease(claim.trusted()?, &[token.clone()]).await?;
/// assert_eq!(lease.value(&token)?.expose(), b"hunter2");
/// assert_eq!(lease.mask_text("it is hunter2"), "it is ***");
///
/// let fork = rig.claim(&repository, Origin::Fork, Rig::spec()).await?;
/// assert!(fork.trusted().is_err()); // there is nothing to pass to `lease`
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Secrets {
    stored: Mutex<BTreeMap<(RepositoryId, SecretName), Kept>>,
    audit: Audit,
    clock: Arc<dyn Clock>,
}

#[derive(Debug)]
struct Kept {
    info: SecretInfo,
    value: SecretValue,
}

impl Secrets {
    /// A store without secrets, which writes to `audit` before it gives or takes one.
    pub fn new(audit: Audit, clock: Arc<dyn Clock>) -> Self {
        Self { stored: Mutex::default(), audit, clock }
    }

    fn values(
        &self,
        repository: &RepositoryId,
        names: &[SecretName],
    ) -> Result<Vec<(SecretInfo, SecretValue)>> {
        let stored = lock(&self.stored);
        let value = |name: &SecretName| {
            let found = stored.get(&(repository.clone(), name.clone()));
            found
                .map(|stored| (stored.info.clone(), SecretValue::new(stored.value.expose())))
                .ok_or_else(|| missing(name))
        };
        names.iter().map(value).collect()
    }
}

#[async_trait]
impl SecretStore for Secrets {
    async fn lease(&self, claim: TrustedClaim<'_>, names: &[SecretName]) -> Result<SecretLease> {
        let repository = claim.claim().scope()?.repository();
        let values = self.values(repository, names)?;
        for (info, _) in &values {
            info.admit(claim)?;
        }
        let entry = Entry::new("secret.leased", "job")
            .about("repository", repository)
            .about("job", claim.claim().job())
            .about("secrets", values.len());
        self.audit.record(repository.tenant(), entry).await?;
        // The entry took time; a lease that ended meanwhile gets nothing.
        SecretLease::under_policies(claim, values, self.masker())
    }

    async fn set(&self, grant: &Grant<Write>, name: &SecretName, new: NewSecret) -> Result<Stored> {
        let repository = grant.scope()?.repository();
        let place = (repository.clone(), name.clone());
        let next = |kept: &BTreeMap<_, Kept>| {
            let info =
                SecretInfo::after(kept.get(&place).map(|kept| &kept.info), name, &new, self.clock.now());
            info.check(new.value()).map(|()| info)
        };
        next(&lock(&self.stored))?;
        let entry = Entry::new("secret.set", grant.user()).about("repository", repository);
        self.audit.record(repository.tenant(), entry).await?;
        let mut stored = lock(&self.stored);
        let info = next(&stored)?;
        let masking = self.masker().learn(&Sensitive::Secret(name.clone()), &new.value);
        stored.insert(place, Kept { info: info.clone(), value: new.value });
        Ok(Stored { info, masking })
    }

    async fn list(&self, grant: &Grant<Read>) -> Result<Vec<SecretInfo>> {
        let repository = grant.scope()?.repository();
        let stored = lock(&self.stored);
        let ours = stored.iter().filter(|((of, _), _)| of == repository);
        Ok(ours.map(|(_, stored)| stored.info.clone()).collect())
    }

    async fn delete(&self, grant: &Grant<Write>, name: &SecretName) -> Result<()> {
        let repository = grant.scope()?.repository();
        let place = (repository.clone(), name.clone());
        if !lock(&self.stored).contains_key(&place) {
            return Err(missing(name));
        }
        let entry = Entry::new("secret.deleted", grant.user()).about("repository", repository);
        self.audit.record(repository.tenant(), entry).await?;
        lock(&self.stored).remove(&place).map(|_| ()).ok_or_else(|| missing(name))
    }

    fn masker(&self) -> Arc<dyn Masker> {
        Arc::new(Masking::new())
    }
}

fn missing(name: &SecretName) -> Error {
    Error::new(ErrorKind::NotFound, "look for a secret")
        .because("the repository has none of that name; set it first")
        .with("secret", name)
}
