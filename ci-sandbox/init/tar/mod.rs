//! The tar format: headers in, headers out. It touches no file, so that it can be tested anywhere.
//!
//! POSIX.1-2017 `pax` ("ustar Interchange Format" and "pax Extended Header") with the two extensions for long
//! names of GNU tar ("Basic Tar Format"). The archive may come from an enemy: every name that it yields is
//! relative, has no `..`, and is bounded.

mod block;
mod name;
mod read;
mod write;

use core::ffi::CStr;

pub(crate) use read::{Problem, Reader, Source};
pub(crate) use write::write_header;

/// The unit of the format.
pub(crate) const BLOCK: usize = 512;

/// The longest path, its NUL included (`PATH_MAX`).
pub(crate) const LONGEST_PATH: usize = 4096;

/// The most folders above an entry.
pub(crate) const DEEPEST: usize = 128;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A file; its content follows.
    File,
    /// A folder.
    Directory,
    /// A symbolic link to whatever `link` says.
    Symlink,
    /// Another name of the entry `link`.
    HardLink,
    /// A device or a pipe.
    Device,
}

/// One entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    /// What it is.
    pub(crate) kind: Kind,
    /// Where it goes: relative, without `.` and `..`; empty for the folder itself.
    pub(crate) path: &'a CStr,
    /// Where a link leads to; checked like `path` for a hard link, and not at all for a symbolic one.
    pub(crate) link: &'a CStr,
    /// The length of the content.
    pub(crate) size: u64,
    /// The user and the group that it belongs to.
    pub(crate) owner: (u32, u32),
    /// Permissions; never set-user-id, set-group-id or sticky.
    pub(crate) mode: u32,
    /// When it was changed, in seconds since 1970.
    pub(crate) mtime: i64,
}

/// How many zeros follow content of `size` bytes.
pub(crate) fn padding(size: u64) -> u64 {
    (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64
}
