//! Attacks by processes and on them: P-7 to P-17, S-15.

use core::ffi::CStr;

use crate::nr;
use crate::scan::{link, processes, status, status_field};
use crate::sys::{self, O_WRONLY, Page, Words, ask, open, write_all};
use crate::task::{self, SIGKILL, fork, sleep_ms, wait};
use crate::verdict::{Doors, Verdict, broken, held, line, untried};

/// P-7: orphans that die leave corpses, which process 1 has to bury, or nobody can be born any more.
pub(crate) fn zombies(_: Words) -> Verdict {
    const ORPHANS: usize = 300;
    let before = corpses().unwrap_or(0);
    for _ in 0..ORPHANS {
        match fork() {
            Ok(None) => {
                // The child dies first, so its own child falls to process 1.
                let _ = fork();
                task::exit(0);
            }
            Ok(Some(pid)) => drop(wait(pid)),
            Err(error) => return broken!("corpses fill the sandbox: fork answers {error}"),
        }
    }
    for _ in 0..100 {
        match corpses() {
            Err(error) => return held!("{ORPHANS} orphans came and went; /proc tells no more ({error})"),
            Ok(left) if left <= before => return held!("process 1 buried {ORPHANS} orphans"),
            Ok(_) => sleep_ms(50),
        }
    }
    broken!("{} of {ORPHANS} orphans are still corpses after five seconds", corpses().unwrap_or(0) - before)
}

/// How many processes are dead, and not buried.
fn corpses() -> sys::Result<usize> {
    let mut count = 0;
    processes(|pid| {
        let is_dead = |page: &mut Page| {
            status_field(page.bytes(), b"State").is_some_and(|state| state.starts_with(b"Z"))
        };
        count += usize::from(status(pid).is_ok_and(|mut page| is_dead(&mut page)));
    })?;
    Ok(count)
}

/// P-8: SIGKILL to everybody whom it may signal; with the machine's own process namespace as the argument, of which it
/// must not be.
pub(crate) fn kill_everything(words: Words) -> Verdict {
    let Ok(ours) = link(c"/proc/self/ns/pid") else {
        return untried!(
            "/proc does not say which process namespace this is, so signalling everybody may hit the machine"
        );
    };
    if same_kernel(words.get(3)) && ours.as_text() == words.get(2) {
        return broken!("it could signal the machine's processes: it is in their namespace");
    }
    let _ = ask!(nr::KILL, -1, SIGKILL);
    held!("the signal reached the sandbox's own processes alone")
}

/// Whether the kernel is the one whose boot the kit says.
pub(crate) fn same_kernel(boot: &CStr) -> bool {
    let mut page = Page::new();
    let read = sys::read_start(c"/proc/sys/kernel/random/boot_id", &mut page);
    read.is_ok_and(|length| page.bytes()[..length].trim_ascii_end() == boot.to_bytes())
}

/// P-9: traces process 1 and ends meanwhile, which leaves it stopped for ever.
pub(crate) fn trace_process_one(_: Words) -> Verdict {
    const ATTACH: usize = 16;
    const SEIZE: usize = 0x4206;
    if ask!(nr::GETPID).is_ok_and(|pid| pid == 1) {
        return untried!("this program is process 1 itself");
    }
    let mut doors = Doors::new();
    doors.closed("seize process 1", ask!(nr::PTRACE, SEIZE, 1, 0, 0));
    doors.closed("attach to process 1", ask!(nr::PTRACE, ATTACH, 1, 0, 0));
    doors.closed("open the memory of process 1", open(c"/proc/1/mem", sys::O_RDWR));
    doors.verdict()
}

/// P-15: what a setuid program or one with file capabilities could gain.
pub(crate) fn gain_privileges(_: Words) -> Verdict {
    const GET_NO_NEW_PRIVILEGES: usize = 39;
    const READ_BOUNDING: usize = 23;
    let mut doors = Doors::new();
    if ask!(nr::PRCTL, GET_NO_NEW_PRIVILEGES, 0, 0, 0, 0) != Ok(1) {
        doors.open(&line!("gain privileges by a setuid program (no_new_privs is not set)"));
    }
    let mut header = Page::new();
    header.put_u32(0, 0x2008_0522);
    let mut data = Page::new();
    let _ = ask!(nr::CAPGET, &mut header, &mut data);
    let [effective, permitted, inheritable] =
        [0, 4, 8].map(|at| u64::from(data.u32(at)) | u64::from(data.u32(at + 12)) << 32);
    for (name, set) in [("effective", effective), ("permitted", permitted), ("inheritable", inheritable)] {
        if set != 0 {
            doors.open(&line!("use capabilities ({name} {set:#x})"));
        }
    }
    let bounding =
        (0..64_usize).filter(|number| ask!(nr::PRCTL, READ_BOUNDING, *number, 0, 0, 0) == Ok(1)).count();
    if bounding > 0 {
        doors.open(&line!("gain {bounding} capabilities by a program that has them"));
    }
    doors.refused("become root", ask!(nr::SETRESUID, 0, 0, 0), &[1, 22]);
    doors.verdict()
}

/// P-17: a place before everybody else's on the machine's processors and disks.
pub(crate) fn jump_the_queue(_: Words) -> Verdict {
    const FIFO: usize = 1;
    const DEADLINE: u32 = 6;
    const REAL_TIME_IO: usize = 1 << 13;
    let mut doors = Doors::new();
    // Every success is taken back: nothing must run before the machine's own programs for longer than a moment.
    doors.forbidden("take a higher priority", ask!(nr::SETPRIORITY, 0, 0, -10));
    let _ = ask!(nr::SETPRIORITY, 0, 0, 0);
    let mut first = Page::new();
    first.put_u32(0, 1);
    doors.forbidden("take a real-time priority", ask!(nr::SCHED_SETSCHEDULER, 0, FIFO, &mut first));
    let mut deadline = Page::new();
    deadline.put_u32(0, 48);
    deadline.put_u32(4, DEADLINE);
    for (at, nanoseconds) in [(24, 1_000_000), (32, 100_000_000), (40, 100_000_000)] {
        deadline.put_u64(at, nanoseconds);
    }
    doors.forbidden("reserve processor time", ask!(nr::SCHED_SETATTR, 0, &mut deadline, 0));
    let _ = ask!(nr::SCHED_SETSCHEDULER, 0, 0, &mut Page::new());
    doors.forbidden("go before all on the disks", ask!(nr::IOPRIO_SET, 1, 0, REAL_TIME_IO));
    doors.verdict()
}

/// S-15: has the kernel kill somebody else when memory runs out.
pub(crate) fn dodge_the_killer(_: Words) -> Verdict {
    let file = match open(c"/proc/self/oom_score_adj", O_WRONLY) {
        Ok(file) => file,
        Err(error) => return held!("its score cannot be opened ({error})"),
    };
    match write_all(file.0, b"-1000") {
        Ok(()) => broken!("it could: have other programs of the machine killed in its place"),
        Err(error) => held!("the score cannot be lowered ({error})"),
    }
}
