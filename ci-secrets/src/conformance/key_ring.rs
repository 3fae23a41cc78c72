//! What every key ring must do.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use ci_core::ErrorKind;
use ci_core::access::{Grant, Read};
use ci_core::id::{ArtifactName, CacheKey, JobId, KeyId, RepositoryId};
use ci_core::memory::Rig;
use ci_core::secret::{KeyRing, Purpose};

use super::{refused, repository, rig, user};

ci_core::declare_kit! {
    /// Runs every case about key rings; takes a closure that makes an `Arc<dyn KeyRing>`.
    key_ring_kit for ci_secrets::conformance::key_ring {
        what_is_sealed_opens,
        content_opens_in_its_place_only,
        content_of_another_repository_does_not_open,
        repositories_have_different_keys,
        kinds_have_different_keys,
        a_key_is_found_by_its_id,
        the_id_of_another_repository_is_refused,
        an_unknown_id_is_not_found,
        every_altered_byte_is_noticed,
        what_was_cut_short_is_noticed,
        many_at_once_get_one_key,
    }
}

ci_core::declare_kit! {
    /// Runs every case about key rings whose keys rotate; takes a closure that makes an
    /// `Arc<dyn` [`Rotating`](crate::conformance::key_ring::Rotating)`>`.
    key_rotation_kit for ci_secrets::conformance::key_ring {
        what_was_sealed_before_a_rotation_opens,
        what_is_sealed_after_a_rotation_has_another_key,
        a_former_key_is_found_by_its_id,
        a_rotation_is_of_one_repository,
        many_rotations_lose_nothing,
        sealing_goes_on_while_keys_rotate,
        what_was_destroyed_opens_nothing,
        a_destroyed_key_is_not_found,
    }
}

/// A key ring under test, and how its keys are rotated and destroyed.
#[async_trait]
pub trait Rotating: std::fmt::Debug + Send + Sync + 'static {
    /// The ring.
    fn ring(&self) -> &dyn KeyRing;

    /// Gives the repository a new key.
    async fn rotate(&self, repository: &RepositoryId);

    /// Destroys all keys of the repository.
    async fn destroy(&self, repository: &RepositoryId);
}

type Ring = Arc<dyn KeyRing>;

/// What is not the content of this place is one of these; never a retryable error, never another content.
const WRONG: &[ErrorKind] = &[ErrorKind::Tampered, ErrorKind::NotFound];

fn cached() -> Purpose {
    Purpose::cache("trusted", &CacheKey::parse("dependencies").expect("a key"))
}

async fn grant(rig: &Rig, native: &str) -> Grant<Read> {
    rig.grant(&user(), &repository(native)).await.expect("a grant")
}

/// Every kind of content comes back.
pub async fn what_is_sealed_opens(keys: Ring) {
    let (rig, job) = (rig(), JobId::random());
    let grant = grant(&rig, "1").await;
    let scope = || grant.scope().expect("a fresh grant");
    let report = ArtifactName::parse("report").expect("a name");
    for purpose in [cached(), Purpose::log(&job, 7), Purpose::artifact(&job, &report)] {
        for plain in [&b""[..], b"x", &vec![0; 100_000]] {
            let sealed = keys.seal(scope(), &purpose, plain).await.expect("it is sealed");
            assert_eq!(keys.open(scope(), &purpose, &sealed).await.expect("it opens"), plain);
        }
    }
}

/// Content that was moved within its kind, or to another kind, does not open.
pub async fn content_opens_in_its_place_only(keys: Ring) {
    let (rig, job) = (rig(), JobId::random());
    let grant = grant(&rig, "1").await;
    let scope = || grant.scope().expect("a fresh grant");
    let sealed = keys.seal(scope(), &Purpose::log(&job, 7), b"content").await.expect("it is sealed");
    let elsewhere = [Purpose::log(&job, 8), Purpose::log(&JobId::random(), 7), cached()];
    for purpose in elsewhere {
        refused(keys.open(scope(), &purpose, &sealed).await, WRONG, "content that was moved");
    }
}

/// Content that was copied from another repository does not open.
pub async fn content_of_another_repository_does_not_open(keys: Ring) {
    let (rig, purpose) = (rig(), cached());
    let (ours, theirs) = (grant(&rig, "1").await, grant(&rig, "2").await);
    let sealed = keys.seal(ours.scope().expect("fresh"), &purpose, b"content").await.expect("it is sealed");
    refused(keys.open(theirs.scope().expect("fresh"), &purpose, &sealed).await, WRONG, "another repository");
    // The other repository has a key now, and it still does not open.
    keys.seal(theirs.scope().expect("fresh"), &purpose, b"theirs").await.expect("it is sealed");
    refused(keys.open(theirs.scope().expect("fresh"), &purpose, &sealed).await, WRONG, "another repository");
}

/// No key serves two repositories, nor two tenants.
pub async fn repositories_have_different_keys(keys: Ring) {
    let (rig, purpose) = (rig(), cached());
    let other_tenant = Rig::repository("1", "umbrella").expect("a repository");
    let mut found = BTreeSet::new();
    for repository in [repository("1"), repository("2"), other_tenant] {
        let grant = rig.grant::<Read>(&user(), &repository).await.expect("a grant");
        let key = keys.data_key(grant.scope().expect("fresh"), &purpose, None).await.expect("a key");
        assert!(found.insert(*key.expose()), "{repository} has another repository's key");
    }
}

/// A key for tickets opens no log.
pub async fn kinds_have_different_keys(keys: Ring) {
    let (rig, job) = (rig(), JobId::random());
    let grant = grant(&rig, "1").await;
    let scope = || grant.scope().expect("a fresh grant");
    let ticket = keys.data_key(scope(), &cached(), None).await.expect("a key");
    let log = keys.data_key(scope(), &Purpose::log(&job, 1), None).await.expect("a key");
    assert_ne!(ticket.expose(), log.expose());
}

/// The same place has the same key, now and later.
pub async fn a_key_is_found_by_its_id(keys: Ring) {
    let (rig, purpose) = (rig(), cached());
    let grant = grant(&rig, "1").await;
    let scope = || grant.scope().expect("a fresh grant");
    let current = keys.data_key(scope(), &purpose, None).await.expect("a key");
    let again = keys.data_key(scope(), &purpose, None).await.expect("a key");
    let by_id = keys.data_key(scope(), &purpose, Some(current.id())).await.expect("a key");
    assert_eq!((current.id(), current.expose()), (again.id(), again.expose()));
    assert_eq!((current.id(), current.expose()), (by_id.id(), by_id.expose()));
}

/// Knowing an id is no right to the key.
pub async fn the_id_of_another_repository_is_refused(keys: Ring) {
    let (rig, purpose) = (rig(), cached());
    let (ours, theirs) = (grant(&rig, "1").await, grant(&rig, "2").await);
    let key = keys.data_key(ours.scope().expect("fresh"), &purpose, None).await.expect("a key");
    let asked = keys.data_key(theirs.scope().expect("fresh"), &purpose, Some(key.id())).await;
    refused(asked, WRONG, "another repository's key");
}

/// A key that never was is not made.
pub async fn an_unknown_id_is_not_found(keys: Ring) {
    let (rig, purpose) = (rig(), cached());
    let grant = grant(&rig, "1").await;
    let asked = keys.data_key(grant.scope().expect("fresh"), &purpose, Some(&KeyId::random())).await;
    refused(asked, &[ErrorKind::NotFound], "a key that never was");
}

/// No byte can be changed, the key's id included.
pub async fn every_altered_byte_is_noticed(keys: Ring) {
    let (rig, purpose) = (rig(), cached());
    let grant = grant(&rig, "1").await;
    let scope = || grant.scope().expect("a fresh grant");
    let sealed = keys.seal(scope(), &purpose, b"content").await.expect("it is sealed");
    for index in 0..sealed.len() {
        let mut altered = sealed.to_vec();
        altered[index] ^= 1;
        refused(keys.open(scope(), &purpose, &altered).await, WRONG, "an altered byte");
    }
}

/// No end can be cut off, and nothing is not something.
pub async fn what_was_cut_short_is_noticed(keys: Ring) {
    let (rig, purpose) = (rig(), cached());
    let grant = grant(&rig, "1").await;
    let scope = || grant.scope().expect("a fresh grant");
    let sealed = keys.seal(scope(), &purpose, b"content").await.expect("it is sealed");
    for length in 0..sealed.len() {
        refused(keys.open(scope(), &purpose, &sealed[..length]).await, WRONG, "content that was cut short");
    }
}

/// The first use of a repository by many at once makes one key, not many.
pub async fn many_at_once_get_one_key(keys: Ring) {
    let (rig, purpose) = (rig(), cached());
    let mut asking = Vec::new();
    for _ in 0..16 {
        let (grant, keys, purpose) = (grant(&rig, "1").await, keys.clone(), purpose.clone());
        asking.push(tokio::spawn(async move {
            let scope = || grant.scope().expect("a fresh grant");
            *keys.data_key(scope(), &purpose, None).await.expect("a key").expose()
        }));
    }
    let mut found = BTreeSet::new();
    for one in asking {
        found.insert(one.await.expect("it ends"));
    }
    assert_eq!(found.len(), 1);
}

/// Logs, artifacts and tickets keep opening under the key that they name.
pub async fn what_was_sealed_before_a_rotation_opens(keys: Arc<dyn Rotating>) {
    let (rig, purpose) = (rig(), cached());
    let grant = grant(&rig, "1").await;
    let scope = || grant.scope().expect("a fresh grant");
    let sealed = keys.ring().seal(scope(), &purpose, b"content").await.expect("it is sealed");
    keys.rotate(&repository("1")).await;
    let opened = keys.ring().open(scope(), &purpose, &sealed).await;
    assert_eq!(opened.expect("it was sealed before the rotation, and opens"), b"content"[..]);
}

/// A rotation that leaves the key in use is none.
pub async fn what_is_sealed_after_a_rotation_has_another_key(keys: Arc<dyn Rotating>) {
    let (rig, purpose) = (rig(), cached());
    let grant = grant(&rig, "1").await;
    let scope = || grant.scope().expect("a fresh grant");
    let before = keys.ring().data_key(scope(), &purpose, None).await.expect("a key");
    keys.rotate(&repository("1")).await;
    let after = keys.ring().data_key(scope(), &purpose, None).await.expect("a key");
    assert_ne!(before.id(), after.id(), "the key is the one from before the rotation");
    assert_ne!(before.expose(), after.expose(), "the key is the one from before the rotation");
    let sealed = keys.ring().seal(scope(), &purpose, b"content").await.expect("it is sealed");
    assert_eq!(ci_core::seal::key_id(&sealed).expect("it names its key"), *after.id());
}

/// The id means the same key as before.
pub async fn a_former_key_is_found_by_its_id(keys: Arc<dyn Rotating>) {
    let (rig, purpose) = (rig(), cached());
    let grant = grant(&rig, "1").await;
    let scope = || grant.scope().expect("a fresh grant");
    let before = keys.ring().data_key(scope(), &purpose, None).await.expect("a key");
    keys.rotate(&repository("1")).await;
    let by_id = keys.ring().data_key(scope(), &purpose, Some(before.id())).await.expect("a former key");
    assert_eq!((before.id(), before.expose()), (by_id.id(), by_id.expose()));
}

/// Other repositories keep their keys.
pub async fn a_rotation_is_of_one_repository(keys: Arc<dyn Rotating>) {
    let (rig, purpose) = (rig(), cached());
    let (ours, theirs) = (grant(&rig, "1").await, grant(&rig, "2").await);
    let before = keys.ring().data_key(theirs.scope().expect("fresh"), &purpose, None).await.expect("a key");
    keys.ring().data_key(ours.scope().expect("fresh"), &purpose, None).await.expect("a key");
    keys.rotate(&repository("1")).await;
    let after = keys.ring().data_key(theirs.scope().expect("fresh"), &purpose, None).await.expect("a key");
    assert_eq!(before.id(), after.id(), "another repository's key was rotated");
}

/// However often.
pub async fn many_rotations_lose_nothing(keys: Arc<dyn Rotating>) {
    let (rig, purpose) = (rig(), cached());
    let grant = grant(&rig, "1").await;
    let scope = || grant.scope().expect("a fresh grant");
    let mut sealed = Vec::new();
    for round in 0..10_u8 {
        sealed.push(keys.ring().seal(scope(), &purpose, &[round]).await.expect("it is sealed"));
        keys.rotate(&repository("1")).await;
    }
    let ids: BTreeSet<_> = sealed.iter().map(|one| ci_core::seal::key_id(one).expect("an id")).collect();
    assert_eq!(ids.len(), sealed.len(), "each has a key of its own");
    for (round, one) in sealed.iter().enumerate() {
        let opened = keys.ring().open(scope(), &purpose, one).await.expect("it opens");
        assert_eq!(usize::from(opened[0]), round);
    }
}

/// What is sealed while a key rotates has the former key or the new one, and opens.
pub async fn sealing_goes_on_while_keys_rotate(keys: Arc<dyn Rotating>) {
    let rig = rig();
    let mut working = Vec::new();
    for worker in 0..4_u8 {
        let (keys, grant) = (keys.clone(), grant(&rig, "1").await);
        working.push(tokio::spawn(async move {
            let (scope, purpose) = (|| grant.scope().expect("a fresh grant"), cached());
            for round in 0..25_u8 {
                let plain = [worker, round];
                let sealed = keys.ring().seal(scope(), &purpose, &plain).await.expect("it is sealed");
                let opened = keys.ring().open(scope(), &purpose, &sealed).await.expect("it opens");
                assert_eq!(opened, plain[..]);
            }
        }));
    }
    for _ in 0..5 {
        keys.rotate(&repository("1")).await;
        tokio::task::yield_now().await;
    }
    for one in working {
        one.await.expect("it ends");
    }
}

/// Whatever key it was sealed with.
pub async fn what_was_destroyed_opens_nothing(keys: Arc<dyn Rotating>) {
    let (rig, purpose) = (rig(), cached());
    let (ours, theirs) = (grant(&rig, "1").await, grant(&rig, "2").await);
    let scope = || ours.scope().expect("a fresh grant");
    let before = keys.ring().seal(scope(), &purpose, b"content").await.expect("it is sealed");
    keys.rotate(&repository("1")).await;
    let after = keys.ring().seal(scope(), &purpose, b"content").await.expect("it is sealed");
    let other = keys.ring().seal(theirs.scope().expect("fresh"), &purpose, b"theirs").await;
    keys.destroy(&repository("1")).await;
    for sealed in [before, after] {
        let opened = keys.ring().open(scope(), &purpose, &sealed).await;
        refused(opened, WRONG, "content whose key was destroyed");
    }
    let other = other.expect("it is sealed");
    let opened = keys.ring().open(theirs.scope().expect("fresh"), &purpose, &other).await;
    assert_eq!(opened.expect("another repository's keys were not destroyed"), b"theirs"[..]);
}

/// A key that was destroyed does not come back, and the repository gets another one.
pub async fn a_destroyed_key_is_not_found(keys: Arc<dyn Rotating>) {
    let (rig, purpose) = (rig(), cached());
    let grant = grant(&rig, "1").await;
    let scope = || grant.scope().expect("a fresh grant");
    let before = keys.ring().data_key(scope(), &purpose, None).await.expect("a key");
    keys.destroy(&repository("1")).await;
    let asked = keys.ring().data_key(scope(), &purpose, Some(before.id())).await;
    refused(asked, &[ErrorKind::NotFound], "a key that was destroyed");
    let after = keys.ring().data_key(scope(), &purpose, None).await.expect("another key");
    assert_ne!(before.expose(), after.expose());
}
