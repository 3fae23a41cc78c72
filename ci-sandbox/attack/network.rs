//! Attacks by sockets where there is no network: S-10, S-11, N-1 to N-4, R-6.

use core::ffi::CStr;

use crate::nr;
use crate::scan::{names, path_of, shown};
use crate::sys::{Errno, Fd, O_CLOEXEC, O_NONBLOCK, Page, Result, Words, ask, number};
use crate::verdict::{Doors, Verdict, held, line, untried};

const UNIX: usize = 1;
pub(crate) const IPV4: usize = 2;
const IPV6: usize = 10;
pub(crate) const STREAM: usize = 1;
pub(crate) const DATAGRAM: usize = 2;
pub(crate) const RAW: usize = 3;

pub(crate) fn socket(family: usize, kind: usize, protocol: usize) -> Result<Fd> {
    ask!(nr::SOCKET, family, kind | O_CLOEXEC | O_NONBLOCK, protocol).map(|file| Fd(file as i32))
}

/// S-10: sockets to the hypervisor, which no namespace holds.
pub(crate) fn hypervisor_sockets(_: Words) -> Verdict {
    const VSOCK: usize = 40;
    let mut doors = Doors::new();
    doors.closed("open a socket to the hypervisor", socket(VSOCK, STREAM, 0));
    doors.closed("open a datagram socket to the hypervisor", socket(VSOCK, DATAGRAM, 0));
    doors.verdict()
}

/// S-11: sockets below the rules, or into rarely trodden parts of the kernel.
pub(crate) fn odd_sockets(_: Words) -> Verdict {
    const ICMP: usize = 1;
    const NETLINK: usize = 16;
    const NETFILTER: usize = 12;
    let mut doors = Doors::new();
    for (name, family, kind, protocol) in [
        ("packet", 17, RAW, 0x300),
        ("raw ICMP", IPV4, RAW, ICMP),
        ("raw ICMPv6", IPV6, RAW, 58),
        ("RDS", 21, 5, 0),
        ("TIPC", 30, STREAM, 0),
        ("Bluetooth", 31, RAW, 1),
        ("CAN", 29, RAW, 1),
        ("XDP", 44, RAW, 0),
        ("Appletalk", 5, DATAGRAM, 0),
        ("X.25", 9, 5, 0),
        ("key management", 15, RAW, 2),
    ] {
        if socket(family, kind, protocol).is_ok() {
            doors.open(&line!("open a socket for {name}"));
        }
        doors.tried_one();
    }
    // Changing addresses and rules: a message that is complete and says nothing.
    for (what, protocol, kind) in [("addresses", 0, 21_u32), ("packet rules", NETFILTER, 10 << 8)] {
        if let Ok(socket) = socket(NETLINK, RAW, protocol)
            && let Some(answer) = netlink(&socket, kind)
        {
            doors.refused(what, answer, &[1, 13]);
        }
    }
    match doors.verdict() {
        Verdict::Held(_) => held!("no socket below the rules, and no rule can be changed"),
        other => other,
    }
}

/// What the kernel answers to a request of `kind` (`struct nlmsghdr`, netlink(7)) with nothing in it.
fn netlink(socket: &Fd, kind: u32) -> Option<Result<usize>> {
    const ERROR: u32 = 2;
    const REQUEST_AND_ANSWER: u32 = 5;
    const LENGTH: u32 = 20;
    let mut message = Page::new();
    message.put_u32(0, LENGTH);
    message.put_u32(4, kind | REQUEST_AND_ANSWER << 16);
    let mut kernel = Page::new();
    kernel.put_u32(0, 16);
    if let Err(error) = ask!(nr::SENDTO, socket.0, &mut message, LENGTH as usize, 0, &mut kernel, 12) {
        return Some(Err(error));
    }
    let mut answer = Page::new();
    let length = crate::sys::read(socket.0, &mut answer).ok()?;
    let error = answer.u32(16).cast_signed();
    (length >= 20 && answer.u32(4) & 0xffff == ERROR)
        .then(|| if error == 0 { Ok(0) } else { Err(Errno(-error)) })
}

/// N-1: network devices beside loopback, and routes: connecting a datagram socket looks one up and sends nothing.
pub(crate) fn devices_and_routes(words: Words) -> Verdict {
    const GET_NAME: usize = 0x8910;
    const GET_FLAGS: usize = 0x8913;
    const UP: u32 = 1;
    const LOOPBACK: u32 = 8;
    let mut doors = Doors::new();
    if let Ok(socket) = socket(IPV4, DATAGRAM, 0) {
        for index in 1..256_u32 {
            // struct ifreq: a name of 16 bytes, then what is asked for.
            let mut request = Page::new();
            request.put_u32(16, index);
            if ask!(nr::IOCTL, socket.0, GET_NAME, &mut request).is_err() {
                continue;
            }
            let _ = ask!(nr::IOCTL, socket.0, GET_FLAGS, &mut request);
            let flags = request.u32(16) & 0xffff;
            doors.tried_one();
            if flags & UP != 0 && flags & LOOPBACK == 0 {
                request.put(15, &[0]);
                doors.open(&line!("use the network device {}", shown(request.as_text())));
            }
        }
    }
    for index in 2..words.count() {
        let Some(target) = Target::parse(words.get(index)) else { continue };
        doors.tried_one();
        if target.has_route() {
            doors.open(&line!("find a route to {}", shown(words.get(index))));
        }
    }
    match doors.verdict() {
        Verdict::Held(_) => held!("there is loopback and no route"),
        other => other,
    }
}

/// N-2, N-3, N-4: somebody outside, at `ADDRESS/PORT...`. Those without a route are sent nothing.
pub(crate) fn reach(words: Words) -> Verdict {
    let mut doors = Doors::new();
    for index in 2..words.count() {
        let Some(target) = Target::parse(words.get(index)) else {
            return untried!("{} is no address", shown(words.get(index)));
        };
        doors.tried_one();
        if !target.has_route() {
            continue;
        }
        target.send();
        if target.answers() {
            doors.open(&line!("reach {}", shown(words.get(index))));
        }
    }
    match doors.verdict() {
        Verdict::Held(_) => held!("nobody answers at {} addresses", words.count() - 2),
        other => other,
    }
}

/// An address and a port, as the kernel takes them.
pub(crate) struct Target {
    pub(crate) family: usize,
    address: [u8; 28],
    pub(crate) length: usize,
    /// Whether it can be nobody but this sandbox: then a refusal is its own.
    is_own: bool,
}

impl Target {
    /// `1.2.3.4/80`, or an IPv6 address as 32 hexadecimal digits with the port.
    pub(crate) fn parse(text: &CStr) -> Option<Self> {
        let mut parts = text.to_bytes().split(|byte| *byte == b'/');
        let (address, port) = (parts.next()?, number(parts.next()?) as u16);
        let mut bytes = [0; 28];
        bytes[2..4].copy_from_slice(&port.to_be_bytes());
        if address.len() == 32 {
            bytes[..2].copy_from_slice(&(IPV6 as u16).to_ne_bytes());
            for (place, digits) in bytes[8..24].iter_mut().zip(address.chunks(2)) {
                *place = u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?;
            }
            let is_mapped_own = bytes[8..18] == [0; 10] && bytes[18..20] == [255, 255] && bytes[20] == 127;
            let is_own = is_mapped_own || bytes[8..23] == [0; 15];
            return Some(Self { family: IPV6, address: bytes, length: 28, is_own });
        }
        bytes[..2].copy_from_slice(&(IPV4 as u16).to_ne_bytes());
        for (place, part) in bytes[4..8].iter_mut().zip(address.split(|byte| *byte == b'.')) {
            *place = number(part) as u8;
        }
        let is_own = matches!(bytes[4], 0 | 127);
        Some(Self { family: IPV4, address: bytes, length: 16, is_own })
    }

    pub(crate) fn page(&self) -> Page {
        let mut page = Page::new();
        page.put(0, &self.address);
        page
    }

    fn has_route(&self) -> bool {
        socket(self.family, DATAGRAM, 0)
            .and_then(|socket| ask!(nr::CONNECT, socket.0, &mut self.page(), self.length))
            .is_ok()
    }

    /// A datagram, which the kit listens for.
    pub(crate) fn send(&self) {
        if let Ok(socket) = socket(self.family, DATAGRAM, 0) {
            let mut word = Page::text(b"attack");
            let _ = ask!(nr::SENDTO, socket.0, &mut word, 6, 0, &mut self.page(), self.length);
        }
    }

    /// Whether somebody takes a connection, or refuses it, within a second.
    pub(crate) fn answers(&self) -> bool {
        const WRITABLE: u32 = 4;
        const SOCKET_LEVEL: usize = 1;
        const ERROR: usize = 4;
        let Ok(socket) = socket(self.family, STREAM, 0) else { return false };
        let error = match ask!(nr::CONNECT, socket.0, &mut self.page(), self.length) {
            Ok(_) => 0,
            Err(Errno(115)) => {
                let mut poll = Page::new();
                poll.put_u32(0, socket.0.cast_unsigned());
                poll.put_u32(4, WRITABLE);
                let mut second = Page::new();
                second.put_u64(0, 1);
                if ask!(nr::PPOLL, &mut poll, 1, &mut second, 0, 0) != Ok(1) {
                    return false;
                }
                let (mut error, mut length) = (Page::new(), Page::new());
                length.put_u32(0, 4);
                let _ = ask!(nr::GETSOCKOPT, socket.0, SOCKET_LEVEL, ERROR, &mut error, &mut length);
                error.u32(0)
            }
            Err(Errno(number)) => number.cast_unsigned(),
        };
        error == 0 || error == 111 && !self.is_own
    }
}

/// N-3: abstract names of UNIX sockets that somebody outside listens at (CVE-2020-15257).
pub(crate) fn reach_local(words: Words) -> Verdict {
    let mut doors = Doors::new();
    for index in 2..words.count() {
        let name = words.get(index).to_bytes();
        let mut address = Page::new();
        address.put(0, &(UNIX as u16).to_ne_bytes());
        // `@name` is an abstract one, a path is itself.
        let at = if name.starts_with(b"@") { &name[1..] } else { name };
        let start = if name.starts_with(b"@") { 3 } else { 2 };
        address.put(start, &at[..at.len().min(100)]);
        let connected = socket(UNIX, STREAM, 0)
            .and_then(|socket| ask!(nr::CONNECT, socket.0, &mut address, start + at.len().min(100)));
        doors.refused(shown(words.get(index)), connected, &[1, 2, 13, 111]);
    }
    doors.verdict()
}

/// sockets in the sandbox's own sight: those in `/proc/net/unix`, and those where engines have theirs.
pub(crate) fn sockets_in_sight(_: Words) -> Verdict {
    const SOCKET: u32 = 0o140_000;
    let mut doors = Doors::new();
    let mut table = Page::new();
    if let Ok(length) = crate::sys::read_start(c"/proc/net/unix", &mut table) {
        for row in table.bytes()[..length].split(|byte| *byte == b'\n').skip(1) {
            // The name is the eighth column, where there is one.
            if let Some(name) = row.split(|byte| *byte == b' ').filter(|part| !part.is_empty()).nth(7) {
                doors.open(&line!("see the socket {}", str::from_utf8(name).unwrap_or("(not text)")));
            }
        }
    }
    for folder in ["/run", "/var/run", "/tmp", "/run/containerd", "/run/podman", "/run/user", "/work", "/dev"]
    {
        let _ = names(path_of!("{folder}").as_text(), |name| {
            let file = path_of!("{folder}/{}", shown(name));
            if crate::scan::kind(file.as_text()).is_ok_and(|(mode, _)| mode & 0o170_000 == SOCKET) {
                doors.open(&line!("find the socket {}", shown(file.as_text())));
            }
            true
        });
        doors.tried_one();
    }
    match doors.verdict() {
        Verdict::Held(_) => held!("no socket is in sight"),
        other => other,
    }
}

/// Listens on all addresses, says at which port, and answers everybody with `word`, for a minute at most.
pub(crate) fn listen(word: &[u8]) -> usize {
    listen_at(0, word)
}

/// The same at a port.
pub(crate) fn listen_at(port: u16, word: &[u8]) -> usize {
    const ONLY_IPV6: usize = 26;
    const SOCKET_LEVEL: usize = 1;
    const REUSE: usize = 2;
    let Ok(listener) = socket(IPV6, STREAM, 0).or_else(|_| socket(IPV4, STREAM, 0)) else { return 1 };
    let mut off = Page::new();
    let _ = ask!(nr::SETSOCKOPT, listener.0, 41, ONLY_IPV6, &mut off, 4);
    let mut on = Page::new();
    on.put_u32(0, 1);
    let _ = ask!(nr::SETSOCKOPT, listener.0, SOCKET_LEVEL, REUSE, &mut on, 4);
    let mut address = Page::new();
    address.put(0, &(IPV6 as u16).to_ne_bytes());
    address.put(2, &port.to_be_bytes());
    if ask!(nr::BIND, listener.0, &mut address, 28).is_err() || ask!(nr::LISTEN, listener.0, 8).is_err() {
        return 1;
    }
    let mut length = Page::new();
    length.put_u32(0, 28);
    let _ = ask!(nr::GETSOCKNAME, listener.0, &mut address, &mut length);
    let port = u16::from_be_bytes([address.bytes()[2], address.bytes()[3]]);
    let _ = crate::sys::write_all(1, line!("{port}\n").as_bytes());
    let end = crate::task::now_ms() + 60_000;
    while crate::task::now_ms() < end {
        match ask!(nr::ACCEPT4, listener.0, 0, 0, O_CLOEXEC) {
            Ok(file) => drop(crate::sys::write_all(Fd(file as i32).0, word)),
            Err(_) => crate::task::sleep_ms(5),
        }
    }
    0
}
