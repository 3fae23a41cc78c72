//! What an attack has found: each of these failed once.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use ci_core::access::Write;
use ci_core::audit::Head;
use ci_core::id::{Digest, KeyId, RepositoryId};
use ci_core::operator::Operator;
use ci_core::records::{Batch, Key, Record, Records, Version};
use ci_core::seal::key_id;
use ci_core::secret::{SecretStore as _, SecretValue};
use ci_core::{ErrorKind, Result};
use ci_secrets::{Revoke, RotationReport, Vault};
use serde_json::json;
use tokio::sync::oneshot;

use crate::bench::{Bench, key_folder, kind, name, repository, row};

/// A vault with two secrets of one repository, and who may do everything with it.
struct World {
    bench: Bench,
    operator: Operator,
    ours: RepositoryId,
}

impl World {
    async fn new() -> Self {
        let (bench, ours) = (Bench::new(), repository("1"));
        let operator = Operator::new(&bench.audit).expect("the operator");
        for secret in ["OTHER", "TOKEN"] {
            bench.put(&ours, secret, &format!("value of {secret}")).await;
        }
        Self { bench, operator, ours }
    }

    async fn revoke(&self, revoke: Revoke) -> Result<RotationReport> {
        let act = self.operator.act(self.ours.tenant(), "secrets.revoked").await?;
        let revocation = self.bench.vault.revoke_all(&act, &self.ours, revoke, &mut |_| {}).await?;
        Ok(revocation.report)
    }

    async fn rotate(&self, what: &str) -> Result<RotationReport> {
        let (vault, tenant) = (&self.bench.vault, self.ours.tenant());
        let act = self.operator.act(tenant, "key.rotated").await?;
        match what {
            "repository" => vault.rotate_repository(&act, &self.ours, &mut |_| {}).await,
            "tenant" => vault.rotate_tenant(&act, tenant, &mut |_| {}).await,
            _ => vault.rotate_all(&act, tenant, &mut |_| {}).await,
        }
    }

    fn tenant_folder(&self) -> Key {
        Key::new("key").part("tenant").part(self.ours.tenant().as_str())
    }

    async fn current(&self, folder: &Key) -> String {
        let id = self.bench.read(&folder.clone().part("current")).await;
        String::from_utf8(id.to_vec()).expect("an id")
    }

    /// Notes of rotations that nobody has begun: to the key that is current, to one that never was, and no note at all.
    async fn notes(&self, folder: &Key) -> Vec<String> {
        let mut notes = vec!["rubbish".to_owned()];
        for to in [self.current(folder).await, KeyId::random().as_str().to_owned()] {
            for then in ["reseal", "delete", "withdraw"] {
                let note = json!({ "from": KeyId::random().as_str(), "to": to, "then": then });
                notes.push(note.to_string());
            }
        }
        notes
    }

    fn note_place(&self) -> Key {
        Key::new("rotation").part("repository").repository(&self.ours).part("note")
    }

    /// Which key seals the value of a secret.
    async fn key_of(&self, secret: &str) -> KeyId {
        key_id(&self.bench.read(&row(&self.ours, "value", secret)).await[1..]).expect("a sealed value")
    }

    async fn is_whole(&self) -> bool {
        self.bench.vault.forget_keys();
        for secret in ["OTHER", "TOKEN"] {
            match self.bench.value(&self.ours, secret).await {
                Ok(value) if value == format!("value of {secret}").as_bytes() => {}
                _ => return false,
            }
        }
        true
    }
}

#[tokio::test]
async fn a_note_that_nobody_wrote_stops_no_revocation() {
    for (revoke, expected) in [(Revoke::Delete, ErrorKind::NotFound), (Revoke::Withdraw, ErrorKind::Denied)] {
        let mut index = 0;
        loop {
            let world = World::new().await;
            let notes = world.notes(&key_folder(&world.ours)).await;
            let Some(note) = notes.get(index) else { break };
            world.bench.write(&world.note_place(), note.clone()).await;
            let report = world.revoke(revoke).await.expect("it is revoked");
            assert_eq!((report.revoked, report.is_complete()), (2, true), "{note}: {report:?}");
            assert!(!report.resumed, "{note}: there was nothing to resume");
            for secret in ["OTHER", "TOKEN"] {
                assert_eq!(kind(world.bench.value(&world.ours, secret).await), expected, "{note}");
            }
            index += 1;
        }
        assert_eq!(index, 7);
    }
}

#[tokio::test]
async fn a_note_that_nobody_wrote_stops_no_rotation() {
    let mut index = 0;
    loop {
        let world = World::new().await;
        let notes = world.notes(&key_folder(&world.ours)).await;
        let Some(note) = notes.get(index) else { break };
        let before = world.key_of("TOKEN").await;
        world.bench.write(&world.note_place(), note.clone()).await;
        let report = world.rotate("repository").await.expect("it is rotated");
        assert_eq!((report.made, report.resealed, report.left), (1, 2, 0), "{note}: {report:?}");
        assert_ne!(world.key_of("TOKEN").await, before, "{note}");
        assert!(world.is_whole().await, "{note}");
        index += 1;
    }
}

#[tokio::test]
async fn a_note_that_nobody_wrote_stops_no_rotation_of_a_tenants_key() {
    let mut index = 0;
    loop {
        let world = World::new().await;
        let notes = world.notes(&world.tenant_folder()).await;
        let Some(note) = notes.get(index) else { break };
        let before = world.current(&world.tenant_folder()).await;
        let place = Key::new("rotation").part("tenant").part(world.ours.tenant().as_str());
        world.bench.write(&place, note.clone()).await;
        let report = world.rotate("tenant").await.expect("it is rotated");
        assert_eq!((report.made, report.rewrapped, report.destroyed), (1, 1, 1), "{note}: {report:?}");
        assert_ne!(world.current(&world.tenant_folder()).await, before, "{note}");
        assert!(world.is_whole().await, "{note}");
        index += 1;
    }
}

#[tokio::test]
async fn a_note_that_nobody_wrote_stops_no_rotation_of_everything() {
    let elsewhere = ["key/repository/zzzz", "zzzz", "//", "key/repository/acme/zzzz"];
    let notes = elsewhere.into_iter().map(|after| json!({ "tenant": true, "after": after }).to_string());
    let others = ["rubbish", r#"{"after":null}"#, r#"{"tenant":true,"after":null}"#, r#"{"after":7}"#];
    for note in notes.chain(others.map(str::to_owned)) {
        let world = World::new().await;
        let before = (world.current(&world.tenant_folder()).await, world.key_of("TOKEN").await);
        let place = Key::new("rotation").part("all").part(world.ours.tenant().as_str());
        world.bench.write(&place, note.clone()).await;
        let report = world.rotate("all").await.expect("it is rotated");
        assert!(report.is_complete(), "{note}: {report:?}");
        let after = (world.current(&world.tenant_folder()).await, world.key_of("TOKEN").await);
        assert!(before.0 != after.0 && before.1 != after.1, "{note}: {report:?}");
        assert!(world.is_whole().await, "{note}");
    }
}

#[tokio::test]
async fn rows_put_among_former_keys_keep_none_of_them_alive() {
    let world = World::new().await;
    let folder = world.tenant_folder().part("wrapped");
    let right = world.bench.below(&folder).await.remove(0);
    for number in 0..250 {
        let place = folder.clone().part(format!("{number:032x}"));
        world.bench.write(&place, right.value.clone()).await;
    }
    let report = world.rotate("tenant").await.expect("it is rotated");
    assert!(report.is_complete(), "{report:?}");
    let left = world.bench.below(&folder).await;
    assert_eq!(left.len(), 1, "and none that was there before");
    assert_ne!(left[0].key, right.key);
    assert!(world.is_whole().await);
}

#[tokio::test]
async fn many_former_keys_are_all_retired() {
    let world = World::new().await;
    let before = world.key_of("TOKEN").await;
    world.rotate("repository").await.expect("it is rotated");
    let former = Key::new("rotation").part("repository").repository(&world.ours).part("former");
    for number in 0..250 {
        let since = json!({ "since": u64::MAX }).to_string();
        world.bench.write(&former.clone().part(format!("{number:032x}")), since).await;
    }
    let act = world.operator.act(world.ours.tenant(), "key.retired").await.expect("an act");
    let later = ci_core::clock::Clock::now(&*world.bench.rig.clock).after(std::time::Duration::from_secs(1));
    let report = world.bench.vault.retire_keys(&act, &world.ours, later).await.expect("retired");
    assert_eq!(report.destroyed, 1, "{report:?}");
    let place = key_folder(&world.ours).part("wrapped").part(before.as_str());
    assert!(world.bench.records.get(&place).await.expect("read").is_none());
    assert!(world.is_whole().await);
}

#[tokio::test]
async fn a_key_that_was_deleted_is_no_secret_that_never_was() {
    for folder in ["tenant", "repository"] {
        let world = World::new().await;
        let keys = world.bench.below(&Key::new("key").part(folder)).await;
        let wrapped = keys.into_iter().find(|record| record.key.as_str().contains("/wrapped/"));
        world.bench.remove(&wrapped.expect("a key").key).await;
        world.bench.vault.forget_keys();
        assert_eq!(kind(world.bench.value(&world.ours, "TOKEN").await), ErrorKind::Tampered, "{folder}");
        let grant = world.bench.grant::<Write>(&world.ours).await;
        assert_eq!(kind(world.bench.vault.list(&grant.lower()).await), ErrorKind::Tampered, "{folder}");
        let put = world.bench.vault.put(&grant, &name("TOKEN"), SecretValue::new("another")).await;
        assert_eq!(kind(put), ErrorKind::Tampered, "{folder}");
        let deleted = world.bench.vault.delete(&grant, &name("TOKEN")).await;
        assert_eq!(kind(deleted), ErrorKind::Tampered, "{folder}");
    }
}

#[tokio::test]
async fn an_audit_log_that_says_it_has_no_room_is_broken() {
    let world = World::new().await;
    let head = Head { count: u64::MAX, hash: Digest::of(b"anything") };
    let place = Key::new("audit").part(world.ours.tenant().as_str()).part("head");
    world.bench.write(&place, serde_json::to_vec(&head).expect("JSON")).await;
    let grant = world.bench.grant::<Write>(&world.ours).await;
    let put = world.bench.vault.put(&grant, &name("NEW"), SecretValue::new("a value")).await;
    assert_eq!(kind(put), ErrorKind::Tampered);
    assert_eq!(kind(world.bench.value(&world.ours, "TOKEN").await), ErrorKind::Tampered);
}

/// Records in which something else happens just before the first purge of what lies below a certain key.
#[derive(Debug)]
struct BeforePurge {
    inner: Arc<dyn Records>,
    of: Key,
    gate: Mutex<Option<(oneshot::Sender<()>, oneshot::Receiver<()>)>>,
}

#[async_trait]
impl Records for BeforePurge {
    async fn get(&self, key: &Key) -> Result<Option<Record>> {
        self.inner.get(key).await
    }

    async fn list(&self, prefix: &Key, after: Option<&Key>, limit: usize) -> Result<Vec<Record>> {
        self.inner.list(prefix, after, limit).await
    }

    async fn commit(&self, batch: Batch) -> Result<Version> {
        self.inner.commit(batch).await
    }

    async fn purge(&self, prefix: &Key) -> Result<usize> {
        let gate = if *prefix == self.of { self.gate.lock().expect("unpoisoned").take() } else { None };
        if let Some((told, done)) = gate {
            told.send(()).expect("somebody waits");
            done.await.expect("it is done");
        }
        self.inner.purge(prefix).await
    }

    async fn scan_raw(&self, needle: &[u8]) -> Result<usize> {
        self.inner.scan_raw(needle).await
    }
}

#[tokio::test]
async fn a_secret_that_is_set_while_its_repository_is_erased_spoils_nothing() {
    for of in [Key::new("secret"), Key::new("key").part("repository")] {
        let world = World::new().await;
        let of = of.repository(&world.ours);
        let ((told, is_there), (done, is_done)) = (oneshot::channel(), oneshot::channel());
        let gate = Mutex::new(Some((told, is_done)));
        let records = Arc::new(BeforePurge { inner: world.bench.records.clone(), of, gate });
        let clock = world.bench.rig.clock.clone();
        let erasing = Vault::new(records, world.bench.audit.clone(), world.bench.root.clone(), clock);
        let act = world.operator.act(world.ours.tenant(), "erase").await.expect("an act");
        let between = async {
            is_there.await.expect("it purges");
            world.bench.put(&world.ours, "TOKEN", "set meanwhile").await;
            done.send(()).expect("it waits");
        };
        let (receipt, ()) = tokio::join!(erasing.erase(&act, &world.ours), between);
        let receipt = receipt.expect("it is erased");
        assert!(receipt.is_verified(), "{receipt:?}");
        let keys = world.bench.below(&key_folder(&world.ours)).await;
        assert_eq!(keys.len(), 0, "the one that was made meanwhile is gone as well");
        assert_eq!(kind(world.bench.value(&world.ours, "TOKEN").await), ErrorKind::NotFound);
        world.bench.put(&world.ours, "TOKEN", "set afterwards").await;
        assert_eq!(world.bench.value(&world.ours, "TOKEN").await.expect("read"), b"set afterwards");
    }
}
