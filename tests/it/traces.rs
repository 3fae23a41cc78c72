//! What a job could leave behind on this machine, and how to look for it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The processes that have `argument` among their arguments, as `/proc` shows them.
pub fn processes_with(argument: &str) -> Vec<PathBuf> {
    let has = |process: &PathBuf| {
        let arguments = fs::read(process.join("cmdline")).unwrap_or_default();
        arguments.split(|byte| *byte == 0).any(|given| given == argument.as_bytes())
    };
    processes().filter(has).collect()
}

/// The processes that are in all of `namespaces`, given as `/proc` names them: `mnt:[4026531841]`. One of them alone says
/// nothing: the kernel gives the number of a namespace that is gone to the next one, of another test for instance.
pub fn processes_in(namespaces: &BTreeSet<String>) -> Vec<PathBuf> {
    let are_in = |process: &PathBuf| {
        let links = fs::read_dir(process.join("ns")).into_iter().flatten().flatten();
        let targets = links.filter_map(|link| fs::read_link(link.path()).ok());
        let targets: BTreeSet<_> = targets.map(|target| target.to_string_lossy().into_owned()).collect();
        targets.is_superset(namespaces)
    };
    processes().filter(are_in).collect()
}

fn processes() -> impl Iterator<Item = PathBuf> {
    let is_process = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    entries.filter(move |entry| entry.file_name().to_str().is_some_and(is_process)).map(|entry| entry.path())
}

/// The ids in the books of the sandboxes below `state`.
pub fn ledger(state: &Path) -> BTreeSet<String> {
    let owners = fs::read_dir(state.join("sandboxes")).into_iter().flatten().flatten();
    let files = owners.flat_map(|owner| fs::read_dir(owner.path()).into_iter().flatten().flatten());
    files.map(|file| file.file_name().to_string_lossy().into_owned()).filter(|name| name != "lock").collect()
}

/// The control groups whose names hold one of `ids`.
pub fn cgroups_of(ids: &BTreeSet<String>) -> Vec<PathBuf> {
    fn walk(folder: &Path, ids: &BTreeSet<String>, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let name = entry.file_name().to_string_lossy().into_owned();
                if ids.iter().any(|id| name.contains(id.as_str())) {
                    found.push(entry.path());
                }
                walk(&entry.path(), ids, found);
            }
        }
    }
    let mut found = Vec::new();
    walk(Path::new("/sys/fs/cgroup"), ids, &mut found);
    found
}

/// The files below `folder` that hold `needle`.
pub fn files_with(needle: &[u8], folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut count = 0;
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder").flatten() {
            let kind = entry.file_type().expect("a kind");
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                count += 1;
                let content = fs::read(entry.path()).expect("a file");
                if content.windows(needle.len()).any(|window| window == needle) {
                    found.push(entry.path());
                }
            }
        }
    }
    assert!(count > 0, "nothing to search in {}", folder.display());
    found
}

/// Waits until `done`, at most for `bound`; says whether it came to that.
pub fn within(bound: Duration, mut done: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if done() {
            return true;
        }
        if start.elapsed() > bound {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
