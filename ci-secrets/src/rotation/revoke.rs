//! Revoking everything of a repository.

use ci_core::Result;
use ci_core::audit::Entry;
use ci_core::id::{JobId, RepositoryId};
use ci_core::operator::Act;

use super::note::Then;
use super::report::Work;
use super::{Progress, RotationReport};
use crate::Vault;
use crate::vault::about;

/// What becomes of the secrets of a repository whose secrets are revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Revoke {
    /// They are deleted.
    Delete,
    /// Their values are destroyed and their names stay, so that people see what is to be set anew. Until then a job that
    /// asks for one is [`Denied`](ci_core::ErrorKind::Denied).
    Withdraw,
}

/// What became of a repository's secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Revocation {
    /// What was revoked, and what was not and why.
    pub report: RotationReport,
    /// The jobs whose leases have ended: their sandboxes may hold values all the same. Cancel them. What other programs
    /// have leased ends with their claims; cancel all of the repository's jobs that run.
    pub jobs: Vec<JobId>,
}

impl Vault {
    /// Revokes all secrets of `repository`: gives it a new key, destroys every value that the former one sealed, and ends
    /// the leases that this vault has given. Values that somebody sets meanwhile are sealed with the new key, and stay.
    ///
    /// It makes nothing secret again that somebody has read: replace the values where they come from, and the repository's
    /// SSH keys with [`SshKeys::replace`](crate::ssh::SshKeys::replace), which stay what they are. `watch` is told
    /// after every 200 secrets. When one was begun earlier and something is left of it to do, this ends it, and spares what
    /// was set since.
    ///
    /// # Errors
    ///
    /// As for [`rotate_repository`](Self::rotate_repository).
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, a part is done; calling again goes on.
    ///
    /// # Example
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
    /// # use ci_core::{access::Write, id::SecretName, memory::Rig, trust::Origin};
    /// # use ci_secrets::{SecretStore as _, SecretValue};
    /// use ci_secrets::Revoke;
    /// # let folder = tempfile::tempdir().expect("a folder");
    /// # let root = std::sync::Arc::new(ci_secrets::FileRoot::create(folder.path().join("root.key"))?);
    /// # let rig = Rig::new()?;
    /// # let vault = ci_secrets::Vault::new(rig.records(), rig.audit.clone(), root, rig.clock.clone());
    /// # let (repository, token) = (Rig::repository("1", "acme")?, SecretName::parse("TOKEN")?);
    /// # let grant = rig.grant::<Write>(&Rig::user("ada")?, &repository).await?;
    /// # vault.put(&grant, &token, SecretValue::new("hunter2")).await?;
    /// # let claim = rig.claim(&repository, Origin::Repository, Rig::spec()).await?;
    /// let lease = vault.lease(claim.trusted()?, &[token.clone()]).await?;
    ///
    /// let act = rig.operator.act(repository.tenant(), "secrets.revoked").await?;
    /// let revocation = vault.revoke_all(&act, &repository, Revoke::Withdraw, &mut |_| {}).await?;
    /// assert_eq!((revocation.report.revoked, &revocation.jobs[..]), (1, &[claim.job().clone()][..]));
    /// assert!(lease.value(&token).is_err());
    /// assert_eq!(vault.list(&grant.lower()).await?.len(), 1); // its name, for who sets it anew
    /// # Ok::<(), ci_core::Error>(()) })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn revoke_all(
        &self,
        act: &Act<'_>,
        repository: &RepositoryId,
        revoke: Revoke,
        watch: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Revocation> {
        act.covers(repository.tenant())?;
        let then = match revoke {
            Revoke::Delete => Then::Delete,
            Revoke::Withdraw => Then::Withdraw,
        };
        let mut jobs = self.leases.revoke(repository);
        let mut work = Work::new(watch);
        self.rotate_to(repository, then, &mut work).await?;
        // Those who read a value just before it was destroyed.
        jobs.extend(self.leases.revoke(repository));
        let entry = Entry::new("secrets.revoked", "operator")
            .about("secrets", work.report.revoked)
            .about("left", work.report.left);
        self.audit.record(repository.tenant(), about(entry, repository)).await?;
        Ok(Revocation { report: work.report, jobs })
    }
}
