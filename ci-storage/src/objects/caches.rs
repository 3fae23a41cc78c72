//! Caches: an object each, in the namespace of one trust level.

use async_trait::async_trait;
use ci_core::access::Scope;
use ci_core::cache::{CacheStore, namespace, readable};
use ci_core::id::CacheKey;
use ci_core::queue::Claim;
use ci_core::records::{Batch, Condition, Key};
use ci_core::secret::Purpose;
use ci_core::{ByteStream, Error, ErrorKind, Result, stream};

use super::Objects;
use super::sealed::{self, ObjectName, Stored};

/// How often somebody else may be faster.
const MOST_ROUNDS: usize = 20;

/// The caches among [`Objects`]; [`Objects::caches`] makes it. There is one object per key and trust level: a cache
/// that is saved again replaces the one before.
///
/// The namespace is part of what a cache is sealed for: a cache that somebody moves into the namespace of a more
/// trusted level does not open there.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// use ci_core::cache::CacheStore as _;
/// use ci_core::id::CacheKey;
/// use ci_core::memory::Rig;
/// use ci_core::{ByteSize, stream, trust::Origin};
/// use ci_storage::objects::Objects;
/// # let (folder, rig) = (tempfile::tempdir()?, Rig::new()?);
/// # let path = folder.path().join("objects");
/// # let (repository, key) = (Rig::repository("1", "acme")?, CacheKey::parse("dependencies")?);
///
/// let caches = Objects::folder(path, rig.records(), rig.ring.clone(), rig.clock.clone())?.caches();
/// let first = rig.claim(&repository, Origin::Repository, Rig::spec()).await?;
/// caches.save(&first, &key, stream::once("compiled")).await?;
///
/// let second = rig.claim(&repository, Origin::Repository, Rig::spec()).await?;
/// let content = caches.restore(&second, &key).await?.expect("what the first one saved");
/// assert_eq!(stream::collect(content, ByteSize::mib(1)).await?, b"compiled");
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct ObjectCaches {
    objects: Objects,
}

impl ObjectCaches {
    pub(super) fn new(objects: Objects) -> Self {
        Self { objects }
    }

    async fn find(&self, claim: &Claim, space: &str, key: &CacheKey) -> Result<Option<ByteStream<'static>>> {
        let (place, purpose) = (place(&claim.scope()?, space, key), Purpose::cache(space, key));
        let mut last = None;
        for _ in 0..MOST_ROUNDS {
            let Some(record) = self.objects.records.get(&place).await? else { return Ok(None) };
            if last == Some(record.version) {
                return Err(sealed::tampered().with("cache", key));
            }
            let stored = self.objects.describe(claim.scope()?, &purpose, &record).await?;
            if let Some(content) = self.objects.download(claim.scope()?, &purpose, &stored).await? {
                return Ok(Some(content));
            }
            // It may have been replaced since its record was read: then there is another record now.
            last = Some(record.version);
        }
        Err(busy("restore a cache", key))
    }

    /// Lets the cache be what was uploaded, and returns the object that it was before.
    async fn replace(
        &self,
        claim: &Claim,
        key: &CacheKey,
        purpose: &Purpose,
        stored: &Stored,
    ) -> Result<Option<ObjectName>> {
        let place = place(&claim.scope()?, namespace(claim.trust()), key);
        for _ in 0..MOST_ROUNDS {
            let held = Batch::new().require(Condition::Held(claim.fence()?.clone()));
            let (batch, earlier) = match self.objects.records.get(&place).await? {
                None => (held.require(Condition::Absent(place.clone())), None),
                Some(record) => {
                    let batch = held.require(Condition::Is(place.clone(), record.version));
                    // What cannot be opened is replaced all the same, or a cache that is damaged once stays so.
                    match self.objects.describe(claim.scope()?, purpose, &record).await {
                        Ok(earlier) => (batch.delete(earlier.object.mark()), Some(earlier.object)),
                        Err(error) if error.is_retryable() => return Err(error),
                        Err(_) => (batch, None),
                    }
                }
            };
            match self.objects.publish(claim.scope()?, purpose, place.clone(), stored, batch).await {
                Ok(()) => return Ok(earlier),
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                Err(error) => return Err(error),
            }
        }
        Err(busy("save a cache", key))
    }
}

#[async_trait]
impl CacheStore for ObjectCaches {
    async fn restore(&self, claim: &Claim, key: &CacheKey) -> Result<Option<ByteStream<'static>>> {
        for space in readable(claim.trust()) {
            let found = self.find(claim, space, key).await?;
            if found.is_some() {
                return Ok(found);
            }
        }
        // Also where there is nothing to ask for: a job whose lease is over learns nothing.
        claim.fence().map(|_| None)
    }

    async fn save(&self, claim: &Claim, key: &CacheKey, content: ByteStream<'_>) -> Result<()> {
        let purpose = Purpose::cache(namespace(claim.trust()), key);
        let token = claim.fence()?.token;
        let content = stream::limited(content, claim.spec().limits.artifact);
        let stored = self.objects.upload(claim.scope()?, &purpose, token, content).await?;
        let saved = self.replace(claim, key, &purpose, &stored).await;
        self.objects.settle(&stored, saved).await
    }
}

fn place(scope: &Scope<'_>, space: &str, key: &CacheKey) -> Key {
    Key::new("cache").repository(scope.repository()).part(space).part(key.as_str())
}

fn busy(operation: &'static str, key: &CacheKey) -> Error {
    Error::new(ErrorKind::Unavailable, operation).because("too many others save it").with("cache", key)
}
