//! The backend behind the rules that hold for all of them: claims, leases, proofs.

use std::sync::Arc;
use std::time::Duration;

use ci_core::id::SecretName;
use ci_core::job::Arg;
use ci_core::memory::{self, Masking};
use ci_core::queue::Claim;
use ci_core::sandbox::{Command, Sandboxes};
use ci_core::secret::{SecretLease, SecretValue};
use ci_core::trust::Origin;

use crate::support::{Rig, eventually, finish, processes_with, shell, spec};

async fn claim() -> (memory::Rig, Claim) {
    let rig = memory::Rig::new().unwrap();
    let repository = memory::Rig::repository("1", "tenant").unwrap();
    let claim = rig.claim(&repository, Origin::Protected, memory::Rig::spec()).await.unwrap();
    (rig, claim)
}

#[tokio::test]
async fn a_job_runs_with_its_secrets_and_ends_in_a_proof() {
    let rig = Rig::new();
    let (_rest, claim) = claim().await;
    let sandbox = Sandboxes::new(Arc::new(rig.native.clone())).create(&claim, &spec()).await.unwrap();
    let value = "p\u{e4}ss w\"ord\nof two lines";
    let secrets = [("TOKEN", value), ("OTHER", "unasked")]
        .map(|(name, value)| (name.parse().unwrap(), SecretValue::new(value)));
    let lease = SecretLease::new(claim.trusted().unwrap(), secrets, Arc::new(Masking::new()));

    let token: SecretName = "TOKEN".parse().unwrap();
    let command = Command::new(Arg::new("/usr/bin/env").unwrap(), [Arg::new("-0").unwrap()]);
    let command = command.with_secrets([token]);
    let mut process = sandbox.exec(&command, &lease).await.unwrap();
    assert_eq!(finish(&mut *process).await.stdout, format!("TOKEN={value}\0"));
    drop(process);

    // The next program finds it nowhere, not even in what process 1 shows of itself.
    let script =
        "cat /proc/*/environ /proc/*/cmdline /work/* /tmp/* 2> /dev/null | grep -ac 'of two line[s]'";
    let mut process = sandbox.exec(&shell(script), &lease).await.unwrap();
    assert_eq!(finish(&mut *process).await.stdout, "0\n");
    drop(process);

    let id = sandbox.id().clone();
    assert_eq!(*sandbox.destroy().await.unwrap().sandbox(), id);
    assert_eq!(rig.entries(), 0);
}

#[tokio::test]
async fn a_dropped_sandbox_is_gone() {
    let rig = Rig::new();
    let (_rest, claim) = claim().await;
    let marker = format!("{}.015625", 4_000_000 + std::process::id());
    let sandbox = Sandboxes::new(Arc::new(rig.native.clone())).create(&claim, &spec()).await.unwrap();
    let lease = SecretLease::empty(&claim, Arc::new(Masking::new()));
    let process = sandbox.exec(&shell(&format!("sleep {marker}")), &lease).await.unwrap();
    drop(process);
    drop(sandbox);
    assert!(eventually(Duration::from_secs(20), || processes_with(&marker) == 0));
    // The books are cleared by a task of this runtime.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while rig.entries() > 0 && tokio::time::Instant::now() < deadline {
        tokio::task::yield_now().await;
    }
    assert_eq!(rig.entries(), 0);
}
