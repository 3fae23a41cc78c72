//! What a backend guarantees, and what it can do.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::Spec;
use crate::error::{Error, ErrorKind, Result};
use crate::network::{Destination, NetworkPolicy};

/// Something that a sandbox promises. A backend lists those that hold; a job may demand some.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Guarantee {
    /// The job sees only its own processes, mounts, host name and message queues.
    Namespaces,
    /// The job's user ids are mapped away from the host's.
    MappedIds,
    /// The program that supervises inside runs as another user than the job.
    SeparateInit,
    /// The job holds no capability and can gain none.
    NoPrivileges,
    /// Dangerous system calls are filtered.
    SyscallFilter,
    /// There is no network, or only what the rules allow.
    Firewalled,
    /// What the job writes never reaches a disk, not even by swapping.
    MemoryOnly,
    /// [`Limits::memory`](crate::job::Limits) is held, and a job that needs more ends as a whole.
    MemoryLimit,
    /// [`Limits::cpu_millis`](crate::job::Limits) is held, and processors are shared as
    /// [`Limits::weight`](crate::job::Limits) says.
    CpuLimit,
    /// [`Limits::processes`](crate::job::Limits) is held.
    ProcessLimit,
    /// [`Limits::disk`](crate::job::Limits) is held.
    DiskLimit,
    /// Reading from disks is shared as [`Limits::weight`](crate::job::Limits) says.
    DiskShare,
    /// [`Limits::disk_read_bytes`](crate::job::Limits) and [`Limits::disk_read_operations`](crate::job::Limits) are held.
    /// A job that has one of them demands it.
    DiskRate,
    /// A second layer below the others: making devices, steering those that are not the sandbox's own, and signals and
    /// abstract sockets to processes outside are refused by a rule of their own (Linux, Landlock).
    Landlock,
    /// What the job does with the image's files is its own affair: nobody else's work shows in what it can watch, and its
    /// locks stop nobody.
    OwnImage,
    /// The job runs on a kernel of its own.
    OwnKernel,
}

/// Which guarantees hold, and why the others do not.
///
/// # Example
///
/// ```
/// use ci_core::sandbox::{Guarantee, IsolationReport};
///
/// let report = IsolationReport::new([Guarantee::Namespaces, Guarantee::Firewalled])
///     .with_missing(Guarantee::OwnKernel, "the sandbox shares the host's kernel");
/// assert!(report.require(&[Guarantee::Namespaces].into()).is_ok());
/// assert!(report.require(&[Guarantee::OwnKernel].into()).is_err());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct IsolationReport {
    /// What holds.
    pub held: BTreeSet<Guarantee>,
    /// What does not hold, with the reason.
    pub missing: BTreeMap<Guarantee, String>,
}

impl IsolationReport {
    /// A report in which `held` holds.
    pub fn new(held: impl IntoIterator<Item = Guarantee>) -> Self {
        Self { held: held.into_iter().collect(), missing: BTreeMap::new() }
    }

    /// Adds a guarantee that does not hold. It is then not among those that hold.
    pub fn with_missing(mut self, guarantee: Guarantee, why: impl Into<String>) -> Self {
        self.held.remove(&guarantee);
        self.missing.insert(guarantee, why.into());
        self
    }

    /// Refuses when one of `minimum` does not hold.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`], with every guarantee that is missing and the reason.
    pub fn require(&self, minimum: &BTreeSet<Guarantee>) -> Result<()> {
        let lacking: Vec<String> = minimum
            .difference(&self.held)
            .map(|guarantee| match self.missing.get(guarantee) {
                Some(why) => format!("{guarantee:?}: {why}"),
                None => format!("{guarantee:?}"),
            })
            .collect();
        if lacking.is_empty() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Unsupported, "create a sandbox")
            .because("it cannot guarantee what the job demands; use another machine or demand less")
            .with("missing", lacking.join("; ")))
    }
}

/// What a backend can do on this machine. [`Sandboxes`](super::Sandboxes) refuses what it cannot before it asks for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
#[expect(clippy::struct_excessive_bools, reason = "each says of one thing whether it can be had")]
pub struct Capabilities {
    /// The guarantees that hold for every sandbox it makes, and why the others do not.
    pub isolation: IsolationReport,
    /// Whether a policy may name hosts.
    pub egress_to_hosts: bool,
    /// Whether a policy may name networks.
    pub egress_to_networks: bool,
    /// Whether a folder of the host can be shown read-only to a helper.
    pub host_folders: bool,
    /// Whether a sandbox can be made beside another, in its network.
    pub services: bool,
}

impl Capabilities {
    /// What `isolation` says, and nothing optional.
    pub fn new(isolation: IsolationReport) -> Self {
        Self { isolation, ..Self::default() }
    }

    /// Adds that a policy may name hosts.
    pub fn with_egress_to_hosts(mut self) -> Self {
        self.egress_to_hosts = true;
        self
    }

    /// Adds that a policy may name networks.
    pub fn with_egress_to_networks(mut self) -> Self {
        self.egress_to_networks = true;
        self
    }

    /// Adds that a folder of the host can be shown read-only.
    pub fn with_host_folders(mut self) -> Self {
        self.host_folders = true;
        self
    }

    /// Adds that a sandbox can be made beside another.
    pub fn with_services(mut self) -> Self {
        self.services = true;
        self
    }

    /// Refuses a spec that asks for more than this.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`], naming what is missing.
    pub fn require(&self, spec: &Spec) -> Result<()> {
        let unsupported =
            |what: &'static str| Err(Error::new(ErrorKind::Unsupported, "create a sandbox").because(what));
        if !spec.binds.is_empty() && !self.host_folders {
            return unsupported("this backend cannot show a folder of the host to a sandbox");
        }
        if let NetworkPolicy::Allow(rules) = &spec.network {
            let names_host = |to: &Destination| matches!(to, Destination::Host(_));
            if !self.egress_to_hosts && rules.iter().any(|rule| names_host(&rule.destination)) {
                return unsupported("this backend has no network rules that name hosts; use no network");
            }
            if !self.egress_to_networks && rules.iter().any(|rule| !names_host(&rule.destination)) {
                return unsupported("this backend has no network rules that name addresses; use no network");
            }
        }
        let mut minimum = spec.minimum.clone();
        minimum.extend(spec.limits.bounds_disk_reads().then_some(Guarantee::DiskRate));
        self.isolation.require(&minimum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ImageName;
    use crate::job::Limits;

    #[test]
    fn a_bound_on_reading_is_a_demand() -> Result<()> {
        let limits = Limits::default().with_disk_read_operations(100);
        let spec = Spec::new(ImageName::parse("any")?).with_limits(limits);
        let (without, with) = (IsolationReport::default(), IsolationReport::new([Guarantee::DiskRate]));
        let error = Capabilities::new(without).require(&spec).expect_err("it cannot be held");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        Capabilities::new(with).require(&spec)
    }

    #[test]
    fn what_is_missing_is_named() {
        let report = IsolationReport::new([Guarantee::Namespaces])
            .with_missing(Guarantee::MemoryOnly, "no privilege to mount without swap");
        let error = report.require(&[Guarantee::MemoryOnly].into()).expect_err("missing");
        assert_eq!(
            error.to_string(),
            "create a sandbox: it cannot guarantee what the job demands; use another machine or demand less \
             (missing: MemoryOnly: no privilege to mount without swap)"
        );
    }
}
