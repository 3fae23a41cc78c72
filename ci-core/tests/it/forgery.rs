//! Tickets: a row in the database is not believed.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use ci_core::access::{Level, Read};
use ci_core::memory::{Database, Rig};
use ci_core::outcome::Conclusion;
use ci_core::queue::{Leased, NewJob, Queue, Released, State, Ticket};
use ci_core::trust::{Origin, Trust};
use ci_core::{ErrorKind, Result};

use crate::hooked::Hooked;
use crate::hostile::Altered;
use crate::{ours, refused, theirs, writer};

/// Enqueues an untrusted and then a protected job, lets `alter` change the first row that is handed out, and
/// says how it was refused.
async fn altered(mut alter: impl FnMut(&mut Leased, &Ticket) + Send + 'static) -> Result<ErrorKind> {
    let rig = Rig::new()?;
    let database = Arc::new(Database::new(rig.clock.clone()));
    let protected_ticket = Arc::new(Mutex::new(None::<Ticket>));
    let seen = protected_ticket.clone();
    let mut first = true;
    let alter = Altered::by(move |leased| {
        if let Some(ticket) = &*seen.lock().expect("not poisoned")
            && std::mem::take(&mut first)
        {
            alter(leased, ticket);
        }
    });
    let dispatcher = rig.dispatcher_of(Arc::new(Hooked::new(database.clone(), alter)));
    let by = writer(&rig, &ours()).await?;
    let untrusted = NewJob::requested(&by, rig.code(&ours(), Origin::Fork).await?, Rig::spec())?;
    let untrusted = dispatcher.enqueue(&untrusted).await?;
    let protected = NewJob::requested(&by, rig.code(&ours(), Origin::Protected).await?, Rig::spec())?;
    let protected = dispatcher.enqueue(&protected).await?;

    // What somebody with access to the database can read, the ticket of the other job among it.
    let lease = Duration::from_secs(1);
    let (one, two) = (database.lease(&[], lease).await?, database.lease(&[], lease).await?);
    for leased in [one, two].into_iter().flatten() {
        database.release(&leased.fence, Released::ShuttingDown, Duration::ZERO).await?;
        if leased.fence.job == protected {
            *protected_ticket.lock().expect("not poisoned") = Some(leased.ticket);
        }
    }

    let kind = refused(dispatcher.next(&[]).await);
    let reader = by.lower::<Read>();
    match dispatcher.state(&reader, &untrusted).await? {
        State::Finished(outcome) => assert_eq!(outcome.conclusion, Conclusion::Refused),
        state => panic!("a forged job is {state:?}"),
    }
    let next = dispatcher.next(&[]).await?.expect("the next job is not held up");
    assert_eq!((next.job(), next.trust()), (&protected, Trust::Protected));
    Ok(kind)
}

#[tokio::test]
async fn a_ticket_that_was_made_up_is_refused() -> Result<()> {
    let kind =
        altered(|leased, _| leased.ticket = Ticket::from_stored("a job that may do everything")).await?;
    assert_eq!(kind, ErrorKind::Tampered);
    Ok(())
}

#[tokio::test]
async fn the_ticket_of_another_job_is_refused() -> Result<()> {
    let kind = altered(|leased, protected| leased.ticket = protected.clone()).await?;
    assert_eq!(kind, ErrorKind::Tampered);
    Ok(())
}

#[tokio::test]
async fn a_ticket_with_one_changed_bit_is_refused() -> Result<()> {
    let kind = altered(|leased, _| {
        let mut bytes = leased.ticket.as_bytes().to_vec();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        leased.ticket = Ticket::from_stored(bytes);
    });
    assert_eq!(kind.await?, ErrorKind::Tampered);
    Ok(())
}

#[tokio::test]
async fn a_row_that_was_moved_to_another_repository_is_refused() -> Result<()> {
    let kind = altered(|leased, _| leased.repository = theirs()).await?;
    assert_eq!(kind, ErrorKind::Tampered);
    Ok(())
}

#[tokio::test]
async fn who_lost_the_permission_does_not_run() -> Result<()> {
    let rig = Rig::new()?;
    let (ada, bob) = (Rig::user("ada")?, Rig::user("bob")?);
    let (by_ada, by_bob) = (rig.grant(&ada, &ours()).await?, rig.grant(&bob, &ours()).await?);
    let code = rig.code(&ours(), Origin::Repository).await?;
    let first = rig.dispatcher.enqueue(&NewJob::requested(&by_ada, code.clone(), Rig::spec())?).await?;
    let second = rig.dispatcher.enqueue(&NewJob::requested(&by_bob, code, Rig::spec())?).await?;

    rig.permissions.allow(&ada, &ours(), Level::Read);
    let claim = rig.dispatcher.next(&[]).await?.expect("the second job");
    assert_eq!(claim.job(), &second);
    match rig.dispatcher.state(&by_bob.lower(), &first).await? {
        State::Finished(outcome) => {
            assert_eq!(outcome.conclusion, Conclusion::Refused);
            assert_eq!(
                outcome.reason.as_deref(),
                Some(
                    "start a job: whoever started it may no longer write to the repository \
                     (repository: acme/memory/1)"
                )
            );
        }
        state => panic!("the first job is {state:?}"),
    }
    Ok(())
}

#[tokio::test]
async fn a_job_is_not_lost_when_the_forge_cannot_be_asked() -> Result<()> {
    let rig = Rig::new()?;
    let job = rig.enqueue(&ours(), Origin::Repository, Rig::spec()).await?;
    rig.permissions.go_down();
    assert_eq!(refused(rig.dispatcher.next(&[]).await), ErrorKind::Unavailable);
    rig.permissions.come_back();
    assert!(rig.dispatcher.next(&[]).await?.is_none(), "the forge is given time");
    rig.clock.advance(Duration::from_secs(10));
    let claim = rig.dispatcher.next(&[]).await?.expect("the job");
    assert_eq!((claim.job(), claim.attempt()), (&job, 1));
    Ok(())
}

#[tokio::test]
async fn a_permission_starts_no_job_elsewhere() -> Result<()> {
    let rig = Rig::new()?;
    let by = writer(&rig, &ours()).await?;
    let elsewhere = rig.code(&theirs(), Origin::Repository).await?;
    assert_eq!(refused(NewJob::requested(&by, elsewhere, Rig::spec())), ErrorKind::Denied);
    let here = rig.code(&ours(), Origin::Repository).await?;
    rig.clock.advance(Duration::from_mins(1));
    assert_eq!(refused(NewJob::requested(&by, here, Rig::spec())), ErrorKind::Denied, "it has expired");
    Ok(())
}

#[tokio::test]
async fn trust_follows_from_the_code() -> Result<()> {
    let rig = Rig::new()?;
    for (origin, trust) in [
        (Origin::Fork, Trust::Untrusted),
        (Origin::Repository, Trust::Trusted),
        (Origin::Protected, Trust::Protected),
    ] {
        let claim = rig.claim(&ours(), origin, Rig::spec()).await?;
        assert_eq!(claim.trust(), trust);
        assert_eq!(claim.trusted().is_ok(), trust >= Trust::Trusted);
    }
    let fork = rig.claim(&ours(), Origin::Fork, Rig::spec()).await?;
    assert_eq!(refused(fork.trusted()), ErrorKind::Denied);
    Ok(())
}

#[tokio::test]
async fn a_job_exists_for_its_repository_only() -> Result<()> {
    let rig = Rig::new()?;
    let job = rig.enqueue(&ours(), Origin::Repository, Rig::spec()).await?;
    let stranger = writer(&rig, &theirs()).await?;
    assert_eq!(refused(rig.dispatcher.state(&stranger.lower(), &job).await), ErrorKind::NotFound);
    assert_eq!(refused(rig.dispatcher.cancel(&stranger, &job).await), ErrorKind::NotFound);
    let member = writer(&rig, &ours()).await?;
    assert_eq!(rig.dispatcher.state(&member.lower(), &job).await?, State::Waiting);
    Ok(())
}
