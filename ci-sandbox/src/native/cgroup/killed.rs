//! How many processes of a sandbox the kernel has killed because the memory was used up.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use super::Groups;
use super::groups::value_of;

/// The kernel's count, open for as long as the sandbox lives: it is asked before and after every program.
#[derive(Debug)]
pub(in super::super) struct OutOfMemory(Option<File>);

impl OutOfMemory {
    /// The count of groups that exist; without one, nothing is ever counted.
    pub(in super::super) fn of(groups: &Groups) -> Self {
        let files = ["memory.events", "memory.oom_control"];
        let mut files = files.iter().flat_map(|file| groups.0.iter().map(move |group| group.join(file)));
        Self(files.find_map(|file| File::open(file).ok().filter(|file| count(file).is_some())))
    }

    /// How many there have been.
    pub(in super::super) fn kills(&self) -> u64 {
        self.0.as_ref().and_then(count).unwrap_or(0)
    }
}

fn count(file: &File) -> Option<u64> {
    // Either file takes a few short lines.
    let mut text = [0; 1024];
    let length = file.read_at(&mut text, 0).ok()?;
    value_of(str::from_utf8(&text[..length]).ok()?, "oom_kill")
}
