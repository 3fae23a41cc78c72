//! Secrets: who gets them, and for how long.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use ci_core::access::Read;
use ci_core::audit::Audit;
use ci_core::clock::Clock as _;
use ci_core::id::{JobId, SecretName, StepName};
use ci_core::memory::{Masking, Rig, Ring, Secrets};
use ci_core::operator::Operator;
use ci_core::outcome::Conclusion;
use ci_core::runner::Runner;
use ci_core::secret::{
    KeyRing as _, Learned, NewSecret, Purpose, SecretInfo, SecretLease, SecretPolicy, SecretStore,
    SecretValue, Sensitive,
};
use ci_core::trust::{Origin, Trust};
use ci_core::{ErrorKind, Result};
use futures_util::poll;

use crate::hostile::Down;
use crate::{ours, refused, theirs, writer};

async fn with_token(rig: &Rig) -> Result<(Secrets, SecretName)> {
    let (secrets, token) = (Secrets::new(rig.audit.clone(), rig.clock.clone()), SecretName::parse("TOKEN")?);
    secrets.put(&writer(rig, &ours()).await?, &token, SecretValue::new("hunter2")).await?;
    Ok((secrets, token))
}

#[tokio::test]
async fn a_lease_of_secrets_ends_with_the_claim() -> Result<()> {
    let rig = Rig::new()?;
    let (secrets, token) = with_token(&rig).await?;
    let lapsed = rig.claim(&ours(), Origin::Repository, Rig::spec()).await?;
    let lease = secrets.lease(lapsed.trusted()?, std::slice::from_ref(&token)).await?;
    assert_eq!(lease.value(&token)?.expose(), b"hunter2");
    rig.clock.advance(Duration::from_secs(30));
    assert_eq!(refused(lease.value(&token)), ErrorKind::Fenced);
    assert_eq!(lease.mask_text("hunter2"), "***", "what was shown before stays hidden");

    let dropped = rig.dispatcher.next(&[]).await?.expect("the job waits again");
    let lease = secrets.lease(dropped.trusted()?, std::slice::from_ref(&token)).await?;
    drop(dropped);
    assert_eq!(refused(lease.value(&token)), ErrorKind::Fenced);
    Ok(())
}

#[tokio::test]
async fn a_credential_is_leased_beside_the_secrets_of_its_own_job() -> Result<()> {
    let rig = Rig::new()?;
    let (secrets, token) = with_token(&rig).await?;
    let claim = rig.claim(&ours(), Origin::Repository, Rig::spec()).await?;
    let other = rig.claim(&ours(), Origin::Repository, Rig::spec()).await?;
    let made = SecretName::parse("ID_TOKEN")?;
    let lease = async || secrets.lease(claim.trusted()?, std::slice::from_ref(&token)).await;
    let value = || SecretValue::new("eyJhbGciOiJFUzI1NiJ9");

    let both = lease().await?.with_credential(claim.trusted()?, made.clone(), value())?;
    assert_eq!(both.value(&token)?.expose(), b"hunter2");
    assert_eq!(both.value(&made)?.expose(), b"eyJhbGciOiJFUzI1NiJ9");
    assert_eq!(both.mask_text("eyJhbGciOiJFUzI1NiJ9"), "***");
    assert_eq!(both.leaks()[0].what, Sensitive::Credential);
    assert!(both.unmasked().is_empty());
    let short = lease().await?.with_credential(claim.trusted()?, made.clone(), SecretValue::new("x"))?;
    assert_eq!(short.unmasked()[0].secret, made, "what cannot be hidden is told");

    let foreign = lease().await?.with_credential(other.trusted()?, made.clone(), value());
    assert_eq!(refused(foreign), ErrorKind::Denied);
    let twice = lease().await?.with_credential(claim.trusted()?, token.clone(), value());
    assert_eq!(refused(twice), ErrorKind::Conflict);
    let (late, trusted) = (lease().await?, claim.trusted()?);
    rig.clock.advance(Duration::from_secs(30));
    assert_eq!(refused(late.with_credential(trusted, made.clone(), value())), ErrorKind::Fenced);
    assert_eq!(refused(both.value(&made)), ErrorKind::Fenced);
    Ok(())
}

#[tokio::test]
async fn a_job_gets_all_secrets_that_it_names_or_none() -> Result<()> {
    let rig = Rig::new()?;
    let (secrets, token) = with_token(&rig).await?;
    let claim = rig.claim(&ours(), Origin::Repository, Rig::spec()).await?;
    let names = [token.clone(), SecretName::parse("MISSING")?];
    assert_eq!(refused(secrets.lease(claim.trusted()?, &names).await), ErrorKind::NotFound);
    let none = secrets.lease(claim.trusted()?, &[]).await?;
    assert_eq!(refused(none.value(&token)), ErrorKind::NotFound);
    let elsewhere = rig.claim(&theirs(), Origin::Repository, Rig::spec()).await?;
    assert_eq!(refused(secrets.lease(elsewhere.trusted()?, &[token]).await), ErrorKind::NotFound);
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_recorded_is_not_released() -> Result<()> {
    let rig = Rig::new()?;
    let audit = Audit::new(Arc::new(Down), rig.clock.clone());
    let secrets = Secrets::new(audit.clone(), rig.clock.clone());
    let token = SecretName::parse("TOKEN")?;
    let put = secrets.put(&writer(&rig, &ours()).await?, &token, SecretValue::new("hunter2")).await;
    assert_eq!(refused(put), ErrorKind::Unavailable);
    assert_eq!(secrets.list(&writer(&rig, &ours()).await?.lower()).await?, []);
    let claim = rig.claim(&ours(), Origin::Repository, Rig::spec()).await?;
    assert_eq!(refused(secrets.lease(claim.trusted()?, &[]).await), ErrorKind::Unavailable);
    let operator = Operator::new(&audit)?;
    assert_eq!(refused(operator.act(ours().tenant(), "key.rotated").await), ErrorKind::Unavailable);
    Ok(())
}

#[tokio::test]
async fn a_lease_is_in_the_audit_log() -> Result<()> {
    let rig = Rig::new()?;
    let (secrets, token) = with_token(&rig).await?;
    let claim = rig.claim(&ours(), Origin::Repository, Rig::spec()).await?;
    secrets.lease(claim.trusted()?, &[token]).await?;
    let act = rig.operator.act(ours().tenant(), "audit.read").await?;
    let entries = rig.audit.entries(&act, ours().tenant(), 0).await?;
    let actions: Vec<_> = entries.iter().map(|logged| logged.entry.action.as_str()).collect();
    assert_eq!(actions, ["secret.set", "secret.leased", "audit.read"]);
    let text = format!("{entries:?}");
    assert!(text.contains(claim.job().as_str()));
    assert!(!text.contains("hunter2"));
    Ok(())
}

#[tokio::test]
async fn people_see_names_and_never_values() -> Result<()> {
    let rig = Rig::new()?;
    let (secrets, token) = with_token(&rig).await?;
    let grant = writer(&rig, &ours()).await?;
    let set = secrets.put(&grant, &token, SecretValue::new("hunter3")).await?;
    assert_eq!((set.info.version, set.masking), (2, Learned::Hidden));
    assert_eq!(secrets.list(&grant.lower()).await?, [set.info]);
    assert_eq!(secrets.list(&writer(&rig, &theirs()).await?.lower::<Read>()).await?, []);
    for bad in [Vec::new(), vec![b'x'; 1024 * 1024 + 1]] {
        assert_eq!(refused(secrets.put(&grant, &token, SecretValue::new(bad)).await), ErrorKind::Invalid);
    }
    secrets.delete(&grant, &token).await?;
    assert_eq!(refused(secrets.delete(&grant, &token).await), ErrorKind::NotFound);
    rig.clock.advance(Duration::from_mins(1));
    assert_eq!(refused(secrets.list(&grant.lower()).await), ErrorKind::Denied);
    Ok(())
}

#[tokio::test]
async fn a_secret_that_is_too_short_is_named() -> Result<()> {
    let rig = Rig::new()?;
    let (secrets, _) = with_token(&rig).await?;
    let pin = SecretName::parse("PIN")?;
    secrets.put(&writer(&rig, &ours()).await?, &pin, SecretValue::new("123")).await?;
    let claim = rig.claim(&ours(), Origin::Repository, Rig::spec()).await?;
    let lease = secrets.lease(claim.trusted()?, std::slice::from_ref(&pin)).await?;
    let unmasked: Vec<_> = lease.unmasked().iter().map(|it| (&it.secret, it.why)).collect();
    assert_eq!(unmasked, [(&pin, Learned::TooShort)]);
    Ok(())
}

#[tokio::test]
async fn a_lease_shows_no_value() -> Result<()> {
    let rig = Rig::new()?;
    let (secrets, token) = with_token(&rig).await?;
    let claim = rig.claim(&ours(), Origin::Repository, Rig::spec()).await?;
    let lease: SecretLease = secrets.lease(claim.trusted()?, std::slice::from_ref(&token)).await?;
    let text = format!("{lease:?} {:?} {secrets:?} {:?}", lease.value(&token)?, lease.mask());
    assert!(text.contains("TOKEN"));
    assert!(!text.contains("hunter2"));
    Ok(())
}

#[tokio::test]
async fn a_key_serves_one_repository_and_opens_until_it_is_destroyed() -> Result<()> {
    let rig = Rig::new()?;
    let (keys, purpose) = (Ring::new(), Purpose::log(&JobId::random(), 0));
    let (us, them) = (writer(&rig, &ours()).await?, writer(&rig, &theirs()).await?);
    let sealed = keys.seal(us.scope()?, &purpose, b"content").await?;
    assert!(keys.open(them.scope()?, &purpose, &sealed).await.is_err());
    let elsewhere = Purpose::log(&JobId::random(), 0);
    assert_eq!(refused(keys.open(us.scope()?, &elsewhere, &sealed).await), ErrorKind::Tampered);

    let act = rig.operator.act(ours().tenant(), "key.rotated").await?;
    assert_eq!(refused(keys.rotate(&act, &theirs())), ErrorKind::Denied);
    keys.rotate(&act, &ours())?;
    let again = keys.seal(us.scope()?, &purpose, b"content").await?;
    assert_ne!(ci_core::seal::key_id(&sealed)?, ci_core::seal::key_id(&again)?);
    for sealed in [&sealed, &again] {
        assert_eq!(keys.open(us.scope()?, &purpose, sealed).await?, "content");
    }
    assert_eq!(refused(keys.destroy(&act, &theirs())), ErrorKind::Denied);
    keys.destroy(&act, &ours())?;
    assert_eq!(refused(keys.open(us.scope()?, &purpose, &sealed).await), ErrorKind::NotFound);
    Ok(())
}

#[tokio::test]
async fn a_job_that_a_policy_keeps_out_does_not_begin() -> Result<()> {
    let (rig, token) = (Rig::new()?, SecretName::parse("TOKEN")?);
    let parts = rig.parts();
    let policy = SecretPolicy::default().with_step(StepName::parse("publish")?);
    let new = NewSecret::new(SecretValue::new("hunter2")).with_policy(policy);
    parts.secrets.set(&writer(&rig, &ours()).await?, &token, new).await?;
    let mut spec = Rig::spec().with_secret(token.clone());
    spec.steps[0] = spec.steps[0].clone().with_secret(token);
    let claim = rig.claim(&ours(), Origin::Protected, spec).await?;
    let outcome = Runner::new(parts).run(claim, std::future::pending()).await?;
    assert_eq!((outcome.conclusion, outcome.steps.len()), (Conclusion::Refused, 0));
    let said = outcome.reason.expect("a reason");
    assert_eq!(
        said,
        "lease secrets: its policy names other steps than one that uses it (secret: TOKEN, rule: steps, step: test)"
    );
    assert!(outcome.isolation.is_none(), "no sandbox was made for it");
    Ok(())
}

#[tokio::test]
async fn a_store_that_forgets_a_policy_gives_nothing() -> Result<()> {
    let (rig, token) = (Rig::new()?, SecretName::parse("TOKEN")?);
    let claim = rig.claim(&ours(), Origin::Repository, Rig::spec()).await?;
    let info = SecretInfo::new(token.clone(), 1, rig.clock.now());
    let lease = |info| {
        let secrets = [(info, SecretValue::new("hunter2"))];
        SecretLease::under_policies(claim.trusted()?, secrets, Arc::new(Masking::new()))
    };
    assert!(lease(info.clone())?.value(&token).is_ok());
    let protected = info.with_policy(SecretPolicy::default().with_trust(Trust::Protected));
    assert_eq!(refused(lease(protected)), ErrorKind::Denied);
    Ok(())
}

#[tokio::test]
async fn a_job_that_is_cancelled_reads_no_secret_any_more() -> Result<()> {
    let rig = Rig::new()?;
    let (secrets, token) = with_token(&rig).await?;
    let claim = rig.claim(&ours(), Origin::Repository, Rig::spec()).await?;
    let lease = secrets.lease(claim.trusted()?, std::slice::from_ref(&token)).await?;
    let mut keep = pin!(claim.keep());
    assert!(poll!(&mut keep).is_pending());
    rig.dispatcher.cancel(&writer(&rig, &ours()).await?, claim.job()).await?;
    rig.clock.advance(Duration::from_secs(10));
    assert!(poll!(&mut keep).is_pending());
    assert!(claim.fence().is_ok(), "it still has to say how it ended");
    assert_eq!(refused(lease.value(&token)), ErrorKind::Cancelled);
    assert_eq!(lease.mask_text("hunter2"), "***", "what was shown before stays hidden");
    Ok(())
}
