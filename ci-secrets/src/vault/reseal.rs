//! Moves what is sealed to another key of the same repository, one thing at a time.

use ci_core::id::{RepositoryId, SecretName};
use ci_core::records::Batch;
use ci_core::seal::{DataKey, key_id};
use ci_core::{Error, ErrorKind, Result};

use super::manifest::{Manifest, digest};
use super::row::Place;
use super::snapshot::{Snapshot, missing as no_list};
use super::store::sealed;
use super::value::Row;
use super::{Vault, canary, row};

const RESEAL: &str = "seal with another key";

/// A thing that is sealed under a repository's key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(not(test), allow(dead_code, reason = "what rotates keys calls it"))]
pub(crate) enum Item {
    Manifest,
    Canary,
    Secret(SecretName),
}

#[cfg_attr(not(test), allow(dead_code, reason = "what rotates keys calls it"))]
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
                Err(error) if self.is_outdated(repository, &snapshot.record, &error).await? => continue,
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

    fn resealed_list(snapshot: &Snapshot, to: &DataKey) -> Result<Option<(Batch, Manifest)>> {
        let is_done = key_id(&snapshot.record.value)? == *to.id();
        Ok((!is_done).then(|| (Batch::new(), snapshot.manifest.next())))
    }

    async fn resealed_canary(
        &self,
        repository: &RepositoryId,
        snapshot: &Snapshot,
        to: &DataKey,
    ) -> Result<Option<(Batch, Manifest)>> {
        let (record, keys) = (self.records.get(&row::canary(repository)).await?, self.keys(repository));
        let is_done = matches!(&record, Some(record) if key_id(&record.value)? == *to.id());
        let value = self.open_canary(&keys, &snapshot.manifest, record).await?;
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
    ) -> Result<Option<(Batch, Manifest)>> {
        let Some(listed) = snapshot.manifest.secrets.get(place.name) else { return Ok(None) };
        let mut records = self.records.get_all(&[place.info(), place.value()]).await?.into_iter();
        let (shown, kept) = (records.next().flatten(), records.next().flatten());
        let keys = self.keys(place.repository);
        let info = self.open_info(&keys, place, listed, shown.as_ref()).await?;
        let kept = kept.filter(|kept| digest(&kept.value) == listed.value).ok_or_else(|| place.tampered())?;
        let is_done = matches!(&shown, Some(shown) if key_id(&shown.value)? == *to.id())
            && Row::parse(&kept.value).and_then(|row| row.key_id()).is_some_and(|id| id == *to.id());
        if is_done {
            return Ok(None);
        }
        let value = self.open_value(&keys, place, &info, &kept).await?;
        let (rows, listed) = sealed(place, to, &info, &value)?;
        let mut next = snapshot.manifest.next();
        next.secrets.insert(place.name.clone(), listed);
        Ok(Some((rows, next)))
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::sync::Arc;

    use ci_core::access::Write;
    use ci_core::memory::Rig;
    use ci_core::secret::{NewSecret, SecretStore as _, SecretValue};
    use ci_core::trust::Origin;

    use super::*;
    use crate::FileRoot;

    struct World {
        rig: Rig,
        vault: Vault,
        ours: RepositoryId,
        _folder: tempfile::TempDir,
    }

    async fn world() -> World {
        let folder = tempfile::tempdir().expect("a folder");
        let root = Arc::new(FileRoot::create(folder.path().join("root")).expect("a root key"));
        let rig = Rig::new().expect("a rig");
        let vault = Vault::new(rig.records(), rig.audit.clone(), root, rig.clock.clone());
        let world = World { rig, vault, ours: Rig::repository("1", "acme").expect("an id"), _folder: folder };
        world.set("SMALL", 3).await;
        world.set("LARGE", 50_000).await;
        world
    }

    fn name(text: &str) -> SecretName {
        SecretName::parse(text).expect("a name")
    }

    impl World {
        async fn set(&self, secret: &str, length: usize) {
            let grant = self.rig.grant::<Write>(&Rig::user("ada").expect("an id"), &self.ours).await;
            let new = NewSecret::file(SecretValue::new(secret.repeat(length)));
            self.vault.set(&grant.expect("a grant"), &name(secret), new).await.expect("it is set");
        }

        async fn check(&self) {
            let claim = self.rig.claim(&self.ours, Origin::Repository, Rig::spec()).await.expect("a claim");
            let names = [name("SMALL"), name("LARGE")];
            let lease = self.vault.lease(claim.trusted().expect("trusted"), &names).await.expect("a lease");
            assert_eq!(lease.value(&names[0]).expect("leased").expose(), "SMALL".repeat(3).as_bytes());
            assert_eq!(lease.value(&names[1]).expect("leased").expose(), "LARGE".repeat(50_000).as_bytes());
        }

        async fn reseal(&self, item: &Item, to: &DataKey) -> bool {
            self.vault.reseal(&self.ours, item, to).await.expect("it is sealed")
        }

        /// Another key of the repository, beside the current one.
        async fn second_key(&self) -> Arc<DataKey> {
            self.vault.hierarchy.second_for_tests(&self.ours).await
        }

        async fn set_with(&self, key: &DataKey) {
            for item in self.vault.items(&self.ours).await.expect("items") {
                self.reseal(&item, key).await;
            }
        }
    }

    #[tokio::test]
    async fn everything_is_sealed_under_the_other_key_and_reads_the_same() {
        let world = world().await;
        let to = world.second_key().await;
        let items = world.vault.items(&world.ours).await.expect("items");
        assert_eq!(items.len(), 4);
        for item in &items {
            let is_list = *item == Item::Manifest;
            assert_eq!(world.reseal(item, &to).await, !is_list, "{item:?}: with each goes the list");
            assert!(!world.reseal(item, &to).await, "{item:?}: once is enough");
            world.check().await;
        }
        let folder = row::folder(&world.ours);
        let rows = world.rig.database.list(&folder, None, 100).await.expect("rows");
        let whole = rows.iter().filter(|row| !row.key.is_below(&folder.clone().part("part")));
        for row in whole {
            let sealed: &[u8] = if row.key.is_below(&folder.clone().part("value")) {
                let parsed = Row::parse(&row.value).expect("a value");
                assert_eq!(parsed.key_id().as_ref(), Some(to.id()), "{}", row.key);
                continue;
            } else {
                &row.value
            };
            assert_eq!(key_id(sealed).expect("an id"), *to.id(), "{}", row.key);
        }
    }

    #[tokio::test]
    async fn what_is_set_meanwhile_is_not_lost() {
        let world = world().await;
        let to = world.second_key().await;
        let small = Item::Secret(name("SMALL"));
        let (resealed, ()) =
            futures_util::future::join(world.vault.reseal(&world.ours, &small, &to), world.set("SMALL", 3))
                .await;
        resealed.expect("it is sealed or newer");
        world.set_with(&to).await;
        world.check().await;
        assert!(!world.reseal(&Item::Secret(name("GONE")), &to).await, "what is not there needs nothing");
    }

    #[tokio::test]
    async fn what_was_tampered_with_stays_as_it_is() {
        let world = world().await;
        let to = world.second_key().await;
        let place = row::folder(&world.ours).part("value").part("SMALL");
        let forged = Batch::new().put(place.clone(), "rubbish");
        world.rig.database.commit(forged).await.expect("it is written");
        let error =
            world.vault.reseal(&world.ours, &Item::Secret(name("SMALL")), &to).await.expect_err("forged");
        assert_eq!(error.kind(), ErrorKind::Tampered);
        assert_eq!(world.rig.database.get(&place).await.expect("a row").expect("there").value, "rubbish");
    }
}
