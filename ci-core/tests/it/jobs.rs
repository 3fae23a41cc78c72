//! What a job may look like.

use ci_core::Result;
use ci_core::id::{CacheKey, SecretName, StepName};
use ci_core::job::{JobSpec, Script, Step};
use ci_core::memory::Rig;
use ci_core::sandbox::SandboxPath;
use expect_test::{Expect, expect};

#[expect(clippy::needless_pass_by_value, reason = "an expectation is written where it is passed")]
fn check(job: &JobSpec, expected: Expect) {
    let said = job.check().map_or_else(|error| error.to_string(), |()| "it can run".to_owned());
    expected.assert_eq(&said);
}

#[test]
fn a_job_that_could_not_run_as_written_is_refused() -> Result<()> {
    let secret = SecretName::parse("TOKEN")?;
    let step = Step::script(StepName::parse("deploy")?, Script::literal("true"));
    let empty = JobSpec::new(Rig::spec().image);
    check(&empty, expect!["check the job: a job needs at least one step"]);
    check(&empty.clone().with_step(step.clone()), expect!["it can run"]);

    let undeclared = empty.clone().with_step(step.clone().with_secret(secret.clone()));
    check(
        &undeclared,
        expect![
            "check the job: a step names a secret that the job does not ask for; add it to the job (step: deploy, secret: TOKEN)"
        ],
    );
    check(&undeclared.with_secret(secret), expect!["it can run"]);

    let mut large = empty.with_step(step);
    for number in 0..1_000 {
        large = large.with_cache(CacheKey::parse(number.to_string())?, SandboxPath::work());
    }
    check(&large, expect!["it can run"]);
    large = large.with_cache(CacheKey::parse("one more")?, SandboxPath::work());
    check(
        &large,
        expect!["check the job: a job has at most 1000 steps, secrets, caches, artifacts or labels each"],
    );
    Ok(())
}
