//! Console output, artifacts and caches: who writes, who reads.

use std::sync::Arc;
use std::time::Duration;

use ci_core::access::{Level, Read};
use ci_core::artifact::ArtifactStore as _;
use ci_core::cache::CacheStore as _;
use ci_core::id::{ArtifactName, CacheKey, JobId};
use ci_core::job::Limits;
use ci_core::log::{Appended, Cursor, LogStore, LogStoreExt as _, Page};
use ci_core::memory::{Artifacts, Caches, Logs, Masking, Rig};
use ci_core::queue::{Claim, Released};
use ci_core::secret::{Masked, SecretLease};
use ci_core::trust::Origin;
use ci_core::{ByteSize, ErrorKind, Result, stream};
use futures_util::{StreamExt as _, poll};

use crate::{ours, refused, theirs, writer};

fn masked(claim: &Claim, text: &str) -> Masked {
    SecretLease::empty(claim, Arc::new(Masking::new())).mask().push(text.as_bytes())
}

async fn claim(rig: &Rig) -> Result<Claim> {
    rig.claim(&ours(), Origin::Repository, Rig::spec()).await
}

fn logs(rig: &Rig) -> Arc<Logs> {
    Arc::new(Logs::new(rig.database.clone(), rig.clock.clone()))
}

#[tokio::test]
async fn a_log_is_appended_in_order() -> Result<()> {
    let rig = Rig::new()?;
    let (logs, claim) = (logs(&rig), claim(&rig).await?);
    let grant = writer(&rig, &ours()).await?.lower::<Read>();
    let empty = Page { bytes: "".into(), next: Cursor(0), end: false };
    assert_eq!(logs.read(&grant, claim.job(), Cursor(0), 100).await?, empty);

    assert_eq!(logs.append(&claim, 0, masked(&claim, "one ")).await?, Appended::Stored);
    assert_eq!(logs.append(&claim, 0, masked(&claim, "one ")).await?, Appended::Repeated);
    assert_eq!(refused(logs.append(&claim, 0, masked(&claim, "two ")).await), ErrorKind::Conflict);
    assert_eq!(logs.append(&claim, 2, masked(&claim, "two ")).await?, Appended::Gap { expected: 1 });
    assert_eq!(logs.append(&claim, 1, masked(&claim, "two ")).await?, Appended::Stored);
    let large = masked(&claim, &"x".repeat(ci_core::log::MOST_CHUNK + 1));
    assert_eq!(refused(logs.append(&claim, 2, large).await), ErrorKind::LimitExceeded);

    let first = logs.read(&grant, claim.job(), Cursor(0), 1).await?;
    assert_eq!((&first.bytes[..], first.next, first.end), (&b"one "[..], Cursor(1), false));
    logs.close(&claim).await?;
    logs.close(&claim).await?;
    let all = logs.read(&grant, claim.job(), Cursor(0), 100).await?;
    assert_eq!((&all.bytes[..], all.next, all.end), (&b"one two "[..], Cursor(2), true));
    assert_eq!(refused(logs.append(&claim, 2, masked(&claim, "x")).await), ErrorKind::Conflict);
    Ok(())
}

#[tokio::test]
async fn a_later_lease_goes_on_where_the_earlier_one_ended() -> Result<()> {
    let rig = Rig::new()?;
    let (logs, first) = (logs(&rig), claim(&rig).await?);
    logs.append(&first, 0, masked(&first, "one ")).await?;
    first.release(Released::ShuttingDown).await?;
    let second = rig.dispatcher.next(&[]).await?.expect("the job");
    assert_eq!(logs.append(&second, 0, masked(&second, "one ")).await?, Appended::Gap { expected: 1 });
    assert_eq!(logs.append(&second, 1, masked(&second, "two ")).await?, Appended::Stored);
    assert_eq!(logs.append(&second, 1, masked(&second, "two ")).await?, Appended::Repeated);
    assert_eq!(logs.append(&second, 0, masked(&second, "one ")).await?, Appended::Gap { expected: 2 });
    Ok(())
}

#[tokio::test]
async fn who_lost_the_lease_appends_nothing() -> Result<()> {
    let rig = Rig::new()?;
    let (logs, claim) = (logs(&rig), claim(&rig).await?);
    // The worker does not know yet.
    rig.database.release(claim.fence()?, Released::InfrastructureFailed, Duration::ZERO).await?;
    assert_eq!(refused(logs.append(&claim, 0, masked(&claim, "late")).await), ErrorKind::Fenced);
    assert_eq!(refused(logs.close(&claim).await), ErrorKind::Fenced);
    let (artifacts, caches) = (Artifacts::new(rig.records()), Caches::new(rig.records()));
    let name = ArtifactName::parse("late")?;
    assert_eq!(refused(artifacts.put(&claim, &name, stream::once("late")).await), ErrorKind::Fenced);
    let key = CacheKey::parse("late")?;
    assert_eq!(refused(caches.save(&claim, &key, stream::once("late")).await), ErrorKind::Fenced);
    Ok(())
}

#[tokio::test]
async fn a_log_is_read_by_whom_its_repository_lets_read() -> Result<()> {
    let rig = Rig::new()?;
    let (logs, claim) = (logs(&rig), claim(&rig).await?);
    let stranger = writer(&rig, &theirs()).await?.lower::<Read>();
    assert_eq!(refused(logs.read(&stranger, claim.job(), Cursor(0), 1).await), ErrorKind::NotFound);
    let member = writer(&rig, &ours()).await?.lower::<Read>();
    assert_eq!(refused(logs.read(&member, &JobId::random(), Cursor(0), 1).await), ErrorKind::NotFound);
    rig.clock.advance(Duration::from_mins(1));
    assert_eq!(refused(logs.read(&member, claim.job(), Cursor(0), 1).await), ErrorKind::Denied);
    Ok(())
}

#[tokio::test]
async fn a_follower_sees_output_as_it_comes() -> Result<()> {
    let rig = Rig::new()?;
    let (logs, claim) = (logs(&rig), claim(&rig).await?);
    let grant = writer(&rig, &ours()).await?.lower::<Read>();
    let mut follow = logs.clone().follow(grant, rig.authority.clone(), claim.job().clone(), Cursor(0));
    assert!(poll!(follow.next()).is_pending());
    logs.append(&claim, 0, masked(&claim, "one")).await?;
    assert_eq!(follow.next().await.transpose()?, Some("one".into()));
    assert!(poll!(follow.next()).is_pending());
    logs.close(&claim).await?;
    assert_eq!(follow.next().await.transpose()?, None);
    Ok(())
}

#[tokio::test]
async fn a_follower_outlasts_a_grant_but_not_the_permission() -> Result<()> {
    let rig = Rig::new()?;
    let (logs, ada) = (logs(&rig), Rig::user("ada")?);
    let claim = claim(&rig).await?;
    let grant = rig.grant::<Read>(&ada, &ours()).await?;
    let mut follow = logs.clone().follow(grant, rig.authority.clone(), claim.job().clone(), Cursor(0));
    assert!(poll!(follow.next()).is_pending());
    rig.clock.advance(Duration::from_mins(2));
    let claim = rig.dispatcher.next(&[]).await?.expect("the lease ran out meanwhile");
    logs.append(&claim, 0, masked(&claim, "one")).await?;
    assert_eq!(follow.next().await.transpose()?, Some("one".into()), "the grant was renewed");

    assert!(poll!(follow.next()).is_pending());
    rig.permissions.allow(&ada, &ours(), Level::None);
    logs.append(&claim, 1, masked(&claim, "two")).await?;
    assert_eq!(refused(follow.next().await.transpose()), ErrorKind::Denied);
    assert!(follow.next().await.is_none());
    Ok(())
}

#[tokio::test]
async fn an_artifact_is_written_once_and_whole() -> Result<()> {
    let rig = Rig::new()?;
    let artifacts = Artifacts::new(rig.records());
    let name = ArtifactName::parse("report.tar")?;
    let spec = Rig::spec().with_limits(Limits::default().with_artifact(ByteSize::bytes(8)));
    let claim = rig.claim(&ours(), Origin::Repository, spec).await?;
    let grant = writer(&rig, &ours()).await?;
    let put = async |content: &'static str| artifacts.put(&claim, &name, stream::once(content)).await;
    assert_eq!(refused(put("too large").await), ErrorKind::LimitExceeded);
    assert_eq!(artifacts.list(&grant.lower(), claim.job()).await?, []);
    let kept = put("content").await?;
    assert_eq!(refused(put("other").await), ErrorKind::Conflict);
    assert_eq!(artifacts.list(&grant.lower(), claim.job()).await?, [kept]);

    let stranger = writer(&rig, &theirs()).await?;
    assert_eq!(refused(artifacts.get(&stranger.lower(), claim.job(), &name).await), ErrorKind::NotFound);
    assert_eq!(refused(artifacts.delete(&stranger, claim.job(), &name).await), ErrorKind::NotFound);
    artifacts.delete(&grant, claim.job(), &name).await?;
    assert_eq!(refused(artifacts.delete(&grant, claim.job(), &name).await), ErrorKind::NotFound);
    assert_eq!(rig.database.scan_raw(b"\"digest\"").await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_changed_artifact_is_noticed() -> Result<()> {
    use ci_core::records::{Batch, Key};

    let rig = Rig::new()?;
    let (artifacts, name) = (Artifacts::new(rig.records()), ArtifactName::parse("report.tar")?);
    let claim = claim(&rig).await?;
    artifacts.put(&claim, &name, stream::once("content")).await?;
    let prefix = Key::new("artifact").repository(&ours()).part(claim.job().as_str()).part("content");
    rig.database.commit(Batch::new().put(prefix.part(name.as_str()), "other")).await?;
    let grant = writer(&rig, &ours()).await?.lower::<Read>();
    assert_eq!(refused(artifacts.get(&grant, claim.job(), &name).await), ErrorKind::Tampered);
    Ok(())
}

#[tokio::test]
async fn a_cache_reaches_nobody_who_is_trusted_more() -> Result<()> {
    let rig = Rig::new()?;
    let (caches, key) = (Caches::new(rig.records()), CacheKey::parse("cargo")?);
    let read = async |claim: &Claim| -> Result<Option<Vec<u8>>> {
        match caches.restore(claim, &key).await? {
            Some(content) => stream::collect(content, ByteSize::kib(1)).await.map(Some),
            None => Ok(None),
        }
    };
    let fork = rig.claim(&ours(), Origin::Fork, Rig::spec()).await?;
    let trusted = rig.claim(&ours(), Origin::Repository, Rig::spec()).await?;
    let elsewhere = rig.claim(&theirs(), Origin::Fork, Rig::spec()).await?;
    caches.save(&fork, &key, stream::once("fork")).await?;
    assert_eq!(read(&trusted).await?, None);
    caches.save(&trusted, &key, stream::once("trusted")).await?;
    assert_eq!(read(&fork).await?.as_deref(), Some(&b"fork"[..]), "its own first");
    assert_eq!(read(&trusted).await?.as_deref(), Some(&b"trusted"[..]));
    assert_eq!(read(&elsewhere).await?, None);
    Ok(())
}
