//! What every secret store must do.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ci_core::ErrorKind;
use ci_core::access::{Grant, Read, Write};
use ci_core::audit::Audit;
use ci_core::id::TenantId;
use ci_core::memory::Rig;
use ci_core::queue::Claim;
use ci_core::secret::{SecretStore, SecretValue};
use ci_core::trust::Origin;

use super::{name, refused, repository, rig, user};

/// A store, and the audit log that it writes to. The kit signs people in, and leases jobs, by a service of its own, so
/// that the store needs none.
#[derive(Clone, Debug)]
pub struct StoreUnderTest {
    /// The store, without any secret.
    pub store: Arc<dyn SecretStore>,
    /// Where it says what was done: over any records, and written to by nothing else.
    pub audit: Audit,
}

ci_core::declare_kit! {
    /// Runs every case about secret stores; takes a closure that makes a
    /// [`StoreUnderTest`](crate::conformance::secret_store::StoreUnderTest).
    secret_store_kit for ci_secrets::conformance::secret_store {
        a_leased_value_is_what_was_set,
        setting_again_replaces_the_value,
        setting_at_once_loses_nothing,
        listing_shows_names_and_versions,
        repositories_do_not_see_each_others_secrets,
        tenants_do_not_see_each_others_secrets,
        a_lease_is_all_or_nothing,
        a_name_twice_is_a_name_once,
        a_deleted_secret_is_gone,
        what_is_not_there_cannot_be_deleted,
        values_have_bounds,
        any_bytes_are_a_value,
        a_grant_that_is_over_is_refused,
        a_claim_that_is_over_leases_nothing,
        a_lease_ends_with_its_claim,
        what_is_leased_is_masked,
        a_new_masker_knows_nothing,
        every_change_is_audited,
        every_lease_is_audited,
    }
}

/// What the cases do over and over.
struct Desk {
    rig: Rig,
    store: Arc<dyn SecretStore>,
}

impl Desk {
    fn new(test: StoreUnderTest) -> Self {
        Self { rig: rig(), store: test.store }
    }

    async fn write(&self, native: &str) -> Grant<Write> {
        self.rig.grant(&user(), &repository(native)).await.expect("a grant")
    }

    async fn read(&self, native: &str) -> Grant<Read> {
        self.rig.grant(&user(), &repository(native)).await.expect("a grant")
    }

    async fn claim(&self, native: &str) -> Claim {
        self.rig.claim(&repository(native), Origin::Repository, Rig::spec()).await.expect("a claim")
    }

    async fn put(&self, native: &str, secret: &str, value: &str) {
        let grant = self.write(native).await;
        self.store.put(&grant, &name(secret), SecretValue::new(value)).await.expect("the secret is set");
    }
}

/// A job reads what a person set.
pub async fn a_leased_value_is_what_was_set(test: StoreUnderTest) {
    let desk = Desk::new(test);
    desk.put("1", "TOKEN", "first-value").await;
    desk.put("1", "OTHER", "other-value").await;
    let claim = desk.claim("1").await;
    let names = [name("TOKEN"), name("OTHER")];
    let lease = desk.store.lease(claim.trusted().expect("trusted"), &names).await.expect("a lease");
    assert_eq!(lease.value(&names[0]).expect("leased").expose(), b"first-value");
    assert_eq!(lease.value(&names[1]).expect("leased").expose(), b"other-value");
    refused(lease.value(&name("THIRD")), &[ErrorKind::NotFound], "a value that was not leased");
}

/// The later value counts.
pub async fn setting_again_replaces_the_value(test: StoreUnderTest) {
    let desk = Desk::new(test);
    let (grant, token) = (desk.write("1").await, name("TOKEN"));
    for version in 1..=3 {
        let value = SecretValue::new(format!("value-{version}"));
        let info = desk.store.put(&grant, &token, value).await.expect("the secret is set");
        assert_eq!((info.version, &info.name), (version, &token));
    }
    let claim = desk.claim("1").await;
    let trusted = claim.trusted().expect("trusted");
    let lease = desk.store.lease(trusted, std::slice::from_ref(&token)).await.expect("a lease");
    assert_eq!(lease.value(&token).expect("leased").expose(), b"value-3");
}

/// Every one of many writers gets a version of its own.
pub async fn setting_at_once_loses_nothing(test: StoreUnderTest) {
    const WRITERS: u64 = 8;
    let desk = Desk::new(test);
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let (grant, store) = (desk.write("1").await, desk.store.clone());
        writers.push(tokio::spawn(async move {
            let value = SecretValue::new(format!("value of {writer}"));
            store.put(&grant, &name("TOKEN"), value).await.expect("the secret is set").version
        }));
    }
    let mut versions = BTreeSet::new();
    for writer in writers {
        versions.insert(writer.await.expect("the writer ends"));
    }
    assert_eq!(versions, (1..=WRITERS).collect());
}

/// Names, versions and times, in the order of the names, and no more.
pub async fn listing_shows_names_and_versions(test: StoreUnderTest) {
    let desk = Desk::new(test);
    assert!(desk.store.list(&desk.read("1").await).await.expect("a list").is_empty());
    for secret in ["B", "A", "B"] {
        desk.put("1", secret, "some value").await;
    }
    let list = desk.store.list(&desk.read("1").await).await.expect("a list");
    let list: Vec<_> = list.iter().map(|info| (info.name.as_str(), info.version)).collect();
    assert_eq!(list, [("A", 1), ("B", 2)]);
}

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

/// One name that does not exist, and nothing is leased.
pub async fn a_lease_is_all_or_nothing(test: StoreUnderTest) {
    let desk = Desk::new(test);
    desk.put("1", "TOKEN", "some value").await;
    let claim = desk.claim("1").await;
    let names = [name("TOKEN"), name("MISSING")];
    let lease = desk.store.lease(claim.trusted().expect("trusted"), &names).await;
    refused(lease, &[ErrorKind::NotFound], "a lease of a secret that is not there");
    let none = desk.store.lease(claim.trusted().expect("trusted"), &[]).await.expect("an empty lease");
    refused(none.value(&names[0]), &[ErrorKind::NotFound], "a value of an empty lease");
}

/// A job that asks twice gets it once.
pub async fn a_name_twice_is_a_name_once(test: StoreUnderTest) {
    let desk = Desk::new(test);
    desk.put("1", "TOKEN", "some value").await;
    let claim = desk.claim("1").await;
    let names = [name("TOKEN"), name("TOKEN")];
    let lease = desk.store.lease(claim.trusted().expect("trusted"), &names).await.expect("a lease");
    assert_eq!(lease.value(&names[0]).expect("leased").expose(), b"some value");
}

/// Neither listed nor leased any more, and free to be set anew.
pub async fn a_deleted_secret_is_gone(test: StoreUnderTest) {
    let desk = Desk::new(test);
    desk.put("1", "TOKEN", "some value").await;
    desk.store.delete(&desk.write("1").await, &name("TOKEN")).await.expect("it is deleted");
    assert!(desk.store.list(&desk.read("1").await).await.expect("a list").is_empty());
    let claim = desk.claim("1").await;
    let lease = |names| desk.store.lease(claim.trusted().expect("trusted"), names);
    let token = [name("TOKEN")];
    refused(lease(&token).await, &[ErrorKind::NotFound], "a lease of a deleted secret");
    desk.put("1", "TOKEN", "next value").await;
    let lease = lease(&token).await.expect("a lease");
    assert_eq!(lease.value(&token[0]).expect("leased").expose(), b"next value");
}

/// Deleting nothing is told apart from deleting something.
pub async fn what_is_not_there_cannot_be_deleted(test: StoreUnderTest) {
    let desk = Desk::new(test);
    let deleted = desk.store.delete(&desk.write("1").await, &name("TOKEN")).await;
    refused(deleted, &[ErrorKind::NotFound], "deleting a secret that is not there");
}

/// One byte to 64 KiB.
pub async fn values_have_bounds(test: StoreUnderTest) {
    const MOST: usize = 64 * 1024;
    let desk = Desk::new(test);
    let (grant, token) = (desk.write("1").await, name("TOKEN"));
    let put = |length: usize| desk.store.put(&grant, &token, SecretValue::new(vec![b'x'; length]));
    refused(put(0).await, &[ErrorKind::Invalid], "an empty value");
    refused(put(MOST + 1).await, &[ErrorKind::Invalid], "a value of more than 64 KiB");
    put(1).await.expect("one byte is a value");
    put(MOST).await.expect("64 KiB are a value");
}

/// A value is bytes, not text.
pub async fn any_bytes_are_a_value(test: StoreUnderTest) {
    let desk = Desk::new(test);
    let (token, all) = (name("TOKEN"), (0..=255).collect::<Vec<u8>>());
    let value = SecretValue::new(all.clone());
    desk.store.put(&desk.write("1").await, &token, value).await.expect("the secret is set");
    let claim = desk.claim("1").await;
    let trusted = claim.trusted().expect("trusted");
    let lease = desk.store.lease(trusted, std::slice::from_ref(&token)).await.expect("a lease");
    assert_eq!(lease.value(&token).expect("leased").expose(), all);
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

/// What can be injected does not come out.
pub async fn what_is_leased_is_masked(test: StoreUnderTest) {
    let desk = Desk::new(test);
    desk.put("1", "TOKEN", "correct horse battery staple").await;
    desk.put("1", "SHORT", "x").await;
    let claim = desk.claim("1").await;
    let names = [name("TOKEN"), name("SHORT")];
    let lease = desk.store.lease(claim.trusted().expect("trusted"), &names).await.expect("a lease");
    let masked = lease.mask_text("it is correct horse battery staple!");
    assert!(masked.starts_with("it is ") && masked.ends_with('!') && !masked.contains("horse"), "{masked}");
    let unmasked: Vec<_> = lease.unmasked().iter().map(|unmasked| &unmasked.secret).collect();
    assert_eq!(unmasked, [&name("SHORT")], "what cannot be hidden is told");
}

/// No job masks by another job's secrets.
pub async fn a_new_masker_knows_nothing(test: StoreUnderTest) {
    let desk = Desk::new(test);
    desk.put("1", "TOKEN", "correct horse battery staple").await;
    let claim = desk.claim("1").await;
    let leased = desk.store.lease(claim.trusted().expect("trusted"), &[name("TOKEN")]).await;
    assert!(leased.is_ok());
    let (printed, mut out) = (b"correct horse battery staple", Vec::new());
    let mut redactor = desk.store.masker().redactor();
    redactor.push(printed, &mut out);
    redactor.finish(&mut out);
    assert_eq!(out, printed);
}

/// Setting and deleting leave an entry each.
pub async fn every_change_is_audited(test: StoreUnderTest) {
    let audit = test.audit.clone();
    let desk = Desk::new(test);
    let before = entries(&audit).await;
    desk.put("1", "TOKEN", "some value").await;
    let set = entries(&audit).await;
    assert!(set > before, "a secret was set without an entry in the audit log");
    desk.store.delete(&desk.write("1").await, &name("TOKEN")).await.expect("it is deleted");
    assert!(entries(&audit).await > set, "a secret was deleted without an entry in the audit log");
}

/// Values are released only with an entry that says so.
pub async fn every_lease_is_audited(test: StoreUnderTest) {
    let audit = test.audit.clone();
    let desk = Desk::new(test);
    desk.put("1", "TOKEN", "some value").await;
    let claim = desk.claim("1").await;
    for _ in 0..2 {
        let before = entries(&audit).await;
        let lease = desk.store.lease(claim.trusted().expect("trusted"), &[name("TOKEN")]).await;
        assert!(lease.is_ok());
        assert!(entries(&audit).await > before, "a lease was given without an entry in the audit log");
    }
}

async fn entries(audit: &Audit) -> u64 {
    let tenant = TenantId::parse("acme").expect("a tenant");
    audit.verify(&tenant).await.expect("the audit log is whole").count
}
