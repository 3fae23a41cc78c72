//! Control groups: what holds a sandbox down and counts what it uses, on version 1, version 2, or both at once.
//!
//! On version 1 a sandbox's groups are children of the groups that this process is in. On version 2 the kernel allows
//! controllers only below a group that has no processes itself, so a sandbox's group stands beside that of this
//! process, in a group that was delegated to it: systemd does that with `Delegate=yes` and
//! `DelegateSubgroup=supervisor`. Where nothing is delegated the limits are reported as missing.
//!
//! A sandbox has a group of version 2 wherever one can be made, without any controller if need be. It costs some
//! 40 µs (measured: 14 to make, 8 to remove, the rest to enter), and alone can kill all its processes in one
//! step, tell that none is left, and count processor time.

mod detect;
pub(super) mod disks;
mod groups;
mod killed;
mod limit;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ci_core::id::SandboxId;
use ci_core::job::Limits;

pub(super) use self::groups::Groups;
pub(super) use self::killed::OutOfMemory;

/// The sandbox's process 1 counts, but not as one of the job's.
pub(super) const PROCESS_ONE: u32 = 1;

/// What a group can hold down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Controller {
    Memory,
    Processes,
    Cpu,
    /// Shares of reading from disks. Jobs write to memory alone.
    Disk,
    /// How fast disks are read from, whoever else wants to.
    DiskRate,
}

impl Controller {
    const ALL: [Self; 5] = [Self::Memory, Self::Processes, Self::Cpu, Self::Disk, Self::DiskRate];

    /// What the kernel calls it.
    fn name(self, version: Version) -> &'static str {
        match (self, version) {
            (Self::Memory, _) => "memory",
            (Self::Processes, _) => "pids",
            (Self::Cpu, _) => "cpu",
            (Self::Disk | Self::DiskRate, Version::One) => "blkio",
            (Self::Disk | Self::DiskRate, Version::Two) => "io",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// One tree of groups, at the folder where those of sandboxes are made.
#[derive(Clone, Debug)]
struct Hierarchy {
    folder: PathBuf,
    version: Version,
    controllers: Vec<Controller>,
}

impl Hierarchy {
    /// Whether a sandbox has a group here only where its limits ask for it. On version 1 it would be one more for each to
    /// be made and entered.
    fn is_on_demand(&self) -> bool {
        self.version == Version::One && self.controllers == [Controller::DiskRate]
    }
}

/// Where groups can be made, and what cannot be had.
#[derive(Clone, Debug, Default)]
pub(super) struct Hierarchies {
    /// Those that are needed on demand come last.
    trees: Vec<Hierarchy>,
    missing: Vec<(Controller, String)>,
}

impl Hierarchies {
    /// Looks for every controller, and tries whether groups can be made.
    pub(super) fn detect() -> Self {
        detect::detect()
    }

    /// Why a controller cannot be used; nothing when it can.
    pub(super) fn missing(&self, controller: Controller) -> Option<&str> {
        self.missing.iter().find(|(missing, _)| *missing == controller).map(|(_, why)| why.as_str())
    }

    /// Does without a controller.
    pub(super) fn give_up(&mut self, controller: Controller, why: String) {
        self.trees.iter_mut().for_each(|tree| tree.controllers.retain(|one| *one != controller));
        // A tree of version 1 without a controller is of no use.
        self.trees.retain(|tree| tree.version == Version::Two || !tree.controllers.is_empty());
        self.trees.sort_by_key(Hierarchy::is_on_demand);
        self.missing.push((controller, why));
    }

    /// Where the groups of a sandbox with these limits will be.
    pub(super) fn groups(&self, id: &SandboxId, limits: &Limits) -> Groups {
        let name = format!("ci-{id}");
        let is_needed = |tree: &&Hierarchy| limits.bounds_disk_reads() || !tree.is_on_demand();
        Groups(self.trees.iter().filter(is_needed).map(|tree| tree.folder.join(&name)).collect())
    }

    /// The group whose memory somebody has to watch, for there the kernel ends only one process when it is used up.
    /// Version 2 ends all of them by itself.
    pub(super) fn watched<'a>(&self, groups: &'a Groups) -> Option<&'a Path> {
        let trees = self.trees.iter().zip(&groups.0);
        let is_watched =
            |tree: &Hierarchy| tree.version == Version::One && tree.controllers.contains(&Controller::Memory);
        trees.into_iter().find(|(tree, _)| is_watched(tree)).map(|(_, group)| group.as_path())
    }

    /// Whether nothing that a sandbox's processes hold is swapped out. Version 1 bounds swap together with memory, which
    /// stops a group that has used up its memory, but not the machine when that of all is short (Linux,
    /// `mm/memcontrol-v1.c`: what is swapped out stays counted once).
    pub(super) fn keep_from_swap(&self) -> bool {
        self.trees
            .iter()
            .any(|tree| tree.version == Version::Two && tree.controllers.contains(&Controller::Memory))
    }

    /// Makes the groups with their limits.
    pub(super) fn make(&self, groups: &Groups, limits: &Limits) -> io::Result<()> {
        for (tree, group) in self.trees.iter().zip(&groups.0) {
            fs::create_dir(group)?;
            for controller in &tree.controllers {
                limit::hold(group, tree.version, *controller, limits)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, folder: PathBuf, version: Version, controllers: impl IntoIterator<Item = Controller>) {
        match self.trees.iter_mut().find(|tree| tree.folder == folder) {
            Some(tree) => tree.controllers.extend(controllers),
            None => {
                self.trees.push(Hierarchy {
                    folder,
                    version,
                    controllers: controllers.into_iter().collect(),
                });
            }
        }
    }
}

/// Writes to a file of a group. Unlike [`fs::write`] it never tries to make one.
fn write(file: &Path, value: &str) -> io::Result<()> {
    use io::Write as _;
    fs::OpenOptions::new().write(true).open(file)?.write_all(value.as_bytes())
}
