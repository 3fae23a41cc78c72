//! Moves what is sealed to another key of the same repository, one thing at a time.

use ci_core::id::{RepositoryId, SecretName};
use ci_core::records::Batch;
use ci_core::seal::{DataKey, key_id};
use ci_core::{Error, ErrorKind, Result};

use super::manifest::digest;
use super::row::Place;
use super::snapshot::{Snapshot, missing as no_list};
use super::store::sealed;
use super::value::Row;
use super::{Vault, canary, row};

const RESEAL: &str = "seal with another key";

/// A thing that is sealed under a repository's key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(not(test), allow(dead_code, reason = "for the rotation of keys"))]
pub(crate) enum Item {
    Manifest,
    Canary,
    Secret(SecretName),
}

#[cfg_attr(not(test), allow(dead_code, reason = "for the rotation of keys"))]
impl Vault {
    /// What is sealed for `repository` in the vault: the list itself at last, so that nothing is left behind when it has
    /// been done.
    pub(crate) async fn items(&self, repository: &RepositoryId) -> Result<Vec<Item>> {
        let Some(snapshot) = self.snapshot(repository).await? else { return Ok(Vec::new()) };
        let secrets = snapshot.manifest.secrets.into_keys().map(Item::Secret);
        Ok(secrets.chain([Item::Canary, Item::Manifest]).collect())
    }

    /// Opens `item` under the key that it names and seals it under `to`, a key of the same repository, in one commit with
    /// the list; `false` when it was sealed under `to` already, or is no longer there.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Tampered`] when it is not what was stored: it stays as it is; [`ErrorKind::NotFound`] when the key
    /// that sealed it was destroyed; [`ErrorKind::Unavailable`] when the store or a key cannot be reached.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, it has happened or not; calling again finishes it.
    pub(crate) async fn reseal(&self, repository: &RepositoryId, item: &Item, to: &DataKey) -> Result<bool> {
        const MOST_ROUNDS: usize = 100;
        for _ in 0..MOST_ROUNDS {
            let snapshot = self.snapshot(repository).await?.ok_or_else(no_list)?;
            let resealed = match item {
                Item::Manifest => Self::resealed_list(&snapshot, to),
                Item::Canary => self.resealed_canary(repository, &snapshot, to).await,
                Item::Secret(name) => self.resealed_secret(Place { repository, name }, &snapshot, to).await,
            };
            let (rows, next) = match resealed {
                Ok(Some(resealed)) => resealed,
                Ok(None) => return Ok(false),
                Err(error)
                    if error.kind() == ErrorKind::Tampered
                        && self.has_moved_on(repository, Some(&snapshot.record)).await? =>
                {
                    continue;
                }
                Err(error) => return Err(error),
            };
            let (list, mark) = snapshot.replace(repository, to, &next);
            match self.records.commit(rows.and(list)).await {
                Ok(_) => return self.remember(repository, &mark).await.map(|()| true),
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::new(ErrorKind::Unavailable, RESEAL).because("secrets are being set over and over"))
    }

    fn resealed_list(
        snapshot: &Snapshot,
        to: &DataKey,
    ) -> Result<Option<(Batch, super::manifest::Manifest)>> {
        let is_done = key_id(&snapshot.record.value)? == *to.id();
        Ok((!is_done).then(|| (Batch::new(), snapshot.manifest.next())))
    }

    async fn resealed_canary(
        &self,
        repository: &RepositoryId,
        snapshot: &Snapshot,
        to: &DataKey,
    ) -> Result<Option<(Batch, super::manifest::Manifest)>> {
        let record = self.records.get(&row::canary(repository)).await?;
        let is_done = matches!(&record, Some(record) if key_id(&record.value)? == *to.id());
        let value = self.open_canary(repository, &snapshot.manifest, record).await?;
        if is_done {
            return Ok(None);
        }
        let sealed = canary::seal(repository, to, &value);
        let mut next = snapshot.manifest.next();
        next.canary = digest(&sealed);
        Ok(Some((Batch::new().put(row::canary(repository), sealed), next)))
    }

    async fn resealed_secret(
        &self,
        place: Place<'_>,
        snapshot: &Snapshot,
        to: &DataKey,
    ) -> Result<Option<(Batch, super::manifest::Manifest)>> {
        let Some(listed) = snapshot.manifest.secrets.get(place.name) else { return Ok(None) };
        let mut records = self.records.get_all(&[place.info(), place.value()]).await?.into_iter();
        let (shown, kept) = (records.next().flatten(), records.next().flatten());
        let info = self.open_info(place, listed, shown.as_ref()).await?;
        let kept = kept.filter(|kept| digest(&kept.value) == listed.value).ok_or_else(|| place.tampered())?;
        let is_done = matches!(&shown, Some(shown) if key_id(&shown.value)? == *to.id())
            && Row::parse(&kept.value).and_then(|row| row.key_id()).is_some_and(|id| id == *to.id());
        if is_done {
            return Ok(None);
        }
        let value = self.open_value(place, &info, &kept).await?;
        let (rows, listed) = sealed(place, to, &info, &value)?;
        let mut next = snapshot.manifest.next();
        next.secrets.insert(place.name.clone(), listed);
        Ok(Some((rows, next)))
    }
}
