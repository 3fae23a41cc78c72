//! The kernel's calls on mounts.

use core::ffi::CStr;
use core::ptr;

use crate::call::raw;
use crate::nr;
use crate::sys::{Fd, O_CLOEXEC, Raw, Result, word};

pub(crate) const RDONLY: u64 = 0x01;
pub(crate) const NOSUID: u64 = 0x02;
pub(crate) const NODEV: u64 = 0x04;
pub(crate) const NOEXEC: u64 = 0x08;
const IDMAP: u64 = 0x0010_0000;
const EMPTY_PATH: usize = 0x1000;

/// A file system that is being configured.
#[derive(Debug)]
pub(crate) struct Configuring(Fd);

impl Configuring {
    /// Starts to configure a file system of `kind`, owned by the user namespace of the caller.
    pub(crate) fn open(kind: &CStr) -> Result<Self> {
        const FSOPEN_CLOEXEC: usize = 1;
        // SAFETY: fsopen(2) reads a NUL-terminated name.
        let file = unsafe { raw(nr::FSOPEN, [kind.as_ptr() as usize, FSOPEN_CLOEXEC, 0, 0, 0, 0]) }?;
        Ok(Self(Fd::owned(file as i32)))
    }

    /// Sets an option that takes a value.
    pub(crate) fn set(&self, key: &CStr, value: &CStr) -> Result<()> {
        self.configure(1, key.as_ptr() as usize, value.as_ptr() as usize)
    }

    /// Sets an option that takes none.
    pub(crate) fn flag(&self, key: &CStr) -> Result<()> {
        self.configure(0, key.as_ptr() as usize, 0)
    }

    /// Makes the file system and a mount of it that is attached nowhere yet.
    pub(crate) fn mount(self, attributes: u64) -> Result<Fd> {
        const CREATE: usize = 6;
        const FSMOUNT_CLOEXEC: usize = 1;
        self.configure(CREATE, 0, 0)?;
        // SAFETY: fsmount(2) takes numbers only.
        unsafe { raw(nr::FSMOUNT, [word(self.0.0), FSMOUNT_CLOEXEC, attributes as usize, 0, 0, 0]) }
            .map(|file| Fd::owned(file as i32))
    }

    fn configure(&self, command: usize, key: usize, value: usize) -> Result<()> {
        // SAFETY: fsconfig(2) reads a NUL-terminated key and, for a string, value; the callers in this `impl`
        // pass pointers of a `CStr`, or null where the command takes none.
        unsafe { raw(nr::FSCONFIG, [word(self.0.0), command, key, value, 0, 0]) }.map(drop)
    }
}

/// A mount of its own of what `path` shows, with everything mounted below, attached nowhere yet.
pub(crate) fn clone_tree(directory: Raw, path: &CStr) -> Result<Fd> {
    const RECURSIVE: usize = 0x8000;
    open_tree(directory, path, RECURSIVE)
}

/// The same without what is mounted below.
pub(crate) fn clone_mount(directory: Raw, path: &CStr) -> Result<Fd> {
    open_tree(directory, path, 0)
}

fn open_tree(directory: Raw, path: &CStr, flags: usize) -> Result<Fd> {
    const CLONE: usize = 1;
    let flags = flags | CLONE | O_CLOEXEC;
    // SAFETY: open_tree(2) reads a NUL-terminated path.
    unsafe { raw(nr::OPEN_TREE, [word(directory.0), path.as_ptr() as usize, flags, 0, 0, 0]) }
        .map(|file| Fd::owned(file as i32))
}

/// `struct mount_attr`.
#[repr(C)]
struct Attributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// Adds attributes to a mount and all below it.
pub(crate) fn restrict(mount: Raw, set: u64) -> Result<()> {
    change(mount, &Attributes { set, clear: 0, propagation: 0, user_namespace: 0 })
}

/// Has mounts neither come from the host nor go to it: a copy is the peer of a shared original.
pub(crate) fn detach_from_peers(mount: Raw) -> Result<()> {
    const PRIVATE: u64 = 1 << 18;
    change(mount, &Attributes { set: 0, clear: 0, propagation: PRIVATE, user_namespace: 0 })
}

/// Shows the owners of a mount that is attached nowhere as `user_namespace` sees them.
pub(crate) fn map_owners(mount: Raw, user_namespace: Raw) -> Result<()> {
    let user_namespace = user_namespace.0 as u64;
    change(mount, &Attributes { set: IDMAP, clear: 0, propagation: 0, user_namespace })
}

fn change(mount: Raw, attributes: &Attributes) -> Result<()> {
    const RECURSIVE: usize = 0x8000;
    let size = size_of_val(attributes);
    // SAFETY: mount_setattr(2) reads an empty path and a `struct mount_attr` of four 64-bit fields.
    unsafe {
        raw(
            nr::MOUNT_SETATTR,
            [
                word(mount.0),
                c"".as_ptr() as usize,
                EMPTY_PATH | RECURSIVE,
                ptr::from_ref(attributes) as usize,
                size,
                0,
            ],
        )
    }
    .map(drop)
}

/// Attaches a mount at `path`, of which the last part is not followed if it is a link.
pub(crate) fn attach(mount: Raw, directory: Raw, path: &CStr) -> Result<()> {
    move_to(mount, directory, path, 0)
}

/// Attaches a mount on what `place` is open on.
pub(crate) fn attach_on(mount: Raw, place: Raw) -> Result<()> {
    const TO_EMPTY_PATH: usize = 0x40;
    move_to(mount, place, c"", TO_EMPTY_PATH)
}

fn move_to(mount: Raw, directory: Raw, path: &CStr, flags: usize) -> Result<()> {
    const FROM_EMPTY_PATH: usize = 0x04;
    // SAFETY: move_mount(2) reads two NUL-terminated paths.
    unsafe {
        raw(
            nr::MOVE_MOUNT,
            [
                word(mount.0),
                c"".as_ptr() as usize,
                word(directory.0),
                path.as_ptr() as usize,
                FROM_EMPTY_PATH | flags,
                0,
            ],
        )
    }
    .map(drop)
}

/// Makes the working directory the root, with the old root on top of it.
pub(crate) fn pivot_here() -> Result<()> {
    let here = c".".as_ptr() as usize;
    // SAFETY: pivot_root(2) reads two NUL-terminated paths.
    unsafe { raw(nr::PIVOT_ROOT, [here, here, 0, 0, 0, 0]) }.map(drop)
}

/// Takes what is mounted on the working directory away, at once for this process and later in the kernel.
pub(crate) fn detach_here() -> Result<()> {
    const DETACH: usize = 2;
    // SAFETY: umount2(2) reads a NUL-terminated path.
    unsafe { raw(nr::UMOUNT2, [c".".as_ptr() as usize, DETACH, 0, 0, 0, 0]) }.map(drop)
}
