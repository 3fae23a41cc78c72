//! Sandboxes that share a network, and nothing else.

use std::sync::Arc;

use ci_core::ErrorKind;
use ci_core::id::SandboxId;
use ci_core::sandbox::Spec;

use super::{gone, refusal, sandbox};
use crate::conformance::Bench;
use crate::conformance::attack::port_of;
use crate::conformance::guest::{Guest, line, within};

/// A job and its service; nothing where the backend has none, which it then says.
async fn pair(bench: &Arc<dyn Bench>) -> Option<(Guest, Guest)> {
    let job = sandbox(bench).await;
    if bench.backend().capabilities().services {
        let service = Guest::beside(bench.backend(), Spec::new(bench.image()), &job.id).await;
        return Some((job, service.expect("a sandbox beside another")));
    }
    let made = bench.backend().create_beside(&SandboxId::random(), &Spec::new(bench.image()), &job.id).await;
    assert_eq!(refusal(made).kind(), ErrorKind::Unsupported);
    gone(job).await;
    None
}

/// What a program in `guest` hears at a port of its own.
async fn heard(guest: &Guest, port: u16) -> String {
    let ran = guest.run(&["talk", &format!("127.0.0.1/{port}")]).await.expect("it runs");
    ran.text().split_whitespace().last().unwrap_or_default().to_owned()
}

#[doc(hidden)]
pub async fn a_service_is_reached_at_loopback(bench: Arc<dyn Bench>) {
    let Some((job, service)) = pair(&bench).await else { return };
    let stranger = sandbox(&bench).await;
    for (server, client) in [(&service, &job), (&job, &service)] {
        let mut listener = server.start(&["listen", "served\n"]).await.expect("it starts");
        let port = port_of(&line(&mut *listener).await.expect("it listens")).expect("a port");
        assert_eq!(heard(client, port).await, "served");
        assert_eq!(heard(&stranger, port).await, "", "a stranger reaches it");
    }
    for guest in [stranger, service, job] {
        gone(guest).await;
    }
}

#[doc(hidden)]
pub async fn each_ends_without_the_other(bench: Arc<dyn Bench>) {
    let Some((job, service)) = pair(&bench).await else { return };
    gone(service).await;
    assert!(job.run(&["exit", "0"]).await.expect("the job lives").exit.status.is_success());
    let service =
        Guest::beside(bench.backend(), Spec::new(bench.image()), &job.id).await.expect("a second one");
    let id = job.id.clone();
    gone(job).await;
    let ran = within("run a program in a service", service.run(&["exit", "0"])).await;
    assert!(ran.is_ok_and(|ran| ran.exit.status.is_success()), "the service has ended with its job");
    for late in [id, SandboxId::random()] {
        let made = Guest::beside(bench.backend(), Spec::new(bench.image()), &late).await;
        assert_eq!(refusal(made).kind(), ErrorKind::Unavailable, "beside one that is gone");
    }
    gone(service).await;
}
