//! Where the packets of routed sandboxes went, as the firewall counts them: one set for all sandboxes of a backend.
//!
//! An entry counts one kind of packets between a sandbox and one port of one address. What a sandbox asks for it gets
//! entries for only as long as it has room, which the firewall keeps count of by itself: whoever tries all ports of all
//! addresses fills its own room, and costs no more memory than anybody else may.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;

use ci_core::External;
use ci_core::clock::Timestamp;
use ci_core::network::{Flow, Protocol, Verdict};
use rustix::io::Errno;

use super::netlink::{Attributes, Message, Socket, is};
use super::nft::{self, Each, Element, Field, Set};
use super::nft_rule::{Meta, Register, Rule};
use super::nft_table::TCP;

/// What is counted where.
const FLOWS: &str = "flows";
/// Devices that may still have a destination listed, and those that may have a refusal.
pub(super) const ROOM: &str = "room";
pub(super) const REFUSAL_ROOM: &str = "refusal_room";

/// How many destinations of one sandbox are listed, and as many refusals.
pub(super) const MOST: u32 = 100;
/// The kernel makes no more entries, however many sandboxes there are: five for each destination listed.
const MOST_ENTRIES: u32 = 1 << 20;

/// `IPPROTO_ICMP` and `IPPROTO_UDP`.
const ICMP: u8 = 1;
const UDP: u8 = 17;

/// Where the addresses and ports are in the headers of IPv4, TCP and UDP.
const SOURCE: Place = Place { address: 12, port: 0 };
const DESTINATION: Place = Place { address: 16, port: 2 };

#[derive(Clone, Copy, Debug)]
struct Place {
    address: u32,
    port: u32,
}

/// What an entry counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing: that there is one lets the next three be.
    Listed,
    Sent,
    Received,
    Connected,
    NoRule,
    Forbidden,
    Crowded,
}

impl Kind {
    const ALL: [Self; 7] = [
        Self::Listed,
        Self::Sent,
        Self::Received,
        Self::Connected,
        Self::NoRule,
        Self::Forbidden,
        Self::Crowded,
    ];

    fn bytes(self) -> [u8; 4] {
        (self as u32).to_be_bytes()
    }

    fn parse(bytes: [u8; 4]) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.bytes() == bytes)
    }

    /// What it is called in a report, when it is a refusal.
    fn refusal(self) -> Option<Verdict> {
        match self {
            Self::NoRule => Some(Verdict::NoRule),
            Self::Forbidden => Some(Verdict::Forbidden),
            Self::Crowded => Some(Verdict::Crowded),
            Self::Listed | Self::Sent | Self::Received | Self::Connected => None,
        }
    }
}

/// What is made once.
pub(super) fn sets(table: &str) -> [Message; 3] {
    use Field as F;
    let set =
        Set { table, name: FLOWS, key: &[], ranges: false, timeouts: false, most: None, each: Each::Counts };
    let room = |name| Set { name, key: &[F::Device], each: Each::First(MOST), ..set }.ensure();
    let key = &[F::Device, F::Mark, F::Address, F::Protocol, F::Port];
    [Set { key, most: Some(MOST_ENTRIES), ..set }.ensure(), room(ROOM), room(REFUSAL_ROOM)]
}

/// Counts what leaves a sandbox, where it is let through.
pub(super) fn sent(table: &str, chain: &str) -> [Message; 2] {
    let listed = || key(Rule::of(table, chain), Meta::InputDevice, DESTINATION, true, Kind::Listed);
    [
        listed().not_among(FLOWS).among(ROOM).add_to(FLOWS),
        as_kind(listed().among(FLOWS), Kind::Sent).add_to(FLOWS),
    ]
}

/// Counts what comes back and passes the tests of `rule`.
pub(super) fn answered(rule: Rule, kind: Kind) -> Message {
    let listed = key(rule, Meta::OutputDevice, SOURCE, true, Kind::Listed);
    as_kind(listed.among(FLOWS), kind).add_to(FLOWS)
}

/// Counts what is refused: by port where there are ports.
pub(super) fn refused(table: &str, chain: &str, kind: Kind) -> Vec<Message> {
    let of = || Rule::of(table, chain).load(Meta::Protocol, Register::FIRST);
    let tests: [&dyn Fn() -> Rule; 3] =
        [&|| of().equals(&[TCP]), &|| of().equals(&[UDP]), &|| of().differs(&[TCP]).differs(&[UDP])];
    let rules = tests.into_iter().zip([true, true, false]).map(|(test, has_ports)| {
        let entry = || key(test(), Meta::InputDevice, DESTINATION, has_ports, kind);
        [entry().among(FLOWS).done(), entry().not_among(FLOWS).among(REFUSAL_ROOM).add_to(FLOWS)]
    });
    rules.flatten().collect()
}

/// Where the key has its kind.
const KIND: u32 = 16;

fn key(rule: Rule, device: Meta, place: Place, has_ports: bool, kind: Kind) -> Rule {
    let at = |bytes| Register::FIRST.after(bytes);
    let rule = as_kind(rule.load(device, at(0)), kind)
        .load_network(place.address, 4, at(KIND + 4))
        .load(Meta::Protocol, at(KIND + 8));
    if has_ports {
        rule.load_transport(place.port, 2, at(KIND + 12))
    } else {
        rule.put(&[0; 4], at(KIND + 12))
    }
}

fn as_kind(rule: Rule, kind: Kind) -> Rule {
    rule.put(&kind.bytes(), Register::FIRST.after(KIND))
}

/// An entry as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    key: [u8; 32],
    kind: Kind,
    to: To,
    count: Count,
}

/// An address, a protocol and a port.
type To = (Ipv4Addr, u8, u16);

/// What a counter has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) bytes: u64,
    pub(super) packets: u64,
}

impl Count {
    /// That of an element with a counter.
    pub(super) fn of(element: Attributes<'_>) -> Self {
        // `NFTA_SET_ELEM_EXPR`, in it `NFTA_EXPR_DATA`, in it `NFTA_COUNTER_BYTES` and `NFTA_COUNTER_PACKETS`.
        let counter = element.within(7).within(2);
        let number = |kind| counter.get(kind)?.try_into().ok().map(u64::from_be_bytes);
        Self { bytes: number(1).unwrap_or(0), packets: number(2).unwrap_or(0) }
    }
}

impl Entry {
    fn of(element: Attributes<'_>) -> Option<Self> {
        let key: [u8; 32] = element.within(1).get(1)?.try_into().ok()?;
        let part = |at: usize| [key[at], key[at + 1], key[at + 2], key[at + 3]];
        let kind = Kind::parse(part(16))?;
        let to = (Ipv4Addr::from(part(20)), key[24], u16::from_be_bytes([key[28], key[29]]));
        Some(Self { key, kind, to, count: Count::of(element) })
    }

    /// The name of its device.
    fn device(&self) -> &[u8] {
        let padded = &self.key[..KIND as usize];
        &padded[..padded.iter().position(|byte| *byte == 0).unwrap_or(padded.len())]
    }
}

/// All entries of the backend; none where somebody has removed the firewall.
fn entries(socket: &mut Socket, table: &str) -> io::Result<Vec<Entry>> {
    // The kernel may show one twice when others come meanwhile.
    let mut all = BTreeMap::new();
    let read = socket.dump(nft::get(table, FLOWS, &[]), |message| {
        let elements = Attributes::after(message, nft::HEAD).within(3).iter();
        all.extend(
            elements.filter_map(|(_, one)| Entry::of(Attributes::new(one))).map(|entry| (entry.key, entry)),
        );
    });
    match read {
        Err(error) if is(&error, Errno::NOENT) => {}
        read => read?,
    }
    Ok(all.into_values().collect())
}

/// Where the packets of `device` went between `from` and `until`, by address.
pub(super) fn flows(
    socket: &mut Socket,
    table: &str,
    device: &str,
    [from, until]: [Timestamp; 2],
) -> io::Result<Vec<Flow>> {
    let own = entries(socket, table)?.into_iter().filter(|entry| entry.device() == device.as_bytes());
    Ok(listed(own, from, until))
}

fn listed(entries: impl Iterator<Item = Entry>, from: Timestamp, until: Timestamp) -> Vec<Flow> {
    let flow = |(address, protocol, port): To, verdict, attempts| {
        let port = matches!(protocol, TCP | UDP).then_some(port);
        let asked = External::new(address.to_string());
        let mut flow = Flow::new(asked, port, Some(address.into()), verdict, from);
        (flow.protocol, flow.attempts, flow.last) = (named(protocol), attempts, until);
        flow
    };
    let (mut permitted, mut refused) = (BTreeMap::<To, [Count; 3]>::new(), Vec::new());
    for Entry { kind, to, count, .. } in entries {
        match kind {
            Kind::Listed => {}
            Kind::Sent => permitted.entry(to).or_default()[0] = count,
            Kind::Received => permitted.entry(to).or_default()[1] = count,
            Kind::Connected => permitted.entry(to).or_default()[2] = count,
            kind => refused.extend(kind.refusal().map(|verdict| flow(to, verdict, count.packets))),
        }
    }
    let permitted = permitted.into_iter().map(|(to, [sent, received, connected])| {
        // Where nothing has ever answered, every packet asked for a connection.
        let (verdict, attempts) = match connected.packets {
            0 => (Verdict::Unreachable, sent.packets),
            some => (Verdict::Connected, some),
        };
        let mut flow = flow(to, verdict, attempts);
        (flow.sent, flow.received) = (sent.bytes, received.bytes);
        flow
    });
    permitted.chain(refused).collect()
}

fn named(protocol: u8) -> Protocol {
    match protocol {
        TCP => Protocol::Tcp,
        UDP => Protocol::Udp,
        ICMP => Protocol::Icmp,
        other => Protocol::Other(other),
    }
}

/// Removes the entries of devices that are gone.
pub(super) fn forget(socket: &mut Socket, table: &str, devices: &BTreeSet<String>) -> io::Result<()> {
    const AT_ONCE: usize = 500;
    let is_gone =
        |entry: &Entry| std::str::from_utf8(entry.device()).is_ok_and(|device| devices.contains(device));
    let gone: Vec<Element> = entries(socket, table)?
        .iter()
        .filter(|entry| is_gone(entry))
        .map(|entry| Element::of(entry.key))
        .collect();
    for some in gone.chunks(AT_ONCE) {
        match socket.transaction(vec![nft::delete(table, FLOWS, some)]) {
            Err(error) if is(&error, Errno::NOENT) => {}
            removed => removed?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn entry(kind: Kind, to: To, packets: u64) -> Entry {
        let mut key = [0; 32];
        key[..3].copy_from_slice(b"sbx");
        Entry { key, kind, to, count: Count { bytes: packets * 100, packets } }
    }

    #[test]
    fn what_was_never_answered_is_no_connection() {
        let to = |last: u8, protocol| (Ipv4Addr::new(192, 0, 2, last), protocol, 80);
        let entries = [
            entry(Kind::Listed, to(1, TCP), 9),
            entry(Kind::Sent, to(1, TCP), 5),
            entry(Kind::Received, to(1, TCP), 4),
            entry(Kind::Connected, to(1, TCP), 2),
            entry(Kind::Sent, to(2, TCP), 3),
            entry(Kind::Forbidden, to(3, ICMP), 7),
            entry(Kind::Crowded, to(1, TCP), 1),
        ];
        let (from, until) = (Timestamp::from_unix_millis(5), Timestamp::from_unix_millis(9));
        let shown: Vec<_> = listed(entries.into_iter(), from, until)
            .into_iter()
            .map(|flow| {
                assert_eq!((flow.first, flow.last), (from, until));
                (
                    flow.asked.to_string(),
                    flow.protocol,
                    flow.port,
                    flow.verdict,
                    flow.attempts,
                    flow.sent,
                    flow.received,
                )
            })
            .collect();
        let line = |host: &str, protocol, port, verdict, attempts, sent, received| {
            (host.to_owned(), protocol, port, verdict, attempts, sent, received)
        };
        assert_eq!(
            shown,
            [
                line("192.0.2.1", Protocol::Tcp, Some(80), Verdict::Connected, 2, 500, 400),
                line("192.0.2.2", Protocol::Tcp, Some(80), Verdict::Unreachable, 3, 300, 0),
                line("192.0.2.3", Protocol::Icmp, None, Verdict::Forbidden, 7, 0, 0),
                line("192.0.2.1", Protocol::Tcp, Some(80), Verdict::Crowded, 1, 0, 0),
            ]
        );
    }

    #[test]
    fn the_name_of_a_device_ends_where_its_padding_begins() {
        assert_eq!(entry(Kind::Sent, (Ipv4Addr::LOCALHOST, TCP, 1), 0).device(), b"sbx");
    }
}
