//! What secrets leave behind: in output, and in the audit log.

use ci_core::secret::{Learned, SecretValue};

use super::{Desk, StoreUnderTest, entries};
use crate::conformance::name;

/// At once, and only they.
pub async fn who_sets_a_secret_learns_whether_it_can_be_hidden(test: StoreUnderTest) {
    let desk = Desk::new(test);
    let (grant, token) = (desk.write("1").await, name("TOKEN"));
    let set = async |value| desk.store.put(&grant, &token, SecretValue::new(value)).await.expect("it is set");
    assert_eq!(set("correct horse battery staple").await.masking, Learned::Hidden);
    assert_ne!(set("x").await.masking, Learned::Hidden);
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
