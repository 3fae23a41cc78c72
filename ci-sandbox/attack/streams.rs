//! What the kit needs inside to see what a program reads from, writes to, and is shown.

use core::ffi::CStr;

use crate::nr;
use crate::scan::{kind, shown};
use crate::sys::{O_RDONLY, O_RDWR, Page, Words, ask, open, read, write_all};
use crate::task::{fork, wait_for_the_end};
use crate::verdict::line;

const TCGETS: usize = 0x5401;
const TIOCGWINSZ: usize = 0x5413;
const TIOCGSID: usize = 0x5429;

/// Writes to both streams in turn, `COUNT` lines each.
pub(crate) fn alternate(words: Words) -> usize {
    for number in 0..words.number(2) {
        let _ = write_all(1, line!("out {number}\n").as_bytes());
        let _ = write_all(2, line!("err {number}\n").as_bytes());
    }
    0
}

/// Says of each stream whether it is a terminal, then its size, and whether this session has a terminal at all.
pub(crate) fn terminal() -> usize {
    for stream in 0..3 {
        let is_terminal = ask!(nr::IOCTL, stream, TCGETS, &mut Page::new()).is_ok();
        let _ = write_all(1, if is_terminal { b"yes " } else { b"no " });
    }
    let (rows, columns) = size();
    let mut session = Page::new();
    let is_own = ask!(nr::IOCTL, 0, TIOCGSID, &mut session).is_ok()
        && ask!(nr::GETPID).is_ok_and(|pid| pid == session.u32(0) as usize);
    let controlling = if is_own { "own" } else { "other" };
    let has_one = if open(c"/dev/tty", O_RDWR).is_ok() { controlling } else { "none" };
    let _ = write_all(1, line!("{rows} {columns} {has_one}\n").as_bytes());
    0
}

fn size() -> (u32, u32) {
    let mut size = Page::new();
    let _ = ask!(nr::IOCTL, 0, TIOCGWINSZ, &mut size);
    (size.u32(0) & 0xffff, size.u32(0) >> 16)
}

/// Waits until its terminal has another size, for a minute at most, and says which.
pub(crate) fn resized() -> usize {
    const BLOCK: usize = 0;
    const SIGWINCH: u64 = 28;
    let mut signals = Page::new();
    signals.put_u64(0, 1 << (SIGWINCH - 1));
    let _ = ask!(nr::RT_SIGPROCMASK, BLOCK, &mut signals, 0, 8);
    let _ = write_all(1, b"up\n");
    let mut minute = Page::new();
    minute.put_u64(0, 60);
    if ask!(nr::RT_SIGTIMEDWAIT, &mut signals, 0, &mut minute, 8).is_err() {
        return 1;
    }
    let (rows, columns) = size();
    let _ = write_all(1, line!("{rows} {columns}\n").as_bytes());
    0
}

/// Starts another process that has the terminal too, and ends; the other says in `FILE` when there is nothing more to
/// be read from the terminal.
pub(crate) fn keep_terminal(words: Words) -> usize {
    crate::task::ignore(1);
    if let Ok(None) = fork() {
        while read(0, &mut Page::new()).is_ok_and(|length| length > 0) {}
        let _ = crate::files::put(words.get(2), b"hung up");
        wait_for_the_end();
    }
    let _ = write_all(1, b"up\n");
    0
}

/// Says where the secret `NAME` lies, what its file is, and what is in it; with `stay` it waits then, and with `leave`
/// it leaves a process behind.
pub(crate) fn secret_file(words: Words) -> usize {
    let Some(path) = variable(words, words.get(2).to_bytes()) else { return 1 };
    let Ok((mode, _)) = kind(path) else { return 2 };
    let can_write = open(path, crate::sys::O_WRONLY).is_ok();
    let who = if can_write { "writable" } else { "sealed" };
    let _ = write_all(1, line!("{}\n{mode:o} {who}\n", shown(path)).as_bytes());
    let mut page = Page::new();
    let Ok(file) = open(path, O_RDONLY) else { return 3 };
    while let Ok(length @ 1..) = read(file.0, &mut page) {
        let _ = write_all(1, &page.bytes()[..length]);
    }
    match words.get(3).to_bytes() {
        b"stay" => {
            let _ = write_all(1, b"\n");
            wait_for_the_end()
        }
        b"leave" => {
            if let Ok(None) = fork() {
                wait_for_the_end();
            }
        }
        _ => {}
    }
    0
}

fn variable(words: Words, name: &[u8]) -> Option<&'static CStr> {
    let mut index = 0;
    while let Some(variable) = words.variable(index) {
        let bytes = variable.to_bytes_with_nul();
        if let Some(value) = bytes.strip_prefix(name).and_then(|rest| rest.strip_prefix(b"=")) {
            return CStr::from_bytes_with_nul(value).ok();
        }
        index += 1;
    }
    None
}

/// The value of one of these variables.
pub(crate) fn one_of(words: Words, names: &[&[u8]]) -> Option<&'static CStr> {
    names.iter().find_map(|name| variable(words, name))
}

/// Writes `MIB` into `FILE`, which stays: 0 when all of it went in, the error otherwise.
pub(crate) fn fill(words: Words) -> usize {
    let Ok(file) = open(words.get(2), crate::sys::O_WRONLY | crate::sys::O_CREAT) else { return 255 };
    let page = [b'x'; Page::SIZE];
    for _ in 0..words.number(3) * 256 {
        if let Err(error) = write_all(file.0, &page) {
            return error.0 as usize;
        }
    }
    0
}

/// Uses `MS` milliseconds of processor time in a process that has left everybody behind, and says in `FILE` that it has.
pub(crate) fn hidden_work(words: Words) -> usize {
    // Short lives: whoever looks now and then sees few of them.
    const PIECE_MS: u64 = 20;
    match fork() {
        Ok(None) => {}
        Ok(Some(pid)) => return usize::from(crate::task::wait(pid).is_err()),
        Err(_) => return 1,
    }
    let _ = ask!(nr::SETSID);
    if !matches!(fork(), Ok(None)) {
        crate::task::exit(0);
    }
    for _ in 0..words.number(2) as u64 / PIECE_MS {
        if let Ok(None) = fork() {
            while crate::task::used_ms() < PIECE_MS {}
            crate::task::exit(0);
        }
        while ask!(nr::WAIT4, -1, 0, 0, 0).is_ok() {}
    }
    let _ = crate::files::put(words.get(3), b"done");
    0
}
