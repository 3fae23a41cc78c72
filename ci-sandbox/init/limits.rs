//! Bounds beside those of control groups: on what the kernel counts per process, or per user.
//!
//! As root every sandbox has users of its own. As an ordinary user all sandboxes have the same one on the host, and
//! what the kernel counts per user, one sandbox could take from all others: there each gets a part.

use core::ffi::CStr;

use crate::call::raw;
use crate::nr;
use crate::sys::{self, Errno, O_WRONLY, Raw};
use crate::task;
use crate::text::Digits;

/// What is bounded.
enum What {
    /// By `prlimit(2)`, for every process (Linux, `include/uapi/asm-generic/resource.h`).
    Resource(usize),
    /// The same, for those that do not ask for more.
    UnlessAsked(usize),
    /// By a file below `/proc/sys/user`, for the user namespace.
    Count(&'static CStr),
}

/// One bound: where the sandbox has users of its own, and where all sandboxes share one.
struct Bound(What, u64, u64);

const MIB: u64 = 1 << 20;

/// Where the kernel's own bound is the right one.
const AS_IT_IS: u64 = u64::MAX;

const TABLE: [Bound; 9] = [
    // What the program that embeds the SDK was given for itself, jobs do not get: no real time, no negative nice.
    Bound(What::Resource(14), 0, 0),
    Bound(What::Resource(13), 0, 0),
    // 8 MiB is what programs are tested with. A service can have another one, and threads get as much each.
    Bound(What::UnlessAsked(3), 8 * MIB, 8 * MIB),
    // Memory that cannot be reclaimed. Its group counts it; what is locked in shared memory, the user too.
    Bound(What::Resource(8), 8 * MIB, MIB),
    // Timers and queued signals, some 15,000 in all on a small machine.
    Bound(What::Resource(11), 4_096, 1_024),
    // Bytes in POSIX message queues: the kernel's own default, or one queue of the default size.
    Bound(What::Resource(12), 819_200, 102_400),
    // There are 128 instances for a user; each takes kernel memory.
    Bound(What::Count(c"sys/user/max_inotify_instances"), AS_IT_IS, 32),
    // File watchers ask for up to half a million.
    Bound(What::Count(c"sys/user/max_inotify_watches"), AS_IT_IS, 32_768),
    // Nobody in a sandbox may use it, by the filter; this holds where there is none.
    Bound(What::Count(c"sys/user/max_fanotify_groups"), 0, 0),
];

/// Holds the bounds on processes, for this one and all that it starts. None can raise them again: that takes
/// `CAP_SYS_RESOURCE` on the host.
pub(crate) fn hold(range: bool) -> sys::Result<()> {
    for Bound(what, alone, shared) in &TABLE {
        let value = if range { *alone } else { *shared };
        match what {
            What::Resource(resource) => task::limit_at_most(*resource, value)?,
            What::UnlessAsked(resource) => task::limit_unless_asked(*resource, value)?,
            What::Count(_) => {}
        }
    }
    Ok(())
}

/// Holds the bounds on the user namespace, as long as its `/proc` can be written. They are no guarantee of their own:
/// where the kernel does not know one, the others hold all the same.
pub(crate) fn hold_counts(proc: Raw, range: bool) {
    for Bound(what, alone, shared) in &TABLE {
        let value = if range { *alone } else { *shared };
        if let What::Count(path) = what
            && value != AS_IT_IS
            && let Ok(file) = sys::open(proc, path, O_WRONLY, 0)
        {
            let _ = sys::write_all(*file, Digits::of(value as u32).get());
        }
    }
}

/// Gives up what puts the program that embeds the SDK before others, so that no job inherits it. What puts it behind
/// them stays.
pub(crate) fn take_no_precedence() -> sys::Result<()> {
    /// Batch and idle, which let others go first, are none of them.
    const REAL_TIME: [usize; 3] = [1, 2, 6];
    const IO_REAL_TIME: usize = 1;
    const IO_CLASS: usize = 13;
    /// Where getpriority(2) counts from: the call's own answer is 20 less the niceness.
    const NOT_NICE: usize = 20;
    const ITSELF: usize = 1;
    let no_priority = [0_i32; 1];
    // SAFETY: these calls take numbers only, but for sched_setscheduler(2), which reads a `struct sched_param` of one int.
    unsafe {
        if REAL_TIME.contains(&(raw(nr::SCHED_GETSCHEDULER, [0; 6])? & 0xffff)) {
            raw(nr::SCHED_SETSCHEDULER, [0, 0, no_priority.as_ptr() as usize, 0, 0, 0])?;
        }
        if raw(nr::GETPRIORITY, [0; 6])? > NOT_NICE {
            raw(nr::SETPRIORITY, [0; 6])?;
        }
        // A kernel can be built without.
        match raw(nr::IOPRIO_GET, [ITSELF, 0, 0, 0, 0, 0]) {
            Ok(priority) if priority >> IO_CLASS == IO_REAL_TIME => {
                raw(nr::IOPRIO_SET, [ITSELF, 0, 0, 0, 0, 0]).map(drop)
            }
            Ok(_) | Err(Errno::ENOSYS) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
