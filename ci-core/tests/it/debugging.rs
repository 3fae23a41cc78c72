//! People in the sandboxes of jobs: who, for how long, and what is told of it.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ci_core::access::{Grant, Level, Read, Write};
use ci_core::artifact::{Artifact, ArtifactStore};
use ci_core::audit::Audit;
use ci_core::debug::{
    DebugAccess, DebugEnd, DebugEvent, DebugProgram, DebugSession, Desk, DeskOptions, MOST_ACCESSES,
};
use ci_core::id::{ArtifactName, CacheKey, JobId, SecretName, UserId};
use ci_core::job::{JobSpec, Timeouts};
use ci_core::memory::{Artifacts, Recorder, Reply, Rig, Secrets};
use ci_core::outcome::{Conclusion, Outcome};
use ci_core::queue::Claim;
use ci_core::runner::{Parts, Runner, Stop};
use ci_core::sandbox::{ExitStatus, SandboxPath, TerminalSize};
use ci_core::secret::{SecretStore as _, SecretValue};
use ci_core::trust::Origin;
use ci_core::{ByteSize, ByteStream, Error, ErrorKind, Result, stream};
use futures_util::poll;
use tokio::sync::{oneshot, watch};
use tokio::task::yield_now;
use tokio::time::timeout;

use crate::hooked::{Call, Hook, Hooked};
use crate::hostile::Down;
use crate::{ours, refused, theirs, writer};

const MINUTE: Duration = Duration::from_mins(1);
const SIZE: TerminalSize = TerminalSize { rows: 24, columns: 80 };

/// A worker with a desk. The steps of its jobs run until they are stopped; a debug shell does what `shell` says.
struct Scene {
    rig: Rig,
    secrets: Arc<Secrets>,
    artifacts: Arc<dyn ArtifactStore>,
    seen: Arc<Recorder>,
    desk: Desk,
    runner: Runner,
}

impl Scene {
    fn new() -> Result<Self> {
        Self::with(DeskOptions::default(), |_| {})
    }

    fn with(options: DeskOptions, change: impl FnOnce(&mut Parts)) -> Result<Self> {
        let rig = Rig::new()?;
        rig.backend.on("sh", |call| match call.arguments() {
            ["-e", ..] => Reply::hang(),
            ["-c", command] => Reply::exit(0).stdout(format!("ran {command}\n")),
            _ => Reply::hang().stdout("$ "),
        });
        let secrets = Arc::new(Secrets::new(rig.audit.clone(), rig.clock.clone()));
        let seen = Arc::new(Recorder::new());
        let mut parts = Parts { secrets: secrets.clone(), observer: seen.clone(), ..rig.parts() };
        change(&mut parts);
        let artifacts = parts.artifacts.clone();
        let desk = Desk::with_options(rig.authority.clone(), rig.audit.clone(), rig.clock.clone(), options);
        let runner = Runner::new(parts).with_debug(desk.clone());
        Ok(Self { rig, secrets, artifacts, seen, desk, runner })
    }

    /// Lets the steps end like this.
    fn steps_exit(&self, code: u8) {
        self.rig.backend.on("sh", move |call| match call.arguments() {
            ["-e", ..] => Reply::exit(code),
            _ => Reply::hang().stdout("$ "),
        });
    }

    async fn claim(&self, origin: Origin, spec: JobSpec) -> Result<Claim> {
        self.rig.claim(&ours(), origin, spec).await
    }

    /// Runs a job until `script` is done, which is told its id, and stops it then.
    async fn play<T>(&self, script: impl AsyncFnOnce(&JobId) -> Result<T>) -> Result<(Outcome, T)> {
        // Silent steps that last.
        let timeouts = Timeouts::default().with_silence(Duration::from_hours(1));
        let claim = self.claim(Origin::Repository, Rig::spec().with_timeouts(timeouts)).await?;
        self.play_with(claim, script).await
    }

    async fn play_with<T>(
        &self,
        claim: Claim,
        script: impl AsyncFnOnce(&JobId) -> Result<T>,
    ) -> Result<(Outcome, T)> {
        let job = claim.job().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async {
            let _ = stopped.await;
            Stop::Cancel
        };
        let script = async {
            let done = script(&job).await;
            drop(stop);
            done
        };
        let played = async { tokio::join!(self.runner.run(claim, stopped), script) };
        // Only what never ends takes as long.
        let (outcome, done) =
            timeout(MINUTE / 2, Box::pin(played)).await.expect("the job and the script end");
        Ok((outcome?, done?))
    }

    async fn grant(&self, user: &str) -> Result<Grant<Write>> {
        self.rig.grant(&Rig::user(user)?, &ours()).await
    }

    /// Opens an access of Ada's, when the job is there.
    async fn enter(&self, job: &JobId) -> Result<DebugAccess> {
        let grant = self.grant("ada").await?;
        for _ in 0..1_000 {
            match self.desk.open(&grant, job, 10 * MINUTE).await {
                Err(error) if error.kind() == ErrorKind::NotFound => yield_now().await,
                opened => return opened,
            }
        }
        panic!("the job never begins");
    }

    /// Lets time pass, so that everybody notices.
    async fn pass(&self, time: Duration) {
        const STEP: Duration = Duration::from_secs(1);
        let mut left = time;
        while !left.is_zero() {
            self.rig.clock.advance(STEP.min(left));
            left = left.saturating_sub(STEP);
            for _ in 0..20 {
                yield_now().await;
            }
        }
    }

    /// What the audit log has of debug sessions: the action, and what it is about but the job and the repository.
    async fn audited(&self) -> Result<Vec<String>> {
        let act = self.rig.operator.act(ours().tenant(), "audit.read").await?;
        let entries = self.rig.audit.entries(&act, ours().tenant(), 0).await?;
        let of_debug =
            entries.into_iter().map(|logged| logged.entry).filter(|e| e.action.starts_with("debug."));
        let text = of_debug.map(|entry| {
            let about = entry.about.into_iter().filter(|(name, _)| name != "job" && name != "repository");
            let about: Vec<_> = about.map(|(name, value)| format!("{name}={value}")).collect();
            format!("{} {} {}", entry.action, entry.actor, about.join(" "))
        });
        Ok(text.collect())
    }

    /// The records of a job, each as its lines.
    async fn records(&self, job: &JobId) -> Result<Vec<Vec<String>>> {
        let grant = writer(&self.rig, &ours()).await?.lower::<Read>();
        let mut records = Vec::new();
        for artifact in self.artifacts.list(&grant, job).await? {
            let content = self.artifacts.get(&grant, job, &artifact.name).await?;
            let content = stream::collect(content, ByteSize::mib(64)).await?;
            let text = String::from_utf8(content).expect("UTF-8");
            records.push(text.lines().map(str::to_owned).collect());
        }
        Ok(records)
    }
}

fn ada() -> UserId {
    Rig::user("ada").expect("a person")
}

/// What a session shows until it ends, and how it does.
async fn watch(session: &mut DebugSession) -> (String, Result<ExitStatus>) {
    let mut shown = String::new();
    loop {
        match session.next().await {
            Ok(DebugEvent::Output(_, bytes)) => shown += &String::from_utf8_lossy(bytes.as_bytes()),
            Ok(DebugEvent::Exited(status)) => return (shown, Ok(status)),
            Err(error) => return (shown, Err(error)),
        }
    }
}

#[tokio::test]
async fn only_who_may_write_to_the_repository_of_a_job_that_runs_is_let_in() -> Result<()> {
    let scene = Scene::new()?;
    let grant = scene.grant("ada").await?;
    let unknown = scene.desk.open(&grant, &JobId::random(), MINUTE).await;
    assert_eq!(refused(unknown), ErrorKind::NotFound);
    let (outcome, job) = scene
        .play(async |job| {
            drop(scene.enter(job).await?);
            let stranger: Grant<Write> = scene.rig.grant(&Rig::user("eve")?, &theirs()).await?;
            assert_eq!(refused(scene.desk.open(&stranger, job, MINUTE).await), ErrorKind::NotFound);
            let (none, long) = (Duration::ZERO, Duration::from_hours(1) + Duration::from_millis(1));
            assert_eq!(refused(scene.desk.open(&grant, job, none).await), ErrorKind::Invalid);
            assert_eq!(refused(scene.desk.open(&grant, job, long).await), ErrorKind::LimitExceeded);
            scene.rig.permissions.allow(&ada(), &ours(), Level::Read);
            assert_eq!(refused(scene.desk.open(&grant, job, MINUTE).await), ErrorKind::Denied);
            Ok(job.clone())
        })
        .await?;
    assert_eq!((outcome.influenced_by, outcome.conclusion), (vec![ada()], Conclusion::Cancelled));
    let late = scene.desk.open(&scene.grant("ada").await?, &job, MINUTE).await;
    assert_eq!(refused(late), ErrorKind::NotFound);
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_recorded_opens_nothing() -> Result<()> {
    let scene = Scene::new()?;
    let blind = Audit::new(Arc::new(Down), scene.rig.clock.clone());
    let desk = Desk::new(scene.rig.authority.clone(), blind, scene.rig.clock.clone());
    let runner = scene.runner.clone().with_debug(desk.clone());
    let claim = scene.claim(Origin::Repository, Rig::spec()).await?;
    let (job, grant) = (claim.job().clone(), scene.grant("ada").await?);
    let (stop, stopped) = oneshot::channel::<()>();
    let look = async {
        let refusal = loop {
            match refused(desk.open(&grant, &job, MINUTE).await) {
                ErrorKind::NotFound => yield_now().await,
                kind => break kind,
            }
        };
        drop(stop);
        refusal
    };
    let stop = async {
        let _ = stopped.await;
        Stop::Cancel
    };
    let (outcome, refusal) = tokio::join!(runner.run(claim, stop), look);
    assert_eq!((refusal, outcome?.influenced_by), (ErrorKind::Unavailable, vec![]));
    Ok(())
}

#[tokio::test]
async fn the_audit_log_tells_who_for_how_long_and_why_no_longer() -> Result<()> {
    let scene = Scene::new()?;
    scene
        .play(async |job| {
            let access = scene.enter(job).await?;
            watch(&mut access.start(DebugProgram::command("ls")).await?).await.1?;
            scene.pass(3 * Duration::from_secs(1)).await;
            access.close();
            assert_eq!(access.ended().await, DebugEnd::Closed);
            scene.enter(job).await.map(std::mem::forget)
        })
        .await?;
    let tenant = ours().tenant().clone();
    let act = scene.rig.operator.act(&tenant, "audit.read").await?;
    let ada = scene.rig.audit.pseudonym(&act, &tenant, &Rig::user("ada")?).await?.expect("she was there");
    assert_eq!(
        scene.audited().await?,
        [
            format!("debug.opened {ada} seconds=600"),
            format!("debug.closed {ada} why=it was closed seconds=3 sessions=1 record=whole"),
            format!("debug.opened {ada} seconds=600"),
            format!("debug.closed {ada} why=the job has ended seconds=0 sessions=0 record=whole"),
        ]
    );
    Ok(())
}

#[tokio::test]
async fn a_session_ends_with_its_access_however_that_does() -> Result<()> {
    let scene = Scene::new()?;
    let (_, mut last) = scene
        .play(async |job| {
            for (end, kind) in [
                (DebugEnd::TimeIsOver, ErrorKind::TimedOut),
                (DebugEnd::Withdrawn, ErrorKind::Denied),
                (DebugEnd::Closed, ErrorKind::Cancelled),
            ] {
                let access = scene.enter(job).await?;
                let mut session = access.start(DebugProgram::shell()).await?;
                assert!(matches!(session.next().await?, DebugEvent::Output(..)));
                match end {
                    DebugEnd::TimeIsOver => {
                        scene.pass(9 * MINUTE + Duration::from_secs(59)).await;
                        assert!(poll!(pin!(session.next())).is_pending(), "there is time");
                        scene.pass(Duration::from_secs(1)).await;
                    }
                    DebugEnd::Withdrawn => {
                        scene.rig.permissions.allow(&ada(), &ours(), Level::Read);
                        scene.pass(Duration::from_secs(2)).await;
                    }
                    _ => access.close(),
                }
                assert_eq!(refused(session.next().await), kind);
                assert_eq!(access.ended().await, end);
                assert_eq!(refused(access.start(DebugProgram::shell()).await), kind);
                assert_eq!(refused(session.next().await), ErrorKind::Conflict, "asked once too often");
                scene.rig.permissions.allow(&ada(), &ours(), Level::Write);
            }
            let access = scene.enter(job).await?;
            let ended = access.ended();
            drop(access);
            assert_eq!(ended.await, DebugEnd::Closed);
            scene.enter(job).await?.start(DebugProgram::shell()).await?;
            let access = scene.enter(job).await?;
            Ok((access.start(DebugProgram::shell()).await?, access))
        })
        .await?;
    assert_eq!(watch(&mut last.0).await.1.expect_err("no sandbox").kind(), ErrorKind::NotFound);
    assert_eq!(last.1.ended().await, DebugEnd::JobEnded);
    assert_eq!(scene.rig.backend.living(), []);
    Ok(())
}

#[tokio::test]
async fn who_is_renewed_stays_and_who_cannot_be_asked_for_goes() -> Result<()> {
    let scene = Scene::new()?;
    scene
        .play(async |job| {
            let access = scene.enter(job).await?;
            let mut ended = pin!(access.ended());
            scene.pass(5 * MINUTE).await;
            assert!(poll!(&mut ended).is_pending(), "longer than a grant");
            scene.rig.permissions.go_down();
            scene.pass(MINUTE + Duration::from_secs(2)).await;
            assert_eq!(ended.await, DebugEnd::Withdrawn);
            scene.rig.permissions.come_back();
            Ok(())
        })
        .await?;
    Ok(())
}

#[tokio::test]
async fn what_is_typed_reaches_the_program_and_what_is_seen_is_masked_and_recorded() -> Result<()> {
    let scene = Scene::new()?;
    let token = SecretName::parse("TOKEN")?;
    scene.secrets.put(&writer(&scene.rig, &ours()).await?, &token, SecretValue::new("hunter2")).await?;
    scene.rig.backend.on_input("sh", |call| {
        if let ["-e", ..] = call.arguments() {
            return Reply::hang();
        }
        let term = call.variable("TERM").unwrap_or_default().to_vec();
        let token = call.variable("TOKEN").is_some();
        let rows = call.terminal().map_or(0, |size| size.rows);
        let typed = String::from_utf8_lossy(call.input()).into_owned();
        let term = String::from_utf8_lossy(&term).into_owned();
        Reply::exit(7).stdout(format!("{typed} é hun")).stdout(format!("ter2 {term} {rows} {token}"))
    });
    let claim = scene.claim(Origin::Repository, Rig::spec().with_secret(token)).await?;
    let (outcome, job) = scene
        .play_with(claim, async |job| {
            let access = scene.enter(job).await?;
            let bad = access.start(DebugProgram::shell().with_terminal("x; id", SIZE)).await;
            assert_eq!(refused(bad), ErrorKind::Invalid);
            let program = DebugProgram::shell().with_terminal("xterm-256color", SIZE);
            let mut session = access.start(program).await?;
            let mut input = session.input().expect("the first call");
            assert!(session.input().is_none());
            scene.pass(Duration::from_secs(2)).await;
            input.resize(TerminalSize { rows: 50, columns: 132 });
            scene.pass(Duration::from_secs(1)).await;
            input.write("words\x04".into()).await?;
            let (shown, status) = watch(&mut session).await;
            assert_eq!(shown, "words é *** xterm-256color 50 false");
            assert_eq!(status?, ExitStatus::Code(7));
            Ok(job.clone())
        })
        .await?;
    let records = scene.records(&job).await?;
    assert_eq!((records.len(), outcome.artifacts.len()), (1, 1));
    assert!(outcome.artifacts[0].name.as_str().starts_with("debug-"));
    let lines: Vec<serde_json::Value> =
        records[0].iter().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(
        (&lines[0]["version"], &lines[0]["width"], &lines[0]["height"]),
        (&2.into(), &80.into(), &24.into())
    );
    assert_eq!(lines[0]["env"]["TERM"], "xterm-256color");
    assert_eq!((&lines[1][0], &lines[1][1], &lines[1][2]), (&3.0.into(), &"r".into(), &"132x50".into()));
    let shown: Vec<_> = lines[2..].iter().map(|line| line[2].as_str().expect("text")).collect();
    assert_eq!(shown.concat(), "words é *** xterm-256color 50 false");
    assert!(lines[2..].iter().all(|line| line[1] == "o" && line[0] == 3.0));
    Ok(())
}

#[tokio::test]
async fn a_command_is_in_the_record_and_masked_there() -> Result<()> {
    let scene = Scene::new()?;
    let token = SecretName::parse("TOKEN")?;
    scene.secrets.put(&writer(&scene.rig, &ours()).await?, &token, SecretValue::new("hunter2")).await?;
    let claim = scene.claim(Origin::Repository, Rig::spec().with_secret(token)).await?;
    let (_, job) = scene
        .play_with(claim, async |job| {
            let access = scene.enter(job).await?;
            let (shown, status) =
                watch(&mut access.start(DebugProgram::command("grep hunter2")).await?).await;
            assert_eq!((shown.as_str(), status?), ("ran grep ***\n", ExitStatus::Code(0)));
            Ok(job.clone())
        })
        .await?;
    let record = &scene.records(&job).await?[0];
    let header: serde_json::Value = serde_json::from_str(&record[0]).expect("JSON");
    assert_eq!(header["command"], "grep ***");
    assert!(!record.concat().contains("hunter2"));
    Ok(())
}

#[tokio::test]
async fn only_readers_of_the_repository_read_the_record() -> Result<()> {
    let scene = Scene::new()?;
    let (_, job) = scene
        .play(async |job| {
            let access = scene.enter(job).await?;
            watch(&mut access.start(DebugProgram::command("ls")).await?).await.1?;
            Ok(job.clone())
        })
        .await?;
    assert_eq!(scene.records(&job).await?.len(), 1);
    let stranger: Grant<Read> = scene.rig.grant(&Rig::user("eve")?, &theirs()).await?;
    assert_eq!(scene.artifacts.list(&stranger, &job).await?, []);
    Ok(())
}

#[tokio::test]
async fn a_part_of_the_record_is_stored_every_minute() -> Result<()> {
    let scene = Scene::new()?;
    scene
        .play(async |job| {
            let access = scene.enter(job).await?;
            let mut session = access.start(DebugProgram::shell()).await?;
            session.next().await?;
            assert_eq!(scene.records(job).await?.len(), 0);
            scene.pass(MINUTE + Duration::from_secs(1)).await;
            assert!(scene.records(job).await?[0][1].contains("\"$ \""));
            scene.pass(5 * MINUTE).await;
            assert_eq!(scene.records(job).await?.len(), 1, "nothing was shown since");
            Ok(())
        })
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_record_that_is_full_ends_the_session() -> Result<()> {
    let scene = Scene::with(DeskOptions::default().with_record(ByteSize::kib(64)), |_| {})?;
    scene.rig.backend.on("sh", |call| match call.arguments() {
        ["-c", _] => (0..100).fold(Reply::exit(0), |reply, _| reply.stdout("x".repeat(1_000))),
        _ => Reply::hang(),
    });
    let (outcome, job) = scene
        .play(async |job| {
            let access = scene.enter(job).await?;
            let (shown, ended) = watch(&mut access.start(DebugProgram::command("yes")).await?).await;
            assert_eq!(ended.expect_err("too much").kind(), ErrorKind::LimitExceeded);
            assert!((60_000..65_536).contains(&shown.len()), "{}", shown.len());
            Ok(job.clone())
        })
        .await?;
    assert_eq!(outcome.artifacts.len(), 1);
    assert!(scene.records(&job).await?.concat().concat().len() > 60_000);
    Ok(())
}

/// A store that refuses for good.
#[derive(Debug)]
struct Refusing(Artifacts);

#[async_trait]
impl ArtifactStore for Refusing {
    async fn put(&self, _: &Claim, _: &ArtifactName, _: ByteStream<'_>) -> Result<Artifact> {
        Err(Error::new(ErrorKind::LimitExceeded, "keep an artifact"))
    }

    async fn list(&self, grant: &Grant<Read>, job: &JobId) -> Result<Vec<Artifact>> {
        self.0.list(grant, job).await
    }

    async fn get(
        &self,
        grant: &Grant<Read>,
        job: &JobId,
        name: &ArtifactName,
    ) -> Result<ByteStream<'static>> {
        self.0.get(grant, job, name).await
    }

    async fn delete(&self, grant: &Grant<Write>, job: &JobId, name: &ArtifactName) -> Result<()> {
        self.0.delete(grant, job, name).await
    }
}

#[tokio::test]
async fn a_record_that_cannot_be_stored_ends_the_session_and_the_audit_log_says_so() -> Result<()> {
    let scene = Scene::with(DeskOptions::default(), |parts| {
        let Parts { artifacts, audit: _, .. } = parts;
        *artifacts = Arc::new(Refusing(Artifacts::new(Arc::new(Down))));
    })?;
    let (outcome, ()) = scene
        .play(async |job| {
            let access = scene.enter(job).await?;
            let mut session = access.start(DebugProgram::shell()).await?;
            session.next().await?;
            scene.pass(MINUTE + Duration::from_secs(1)).await;
            assert_eq!(refused(session.next().await), ErrorKind::LimitExceeded);
            Ok(())
        })
        .await?;
    assert_eq!(outcome.conclusion, Conclusion::Cancelled, "the job is not at fault");
    assert!(scene.audited().await?[1].ends_with("sessions=1 record=incomplete"));
    Ok(())
}

/// Code that is not there until then.
#[derive(Debug)]
struct Gate(watch::Receiver<bool>);

impl Hook for Gate {
    async fn around<T: Send>(&self, call: Call, done: impl Future<Output = Result<T>> + Send) -> Result<T> {
        if call == Call::Checkout {
            let _ = self.0.clone().wait_for(|is_open| *is_open).await;
        }
        done.await
    }
}

#[tokio::test]
async fn no_cache_is_saved_of_what_somebody_may_have_changed() -> Result<()> {
    for comes in [false, true] {
        let (open, gate) = watch::channel(false);
        let scene = Scene::with(DeskOptions::default(), |_| {})?;
        let source = Arc::new(Hooked::new(scene.rig.forge.clone(), Gate(gate)));
        let runner = Runner::new(Parts { source, ..scene.rig.parts() }).with_debug(scene.desk.clone());
        let folder = SandboxPath::work().join("target")?;
        let file = folder.join("object")?;
        scene
            .rig
            .backend
            .on("sh", move |call| Reply::exit(u8::from(call.files().write(&file, "built").is_err())));
        let key = CacheKey::parse("target")?;
        let spec = Rig::spec().with_cache(key.clone(), folder);
        let claim = scene.claim(Origin::Repository, spec.clone()).await?;
        let job = claim.job().clone();
        let script = async {
            let entered = if comes { scene.enter(&job).await.map(drop) } else { Ok(()) };
            open.send_replace(true);
            entered
        };
        let (outcome, entered) = tokio::join!(runner.run(claim, std::future::pending()), script);
        entered?;
        let outcome = outcome?;
        assert_eq!((outcome.conclusion, outcome.is_influenced()), (Conclusion::Succeeded, comes));
        let next = scene.claim(Origin::Repository, spec).await?;
        let restored = scene.rig.parts().caches.restore(&next, &key).await?;
        assert_eq!(restored.is_some(), !comes);
    }
    Ok(())
}

#[tokio::test]
async fn a_failed_job_is_kept_for_whoever_comes() -> Result<()> {
    let scene = Scene::with(DeskOptions::default().with_keep_failed(5 * MINUTE), |_| {})?;
    scene.steps_exit(3);
    let claim = scene.claim(Origin::Repository, Rig::spec()).await?;
    let job = claim.job().clone();
    let mut running = pin!(scene.runner.run(claim, std::future::pending()));
    let script = async {
        let is_kept = |event: &String| event.starts_with("Kept(");
        for _ in 0..1_000 {
            yield_now().await;
        }
        assert!(scene.seen.events(&job).iter().any(is_kept));
        scene.pass(4 * MINUTE).await;
        assert_eq!(scene.rig.backend.living().len(), 1);
        let access = scene.enter(&job).await?;
        let mut session = access.start(DebugProgram::shell()).await?;
        session.next().await?;
        scene.pass(5 * MINUTE).await;
        assert_eq!(scene.rig.backend.living().len(), 1, "longer than it is kept, for somebody is there");
        access.close();
        Ok::<_, Error>(())
    };
    let (outcome, done) = tokio::join!(&mut running, script);
    done?;
    let outcome = outcome?;
    assert_eq!(
        (outcome.conclusion, outcome.exit_code(), outcome.influenced_by),
        (Conclusion::Failed, 3, vec![ada()])
    );
    Ok(())
}

#[tokio::test]
async fn a_failed_job_is_kept_no_longer_than_that_and_not_when_it_is_stopped() -> Result<()> {
    for stopped in [false, true] {
        let scene = Scene::with(DeskOptions::default().with_keep_failed(5 * MINUTE), |_| {})?;
        scene.steps_exit(3);
        let claim = scene.claim(Origin::Repository, Rig::spec()).await?;
        let (stop, asked) = oneshot::channel::<()>();
        let mut running = pin!(scene.runner.run(claim, async {
            let _ = asked.await;
            Stop::ShutDown
        }));
        let script = async {
            scene.pass(4 * MINUTE).await;
            assert_eq!(scene.rig.backend.living().len(), 1);
            if stopped {
                drop(stop);
                scene.pass(Duration::from_secs(1)).await;
            } else {
                scene.pass(MINUTE).await;
                drop(stop);
            }
            assert_eq!(scene.rig.backend.living(), []);
        };
        let (outcome, ()) = tokio::join!(&mut running, script);
        let outcome = outcome?;
        assert_eq!((outcome.conclusion, outcome.is_influenced()), (Conclusion::Failed, false));
    }
    Ok(())
}

#[tokio::test]
async fn protected_code_with_secrets_lets_nobody_in_unless_the_operator_says_so() -> Result<()> {
    let open = DeskOptions::default().with_access_to_protected_secrets();
    for (options, origin, has_secret, expected) in [
        (DeskOptions::default(), Origin::Protected, true, Some(ErrorKind::Denied)),
        (DeskOptions::default(), Origin::Protected, false, None),
        (DeskOptions::default(), Origin::Repository, true, None),
        (open, Origin::Protected, true, None),
    ] {
        let scene = Scene::with(options, |_| {})?;
        let token = SecretName::parse("TOKEN")?;
        scene.secrets.put(&writer(&scene.rig, &ours()).await?, &token, SecretValue::new("hunter2")).await?;
        let spec = if has_secret { Rig::spec().with_secret(token) } else { Rig::spec() };
        let claim = scene.claim(origin, spec).await?;
        let (outcome, kind) = scene
            .play_with(claim, async |job| Ok(scene.enter(job).await.err().map(|error| error.kind())))
            .await?;
        assert_eq!(
            (kind, outcome.is_influenced()),
            (expected, expected.is_none()),
            "{origin:?} {has_secret}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn only_so_many_may_be_inside_at_a_time() -> Result<()> {
    let scene = Scene::new()?;
    scene
        .play(async |job| {
            let mut inside = Vec::new();
            for _ in 0..MOST_ACCESSES {
                inside.push(scene.enter(job).await?);
            }
            assert_eq!(refused(scene.enter(job).await), ErrorKind::LimitExceeded);
            let left = inside.pop().expect("somebody");
            let ended = left.ended();
            drop(left);
            ended.await;
            scene.pass(Duration::from_secs(1)).await;
            scene.enter(job).await.map(drop)
        })
        .await?;
    Ok(())
}

#[tokio::test]
async fn wherever_the_runner_is_dropped_nothing_is_left_and_who_was_inside_hears_of_it() -> Result<()> {
    let mut ended = 0;
    for polls in 0..200 {
        let scene = Scene::with(DeskOptions::default().with_keep_failed(MINUTE), |_| {})?;
        scene.rig.backend.on("sh", |call| match call.arguments() {
            ["-e", ..] => Reply::exit(1),
            _ => Reply::hang().stdout("$ "),
        });
        let claim = scene.claim(Origin::Repository, Rig::spec()).await?;
        let job = claim.job().clone();
        let grant = scene.grant("ada").await?;
        let mut access = None;
        let mut session = None;
        {
            let mut running = pin!(scene.runner.run(claim, std::future::pending()));
            for _ in 0..polls {
                if poll!(&mut running).is_ready() {
                    break;
                }
                if access.is_none() {
                    access = scene.desk.open(&grant, &job, 10 * MINUTE).await.ok();
                } else if let Some(access) = &access
                    && session.is_none()
                {
                    let mut starting = pin!(access.start(DebugProgram::shell()));
                    for _ in 0..polls % 7 {
                        if let std::task::Poll::Ready(started) = poll!(&mut starting) {
                            session = started.ok();
                            break;
                        }
                        let _ = poll!(&mut running);
                    }
                }
            }
        }
        assert_eq!(scene.rig.backend.living(), [], "after {polls} polls");
        if let Some(access) = access {
            assert_eq!(access.ended().await, DebugEnd::JobEnded);
            ended += 1;
        }
        if let Some(mut session) = session {
            assert_eq!(watch(&mut session).await.1.expect_err("it is gone").kind(), ErrorKind::NotFound);
        }
        assert_eq!(refused(scene.desk.open(&grant, &job, MINUTE).await), ErrorKind::NotFound);
    }
    assert!(ended > 100, "{ended}");
    Ok(())
}
