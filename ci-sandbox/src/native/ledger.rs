//! The books: which sandboxes exist, so that those of a process that was killed can be found and cleared.
//!
//! ```text
//! <state>/sandboxes/<owner>/lock          held with flock(2) for as long as the owner lives
//! <state>/sandboxes/<owner>/<sandbox id>  written before anything of the sandbox is made
//! ```
//!
//! The kernel lets go of the lock when the owner is gone, however it went; there is no pid to be mistaken in.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use ci_core::id::SandboxId;
use rustix::fs::{FlockOperation, flock};

use super::cgroup::Groups;
use super::{folder, sys};

const LOCK: &str = "lock";

/// What the name of books ends with that are not ready.
const UNREADY: &str = "new";

/// The books of one owner: of this process, or of one that is gone.
#[derive(Debug)]
pub(super) struct Ledger {
    folder: PathBuf,
    lock: File,
}

impl Ledger {
    /// Opens books of this process's own.
    pub(super) fn open(state: &Path) -> io::Result<Self> {
        let all = state.join("sandboxes");
        folder::make_own(&all)?;
        let owner = SandboxId::random();
        // Under its name only once it is locked: an unlocked folder would pass for one of a dead owner.
        let unready = all.join(format!("{owner}.{UNREADY}"));
        let folder = all.join(owner.as_str());
        fs::create_dir(&unready)?;
        let lock = File::create_new(unready.join(LOCK))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        fs::rename(&unready, &folder)?;
        Ok(Self { folder, lock })
    }

    /// The books of owners that are gone, taken over for as long as the value lives.
    pub(super) fn of_the_dead(state: &Path) -> io::Result<Vec<Self>> {
        let folders = match fs::read_dir(state.join("sandboxes")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            folders => folders?,
        };
        let mut dead = Vec::new();
        for folder in folders {
            let folder = folder?.path();
            clear_half(&folder);
            let named = folder.file_name().and_then(|name| name.to_str()).map(SandboxId::parse);
            let (Some(Ok(_)), Ok(lock)) = (named, File::open(folder.join(LOCK))) else { continue };
            if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
                dead.push(Self { folder, lock });
            }
        }
        Ok(dead)
    }

    /// Whether somebody else's books are locked: by a living owner, or for a moment still by the child that a killed
    /// one was just starting.
    pub(super) fn others_live(&self) -> bool {
        let folders = self.folder.parent().and_then(|all| fs::read_dir(all).ok());
        let others = folders.into_iter().flatten().flatten().map(|folder| folder.path());
        others.filter(|folder| *folder != self.folder).any(|folder| folder.join(LOCK).exists())
    }

    /// Whether any owner, living or dead, has `id` in its books.
    pub(super) fn anyone_has(state: &Path, id: &SandboxId) -> bool {
        let folders = fs::read_dir(state.join("sandboxes")).into_iter().flatten().flatten();
        folders.map(|folder| folder.path().join(id.as_str())).any(|entry| entry.exists())
    }

    /// Writes down that a sandbox is about to be made in `groups`.
    pub(super) fn enter(&self, id: &SandboxId, groups: &Groups) -> io::Result<Entry> {
        let path = self.folder.join(id.as_str());
        let mut text = format!("boot {}\n", boot_id());
        for group in &groups.0 {
            let _ = writeln!(text, "group {}", group.display());
        }
        let mut file = File::create_new(&path)?;
        file.write_all(text.as_bytes())?;
        Ok(Entry { page: Page(path), file })
    }

    /// The sandboxes in these books; none when somebody else has just thrown them away.
    pub(super) fn ids(&self) -> io::Result<Vec<SandboxId>> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut ids = Vec::new();
        for entry in entries {
            if let Some(Ok(id)) = entry?.file_name().to_str().map(SandboxId::parse) {
                ids.push(id);
            }
        }
        Ok(ids)
    }

    /// What was left of a sandbox when its owner died.
    pub(super) fn remains(&self, id: &SandboxId) -> Option<Remains> {
        let path = self.folder.join(id.as_str());
        let text = fs::read_to_string(&path).ok()?;
        let mut remains =
            Remains { page: Page(path), groups: Groups::default(), links: Vec::new(), processes: Vec::new() };
        let mut same_boot = false;
        for line in text.lines() {
            match line.split_once(' ') {
                Some(("boot", boot)) => same_boot = boot == boot_id(),
                Some(("link", device)) => remains.links.push(device.to_owned()),
                Some(("group", group)) => remains.groups.0.push(group.into()),
                Some(("process", process)) if same_boot => {
                    remains.processes.extend(ProcessId::parse(process));
                }
                _ => {}
            }
        }
        Some(remains)
    }
}

impl Drop for Ledger {
    /// Throws the books away when nothing stands in them any more.
    fn drop(&mut self) {
        if self.ids().is_ok_and(|ids| ids.is_empty()) {
            let _ = fs::remove_file(self.folder.join(LOCK));
            let _ = fs::remove_dir(&self.folder);
        }
        // Closing is not enough: a child that another thread is starting holds a copy until it executes its program.
        let _ = flock(&self.lock, FlockOperation::Unlock);
    }
}

/// One sandbox in the books of this process.
#[derive(Debug)]
pub(super) struct Entry {
    page: Page,
    file: File,
}

impl Entry {
    /// Enters the sandbox under another id.
    pub(super) fn rename(&mut self, id: &SandboxId) -> io::Result<()> {
        let path = self.page.0.with_file_name(id.as_str());
        fs::rename(&self.page.0, &path)?;
        self.page = Page(path);
        Ok(())
    }

    /// Adds a process of the sandbox, in case the books are read by somebody else.
    pub(super) fn add_process(&self, pid: i32) -> io::Result<()> {
        let Some(ProcessId { pid, started }) = ProcessId::of(pid) else { return Ok(()) };
        (&self.file).write_all(format!("process {pid} {started}\n").as_bytes())
    }

    /// Adds a network device of the sandbox, which is about to be made.
    pub(super) fn add_link(&self, device: &str) -> io::Result<()> {
        (&self.file).write_all(format!("link {device}\n").as_bytes())
    }

    /// Where it stands.
    pub(super) fn page(&self) -> &Page {
        &self.page
    }
}

/// Where a sandbox stands in the books.
#[derive(Clone, Debug)]
pub(super) struct Page(PathBuf);

impl Page {
    /// Strikes the sandbox out. True when nothing of the entry is left.
    pub(super) fn strike(&self) -> bool {
        match fs::remove_file(&self.0) {
            Ok(()) => true,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }
}

/// A sandbox in the books of an owner that is gone.
#[derive(Debug)]
pub(super) struct Remains {
    /// Where it stands.
    pub(super) page: Page,
    /// Its control groups.
    pub(super) groups: Groups,
    /// The names of its network devices.
    pub(super) links: Vec<String>,
    processes: Vec<ProcessId>,
}

impl Remains {
    /// Pidfds of those of its processes that still run.
    pub(super) fn living(&self) -> Vec<OwnedFd> {
        self.processes.iter().filter_map(ProcessId::open).collect()
    }
}

/// Removes books that an owner has begun and never got ready, or had thrown away but for their folder, when it was killed.
/// Nothing was ever written into them.
fn clear_half(folder: &Path) {
    /// Longer than anybody takes to begin some.
    const LONG_AGO: Duration = Duration::from_mins(1);
    let is_old =
        || fs::metadata(folder)?.modified()?.elapsed().map_err(io::Error::other).map(|age| age > LONG_AGO);
    if folder.extension().is_some_and(|extension| extension == UNREADY) {
        if !is_old().unwrap_or(false) {
            return;
        }
        let _ = fs::remove_file(folder.join(LOCK));
    } else if folder.join(LOCK).exists() {
        return;
    }
    // Unless something is in it.
    let _ = fs::remove_dir(folder);
}

/// A process by its number and when it started: the number alone is used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ProcessId {
    pid: i32,
    started: u64,
}

impl ProcessId {
    fn of(pid: i32) -> Option<Self> {
        // The name in the second field may hold anything; the start time is the 20th after it (proc(5)).
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (_, fields) = stat.rsplit_once(')')?;
        Some(Self { pid, started: fields.split_whitespace().nth(19)?.parse().ok()? })
    }

    fn parse(text: &str) -> Option<Self> {
        let (pid, started) = text.split_once(' ')?;
        Some(Self { pid: pid.parse().ok()?, started: started.parse().ok()? })
    }

    /// A handle on exactly this process: checked after it was opened, so that it cannot become another's.
    fn open(&self) -> Option<OwnedFd> {
        let process = sys::open_process(self.pid).ok()?;
        (Self::of(self.pid) == Some(*self)).then_some(process)
    }
}

/// A number that is new with every start of the machine.
pub(super) fn boot_id() -> &'static str {
    static ID: OnceLock<String> = OnceLock::new();
    let read = || fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    ID.get_or_init(|| read().trim().to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_a_killed_owner_has_half_made_or_half_removed_goes() {
        let state = tempfile::tempdir().unwrap();
        let all = state.path().join("sandboxes");
        let folder = |name: String, has_lock: bool, age: u64| {
            let folder = all.join(name);
            fs::create_dir_all(&folder).unwrap();
            if has_lock {
                fs::write(folder.join(LOCK), "").unwrap();
            }
            let time = std::time::SystemTime::now() - Duration::from_secs(age);
            File::open(&folder).unwrap().set_modified(time).unwrap();
            folder
        };
        let id = || SandboxId::random().to_string();
        let gone = [
            folder(format!("{}.new", id()), true, 3_600),
            folder(format!("{}.new", id()), false, 3_600),
            folder(id(), false, 0),
        ];
        let stay = [folder(format!("{}.new", id()), true, 0), folder(format!("{}.new", id()), false, 0)];
        assert!(Ledger::of_the_dead(state.path()).unwrap().is_empty());
        assert!(gone.iter().all(|folder| !folder.exists()) && stay.iter().all(|folder| folder.exists()));
    }

    #[test]
    fn books_that_another_throws_away_meanwhile_are_empty() {
        let state = tempfile::tempdir().unwrap();
        let owner = state.path().join("sandboxes").join(SandboxId::random().as_str());
        fs::create_dir_all(&owner).unwrap();
        fs::write(owner.join(LOCK), "").unwrap();
        let found = Ledger::of_the_dead(state.path()).unwrap();
        fs::remove_dir_all(&owner).unwrap();
        let [books] = found.as_slice() else { panic!("there is one: {found:?}") };
        assert!(books.ids().unwrap().is_empty());
    }
}
