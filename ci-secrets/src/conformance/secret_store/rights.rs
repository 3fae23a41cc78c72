//! Whose secrets they are, and for how long somebody has a right to them.

use std::time::Duration;

use ci_core::ErrorKind;
use ci_core::access::Read;
use ci_core::memory::Rig;
use ci_core::secret::SecretValue;
use ci_core::trust::Origin;

use super::{Desk, StoreUnderTest};
use crate::conformance::{name, refused, user};

/// A repository has its own secrets, whatever they are called.
pub async fn repositories_do_not_see_each_others_secrets(test: StoreUnderTest) {
    let desk = Desk::new(test);
    desk.put("1", "TOKEN", "value of 1").await;
    desk.put("1", "ONLY", "value of 1").await;
    desk.put("2", "TOKEN", "value of 2").await;
    let list = desk.store.list(&desk.read("2").await).await.expect("a list");
    assert_eq!(list.len(), 1);
    let claim = desk.claim("2").await;
    let lease = |names| desk.store.lease(claim.trusted().expect("trusted"), names);
    let token = [name("TOKEN")];
    assert_eq!(
        lease(&token).await.expect("a lease").value(&token[0]).expect("leased").expose(),
        b"value of 2"
    );
    refused(lease(&[name("ONLY")]).await, &[ErrorKind::NotFound], "a lease of another repository's secret");
    let deleted = desk.store.delete(&desk.write("2").await, &name("ONLY")).await;
    refused(deleted, &[ErrorKind::NotFound], "deleting another repository's secret");
}

/// The same repository in the books of another tenant is another one.
pub async fn tenants_do_not_see_each_others_secrets(test: StoreUnderTest) {
    let desk = Desk::new(test);
    desk.put("1", "TOKEN", "value of acme").await;
    let theirs = Rig::repository("1", "umbrella").expect("a repository");
    let grant = desk.rig.grant::<Read>(&user(), &theirs).await.expect("a grant");
    assert!(desk.store.list(&grant).await.expect("a list").is_empty());
    let claim = desk.rig.claim(&theirs, Origin::Protected, Rig::spec()).await.expect("a claim");
    let lease = desk.store.lease(claim.trusted().expect("trusted"), &[name("TOKEN")]).await;
    refused(lease, &[ErrorKind::NotFound], "a lease of another tenant's secret");
}

/// What a person could do a minute ago says nothing about now.
pub async fn a_grant_that_is_over_is_refused(test: StoreUnderTest) {
    let desk = Desk::new(test);
    desk.put("1", "TOKEN", "some value").await;
    let (read, write) = (desk.read("1").await, desk.write("1").await);
    desk.rig.clock.advance(Duration::from_mins(1));
    let put = desk.store.put(&write, &name("TOKEN"), SecretValue::new("another")).await;
    refused(put, &[ErrorKind::Denied], "setting a secret when the grant is over");
    refused(desk.store.list(&read).await, &[ErrorKind::Denied], "listing when the grant is over");
    let deleted = desk.store.delete(&write, &name("TOKEN")).await;
    refused(deleted, &[ErrorKind::Denied], "deleting when the grant is over");
}

/// A worker that lost its job gets no secrets.
pub async fn a_claim_that_is_over_leases_nothing(test: StoreUnderTest) {
    let desk = Desk::new(test);
    desk.put("1", "TOKEN", "some value").await;
    let claim = desk.claim("1").await;
    let trusted = claim.trusted().expect("trusted");
    desk.rig.clock.advance(Duration::from_secs(30));
    let lease = desk.store.lease(trusted, &[name("TOKEN")]).await;
    refused(lease, &[ErrorKind::Fenced], "a lease when the claim is over");
}

/// What was leased cannot be read when the claim is over.
pub async fn a_lease_ends_with_its_claim(test: StoreUnderTest) {
    let desk = Desk::new(test);
    desk.put("1", "TOKEN", "some value").await;
    let claim = desk.claim("1").await;
    let token = name("TOKEN");
    let trusted = claim.trusted().expect("trusted");
    let lease = desk.store.lease(trusted, std::slice::from_ref(&token)).await.expect("a lease");
    assert!(lease.value(&token).is_ok());
    drop(claim);
    refused(lease.value(&token), &[ErrorKind::Fenced], "a value when the claim is gone");

    let claim = desk.claim("1").await;
    let trusted = claim.trusted().expect("trusted");
    let lease = desk.store.lease(trusted, std::slice::from_ref(&token)).await.expect("a lease");
    desk.rig.clock.advance(Duration::from_secs(30));
    refused(lease.value(&token), &[ErrorKind::Fenced], "a value when the claim has run out");
}
