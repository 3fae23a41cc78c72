//! What runs beside a job: made after its sandbox, ready before its steps, gone before it.

use std::future::pending;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use ci_core::id::{ArtifactName, ImageName, JobId, SandboxId, SecretName, ServiceName, VariableName};
use ci_core::job::{Arg, JobSpec, Limits, Run, Service as Beside};
use ci_core::memory::{Reply, Rig, Scripted};
use ci_core::outcome::{Conclusion, Outcome};
use ci_core::runner::Stop;
use ci_core::sandbox::{
    Backend, Capabilities, ExitStatus, Guarantee, Instance, IsolationReport, Residue, SandboxPath,
    SandboxUsage, Sandboxes, SecretUse, Spec,
};
use ci_core::secret::{SecretStore as _, SecretValue};
use ci_core::{ByteSize, Error, ErrorKind, Result};
use expect_test::expect;
use futures_util::poll;
use tokio::sync::oneshot;
use tokio::task::yield_now;

use crate::hanging::soon;
use crate::hooked::{Call, Hook, Hooked};
use crate::runner::{Service, never};
use crate::{ours, refused, writer};

const SECRET: &str = "hunter2-hunter3";

/// Writes down what is asked of a backend. Sandboxes have numbers, in the order in which they are made.
#[derive(Debug)]
struct Books {
    inner: Scripted,
    made: Mutex<Vec<SandboxId>>,
    lines: Mutex<Vec<String>>,
    /// The sandbox that never says that it is gone.
    stuck: Option<usize>,
}

impl Books {
    fn new(inner: Scripted, stuck: Option<usize>) -> Arc<Self> {
        Arc::new(Self { inner, made: Mutex::default(), lines: Mutex::default(), stuck })
    }

    fn make(&self, id: &SandboxId) -> usize {
        let mut made = self.made.lock().expect("not poisoned");
        made.push(id.clone());
        made.len() - 1
    }

    fn number(&self, id: &SandboxId) -> usize {
        let made = self.made.lock().expect("not poisoned");
        made.iter().position(|one| one == id).expect("it was made")
    }

    fn write(&self, line: String) {
        self.lines.lock().expect("not poisoned").push(line);
    }

    fn lines(&self) -> Vec<String> {
        self.lines.lock().expect("not poisoned").clone()
    }
}

#[async_trait]
impl Backend for Books {
    async fn create(&self, id: &SandboxId, spec: &Spec) -> Result<Box<dyn Instance>> {
        self.write(format!("make {}", self.make(id)));
        self.inner.create(id, spec).await
    }

    async fn create_beside(
        &self,
        id: &SandboxId,
        spec: &Spec,
        other: &SandboxId,
    ) -> Result<Box<dyn Instance>> {
        let (number, other_number) = (self.make(id), self.number(other));
        let Spec { image, limits, minimum, .. } = spec;
        let memory = limits.memory;
        self.write(format!("make {number} beside {other_number}: {image}, {memory}, {minimum:?}"));
        self.inner.create_beside(id, spec, other).await
    }

    async fn destroy(&self, id: &SandboxId) -> Result<Residue> {
        let number = self.number(id);
        self.write(format!("destroy {number}"));
        if self.stuck == Some(number) { pending().await } else { self.inner.destroy(id).await }
    }

    async fn leftovers(&self) -> Result<Vec<SandboxId>> {
        self.inner.leftovers().await
    }

    fn abandon(&self, id: &SandboxId) {
        self.inner.abandon(id);
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
}

/// Every call takes two polls more.
#[derive(Debug)]
struct Slow;

impl Hook for Slow {
    async fn around<T: Send>(&self, _: Call, done: impl Future<Output = Result<T>> + Send) -> Result<T> {
        yield_now().await;
        let answer = done.await;
        yield_now().await;
        answer
    }
}

/// A service whose backend takes its time.
fn slow(rig: Rig) -> Service {
    let backend = Arc::new(Hooked::new(rig.backend.clone(), Slow));
    Service::with_parts(rig, |parts| parts.sandboxes = Sandboxes::new(backend))
}

/// A rig whose backend has services: `serve` runs on, `probe` and `sh` succeed.
fn rig() -> Result<Rig> {
    let rig = Rig::new()?;
    rig.backend.set_capabilities(Capabilities::default().with_services());
    rig.backend.on("serve", |_| Reply::hang());
    rig.backend.on("probe", |_| Reply::exit(0));
    rig.backend.on("sh", |_| Reply::exit(0));
    Ok(rig)
}

fn run(program: &str) -> Result<Run> {
    Ok(Run::Command { program: Arg::new(program)?, arguments: Vec::new() })
}

/// A service that is `serve`, and ready when `probe` says so.
fn db(name: &str) -> Result<Beside> {
    let image = ImageName::parse(format!("image-of-{name}"))?;
    Ok(Beside::command(ServiceName::parse(name)?, image, Arg::new("serve")?, []).with_ready(run("probe")?))
}

/// A job with the service `db` and the secret `TOKEN`, which the service sees.
async fn with_secret(service: &Service) -> Result<JobSpec> {
    let token = SecretName::parse("TOKEN")?;
    let grant = writer(&service.rig, &ours()).await?;
    service.secrets.put(&grant, &token, SecretValue::new(SECRET)).await?;
    Ok(Rig::spec().with_secret(token.clone()).with_service(db("db")?.with_secret(token)))
}

/// Runs a job, and returns its outcome and its log.
async fn ran(service: &Service, spec: JobSpec) -> Result<(Outcome, String)> {
    let claim = service.claim(spec).await?;
    let job = claim.job().clone();
    let outcome = soon(&service.rig, service.runner.run(claim, never())).await?;
    assert_eq!(service.rig.backend.living(), []);
    Ok((outcome, service.output(&job).await?))
}

fn seen(service: &Service, job: &JobId, event: &str) -> usize {
    service.seen.events(job).iter().filter(|seen| seen.starts_with(event)).count()
}

#[tokio::test]
async fn they_are_made_after_the_job_and_gone_before_it() -> Result<()> {
    let rig = rig()?;
    let report = IsolationReport::new([Guarantee::Namespaces]);
    rig.backend.set_capabilities(Capabilities::new(report).with_services());
    rig.backend.set_usage(SandboxUsage::default().with_cpu(Duration::from_secs(7)));
    let books = Books::new(rig.backend.clone(), None);
    let service = Service::with_parts(rig, |parts| parts.sandboxes = Sandboxes::new(books.clone()));
    let own = Limits::default().with_memory(ByteSize::mib(64));
    let spec = Rig::spec()
        .with_limits(Limits::default().with_memory(ByteSize::mib(512)))
        .with_minimum(Guarantee::Namespaces)
        .with_service(db("db")?)
        .with_service(db("cache")?.with_limits(own));
    let claim = service.claim(spec).await?;
    let job = claim.job().clone();
    let outcome = service.runner.run(claim, never()).await?;
    assert_eq!(outcome.conclusion, Conclusion::Succeeded, "{outcome:?}");
    expect![[r"
        make 0
        make 1 beside 0: image-of-db, 512 MiB, {Namespaces}
        make 2 beside 0: image-of-cache, 64 MiB, {Namespaces}
        destroy 2
        destroy 1
        destroy 0"]]
    .assert_eq(&books.lines().join("\n"));
    let events: Vec<String> = service.seen.events(&job);
    let names: Vec<&str> = events.iter().map(|event| event.split([' ', '(']).next().unwrap_or("")).collect();
    assert_eq!(
        names,
        [
            "SandboxCreated",
            "CheckedOut",
            "ServiceReady",
            "ServiceReady",
            "StepStarted",
            "StepFinished",
            "SandboxDestroyed",
            "Finished",
        ]
    );
    let names: Vec<_> = outcome.services.iter().map(|service| service.name.as_str()).collect();
    assert_eq!(names, ["db", "cache"]);
    for ended in &outcome.services {
        let cpu = ended.usage.and_then(|usage| usage.cpu);
        assert_eq!((ended.status, cpu), (None, Some(Duration::from_secs(7))), "{ended:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_service_sees_its_own_variables_and_secrets_and_none_of_the_jobs() -> Result<()> {
    let service = Service::with_parts(rig()?, |_| {});
    let spec = with_secret(&service).await?;
    let variable = |name: &str| VariableName::parse(name);
    let service_of_it = spec.services[0]
        .clone()
        .with_variable(variable("OWN")?, "own")
        .with_secret(SecretUse::variable(SecretName::parse("TOKEN")?));
    let mut spec = spec.with_variable(variable("OF_STEPS")?, "x").with_secret(SecretName::parse("OTHER")?);
    let grant = writer(&service.rig, &ours()).await?;
    service.secrets.put(&grant, &SecretName::parse("OTHER")?, SecretValue::new("other-secret")).await?;
    spec.services = vec![service_of_it];
    let seen = Arc::new(Mutex::new(Vec::new()));
    for (program, reply) in [("serve", Reply::hang()), ("probe", Reply::exit(0))] {
        let seen = seen.clone();
        service.rig.backend.on(program, move |call| {
            let names = ["CI", "PATH", "OWN", "TOKEN", "OF_STEPS", "OTHER"];
            let here = names.into_iter().filter(|name| call.variable(name).is_some()).collect::<Vec<_>>();
            let source = SandboxPath::work().join("main.rs").expect("a path");
            let source = call.files().read(&source).is_some();
            seen.lock().expect("not poisoned").push((here.join(" "), call.directory().clone(), source));
            reply.clone()
        });
    }
    assert_eq!(ran(&service, spec).await?.0.conclusion, Conclusion::Succeeded);
    let expected = ("CI PATH OWN TOKEN".to_owned(), SandboxPath::work(), false);
    assert_eq!(*seen.lock().expect("not poisoned"), [expected.clone(), expected]);
    Ok(())
}

#[tokio::test]
async fn steps_begin_when_every_service_is_ready() -> Result<()> {
    let service = Service::with_parts(rig()?, |_| {});
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    service.rig.backend.on("probe", move |_| {
        Reply::exit(u8::from(counted.fetch_add(1, Ordering::Relaxed) < 3)).stdout("not yet\n")
    });
    service.rig.backend.on("other", |_| Reply::exit(0));
    let spec = Rig::spec().with_service(db("other")?.with_ready(run("other")?)).with_service(db("db")?);
    let claim = service.claim(spec).await?;
    let job = claim.job().clone();
    let mut running = pin!(service.runner.run(claim, never()));
    for count in 1..=3 {
        for _ in 0..5 {
            assert!(poll!(&mut running).is_pending());
        }
        assert_eq!(asked.load(Ordering::Relaxed), count, "not again before its time");
        assert_eq!((seen(&service, &job, "ServiceReady"), seen(&service, &job, "StepStarted")), (1, 0));
        service.rig.clock.advance(Duration::from_millis(250));
    }
    let outcome = running.await?;
    assert_eq!((outcome.conclusion, outcome.services.len()), (Conclusion::Succeeded, 2));
    assert_eq!(outcome.services[0].duration, Duration::from_millis(750));
    assert_eq!(service.output(&job).await?, "", "what a check says is for nobody when all is well");
    Ok(())
}

#[tokio::test]
async fn one_that_fails_before_it_is_ready_fails_the_job() -> Result<()> {
    let service = Service::with_parts(rig()?, |_| {});
    service.rig.backend.on("probe", |_| Reply::exit(1));
    service.rig.backend.on("serve", |call| {
        let token = call.variable("TOKEN").unwrap_or_default().to_vec();
        Reply::exit(1).stdout([b"no such password: ", &token[..]].concat()).stderr("\ngiving up")
    });
    let spec = with_secret(&service).await?;
    let spec = spec.with_artifact(ArtifactName::parse("source")?, SandboxPath::work());
    let (outcome, log) = ran(&service, spec).await?;
    expect![[r"
        service `db` ended with exit code 1 before it was ready; its last output:
        no such password: ***
        giving up
    "]]
    .assert_eq(&log);
    assert_eq!((outcome.conclusion, outcome.exit_code()), (Conclusion::Failed, 125));
    let reason = "service `db` ended with exit code 1 before it was ready; its last output is in the log";
    assert_eq!(outcome.reason.as_deref(), Some(reason));
    assert_eq!((outcome.steps.len(), outcome.artifacts.len()), (0, 0));
    assert_eq!(outcome.services[0].status, Some(ExitStatus::Code(1)));
    assert!(service.rig.dispatcher.next(&[]).await?.is_none(), "it is not tried again");

    service.rig.backend.on("serve", |_| Reply::end(ExitStatus::OutOfMemory));
    let (outcome, log) = ran(&service, Rig::spec().with_service(db("db")?)).await?;
    assert_eq!(outcome.conclusion, Conclusion::LimitExceeded);
    assert_eq!(log, "service `db` ran out of memory before it was ready; its last output:\n");
    Ok(())
}

#[tokio::test]
async fn one_that_is_not_ready_in_time_fails_the_job() -> Result<()> {
    for (check, said) in [
        (Reply::exit(1).stderr("probe: no answer"), "the last output of its check:\nprobe: no answer\n"),
        (Reply::hang().stderr("waiting"), "the last output of its check:\nwaiting\n"),
        (Reply::hang(), ""),
    ] {
        let service = Service::with_parts(rig()?, |_| {});
        service.rig.backend.on("probe", move |_| check.clone());
        service.rig.backend.on("serve", |_| Reply::hang().stdout("recovering\n"));
        let spec = Rig::spec().with_service(db("db")?.with_patience(Duration::from_secs(40)));
        let (outcome, log) = ran(&service, spec).await?;
        assert_eq!((outcome.conclusion, outcome.steps.len()), (Conclusion::TimedOut, 0));
        assert!(outcome.duration >= Duration::from_secs(40) && outcome.duration < Duration::from_mins(1));
        let reason = outcome.reason.expect("a reason");
        assert!(reason.starts_with("service `db` was not ready within 40s;"), "{reason}");
        let before = "service `db` was not ready within 40s; its last output:\nrecovering\n";
        assert_eq!(log.strip_prefix(before).map(|rest| rest.trim_start_matches('\n')), Some(said), "{log}");
    }
    Ok(())
}

#[tokio::test]
async fn one_that_ends_while_steps_run_is_told_of() -> Result<()> {
    for (status, expected) in [
        (
            ExitStatus::Signal(11),
            expect![[r"
                testing
                service `db` was ended by signal 11; its last output:
                a query
                testing
            "]],
        ),
        (
            ExitStatus::Code(0),
            expect![[r"
                testing
                service `db` ended with exit code 0
                testing
            "]],
        ),
    ] {
        let service = slow(rig()?);
        service.rig.backend.on("serve", move |_| Reply::end(status).stdout("a query\n"));
        service.rig.backend.on("sh", |_| Reply::exit(0).stdout("testing"));
        let mut beside = db("db")?;
        beside.ready = None;
        let step = Rig::spec().steps[0].clone();
        let (outcome, log) = ran(&service, Rig::spec().with_step(step).with_service(beside)).await?;
        assert_eq!((outcome.conclusion, outcome.steps.len()), (Conclusion::Succeeded, 2));
        assert_eq!(outcome.services[0].status, Some(status));
        expected.assert_eq(&format!("{log}\n"));
        assert_eq!(outcome.steps[0].output.end.0 + 1, outcome.steps[1].output.start.0, "it is no step's");
    }
    Ok(())
}

/// A program that goes to the background and leaves a starter that succeeds.
#[tokio::test]
async fn one_that_starts_others_and_ends_well_may_still_become_ready() -> Result<()> {
    let service = Service::with_parts(rig()?, |_| {});
    let asked = AtomicUsize::new(0);
    service.rig.backend.on("serve", |_| Reply::exit(0));
    service
        .rig
        .backend
        .on("probe", move |_| Reply::exit(u8::from(asked.fetch_add(1, Ordering::Relaxed) < 2)));
    let (outcome, log) = ran(&service, Rig::spec().with_service(db("db")?)).await?;
    assert_eq!((outcome.conclusion, outcome.steps.len()), (Conclusion::Succeeded, 1));
    assert_eq!(log, "service `db` ended with exit code 0 before it was ready\n");
    Ok(())
}

#[tokio::test]
async fn only_the_last_of_its_output_is_shown_and_no_part_of_a_secret() -> Result<()> {
    const SHOWN: usize = 64 * 1024;
    let service = Service::with_parts(rig()?, |_| {});
    let spec = with_secret(&service).await?;
    for ahead in [0, 1, SECRET.len() / 2, SHOWN, 3 * SHOWN] {
        service.rig.backend.on("serve", move |call| {
            let token = call.variable("TOKEN").unwrap_or_default().to_vec();
            // The cut goes through where the secret was.
            let line = [&token[..], &vec![b'x'; SHOWN - ahead.min(SHOWN)]].concat();
            Reply::exit(1).stdout("first\n").stdout(line).stdout(vec![b'y'; ahead]).stdout("\nlast")
        });
        service.rig.backend.on("probe", |_| Reply::exit(1));
        let (_, log) = ran(&service, spec.clone()).await?;
        let (before, shown) = log.split_once(":\n").expect("two parts");
        assert!(before.ends_with("its last output") && !log.contains("first"), "{before}");
        assert!(shown.ends_with("last\n") && shown.len() <= SHOWN + 1, "{} bytes", shown.len());
        assert!(!log.contains(&SECRET[SECRET.len() - 4..]), "{ahead}");
    }
    Ok(())
}

/// What a service printed last, and what a step prints first, stand side by side in the log.
#[tokio::test]
async fn a_secret_split_over_a_service_and_a_step_is_hidden() -> Result<()> {
    let secret = "split\nsecret";
    let service = slow(rig()?);
    let spec = with_secret(&service).await?;
    let grant = writer(&service.rig, &ours()).await?;
    service.secrets.put(&grant, &SecretName::parse("TOKEN")?, SecretValue::new(secret)).await?;
    service.rig.backend.on("serve", |_| Reply::exit(1).stdout("split"));
    service.rig.backend.on("sh", |_| Reply::exit(0).stderr("secret"));
    let step = spec.steps[0].clone();
    let mut spec = spec.with_step(step);
    spec.services[0].ready = None;
    let (outcome, log) = ran(&service, spec).await?;
    assert_eq!(outcome.conclusion, Conclusion::Succeeded);
    assert!(log.contains("last output:\n***") && !log.contains(secret), "{log:?}");
    Ok(())
}

#[tokio::test]
async fn what_it_prints_is_read_and_bounded() -> Result<()> {
    for talker in ["serve", "probe"] {
        let service = Service::with_parts(rig()?, |_| {});
        let mut reply = Reply::hang();
        for _ in 0..4 {
            reply = reply.stdout(vec![b'x'; 16 * 1024]);
        }
        service.rig.backend.on("sh", |_| Reply::hang());
        service.rig.backend.on(talker, move |_| reply.clone());
        let enough = Limits::default().with_output(ByteSize::kib(64));
        let spec = Rig::spec().with_limits(enough.with_output(ByteSize::mib(1)));
        let beside = db("db")?.with_limits(enough.with_output(ByteSize::kib(63)));
        let (outcome, _) = ran(&service, spec.clone().with_service(beside)).await?;
        assert_eq!(outcome.conclusion, Conclusion::LimitExceeded, "{talker}");
        expect![
            "read a service's output: the service printed more than it may; raise its limit or let it print less (limit: 63 KiB, service: db)"
        ]
        .assert_eq(&outcome.reason.expect("a reason"));

        let (outcome, _) = ran(&service, spec.with_service(db("db")?.with_limits(enough))).await?;
        assert_eq!(
            outcome.conclusion,
            Conclusion::TimedOut,
            "{talker} may print so much, and all of it is read"
        );
    }
    Ok(())
}

#[tokio::test]
async fn where_there_can_be_none_the_job_is_refused_before_anything_runs() -> Result<()> {
    let service = Service::with_parts(rig()?, |_| {});
    service.rig.backend.set_capabilities(Capabilities::default());
    let claim = service.claim(with_secret(&service).await?).await?;
    let job = claim.job().clone();
    let outcome = service.runner.run(claim, never()).await?;
    assert_eq!(outcome.conclusion, Conclusion::Refused);
    expect![
        "run a job with services: sandboxes here cannot share a network; use another machine, or start the service in a step"
    ]
    .assert_eq(&outcome.reason.expect("a reason"));
    assert_eq!(service.seen.events(&job).len(), 1, "nothing but its end");
    assert_eq!(service.rig.backend.abandoned(), []);
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_started_is_named() -> Result<()> {
    for (serve, ready) in [("no-such", None), ("serve", Some(run("no-such")?))] {
        let service = Service::with_parts(rig()?, |_| {});
        let mut beside = db("db")?;
        (beside.run, beside.ready) = (run(serve)?, ready);
        let (outcome, _) = ran(&service, Rig::spec().with_service(beside)).await?;
        assert_eq!((outcome.conclusion, outcome.steps.len()), (Conclusion::Errored, 0));
        let reason = outcome.reason.expect("a reason");
        assert_eq!(reason, "start a program: there is no such program (program: no-such, service: db)");
    }
    Ok(())
}

/// A job with two services, one of which is ready late, on a backend that takes its time.
fn slow_job() -> Result<Service> {
    let rig = rig()?;
    let asked = AtomicUsize::new(0);
    rig.backend.on("probe", move |_| Reply::exit(u8::from(asked.fetch_add(1, Ordering::Relaxed) < 2)));
    Ok(slow(rig))
}

#[tokio::test]
async fn a_job_that_is_stopped_at_any_moment_leaves_none() -> Result<()> {
    for why in [Stop::Cancel, Stop::ShutDown] {
        let mut phases = [0; 3];
        for at in 1.. {
            let service = slow_job()?;
            let claim = service.claim(Rig::spec().with_service(db("a")?).with_service(db("b")?)).await?;
            let job = claim.job().clone();
            let (stop, asked) = oneshot::channel();
            let stop_asked = async { asked.await.unwrap_or(why) };
            let mut running = pin!(service.runner.run(claim, stop_asked));
            let mut has_ended = None;
            for _ in 0..at {
                if let Poll::Ready(ended) = poll!(&mut running) {
                    has_ended = Some(ended);
                    break;
                }
                service.rig.clock.advance(Duration::from_millis(50));
            }
            if let Some(ended) = has_ended {
                assert_eq!(ended?.conclusion, Conclusion::Succeeded);
                break;
            }
            phases[service.rig.backend.living().len().saturating_sub(1).min(2)] += 1;
            assert!(stop.send(why).is_ok() || seen(&service, &job, "SandboxDestroyed") > 0);
            let ended = soon(&service.rig, running).await;
            assert_eq!(service.rig.backend.living(), [], "stopped at poll {at}");
            let done = seen(&service, &job, "StepFinished") > 0;
            match ended {
                Ok(outcome) if outcome.conclusion == Conclusion::Succeeded => assert!(done, "poll {at}"),
                Ok(outcome) => assert_eq!((outcome.conclusion, why), (Conclusion::Cancelled, Stop::Cancel)),
                Err(error) => assert_eq!((error.kind(), why), (ErrorKind::Cancelled, Stop::ShutDown)),
            }
        }
        assert!(phases.iter().all(|polls| *polls > 1), "with one sandbox, with two, with three: {phases:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_runner_that_is_dropped_at_any_moment_abandons_them_all() -> Result<()> {
    for at in 1.. {
        let service = slow_job()?;
        let claim = service.claim(Rig::spec().with_service(db("a")?).with_service(db("b")?)).await?;
        let has_ended = {
            let mut running = pin!(service.runner.run(claim, never()));
            let mut has_ended = false;
            for _ in 0..at {
                has_ended = has_ended || poll!(&mut running).is_ready();
                service.rig.clock.advance(Duration::from_millis(50));
                if has_ended {
                    break;
                }
            }
            has_ended
        };
        assert_eq!(service.rig.backend.living(), [], "dropped at poll {at}");
        if has_ended {
            assert!(at > 20, "{at}");
            return Ok(());
        }
    }
    Ok(())
}

#[tokio::test]
async fn one_that_does_not_go_does_not_keep_the_jobs_sandbox() -> Result<()> {
    let rig = rig()?;
    let books = Books::new(rig.backend.clone(), Some(1));
    let service = Service::with_parts(rig, |parts| parts.sandboxes = Sandboxes::new(books.clone()));
    let claim = service.claim(Rig::spec().with_service(db("a")?).with_service(db("b")?)).await?;
    let mut running = pin!(service.runner.run(claim, never()));
    for _ in 0..5 {
        assert!(poll!(&mut running).is_pending());
    }
    assert_eq!(books.lines()[3..], ["destroy 2", "destroy 1"]);
    service.rig.clock.advance(Duration::from_secs(2));
    assert!(poll!(&mut running).is_pending());
    assert_eq!(books.lines()[3..], ["destroy 2", "destroy 1", "destroy 0"]);
    let ended = soon(&service.rig, running).await;
    assert_eq!(refused(ended), ErrorKind::Unavailable, "nobody may believe that it is gone");
    assert!(service.rig.backend.leftovers().await?.is_empty(), "it was abandoned");
    assert!(service.rig.dispatcher.next(&[]).await?.is_none(), "the job has its outcome");
    Ok(())
}

#[tokio::test]
async fn what_is_left_of_one_is_told_and_reaped() -> Result<()> {
    let service = Service::with_parts(rig()?, |_| {});
    service.rig.backend.leave_residue(Residue { mounts: 1, ..Residue::default() });
    let claim = service.claim(Rig::spec().with_service(db("db")?)).await?;
    let job = claim.job().clone();
    assert_eq!(refused(service.runner.run(claim, never()).await), ErrorKind::Internal);
    assert_eq!(service.rig.backend.living().len(), 1, "the service's: its own went all the same");
    assert_eq!((seen(&service, &job, "SandboxDestroyed"), seen(&service, &job, "Finished")), (0, 1));
    assert_eq!(service.rig.sandboxes.reap().await?, 1);
    Ok(())
}

/// The second start finds the sandbox gone, and what ended it is told a little later.
#[derive(Debug, Default)]
struct Gone(AtomicUsize);

impl Hook for Gone {
    async fn around<T: Send>(&self, call: Call, done: impl Future<Output = Result<T>> + Send) -> Result<T> {
        if call == Call::Exec && self.0.fetch_add(1, Ordering::Relaxed) == 1 {
            return Err(Error::new(ErrorKind::Unavailable, "start a program")
                .because("it is gone")
                .permanent());
        }
        for _ in 0..5 {
            yield_now().await;
        }
        done.await
    }
}

#[tokio::test]
async fn how_one_ended_says_more_than_a_check_that_finds_it_gone() -> Result<()> {
    for (end, expected) in [
        (Reply::end(ExitStatus::OutOfMemory), Conclusion::LimitExceeded),
        (Reply::hang(), Conclusion::Errored),
    ] {
        let rig = rig()?;
        rig.backend.on("serve", move |_| end.clone());
        let backend = Arc::new(Hooked::new(rig.backend.clone(), Gone::default()));
        let service = Service::with_parts(rig, |parts| parts.sandboxes = Sandboxes::new(backend));
        let claim = service.claim(Rig::spec().with_service(db("db")?)).await?;
        let mut running = pin!(service.runner.run(claim, never()));
        let mut outcome = None;
        for poll in 0..200 {
            if let Poll::Ready(ended) = poll!(&mut running) {
                outcome = Some(ended?);
                break;
            }
            if poll > 100 {
                service.rig.clock.advance(Duration::from_secs(1));
            }
        }
        let outcome = outcome.expect("it waits a moment, and no more");
        assert_eq!(outcome.conclusion, expected, "{outcome:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_machine_that_is_lost_is_tried_again() -> Result<()> {
    let service = Service::with_parts(rig()?, |_| {});
    let backend = service.rig.backend.clone();
    service.rig.backend.on("probe", move |_| {
        backend.restart();
        Reply::exit(1)
    });
    let claim = service.claim(Rig::spec().with_service(db("db")?)).await?;
    assert_eq!(refused(soon(&service.rig, service.runner.run(claim, never())).await), ErrorKind::Unavailable);
    service.rig.backend.on("probe", |_| Reply::exit(0));
    service.rig.clock.advance(Duration::from_secs(31));
    let again = service.rig.dispatcher.next(&[]).await?.expect("it waits again");
    assert_eq!(service.runner.run(again, never()).await?.conclusion, Conclusion::Succeeded);
    Ok(())
}
