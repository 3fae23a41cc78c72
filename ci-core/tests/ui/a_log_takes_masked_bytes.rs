//! Bytes that were not masked reach no log.

use bytes::Bytes;
use ci_core::log::LogStore;
use ci_core::queue::Claim;
use ci_core::secret::Masked;

async fn append(log: &dyn LogStore, claim: &Claim) {
    let _ = log.append(claim, 0, Bytes::from_static(b"raw")).await;
    let _ = log.append(claim, 0, b"raw".to_vec()).await;
    let bytes = Bytes::from_static(b"raw");
    let _ = log.append(claim, 0, Masked { bytes, job: Some(claim.job().clone()) }).await;
    let _ = log.append(claim, 0, Bytes::from_static(b"raw").into()).await;
}

fn main() {}
