//! A process that leaves no image of its memory, and lets no other process of its user look into it.

use ci_core::{Error, ErrorKind, Result};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Has the kernel keep this process's memory to itself: it writes no core dump (`RLIMIT_CORE` is 0, also for its
/// children), and no process of the same user can attach a debugger or read `/proc/<pid>/mem` and `/proc/<pid>/environ`
/// (`PR_SET_DUMPABLE`, prctl(2)). The superuser still can.
///
/// A program that holds keys calls it first thing in `main`; no library does by itself, because it changes the whole
/// process. Call it again after the process has changed its user, which the kernel takes as a reason to set this anew.
/// Programs that it starts with `exec` are dumpable again, but for core dumps.
///
/// # Errors
///
/// [`ErrorKind::Unavailable`] when the kernel refuses; a part may be done then.
///
/// # Example
///
/// ```
/// ci_secrets::harden_process()?;
/// # Ok::<(), ci_core::Error>(())
/// ```
pub fn harden_process() -> Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).map_err(refused)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(refused)
}

fn refused(errno: Errno) -> Error {
    Error::new(ErrorKind::Unavailable, "harden the process").because("the kernel refused").caused_by(errno)
}
