//! What Landlock lets a sandbox do where, as data; `landlock` applies it.

use core::ffi::CStr;

// Rights, by their bits (Linux, `include/uapi/linux/landlock.h`).
const WRITE_FILE: u64 = 1 << 1;
const REMOVE: u64 = 1 << 4 | 1 << 5;
pub(crate) const MAKE_DEVICE: u64 = 1 << 6 | 1 << 11;
const MAKE_OTHERS: u64 = 1 << 7 | 1 << 8 | 1 << 9 | 1 << 10 | 1 << 12;
pub(crate) const REFER: u64 = 1 << 13;
const TRUNCATE: u64 = 1 << 14;
const IOCTL_DEVICE: u64 = 1 << 15;

/// All that changes something. Making devices is in here and granted nowhere.
pub(crate) const HANDLED: u64 = WRITE | FILL | MAKE_DEVICE | IOCTL_DEVICE;
/// Changing files that exist.
const WRITE: u64 = WRITE_FILE | TRUNCATE;
/// Making, removing and moving files.
const FILL: u64 = REMOVE | MAKE_OTHERS | REFER;

/// Abstract sockets and signals reach no further than this domain.
const SCOPED: u64 = 1 << 0 | 1 << 1;

/// What may be done below which folder. One that is missing needs no rule.
pub(crate) const RULES: [(&CStr, u64); 7] = [
    (c"/work", WRITE | FILL),
    (c"/home", WRITE | FILL),
    (c"/tmp", WRITE | FILL),
    (c"/var/tmp", WRITE | FILL),
    (c"/run", WRITE | FILL),
    // Terminals are driven by ioctl.
    (c"/dev", WRITE | FILL | IOCTL_DEVICE),
    // Names of threads, and a debugger's way into its debuggee. There is no rule for each process's own folder, but
    // what is the machine's in here is read-only by its mount.
    (c"/proc", WRITE),
];

/// What the kernel can handle, by the version of its interface: rights, and scopes.
pub(crate) fn known(version: usize) -> Option<(u64, u64)> {
    let rights = match version {
        // The first cannot allow moving a file to another folder, which every build does.
        0 | 1 => return None,
        2 => HANDLED & !(TRUNCATE | IOCTL_DEVICE),
        3 | 4 => HANDLED & !IOCTL_DEVICE,
        _ => HANDLED,
    };
    Some((rights, if version >= 6 { SCOPED } else { 0 }))
}
