//! `/proc`: the sandbox's own processes, and of the machine only what programs need.

use core::ffi::CStr;

use crate::limits;
use crate::mounts::{self, Configuring};
use crate::sys::{self, Errno, O_WRONLY, Raw};

/// What tells of the machine, or steers it, as the OCI runtimes hide it (`runc`, `libcontainer/specconv`).
const HIDDEN: [&CStr; 11] = [
    c"acpi",
    c"asound",
    c"cmdline",
    c"interrupts",
    c"kcore",
    c"keys",
    c"latency_stats",
    // Each watch on it costs ten milliseconds of waiting when its process ends, and a process can have thousands.
    c"pressure",
    c"sched_debug",
    c"scsi",
    c"timer_list",
];

/// What may be read but not written.
const READ_ONLY: [&CStr; 5] = [c"bus", c"fs", c"irq", c"sys", c"sysrq-trigger"];

/// Mounts a new one at `proc` in the folder `root`. What is hidden is covered with `null` or the empty folder
/// `nothing` of the folder `devices`.
///
/// Everything is done relative to the new file system itself, so that nothing that an image has put at the path can
/// be taken for it. The answer is whether no further user namespace can be made inside.
pub(crate) fn mount(root: Raw, devices: Raw, nothing: &CStr, range: bool) -> sys::Result<bool> {
    let flags = mounts::NOSUID | mounts::NODEV | mounts::NOEXEC;
    let proc = Configuring::open(c"proc")?.mount(flags)?;
    mounts::attach(*proc, root, c"proc")?;
    // A further user namespace would give the job a set of capabilities to attack the kernel with.
    let none_further = sys::open(*proc, c"sys/user/max_user_namespaces", O_WRONLY, 0)
        .and_then(|most| sys::write_all(*most, b"0"))
        .is_ok();
    limits::hold_counts(*proc, range);
    for path in HIDDEN {
        if let Ok(stat) = sys::stat(*proc, path) {
            let is_folder = stat.mode & sys::KIND == sys::DIRECTORY;
            let cover = mounts::clone_tree(devices, if is_folder { nothing } else { c"null" })?;
            mounts::restrict(*cover, mounts::RDONLY)?;
            mounts::attach(*cover, *proc, path)?;
        }
    }
    for path in READ_ONLY {
        match mounts::clone_tree(*proc, path) {
            Ok(same) => {
                mounts::restrict(*same, mounts::RDONLY | flags)?;
                mounts::attach(*same, *proc, path)?;
            }
            Err(Errno::ENOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(none_further)
}
