//! Other keys in place of those in use: nothing is lost, whatever happens in between.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use ci_core::access::{Read, Write};
use ci_core::audit::Audit;
use ci_core::clock::Timestamp;
use ci_core::conformance::{Fault, FaultyRecords};
use ci_core::id::{JobId, KeyId, RepositoryId, TenantId};
use ci_core::memory::{Database, Rig};
use ci_core::operator::Operator;
use ci_core::records::{Batch, Key, Records};
use ci_core::seal::{Context, key_id};
use ci_core::secret::{KeyRing, Purpose, SecretStore as _, SecretValue};
use ci_core::{ErrorKind, Result};
use ci_secrets::conformance::key_ring::Rotating;
use ci_secrets::{Forgotten, Progress, Revoke, RootKey, RotationReport, Vault, VaultOptions};
use secrecy::SecretBox;
use tokio::sync::oneshot;

use crate::bench::{Bench, Switched, key_folder, kind, name, repository};

/// A vault and who may rotate its keys.
#[derive(Debug)]
pub(crate) struct RotatingVault {
    vault: Arc<Vault>,
    operator: Operator,
}

impl RotatingVault {
    pub(crate) fn new(bench: Bench) -> Self {
        Self { vault: bench.vault, operator: Operator::new(&bench.audit).expect("the operator") }
    }
}

#[async_trait]
impl Rotating for RotatingVault {
    fn ring(&self) -> &dyn KeyRing {
        &*self.vault
    }

    async fn rotate(&self, repository: &RepositoryId) {
        let act = self.operator.act(repository.tenant(), "key.rotated").await.expect("an act");
        let report = self.vault.rotate_repository(&act, repository, &mut |_| {}).await.expect("rotated");
        assert!(report.is_complete(), "{report:?}");
    }

    async fn destroy(&self, repository: &RepositoryId) {
        let act = self.operator.act(repository.tenant(), "key.destroyed").await.expect("an act");
        self.vault.erase(&act, repository).await.expect("erased");
    }
}

/// A tenant with two repositories and three secrets, over records that can fail.
struct Service {
    rig: Rig,
    records: Arc<FaultyRecords>,
    audit: Audit,
    operator: Operator,
    old: Arc<Switched>,
    vault: Vault,
}

impl Service {
    async fn new() -> Self {
        let rig = Rig::new().expect("a rig");
        let records = FaultyRecords::over(Arc::new(Database::new(rig.clock.clone())), rig.clock.clone());
        let audit = Audit::new(records.clone(), rig.clock.clone());
        let operator = Operator::new(&audit).expect("the operator");
        let old = Switched::new();
        let vault = Vault::new(records.clone(), audit.clone(), old.clone(), rig.clock.clone());
        let service = Self { rig, records, audit, operator, old, vault };
        for (native, secret) in [("1", "TOKEN"), ("1", "OTHER"), ("2", "TOKEN")] {
            service.put(&service.vault, native, secret, &format!("value of {secret} of {native}")).await;
        }
        service
    }

    /// Another process.
    fn vault(&self, root: &Arc<Switched>) -> Vault {
        Vault::new(self.records.clone(), self.audit.clone(), root.clone(), self.rig.clock.clone())
    }

    async fn put(&self, vault: &Vault, native: &str, secret: &str, value: &str) {
        let grant = self.rig.grant::<Write>(&Rig::user("ada").expect("a person"), &repository(native)).await;
        let put = vault.put(&grant.expect("a grant"), &name(secret), SecretValue::new(value)).await;
        put.expect("the secret is set");
    }

    async fn value(&self, vault: &Vault, native: &str, secret: &str) -> Result<String> {
        let claim =
            self.rig.claim(&repository(native), ci_core::trust::Origin::Repository, Rig::spec()).await?;
        let lease = vault.lease(claim.trusted()?, &[name(secret)]).await?;
        Ok(String::from_utf8_lossy(lease.value(&name(secret))?.expose()).into_owned())
    }

    /// Every secret is what it was, for a process that remembers nothing.
    async fn check(&self, vault: &Vault) {
        vault.forget_keys();
        for (native, secret) in [("1", "TOKEN"), ("1", "OTHER"), ("2", "TOKEN")] {
            let value = self.value(vault, native, secret).await.expect("it can be read");
            assert_eq!(value, format!("value of {secret} of {native}"));
        }
    }

    async fn root(&self, vault: &Vault) -> Result<RotationReport> {
        let act = self.operator.act(&TenantId::service(), "root_key.rotated").await?;
        vault.rotate_root(&act, &mut |_| {}).await
    }

    async fn tenant(&self, vault: &Vault) -> Result<RotationReport> {
        let act = self.operator.act(&acme(), "tenant_key.rotated").await?;
        vault.rotate_tenant(&act, &acme(), &mut |_| {}).await
    }

    async fn repository(&self, vault: &Vault) -> Result<RotationReport> {
        let act = self.operator.act(&acme(), "repository_key.rotated").await?;
        vault.rotate_repository(&act, &repository("1"), &mut |_| {}).await
    }

    async fn below(&self, prefix: &Key) -> Vec<ci_core::records::Record> {
        self.records.list(prefix, None, 1_000).await.expect("a list")
    }

    /// Which keys the rows of this repository's secrets name.
    async fn keys_of_secrets(&self, native: &str) -> BTreeSet<KeyId> {
        let rows = self.below(&Key::new("secret").repository(&repository(native))).await;
        let sealed = rows.iter().map(|record| {
            // A value that is not large has one byte in front.
            let is_value = record.key.as_str().contains("/value/");
            if is_value { &record.value[1..] } else { &record.value[..] }
        });
        sealed.map(|row| key_id(row).expect("a sealed row")).collect()
    }

    async fn notes(&self) -> Vec<Key> {
        let rows = self.below(&Key::new("rotation")).await;
        let is_note = |key: &Key| key.as_str() != "rotation/root" && !key.as_str().contains("/former/");
        rows.into_iter().map(|record| record.key).filter(is_note).collect()
    }
}

fn acme() -> TenantId {
    TenantId::parse("acme").expect("a tenant")
}

#[tokio::test]
async fn the_root_key_rotates_without_touching_values() {
    let service = Service::new().await;
    let values = service.below(&Key::new("secret")).await;
    let repositories = service.below(&Key::new("key").part("repository")).await;
    let new = Switched::new();
    let both = service.vault(&new).with_former_root(service.old.clone());
    service.check(&both).await;
    let report = service.root(&both).await.expect("rotated");
    assert!(report.is_complete() && !report.resumed, "{report:?}");
    assert_eq!((report.rewrapped, report.forgotten), (1, Forgotten::Yes));
    // Who has only the new root key reads everything; who has only the former one nothing.
    service.check(&service.vault(&new)).await;
    let stranger = service.vault(&service.old);
    assert_eq!(kind(service.value(&stranger, "1", "TOKEN").await), ErrorKind::Unavailable);
    assert_eq!(service.below(&Key::new("secret")).await, values, "no value was touched");
    assert_eq!(service.below(&Key::new("key").part("repository")).await, repositories);
}

#[tokio::test]
async fn a_rotation_that_was_done_does_nothing() {
    let service = Service::new().await;
    let new = Switched::new();
    let both = service.vault(&new).with_former_root(service.old.clone());
    service.root(&both).await.expect("rotated");
    let again = service.root(&both).await.expect("rotated");
    assert_eq!((again.rewrapped, again.resumed, again.is_complete()), (0, true, true));
}

#[tokio::test]
async fn who_was_not_told_of_the_new_root_key_makes_no_keys() {
    let service = Service::new().await;
    let new = Switched::new();
    let untold = service.vault(&service.old);
    let both = service.vault(&new).with_former_root(service.old.clone());
    service.root(&both).await.expect("rotated");
    let theirs = Rig::repository("1", "umbrella").expect("a repository");
    let grant =
        service.rig.grant::<Read>(&Rig::user("ada").expect("a person"), &theirs).await.expect("a grant");
    let purpose = Purpose::log(&JobId::random(), 0);
    let error = untold.data_key(grant.scope().expect("fresh"), &purpose, None).await.expect_err("refused");
    assert_eq!(
        error.to_string(),
        "make a key: the root key was rotated to another one than is in use; start with that one"
    );
    assert!(both.data_key(grant.scope().expect("fresh"), &purpose, None).await.is_ok());
}

#[tokio::test]
async fn a_root_key_that_is_missing_is_reported_and_can_be_given_later() {
    let service = Service::new().await;
    let new = Switched::new();
    let report = service.root(&service.vault(&new)).await.expect("it goes as far as it can");
    assert!(!report.is_complete() && report.rewrapped == 0, "{report:?}");
    assert_eq!(report.forgotten, Forgotten::NotAsked);
    assert!(report.named[0].what.starts_with("key/tenant/acme/wrapped/"), "{report:?}");
    assert_eq!(report.named[0].advice(), "give the vault the root key that the row names, as a former one");
    service.check(&service.vault(&service.old)).await;
    let both = service.vault(&new).with_former_root(service.old.clone());
    let report = service.root(&both).await.expect("rotated");
    assert_eq!((report.rewrapped, report.resumed, report.is_complete()), (1, true, true));
    service.check(&service.vault(&new)).await;
}

/// A provider that answers, but not with what it was asked for.
#[derive(Debug)]
struct Wrong(Arc<Switched>, &'static str);

#[async_trait]
impl RootKey for Wrong {
    async fn wrap(&self, context: &Context, _: &[u8; 32]) -> Result<Bytes> {
        self.0.wrap(context, b"not the key that it was asked f.").await
    }

    async fn unwrap(&self, context: &Context, wrapped: &[u8]) -> Result<SecretBox<[u8; 32]>> {
        self.0.unwrap(context, wrapped).await
    }

    fn key_ref(&self) -> &str {
        self.1
    }
}

#[tokio::test]
async fn a_provider_that_wraps_something_else_costs_no_key() {
    let service = Service::new().await;
    let wrong: Arc<dyn RootKey> = Arc::new(Wrong(Switched::new(), "wrong:1"));
    let vault = Vault::new(service.records.clone(), service.audit.clone(), wrong, service.rig.clock.clone())
        .with_former_root(service.old.clone());
    let report = service.root(&vault).await.expect("it goes as far as it can");
    assert_eq!((report.rewrapped, report.left), (0, 1), "{report:?}");
    service.check(&service.vault(&service.old)).await;
    let theirs = Rig::repository("1", "umbrella").expect("a repository");
    let grant =
        service.rig.grant::<Read>(&Rig::user("ada").expect("a person"), &theirs).await.expect("a grant");
    let key = vault.data_key(grant.scope().expect("fresh"), &Purpose::log(&JobId::random(), 0), None).await;
    assert_eq!(kind(key), ErrorKind::Internal, "and nobody relies on a new one");
}

#[tokio::test]
async fn an_outage_of_a_root_key_stops_a_rotation_which_goes_on_later() {
    let service = Service::new().await;
    let new = Switched::new();
    let both = service.vault(&new).with_former_root(service.old.clone());
    service.old.is_down.store(true, Ordering::Release);
    assert_eq!(kind(service.root(&both).await), ErrorKind::Unavailable);
    service.old.is_down.store(false, Ordering::Release);
    let report = service.root(&both).await.expect("rotated");
    assert_eq!((report.rewrapped, report.resumed), (1, true));
    service.check(&service.vault(&new)).await;
}

#[tokio::test]
async fn a_tenants_key_rotates_and_the_former_one_is_gone() {
    let service = Service::new().await;
    let folder = Key::new("key").part("tenant").part("acme").part("wrapped");
    let before = service.below(&folder).await.remove(0);
    let needle = before.value.last_chunk::<48>().expect("a wrapped key").to_vec();
    let warm = service.vault(&service.old);
    service.check(&warm).await;
    let report = service.tenant(&service.vault).await.expect("rotated");
    assert_eq!((report.made, report.rewrapped, report.destroyed, report.left), (1, 2, 1, 0));
    let after = service.below(&folder).await;
    assert!(after.len() == 1 && after[0].key != before.key);
    assert_eq!(service.records.scan_raw(&needle).await.expect("looked"), 0);
    for row in service.below(&Key::new("key").part("repository").part("acme")).await {
        if row.key.as_str().contains("/wrapped/") {
            assert_eq!(
                Some(key_id(&row.value).expect("an id").as_str()),
                after[0].key.as_str().rsplit('/').next()
            );
        }
    }
    assert!(service.notes().await.is_empty());
    for vault in [&warm, &service.vault] {
        service.check(vault).await;
    }
}

#[tokio::test]
async fn a_repositorys_secrets_are_sealed_with_its_new_key() {
    let service = Service::new().await;
    let before = service.keys_of_secrets("1").await;
    let theirs = service.keys_of_secrets("2").await;
    let mut steps = Vec::new();
    let act = service.operator.act(&acme(), "repository_key.rotated").await.expect("an act");
    let mut watch = |progress: Progress| steps.push((progress.done, progress.left));
    let report = service.vault.rotate_repository(&act, &repository("1"), &mut watch).await.expect("rotated");
    assert_eq!((report.made, report.resealed, report.left), (1, 2, 0));
    assert_eq!(steps, [(2, 0)]);
    let after = service.keys_of_secrets("1").await;
    assert!(after.len() == 1 && after.is_disjoint(&before), "{after:?}");
    assert_eq!(service.keys_of_secrets("2").await, theirs);
    assert!(service.notes().await.is_empty());
    service.check(&service.vault).await;
    let grant = service.rig.grant::<Read>(&Rig::user("ada").expect("a person"), &repository("1")).await;
    let listed = service.vault.list(&grant.expect("a grant")).await.expect("a list");
    assert!(listed.iter().all(|info| info.version == 1), "nobody has set them");
}

#[tokio::test]
async fn who_held_on_to_a_former_key_cannot_write_with_it() {
    let service = Service::new().await;
    let slow = service.vault(&service.old);
    service.check(&slow).await;
    service.repository(&service.vault).await.expect("rotated");
    // Its cache still has the former key.
    service.put(&slow, "1", "TOKEN", "value of TOKEN of 1").await;
    assert_eq!(service.keys_of_secrets("1").await.len(), 1);
    service.check(&service.vault).await;
}

/// Records in which something else happens just before a certain write.
#[derive(Debug)]
struct Meanwhile {
    inner: Arc<dyn Records>,
    at: Key,
    /// Told when the write, or the read of the record itself, is about to happen, and waited for.
    gate: std::sync::Mutex<Option<(oneshot::Sender<()>, oneshot::Receiver<()>)>>,
}

impl Meanwhile {
    async fn wait(&self) {
        let gate = self.gate.lock().expect("unpoisoned").take();
        if let Some((told, done)) = gate {
            told.send(()).expect("somebody waits");
            done.await.expect("it is done");
        }
    }
}

#[async_trait]
impl Records for Meanwhile {
    async fn get(&self, key: &Key) -> Result<Option<ci_core::records::Record>> {
        if *key == self.at {
            self.wait().await;
        }
        self.inner.get(key).await
    }

    async fn list(
        &self,
        prefix: &Key,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<ci_core::records::Record>> {
        self.inner.list(prefix, after, limit).await
    }

    async fn commit(&self, batch: Batch) -> Result<ci_core::records::Version> {
        if batch.puts.iter().any(|(key, _)| key.is_below(&self.at)) {
            self.wait().await;
        }
        self.inner.commit(batch).await
    }

    async fn purge(&self, prefix: &Key) -> Result<usize> {
        self.inner.purge(prefix).await
    }

    async fn scan_raw(&self, needle: &[u8]) -> Result<usize> {
        self.inner.scan_raw(needle).await
    }
}

impl Service {
    /// Another process, in whose next write below `at`, or read of it, `rotation` comes in between.
    async fn put_while(&self, at: Key, native: &str, secret: &str, rotation: impl AsyncFnOnce()) {
        let ((told, is_there), (done, is_done)) = (oneshot::channel(), oneshot::channel());
        let gate = std::sync::Mutex::new(Some((told, is_done)));
        let records = Arc::new(Meanwhile { inner: self.records.clone(), at, gate });
        let vault = Vault::new(records.clone(), self.audit.clone(), self.old.clone(), self.rig.clock.clone());
        let value = format!("value of {secret} of {native}");
        let between = async {
            is_there.await.expect("it writes");
            rotation().await;
            done.send(()).expect("it waits");
        };
        tokio::join!(self.put(&vault, native, secret, &value), between);
    }
}

#[tokio::test]
async fn a_write_that_a_rotation_overtakes_is_done_with_the_new_key() {
    let service = Service::new().await;
    let secrets = Key::new("secret");
    let rotation = async || drop(service.repository(&service.vault).await.expect("rotated"));
    service.put_while(secrets, "1", "TOKEN", rotation).await;
    assert_eq!(service.keys_of_secrets("1").await.len(), 1, "nothing came under the former key afterwards");
    service.check(&service.vault).await;
}

/// It has fetched the key that is current, and reads the list that is there after the rotation. The list alone would let it
/// pass; two conditions do not: that of the key's pointer, and that of the audit log, which the rotation has written to.
#[tokio::test]
async fn a_write_that_fetched_its_key_before_a_rotation_is_done_with_the_new_key() {
    let service = Service::new().await;
    let list = Key::new("secret").repository(&repository("1")).part("manifest");
    let rotation = async || drop(service.repository(&service.vault).await.expect("rotated"));
    service.put_while(list, "1", "TOKEN", rotation).await;
    assert_eq!(service.keys_of_secrets("1").await.len(), 1, "nothing came under the former key afterwards");
    service.check(&service.vault).await;
}

#[tokio::test]
async fn a_new_repository_never_depends_on_a_key_that_was_destroyed() {
    let service = Service::new().await;
    let keys = Key::new("key").part("repository");
    let rotation = async || drop(service.tenant(&service.vault).await.expect("rotated"));
    service.put_while(keys, "new", "TOKEN", rotation).await;
    service.vault.forget_keys();
    assert_eq!(service.value(&service.vault, "new", "TOKEN").await.expect("read"), "value of TOKEN of new");
}

#[tokio::test]
async fn a_key_is_retired_when_its_time_is_over_and_nothing_depends_on_it() {
    let service = Service::new().await;
    let (ours, log) = (repository("1"), Purpose::log(&JobId::random(), 0));
    let seal = async |vault: &Vault| {
        let grant =
            service.rig.grant::<Read>(&Rig::user("ada").expect("a person"), &ours).await.expect("a grant");
        vault.seal(grant.scope().expect("fresh"), &log, b"12 passed").await.expect("it is sealed")
    };
    let open = async |sealed: &Bytes| {
        let grant =
            service.rig.grant::<Read>(&Rig::user("ada").expect("a person"), &ours).await.expect("a grant");
        service.vault.open(grant.scope().expect("fresh"), &log, sealed).await
    };
    let retire = async |before: Timestamp| {
        let act = service.operator.act(&acme(), "key.retired").await.expect("an act");
        service.vault.retire_keys(&act, &ours, before).await.expect("retired")
    };
    let first = seal(&service.vault).await;
    service.repository(&service.vault).await.expect("rotated");
    let rotated = ci_core::clock::Clock::now(&*service.rig.clock);
    service.rig.clock.advance(Duration::from_mins(1));
    let second = seal(&service.vault).await;
    service.repository(&service.vault).await.expect("rotated");
    assert_eq!(retire(rotated).await.destroyed, 0, "none is that old");
    assert_eq!(retire(rotated.after(Duration::from_secs(1))).await.destroyed, 1);
    assert_eq!(kind(open(&first).await), ErrorKind::NotFound);
    assert!(open(&second).await.is_ok());
    service.check(&service.vault).await;
}

#[tokio::test]
async fn a_key_that_secrets_depend_on_is_not_retired() {
    let service = Service::new().await;
    service.records.stop_after(3, Fault::Refused);
    let stopped = service.repository(&service.vault).await;
    assert_eq!(kind(stopped), ErrorKind::Unavailable);
    service.records.heal();
    let later = ci_core::clock::Clock::now(&*service.rig.clock).after(Duration::from_secs(1));
    let act = service.operator.act(&acme(), "key.retired").await.expect("an act");
    let report = service.vault.retire_keys(&act, &repository("1"), later).await.expect("asked");
    assert_eq!((report.destroyed, report.left), (0, 1), "{report:?}");
    service.check(&service.vault).await;
    let report = service.repository(&service.vault).await.expect("it goes on");
    assert!(report.resumed && report.made == 0, "{report:?}");
    let act = service.operator.act(&acme(), "key.retired").await.expect("an act");
    let report = service.vault.retire_keys(&act, &repository("1"), later).await.expect("retired");
    assert_eq!(report.destroyed, 1);
    service.check(&service.vault).await;
}

/// The store fails at every write there is, one after the other, with and without having written: whoever comes next
/// reads everything, finishes it, and leaves one active key.
#[tokio::test]
async fn a_store_that_fails_at_any_write_loses_nothing() {
    for what in ["root", "tenant", "repository", "all"] {
        for fault in [Fault::Refused, Fault::AnswerLost] {
            let mut at = 0;
            loop {
                assert!(at < 60, "{what} does not end");
                let service = Service::new().await;
                let new = Switched::new();
                let both = service.vault(&new).with_former_root(service.old.clone());
                service.records.stop_after(at, fault);
                let first = rotate(&service, &both, what).await;
                service.records.heal();
                let next = service.vault(&new).with_former_root(service.old.clone());
                service.check(&next).await;
                let report = rotate(&service, &next, what).await.expect("it goes on");
                assert!(report.is_complete(), "{what} at {at}: {report:?}");
                service.check(&next).await;
                assert!(service.notes().await.is_empty(), "{what} at {at}");
                assert_eq!(service.keys_of_secrets("1").await.len(), 1, "{what} at {at}");
                let tenants =
                    service.below(&Key::new("key").part("tenant").part("acme").part("wrapped")).await;
                assert_eq!(tenants.len(), 1, "{what} at {at}");
                if what == "root" {
                    service.check(&service.vault(&new)).await;
                }
                service.audit.verify(&acme()).await.expect("the audit log is whole");
                if first.is_ok() {
                    break;
                }
                at += 1;
            }
            assert!(at >= 3, "{what} fails at {at} places only");
        }
    }
}

async fn rotate(service: &Service, vault: &Vault, what: &str) -> Result<RotationReport> {
    match what {
        "root" => service.root(vault).await,
        "tenant" => service.tenant(vault).await,
        "repository" => service.repository(vault).await,
        _ => {
            let act = service.operator.act(&acme(), "everything.rotated").await?;
            vault.rotate_all(&act, &acme(), &mut |_| {}).await
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_that_rotate_at_once_lose_nothing() {
    let service = Arc::new(Service::new().await);
    let mut running = Vec::new();
    for number in 0..6 {
        let service = service.clone();
        running.push(tokio::spawn(async move {
            let vault = service.vault(&service.old);
            let what = ["tenant", "repository", "all"][number % 3];
            for _ in 0..8 {
                match rotate(&service, &vault, what).await {
                    Ok(report) => assert!(report.is_complete(), "{what}: {report:?}"),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{what}: {error:?}"),
                }
            }
        }));
    }
    let writer = service.clone();
    running.push(tokio::spawn(async move {
        let vault = writer.vault(&writer.old);
        for _ in 0..40 {
            writer.put(&vault, "1", "TOKEN", "value of TOKEN of 1").await;
            assert_eq!(writer.value(&vault, "1", "OTHER").await.expect("read"), "value of OTHER of 1");
        }
    }));
    for one in running {
        one.await.expect("it ends");
    }
    for what in ["tenant", "repository"] {
        assert!(rotate(&service, &service.vault, what).await.expect("it ends").is_complete());
    }
    service.check(&service.vault).await;
    assert_eq!(service.keys_of_secrets("1").await.len(), 1);
    assert!(service.audit.verify(&acme()).await.is_ok());
}

#[tokio::test]
async fn a_row_that_was_tampered_with_is_reported_and_keeps_the_former_key() {
    let service = Service::new().await;
    let place = crate::bench::row(&repository("1"), "value", "TOKEN");
    let right = service.records.get(&place).await.expect("read").expect("there").value;
    let mut wrong = right.to_vec();
    *wrong.last_mut().expect("bytes") ^= 1;
    let write = async |value: Vec<u8>| {
        service.records.commit(Batch::new().put(place.clone(), value)).await.expect("written")
    };
    write(wrong).await;
    let report = service.repository(&service.vault).await.expect("it goes as far as it can");
    assert_eq!((report.resealed, report.left, report.named[0].kind), (1, 1, ErrorKind::Tampered));
    write(right.to_vec()).await;
    let report = service.repository(&service.vault).await.expect("it goes on");
    assert!(report.is_complete() && report.resumed && report.resealed == 1, "{report:?}");
    service.check(&service.vault).await;
}

#[tokio::test]
async fn everything_of_a_tenant_rotates() {
    let service = Service::new().await;
    let before = [service.keys_of_secrets("1").await, service.keys_of_secrets("2").await];
    let report = rotate(&service, &service.vault, "all").await.expect("rotated");
    assert_eq!((report.made, report.resealed, report.rewrapped, report.left), (3, 3, 2, 0));
    for (native, before) in ["1", "2"].iter().zip(before) {
        assert!(service.keys_of_secrets(native).await.is_disjoint(&before));
    }
    service.check(&service.vault).await;
}

#[tokio::test]
async fn what_is_revoked_is_gone_and_can_be_set_anew() {
    for revoke in [Revoke::Delete, Revoke::Withdraw] {
        let service = Service::new().await;
        let claim =
            service.rig.claim(&repository("1"), ci_core::trust::Origin::Repository, Rig::spec()).await;
        let (claim, token) = (claim.expect("a claim"), name("TOKEN"));
        let trusted = claim.trusted().expect("trusted");
        let lease = service.vault.lease(trusted, std::slice::from_ref(&token)).await.expect("a lease");
        let sealed = service.records.get(&crate::bench::row(&repository("1"), "value", "TOKEN")).await;
        let sealed = sealed.expect("read").expect("there").value;

        let act = service.operator.act(&acme(), "secrets.revoked").await.expect("an act");
        let revocation = service.vault.revoke_all(&act, &repository("1"), revoke, &mut |_| {}).await;
        let revocation = revocation.expect("revoked");
        assert_eq!((revocation.report.revoked, revocation.report.made), (2, 1), "{revocation:?}");
        assert!(revocation.report.is_complete());
        assert_eq!(revocation.jobs, [claim.job().clone()]);
        assert_eq!(kind(lease.value(&token)), ErrorKind::Fenced);
        assert_eq!(lease.mask_text("it was value of TOKEN of 1"), "it was ***", "it is still hidden");
        assert_eq!(service.records.scan_raw(&sealed[sealed.len() - 24..]).await.expect("looked"), 0);

        let expected = if revoke == Revoke::Delete { ErrorKind::NotFound } else { ErrorKind::Denied };
        assert_eq!(kind(service.value(&service.vault, "1", "TOKEN").await), expected);
        let grant = service.rig.grant::<Read>(&Rig::user("ada").expect("a person"), &repository("1")).await;
        let listed = service.vault.list(&grant.expect("a grant")).await.expect("a list");
        assert_eq!(listed.len(), if revoke == Revoke::Delete { 0 } else { 2 });
        assert!(service.value(&service.vault, "2", "TOKEN").await.is_ok(), "another repository's is not");
        for secret in ["TOKEN", "OTHER"] {
            service.put(&service.vault, "1", secret, &format!("value of {secret} of 1")).await;
        }
        service.check(&service.vault).await;
    }
}

#[tokio::test]
async fn a_revocation_that_stopped_goes_on_and_spares_what_was_set_since() {
    for fault in [Fault::Refused, Fault::AnswerLost] {
        for at in 1..5 {
            let service = Service::new().await;
            let act = service.operator.act(&acme(), "secrets.revoked").await.expect("an act");
            service.records.stop_after(at, fault);
            let stopped = service.vault.revoke_all(&act, &repository("1"), Revoke::Delete, &mut |_| {}).await;
            service.records.heal();
            assert_eq!(kind(stopped), ErrorKind::Unavailable, "{at}");
            service.put(&service.vault, "1", "NEW", "set anew").await;
            let again = service.vault.revoke_all(&act, &repository("1"), Revoke::Delete, &mut |_| {}).await;
            let report = again.expect("it goes on").report;
            assert!(report.is_complete(), "{at}: {report:?}");
            assert_eq!(kind(service.value(&service.vault, "1", "TOKEN").await), ErrorKind::NotFound, "{at}");
            if report.resumed {
                assert_eq!(
                    service.value(&service.vault, "1", "NEW").await.expect("spared"),
                    "set anew",
                    "{at}"
                );
            }
        }
    }
}

#[tokio::test]
async fn the_act_must_be_for_what_is_rotated() {
    let service = Service::new().await;
    let other = TenantId::parse("umbrella").expect("a tenant");
    let act = service.operator.act(&other, "key.rotated").await.expect("an act");
    let (vault, ours, none) = (&service.vault, repository("1"), &mut |_: Progress| {});
    assert_eq!(kind(vault.rotate_root(&act, none).await), ErrorKind::Denied);
    assert_eq!(kind(vault.rotate_tenant(&act, &acme(), none).await), ErrorKind::Denied);
    assert_eq!(kind(vault.rotate_repository(&act, &ours, none).await), ErrorKind::Denied);
    assert_eq!(kind(vault.rotate_all(&act, &acme(), none).await), ErrorKind::Denied);
    assert_eq!(kind(vault.revoke_all(&act, &ours, Revoke::Delete, none).await), ErrorKind::Denied);
    assert_eq!(kind(vault.retire_keys(&act, &ours, Timestamp::from_unix_millis(1)).await), ErrorKind::Denied);
    assert_eq!(kind(vault.erase(&act, &ours).await), ErrorKind::Denied);
    service.check(vault).await;
}

#[tokio::test]
async fn what_has_no_key_gets_none_by_rotating() {
    let service = Service::new().await;
    let (tenant, none) = (TenantId::parse("umbrella").expect("a tenant"), &mut |_: Progress| {});
    let theirs = Rig::repository("1", "umbrella").expect("a repository");
    let act = service.operator.act(&tenant, "key.rotated").await.expect("an act");
    assert_eq!(service.vault.rotate_all(&act, &tenant, none).await.expect("nothing").made, 0);
    assert_eq!(service.vault.rotate_repository(&act, &theirs, none).await.expect("nothing").made, 0);
    assert!(service.below(&key_folder(&theirs)).await.is_empty());
}

#[tokio::test]
async fn an_outage_of_the_root_key_within_the_time_of_a_key_stops_no_job() {
    let service = Service::new().await;
    let half = VaultOptions::default().keys_for / 2;
    let busy = service.vault(&service.old);
    let key = async |native: &str| {
        let grant =
            service.rig.grant::<Read>(&Rig::user("ada").expect("a person"), &repository(native)).await;
        let grant = grant.expect("a grant");
        busy.data_key(grant.scope().expect("fresh"), &Purpose::log(&JobId::random(), 0), None).await
    };
    // Jobs come all the time; the provider fails at any moment, for less than half of the time.
    for start in 1..10 {
        service.old.is_down.store(false, Ordering::Release);
        for _ in 0..start {
            assert!(key("1").await.is_ok());
            service.rig.clock.advance(Duration::from_secs(29));
        }
        service.old.is_down.store(true, Ordering::Release);
        let mut down = Duration::ZERO;
        while down + Duration::from_secs(49) < half {
            assert!(key("1").await.is_ok(), "{start}: down for {down:?}");
            assert!(key("2").await.is_ok(), "{start}: another repository, for {down:?}");
            service.rig.clock.advance(Duration::from_secs(20));
            down += Duration::from_secs(20);
        }
    }
    service.rig.clock.advance(VaultOptions::default().keys_for);
    assert_eq!(kind(key("1").await), ErrorKind::Unavailable, "and not for ever");
}

#[tokio::test]
async fn a_clock_that_jumps_stops_no_rotation() {
    let service = Service::new().await;
    service.rig.clock.jump_to(Timestamp::from_unix_millis(0));
    service.repository(&service.vault).await.expect("rotated");
    service.rig.clock.jump_to(Timestamp::from_unix_millis(u64::from(u32::MAX) * 1_000));
    service.tenant(&service.vault).await.expect("rotated");
    service.check(&service.vault).await;
}
