//! What is away for a while: it ends no job, and holds up no other.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use ci_core::access::{Authority, Grant, PermissionSource, Read, Session, Verdict, Write};
use ci_core::artifact::{Artifact, ArtifactStore};
use ci_core::clock::{Clock as _, ManualClock};
use ci_core::forge::CheckState;
use ci_core::id::{ArtifactName, JobId, RepositoryId};
use ci_core::memory::{Artifacts, Permissions, Reply, Rig};
use ci_core::outcome::Conclusion;
use ci_core::queue::{Claim, Dispatcher, State};
use ci_core::sandbox::SandboxPath;
use ci_core::trust::Origin;
use ci_core::{ByteStream, Error, ErrorKind, Result};

use crate::hanging::soon;
use crate::hooked::{Call, Hook, Hooked};
use crate::runner::{Service, never};
use crate::{ours, refused, theirs, writer};

/// A forge that is away for three questions ends every job that waits.
#[tokio::test]
async fn a_short_outage_of_the_forge_ends_no_job() -> Result<()> {
    let rig = Rig::new()?;
    let job = rig.enqueue(&ours(), Origin::Repository, Rig::spec()).await?;
    rig.permissions.go_down();
    for _ in 0..3 {
        assert_eq!(refused(rig.dispatcher.next(&[]).await), ErrorKind::Unavailable);
        rig.clock.advance(Duration::from_secs(10));
    }
    rig.permissions.come_back();
    let claim = rig.dispatcher.next(&[]).await?;
    let reader = writer(&rig, &ours()).await?.lower::<Read>();
    assert!(claim.is_some(), "{:?}", rig.dispatcher.state(&reader, &job).await?);
    Ok(())
}

/// A forge of one tenant that does not answer: self-hosted, or hostile.
#[derive(Debug)]
struct OneIsDown(Arc<Permissions>);

#[async_trait]
impl PermissionSource for OneIsDown {
    async fn permission(&self, who: &Session, repository: &RepositoryId) -> Result<Verdict> {
        if *repository == ours() {
            return Err(Error::new(ErrorKind::Unavailable, "ask the forge of acme"));
        }
        self.0.permission(who, repository).await
    }
}

/// The row that is given back is the oldest one again, and the next question would meet it again.
#[tokio::test]
async fn a_forge_that_is_down_holds_up_no_job_of_another_tenant() -> Result<()> {
    let rig = Rig::new()?;
    rig.enqueue(&ours(), Origin::Repository, Rig::spec()).await?;
    let free = rig.enqueue(&theirs(), Origin::Repository, Rig::spec()).await?;
    let authority = Authority::new(Arc::new(OneIsDown(rig.permissions.clone())), rig.clock.clone());
    let dispatcher = Dispatcher::new(rig.database.clone(), rig.ring.clone(), authority, rig.clock.clone());
    let claim = dispatcher.next(&[]).await?.expect("the job of the other tenant");
    assert_eq!(*claim.job(), free);
    Ok(())
}

/// The server for code is away until then.
#[derive(Debug)]
struct Away {
    clock: Arc<ManualClock>,
    until: Duration,
}

impl Hook for Away {
    async fn around<T: Send>(&self, call: Call, done: impl Future<Output = Result<T>> + Send) -> Result<T> {
        if call == Call::Checkout && self.clock.elapsed() < self.until {
            return Err(Error::new(ErrorKind::Unavailable, "reach the server for code"));
        }
        done.await
    }
}

/// A service whose server for code is away for the first `duration`.
fn away_for(duration: Duration) -> Result<Service> {
    let rig = Rig::new()?;
    let away = Away { clock: rig.clock.clone(), until: rig.clock.elapsed() + duration };
    let source = Arc::new(Hooked::new(rig.forge.clone(), away));
    let service = Service::with_parts(rig, |parts| parts.source = source);
    service.rig.backend.on("sh", |_| Reply::exit(0));
    Ok(service)
}

async fn state(service: &Service, job: &JobId) -> Result<State> {
    let reader = writer(&service.rig, &ours()).await?.lower::<Read>();
    service.rig.dispatcher.state(&reader, job).await
}

/// Three workers, each of which pauses for ten seconds after an error: without a pause of its own, the job
/// would use up its attempts before the outage is over.
#[tokio::test]
async fn a_server_that_is_away_for_some_seconds_ends_no_job() -> Result<()> {
    let service = away_for(Duration::from_secs(8))?;
    let mut claim = Some(service.claim(Rig::spec()).await?);
    let job = claim.as_ref().expect("claimed").job().clone();
    let mut told = Vec::new();
    for _ in 0..20 {
        for _worker in 0..3 {
            let next = match claim.take() {
                Some(claim) => Some(claim),
                None => service.rig.dispatcher.next(&[]).await?,
            };
            if let Some(next) = next {
                told.push(service.runner.run(next, never()).await.map(|outcome| outcome.conclusion));
            }
        }
        service.rig.clock.advance(Duration::from_secs(10));
    }
    let state = state(&service, &job).await?;
    let succeeded = matches!(&state, State::Finished(outcome) if outcome.conclusion == Conclusion::Succeeded);
    assert!(succeeded, "{state:?}, after {told:?}");
    Ok(())
}

/// Otherwise it shows a job as running for ever that nobody will run any more.
#[tokio::test]
async fn a_forge_hears_of_every_end() -> Result<()> {
    let service = away_for(Duration::from_hours(1))?;
    let mut claim = Some(service.claim(Rig::spec()).await?);
    let job = claim.as_ref().expect("claimed").job().clone();
    while let Some(now) = claim.take() {
        let _ = service.runner.run(now, never()).await;
        service.rig.clock.advance(Duration::from_mins(3));
        claim = service.rig.dispatcher.next(&[]).await?;
    }
    let state = state(&service, &job).await?;
    assert!(matches!(state, State::Finished(_)), "{state:?}");
    let reported: Vec<_> = service.rig.forge.reports().into_iter().map(|report| report.state).collect();
    assert_eq!(reported.last(), Some(&CheckState::Errored), "{reported:?}, and the job is {state:?}");
    Ok(())
}

/// A store for artifacts that is away for the first calls.
#[derive(Debug)]
struct Shelf {
    inner: Artifacts,
    refusals: AtomicUsize,
}

#[async_trait]
impl ArtifactStore for Shelf {
    async fn put(&self, claim: &Claim, name: &ArtifactName, content: ByteStream<'_>) -> Result<Artifact> {
        let left =
            self.refusals.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1));
        if left.is_ok() {
            return Err(Error::new(ErrorKind::Unavailable, "reach the store"));
        }
        self.inner.put(claim, name, content).await
    }

    async fn list(&self, grant: &Grant<Read>, job: &JobId) -> Result<Vec<Artifact>> {
        self.inner.list(grant, job).await
    }

    async fn get(
        &self,
        grant: &Grant<Read>,
        job: &JobId,
        name: &ArtifactName,
    ) -> Result<ByteStream<'static>> {
        self.inner.get(grant, job, name).await
    }

    async fn delete(&self, grant: &Grant<Write>, job: &JobId, name: &ArtifactName) -> Result<()> {
        self.inner.delete(grant, job, name).await
    }
}

/// A deployment must not happen twice because its report could not be kept at once.
#[tokio::test]
async fn a_store_that_is_away_makes_no_step_run_again() -> Result<()> {
    let rig = Rig::new()?;
    let shelf = Shelf { inner: Artifacts::new(rig.records()), refusals: 3.into() };
    let service = Service::with_parts(rig, |parts| parts.artifacts = Arc::new(shelf));
    let report = SandboxPath::work().join("report")?;
    let (runs, written) = (Arc::new(AtomicUsize::new(0)), report.clone());
    let counted = runs.clone();
    service.rig.backend.on("sh", move |call| {
        counted.fetch_add(1, Ordering::AcqRel);
        call.files().write(&written, "fine").expect("written");
        Reply::exit(0)
    });
    let spec = Rig::spec().with_artifact(ArtifactName::parse("report")?, report);
    let claim = service.claim(spec).await?;
    let outcome = soon(&service.rig, service.runner.run(claim, never())).await?;
    assert_eq!((outcome.conclusion, outcome.artifacts.len()), (Conclusion::Succeeded, 1));
    assert_eq!(runs.load(Ordering::Acquire), 1, "the steps ran again");
    Ok(())
}
