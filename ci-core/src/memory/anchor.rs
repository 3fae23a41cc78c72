//! Marks that only grow.

use std::collections::BTreeMap;
use std::sync::Mutex;

use async_trait::async_trait;

use crate::error::{Error, ErrorKind, Result};
use crate::lock::lock;
use crate::records::Key;
use crate::secret::{FreshnessAnchor, Mark};

/// A freshness anchor in memory.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use ci_core::memory::Anchor;
/// use ci_core::records::Key;
/// use ci_core::secret::{FreshnessAnchor as _, Mark};
///
/// let (anchor, log) = (Anchor::default(), Key::new("audit").part("acme"));
/// anchor.advance(&log, &Mark::of(7, b"seven entries")).await?;
/// assert!(anchor.advance(&log, &Mark::of(7, b"seven others")).await.is_err());
/// assert_eq!(anchor.latest(&log).await?.map(|mark| mark.number), Some(7));
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Default)]
pub struct Anchor(Mutex<BTreeMap<Key, Mark>>);

#[async_trait]
impl FreshnessAnchor for Anchor {
    async fn latest(&self, of: &Key) -> Result<Option<Mark>> {
        Ok(lock(&self.0).get(of).cloned())
    }

    async fn advance(&self, of: &Key, mark: &Mark) -> Result<()> {
        let mut marks = lock(&self.0);
        if marks.get(of).is_some_and(|latest| latest != mark && mark.number <= latest.number) {
            return Err(Error::new(ErrorKind::Conflict, "advance the freshness anchor")
                .because("it has come further")
                .with("number", mark.number));
        }
        marks.insert(of.clone(), mark.clone());
        Ok(())
    }

    async fn forget(&self, of: &Key) -> Result<()> {
        lock(&self.0).remove(of);
        Ok(())
    }
}
