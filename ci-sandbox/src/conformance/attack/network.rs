//! The network, where the policy is that there is none.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ci_core::Result;

use super::stage::gone;
use super::{Outcome, Stage};
use crate::conformance::guest::{line, unexpected};
use crate::conformance::machine::{Listeners, own_addresses, says, target, unique};

const LOCAL: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

pub(super) async fn devices_and_routes(stage: &Stage) -> Result<Outcome> {
    // Of the Internet, of private networks, and of this machine: to look a route up sends nothing.
    let mut addresses: Vec<IpAddr> = vec![
        Ipv4Addr::new(192, 0, 2, 1).into(),
        Ipv4Addr::new(198, 51, 100, 1).into(),
        Ipv4Addr::new(10, 0, 0, 1).into(),
        Ipv4Addr::new(172, 17, 0, 1).into(),
        Ipv4Addr::new(192, 168, 0, 1).into(),
        Ipv4Addr::new(224, 0, 0, 1).into(),
        Ipv4Addr::BROADCAST.into(),
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1).into(),
    ];
    addresses.extend(own_addresses().into_iter().filter(|ip| !ip.is_loopback()));
    let targets: Vec<_> = addresses.into_iter().map(|ip| target(ip, 9)).collect();
    attack(stage, "N-1", &targets).await
}

async fn attack(stage: &Stage, id: &str, targets: &[String]) -> Result<Outcome> {
    let words: Vec<&str> = std::iter::once(id).chain(targets.iter().map(String::as_str)).collect();
    stage.guest().await?.attack(&words).await
}

pub(super) async fn sibling(stage: &Stage) -> Result<Outcome> {
    let word = unique("sibling-");
    let other = stage.fresh().await?;
    let mut listener = other.start(&["listen", &word]).await?;
    let port = port_of(&line(&mut *listener).await?)?;
    let addresses = LOCAL.into_iter().chain(own_addresses());
    let targets: Vec<_> = addresses.map(|ip| target(ip, port)).collect();
    let outcome = attack(stage, "N-2", &targets).await;
    drop(listener);
    gone(other).await?;
    outcome
}

pub(crate) fn port_of(said: &str) -> Result<u16> {
    said.parse().map_err(|_| unexpected("listen in a sandbox", format!("it said {said:?}")))
}

fn listeners() -> Result<Listeners> {
    Listeners::new().map_err(|error| unexpected("listen on this machine", format!("{error}")))
}

pub(super) async fn host(stage: &Stage) -> Result<Outcome> {
    let listeners = listeners()?;
    let addresses = LOCAL.into_iter().chain(own_addresses());
    let targets: Vec<_> = addresses.map(|ip| target(ip, listeners.port(ip))).collect();
    let outcome = attack(stage, "N-3", &targets).await?;
    Ok(match listeners.visits() {
        0 => outcome,
        visits => Outcome::Broken(format!("it could: come to a listener of the machine, {visits} times")),
    })
}

pub(super) async fn abstract_names(stage: &Stage) -> Result<Outcome> {
    let listeners = listeners()?;
    let engines = ["/run/docker.sock", "/var/run/docker.sock", "/run/containerd/containerd.sock"];
    let names = std::iter::once(listeners.local_name())
        .chain(["/run/podman/podman.sock", "@/containerd-shim/attack"].map(str::to_owned))
        .chain(engines.map(str::to_owned));
    let outcome = attack(stage, "N-3-local", &names.collect::<Vec<_>>()).await?;
    Ok(match listeners.visits() {
        0 => outcome,
        visits => Outcome::Broken(format!("it could: come to an abstract name outside, {visits} times")),
    })
}

pub(super) async fn metadata(stage: &Stage) -> Result<Outcome> {
    let metadata = Ipv4Addr::new(169, 254, 169, 254);
    let addresses: [IpAddr; 8] = [
        metadata.into(),
        Ipv4Addr::new(169, 254, 170, 2).into(),
        Ipv4Addr::new(100, 100, 100, 200).into(),
        metadata.to_ipv6_mapped().into(),
        Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254).into(),
        Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe).into(),
        Ipv4Addr::UNSPECIFIED.into(),
        Ipv6Addr::UNSPECIFIED.into(),
    ];
    let targets: Vec<_> = addresses.into_iter().map(|ip| target(ip, 80)).collect();
    attack(stage, "N-4", &targets).await
}

pub(super) async fn inbound(stage: &Stage) -> Result<Outcome> {
    let word = unique("inbound-");
    let guest = stage.fresh().await?;
    let mut listener = guest.start(&["listen", &word]).await?;
    let port = port_of(&line(&mut *listener).await?)?;
    let mut reached = None;
    for ip in LOCAL.into_iter().chain(own_addresses()) {
        let (address, word) = (SocketAddr::new(ip, port), word.clone());
        let answers = tokio::task::spawn_blocking(move || says(address, &word)).await;
        if answers.unwrap_or(false) {
            reached = Some(ip);
        }
    }
    drop(listener);
    gone(guest).await?;
    Ok(match reached {
        Some(ip) => Outcome::Broken(format!("it could: be reached from outside, at {ip}")),
        None => Outcome::Held("its listener is reached from nowhere outside".to_owned()),
    })
}
