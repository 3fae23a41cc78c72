//! `/dev`: the few devices that every program expects, terminals of the sandbox's own, and nothing else.

use core::ffi::CStr;

use crate::mounts::{self, Configuring};
use crate::sys::{self, CWD, Errno, Fd, Raw};

/// Devices with their numbers (Linux, `Documentation/admin-guide/devices.txt`).
const DEVICES: [(&CStr, &CStr, [u32; 2]); 6] = [
    (c"/dev/null", c"null", [1, 3]),
    (c"/dev/zero", c"zero", [1, 5]),
    (c"/dev/full", c"full", [1, 7]),
    (c"/dev/random", c"random", [1, 8]),
    (c"/dev/urandom", c"urandom", [1, 9]),
    (c"/dev/tty", c"tty", [5, 0]),
];

const LINKS: [(&CStr, &CStr); 5] = [
    (c"fd", c"/proc/self/fd"),
    (c"stdin", c"/proc/self/fd/0"),
    (c"stdout", c"/proc/self/fd/1"),
    (c"stderr", c"/proc/self/fd/2"),
    (c"ptmx", c"pts/ptmx"),
];

/// Makes devices of the sandbox's own, on a file system that is attached nowhere yet: what a job watches, locks or touches
/// of them concerns nobody else. Nothing where that is not allowed; then the host's are shown.
///
/// It takes the host's root, for devices on a file system of a sandbox's root cannot be opened.
pub(crate) fn make() -> sys::Result<Option<Fd>> {
    let files = Configuring::open(c"tmpfs")?;
    for (key, value) in [(c"size", c"4k"), (c"nr_inodes", c"8"), (c"mode", c"0755")] {
        files.set(key, value)?;
    }
    let folder = files.mount(mounts::NOSUID | mounts::NOEXEC)?;
    for (_, name, numbers) in DEVICES {
        match sys::make_device(*folder, name, 0o666, numbers) {
            Err(Errno::EPERM) => return Ok(None),
            made => made?,
        }
        // What mknod(2) gave went through the umask.
        sys::chmod_path(*folder, name, 0o666)?;
    }
    Ok(Some(folder))
}

/// Devices, each on a mount of its own that is attached nowhere yet.
pub(crate) struct Devices([Option<Fd>; DEVICES.len()]);

impl Devices {
    /// Takes them from `/dev`, which is the host's unless the sandbox has its `own`.
    pub(crate) fn open(own: Option<Fd>) -> sys::Result<Self> {
        if let Some(own) = own {
            mounts::attach(*own, CWD, c"/dev")?;
        }
        let mut devices = [const { None }; DEVICES.len()];
        for (place, (path, _, numbers)) in devices.iter_mut().zip(DEVICES) {
            let device = match mounts::clone_tree(CWD, path) {
                Err(Errno::ENOENT) => continue,
                opened => opened?,
            };
            // What stands at a device's path need not be the device.
            let stat = sys::stat(*device, c"")?;
            if stat.mode & sys::KIND != sys::CHARACTER || stat.rdev != numbers {
                return Err(Errno::EINVAL);
            }
            // A device is read and written all the same; only its times and owner stay as they are.
            mounts::restrict(*device, mounts::RDONLY | mounts::NOSUID | mounts::NOEXEC)?;
            *place = Some(device);
        }
        Ok(Self(devices))
    }

    /// Attaches them in `folder`, which is the sandbox's own.
    pub(crate) fn attach(self, folder: Raw) -> sys::Result<()> {
        for (device, (_, name, _)) in self.0.into_iter().zip(DEVICES) {
            if let Some(device) = device {
                drop(sys::create(folder, name, 0o666)?);
                mounts::attach(*device, folder, name)?;
            }
        }
        for (name, target) in LINKS {
            sys::symlink(target, folder, name)?;
        }
        let terminals = Configuring::open(c"devpts")?;
        for (key, value) in [(c"ptmxmode", c"0666"), (c"mode", c"0620"), (c"max", c"64")] {
            terminals.set(key, value)?;
        }
        let terminals = terminals.mount(mounts::NOSUID | mounts::NOEXEC)?;
        mounts::attach(*terminals, folder, c"pts")
    }
}
