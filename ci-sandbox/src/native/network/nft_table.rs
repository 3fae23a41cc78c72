//! The firewall of all sandboxes of one backend: a table that is made once, and elements of its sets that come and go
//! with each sandbox.
//!
//! ```text
//! from a sandbox --+-- to this machine ------------------------------------------> refuse
//!                  +-- forward --> leaving: is it who it says? options? where to?
//!                                    allowed --> permitted: room for one more? ---> accept, perhaps another source
//!                                    anything else -------------------------------> refuse
//! to a sandbox ----+-- forward --> arriving: an answer? --------------------------> accept, else drop
//!                  +-- from this machine: about what it has sent? ----------------> accept, else drop
//! ```

use std::net::Ipv4Addr;

use super::addresses::Tag;
use super::netlink::Message;
use super::nft::{self, Each, Element, Field, Hook, Lasting, Meta, Register, Rule, Set, Verdict};
use super::routed_rules::Allowed;

/// The most elements that one sandbox's rules may come to: they travel in one attribute, which has 64 KiB.
pub(super) const MOST_ELEMENTS: usize = 512;

/// What no sandbox reaches, whatever its rules say: itself and this network (RFC 1122), link-local addresses (RFC 3927)
/// with the metadata services of most clouds, those of Alibaba, Azure and Oracle, multicast and reserved ones.
pub(super) const NEVER: [(Ipv4Addr, u8); 8] = [
    (Ipv4Addr::UNSPECIFIED, 8),
    (Ipv4Addr::new(100, 100, 100, 200), 32),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(168, 63, 129, 16), 32),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];

/// Which device has which address.
pub(super) const SOURCES: &str = "sources";
/// Where each address may connect to, and what it has sent there.
pub(super) const ALLOWED: &str = "allowed";
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
    /// Whose addresses all sandboxes have.
    pub(super) pool: (Ipv4Addr, u8),
    /// What else no sandbox reaches.
    pub(super) never: &'a [(Ipv4Addr, u8)],
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

    fn sets(&self, table: &str) -> [Message; 6] {
        use Field as F;
        let set = |name, key, each| Set { table, name, key, ranges: false, timeouts: false, each };
        let allowed = Set {
            ranges: true,
            ..set(ALLOWED, &[F::Address, F::Address, F::Protocol, F::Port], Each::Counts)
        };
        [
            set(SOURCES, &[F::Device, F::Address], Each::Nothing).ensure(),
            allowed.ensure(),
            set(RECEIVED, &[F::Device], Each::Counts).ensure(),
            set(CONNECTED, &[F::Device], Each::Counts).ensure(),
            set(REFUSED, &[F::Device], Each::Counts).ensure(),
            set(CROWDED, &[F::Device], Each::Past(self.connections)).ensure(),
        ]
    }

    fn chains(&self, table: &str) -> Vec<Message> {
        let own = self.tag.devices();
        let (from, to) = (|chain| from_device(table, chain, &own), |chain| to_device(table, chain, &own));
        // Where rules go to must be there before they are.
        let mut messages: Vec<Message> =
            ["refuse", "discard", "permitted", "leaving", "arriving", "answering"]
                .iter()
                .map(|name| nft::chain(table, name))
                .collect();
        messages.extend([
            nft::base_chain(table, "input", Hook::Input),
            from("input").verdict(Verdict::Goto("refuse")),
            nft::base_chain(table, "forward", Hook::Forward),
            from("forward").verdict(Verdict::Goto("leaving")),
            to("forward").verdict(Verdict::Goto("arriving")),
            nft::base_chain(table, "output", Hook::Output),
            to("output").verdict(Verdict::Goto("answering")),
            not_ipv4(table, "refuse"),
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
        let refuse = Verdict::Goto("refuse");
        let device = Register::FIRST;
        let mut messages = vec![
            not_ipv4(table, "leaving"),
            leaving()
                .load(Meta::InputDevice, device)
                .load_network(12, 4, device.after(16))
                .not_among(SOURCES)
                .verdict(Verdict::Goto("discard")),
            // Options: a header of more than five words.
            leaving().load_network(0, 1, Register::FIRST).mask(&[0x0f]).differs(&[5]).verdict(refuse),
            to_device(table, "leaving", Tag::ALL_DEVICES).verdict(refuse),
        ];
        for (address, prefix) in NEVER.iter().chain(self.never).chain([&self.pool]) {
            messages.push(
                leaving()
                    .load_network(16, 4, Register::FIRST)
                    .mask(&mask(*prefix).octets())
                    .equals(&address.octets())
                    .verdict(refuse),
            );
        }
        messages.extend([
            leaving()
                .load_network(12, 4, Register::FIRST)
                .load_network(16, 4, Register::FIRST.after(4))
                .load(Meta::Protocol, Register::FIRST.after(8))
                .load_transport(2, 2, Register::FIRST.after(12))
                .among(ALLOWED)
                .verdict(Verdict::Goto("permitted")),
            leaving().verdict(refuse),
            Rule::of(table, "permitted")
                .state_in(NEW)
                .load(Meta::InputDevice, Register::FIRST)
                .among(CROWDED)
                .verdict(refuse),
            Rule::of(table, "permitted").verdict(Verdict::Accept),
        ]);
        messages
    }

    fn arriving(table: &str) -> [Message; 7] {
        const SYN_ACK: u8 = 0x12;
        let answer = || Rule::of(table, "arriving").state_in(ESTABLISHED).answers();
        [
            not_ipv4(table, "arriving"),
            answer()
                .load(Meta::Protocol, Register::FIRST)
                .equals(&[TCP])
                .load_transport(13, 1, Register::FIRST)
                .mask(&[SYN_ACK])
                .equals(&[SYN_ACK])
                .load(Meta::OutputDevice, Register::FIRST)
                .among(CONNECTED)
                .done(),
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
pub(super) fn mask(prefix: u8) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0))
}

/// One sandbox in the sets of its backend's table.
#[derive(Clone, Debug)]
pub(super) struct Entries {
    device: Element,
    source: Element,
    /// One for each of the sandbox's rules, in their order.
    pub(super) allowed: Vec<Element>,
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
        Self {
            device: Element::of(&key[..16]),
            source: Element::of(key),
            allowed: allowed.iter().map(range).collect(),
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
        let counted = [RECEIVED, CONNECTED, REFUSED, CROWDED];
        let mut messages: Vec<Message> =
            counted.iter().map(|set| message(set, std::slice::from_ref(&self.device))).collect();
        messages.push(message(ALLOWED, &self.allowed));
        messages.push(message(SOURCES, std::slice::from_ref(&self.source)));
        messages
    }

    /// Asks what one of the sets that count devices has counted.
    pub(super) fn count(&self, table: &str, set: &str) -> Message {
        nft::get(table, set, std::slice::from_ref(&self.device))
    }
}
