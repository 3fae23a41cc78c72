//! What a fresh look found.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use ci_core::access::Read;
use ci_core::id::{JobId, Label, RepositoryId, SecretName, StepName};
use ci_core::job::{JobSpec, Script, Step};
use ci_core::log::{Cursor, LogStore as _};
use ci_core::memory::{Database, Logs, Reply, Rig};
use ci_core::queue::{End, Extended, Leased, NewRow, Queue, Released, Row};
use ci_core::records::{Batch, Fence};
use ci_core::secret::{SecretStore as _, SecretValue};
use ci_core::trust::Origin;
use ci_core::{Error, ErrorKind, Result};

use crate::runner::{Service, never};
use crate::{ours, writer};

/// `Queue::lease`: "with a larger token than any lease of that job before".
#[tokio::test]
async fn a_lease_that_was_given_back_has_another_token_than_the_next() -> Result<()> {
    for why in [Released::ShuttingDown, Released::NotBegun] {
        let rig = Rig::new()?;
        rig.enqueue(&ours(), Origin::Repository, Rig::spec()).await?;
        let ttl = Duration::from_secs(30);
        let first = rig.database.lease(&[], ttl).await?.expect("the job").fence;
        rig.database.release(&first, why, Duration::ZERO).await?;
        let second = rig.database.lease(&[], ttl).await?.expect("the job").fence;
        let stale = rig.database.extend(&first, ttl).await;
        assert!(second.token > first.token && stale.is_err(), "{why:?}: {first:?}, {second:?}, {stale:?}");
    }
    Ok(())
}

/// A queue that commits how a job ended, and whose answer is lost only after a heartbeat has been answered: a
/// connection that hangs does so for longer than a heartbeat takes.
#[derive(Debug)]
struct Slow {
    inner: Arc<Database>,
    lost: AtomicBool,
    refused: AtomicUsize,
}

#[async_trait]
impl Queue for Slow {
    async fn push(&self, row: NewRow) -> Result<()> {
        self.inner.push(row).await
    }
    async fn lease(&self, labels: &[Label], ttl: Duration) -> Result<Option<Leased>> {
        self.inner.lease(labels, ttl).await
    }
    async fn extend(&self, fence: &Fence, ttl: Duration) -> Result<Extended> {
        let done = self.inner.extend(fence, ttl).await;
        self.refused.fetch_add(usize::from(done.is_err()), Ordering::AcqRel);
        done
    }
    async fn release(&self, fence: &Fence, why: Released, pause: Duration) -> Result<()> {
        self.inner.release(fence, why, pause).await
    }
    async fn finish(&self, fence: &Fence, end: &End, with: Batch) -> Result<()> {
        let done = self.inner.finish(fence, end, with).await;
        if !self.lost.swap(true, Ordering::AcqRel) {
            while self.refused.load(Ordering::Acquire) == 0 {
                tokio::task::yield_now().await;
            }
            return Err(Error::new(ErrorKind::Unavailable, "hear the answer"));
        }
        done
    }
    async fn cancel(&self, job: &JobId) -> Result<()> {
        self.inner.cancel(job).await
    }
    async fn row(&self, job: &JobId) -> Result<Option<Row>> {
        self.inner.row(job).await
    }
    async fn jobs(
        &self,
        repository: &RepositoryId,
        before: Option<&JobId>,
        limit: usize,
    ) -> Result<Vec<JobId>> {
        self.inner.jobs(repository, before, limit).await
    }
}

#[tokio::test]
async fn a_recorded_outcome_is_the_runners_although_a_heartbeat_came_before_the_lost_answer() -> Result<()> {
    let rig = Rig::new()?;
    let database = Arc::new(Database::new(rig.clock.clone()));
    let rig = rig.with_database(database.clone())?;
    let slow = Arc::new(Slow { inner: database, lost: false.into(), refused: 0.into() });
    let service = Service::with_parts(rig, |_| {});
    service.rig.backend.on("sh", |_| Reply::exit(0));
    let dispatcher = service.rig.dispatcher_of(slow);
    let claim = service.rig.claim_by(&dispatcher, &ours(), Origin::Repository, Rig::spec()).await?;
    let job = claim.job().clone();
    let run = service.runner.run(claim, never());
    let time = async {
        loop {
            tokio::task::yield_now().await;
            service.rig.clock.advance(Duration::from_millis(500));
        }
    };
    let ended = tokio::select! { ended = run => ended, () = time => unreachable!() };
    let reader = writer(&service.rig, &ours()).await?.lower::<Read>();
    let state = service.rig.dispatcher.state(&reader, &job).await?;
    let reported: Vec<_> = service.rig.forge.reports().into_iter().map(|report| report.state).collect();
    assert!(ended.is_ok(), "the job is {state:?}, the worker heard {ended:?}, and the forge {reported:?}");
    Ok(())
}

/// What one stream held back and what the other did stand side by side in the log.
#[tokio::test]
async fn a_secret_split_over_two_streams_is_hidden() -> Result<()> {
    let service = Service::with_parts(Rig::new()?, |_| {});
    let token = SecretName::parse("TOKEN")?;
    let secret = "hunter2-and-more-h";
    let grant = writer(&service.rig, &ours()).await?;
    service.secrets.put(&grant, &token, SecretValue::new(secret)).await?;
    service.rig.backend.on("sh", |_| Reply::exit(0).stdout("hunter2-and-more-").stderr("h"));
    let step = Step::script(StepName::parse("one")?, Script::literal("x")).with_secret(token.clone());
    let spec = JobSpec::new(Rig::spec().image).with_step(step).with_secret(token);
    let claim = service.claim(spec).await?;
    let job = claim.job().clone();
    service.runner.run(claim, never()).await?;
    let logs = Logs::new(service.rig.database.clone(), service.rig.clock.clone());
    let page = logs.read(&grant.lower(), &job, Cursor(0), 1 << 20).await?;
    let log = String::from_utf8_lossy(&page.bytes).into_owned();
    assert!(!log.contains(secret), "{log:?}");
    Ok(())
}

/// A queue whose heartbeats are never answered: the connection hangs.
#[derive(Debug)]
struct Hung(Arc<Database>);

#[async_trait]
impl Queue for Hung {
    async fn push(&self, row: NewRow) -> Result<()> {
        self.0.push(row).await
    }
    async fn lease(&self, labels: &[Label], ttl: Duration) -> Result<Option<Leased>> {
        self.0.lease(labels, ttl).await
    }
    async fn extend(&self, _: &Fence, _: Duration) -> Result<Extended> {
        std::future::pending().await
    }
    async fn release(&self, fence: &Fence, why: Released, pause: Duration) -> Result<()> {
        self.0.release(fence, why, pause).await
    }
    async fn finish(&self, fence: &Fence, end: &End, with: Batch) -> Result<()> {
        self.0.finish(fence, end, with).await
    }
    async fn cancel(&self, job: &JobId) -> Result<()> {
        self.0.cancel(job).await
    }
    async fn row(&self, job: &JobId) -> Result<Option<Row>> {
        self.0.row(job).await
    }
    async fn jobs(
        &self,
        repository: &RepositoryId,
        before: Option<&JobId>,
        limit: usize,
    ) -> Result<Vec<JobId>> {
        self.0.jobs(repository, before, limit).await
    }
}

/// `Claim::keep`: "It gives up while a quarter of the lease is left, so that the sandbox is gone before another worker
/// can be given the job."
#[tokio::test]
async fn a_heartbeat_that_is_never_answered_does_not_keep_the_sandbox_past_the_lease() -> Result<()> {
    let rig = Rig::new()?;
    let database = Arc::new(Database::new(rig.clock.clone()));
    let rig = rig.with_database(database.clone())?;
    let service = Service::with_parts(rig, |_| {});
    service.rig.backend.on("sh", |_| Reply::hang());
    let dispatcher = service.rig.dispatcher_of(Arc::new(Hung(database)));
    let claim = service.rig.claim_by(&dispatcher, &ours(), Origin::Repository, Rig::spec()).await?;
    let job = claim.job().clone();
    let mut run = std::pin::pin!(service.runner.run(claim, never()));
    for _ in 0..60 {
        if futures_util::poll!(&mut run).is_ready() {
            return Ok(());
        }
        service.rig.clock.advance(Duration::from_secs(1));
    }
    let again = service.rig.dispatcher.next(&[]).await?;
    let both = again.is_some_and(|claim| *claim.job() == job);
    assert!(
        !both || service.rig.backend.living().is_empty(),
        "another worker has the job, and its first sandbox still runs: {:?}",
        service.rig.backend.living()
    );
    Ok(())
}

/// A forge of one tenant that does not answer: self-hosted, or hostile.
#[derive(Debug)]
struct OneIsDown(Arc<ci_core::memory::Permissions>);

#[async_trait]
impl ci_core::access::PermissionSource for OneIsDown {
    async fn permission(
        &self,
        who: &ci_core::access::Session,
        repository: &RepositoryId,
    ) -> Result<ci_core::access::Verdict> {
        if *repository == ours() {
            return Err(Error::new(ErrorKind::Unavailable, "ask the forge of acme"));
        }
        self.0.permission(who, repository).await
    }
}

/// The row that is given back is the oldest one again, and the next question meets it again.
#[tokio::test]
async fn a_forge_that_is_down_holds_up_no_job_of_another_tenant() -> Result<()> {
    let rig = Rig::new()?;
    rig.enqueue(&ours(), Origin::Repository, Rig::spec()).await?;
    let theirs = rig.enqueue(&crate::theirs(), Origin::Repository, Rig::spec()).await?;
    let authority =
        ci_core::access::Authority::new(Arc::new(OneIsDown(rig.permissions.clone())), rig.clock.clone());
    let dispatcher =
        ci_core::queue::Dispatcher::new(rig.database.clone(), rig.ring.clone(), authority, rig.clock.clone());
    let mut told = Vec::new();
    for _ in 0..1_000 {
        match dispatcher.next(&[]).await {
            Ok(Some(claim)) if *claim.job() == theirs => return Ok(()),
            other => told.push(other.map(|claim| claim.map(|claim| claim.job().clone()))),
        }
        rig.clock.advance(Duration::from_secs(60));
    }
    panic!("in {} hours the other tenant's job was not handed out: {:?}", told.len() / 60, told.last());
}

/// A server for code that is away for some seconds.
#[derive(Debug)]
struct Away(Arc<ci_core::memory::Forge>, Arc<ci_core::clock::ManualClock>, Duration);

#[async_trait]
impl ci_core::forge::Source for Away {
    async fn resolve(
        &self,
        scope: ci_core::access::Scope<'_>,
        helpers: &ci_core::sandbox::Sandboxes,
        name: &ci_core::forge::RevisionName,
    ) -> Result<ci_core::forge::Revision> {
        self.0.resolve(scope, helpers, name).await
    }
    async fn checkout(
        &self,
        claim: &ci_core::queue::Claim,
        helpers: &ci_core::sandbox::Sandboxes,
        into: &ci_core::sandbox::Sandbox,
    ) -> Result<()> {
        if ci_core::clock::Clock::elapsed(self.1.as_ref()) < self.2 {
            return Err(Error::new(ErrorKind::Unavailable, "reach the server for code"));
        }
        self.0.checkout(claim, helpers, into).await
    }
    async fn read(
        &self,
        scope: ci_core::access::Scope<'_>,
        helpers: &ci_core::sandbox::Sandboxes,
        commit: &ci_core::id::CommitId,
        path: &ci_core::forge::SourcePath,
        limit: ci_core::ByteSize,
    ) -> Result<bytes::Bytes> {
        self.0.read(scope, helpers, commit, path, limit).await
    }
}

/// Three workers, each of which pauses for ten seconds after an error: the attempts are over before the outage is.
#[tokio::test]
async fn a_server_that_is_away_for_some_seconds_ends_no_job() -> Result<()> {
    let rig = Rig::new()?;
    let source = Arc::new(Away(rig.forge.clone(), rig.clock.clone(), Duration::from_secs(8)));
    let service = Service::with_parts(rig, |parts| parts.source = source);
    service.rig.backend.on("sh", |_| Reply::exit(0));
    let first = service.claim(Rig::spec()).await?;
    let job = first.job().clone();
    let mut claims = vec![first];
    let mut told = Vec::new();
    for _ in 0..20 {
        for _worker in 0..3 {
            let claim = match claims.pop() {
                Some(claim) => Some(claim),
                None => service.rig.dispatcher.next(&[]).await?,
            };
            if let Some(claim) = claim {
                told.push(service.runner.run(claim, never()).await.map(|outcome| outcome.conclusion));
            }
        }
        service.rig.clock.advance(Duration::from_secs(10));
    }
    let reader = writer(&service.rig, &ours()).await?.lower::<Read>();
    let state = service.rig.dispatcher.state(&reader, &job).await?;
    assert!(
        matches!(&state, ci_core::queue::State::Finished(outcome) if outcome.conclusion == ci_core::outcome::Conclusion::Succeeded),
        "{state:?}, after {told:?}"
    );
    Ok(())
}

/// The forge shows a job as running for ever that nobody will run any more.
#[tokio::test]
async fn a_forge_hears_of_every_end() -> Result<()> {
    let rig = Rig::new()?;
    let source = Arc::new(Away(rig.forge.clone(), rig.clock.clone(), Duration::from_hours(1)));
    let service = Service::with_parts(rig, |parts| parts.source = source);
    let mut claim = Some(service.claim(Rig::spec()).await?);
    let job = claim.as_ref().expect("claimed").job().clone();
    while let Some(now) = claim.take() {
        let _ = service.runner.run(now, never()).await;
        service.rig.clock.advance(Duration::from_mins(3));
        claim = service.rig.dispatcher.next(&[]).await?;
    }
    let reader = writer(&service.rig, &ours()).await?.lower::<Read>();
    let state = service.rig.dispatcher.state(&reader, &job).await?;
    assert!(matches!(state, ci_core::queue::State::Finished(_)));
    let reported: Vec<_> = service.rig.forge.reports().into_iter().map(|report| report.state).collect();
    assert_ne!(
        reported.last(),
        Some(&ci_core::forge::CheckState::Running),
        "{reported:?}, and the job is {state:?}"
    );
    Ok(())
}
