//! Where attacks are tried.

use std::sync::Arc;

use ci_core::Result;
use ci_core::job::Limits;
use ci_core::sandbox::Spec;
use tokio::sync::OnceCell;

use crate::conformance::Bench;
use crate::conformance::guest::{Guest, unexpected};

/// A bench, and a sandbox for those attacks that do not mind what others have done in it.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) bench: Arc<dyn Bench>,
    shared: OnceCell<Guest>,
}

impl Stage {
    pub(crate) fn new(bench: Arc<dyn Bench>) -> Self {
        Self { bench, shared: OnceCell::new() }
    }

    /// The shared sandbox.
    pub(crate) async fn guest(&self) -> Result<&Guest> {
        self.shared.get_or_try_init(|| self.fresh()).await
    }

    /// A sandbox of its own, within the default limits.
    pub(crate) async fn fresh(&self) -> Result<Guest> {
        self.fresh_within(Limits::default()).await
    }

    pub(crate) async fn fresh_within(&self, limits: Limits) -> Result<Guest> {
        Guest::of(self.bench.backend(), self.spec().with_limits(limits)).await
    }

    pub(crate) fn spec(&self) -> Spec {
        Spec::new(self.bench.image())
    }

    /// Takes the shared sandbox down.
    pub(crate) async fn clear(&mut self) -> Result<()> {
        match self.shared.take() {
            Some(guest) => gone(guest).await,
            None => Ok(()),
        }
    }
}

/// Takes a sandbox down, of which nothing must be left.
pub(crate) async fn gone(guest: Guest) -> Result<()> {
    let residue = guest.destroy().await?;
    if residue.is_empty() {
        return Ok(());
    }
    Err(unexpected("destroy a sandbox", format!("something of it is left: {residue:?}")))
}
