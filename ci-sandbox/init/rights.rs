//! What Landlock lets a sandbox do where, as data; `landlock` applies it.
//!
//! Writing is none of it: what a job owns in its image it may change, in memory. What is handled at all, is refused on
//! file systems without a path too, message queues for instance.

use core::ffi::CStr;

// Rights, by their bits (Linux, `include/uapi/linux/landlock.h`).
pub(crate) const MAKE_DEVICE: u64 = 1 << 6 | 1 << 11;
pub(crate) const REFER: u64 = 1 << 13;
const IOCTL_DEVICE: u64 = 1 << 15;

/// Making devices, which is granted nowhere, and steering them. Moving files to another folder is refused by every rule
/// that does not speak of it.
pub(crate) const HANDLED: u64 = MAKE_DEVICE | IOCTL_DEVICE | REFER;

/// Abstract sockets and signals reach no further than this domain.
const SCOPED: u64 = 1 << 0 | 1 << 1;

/// What may be done below which folder. One that is missing needs no rule.
pub(crate) const RULES: [(&CStr, u64); 2] = [
    (c"/", REFER),
    // Terminals are driven by ioctl.
    (c"/dev", IOCTL_DEVICE),
];

/// What the kernel can handle, by the version of its interface: rights, and scopes.
pub(crate) fn known(version: usize) -> Option<(u64, u64)> {
    let rights = match version {
        // The first cannot allow moving a file to another folder, which every build does.
        0 | 1 => return None,
        2..=4 => HANDLED & !IOCTL_DEVICE,
        _ => HANDLED,
    };
    Some((rights, if version >= 6 { SCOPED } else { 0 }))
}

/// What is allowed of `handled`, and where. The kernel takes a rule that allows nothing for an error.
pub(crate) fn granted(handled: u64) -> impl Iterator<Item = (&'static CStr, u64)> {
    RULES
        .into_iter()
        .map(move |(path, allowed)| (path, allowed & handled))
        .filter(|(_, allowed)| *allowed != 0)
}
