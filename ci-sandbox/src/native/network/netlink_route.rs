//! Devices, addresses and routes (rtnetlink(7)). Numbers are those of `linux/rtnetlink.h` and its kin.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd as _, BorrowedFd};

use rustix::io::Errno;
use rustix::net::netdevice::name_to_index;

use super::netlink::{Attributes, CREATE, EXCLUSIVE, Message, Socket, is};

const NEW_LINK: u16 = 16;
const REMOVE_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const GET_ADDRESS: u16 = 22;
const NEW_ROUTE: u16 = 24;

/// `AF_INET` and `AF_INET6`.
const IPV4: u8 = 2;
const IPV6: u8 = 10;

/// `IFF_UP` and `IFF_NOARP`.
const UP: u32 = 1;
const NO_ARP: u32 = 0x80;

/// `struct ifinfomsg`.
fn link(index: u32, flags: u32) -> [u8; 16] {
    let mut head = [0; 16];
    head[4..8].copy_from_slice(&index.to_ne_bytes());
    head[8..12].copy_from_slice(&flags.to_ne_bytes());
    head[12..].copy_from_slice(&flags.to_ne_bytes());
    head
}

/// Makes two devices that are joined: `name` here, and `peer` in the network namespace `there`. Both are down.
///
/// Neither asks for or answers with hardware addresses, for there is only one to find: both have the same, so each takes
/// what the other sends. Where there is no ARP, there is none to be forged.
pub(super) fn make_pair(
    socket: &mut Socket,
    name: &str,
    peer: &str,
    there: BorrowedFd<'_>,
    hardware: [u8; 6],
) -> io::Result<()> {
    const HARDWARE: u16 = 1;
    const NAME: u16 = 3;
    const INFORMATION: u16 = 18;
    const NAMESPACE: u16 = 28;
    const SEND_QUEUES: u16 = 31;
    const RECEIVE_QUEUES: u16 = 32;
    // As many queues as processors, which is what a pair gets otherwise, would take memory for nothing.
    let common = |message: Message, name: &str| {
        message
            .with_text(NAME, name)
            .with(HARDWARE, &hardware)
            .with_u32(SEND_QUEUES, 1)
            .with_u32(RECEIVE_QUEUES, 1)
    };
    let head = link(0, NO_ARP);
    let message =
        common(Message::new(NEW_LINK, CREATE | EXCLUSIVE, &head), name).nest(INFORMATION, |information| {
            information.with_text(1, "veth").nest(2, |data| {
                data.nest_after(1, &head, |message| {
                    common(message, peer).with(NAMESPACE, &there.as_raw_fd().to_ne_bytes())
                })
            })
        });
    socket.request(message)
}

/// Removes a device, and the one it is joined to, at once. One that is gone is no error.
pub(super) fn remove(socket: &mut Socket, name: &str) -> io::Result<()> {
    let Some(index) = device(socket, name)? else { return Ok(()) };
    match socket.request(Message::new(REMOVE_LINK, 0, &link(index, 0))) {
        Err(error) if is(&error, Errno::NODEV) => Ok(()),
        removed => removed,
    }
}

/// Brings a device up.
pub(super) fn bring_up(socket: &mut Socket, device: u32) -> io::Result<()> {
    socket.request(Message::new(NEW_LINK, 0, &link(device, UP)))
}

/// Gives a device one address of a /31 network. The way to the other is known from then on if `routed`.
pub(super) fn add_address(
    socket: &mut Socket,
    device: u32,
    address: Ipv4Addr,
    routed: bool,
) -> io::Result<()> {
    const ADDRESS: u16 = 1;
    const LOCAL: u16 = 2;
    const FLAGS: u16 = 8;
    const NO_PREFIX_ROUTE: u32 = 0x200;
    // `struct ifaddrmsg`: family, prefix, flags, scope, device.
    let mut head = [IPV4, 31, 0, 0, 0, 0, 0, 0];
    head[4..].copy_from_slice(&device.to_ne_bytes());
    let message = Message::new(NEW_ADDRESS, CREATE | EXCLUSIVE, &head)
        .with(LOCAL, &address.octets())
        .with(ADDRESS, &address.octets())
        .with_u32(FLAGS, if routed { 0 } else { NO_PREFIX_ROUTE });
    socket.request(message)
}

/// The way to one address: fails with `EEXIST` when there is another.
pub(super) fn add_route(socket: &mut Socket, device: u32, to: Ipv4Addr) -> io::Result<()> {
    const TO: u16 = 1;
    const LINK: u8 = 253;
    socket.request(route(32, LINK, device).with(TO, &to.octets()))
}

/// The way to everywhere else.
pub(super) fn add_default_route(socket: &mut Socket, device: u32, via: Ipv4Addr) -> io::Result<()> {
    const GATEWAY: u16 = 5;
    const UNIVERSE: u8 = 0;
    socket.request(route(0, UNIVERSE, device).with(GATEWAY, &via.octets()))
}

fn route(prefix: u8, scope: u8, device: u32) -> Message {
    const DEVICE: u16 = 4;
    const MAIN: u8 = 254;
    const STATIC: u8 = 4;
    const UNICAST: u8 = 1;
    // `struct rtmsg`: family, length of destination and source, type of service, table, protocol, scope, type, flags.
    let head = [IPV4, prefix, 0, 0, MAIN, STATIC, scope, UNICAST, 0, 0, 0, 0];
    Message::new(NEW_ROUTE, CREATE | EXCLUSIVE, &head).with_u32(DEVICE, device)
}

/// Whether packets to `address` leave this machine for one other machine. They do not where the address is the machine's
/// own, on whichever interface, or a broadcast, or where the kernel has been told to keep them in.
/// An error when there is no route at all.
///
/// The kernel is asked each time: addresses come and go.
pub(super) fn leads_away(address: IpAddr) -> io::Result<bool> {
    const GET_ROUTE: u16 = 26;
    const DESTINATION: u16 = 1;
    const UNICAST: u8 = 1;
    const TYPE: usize = 7;
    let (family, octets) = match address {
        IpAddr::V4(v4) => (IPV4, v4.octets().to_vec()),
        IpAddr::V6(v6) => (IPV6, v6.octets().to_vec()),
    };
    let prefix = if address.is_ipv4() { 32 } else { 128 };
    let question = Message::new(GET_ROUTE, 0, &[family, prefix, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let mut kind = None;
    Socket::route()?
        .look_up(question.with(DESTINATION, &octets), |answer| kind = answer.get(TYPE).copied())?;
    kind.map(|kind| kind == UNICAST).ok_or(io::ErrorKind::InvalidData.into())
}

/// The number of the device of this name, if there is one. It takes no lock that the kernel holds while it removes
/// devices.
pub(super) fn device(socket: &Socket, name: &str) -> io::Result<Option<u32>> {
    match name_to_index(socket.file(), name) {
        Err(Errno::NODEV) => Ok(None),
        index => Ok(Some(index?)),
    }
}

/// The names of all devices.
pub(super) fn devices(socket: &mut Socket) -> io::Result<Vec<String>> {
    const NAME: u16 = 3;
    /// `IFLA_EXT_MASK` and `RTEXT_FILTER_SKIP_STATS`.
    const EXTENT: u16 = 29;
    const NO_STATISTICS: u32 = 8;
    let mut names = Vec::new();
    let all = Message::new(GET_LINK, 0, &link(0, 0)).with_u32(EXTENT, NO_STATISTICS);
    socket.dump(all, |message| {
        names.extend(Attributes::after(message, 16).get(NAME).map(text));
    })?;
    Ok(names)
}

/// This machine's addresses of IPv4, and the names under which they were given.
pub(super) fn addresses(socket: &mut Socket) -> io::Result<Vec<(Ipv4Addr, String)>> {
    const LOCAL: u16 = 2;
    const LABEL: u16 = 3;
    const HEAD: usize = 8;
    let mut all = Vec::new();
    let mut head = [0; HEAD];
    head[0] = IPV4;
    socket.dump(Message::new(GET_ADDRESS, 0, &head), |message| {
        let attributes = Attributes::after(message, HEAD);
        if let Some(Ok(address)) = attributes.get(LOCAL).map(<[u8; 4]>::try_from) {
            all.push((address.into(), attributes.get(LABEL).map(text).unwrap_or_default()));
        }
    })?;
    Ok(all)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.strip_suffix(&[0]).unwrap_or(bytes)).into_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_machines_own_addresses_lead_nowhere() {
        for own in ["127.0.0.1", "127.9.9.9", "0.0.0.0"] {
            assert!(!leads_away(own.parse().unwrap()).unwrap(), "{own}");
        }
        // The machine may be in no network, and IPv6 may be off: then there is no route, which is as good.
        for own in ["255.255.255.255", "224.0.0.1", "::1"] {
            assert!(!leads_away(own.parse().unwrap()).unwrap_or(false), "{own}");
        }
    }
}
