//! Whether an address is one of this machine's own.

use std::io;
use std::net::IpAddr;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};

/// Whether packets to `address` leave this machine for one other machine. They do not where the address is the machine's
/// own, on whichever interface, or a broadcast, or where the kernel has been told to keep them in.
/// An error when there is no route at all.
///
/// The kernel is asked (rtnetlink(7)), each time: addresses come and go.
pub(super) fn leads_away(address: IpAddr) -> io::Result<bool> {
    const UNICAST: u8 = 1;
    kind_of_route(address).map(|kind| kind == UNICAST)
}

/// The `rtm_type` of the route to `address`.
fn kind_of_route(address: IpAddr) -> io::Result<u8> {
    // Its protocol 0 is NETLINK_ROUTE.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    sendto(&socket, &question(address), SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut answer = [0; 1024];
    // The kernel answers while it takes the question, so there is nothing to wait for.
    let (length, _) = recv(&socket, &mut answer, RecvFlags::DONTWAIT)?;
    kind_in(&answer[..length]).unwrap_or_else(|| Err(io::ErrorKind::InvalidData.into()))
}

const HEADER: usize = 16;
const ROUTE_MESSAGE: usize = 12;

/// `RTM_GETROUTE`: a `struct nlmsghdr`, a `struct rtmsg`, and the destination as an attribute.
fn question(address: IpAddr) -> Vec<u8> {
    const GET_ROUTE: u16 = 26;
    const REQUEST: u16 = 1;
    const DESTINATION: u16 = 1;
    let (family, octets) = match address {
        IpAddr::V4(v4) => (AddressFamily::INET, v4.octets().to_vec()),
        IpAddr::V6(v6) => (AddressFamily::INET6, v6.octets().to_vec()),
    };
    let attribute = 4 + octets.len();
    let length = HEADER + ROUTE_MESSAGE + attribute;
    let mut question = Vec::with_capacity(length);
    question.extend(u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
    question.extend(GET_ROUTE.to_ne_bytes());
    question.extend(REQUEST.to_ne_bytes());
    question.extend([0; 8]);
    let prefix = u8::try_from(octets.len() * 8).unwrap_or(u8::MAX);
    question.extend([u8::try_from(family.as_raw()).unwrap_or(0), prefix]);
    question.extend([0; ROUTE_MESSAGE - 2]);
    question.extend(u16::try_from(attribute).unwrap_or(u16::MAX).to_ne_bytes());
    question.extend(DESTINATION.to_ne_bytes());
    question.extend(octets);
    question
}

/// What an answer says; nothing when it is none.
fn kind_in(answer: &[u8]) -> Option<io::Result<u8>> {
    const ERROR: u16 = 2;
    const NEW_ROUTE: u16 = 24;
    const TYPE: usize = 7;
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    let body = answer.get(HEADER..)?;
    match kind {
        NEW_ROUTE => Some(Ok(*body.get(TYPE)?)),
        ERROR => {
            let errno = i32::from_ne_bytes(body.get(..4)?.try_into().ok()?);
            Some(Err(io::Error::from_raw_os_error(errno.saturating_neg())))
        }
        _ => None,
    }
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

    #[test]
    fn what_is_no_answer_is_an_error() {
        assert!(kind_in(&[]).is_none() && kind_in(&[0; 19]).is_none());
        let mut error = [0; 20];
        error[4] = 2;
        error[16..].copy_from_slice(&(-101_i32).to_ne_bytes());
        assert_eq!(kind_in(&error).unwrap().unwrap_err().raw_os_error(), Some(101));
    }
}
