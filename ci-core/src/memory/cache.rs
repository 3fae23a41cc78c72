//! Caches, as records of a database.

use std::sync::Arc;

use async_trait::async_trait;

use crate::cache::{CacheStore, namespace, readable};
use crate::error::Result;
use crate::id::{CacheKey, RepositoryId};
use crate::queue::Claim;
use crate::records::{Batch, Condition, Key, Records};
use crate::stream::{self, ByteStream};

/// A cache store over any records that know leases, unsealed.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use ci_core::cache::CacheStore as _;
/// use ci_core::id::CacheKey;
/// use ci_core::memory::{Caches, Rig};
/// use ci_core::{stream, trust::Origin};
///
/// let rig = Rig::new()?;
/// let caches = Caches::new(rig.database.clone());
/// let (repository, key) = (Rig::repository("1", "acme")?, CacheKey::parse("cargo")?);
/// let fork = rig.claim(&repository, Origin::Fork, Rig::spec()).await?;
/// caches.save(&fork, &key, stream::once("poison")).await?;
/// let trusted = rig.claim(&repository, Origin::Repository, Rig::spec()).await?;
/// assert!(caches.restore(&trusted, &key).await?.is_none());
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Caches {
    records: Arc<dyn Records>,
}

impl Caches {
    /// The caches in `records`.
    pub fn new(records: Arc<dyn Records>) -> Self {
        Self { records }
    }
}

#[async_trait]
impl CacheStore for Caches {
    async fn restore(&self, claim: &Claim, key: &CacheKey) -> Result<Option<ByteStream<'static>>> {
        for namespace in readable(claim.trust()) {
            let place = place(claim.scope()?.repository(), namespace, key);
            if let Some(record) = self.records.get(&place).await? {
                return Ok(Some(stream::once(record.value)));
            }
        }
        Ok(None)
    }

    async fn save(&self, claim: &Claim, key: &CacheKey, content: ByteStream<'_>) -> Result<()> {
        let content = stream::collect(content, claim.spec().limits.artifact).await?;
        let place = place(claim.scope()?.repository(), namespace(claim.trust()), key);
        let held = Condition::Held(claim.fence()?.clone());
        self.records.commit(Batch::new().require(held).put(place, content)).await.map(|_| ())
    }
}

fn place(repository: &RepositoryId, namespace: &str, key: &CacheKey) -> Key {
    Key::new("cache").repository(repository).part(namespace).part(key.as_str())
}
