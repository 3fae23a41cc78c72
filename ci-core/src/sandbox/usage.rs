//! What a sandbox uses, counted by the machine and not by the job.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::units::ByteSize;

/// What all processes of a sandbox use together. A value is missing where a machine cannot tell it.
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use ci_core::ByteSize;
/// use ci_core::sandbox::SandboxUsage;
///
/// let usage = SandboxUsage::default()
///     .with_cpu(Duration::from_millis(1_250))
///     .with_peak_memory(ByteSize::mib(48))
///     .with_peak_processes(3);
/// assert_eq!(usage.to_string(), "1.25 s of processor time, at most 48.0 MiB of memory and 3 processes");
/// assert_eq!(usage.files, None);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct SandboxUsage {
    /// Processor time so far, of all processors together.
    pub cpu: Option<Duration>,
    /// Memory that it holds now, its files and what the kernel holds for it included.
    pub memory: Option<ByteSize>,
    /// The most memory that it has held.
    pub peak_memory: Option<ByteSize>,
    /// Processes and threads of the job that there are now.
    pub processes: Option<u32>,
    /// The most that there have been at one time.
    pub peak_processes: Option<u32>,
    /// What its files take up now. Missing too when the sandbox is too busy to say it soon.
    pub files: Option<ByteSize>,
}

impl SandboxUsage {
    /// Adds the processor time.
    pub fn with_cpu(mut self, cpu: Duration) -> Self {
        self.cpu = Some(cpu);
        self
    }

    /// Adds the memory that it holds now.
    pub fn with_memory(mut self, memory: ByteSize) -> Self {
        self.memory = Some(memory);
        self
    }

    /// Adds the most memory that it has held.
    pub fn with_peak_memory(mut self, peak_memory: ByteSize) -> Self {
        self.peak_memory = Some(peak_memory);
        self
    }

    /// Adds the processes and threads that there are now.
    pub fn with_processes(mut self, processes: u32) -> Self {
        self.processes = Some(processes);
        self
    }

    /// Adds the most processes and threads that there have been at one time.
    pub fn with_peak_processes(mut self, peak_processes: u32) -> Self {
        self.peak_processes = Some(peak_processes);
        self
    }

    /// Adds what its files take up.
    pub fn with_files(mut self, files: ByteSize) -> Self {
        self.files = Some(files);
        self
    }
}

/// The sum of it in one line, for people: what is known of processor time, peaks and files.
impl fmt::Display for SandboxUsage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cpu = self.cpu.map(|cpu| format!("{:.2} s of processor time", cpu.as_secs_f64()));
        let memory = self.peak_memory.map(|peak| format!("{} of memory", mebibytes(peak)));
        let processes = self.peak_processes.map(|peak| match peak {
            1 => "1 process".to_owned(),
            more => format!("{more} processes"),
        });
        let files = self.files.map(|files| format!("{} of files", mebibytes(files)));
        let peaks: Vec<String> = memory.into_iter().chain(processes).collect();
        let peaks = (!peaks.is_empty()).then(|| format!("at most {}", peaks.join(" and ")));
        let parts: Vec<String> = cpu.into_iter().chain(peaks).chain(files).collect();
        f.write_str(if parts.is_empty() { "nothing that could be told" } else { "" })?;
        f.write_str(&parts.join(", "))
    }
}

/// One decimal is enough to compare by, and no number of bytes is a round one.
fn mebibytes(size: ByteSize) -> String {
    let tenths = size.as_u64() / (ByteSize::mib(1).as_u64() / 10);
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_told_is_left_out() {
        let line = |usage: SandboxUsage| usage.to_string();
        let nothing = SandboxUsage::default();
        assert_eq!(line(nothing), "nothing that could be told");
        assert_eq!(line(nothing.with_peak_processes(1)), "at most 1 process");
        let some = nothing.with_cpu(Duration::from_millis(5)).with_files(ByteSize::kib(1536));
        assert_eq!(line(some), "0.01 s of processor time, 1.5 MiB of files");
    }
}
