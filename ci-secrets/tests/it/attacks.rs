//! What somebody who can write to the database cannot do.

use ci_core::ErrorKind;
use ci_core::access::Read;
use ci_core::id::{JobId, KeyId, RepositoryId};
use ci_core::memory::Rig;
use ci_core::records::Key;
use ci_core::secret::{KeyRing as _, Purpose, SecretStore as _};

use crate::bench::{Bench, key_folder, kind, name, repository, row};

/// A row that names a key which is not there is as good as one whose key was destroyed.
const WRONG: [ErrorKind; 2] = [ErrorKind::Tampered, ErrorKind::NotFound];

async fn bench() -> (Bench, RepositoryId) {
    let (bench, ours) = (Bench::new(), repository("1"));
    bench.put(&ours, "TOKEN", "value of the token").await;
    bench.put(&ours, "OTHER", "value of the other").await;
    (bench, ours)
}

async fn copy(bench: &Bench, from: &Key, to: &Key) {
    let value = bench.read(from).await;
    bench.write(to, value).await;
}

async fn list(bench: &Bench, repository: &RepositoryId) -> ErrorKind {
    kind(bench.vault.list(&bench.grant(repository).await).await)
}

#[tokio::test]
async fn values_cannot_be_swapped_between_names() {
    let (bench, ours) = bench().await;
    copy(&bench, &row(&ours, "value", "OTHER"), &row(&ours, "value", "TOKEN")).await;
    assert_eq!(kind(bench.value(&ours, "TOKEN").await), ErrorKind::Tampered);
    assert!(bench.value(&ours, "OTHER").await.is_ok());
    let both = bench.lease(&ours, &["OTHER", "TOKEN"]).await;
    assert_eq!(kind(both), ErrorKind::Tampered, "all or none");
}

#[tokio::test]
async fn a_secret_cannot_be_renamed() {
    let (bench, ours) = bench().await;
    for rows in ["info", "value"] {
        copy(&bench, &row(&ours, rows, "TOKEN"), &row(&ours, rows, "RENAMED")).await;
    }
    assert_eq!(kind(bench.value(&ours, "RENAMED").await), ErrorKind::Tampered);
    assert_eq!(list(&bench, &ours).await, ErrorKind::Tampered);
}

#[tokio::test]
async fn a_secret_cannot_be_copied_to_another_repository() {
    let (bench, ours) = bench().await;
    for theirs in [repository("2"), Rig::repository("1", "umbrella").expect("a repository")] {
        bench.put(&theirs, "MINE", "value of theirs").await;
        for rows in ["info", "value"] {
            copy(&bench, &row(&ours, rows, "TOKEN"), &row(&theirs, rows, "TOKEN")).await;
        }
        assert!(WRONG.contains(&kind(bench.value(&theirs, "TOKEN").await)));
        assert!(WRONG.contains(&list(&bench, &theirs).await));
        // Nor with the keys that it was sealed with.
        copy_all(&bench, &key_folder(&ours), &key_folder(&theirs)).await;
        bench.vault.forget_keys();
        assert!(WRONG.contains(&kind(bench.value(&theirs, "TOKEN").await)));
        assert!(WRONG.contains(&kind(bench.vault.list(&bench.grant(&theirs).await).await)));
    }
    assert!(bench.value(&ours, "TOKEN").await.is_ok());
}

#[tokio::test]
async fn an_earlier_value_cannot_be_put_back() {
    let (bench, ours) = bench().await;
    let earlier = bench.read(&row(&ours, "value", "TOKEN")).await;
    bench.put(&ours, "TOKEN", "rotated").await;
    let later = bench.read(&row(&ours, "value", "TOKEN")).await;
    bench.write(&row(&ours, "value", "TOKEN"), earlier).await;
    assert_eq!(kind(bench.value(&ours, "TOKEN").await), ErrorKind::Tampered);
    bench.write(&row(&ours, "value", "TOKEN"), later).await;
    assert_eq!(bench.value(&ours, "TOKEN").await.expect("whole again"), b"rotated");
}

#[tokio::test]
async fn an_earlier_version_cannot_be_shown_for_a_later_value() {
    let (bench, ours) = bench().await;
    let earlier = bench.read(&row(&ours, "info", "TOKEN")).await;
    bench.put(&ours, "TOKEN", "rotated").await;
    bench.write(&row(&ours, "info", "TOKEN"), earlier).await;
    assert_eq!(kind(bench.value(&ours, "TOKEN").await), ErrorKind::Tampered);
}

#[tokio::test]
async fn a_row_that_is_missing_is_noticed() {
    let (bench, ours) = bench().await;
    bench.remove(&row(&ours, "value", "TOKEN")).await;
    assert_eq!(kind(bench.value(&ours, "TOKEN").await), ErrorKind::Tampered);
}

#[tokio::test]
async fn rows_that_are_no_secrets_are_noticed() {
    let (bench, ours) = bench().await;
    for strange in ["lower", "A/B", ""] {
        let place = row(&ours, "info", strange);
        bench.write(&place, "anything").await;
        assert_eq!(list(&bench, &ours).await, ErrorKind::Tampered, "{place}");
        bench.remove(&place).await;
    }
    let deeper = row(&ours, "info", "TOKEN").part("MORE");
    bench.write(&deeper, "anything").await;
    assert_eq!(list(&bench, &ours).await, ErrorKind::Tampered);
}

#[tokio::test]
async fn every_flipped_bit_of_a_secret_is_noticed() {
    let (bench, ours) = bench().await;
    let (read, claim) = (bench.grant::<Read>(&ours).await, bench.claim(&ours).await);
    let token = [name("TOKEN")];
    for rows in ["info", "value"] {
        let place = row(&ours, rows, "TOKEN");
        let right = bench.read(&place).await;
        for index in 0..right.len() {
            let mut altered = right.to_vec();
            altered[index] ^= 0x40;
            bench.write(&place, altered).await;
            let lease = bench.vault.lease(claim.trusted().expect("trusted"), &token).await;
            assert!(WRONG.contains(&kind(lease)), "{rows} byte {index}");
            if rows == "info" {
                assert!(WRONG.contains(&kind(bench.vault.list(&read).await)), "{rows} byte {index}");
            }
        }
        bench.write(&place, right).await;
    }
    assert!(bench.vault.lease(claim.trusted().expect("trusted"), &token).await.is_ok());
}

#[tokio::test]
async fn every_flipped_bit_of_a_key_is_noticed() {
    let (bench, ours) = bench().await;
    let (read, purpose) = (bench.grant::<Read>(&ours).await, Purpose::log(&JobId::random(), 0));
    let rows = bench.below(&Key::new("key")).await;
    assert_eq!(rows.len(), 4, "tenant and repository, each a key and which one is current");
    for record in rows {
        for index in 0..record.value.len() {
            let mut altered = record.value.to_vec();
            altered[index] ^= 1;
            bench.write(&record.key, altered).await;
            // The pointers matter to who seals, the keys to who opens; of a tenant's, only to a new repository.
            bench.vault.forget_keys();
            let sealed = bench.vault.data_key(read.scope().expect("fresh"), &purpose, None).await;
            let fresh = bench.grant::<Read>(&repository("new")).await;
            let first = bench.vault.data_key(fresh.scope().expect("fresh"), &purpose, None).await;
            let errors = [sealed.err(), first.err()].map(|error| error.map(|error| error.kind()));
            assert!(errors.iter().flatten().count() > 0, "{} byte {index}", record.key);
            // A row that names another root key is one that this program was not set up for.
            let is_wrong = |kind: &ErrorKind| WRONG.contains(kind) || *kind == ErrorKind::Unavailable;
            assert!(errors.iter().flatten().all(is_wrong), "{errors:?}");
            bench.records.purge(&key_folder(&repository("new"))).await.expect("it is purged");
        }
        bench.write(&record.key, record.value).await;
    }
    bench.vault.forget_keys();
    assert!(bench.value(&ours, "TOKEN").await.is_ok());
}

#[tokio::test]
async fn keys_cannot_be_swapped() {
    let (bench, ours) = bench().await;
    let theirs = repository("2");
    bench.put(&theirs, "TOKEN", "value of theirs").await;
    let key_of = async |repository: &RepositoryId| {
        bench.below(&key_folder(repository).part("wrapped")).await.remove(0)
    };
    let (our_key, their_key) = (key_of(&ours).await, key_of(&theirs).await);
    bench.write(&our_key.key, their_key.value).await;
    assert_eq!(
        kind(bench.value(&ours, "TOKEN").await),
        ErrorKind::Tampered,
        "even when the key is remembered"
    );
    bench.write(&our_key.key, our_key.value).await;
    assert!(bench.value(&ours, "TOKEN").await.is_ok());
}

#[tokio::test]
async fn a_key_is_not_replaced_by_hiding_which_is_current() {
    let (bench, ours) = bench().await;
    let (current, purpose) = (key_folder(&ours).part("current"), Purpose::log(&JobId::random(), 0));
    let grant = bench.grant::<Read>(&ours).await;
    let ask = async || bench.vault.data_key(grant.scope().expect("fresh"), &purpose, None).await;
    let right = bench.read(&current).await;
    bench.remove(&current).await;
    assert_eq!(kind(ask().await), ErrorKind::Tampered);
    bench.write(&current, KeyId::random().as_str().to_owned()).await;
    assert_eq!(kind(ask().await), ErrorKind::Tampered);
    bench.write(&current, right).await;
    assert!(ask().await.is_ok());
}

/// Copies all rows below one folder to another.
async fn copy_all(bench: &Bench, from: &Key, to: &Key) {
    for record in bench.below(from).await {
        let rest = &record.key.as_str()[from.as_str().len()..];
        bench.write(&Key::from_stored(format!("{to}{rest}")).expect("a key"), record.value).await;
    }
}

#[tokio::test]
async fn the_key_of_a_repository_cannot_be_given_to_another() {
    let (bench, ours) = bench().await;
    let (theirs, purpose) = (repository("2"), Purpose::log(&JobId::random(), 0));
    let (our_grant, their_grant) = (bench.grant::<Read>(&ours).await, bench.grant::<Read>(&theirs).await);
    let sealed = bench.vault.seal(our_grant.scope().expect("fresh"), &purpose, b"content").await;
    copy_all(&bench, &key_folder(&ours), &key_folder(&theirs)).await;
    let scope = || their_grant.scope().expect("fresh");
    let opened = bench.vault.open(scope(), &purpose, &sealed.expect("it is sealed")).await;
    assert_eq!(kind(opened), ErrorKind::Tampered);
    assert_eq!(kind(bench.vault.data_key(scope(), &purpose, None).await), ErrorKind::Tampered);
}

#[tokio::test]
async fn the_key_of_a_tenant_cannot_be_given_to_another() {
    let (bench, _ours) = bench().await;
    let folder = |tenant: &str| Key::new("key").part("tenant").part(tenant);
    copy_all(&bench, &folder("acme"), &folder("umbrella")).await;
    let theirs = Rig::repository("1", "umbrella").expect("a repository");
    let grant = bench.grant::<Read>(&theirs).await;
    let purpose = Purpose::log(&JobId::random(), 0);
    let key = bench.vault.data_key(grant.scope().expect("fresh"), &purpose, None).await;
    assert_eq!(kind(key), ErrorKind::Tampered);
}
