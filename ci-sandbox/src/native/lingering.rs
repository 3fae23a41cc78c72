//! What the kernel still has of dead sandboxes: namespaces, and network cards.
//!
//! Letting go of them takes it tens of milliseconds, and nobody waits for that. What is left is looked at later; what
//! does not go is a leftover.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use ci_core::id::SandboxId;
use ci_core::sandbox::Residue;
use tokio::time::sleep;

use super::lock::lock;
use super::namespaces::Namespaces;
use super::network::Link;

/// The dead sandboxes of which something was left when they were looked at last.
#[derive(Debug, Default)]
pub(super) struct Lingering(Mutex<HashMap<SandboxId, Dead>>);

/// What the kernel takes its time with.
#[derive(Debug)]
pub(super) struct Dead {
    since: Instant,
    namespaces: Namespaces,
    /// Somebody sees it off.
    link: Option<Arc<Link>>,
}

impl Dead {
    /// Of a sandbox that has just died.
    pub(super) fn new(namespaces: Namespaces, link: Option<Arc<Link>>) -> Self {
        Self { since: Instant::now(), namespaces, link }
    }

    /// What still exists, or cannot be told not to.
    fn left(&self) -> Residue {
        let links = usize::from(self.link.as_ref().is_some_and(|link| !link.is_gone()));
        Residue { namespaces: self.namespaces.count(), links, ..Residue::default() }
    }
}

impl Lingering {
    /// Adds a sandbox, and forgets others of which nothing is left by now.
    pub(super) fn add(&self, id: &SandboxId, dead: Dead) {
        let mut all = self.all();
        all.retain(|_, dead| !dead.left().is_empty());
        all.insert(id.clone(), dead);
    }

    /// The sandboxes of which somebody holds something, for the kernel needs no longer than `patience`.
    pub(super) fn overdue(&self, patience: Duration) -> Vec<SandboxId> {
        let mut all = self.all();
        all.retain(|_, dead| !dead.left().is_empty());
        all.iter().filter(|(_, dead)| dead.since.elapsed() > patience).map(|(id, _)| id.clone()).collect()
    }

    /// Waits until nothing is left of a sandbox, and returns what is after `patience`.
    pub(super) async fn gone(&self, id: &SandboxId, patience: Duration) -> Residue {
        const BETWEEN: Duration = Duration::from_millis(5);
        loop {
            let (left, age) = match self.all().get(id) {
                None => return Residue::default(),
                Some(dead) => (dead.left(), dead.since.elapsed()),
            };
            if left.is_empty() {
                self.all().remove(id);
            }
            if left.is_empty() || age > patience {
                return left;
            }
            sleep(BETWEEN).await;
        }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<SandboxId, Dead>> {
        lock(&self.0)
    }
}
