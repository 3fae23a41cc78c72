//! Which jobs may have a secret, by its policy and its kind.

use ci_core::ErrorKind;
use ci_core::id::{EnvironmentName, ImageName, ServiceName, StepName};
use ci_core::job::{JobSpec, Script, Service, Step};
use ci_core::memory::Rig;
use ci_core::queue::{Cause, Claim};
use ci_core::sandbox::SecretUse;
use ci_core::secret::{NewSecret, RefPattern, SecretPolicy, SecretValue};
use ci_core::trust::{Origin, Trust};

use super::{Desk, StoreUnderTest, entries};
use crate::conformance::{name, repository};

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
