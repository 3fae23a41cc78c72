//! Secrets, and what a sandbox says of itself.

use std::sync::Arc;
use std::time::Duration;

use ci_core::ErrorKind;
use ci_core::id::SandboxId;
use ci_core::network::{Destination, EgressRule, HostName, NetworkPolicy};
use ci_core::sandbox::{Guarantee, Spec};

use super::{gone, refusal, sandbox};
use crate::conformance::Bench;
use crate::conformance::attack::{claim, lease};
use crate::conformance::guest::{Guest, command, finish};

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
