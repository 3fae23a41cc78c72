//! Output cannot be read without a grant: a session is none, and neither is a repository's name.

use ci_core::access::Session;
use ci_core::id::{JobId, RepositoryId};
use ci_core::log::{Cursor, LogStore};

async fn read(log: &dyn LogStore, who: &Session, repository: &RepositoryId, job: &JobId) {
    let _ = log.read(who, job, Cursor(0), 1).await;
    let _ = log.read(repository, job, Cursor(0), 1).await;
    let _ = log.read(job, Cursor(0), 1).await;
}

fn main() {}
