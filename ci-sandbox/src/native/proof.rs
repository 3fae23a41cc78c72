//! What is left of a sandbox, counted.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::fstat;

/// What still uses the namespaces of a sandbox.
#[derive(Debug, Default)]
pub(super) struct Users {
    /// Processes in its PID namespace.
    pub(super) processes: usize,
    /// Namespaces that they hold.
    pub(super) namespaces: usize,
    /// Mounts that they see.
    pub(super) mounts: usize,
}

/// Counts the processes whose PID namespace is `namespace`, and what they hold.
///
/// Holding the descriptor keeps the namespace's inode number from being given to a new one, so nothing else can
/// be mistaken for it. All of a sandbox's processes are in its PID namespace, since nobody inside can make a further
/// one. Once process 1 has been reaped, the kernel guarantees that there are none; this is the look
/// that tells if it did not.
pub(super) fn users_of(namespace: &OwnedFd) -> Users {
    let Ok(wanted) = fstat(namespace) else { return Users::default() };
    let mut users = Users::default();
    let mut held = BTreeSet::new();
    for process in processes() {
        // A process of somebody else's that may not be looked at is not in a namespace of ours.
        let Ok(metadata) = fs::metadata(process.join("ns/pid")) else { continue };
        if (metadata.ino(), metadata.dev()) == (wanted.st_ino, wanted.st_dev) && !is_zombie(&process) {
            users.processes += 1;
            held.extend(namespaces(&process));
            let mounts = fs::read_to_string(process.join("mounts")).unwrap_or_default();
            users.mounts = users.mounts.max(mounts.lines().count());
        }
    }
    users.namespaces = held.len();
    users
}

fn processes() -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let is_process = |entry: &fs::DirEntry| entry.file_name().as_encoded_bytes()[0].is_ascii_digit();
    entries.filter(is_process).map(|entry| entry.path())
}

/// Whether it is dead and only waits for a parent, the machine's own process 1 say, to take notice.
fn is_zombie(process: &Path) -> bool {
    let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with(['Z', 'X']))
}

fn namespaces(process: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(process.join("ns")).into_iter().flatten().flatten();
    entries.filter_map(|entry| fs::read_link(entry.path()).ok())
}
