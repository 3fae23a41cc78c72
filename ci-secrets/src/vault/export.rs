//! What people may see of all secrets of a repository.

use std::collections::BTreeMap;

use ci_core::id::{RepositoryId, SecretName};
use ci_core::operator::Act;
use ci_core::records::{Key, Record};
use ci_core::secret::SecretInfo;
use ci_core::{Error, ErrorKind, Result};

use super::row::Place;
use super::snapshot::{MOST_ROUNDS, Snapshot};
use super::{Vault, row};

const LIST: &str = "list secrets";
const PAGE: usize = 500;

impl Vault {
    /// Names and metadata of the secrets of `repository` that come after `after`, at most 500, in the order of their
    /// names: for an operator who hands out what is kept of somebody. No value is read. People who may read the
    /// repository have [`SecretStore::list`](ci_core::secret::SecretStore::list).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when the act is for another tenant; [`ErrorKind::Tampered`] when a row is not what was
    /// stored; [`ErrorKind::Unavailable`] when the store or a key cannot be reached.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    ///
    /// # Example
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
    /// # use ci_core::{access::Write, id::SecretName, memory::Rig};
    /// # use ci_secrets::{SecretStore as _, SecretValue};
    /// # let folder = tempfile::tempdir().expect("a folder");
    /// # let root = std::sync::Arc::new(ci_secrets::FileRoot::create(folder.path().join("root.key"))?);
    /// # let rig = Rig::new()?;
    /// # let vault = ci_secrets::Vault::new(rig.records(), rig.audit.clone(), root, rig.clock.clone());
    /// # let repository = Rig::repository("1", "acme")?;
    /// # let (grant, token) = (rig.grant::<Write>(&Rig::user("ada")?, &repository).await?, SecretName::parse("TOKEN")?);
    /// # vault.put(&grant, &token, SecretValue::new("hunter2")).await?;
    /// let act = rig.operator.act(repository.tenant(), "secrets.exported").await?;
    /// let (mut all, mut after) = (Vec::new(), None);
    /// loop {
    ///     let page = vault.export(&act, &repository, after.as_ref()).await?;
    ///     let Some(last) = page.last() else { break };
    ///     after = Some(last.name.clone());
    ///     all.extend(page);
    /// }
    /// assert_eq!(all[0].name, token);
    /// # Ok::<(), ci_core::Error>(()) })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn export(
        &self,
        act: &Act<'_>,
        repository: &RepositoryId,
        after: Option<&SecretName>,
    ) -> Result<Vec<SecretInfo>> {
        act.covers(repository.tenant())?;
        let infos = self.infos(repository).await?.into_iter();
        Ok(infos.skip_while(|info| after.is_some_and(|after| info.name <= *after)).take(PAGE).collect())
    }

    /// Everything but the values, exactly as the list says.
    pub(super) async fn infos(&self, repository: &RepositoryId) -> Result<Vec<SecretInfo>> {
        for _ in 0..MOST_ROUNDS {
            let Some(snapshot) = self.snapshot(repository).await? else { return Ok(Vec::new()) };
            match self.infos_of(repository, &snapshot).await {
                // Somebody may have changed one while they were read.
                Err(error) if self.is_outdated(repository, &snapshot.record, &error).await? => {}
                done => return done,
            }
        }
        Err(Error::new(ErrorKind::Unavailable, LIST).because("they are being set over and over"))
    }

    async fn infos_of(&self, repository: &RepositoryId, snapshot: &Snapshot) -> Result<Vec<SecretInfo>> {
        let mut rows = self.info_rows(&row::infos(repository)).await?;
        let (mut found, keys) = (Vec::with_capacity(rows.len()), self.keys(repository));
        for (name, listed) in &snapshot.manifest.secrets {
            let place = Place { repository, name };
            let record = rows.remove(&place.info());
            found.push(self.open_info(&keys, place, listed, record.as_ref()).await?);
        }
        match rows.pop_first() {
            None => Ok(found),
            Some(_) => Err(Error::new(ErrorKind::Tampered, LIST)
                .because("there is a row of a secret that nobody has set; delete it")),
        }
    }

    async fn info_rows(&self, infos: &Key) -> Result<BTreeMap<Key, Record>> {
        let (mut found, mut after) = (BTreeMap::new(), None);
        loop {
            let page = self.records.list(infos, after.as_ref(), PAGE).await?;
            let Some(last) = page.last() else { return Ok(found) };
            after = Some(last.key.clone());
            found.extend(page.into_iter().map(|record| (record.key.clone(), record)));
            if found.len() > 2 * Self::MOST_SECRETS {
                return Err(Error::new(ErrorKind::Tampered, LIST).because("there are more rows than secrets"));
            }
        }
    }
}
