//! What every signer with SSH keys must do.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ci_core::ErrorKind;
use ci_core::access::{Grant, Read};
use ci_core::memory::Rig;
use ci_core::queue::Claim;
use ci_core::secret::{SshPublicKey, SshSigner};
use ci_core::trust::Origin;
use ed25519_dalek::{Signature, VerifyingKey};

use super::{refused, repository, rig, user};

ci_core::declare_kit! {
    /// Runs every case about signers with SSH keys; takes a closure that makes an `Arc<dyn SshSigner>`.
    ssh_signer_kit for ci_secrets::conformance::ssh_signer {
        a_signature_is_the_listed_key_s,
        a_key_stays_the_same,
        repositories_have_different_keys,
        no_key_signs_before_somebody_could_install_it,
        another_repository_s_key_does_not_sign,
        a_job_of_a_fork_is_checked_out_too,
        a_claim_that_is_over_signs_nothing,
        a_grant_that_is_over_lists_nothing,
        many_at_once_get_one_key,
    }
}

type Signer = Arc<dyn SshSigner>;

async fn grant(rig: &Rig, native: &str) -> Grant<Read> {
    rig.grant(&user(), &repository(native)).await.expect("a grant")
}

async fn claim(rig: &Rig, native: &str, origin: Origin) -> Claim {
    rig.claim(&repository(native), origin, Rig::spec()).await.expect("a claim")
}

async fn listed(signer: &Signer, rig: &Rig, native: &str) -> SshPublicKey {
    let keys = signer.public_keys(&grant(rig, native).await).await.expect("public keys");
    *keys.first().expect("a repository gets a key")
}

#[track_caller]
fn verify(key: &SshPublicKey, data: &[u8], signature: [u8; 64]) {
    let key = VerifyingKey::from_bytes(key.as_ed25519()).expect("a point of the curve");
    let signature = Signature::from_bytes(&signature);
    assert!(key.verify_strict(data, &signature).is_ok(), "the signature is not the listed key's");
}

/// What is signed verifies with the first key of the list.
pub async fn a_signature_is_the_listed_key_s(signer: Signer) {
    let rig = rig();
    let key = listed(&signer, &rig, "1").await;
    let claim = claim(&rig, "1", Origin::Protected).await;
    assert_eq!(signer.identity(&claim).await.expect("a key"), key);
    for data in [&b""[..], b"data", &vec![7; 100_000]] {
        verify(&key, data, signer.sign(&claim, &key, data).await.expect("a signature"));
    }
}

/// Asking again makes no other key.
pub async fn a_key_stays_the_same(signer: Signer) {
    let rig = rig();
    assert_eq!(listed(&signer, &rig, "1").await, listed(&signer, &rig, "1").await);
}

/// No key serves two repositories, nor two tenants.
pub async fn repositories_have_different_keys(signer: Signer) {
    let rig = rig();
    let elsewhere = Rig::repository("1", "umbrella").expect("a repository");
    let elsewhere = rig.grant::<Read>(&user(), &elsewhere).await.expect("a grant");
    let elsewhere = signer.public_keys(&elsewhere).await.expect("public keys");
    let keys = [listed(&signer, &rig, "1").await, listed(&signer, &rig, "2").await, elsewhere[0]];
    assert_eq!(BTreeSet::from(keys).len(), 3, "two repositories have one key");
}

/// A job gets no key that nobody has seen.
pub async fn no_key_signs_before_somebody_could_install_it(signer: Signer) {
    let rig = rig();
    let claim = claim(&rig, "1", Origin::Protected).await;
    refused(signer.identity(&claim).await, &[ErrorKind::NotFound], "a key that nobody has seen");
}

/// A job signs with its own repository's key only.
pub async fn another_repository_s_key_does_not_sign(signer: Signer) {
    let rig = rig();
    let theirs = listed(&signer, &rig, "2").await;
    listed(&signer, &rig, "1").await;
    let claim = claim(&rig, "1", Origin::Protected).await;
    let never = SshPublicKey::from_ed25519([0; 32]);
    for key in [theirs, never] {
        refused(signer.sign(&claim, &key, b"data").await, &[ErrorKind::NotFound], "another key");
    }
}

/// The key fetches the code of a fork's job as well: the job itself does not meet it.
pub async fn a_job_of_a_fork_is_checked_out_too(signer: Signer) {
    let rig = rig();
    let key = listed(&signer, &rig, "1").await;
    let claim = claim(&rig, "1", Origin::Fork).await;
    verify(&key, b"data", signer.sign(&claim, &key, b"data").await.expect("a signature"));
}

/// The right to sign ends with the claim.
pub async fn a_claim_that_is_over_signs_nothing(signer: Signer) {
    let rig = rig();
    let key = listed(&signer, &rig, "1").await;
    let claim = claim(&rig, "1", Origin::Protected).await;
    rig.clock.advance(Duration::from_secs(30));
    refused(signer.identity(&claim).await, &[ErrorKind::Fenced], "a claim that is over");
    refused(signer.sign(&claim, &key, b"data").await, &[ErrorKind::Fenced], "a claim that is over");
}

/// The right to look ends with the grant.
pub async fn a_grant_that_is_over_lists_nothing(signer: Signer) {
    let rig = rig();
    let grant = grant(&rig, "1").await;
    rig.clock.advance(Duration::from_hours(24));
    refused(signer.public_keys(&grant).await, &[ErrorKind::Denied], "a grant that is over");
}

/// The first use of a repository by many at once makes one key, not many.
pub async fn many_at_once_get_one_key(signer: Signer) {
    let rig = rig();
    let mut asking = Vec::new();
    for _ in 0..16 {
        let (grant, signer) = (grant(&rig, "1").await, signer.clone());
        asking.push(tokio::spawn(async move { signer.public_keys(&grant).await.expect("public keys") }));
    }
    let mut found = BTreeSet::new();
    for one in asking {
        found.extend(one.await.expect("it ends"));
    }
    assert_eq!(found.len(), 1);
}
