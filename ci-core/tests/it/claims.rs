//! Claims: how long a worker may act.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use ci_core::memory::{Database, Rig};
use ci_core::queue::Released;
use ci_core::trust::Origin;
use ci_core::{ErrorKind, Result};
use futures_util::poll;

use crate::hooked::Hooked;
use crate::hostile::Deaf;
use crate::{ours, refused, writer};

const TTL: Duration = Duration::from_secs(30);
const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_claim_ends_before_the_job_is_given_to_another() -> Result<()> {
    let rig = Rig::new()?;
    let claim = rig.claim(&ours(), Origin::Repository, Rig::spec()).await?;
    rig.clock.advance(29 * SECOND);
    assert!(claim.fence().is_ok());
    assert!(rig.dispatcher.next(&[]).await?.is_none());
    rig.clock.advance(SECOND);
    assert_eq!(refused(claim.fence()), ErrorKind::Fenced);
    assert_eq!(refused(claim.scope()), ErrorKind::Fenced);
    assert_eq!(refused(claim.trusted()), ErrorKind::Fenced);
    let other = rig.dispatcher.next(&[]).await?.expect("the job waits again");
    assert_eq!((other.job(), other.attempt()), (claim.job(), 2));
    Ok(())
}

#[tokio::test]
async fn a_claim_ends_when_the_machine_was_suspended() -> Result<()> {
    let rig = Rig::new()?;
    let claim = rig.claim(&ours(), Origin::Repository, Rig::spec()).await?;
    let clock: &dyn ci_core::clock::Clock = rig.clock.as_ref();
    rig.clock.jump_to(clock.now().after(TTL));
    assert_eq!(refused(claim.fence()), ErrorKind::Fenced);
    Ok(())
}

#[tokio::test]
async fn heartbeats_keep_a_claim() -> Result<()> {
    let rig = Rig::new()?;
    let claim = rig.claim(&ours(), Origin::Repository, Rig::spec()).await?;
    let mut keep = pin!(claim.keep());
    for _ in 0..100 {
        assert!(poll!(&mut keep).is_pending());
        rig.clock.advance(TTL / 3);
    }
    assert!(poll!(&mut keep).is_pending());
    assert!(claim.fence().is_ok());
    assert!(rig.dispatcher.next(&[]).await?.is_none());
    Ok(())
}

#[tokio::test]
async fn a_worker_gives_up_while_nobody_else_can_have_the_job() -> Result<()> {
    let rig = Rig::new()?;
    let database = Arc::new(Database::new(rig.clock.clone()));
    let deaf = rig.dispatcher_of(Arc::new(Hooked::new(database.clone(), Deaf)));
    let others = rig.dispatcher_of(database);
    let claim = rig.claim_by(&deaf, &ours(), Origin::Repository, Rig::spec()).await?;
    let mut keep = pin!(claim.keep());
    let mut waited = Duration::ZERO;
    let error = loop {
        if let std::task::Poll::Ready(error) = poll!(&mut keep) {
            break error;
        }
        rig.clock.advance(SECOND / 2);
        waited += SECOND / 2;
    };
    assert_eq!(error.kind(), ErrorKind::Fenced);
    assert_eq!(waited, TTL * 3 / 4, "a quarter of the lease is left for taking the sandbox down");
    assert_eq!(refused(claim.fence()), ErrorKind::Fenced);
    rig.clock.advance(7 * SECOND);
    assert!(others.next(&[]).await?.is_none());
    rig.clock.advance(SECOND / 2);
    assert!(others.next(&[]).await?.is_some());
    Ok(())
}

#[tokio::test]
async fn a_running_job_hears_that_it_should_stop() -> Result<()> {
    let rig = Rig::new()?;
    let claim = rig.claim(&ours(), Origin::Repository, Rig::spec()).await?;
    let (mut keep, mut stopped) = (pin!(claim.keep()), pin!(claim.stopped()));
    assert!(poll!(&mut keep).is_pending());
    rig.dispatcher.cancel(&writer(&rig, &ours()).await?, claim.job()).await?;
    assert!(poll!(&mut stopped).is_pending());
    rig.clock.advance(TTL / 3);
    assert!(poll!(&mut keep).is_pending(), "it still has to say how it ended");
    assert_eq!(stopped.await.kind(), ErrorKind::Cancelled);
    rig.clock.advance(TTL * 2 / 3);
    assert!(poll!(&mut keep).is_pending());
    assert!(claim.fence().is_ok(), "heartbeats go on");
    Ok(())
}

#[tokio::test]
async fn a_lost_lease_ends_the_claim_at_the_next_heartbeat() -> Result<()> {
    let rig = Rig::new()?;
    let claim = rig.claim(&ours(), Origin::Repository, Rig::spec()).await?;
    let mut keep = pin!(claim.keep());
    assert!(poll!(&mut keep).is_pending());
    rig.database.release(claim.fence()?, Released::InfrastructureFailed, Duration::ZERO).await?;
    rig.clock.advance(TTL / 3);
    assert_eq!(keep.await.kind(), ErrorKind::Fenced);
    assert_eq!(refused(claim.fence()), ErrorKind::Fenced);
    Ok(())
}

#[tokio::test]
async fn a_released_job_is_given_to_the_next_worker() -> Result<()> {
    let rig = Rig::new()?;
    let claim = rig.claim(&ours(), Origin::Repository, Rig::spec()).await?;
    let job = claim.job().clone();
    claim.release(Released::ShuttingDown).await?;
    assert_eq!(rig.dispatcher.next(&[]).await?.expect("the job").job(), &job);
    Ok(())
}
