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
    /// The stream's own error; [`ErrorKind::Fenced`] when the claim is over;
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
