//! What a right was good for once says nothing about the next time.

use ci_core::Result;
use ci_core::access::{Grant, Read};
use ci_core::id::JobId;
use ci_core::secret::{KeyRing, Purpose};

async fn read_on(grant: &Grant<Read>, keys: &dyn KeyRing, job: &JobId, sealed: &[u8]) -> Result<()> {
    let scope = grant.scope()?;
    loop {
        keys.open(scope, &Purpose::log(job, 0), sealed).await?;
    }
}

fn main() {}
