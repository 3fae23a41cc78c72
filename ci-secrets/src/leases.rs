//! The leases that this vault has given and that may still be held, to be ended before their claims are.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ci_core::id::{JobId, RepositoryId};
use ci_core::secret::LeaseEnd;

/// Leases by repository; no more than there are.
#[derive(Debug, Default)]
pub(crate) struct Leases(Mutex<HashMap<RepositoryId, Vec<Given>>>);

#[derive(Debug)]
struct Given {
    job: JobId,
    end: LeaseEnd,
}

impl Leases {
    /// What ends the lease that `job` is about to get. It is made before the first value is read, so that no lease slips
    /// through that is made while they are revoked.
    pub(crate) fn begin(&self, repository: &RepositoryId, job: &JobId) -> LeaseEnd {
        let mut all = self.lock();
        all.retain(|_, given| {
            given.retain(|given| given.end.is_held());
            !given.is_empty()
        });
        let end = LeaseEnd::new();
        all.entry(repository.clone()).or_default().push(Given { job: job.clone(), end: end.clone() });
        end
    }

    /// Ends all leases of `repository`, and returns whose they were.
    pub(crate) fn revoke(&self, repository: &RepositoryId) -> Vec<JobId> {
        let given = self.lock().remove(repository).unwrap_or_default();
        let held = given.into_iter().filter(|given| given.end.is_held());
        held.map(|given| {
            given.end.end();
            given.job
        })
        .collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RepositoryId, Vec<Given>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
