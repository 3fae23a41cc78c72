//! What a job may look like.

use std::time::Duration;

use ci_core::id::{CacheKey, ImageName, Label, SecretName, ServiceName, StepName};
use ci_core::job::{JobSpec, Limits, Run, Script, Service, Step};
use ci_core::memory::Rig;
use ci_core::network::{Destination, EgressRule, HostName, NetworkPolicy};
use ci_core::sandbox::{SandboxPath, SecretUse};
use ci_core::{ByteSize, Result};
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
            "check the job: it names a secret that the job does not ask for; add it to the job (secret: TOKEN, step: deploy)"
        ],
    );
    check(&undeclared.with_secret(secret.clone()), expect!["it can run"]);
    let both = step.clone().with_secret(secret.clone()).with_secret(SecretUse::file(secret.clone()));
    check(
        &empty.clone().with_step(both).with_secret(secret),
        expect![
            "check the job: it has a secret either as a variable or as a file; choose one (secret: TOKEN, step: deploy)"
        ],
    );

    let mut large = empty.with_step(step);
    for number in 0..1_000 {
        large = large.with_cache(CacheKey::parse(number.to_string())?, SandboxPath::work());
    }
    check(&large, expect!["it can run"]);
    large = large.with_cache(CacheKey::parse("one more")?, SandboxPath::work());
    check(&large, expect!["check the job: a job has at most 1000 steps, secrets, caches and artifacts each"]);

    let mut demanding = Rig::spec();
    for number in 0..6 {
        demanding = demanding.with_label(Label::parse(number.to_string())?);
    }
    check(&demanding, expect!["check the job: a job demands at most 5 labels"]);
    let twice = Rig::spec().with_cache(CacheKey::parse("a")?, SandboxPath::work());
    let twice = twice.with_cache(CacheKey::parse("a")?, SandboxPath::parse("/tmp")?);
    check(&twice, expect!["check the job: two artifacts or two caches have the same name; rename one"]);
    for limits in [
        Limits::default().with_memory(ByteSize::bytes(0)),
        Limits::default().with_cpu_millis(0),
        Limits::default().with_processes(0),
    ] {
        let wanting =
            "check the job: nothing runs without memory, processor time and a process; raise its limits";
        assert_eq!(Rig::spec().with_limits(limits).check().expect_err("nothing runs").to_string(), wanting);
    }
    for weight in [0, 10_001] {
        let weighty = Rig::spec().with_limits(Limits::default().with_weight(weight));
        check(&weighty, expect!["check the job: a weight is from 1 to 10000"]);
    }
    for limits in [
        Limits::default().with_disk_read_bytes(ByteSize::bytes(0)),
        Limits::default().with_disk_read_operations(0),
    ] {
        check(
            &Rig::spec().with_limits(limits),
            expect!["check the job: a bound on reading from disks is at least 1 per second; raise it"],
        );
    }
    Ok(())
}

#[test]
fn a_network_rule_that_never_allows_anything_is_refused() -> Result<()> {
    let to = |destination: Destination, ports: &[u16]| {
        Rig::spec()
            .with_network(NetworkPolicy::Allow(vec![EgressRule { destination, ports: ports.to_vec() }]))
    };
    let files = Destination::Host(HostName::parse("files.example")?);
    check(&to(files.clone(), &[443]), expect!["it can run"]);
    check(
        &to(files, &[]),
        expect![
            "check the job: a network rule names its ports one by one, from 1 to 65535; there is no port for all (destination: files.example)"
        ],
    );
    check(
        &to(Destination::Network("10.0.0.0/8".parse()?), &[443, 0]),
        expect![
            "check the job: a network rule names its ports one by one, from 1 to 65535; there is no port for all (destination: 10.0.0.0/8)"
        ],
    );
    Ok(())
}

#[test]
fn a_service_that_could_not_run_as_written_is_refused() -> Result<()> {
    let token = SecretName::parse("TOKEN")?;
    let db = |name: &str| {
        let (name, image) = (ServiceName::parse(name)?, ImageName::parse("db")?);
        Ok::<_, ci_core::Error>(Service::script(name, image, Script::literal("serve")))
    };
    let with = |service: Service| Rig::spec().with_service(service);
    check(&with(db("db")?), expect!["it can run"]);
    let mut many = Rig::spec();
    for number in 0..8 {
        many = many.with_service(db(&number.to_string())?);
    }
    check(&many, expect!["it can run"]);
    check(&many.with_service(db("one-more")?), expect!["check the job: a job has at most 8 services"]);
    let twice = with(db("db")?).with_service(db("db")?);
    check(&twice, expect!["check the job: two services have the same name; rename one"]);
    let secretive = with(db("db")?.with_secret(token.clone()));
    check(
        &secretive,
        expect![
            "check the job: it names a secret that the job does not ask for; add it to the job (secret: TOKEN, service: db)"
        ],
    );
    check(&secretive.with_secret(token), expect!["it can run"]);
    let empty = with(db("db")?.with_limits(Limits::default().with_memory(ByteSize::bytes(0))));
    check(
        &empty,
        expect![
            "check the job: nothing runs without memory, processor time and a process; raise its limits (service: db)"
        ],
    );
    let hasty = with(db("db")?.with_patience(Duration::ZERO));
    check(
        &hasty,
        expect!["check the job: a service needs time to become ready; raise its patience (service: db)"],
    );
    let long = Run::Script(Script::authored("x".repeat(128 * 1024)));
    check(
        &with(db("db")?.with_ready(long)),
        expect![
            "check the job: a script or an argument has less than 128 KiB; keep it in the repository (service: db)"
        ],
    );
    Ok(())
}

/// A pipeline's file says what it needs to; what is misspelt must not be left out.
#[test]
fn a_job_is_read_with_defaults_and_without_surprises() {
    let read = |text: &str| serde_json::from_str::<JobSpec>(text);
    let spec = read(r#"{"image": "host", "steps": [{"name": "test", "run": {"Script": "true"}}]}"#);
    assert_eq!(spec.ok(), Some(Rig::spec()));
    for wrong in [
        r#"{"image": "host", "steps": [], "netwrok": "None"}"#,
        r#"{"image": "host", "steps": [], "limits": {"memroy": 1}}"#,
        r#"{"image": "host", "steps": [], "timeouts": {"slience": {"secs": 1, "nanos": 0}}}"#,
        r#"{"image": "host", "steps": [{"name": "a", "run": {"Script": "true"}, "secret": ["A"]}]}"#,
        r#"{"image": "host", "steps": [], "services": [{"name": "a", "image": "b"}]}"#,
        r#"{"image": "host", "steps": [], "services": [{"name": "a", "image": "b", "run": {"Script": "c"}, "reddy": 1}]}"#,
        r#"{"image": "host", "steps": [{"name": "a", "run": {"Command": {"program": "a\u0000b", "arguments": []}}}]}"#,
    ] {
        assert!(read(wrong).is_err(), "{wrong}");
    }
    let odd = read(r#"{"image": "host", "steps": [], "environment": {"A": "a\u0000b"}}"#).expect("a job");
    assert_eq!(odd.environment.iter().map(|(_, value)| value).collect::<Vec<_>>(), ["ab"]);
}
