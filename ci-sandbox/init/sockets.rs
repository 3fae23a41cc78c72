//! Sockets that the supervisor serves from outside.
//!
//! A socket belongs for life to the network namespace that it was made in, whoever holds it. So what serves a sandbox
//! need not run inside: process 1 opens the sockets, while it still has the powers for it, and hands them out. The job
//! can connect to them and nothing else.

use core::net::{IpAddr, SocketAddr};

use crate::failure::{At, Failure};
use crate::sys::{self, Fd, Raw};
use crate::wire::{List, MOST_SOCKETS, Socket, Stage};

/// How many connections may wait to be taken.
const BACKLOG: usize = 128;

/// The sockets of the configuration, in its order.
pub(crate) struct Sockets([Option<Fd>; MOST_SOCKETS]);

impl Sockets {
    /// Opens them.
    pub(crate) fn open(mut wanted: List<'_>) -> Result<Self, Failure> {
        let mut sockets = [const { None }; MOST_SOCKETS];
        for (item, place) in (0..wanted.count).zip(&mut sockets) {
            let socket = Socket::read(&mut wanted.records);
            let socket = socket.ok_or(Failure::malformed(Stage::Configuration))?;
            *place = Some(open(socket).at_item(Stage::Sockets, item)?);
        }
        Ok(Self(sockets))
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Raw> {
        self.0.iter().flatten().map(|file| **file)
    }
}

fn open(wanted: Socket) -> sys::Result<Fd> {
    match wanted {
        Socket::Listener(address) => {
            let listener = bound(address, sys::SOCK_STREAM)?;
            sys::listen(*listener, BACKLOG)?;
            Ok(listener)
        }
        Socket::Datagram(address) => bound(address, sys::SOCK_DGRAM),
    }
}

fn bound(address: SocketAddr, kind: usize) -> sys::Result<Fd> {
    // `struct sockaddr_in` and `struct sockaddr_in6` (ip(7), ipv6(7)): family, port and, for IPv6, flow come before
    // the address, padding or scope after it.
    let mut name = [0_u8; 28];
    let (family, length) = match address.ip() {
        IpAddr::V4(v4) => {
            name[4..8].copy_from_slice(&v4.octets());
            (sys::AF_INET, 16)
        }
        IpAddr::V6(v6) => {
            name[8..24].copy_from_slice(&v6.octets());
            (sys::AF_INET6, 28)
        }
    };
    name[..2].copy_from_slice(&family.to_ne_bytes());
    name[2..4].copy_from_slice(&address.port().to_be_bytes());
    let socket = sys::socket(family, kind)?;
    sys::bind(*socket, &name[..length])?;
    Ok(socket)
}
