//! Which sandbox has which address: two of a pool, for the two ends of its link (RFC 3021), held in a set of the kernel's
//! that all programs of the machine share.
//!
//! An address is claimed by adding it to the set, which fails when it is there. When its sandbox is gone it stays for a
//! while, so that packets which are still on their way to it reach nobody else; then the kernel removes it by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ci_core::network::IpNetwork;

use super::netlink::{Attributes, Message, Socket};
use super::nft::{self, Each, Element, Field, Lasting, Set};

/// The table and the set that all backends of a machine share.
const TABLE: &str = "ci_sandbox_addresses";
const SET: &str = "taken";

/// What tells the devices and the firewall of one backend from those of others: five letters and digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tag(String);

impl Tag {
    /// What the name of every device begins with, whosever it is.
    pub(super) const ALL_DEVICES: &str = "sb";
    const TABLES: &str = "ci_sandbox_";
    const LENGTH: usize = 5;

    /// One that hardly anybody else has.
    pub(super) fn random() -> io::Result<Self> {
        const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
        let mut bits = getrandom::u32().map_err(|_| io::ErrorKind::Unsupported)?;
        let mut tag = String::new();
        for _ in 0..Self::LENGTH {
            tag.push(char::from(DIGITS[bits as usize % DIGITS.len()]));
            bits >>= 5;
        }
        Ok(Self(tag))
    }

    /// The tag of a table, unless it is no firewall of sandboxes.
    pub(super) fn of_table(table: &str) -> Option<Self> {
        Self::parse(table.strip_prefix(Self::TABLES)?)
    }

    fn parse(text: &str) -> Option<Self> {
        let is_good = text.len() == Self::LENGTH
            && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        is_good.then(|| Self(text.to_owned()))
    }

    /// The name of the table.
    pub(super) fn table(&self) -> String {
        format!("{}{}", Self::TABLES, self.0)
    }

    /// What the names of its devices begin with.
    pub(super) fn devices(&self) -> String {
        format!("{}{}", Self::ALL_DEVICES, self.0)
    }

    /// The device of a sandbox: 15 bytes, the most that a device's name may have.
    pub(super) fn device(&self, pair: Pair) -> String {
        format!("{}{:08x}", self.devices(), pair.inside().to_bits())
    }

    /// Whose device it is, and at which addresses, unless it is none of a sandbox.
    pub(super) fn of_device(name: &str) -> Option<(Self, Pair)> {
        let rest = name.strip_prefix(Self::ALL_DEVICES)?;
        let (tag, address) = rest.split_at_checked(Self::LENGTH)?;
        let is_hex = address.len() == 8 && address.bytes().all(|byte| byte.is_ascii_hexdigit());
        let address = is_hex.then(|| u32::from_str_radix(address, 16).ok()).flatten()?;
        Some((Self::parse(tag)?, Pair(address & !1)))
    }
}

/// The two addresses of a link, by the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pair(u32);

impl Pair {
    /// The address of the machine's end.
    pub(super) fn outside(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.0)
    }

    /// The address of the sandbox's end.
    pub(super) fn inside(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.0 | 1)
    }

    fn element(self) -> Element {
        Element::of(self.outside().octets())
    }
}

/// The addresses of one backend's sandboxes.
#[derive(Debug)]
pub(super) struct Pool {
    first: u32,
    pairs: u32,
    /// Where to look next: round and round, so that an address is used again as late as possible.
    cursor: AtomicU32,
}

impl Pool {
    /// The pairs of a network of IPv4 that has at least one.
    pub(super) fn new(network: IpNetwork) -> Option<Self> {
        let (IpAddr::V4(first), prefix @ 1..=31) = (network.address(), network.prefix()) else { return None };
        // Elsewhere than others start, so that they do not contend for the same.
        let cursor = AtomicU32::new(getrandom::u32().unwrap_or(0));
        Some(Self { first: first.to_bits(), pairs: 1 << (31 - prefix), cursor })
    }

    /// The next that might be free.
    pub(super) fn next(&self) -> Pair {
        self.pair(self.cursor.fetch_add(1, Ordering::Relaxed))
    }

    /// The next that is not in `taken`.
    pub(super) fn next_but(&self, taken: &BTreeSet<Pair>) -> Option<Pair> {
        let start = self.cursor.fetch_add(1, Ordering::Relaxed);
        let mut pairs = (0..self.pairs).map(|step| self.pair(start.wrapping_add(step)));
        pairs.find(|pair| !taken.contains(pair))
    }

    fn pair(&self, number: u32) -> Pair {
        Pair(self.first + 2 * (number % self.pairs))
    }
}

/// Claims an address; fails with `EEXIST` when somebody has it or had it until lately. Whatever else is in the
/// transaction is then undone as well.
pub(super) fn claim(pair: Pair, owner: &Tag) -> Vec<Message> {
    let mut messages = shared_set();
    messages.push(nft::add(TABLE, SET, &[pair.element()], Lasting::For(&owner.0)));
    messages
}

/// Gives an address back, to be claimed again after `rest`.
pub(super) fn give_back(pair: Pair, rest: Duration) -> Vec<Message> {
    let mut messages = shared_set();
    messages.push(nft::delete(TABLE, SET, &[pair.element()]));
    let milliseconds = u64::try_from(rest.as_millis()).unwrap_or(u64::MAX);
    if milliseconds > 0 {
        messages.push(nft::add(TABLE, SET, &[pair.element()], Lasting::Milliseconds(milliseconds)));
    }
    messages
}

/// All that are claimed, with whose they are, and all that rest.
pub(super) fn taken(socket: &mut Socket) -> io::Result<BTreeMap<Pair, Option<Tag>>> {
    let mut pairs = BTreeMap::new();
    socket.dump(nft::get(TABLE, SET, &[]), |message| {
        // `NFTA_SET_ELEM_LIST_ELEMENTS`, in it items with `NFTA_SET_ELEM_KEY`, in it `NFTA_DATA_VALUE`.
        for (_, element) in Attributes::after(message, nft::HEAD).within(3).iter() {
            let element = Attributes::new(element);
            let key = element.within(1).get(1);
            if let Some(address) = key.and_then(|key| key.try_into().ok()) {
                let owner = nft::comment(element).and_then(Tag::parse);
                pairs.insert(Pair(u32::from_be_bytes(address)), owner);
            }
        }
    })?;
    Ok(pairs)
}

fn shared_set() -> Vec<Message> {
    let set = Set {
        table: TABLE,
        name: SET,
        key: &[Field::Address],
        ranges: false,
        timeouts: true,
        most: None,
        each: Each::Nothing,
    };
    vec![nft::ensure_table(TABLE), set.ensure()]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_device_tells_whose_it_is() {
        let tag = Tag::random().unwrap();
        let pair = Pool::new("10.9.0.0/31".parse().unwrap()).unwrap().next();
        let device = tag.device(pair);
        assert_eq!(device.len(), 15);
        assert_eq!(Tag::of_device(&device), Some((tag.clone(), pair)));
        assert_eq!(Tag::of_table(&tag.table()), Some(tag));
        for other in
            ["sb", "sb0", "sbabcde", "sbabcde0a09000", "sbabcde+a090001", "sbABCDE0a090001", "eth0", "sbé"]
        {
            assert_eq!(Tag::of_device(other), None, "{other}");
        }
        assert_eq!(Tag::of_table(TABLE), None);
    }

    #[test]
    fn a_pool_is_gone_through_before_an_address_comes_again() {
        let pool = Pool::new("10.9.0.0/29".parse().unwrap()).unwrap();
        let pairs: BTreeSet<Pair> = (0..4).map(|_| pool.next()).collect();
        let text: Vec<String> =
            pairs.iter().map(|pair| format!("{} {}", pair.outside(), pair.inside())).collect();
        let expected = ["10.9.0.0 10.9.0.1", "10.9.0.2 10.9.0.3", "10.9.0.4 10.9.0.5", "10.9.0.6 10.9.0.7"];
        assert_eq!(text, expected);
        assert_eq!(pool.next_but(&pairs), None);
        let mut three = pairs.clone();
        let free = three.pop_first();
        assert_eq!(pool.next_but(&three), free);
    }

    #[test]
    fn what_has_no_two_addresses_is_no_pool() {
        for bad in ["10.0.0.1/32", "2001:db8::/64"] {
            assert!(Pool::new(bad.parse().unwrap()).is_none(), "{bad}");
        }
    }
}
