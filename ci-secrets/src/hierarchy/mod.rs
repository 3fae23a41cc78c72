//! The key hierarchy: root key, a key for each tenant, a key for each repository, and from that one key per
//! purpose and per record.
//!
//! Every key but the root is random and stored only wrapped by the key above it, bound to whom it belongs and
//! to its own id. Which key is current stands in a row of its own; which key something was sealed with stands
//! in front of it. No key is ever tried to see whether it fits.
//!
//! Whatever is written with a key that is current is written on the condition that it still is. Once a rotation has
//! moved on to another key, nothing new comes under the former one, however late a writer is.

pub(crate) mod layout;
mod unwrapped;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ci_core::clock::Clock;
use ci_core::id::{KeyId, RepositoryId, TenantId};
use ci_core::records::{Batch, Condition, Key, Record, Records};
use ci_core::seal::{DataKey, Suite, key_id};
use ci_core::{Error, ErrorKind, Result};
use secrecy::{ExposeSecret as _, SecretBox};

use crate::root::{RootKey, boxed_key};
use crate::vault::first_rows;

use self::layout::{
    current_place, read_tenant_row, repository_context, repository_folder, tenant_context, tenant_folder,
    wrapped, wrapped_place, write_tenant_row,
};
use self::unwrapped::Unwrapped;

/// How often somebody else may be first, when a key is made that many ask for at once.
const MOST_ROUNDS: usize = 16;
const FETCH: &str = "fetch a key";

/// The keys of all tenants and repositories in one store.
#[derive(Debug)]
pub(crate) struct Hierarchy {
    pub(crate) records: Arc<dyn Records>,
    root: Arc<dyn RootKey>,
    /// What root keys were used before, and may still be named by rows.
    former: Vec<Arc<dyn RootKey>>,
    unwrapped: Unwrapped,
    suite: Suite,
}

/// A key that is current, and the condition that it still is.
#[derive(Clone, Debug)]
pub(crate) struct Current {
    pub(crate) key: Arc<DataKey>,
    pub(crate) still: Condition,
}

/// Which key of a folder is current, and the condition that it still is.
#[derive(Clone, Debug)]
pub(crate) struct Pointer {
    pub(crate) id: KeyId,
    pub(crate) still: Condition,
}

impl Hierarchy {
    pub(crate) fn new(
        records: Arc<dyn Records>,
        root: Arc<dyn RootKey>,
        clock: Arc<dyn Clock>,
        ttl: Duration,
        most: usize,
    ) -> Self {
        let unwrapped = Unwrapped::new(clock, ttl, most);
        Self { records, root, former: Vec::new(), unwrapped, suite: Suite::default() }
    }

    /// The same hierarchy, which remembers keys for `ttl` and at most `most` of them.
    pub(crate) fn with_bounds(self, clock: Arc<dyn Clock>, ttl: Duration, most: usize) -> Self {
        Self { unwrapped: Unwrapped::new(clock, ttl, most), ..self }
    }

    /// The same hierarchy, whose keys seal new content with `suite`.
    pub(crate) fn with_suite(self, suite: Suite) -> Self {
        Self { suite, ..self }
    }

    /// The same hierarchy, which also unwraps what `root` wrapped. It wraps nothing with it.
    pub(crate) fn with_former_root(mut self, root: Arc<dyn RootKey>) -> Self {
        self.former.push(root);
        self
    }

    /// The key that seals new content of `repository`; it is made when there is none.
    pub(crate) async fn current(&self, repository: &RepositoryId) -> Result<Arc<DataKey>> {
        Ok(self.current_to_write(repository).await?.key)
    }

    /// The same key, for what is written into the records: add the condition to the batch.
    pub(crate) async fn current_to_write(&self, repository: &RepositoryId) -> Result<Current> {
        let folder = repository_folder(repository);
        for _ in 0..MOST_ROUNDS {
            if let Some(Pointer { id, still }) = self.pointer(&folder).await? {
                match self.key(repository, &id).await {
                    Ok(key) => return Ok(Current { key, still }),
                    Err(error) if error.kind() == ErrorKind::NotFound => {
                        self.check_pointer(&still, error).await?;
                        continue;
                    }
                    Err(error) => return Err(error),
                }
            }
            let above = self.current_of_tenant(repository.tenant()).await?;
            let new = self.new_key();
            let row = above.key.seal(&repository_context(repository, new.id()), new.expose());
            // Where there is a key there is a list of secrets, so that nobody can make it disappear.
            let first = first_rows(repository, &new).require(above.still);
            if let Some(current) = self.install(&folder, new, row, first).await? {
                return Ok(current);
            }
        }
        Err(busy())
    }

    /// The key of `repository` with that id, and of no other repository.
    pub(crate) async fn key(&self, repository: &RepositoryId, id: &KeyId) -> Result<Arc<DataKey>> {
        let place = wrapped_place(&repository_folder(repository), id);
        for _ in 0..MOST_ROUNDS {
            let record = self.row(&place).await?;
            let found = self.unwrapped.get(&place, &record.value);
            if let Some(found) = &found
                && !found.is_due
            {
                return Ok(found.key.clone());
            }
            let above = key_id(&record.value)?;
            let above = match (self.key_of_tenant(repository.tenant(), &above).await, found) {
                (Ok(above), _) => above,
                // An outage; this key is kept for as long as the one above it.
                (Err(error), Some(found)) if error.is_retryable() => return Ok(found.key),
                // A rotation of the tenant's key may have wrapped it anew, and destroyed the former key, since then.
                (Err(error), _) if error.kind() == ErrorKind::NotFound => {
                    if self.row(&place).await?.version == record.version {
                        return Err(error);
                    }
                    continue;
                }
                (Err(error), _) => return Err(error),
            };
            let key = open_repository_row(repository, id, &above, &record.value)?;
            let key = Arc::new(key.with_suite(self.suite));
            let above = wrapped_place(&tenant_folder(repository.tenant()), above.id());
            self.unwrapped.put_below(&above, place, record.value, key.clone());
            return Ok(key);
        }
        Err(busy())
    }

    /// Whether a key of `repository` was ever made, and not destroyed.
    pub(crate) async fn exists(&self, repository: &RepositoryId) -> Result<bool> {
        Ok(self.pointer(&repository_folder(repository)).await?.is_some())
    }

    /// Destroys the keys of `repository`, and returns how many rows that were.
    pub(crate) async fn destroy(&self, repository: &RepositoryId) -> Result<usize> {
        let folder = repository_folder(repository);
        let purged = self.records.purge(&folder).await;
        self.unwrapped.forget(&folder);
        purged
    }

    /// A key that nobody has yet.
    pub(crate) fn new_key(&self) -> DataKey {
        DataKey::random().with_suite(self.suite)
    }

    /// Drops the unwrapped keys of rows below `folder`.
    pub(crate) fn forget_below(&self, folder: &Key) {
        self.unwrapped.forget(folder);
    }

    /// Drops the unwrapped keys whose time is over.
    pub(crate) fn forget_stale(&self) {
        self.unwrapped.forget_stale();
    }

    /// Drops every unwrapped key.
    pub(crate) fn forget(&self) {
        self.unwrapped.forget_all();
    }

    /// For how long an unwrapped key is remembered.
    pub(crate) fn remembers_for(&self) -> Duration {
        self.unwrapped.ttl()
    }

    /// The root key that wraps.
    pub(crate) fn root(&self) -> &dyn RootKey {
        self.root.as_ref()
    }

    /// The root key with that reference, if this program has it.
    pub(crate) fn root_named(&self, reference: &str) -> Result<&dyn RootKey> {
        let known = std::iter::once(&self.root).chain(&self.former);
        known.map(Arc::as_ref).find(|root| root.key_ref() == reference).ok_or_else(|| {
            // The database may be another one's, or this program a worker that was set up wrongly: no reason to
            // believe that anything was tampered with, and for a dispatcher to end what others can do.
            Error::new(ErrorKind::Unavailable, FETCH)
                .because("it was wrapped by another root key than the one in use; start with the one of this database")
                .detail(format!("wrapped by {reference:?}, in use is {:?}", self.root.key_ref()))
        })
    }

    /// The row of a tenant's key, wrapped by the root key in use. What the provider answered is looked at before
    /// anybody relies on it: a key that was wrapped wrongly would be lost with everything below it.
    pub(crate) async fn wrap_for_tenant(
        &self,
        tenant: &TenantId,
        id: &KeyId,
        key: &[u8; 32],
    ) -> Result<Bytes> {
        let context = tenant_context(tenant, id, self.root.key_ref());
        let wrapped = self.root.wrap(&context, key).await?;
        let again = self.root.unwrap(&context, &wrapped).await;
        match again {
            Ok(again) if again.expose_secret() == key => write_tenant_row(self.root.key_ref(), &wrapped),
            Err(error) if error.kind() != ErrorKind::Tampered => Err(error),
            _ => Err(Error::new(ErrorKind::Internal, "wrap a key")
                .because("the root key's provider does not give back what it wrapped; nothing was changed")),
        }
    }

    /// What is in the row of a tenant's key.
    pub(crate) async fn open_tenant_row(
        &self,
        tenant: &TenantId,
        id: &KeyId,
        row: &[u8],
    ) -> Result<SecretBox<[u8; 32]>> {
        let (root, wrapped) = read_tenant_row(row)?;
        self.root_named(root)?.unwrap(&tenant_context(tenant, id, root), wrapped).await
    }

    /// The key that wraps new keys of repositories; it is made when there is none.
    pub(crate) async fn current_of_tenant(&self, tenant: &TenantId) -> Result<Current> {
        let folder = tenant_folder(tenant);
        for _ in 0..MOST_ROUNDS {
            if let Some(Pointer { id, still }) = self.pointer(&folder).await? {
                match self.key_of_tenant(tenant, &id).await {
                    Ok(key) => return Ok(Current { key, still }),
                    Err(error) if error.kind() == ErrorKind::NotFound => {
                        self.check_pointer(&still, error).await?;
                        continue;
                    }
                    Err(error) => return Err(error),
                }
            }
            let root_is = self.root_in_use().await?;
            let new = self.new_key();
            let row = self.wrap_for_tenant(tenant, new.id(), new.expose()).await?;
            if let Some(current) = self.install(&folder, new, row, Batch::new().require(root_is)).await? {
                return Ok(current);
            }
        }
        Err(busy())
    }

    /// The key of `tenant` with that id.
    pub(crate) async fn key_of_tenant(&self, tenant: &TenantId, id: &KeyId) -> Result<Arc<DataKey>> {
        let place = wrapped_place(&tenant_folder(tenant), id);
        let row = self.row(&place).await?.value;
        let found = self.unwrapped.get(&place, &row);
        if let Some(found) = &found
            && !found.is_due
        {
            return Ok(found.key.clone());
        }
        match (self.open_tenant_row(tenant, id, &row).await, found) {
            (Ok(key), _) => {
                let key = Arc::new(DataKey::new(id.clone(), key).with_suite(self.suite));
                self.unwrapped.put(place, row, key.clone());
                Ok(key)
            }
            // An outage; there is as much time again as has passed.
            (Err(error), Some(found)) if error.is_retryable() => Ok(found.key),
            (Err(error), _) => Err(error),
        }
    }

    /// Which key of `folder` is current, or `None` when none was ever made.
    pub(crate) async fn pointer(&self, folder: &Key) -> Result<Option<Pointer>> {
        let place = current_place(folder);
        let mut pointer = self.records.get(&place).await?;
        if pointer.is_none() {
            // Keys without a pointer would silently be replaced by a new one. The pointer is read again,
            // because somebody may have made key and pointer just now.
            if self.records.list(&wrapped(folder), None, 1).await?.is_empty() {
                return Ok(None);
            }
            pointer = self.records.get(&place).await?;
        }
        let pointer = pointer.ok_or_else(|| tampered("the row that says which key is current is missing"))?;
        let id = std::str::from_utf8(&pointer.value).ok().and_then(|text| KeyId::parse(text).ok());
        let id = id.ok_or_else(|| tampered("the row that says which key is current is not one"))?;
        Ok(Some(Pointer { id, still: Condition::Is(place, pointer.version) }))
    }

    /// A pointer to a key that is not there is not the same as a key that was destroyed: that takes both. Unless
    /// somebody has just rotated the key or destroyed it, and the pointer is another one by now.
    async fn check_pointer(&self, still: &Condition, error: Error) -> Result<()> {
        if self.holds(still).await? {
            return Err(tampered("the current key is missing").caused_by(error));
        }
        Ok(())
    }

    /// Whether a record still has the version that it had.
    pub(crate) async fn holds(&self, condition: &Condition) -> Result<bool> {
        Ok(match condition {
            Condition::Is(key, version) => {
                self.records.get(key).await?.is_some_and(|record| record.version == *version)
            }
            Condition::Absent(key) => self.records.get(key).await?.is_none(),
            Condition::Held(_) => false,
        })
    }

    /// Stores a new key as the first one of `folder`, in one commit with `with`, which has the condition that the key above
    /// it is what it was; or returns `None` when somebody else was first.
    async fn install(&self, folder: &Key, key: DataKey, row: Bytes, with: Batch) -> Result<Option<Current>> {
        let (current, place) = (current_place(folder), wrapped_place(folder, key.id()));
        let batch = with
            .require(Condition::Absent(current.clone()))
            .require(Condition::Absent(place.clone()))
            .put(current.clone(), key.id().as_str().to_owned())
            .put(place.clone(), row.clone());
        match self.records.commit(batch).await {
            Ok(version) => {
                let key = Arc::new(key);
                self.unwrapped.put(place, row, key.clone());
                Ok(Some(Current { key, still: Condition::Is(current, version) }))
            }
            Err(error) if error.kind() == ErrorKind::Conflict => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The condition that the root key in use is the one that the last rotation moved on to, or that there never was
    /// one. A program that was not told of the rotation would wrap new keys with a root key that is about to be
    /// destroyed.
    pub(crate) async fn root_in_use(&self) -> Result<Condition> {
        let place = root_place();
        let Some(record) = self.records.get(&place).await? else { return Ok(Condition::Absent(place)) };
        if record.value == self.root.key_ref() {
            return Ok(Condition::Is(place, record.version));
        }
        Err(Error::new(ErrorKind::Unavailable, "make a key")
            .because("the root key was rotated to another one than is in use; start with that one")
            .detail(format!("rotated to {:?}, in use is {:?}", record.value, self.root.key_ref())))
    }

    async fn row(&self, place: &Key) -> Result<Record> {
        self.records.get(place).await?.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, FETCH).because("there is no such key, or it has been destroyed")
        })
    }
}

/// The key of `repository` in `row`, which `above` has sealed.
pub(crate) fn open_repository_row(
    repository: &RepositoryId,
    id: &KeyId,
    above: &DataKey,
    row: &[u8],
) -> Result<DataKey> {
    let plain = above.open(&repository_context(repository, id), row)?;
    Ok(DataKey::new(id.clone(), boxed_key(&plain)?))
}

/// Where it says which root key wraps since the last rotation.
pub(crate) fn root_place() -> Key {
    Key::new("rotation").part("root")
}

fn busy() -> Error {
    Error::new(ErrorKind::Unavailable, FETCH).because("too many others make it at the same time")
}

fn tampered(reason: &'static str) -> Error {
    Error::new(ErrorKind::Tampered, FETCH).because(reason)
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use ci_core::memory::Rig;

    use super::*;
    use crate::{FileRoot, Vault};

    #[tokio::test]
    async fn a_key_that_was_destroyed_is_remembered_no_more() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = Arc::new(FileRoot::create(folder.path().join("root")).expect("a root key"));
        let rig = Rig::new().expect("a rig");
        let vault = Vault::new(rig.records(), rig.audit.clone(), root, rig.clock.clone());
        let repository = Rig::repository("1", "acme").expect("an id");
        let key = vault.hierarchy.current(&repository).await.expect("a key");
        let place = wrapped_place(&repository_folder(&repository), key.id());
        let row = rig.database.get(&place).await.expect("read").expect("there").value;
        assert!(vault.hierarchy.unwrapped.get(&place, &row).is_some());
        vault.hierarchy.destroy(&repository).await.expect("it is destroyed");
        assert!(vault.hierarchy.unwrapped.get(&place, &row).is_none());
    }
}
