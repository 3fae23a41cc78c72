//! A job on real backends, from permission to proof: what the quickstart does, looked at closely.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use ci_core::access::{Read, Write};
use ci_core::id::{ArtifactName, Digest};
use ci_core::job::{Limits, Timeouts};
use ci_core::log::{Cursor, LogStoreExt as _};
use ci_core::outcome::Conclusion;
use ci_core::runner::Stop;
use ci_core::sandbox::{ExitStatus, SandboxPath};
use ci_core::{ByteSize, ErrorKind, stream};

use crate::fixture::{Fixture, Recorder, enqueue, run, spec};
use crate::service::Service;
use crate::traces;

const SECRET: &str = "correct-horse-battery-staple-4711";
const MOST: ByteSize = ByteSize::mib(16);

async fn read_log(service: &Service, job: &ci_core::id::JobId) -> String {
    let grant = service.authority.grant::<Read>(&service.owner, &service.repository).await.expect("a grant");
    let log = service.logs.clone().follow(grant, service.authority.clone(), job.clone(), Cursor(0));
    String::from_utf8_lossy(&stream::collect(log, MOST).await.expect("the log")).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_way() {
    let Some(fixture) = Fixture::new("job::the_whole_way") else { return };
    let recorder = Arc::new(Recorder::default());
    let service = fixture.service(recorder.clone()).await;
    let report = (
        ArtifactName::parse("report").expect("a name"),
        SandboxPath::work().join("report.txt").expect("a path"),
    );
    let spec = spec(&[
        "cat hello.txt; for kind in mnt pid net ipc uts user; do readlink /proc/self/ns/$kind; done",
        // In two writes, with a pause that flushes what is pending.
        "printf '%s' \"$TOKEN\" | head -c 9; sleep 0.5; printf '%s\\n' \"$TOKEN\" | tail -c +10; echo \"$TOKEN\" >&2",
        "printf 'made by the job' > report.txt; setsid sleep 86399.471 & setsid sh -c 'sleep 86399.472' &",
    ]);
    let (job, outcome) = run(&service, SECRET, spec.with_artifact(report.0.clone(), report.1)).await;
    assert_eq!(outcome.conclusion, Conclusion::Succeeded, "{outcome:?} {:?}", recorder.events());

    // The exact commit was there, and the secret was masked: live, and in the log.
    let log = read_log(&service, &job).await;
    assert_eq!(log, recorder.output());
    assert!(log.contains("hello from the commit\n"), "{log}");
    assert!(log.contains("***"), "{log}");
    for part in [SECRET, &SECRET[..9], &SECRET[9..]] {
        assert!(!log.contains(part), "{part:?} in {log}");
        let found = traces::files_with(part.as_bytes(), &fixture.state());
        assert!(found.is_empty(), "{part:?} in {found:?}");
    }
    assert!(traces::files_with(b"hello from the commit", &fixture.state()).is_empty(), "the log is sealed");
    assert!(traces::files_with(b"made by the job", &fixture.state()).is_empty(), "the artifact is sealed");

    // The artifact is what the job made.
    let grant = service.authority.grant::<Read>(&service.owner, &service.repository).await.expect("a grant");
    let content = service.artifacts.get(&grant, &job, &report.0).await.expect("the artifact");
    let content = stream::collect(content, MOST).await.expect("the artifact");
    assert_eq!(service.artifacts.list(&grant, &job).await.expect("a list"), outcome.artifacts);
    assert_eq!(outcome.artifacts[0].digest, Digest::of(&content));
    assert!(content.windows(15).any(|window| window == b"made by the job"));

    // Nothing of the job is left, though it had left two processes behind.
    let namespaces: BTreeSet<String> =
        log.lines().filter(|line| line.contains(":[")).map(str::to_owned).collect();
    assert_eq!(namespaces.len(), 6, "{log}");
    assert_eq!(traces::processes_in(&namespaces), Vec::<std::path::PathBuf>::new());
    assert_eq!(traces::processes_with("86399.471"), Vec::<std::path::PathBuf>::new());
    assert_eq!(traces::ledger(&fixture.state()), BTreeSet::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_sees_nothing() {
    let Some(fixture) = Fixture::new("job::a_stranger_sees_nothing") else { return };
    let service = fixture.service(Arc::new(Recorder::default())).await;
    let (job, _) = run(&service, SECRET, spec(&["true"])).await;
    let read = service.authority.grant::<Read>(&service.stranger, &service.repository).await;
    assert_eq!(read.expect_err("refused").kind(), ErrorKind::Denied);
    let write = service.authority.grant::<Write>(&service.stranger, &service.repository).await;
    assert_eq!(write.expect_err("refused").kind(), ErrorKind::Denied);
    // A permission for one repository is none for the log of another's job.
    drop(service);
    let other = Fixture::new("job::a_stranger_sees_nothing").expect("as above");
    let elsewhere = other.service_in(&fixture.state(), Arc::new(Recorder::default())).await;
    let grant =
        elsewhere.authority.grant::<Read>(&elsewhere.owner, &elsewhere.repository).await.expect("a grant");
    let page = elsewhere.logs.read(&grant, &job, Cursor(0), 100).await;
    assert_eq!(page.expect_err("refused").kind(), ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_while_and_after_it_runs() {
    let Some(fixture) = Fixture::new("job::nothing_is_left_while_and_after_it_runs") else { return };
    let service = fixture.service(Arc::new(Recorder::default())).await;
    let job = enqueue(&service, SECRET, spec(&["sleep 86399.473"])).await;
    let state = fixture.state();
    let watch = tokio::task::spawn_blocking(move || {
        let runs = || !traces::processes_with("86399.473").is_empty();
        assert!(traces::within(Duration::from_secs(20), runs), "it never ran");
        traces::ledger(&state)
    });
    let ids = Arc::new(std::sync::Mutex::new(BTreeSet::new()));
    let seen = ids.clone();
    let cancel = async move {
        *seen.lock().expect("unlocked") = watch.await.expect("watched");
        Stop::Cancel
    };
    let outcome = service.run(&job, cancel).await.expect("an outcome");
    assert_eq!(outcome.conclusion, Conclusion::Cancelled);
    assert_eq!(outcome.steps.len(), 1);
    let ids = ids.lock().expect("unlocked").clone();
    assert_eq!(ids.len(), 1, "one sandbox while it ran");
    assert_eq!(traces::cgroups_of(&ids), Vec::<std::path::PathBuf>::new());
    assert_eq!(traces::processes_with("86399.473"), Vec::<std::path::PathBuf>::new());
    assert_eq!(traces::ledger(&fixture.state()), BTreeSet::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_step_ends_the_job() {
    let Some(fixture) = Fixture::new("job::a_failed_step_ends_the_job") else { return };
    let service = fixture.service(Arc::new(Recorder::default())).await;
    let (job, outcome) = run(&service, SECRET, spec(&["echo one", "echo two; exit 42", "echo three"])).await;
    assert_eq!(outcome.conclusion, Conclusion::Failed);
    assert_eq!(outcome.exit_code(), 42);
    assert_eq!(outcome.steps.len(), 2);
    assert_eq!(outcome.steps[1].status, Some(ExitStatus::Code(42)));
    assert_eq!(read_log(&service, &job).await, "one\ntwo\n");
    assert_eq!(outcome.steps[0].output.end, outcome.steps[1].output.start);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_hangs_is_stopped() {
    let Some(fixture) = Fixture::new("job::a_job_that_hangs_is_stopped") else { return };
    let service = fixture.service(Arc::new(Recorder::default())).await;
    let hangs = spec(&["trap '' TERM INT HUP; echo here; while :; do sleep 1; done"]);
    let late = hangs.clone().with_timeouts(Timeouts::default().with_job(Duration::from_secs(2)));
    let (job, outcome) = run(&service, SECRET, late).await;
    assert_eq!(outcome.conclusion, Conclusion::TimedOut, "{outcome:?}");
    assert_eq!(read_log(&service, &job).await, "here\n");
    let silent = hangs.with_timeouts(Timeouts::default().with_silence(Duration::from_secs(1)));
    let (_, outcome) = run(&service, SECRET, silent).await;
    assert_eq!(outcome.conclusion, Conclusion::TimedOut, "{outcome:?}");
    assert!(outcome.reason.expect("a reason").contains("it wrote nothing for too long"));
}

#[tokio::test(flavor = "multi_thread")]
async fn output_without_end_is_stopped() {
    let Some(fixture) = Fixture::new("job::output_without_end_is_stopped") else { return };
    let service = fixture.service(Arc::new(Recorder::default())).await;
    let limits = Limits::default().with_output(ByteSize::mib(1));
    let (job, outcome) = run(&service, SECRET, spec(&["yes"]).with_limits(limits)).await;
    assert_eq!(outcome.conclusion, Conclusion::LimitExceeded, "{outcome:?}");
    assert!(read_log(&service, &job).await.len() <= 1024 * 1024);
}

/// What is hidden reaches no log, and costs the worker its time all the same.
#[tokio::test(flavor = "multi_thread")]
async fn hidden_output_without_end_is_stopped() {
    let Some(fixture) = Fixture::new("job::hidden_output_without_end_is_stopped") else { return };
    let service = fixture.service(Arc::new(Recorder::default())).await;
    let limits = Limits::default().with_output(ByteSize::kib(64));
    let spec = spec(&["yes \"$TOKEN\" | tr -d '\\n' | head -c 50000000"]).with_limits(limits);
    let (_, outcome) = run(&service, SECRET, spec).await;
    assert_eq!(outcome.conclusion, Conclusion::LimitExceeded, "{outcome:?}");
}

/// Nothing that reaches a log makes the runner wait, and its heartbeats must have their turn all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_output_is_all_hidden_keeps_its_lease() {
    const LEASE: Duration = Duration::from_secs(5);
    let test = "job::a_job_whose_output_is_all_hidden_keeps_its_lease";
    let Some(fixture) = Fixture::new(test) else { return };
    let mut service = fixture.service(Arc::new(Recorder::default())).await;
    service.dispatcher = service.dispatcher.clone().with_ttl(LEASE);
    let spec = spec(&["yes \"$TOKEN\" | tr -d '\\n'"])
        .with_limits(Limits::default().with_output(ByteSize::bytes(u64::MAX)))
        .with_timeouts(Timeouts::default().with_job(4 * LEASE));
    let job = enqueue(&service, SECRET, spec).await;
    let service = Arc::new(service);
    let (worker, asked) = (service.clone(), job.clone());
    let running = tokio::spawn(async move { worker.run(&asked, std::future::pending()).await });
    tokio::time::sleep(LEASE / 3).await;
    while !running.is_finished() {
        let again = service.dispatcher.next(&[]).await.expect("asked");
        assert!(
            again.is_none() || running.is_finished(),
            "another worker has the job while this one runs it"
        );
        tokio::time::sleep(LEASE / 15).await;
    }
    let outcome = running.await.expect("joined").expect("an outcome");
    assert_eq!(outcome.conclusion, Conclusion::TimedOut, "it ran for several leases: {outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_was_changed_in_the_database_is_refused() {
    let Some(fixture) = Fixture::new("job::a_row_that_was_changed_in_the_database_is_refused") else {
        return;
    };
    let service = fixture.service(Arc::new(Recorder::default())).await;
    let job = enqueue(&service, SECRET, spec(&["true"])).await;
    drop(service);
    // Whoever can write the database flips one byte of whatever looks like the sealed ticket.
    let file = fixture.state().join("ci.sqlite");
    let database = rusqlite::Connection::open(&file).expect("a database");
    let changed =
        database.execute("UPDATE jobs SET ticket = CAST(ticket || x'00' AS BLOB)", []).expect("an update");
    assert_eq!(changed, 1);
    drop(database);
    let service = fixture.service(Arc::new(Recorder::default())).await;
    let error = service.run(&job, std::future::pending()).await.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Tampered);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_source_repository_is_not_changed() {
    let Some(fixture) = Fixture::new("job::the_source_repository_is_not_changed") else { return };
    let service = fixture.service(Arc::new(Recorder::default())).await;
    let before = listing(&fixture);
    let (_, outcome) = run(&service, SECRET, spec(&["echo changed > hello.txt; rm -rf .git"])).await;
    assert_eq!(outcome.conclusion, Conclusion::Succeeded, "{outcome:?}");
    assert_eq!(listing(&fixture), before);
}

fn listing(fixture: &Fixture) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    let mut folders = vec![fixture.repository()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder").flatten() {
            if entry.file_type().expect("a kind").is_dir() {
                folders.push(entry.path());
            } else {
                files.push((entry.path(), fs::read(entry.path()).expect("a file")));
            }
        }
    }
    files.sort();
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_split_over_two_steps_is_masked() {
    let Some(fixture) = Fixture::new("job::a_secret_split_over_two_steps_is_masked") else { return };
    let service = fixture.service(Arc::new(Recorder::default())).await;
    let halves = spec(&["printf '%s' \"$TOKEN\" | head -c 9", "printf '%s' \"$TOKEN\" | tail -c +10"]);
    let (job, _) = run(&service, SECRET, halves).await;
    let log = read_log(&service, &job).await;
    assert!(!log.contains(SECRET), "{log}");
}
