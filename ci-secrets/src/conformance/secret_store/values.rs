//! What is set is what a job reads, and what people see of it.

use std::collections::BTreeSet;

use ci_core::ErrorKind;
use ci_core::memory::Rig;
use ci_core::secret::{NewSecret, SecretKind, SecretValue};
use ci_core::trust::Origin;

use super::{Desk, StoreUnderTest};
use crate::conformance::{name, refused, repository};

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
        let info = desk.store.put(&grant, &token, value).await.expect("the secret is set").info;
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
            store.put(&grant, &name("TOKEN"), value).await.expect("the secret is set").info.version
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

/// One byte to 1 MiB, and less for what may be a variable.
pub async fn values_have_bounds(test: StoreUnderTest) {
    const MOST: usize = 1024 * 1024;
    let desk = Desk::new(test);
    let (grant, token, large) = (desk.write("1").await, name("TOKEN"), name("LARGE"));
    let value = |length: usize| SecretValue::new(vec![b'x'; length]);
    let put = |length| desk.store.put(&grant, &token, value(length));
    let file = |length| desk.store.set(&grant, &large, NewSecret::file(value(length)));
    refused(put(0).await, &[ErrorKind::Invalid], "an empty value");
    refused(file(0).await, &[ErrorKind::Invalid], "an empty file");
    put(1).await.expect("one byte is a value");
    put(NewSecret::MOST_IN_VARIABLE).await.expect("127 KiB are a value");
    refused(
        put(NewSecret::MOST_IN_VARIABLE + 1).await,
        &[ErrorKind::Invalid],
        "a variable of more than 127 KiB",
    );
    file(MOST).await.expect("1 MiB is a value of a file");
    refused(file(MOST + 1).await, &[ErrorKind::Invalid], "a value of more than 1 MiB");
    let set = desk.store.put(&grant, &large, value(MOST)).await.expect("it was a file before");
    assert_eq!(set.info.kind, SecretKind::File, "a new value keeps the kind");
}

/// What is large comes back whole, whatever was there before.
pub async fn large_values_are_whole(test: StoreUnderTest) {
    let desk = Desk::new(test);
    let (grant, key) = (desk.write("1").await, name("KEYSTORE"));
    let mut spec = Rig::spec();
    spec.secrets = vec![key.clone()];
    let claim = desk.rig.claim(&repository("1"), Origin::Repository, spec).await.expect("a claim");
    // The largest one is of one letter, which no masker looks for, for that takes its time.
    for (length, letters) in [(1024 * 1024, 1), (65_537, 251), (3, 251), (65_536, 251), (200_001, 251)] {
        let value: Vec<u8> = (0..length).map(|at: u32| b'a' ^ (at % letters).to_le_bytes()[0]).collect();
        let new = NewSecret::file(SecretValue::new(value.clone()));
        desk.store.set(&grant, &key, new).await.expect("the secret is set");
        let lease = desk.store.lease(claim.trusted().expect("trusted"), std::slice::from_ref(&key)).await;
        assert_eq!(lease.expect("a lease").value(&key).expect("leased").expose(), value, "{length}");
    }
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
