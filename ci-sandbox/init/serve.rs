//! What process 1 does for the rest of its life: take requests, reap, answer.
//!
//! It waits for nothing that the job controls: how the start of a program goes is between the child and the
//! supervisor.

use crate::failure::Failure;
use crate::launch::CONTROL;
use crate::packets;
use crate::spawn::{self, Errand};
use crate::sys::{self, Errno, Fd, Poll, Raw};
use crate::task;
use crate::wire::{Report, Request, Stage};

/// The most requests that can run at one time.
const MOST_RUNNING: usize = 256;

/// Lets the init see that the launcher is gone.
const LAUNCHER: Raw = Raw(3);
/// Lets it see that a child is gone.
const SIGNALS: Raw = Raw(4);

/// One request that runs.
struct Running {
    id: u32,
    pid: u32,
    /// Where its end is told. Closing it without a word tells the supervisor that the init is gone.
    end: Fd,
}

/// Serves until the supervisor or the launcher is gone.
pub(crate) fn run(launcher: &Fd, range: bool) -> ! {
    let mut table = [const { None }; MOST_RUNNING];
    if prepare(launcher).is_ok() {
        while let Ok(true) = turn(&mut table, range) {}
    }
    task::exit(0)
}

/// Gives the two lasting descriptors their places, so that no other ever has them, and closes all others.
fn prepare(launcher: &Fd) -> sys::Result<()> {
    let children = task::signal_set(task::SIGCHLD);
    task::block_signals(children)?;
    if **launcher != LAUNCHER {
        sys::duplicate(**launcher, LAUNCHER.0)?;
    }
    sys::close_from(4);
    let signals = task::signal_fd(children)?;
    // The kernel gives the lowest number that is free.
    let is_in_place = *signals == SIGNALS;
    core::mem::forget(signals);
    if is_in_place { Ok(()) } else { Err(Errno::EINVAL) }
}

/// One round: false when it is time to end.
fn turn(table: &mut [Option<Running>], range: bool) -> sys::Result<bool> {
    let mut polls = [CONTROL, LAUNCHER, SIGNALS].map(Poll::readable);
    sys::poll(&mut polls);
    let [control, launcher, signals] = polls;
    if launcher.is_ready() {
        return Ok(false);
    }
    if signals.is_ready() {
        let _ = sys::read(SIGNALS, &mut [0; 128]);
        reap(table);
    }
    if control.is_ready() { take_request(table, range) } else { Ok(true) }
}

/// Reaps whatever died, orphans of the job too.
fn reap(table: &mut [Option<Running>]) {
    while let Some((pid, ended)) = task::reap() {
        let is_it = |place: &&mut Option<Running>| place.as_ref().is_some_and(|running| running.pid == pid);
        if let Some(running) = table.iter_mut().find(is_it).and_then(Option::take) {
            let _ = sys::write_all(*running.end, &Report::Ended(ended).encode());
        }
    }
}

fn take_request(table: &mut [Option<Running>], range: bool) -> sys::Result<bool> {
    let mut packet = [0; Request::SIZE];
    let mut files = [const { None }; packets::MOST_FILES];
    if packets::receive(CONTROL, &mut packet, &mut files)? == 0 {
        return Ok(false);
    }
    let Some(request) = Request::decode(&packet) else { return Ok(false) };
    let [body, start, end, first, second, third] = files;
    let (id, errand) = match (request, first) {
        (Request::Signal { id, signal }, _) => {
            signal_group(table, id, signal as usize);
            return Ok(true);
        }
        (Request::Measure, _) => {
            measure(body);
            return Ok(true);
        }
        (Request::Exec { id }, Some(output)) => (id, Errand::Exec { input: third, output, errors: second }),
        (Request::Extract { id }, Some(stream)) => (id, Errand::Extract { stream }),
        (Request::Archive { id }, Some(stream)) => (id, Errand::Archive { stream }),
        // The supervisor sends what belongs together; anything else is a defect, and the end.
        _ => return Ok(false),
    };
    let (Some(body), Some(start), Some(end)) = (body, start, end) else { return Ok(false) };
    let begun = match table.iter_mut().find(|place| place.is_none()) {
        None => Err(Failure::new(Stage::Table, Errno::E2BIG)),
        Some(place) => spawn::begin(&errand, &body, &start, range).map(|pid| (place, pid)),
    };
    match begun {
        Ok((place, pid)) => *place = Some(Running { id, pid, end }),
        Err(failure) => {
            let _ = sys::write_all(*start, &failure.report().encode());
        }
    }
    Ok(true)
}

/// Writing a report never blocks: the pipe is fresh.
fn measure(answer: Option<Fd>) {
    if let (Some(answer), Ok(files)) = (answer, sys::used_bytes(c"/")) {
        let _ = sys::write_all(*answer, &Report::Measured { files }.encode());
    }
}

fn signal_group(table: &[Option<Running>], id: u32, signal: usize) {
    // Only what is in the table is signalled: its process is not reaped, so the number is still its own.
    if let Some(running) = table.iter().flatten().find(|running| running.id == id) {
        let pid = running.pid.cast_signed();
        // Before the child has made its session there is no such group.
        if task::kill(-pid, signal).is_err() {
            let _ = task::kill(pid, signal);
        }
    }
}
