//! The end of links whose owners are dead.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rustix::io::Errno;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use super::addresses::{self, Tag};
use super::netlink::{Attributes, Message, Socket, is};
use super::netlink_conntrack as conntrack;
use super::netlink_route as route;
use super::nft;
use super::routed_config::RoutedNetwork;
use super::routed_end::BY_ITSELF;

/// Waits until a dead owner's device is gone, and clears what else is left of it. False when that takes longer than
/// `patience`, or does not work.
pub(in crate::native) async fn clear(device: &str, patience: Duration) -> bool {
    let Some((_, pair)) = Tag::of_device(device) else { return true };
    if !vanishes(device, patience).await || forget(pair.inside()).await.is_err() {
        return false;
    }
    Socket::netfilter().and_then(|mut netfilter| sweep(&mut netfilter, RoutedNetwork::REST)).is_ok()
}

/// Waits for the end of a device, which comes with that of its sandbox's network. When it does not, because something
/// holds that network, the device is removed out of it: false only when the kernel does not do that either.
async fn vanishes(device: &str, patience: Duration) -> bool {
    if is_away(device, BY_ITSELF.min(patience)).await {
        return true;
    }
    let name = device.to_owned();
    // It waits for the kernel's other processors.
    let remove = move || Socket::route().and_then(|mut route| route::remove(&mut route, &name));
    matches!(spawn_blocking(remove).await, Ok(Ok(()))) && is_away(device, patience).await
}

async fn is_away(device: &str, patience: Duration) -> bool {
    const BETWEEN: Duration = Duration::from_millis(2);
    let Ok(socket) = Socket::route() else { return false };
    let deadline = Instant::now() + patience;
    loop {
        match route::device(&socket, device) {
            Ok(None) => return true,
            Ok(Some(_)) if Instant::now() < deadline => sleep(BETWEEN).await,
            _ => return false,
        }
    }
}

/// Makes the kernel forget the connections of an address.
async fn forget(source: Ipv4Addr) -> io::Result<()> {
    let mut netfilter = Socket::netfilter()?;
    // The kernel goes through all connections of the machine.
    let forget = move || conntrack::forget(&mut netfilter, &BTreeSet::from([source])).map(drop);
    spawn_blocking(forget).await.map_err(io::Error::other)?
}

/// Removes the firewalls of dead owners that have no device any more, and lets their addresses rest.
pub(super) fn sweep(netfilter: &mut Socket, rest: Duration) -> io::Result<()> {
    let taken = match addresses::taken(netfilter) {
        // Nobody has ever claimed one.
        Err(error) if is(&error, Errno::NOENT) => BTreeMap::new(),
        taken => taken?,
    };
    let mut tables = BTreeSet::new();
    netfilter.dump(nft::list_tables(), |message| {
        let name = Attributes::after(message, nft::HEAD).get(nft::TABLE_NAME).unwrap_or_default();
        let name = String::from_utf8_lossy(name.strip_suffix(&[0]).unwrap_or(name));
        tables.extend(Tag::of_table(&name));
    })?;
    let mut route = Socket::route()?;
    let tags: BTreeSet<&Tag> = tables.iter().chain(taken.values().flatten()).collect();
    for tag in tags {
        // Whoever can take it knows that nobody has it, and keeps others from it meanwhile.
        let Ok(_sign) = sign(tag) else { continue };
        if route::devices(&mut route)?.iter().any(|device| device.starts_with(&tag.devices())) {
            continue;
        }
        let mut messages: Vec<Message> = Vec::new();
        if tables.contains(tag) {
            messages.push(nft::delete_table(&tag.table()));
        }
        let claims = taken.iter().filter(|(_, owner)| owner.as_ref() == Some(tag));
        messages.extend(claims.flat_map(|(pair, _)| addresses::give_back(*pair, rest)));
        match netfilter.transaction(messages) {
            // Somebody else who sweeps was faster.
            Err(error) if is(&error, Errno::NOENT) => {}
            swept => swept?,
        }
    }
    Ok(())
}

/// A tag, and the sign that it is taken.
pub(super) fn choose_tag() -> io::Result<(Tag, UnixDatagram)> {
    const ATTEMPTS: usize = 16;
    for _ in 0..ATTEMPTS {
        let tag = Tag::random()?;
        match sign(&tag) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            taken => return Ok((tag, taken?)),
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}

/// A name in the network namespace that one at a time can have, and that its owner's death frees (unix(7)).
fn sign(tag: &Tag) -> io::Result<UnixDatagram> {
    UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(tag.table())?)
}
