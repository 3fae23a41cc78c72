//! What never answers, and how long a worker waits for it.

use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use ci_core::access::{Authority, Grant, PermissionSource, Read, Session, Verdict};
use ci_core::forge::{CheckState, Checks};
use ci_core::id::{JobId, RepositoryId};
use ci_core::log::{Appended, Cursor, LogStore, Page};
use ci_core::memory::{Database, Logs, Reply, Rig};
use ci_core::outcome::Conclusion;
use ci_core::queue::{Claim, Dispatcher, State};
use ci_core::sandbox::{Backend as _, Sandboxes};
use ci_core::secret::Masked;
use ci_core::trust::Origin;
use ci_core::{ErrorKind, Result};
use futures_util::poll;

use crate::hooked::{Call, Hook, Hooked};
use crate::runner::{Service, never};
use crate::{ours, refused, writer};

/// A forge that takes the call and never answers.
#[derive(Debug)]
struct Mute;

#[async_trait::async_trait]
impl Checks for Mute {
    async fn report(&self, _: &Claim, state: CheckState, _: &str) -> Result<()> {
        if state == CheckState::Running { Ok(()) } else { pending().await }
    }
}

#[tokio::test]
async fn a_forge_that_never_answers_does_not_hold_up_the_end() -> Result<()> {
    let service = Service::with_parts(Rig::new()?, |parts| parts.checks = Some(Arc::new(Mute)));
    service.rig.backend.on("sh", |_| Reply::exit(0));
    let claim = service.claim(Rig::spec()).await?;
    let outcome = soon(&service.rig, service.runner.run(claim, never())).await?;
    assert_eq!(outcome.conclusion, Conclusion::Succeeded);
    Ok(())
}

/// Waits for the end of a run, which must come within hours.
pub(crate) async fn soon<T>(rig: &Rig, run: impl Future<Output = T>) -> T {
    let mut run = pin!(run);
    for _ in 0..5_000 {
        if let Poll::Ready(ended) = poll!(&mut run) {
            return ended;
        }
        rig.clock.advance(Duration::from_secs(7));
        tokio::task::yield_now().await;
    }
    panic!("the job has run for {:?} and its lease is still kept", Duration::from_secs(35_000));
}

/// Where a log takes the call and never answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hangs {
    AtTheLastOutput,
    WhenItIsClosed,
}

#[derive(Debug)]
struct Hanging(Logs, Hangs);

#[async_trait::async_trait]
impl LogStore for Hanging {
    async fn append(&self, claim: &Claim, seq: u64, chunk: Masked) -> Result<Appended> {
        if self.1 == Hangs::AtTheLastOutput && !chunk.is_empty() {
            return pending().await;
        }
        self.0.append(claim, seq, chunk).await
    }

    async fn close(&self, claim: &Claim) -> Result<()> {
        if self.1 == Hangs::WhenItIsClosed {
            return pending().await;
        }
        self.0.close(claim).await
    }

    async fn read(&self, grant: &Grant<Read>, job: &JobId, from: Cursor, limit: usize) -> Result<Page> {
        self.0.read(grant, job, from, limit).await
    }

    async fn changed(&self, grant: &Grant<Read>, job: &JobId, from: Cursor) -> Result<()> {
        self.0.changed(grant, job, from).await
    }
}

#[tokio::test]
async fn a_log_that_never_answers_holds_no_worker() -> Result<()> {
    for hangs in [Hangs::AtTheLastOutput, Hangs::WhenItIsClosed] {
        let rig = Rig::new()?;
        let logs = Logs::new(rig.database.clone(), rig.clock.clone());
        let service = Service::with_parts(rig, |parts| parts.logs = Arc::new(Hanging(logs, hangs)));
        service.rig.backend.on("sh", |_| Reply::exit(0).stdout("hello"));
        let claim = service.claim(Rig::spec()).await?;
        let job = claim.job().clone();
        let ended = soon(&service.rig, service.runner.run(claim, never())).await;
        assert!(service.rig.backend.leftovers().await?.is_empty(), "{hangs:?}");
        let grant = writer(&service.rig, &ours()).await?.lower::<Read>();
        let state = service.rig.dispatcher.state(&grant, &job).await?;
        assert!(matches!(state, State::Finished(_)), "{hangs:?}: {ended:?}, {state:?}");
    }
    Ok(())
}

/// One call is never answered.
#[derive(Debug)]
struct Unanswered(Call);

impl Hook for Unanswered {
    async fn around<T: Send>(&self, call: Call, done: impl Future<Output = Result<T>> + Send) -> Result<T> {
        if call == self.0 { pending().await } else { done.await }
    }
}

#[tokio::test]
async fn a_sandbox_that_does_not_say_what_it_uses_holds_no_worker() -> Result<()> {
    let rig = Rig::new()?;
    let backend = Arc::new(Hooked::new(rig.backend.clone(), Unanswered(Call::Usage)));
    let service = Service::with_parts(rig, |parts| parts.sandboxes = Sandboxes::new(backend));
    service.rig.backend.on("sh", |_| Reply::exit(0));
    let outcome = soon(&service.rig, service.runner.run(service.claim(Rig::spec()).await?, never())).await?;
    assert_eq!((outcome.conclusion, outcome.usage), (Conclusion::Succeeded, None));
    Ok(())
}

#[tokio::test]
async fn a_sandbox_that_does_not_come_down_holds_no_worker() -> Result<()> {
    let rig = Rig::new()?;
    let backend = Arc::new(Hooked::new(rig.backend.clone(), Unanswered(Call::Destroy)));
    let service = Service::with_parts(rig, |parts| parts.sandboxes = Sandboxes::new(backend));
    service.rig.backend.on("sh", |_| Reply::exit(0));
    let claim = service.claim(Rig::spec()).await?;
    let job = claim.job().clone();
    let ended = soon(&service.rig, service.runner.run(claim, never())).await;
    assert_eq!(refused(ended), ErrorKind::Unavailable, "nobody may believe that it is gone");
    let grant = writer(&service.rig, &ours()).await?.lower::<Read>();
    assert!(matches!(service.rig.dispatcher.state(&grant, &job).await?, State::Finished(_)));
    assert!(service.rig.backend.leftovers().await?.is_empty(), "it was abandoned");
    Ok(())
}

#[tokio::test]
async fn a_heartbeat_that_is_never_answered_does_not_keep_the_sandbox_past_the_lease() -> Result<()> {
    let rig = Rig::new()?;
    let database = Arc::new(Database::new(rig.clock.clone()));
    let service = Service::with_parts(rig.with_database(database.clone())?, |_| {});
    service.rig.backend.on("sh", |_| Reply::hang());
    let mute = service.rig.dispatcher_of(Arc::new(Hooked::new(database, Unanswered(Call::Extend))));
    let claim = service.rig.claim_by(&mute, &ours(), Origin::Repository, Rig::spec()).await?;
    let mut run = pin!(service.runner.run(claim, never()));
    let mut waited = Duration::ZERO;
    let ended = loop {
        if let Poll::Ready(ended) = poll!(&mut run) {
            break ended;
        }
        let again = service.rig.dispatcher.next(&[]).await?;
        assert!(again.is_none(), "after {waited:?} another worker has the job while its first sandbox runs");
        service.rig.clock.advance(Duration::from_secs(1));
        waited += Duration::from_secs(1);
    };
    assert_eq!(refused(ended), ErrorKind::Fenced);
    assert_eq!(service.rig.backend.living(), []);
    Ok(())
}

/// Permissions that nobody answers for.
#[derive(Debug)]
struct Silent;

#[async_trait::async_trait]
impl PermissionSource for Silent {
    async fn permission(&self, _: &Session, _: &RepositoryId) -> Result<Verdict> {
        pending().await
    }
}

#[tokio::test]
async fn a_forge_that_never_answers_keeps_no_worker_from_work() -> Result<()> {
    let rig = Rig::new()?;
    let job = rig.enqueue(&ours(), Origin::Repository, Rig::spec()).await?;
    let authority = Authority::new(Arc::new(Silent), rig.clock.clone());
    let silent = Dispatcher::new(rig.database.clone(), rig.ring.clone(), authority, rig.clock.clone());
    assert_eq!(refused(soon(&rig, silent.next(&[])).await), ErrorKind::Unavailable);
    rig.clock.advance(Duration::from_secs(10));
    let claim = rig.dispatcher.next(&[]).await?.expect("it waits for those that can");
    assert_eq!((claim.job(), claim.attempt()), (&job, 1));
    Ok(())
}
