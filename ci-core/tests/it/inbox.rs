//! Webhooks: verified before they are read, and each of them once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ci_core::clock::Timestamp;
use ci_core::forge::{
    EventKind, HookScope, Hooks, Inbox, Occurrence, RawDelivery, Revision, RevisionName, SourcePath,
};
use ci_core::id::{CommitId, ForgeId, NativeId, TenantId};
use ci_core::memory::{Forge, Rig};
use ci_core::queue::{Cause, NewJob};
use ci_core::trust::{Origin, Trust};
use ci_core::{ByteSize, Error, ErrorKind, External, Result};
use secrecy::SecretString;

use crate::hostile::Down;
use crate::{ours, refused, theirs};

fn body(rest: &str) -> String {
    format!(r#"{{"repository": {{"tenant": "acme", "forge": "memory", "native": "1"}}, {rest}}}"#)
}

fn secret() -> SecretString {
    "a webhook secret".into()
}

/// An inbox for deliveries that are signed with `secret()` and believed within `scope`.
fn inbox(rig: &Rig, scope: HookScope) -> Result<Inbox> {
    rig.forge.add_hook(scope, &secret())?;
    Ok(Inbox::new(rig.forge.clone(), rig.database.clone(), rig.clock.clone()))
}

#[tokio::test]
async fn nothing_is_read_before_it_is_verified() -> Result<()> {
    #[derive(Debug, Default)]
    struct Strict {
        read: AtomicUsize,
    }

    impl Hooks for Strict {
        fn authenticate(&self, _: &RawDelivery, _: Timestamp) -> Result<HookScope> {
            Err(Error::new(ErrorKind::Denied, "authenticate"))
        }

        fn parse(&self, _: &RawDelivery) -> Result<Occurrence> {
            self.read.fetch_add(1, Ordering::Relaxed);
            Err(Error::new(ErrorKind::Invalid, "parse"))
        }
    }

    let rig = Rig::new()?;
    let hooks = Arc::new(Strict::default());
    // Not even the records are touched for somebody who cannot be believed.
    let inbox = Inbox::new(hooks.clone(), Arc::new(Down), rig.clock.clone());
    let raw = RawDelivery::new::<&str, Bytes>([], Bytes::from_static(b"{"))?;
    assert_eq!(refused(inbox.receive(raw).await), ErrorKind::Denied);
    assert_eq!(hooks.read.load(Ordering::Relaxed), 0);
    Ok(())
}

#[tokio::test]
async fn a_wrong_signature_is_refused() -> Result<()> {
    let rig = Rig::new()?;
    let inbox = inbox(&rig, HookScope::Repository(ours()))?;
    let signed = Forge::signed(&secret(), body(r#""kind": "push""#))?;
    let signature = signed.header("x-ci-signature").expect("a signature").to_vec();
    let text = String::from_utf8_lossy(&signature).into_owned();
    let cases = [
        ("another secret", Forge::signed(&"a guess".into(), body(r#""kind": "push""#))?),
        (
            "another body",
            RawDelivery::new([("x-ci-signature", signature.clone())], body(r#""kind": "gone""#).into())?,
        ),
        ("no signature", RawDelivery::new::<&str, Bytes>([], signed.body().clone())?),
        (
            "half of one",
            RawDelivery::new([("x-ci-signature", text[..40].to_owned())], signed.body().clone())?,
        ),
        ("an empty one", RawDelivery::new([("x-ci-signature", "sha256=")], signed.body().clone())?),
        (
            "two of them",
            RawDelivery::new(
                [("x-ci-signature", signature.clone()), ("X-CI-Signature", signature.clone())],
                signed.body().clone(),
            )?,
        ),
    ];
    for (what, raw) in cases {
        assert_eq!(refused(inbox.receive(raw).await), ErrorKind::Denied, "{what}");
    }
    assert_eq!(inbox.receive(signed).await?.parse()?.kind(), &EventKind::Push);
    assert_eq!(refused(rig.forge.add_hook(HookScope::Repository(ours()), &"".into())), ErrorKind::Invalid);
    Ok(())
}

#[tokio::test]
async fn a_delivery_that_is_done_is_refused() -> Result<()> {
    let rig = Rig::new()?;
    let inbox = inbox(&rig, HookScope::Repository(ours()))?;
    let raw = Forge::signed(&secret(), body(r#""kind": "push""#))?;
    let event = inbox.receive(raw.clone()).await?.parse()?;
    inbox.receive(raw.clone()).await?;
    inbox.done(&event).await?;
    assert_eq!(refused(inbox.receive(raw.clone()).await), ErrorKind::Conflict);
    let headers = [("x-ci-signature", raw.header("x-ci-signature").expect("a signature").to_vec())];
    let other_id =
        RawDelivery::new(headers.into_iter().chain([("x-id", b"2".to_vec())]), raw.body().clone())?;
    assert_eq!(refused(inbox.receive(other_id).await), ErrorKind::Conflict, "its content is the same");

    rig.clock.advance(Duration::from_hours(1));
    let act = rig.operator.act(ours().tenant(), "inbox.forget").await?;
    let foreign = inbox.forget(&act, Duration::from_hours(1)).await;
    assert_eq!(refused(foreign), ErrorKind::Denied, "deliveries are of all tenants");
    let act = rig.operator.act(&TenantId::service(), "inbox.forget").await?;
    assert_eq!(inbox.forget(&act, Duration::from_hours(1)).await?, 0);
    rig.clock.advance(Duration::from_secs(1));
    assert_eq!(inbox.forget(&act, Duration::from_hours(1)).await?, 1);
    Ok(())
}

#[tokio::test]
async fn a_hook_speaks_for_what_it_was_registered_for() -> Result<()> {
    let (memory, owner) = (ForgeId::parse("memory")?, NativeId::parse("17")?);
    let other = Rig::repository("2", "acme")?;
    let cases = [
        (HookScope::Repository(ours()), true),
        (HookScope::Repository(other), false),
        (HookScope::Owner(memory.clone(), owner), true),
        (HookScope::Owner(memory.clone(), NativeId::parse("18")?), false),
        (HookScope::Owner(ForgeId::parse("elsewhere")?, NativeId::parse("17")?), false),
        (HookScope::Forge(memory), true),
        (HookScope::Forge(ForgeId::parse("elsewhere")?), false),
    ];
    for (scope, covers) in cases {
        let rig = Rig::new()?;
        let inbox = inbox(&rig, scope.clone())?;
        let raw = Forge::signed(&secret(), body(r#""kind": "push", "owner": "17""#))?;
        let event = inbox.receive(raw).await?.parse();
        if covers {
            assert_eq!(event?.repository(), &ours(), "{scope:?}");
        } else {
            assert_eq!(refused(event), ErrorKind::Denied, "{scope:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_event_becomes_a_job_that_is_trusted_as_its_code_is() -> Result<()> {
    let rig = Rig::new()?;
    let inbox = inbox(&rig, HookScope::Repository(ours()))?;
    for (origin, trust) in
        [("Fork", Trust::Untrusted), ("Repository", Trust::Trusted), ("Protected", Trust::Protected)]
    {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let rest = format!(
            r#""kind": "pull_request", "number": 3, "author": "9", "actor": "4",
               "revision": {{"commit": "{commit}", "origin": "{origin}", "reference": "topic"}}"#
        );
        let event = inbox.receive(Forge::signed(&secret(), body(&rest))?).await?.parse()?;
        rig.dispatcher
            .enqueue(&NewJob::from_event(&event, event.code().expect("code").clone(), "test", Rig::spec())?)
            .await?;
        let claim = rig.dispatcher.next(&[]).await?.expect("a job");
        assert_eq!((claim.trust(), claim.code().commit().as_str()), (trust, commit));
        assert_eq!(claim.trigger().cause(), Cause::PullRequest);
    }
    let gone = inbox.receive(Forge::signed(&secret(), body(r#""kind": "gone""#))?).await?.parse()?;
    assert!(gone.code().is_none());
    Ok(())
}

#[tokio::test]
async fn a_body_that_the_forge_does_not_send_is_refused() -> Result<()> {
    let rig = Rig::new()?;
    let inbox = inbox(&rig, HookScope::Forge(ForgeId::parse("memory")?))?;
    for bad in
        ["", "{", "[]", r#"{"kind": "push"}"#, &body(r#""kind": "push", "revision": {"commit": "HEAD"}"#)]
    {
        let raw = Forge::signed(&secret(), bad.to_owned())?;
        assert_eq!(refused(inbox.receive(raw).await?.parse()), ErrorKind::Invalid, "{bad:?}");
    }
    let raw = Forge::signed(&secret(), body(r#""kind": "a star was given""#))?;
    assert_eq!(inbox.receive(raw).await?.parse()?.kind(), &EventKind::Other);
    Ok(())
}

/// What was received twice, because the program ended in between or two of them got it, is still one job of each name.
#[tokio::test]
async fn an_event_that_comes_again_makes_no_second_job() -> Result<()> {
    let rig = Rig::new()?;
    let inbox = inbox(&rig, HookScope::Repository(ours()))?;
    let rest = r#""kind": "push", "revision":
        {"commit": "0123456789abcdef0123456789abcdef01234567", "origin": "Repository"}"#;
    let raw = Forge::signed(&secret(), body(rest))?;
    for _ in 0..2 {
        let event = inbox.receive(raw.clone()).await?.parse()?;
        for name in ["build", "test"] {
            let code = event.code().expect("code").clone();
            rig.dispatcher.enqueue(&NewJob::from_event(&event, code, name, Rig::spec())?).await?;
        }
    }
    let (one, two) = (rig.dispatcher.next(&[]).await?, rig.dispatcher.next(&[]).await?);
    let (one, two) = (one.expect("build"), two.expect("test"));
    assert_ne!(one.job(), two.job());
    assert_eq!(one.trigger().cause(), Cause::Push);
    assert!(rig.dispatcher.next(&[]).await?.is_none());
    Ok(())
}

/// Nobody signs in for a webhook or a schedule, and both need the pipeline's file.
#[tokio::test]
async fn events_and_schedules_read_code_of_their_own() -> Result<()> {
    let rig = Rig::new()?;
    let inbox = inbox(&rig, HookScope::Repository(ours()))?;
    let event = inbox.receive(Forge::signed(&secret(), body(r#""kind": "push""#))?).await?.parse()?;
    let (name, path, most) = (RevisionName::parse("main")?, SourcePath::parse(".ci.yml")?, ByteSize::kib(1));
    for repository in [ours(), theirs()] {
        let main =
            Revision::new(CommitId::parse("0123456789abcdef0123456789abcdef01234567")?, Origin::Protected);
        let main = main.with_reference(External::new("main"));
        rig.forge.add_commit(&repository, main, [(".ci.yml", repository.tenant().to_string())])?;
    }
    let (source, helpers) = (rig.forge.as_ref(), &rig.sandboxes);
    let code = event.resolve(source, helpers, &name).await?;
    assert_eq!(code.trust(), Trust::Protected);
    assert_eq!(event.read(source, helpers, &code, &path, most).await?, ours().tenant().as_str());
    assert!(NewJob::from_event(&event, code, "nightly", Rig::spec()).is_ok());

    let act = rig.operator.act(theirs().tenant(), "schedule.nightly").await?;
    let other = act.resolve(source, helpers, &theirs(), &name).await?;
    assert_eq!(act.read(source, helpers, &other, &path, most).await?, theirs().tenant().as_str());
    assert_eq!(refused(act.resolve(source, helpers, &ours(), &name).await), ErrorKind::Denied);
    assert_eq!(refused(event.read(source, helpers, &other, &path, most).await), ErrorKind::Denied);
    assert_eq!(refused(NewJob::from_event(&event, other, "test", Rig::spec())), ErrorKind::Denied);
    Ok(())
}
