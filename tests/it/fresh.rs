//! What a fresh look found, on real backends.

use std::sync::Arc;
use std::time::Duration;

use ci_core::job::Timeouts;
use ci_core::runner::Observer;

use crate::fixture::{Fixture, enqueue, spec};

#[derive(Debug)]
struct Nobody;

impl Observer for Nobody {
    fn observe(&self, _: &ci_core::id::JobId, _: &ci_core::runner::Event<'_>) {}
}

/// Whether somebody else is handed the job while its first worker still runs it.
async fn is_handed_out_twice(test: &str, script: &'static str) -> bool {
    const LEASE: Duration = Duration::from_secs(3);
    let Some(fixture) = Fixture::new(test) else { return false };
    let mut service = fixture.service(Arc::new(Nobody)).await;
    service.dispatcher = service.dispatcher.clone().with_ttl(LEASE);
    let spec = spec(&[script]).with_timeouts(Timeouts::default().with_job(4 * LEASE));
    let job = enqueue(&service, "correct-horse-battery-staple-4711", spec).await;
    let service = Arc::new(service);
    let worker = service.clone();
    let asked = job.clone();
    let running = tokio::spawn(async move { worker.run(&asked, std::future::pending()).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut again = None;
    while !running.is_finished() && again.is_none() {
        tokio::time::sleep(Duration::from_millis(200)).await;
        again = service.dispatcher.next(&[]).await.expect("asked");
    }
    let twice = again.is_some_and(|claim| *claim.job() == job) && !running.is_finished();
    println!(
        "ended: {:?}",
        running.await.expect("joined").map(|outcome| (outcome.conclusion, outcome.reason))
    );
    twice
}

/// What is hidden never reaches the log, so nothing makes the runner wait, and its heartbeats get no turn.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_prints_its_secret_without_end_keeps_its_lease() {
    let script = "yes \"$TOKEN\" | tr -d '\\n'";
    assert!(!is_handed_out_twice("fresh", script).await, "another worker has the job while this one runs it");
}

#[tokio::test(flavor = "multi_thread")]
async fn control_a_job_that_sleeps_keeps_its_lease() {
    assert!(!is_handed_out_twice("fresh", "sleep 20").await);
}

/// The bound on output counts what is stored: what is hidden keeps the worker's processor busy for as long as the job may.
#[tokio::test(flavor = "multi_thread")]
async fn output_that_is_hidden_counts_too() {
    let Some(fixture) = Fixture::new("fresh") else { return };
    let service = fixture.service(Arc::new(Nobody)).await;
    let limits = ci_core::job::Limits::default().with_output(ci_core::ByteSize::kib(64));
    let spec = spec(&["yes \"$TOKEN\" | tr -d '\\n' | head -c 50000000"]).with_limits(limits);
    let job = enqueue(&service, "correct-horse-battery-staple-4711", spec).await;
    let outcome = service.run(&job, std::future::pending()).await.expect("an outcome");
    assert_eq!(
        outcome.conclusion,
        ci_core::outcome::Conclusion::LimitExceeded,
        "50 MB were printed, 64 KiB allowed"
    );
}

/// What was refused once is written to the list of repositories first, and refused at every later start.
#[test]
fn a_repository_that_is_refused_does_not_spoil_the_state_folder() {
    for name in ["ftp://x/y", "a%20b", "Projekte\u{301}", "two\nlines"] {
        let Some(fixture) = Fixture::new("fresh") else { return };
        let refused = fixture.path().join(name);
        if !name.contains("://") {
            // A copy: the name is resolved.
            let copy =
                std::process::Command::new("cp").arg("-r").arg(fixture.repository()).arg(&refused).status();
            assert!(copy.expect("cp runs").success());
        }
        let mut first = crate::fixture::quickstart();
        first.arg("--state").arg(fixture.state());
        if name.contains("://") {
            first.arg(name)
        } else {
            first.arg(&refused)
        };
        let first = first.args(["HEAD", "true"]).output().expect("it runs");
        let second = fixture.quickstart(&["true"]).output().expect("it runs");
        assert!(
            second.status.success(),
            "after {name:?} ({}): {}",
            crate::fixture::stderr(&first),
            crate::fixture::stderr(&second)
        );
    }
}
