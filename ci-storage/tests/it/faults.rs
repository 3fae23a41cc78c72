//! What somebody gets who can write to the database's file.

use std::sync::Arc;
use std::time::Duration;

use ci_core::ErrorKind;
use ci_core::access::Read;
use ci_core::id::{Label, RepositoryId};
use ci_core::log::{Cursor, LogStore as _};
use ci_core::memory::{Masking, Rig};
use ci_core::queue::{End, State};
use ci_core::records::Batch;
use ci_core::secret::SecretLease;
use ci_core::trust::Origin;
use tempfile::TempDir;

use crate::backends::{folder, rig_in};

fn acme() -> RepositoryId {
    Rig::repository("1", "acme").expect("a repository")
}

fn globex() -> RepositoryId {
    Rig::repository("2", "globex").expect("a repository")
}

fn attack(folder: &TempDir, sql: &str) {
    let connection = rusqlite::Connection::open(folder.path().join("ci.db")).expect("the file opens");
    connection.busy_timeout(Duration::from_secs(10)).expect("a timeout");
    connection.pragma_update(None, "foreign_keys", false).expect("a setting");
    connection.pragma_update(None, "ignore_check_constraints", true).expect("a setting");
    connection.execute_batch(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    std::mem::forget(connection);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_has_ended_does_not_run_again_later() {
    let folder = folder();
    let (rig, _database) = rig_in(folder.path()).await;
    let claim = rig.claim(&acme(), Origin::Protected, Rig::spec()).await.expect("a claim");
    let fence = claim.fence().expect("held").clone();
    rig.database.finish(&fence, &End::Cancelled, Batch::new()).await.expect("finished");
    drop(claim);
    attack(&folder, "UPDATE jobs SET state = 'waiting', attempts = 0, ending = NULL, outcome = NULL");
    rig.clock.advance(Duration::from_hours(24));
    rig.clock.advance(Duration::from_millis(1));
    let again = rig.dispatcher.next(&[]).await.expect("asked");
    assert!(again.is_none(), "a deployment runs again a day later, with secrets");
}

#[tokio::test(flavor = "multi_thread")]
async fn how_a_job_ended_cannot_be_made_up() {
    let folder = folder();
    let (rig, _database) = rig_in(folder.path()).await;
    let claim = rig.claim(&acme(), Origin::Protected, Rig::spec()).await.expect("a claim");
    let fence = claim.fence().expect("held").clone();
    rig.database.finish(&fence, &End::GaveUp, Batch::new()).await.expect("finished");
    let grant = rig.grant::<Read>(&Rig::user("ada").expect("a user"), &acme()).await.expect("a grant");
    for outcome in [r#"CAST('{"conclusion":"Succeeded"}' AS BLOB)"#, "ticket", "NULL"] {
        attack(&folder, &format!("UPDATE jobs SET ending = 'recorded', outcome = {outcome}"));
        let state = rig.dispatcher.state(&grant, claim.job()).await;
        assert_eq!(state.expect_err("made up").kind(), ErrorKind::Tampered, "{outcome}");
    }
}

/// What is written of an earlier attempt disappears when the row is cut before the next attempt begins.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_an_earlier_attempt_is_not_replaced() {
    let folder = folder();
    let (rig, database) = rig_in(folder.path()).await;
    let logs = database.logs(rig.ring.clone());
    let claim = rig.claim(&acme(), Origin::Repository, Rig::spec()).await.expect("a claim");
    let lease = SecretLease::empty(&claim, Arc::new(Masking::new()));
    for (seq, line) in [(0, "one"), (1, "two"), (2, "three")] {
        logs.append(&claim, seq, lease.mask().push(line.as_bytes())).await.expect("appended");
    }
    rig.clock.advance(Duration::from_secs(31));
    // The sealed head stays as it is and does not fit any more; nobody looks.
    attack(&folder, "DELETE FROM chunks WHERE seq > 0; UPDATE logs SET next = 1");
    let job = claim.job().clone();
    drop(claim);
    let second = rig.dispatcher.next(&[]).await.expect("asked").expect("the same job");
    let lease = SecretLease::empty(&second, Arc::new(Masking::new()));
    let appended = logs.append(&second, 1, lease.mask().push(b"evil")).await;
    let grant = rig.grant::<Read>(&Rig::user("ada").expect("a user"), &acme()).await.expect("a grant");
    let page = logs.read(&grant, &job, Cursor(0), 1_000).await;
    assert!(appended.is_err() || page.is_err(), "{appended:?}, and then {page:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_of_the_row_do_not_decide() {
    let folder = folder();
    let (rig, _database) = rig_in(folder.path()).await;
    let mut spec = Rig::spec();
    spec.labels.push(Label::parse("throw-away").expect("a label"));
    rig.enqueue(&acme(), Origin::Fork, spec).await.expect("enqueued");
    attack(&folder, "UPDATE jobs SET labels = '[]'");
    let claim = rig.dispatcher.next(&[Label::parse("production").expect("a label")]).await;
    assert!(!matches!(claim, Ok(Some(_))), "a fork's job runs on a machine that it must not run on");
}

/// A lost worker's job waits for as long as the calendar was set back.
#[tokio::test(flavor = "multi_thread")]
async fn a_calendar_that_is_set_back_holds_no_job() {
    let folder = folder();
    let (on_disk, _database) = rig_in(folder.path()).await;
    for rig in [Rig::new().expect("a rig"), on_disk] {
        let claim = rig.claim(&acme(), Origin::Protected, Rig::spec()).await.expect("a claim");
        rig.clock.jump_to(ci_core::clock::Timestamp::from_unix_millis(1_700_000_000_000));
        assert!(rig.dispatcher.next(&[]).await.expect("asked").is_none(), "its worker still has it");
        assert!(claim.fence().is_ok());
        drop(claim);
        rig.clock.advance(Duration::from_secs(30));
        let again = rig.dispatcher.next(&[]).await.expect("asked");
        assert!(again.is_some(), "{:?}", rig.database);
    }
}

/// Everybody who writes at once gets their entry, or is told soon.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writers_of_one_audit_log() {
    let folder = folder();
    let (rig, _database) = rig_in(folder.path()).await;
    let start = std::time::Instant::now();
    let writes = (0..400).map(|number| {
        let audit = rig.audit.clone();
        tokio::spawn(async move {
            let entry = ci_core::audit::Entry::new("job.finished", "job").about("number", number);
            audit.record(acme().tenant(), entry).await
        })
    });
    let writes: Vec<_> = writes.collect();
    let mut failed = 0;
    for write in writes {
        failed += usize::from(write.await.expect("no panic").is_err());
    }
    eprintln!("400 writers took {:?}, {failed} failed", start.elapsed());
    assert_eq!(failed, 0);
    assert_eq!(rig.audit.verify(acme().tenant()).await.expect("whole").count, 400);
}

/// A value that was replayed together with nothing else: both rows of an artifact of an earlier lease.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "pending: a freshness anchor"]
async fn what_an_artifact_was_in_an_earlier_lease_is_not_shown() {
    use ci_core::artifact::ArtifactStore as _;
    use ci_core::id::ArtifactName;
    let folder = folder();
    let (rig, _database) = rig_in(folder.path()).await;
    let artifacts = crate::backends::objects_in(folder.path(), &rig).artifacts();
    let name = ArtifactName::parse("release.tar").expect("a name");
    let first = rig.claim(&acme(), Origin::Protected, Rig::spec()).await.expect("a claim");
    artifacts.put(&first, &name, ci_core::stream::once("old and vulnerable")).await.expect("kept");
    let objects = crate::tampering::files(&folder.path().join("objects"));
    let object = std::fs::read(&objects[0]).expect("an object");
    attack(&folder, "CREATE TABLE saved AS SELECT key, value FROM records WHERE key LIKE 'artifact/%'");
    rig.clock.advance(Duration::from_secs(31));
    let job = first.job().clone();
    drop(first);
    let second = rig.dispatcher.next(&[]).await.expect("asked").expect("the job");
    artifacts.put(&second, &name, ci_core::stream::once("new and sound")).await.expect("kept");
    std::fs::write(&objects[0], object).expect("written");
    attack(
        &folder,
        "UPDATE records SET value = (SELECT value FROM saved WHERE saved.key = records.key) WHERE key LIKE 'artifact/%'",
    );
    let grant = rig.grant::<Read>(&Rig::user("ada").expect("a user"), &acme()).await.expect("a grant");
    let read = artifacts.get(&grant, &job, &name).await;
    let read = match read {
        Ok(content) => ci_core::stream::collect(content, ci_core::ByteSize::kib(1)).await,
        Err(error) => Err(error),
    };
    assert!(read.is_err(), "{:?}", read.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()));
}

/// An object's own name is in its context.
#[tokio::test(flavor = "multi_thread")]
async fn the_content_of_an_earlier_save_does_not_open_in_the_later_object() {
    use ci_core::cache::CacheStore as _;
    let folder = folder();
    let (rig, _database) = rig_in(folder.path()).await;
    let caches = crate::backends::objects_in(folder.path(), &rig).caches();
    let key = ci_core::id::CacheKey::parse("cargo").expect("a key");
    let claim = rig.claim(&acme(), Origin::Protected, Rig::spec()).await.expect("a claim");
    let path = || crate::tampering::files(&folder.path().join("objects")).remove(0);
    caches.save(&claim, &key, ci_core::stream::once(vec![1; 200_000])).await.expect("saved");
    let earlier = std::fs::read(path()).expect("an object");
    caches.save(&claim, &key, ci_core::stream::once(vec![2; 200_000])).await.expect("saved");
    std::fs::write(path(), earlier).expect("written");
    let restored = caches.restore(&claim, &key).await.map(|found| found.is_some());
    assert_eq!(restored.map_err(|error| error.kind()), Err(ErrorKind::Tampered));
}

/// Whatever a column of it holds.
#[tokio::test(flavor = "multi_thread")]
async fn a_forged_row_holds_nobody_up() {
    let numbers = [
        "-5",
        "-1",
        "0",
        "1",
        "3",
        "4294967295",
        "4294967296",
        "9223372036854775807",
        "-9223372036854775808",
    ];
    let texts = [
        "''",
        "'no id'",
        "'['",
        "'[null]'",
        "'[1]'",
        "'null'",
        "'5'",
        "'\"x\"'",
        "'{\"a\":[]}'",
        "'[[[[]]]]'",
        "'[\"' || x'00' || '\"]'",
        "CAST(x'ff' AS TEXT)",
        "CAST(zeroblob(3) AS TEXT)",
        "printf('%.*c', 2000000, 'x')",
        "replace(printf('%.*c', 3000, 'x'), 'x', '[')",
    ];
    let blobs = ["x''", "x'00'", "zeroblob(3000000)"];
    let mut harms = Vec::new();
    for column in ["attempts", "token", "until", "ttl", "expires", "cancelled"] {
        for value in numbers {
            harms.push(format!("UPDATE jobs SET {column} = {value} WHERE id = 1"));
            harms.push(format!("UPDATE jobs SET state = 'running', {column} = {value} WHERE id = 1"));
        }
    }
    for column in ["job", "tenant", "forge", "native", "labels", "state", "ending"] {
        harms.extend(texts.iter().map(|value| format!("UPDATE jobs SET {column} = {value} WHERE id = 1")));
    }
    for column in ["ticket", "outcome"] {
        harms.extend(blobs.iter().map(|value| format!("UPDATE jobs SET {column} = {value} WHERE id = 1")));
    }
    harms.push("UPDATE jobs SET id = -9223372036854775808 WHERE id = 1".to_owned());
    harms.push("UPDATE jobs SET id = 0 WHERE id = 1".to_owned());
    let mut held = Vec::new();
    for harm in harms {
        let folder = folder();
        let (rig, _database) = rig_in(folder.path()).await;
        rig.enqueue(&acme(), Origin::Fork, Rig::spec()).await.expect("enqueued");
        let theirs = rig.enqueue(&globex(), Origin::Protected, Rig::spec()).await.expect("enqueued");
        attack(&folder, &harm);
        let mut told = Vec::new();
        for _ in 0..5 {
            match rig.dispatcher.next(&[]).await {
                Ok(Some(claim)) if *claim.job() == theirs => {
                    told.clear();
                    break;
                }
                other => told.push(format!("{:?}", other.map(|claim| claim.map(|c| c.job().clone())))),
            }
        }
        if let Some(first) = told.first() {
            held.push(format!("{harm}: {first}"));
        }
    }
    assert!(held.is_empty(), "the job of another tenant never runs after:\n{}", held.join("\n"));
}

/// README: "A job that has not begun a day after it was enqueued is refused."
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_no_worker_can_do_does_not_wait_for_ever() {
    let folder = folder();
    let (rig, _database) = rig_in(folder.path()).await;
    let mut spec = Rig::spec();
    spec.labels.push(Label::parse("no-such-machine").expect("a label"));
    let job = rig.enqueue(&acme(), Origin::Fork, spec).await.expect("enqueued");
    for _ in 0..30 {
        rig.clock.advance(Duration::from_hours(24));
        assert!(rig.dispatcher.next(&[]).await.expect("asked").is_none());
    }
    let grant = rig.grant::<Read>(&Rig::user("ada").expect("a user"), &acme()).await.expect("a grant");
    let state = rig.dispatcher.state(&grant, &job).await.expect("a state");
    assert!(matches!(state, State::Finished(_)), "a month later: {state:?}");
}
