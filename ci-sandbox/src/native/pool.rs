//! Sandboxes made before anybody asks for them. Each is used once, as every other; what is never shared or used again is
//! what makes waiting for it unnecessary.

use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use ci_core::Result;
use ci_core::id::SandboxId;
use ci_core::sandbox::{IsolationReport, Spec};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::sleep;

use super::lock::lock;
use super::shared::Shared;

/// What is kept ready, one shelf for each kind of sandbox.
#[derive(Debug, Default)]
pub(super) struct Pool(Vec<Arc<Shelf>>);

#[derive(Debug)]
struct Shelf {
    spec: Spec,
    size: usize,
    stock: Mutex<Stock>,
    /// Somebody has taken one, or it is closed.
    changed: Notify,
    /// Held while one is being made.
    making: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Stock {
    ready: Vec<Prepared>,
    is_closed: bool,
}

/// A sandbox that nothing has run in. It stands in the books under an id of its own.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) id: SandboxId,
    pub(super) isolation: IsolationReport,
}

impl Pool {
    /// A pool with `size` sandboxes of every spec, none of which is made yet.
    pub(super) fn new(warm: Vec<(Spec, usize)>) -> Self {
        let shelf = |(spec, size)| {
            let (stock, changed, making) = Default::default();
            Arc::new(Shelf { spec, size, stock, changed, making })
        };
        Self(warm.into_iter().map(shelf).collect())
    }

    /// What it keeps ready.
    pub(super) fn specs(&self) -> impl Iterator<Item = &Spec> {
        self.0.iter().map(|shelf| &shelf.spec)
    }

    /// How many it holds.
    pub(super) fn ready(&self) -> usize {
        self.0.iter().map(|shelf| shelf.stock().ready.len()).sum()
    }

    /// Fills it and keeps it filled, one sandbox of a kind at a time, for as long as the backend lives.
    pub(super) fn keep_filled(&self, shared: &Arc<Shared>, runtime: &Handle) {
        for shelf in &self.0 {
            runtime.spawn(shelf.clone().keep_filled(Arc::downgrade(shared)));
        }
    }

    /// One that is as `spec` asks, if there is one.
    pub(super) fn take(&self, spec: &Spec) -> Option<Prepared> {
        let shelf = self.0.iter().find(|shelf| shelf.has(spec))?;
        let prepared = shelf.stock().ready.pop_if(|ready| ready.isolation.require(&spec.minimum).is_ok());
        shelf.changed.notify_one();
        prepared
    }

    /// Makes no more, and returns all that are ready.
    pub(super) fn close(&self) -> Vec<Prepared> {
        let close = |shelf: &Arc<Shelf>| {
            let mut stock = shelf.stock();
            stock.is_closed = true;
            shelf.changed.notify_one();
            std::mem::take(&mut stock.ready)
        };
        self.0.iter().flat_map(close).collect()
    }

    /// Waits until no more are being made, once it is closed.
    pub(super) async fn settled(&self) {
        for shelf in &self.0 {
            drop(shelf.making.lock().await);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shelf {
    fn has(&self, spec: &Spec) -> bool {
        let Spec { image, limits, network, binds, .. } = &self.spec;
        (image, limits, network, binds) == (&spec.image, &spec.limits, &spec.network, &spec.binds)
    }

    async fn keep_filled(self: Arc<Self>, shared: Weak<Shared>) {
        const FIRST_PAUSE: Duration = Duration::from_secs(1);
        const LONGEST_PAUSE: Duration = Duration::from_mins(1);
        let mut pause = FIRST_PAUSE;
        while let Some(shared) = shared.upgrade().filter(|_| !self.stock().is_closed) {
            if self.stock().ready.len() >= self.size {
                drop(shared);
                self.changed.notified().await;
                continue;
            }
            if self.add_one(&shared).await.is_ok() {
                pause = FIRST_PAUSE;
                continue;
            }
            // Whoever asks for a sandbox meanwhile is told why there is none.
            drop(shared);
            sleep(pause).await;
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }

    async fn add_one(&self, shared: &Arc<Shared>) -> Result<()> {
        let _making = self.making.lock().await;
        let id = SandboxId::random();
        let isolation = shared.make(&id, &self.spec, None).await?;
        if let Some(late) = self.put(Prepared { id, isolation }) {
            shared.destroy(&late.id).await?;
        }
        Ok(())
    }

    /// Adds one, or gives it back when it is too late for that.
    fn put(&self, prepared: Prepared) -> Option<Prepared> {
        let mut stock = self.stock();
        if stock.is_closed {
            return Some(prepared);
        }
        stock.ready.push(prepared);
        None
    }

    fn stock(&self) -> MutexGuard<'_, Stock> {
        lock(&self.stock)
    }
}
