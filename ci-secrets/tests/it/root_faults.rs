//! A vault whose root key fails.

use std::sync::Arc;
use std::time::Duration;

use ci_core::secret::SecretStore as _;
use ci_core::{ErrorKind, Result};
use ci_secrets::conformance::root_key::{Fault, Faults as _, FaultyRoot};
use ci_secrets::{Vault, VaultOptions};
use futures_util::future::poll_immediate;

use crate::bench::{Bench, name, repository};

/// A vault with a secret in it, as another process sees it, which has unwrapped nothing yet.
async fn rig() -> (Bench, Arc<FaultyRoot>, Vault) {
    let bench = Bench::new();
    bench.put(&repository("1"), "TOKEN", "hunter2").await;
    let root = Arc::new(FaultyRoot::new(bench.root.clone()));
    let vault = bench.other_vault(root.clone());
    (bench, root, vault)
}

async fn leased(bench: &Bench, vault: &Vault) -> Result<Vec<u8>> {
    let claim = bench.claim(&repository("1")).await;
    let lease = vault.lease(claim.trusted()?, &[name("TOKEN")]).await?;
    Ok(lease.value(&name("TOKEN"))?.expose().to_vec())
}

#[tokio::test]
async fn an_outage_is_retryable_and_over_when_it_is_over() {
    let (bench, root, vault) = rig().await;
    root.set(Some(Fault::Fails(1)));
    let error = leased(&bench, &vault).await.expect_err("the root key is down");
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Unavailable, true), "{error:?}");
    assert_eq!(leased(&bench, &vault).await.expect("it is over"), b"hunter2");
}

#[tokio::test]
async fn an_outage_stops_no_job_while_keys_are_remembered() {
    let (bench, root, vault) = rig().await;
    let remembered = Duration::from_secs(4);
    let vault = vault.with_options(VaultOptions::default().with_keys_for(remembered));
    leased(&bench, &vault).await.expect("all is well");
    root.set(Some(Fault::Down));
    let asked = root.asked();
    bench.rig.clock.advance(remembered / 2);
    assert_eq!(leased(&bench, &vault).await.expect("it remembers, though it asks again"), b"hunter2");
    bench.rig.clock.advance(remembered / 2);
    let error = leased(&bench, &vault).await.expect_err("it has forgotten");
    assert!(error.is_retryable() && root.asked() > asked, "{error:?}");
}

#[tokio::test]
async fn a_refusal_is_no_outage_although_keys_are_remembered() {
    let (bench, root, vault) = rig().await;
    let remembered = Duration::from_secs(4);
    let vault = vault.with_options(VaultOptions::default().with_keys_for(remembered));
    leased(&bench, &vault).await.expect("all is well");
    root.set(Some(Fault::Refuses));
    bench.rig.clock.advance(remembered / 2);
    let error = leased(&bench, &vault).await.expect_err("it asks again, and the answer is final");
    assert!(!error.is_retryable(), "{error:?}");
}

#[tokio::test]
async fn a_wrong_key_opens_nothing() {
    let (bench, root, vault) = rig().await;
    root.set(Some(Fault::WrongKey));
    let error = leased(&bench, &vault).await.expect_err("it is another key");
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Tampered, false), "{error:?}");
}

#[tokio::test]
async fn a_job_that_waits_for_a_hanging_root_key_can_be_cancelled() {
    let (bench, root, vault) = rig().await;
    root.set(Some(Fault::Hangs));
    assert!(poll_immediate(Box::pin(leased(&bench, &vault))).await.is_none());
    assert_eq!(root.asked(), 1, "it had come to the root key");
    root.set(None);
    assert_eq!(leased(&bench, &vault).await.expect("nothing is in the way"), b"hunter2");
}
