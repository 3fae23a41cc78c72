//! F-14: memory in every form that a process can hold it.

use crate::mem::Pages;
use crate::nr;
use crate::sys::{self, Errno, O_CREAT, O_WRONLY, Page, Words, ask, open, write_all};
use crate::verdict::{Verdict, broken, held, untried};

const MIB: usize = 1024 * 1024;

/// Holds up to `MIB` of one kind: `F-14 KIND MIB`. The sandbox's bound is lower, so whoever lives to tell it has found a
/// way around it.
pub(crate) fn memory(words: Words) -> Verdict {
    let wanted = words.number(3) * MIB;
    let kind = words.get(2).to_bytes();
    let held_bytes = match kind {
        b"anonymous" => anonymous(wanted),
        b"file" => file(c"bomb", wanted),
        b"shm" => file(c"/dev/shm/bomb", wanted),
        b"memfd" => memory_file(wanted),
        b"sysv" => segments(wanted),
        b"pipes" => Ok(pipes(wanted)),
        b"sockets" => Ok(sockets(wanted)),
        b"tables" => page_tables(wanted),
        _ => return untried!("there is no memory of this kind"),
    };
    match held_bytes {
        Ok(bytes) if bytes >= wanted => broken!("it could: hold {} MiB beyond the bound", bytes / MIB),
        Ok(bytes) => held!("the kernel gave no more than {} MiB", bytes / MIB),
        Err(error) => held!("{error}"),
    }
}

fn anonymous(wanted: usize) -> sys::Result<usize> {
    let mut pages = Pages::zeroed(wanted)?;
    for page in pages.bytes().chunks_mut(Page::SIZE) {
        page[0] = 1;
    }
    Ok(wanted)
}

fn file(path: &core::ffi::CStr, wanted: usize) -> sys::Result<usize> {
    let file = open(path, O_WRONLY | O_CREAT)?;
    fill(file.0, wanted)
}

fn memory_file(wanted: usize) -> sys::Result<usize> {
    let file = ask!(nr::MEMFD_CREATE, c"bomb", 0)?;
    fill(file as i32, wanted)
}

fn fill(file: i32, wanted: usize) -> sys::Result<usize> {
    let page = [b'x'; Page::SIZE];
    let mut written = 0;
    while written < wanted {
        write_all(file, &page)?;
        written += Page::SIZE;
    }
    Ok(written)
}

/// Segments outlive whoever made them: they are filled through a mapping in a copy of the process each.
fn segments(wanted: usize) -> sys::Result<usize> {
    const PIECE: usize = 8 * MIB;
    const CREATE: usize = 0o1000 | 0o600;
    let mut made = 0;
    while made < wanted {
        let segment = ask!(nr::SHMGET, 0, PIECE, CREATE)?;
        sys::fill_segment(segment, PIECE)?;
        made += PIECE;
    }
    Ok(made)
}

fn pipes(wanted: usize) -> usize {
    const SET_PIPE_SIZE: usize = 1031;
    let page = [b'x'; Page::SIZE];
    let mut held = 0;
    while held < wanted {
        let mut ends = Page::new();
        if ask!(nr::PIPE2, &mut ends, sys::O_NONBLOCK).is_err() {
            break;
        }
        let end = ends.u32(4).cast_signed();
        let _ = ask!(nr::FCNTL, end, SET_PIPE_SIZE, MIB);
        let before = held;
        while write_all(end, &page).is_ok() {
            held += Page::SIZE;
        }
        if held == before {
            break;
        }
    }
    held
}

fn sockets(wanted: usize) -> usize {
    const UNIX: usize = 1;
    const STREAM: usize = 1;
    let page = [b'x'; Page::SIZE];
    let mut held = 0;
    while held < wanted {
        let mut ends = Page::new();
        if ask!(nr::SOCKETPAIR, UNIX, STREAM | sys::O_NONBLOCK, 0, &mut ends).is_err() {
            break;
        }
        let before = held;
        for end in [ends.u32(0), ends.u32(4)] {
            while write_all(end.cast_signed(), &page).is_ok() {
                held += Page::SIZE;
            }
        }
        if held == before {
            break;
        }
    }
    held
}

/// A page here and there in a large empty space: what the kernel needs to find them is more than they are.
fn page_tables(wanted: usize) -> sys::Result<usize> {
    const SPAN: usize = 2 * MIB;
    let spans = wanted / (2 * Page::SIZE);
    let mut held = 0;
    // Each mapping is given back with the process.
    let mut pages = match Pages::zeroed(spans * SPAN) {
        Err(Errno(12)) => return Ok(held),
        other => other?,
    };
    for span in pages.bytes().chunks_mut(SPAN) {
        span[0] = 1;
        held += 2 * Page::SIZE;
    }
    Ok(held)
}
