//! Secrets are leased to a trusted claim: a claim alone is not enough.

use std::sync::Arc;

use ci_core::id::SecretName;
use ci_core::queue::Claim;
use ci_core::secret::{Masker, SecretLease, SecretStore};

async fn ask(store: &dyn SecretStore, claim: &Claim, names: &[SecretName]) {
    let _ = store.lease(claim, names).await;
}

fn make(claim: &Claim, masker: Arc<dyn Masker>) -> SecretLease {
    SecretLease::new(claim, [], masker)
}

fn main() {}
