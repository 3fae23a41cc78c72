//! What a runner told, as a test reads it.

use std::sync::Mutex;

use crate::id::JobId;
use crate::lock::lock;
use crate::runner::{Event, Observer};

/// An observer that writes everything down.
///
/// # Example
///
/// ```
/// use ci_core::id::JobId;
/// use ci_core::memory::Recorder;
/// use ci_core::runner::{Event, Observer as _};
///
/// let (recorder, job) = (Recorder::new(), JobId::random());
/// recorder.observe(&job, &Event::CheckedOut);
/// assert_eq!(recorder.events(&job), ["CheckedOut"]);
/// ```
#[derive(Debug, Default)]
pub struct Recorder(Mutex<Vec<(JobId, String)>>);

impl Recorder {
    /// A recorder that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// What happened in a job, in order, each as its `Debug` text.
    pub fn events(&self, job: &JobId) -> Vec<String> {
        lock(&self.0).iter().filter(|(of, _)| of == job).map(|(_, event)| event.clone()).collect()
    }
}

impl Observer for Recorder {
    fn observe(&self, job: &JobId, event: &Event<'_>) {
        lock(&self.0).push((job.clone(), format!("{event:?}")));
    }
}
