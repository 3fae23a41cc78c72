//! Every call of a job's way fails once, in every way.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use ci_core::access::Read;
use ci_core::artifact::ArtifactStore as _;
use ci_core::forge::{CheckState, Checks, Revision, RevisionName, Source, SourcePath};
use ci_core::id::{ArtifactName, CacheKey, CommitId, JobId, KeyId, Label, SandboxId, SecretName, StepName};
use ci_core::job::{JobSpec, Script, Step};
use ci_core::log::{Cursor, LogStore as _};
use ci_core::memory::{Artifacts, Caches, Database, Logs, Recorder, Reply, Rig, Secrets};
use ci_core::outcome::Conclusion;
use ci_core::queue::{Claim, End, Extended, Leased, NewJob, NewRow, Queue, Released, Row, State};
use ci_core::records::{Batch, Fence, Key, Record, Records, Version};
use ci_core::runner::{Parts, Runner};
use ci_core::sandbox::{
    Backend, Capabilities, Command, Instance, IsolationReport, Process, ProcessEvent, Residue, Sandbox,
    SandboxPath, Sandboxes, Signal, Spec,
};
use ci_core::seal::DataKey;
use ci_core::secret::{KeyRing, Purpose, SecretLease, SecretStore as _, SecretValue};
use ci_core::trust::Origin;
use ci_core::{ByteSize, ByteStream, Error, ErrorKind, Result, stream};
use futures_util::StreamExt as _;

use crate::{ours, writer};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Later,
    Permanent,
    Internal,
    Lost,
    Hang,
}

#[derive(Debug)]
struct Faults {
    at: AtomicUsize,
    mode: Mode,
    calls: AtomicUsize,
    hit: Mutex<Option<&'static str>>,
}

impl Faults {
    fn new(mode: Mode) -> Arc<Self> {
        Arc::new(Self { at: usize::MAX.into(), mode, calls: 0.into(), hit: Mutex::default() })
    }
    async fn around<T>(&self, name: &'static str, call: impl Future<Output = Result<T>>) -> Result<T> {
        let is_it = self.calls.fetch_add(1, Ordering::AcqRel) == self.at.load(Ordering::Acquire);
        if !is_it {
            return call.await;
        }
        *self.hit.lock().unwrap() = Some(name);
        let error = |kind| Error::new(kind, "be injected").detail(name);
        match self.mode {
            Mode::Later => Err(error(ErrorKind::Unavailable)),
            Mode::Permanent => Err(error(ErrorKind::Unavailable).permanent()),
            Mode::Internal => Err(error(ErrorKind::Internal)),
            Mode::Lost => {
                let _ = call.await;
                Err(error(ErrorKind::Unavailable))
            }
            Mode::Hang => std::future::pending().await,
        }
    }
}

#[derive(Debug)]
struct Db(Arc<Database>, Arc<Faults>);

#[async_trait]
impl Queue for Db {
    async fn push(&self, row: NewRow) -> Result<()> {
        self.1.around("push", self.0.push(row)).await
    }
    async fn lease(&self, labels: &[Label], ttl: Duration) -> Result<Option<Leased>> {
        self.1.around("lease", self.0.lease(labels, ttl)).await
    }
    async fn extend(&self, fence: &Fence, ttl: Duration) -> Result<Extended> {
        self.1.around("extend", self.0.extend(fence, ttl)).await
    }
    async fn release(&self, fence: &Fence, why: Released, pause: Duration) -> Result<()> {
        self.1.around("release", self.0.release(fence, why, pause)).await
    }
    async fn finish(&self, fence: &Fence, end: &End, with: Batch) -> Result<()> {
        self.1.around("finish", self.0.finish(fence, end, with)).await
    }
    async fn cancel(&self, job: &JobId) -> Result<()> {
        self.1.around("cancel", self.0.cancel(job)).await
    }
    async fn row(&self, job: &JobId) -> Result<Option<Row>> {
        self.1.around("row", self.0.row(job)).await
    }
    async fn jobs(
        &self,
        repository: &ci_core::id::RepositoryId,
        before: Option<&JobId>,
        limit: usize,
    ) -> Result<Vec<JobId>> {
        self.1.around("jobs", self.0.jobs(repository, before, limit)).await
    }
}

#[async_trait]
impl Records for Db {
    async fn get(&self, key: &Key) -> Result<Option<Record>> {
        self.1.around("get", self.0.get(key)).await
    }
    async fn list(&self, prefix: &Key, after: Option<&Key>, limit: usize) -> Result<Vec<Record>> {
        self.1.around("list", self.0.list(prefix, after, limit)).await
    }
    async fn commit(&self, batch: Batch) -> Result<Version> {
        self.1.around("commit", self.0.commit(batch)).await
    }
    async fn purge(&self, prefix: &Key) -> Result<usize> {
        self.1.around("purge", self.0.purge(prefix)).await
    }
    async fn scan_raw(&self, needle: &[u8]) -> Result<usize> {
        self.0.scan_raw(needle).await
    }
}

#[derive(Debug)]
struct Keys(Arc<dyn KeyRing>, Arc<Faults>);

#[async_trait]
impl KeyRing for Keys {
    async fn data_key(
        &self,
        scope: ci_core::access::Scope<'_>,
        purpose: &Purpose,
        id: Option<&KeyId>,
    ) -> Result<Arc<DataKey>> {
        self.1.around("data_key", self.0.data_key(scope, purpose, id)).await
    }
}

#[derive(Debug)]
struct Machine(ci_core::memory::Scripted, Arc<Faults>);

#[async_trait]
impl Backend for Machine {
    async fn create(&self, id: &SandboxId, spec: &Spec) -> Result<Box<dyn Instance>> {
        let made = self.1.around("create", self.0.create(id, spec)).await?;
        Ok(Box::new(Box1(made, self.1.clone())))
    }
    async fn destroy(&self, id: &SandboxId) -> Result<Residue> {
        self.1.around("destroy", self.0.destroy(id)).await
    }
    async fn leftovers(&self) -> Result<Vec<SandboxId>> {
        self.0.leftovers().await
    }
    fn abandon(&self, id: &SandboxId) {
        self.0.abandon(id);
    }
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }
}

#[derive(Debug)]
struct Box1(Box<dyn Instance>, Arc<Faults>);

#[async_trait]
impl Instance for Box1 {
    async fn exec<'a>(&'a self, command: &Command, lease: &SecretLease) -> Result<Box<dyn Process + 'a>> {
        let process = self.1.around("exec", self.0.exec(command, lease)).await?;
        Ok(Box::new(Proc(Mutex::new(process), self.1.clone())))
    }
    async fn upload(&self, path: &SandboxPath, tar: ByteStream<'_>) -> Result<()> {
        self.1.around("upload", self.0.upload(path, tar)).await
    }
    fn download(&self, path: &SandboxPath) -> ByteStream<'_> {
        let (inner, faults) = (self.0.download(path), self.1.clone());
        Box::pin(inner.then(move |piece| {
            let faults = faults.clone();
            async move { faults.around("download", std::future::ready(piece)).await }
        }))
    }
    fn isolation(&self) -> &IsolationReport {
        self.0.isolation()
    }
}

#[derive(Debug)]
struct Proc<'a>(Mutex<Box<dyn Process + 'a>>, Arc<Faults>);

#[async_trait]
impl Process for Proc<'_> {
    async fn next(&mut self) -> Result<ProcessEvent> {
        self.1.around("next", self.0.get_mut().unwrap().next()).await
    }
    async fn signal(&self, _: Signal) -> Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
struct Code(Arc<ci_core::memory::Forge>, Arc<Faults>);

#[async_trait]
impl Source for Code {
    async fn resolve(
        &self,
        scope: ci_core::access::Scope<'_>,
        helpers: &Sandboxes,
        name: &RevisionName,
    ) -> Result<Revision> {
        self.0.resolve(scope, helpers, name).await
    }
    async fn checkout(&self, claim: &Claim, helpers: &Sandboxes, into: &Sandbox) -> Result<()> {
        self.1.around("checkout", self.0.checkout(claim, helpers, into)).await
    }
    async fn read(
        &self,
        scope: ci_core::access::Scope<'_>,
        helpers: &Sandboxes,
        commit: &CommitId,
        path: &SourcePath,
        limit: ByteSize,
    ) -> Result<Bytes> {
        self.0.read(scope, helpers, commit, path, limit).await
    }
}

#[async_trait]
impl Checks for Code {
    async fn report(&self, claim: &Claim, state: CheckState, description: &str) -> Result<()> {
        self.1.around("report", self.0.report(claim, state, description)).await
    }
}

const SECRET: &str = "hunter2-hunter3";

struct Told {
    hit: Option<&'static str>,
    complaints: Vec<String>,
    calls: usize,
}

/// How a run ends: by its faults, or dropped at a poll.
async fn one(mode: Mode, at: Option<usize>, drop_at: Option<usize>) -> Result<Told> {
    let rig = Rig::new()?;
    let faults = Faults::new(mode);
    let database = Arc::new(Database::new(rig.clock.clone()));
    let faulty = Arc::new(Db(database.clone(), faults.clone()));
    let ring: Arc<dyn KeyRing> = Arc::new(Keys(rig.ring.clone(), faults.clone()));
    let rig = rig.with_database(faulty.clone())?.with_ring(ring);
    let sandboxes = Sandboxes::new(Arc::new(Machine(rig.backend.clone(), faults.clone())));
    let secrets = Arc::new(Secrets::new(rig.audit.clone(), rig.clock.clone()));
    let logs = Arc::new(Logs::new(faulty.clone(), rig.clock.clone()));
    let artifacts = Arc::new(Artifacts::new(faulty.clone()));
    let seen = Arc::new(Recorder::new());
    let code = Arc::new(Code(rig.forge.clone(), faults.clone()));
    let runner = Runner::new(Parts {
        secrets: secrets.clone(),
        sandboxes,
        source: code.clone(),
        logs: logs.clone(),
        artifacts: artifacts.clone(),
        caches: Arc::new(Caches::new(faulty.clone())),
        checks: Some(code),
        audit: rig.audit.clone(),
        observer: seen.clone(),
        clock: rig.clock.clone(),
    });
    let token = SecretName::parse("TOKEN")?;
    let grant = writer(&rig, &ours()).await?;
    secrets.put(&grant, &token, SecretValue::new(SECRET)).await?;
    rig.backend.on("sh", |call| {
        let report = SandboxPath::work().join("report").unwrap();
        call.files().write(&report, "fine").unwrap();
        call.files().write(&SandboxPath::work().join("cache").unwrap(), "warm").unwrap();
        let token = call.variable("TOKEN").unwrap_or_default().to_vec();
        Reply::exit(0).stdout([b"with ", &token[..], b"\n"].concat())
    });
    let step = |name: &str| {
        Ok::<_, Error>(Step::script(StepName::parse(name)?, Script::literal("x")).with_secret(token.clone()))
    };
    let report = ArtifactName::parse("report")?;
    let spec = JobSpec::new(Rig::spec().image)
        .with_step(step("one")?)
        .with_step(step("two")?)
        .with_secret(token.clone())
        .with_cache(CacheKey::parse("c")?, SandboxPath::work().join("cache")?)
        .with_artifact(report.clone(), SandboxPath::work().join("report")?);
    let commit = CommitId::parse("0123456789abcdef0123456789abcdef01234567")?;
    rig.forge.add_commit(
        &ours(),
        Revision::new(commit, Origin::Repository),
        [("main.rs", "fn main() {}")],
    )?;
    let head = RevisionName::parse("HEAD")?;
    let code = ci_core::forge::resolve(rig.forge.as_ref(), grant.scope()?, &rig.sandboxes, &head).await?;
    let job = rig.dispatcher.enqueue(&NewJob::requested(&grant, code, spec)?).await?;
    // From here on.
    faults.calls.store(0, Ordering::Release);
    faults.at.store(at.unwrap_or(usize::MAX), Ordering::Release);

    let mut complaints = Vec::new();
    let mut polls = 0;
    let mut dropped = false;
    let mut recorded = None;
    for _ in 0..8 {
        let step = async {
            let Some(claim) = rig.dispatcher.next(&[]).await? else { return Ok(None) };
            runner.run(claim, std::future::pending()).await.map(Some)
        };
        let mut step = Box::pin(step);
        let mut ended = None;
        for _ in 0..6_000 {
            if let Some(done) = futures_util::FutureExt::now_or_never(std::future::poll_fn(|cx| {
                std::task::Poll::Ready(step.as_mut().poll(cx))
            })) && let std::task::Poll::Ready(done) = done
            {
                ended = Some(done);
                break;
            }
            polls += 1;
            if !dropped && drop_at == Some(polls) {
                dropped = true;
                break;
            }
            tokio::task::yield_now().await;
            rig.clock.advance(Duration::from_secs(1));
        }
        drop(step);
        if !rig.backend.living().is_empty() && !matches!(mode, Mode::Internal) {
            complaints.push(format!("a sandbox is left after {ended:?}"));
        }
        let reader = writer(&rig, &ours()).await?.lower::<Read>();
        let row = database.row(&job).await?;
        let is_ended = matches!(row, Some(row) if matches!(row.stage, ci_core::queue::Stage::Ended(_)));
        match &ended {
            Some(Ok(Some(outcome))) => {
                if !is_ended {
                    complaints.push(format!("told {:?}, and it is not recorded", outcome.conclusion));
                }
                if recorded.is_some() {
                    complaints.push("a second outcome".to_owned());
                }
                recorded = Some(outcome.clone());
            }
            // That a sandbox did not come down is told beside the outcome.
            Some(Err(_)) if is_ended && *faults.hit.lock().unwrap() == Some("destroy") => {}
            // Documented: what cannot be opened, and never will be, is refused.
            Some(Err(_)) if is_ended && mode == Mode::Permanent => {}
            Some(Err(error)) if is_ended && recorded.is_none() => {
                let state = rig.dispatcher.state(&reader, &job).await;
                let conclusion = match &state {
                    Ok(State::Finished(outcome)) => format!("{:?} {:?}", outcome.conclusion, outcome.reason),
                    other => format!("{other:?}"),
                };
                complaints.push(format!("told {error:?}, and it is recorded as {conclusion}"));
            }
            // Nothing bounds `Dispatcher::next` itself.
            None if matches!(*faults.hit.lock().unwrap(), Some("lease" | "data_key")) => {}
            None if drop_at.is_none() => complaints.push("it hangs".to_owned()),
            _ => {}
        }
        for text in [format!("{ended:?}"), format!("{:?}", seen.events(&job))] {
            if text.contains(SECRET) {
                complaints.push(format!("the secret is in {text}"));
            }
        }
        if is_ended {
            break;
        }
        rig.clock.advance(Duration::from_secs(31));
    }
    faults.at.store(usize::MAX, Ordering::Release);
    let reader = writer(&rig, &ours()).await?.lower::<Read>();
    match rig.dispatcher.state(&reader, &job).await {
        Ok(State::Finished(outcome)) => {
            let passes = matches!(mode, Mode::Later | Mode::Lost | Mode::Internal);
            if passes && outcome.conclusion != Conclusion::Succeeded {
                complaints.push(format!(
                    "one fault that passes made it {:?} {:?}",
                    outcome.conclusion, outcome.reason
                ));
            }
            if outcome.conclusion == Conclusion::Succeeded {
                let content = artifacts.get(&reader, &job, &report).await;
                match content {
                    Ok(content) => {
                        let content = stream::collect(content, ByteSize::mib(1)).await?;
                        if ci_core::id::Digest::of(&content) != outcome.artifacts[0].digest {
                            complaints.push("another artifact than the outcome's".to_owned());
                        }
                    }
                    Err(error) => complaints.push(format!("no artifact: {error:?}")),
                }
                let page = logs.read(&reader, &job, Cursor(0), 1 << 20).await?;
                let log = String::from_utf8_lossy(&page.bytes).into_owned();
                if !log.ends_with("with ***\nwith ***\n") || log.contains(SECRET) || !page.end {
                    complaints.push(format!("the log is {log:?}, at its end: {}", page.end));
                }
                let reports: Vec<_> = rig.forge.reports().into_iter().map(|report| report.state).collect();
                if reports.last() != Some(&CheckState::Succeeded)
                    && faults.hit.lock().unwrap().is_none_or(|hit| hit != "report")
                {
                    complaints.push(format!("the forge heard {reports:?}"));
                }
            } else if mode == Mode::Permanent || mode == Mode::Hang {
                // It may end so.
            }
        }
        other => complaints.push(format!("it never ended: {other:?}")),
    }
    if rig.audit.verify(ours().tenant()).await.is_err() {
        complaints.push("the audit log is broken".to_owned());
    }
    let hit = *faults.hit.lock().unwrap();
    Ok(Told { hit, complaints, calls: faults.calls.load(Ordering::Acquire) })
}

async fn every_call(mode: Mode) {
    let clean = one(mode, None, None).await.expect("ran");
    assert!(clean.complaints.is_empty(), "{:?}", clean.complaints);
    let mut all = Vec::new();
    for at in 0..clean.calls {
        let told = one(mode, Some(at), None).await.expect("ran");
        for complaint in told.complaints {
            all.push(format!("call {at}, {:?}: {complaint}", told.hit));
        }
    }
    assert!(all.is_empty(), "{} calls, {mode:?}:\n{}", clean.calls, all.join("\n"));
}

#[tokio::test]
async fn every_call_fails_once_later() {
    every_call(Mode::Later).await;
}

#[tokio::test]
async fn every_call_fails_once_permanent() {
    every_call(Mode::Permanent).await;
}

#[tokio::test]
async fn every_call_fails_once_internal() {
    every_call(Mode::Internal).await;
}

#[tokio::test]
async fn every_call_fails_once_lost() {
    every_call(Mode::Lost).await;
}

#[tokio::test]
async fn every_call_fails_once_hang() {
    every_call(Mode::Hang).await;
}

#[tokio::test]
async fn dropped_at_every_poll() {
    let mut all = Vec::new();
    for at in 1..60 {
        let told = one(Mode::Later, None, Some(at)).await.expect("ran");
        all.extend(told.complaints.into_iter().map(|complaint| format!("poll {at}: {complaint}")));
    }
    assert!(all.is_empty(), "{}", all.join("\n"));
}
