//! Attacks on bounds that are not memory: P-1, P-18, F-11, F-13, F-21, R-4.

use crate::nr;
use crate::sys::{self, Errno, O_CREAT, O_WRONLY, Page, Words, ask, open, write_all};
use crate::task::{SIGKILL, fork, kill, now_ms, used_ms, wait, wait_for_the_end};
use crate::verdict::{Verdict, broken, held, untried};

/// As many as are started at most, whatever is let through.
const MOST: usize = 1_024;

/// Processes that wait until this one is done with them.
struct Children {
    pids: [i32; MOST],
    count: usize,
    refusal: Option<Errno>,
}

impl Children {
    fn start(wanted: usize) -> Self {
        let mut children = Self { pids: [0; MOST], count: 0, refusal: None };
        while children.count < wanted.min(MOST) {
            match fork() {
                Ok(None) => wait_for_the_end(),
                Ok(Some(pid)) => {
                    children.pids[children.count] = pid;
                    children.count += 1;
                }
                Err(error) => {
                    children.refusal = Some(error);
                    break;
                }
            }
        }
        children
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        for pid in &self.pids[..self.count] {
            let _ = kill(*pid, SIGKILL);
        }
        for pid in &self.pids[..self.count] {
            let _ = wait(*pid);
        }
    }
}

/// P-1: as many processes as it can start, where `LIMIT` are allowed.
pub(crate) fn fork_bomb(words: Words) -> Verdict {
    let limit = words.number(2);
    let children = Children::start(limit * 2 + 64);
    match children.refusal {
        Some(error) if children.count <= limit => {
            held!("{error} after {} processes of {limit}", children.count)
        }
        Some(error) => {
            broken!("it could: start {} processes where {limit} are allowed, then {error}", children.count)
        }
        None => broken!("it could: start {} processes where {limit} are allowed", children.count),
    }
}

/// Starts as many processes as it can, says so, and keeps them.
pub(crate) fn hoard_processes(words: Words) -> usize {
    let children = Children::start(words.number(2));
    let _ = write_all(1, b"up\n");
    let _keep = &children;
    wait_for_the_end()
}

/// P-18: a few processes, while another sandbox has all that it may have.
pub(crate) fn start_a_few(_: Words) -> Verdict {
    let children = Children::start(16);
    match children.refusal {
        None => held!("what one sandbox uses up, another has"),
        Some(error) => broken!(
            "another sandbox has used up the processes of this one ({error} after {})",
            children.count
        ),
    }
}

/// Takes all watches that it can get, says so, and keeps them.
pub(crate) fn hoard_watches() -> usize {
    let mut count = 0;
    while count < 4_096 && ask!(nr::INOTIFY_INIT1, 0).is_ok() {
        count += 1;
    }
    let _ = write_all(1, b"up\n");
    wait_for_the_end()
}

/// F-21: one watch, while another sandbox has taken as many as it could.
pub(crate) fn one_watch(_: Words) -> Verdict {
    match ask!(nr::INOTIFY_INIT1, 0) {
        Ok(_) => held!("what one sandbox uses up, another has"),
        Err(error) => broken!("another sandbox has used up the watches of this one ({error})"),
    }
}

/// F-11: whether a crash is written down, with every secret that was in memory.
pub(crate) fn core_dumps(_: Words) -> Verdict {
    const CORE: usize = 4;
    let mut limit = Page::new();
    if let Err(error) = ask!(nr::PRLIMIT64, 0, CORE, 0, &mut limit) {
        return untried!("the limit cannot be read ({error})");
    }
    // One byte is the kernel's sign for a program of the machine's not to be started (fs/coredump.c).
    match limit.u64(8) {
        most @ 0..=1 => held!("a crash writes at most {most} bytes"),
        most => broken!("it could: have crashes written down, {most} bytes each"),
    }
}

/// F-13: as many bytes as it can write below `FOLDER`, where `MIB` are allowed; and as many as it can reserve.
pub(crate) fn fill_the_disk(words: Words) -> Verdict {
    const MIB: usize = 1024 * 1024;
    let allowed = words.number(3);
    let most = allowed * 2 + 8;
    if ask!(nr::CHDIR, words.get(2)).is_err() {
        return held!("there is no such folder");
    }
    let file = match open(c"fill", O_WRONLY | O_CREAT) {
        Ok(file) => file,
        Err(error) => return held!("nothing can be written there ({error})"),
    };
    let page = [b'x'; Page::SIZE];
    let mut written = 0;
    let refusal = loop {
        if written >= most * MIB {
            break None;
        }
        match write_all(file.0, &page) {
            Ok(()) => written += Page::SIZE,
            Err(error) => break Some(error),
        }
    };
    let reserved = ask!(nr::FALLOCATE, file.0, 0, 0, most * MIB);
    drop(file);
    let _ = ask!(nr::UNLINKAT, sys::CWD, c"fill", 0);
    match (refusal, reserved) {
        (None, _) => broken!("it could: write {} MiB where {allowed} are allowed", written / MIB),
        (_, Ok(_)) => broken!("it could: reserve {most} MiB where {allowed} are allowed"),
        (Some(error), Err(_)) => held!("{error} after {} KiB of {allowed} MiB", written / 1024),
    }
}

/// two processes that never rest, for a second, where `MILLIS` thousandths of a processor are allowed.
pub(crate) fn burn(words: Words) -> Verdict {
    const WALL_MS: u64 = 1_000;
    let allowed = words.number(2) as u64 * WALL_MS / 1_000;
    let end = now_ms() + WALL_MS;
    let mut used = Page::new();
    let other = fork();
    while now_ms() < end {}
    match other {
        Ok(None) => crate::task::exit(0),
        Ok(Some(pid)) => drop(ask!(nr::WAIT4, pid, &mut Page::new(), 0, &mut used)),
        Err(_) => {}
    }
    // struct rusage: user and system time, each in seconds and microseconds.
    let others = (used.u64(0) + used.u64(16)) * 1_000 + (used.u64(8) + used.u64(24)) / 1_000;
    let used = used_ms() + others;
    // A bound that holds roughly is one: quotas are given out by the tenth of a second.
    if used > allowed * 3 {
        return broken!("it could: use {used} ms of processor time where {allowed} are allowed");
    }
    held!("{used} ms of processor time where {allowed} are allowed")
}
