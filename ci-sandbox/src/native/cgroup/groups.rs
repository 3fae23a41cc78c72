//! The groups of one sandbox: who is in them, what they use, and their end.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ci_core::ByteSize;
use ci_core::sandbox::SandboxUsage;

use super::{PROCESS_ONE, write};

/// The groups of one sandbox, one per tree.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Groups(pub(in super::super) Vec<PathBuf>);

impl Groups {
    /// The files that take a process into the groups.
    pub(in super::super) fn entrances(&self) -> Vec<Vec<u8>> {
        self.0.iter().map(|group| group.join("cgroup.procs").as_os_str().as_bytes().to_vec()).collect()
    }

    /// What all processes together use, as far as the groups count it.
    pub(in super::super) fn usage(&self) -> SandboxUsage {
        let one_of = |two, one| self.number(two).or_else(|| self.number(one));
        let processes = |file| {
            let number = self.number(file)?.saturating_sub(u64::from(PROCESS_ONE));
            Some(u32::try_from(number).unwrap_or(u32::MAX))
        };
        let micros = self.value_of("cpu.stat", "usage_usec");
        let nanos = || self.number("cpuacct.usage");
        let mut usage = SandboxUsage::default();
        usage.cpu = micros.map(Duration::from_micros).or_else(|| nanos().map(Duration::from_nanos));
        usage.memory = one_of("memory.current", "memory.usage_in_bytes").map(ByteSize::bytes);
        usage.peak_memory = one_of("memory.peak", "memory.max_usage_in_bytes").map(ByteSize::bytes);
        usage.processes = processes("pids.current");
        usage.peak_processes = processes("pids.peak");
        usage
    }

    /// Kills every process in them in one step, so that none can start another in between. False where the kernel has
    /// no such step: on version 1 alone, and before Linux 5.14.
    pub(in super::super) fn kill(&self) -> bool {
        self.0.iter().any(|group| write(&group.join("cgroup.kill"), "1").is_ok())
    }

    /// How many processes are in them.
    pub(in super::super) fn processes(&self) -> usize {
        let count = |group: &PathBuf| {
            fs::read_to_string(group.join("cgroup.procs")).map_or(0, |processes| processes.lines().count())
        };
        self.0.iter().map(count).max().unwrap_or(0)
    }

    /// Removes those that are empty, and returns how many are left.
    pub(in super::super) fn remove(&self) -> usize {
        let is_left = |group: &&PathBuf| match fs::remove_dir(group) {
            Ok(()) => false,
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        };
        self.0.iter().filter(is_left).count()
    }

    /// The number in a file that holds nothing else, of the group that has it.
    fn number(&self, file: &str) -> Option<u64> {
        self.0.iter().find_map(|group| read(group, file)?.trim().parse().ok())
    }

    /// The number behind `key` in a file of one key per line, of the group that has it.
    fn value_of(&self, file: &str, key: &str) -> Option<u64> {
        self.0.iter().find_map(|group| value_of(&read(group, file)?, key))
    }
}

/// The number behind `key` in a text of one key per line.
pub(super) fn value_of(text: &str, key: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.find(|(name, _)| *name == key).and_then(|(_, value)| value.parse().ok())
}

fn read(group: &Path, file: &str) -> Option<String> {
    fs::read_to_string(group.join(file)).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::process::Command;

    use ci_core::conformance::skip;
    use ci_core::id::SandboxId;

    use super::super::{Hierarchies, OutOfMemory};
    use super::*;

    /// Two folders that look like groups of different trees.
    fn groups(files: [&[(&str, &str)]; 2]) -> (tempfile::TempDir, Groups) {
        let place = tempfile::tempdir().unwrap();
        let folders = ["one", "two"].map(|name| place.path().join(name));
        for (folder, files) in folders.iter().zip(files) {
            fs::create_dir(folder).unwrap();
            for (file, content) in files {
                fs::write(folder.join(file), content).unwrap();
            }
        }
        (place, Groups(folders.to_vec()))
    }

    #[test]
    fn what_is_used_is_read_on_both_versions() {
        let expected = SandboxUsage::default()
            .with_cpu(Duration::from_micros(2_500))
            .with_memory(ByteSize::bytes(4_096))
            .with_peak_memory(ByteSize::bytes(8_192))
            .with_processes(2)
            .with_peak_processes(4);
        let processes = [("pids.current", "3\n"), ("pids.peak", "5\n")];
        let (_place, two) = groups([
            &[
                ("cpu.stat", "usage_usec 2500\nuser_usec 1\n"),
                ("memory.current", "4096\n"),
                ("memory.peak", "8192\n"),
                ("memory.events", "low 0\noom 4\noom_kill 3\noom_group_kill 1\n"),
            ],
            &processes,
        ]);
        assert_eq!((two.usage(), OutOfMemory::of(&two).kills()), (expected, 3));
        let (_place, hybrid) = groups([
            &[
                ("cpu.stat", "nr_periods 7\nnr_throttled 0\n"),
                ("memory.usage_in_bytes", "4096\n"),
                ("memory.max_usage_in_bytes", "8192\n"),
                ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
                ("cpuacct.usage", "2500000\n"),
            ],
            &processes,
        ]);
        assert_eq!((hybrid.usage(), OutOfMemory::of(&hybrid).kills()), (expected, 2));
        assert_eq!(Groups::default().usage(), SandboxUsage::default());
        assert_eq!(OutOfMemory::of(&Groups::default()).kills(), 0);
    }

    #[test]
    fn a_group_knows_who_is_in_it_and_kills_them_all() {
        let hierarchies = Hierarchies::detect();
        let limits = ci_core::job::Limits::default();
        let groups = hierarchies.groups(&SandboxId::random(), &limits);
        if hierarchies.make(&groups, &limits).is_err() || groups.0.is_empty() {
            groups.remove();
            return skip("groups", "cgroups", "no control group can be made");
        }
        assert_eq!(groups.processes(), 0);
        let script = "for entrance; do echo $$ > $entrance || exit; done; sleep 1000 & exec sleep 1000";
        let entrances = groups.0.iter().map(|group| group.join("cgroup.procs"));
        let mut child = Command::new("sh").args(["-c", script, "sh"]).args(entrances).spawn().unwrap();
        let within = |mut check: Box<dyn FnMut() -> bool + '_>| {
            (0..5_000).any(|_| {
                std::thread::sleep(Duration::from_millis(1));
                check()
            })
        };
        let both_are_in = within(Box::new(|| groups.processes() == 2));
        let is_killed = groups.kill();
        if !is_killed {
            child.kill().unwrap();
        }
        child.wait().unwrap();
        let is_empty = within(Box::new(|| groups.processes() == 0));
        let left = groups.remove();
        assert!(both_are_in);
        if !is_killed {
            return skip("groups", "cgroup2", "version 1 alone cannot kill all of a group");
        }
        assert!(is_empty && left == 0, "{left} left");
    }
}
