//! What process 1 does for the rest of its life: take requests, reap, answer.
//!
//! It waits for nothing that the job controls: how the start of a program goes is between the child and the
//! supervisor.

use crate::failure::Failure;
use crate::launch::CONTROL;
use crate::packets;
use crate::secrets;
use crate::spawn::{self, Errand, Program, Streams};
use crate::sys::{self, CWD, Errno, Fd, O_PATH, Poll, Raw};
use crate::task;
use crate::wire::{Report, Request, Stage, option};

/// The most requests that can run at one time.
const MOST_RUNNING: usize = 256;

/// Lets the init see that the launcher is gone.
const LAUNCHER: Raw = Raw(3);
/// Lets it see that a child is gone.
const SIGNALS: Raw = Raw(4);
/// The folder of the sandbox's terminals. A path to it could have become the job's.
pub(crate) const TERMINALS: Raw = Raw(5);
/// The folder of secrets in files, for the same reason.
pub(crate) const SECRETS: Raw = Raw(6);
/// The first descriptor that is none of these.
pub(crate) const OTHERS: Raw = Raw(7);

/// One request that runs.
struct Running {
    id: u32,
    pid: u32,
    /// Where its end is told. Closing it without a word tells the supervisor that the init is gone.
    end: Fd,
    has_secret_files: bool,
}

/// Serves until the supervisor or the launcher is gone.
pub(crate) fn run(launcher: &Fd, range: bool) -> ! {
    let mut table = [const { None }; MOST_RUNNING];
    if prepare(launcher).is_ok() {
        while let Ok(true) = turn(&mut table, range) {}
    }
    task::exit(0)
}

/// Gives the lasting descriptors their places, so that no other ever has them, and closes all others.
fn prepare(launcher: &Fd) -> sys::Result<()> {
    let children = task::signal_set(task::SIGCHLD);
    task::block_signals(children)?;
    if **launcher != LAUNCHER {
        sys::duplicate(**launcher, LAUNCHER.0)?;
    }
    sys::close_from(4);
    settle(task::signal_fd(children)?, SIGNALS)?;
    // Without one of them, its place is taken all the same; who needs it will find that it is no folder.
    let nothing = |_| sys::open(CWD, c"/dev/null", O_PATH, 0);
    settle(sys::open_folder(CWD, c"/dev/pts").or_else(nothing)?, TERMINALS)?;
    settle(secrets::make_folder().or_else(nothing)?, SECRETS)
}

/// Keeps a descriptor that has just been opened for good. The kernel gives the lowest number that is free.
fn settle(file: Fd, place: Raw) -> sys::Result<()> {
    let is_in_place = *file == place;
    core::mem::forget(file);
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

/// The most that are reaped in one turn.
const MOST_REAPED: usize = 1_024;

/// Reaps what died, orphans of the job too. A job whose processes die without end must not keep requests from being taken:
/// what is left then is for the next turn.
fn reap(table: &mut [Option<Running>]) {
    const ITSELF: i32 = 1;
    for _ in 0..MOST_REAPED {
        let Some((pid, ended)) = task::reap() else { return };
        let is_it = |place: &&mut Option<Running>| place.as_ref().is_some_and(|running| running.pid == pid);
        if let Some(running) = table.iter_mut().find(is_it).and_then(Option::take) {
            if running.has_secret_files {
                secrets::remove(running.id);
            }
            let _ = sys::write_all(*running.end, &Report::Ended(ended).encode());
        }
    }
    let _ = task::kill(ITSELF, task::SIGCHLD);
}

fn take_request(table: &mut [Option<Running>], range: bool) -> sys::Result<bool> {
    let mut packet = [0; Request::SIZE];
    let mut files = [const { None }; packets::MOST_FILES];
    if packets::receive(CONTROL, &mut packet, &mut files)? == 0 {
        return Ok(false);
    }
    let Some(request) = Request::decode(&packet) else { return Ok(false) };
    let [body, start, end, streams @ ..] = files;
    let mut streams = streams.into_iter().flatten();
    let (id, errand) = match request {
        Request::Signal { id, signal } => {
            signal_group(table, id, signal as usize);
            return Ok(true);
        }
        Request::Measure => {
            measure(body);
            return Ok(true);
        }
        Request::Exec { id, options, size } => {
            (id, program(id, options, size, &mut streams).map(Errand::Exec))
        }
        Request::Extract { id } => (id, streams.next().map(|stream| Errand::Extract { stream })),
        Request::Archive { id } => (id, streams.next().map(|stream| Errand::Archive { stream })),
    };
    // The supervisor sends what belongs together; anything else is a defect, and the end.
    let Some(errand) = errand else { return Ok(false) };
    let has_secret_files = matches!(errand, Errand::Exec(Program { has_secret_files: true, .. }));
    let (Some(body), Some(start), Some(end)) = (body, start, end) else { return Ok(false) };
    let begun = match table.iter_mut().find(|place| place.is_none()) {
        None => Err(Failure::new(Stage::Table, Errno::E2BIG)),
        Some(place) => spawn::begin(&errand, &body, &start, range).map(|pid| (place, pid)),
    };
    match begun {
        Ok((place, pid)) => *place = Some(Running { id, pid, end, has_secret_files }),
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

/// What is to be run, with the streams that the request says it brings.
fn program(id: u32, options: u32, size: u32, streams: &mut impl Iterator<Item = Fd>) -> Option<Program> {
    let has = |wanted: u32| options & wanted != 0;
    let streams = if has(option::TERMINAL) {
        Streams::Terminal { size }
    } else {
        let output = streams.next()?;
        let errors = if has(option::MERGED) { None } else { Some(streams.next()?) };
        let input = if has(option::INPUT) { Some(streams.next()?) } else { None };
        Streams::Pipes { input, output, errors }
    };
    Some(Program { id, streams, has_secret_files: has(option::SECRET_FILES) })
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
