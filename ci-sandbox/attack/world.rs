//! A network with rules: talking to what they allow, and attacks on them by a job that has no privileges: N-5, N-6.

use core::ffi::CStr;

use crate::network::{DATAGRAM, IPV4, RAW, STREAM, Target, socket};
use crate::nr;
use crate::scan::shown;
use crate::streams::one_of;
use crate::sys::{Errno, Fd, Page, Words, ask, number, read, read_start, write_all};
use crate::task::{fork, ignore, wait_for_the_end};
use crate::verdict::{Doors, Line, Verdict, held, line, untried};

const SIGPIPE: usize = 13;
const READABLE: u32 = 1;
const WRITABLE: u32 = 4;

/// Waits until a socket can be read from or written to, for at most that long.
fn ready(socket: &Fd, what: u32, milliseconds: u64) -> bool {
    let mut poll = Page::new();
    poll.put_u32(0, socket.0.cast_unsigned());
    poll.put_u32(4, what);
    let mut time = Page::new();
    time.put_u64(0, milliseconds / 1_000);
    time.put_u64(8, milliseconds % 1_000 * 1_000_000);
    ask!(nr::PPOLL, &mut poll, 1, &mut time, 0, 0) == Ok(1)
}

/// A connection that stands within three seconds.
fn connect(target: &Target) -> Option<Fd> {
    const SOCKET_LEVEL: usize = 1;
    const ERROR: usize = 4;
    let socket = socket(target.family, STREAM, 0).ok()?;
    match ask!(nr::CONNECT, socket.0, &mut target.page(), target.length) {
        Ok(_) => {}
        Err(Errno(115)) if ready(&socket, WRITABLE, 3_000) => {
            let (mut error, mut length) = (Page::new(), Page::new());
            length.put_u32(0, 4);
            let asked = ask!(nr::GETSOCKOPT, socket.0, SOCKET_LEVEL, ERROR, &mut error, &mut length);
            if asked.is_err() || error.u32(0) != 0 {
                return None;
            }
        }
        Err(_) => return None,
    }
    Some(socket)
}

/// The next line from a connection, within five seconds.
fn next_line(socket: &Fd) -> Option<Line> {
    let mut line = Line::new();
    let mut page = Page::new();
    loop {
        if !ready(socket, READABLE, 5_000) || ask!(nr::READ, socket.0, &mut page, 1) != Ok(1) {
            return None;
        }
        match page.bytes()[0] {
            b'\n' => return Some(line),
            b'\r' => {}
            byte => line.push(byte),
        }
    }
}

/// A way to somebody: `ADDRESS/PORT` directly, `NAME:PORT` by the proxy that the variables name (as curl(1) and others
/// read them).
fn reach(words: Words, to: &CStr) -> Option<Fd> {
    ignore(SIGPIPE);
    if let [digits @ .., _] = to.to_bytes()
        && digits.contains(&b'/')
    {
        return connect(&Target::parse(to)?);
    }
    let proxy = one_of(words, &[b"https_proxy", b"HTTPS_PROXY", b"http_proxy", b"ALL_PROXY"])?;
    let address = proxy.to_bytes().strip_prefix(b"http://")?;
    let colon = address.iter().position(|byte| *byte == b':')?;
    let at = line!("{}/{}", str::from_utf8(&address[..colon]).ok()?, number(&address[colon + 1..]));
    let socket = connect(&Target::parse(Page::text(at.as_bytes()).as_text())?)?;
    let name = shown(to);
    write_all(socket.0, line!("CONNECT {name} HTTP/1.1\r\nHost: {name}\r\n\r\n").as_bytes()).ok()?;
    let status = next_line(&socket)?;
    if status.as_bytes().get(9..12) != Some(b"200") {
        return None;
    }
    while !next_line(&socket)?.is_empty() {}
    Some(socket)
}

/// Connects to `TO`, says which address it has itself there and what the other end says first; with `stay` it keeps
/// the connection, with `leave` another process does.
pub(crate) fn talk(words: Words) -> usize {
    let Some(socket) = reach(words, words.get(2)) else { return 1 };
    let Some(said) = next_line(&socket) else { return 2 };
    let mut own = Page::new();
    let mut length = Page::new();
    length.put_u32(0, 28);
    let _ = ask!(nr::GETSOCKNAME, socket.0, &mut own, &mut length);
    let [a, b, c, d] = [4, 5, 6, 7].map(|at| own.bytes()[at]);
    let port = u16::from_be_bytes([own.bytes()[2], own.bytes()[3]]);
    let _ = write_all(1, line!("{a}.{b}.{c}.{d}:{port} {said}\n").as_bytes());
    match words.get(3).to_bytes() {
        b"stay" => wait_for_the_end(),
        b"leave" => {
            if let Ok(None) = fork() {
                wait_for_the_end();
            }
        }
        _ => {}
    }
    0
}

/// Opens as many of `COUNT` connections to `TO` as it can, says how many, and keeps them.
pub(crate) fn hoard_connections(words: Words) -> usize {
    const MOST: usize = 1_024;
    let mut kept = [const { None }; MOST];
    let mut count = 0;
    while count < words.number(2).min(MOST) {
        kept[count] = reach(words, words.get(3));
        if kept[count].is_none() {
            break;
        }
        count += 1;
    }
    let _ = write_all(1, line!("{count}\n").as_bytes());
    wait_for_the_end()
}

/// N-5: speaks to a name server beside the rules, and sends data as the names that it asks for: `N-5 SERVER NAME...`.
/// What comes of it is for the name server to say; here only a connection and an answer are.
pub(crate) fn tunnel(words: Words) -> Verdict {
    let mut doors = Doors::new();
    let Some(server) = Target::parse(words.get(2)) else { return untried!("it is no address") };
    doors.tried_one();
    if connect(&server).is_some() {
        doors.open(&line!("connect to a name server of its own"));
    }
    let mut resolvers = [const { None }; 4];
    resolvers[0] = Some(server);
    for (place, resolver) in resolvers[1..].iter_mut().zip(own_resolvers()) {
        *place = resolver;
    }
    for (index, resolver) in resolvers.iter().enumerate() {
        let Some(resolver) = resolver else { continue };
        for word in 3..words.count() {
            // An answer from the sandbox's own resolver is what the rules allow; whom it has asked is not seen here.
            doors.tried_one();
            if look_up(resolver, words.get(word)) && index == 0 {
                doors.open(&line!("ask a name server of its own for {}", shown(words.get(word))));
            }
        }
    }
    match doors.verdict() {
        Verdict::Held(_) => held!("no name server answers, but the sandbox's own"),
        other => other,
    }
}

/// The resolvers that programs in the sandbox are told of (resolv.conf(5)).
fn own_resolvers() -> [Option<Target>; 3] {
    let mut found = [const { None }; 3];
    let mut file = Page::new();
    let length = read_start(c"/etc/resolv.conf", &mut file).unwrap_or(0);
    let lines = file.bytes()[..length].split(|byte| *byte == b'\n');
    let servers = lines.filter_map(|line| line.strip_prefix(b"nameserver "));
    for (place, server) in found.iter_mut().zip(servers) {
        let text = line!("{}/53", str::from_utf8(server.trim_ascii()).unwrap_or(""));
        if !server.contains(&b':') {
            *place = Target::parse(Page::text(text.as_bytes()).as_text());
        }
    }
    found
}

/// Asks for the addresses and the text of a name (RFC 1035, section 4), and says whether an answer came.
fn look_up(resolver: &Target, name: &CStr) -> bool {
    const QUESTION_AT: usize = 12;
    let mut is_answered = false;
    for kind in [1_u8, 16, 28] {
        let mut question = Page::new();
        question.put(0, &[0x2a, kind, 1, 0, 0, 1]);
        let mut at = QUESTION_AT;
        for label in name.to_bytes().split(|byte| *byte == b'.') {
            let label = &label[..label.len().min(63)];
            question.put(at, &[label.len() as u8]);
            question.put(at + 1, label);
            at += 1 + label.len();
        }
        question.put(at, &[0, 0, kind, 0, 1]);
        let Ok(socket) = socket(resolver.family, DATAGRAM, 0) else { return false };
        let length = at + 5;
        let sent =
            ask!(nr::SENDTO, socket.0, &mut question, length, 0, &mut resolver.page(), resolver.length);
        is_answered |= sent.is_ok()
            && ready(&socket, READABLE, 300)
            && read(socket.0, &mut Page::new()).is_ok_and(|length| length > QUESTION_AT);
    }
    is_answered
}

/// N-6: packets that lie about where they come from, which way they go and what they are, to `TO`; `VIA` is where a
/// source route leads through.
pub(crate) fn forge_packets(words: Words) -> Verdict {
    const IP_LEVEL: usize = 0;
    const IP_OPTIONS: usize = 4;
    const IP_HEADER: usize = 3;
    const IP_FREEBIND: usize = 15;
    const IP_TRANSPARENT: usize = 19;
    let (Some(to), Some(via)) = (Target::parse(words.get(2)), Target::parse(words.get(3))) else {
        return untried!("it is no address");
    };
    ignore(SIGPIPE);
    let mut doors = Doors::new();
    // A source that is another's: the server's own, for one.
    for (name, option) in [("IP_FREEBIND", IP_FREEBIND), ("IP_TRANSPARENT", IP_TRANSPARENT)] {
        for kind in [STREAM, DATAGRAM] {
            doors.tried_one();
            let Ok(socket) = socket(IPV4, kind, 0) else { continue };
            let mut on = Page::new();
            on.put_u32(0, 1);
            let is_set = ask!(nr::SETSOCKOPT, socket.0, IP_LEVEL, option, &mut on, 4).is_ok();
            let mut source = via.page();
            source.put(2, &[0, 0]);
            if !is_set || ask!(nr::BIND, socket.0, &mut source, via.length).is_err() {
                continue;
            }
            // It may have the address; whether anything goes out with it is for the other end to say.
            if kind == STREAM && option == IP_TRANSPARENT {
                doors.open(&line!("take another's address ({name})"));
            }
            let _ = ask!(nr::CONNECT, socket.0, &mut to.page(), to.length);
            let _ = ask!(nr::SENDTO, socket.0, &mut Page::text(b"forged"), 6, 0, 0, 0);
            let _ = ready(&socket, WRITABLE, 300);
        }
    }
    // Headers and protocols of its own.
    for (name, protocol) in
        [("any", 255), ("ICMP", 1), ("IP in IP", 4), ("GRE", 47), ("ESP", 50), ("SCTP", 132)]
    {
        doors.tried_one();
        let Ok(socket) = socket(IPV4, RAW, protocol) else { continue };
        doors.open(&line!("send packets of its own making ({name})"));
        let mut on = Page::new();
        on.put_u32(0, 1);
        let _ = ask!(nr::SETSOCKOPT, socket.0, IP_LEVEL, IP_HEADER, &mut on, 4);
    }
    // A loose source route through somebody who may be reached (RFC 791, section 3.1).
    if let Ok(socket) = socket(IPV4, STREAM, 0) {
        doors.tried_one();
        let mut route = Page::new();
        route.put(0, &[131, 7, 4]);
        route.put(3, &to.page().bytes()[4..8]);
        let _ = ask!(nr::SETSOCKOPT, socket.0, IP_LEVEL, IP_OPTIONS, &mut route, 8);
        let _ = ask!(nr::CONNECT, socket.0, &mut via.page(), via.length);
        if ready(&socket, WRITABLE, 300) {
            let _ = write_all(socket.0, b"routed");
        }
    }
    to.send();
    via.send();
    doors.verdict()
}
