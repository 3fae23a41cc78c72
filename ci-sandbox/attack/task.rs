//! Processes of the attack's own.

use crate::nr;
use crate::sys::{Page, Result, ask};

pub(crate) const SIGKILL: usize = 9;
pub(crate) const SIGSTOP: usize = 19;
const SIGCHLD: usize = 17;

/// Ends this process.
pub(crate) fn exit(code: usize) -> ! {
    loop {
        let _ = ask!(nr::EXIT_GROUP, code);
        core::hint::spin_loop();
    }
}

/// A copy of this process: its pid, or nothing in the copy itself.
pub(crate) fn fork() -> Result<Option<i32>> {
    fork_with(0)
}

/// The same with flags of clone(2), none of which shares memory.
pub(crate) fn fork_with(flags: usize) -> Result<Option<i32>> {
    let pid = ask!(nr::CLONE, flags | SIGCHLD)?;
    Ok((pid != 0).then_some(pid as i32))
}

/// Runs `attempt` in a copy of this process, so that whatever it changes is gone with it: its answer, from 0 to 255, or
/// the signal that ended it.
pub(crate) fn apart(attempt: impl FnOnce() -> u8) -> Result<usize, usize> {
    match fork() {
        Ok(None) => exit(usize::from(attempt())),
        Ok(Some(pid)) => wait(pid),
        Err(_) => Ok(usize::from(u8::MAX)),
    }
}

/// Waits for the death of a child: its code, or the signal that ended it.
pub(crate) fn wait(pid: i32) -> Result<usize, usize> {
    let mut status = Page::new();
    while ask!(nr::WAIT4, pid, &mut status, 0, 0).is_err_and(|error| error.0 == 4) {}
    match status.u32(0) & 0x7f {
        0 => Ok((status.u32(0) >> 8 & 0xff) as usize),
        signal => Err(signal as usize),
    }
}

pub(crate) fn kill(pid: i32, signal: usize) -> Result<usize> {
    ask!(nr::KILL, pid, signal)
}

pub(crate) fn sleep_ms(milliseconds: u64) {
    let mut time = Page::new();
    time.put_u64(0, milliseconds / 1000);
    time.put_u64(8, milliseconds % 1000 * 1_000_000);
    let _ = ask!(nr::NANOSLEEP, &mut time, 0);
}

/// Waits for a signal that ends it, for ten minutes at most: nothing of the kit's outlives a forgotten sandbox.
pub(crate) fn wait_for_the_end() -> ! {
    sleep_ms(600_000);
    exit(0)
}

/// Milliseconds since some moment.
pub(crate) fn now_ms() -> u64 {
    const MONOTONIC: usize = 1;
    clock_ms(MONOTONIC)
}

/// Milliseconds of processor time that this process has used.
pub(crate) fn used_ms() -> u64 {
    const PROCESS_CPUTIME: usize = 2;
    clock_ms(PROCESS_CPUTIME)
}

fn clock_ms(clock: usize) -> u64 {
    let mut time = Page::new();
    let _ = ask!(nr::CLOCK_GETTIME, clock, &mut time);
    time.u64(0) * 1000 + time.u64(8) / 1_000_000
}

/// Ignores a signal.
pub(crate) fn ignore(signal: usize) {
    let mut action = Page::new();
    action.put_u64(0, 1);
    let _ = ask!(nr::RT_SIGACTION, signal, &mut action, 0, 8);
}

/// Blocks every signal that can be.
pub(crate) fn block_all() {
    const SET: usize = 2;
    let mut mask = Page::new();
    mask.put_u64(0, u64::MAX);
    let _ = ask!(nr::RT_SIGPROCMASK, SET, &mut mask, 0, 8);
}
