//! The firewall of all sandboxes of one backend: a table that is made once, and elements of its sets that come and go
//! with each sandbox.
//!
//! ```text
//! from a sandbox --+-- to this machine ------------------------------------------> refuse
//!                  +-- forward --> leaving: is it who it says? options? where to?
//!                                    allowed, or in a private range and allowed there
//!                                      --> permitted: room for one more? ----------> accept, perhaps another source
//!                                    anything else -------------------------------> refuse: no rule, forbidden, crowded
//! to a sandbox ----+-- forward --> arriving: an answer? --------------------------> accept, else drop
//!                  +-- from this machine: about what it has sent? ----------------> accept, else drop
//! ```

use std::net::Ipv4Addr;

use super::addresses::Tag;
use super::netlink::Message;
use super::nft::{self, Each, Element, Field, Hook, Lasting, Set};
use super::nft_rule::{Meta, Register, Rule, Verdict};
use super::reach::{NEVER_V4, PRIVATE_V4};
use super::routed_flows::{self as flows, Kind};
use super::routed_rules::{Allowed, Network};

/// The most elements that one sandbox's rules may come to: they travel in one attribute, which has 64 KiB.
pub(super) const MOST_ELEMENTS: usize = 512;

/// Which device has which address.
pub(super) const SOURCES: &str = "sources";
/// Where each address may connect to, and what it has sent there.
pub(super) const ALLOWED: &str = "allowed";
/// The same for addresses of private ranges: only rules that name nothing else reach into them.
pub(super) const PRIVATE: &str = "private";
/// Answers that have reached a device.
pub(super) const RECEIVED: &str = "received";
/// Connections of a device that were answered.
pub(super) const CONNECTED: &str = "connected";
/// Packets of a device that were not let through.
pub(super) const REFUSED: &str = "refused";
/// Devices and how many connections they may have at once.
pub(super) const CROWDED: &str = "crowded";

/// `NF_CT_STATE_BIT` of the states of a connection.
const ESTABLISHED: u32 = 2;
const RELATED: u32 = 4;
const NEW: u32 = 8;

/// `IPPROTO_ICMP` and `IPPROTO_TCP`.
const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;

/// What distinguishes one backend's firewall from another's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Design<'a> {
    pub(super) tag: &'a Tag,
    /// What else no sandbox reaches: the addresses of sandboxes, and what the operator denies.
    pub(super) never: &'a [Network],
    /// The address that they leave with; their own where there is none.
    pub(super) source: Option<Ipv4Addr>,
    /// How many connections one may have at once.
    pub(super) connections: u32,
}

impl Design<'_> {
    /// Everything that is made once; `flags` are those of the table.
    pub(super) fn messages(&self, flags: u32) -> Vec<Message> {
        let table = self.tag.table();
        let mut messages = vec![nft::new_table(&table, flags)];
        messages.extend(self.sets(&table));
        messages.extend(self.chains(&table));
        messages.extend(self.leaving(&table));
        messages.extend(Self::arriving(&table));
        messages
    }

    fn sets(&self, table: &str) -> Vec<Message> {
        use Field as F;
        let set =
            |name, key, each| Set { table, name, key, ranges: false, timeouts: false, most: None, each };
        let destinations = |name| {
            let key = &[F::Address, F::Address, F::Protocol, F::Port];
            Set { ranges: true, ..set(name, key, Each::Counts) }.ensure()
        };
        let own = [
            set(SOURCES, &[F::Device, F::Address], Each::Nothing).ensure(),
            destinations(ALLOWED),
            destinations(PRIVATE),
            set(RECEIVED, &[F::Device], Each::Counts).ensure(),
            set(CONNECTED, &[F::Device], Each::Counts).ensure(),
            set(REFUSED, &[F::Device], Each::Counts).ensure(),
            set(CROWDED, &[F::Device], Each::Past(self.connections)).ensure(),
        ];
        own.into_iter().chain(flows::sets(table)).collect()
    }

    fn chains(&self, table: &str) -> Vec<Message> {
        let own = self.tag.devices();
        let (from, to) = (|chain| from_device(table, chain, &own), |chain| to_device(table, chain, &own));
        // Where rules go to must be there before they are.
        let mut messages: Vec<Message> =
            ["refuse", "unruled", "forbidden", "crowded", "discard", "permitted", "private"]
                .iter()
                .chain(&["leaving", "arriving", "answering"])
                .map(|name| nft::chain(table, name))
                .collect();
        for (name, kind) in
            [("unruled", Kind::NoRule), ("forbidden", Kind::Forbidden), ("crowded", Kind::Crowded)]
        {
            messages.push(not_ipv4(table, name));
            messages.extend(flows::refused(table, name, kind));
            messages.push(Rule::of(table, name).verdict(Verdict::Goto("refuse")));
        }
        messages.extend([
            nft::base_chain(table, "input", Hook::Input),
            from("input").verdict(Verdict::Goto("forbidden")),
            nft::base_chain(table, "forward", Hook::Forward),
            from("forward").verdict(Verdict::Goto("leaving")),
            to("forward").verdict(Verdict::Goto("arriving")),
            nft::base_chain(table, "output", Hook::Output),
            to("output").verdict(Verdict::Goto("answering")),
            device_in(table, "refuse", REFUSED).done(),
            Rule::of(table, "refuse").load(Meta::Protocol, Register::FIRST).equals(&[TCP]).reset(),
            Rule::of(table, "refuse").reject(),
            device_in(table, "discard", REFUSED).done(),
            Rule::of(table, "discard").verdict(Verdict::Drop),
        ]);
        if let Some(source) = self.source {
            messages.push(nft::base_chain(table, "postrouting", Hook::Postrouting));
            messages.push(from("postrouting").source(source.octets()));
        }
        messages
    }

    fn leaving(&self, table: &str) -> Vec<Message> {
        let leaving = || Rule::of(table, "leaving");
        let forbidden = Verdict::Goto("forbidden");
        let device = Register::FIRST;
        let mut messages = vec![
            not_ipv4(table, "leaving"),
            leaving()
                .load(Meta::InputDevice, device)
                .load_network(12, 4, device.after(16))
                .not_among(SOURCES)
                .verdict(Verdict::Goto("discard")),
            // Options: a header of more than five words.
            leaving().load_network(0, 1, Register::FIRST).mask(&[0x0f]).differs(&[5]).verdict(forbidden),
            to_device(table, "leaving", Tag::ALL_DEVICES).verdict(forbidden),
        ];
        let to = |(address, prefix): &Network, verdict| {
            let there = leaving().load_network(16, 4, Register::FIRST).mask(&mask(*prefix).octets());
            there.equals(&address.octets()).verdict(verdict)
        };
        let never = NEVER_V4.iter().chain(self.never);
        messages.extend(never.map(|network| to(network, forbidden)));
        messages.extend(PRIVATE_V4.iter().map(|network| to(network, Verdict::Goto("private"))));
        let destination_among = |chain, set| {
            Rule::of(table, chain)
                .load_network(12, 4, Register::FIRST)
                .load_network(16, 4, Register::FIRST.after(4))
                .load(Meta::Protocol, Register::FIRST.after(8))
                .load_transport(2, 2, Register::FIRST.after(12))
                .among(set)
                .verdict(Verdict::Goto("permitted"))
        };
        messages.extend([
            destination_among("leaving", ALLOWED),
            leaving().verdict(Verdict::Goto("unruled")),
            destination_among("private", PRIVATE),
            Rule::of(table, "private").verdict(Verdict::Goto("unruled")),
            Rule::of(table, "permitted")
                .state_in(NEW)
                .load(Meta::InputDevice, Register::FIRST)
                .among(CROWDED)
                .verdict(Verdict::Goto("crowded")),
        ]);
        messages.extend(flows::sent(table, "permitted"));
        messages.push(Rule::of(table, "permitted").verdict(Verdict::Accept));
        messages
    }

    fn arriving(table: &str) -> [Message; 10] {
        const SYN_ACK: u8 = 0x12;
        let answer = || Rule::of(table, "arriving").state_in(ESTABLISHED).answers();
        let first_answer = || {
            answer()
                .load(Meta::Protocol, Register::FIRST)
                .equals(&[TCP])
                .load_transport(13, 1, Register::FIRST)
                .mask(&[SYN_ACK])
                .equals(&[SYN_ACK])
        };
        [
            not_ipv4(table, "arriving"),
            // From a sandbox of somebody else's, whose firewall refuses it too, but perhaps later.
            from_device(table, "arriving", Tag::ALL_DEVICES).verdict(Verdict::Goto("refuse")),
            first_answer().load(Meta::OutputDevice, Register::FIRST).among(CONNECTED).done(),
            flows::answered(first_answer(), Kind::Connected),
            flows::answered(answer(), Kind::Received),
            answer().load(Meta::OutputDevice, Register::FIRST).among(RECEIVED).verdict(Verdict::Accept),
            Rule::of(table, "arriving")
                .load(Meta::Protocol, Register::FIRST)
                .equals(&[ICMP])
                .state_in(RELATED)
                .verdict(Verdict::Accept),
            Rule::of(table, "arriving").verdict(Verdict::Drop),
            // Errors and refusals, of which the machine is the author.
            Rule::of(table, "answering").state_in(RELATED).verdict(Verdict::Accept),
            Rule::of(table, "answering").verdict(Verdict::Drop),
        ]
    }
}

fn from_device(table: &str, chain: &str, prefix: &str) -> Rule {
    Rule::of(table, chain).load(Meta::InputDevice, Register::FIRST).equals(prefix.as_bytes())
}

fn to_device(table: &str, chain: &str, prefix: &str) -> Rule {
    Rule::of(table, chain).load(Meta::OutputDevice, Register::FIRST).equals(prefix.as_bytes())
}

fn device_in(table: &str, chain: &str, set: &str) -> Rule {
    Rule::of(table, chain).load(Meta::InputDevice, Register::FIRST).among(set)
}

/// IPv6 is off on both ends of every link; should it come on, it leads nowhere.
fn not_ipv4(table: &str, chain: &str) -> Message {
    let family = Rule::of(table, chain).load(Meta::Family, Register::FIRST);
    family.differs(&[nft::IPV4]).verdict(Verdict::Drop)
}

/// The mask of a prefix.
pub(super) fn mask(prefix: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - prefix).unwrap_or(0))
}

/// One sandbox in the sets of its backend's table.
#[derive(Clone, Debug)]
pub(super) struct Entries {
    device: Element,
    source: Element,
    allowed: Vec<Element>,
    private: Vec<Element>,
}

impl Entries {
    /// Those of the device of this name, whose other end has this address.
    pub(super) fn new(device: &str, address: Ipv4Addr, allowed: &[Allowed]) -> Self {
        let mut key = [0; 20];
        key[..device.len()].copy_from_slice(device.as_bytes());
        key[16..].copy_from_slice(&address.octets());
        let end = |to: Ipv4Addr, port: u16| {
            let mut key = [0; 16];
            key[..4].copy_from_slice(&address.octets());
            key[4..8].copy_from_slice(&to.octets());
            key[8] = TCP;
            key[12..14].copy_from_slice(&port.to_be_bytes());
            key.to_vec()
        };
        let range = |rule: &Allowed| Element {
            first: end(rule.first(), *rule.ports.start()),
            last: Some(end(rule.last(), *rule.ports.end())),
        };
        let ranges =
            |private| allowed.iter().filter(|rule| rule.is_private() == private).map(range).collect();
        Self {
            device: Element::of(&key[..16]),
            source: Element::of(key),
            allowed: ranges(false),
            private: ranges(true),
        }
    }

    /// Lets the sandbox through.
    pub(super) fn add(&self, table: &str) -> Vec<Message> {
        self.each(|set, elements| nft::add(table, set, elements, Lasting::Always))
    }

    /// Lets nothing through any more.
    pub(super) fn delete(&self, table: &str) -> Vec<Message> {
        self.each(|set, elements| nft::delete(table, set, elements))
    }

    fn each(&self, message: impl Fn(&str, &[Element]) -> Message) -> Vec<Message> {
        let device = std::slice::from_ref(&self.device);
        let sets = [
            (RECEIVED, device),
            (CONNECTED, device),
            (REFUSED, device),
            (CROWDED, device),
            (flows::ROOM, device),
            (flows::REFUSAL_ROOM, device),
            (ALLOWED, &self.allowed),
            (PRIVATE, &self.private),
            (SOURCES, std::slice::from_ref(&self.source)),
        ];
        sets.iter()
            .filter(|(_, elements)| !elements.is_empty())
            .map(|(set, elements)| message(set, elements))
            .collect()
    }

    /// Asks what one of the sets that count devices has counted.
    pub(super) fn count(&self, table: &str, set: &str) -> Message {
        nft::get(table, set, std::slice::from_ref(&self.device))
    }

    /// Asks what has been sent where.
    pub(super) fn count_sent(&self, table: &str) -> Vec<Message> {
        let sets = [(ALLOWED, &self.allowed), (PRIVATE, &self.private)];
        let asked = sets.iter().filter(|(_, elements)| !elements.is_empty());
        asked.map(|(set, elements)| nft::get(table, set, elements)).collect()
    }
}
