//! Control groups: children of the group that this process is in, on version 1, version 2, or both at once.
//!
//! Version 2 allows controllers only below a group that has no processes itself. A service manager that
//! delegates a group (systemd: `Delegate=yes` with `DelegateSubgroup=`) gives just that; where it does not, the
//! limits are reported as missing.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use ci_core::id::SandboxId;
use ci_core::job::Limits;

/// The sandbox's process 1 counts, but not as one of the job's.
pub(super) const PROCESS_ONE: u64 = 1;

/// What a group can hold down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Controller {
    Memory,
    Processes,
    Cpu,
}

impl Controller {
    pub(super) const ALL: [Self; 3] = [Self::Memory, Self::Processes, Self::Cpu];

    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Processes => "pids",
            Self::Cpu => "cpu",
        }
    }
}

/// One tree of groups, at the group of this process.
#[derive(Clone, Debug)]
struct Hierarchy {
    folder: PathBuf,
    version: Version,
    controllers: Vec<Controller>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// Where groups can be made, and what cannot be had.
#[derive(Clone, Debug, Default)]
pub(super) struct Hierarchies {
    trees: Vec<Hierarchy>,
    missing: Vec<(Controller, String)>,
}

impl Hierarchies {
    /// Looks for every controller, first in version 1, then in version 2, and tries whether groups can be made.
    pub(super) fn detect() -> Self {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mut found = Self::default();
        for controller in Controller::ALL {
            match locate(controller, &groups, &mounts) {
                Ok((folder, version)) => found.add(folder, version, controller),
                Err(why) => found.missing.push((controller, why)),
            }
        }
        found
    }

    /// Why a controller cannot be used; nothing when it can.
    pub(super) fn missing(&self, controller: Controller) -> Option<&str> {
        self.missing.iter().find(|(missing, _)| *missing == controller).map(|(_, why)| why.as_str())
    }

    /// Where the groups of a sandbox will be.
    pub(super) fn groups(&self, id: &SandboxId) -> Groups {
        let name = format!("ci-{id}");
        Groups(self.trees.iter().map(|tree| tree.folder.join(&name)).collect())
    }

    /// Makes the groups with their limits.
    pub(super) fn make(&self, groups: &Groups, limits: &Limits) -> io::Result<()> {
        for (tree, group) in self.trees.iter().zip(&groups.0) {
            fs::create_dir(group)?;
            for controller in &tree.controllers {
                set_limit(group, tree.version, *controller, limits)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, folder: PathBuf, version: Version, controller: Controller) {
        match self.trees.iter_mut().find(|tree| tree.folder == folder) {
            Some(tree) => tree.controllers.push(controller),
            None => self.trees.push(Hierarchy { folder, version, controllers: vec![controller] }),
        }
    }
}

/// The groups of one sandbox, one per tree.
#[derive(Clone, Debug, Default)]
pub(super) struct Groups(pub(super) Vec<PathBuf>);

impl Groups {
    /// The files that take a process into the groups.
    pub(super) fn entrances(&self) -> Vec<Vec<u8>> {
        self.0.iter().map(|group| group.join("cgroup.procs").as_os_str().as_bytes().to_vec()).collect()
    }

    /// How many processes the kernel has killed because the memory was used up.
    pub(super) fn out_of_memory_kills(&self) -> u64 {
        let count = |file: PathBuf| {
            let text = fs::read_to_string(file).ok()?;
            text.lines().find_map(|line| line.strip_prefix("oom_kill ")).and_then(|count| count.parse().ok())
        };
        let files =
            self.0.iter().flat_map(|group| [group.join("memory.oom_control"), group.join("memory.events")]);
        files.filter_map(count).max().unwrap_or(0)
    }

    /// How many processes are in them.
    pub(super) fn processes(&self) -> usize {
        let count = |group: &PathBuf| {
            fs::read_to_string(group.join("cgroup.procs")).map_or(0, |processes| processes.lines().count())
        };
        self.0.iter().map(count).max().unwrap_or(0)
    }

    /// Removes those that are empty, and returns how many are left.
    pub(super) fn remove(&self) -> usize {
        let is_left = |group: &&PathBuf| match fs::remove_dir(group) {
            Ok(()) => false,
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        };
        self.0.iter().filter(is_left).count()
    }
}

/// The group of this process in the tree that has `controller`, if groups can be made there.
fn locate(controller: Controller, groups: &str, mounts: &str) -> Result<(PathBuf, Version), String> {
    let name = controller.name();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let version = match controllers {
            "" => Version::Two,
            _ if controllers.split(',').any(|one| one == name) => Version::One,
            _ => continue,
        };
        let Some(folder) = mount_point(version, name, mounts).and_then(|mount| mount.folder(path)) else {
            continue;
        };
        if version == Version::Two && !offers(&folder, name) {
            continue;
        }
        return usable(&folder, version, name).map(|()| (folder, version));
    }
    Err(format!("the kernel offers no {name} controller to this process"))
}

/// A mount of a tree: which part of it, and where.
struct MountPoint<'a> {
    root: &'a str,
    folder: &'a Path,
}

impl MountPoint<'_> {
    /// Where a group of the tree is seen.
    fn folder(&self, group: &str) -> Option<PathBuf> {
        let below = Path::new(group).strip_prefix(self.root).ok()?;
        Some(self.folder.join(below))
    }
}

/// Finds a tree in `/proc/self/mountinfo`: id, parent, device, root, mount point, options, optional fields, a
/// dash, type, source, options of the file system (proc(5)).
fn mount_point<'a>(version: Version, name: &str, mounts: &'a str) -> Option<MountPoint<'a>> {
    mounts.lines().find_map(|line| {
        let (mount, system) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let (root, folder) = (mount.next()?, mount.next()?);
        let mut system = system.split(' ');
        let (kind, options) = (system.next()?, system.nth(1)?);
        let is_it = match version {
            Version::One => kind == "cgroup" && options.split(',').any(|option| option == name),
            Version::Two => kind == "cgroup2",
        };
        is_it.then_some(MountPoint { root, folder: Path::new(folder) })
    })
}

fn offers(folder: &Path, name: &str) -> bool {
    lists(&folder.join("cgroup.controllers"), name)
}

fn lists(file: &Path, name: &str) -> bool {
    fs::read_to_string(file).is_ok_and(|names| names.split_whitespace().any(|one| one == name))
}

/// Tries whether a group with the controller can be made in `folder`.
fn usable(folder: &Path, version: Version, name: &str) -> Result<(), String> {
    let enabled = folder.join("cgroup.subtree_control");
    if version == Version::Two && !lists(&enabled, name) && fs::write(&enabled, format!("+{name}")).is_err() {
        return Err(format!(
            "the control group of this process has processes of its own, so {name} cannot be limited below it; \
             start the program in a delegated group, in a sub-group of its own"
        ));
    }
    let trial = folder.join(format!("ci-trial-{}", SandboxId::random()));
    let made = fs::create_dir(&trial);
    let _ = fs::remove_dir(&trial);
    made.map_err(|error| format!("no control group for {name} can be made: {error}"))
}

fn set_limit(group: &Path, version: Version, controller: Controller, limits: &Limits) -> io::Result<()> {
    /// In microseconds: what the kernel takes by default.
    const PERIOD: u64 = 100_000;
    /// The kernel has no more, and takes no larger bound (Linux, `PID_MAX_LIMIT`).
    const KERNEL_MOST: u64 = 4 * 1024 * 1024;
    let quota = (u64::from(limits.cpu_millis) * PERIOD / 1_000).max(1_000);
    let memory = limits.memory.as_u64().to_string();
    let write = |file: &str, value: &str| fs::write(group.join(file), value);
    match (controller, version) {
        (Controller::Memory, Version::One) => {
            write("memory.limit_in_bytes", &memory)?;
            // Memory and swap together: no swap. The file is missing where the kernel does not account for it.
            optional(write("memory.memsw.limit_in_bytes", &memory))
        }
        (Controller::Memory, Version::Two) => {
            write("memory.max", &memory)?;
            optional(write("memory.swap.max", "0"))
        }
        (Controller::Processes, _) => {
            let most = (u64::from(limits.processes) + PROCESS_ONE).min(KERNEL_MOST);
            write("pids.max", &most.to_string())
        }
        (Controller::Cpu, Version::One) => write("cpu.cfs_quota_us", &quota.to_string()),
        (Controller::Cpu, Version::Two) => write("cpu.max", &format!("{quota} {PERIOD}")),
    }
}

fn optional(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {
            Ok(())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
30 20 0:25 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
31 20 0:26 /docker/x /sys/fs/cgroup/unified rw shared:1 - cgroup2 cgroup2 rw,nsdelegate
";

    #[test]
    fn a_group_is_found_below_the_part_that_is_mounted() {
        let find = |version, name, group| {
            mount_point(version, name, MOUNTS)
                .and_then(|mount| mount.folder(group))
                .map(|f| f.display().to_string())
        };
        assert_eq!(find(Version::One, "memory", "/a/b").as_deref(), Some("/sys/fs/cgroup/memory/a/b"));
        assert_eq!(find(Version::One, "pids", "/a"), None);
        assert_eq!(find(Version::Two, "", "/docker/x/y").as_deref(), Some("/sys/fs/cgroup/unified/y"));
        assert_eq!(find(Version::Two, "", "/elsewhere"), None);
    }
}
