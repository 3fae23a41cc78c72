//! A folder of the image with the sandbox's memory over it.
//!
//! The image's files have inodes of this sandbox's own: what a job watches (inotify(7)), locks (flock(2), fcntl(2)) or
//! leases is seen by this sandbox alone. What may be changed by its owner and mode is changed in memory.
//!
//! The overlay is mounted by the sandbox's own root, in its user namespace: a bug in it gives nobody the host's.

use core::ffi::CStr;

use crate::folder;
use crate::mounts::{self, Configuring};
use crate::sys::{self, Errno, Fd, O_DIRECTORY, O_NOFOLLOW, Raw, open_folder};

/// One layer: the folder of the image, and beside it the memory for what is changed.
pub(crate) struct Layer {
    folder: Fd,
    /// What lies over the image.
    pub(crate) upper: Fd,
}

impl Layer {
    /// Makes room for layer `number` in `memory`, which must be attached, and puts `image` there.
    pub(crate) fn new(memory: Raw, number: u32, image: &Fd) -> sys::Result<Self> {
        let name = name_of(number);
        let name = CStr::from_bytes_until_nul(&name).unwrap_or(c"");
        sys::mkdir(memory, name, 0o755)?;
        let folder = open_folder(memory, name)?;
        for name in [c"lower", c"upper", c"work"] {
            sys::mkdir(*folder, name, 0o755)?;
        }
        mounts::attach(**image, *folder, c"lower")?;
        take_looks(*folder, &sys::stat(**image, c"")?)?;
        let upper = open_folder(*folder, c"upper")?;
        Ok(Self { folder, upper })
    }

    /// The overlay, attached nowhere yet; nothing where the kernel cannot make it.
    ///
    /// The paths are relative, so that those of the host show nowhere. The working directory is changed for it.
    pub(crate) fn mount(&self) -> sys::Result<Fd> {
        sys::change_directory_to(*self.folder)?;
        let overlay = Configuring::open(c"overlay")?;
        // Its notes are attributes of the user, for those of the system are forbidden to a sandbox's root.
        overlay.flag(c"userxattr")?;
        for (key, path) in [(c"lowerdir", c"lower"), (c"upperdir", c"upper"), (c"workdir", c"work")] {
            overlay.set(key, path)?;
        }
        overlay.mount(mounts::NOSUID | mounts::NODEV)
    }

    /// In place of an overlay: the folder of the image itself, read-only, attached nowhere yet.
    pub(crate) fn plain(&self) -> sys::Result<Fd> {
        mounts::clone_tree(*self.folder, c"lower")
    }

    /// In place of an overlay for the root: the memory, on which every entry of the image that it does not have itself
    /// is shown read-only.
    pub(crate) fn plain_root(&self) -> sys::Result<Fd> {
        let root = mounts::clone_tree(*self.folder, c"upper")?;
        let image = sys::open(*self.folder, c"lower", O_DIRECTORY | O_NOFOLLOW, 0)?;
        // Only what is attached can be attached to.
        mounts::attach(*root, *self.folder, c"upper")?;
        folder::each_name(*image, |errno| errno, |name| show_plainly(*image, *root, name))?;
        Ok(root)
    }
}

fn show_plainly(image: Raw, root: Raw, name: &CStr) -> sys::Result<()> {
    let made = match sys::stat(image, name)?.mode & sys::KIND {
        sys::DIRECTORY => sys::mkdir(root, name, 0o755),
        sys::SYMLINK => {
            let mut target = [0; 4096];
            let end = target.len() - 1;
            sys::read_link(image, name, &mut target[..end])?;
            let target = CStr::from_bytes_until_nul(&target).unwrap_or(c"");
            return unless_there(sys::symlink(target, root, name)).map(drop);
        }
        _ => sys::create(root, name, 0o644).map(drop),
    };
    if unless_there(made)? {
        mounts::attach(*mounts::clone_tree(image, name)?, root, name)?;
    }
    Ok(())
}

/// Whether something was made; false where the sandbox has something of its own.
fn unless_there(made: sys::Result<()>) -> sys::Result<bool> {
    match made {
        Err(Errno::EEXIST) => Ok(false),
        made => made.map(|()| true),
    }
}

/// Gives `upper` the owner and mode of the image's folder, which it stands for.
fn take_looks(folder: Raw, image: &sys::Stat) -> sys::Result<()> {
    let mode = image.mode as usize & 0o777;
    if sys::chown_path(folder, c"upper", image.uid, image.gid).is_ok() {
        return sys::chmod_path(folder, c"upper", mode);
    }
    // An ordinary user can make nobody else the owner. As one of the others the job has their rights.
    let others = mode & 0o5;
    sys::chmod_path(folder, c"upper", others << 6 | others << 3 | others)
}

/// The name of layer `number`, with its NUL.
fn name_of(number: u32) -> [u8; 9] {
    let mut name = [0; 9];
    for (index, place) in name[..8].iter_mut().enumerate() {
        *place = b'a' + (number >> (28 - 4 * index) & 0xf) as u8;
    }
    name
}
