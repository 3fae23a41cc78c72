//! What every secret store must do.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ci_core::access::{Grant, Read, Write};
use ci_core::audit::Audit;
use ci_core::forge::{self, Revision, RevisionName};
use ci_core::id::{CommitId, EnvironmentName, ImageName, ServiceName, StepName, TenantId};
use ci_core::job::{JobSpec, Script, Service, Step};
use ci_core::memory::Rig;
use ci_core::queue::{Cause, Claim, NewJob};
use ci_core::sandbox::SecretUse;
use ci_core::secret::{Learned, NewSecret, RefPattern, SecretKind, SecretPolicy, SecretStore, SecretValue};
use ci_core::trust::{Origin, Trust};
use ci_core::{ErrorKind, External};

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
        large_values_are_whole,
        who_sets_a_secret_learns_whether_it_can_be_hidden,
        a_policy_is_shown_and_kept,
        a_policy_asks_for_trust,
        a_policy_asks_for_what_started_the_job,
        a_policy_asks_for_a_branch_or_tag,
        a_policy_asks_for_an_environment,
        a_policy_asks_for_steps,
        a_file_is_no_variable,
        a_secret_that_is_denied_is_named_and_no_other_is_given,
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

    /// A claim on a job whose code was found on `branch`.
    async fn claim_on(&self, branch: &str) -> Claim {
        let ours = repository("1");
        let commit = CommitId::parse("5".repeat(40)).expect("a commit");
        let revision = Revision::new(commit, Origin::Repository).with_reference(External::new(branch));
        self.rig.forge.add_commit::<String, &str>(&ours, revision, []).expect("a commit");
        let grant = self.write("1").await;
        let wanted = RevisionName::parse(branch).expect("a name");
        let forge = self.rig.forge.as_ref();
        let code = forge::resolve(forge, grant.scope().expect("fresh"), &self.rig.sandboxes, &wanted).await;
        let new = NewJob::requested(&grant, code.expect("the code"), Rig::spec()).expect("a job");
        self.rig.dispatcher.enqueue(&new).await.expect("it is enqueued");
        self.rig.dispatcher.next(&[]).await.expect("it is asked").expect("the job")
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

/// At once, and only they.
pub async fn who_sets_a_secret_learns_whether_it_can_be_hidden(test: StoreUnderTest) {
    let desk = Desk::new(test);
    let (grant, token) = (desk.write("1").await, name("TOKEN"));
    let set = async |value| desk.store.put(&grant, &token, SecretValue::new(value)).await.expect("it is set");
    assert_eq!(set("correct horse battery staple").await.masking, Learned::Hidden);
    assert_ne!(set("x").await.masking, Learned::Hidden);
}

/// Sets `TOKEN` under `policy`.
async fn set_under(desk: &Desk, policy: SecretPolicy) {
    let new = NewSecret::new(SecretValue::new("some value")).with_policy(policy);
    desk.store.set(&desk.write("1").await, &name("TOKEN"), new).await.expect("the secret is set");
}

/// Whether a job of `spec`, whose code was found in `origin`, gets `TOKEN`; and that it is told why not.
async fn gets(desk: &Desk, origin: Origin, spec: JobSpec, rule: &str) -> bool {
    let claim = desk.rig.claim(&repository("1"), origin, spec).await.expect("a claim");
    obtains(desk, &claim, rule).await
}

async fn obtains(desk: &Desk, claim: &Claim, rule: &str) -> bool {
    match desk.store.lease(claim.trusted().expect("trusted"), &[name("TOKEN")]).await {
        Ok(lease) => lease.value(&name("TOKEN")).is_ok(),
        Err(error) => {
            let said = error.to_string();
            assert_eq!(error.kind(), ErrorKind::Denied, "{said}");
            assert!(
                said.contains("TOKEN") && said.contains(rule),
                "{said} names no secret or not the rule {rule}"
            );
            false
        }
    }
}

/// People see it; a new value does not change it, and a new policy does.
pub async fn a_policy_is_shown_and_kept(test: StoreUnderTest) {
    let desk = Desk::new(test);
    let policy = SecretPolicy::default().with_trust(Trust::Protected);
    set_under(&desk, policy.clone()).await;
    desk.put("1", "TOKEN", "rotated").await;
    desk.put("1", "OTHER", "of everybody").await;
    let list = desk.store.list(&desk.read("1").await).await.expect("a list");
    let policies: Vec<_> = list.iter().map(|info| (info.name.as_str(), &info.policy)).collect();
    assert_eq!(policies, [("OTHER", &SecretPolicy::default()), ("TOKEN", &policy)]);
    set_under(&desk, SecretPolicy::default()).await;
    let list = desk.store.list(&desk.read("1").await).await.expect("a list");
    assert_eq!(list[1].policy, SecretPolicy::default());
}

/// Code on a branch that anybody can move is not protected.
pub async fn a_policy_asks_for_trust(test: StoreUnderTest) {
    let desk = Desk::new(test);
    set_under(&desk, SecretPolicy::default().with_trust(Trust::Protected)).await;
    assert!(!gets(&desk, Origin::Repository, Rig::spec(), "trust").await);
    assert!(gets(&desk, Origin::Protected, Rig::spec(), "trust").await);
}

/// A person is no push.
pub async fn a_policy_asks_for_what_started_the_job(test: StoreUnderTest) {
    let desk = Desk::new(test);
    set_under(&desk, SecretPolicy::default().with_event(Cause::Push)).await;
    assert!(!gets(&desk, Origin::Repository, Rig::spec(), "events").await);
    set_under(&desk, SecretPolicy::default().with_event(Cause::Push).with_event(Cause::Person)).await;
    assert!(gets(&desk, Origin::Repository, Rig::spec(), "events").await);
}

/// Code that was found by its commit alone is on no branch.
pub async fn a_policy_asks_for_a_branch_or_tag(test: StoreUnderTest) {
    let desk = Desk::new(test);
    let main = RefPattern::parse("refs/heads/main").expect("a pattern");
    set_under(&desk, SecretPolicy::default().with_reference(main)).await;
    assert!(!gets(&desk, Origin::Repository, Rig::spec(), "references").await);
    for (branch, may) in [("refs/heads/main", true), ("refs/heads/main2", false), ("refs/tags/main", false)] {
        let claim = desk.claim_on(branch).await;
        assert_eq!(obtains(&desk, &claim, "references").await, may, "{branch}");
    }
}

/// A job that says that it deploys elsewhere, or says nothing, has no business with it.
pub async fn a_policy_asks_for_an_environment(test: StoreUnderTest) {
    let desk = Desk::new(test);
    let environment = |text| EnvironmentName::parse(text).expect("a name");
    set_under(&desk, SecretPolicy::default().with_environment(environment("production"))).await;
    assert!(!gets(&desk, Origin::Repository, Rig::spec(), "environments").await);
    let to = |text| Rig::spec().with_deployment(environment(text));
    assert!(!gets(&desk, Origin::Repository, to("staging"), "environments").await);
    assert!(gets(&desk, Origin::Repository, to("production"), "environments").await);
}

/// A job one of whose other steps or services uses it does not even begin.
pub async fn a_policy_asks_for_steps(test: StoreUnderTest) {
    let desk = Desk::new(test);
    let step = |text: &str| StepName::parse(text).expect("a name");
    set_under(&desk, SecretPolicy::default().with_step(step("publish"))).await;
    let job = |users: &[&str]| {
        let mut spec = Rig::spec().with_secret(name("TOKEN"));
        for user in users {
            let new = Step::script(step(user), Script::literal("true"));
            spec = spec.with_step(new.with_secret(name("TOKEN")));
        }
        spec
    };
    assert!(gets(&desk, Origin::Repository, job(&[]), "steps").await, "no step sees it");
    assert!(gets(&desk, Origin::Repository, job(&["publish"]), "steps").await);
    assert!(!gets(&desk, Origin::Repository, job(&["test"]), "steps").await);
    assert!(!gets(&desk, Origin::Repository, job(&["publish", "test"]), "steps").await);
    let (service, image) = (ServiceName::parse("database"), ImageName::parse("host"));
    let service = Service::script(service.expect("a name"), image.expect("a name"), Script::literal("true"));
    let service = service.with_secret(name("TOKEN"));
    assert!(!gets(&desk, Origin::Repository, job(&["publish"]).with_service(service), "steps").await);
}

/// What is given as a file only is in no environment.
pub async fn a_file_is_no_variable(test: StoreUnderTest) {
    let desk = Desk::new(test);
    let new = NewSecret::file(SecretValue::new("some value"));
    desk.store.set(&desk.write("1").await, &name("TOKEN"), new).await.expect("the secret is set");
    let job = |used: SecretUse| {
        let step = Step::script(StepName::parse("use").expect("a name"), Script::literal("true"));
        Rig::spec().with_secret(name("TOKEN")).with_step(step.with_secret(used))
    };
    assert!(!gets(&desk, Origin::Repository, job(SecretUse::variable(name("TOKEN"))), "kind").await);
    assert!(gets(&desk, Origin::Repository, job(SecretUse::file(name("TOKEN"))), "kind").await);
}

/// All or nothing, and the entry in the audit log is not made.
pub async fn a_secret_that_is_denied_is_named_and_no_other_is_given(test: StoreUnderTest) {
    let audit = test.audit.clone();
    let desk = Desk::new(test);
    set_under(&desk, SecretPolicy::default().with_trust(Trust::Protected)).await;
    desk.put("1", "OTHER", "of everybody").await;
    let claim = desk.claim("1").await;
    let before = entries(&audit).await;
    let names = [name("OTHER"), name("TOKEN")];
    let error = desk.store.lease(claim.trusted().expect("trusted"), &names).await.expect_err("one is denied");
    assert!(error.kind() == ErrorKind::Denied && error.to_string().contains("TOKEN"), "{error}");
    assert_eq!(entries(&audit).await, before, "nothing was leased");
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
