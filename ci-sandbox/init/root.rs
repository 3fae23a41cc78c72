//! The sandbox's file tree: the image with memory over it, folders of its own on top, the host gone.

use core::ffi::CStr;

use crate::devices::Devices;
use crate::failure::{At, Failure};
use crate::files::FILES;
use crate::launch::{self, Binds, mount_record};
use crate::mounts::{self, Configuring};
use crate::overlay::Layer;
use crate::proc;
use crate::sys::{self, CWD, Errno, Fd, Raw, open_folder};
use crate::task;
use crate::wire::{Configuration, Stage, fact, mount};

/// The user and group that own the job's folders and run its programs, inside.
pub(crate) const JOB: u32 = 1000;

/// Where a sandbox has something of its own, whatever the image has there: plain memory, without the image below.
const OWN: [&CStr; 5] = [c"dev", c"home", c"run", c"tmp", c"work"];

/// What is in those folders, with modes.
const FOLDERS: [(&CStr, usize); 9] = [
    (c"dev", 0o755),
    (c"dev/pts", 0o755),
    (c"dev/shm", 0o1777),
    (c"dev/.nothing", 0o555),
    (c"home", 0o755),
    (c"home/ci", 0o755),
    (c"run", 0o755),
    (c"tmp", 0o1777),
    (c"work", 0o755),
];

/// Those of them that belong to the job.
const JOBS_FOLDERS: [&CStr; 2] = [c"home/ci", c"work"];

/// An empty folder in `/dev`, shown in place of hidden ones.
const NOTHING: &CStr = c".nothing";

/// Builds the tree and makes it this process's root.
pub(crate) fn build(
    configuration: &Configuration<'_>,
    memory_files: Option<Fd>,
    own_devices: Option<Fd>,
    binds: &mut Binds,
    facts: &mut u32,
) -> Result<(), Failure> {
    let memory = if let Some(files) = memory_files {
        files
    } else {
        // For an ordinary user nothing could be prepared outside.
        launch::open_binds(configuration, binds)?;
        make_memory_files(configuration).at(Stage::MemoryFiles)?
    };
    let devices = Devices::open(own_devices).at(Stage::Devices)?;
    task::set_umask(0);

    // An overlay takes its parts only from where they are attached. Here they are in nobody's way, and go with the
    // old root.
    mounts::attach(*memory, CWD, c"/dev").at(Stage::Root)?;
    let own = make_own(*memory, configuration.range).at(Stage::Root)?;
    *facts |= fact::OWN_IMAGE;
    let root = make_root(*memory, binds, facts).at(Stage::Root)?;
    make_layers(configuration, *memory, binds, facts)?;

    // On top of the old root for a moment, then instead of it. From here on every path, also one through a
    // link that the image brings, ends inside of the sandbox.
    mounts::attach(*root, CWD, c"/").at(Stage::Root)?;
    sys::change_directory_to(*root).at(Stage::Root)?;
    mounts::pivot_here().at(Stage::Root)?;
    for (name, folder) in OWN.into_iter().zip(own) {
        mounts::attach(*folder, CWD, name).at(Stage::Root)?;
    }
    attach_all(configuration, binds)?;
    make_shared();
    let folder = open_folder(CWD, c"dev").at(Stage::Devices)?;
    devices.attach(*folder).at(Stage::Devices)?;
    // While the old root is still there: the kernel gives a new proc only to those who see one already.
    if proc::mount(CWD, *folder, NOTHING, configuration.range).at(Stage::Proc)? {
        *facts |= fact::NO_NESTING;
    }
    mounts::detach_here().at(Stage::Root)?;
    sys::change_directory(c"/").at(Stage::Root)?;
    task::set_umask(0o022);
    Ok(())
}

fn make_memory_files(configuration: &Configuration<'_>) -> sys::Result<Fd> {
    let files = Configuring::open(c"tmpfs")?;
    files.set(c"size", configuration.size)?;
    files.set(c"nr_inodes", configuration.inodes)?;
    files.set(c"mode", c"0755")?;
    files.mount(mounts::NOSUID | mounts::NODEV)
}

/// Makes the sandbox's own folders in `memory`, and a mount of each, attached nowhere yet.
fn make_own(memory: Raw, range: bool) -> sys::Result<[Fd; OWN.len()]> {
    sys::mkdir(memory, c"own", 0o755)?;
    let own = open_folder(memory, c"own")?;
    for (path, mode) in FOLDERS {
        sys::mkdir(*own, path, mode)?;
    }
    if range {
        for path in JOBS_FOLDERS {
            sys::chown_path(*own, path, JOB, JOB)?;
        }
    }
    let [dev, home, run, tmp, work] = OWN.map(|name| mounts::clone_mount(*own, name));
    let dev = dev?;
    mounts::restrict(*dev, mounts::NOEXEC)?;
    Ok([dev, home?, run?, tmp?, work?])
}

/// The image's first layer with places for what is attached to the root. Whatever the image has there, a link that
/// leads elsewhere say, is covered by a folder of ours.
fn make_root(memory: Raw, binds: &mut Binds, facts: &mut u32) -> sys::Result<Fd> {
    let image = binds[0].take().ok_or(Errno::EINVAL)?;
    let layer = Layer::new(memory, 0, &image)?;
    for name in OWN.into_iter().chain([c"proc"]) {
        sys::mkdir(*layer.upper, name, 0o755)?;
    }
    layer.mount().or_else(|_| {
        *facts &= !fact::OWN_IMAGE;
        layer.plain_root()
    })
}

/// Puts memory over the image's further layers. They take the places of the folders that they are made of.
fn make_layers(
    configuration: &Configuration<'_>,
    memory: Raw,
    binds: &mut Binds,
    facts: &mut u32,
) -> Result<(), Failure> {
    let mut records = configuration.mounts.records;
    for (item, bind) in (0..configuration.mounts.count).zip(binds) {
        let (kind, ..) = mount_record(&mut records)?;
        let Some(image) = &bind else { continue };
        match kind {
            mount::LAYER | mount::LAYER_MAPPED => {
                let layer = Layer::new(memory, item, image).at_item(Stage::Mount, item)?;
                let made = layer.mount().or_else(|_| {
                    *facts &= !fact::OWN_IMAGE;
                    layer.plain()
                });
                *bind = Some(made.at_item(Stage::Mount, item)?);
            }
            mount::BIND => *facts &= !fact::OWN_IMAGE,
            _ => {}
        }
    }
    Ok(())
}

fn attach_all(configuration: &Configuration<'_>, binds: &mut Binds) -> Result<(), Failure> {
    let mut records = configuration.mounts.records;
    for (item, bind) in (0..configuration.mounts.count).zip(binds) {
        let (_, _, target) = mount_record(&mut records)?;
        if let Some(bind) = bind.take() {
            attach_bind(&bind, target).at_item(Stage::Mount, item)?;
        }
    }
    Ok(())
}

/// Attaches a mount at `target`, which is made where it does not exist. No link on the way is followed, whoever has
/// made it.
fn attach_bind(bind: &Fd, target: &CStr) -> sys::Result<()> {
    let mut folder = open_folder(CWD, c".")?;
    let mut parts = target.to_bytes().split(|byte| *byte == b'/').filter(|part| !part.is_empty());
    let mut last = Part::of(parts.next().ok_or(Errno::EBUSY)?)?;
    for part in parts {
        unless_there(sys::mkdir(*folder, last.name(), 0o755))?;
        folder = open_folder(*folder, last.name())?;
        last = Part::of(part)?;
    }
    unless_there(match sys::stat(**bind, c"")?.mode & sys::KIND {
        sys::DIRECTORY => sys::mkdir(*folder, last.name(), 0o755),
        _ => sys::create(*folder, last.name(), 0o644).map(drop),
    })?;
    mounts::attach(**bind, *folder, last.name())
}

/// Where another bind shows the path already, that one is what it is attached to.
fn unless_there(made: sys::Result<()>) -> sys::Result<()> {
    match made {
        Err(Errno::EEXIST | Errno::EROFS) => Ok(()),
        made => made,
    }
}

/// One part of a path, with its NUL.
struct Part([u8; 256]);

impl Part {
    fn of(part: &[u8]) -> sys::Result<Self> {
        let mut bytes = [0; 256];
        bytes[..255].get_mut(..part.len()).ok_or(Errno::ENAMETOOLONG)?.copy_from_slice(part);
        Ok(Self(bytes))
    }

    fn name(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.0).unwrap_or(c"")
    }
}

/// What the image does not bring. What cannot be made here stands in a part of it that is read-only or a link, and is
/// the image's affair.
fn make_shared() {
    for folder in [c"etc", c"var"] {
        let _ = sys::mkdir(CWD, folder, 0o755);
    }
    if let Ok(var) = open_folder(CWD, c"var") {
        let _ = sys::mkdir(*var, c"tmp", 0o1777);
    }
    let Ok(etc) = open_folder(CWD, c"etc") else { return };
    for (name, content) in FILES {
        if let Ok(file) = sys::create(*etc, name, 0o644) {
            let _ = sys::write_all(*file, content);
        }
    }
}

/// Has programs look names up in the sandbox itself, whatever the image's own configuration says. Where there is none,
/// that is what they do anyway (resolv.conf(5)).
pub(crate) fn resolve_here() -> sys::Result<()> {
    const CONFIGURATION: &CStr = c"/dev/.resolv.conf";
    let own = match sys::open(CWD, c"/etc/resolv.conf", sys::O_PATH, 0) {
        Err(_) => return Ok(()),
        opened => opened?,
    };
    let file = sys::create(CWD, CONFIGURATION, 0o644)?;
    sys::write_all(*file, b"nameserver 127.0.0.1\n")?;
    let cover = mounts::clone_tree(CWD, CONFIGURATION)?;
    mounts::restrict(*cover, mounts::RDONLY | mounts::NOSUID | mounts::NODEV | mounts::NOEXEC)?;
    mounts::attach_on(*cover, *own)
}
