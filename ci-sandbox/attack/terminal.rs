//! S-2: typing into a terminal that somebody else reads (CVE-2017-5226, CVE-2023-28100, CVE-2019-10063).

use crate::nr;
use crate::scan::path_of;
use crate::sys::{Errno, Fd, O_RDWR, Page, Result, Words, ask, open};
use crate::task::{exit, fork, wait};
use crate::verdict::{Doors, Verdict, line, untried};

const TIOCSTI: usize = 0x5412;
const TIOCLINUX: usize = 0x541c;
const TIOCSCTTY: usize = 0x540e;
const TIOCGPTN: usize = 0x8004_5430;
const TIOCSPTLCK: usize = 0x4004_5431;

/// Tries it on a terminal of its own, and on the three streams.
pub(crate) fn type_into_it(_: Words) -> Verdict {
    let mut doors = Doors::new();
    for stream in 0..3 {
        doors.refused("type into its streams", type_into(stream, TIOCSTI), &[1, 5, 25]);
    }
    let (_master, terminal) = match own_terminal() {
        Ok(pair) => pair,
        Err(error) => {
            return match doors.verdict() {
                Verdict::Held(_) => {
                    untried!("no terminal can be made here ({error}), and the streams are none")
                }
                other => other,
            };
        }
    };
    // The terminal that controls a session is asked from within it.
    let Ok(copy) = fork() else { return untried!("no process can be started") };
    let Some(pid) = copy else {
        let _ = ask!(nr::SETSID);
        let _ = ask!(nr::IOCTL, terminal.0, TIOCSCTTY, 0);
        let mut open = 0;
        for (bit, request) in [TIOCSTI, TIOCSTI | 1 << 32, TIOCLINUX].into_iter().enumerate() {
            // EPERM of the filter, EIO of a kernel without it; the console's call is for no other terminal.
            if !matches!(type_into(terminal.0, request), Err(Errno(1 | 5 | 25 | 38))) {
                open |= 1 << bit;
            }
        }
        exit(open);
    };
    match wait(pid) {
        Ok(0) => doors.tried_one(),
        Ok(open) if open < 8 => {
            for (bit, what) in
                ["type", "type with noise in the upper half", "speak to the console"].iter().enumerate()
            {
                if open >> bit & 1 != 0 {
                    doors.open(&line!("{what} into a terminal"));
                }
            }
        }
        _ => return untried!("the copy that should try it ended"),
    }
    doors.verdict()
}

fn type_into(terminal: i32, request: usize) -> Result<usize> {
    let mut letter = Page::text(b"x");
    ask!(nr::IOCTL, terminal, request, &mut letter)
}

/// Takes the terminal of whoever supervises for its own, where its streams or the machine's consoles are one.
pub(crate) fn take_the_supervisors(_: Words) -> Verdict {
    let mut doors = Doors::new();
    // Without a session's terminal `/dev/tty` answers ENXIO.
    doors.closed("open the terminal of its session", open(c"/dev/tty", O_RDWR));
    let taken = crate::task::apart(|| {
        let _ = ask!(nr::SETSID);
        let stream = (0..3).find(|stream| ask!(nr::IOCTL, *stream, TIOCSCTTY, 0).is_ok());
        stream.map_or(0, |stream| stream as u8 + 1)
    });
    doors.tried_one();
    if let Ok(stream @ 1..=3) = taken {
        doors.open(&line!("be controlled by the terminal that its stream {} is", stream - 1));
    }
    for console in [c"/dev/tty0", c"/dev/tty1", c"/dev/ttyS0", c"/dev/hvc0", c"/dev/vcs"] {
        doors.closed(crate::scan::shown(console), open(console, O_RDWR));
    }
    doors.verdict()
}

fn own_terminal() -> Result<(Fd, Fd)> {
    let master = open(c"/dev/ptmx", O_RDWR)?;
    let mut number = Page::new();
    ask!(nr::IOCTL, master.0, TIOCSPTLCK, &mut number)?;
    ask!(nr::IOCTL, master.0, TIOCGPTN, &mut number)?;
    let number = number.u32(0);
    let terminal = open(path_of!("/dev/pts/{number}").as_text(), O_RDWR)?;
    Ok((master, terminal))
}
