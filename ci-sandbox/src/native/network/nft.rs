//! The messages of nftables (nft(8)), as far as a sandbox's firewall needs them: tables, chains, sets and their elements.
//! Numbers are those of `linux/netfilter/nf_tables.h`.

use super::netlink::{Attributes, CREATE, EXCLUSIVE, Message};

/// `NFPROTO_INET`: tables for both versions of IP. They also hold what is of IPv4 only.
const INET: u8 = 1;
/// `NFPROTO_IPV4`.
pub(super) const IPV4: u8 = 2;

const NEW_TABLE: u16 = 0;
const GET_TABLE: u16 = 1;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_SET: u16 = 9;
const NEW_ELEMENT: u16 = 12;
const GET_ELEMENT: u16 = 13;
const DELETE_ELEMENT: u16 = 14;

/// `NFTA_LIST_ELEM`.
pub(super) const LIST_ITEM: u16 = 1;
/// `NFTA_DATA_VALUE`.
pub(super) const VALUE: u16 = 1;

pub(super) fn message(kind: u16, flags: u16) -> Message {
    const NFTABLES: u16 = 10;
    Message::netfilter(NFTABLES << 8 | kind, flags, INET)
}

/// `NFT_TABLE_F_OWNER` and `NFT_TABLE_F_PERSIST` (Linux 6.9): nobody but the socket that made the table changes it,
/// not even `nft flush ruleset`, and it stays when that socket is closed.
pub(super) const OWNED: u32 = 2 | 4;

/// Makes a table that must not exist.
pub(super) fn new_table(name: &str, flags: u32) -> Message {
    message(NEW_TABLE, CREATE | EXCLUSIVE).with_text(1, name).with_be32(2, flags)
}

/// Makes a table where there is none.
pub(super) fn ensure_table(name: &str) -> Message {
    message(NEW_TABLE, CREATE).with_text(1, name)
}

/// Removes a table with all that is in it.
pub(super) fn delete_table(name: &str) -> Message {
    message(DELETE_TABLE, 0).with_text(1, name)
}

/// Asks for the tables; `NFTA_TABLE_NAME` is attribute [`TABLE_NAME`] after [`HEAD`] bytes.
pub(super) fn list_tables() -> Message {
    message(GET_TABLE, 0)
}

/// The length of `struct nfgenmsg`.
pub(super) const HEAD: usize = 4;
/// `NFTA_TABLE_NAME`.
pub(super) const TABLE_NAME: u16 = 1;

/// Where the kernel calls a chain.
#[derive(Clone, Copy, Debug)]
pub(super) enum Hook {
    Input = 1,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

/// Makes a chain that the kernel calls: of type `filter` in all hooks but the last, which translates addresses. What
/// reaches its end goes on.
pub(super) fn base_chain(table: &str, name: &str, hook: Hook) -> Message {
    // `NF_IP_PRI_FILTER` and `NF_IP_PRI_NAT_SRC`.
    let (kind, priority) = match hook {
        Hook::Postrouting => ("nat", 100),
        Hook::Input | Hook::Forward | Hook::Output => ("filter", 0),
    };
    chain(table, name).nest(4, |at| at.with_be32(1, hook as u32).with_be32(2, priority)).with_text(7, kind)
}

/// Makes a chain that rules go to.
pub(super) fn chain(table: &str, name: &str) -> Message {
    message(NEW_CHAIN, CREATE | EXCLUSIVE).with_text(1, table).with_text(3, name)
}

/// What a part of a set's key is, as nftables shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Address,
    Device,
    Protocol,
    Port,
    /// Four bytes of our own.
    Mark,
}

impl Field {
    /// The number of its type in the program `nft`, which the kernel only keeps.
    fn kind(self) -> u32 {
        match self {
            Self::Address => 7,
            Self::Protocol => 12,
            Self::Port => 13,
            Self::Mark => 19,
            Self::Device => 41,
        }
    }

    fn length(self) -> u32 {
        match self {
            Self::Protocol => 1,
            Self::Port => 2,
            Self::Address | Self::Mark => 4,
            Self::Device => 16,
        }
    }
}

/// What every element of a set does when it is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Each {
    /// Nothing.
    Nothing,
    /// Counts packets and bytes.
    Counts,
    /// Matches only a connection past so many that last at the same time.
    Past(u32),
    /// Matches only the first so many times, and one time more every week.
    First(u32),
}

/// A set to be made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Set<'a> {
    pub(super) table: &'a str,
    pub(super) name: &'a str,
    pub(super) key: &'a [Field],
    /// Whether its elements are ranges.
    pub(super) ranges: bool,
    /// Whether its elements may go by themselves.
    pub(super) timeouts: bool,
    /// How many elements rules may add; none where there is nothing.
    pub(super) most: Option<u32>,
    pub(super) each: Each,
}

impl Set<'_> {
    /// Makes it where it is not, with the same properties, already.
    pub(super) fn ensure(self) -> Message {
        const INTERVAL: u32 = 4;
        const TIMEOUT: u32 = 0x10;
        const DYNAMIC: u32 = 0x20;
        const WEEK: u64 = 7 * 24 * 60 * 60;
        const CONCATENATION: u32 = 0x80;
        let Self { table, name, key, ranges, timeouts, most, each } = self;
        let kind = key.iter().fold(0, |kind, field| kind << 6 | field.kind());
        let length = key.iter().map(|field| field.length().next_multiple_of(4)).sum();
        let mut flags = if timeouts { TIMEOUT } else { 0 };
        if ranges {
            flags |= INTERVAL | CONCATENATION;
        }
        if most.is_some() {
            flags |= DYNAMIC;
        }
        let mut made = message(NEW_SET, CREATE)
            .with_text(1, table)
            .with_text(2, name)
            .with_be32(3, flags)
            .with_be32(4, kind)
            .with_be32(5, length)
            // `NFTA_SET_ID`: within this transaction.
            .with_be32(10, 1);
        if ranges {
            made = made.nest(9, |description| {
                description.nest(2, |fields| {
                    key.iter().fold(fields, |fields, field| {
                        fields.nest(LIST_ITEM, |one| one.with_be32(1, field.length()))
                    })
                })
            });
        }
        if let Some(most) = most {
            made = made.nest(9, |description| description.with_be32(1, most));
        }
        match each {
            Each::Nothing => made,
            Each::Counts => made.nest(17, |each| expression(each, "counter", |counter| counter)),
            // `NFT_CONNLIMIT_F_INV`: over, and not up to.
            Each::Past(count) => made.nest(17, |each| {
                expression(each, "connlimit", |limit| limit.with_be32(1, count).with_be32(2, 1))
            }),
            // Rate, unit in seconds, burst, and of packets.
            Each::First(count) => made.nest(17, |each| {
                expression(each, "limit", |limit| {
                    let limit = limit.with(1, &1_u64.to_be_bytes()).with(2, &WEEK.to_be_bytes());
                    limit.with_be32(3, count).with_be32(4, 0)
                })
            }),
        }
    }
}

/// An element: its key, and for a range the last key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) first: Vec<u8>,
    pub(super) last: Option<Vec<u8>>,
}

impl Element {
    pub(super) fn of(key: impl Into<Vec<u8>>) -> Self {
        Self { first: key.into(), last: None }
    }
}

/// How long an element stays.
#[derive(Clone, Copy, Debug)]
pub(super) enum Lasting<'a> {
    /// Until it is removed.
    Always,
    /// The same, with a comment of less than 128 bytes.
    For(&'a str),
    /// It goes by itself.
    Milliseconds(u64),
}

/// Adds elements that must not exist.
pub(super) fn add(table: &str, set: &str, elements: &[Element], lasting: Lasting<'_>) -> Message {
    elements_message(NEW_ELEMENT, CREATE | EXCLUSIVE, table, set, elements, lasting)
}

/// `NFTA_SET_ELEM_USERDATA`. In it, the program `nft` keeps a comment: a zero, its length with its NUL, the text.
const COMMENT: u16 = 6;

/// The comment of an element.
pub(super) fn comment(element: Attributes<'_>) -> Option<&str> {
    let [0, _, text @ .., 0] = element.get(COMMENT)? else { return None };
    std::str::from_utf8(text).ok()
}

/// Removes elements that must exist.
pub(super) fn delete(table: &str, set: &str, elements: &[Element]) -> Message {
    elements_message(DELETE_ELEMENT, 0, table, set, elements, Lasting::Always)
}

/// Asks for elements, or for all where there are none.
pub(super) fn get(table: &str, set: &str, elements: &[Element]) -> Message {
    elements_message(GET_ELEMENT, 0, table, set, elements, Lasting::Always)
}

fn elements_message(
    kind: u16,
    flags: u16,
    table: &str,
    set: &str,
    elements: &[Element],
    lasting: Lasting<'_>,
) -> Message {
    let named = message(kind, flags).with_text(1, table).with_text(2, set);
    if elements.is_empty() {
        return named;
    }
    named.nest(3, |list| {
        elements.iter().fold(list, |list, Element { first, last }| {
            list.nest(LIST_ITEM, |element| {
                let mut element = element.nest(1, |key| key.with(VALUE, first));
                if let Some(last) = last {
                    element = element.nest(10, |key| key.with(VALUE, last));
                }
                match lasting {
                    Lasting::Always => element,
                    Lasting::For(comment) => {
                        let mut bytes = vec![0, u8::try_from(comment.len() + 1).unwrap_or(u8::MAX)];
                        bytes.extend(comment.bytes().chain([0]));
                        element.with(COMMENT, &bytes)
                    }
                    Lasting::Milliseconds(timeout) => element.with(4, &timeout.to_be_bytes()),
                }
            })
        })
    })
}

/// `NFTA_EXPR_NAME` and `NFTA_EXPR_DATA`.
pub(super) fn expression(to: Message, name: &str, inside: impl FnOnce(Message) -> Message) -> Message {
    to.with_text(1, name).nest(2, inside)
}
