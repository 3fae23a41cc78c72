//! What is written into a new group. Only what differs from the kernel's default is: every write costs 5 µs.

use std::io;
use std::path::Path;

use ci_core::job::Limits;

use super::{Controller, PROCESS_ONE, Version, disks, write};

/// The weight that every group has at first (Linux, `CGROUP_WEIGHT_DFL`).
const USUAL_WEIGHT: u32 = 100;

/// Holds one controller's share of `limits` in `group`.
pub(super) fn hold(
    group: &Path,
    version: Version,
    controller: Controller,
    limits: &Limits,
) -> io::Result<()> {
    let set = |file: &str, value: &dyn ToString| write(&group.join(file), &value.to_string());
    match (controller, version) {
        (Controller::Memory, Version::One) => {
            let memory = limits.memory.as_u64();
            set("memory.limit_in_bytes", &memory)?;
            // Memory and swap together: who has used up the one gets none of the other. When the machine's memory is
            // short it can be swapped out all the same. The file is missing where the kernel does not account for it.
            optional(set("memory.memsw.limit_in_bytes", &memory))?;
            // Version 1 does not count the buffers of network sockets as memory, and without a bound on them one job
            // can use up those of the machine.
            optional(set("memory.kmem.tcp.limit_in_bytes", &(memory / SOCKETS_PART)))
        }
        (Controller::Memory, Version::Two) => {
            set("memory.max", &limits.memory.as_u64())?;
            optional(set("memory.swap.max", &0))?;
            // What one process could not have is the end of all of them, and not of the one that the kernel picks.
            set("memory.oom.group", &1)
        }
        (Controller::Processes, _) => {
            set("pids.max", &(u64::from(limits.processes) + u64::from(PROCESS_ONE)).min(KERNEL_MOST))
        }
        (Controller::Cpu, Version::One) => {
            /// What version 1 gives to a group of the usual weight.
            const USUAL_SHARES: u64 = 1_024;
            set("cpu.cfs_quota_us", &quota(limits))?;
            let shares = u64::from(limits.weight) * USUAL_SHARES / u64::from(USUAL_WEIGHT);
            unusual(limits, || set("cpu.shares", &shares))
        }
        (Controller::Cpu, Version::Two) => {
            set("cpu.max", &format_args!("{} {PERIOD}", quota(limits)))?;
            unusual(limits, || set("cpu.weight", &limits.weight))
        }
        (Controller::Disk, version) => {
            /// The scheduler of disks that knows groups has no more (Linux, `BFQ_MAX_WEIGHT`).
            const SCHEDULERS_MOST: u32 = 1_000;
            let (by_cost, by_scheduler) = match version {
                Version::One => (None, "blkio.bfq.weight"),
                Version::Two => (Some("io.weight"), "io.bfq.weight"),
            };
            unusual(limits, || {
                by_cost.map_or(Ok(()), |file| optional(set(file, &limits.weight)))?;
                optional(set(by_scheduler, &limits.weight.min(SCHEDULERS_MOST)))
            })
        }
        (Controller::DiskRate, version) => {
            let disks =
                if limits.bounds_disk_reads() { disks::numbers(Path::new("/sys/block")) } else { Vec::new() };
            disks
                .iter()
                .flat_map(|disk| rates(version, limits, disk))
                .try_for_each(|(file, line)| set(file, &line))
        }
    }
}

/// What holds reading from one disk down. Zero would be no bound to version 1, and nothing to version 2.
fn rates(version: Version, limits: &Limits, disk: &str) -> Vec<(&'static str, String)> {
    let bytes = limits.disk_read_bytes.map(|bytes| bytes.as_u64().max(1));
    let operations = limits.disk_read_operations.map(|operations| operations.max(1));
    match version {
        Version::One => {
            let bytes = bytes.map(|bytes| ("blkio.throttle.read_bps_device", format!("{disk} {bytes}")));
            let operations =
                operations.map(|some| ("blkio.throttle.read_iops_device", format!("{disk} {some}")));
            bytes.into_iter().chain(operations).collect()
        }
        Version::Two => {
            let bytes = bytes.map(|bytes| format!(" rbps={bytes}")).unwrap_or_default();
            let operations = operations.map(|some| format!(" riops={some}")).unwrap_or_default();
            vec![("io.max", format!("{disk}{bytes}{operations}"))]
        }
    }
}

/// Of a job's memory, this part is what it can have of socket buffers beside it.
const SOCKETS_PART: u64 = 8;

/// In microseconds: what the kernel takes by default.
const PERIOD: u64 = 100_000;

/// The kernel has no more processes, and takes no larger bound (Linux, `PID_MAX_LIMIT`).
const KERNEL_MOST: u64 = 4 * 1024 * 1024;

/// How much of a period it may run, on all processors together; the kernel takes no less than a millisecond.
fn quota(limits: &Limits) -> u64 {
    (u64::from(limits.cpu_millis) * PERIOD / 1_000).max(1_000)
}

fn unusual(limits: &Limits, set: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    if limits.weight == USUAL_WEIGHT { Ok(()) } else { set() }
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
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeMap;
    use std::fs;

    use ci_core::ByteSize;

    use super::*;

    /// What is written into a group that has all files there are.
    fn written(version: Version, limits: &Limits) -> BTreeMap<String, String> {
        const FILES: [&str; 15] = [
            "memory.limit_in_bytes",
            "memory.memsw.limit_in_bytes",
            "memory.kmem.tcp.limit_in_bytes",
            "memory.max",
            "memory.swap.max",
            "memory.oom.group",
            "pids.max",
            "cpu.cfs_quota_us",
            "cpu.shares",
            "cpu.max",
            "cpu.weight",
            "blkio.bfq.weight",
            "io.weight",
            "io.bfq.weight",
            "cgroup.procs",
        ];
        let group = tempfile::tempdir().unwrap();
        for file in FILES {
            fs::write(group.path().join(file), "").unwrap();
        }
        for controller in Controller::ALL {
            hold(group.path(), version, controller, limits).unwrap();
        }
        let content = |file: &str| fs::read_to_string(group.path().join(file)).unwrap();
        let all = FILES.map(|file| (file.to_owned(), content(file)));
        all.into_iter().filter(|(_, content)| !content.is_empty()).collect()
    }

    fn expected(files: &[(&str, &str)]) -> BTreeMap<String, String> {
        files.iter().map(|(file, content)| ((*file).to_owned(), (*content).to_owned())).collect()
    }

    #[test]
    fn only_what_is_unusual_is_written() {
        let limits = Limits::default().with_memory(ByteSize::mib(8)).with_processes(9).with_cpu_millis(1_500);
        assert_eq!(
            written(Version::Two, &limits),
            expected(&[
                ("memory.max", "8388608"),
                ("memory.swap.max", "0"),
                ("memory.oom.group", "1"),
                ("pids.max", "10"),
                ("cpu.max", "150000 100000"),
            ])
        );
        assert_eq!(
            written(Version::One, &limits),
            expected(&[
                ("memory.limit_in_bytes", "8388608"),
                ("memory.memsw.limit_in_bytes", "8388608"),
                ("memory.kmem.tcp.limit_in_bytes", "1048576"),
                ("pids.max", "10"),
                ("cpu.cfs_quota_us", "150000"),
            ])
        );
    }

    #[test]
    fn a_rate_is_one_of_reading_and_never_none_at_all() {
        let lines = |version, limits: Limits| {
            let lines = rates(version, &limits, "8:16").into_iter();
            lines.map(|(file, line)| format!("{file} {line}")).collect::<Vec<_>>()
        };
        let bytes = Limits::default().with_disk_read_bytes(ByteSize::mib(2));
        let both = bytes.with_disk_read_operations(50);
        let nothing = Limits::default().with_disk_read_bytes(ByteSize::bytes(0)).with_disk_read_operations(0);
        assert_eq!(lines(Version::Two, bytes), ["io.max 8:16 rbps=2097152"]);
        assert_eq!(lines(Version::Two, both), ["io.max 8:16 rbps=2097152 riops=50"]);
        assert_eq!(lines(Version::Two, nothing), ["io.max 8:16 rbps=1 riops=1"]);
        assert_eq!(lines(Version::One, bytes), ["blkio.throttle.read_bps_device 8:16 2097152"]);
        assert_eq!(
            lines(Version::One, nothing),
            ["blkio.throttle.read_bps_device 8:16 1", "blkio.throttle.read_iops_device 8:16 1"]
        );
    }

    #[test]
    fn a_weight_is_the_same_share_everywhere() {
        let weights = |version, weight| {
            let mut written = written(version, &Limits::default().with_weight(weight));
            written.retain(|file, _| file.ends_with("weight") || file.ends_with("shares"));
            written
        };
        let two = |cpu, disk, scheduler| {
            expected(&[("cpu.weight", cpu), ("io.weight", disk), ("io.bfq.weight", scheduler)])
        };
        assert_eq!(weights(Version::Two, 250), two("250", "250", "250"));
        assert_eq!(weights(Version::Two, 10_000), two("10000", "10000", "1000"));
        let one = |cpu, disk| expected(&[("cpu.shares", cpu), ("blkio.bfq.weight", disk)]);
        assert_eq!(weights(Version::One, 1), one("10", "1"));
        assert_eq!(weights(Version::One, 200), one("2048", "200"));
    }
}
