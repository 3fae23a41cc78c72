//! The list of a repository's secrets, the decoy beside it, and the anchor outside of the database.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use ci_core::ErrorKind;
use ci_core::access::{Read, Write};
use ci_core::audit::Audit;
use ci_core::conformance::{Fault, FaultyRecords};
use ci_core::id::{RepositoryId, StepName};
use ci_core::job::{Script, Step};
use ci_core::memory::{Anchor, Database, Reply, Rig};
use ci_core::operator::Operator;
use ci_core::outcome::Conclusion;
use ci_core::records::{Batch, Key, Record};
use ci_core::runner::{Parts, Runner};
use ci_core::secret::{FreshnessAnchor, NewSecret, SecretStore as _, SecretValue, Sensitive};
use ci_core::trust::Origin;
use ci_secrets::Vault;

use crate::bench::{Bench, Switched, key_folder, kind, name, repository, row};

fn folder(repository: &RepositoryId) -> Key {
    Key::new("secret").repository(repository)
}

async fn put_back(bench: &Bench, rows: &[Record]) {
    for row in rows {
        bench.write(&row.key, row.value.clone()).await;
    }
}

#[tokio::test]
async fn a_list_that_is_missing_is_no_empty_list() {
    let (bench, ours) = (Bench::new(), repository("1"));
    bench.put(&ours, "TOKEN", "some value").await;
    let list = folder(&ours).part("manifest");
    let right = bench.read(&list).await;
    bench.remove(&list).await;
    let grant = bench.grant::<Write>(&ours).await;
    assert_eq!(kind(bench.value(&ours, "TOKEN").await), ErrorKind::Tampered);
    assert_eq!(kind(bench.vault.list(&grant.lower()).await), ErrorKind::Tampered);
    let put = bench.vault.put(&grant, &name("OTHER"), SecretValue::new("x")).await;
    assert_eq!(kind(put), ErrorKind::Tampered);
    assert_eq!(kind(bench.vault.delete(&grant, &name("TOKEN")).await), ErrorKind::Tampered);
    bench.write(&list, right).await;
    assert!(bench.value(&ours, "TOKEN").await.is_ok());
}

/// A repository whose key was made for something else has a list as well, so that hiding it is noticed.
#[tokio::test]
async fn where_there_is_a_key_there_is_a_list() {
    let (bench, ours) = (Bench::new(), repository("1"));
    let grant = bench.grant::<Read>(&ours).await;
    assert!(bench.vault.list(&grant).await.expect("nothing was ever kept").is_empty());
    let purpose = ci_secrets::Purpose::log(&ci_core::id::JobId::random(), 0);
    let scope = grant.scope().expect("fresh");
    ci_secrets::KeyRing::data_key(&*bench.vault, scope, &purpose, None).await.expect("a key");
    assert_eq!(bench.below(&folder(&ours)).await.len(), 2, "a list and a decoy");
    assert!(bench.vault.list(&grant).await.expect("an empty list").is_empty());
    bench.records.purge(&folder(&ours)).await.expect("it is purged");
    assert_eq!(kind(bench.vault.list(&grant).await), ErrorKind::Tampered);
}

#[tokio::test]
async fn secrets_without_key_and_list_are_not_taken_for_none() {
    let (bench, ours) = (Bench::new(), repository("1"));
    bench.put(&ours, "TOKEN", "some value").await;
    for record in bench.below(&key_folder(&ours)).await {
        bench.remove(&record.key).await;
    }
    bench.remove(&folder(&ours).part("manifest")).await;
    let afresh = bench.other_vault(bench.root.clone());
    let claim = bench.claim(&ours).await;
    assert_eq!(kind(afresh.lease(claim.trusted().expect("trusted"), &[]).await), ErrorKind::Tampered);
    assert_eq!(kind(afresh.list(&bench.grant::<Read>(&ours).await).await), ErrorKind::Tampered);
}

#[tokio::test]
async fn a_list_of_before_does_not_fit() {
    let (bench, ours) = (Bench::new(), repository("1"));
    bench.put(&ours, "TOKEN", "first").await;
    let list = folder(&ours).part("manifest");
    let before = bench.read(&list).await;
    bench.put(&ours, "TOKEN", "second").await;
    bench.write(&list, before).await;
    assert_eq!(kind(bench.value(&ours, "TOKEN").await), ErrorKind::Tampered);
    assert_eq!(kind(bench.vault.list(&bench.grant(&ours).await).await), ErrorKind::Tampered);
}

#[tokio::test]
async fn rows_that_nobody_set_are_noticed_and_can_be_deleted() {
    let (bench, ours) = (Bench::new(), repository("1"));
    bench.put(&ours, "TOKEN", "some value").await;
    bench.put(&ours, "REVOKED", "leaked").await;
    let rows = bench.below(&folder(&ours)).await;
    let rows: Vec<_> = rows.into_iter().filter(|row| row.key.as_str().contains("REVOKED")).collect();
    let grant = bench.grant::<Write>(&ours).await;
    bench.vault.delete(&grant, &name("REVOKED")).await.expect("it is deleted");
    put_back(&bench, &rows).await;
    assert_eq!(kind(bench.value(&ours, "REVOKED").await), ErrorKind::Tampered);
    assert_eq!(kind(bench.vault.list(&grant.lower()).await), ErrorKind::Tampered);
    assert!(bench.value(&ours, "TOKEN").await.is_ok(), "others can be leased all the same");
    bench.vault.delete(&grant, &name("REVOKED")).await.expect("it is deleted");
    assert_eq!(bench.vault.list(&grant.lower()).await.expect("a list").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_that_are_set_at_once_are_all_in_the_list() {
    let (bench, ours) = (Bench::new(), repository("1"));
    let mut writers = Vec::new();
    for writer in 0..16 {
        let (grant, vault) = (bench.grant::<Write>(&ours).await, bench.vault.clone());
        writers.push(tokio::spawn(async move {
            vault.put(&grant, &name(&format!("S{writer}")), SecretValue::new("x")).await.map(drop)
        }));
    }
    for writer in writers {
        writer.await.expect("the writer ends").expect("the secret is set");
    }
    assert_eq!(bench.vault.list(&bench.grant(&ours).await).await.expect("a list").len(), 16);
}

/// A policy is no column that somebody could widen: it is sealed, and its digest is in what the value is bound to.
#[tokio::test]
async fn a_row_under_a_wider_policy_does_not_open() {
    let (bench, ours) = (Bench::new(), repository("1"));
    let grant = bench.grant::<Write>(&ours).await;
    let info = row(&ours, "info", "TOKEN");
    bench.put(&ours, "TOKEN", "under no policy").await;
    let wide = bench.read(&info).await;
    let narrow = ci_secrets::SecretPolicy::default().with_trust(ci_core::trust::Trust::Protected);
    let new = NewSecret::new(SecretValue::new("under a policy")).with_policy(narrow);
    bench.vault.set(&grant, &name("TOKEN"), new).await.expect("the secret is set");
    assert_eq!(kind(bench.value(&ours, "TOKEN").await), ErrorKind::Denied);
    bench.write(&info, wide).await;
    assert_eq!(kind(bench.value(&ours, "TOKEN").await), ErrorKind::Tampered);
}

/// Everything but the value is read and refused first, and nothing is in the audit log.
#[tokio::test]
async fn a_lease_reads_once_writes_once_and_unwraps_at_most_once() {
    let rig = Rig::new().expect("a rig");
    let inner = Arc::new(Database::new(rig.clock.clone()));
    let records = FaultyRecords::over(inner, rig.clock.clone());
    let audit = Audit::new(records.clone(), rig.clock.clone());
    let root = Switched::new();
    let vault = Vault::new(records.clone(), audit, root.clone(), rig.clock.clone());
    let ours = repository("1");
    let grant = rig.grant::<Write>(&Rig::user("ada").expect("an id"), &ours).await.expect("a grant");
    let names: Vec<_> = (0..50).map(|index| name(&format!("S{index}"))).collect();
    for name in &names {
        vault.put(&grant, name, SecretValue::new("some value")).await.expect("the secret is set");
    }
    let claim = rig.claim(&ours, Origin::Repository, Rig::spec()).await.expect("a claim");
    vault.forget_keys();
    root.unwraps.store(0, Ordering::Release);
    records.counts();
    vault.lease(claim.trusted().expect("trusted"), &names).await.expect("a lease");
    let (cold, commits) = records.counts();
    assert_eq!((commits, root.unwraps.load(Ordering::Acquire)), (1, 1), "one entry, one unwrap");
    vault.lease(claim.trusted().expect("trusted"), &names[..1]).await.expect("a lease");
    let (warm, commits) = records.counts();
    assert_eq!((commits, root.unwraps.load(Ordering::Acquire)), (1, 1), "the key is remembered");
    assert!(cold <= 12 && warm <= 10, "{cold} and {warm} reads");
}

#[tokio::test]
async fn a_store_that_loses_its_answer_or_fails_leaves_a_secret_whole() {
    let rig = Rig::new().expect("a rig");
    let inner = Arc::new(Database::new(rig.clock.clone()));
    let records = FaultyRecords::over(inner, rig.clock.clone());
    let audit = Audit::new(records.clone(), rig.clock.clone());
    let vault = Vault::new(records.clone(), audit, Switched::new(), rig.clock.clone());
    let (ours, token) = (repository("1"), name("TOKEN"));
    let grant = async || rig.grant::<Write>(&Rig::user("ada").expect("an id"), &ours).await.expect("a grant");
    let claim = rig.claim(&ours, Origin::Repository, Rig::spec()).await.expect("a claim");
    let value = async || {
        let lease = vault.lease(claim.trusted().expect("trusted"), std::slice::from_ref(&token)).await?;
        lease.value(&token).map(|value| value.expose().to_vec())
    };
    vault.put(&grant().await, &token, SecretValue::new("first")).await.expect("it is set");
    for (fault, expected) in [(Fault::Refused, "first"), (Fault::AnswerLost, "second")] {
        records.fail_once(fault, Key::new("secret"));
        let put = vault.put(&grant().await, &token, SecretValue::new("second")).await;
        assert_eq!(kind(put), ErrorKind::Unavailable, "{fault:?}");
        assert_eq!(value().await.expect("whole"), expected.as_bytes(), "{fault:?}");
    }
    let entry = Key::new("audit").part("acme").part("entry");
    records.fail_once(Fault::Slow(std::time::Duration::from_secs(1)), entry); // the commit, which nothing else concerns
    assert!(
        vault.put(&grant().await, &token, SecretValue::new("third")).await.is_ok(),
        "what was begun in time"
    );
    records.fail_once(Fault::Dropped, Key::new("secret"));
    vault.put(&grant().await, &token, SecretValue::new("lost")).await.expect("the disk lies");
    assert_eq!(value().await.expect("whole"), b"third", "what was never written is not half there");
}

struct Anchored {
    bench: Bench,
    anchor: Arc<Anchor>,
    vault: Vault,
    ours: RepositoryId,
}

impl Anchored {
    fn new() -> Self {
        let (bench, anchor) = (Bench::new(), Arc::new(Anchor::default()));
        let vault = bench.other_vault(bench.root.clone()).with_anchor(anchor.clone());
        Self { bench, anchor, vault, ours: repository("1") }
    }

    async fn put(&self, value: &str) {
        let grant = self.bench.grant::<Write>(&self.ours).await;
        self.vault.put(&grant, &name("TOKEN"), SecretValue::new(value)).await.expect("the secret is set");
    }

    async fn value(&self, vault: &Vault) -> ci_core::Result<Vec<u8>> {
        let claim = self.bench.claim(&self.ours).await;
        let lease = vault.lease(claim.trusted()?, &[name("TOKEN")]).await?;
        Ok(lease.value(&name("TOKEN"))?.expose().to_vec())
    }

    async fn all(&self) -> Vec<Record> {
        let mut all = self.bench.below(&folder(&self.ours)).await;
        all.extend(self.bench.below(&Key::new("key")).await);
        all
    }
}

#[tokio::test]
async fn everything_put_back_together_is_noticed_with_an_anchor_only() {
    let world = Anchored::new();
    world.put("first").await;
    let before = world.all().await;
    world.put("second").await;
    put_back(&world.bench, &before).await;
    assert_eq!(kind(world.value(&world.vault).await), ErrorKind::Tampered);
    let grant = world.bench.grant::<Write>(&world.ours).await;
    assert_eq!(kind(world.vault.list(&grant.lower()).await), ErrorKind::Tampered);
    let put = world.vault.put(&grant, &name("TOKEN"), SecretValue::new("third")).await;
    assert_eq!(kind(put), ErrorKind::Tampered, "nothing is written over it either");
    // The limit that the documentation states.
    assert_eq!(world.value(&world.bench.vault).await.expect("nobody noticed"), b"first");
}

#[tokio::test]
async fn what_is_deleted_or_rotated_is_remembered_at_once() {
    let (deleted, rotated) = (Anchored::new(), Anchored::new());
    for world in [&deleted, &rotated] {
        world.put("first").await;
    }
    let before = [deleted.all().await, rotated.all().await];
    let grant = deleted.bench.grant::<Write>(&deleted.ours).await;
    deleted.vault.delete(&grant, &name("TOKEN")).await.expect("it is deleted");
    let operator = Operator::new(&rotated.bench.audit).expect("the operator");
    let act = operator.act(rotated.ours.tenant(), "key.rotated").await.expect("an act");
    rotated.vault.rotate_repository(&act, &rotated.ours, &mut |_| {}).await.expect("it is rotated");
    for (world, before) in [&deleted, &rotated].into_iter().zip(&before) {
        put_back(&world.bench, before).await;
        assert_eq!(kind(world.value(&world.vault).await), ErrorKind::Tampered);
        assert_eq!(world.value(&world.bench.vault).await.expect("nobody noticed"), b"first");
    }
}

#[tokio::test]
async fn a_repository_that_disappears_is_noticed_with_an_anchor_only() {
    let world = Anchored::new();
    world.put("first").await;
    let rows = world.all().await;
    for row in &rows {
        world.bench.remove(&row.key).await;
    }
    world.vault.forget_keys();
    assert_eq!(kind(world.value(&world.vault).await), ErrorKind::Tampered);
    assert_eq!(kind(world.vault.list(&world.bench.grant(&world.ours).await).await), ErrorKind::Tampered);
    assert_eq!(kind(world.value(&world.bench.vault).await), ErrorKind::NotFound, "as if it never had any");
}

#[tokio::test]
async fn two_states_of_one_generation_are_told_apart() {
    let world = Anchored::new();
    world.put("first").await;
    let before = world.all().await;
    world.put("second").await;
    // Somebody puts the first state back and lets a service without an anchor go on from there.
    put_back(&world.bench, &before).await;
    world.bench.put(&world.ours, "TOKEN", "forked").await;
    assert_eq!(kind(world.value(&world.vault).await), ErrorKind::Tampered);
}

/// A process that dies between its commit and the mark leaves the database ahead, which is no reason to stop.
#[tokio::test]
async fn a_database_that_is_ahead_of_its_anchor_goes_on() {
    let world = Anchored::new();
    world.put("first").await;
    let marked = world.anchor.latest(&folder(&world.ours)).await.expect("a mark");
    world.bench.put(&world.ours, "TOKEN", "without a mark").await;
    assert_eq!(world.anchor.latest(&folder(&world.ours)).await.expect("a mark"), marked);
    assert_eq!(world.value(&world.vault).await.expect("a value"), b"without a mark");
    assert_ne!(world.anchor.latest(&folder(&world.ours)).await.expect("a mark"), marked, "who reads marks");
}

#[tokio::test]
async fn what_was_erased_on_purpose_begins_anew() {
    let world = Anchored::new();
    world.put("first").await;
    let operator = Operator::new(&world.bench.audit).expect("the operator");
    let act = operator.act(world.ours.tenant(), "repository.erased").await.expect("an act");
    world.vault.erase(&act, &world.ours).await.expect("it is erased");
    assert_eq!(world.anchor.latest(&folder(&world.ours)).await.expect("no mark"), None);
    assert_eq!(kind(world.value(&world.vault).await), ErrorKind::NotFound);
    world.put("second").await;
    assert_eq!(world.value(&world.vault).await.expect("a value"), b"second");
}

#[tokio::test]
async fn what_was_erased_does_not_come_back_with_an_old_copy() {
    let world = Anchored::new();
    world.put("first").await;
    world.put("second").await;
    let before = world.all().await;
    let operator = Operator::new(&world.bench.audit).expect("the operator");
    let act = operator.act(world.ours.tenant(), "repository.erased").await.expect("an act");
    world.vault.erase(&act, &world.ours).await.expect("it is erased");
    put_back(&world.bench, &before).await;
    assert_eq!(kind(world.value(&world.vault).await), ErrorKind::Tampered);
    // The limit that the documentation states.
    assert_eq!(world.value(&world.bench.vault).await.expect("nobody noticed"), b"second");

    // Nor does it after the repository has begun anew, with fewer changes than the copy had seen.
    world.vault.erase(&act, &world.ours).await.expect("once more");
    world.put("third").await;
    put_back(&world.bench, &before).await;
    world.vault.forget_keys();
    assert_eq!(kind(world.value(&world.vault).await), ErrorKind::Tampered);
    world.vault.accept_restored(&act, &world.ours).await.expect("the operator means well");
    assert_eq!(kind(world.value(&world.vault).await), ErrorKind::Tampered, "what was erased stays so");
}

#[tokio::test]
async fn a_copy_that_the_operator_restored_is_accepted() {
    let world = Anchored::new();
    world.put("first").await;
    let before = world.all().await;
    world.put("second").await;
    put_back(&world.bench, &before).await;
    assert_eq!(kind(world.value(&world.vault).await), ErrorKind::Tampered);
    let operator = Operator::new(&world.bench.audit).expect("the operator");
    let foreign = ci_core::id::TenantId::parse("umbrella").expect("an id");
    let foreign = operator.act(&foreign, "database.restored").await.expect("an act");
    assert_eq!(kind(world.vault.accept_restored(&foreign, &world.ours).await), ErrorKind::Denied);
    assert_eq!(kind(world.value(&world.vault).await), ErrorKind::Tampered);

    let act = operator.act(world.ours.tenant(), "database.restored").await.expect("an act");
    world.vault.accept_restored(&act, &world.ours).await.expect("it is accepted");
    assert_eq!(world.value(&world.vault).await.expect("a value"), b"first");
    world.put("third").await;
    put_back(&world.bench, &before).await;
    assert_eq!(kind(world.value(&world.vault).await), ErrorKind::Tampered, "the next one is noticed again");
    let without = world.bench.vault.accept_restored(&act, &world.ours).await;
    assert_eq!(kind(without), ErrorKind::Unsupported);
}

#[tokio::test]
async fn a_decoy_is_made_and_bound_like_a_secret() {
    let (bench, ours, theirs) = (Bench::new(), repository("1"), repository("2"));
    bench.put(&ours, "TOKEN", "some value").await;
    bench.put(&theirs, "TOKEN", "some value").await;
    let operator = Operator::new(&bench.audit).expect("the operator");
    let act = operator.act(ours.tenant(), "canary.read").await.expect("an act");
    let decoys = [bench.vault.canary(&act, &ours).await, bench.vault.canary(&act, &theirs).await];
    let decoys = decoys.map(|decoy| decoy.expect("a decoy"));
    assert_ne!(decoys[0].expose(), decoys[1].expose());
    assert_eq!(decoys[0].expose().len(), 40);
    assert_eq!(bench.records.scan_raw(decoys[0].expose()).await.expect("a scan"), 0);
    assert_eq!(kind(bench.value(&ours, "CANARY").await), ErrorKind::NotFound, "no job has it by its name");
    assert_eq!(
        bench.vault.list(&bench.grant(&ours).await).await.expect("a list").len(),
        1,
        "no list shows it"
    );

    let place = |repository: &RepositoryId| folder(repository).part("canary");
    let right = bench.read(&place(&ours)).await;
    bench.write(&place(&ours), bench.read(&place(&theirs)).await).await;
    assert_eq!(kind(bench.value(&ours, "TOKEN").await), ErrorKind::Tampered);
    assert_eq!(kind(bench.vault.canary(&act, &ours).await), ErrorKind::Tampered);
    bench.remove(&place(&ours)).await;
    assert_eq!(kind(bench.value(&ours, "TOKEN").await), ErrorKind::Tampered);
    bench.write(&place(&ours), right).await;
    assert!(bench.value(&ours, "TOKEN").await.is_ok());

    let foreign =
        operator.act(&ci_core::id::TenantId::parse("umbrella").expect("an id"), "x").await.expect("an act");
    assert_eq!(kind(bench.vault.canary(&foreign, &ours).await), ErrorKind::Denied);
}

#[tokio::test]
async fn a_job_that_prints_the_decoy_is_reported() {
    let rig = Rig::new().expect("a rig");
    let vault = Vault::new(rig.records(), rig.audit.clone(), Switched::new(), rig.clock.clone());
    let (vault, ours, token) = (Arc::new(vault), repository("1"), name("TOKEN"));
    let grant = rig.grant::<Write>(&Rig::user("ada").expect("an id"), &ours).await.expect("a grant");
    vault.put(&grant, &token, SecretValue::new("some value")).await.expect("it is set");
    let act = rig.operator.act(ours.tenant(), "canary.read").await.expect("an act");
    let decoy = vault.canary(&act, &ours).await.expect("a decoy");
    let printed = String::from_utf8_lossy(decoy.expose()).into_owned();
    rig.backend.on("sh", move |_| Reply::exit(0).stdout(format!("found {printed}\n")));
    let step = Step::script(StepName::parse("steal").expect("a name"), Script::literal("cat /etc/decoy"));
    let spec = Rig::spec().with_step(step);
    let runner = Runner::new(Parts { secrets: vault, ..rig.parts() });
    for (origin, spec) in [
        (Origin::Repository, spec.clone().with_secret(token)),
        (Origin::Repository, spec.clone()),
        (Origin::Fork, spec),
    ] {
        let claim = rig.claim(&ours, origin, spec).await.expect("a claim");
        let outcome = runner.run(claim, std::future::pending()).await.expect("an outcome");
        assert_eq!(outcome.conclusion, Conclusion::Succeeded);
        let told: Vec<_> = outcome.leaks.iter().map(|leak| &leak.what).collect();
        assert!(told.iter().any(|what| matches!(what, Sensitive::Canary(_))), "{origin:?}: {told:?}");
    }
}

#[tokio::test]
async fn watching_makes_no_key_and_does_not_pass_over_what_was_changed() {
    let (bench, ours) = (Bench::new(), repository("1"));
    let watch = async || {
        let claim = bench.rig.claim(&ours, Origin::Fork, Rig::spec()).await.expect("a claim");
        bench.vault.watch(&claim).await
    };
    assert!(watch().await.is_ok());
    assert!(bench.below(&key_folder(&ours)).await.is_empty());

    bench.put(&ours, "TOKEN", "some value").await;
    assert!(watch().await.is_ok());
    bench.remove(&folder(&ours).part("canary")).await;
    assert_eq!(kind(watch().await), ErrorKind::Tampered);
}

#[tokio::test]
async fn an_export_has_every_name_once_and_no_value() {
    let (bench, ours) = (Bench::new(), repository("1"));
    for secret in ["C", "A", "B"] {
        bench.put(&ours, secret, "some value").await;
    }
    let operator = Operator::new(&bench.audit).expect("the operator");
    let act = operator.act(ours.tenant(), "secrets.exported").await.expect("an act");
    bench.records.purge(&folder(&ours).part("value")).await.expect("no value is needed");
    let names = |page: Vec<ci_secrets::SecretInfo>| -> Vec<String> {
        page.iter().map(|info| info.name.as_str().to_owned()).collect()
    };
    assert_eq!(names(bench.vault.export(&act, &ours, None).await.expect("a page")), ["A", "B", "C"]);
    assert_eq!(names(bench.vault.export(&act, &ours, Some(&name("A"))).await.expect("a page")), ["B", "C"]);
    assert!(bench.vault.export(&act, &ours, Some(&name("C"))).await.expect("the end").is_empty());
    let foreign =
        operator.act(&ci_core::id::TenantId::parse("umbrella").expect("an id"), "x").await.expect("an act");
    assert_eq!(kind(bench.vault.export(&foreign, &ours, None).await), ErrorKind::Denied);
    let batch = Batch::new().delete(row(&ours, "info", "B"));
    bench.records.commit(batch).await.expect("it is written");
    assert_eq!(kind(bench.vault.export(&act, &ours, None).await), ErrorKind::Tampered);
}

/// Between the list and the anchor there is time in which somebody sets a secret, and between the list and a row.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn setting_at_once_is_taken_for_no_attack() {
    let world = Arc::new(Anchored::new());
    world.put("value 0").await;
    let mut all = Vec::new();
    for _ in 0..3 {
        let world = world.clone();
        all.push(tokio::spawn(async move {
            for round in 0..60 {
                world.put(&format!("value {round}")).await;
            }
        }));
    }
    let grant = world.bench.grant::<Read>(&world.ours).await;
    let claim = world.bench.claim(&world.ours).await;
    while !all.iter().all(tokio::task::JoinHandle::is_finished) {
        assert_eq!(world.vault.list(&grant).await.expect("a list").len(), 1);
        let lease =
            world.vault.lease(claim.trusted().expect("trusted"), &[name("TOKEN")]).await.expect("a lease");
        assert!(lease.value(&name("TOKEN")).expect("leased").expose().starts_with(b"value "));
    }
    for one in all {
        one.await.expect("the writer ends");
    }
    let list = world.vault.list(&grant).await.expect("a list");
    assert_eq!(list[0].version, 181, "every one has its version");
}
