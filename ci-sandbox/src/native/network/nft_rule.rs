//! The rules of nftables: tests of a packet, then what becomes of it. Numbers are those of
//! `linux/netfilter/nf_tables.h`.

use super::netlink::{CREATE, Message};
use super::nft::{IPV4, LIST_ITEM, VALUE, expression, message};

const NEW_RULE: u16 = 6;
/// `NLM_F_APPEND`: after the rules that are there.
const APPEND: u16 = 0x800;
/// `NFTA_DATA_VERDICT`.
const VERDICT: u16 = 2;

/// Where a rule keeps what it compares: `NFT_REG_1`, in 4-byte parts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Register(u32);

impl Register {
    /// The first.
    pub(super) const FIRST: Self = Self(8);

    /// The one after `bytes` more.
    pub(super) fn after(self, bytes: u32) -> Self {
        Self(self.0 + bytes / 4)
    }
}

/// What a packet is asked for: `enum nft_meta_keys`.
#[derive(Clone, Copy, Debug)]
pub(super) enum Meta {
    InputDevice = 6,
    OutputDevice = 7,
    Family = 15,
    Protocol = 16,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug)]
pub(super) enum Verdict<'a> {
    Drop,
    Accept,
    Goto(&'a str),
}

/// A rule that is being put together: tests from left to right, then what happens.
#[derive(Debug)]
pub(super) struct Rule {
    head: Message,
    expressions: Vec<Message>,
}

impl Rule {
    /// One more rule of a chain.
    pub(super) fn of(table: &str, chain: &str) -> Self {
        let head = message(NEW_RULE, CREATE | APPEND).with_text(1, table).with_text(2, chain);
        Self { head, expressions: Vec::new() }
    }

    /// Loads something about the packet.
    pub(super) fn load(self, what: Meta, to: Register) -> Self {
        self.then("meta", |meta| meta.with_be32(1, to.0).with_be32(2, what as u32))
    }

    /// Loads bytes of the network's header.
    pub(super) fn load_network(self, offset: u32, length: u32, to: Register) -> Self {
        self.load_header(1, offset, length, to)
    }

    /// Loads bytes of the transport's header.
    pub(super) fn load_transport(self, offset: u32, length: u32, to: Register) -> Self {
        self.load_header(2, offset, length, to)
    }

    fn load_header(self, base: u32, offset: u32, length: u32, to: Register) -> Self {
        self.then("payload", |payload| {
            payload.with_be32(1, to.0).with_be32(2, base).with_be32(3, offset).with_be32(4, length)
        })
    }

    /// Loads these bytes.
    pub(super) fn put(self, bytes: &[u8], to: Register) -> Self {
        self.then("immediate", |data| data.with_be32(1, to.0).nest(2, |data| data.with(VALUE, bytes)))
    }

    /// Keeps the bits of `mask` of what was loaded first.
    pub(super) fn mask(self, mask: &[u8]) -> Self {
        let length = u32::try_from(mask.len()).unwrap_or(u32::MAX);
        let zeros = vec![0; mask.len()];
        self.then("bitwise", |bitwise| {
            bitwise
                .with_be32(1, Register::FIRST.0)
                .with_be32(2, Register::FIRST.0)
                .with_be32(3, length)
                .nest(4, |data| data.with(VALUE, mask))
                .nest(5, |data| data.with(VALUE, &zeros))
        })
    }

    /// Goes on if what was loaded first begins with `value`.
    pub(super) fn equals(self, value: &[u8]) -> Self {
        self.compare(0, value)
    }

    /// Goes on if it does not.
    pub(super) fn differs(self, value: &[u8]) -> Self {
        self.compare(1, value)
    }

    fn compare(self, operation: u32, value: &[u8]) -> Self {
        self.then("cmp", |cmp| {
            cmp.with_be32(1, Register::FIRST.0)
                .with_be32(2, operation)
                .nest(3, |data| data.with(VALUE, value))
        })
    }

    /// Goes on if the connection is in one of these states.
    pub(super) fn state_in(self, states: u32) -> Self {
        self.then("ct", |ct| ct.with_be32(1, Register::FIRST.0).with_be32(2, 0))
            .mask(&states.to_ne_bytes())
            .differs(&[0; 4])
    }

    /// Goes on if the packet is on its way back to where the connection came from.
    pub(super) fn answers(self) -> Self {
        self.then("ct", |ct| ct.with_be32(1, Register::FIRST.0).with_be32(2, 1)).equals(&[1])
    }

    /// Goes on if what was loaded is in a set, and the set's element agrees.
    pub(super) fn among(self, set: &str) -> Self {
        self.look_up(set, 0)
    }

    /// Goes on if it is not.
    pub(super) fn not_among(self, set: &str) -> Self {
        self.look_up(set, 1)
    }

    fn look_up(self, set: &str, flags: u32) -> Self {
        self.then("lookup", |lookup| {
            lookup.with_text(1, set).with_be32(2, Register::FIRST.0).with_be32(5, flags)
        })
    }

    /// Adds what was loaded to a set where it is not in it, and counts it there. A set that is full stays as it is.
    pub(super) fn add_to(self, set: &str) -> Message {
        self.then("dynset", |add| {
            let add = add.with_text(1, set).with_be32(3, 0).with_be32(4, Register::FIRST.0);
            add.nest(7, |each| expression(each, "counter", |counter| counter))
        })
        .done()
    }

    /// Answers that nobody listens there: for TCP, where an error of the network is believed only when it is repeated.
    pub(super) fn reset(self) -> Message {
        // `NFT_REJECT_TCP_RST`.
        self.then("reject", |reject| reject.with_be32(1, 1)).done()
    }

    /// Answers that the network's administrator forbids it.
    pub(super) fn reject(self) -> Message {
        // `NFT_REJECT_ICMPX_UNREACH` with `NFT_REJECT_ICMPX_ADMIN_PROHIBITED`.
        self.then("reject", |reject| reject.with_be32(1, 2).with(2, &[3])).done()
    }

    /// Gives it another source.
    pub(super) fn source(self, source: [u8; 4]) -> Message {
        self.put(&source, Register::FIRST)
            .then("nat", |nat| nat.with_be32(1, 0).with_be32(2, IPV4.into()).with_be32(3, Register::FIRST.0))
            .done()
    }

    /// Decides about it.
    pub(super) fn verdict(self, verdict: Verdict<'_>) -> Message {
        const GOTO: i32 = -4;
        let (code, chain) = match verdict {
            Verdict::Drop => (0, None),
            Verdict::Accept => (1, None),
            Verdict::Goto(chain) => (GOTO, Some(chain)),
        };
        self.then("immediate", |data| {
            data.with_be32(1, 0).nest(2, |data| {
                data.nest(VERDICT, |verdict| {
                    let verdict = verdict.with_be32(1, code.cast_unsigned());
                    chain.into_iter().fold(verdict, |verdict, chain| verdict.with_text(2, chain))
                })
            })
        })
        .done()
    }

    /// The rule as it is: it only counts what its sets count.
    pub(super) fn done(self) -> Message {
        let Self { head, expressions } = self;
        head.nest(4, |list| {
            expressions
                .into_iter()
                .fold(list, |list, each| list.nest(LIST_ITEM, |item| item.followed_by(&each)))
        })
    }

    fn then(mut self, name: &str, inside: impl FnOnce(Message) -> Message) -> Self {
        self.expressions.push(expression(Message::fragment(), name, inside));
        self
    }
}
