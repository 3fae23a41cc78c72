//! Keys, one per repository and kind of purpose.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;

use crate::access::Scope;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{KeyId, RepositoryId};
use crate::lock::lock;
use crate::operator::Act;
use crate::seal::DataKey;
use crate::secret::{KeyRing, Purpose};

/// A key ring in memory: random keys, which are gone with it.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use ci_core::access::Read;
/// use ci_core::id::JobId;
/// use ci_core::memory::{Rig, Ring};
/// use ci_core::secret::{KeyRing as _, Purpose};
///
/// let (rig, ring, job) = (Rig::new()?, Ring::new(), JobId::random());
/// let ours = rig.grant::<Read>(&Rig::user("ada")?, &Rig::repository("1", "acme")?).await?;
/// let theirs = rig.grant::<Read>(&Rig::user("ada")?, &Rig::repository("2", "acme")?).await?;
/// let sealed = ring.seal(ours.scope()?, &Purpose::log(&job, 0), b"hello").await?;
/// assert_eq!(ring.open(ours.scope()?, &Purpose::log(&job, 0), &sealed).await?, "hello");
/// assert!(ring.open(theirs.scope()?, &Purpose::log(&job, 0), &sealed).await.is_err());
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Default)]
pub struct Ring {
    keys: Mutex<BTreeMap<Place, Keys>>,
}

/// A repository and a kind of purpose.
type Place = (RepositoryId, &'static str);

/// All keys of one place; the last one is the current one.
type Keys = Vec<Arc<DataKey>>;

impl Ring {
    /// A ring without keys; each is drawn when it is first asked for.
    pub fn new() -> Self {
        Self::default()
    }

    /// Draws new keys for a repository. What was sealed before still opens.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when the act is for another tenant.
    pub fn rotate(&self, act: &Act<'_>, repository: &RepositoryId) -> Result<()> {
        act.covers(repository.tenant())?;
        let mut keys = lock(&self.keys);
        let of_repository = keys.iter_mut().filter(|((of, _), _)| of == repository);
        of_repository.for_each(|(_, keys)| keys.push(Arc::new(DataKey::random())));
        Ok(())
    }

    /// Destroys all keys of a repository. What was sealed with them never opens again.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when the act is for another tenant.
    pub fn destroy(&self, act: &Act<'_>, repository: &RepositoryId) -> Result<()> {
        act.covers(repository.tenant())?;
        lock(&self.keys).retain(|(of, _), _| of != repository);
        Ok(())
    }
}

#[async_trait]
impl KeyRing for Ring {
    async fn data_key(
        &self,
        scope: Scope<'_>,
        purpose: &Purpose,
        id: Option<&KeyId>,
    ) -> Result<Arc<DataKey>> {
        let place = (scope.repository().clone(), purpose.kind());
        let mut keys = lock(&self.keys);
        let Some(id) = id else {
            let of_place = keys.entry(place).or_default();
            if of_place.is_empty() {
                of_place.push(Arc::new(DataKey::random()));
            }
            return Ok(of_place[of_place.len() - 1].clone());
        };
        let found = keys.get(&place).and_then(|keys| keys.iter().find(|key| key.id() == id));
        found.cloned().ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "get a key").because("there is none with that id").with("key", id)
        })
    }
}
