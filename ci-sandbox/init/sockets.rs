//! Sockets that the supervisor serves from outside.
//!
//! A socket belongs for life to the network namespace that it was made in, whoever holds it. So what serves a sandbox
//! need not run inside: process 1 opens the sockets, while it still has the powers for it, and hands them out. The job
//! can connect to them and nothing else.

use crate::failure::{At, Failure};
use crate::sys::{self, Errno, Fd, Raw};
use crate::wire::{List, MOST_SOCKETS, SocketRecord, Stage, socket};

/// How many connections may wait to be taken.
const BACKLOG: usize = 128;

/// The sockets of the configuration, in its order.
pub(crate) struct Sockets([Option<Fd>; MOST_SOCKETS]);

impl Sockets {
    /// Opens them.
    pub(crate) fn open(mut wanted: List<'_>) -> Result<Self, Failure> {
        let mut sockets = [const { None }; MOST_SOCKETS];
        for (item, place) in (0..wanted.count).zip(&mut sockets) {
            let record = SocketRecord::read(&mut wanted.records);
            let record = record.ok_or(Failure::malformed(Stage::Configuration))?;
            *place = Some(open(&record).at_item(Stage::Sockets, item)?);
        }
        Ok(Self(sockets))
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Raw> {
        self.0.iter().flatten().map(|file| **file)
    }
}

fn open(record: &SocketRecord) -> sys::Result<Fd> {
    match record.kind {
        socket::LISTENER => {
            let listener = bound(record, sys::SOCK_STREAM)?;
            sys::listen(*listener, BACKLOG)?;
            Ok(listener)
        }
        socket::DATAGRAM => bound(record, sys::SOCK_DGRAM),
        socket::ROUTE => sys::socket(sys::AF_NETLINK, sys::SOCK_RAW),
        _ => Err(Errno::EINVAL),
    }
}

fn bound(record: &SocketRecord, kind: usize) -> sys::Result<Fd> {
    let address = &record.address[..record.length];
    // `struct sockaddr_in` and `struct sockaddr_in6` (ip(7), ipv6(7)): family, port and, for IPv6, flow come before
    // the address, padding or scope after it.
    let (family, at, length) = match address.len() {
        4 => (sys::AF_INET, 4, 16),
        16 => (sys::AF_INET6, 8, 28),
        _ => return Err(Errno::EINVAL),
    };
    let mut name = [0_u8; 28];
    name[..2].copy_from_slice(&family.to_ne_bytes());
    name[2..4].copy_from_slice(&record.port.to_be_bytes());
    name[at..at + address.len()].copy_from_slice(address);
    let socket = sys::socket(family, kind)?;
    sys::bind(*socket, &name[..length])?;
    Ok(socket)
}
