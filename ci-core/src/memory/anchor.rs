//! A number that only grows.

use std::sync::Mutex;

use async_trait::async_trait;

use super::lock::lock;
use crate::error::{Error, ErrorKind, Result};
use crate::secret::FreshnessAnchor;

/// A freshness anchor in memory.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use ci_core::memory::Anchor;
/// use ci_core::secret::FreshnessAnchor as _;
///
/// let anchor = Anchor::default();
/// anchor.advance(7).await?;
/// assert!(anchor.advance(7).await.is_err());
/// assert_eq!(anchor.latest().await?, Some(7));
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Default)]
pub struct Anchor(Mutex<Option<u64>>);

#[async_trait]
impl FreshnessAnchor for Anchor {
    async fn latest(&self) -> Result<Option<u64>> {
        Ok(*lock(&self.0))
    }

    async fn advance(&self, value: u64) -> Result<()> {
        let mut latest = lock(&self.0);
        if latest.is_some_and(|latest| value <= latest) {
            return Err(Error::new(ErrorKind::Conflict, "advance the freshness anchor")
                .because("it has come further")
                .with("value", value));
        }
        *latest = Some(value);
        Ok(())
    }
}
