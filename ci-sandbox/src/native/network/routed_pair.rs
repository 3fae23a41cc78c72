//! A sandbox's network card: two joined devices, one end here and one inside.

use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, OwnedFd};

use ci_core::{Error, ErrorKind, Result};
use rustix::thread::{
    LinkNameSpaceType, ThreadNameSpaceType, move_into_link_name_space, move_into_thread_name_spaces,
};

use super::CREATE;
use super::addresses::Pair;
use super::netlink::Socket;
use super::netlink_route as route;
use super::netlink_sockets as sockets;
use super::routed_rules::{Allowed, unreachable};

/// The network of the calling thread.
const NETWORK: &str = "/proc/thread-self/ns/net";
/// The name of the end inside.
const INSIDE: &str = "eth0";

/// A link that is to be made.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) device: String,
    pub(super) pair: Pair,
    pub(super) allowed: Vec<Allowed>,
}

impl Plan {
    /// Makes it, up and with its addresses, into the network of `process`, and returns that network. What was made when
    /// it fails goes with it.
    ///
    /// It blocks, and takes the calling thread into that network and back: a thread of its own.
    pub(super) fn make(&self, process: &OwnedFd) -> Result<OwnedFd> {
        let Self { device, pair, allowed } = self;
        let mut here = Socket::route().map_err(doing("reach the machine's network"))?;
        let own = route::addresses(&mut here).map_err(doing("list the machine's addresses"))?;
        refuse_own(allowed, &own)?;

        let Inside { namespace, mut socket } =
            Inside::of(process).map_err(doing("enter the sandbox's network"))?;
        let [a, b, c, d] = pair.inside().octets();
        // A local, administered address that nobody else on this machine has.
        route::make_pair(&mut here, device, INSIDE, namespace.as_fd(), [2, 0, a, b, c, d])
            .map_err(doing("make the pair of devices"))?;
        set(&format!("ipv6/conf/{device}/disable_ipv6"), "1").map_err(doing("switch IPv6 off"))?;
        set(&format!("ipv4/conf/{device}/forwarding"), "1").map_err(doing("let the device forward"))?;
        let outside = index(&here, device).map_err(doing("find the device"))?;
        route::add_address(&mut here, outside, pair.outside(), false)
            .map_err(doing("give the device its address"))?;
        route::bring_up(&mut here, outside).map_err(doing("bring the device up"))?;
        route::add_route(&mut here, outside, pair.inside())
            .map_err(doing("add the route; nothing else may use the addresses of routed sandboxes"))?;

        let inside = index(&socket, INSIDE).map_err(doing("find the device inside"))?;
        route::add_address(&mut socket, inside, pair.inside(), true)
            .and_then(|()| route::bring_up(&mut socket, inside))
            .and_then(|()| route::add_default_route(&mut socket, inside, pair.outside()))
            .map_err(doing("set the device inside up"))?;
        Ok(namespace)
    }
}

/// The network of a sandbox, seen from here.
struct Inside {
    namespace: OwnedFd,
    socket: Socket,
}

impl Inside {
    /// Looks into it. No device that comes into it will speak IPv6.
    fn of(process: &OwnedFd) -> io::Result<Self> {
        let enter = || move_into_thread_name_spaces(process.as_fd(), ThreadNameSpaceType::NETWORK);
        visit(enter, || {
            set("ipv6/conf/default/disable_ipv6", "1")?;
            Ok(Self { namespace: File::open(NETWORK)?.into(), socket: Socket::route()? })
        })
    }
}

/// Ends what goes on in a network without any process. It blocks, and takes the calling thread there and back.
pub(super) fn end_connections(network: &OwnedFd) -> io::Result<()> {
    let mut socket = visit(|| enter(network), Socket::sockets)?;
    sockets::end_all(&mut socket)
}

/// Goes to another network and back.
fn visit<T>(
    enter_it: impl FnOnce() -> rustix::io::Result<()>,
    look: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    let here = File::open(NETWORK)?.into();
    enter_it()?;
    let seen = look();
    enter(&here)?;
    seen
}

fn enter(network: &OwnedFd) -> rustix::io::Result<()> {
    move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))
}

/// Sets something below `/proc/sys/net`; a kernel without IPv6 has nothing to be set for it.
fn set(name: &str, value: &str) -> io::Result<()> {
    match fs::write(format!("/proc/sys/net/{name}"), value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !fs::exists("/proc/sys/net/ipv6")? => Ok(()),
        set => set,
    }
}

fn index(socket: &Socket, device: &str) -> io::Result<u32> {
    route::device(socket, device)?.ok_or(io::ErrorKind::NotFound.into())
}

/// Refuses rules that name an address of this machine. In a larger network it is just not reached.
fn refuse_own(allowed: &[Allowed], own: &[(Ipv4Addr, String)]) -> Result<()> {
    let is_own = |allowed: &&Allowed| own.iter().any(|(address, _)| allowed.network == (*address, 32));
    match allowed.iter().find(is_own) {
        None => Ok(()),
        Some(Allowed { network: (address, prefix), .. }) => {
            Err(unreachable(format!("{address}/{prefix}").parse()?))
        }
    }
}

fn doing(what: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |error| {
        Error::new(ErrorKind::Unavailable, CREATE)
            .because("its routed network cannot be made")
            .detail(format!("could not {what}"))
            .caused_by(error)
    }
}
