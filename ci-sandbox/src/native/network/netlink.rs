//! Messages to and from the kernel's network configuration (netlink(7)).
//!
//! Own code, and little of it: the crates for it know nftables without `ct`, `nat` and `counter`, want an async runtime
//! of their own, or bind C libraries, and a sandbox's firewall is no place for a process per change.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

/// The kernel answers before `send` returns; this is for the case that it does not.
const PATIENCE: Duration = Duration::from_secs(5);

/// `struct nlmsghdr`.
const HEAD: usize = 16;
/// Room for the largest datagram that the kernel makes of a dump.
const ROOM: usize = 64 * 1024;

const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
/// Fails when it exists.
pub(super) const EXCLUSIVE: u16 = 0x200;
/// Makes what does not exist.
pub(super) const CREATE: u16 = 0x400;

/// `NLMSG_ERROR`, which an acknowledgement is too, and `NLMSG_DONE`.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// `NLA_F_NESTED`, and with `NLA_F_NET_BYTEORDER` all that is no part of an attribute's number.
const NESTED: u16 = 0x8000;
const KIND: u16 = 0x3fff;

/// `NFNL_MSG_BATCH_BEGIN`, `NFNL_MSG_BATCH_END` and `NFNL_SUBSYS_NFTABLES`.
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NFTABLES: u16 = 10;

/// A message that is being put together: a kind, a fixed head and attributes.
#[derive(Clone, Debug)]
pub(super) struct Message(Vec<u8>);

impl Message {
    /// A message of `kind` with the structure that the kind begins with.
    pub(super) fn new(kind: u16, flags: u16, head: &[u8]) -> Self {
        let mut bytes = vec![0; HEAD];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | REQUEST).to_ne_bytes());
        bytes.extend_from_slice(head);
        Self(bytes).padded()
    }

    /// A message to netfilter, whose head is `struct nfgenmsg`.
    pub(super) fn netfilter(kind: u16, flags: u16, family: u8) -> Self {
        Self::new(kind, flags, &[family, 0, 0, 0])
    }

    /// Attributes alone, to be put into a message.
    pub(super) fn fragment() -> Self {
        Self(Vec::new())
    }

    /// Adds the attributes of a fragment.
    pub(super) fn followed_by(self, fragment: &Self) -> Self {
        self.with_bytes(&fragment.0)
    }

    /// Adds attributes as they were read.
    pub(super) fn with_bytes(mut self, attributes: &[u8]) -> Self {
        self.0.extend_from_slice(attributes);
        self.padded()
    }

    /// Adds an attribute.
    pub(super) fn with(mut self, kind: u16, value: &[u8]) -> Self {
        let start = self.0.len();
        self.0.extend([0; 4]);
        self.0.extend_from_slice(value);
        self.close(start, kind)
    }

    /// Adds a text with its NUL.
    pub(super) fn with_text(self, kind: u16, text: &str) -> Self {
        let mut bytes = text.as_bytes().to_vec();
        bytes.push(0);
        self.with(kind, &bytes)
    }

    /// Adds a number as rtnetlink takes it.
    pub(super) fn with_u32(self, kind: u16, value: u32) -> Self {
        self.with(kind, &value.to_ne_bytes())
    }

    /// Adds a number as netfilter takes it.
    pub(super) fn with_be32(self, kind: u16, value: u32) -> Self {
        self.with(kind, &value.to_be_bytes())
    }

    /// Adds an attribute made of attributes.
    pub(super) fn nest(self, kind: u16, inside: impl FnOnce(Self) -> Self) -> Self {
        self.nest_after(kind, &[], inside)
    }

    /// Adds an attribute made of a structure and attributes.
    pub(super) fn nest_after(mut self, kind: u16, head: &[u8], inside: impl FnOnce(Self) -> Self) -> Self {
        let start = self.0.len();
        self.0.extend([0; 4]);
        self.0.extend_from_slice(head);
        inside(self.padded()).close(start, kind | NESTED)
    }

    /// Fills in the head of the attribute that begins at `start`.
    fn close(mut self, start: usize, kind: u16) -> Self {
        // Callers keep lists short: see `nft_table::MOST_ELEMENTS`.
        let length = u16::try_from(self.0.len() - start).expect("an attribute has less than 64 KiB");
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.0[start + 2..start + 4].copy_from_slice(&kind.to_ne_bytes());
        self.padded()
    }

    fn padded(mut self) -> Self {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn add_flags(&mut self, flags: u16) {
        let flags = u16::from_ne_bytes([self.0[6], self.0[7]]) | flags;
        self.0[6..8].copy_from_slice(&flags.to_ne_bytes());
    }

    /// Its bytes, as message number `sequence`.
    fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.0
    }
}

/// The attributes of a message or of another attribute: kind and content, as far as they are whole.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    /// Those in `bytes`.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Those after a message's structure of `head` bytes.
    pub(super) fn after(message: &'a [u8], head: usize) -> Self {
        Self(message.get(head..).unwrap_or_default())
    }

    /// One after the other.
    pub(super) fn iter(mut self) -> impl Iterator<Item = (u16, &'a [u8])> {
        std::iter::from_fn(move || {
            let (head, _) = self.0.split_first_chunk::<4>()?;
            let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
            let kind = u16::from_ne_bytes([head[2], head[3]]) & KIND;
            let content = self.0.get(4..length)?;
            self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
            Some((kind, content))
        })
    }

    /// The content of the first attribute of this kind.
    pub(super) fn get(self, kind: u16) -> Option<&'a [u8]> {
        self.iter().find_map(|(each, content)| (each == kind).then_some(content))
    }

    /// The attributes within the first attribute of this kind; none where there is none.
    pub(super) fn within(self, kind: u16) -> Self {
        Self(self.get(kind).unwrap_or_default())
    }
}

/// A connection to the kernel, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(super) struct Socket {
    socket: OwnedFd,
    sequence: u32,
}

impl Socket {
    /// To links, addresses and routes (rtnetlink(7)).
    pub(super) fn route() -> io::Result<Self> {
        Self::open(None)
    }

    /// To nftables and connection tracking.
    pub(super) fn netfilter() -> io::Result<Self> {
        Self::open(Some(netlink::NETFILTER))
    }

    /// To the sockets of this namespace.
    pub(super) fn sockets() -> io::Result<Self> {
        Self::open(Some(netlink::SOCK_DIAG))
    }

    fn open(protocol: Option<rustix::net::Protocol>) -> io::Result<Self> {
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// The descriptor.
    pub(super) fn file(&self) -> &OwnedFd {
        &self.socket
    }

    /// Has the kernel do one thing.
    pub(super) fn request(&mut self, mut message: Message) -> io::Result<()> {
        message.add_flags(ACK);
        let sequence = self.next();
        self.send(&message.finish(sequence))?;
        self.replies(|reply| match reply {
            Reply { kind: ERROR, sequence: number, content } if number == sequence => Some(outcome(content)),
            _ => None,
        })
    }

    /// Has nftables do all of several things, or none.
    pub(super) fn transaction(&mut self, messages: Vec<Message>) -> io::Result<()> {
        let mark =
            |kind| Message::new(kind, 0, &[0, 0, NFTABLES.to_be_bytes()[0], NFTABLES.to_be_bytes()[1]]);
        let begin = self.next();
        let mut bytes = mark(BATCH_BEGIN).finish(begin);
        let count = messages.len();
        for (item, mut message) in messages.into_iter().enumerate() {
            if item + 1 == count {
                message.add_flags(ACK);
            }
            bytes.extend(message.finish(self.next()));
        }
        let last = self.sequence;
        bytes.extend(mark(BATCH_END).finish(self.next()));
        self.send(&bytes)?;
        // Every message that fails is told, then the last one either way. What fails when all are put into effect, and
        // nothing else, is told under the number of the beginning.
        let mut failed = Ok(());
        self.replies(|reply| {
            let Reply { kind: ERROR, sequence, content } = reply else { return None };
            if !(begin..=last).contains(&sequence) {
                return None;
            }
            if failed.is_ok() {
                failed = outcome(content);
            }
            (sequence == last || sequence == begin).then(|| std::mem::replace(&mut failed, Ok(())))
        })
    }

    /// Asks for all there is of something, or for what `message` names, and hands on what comes: what follows the
    /// head of each message.
    pub(super) fn dump(&mut self, mut message: Message, each: impl FnMut(&[u8])) -> io::Result<()> {
        message.add_flags(DUMP);
        self.ask(message, each)
    }

    /// As [`dump`](Self::dump), for a request that is answered and then acknowledged.
    pub(super) fn look_up(&mut self, mut message: Message, each: impl FnMut(&[u8])) -> io::Result<()> {
        message.add_flags(ACK);
        self.ask(message, each)
    }

    fn ask(&mut self, message: Message, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let sequence = self.next();
        self.send(&message.finish(sequence))?;
        self.replies(|reply| match reply {
            reply if reply.sequence != sequence => None,
            Reply { kind: DONE, .. } => Some(Ok(())),
            Reply { kind: ERROR, content, .. } => Some(outcome(content)),
            Reply { content, .. } => {
                each(content);
                None
            }
        })
    }

    fn next(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        send(&self.socket, bytes, SendFlags::empty())?;
        Ok(())
    }

    /// Reads until `judge` has found what it waits for.
    fn replies<T>(&self, mut judge: impl FnMut(Reply<'_>) -> Option<io::Result<T>>) -> io::Result<T> {
        let mut room = vec![0; ROOM];
        loop {
            let (length, _) = match recv(&self.socket, room.as_mut_slice(), RecvFlags::empty()) {
                Err(Errno::INTR) => continue,
                received => received?,
            };
            let mut rest = &room[..length];
            while let Some((reply, more)) = Reply::first(rest) {
                if let Some(found) = judge(reply) {
                    return found;
                }
                rest = more;
            }
        }
    }
}

/// One message from the kernel.
struct Reply<'a> {
    kind: u16,
    sequence: u32,
    content: &'a [u8],
}

impl<'a> Reply<'a> {
    /// The first message in `bytes`, and what follows it.
    fn first(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let word = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
        let length = word(0)? as usize;
        let kind = u16::from_ne_bytes([*bytes.get(4)?, *bytes.get(5)?]);
        let reply = Self { kind, sequence: word(8)?, content: bytes.get(HEAD..length)? };
        Some((reply, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
    }
}

/// Whether the kernel has said this.
pub(super) fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

/// What a message of kind `NLMSG_ERROR` says.
fn outcome(content: &[u8]) -> io::Result<()> {
    let code = content.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn attributes_are_read_as_they_were_written() {
        let message = Message::new(7, 0, b"head")
            .with_text(1, "four")
            .nest(2, |inner| inner.with_be32(3, 4).nest_after(5, b"ab", |most| most.with(6, b"x")));
        let bytes = message.finish(9);
        let (reply, rest) = Reply::first(&bytes).unwrap();
        assert_eq!((reply.kind, reply.sequence, rest), (7, 9, [].as_slice()));
        let attributes = Attributes::after(reply.content, 4);
        assert_eq!(attributes.get(1), Some(b"four\0".as_slice()));
        assert_eq!(attributes.within(2).get(3), Some([0, 0, 0, 4].as_slice()));
        let most = attributes.within(2).get(5).unwrap();
        assert_eq!(Attributes::after(most, 4).get(6), Some(b"x".as_slice()));
        assert_eq!(attributes.get(9), None);
    }

    #[test]
    fn the_kernel_says_no_with_its_reason() {
        let mut socket = Socket::route().unwrap();
        // RTM_DELLINK of a link that nobody has.
        let mut link = [0; 16];
        link[4..8].copy_from_slice(&i32::MAX.to_ne_bytes());
        let error = socket.request(Message::new(17, 0, &link)).expect_err("there is none");
        let expected = if rustix::process::geteuid().is_root() { Errno::NODEV } else { Errno::PERM };
        assert_eq!(error.raw_os_error(), Some(expected.raw_os_error()));
    }

    proptest! {
        /// The kernel is trusted, but a truncated datagram must not end the program.
        #[test]
        fn any_bytes_can_be_read(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let mut rest = bytes.as_slice();
            while let Some((reply, more)) = Reply::first(rest) {
                let _ = outcome(reply.content);
                for (_, content) in Attributes::new(reply.content).iter() {
                    let _ = Attributes::new(content).iter().count();
                }
                if more.len() >= rest.len() { break; }
                rest = more;
            }
        }
    }
}
