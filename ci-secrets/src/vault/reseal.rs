//! What a rotation does with one thing that the vault has sealed for a repository: it seals it anew, or takes it away.
//!
//! Each is one transaction, together with the list, on the condition that the list and the pointer to the new key are
//! what they were, and each can be done twice.

use std::collections::BTreeSet;

use ci_core::id::{KeyId, RepositoryId, SecretName};
use ci_core::records::{Batch, Key};
use ci_core::seal::{DataKey, key_id};
use ci_core::secret::SecretValue;
use ci_core::{Error, ErrorKind, Result};

use super::manifest::{Manifest, digest};
use super::row::Place;
use super::single::Single;
use super::snapshot::{Snapshot, missing as no_list};
use super::store::sealed;
use super::value::Row;
use super::{Vault, row};
use crate::hierarchy::Current;

const ROTATE: &str = "rotate a key";

/// A thing that is sealed under a repository's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    Secret(SecretName),
    /// The decoy, or private keys.
    Single(Single),
    Manifest,
}

impl Item {
    /// Where it lies.
    pub(crate) fn place(&self, repository: &RepositoryId) -> Key {
        match self {
            Self::Secret(name) => Place { repository, name }.info(),
            Self::Single(single) => single.place(repository),
            Self::Manifest => row::manifest(repository),
        }
    }
}

/// What becomes of a secret that another key has sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Treatment {
    /// It is sealed with the new key.
    Reseal,
    /// Its value is destroyed, and what people may see of it is sealed with the new key.
    Withdraw,
    /// It is deleted, without opening it.
    Delete,
}

/// What became of a thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Treated {
    /// It was changed.
    Done,
    /// There was nothing to do: the new key had sealed it, or it is gone.
    WasDone,
    /// The key is not current any more.
    Overtaken,
}

impl Vault {
    /// What is sealed for `repository` in the vault: the list itself at last, so that nothing is left behind when it has
    /// been done.
    pub(crate) async fn items(&self, repository: &RepositoryId) -> Result<Vec<Item>> {
        let Some(snapshot) = self.snapshot(repository).await? else { return Ok(Vec::new()) };
        let Manifest { secrets, singles, generation: _ } = snapshot.manifest;
        let singles = singles.into_keys().map(Item::Single);
        Ok(secrets.into_keys().map(Item::Secret).chain(singles).chain([Item::Manifest]).collect())
    }

    /// Which keys the things of `repository` say that they were sealed with.
    pub(crate) async fn keys_in_use(&self, repository: &RepositoryId) -> Result<BTreeSet<KeyId>> {
        // Parts of large values have up to a quarter of a mebibyte each.
        const PAGE: usize = 64;
        let folder = row::folder(repository);
        let (values, parts) = (folder.clone().part("value"), folder.clone().part("part"));
        let (mut after, mut found) = (None, BTreeSet::new());
        loop {
            let page = self.records.list(&folder, after.as_ref(), PAGE).await?;
            let Some(last) = page.last() else { return Ok(found) };
            after = Some(last.key.clone());
            found.extend(page.iter().filter(|record| !record.key.is_below(&parts)).filter_map(|record| {
                let is_value = record.key.is_below(&values);
                if is_value { Row::parse(&record.value)?.key_id() } else { key_id(&record.value).ok() }
            }));
        }
    }

    /// Opens `item` under the key that it names and seals it under `to`; a secret is treated as `how` says.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Tampered`] when it is not what was stored: it stays as it is; [`ErrorKind::NotFound`] when the key
    /// that sealed it was destroyed; [`ErrorKind::Unavailable`] when the store or a key cannot be reached.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, it has happened or not; calling again finishes it.
    pub(crate) async fn treat(
        &self,
        repository: &RepositoryId,
        item: &Item,
        to: &Current,
        how: Treatment,
    ) -> Result<Treated> {
        const MOST_ROUNDS: usize = 100;
        for _ in 0..MOST_ROUNDS {
            let snapshot = self.snapshot(repository).await?.ok_or_else(no_list)?;
            let (rows, next) = match self.treated(repository, item, &snapshot, &to.key, how).await {
                Ok(Some(treated)) => treated,
                Ok(None) => return Ok(Treated::WasDone),
                Err(error) if self.is_outdated(repository, &snapshot.record, &error).await? => continue,
                Err(error) => return Err(error),
            };
            let (list, mark) = snapshot.replace(repository, &to.key, &next);
            match self.records.commit(rows.and(list).require(to.still.clone())).await {
                Ok(_) => return self.remember(repository, &mark).await.map(|()| Treated::Done),
                Err(error) if error.kind() != ErrorKind::Conflict => return Err(error),
                Err(_) if !self.hierarchy.holds(&to.still).await? => return Ok(Treated::Overtaken),
                Err(_) => {}
            }
        }
        Err(Error::new(ErrorKind::Unavailable, ROTATE).because("secrets are being set over and over"))
    }

    /// The rows that change, and the list that goes with them; `None` when there is nothing to do.
    async fn treated(
        &self,
        repository: &RepositoryId,
        item: &Item,
        snapshot: &Snapshot,
        to: &DataKey,
        how: Treatment,
    ) -> Result<Option<(Batch, Manifest)>> {
        match item {
            Item::Secret(name) => {
                let place = Place { repository, name };
                match how {
                    Treatment::Delete => self.deleted_secret(place, snapshot, to).await,
                    _ => self.resealed_secret(place, snapshot, to, how).await,
                }
            }
            Item::Single(single) => self.resealed_single(repository, *single, snapshot, to).await,
            Item::Manifest => {
                let is_done = key_id(&snapshot.record.value)? == *to.id();
                Ok((!is_done).then(|| (Batch::new(), snapshot.manifest.next())))
            }
        }
    }

    async fn resealed_single(
        &self,
        repository: &RepositoryId,
        single: Single,
        snapshot: &Snapshot,
        to: &DataKey,
    ) -> Result<Option<(Batch, Manifest)>> {
        let (record, keys) = (self.records.get(&single.place(repository)).await?, self.keys(repository));
        let is_done = matches!(&record, Some(record) if key_id(&record.value)? == *to.id());
        let plain = self.open_single(&keys, &snapshot.manifest, single, record).await?;
        let plain = plain.filter(|_| !is_done);
        Ok(plain.map(|plain| single.fill(repository, to, &plain, snapshot.manifest.next())))
    }

    async fn resealed_secret(
        &self,
        place: Place<'_>,
        snapshot: &Snapshot,
        to: &DataKey,
        how: Treatment,
    ) -> Result<Option<(Batch, Manifest)>> {
        let Some(listed) = snapshot.manifest.secrets.get(place.name) else { return Ok(None) };
        let mut records = self.records.get_all(&[place.info(), place.value()]).await?.into_iter();
        let (shown, kept) = (records.next().flatten(), records.next().flatten());
        let keys = self.keys(place.repository);
        let info = self.open_info(&keys, place, listed, shown.as_ref()).await?;
        let kept = kept.filter(|kept| digest(&kept.value) == listed.value).ok_or_else(|| place.tampered())?;
        if shown.is_some_and(|shown| is_of(&shown.value, &kept.value, to)) {
            return Ok(None);
        }
        let value = match how {
            Treatment::Reseal => self.open_value(&keys, place, &info, &kept).await?,
            _ => SecretValue::new(Vec::new()),
        };
        let (rows, listed) = sealed(place, to, &info, &value)?;
        let mut next = snapshot.manifest.next();
        next.secrets.insert(place.name.clone(), listed);
        Ok(Some((rows, next)))
    }

    async fn deleted_secret(
        &self,
        place: Place<'_>,
        snapshot: &Snapshot,
        to: &DataKey,
    ) -> Result<Option<(Batch, Manifest)>> {
        let mut next = snapshot.manifest.next();
        if next.secrets.remove(place.name).is_none() {
            return Ok(None);
        }
        let records = self.records.get_all(&[place.info(), place.value()]).await?;
        let is_new = match &records[..] {
            [Some(shown), Some(kept)] => is_of(&shown.value, &kept.value, to),
            _ => false,
        };
        Ok((!is_new).then(|| (place.clear(), next)))
    }
}

/// Whether the two rows of a secret say that `key` has sealed them.
fn is_of(shown: &[u8], kept: &[u8], key: &DataKey) -> bool {
    key_id(shown).is_ok_and(|id| id == *key.id())
        && Row::parse(kept).and_then(|row| row.key_id()).is_some_and(|id| id == *key.id())
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use std::fmt;
    use std::sync::{Arc, Mutex};

    use async_trait::async_trait;
    use ci_core::access::Write;
    use ci_core::audit::Entry;
    use ci_core::memory::Rig;
    use ci_core::records::{Record, Records, Version};
    use ci_core::secret::{NewSecret, SecretStore as _, SecretValue};
    use ci_core::trust::Origin;
    use futures_util::FutureExt as _;
    use futures_util::future::BoxFuture;
    use zeroize::Zeroizing;

    use super::*;
    use crate::FileRoot;
    use crate::hierarchy::layout;
    use crate::strongbox::{Change, Strongbox};

    struct World {
        rig: Rig,
        vault: Vault,
        root: Arc<FileRoot>,
        ours: RepositoryId,
        _folder: tempfile::TempDir,
    }

    /// Two secrets and private keys of each kind.
    async fn world() -> World {
        let folder = tempfile::tempdir().expect("a folder");
        let root = Arc::new(FileRoot::create(folder.path().join("root")).expect("a root key"));
        let rig = Rig::new().expect("a rig");
        let vault = Vault::new(rig.records(), rig.audit.clone(), root.clone(), rig.clock.clone());
        let ours = Rig::repository("1", "acme").expect("an id");
        let world = World { rig, vault, root, ours, _folder: folder };
        world.set("SMALL", 3).await;
        world.set("LARGE", 50_000).await;
        for (single, keys) in KEYS {
            world.fill(&world.vault, single, keys).await;
        }
        world
    }

    const KEYS: [(Single, &[u8]); 2] = [(Single::SshKeys, b"for SSH"), (Single::TokenKeys, b"for tokens")];

    fn name(text: &str) -> SecretName {
        SecretName::parse(text).expect("a name")
    }

    impl World {
        async fn set(&self, secret: &str, length: usize) {
            self.set_in(&self.vault, secret, length).await;
        }

        async fn set_in(&self, vault: &Vault, secret: &str, length: usize) {
            let grant = self.rig.grant::<Write>(&Rig::user("ada").expect("an id"), &self.ours).await;
            let new = NewSecret::file(SecretValue::new(secret.repeat(length)));
            vault.set(&grant.expect("a grant"), &name(secret), new).await.expect("it is set");
        }

        async fn fill(&self, vault: &Vault, single: Single, keys: &'static [u8]) {
            let strongbox = Strongbox { vault, repository: &self.ours, kind: single };
            let filled = |_| Ok(Some(Change::Fill(Zeroizing::new(keys.to_vec()))));
            let done = strongbox.change(Entry::new("keys.changed", "operator"), &|| Ok(()), filled).await;
            done.expect("it is filled");
        }

        async fn check(&self) {
            let claim = self.rig.claim(&self.ours, Origin::Repository, Rig::spec()).await.expect("a claim");
            let names = [name("SMALL"), name("LARGE")];
            let lease = self.vault.lease(claim.trusted().expect("trusted"), &names).await.expect("a lease");
            assert_eq!(lease.value(&names[0]).expect("leased").expose(), "SMALL".repeat(3).as_bytes());
            assert_eq!(lease.value(&names[1]).expect("leased").expose(), "LARGE".repeat(50_000).as_bytes());
            for (single, keys) in KEYS {
                let found = self.vault.single(&self.ours, single).await.expect("it opens");
                assert_eq!(found.expect("there").as_slice(), keys);
            }
        }

        fn another_vault(&self, records: Arc<dyn Records>) -> Vault {
            Vault::new(records, self.rig.audit.clone(), self.root.clone(), self.rig.clock.clone())
        }

        /// Another process over the same records, which `first` overtakes when it writes at `at`.
        fn slow(&self, at: Key, first: impl Future<Output = ()> + Send + 'static) -> (Vault, Arc<Between>) {
            let first = Mutex::new(Some(first.boxed()));
            let records = Arc::new(Between { inner: self.rig.records(), at, first });
            (self.another_vault(records.clone()), records)
        }

        async fn treat(&self, item: &Item, to: &Current) -> Result<Treated> {
            self.vault.treat(&self.ours, item, to, Treatment::Reseal).await
        }

        /// Another key of the repository, and what makes it the current one.
        async fn other_key(&self) -> (KeyId, Batch) {
            let hierarchy = &self.vault.hierarchy;
            let (above, new) = (hierarchy.current_of_tenant(self.ours.tenant()).await, hierarchy.new_key());
            let context = layout::repository_context(&self.ours, new.id());
            let row = above.expect("the tenant's key").key.seal(&context, new.expose());
            let folder = layout::repository_folder(&self.ours);
            let batch = Batch::new()
                .put(layout::wrapped_place(&folder, new.id()), row)
                .put(layout::current_place(&folder), new.id().as_str().to_owned());
            (new.id().clone(), batch)
        }

        /// Makes another key of the repository the current one.
        async fn second_key(&self) -> Current {
            let (_, batch) = self.other_key().await;
            self.vault.records.commit(batch).await.expect("it is written");
            self.vault.hierarchy.current_to_write(&self.ours).await.expect("the new key")
        }

        async fn set_with(&self, key: &Current) {
            for item in self.vault.items(&self.ours).await.expect("items") {
                self.treat(&item, key).await.expect("it is sealed");
            }
        }

        /// What the row at `item` was sealed with.
        async fn key_of(&self, item: &Item) -> KeyId {
            let row = self.rig.database.get(&item.place(&self.ours)).await.expect("read").expect("there");
            key_id(&row.value).expect("an id")
        }
    }

    #[tokio::test]
    async fn everything_is_sealed_under_the_other_key_and_reads_the_same() {
        let world = world().await;
        let to = world.second_key().await;
        let items = world.vault.items(&world.ours).await.expect("items");
        assert_eq!(items.len(), 6);
        for item in &items {
            // The list has followed each of the others.
            let expected = if *item == Item::Manifest { Treated::WasDone } else { Treated::Done };
            assert_eq!(world.treat(item, &to).await.expect("it is sealed"), expected, "{item:?}");
            assert_eq!(world.treat(item, &to).await.expect("once is enough"), Treated::WasDone, "{item:?}");
            assert_eq!(world.key_of(item).await, *to.key.id(), "{item:?}");
            world.check().await;
        }
        let used = world.vault.keys_in_use(&world.ours).await.expect("keys");
        assert_eq!(used, BTreeSet::from([to.key.id().clone()]));
    }

    #[tokio::test]
    async fn what_is_set_meanwhile_is_not_lost() {
        let world = world().await;
        let to = world.second_key().await;
        let small = Item::Secret(name("SMALL"));
        let (resealed, ()) =
            futures_util::future::join(world.treat(&small, &to), world.set("SMALL", 3)).await;
        resealed.expect("it is sealed or newer");
        world.set_with(&to).await;
        world.check().await;
        let gone = world.treat(&Item::Secret(name("GONE")), &to).await;
        assert_eq!(gone.expect("what is not there needs nothing"), Treated::WasDone);
    }

    #[tokio::test]
    async fn what_comes_after_another_rotation_changes_nothing() {
        let world = world().await;
        let (former, current) = (world.second_key().await, world.second_key().await);
        for item in world.vault.items(&world.ours).await.expect("items") {
            assert_eq!(world.treat(&item, &former).await.expect("an answer"), Treated::Overtaken, "{item:?}");
        }
        for item in [Item::Secret(name("SMALL")), Item::Single(Single::SshKeys)] {
            assert_eq!(world.treat(&item, &current).await.expect("it is sealed"), Treated::Done, "{item:?}");
        }
        world.check().await;
    }

    #[tokio::test]
    async fn what_was_tampered_with_stays_as_it_is() {
        let world = world().await;
        let to = world.second_key().await;
        let value = Place { repository: &world.ours, name: &name("SMALL") }.value();
        let keys = Single::SshKeys.place(&world.ours);
        for (item, place) in [(Item::Secret(name("SMALL")), value), (Item::Single(Single::SshKeys), keys)] {
            let forged = Batch::new().put(place.clone(), "rubbish");
            world.rig.database.commit(forged).await.expect("it is written");
            let error = world.treat(&item, &to).await.expect_err("forged");
            assert_eq!(error.kind(), ErrorKind::Tampered);
            assert_eq!(world.rig.database.get(&place).await.expect("a row").expect("there").value, "rubbish");
        }
    }

    #[tokio::test]
    async fn keys_of_one_kind_are_none_of_another() {
        let world = world().await;
        let places = KEYS.map(|(single, _)| single.place(&world.ours));
        let [one, other] = [&places[0], &places[1]].map(|place| world.rig.database.get(place));
        let (one, other) = (one.await.expect("a row"), other.await.expect("a row"));
        let swapped = Batch::new()
            .put(places[0].clone(), other.expect("there").value)
            .put(places[1].clone(), one.expect("there").value);
        world.rig.database.commit(swapped).await.expect("they are swapped");
        for (single, _) in KEYS {
            let error = world.vault.single(&world.ours, single).await.expect_err("swapped");
            let expected = format!(
                "read stored keys: they are not what was stored; replace them, or bring the row back from a copy of the \
                 database (kind: {})",
                single.as_str()
            );
            assert_eq!((error.kind(), error.to_string()), (ErrorKind::Tampered, expected));
        }
    }

    type Before = BoxFuture<'static, ()>;

    /// Records in which something else happens just before something is written at `at`.
    struct Between {
        inner: Arc<dyn Records>,
        at: Key,
        first: Mutex<Option<Before>>,
    }

    impl fmt::Debug for Between {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("Between").field("at", &self.at).finish_non_exhaustive()
        }
    }

    #[async_trait]
    impl Records for Between {
        async fn get(&self, key: &Key) -> Result<Option<Record>> {
            self.inner.get(key).await
        }

        async fn list(&self, prefix: &Key, after: Option<&Key>, limit: usize) -> Result<Vec<Record>> {
            self.inner.list(prefix, after, limit).await
        }

        async fn commit(&self, batch: Batch) -> Result<Version> {
            let is_it = batch.puts.iter().any(|(key, _)| *key == self.at);
            let first = self.first.lock().expect("unpoisoned").take_if(|_| is_it);
            if let Some(first) = first {
                first.await;
            }
            self.inner.commit(batch).await
        }

        async fn purge(&self, prefix: &Key) -> Result<usize> {
            self.inner.purge(prefix).await
        }

        async fn scan_raw(&self, needle: &[u8]) -> Result<usize> {
            self.inner.scan_raw(needle).await
        }
    }

    /// Neither the list nor the audit log tells of it, only the pointer.
    #[tokio::test]
    async fn nothing_is_written_with_a_key_that_is_current_no_more() {
        for item in [Item::Secret(name("SMALL")), Item::Single(Single::SshKeys)] {
            let world = world().await;
            let (id, other) = world.other_key().await;
            let records = world.rig.records();
            let first = async move {
                records.commit(other).await.expect("it is written");
            };
            let (slow, records) = world.slow(item.place(&world.ours), first);
            match &item {
                Item::Single(single) => world.fill(&slow, *single, KEYS[0].1).await,
                _ => world.set_in(&slow, "SMALL", 3).await,
            }
            assert!(records.first.lock().expect("unpoisoned").is_none(), "it came in between");
            assert_eq!(world.key_of(&item).await, id, "{item:?}");
            world.check().await;
        }
    }
    #[tokio::test]
    async fn a_secret_that_is_set_while_the_list_is_written_is_not_lost() {
        let world = world().await;
        let to = world.second_key().await;
        let other = world.another_vault(world.rig.records());
        let grant = world.rig.grant::<Write>(&Rig::user("ada").expect("an id"), &world.ours).await;
        let grant = grant.expect("a grant");
        let first = async move {
            other.put(&grant, &name("NEW"), SecretValue::new("some value")).await.expect("it is set");
        };
        let (slow, records) = world.slow(row::manifest(&world.ours), first);
        let treated = slow.treat(&world.ours, &Item::Secret(name("SMALL")), &to, Treatment::Reseal).await;
        assert_eq!(treated.expect("it is sealed"), Treated::Done);
        assert!(records.first.lock().expect("unpoisoned").is_none(), "it came in between");
        let items = world.vault.items(&world.ours).await.expect("items");
        assert!(items.contains(&Item::Secret(name("NEW"))), "{items:?}");
        world.check().await;
    }
}
