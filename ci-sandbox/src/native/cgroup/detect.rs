//! Where on this machine groups for sandboxes can be made.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ci_core::id::SandboxId;

use super::super::report::kernel_is_at_least;
use super::{Controller, Hierarchies, Version, write};

/// Looks for every controller, first in version 1, then in version 2.
pub(super) fn detect() -> Hierarchies {
    let read = |file| fs::read_to_string(file).unwrap_or_default();
    let (groups, mounts) = (read("/proc/self/cgroup"), read("/proc/self/mountinfo"));
    let mut found = Hierarchies::default();
    let mut wanted = Vec::new();
    for controller in Controller::ALL {
        match version_one(controller, &groups, &mounts) {
            None => wanted.push(controller),
            Some(folder) => match usable(&folder, Version::One, controller) {
                Ok(()) => found.add(folder, Version::One, [controller]),
                Err(why) => found.missing.push((controller, why)),
            },
        }
    }
    match version_two(&groups, &mounts) {
        Some(own) => own.settle(wanted, &mut found),
        None => found.missing.extend(wanted.into_iter().map(|controller| {
            (controller, format!("the kernel offers no {} controller here", controller.name(Version::Two)))
        })),
    }
    if found.missing(Controller::Disk).is_none()
        && let Err(why) = disks_are_shared(Path::new("/sys/block"), found.version_of(Controller::Disk))
    {
        found.give_up(Controller::Disk, why);
    }
    found
}

impl Hierarchies {
    fn version_of(&self, controller: Controller) -> Option<Version> {
        self.trees.iter().find(|tree| tree.controllers.contains(&controller)).map(|tree| tree.version)
    }
}

/// The group of this process in the tree of version 1 that has `controller`, where one is mounted.
fn version_one(controller: Controller, groups: &str, mounts: &str) -> Option<PathBuf> {
    let name = controller.name(Version::One);
    let own = own_groups(groups).find(|(tree, _)| tree.split(',').any(|one| one == name));
    let (_, path) = own?;
    mount_point(Version::One, name, mounts)?.folder(path)
}

/// The group of this process in the tree of version 2.
fn version_two(groups: &str, mounts: &str) -> Option<Own> {
    let (_, path) = own_groups(groups).find(|(tree, _)| tree.is_empty())?;
    let mount = mount_point(Version::Two, "", mounts)?;
    Some(Own { folder: mount.folder(path)?, top: mount.folder.to_owned() })
}

/// Trees and groups of `/proc/self/cgroup`: number, controllers, path (cgroups(7)).
fn own_groups(groups: &str) -> impl Iterator<Item = (&str, &str)> {
    groups.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'))
}

/// The group of this process on version 2.
struct Own {
    folder: PathBuf,
    /// Where the tree is mounted.
    top: PathBuf,
}

impl Own {
    /// Finds the place for the groups of sandboxes, with as many of the controllers as can be had.
    fn settle(&self, wanted: Vec<Controller>, found: &mut Hierarchies) {
        let host = self.host();
        let (mut held, mut missing) = (Vec::new(), Vec::new());
        for controller in wanted {
            let usable = host.as_ref().map_err(Clone::clone).and_then(|host| {
                enable(host, controller)?;
                usable(host, Version::Two, controller)
            });
            match usable {
                Ok(()) => held.push(controller),
                Err(why) => missing.push((controller, why)),
            }
        }
        found.missing.extend(missing);
        // Without controllers a group can be made below any other.
        let place = host.as_ref().unwrap_or(&self.folder);
        if !held.is_empty() || (takes_groups(place, None).is_ok() && can_kill(place)) {
            found.add(place.clone(), Version::Two, held);
        }
    }

    /// The group below which there may be controllers: one without processes of its own, or the root.
    fn host(&self) -> Result<PathBuf, String> {
        // Only the root has no type (Linux, `Documentation/admin-guide/cgroup-v2.rst`).
        if !self.folder.join("cgroup.type").exists() {
            return Ok(self.folder.clone());
        }
        let parent = self.folder.parent().filter(|parent| parent.starts_with(&self.top));
        parent.filter(|parent| is_delegated(parent) && is_empty(parent)).map(Path::to_owned).ok_or_else(|| {
            "no control group is delegated to this program; start it in a sub-group of one that is (systemd: \
             Delegate=yes and DelegateSubgroup=supervisor)"
                .to_owned()
        })
    }
}

fn is_empty(group: &Path) -> bool {
    fs::read_to_string(group.join("cgroup.procs")).is_ok_and(|processes| processes.is_empty())
}

/// Whether a group was handed over for its owner to divide: to an ordinary user by its permissions, to root by the mark
/// that systemd sets, for systemd's own groups are root's too.
fn is_delegated(group: &Path) -> bool {
    const MARKS: [&CStr; 2] = [c"user.delegate", c"trusted.delegate"];
    let is_marked =
        |mark: &&CStr| rustix::fs::getxattr(group, *mark, &mut [0_u8; 8][..]).is_ok_and(|length| length > 0);
    !rustix::process::geteuid().is_root()
        || !Path::new("/run/systemd/system").exists()
        || MARKS.iter().any(is_marked)
}

/// Has the groups below `host` get a controller.
fn enable(host: &Path, controller: Controller) -> Result<(), String> {
    let name = controller.name(Version::Two);
    let lists = |file: &str| {
        let names = fs::read_to_string(host.join(file)).unwrap_or_default();
        names.split_whitespace().any(|one| one == name)
    };
    if lists("cgroup.subtree_control") {
        return Ok(());
    }
    if !lists("cgroup.controllers") {
        return Err(format!("the control group of this program is not given the {name} controller"));
    }
    write(&host.join("cgroup.subtree_control"), &format!("+{name}"))
        .map_err(|error| format!("the {name} controller cannot be handed on to sandboxes: {error}"))
}

/// Tries whether a group with the controller can be made in `folder`.
fn usable(folder: &Path, version: Version, controller: Controller) -> Result<(), String> {
    if (version, controller) == (Version::One, Controller::Memory)
        && !folder.join("cgroup.event_control").exists()
    {
        return Err("the kernel tells nobody when the memory of a control group is used up".to_owned());
    }
    let file = match (controller, version) {
        (Controller::DiskRate, Version::One) => Some("blkio.throttle.read_bps_device"),
        (Controller::DiskRate, Version::Two) => Some("io.max"),
        _ => None,
    };
    takes_groups(folder, file)
        .map_err(|why| format!("no control group for {} can be made: {why}", controller.name(version)))
}

/// Tries whether a group that has `file` can be made in `folder`, and a process moved there.
fn takes_groups(folder: &Path, file: Option<&str>) -> Result<(), String> {
    let trial = folder.join(format!("ci-trial-{}", SandboxId::random()));
    let made = fs::create_dir(&trial);
    let lacks = file.filter(|file| !trial.join(file).exists());
    let _ = fs::remove_dir(&trial);
    if let (Ok(()), Some(file)) = (&made, lacks) {
        return Err(format!("the kernel gives it no {file}"));
    }
    // Who moves a process must be allowed to write where the two groups meet.
    let meeting = fs::OpenOptions::new().write(true).open(folder.join("cgroup.procs"));
    made.and(meeting).map(drop).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => format!(
            "{error}; start the program as root, or where it is handed groups of version 2 (systemd: Delegate=yes)"
        ),
        _ => error.to_string(),
    })
}

/// Whether the kernel kills all of a group in one step (Linux 5.14). The root has no such file.
fn can_kill(place: &Path) -> bool {
    place.join("cgroup.kill").exists() || kernel_is_at_least(5, 14)
}

/// Whether a disk's time is shared by groups at all: by the scheduler `bfq`, or on version 2 by the cost model.
fn disks_are_shared(block: &Path, version: Option<Version>) -> Result<(), String> {
    let disks = || fs::read_dir(block).into_iter().flatten().flatten().map(|disk| disk.path());
    let reads = |file: PathBuf, word: &str| fs::read_to_string(file).is_ok_and(|text| text.contains(word));
    let by_scheduler = disks().any(|disk| reads(disk.join("queue/scheduler"), "[bfq]"));
    let by_cost = version == Some(Version::Two) && reads("/sys/fs/cgroup/io.cost.qos".into(), "enable=1");
    if by_scheduler || by_cost {
        return Ok(());
    }
    Err("the schedulers of this machine's disks do not know control groups; choose bfq for the disk of the images"
        .to_owned())
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const MOUNTS: &str = "\
30 20 0:25 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
31 20 0:26 /docker/x /sys/fs/cgroup/unified rw shared:1 - cgroup2 cgroup2 rw,nsdelegate
";

    #[test]
    fn a_group_is_found_below_the_part_that_is_mounted() {
        let find = |controller, groups: &str| {
            version_one(controller, groups, MOUNTS).map(|folder| folder.display().to_string())
        };
        let memory = find(Controller::Memory, "3:cpu:/\n2:memory:/a/b\n0::/docker/x\n");
        assert_eq!(memory.as_deref(), Some("/sys/fs/cgroup/memory/a/b"));
        assert_eq!(find(Controller::Processes, "2:memory:/a\n1:pids:/a\n"), None);
        let two = |groups| version_two(groups, MOUNTS).map(|own| own.folder.display().to_string());
        assert_eq!(two("0::/docker/x/y\n").as_deref(), Some("/sys/fs/cgroup/unified/y"));
        assert_eq!(two("0::/elsewhere\n"), None);
        assert_eq!(two("2:memory:/docker/x\n"), None);
    }

    /// A tree of version 2 that is made of plain files, with this program in `top/delegated/supervisor`.
    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new() -> Self {
            let tree = Self(tempfile::tempdir().unwrap());
            fs::create_dir_all(tree.own()).unwrap();
            for group in [tree.delegated(), tree.own()] {
                fs::write(group.join("cgroup.type"), "domain\n").unwrap();
                fs::write(group.join("cgroup.kill"), "").unwrap();
                fs::write(group.join("cgroup.procs"), "").unwrap();
                fs::write(group.join("cgroup.controllers"), "cpu memory pids\n").unwrap();
                fs::write(group.join("cgroup.subtree_control"), "").unwrap();
            }
            fs::write(tree.own().join("cgroup.procs"), "77\n").unwrap();
            tree
        }

        fn delegated(&self) -> PathBuf {
            self.0.path().join("delegated")
        }

        fn own(&self) -> PathBuf {
            self.delegated().join("supervisor")
        }

        fn settle(&self) -> Hierarchies {
            let mut found = Hierarchies::default();
            let own = Own { folder: self.own(), top: self.0.path().to_owned() };
            own.settle(Controller::ALL.to_vec(), &mut found);
            found
        }
    }

    #[test]
    fn sandboxes_stand_beside_a_program_in_a_delegated_group() {
        if is_delegated(Path::new("/")) != is_delegated(Path::new("/proc")) || !is_delegated(Path::new("/")) {
            return ci_core::conformance::skip(
                "detect",
                "no-systemd",
                "systemd is root's owner of groups here",
            );
        }
        let tree = Tree::new();
        let found = tree.settle();
        assert_eq!(found.trees.len(), 1);
        assert_eq!(found.trees[0].folder, tree.delegated());
        assert_eq!(found.trees[0].controllers, [Controller::Memory, Controller::Processes, Controller::Cpu]);
        assert!(found.missing(Controller::Disk).unwrap().contains("not given the io controller"));
        assert_eq!(fs::read_dir(tree.delegated()).unwrap().count(), 6, "the trial is gone");
    }

    #[test]
    fn a_group_with_other_processes_is_not_divided() {
        let tree = Tree::new();
        fs::write(tree.delegated().join("cgroup.procs"), "78\n").unwrap();
        let found = tree.settle();
        for controller in Controller::ALL {
            assert!(found.missing(controller).unwrap().contains("Delegate=yes"));
        }
        // The kernel would make a group of threads of it, into which no process can be moved.
        for group in [tree.delegated(), tree.own()] {
            assert_eq!(fs::read_to_string(group.join("cgroup.subtree_control")).unwrap(), "");
        }
        // Killing takes no controller.
        assert_eq!(found.trees.len(), 1);
        assert_eq!((&found.trees[0].folder, found.trees[0].controllers.len()), (&tree.own(), 0));
    }

    #[test]
    fn the_root_may_have_processes_and_nothing_above_the_mount_is_used() {
        let tree = Tree::new();
        fs::remove_file(tree.own().join("cgroup.type")).unwrap();
        assert_eq!(tree.settle().trees[0].folder, tree.own());

        let tree = Tree::new();
        let mut found = Hierarchies::default();
        // As in a container, which sees its own group as the root of the tree.
        Own { folder: tree.own(), top: tree.own() }.settle(Controller::ALL.to_vec(), &mut found);
        assert!(found.missing(Controller::Memory).unwrap().contains("Delegate=yes"));
    }

    #[test]
    fn a_disk_is_shared_where_its_scheduler_knows_groups() {
        let block = tempfile::tempdir().unwrap();
        let queue = block.path().join("sda/queue");
        fs::create_dir_all(&queue).unwrap();
        fs::write(queue.join("scheduler"), "none [mq-deadline] bfq\n").unwrap();
        assert!(disks_are_shared(block.path(), Some(Version::One)).is_err());
        fs::write(queue.join("scheduler"), "none mq-deadline [bfq]\n").unwrap();
        assert!(disks_are_shared(block.path(), Some(Version::One)).is_ok());
    }

    #[test]
    fn only_version_two_keeps_processes_from_swap() {
        for (version, controller, keeps) in [
            (Version::One, Controller::Memory, false),
            (Version::Two, Controller::Cpu, false),
            (Version::Two, Controller::Memory, true),
        ] {
            let mut found = Hierarchies::default();
            found.add("/group".into(), version, [controller]);
            assert_eq!(found.keep_from_swap(), keeps, "{version:?} {controller:?}");
        }
    }

    #[test]
    fn a_group_for_rates_alone_is_made_for_who_asks_for_one() {
        use ci_core::ByteSize;
        use ci_core::job::Limits;
        let mut found = Hierarchies::default();
        found.add("/blkio".into(), Version::One, [Controller::Disk, Controller::DiskRate]);
        found.add("/memory".into(), Version::One, [Controller::Memory]);
        let (id, usual) = (SandboxId::random(), Limits::default());
        let slow = usual.with_disk_read_bytes(ByteSize::mib(1));
        let parents = |found: &Hierarchies, limits| {
            let groups = found.groups(&id, limits).0;
            groups.iter().map(|group| group.parent().unwrap().display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(parents(&found, &usual), ["/blkio", "/memory"]);
        found.give_up(Controller::Disk, "no".to_owned());
        assert_eq!(parents(&found, &usual), ["/memory"]);
        assert_eq!(parents(&found, &slow), ["/memory", "/blkio"]);
        let groups = found.groups(&id, &slow);
        assert!(found.watched(&groups).unwrap().starts_with("/memory"), "each tree with its own group");
    }

    #[test]
    fn a_tree_without_its_controller_is_not_used() {
        let mut found = Hierarchies::default();
        found.add("/blkio".into(), Version::One, [Controller::Disk]);
        found.add("/unified".into(), Version::Two, []);
        found.give_up(Controller::Disk, "no".to_owned());
        assert_eq!(found.trees.len(), 1);
        assert_eq!(found.missing(Controller::Disk), Some("no"));
    }
}
