//! What a database in a file promises beyond the ports: other processes, crashes, and files that are not one.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use ci_core::ErrorKind;
use ci_core::access::Read;
use ci_core::clock::{ManualClock, SystemClock};
use ci_core::id::JobId;
use ci_core::log::{Cursor, LogStore as _, LogStoreExt as _};
use ci_core::memory::{Masking, Rig};
use ci_core::queue::{End, NewRow, Queue as _, Ticket};
use ci_core::records::{Batch, Condition, Key, Records as _};
use ci_core::secret::SecretLease;
use ci_core::trust::Origin;
use ci_storage::sqlite::Sqlite;
use futures_util::StreamExt as _;

use crate::backends::{folder, rig_in, sqlite};

/// Names the database for a test that is run again as a process of its own.
const CHILD: &str = "CI_STORAGE_TEST_DATABASE";

fn again(test: &str, path: &std::path::Path) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", test, "--nocapture", "--ignored"]).env(CHILD, path);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

fn path_for_child() -> Option<std::path::PathBuf> {
    std::env::var_os(CHILD).map(Into::into)
}

#[tokio::test]
#[ignore = "the other process of `a_killed_process_loses_nothing_that_was_answered`"]
async fn child_that_commits() {
    let Some(path) = path_for_child() else { return };
    let database = Sqlite::open(path, Arc::new(SystemClock::new())).await.expect("a database");
    let mut out = std::io::stdout();
    for number in 0.. {
        let (one, two) = (Key::new("one").number(number), Key::new("two").number(number));
        database.commit(Batch::new().put(one, vec![1; 3_000]).put(two, "2")).await.expect("committed");
        writeln!(out, "done {number}").and_then(|()| out.flush()).expect("somebody reads");
    }
}

#[tokio::test]
async fn a_killed_process_loses_nothing_that_was_answered() {
    let folder = folder();
    let path = folder.path().join("ci.db");
    for round in [1, 40, 300] {
        let mut child = again("files::child_that_commits", &path).spawn().expect("a process");
        let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let done =
            lines.map_while(Result::ok).filter_map(|line| line.strip_prefix("done ")?.parse::<u64>().ok());
        let last = done.take(round).last().expect("it commits");
        // SIGKILL, in the middle of whatever it does now.
        child.kill().expect("killed");
        child.wait().expect("gone");
        let database = sqlite(folder.path(), Arc::new(ManualClock::new())).await;
        let ones = database.list(&Key::new("one"), None, usize::MAX).await.expect("listed");
        let twos = database.list(&Key::new("two"), None, usize::MAX).await.expect("listed");
        assert!(ones.len() as u64 > last, "every commit that was answered");
        let versions = |records: Vec<ci_core::records::Record>| records.into_iter().map(|it| it.version);
        assert!(versions(ones).eq(versions(twos)), "no commit by half");
        database.purge(&Key::new("one")).await.expect("purged");
        database.purge(&Key::new("two")).await.expect("purged");
    }
}

#[tokio::test]
#[ignore = "the other process of `two_processes_share_a_queue`"]
async fn child_that_leases() {
    let Some(path) = path_for_child() else { return };
    let database = Sqlite::open(path, Arc::new(SystemClock::new())).await.expect("a database");
    println!("ready");
    std::io::stdin().read_line(&mut String::new()).expect("a word");
    while let Some(leased) = database.lease(&[], Duration::from_mins(10)).await.expect("asked") {
        println!("job {}", leased.fence.job);
    }
}

#[tokio::test]
async fn two_processes_share_a_queue() {
    let folder = folder();
    let path = folder.path().join("ci.db");
    let database = Sqlite::open(&path, Arc::new(SystemClock::new())).await.expect("a database");
    let mut pushed = Vec::new();
    for _ in 0..200 {
        let (job, ticket) = (JobId::random(), Ticket::from_stored(&b"ticket"[..]));
        let repository = Rig::repository("1", "acme").expect("a repository");
        database
            .push(NewRow {
                job: job.clone(),
                repository,
                labels: Vec::new(),
                ticket,
                longest_wait: Duration::from_hours(1),
            })
            .await
            .expect("pushed");
        pushed.push(job.to_string());
    }
    let mut child = again("files::child_that_leases", &path).spawn().expect("a process");
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines().map_while(Result::ok);
    lines.find(|line| line.ends_with("ready")).expect("it opens");
    drop(child.stdin.take());
    let mut leased = Vec::new();
    while let Some(one) = database.lease(&[], Duration::from_mins(10)).await.expect("asked") {
        leased.push(one.fence.job.to_string());
    }
    leased.extend(lines.filter_map(|line| Some(line.strip_prefix("job ")?.to_owned())));
    assert!(child.wait().expect("gone").success());
    pushed.sort();
    leased.sort();
    assert_eq!(leased, pushed, "each once");
}

#[tokio::test]
async fn two_handles_share_a_file() {
    let folder = folder();
    let clock = Arc::new(ManualClock::new());
    let [one, two] = [sqlite(folder.path(), clock.clone()).await, sqlite(folder.path(), clock).await];
    let key = Key::new("counter");
    one.commit(Batch::new().put(key.clone(), "0")).await.expect("committed");
    let count = async |database: &Sqlite| {
        for _ in 0..50 {
            loop {
                let now = database.get(&key).await.expect("read").expect("there");
                let next: u64 =
                    std::str::from_utf8(&now.value).expect("text").parse::<u64>().expect("a number") + 1;
                let condition = Condition::Is(key.clone(), now.version);
                let batch = Batch::new().require(condition).put(key.clone(), next.to_string());
                match database.commit(batch).await {
                    Ok(_) => break,
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict),
                }
            }
        }
    };
    futures_util::future::join(count(&one), count(&two)).await;
    assert_eq!(one.get(&key).await.expect("read").expect("there").value, "100");
}

#[tokio::test]
async fn a_log_that_another_handle_writes_is_followed() {
    let folder = folder();
    let (rig, ours) = rig_in(folder.path()).await;
    let theirs = sqlite(folder.path(), rig.clock.clone()).await.logs(rig.ring.clone());
    let ours = ours.logs(rig.ring.clone());
    let repository = Rig::repository("1", "acme").expect("a repository");
    let claim = rig.claim(&repository, Origin::Repository, Rig::spec()).await.expect("a claim");
    let grant = rig.grant::<Read>(&Rig::user("ada").expect("a user"), &repository).await.expect("a grant");
    let lease = SecretLease::empty(&claim, Arc::new(Masking::new()));
    let mut changed = std::pin::pin!(ours.changed(&grant, claim.job(), Cursor(0)));
    assert!(futures_util::poll!(&mut changed).is_pending());
    theirs.append(&claim, 0, lease.mask().push(b"hello")).await.expect("appended");
    // No bell rings between two handles: the reader looks again by the clock.
    let tick = async {
        loop {
            tokio::task::yield_now().await;
            rig.clock.advance(Duration::from_millis(10));
        }
    };
    tokio::select! {
        heard = changed => heard.expect("it has changed"),
        () = tick => {}
    }
    assert_eq!(ours.read(&grant, claim.job(), Cursor(0), 100).await.expect("read").bytes, "hello");
}

#[tokio::test]
async fn the_log_of_a_job_whose_worker_was_lost_ends_with_the_job() {
    let folder = folder();
    let (rig, database) = rig_in(folder.path()).await;
    let logs = Arc::new(database.logs(rig.ring.clone()));
    let repository = Rig::repository("1", "acme").expect("a repository");
    let claim = rig.claim(&repository, Origin::Repository, Rig::spec()).await.expect("a claim");
    let grant = rig.grant::<Read>(&Rig::user("ada").expect("a user"), &repository).await.expect("a grant");
    let lease = SecretLease::empty(&claim, Arc::new(Masking::new()));
    logs.append(&claim, 0, lease.mask().push(b"hello")).await.expect("appended");
    let mut follow = logs.follow(grant, rig.authority.clone(), claim.job().clone(), Cursor(0));
    assert_eq!(follow.next().await.expect("a page").expect("read"), "hello");
    let fence = claim.fence().expect("it holds");
    database.finish(fence, &End::GaveUp, Batch::new()).await.expect("finished");
    assert!(follow.next().await.is_none(), "nobody will close it, and nobody can write to it");
}

#[tokio::test]
async fn a_log_has_a_bound() {
    let folder = folder();
    let (rig, database) = rig_in(folder.path()).await;
    let logs = database.logs(rig.ring.clone()).with_most(ci_core::ByteSize::kib(1));
    let repository = Rig::repository("1", "acme").expect("a repository");
    let claim = rig.claim(&repository, Origin::Repository, Rig::spec()).await.expect("a claim");
    let lease = SecretLease::empty(&claim, Arc::new(Masking::new()));
    logs.append(&claim, 0, lease.mask().push(&[b'x'; 700])).await.expect("appended");
    let refused = logs.append(&claim, 1, lease.mask().push(&[b'x'; 700])).await.expect_err("too much");
    assert_eq!(refused.kind(), ErrorKind::LimitExceeded);
    logs.append(&claim, 1, lease.mask().push(b"x")).await.expect("what was refused left nothing");
}

#[tokio::test]
async fn only_the_owner_reads_the_file() {
    let folder = folder();
    let database = sqlite(folder.path(), Arc::new(ManualClock::new())).await;
    database.commit(Batch::new().put(Key::new("a"), "1")).await.expect("committed");
    for name in ["ci.db", "ci.db-wal", "ci.db-shm"] {
        let mode = std::fs::metadata(folder.path().join(name)).expect(name).permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    drop(database);
    let left: Vec<_> = std::fs::read_dir(folder.path()).expect("a folder").collect();
    assert_eq!(left.len(), 1, "closed and tidied up: {left:?}");
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_and_left_alone() {
    let folder = folder();
    let open = async |name: &str| {
        let opened = Sqlite::open(folder.path().join(name), Arc::new(ManualClock::new())).await;
        let error = opened.expect_err("refused");
        format!("{:?} {error}", error.kind())
    };
    expect_test::expect!["Invalid open the database: the file cannot be made; its folder must exist, and be this program's to write to"]
        .assert_eq(&open("no/such/folder.db").await);

    let text = "not a database, but long enough to be taken for one ".repeat(100);
    std::fs::write(folder.path().join("text"), &text).expect("written");
    expect_test::expect![
        "Invalid open the database: the file is not an SQLite database; is it the right path?"
    ]
    .assert_eq(&open("text").await);
    assert_eq!(std::fs::read_to_string(folder.path().join("text")).expect("read"), text);

    let foreign = folder.path().join("foreign");
    rusqlite::Connection::open(&foreign)
        .and_then(|connection| connection.execute_batch("CREATE TABLE theirs (a)"))
        .expect("another program's database");
    let before = std::fs::read(&foreign).expect("read");
    expect_test::expect!["Invalid open the database: the file is a database of another program"]
        .assert_eq(&open("foreign").await);
    assert_eq!(std::fs::read(&foreign).expect("read"), before);

    drop(Sqlite::open(folder.path().join("newer"), Arc::new(ManualClock::new())).await.expect("a database"));
    rusqlite::Connection::open(folder.path().join("newer"))
        .and_then(|connection| connection.pragma_update(None, "user_version", 99))
        .expect("a later version");
    expect_test::expect!["Unsupported open the database: a later version of this program wrote the file; update this one (version: 99)"]
        .assert_eq(&open("newer").await);
}

#[tokio::test]
async fn a_damaged_file_is_never_read_as_if_it_were_whole() {
    let folder = folder();
    let path = folder.path().join("ci.db");
    let database = sqlite(folder.path(), Arc::new(ManualClock::new())).await;
    let key = |number| Key::new("a").number(number);
    for number in 0..200 {
        database.commit(Batch::new().put(key(number), vec![7; 500])).await.expect("committed");
    }
    drop(database);
    let whole = std::fs::read(&path).expect("read");
    // Every page's own header is overwritten once.
    for page in 0..whole.len() / 4_096 {
        let mut damaged = whole.clone();
        damaged[page * 4_096..page * 4_096 + 12].fill(0xff);
        std::fs::write(&path, damaged).expect("written");
        let Ok(database) = Sqlite::open(&path, Arc::new(ManualClock::new())).await else { continue };
        if let Ok(listed) = database.list(&Key::new("a"), None, 1_000).await {
            assert!(listed.iter().all(|record| record.value == vec![7; 500]), "page {page}");
        }
    }
}
