//! Folders that are kept from one job of a repository to the next.

use std::fmt;

use async_trait::async_trait;

#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::Result;
use crate::id::CacheKey;
use crate::queue::Claim;
use crate::stream::ByteStream;
use crate::trust::Trust;

/// Where caches are kept: per repository, and per trust level within it.
///
/// A job saves into the namespace of its own trust level and no other. It restores from its own, or from one of
/// more trusted jobs; what less trusted jobs saved does not exist for it. [`readable`] says so once for every
/// implementor.
///
/// # Cancel safety
///
/// Dropping the future of [`restore`](Self::restore) has no effect; a dropped [`save`](Self::save) leaves either what
/// was there before or the whole of what is new.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use std::sync::Arc;
/// use ci_core::cache::CacheStore;
/// use ci_core::id::CacheKey;
/// use ci_core::memory::{Caches, Rig};
/// use ci_core::{ByteSize, stream, trust::Origin};
///
/// # let rig = Rig::new()?;
/// # let (repository, key) = (Rig::repository("1", "acme")?, CacheKey::parse("dependencies")?);
/// let caches: Arc<dyn CacheStore> = Arc::new(Caches::new(rig.records()));
/// let nightly = rig.claim(&repository, Origin::Protected, Rig::spec()).await?;
/// caches.save(&nightly, &key, stream::once("compiled")).await?;
///
/// let fork = rig.claim(&repository, Origin::Fork, Rig::spec()).await?;
/// assert!(caches.restore(&fork, &key).await?.is_some());
/// caches.save(&fork, &key, stream::once("poisoned")).await?;
///
/// let next = rig.claim(&repository, Origin::Protected, Rig::spec()).await?;
/// let found = caches.restore(&next, &key).await?.expect("what the nightly job saved");
/// assert_eq!(stream::collect(found, ByteSize::mib(1)).await?, b"compiled");
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[async_trait]
pub trait CacheStore: fmt::Debug + Send + Sync + 'static {
    /// The cache with that key that was saved last, from the first namespace in [`readable`] that has one.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Fenced`] when the claim is over;
    /// [`ErrorKind::Tampered`], also in the stream, when what is stored is not what
    /// was saved; [`ErrorKind::Unavailable`] when the store cannot be reached.
    async fn restore(&self, claim: &Claim, key: &CacheKey) -> Result<Option<ByteStream<'static>>>;

    /// Saves `content`, in place of an earlier one with that key. It becomes visible if and only if all of it is
    /// stored.
    ///
    /// # Errors
    ///
    /// The stream's own error; [`ErrorKind::LimitExceeded`] when it is longer than
    /// [`Limits::artifact`](crate::job::Limits::artifact) of the job; [`ErrorKind::Fenced`] when the claim is over;
    /// [`ErrorKind::Unavailable`] when the store cannot be reached.
    async fn save(&self, claim: &Claim, key: &CacheKey, content: ByteStream<'_>) -> Result<()>;
}

/// The namespace that jobs of this trust level save into.
pub fn namespace(trust: Trust) -> &'static str {
    match trust {
        Trust::Untrusted => "untrusted",
        Trust::Trusted => "trusted",
        Trust::Protected => "protected",
    }
}

/// The namespaces that jobs of this trust level restore from, in this order.
pub fn readable(trust: Trust) -> &'static [&'static str] {
    match trust {
        Trust::Untrusted => &["untrusted", "trusted", "protected"],
        Trust::Trusted => &["trusted", "protected"],
        Trust::Protected => &["protected"],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_reads_what_less_trusted_jobs_wrote() {
        let levels = [Trust::Untrusted, Trust::Trusted, Trust::Protected];
        for reader in levels {
            assert_eq!(readable(reader)[0], namespace(reader), "its own first");
            for writer in levels {
                assert_eq!(readable(reader).contains(&namespace(writer)), writer >= reader);
            }
        }
    }
}
