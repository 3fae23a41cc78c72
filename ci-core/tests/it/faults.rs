//! What an attacker gets that they should not have.

use std::cell::Cell;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use ci_core::access::{Authority, Level, PermissionSource, Read, Session, Verdict};
use ci_core::audit::Entry;
use ci_core::clock::Clock as _;
use ci_core::forge::{CheckState, HookScope, Inbox};
use ci_core::id::{Digest, JobId, Label, RepositoryId, SecretName, StepName};
use ci_core::job::{Arg, Script, Step};
use ci_core::log::LogStore as _;
use ci_core::memory::{Database, Forge, Logs, Masking, Permissions, Reply, Rig};
use ci_core::outcome::Outcome;
use ci_core::queue::{Dispatcher, NewJob, NewRow, Queue as _, State};
use ci_core::records::{Batch, Key};
use ci_core::runner::Runner;
use ci_core::sandbox::{Command, Spec};
use ci_core::secret::{SecretLease, SecretValue};
use ci_core::trust::Origin;
use ci_core::{Error, ErrorKind, Result};
use tokio::sync::Notify;
use tokio::task::yield_now;

use crate::hooked::{Call, Hook, Hooked};
use crate::{ours, refused, theirs, writer};

#[tokio::test]
async fn a_job_runs_only_where_its_ticket_says() -> Result<()> {
    let rig = Rig::new()?;
    let database = Arc::new(Database::new(rig.clock.clone()));
    let dispatcher = rig.dispatcher_of(database.clone());
    let label = Label::parse("throw-away")?;
    let mut spec = Rig::spec();
    spec.labels.push(label);
    let by = writer(&rig, &ours()).await?;
    let job =
        dispatcher.enqueue(&NewJob::requested(&by, rig.code(&ours(), Origin::Fork).await?, spec)?).await?;
    // Somebody with access to the database: the same sealed ticket in a row without labels.
    let label = Label::parse("throw-away")?;
    let leased = database.lease(&[label], Duration::from_secs(30)).await?.expect("the row");
    let honest = Arc::new(Database::new(rig.clock.clone()));
    honest
        .push(NewRow {
            job: job.clone(),
            repository: ours(),
            labels: Vec::new(),
            ticket: leased.ticket,
            longest_wait: Duration::from_hours(1),
        })
        .await?;
    let elsewhere = rig.dispatcher_of(honest);
    let claim = elsewhere.next(&[Label::parse("production")?]).await;
    assert!(!matches!(&claim, Ok(Some(_))), "a fork's job for throw-away machines runs in production");
    Ok(())
}

/// A mirror that has just heard that a permission is gone.
#[derive(Debug)]
struct Late(Arc<Permissions>);

#[async_trait]
impl PermissionSource for Late {
    async fn permission(&self, who: &Session, repository: &RepositoryId) -> Result<Verdict> {
        let verdict = self.0.permission(who, repository).await?;
        // The change comes while the answer is on its way.
        if self.0.level(who.user(), repository) == Level::Write && who.user().native().as_str() == "ada" {
            self.0.allow(who.user(), repository, Level::Read);
        }
        Ok(verdict)
    }

    fn withdrawn(&self, who: &Session, repository: &RepositoryId, verdict: &Verdict) -> bool {
        self.0.withdrawn(who, repository, verdict)
    }
}

#[tokio::test]
async fn a_permission_that_was_withdrawn_starts_no_job() -> Result<()> {
    let rig = Rig::new()?;
    let by = writer(&rig, &ours()).await?;
    let code = rig.code(&ours(), Origin::Repository).await?;
    rig.dispatcher.enqueue(&NewJob::requested(&by, code, Rig::spec())?).await?;
    let authority = Authority::new(Arc::new(Late(rig.permissions.clone())), rig.clock.clone());
    let late = Dispatcher::new(rig.database.clone(), rig.ring.clone(), authority, rig.clock.clone());
    assert!(late.next(&[]).await?.is_none(), "the source has said that it is withdrawn");
    Ok(())
}

/// A delivery that another hook has signed takes the place of the genuine one.
#[tokio::test]
async fn a_hook_of_another_repository_suppresses_no_delivery() -> Result<()> {
    let rig = Rig::new()?;
    let (mine, eves) = ("a webhook secret".into(), "the secret of eve's hook".into());
    rig.forge.add_hook(HookScope::Repository(ours()), &mine)?;
    rig.forge.add_hook(HookScope::Repository(theirs()), &eves)?;
    let inbox = Inbox::new(rig.forge.clone(), rig.database.clone(), rig.clock.clone());
    let body = r#"{"repository": {"tenant": "acme", "forge": "memory", "native": "1"}, "kind": "push"}"#;
    let eve = inbox.receive(Forge::signed(&eves, body.to_owned())?).await?;
    assert_eq!(refused(eve.parse()), ErrorKind::Denied);
    let genuine = inbox.receive(Forge::signed(&mine, body.to_owned())?).await;
    assert!(genuine.is_ok(), "{genuine:?}");
    Ok(())
}

/// The hashes have no key: who can write to the database makes a chain that fits, and not the one that was.
#[tokio::test]
async fn an_entry_that_was_cut_off_or_rewritten_is_noticed_by_who_kept_the_end() -> Result<()> {
    for change in ["cut", "rewrite"] {
        let rig = Rig::new()?;
        let tenant = ours().tenant().clone();
        for number in 0..5 {
            rig.audit.record(&tenant, Entry::new("secret.leased", "job").about("number", number)).await?;
        }
        let honest = rig.audit.verify(&tenant).await?;
        assert_eq!(rig.audit.verify_since(&tenant, &honest).await?, honest);
        let place = |number| Key::new("audit").part(tenant.as_str()).part("entry").number(number);
        let head = Key::new("audit").part(tenant.as_str()).part("head");
        let last = rig.database.get(&place(4)).await?.expect("an entry").value;
        let harm = if change == "cut" {
            let before = rig.database.get(&place(3)).await?.expect("an entry").value;
            let hash = Digest::of(&before);
            Batch::new().delete(place(4)).put(head, format!(r#"{{"count":4,"hash":"{hash}"}}"#))
        } else {
            let entry = String::from_utf8_lossy(&last).replace("secret.leased", "nothing.done");
            let hash = Digest::of(entry.as_bytes());
            Batch::new().put(place(4), entry).put(head, format!(r#"{{"count":5,"hash":"{hash}"}}"#))
        };
        rig.database.commit(harm).await?;
        assert!(rig.audit.verify(&tenant).await.is_ok(), "{change}: the chain fits");
        assert_eq!(refused(rig.audit.verify_since(&tenant, &honest).await), ErrorKind::Tampered, "{change}");
    }
    Ok(())
}

/// The entry stands in one tenant's log; what it allows, happens to another's.
#[tokio::test]
async fn an_act_is_for_the_tenant_whose_log_holds_it() -> Result<()> {
    let rig = Rig::new()?;
    rig.audit.record(theirs().tenant(), Entry::new("secret.set", "bob")).await?;
    let act = rig.operator.act(ours().tenant(), "audit.read").await?;
    let read = rig.audit.entries(&act, theirs().tenant(), 0).await;
    assert!(read.is_err(), "an act for {} reads the log of {}", ours().tenant(), theirs().tenant());
    Ok(())
}

/// A fork's sandbox takes the lease of another job.
#[tokio::test]
async fn the_lease_of_one_job_is_of_no_use_in_the_sandbox_of_another() -> Result<()> {
    let rig = Rig::new()?;
    rig.backend.on("show", |_| Reply::exit(0));
    let name = SecretName::parse("TOKEN")?;
    let fork = rig.claim(&ours(), Origin::Fork, Rig::spec()).await?;
    let trusted = rig.claim(&theirs(), Origin::Protected, Rig::spec()).await?;
    let value = SecretValue::new("value of theirs");
    let lease = SecretLease::new(trusted.trusted()?, [(name.clone(), value)], Arc::new(Masking::new()));
    let sandbox = rig.sandboxes.create(&fork, &Spec::new(Rig::spec().image)).await?;
    let command = Command::new(Arg::new("show")?, Vec::new()).with_secrets([name]);
    let started = sandbox.exec(&command, &lease).await.map(drop);
    assert!(started.is_err(), "the secrets of another tenant's job are in a fork's sandbox");
    Ok(())
}

/// An expired grant tells whether a job of anybody exists.
#[tokio::test]
async fn an_expired_grant_says_nothing() -> Result<()> {
    let rig = Rig::new()?;
    let job = rig.enqueue(&theirs(), Origin::Repository, Rig::spec()).await?;
    let by = writer(&rig, &ours()).await?.lower::<Read>();
    rig.clock.advance(Duration::from_mins(2));
    let there = refused(rig.dispatcher.state(&by, &job).await);
    let not_there = refused(rig.dispatcher.state(&by, &JobId::random()).await);
    assert_eq!(there, not_there);
    Ok(())
}

#[test]
fn a_name_ends_no_line_and_a_number_is_no_text() {
    assert!(StepName::parse("build\u{2028}passed").is_err(), "a line separator");
    assert!(StepName::parse("build \u{202e}dessap").is_err(), "an override of the direction");
}

#[test]
fn a_number_is_no_text() {
    assert_ne!(Key::new("a").number(7), Key::new("a").part("0000000000000007"));
}

/// Who adds an entry behind the end is not told from somebody who was faster, a thousand times.
#[tokio::test]
async fn an_entry_that_nobody_wrote_is_not_contention() -> Result<()> {
    let rig = Rig::new()?;
    let tenant = ours().tenant().clone();
    rig.audit.record(&tenant, Entry::new("thing.done", "ada")).await?;
    let place = Key::new("audit").part(tenant.as_str()).part("entry").number(1);
    rig.database.commit(Batch::new().put(place, "squat")).await?;
    let rounds = Cell::new(0);
    let written = rig.audit.attempt(&tenant, Entry::new("thing.done", "ada"), async |batch| {
        rounds.set(rounds.get() + 1);
        rig.database.commit(batch).await.map(drop)
    });
    let kind = refused(written.await);
    assert_eq!((kind, rounds.get() < 10), (ErrorKind::Tampered, true), "{} rounds", rounds.get());
    Ok(())
}

/// What is masked by a lease that knows no secret is as good as raw.
#[tokio::test]
async fn masked_bytes_of_another_lease_are_not_appended() -> Result<()> {
    let rig = Rig::new()?;
    let logs = Logs::new(rig.database.clone(), rig.clock.clone());
    let claim = rig.claim(&ours(), Origin::Protected, Rig::spec()).await?;
    let secret = (SecretName::parse("TOKEN")?, SecretValue::new("hunter2hunter2"));
    let lease = SecretLease::new(claim.trusted()?, [secret], Arc::new(Masking::new()));
    let raw = SecretLease::for_helper(Arc::new(Masking::new())).mask().push(b"hunter2hunter2");
    let appended = logs.append(&claim, 0, raw).await;
    assert_eq!(refused(appended), ErrorKind::Denied, "the log of a job with {lease:?} shows its secret");
    Ok(())
}

/// Only the calendar is asked: one that was set back makes an old sign-in recent.
#[tokio::test]
async fn a_calendar_that_is_set_back_makes_no_sign_in_recent() -> Result<()> {
    let rig = Rig::new()?;
    let (ada, start) = (Rig::user("ada")?, rig.clock.now());
    let session = rig.sign_in(&ada).await?;
    rig.permissions.allow(&ada, &ours(), Level::Admin);
    rig.clock.advance(Duration::from_hours(6));
    rig.clock.jump_to(start.after(Duration::from_mins(1)));
    let grant = rig.authority.grant::<Read>(&session, &ours()).await?;
    assert_eq!(refused(grant.signed_in_within(Duration::from_mins(5))), ErrorKind::Denied);
    Ok(())
}

/// Steps are counted, and not how large they are.
#[test]
fn a_job_has_a_bound() -> Result<()> {
    let step = Step::script(StepName::parse("large")?, Script::authored("#".repeat(64 << 20)));
    assert!(Rig::spec().with_step(step).check().is_err(), "64 MiB of script go into the queue");
    let mut spec = Rig::spec();
    spec.labels = (0..100_000).map(|number| Label::parse(format!("l{number}"))).collect::<Result<_>>()?;
    assert!(spec.check().is_err(), "100,000 labels");
    Ok(())
}

/// A queue's first answer to `push` or `finish` is lost after it was done.
#[derive(Debug, Default)]
struct Mute(AtomicBool);

impl Hook for Mute {
    async fn around<T: Send>(&self, call: Call, done: impl Future<Output = Result<T>> + Send) -> Result<T> {
        let done = done.await;
        if matches!(call, Call::Push | Call::Finish) && !self.0.swap(true, Ordering::AcqRel) {
            return Err(Error::new(ErrorKind::Unavailable, "hear the answer"));
        }
        done
    }
}

#[tokio::test]
async fn a_job_that_is_enqueued_again_after_a_lost_answer_runs_once() -> Result<()> {
    let rig = Rig::new()?;
    let database = Arc::new(Database::new(rig.clock.clone()));
    let dispatcher = rig.dispatcher_of(Arc::new(Hooked::new(database, Mute::default())));
    let by = writer(&rig, &ours()).await?;
    let code = rig.code(&ours(), Origin::Protected).await?;
    let deploy = NewJob::requested(&by, code, Rig::spec())?;
    assert_eq!(refused(dispatcher.enqueue(&deploy).await), ErrorKind::Unavailable);
    dispatcher.enqueue(&deploy).await?;
    assert!(dispatcher.next(&[]).await?.is_some());
    assert!(dispatcher.next(&[]).await?.is_none(), "it was deployed twice");
    Ok(())
}

/// A heartbeat is refused before the first answer to `finish` is lost, after it was done: a connection that
/// hangs does so for longer than a heartbeat takes.
#[derive(Debug, Default)]
struct Slow {
    lost: AtomicBool,
    heartbeat_refused: Notify,
}

impl Hook for Slow {
    async fn around<T: Send>(&self, call: Call, done: impl Future<Output = Result<T>> + Send) -> Result<T> {
        let done = done.await;
        if call == Call::Extend && done.is_err() {
            self.heartbeat_refused.notify_one();
        }
        if call == Call::Finish && !self.lost.swap(true, Ordering::AcqRel) {
            self.heartbeat_refused.notified().await;
            return Err(Error::new(ErrorKind::Unavailable, "hear the answer"));
        }
        done
    }
}

/// Runs a job while time passes, with `hook` before the worker's queue: what the worker was told, and what is
/// recorded.
async fn told_and_recorded(hook: impl Hook, tick: Duration) -> Result<(Result<Outcome>, State)> {
    let rig = Rig::new()?;
    let database = Arc::new(Database::new(rig.clock.clone()));
    let rig = rig.with_database(database.clone())?;
    rig.backend.on("sh", |_| Reply::exit(0));
    let dispatcher = rig.dispatcher_of(Arc::new(Hooked::new(database, hook)));
    let job = rig.enqueue(&ours(), Origin::Repository, Rig::spec()).await?;
    let claim = dispatcher.next(&[]).await?.expect("the job");
    let runner = Runner::new(rig.parts());
    let time = async {
        loop {
            yield_now().await;
            rig.clock.advance(tick);
        }
    };
    let told = tokio::select! { told = runner.run(claim, pending()) => told, () = time => unreachable!() };
    let reader = writer(&rig, &ours()).await?.lower::<Read>();
    let last = rig.forge.reports().pop().map(|report| report.state);
    assert_eq!(last, Some(CheckState::Succeeded), "the forge hears of it too");
    Ok((told, rig.dispatcher.state(&reader, &job).await?))
}

#[tokio::test]
async fn a_job_whose_outcome_is_recorded_has_it_although_the_answer_was_lost() -> Result<()> {
    let (told, recorded) = told_and_recorded(Mute::default(), Duration::from_millis(50)).await?;
    assert_eq!(State::Finished(Box::new(told?)), recorded);
    Ok(())
}

#[tokio::test]
async fn a_recorded_outcome_is_the_jobs_although_a_heartbeat_was_refused_before_the_answer_was_lost()
-> Result<()> {
    let (told, recorded) = told_and_recorded(Slow::default(), Duration::from_millis(500)).await?;
    assert_eq!(State::Finished(Box::new(told?)), recorded);
    Ok(())
}
