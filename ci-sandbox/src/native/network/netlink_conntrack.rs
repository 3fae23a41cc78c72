//! The connections that the kernel remembers (conntrack(8)). Numbers are those of
//! `linux/netfilter/nfnetlink_conntrack.h`.

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;

use rustix::io::Errno;

use super::netlink::{Attributes, Message, Socket, is};
use super::nft::IPV4;

const GET: u16 = 1;
const DELETE: u16 = 2;

/// `CTA_TUPLE_ORIG`, in it `CTA_TUPLE_IP`, in it `CTA_IP_V4_SRC`.
const ORIGINAL: u16 = 1;
const NETWORK: u16 = 1;
const SOURCE: u16 = 1;
/// `CTA_ID` and `CTA_ZONE`: what else names one connection.
const NUMBER: u16 = 12;
const ZONE: u16 = 18;
/// `CTA_FILTER`, in it which parts of the original and of the answer's tuple are compared. Linux 5.8 and later; others
/// send all.
const FILTER: u16 = 25;
const COMPARE_SOURCE: u32 = 1;

const HEAD: usize = 4;

/// Makes the kernel forget all connections that one of `sources` began, and returns how many they were. It goes through
/// all connections of the machine once.
///
/// # Errors
///
/// Those of the kernel. One that ends by itself meanwhile is none.
pub(super) fn forget(socket: &mut Socket, sources: &BTreeSet<Ipv4Addr>) -> io::Result<usize> {
    let mut found = Vec::new();
    let of_one = |source: &Ipv4Addr| {
        message(GET)
            .nest(ORIGINAL, |tuple| tuple.nest(NETWORK, |network| network.with(SOURCE, &source.octets())))
            .nest(FILTER, |filter| {
                filter.with(1, &COMPARE_SOURCE.to_ne_bytes()).with(2, &0_u32.to_ne_bytes())
            })
    };
    // The kernel compares with one, or sends all.
    let all = match (sources.first(), sources.len()) {
        (None, _) => return Ok(0),
        (Some(only), 1) => of_one(only),
        _ => message(GET),
    };
    socket.dump(all, |reply| {
        let connection = Attributes::after(reply, HEAD);
        let Some(tuple) = connection.get(ORIGINAL) else { return };
        let source = Attributes::new(tuple).within(NETWORK).get(SOURCE);
        let source = source.and_then(|octets| <[u8; 4]>::try_from(octets).ok()).map(Ipv4Addr::from);
        if source.is_none_or(|source| !sources.contains(&source)) {
            return;
        }
        let named = message(DELETE).nest(ORIGINAL, |inside| inside.with_bytes(tuple));
        let also = [NUMBER, ZONE].into_iter().filter_map(|kind| Some((kind, connection.get(kind)?)));
        found.push(also.fold(named, |named, (kind, value)| named.with(kind, value)));
    })?;
    let count = found.len();
    for each in found {
        match socket.request(each) {
            Err(error) if is(&error, Errno::NOENT) => {}
            forgotten => forgotten?,
        }
    }
    Ok(count)
}

fn message(kind: u16) -> Message {
    const CONNECTIONS: u16 = 1;
    Message::netfilter(CONNECTIONS << 8 | kind, 0, IPV4)
}
