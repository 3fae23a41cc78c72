//! Wakes the readers of a log when something happens to it in this process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ci_core::id::JobId;
use tokio::sync::watch;

/// Bells, one per job whose log somebody waits for.
#[derive(Clone, Debug, Default)]
pub(super) struct Bells(Arc<Mutex<HashMap<JobId, watch::Sender<()>>>>);

impl Bells {
    /// Wakes everybody who listens to this job.
    pub(super) fn ring(&self, job: &JobId) {
        if let Some(bell) = self.lock().get(job) {
            bell.send_replace(());
        }
    }

    /// Listens from now on.
    pub(super) fn listen(&self, job: &JobId) -> Listener {
        let bell = self.lock().entry(job.clone()).or_default().subscribe();
        Listener { bell: Some(bell), job: job.clone(), bells: self.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<JobId, watch::Sender<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who listens.
#[derive(Debug)]
pub(super) struct Listener {
    // `None` only while it is dropped.
    bell: Option<watch::Receiver<()>>,
    job: JobId,
    bells: Bells,
}

impl Listener {
    /// Returns when the bell has rung since this listens.
    pub(super) async fn rung(&mut self) {
        if let Some(bell) = &mut self.bell {
            // It fails only when the bell is gone, and it stays while somebody listens.
            let _ = bell.changed().await;
        }
    }
}

impl Drop for Listener {
    /// The last one out takes the bell down.
    fn drop(&mut self) {
        let mut bells = self.bells.lock();
        drop(self.bell.take());
        if bells.get(&self.job).is_some_and(|bell| bell.receiver_count() == 0) {
            bells.remove(&self.job);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_listener_hears_what_rang_since_it_listens_and_takes_its_bell_along() {
        let (bells, job, other) = (Bells::default(), JobId::random(), JobId::random());
        bells.ring(&job);
        let mut listener = bells.listen(&job);
        bells.ring(&other);
        assert!(futures_util::poll!(std::pin::pin!(listener.rung())).is_pending());
        bells.ring(&job);
        listener.rung().await;
        assert_eq!(bells.lock().len(), 1);
        drop(listener);
        assert!(bells.lock().is_empty());
    }
}
