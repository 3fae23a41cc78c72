//! How much a job may use, and how long it may take.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::invalid;
use crate::error::Result;
use crate::units::ByteSize;

/// How much a job may use, or a service of it. A backend that cannot hold one of them says so in its
/// [`IsolationReport`](crate::sandbox::IsolationReport).
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use ci_core::ByteSize;
/// use ci_core::id::ImageName;
/// use ci_core::job::{JobSpec, Limits, Timeouts};
///
/// let small = Limits::default().with_memory(ByteSize::mib(512)).with_cpu_millis(500);
/// let short = Timeouts::default().with_job(Duration::from_secs(600));
/// let job = JobSpec::new(ImageName::parse("host")?).with_limits(small).with_timeouts(short);
/// # let _ = job;
/// # Ok::<(), ci_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Limits {
    /// Memory of all processes together, files in memory included: 4 GiB.
    pub memory: ByteSize,
    /// Processor time, in thousandths of one core: 2,000, which is two cores.
    pub cpu_millis: u32,
    /// The share of processors and disks that it gets, in proportion to those of others, when all together want more
    /// than there is: 100. From 1 to 10,000. Whoever may choose it decides about the shares of others.
    pub weight: u32,
    /// Bytes per second that are read from any one disk, whether or not somebody else wants to: no bound. What lies in
    /// memory is not read from a disk, and what the job writes lies in memory, so there is no bound on writing. At least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_read_bytes: Option<ByteSize>,
    /// Operations per second that read from any one disk: no bound. One reads as much as is asked for at a time, or what
    /// the kernel reads ahead. At least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_read_operations: Option<u32>,
    /// Processes and threads at one time: 2,048.
    pub processes: u32,
    /// Files that the job writes, all of them in memory: 2 GiB.
    pub disk: ByteSize,
    /// Console output, hidden or not: 64 MiB. The job ends when it prints more.
    pub output: ByteSize,
    /// The size of one artifact or cache, as a tar archive: 1 GiB. A job that keeps a larger artifact ends; a larger
    /// cache is not saved.
    pub artifact: ByteSize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: ByteSize::gib(4),
            cpu_millis: 2_000,
            weight: 100,
            disk_read_bytes: None,
            disk_read_operations: None,
            processes: 2_048,
            disk: ByteSize::gib(2),
            output: ByteSize::mib(64),
            artifact: ByteSize::gib(1),
        }
    }
}

impl Limits {
    pub(crate) fn check(&self) -> Result<()> {
        if self.memory == ByteSize::bytes(0) || self.cpu_millis == 0 || self.processes == 0 {
            return Err(invalid(
                "nothing runs without memory, processor time and a process; raise its limits",
            ));
        }
        if !(1..=10_000).contains(&self.weight) {
            return Err(invalid("a weight is from 1 to 10000"));
        }
        if self.disk_read_bytes == Some(ByteSize::bytes(0)) || self.disk_read_operations == Some(0) {
            return Err(invalid("a bound on reading from disks is at least 1 per second; raise it"));
        }
        Ok(())
    }

    /// Replaces the bound on memory.
    pub fn with_memory(mut self, memory: ByteSize) -> Self {
        self.memory = memory;
        self
    }

    /// Replaces the bound on processor time, in thousandths of one core.
    pub fn with_cpu_millis(mut self, cpu_millis: u32) -> Self {
        self.cpu_millis = cpu_millis;
        self
    }

    /// Replaces the share of processors and disks.
    pub fn with_weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }

    /// Bounds how many bytes per second are read from a disk. A job that has a bound on reading is refused where it
    /// cannot be held.
    pub fn with_disk_read_bytes(mut self, per_second: ByteSize) -> Self {
        self.disk_read_bytes = Some(per_second);
        self
    }

    /// Bounds how many operations per second read from a disk, as [`with_disk_read_bytes`](Self::with_disk_read_bytes)
    /// does for bytes.
    pub fn with_disk_read_operations(mut self, per_second: u32) -> Self {
        self.disk_read_operations = Some(per_second);
        self
    }

    /// Whether there is a bound on reading from disks.
    pub fn bounds_disk_reads(&self) -> bool {
        self.disk_read_bytes.is_some() || self.disk_read_operations.is_some()
    }

    /// Replaces the bound on processes.
    pub fn with_processes(mut self, processes: u32) -> Self {
        self.processes = processes;
        self
    }

    /// Replaces the bound on files.
    pub fn with_disk(mut self, disk: ByteSize) -> Self {
        self.disk = disk;
        self
    }

    /// Replaces the bound on console output.
    pub fn with_output(mut self, output: ByteSize) -> Self {
        self.output = output;
        self
    }

    /// Replaces the bound on one artifact or cache.
    pub fn with_artifact(mut self, artifact: ByteSize) -> Self {
        self.artifact = artifact;
        self
    }
}

/// How long a job may take; the example of [`Limits`] sets it. A step may have less: [`Step::with_timeout`](super::Step::with_timeout).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Timeouts {
    /// From the job's entry in the audit log to the last artifact and cache: 1 hour.
    pub job: Duration,
    /// Without any output of the running step: 10 minutes.
    pub silence: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { job: Duration::from_hours(1), silence: Duration::from_mins(10) }
    }
}

impl Timeouts {
    /// Replaces the bound on the whole job.
    pub fn with_job(mut self, job: Duration) -> Self {
        self.job = job;
        self
    }

    /// Replaces the bound on silence.
    pub fn with_silence(mut self, silence: Duration) -> Self {
        self.silence = silence;
        self
    }
}
