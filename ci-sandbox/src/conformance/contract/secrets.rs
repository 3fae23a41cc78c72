//! Secrets, and what a sandbox says of itself.

use std::sync::Arc;
use std::time::Duration;

use ci_core::ErrorKind;
use ci_core::id::SandboxId;
use ci_core::network::{Destination, EgressRule, HostName, NetworkPolicy};
use ci_core::sandbox::{ExitStatus, Guarantee, SecretUse, Signal, Spec};
use ci_core::secret::SecretLease;

use super::{gone, refusal, sandbox};
use crate::conformance::Bench;
use crate::conformance::attack::{claim, lease};
use crate::conformance::guest::{Guest, command, finish, line};
use crate::conformance::machine::unique;

const VALUE: &str = "p\u{e4}ss w\"ord\nof two lines";

#[doc(hidden)]
pub async fn a_secret_is_seen_by_the_program_that_asked(bench: Arc<dyn Bench>) {
    let (_rig, claim) = claim().await.expect("a claim");
    let lease = lease(&claim, "TOKEN", VALUE).expect("a lease");
    let guest = sandbox(&bench).await;
    let asking =
        command(&["environment"]).with_secrets(["TOKEN".parse::<ci_core::id::SecretName>().expect("a name")]);
    let mut process = guest.instance().exec(&asking, &lease).await.expect("it starts");
    assert_eq!(finish(&mut *process).await.expect("it ends").text(), format!("TOKEN={VALUE}\0"));
    drop(process);
    let mut process = guest.instance().exec(&command(&["environment"]), &lease).await.expect("it starts");
    assert_eq!(finish(&mut *process).await.expect("it ends").text(), "", "it did not ask");
    drop(process);
    gone(guest).await;
}

/// The path of a secret's file, what is said of it, and what it holds.
async fn secret_file(guest: &Guest, lease: &SecretLease, last: &str) -> (String, String, Vec<u8>) {
    let key = SecretUse::file("KEY".parse().expect("a name"));
    let asking = command(&["secret-file", "KEY", last]).with_secrets([key]);
    let mut process = guest.instance().exec(&asking, lease).await.expect("it starts");
    let ran = finish(&mut *process).await.expect("it ends");
    assert_eq!(ran.exit.status, ExitStatus::Code(0), "its variable names a file that it can read: {ran:?}");
    let mut parts = ran.stdout.splitn(3, |byte| *byte == b'\n');
    let mut text = || String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    (text(), text(), parts.next().unwrap_or_default().to_owned())
}

/// Any bytes, whole, and readable for the job's user alone.
#[doc(hidden)]
pub async fn a_secret_can_be_a_file(bench: Arc<dyn Bench>) {
    let (_rig, claim) = claim().await.expect("a claim");
    let guest = sandbox(&bench).await;
    let any: Vec<u8> = (0..10_000_u32).map(|number| number.to_le_bytes()[0]).collect();
    for value in [any, Vec::new()] {
        let lease = lease(&claim, "KEY", value.clone()).expect("a lease");
        let (path, kind, content) = secret_file(&guest, &lease, "").await;
        assert!(content == value, "{} bytes of {} were in it, or others", content.len(), value.len());
        let mode = kind.split(' ').next().and_then(|mode| u32::from_str_radix(mode, 8).ok()).expect("a mode");
        assert_eq!(mode & 0o170_077, 0o100_000, "a plain file for the job's user alone: {kind}");
        let after = guest.run(&["read", &path]).await.expect("it runs");
        assert_eq!(after.exit.status, ExitStatus::Code(1), "{path} is still there, without its program");
    }
    gone(guest).await;
}

/// It goes with the program that asked for it, whoever lives on, and not before; and nobody else is told of it.
#[doc(hidden)]
pub async fn a_secret_file_goes_with_its_program(bench: Arc<dyn Bench>) {
    let (_rig, claim) = claim().await.expect("a claim");
    let secret = unique("secret-");
    let lease = lease(&claim, "KEY", secret.clone()).expect("a lease");
    let guest = sandbox(&bench).await;
    // Two at once: the one's end is not the other's.
    let key = SecretUse::file("KEY".parse().expect("a name"));
    let staying = command(&["secret-file", "KEY", "stay"]).with_secrets([key]);
    let mut staying = guest.instance().exec(&staying, &lease).await.expect("it starts");
    let path =
        line(&mut *staying).await.expect("it says where").lines().next().unwrap_or_default().to_owned();
    let (other, _, content) = secret_file(&guest, &lease, "leave").await;
    assert!(content == secret.as_bytes(), "the second one has it too");
    assert_ne!(guest.run(&["read", &other]).await.expect("it runs").exit.status, ExitStatus::Code(0));
    assert_ne!(other, path, "each has a file of its own");
    let beside = guest.run(&["read", &path]).await.expect("it runs").text();
    assert_eq!(beside, secret, "the first one's has gone with another's end");
    assert_eq!(guest.run(&["environment"]).await.expect("it runs").text(), "", "it did not ask");
    staying.signal(Signal::Kill).await.expect("it is there");
    finish(&mut *staying).await.expect("it ends");
    drop(staying);
    let after = guest.run(&["read", &path]).await.expect("it runs").exit.status;
    assert_eq!(after, ExitStatus::Code(1), "{path} is still there, without its program");
    gone(guest).await;
}

#[doc(hidden)]
pub async fn a_secret_that_is_not_leased_is_not_found(bench: Arc<dyn Bench>) {
    let (_rig, claim) = claim().await.expect("a claim");
    let lease = lease(&claim, "TOKEN", VALUE).expect("a lease");
    let guest = sandbox(&bench).await;
    let asking =
        command(&["exit", "0"]).with_secrets(["OTHER".parse::<ci_core::id::SecretName>().expect("a name")]);
    let error = refusal(guest.instance().exec(&asking, &lease).await);
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
    gone(guest).await;
}

#[doc(hidden)]
pub async fn secrets_end_with_the_claim(bench: Arc<dyn Bench>) {
    let (rig, claim) = claim().await.expect("a claim");
    let lease = lease(&claim, "TOKEN", VALUE).expect("a lease");
    let guest = sandbox(&bench).await;
    rig.clock.advance(Duration::from_hours(1));
    let asking =
        command(&["environment"]).with_secrets(["TOKEN".parse::<ci_core::id::SecretName>().expect("a name")]);
    let error = refusal(guest.instance().exec(&asking, &lease).await);
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error:?}");
    gone(guest).await;
}

/// What is said before a sandbox is made is said of the sandbox too: no less, and no more.
#[doc(hidden)]
pub async fn every_guarantee_is_held_or_says_why_not(bench: Arc<dyn Bench>) {
    let declared = bench.backend().capabilities().isolation;
    let both: Vec<_> =
        declared.held.iter().filter(|guarantee| declared.missing.contains_key(guarantee)).collect();
    assert!(both.is_empty(), "both held and missing: {both:?}");
    for (guarantee, why) in &declared.missing {
        assert!(!why.trim().is_empty(), "{guarantee:?} is missing, and nobody says why");
    }
    let guest = sandbox(&bench).await;
    let of_it = guest.instance().isolation().clone();
    let lost: Vec<_> = declared.held.difference(&of_it.held).collect();
    assert!(lost.is_empty(), "declared, and not held by the sandbox: {lost:?}");
    gone(guest).await;
}

#[doc(hidden)]
pub async fn what_cannot_be_guaranteed_is_refused(bench: Arc<dyn Bench>) {
    let declared = bench.backend().capabilities().isolation;
    for guarantee in declared.missing.keys() {
        let spec = Spec::new(bench.image()).with_minimum([*guarantee]);
        let error = refusal(bench.backend().create(&SandboxId::random(), &spec).await);
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{guarantee:?}: {error:?}");
    }
    let all: Vec<Guarantee> = declared.held.into_iter().collect();
    let spec = Spec::new(bench.image()).with_minimum(all);
    gone(Guest::of(bench.backend(), spec).await.expect("what is declared can be demanded")).await;
}

#[doc(hidden)]
pub async fn a_network_that_cannot_be_had_is_refused(bench: Arc<dyn Bench>) {
    let capabilities = bench.backend().capabilities();
    let host = Destination::Host(HostName::parse("example.org").expect("a name"));
    let network = Destination::Network("192.0.2.0/24".parse().expect("a network"));
    for (is_offered, destination) in
        [(capabilities.egress_to_hosts, host), (capabilities.egress_to_networks, network)]
    {
        if !is_offered {
            let rule = EgressRule { destination, ports: vec![443] };
            let spec = Spec::new(bench.image()).with_network(NetworkPolicy::Allow(vec![rule]));
            let error = refusal(bench.backend().create(&SandboxId::random(), &spec).await);
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
        }
    }
}
