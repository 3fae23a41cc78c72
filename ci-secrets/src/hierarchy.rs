//! The key hierarchy: root key, a key for each tenant, a key for each repository, and from that one key per
//! purpose and per record.
//!
//! Every key but the root is random and stored only wrapped by the key above it, bound to whom it belongs and
//! to its own id. Which key is current stands in a row of its own; which key something was sealed with stands
//! in front of it. No key is ever tried to see whether it fits.
//!
//! ```text
//! key/tenant/<tenant>/current                         the id of the key that wraps new repository keys
//! key/tenant/<tenant>/wrapped/<id>                    format 1 | length 2 | root key's reference | wrapped key
//! key/repository/<tenant>/<forge>/<native>/current      the id of the key that seals new content
//! key/repository/<tenant>/<forge>/<native>/wrapped/<id> the key, sealed under the tenant's key
//! ```

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use ci_core::clock::Clock;
use ci_core::id::{KeyId, RepositoryId, TenantId};
use ci_core::records::{Batch, Condition, Key, Records};
use ci_core::seal::{Context, DataKey, key_id};
use ci_core::{Error, ErrorKind, Result};

use crate::root::{RootKey, boxed_key};
use crate::unwrapped::Unwrapped;
use crate::vault::first_rows;

const FORMAT: u8 = 1;
/// How often somebody else may be first, when a key is made that many ask for at once.
const MOST_ROUNDS: usize = 16;
const FETCH: &str = "fetch a key";

/// The keys of all tenants and repositories in one store.
#[derive(Debug)]
pub(crate) struct Hierarchy {
    records: Arc<dyn Records>,
    root: Arc<dyn RootKey>,
    unwrapped: Unwrapped,
}

impl Hierarchy {
    pub(crate) fn new(
        records: Arc<dyn Records>,
        root: Arc<dyn RootKey>,
        clock: Arc<dyn Clock>,
        ttl: Duration,
        most: usize,
    ) -> Self {
        Self { records, root, unwrapped: Unwrapped::new(clock, ttl, most) }
    }

    /// The same hierarchy, which remembers keys for `ttl` and at most `most` of them.
    pub(crate) fn with_bounds(self, clock: Arc<dyn Clock>, ttl: Duration, most: usize) -> Self {
        Self { unwrapped: Unwrapped::new(clock, ttl, most), ..self }
    }

    /// The key that seals new content of `repository`; it is made when there is none.
    pub(crate) async fn current(&self, repository: &RepositoryId) -> Result<Arc<DataKey>> {
        let folder = repository_folder(repository);
        for _ in 0..MOST_ROUNDS {
            if let Some(id) = self.pointer(&folder).await? {
                return self.key(repository, &id).await.map_err(dangling);
            }
            let above = self.current_of_tenant(repository.tenant()).await?;
            let new = DataKey::random();
            let row = above.seal(&repository_context(repository, new.id()), new.expose());
            // Where there is a key there is a list of secrets, so that nobody can make it disappear.
            let first = first_rows(repository, &new);
            if let Some(key) = self.install(&folder, new, row, first).await? {
                return Ok(key);
            }
        }
        Err(busy())
    }

    /// The key of `repository` with that id, and of no other repository.
    pub(crate) async fn key(&self, repository: &RepositoryId, id: &KeyId) -> Result<Arc<DataKey>> {
        let place = wrapped_place(&repository_folder(repository), id);
        let row = self.row(&place).await?;
        if let Some(key) = self.unwrapped.get(&place, &row) {
            return Ok(key);
        }
        let above = self.key_of_tenant(repository.tenant(), &key_id(&row)?).await?;
        let plain = above.open(&repository_context(repository, id), &row)?;
        let key = Arc::new(DataKey::new(id.clone(), boxed_key(&plain)?));
        self.unwrapped.put(place, row, key.clone());
        Ok(key)
    }

    /// Whether a key of `repository` was ever made, and not destroyed.
    pub(crate) async fn exists(&self, repository: &RepositoryId) -> Result<bool> {
        Ok(self.pointer(&repository_folder(repository)).await?.is_some())
    }

    /// A second key of `repository`, beside the current one.
    #[cfg(test)]
    pub(crate) async fn second_for_tests(&self, repository: &RepositoryId) -> Arc<DataKey> {
        let above = self.current_of_tenant(repository.tenant()).await.expect("the tenant's key");
        let new = DataKey::random();
        let row = above.seal(&repository_context(repository, new.id()), new.expose());
        let place = wrapped_place(&repository_folder(repository), new.id());
        self.records.commit(Batch::new().put(place, row)).await.expect("it is written");
        Arc::new(new)
    }

    /// Destroys the keys of `repository`, and returns how many rows that were.
    pub(crate) async fn destroy(&self, repository: &RepositoryId) -> Result<usize> {
        let folder = repository_folder(repository);
        let purged = self.records.purge(&folder).await;
        self.unwrapped.forget(&folder);
        purged
    }

    /// Drops every unwrapped key.
    pub(crate) fn forget(&self) {
        self.unwrapped.forget_all();
    }

    async fn current_of_tenant(&self, tenant: &TenantId) -> Result<Arc<DataKey>> {
        let folder = tenant_folder(tenant);
        for _ in 0..MOST_ROUNDS {
            if let Some(id) = self.pointer(&folder).await? {
                return self.key_of_tenant(tenant, &id).await.map_err(dangling);
            }
            let (new, root) = (DataKey::random(), self.root.key_ref());
            let wrapped = self.root.wrap(&tenant_context(tenant, new.id(), root), new.expose()).await?;
            let row = write_tenant_row(root, &wrapped)?;
            if let Some(key) = self.install(&folder, new, row, Batch::new()).await? {
                return Ok(key);
            }
        }
        Err(busy())
    }

    async fn key_of_tenant(&self, tenant: &TenantId, id: &KeyId) -> Result<Arc<DataKey>> {
        let place = wrapped_place(&tenant_folder(tenant), id);
        let row = self.row(&place).await?;
        if let Some(key) = self.unwrapped.get(&place, &row) {
            return Ok(key);
        }
        let (root, wrapped) = read_tenant_row(&row).ok_or_else(|| tampered("the row of a key is not one"))?;
        if root != self.root.key_ref() {
            // The database may be another one's, or this program a worker that was set up wrongly: no reason to
            // believe that anything was tampered with, and for a dispatcher to end what others can do.
            return Err(Error::new(ErrorKind::Unavailable, FETCH)
                .because("it was wrapped by another root key than the one in use; start with the one of this database")
                .detail(format!("wrapped by {root:?}, in use is {:?}", self.root.key_ref())));
        }
        let key = self.root.unwrap(&tenant_context(tenant, id, root), wrapped).await?;
        let key = Arc::new(DataKey::new(id.clone(), key));
        self.unwrapped.put(place, row, key.clone());
        Ok(key)
    }

    /// Which key of `folder` is current, or `None` when none was ever made.
    async fn pointer(&self, folder: &Key) -> Result<Option<KeyId>> {
        let place = current_place(folder);
        let mut pointer = self.records.get(&place).await?;
        if pointer.is_none() {
            // Keys without a pointer would silently be replaced by a new one. The pointer is read again,
            // because somebody may have made key and pointer just now.
            if self.records.list(&folder.clone().part("wrapped"), None, 1).await?.is_empty() {
                return Ok(None);
            }
            pointer = self.records.get(&place).await?;
        }
        let pointer = pointer.ok_or_else(|| tampered("the row that says which key is current is missing"))?;
        let text = std::str::from_utf8(&pointer.value).ok().and_then(|text| KeyId::parse(text).ok());
        text.map(Some).ok_or_else(|| tampered("the row that says which key is current is not one"))
    }

    /// Stores a new key as the first one of `folder`, together with `with`, or returns `None` when somebody else was first.
    async fn install(
        &self,
        folder: &Key,
        key: DataKey,
        row: Bytes,
        with: Batch,
    ) -> Result<Option<Arc<DataKey>>> {
        let (current, place) = (current_place(folder), wrapped_place(folder, key.id()));
        let batch = Batch::new()
            .require(Condition::Absent(current.clone()))
            .require(Condition::Absent(place.clone()))
            .put(current, key.id().as_str().to_owned())
            .put(place.clone(), row.clone())
            .and(with);
        match self.records.commit(batch).await {
            Ok(_) => {
                let key = Arc::new(key);
                self.unwrapped.put(place, row, key.clone());
                Ok(Some(key))
            }
            Err(error) if error.kind() == ErrorKind::Conflict => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn row(&self, place: &Key) -> Result<Bytes> {
        let record = self.records.get(place).await?;
        record.map(|record| record.value).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, FETCH).because("there is no such key, or it has been destroyed")
        })
    }
}

fn tenant_folder(tenant: &TenantId) -> Key {
    Key::new("key").part("tenant").part(tenant.as_str())
}

fn repository_folder(repository: &RepositoryId) -> Key {
    Key::new("key").part("repository").repository(repository)
}

fn current_place(folder: &Key) -> Key {
    folder.clone().part("current")
}

fn wrapped_place(folder: &Key, id: &KeyId) -> Key {
    folder.clone().part("wrapped").part(id.as_str())
}

fn tenant_context(tenant: &TenantId, id: &KeyId, root: &str) -> Context {
    Context::new("tenant key").field([FORMAT]).field(tenant.as_str()).field(id.as_str()).field(root)
}

fn repository_context(repository: &RepositoryId, id: &KeyId) -> Context {
    Context::new("repository key")
        .field([FORMAT])
        .field(repository.tenant().as_str())
        .field(repository.forge().as_str())
        .field(repository.native().as_str())
        .field(id.as_str())
}

fn write_tenant_row(root: &str, wrapped: &[u8]) -> Result<Bytes> {
    const MOST: usize = 256;
    let length = u16::try_from(root.len()).ok().filter(|_| root.len() <= MOST);
    let length = length.ok_or_else(|| {
        Error::new(ErrorKind::Internal, "wrap a key").because("the root key's reference is too long")
    })?;
    let mut row = BytesMut::with_capacity(3 + root.len() + wrapped.len());
    row.put_u8(FORMAT);
    row.put_u16(length);
    row.put_slice(root.as_bytes());
    row.put_slice(wrapped);
    Ok(row.freeze())
}

fn read_tenant_row(row: &[u8]) -> Option<(&str, &[u8])> {
    let rest = row.strip_prefix(&[FORMAT])?;
    let (length, rest) = rest.split_first_chunk::<2>()?;
    let (root, wrapped) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    Some((std::str::from_utf8(root).ok()?, wrapped))
}

/// A pointer to a key that is not there is not the same as a key that was destroyed: that takes both.
fn dangling(error: Error) -> Error {
    if error.kind() == ErrorKind::NotFound {
        tampered("the current key is missing").caused_by(error)
    } else {
        error
    }
}

fn busy() -> Error {
    Error::new(ErrorKind::Unavailable, FETCH).because("too many others make it at the same time")
}

fn tampered(reason: &'static str) -> Error {
    Error::new(ErrorKind::Tampered, FETCH).because(reason)
}
