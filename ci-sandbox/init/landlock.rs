//! A second rule against making and steering devices, and against reaching processes outside: Landlock (Linux,
//! `Documentation/userspace-api/landlock.rst`), where the kernel has it.
//!
//! It forbids nothing that the mounts, the filter and the namespaces do not forbid already, so no program finds out which
//! kernel it runs on; it holds where one of them should have a hole. Reading and writing are left alone (the mounts and
//! owners decide, and what is written goes to memory), and so is TCP (the network namespace decides, and tests talk over
//! loopback). Programs can still restrict themselves further, debuggers see their debuggees, and all of a sandbox is one
//! domain, so that the steps of a job can signal each other.

use crate::call::raw;
use crate::nr;
use crate::rights::{granted, known};
use crate::sys::{self, CWD, Errno, Fd, word};

/// `struct landlock_ruleset_attr`.
#[repr(C)]
struct Attributes {
    handled: u64,
    network: u64,
    scoped: u64,
}

/// `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
struct Beneath {
    allowed: u64,
    folder: i32,
}

/// Restricts this process and all that it starts. False where the kernel has nothing of it, or too little.
pub(crate) fn restrict() -> sys::Result<bool> {
    const VERSION: usize = 1;
    // SAFETY: landlock_create_ruleset(2) with this flag takes no attributes.
    let version = match unsafe { raw(nr::LANDLOCK_CREATE_RULESET, [0, 0, VERSION, 0, 0, 0]) } {
        Err(Errno::ENOSYS | Errno::EOPNOTSUPP) => return Ok(false),
        version => version?,
    };
    let Some((handled, scoped)) = known(version) else { return Ok(false) };
    let attributes = Attributes { handled, network: 0, scoped };
    let size = size_of_val(&attributes);
    // SAFETY: landlock_create_ruleset(2) reads as many bytes of attributes as it is told; an older kernel takes a
    // longer structure whose rest is zero, which `known` sees to.
    let rules =
        unsafe { raw(nr::LANDLOCK_CREATE_RULESET, [(&raw const attributes) as usize, size, 0, 0, 0, 0]) }?;
    let rules = Fd::owned(rules as i32);
    for (path, allowed) in granted(handled) {
        const PATH_BENEATH: usize = 1;
        let folder = match sys::open_folder(CWD, path) {
            // Also where an image has a link in its place: what it leads to has a rule, or none.
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => continue,
            folder => folder?,
        };
        let rule = Beneath { allowed, folder: folder.0 };
        // SAFETY: landlock_add_rule(2) reads a `struct landlock_path_beneath_attr`, which is packed.
        unsafe {
            raw(nr::LANDLOCK_ADD_RULE, [word(rules.0), PATH_BENEATH, (&raw const rule) as usize, 0, 0, 0])
        }?;
    }
    // SAFETY: landlock_restrict_self(2) takes numbers only.
    unsafe { raw(nr::LANDLOCK_RESTRICT_SELF, [word(rules.0), 0, 0, 0, 0, 0]) }?;
    Ok(true)
}
