//! The sandbox's file tree: memory below, the image on it read-only, the host gone.

use core::ffi::CStr;

use crate::failure::{At, Failure};
use crate::launch::{self, Binds, mount_record};
use crate::mounts::{self, Configuring};
use crate::sys::{self, CWD, Errno, Fd, O_CREAT, O_EXCL, O_NOFOLLOW, O_WRONLY};
use crate::task;
use crate::wire::{Configuration, Stage, fact};

/// The user and group that own the job's folders and run its programs, inside.
pub(crate) const JOB: u32 = 1000;

/// Devices that every program expects, with their numbers (Linux, `Documentation/admin-guide/devices.txt`).
const DEVICES: [(&CStr, &CStr, [u32; 2]); 6] = [
    (c"/dev/null", c"null", [1, 3]),
    (c"/dev/zero", c"zero", [1, 5]),
    (c"/dev/full", c"full", [1, 7]),
    (c"/dev/random", c"random", [1, 8]),
    (c"/dev/urandom", c"urandom", [1, 9]),
    (c"/dev/tty", c"tty", [5, 0]),
];

/// Folders that every sandbox has of its own, with their modes.
const FOLDERS: [(&CStr, usize); 10] = [
    (c"/dev", 0o755),
    (c"/dev/pts", 0o755),
    (c"/dev/shm", 0o1777),
    (NOTHING, 0o555),
    (c"/home", 0o755),
    (c"/home/ci", 0o755),
    (c"/proc", 0o555),
    (c"/run", 0o755),
    (c"/tmp", 0o1777),
    (c"/work", 0o755),
];

/// Those of them that belong to the job.
const JOBS_FOLDERS: [&CStr; 2] = [c"/home/ci", c"/work"];

/// Folders that the image may bring, in whatever form.
const SHARED_FOLDERS: [(&CStr, usize); 3] = [(c"/etc", 0o755), (c"/var", 0o755), (c"/var/tmp", 0o1777)];

/// Files that programs need to name users and hosts, where the image brings none.
const FILES: [(&CStr, &[u8]); 5] = [
    (
        c"/etc/passwd",
        b"root:x:0:0:root:/:/bin/false\nci:x:1000:1000:ci:/home/ci:/bin/sh\n\
          nobody:x:65534:65534:nobody:/:/bin/false\n",
    ),
    (c"/etc/group", b"root:x:0:\nci:x:1000:\nnogroup:x:65534:\n"),
    (c"/etc/hosts", b"127.0.0.1 localhost\n::1 localhost\n"),
    (c"/etc/nsswitch.conf", b"passwd: files\ngroup: files\nhosts: files dns\n"),
    (c"/etc/resolv.conf", b""),
];

/// What tells of the machine, or steers it, as the OCI runtimes hide it (`runc`, `libcontainer/specconv`).
const HIDDEN: [&CStr; 11] = [
    c"/proc/acpi",
    c"/proc/asound",
    c"/proc/cmdline",
    c"/proc/interrupts",
    c"/proc/kcore",
    c"/proc/keys",
    c"/proc/latency_stats",
    // Each watch on it costs ten milliseconds of waiting when its process ends, and a process can have thousands.
    c"/proc/pressure",
    c"/proc/sched_debug",
    c"/proc/scsi",
    c"/proc/timer_list",
];

/// What may be read but not written.
const READ_ONLY: [&CStr; 5] = [c"/proc/bus", c"/proc/fs", c"/proc/irq", c"/proc/sys", c"/proc/sysrq-trigger"];

/// An empty folder, shown in place of hidden ones.
const NOTHING: &CStr = c"/dev/.nothing";

/// Builds the tree and makes it this process's root.
pub(crate) fn build(
    configuration: &Configuration<'_>,
    memory_files: Option<Fd>,
    binds: &mut Binds,
    facts: &mut u32,
) -> Result<(), Failure> {
    let memory_files = if let Some(files) = memory_files {
        files
    } else {
        // For an ordinary user nothing could be prepared outside.
        launch::open_binds(configuration, binds)?;
        make_memory_files(configuration).at(Stage::MemoryFiles)?
    };
    let devices = open_devices().at(Stage::Devices)?;
    task::set_umask(0);

    // On top of the old root for a moment, then instead of it. From here on every path, also one through a
    // link that the image brings, ends inside of the sandbox.
    mounts::attach(*memory_files, CWD, c"/").at(Stage::Root)?;
    sys::change_directory_to(*memory_files).at(Stage::Root)?;
    mounts::pivot_here().at(Stage::Root)?;

    make_folders(configuration.range).at(Stage::Root)?;
    attach_binds(configuration, binds)?;
    make_shared();
    attach_devices(devices).at(Stage::Devices)?;
    // While the old root is still there: the kernel gives a new proc only to those who see one already.
    mount_proc(facts).at(Stage::Proc)?;
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

fn open_devices() -> sys::Result<[Option<Fd>; DEVICES.len()]> {
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
        mounts::restrict(*device, mounts::NOSUID | mounts::NOEXEC)?;
        *place = Some(device);
    }
    Ok(devices)
}

fn make_folders(range: bool) -> sys::Result<()> {
    for (path, mode) in FOLDERS {
        sys::mkdir(CWD, path, mode)?;
    }
    if range {
        for path in JOBS_FOLDERS {
            sys::chown_path(CWD, path, JOB, JOB)?;
        }
    }
    Ok(())
}

fn attach_binds(configuration: &Configuration<'_>, binds: &mut Binds) -> Result<(), Failure> {
    let mut records = configuration.mounts.records;
    for (item, bind) in (0..configuration.mounts.count).zip(binds) {
        let (_, source, target) = mount_record(&mut records)?;
        make_parents(target).at_item(Stage::Mount, item)?;
        match bind.take() {
            Some(bind) => attach_bind(&bind, target),
            None => sys::symlink(source, CWD, target),
        }
        .at_item(Stage::Mount, item)?;
    }
    Ok(())
}

fn attach_bind(bind: &Fd, target: &CStr) -> sys::Result<()> {
    let made = match sys::stat(**bind, c"")?.mode & sys::KIND {
        sys::DIRECTORY => sys::mkdir(CWD, target, 0o755),
        _ => sys::open(CWD, target, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o644).map(drop),
    };
    // Where another bind shows the path already, that one is what it is attached to.
    match made {
        Ok(()) | Err(Errno::EEXIST | Errno::EROFS) => mounts::attach(**bind, CWD, target),
        Err(error) => Err(error),
    }
}

fn make_parents(target: &CStr) -> sys::Result<()> {
    let mut parent = [0_u8; 4096];
    let bytes = target.to_bytes();
    if bytes.len() >= parent.len() {
        return Err(Errno::ENAMETOOLONG);
    }
    for (index, byte) in bytes.iter().enumerate() {
        if *byte == b'/' && index > 0 {
            parent[index] = 0;
            match sys::mkdir(CWD, CStr::from_bytes_until_nul(&parent).unwrap_or(c"/"), 0o755) {
                Ok(()) | Err(Errno::EEXIST | Errno::EROFS) => {}
                Err(error) => return Err(error),
            }
        }
        parent[index] = *byte;
    }
    Ok(())
}

/// What cannot be made here stands in a part of the image that is read-only, and is the image's affair.
fn make_shared() {
    for (path, mode) in SHARED_FOLDERS {
        let _ = sys::mkdir(CWD, path, mode);
    }
    for (path, content) in FILES {
        if let Ok(file) = sys::open(CWD, path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o644) {
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
    let file = sys::open(CWD, CONFIGURATION, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o644)?;
    sys::write_all(*file, b"nameserver 127.0.0.1\n")?;
    let cover = mounts::clone_tree(CWD, CONFIGURATION)?;
    mounts::restrict(*cover, mounts::RDONLY | mounts::NOSUID | mounts::NODEV | mounts::NOEXEC)?;
    mounts::attach_on(*cover, *own)
}

fn attach_devices(devices: [Option<Fd>; DEVICES.len()]) -> sys::Result<()> {
    let folder = sys::open(CWD, c"/dev", sys::O_PATH | sys::O_DIRECTORY | O_NOFOLLOW, 0)?;
    for (device, (_, name, _)) in devices.into_iter().zip(DEVICES) {
        if let Some(device) = device {
            drop(sys::open(*folder, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o666)?);
            mounts::attach(*device, *folder, name)?;
        }
    }
    for (name, target) in [
        (c"fd", c"/proc/self/fd"),
        (c"stdin", c"/proc/self/fd/0"),
        (c"stdout", c"/proc/self/fd/1"),
        (c"stderr", c"/proc/self/fd/2"),
        (c"ptmx", c"pts/ptmx"),
    ] {
        sys::symlink(target, *folder, name)?;
    }
    let options = c"newinstance,ptmxmode=0666,mode=0620,max=64";
    mounts::mount(c"devpts", c"/dev/pts", mounts::NOSUID | mounts::NOEXEC, options)
}

fn mount_proc(facts: &mut u32) -> sys::Result<()> {
    let flags = mounts::NOSUID | mounts::NODEV | mounts::NOEXEC;
    mounts::mount(c"proc", c"/proc", flags, c"")?;
    // A further user namespace would give the job a set of capabilities to attack the kernel with.
    if let Ok(most) = sys::open(CWD, c"/proc/sys/user/max_user_namespaces", O_WRONLY, 0)
        && sys::write_all(*most, b"0").is_ok()
    {
        *facts |= fact::NO_NESTING;
    }
    for path in HIDDEN {
        if let Ok(stat) = sys::stat(CWD, path) {
            let is_folder = stat.mode & sys::KIND == sys::DIRECTORY;
            let cover = mounts::clone_tree(CWD, if is_folder { NOTHING } else { c"/dev/null" })?;
            mounts::restrict(*cover, mounts::RDONLY)?;
            mounts::attach(*cover, CWD, path)?;
        }
    }
    for path in READ_ONLY {
        match mounts::clone_tree(CWD, path) {
            Ok(same) => {
                mounts::restrict(*same, mounts::RDONLY | flags)?;
                mounts::attach(*same, CWD, path)?;
            }
            Err(Errno::ENOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
