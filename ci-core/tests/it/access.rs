//! Grants: how they are had, how long they hold, and what they do not become.

use std::sync::Arc;
use std::time::Duration;

use ci_core::access::{Admin, Authority, AuthorityOptions, Level, Read, Write};
use ci_core::clock::ManualClock;
use ci_core::forge::Challenge;
use ci_core::memory::{People, Permissions, Rig};
use ci_core::trust::{Approval, Origin};
use ci_core::{ErrorKind, Result};

use crate::{ours, refused, theirs};

const MINUTE: Duration = Duration::from_mins(1);
const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_grant_expires() -> Result<()> {
    let rig = Rig::new()?;
    let grant = rig.grant::<Read>(&Rig::user("ada")?, &ours()).await?;
    rig.clock.advance(59 * SECOND);
    assert_eq!(grant.scope()?.repository(), &ours());
    rig.clock.advance(SECOND);
    assert_eq!(refused(grant.scope()), ErrorKind::Denied);
    assert!(grant.renew(&rig.authority).await?.scope().is_ok());
    Ok(())
}

#[tokio::test]
async fn the_shorter_of_two_bounds_holds() -> Result<()> {
    for (source, authority) in [(5, 60), (60, 5)] {
        let clock = Arc::new(ManualClock::new());
        let permissions = Permissions::new(clock.clone()).with_valid_for(source * SECOND);
        let (ada, people, token) = (Rig::user("ada")?, People::new(), "token".into());
        permissions.allow(&ada, &ours(), Level::Read);
        people.add(&ada, &token)?;
        let options = AuthorityOptions::default().with_grant(authority * SECOND);
        let authority = Authority::new(Arc::new(permissions), clock.clone()).with_options(options);
        let session = authority.sign_in(&people, &Challenge::Credential, token).await?;
        let grant = authority.grant::<Read>(&session, &ours()).await?;
        clock.advance(4 * SECOND);
        assert!(grant.scope().is_ok());
        clock.advance(SECOND);
        assert_eq!(refused(grant.scope()), ErrorKind::Denied);
    }
    Ok(())
}

#[tokio::test]
async fn a_grant_is_withdrawn_at_once_and_for_good() -> Result<()> {
    let rig = Rig::new()?;
    let ada = Rig::user("ada")?;
    let grant = rig.grant::<Write>(&ada, &ours()).await?;
    let lowered = grant.lower::<Read>();
    rig.permissions.allow(&ada, &ours(), Level::Read);
    assert_eq!(refused(grant.scope()), ErrorKind::Denied);
    rig.permissions.allow(&ada, &ours(), Level::Write);
    assert_eq!(refused(grant.scope()), ErrorKind::Denied, "a permission that is given again is another one");
    assert_eq!(refused(lowered.scope()), ErrorKind::Denied, "it came from the one that was withdrawn");
    Ok(())
}

#[tokio::test]
async fn a_higher_permission_withdraws_nothing() -> Result<()> {
    let rig = Rig::new()?;
    let ada = Rig::user("ada")?;
    let grant = rig.grant::<Read>(&ada, &ours()).await?;
    rig.permissions.allow(&ada, &ours(), Level::Admin);
    assert!(grant.scope().is_ok());
    Ok(())
}

#[tokio::test]
async fn an_outage_grants_nothing() -> Result<()> {
    let rig = Rig::new()?;
    let ada = Rig::user("ada")?;
    let (session, held) = (rig.sign_in(&ada).await?, rig.grant::<Admin>(&ada, &ours()).await?);
    rig.permissions.go_down();
    let error = rig.authority.grant::<Read>(&session, &ours()).await.expect_err("nobody knows");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.is_retryable());
    assert!(held.scope().is_ok(), "what was known before holds as long as it was said to");
    rig.clock.advance(MINUTE);
    assert!(held.scope().is_err());
    rig.permissions.come_back();
    assert!(rig.authority.grant::<Read>(&session, &ours()).await.is_ok());
    Ok(())
}

#[tokio::test]
async fn nobody_gets_more_than_the_forge_says() -> Result<()> {
    let rig = Rig::new()?;
    let ada = Rig::user("ada")?;
    let session = rig.sign_in(&ada).await?;
    for (level, read, write, admin) in [
        (Level::None, false, false, false),
        (Level::Read, true, false, false),
        (Level::Write, true, true, false),
        (Level::Admin, true, true, true),
    ] {
        rig.permissions.allow(&ada, &ours(), level);
        assert_eq!(rig.authority.grant::<Read>(&session, &ours()).await.is_ok(), read, "{level:?}");
        assert_eq!(rig.authority.grant::<Write>(&session, &ours()).await.is_ok(), write, "{level:?}");
        assert_eq!(rig.authority.grant::<Admin>(&session, &ours()).await.is_ok(), admin, "{level:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_missing_repository_looks_like_a_forbidden_one() -> Result<()> {
    let rig = Rig::new()?;
    let (ada, eve) = (Rig::user("ada")?, Rig::user("eve")?);
    rig.permissions.allow(&ada, &ours(), Level::Admin);
    let session = rig.sign_in(&eve).await?;
    let text = |repository| {
        let (authority, session) = (&rig.authority, &session);
        async move {
            let error = authority.grant::<Read>(session, &repository).await.expect_err("refused");
            error.for_operator().to_string().replace(&repository.to_string(), "it")
        }
    };
    assert_eq!(text(ours()).await, text(theirs()).await);
    Ok(())
}

#[tokio::test]
async fn a_lowered_grant_is_the_same_person_s_for_the_same_repository() -> Result<()> {
    let rig = Rig::new()?;
    let admin = rig.grant::<Admin>(&Rig::user("ada")?, &ours()).await?;
    let read = admin.lower::<Write>().lower::<Read>();
    assert_eq!(read.scope()?.repository(), &ours());
    assert_eq!(read.user(), admin.user());
    rig.clock.advance(MINUTE);
    assert!(read.scope().is_err());
    Ok(())
}

#[tokio::test]
async fn a_sensitive_operation_asks_for_a_recent_sign_in() -> Result<()> {
    let rig = Rig::new()?;
    let ada = Rig::user("ada")?;
    rig.permissions.allow(&ada, &ours(), Level::Admin);
    let session = rig.sign_in(&ada).await?;
    rig.clock.advance(10 * MINUTE);
    let grant = rig.authority.grant::<Admin>(&session, &ours()).await?;
    assert!(grant.signed_in_within(10 * MINUTE).is_ok());
    assert_eq!(refused(grant.signed_in_within(599 * SECOND)), ErrorKind::Denied);
    rig.clock.jump_to(ci_core::clock::Timestamp::default());
    assert_eq!(refused(grant.signed_in_within(10 * MINUTE)), ErrorKind::Denied, "the calendar was set back");
    Ok(())
}

#[tokio::test]
async fn a_session_ends() -> Result<()> {
    let rig = Rig::new()?;
    let ada = Rig::user("ada")?;
    rig.permissions.allow(&ada, &ours(), Level::Read);
    let session = rig.sign_in(&ada).await?;
    rig.clock.advance((12 * 3_600 - 1) * SECOND);
    assert!(rig.authority.grant::<Read>(&session, &ours()).await.is_ok());
    rig.clock.advance(SECOND);
    assert_eq!(refused(rig.authority.grant::<Read>(&session, &ours()).await), ErrorKind::Denied);
    Ok(())
}

#[tokio::test]
async fn only_the_right_token_signs_in() -> Result<()> {
    let rig = Rig::new()?;
    let ada = Rig::user("ada")?;
    rig.people.add(&ada, &"right".into())?;
    let sign_in =
        async |challenge, answer: &str| rig.authority.sign_in(&rig.people, &challenge, answer.into()).await;
    assert_eq!(sign_in(Challenge::Credential, "right").await?.user(), &ada);
    for wrong in ["", "wrong", "righ", "right "] {
        assert_eq!(refused(sign_in(Challenge::Credential, wrong).await), ErrorKind::Denied, "{wrong:?}");
    }
    let redirect = Challenge::Redirect { url: String::new(), state: "state".into() };
    assert_eq!(refused(sign_in(redirect, "right").await), ErrorKind::Denied);
    assert_eq!(refused(rig.people.add(&ada, &"".into())), ErrorKind::Invalid);
    assert_eq!(refused(rig.people.add(&Rig::user("eve")?, &"right".into())), ErrorKind::Invalid);
    Ok(())
}

#[tokio::test]
async fn an_approval_is_about_one_commit() -> Result<()> {
    let rig = Rig::new()?;
    let grant = rig.grant::<Write>(&Rig::user("ada")?, &ours()).await?;
    let (one, next) = (rig.code(&ours(), Origin::Fork).await?, rig.code(&ours(), Origin::Fork).await?);
    let approval = Approval::new(&grant, one.commit().clone())?;
    assert!(approval.covers(&one));
    assert!(!approval.covers(&next));
    rig.clock.advance(MINUTE);
    assert_eq!(refused(Approval::new(&grant, one.commit().clone())), ErrorKind::Denied);
    Ok(())
}
