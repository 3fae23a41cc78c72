//! What a rotation does with one secret: seals it anew, destroys its value, or deletes it.
//!
//! Each is one transaction on the condition that the secret and the pointer to the new key are what they were, and each
//! can be done twice.

use std::collections::BTreeSet;

use ci_core::id::{KeyId, RepositoryId, SecretName};
use ci_core::records::{Batch, Condition, Key, Record};
use ci_core::seal::key_id;
use ci_core::secret::SecretValue;
use ci_core::{Error, ErrorKind, Result};

use crate::Vault;
use crate::hierarchy::Current;
use crate::row::{self, Place};

/// What became of a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Treated {
    /// It was changed.
    Done,
    /// There was nothing to do: the new key had sealed it, or it is gone.
    WasDone,
    /// The key is not current any more.
    Overtaken,
}

/// What stays of a secret.
#[derive(Clone, Copy, Debug)]
enum Keep {
    /// What people may see, and the value.
    Value,
    /// What people may see; a value of no bytes says that it was destroyed.
    Info,
}

/// The names on one page, with rows that are nobody's, and the key of the last row, if there was one.
pub(crate) type Page = (Vec<Result<SecretName, (Key, Error)>>, Option<Key>);

/// How often somebody may set a secret just when it is being changed here.
const MOST_ROUNDS: usize = 16;

impl Vault {
    /// The names of at most `limit` secrets behind the row `after`.
    pub(crate) async fn secrets_after(
        &self,
        repository: &RepositoryId,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Page> {
        let infos = row::infos(repository);
        let page = self.records.list(&infos, after, limit).await?;
        let last = page.last().map(|record| record.key.clone());
        let name =
            |record: &Record| row::name_of(&infos, record).map_err(|error| (record.key.clone(), error));
        Ok((page.iter().map(name).collect(), last))
    }

    /// Which keys the secrets of `repository` say that they were sealed with.
    pub(crate) async fn keys_of_secrets(&self, repository: &RepositoryId) -> Result<BTreeSet<KeyId>> {
        const PAGE: usize = 200;
        let (folder, mut after, mut found) = (row::folder(repository), None, BTreeSet::new());
        loop {
            let page = self.records.list(&folder, after.as_ref(), PAGE).await?;
            let Some(last) = page.last() else { return Ok(found) };
            after = Some(last.key.clone());
            found.extend(page.iter().filter_map(|record| key_id(&record.value).ok()));
        }
    }

    /// Opens a secret under the key that it names, and seals it with `to`.
    pub(crate) async fn reseal(&self, place: Place<'_>, to: &Current) -> Result<Treated> {
        self.rewrite(place, to, Keep::Value).await
    }

    /// Destroys the value of a secret that another key than `to` has sealed, and keeps what people may see of it.
    pub(crate) async fn withdraw(&self, place: Place<'_>, to: &Current) -> Result<Treated> {
        self.rewrite(place, to, Keep::Info).await
    }

    /// Deletes a secret that another key than `to` has sealed, without opening it.
    pub(crate) async fn remove_former(&self, place: Place<'_>, to: &Current) -> Result<Treated> {
        for _ in 0..MOST_ROUNDS {
            let Some(record) = self.former(place, to).await? else { return Ok(Treated::WasDone) };
            let unchanged = Condition::Is(record.key, record.version);
            let batch = Batch::new().require(unchanged).delete(place.info()).delete(place.value());
            if let Some(treated) = self.treated(batch, to).await? {
                return Ok(treated);
            }
        }
        Err(busy(place))
    }

    async fn rewrite(&self, place: Place<'_>, to: &Current, keep: Keep) -> Result<Treated> {
        for _ in 0..MOST_ROUNDS {
            let Some(record) = self.former(place, to).await? else { return Ok(Treated::WasDone) };
            match self.rewritten(place, &record, to, keep).await {
                Ok(batch) => {
                    if let Some(treated) = self.treated(batch, to).await? {
                        return Ok(treated);
                    }
                }
                // Its two rows are read one after the other; somebody may have set it in between.
                Err(error) => {
                    let now = self.records.get(&place.info()).await?;
                    if now.is_some_and(|now| now.version == record.version) {
                        return Err(error);
                    }
                }
            }
        }
        Err(busy(place))
    }

    async fn rewritten(&self, place: Place<'_>, record: &Record, to: &Current, keep: Keep) -> Result<Batch> {
        let info = self.open_info(place, record).await?;
        let value = match keep {
            Keep::Value => self.open_value(place, info.version, &record.value).await?,
            Keep::Info => SecretValue::new(Vec::new()),
        };
        place.put(&to.key, &info, &value, Some(record))
    }

    /// The info row of a secret, unless `to` has sealed both of its rows, or it is gone.
    async fn former(&self, place: Place<'_>, to: &Current) -> Result<Option<Record>> {
        let Some(info) = self.records.get(&place.info()).await? else { return Ok(None) };
        let value = self.records.get(&place.value()).await?;
        let is_new = |record: &Record| key_id(&record.value).is_ok_and(|id| id == *to.key.id());
        Ok(if is_new(&info) && value.as_ref().is_some_and(is_new) { None } else { Some(info) })
    }

    /// Commits, and tells what became of it; `None` when somebody else changed the secret first.
    async fn treated(&self, batch: Batch, to: &Current) -> Result<Option<Treated>> {
        match self.records.commit(batch.require(to.still.clone())).await {
            Ok(_) => Ok(Some(Treated::Done)),
            Err(error) if error.kind() != ErrorKind::Conflict => Err(error),
            Err(_) if !self.hierarchy.holds(&to.still).await? => Ok(Some(Treated::Overtaken)),
            Err(_) => Ok(None),
        }
    }
}

fn busy(place: Place<'_>) -> Error {
    Error::new(ErrorKind::Unavailable, "rotate a key")
        .because("a secret is being set over and over")
        .with("secret", place.name)
}
