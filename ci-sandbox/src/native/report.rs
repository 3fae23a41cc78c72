//! Which guarantees hold on this machine and for one sandbox, and why the others do not.

use std::fs;

use ci_core::sandbox::{Guarantee, IsolationReport};

use super::cgroup::{Controller, Hierarchies};
use super::identity::Identity;
use super::sys;
use super::wire::fact;

/// What sandboxes will be like.
pub(super) fn expected(identity: &Identity, hierarchies: &Hierarchies, layered: bool) -> IsolationReport {
    let facts = match identity {
        Identity::Range if kernel_is_at_least(6, 4) => fact::ID_RANGE | fact::NOSWAP,
        Identity::Range => fact::ID_RANGE,
        Identity::Own { .. } => 0,
    };
    let landlocked = if sys::landlock_version() >= 2 { fact::LANDLOCKED } else { 0 };
    let own_image = if layered && has_overlays() { fact::OWN_IMAGE } else { 0 };
    of(facts | fact::FILTERED | landlocked | own_image, hierarchies)
}

/// What one sandbox is like.
pub(super) fn of(facts: u32, hierarchies: &Hierarchies) -> IsolationReport {
    use Guarantee as G;
    let mut report = IsolationReport::new([G::Namespaces, G::DiskLimit])
        .with_missing(G::OwnKernel, "sandboxes of this backend share the machine's kernel");
    // In a user namespace of its own a job would have all capabilities.
    if facts & (fact::FILTERED | fact::NO_NESTING) != 0 {
        report.held.insert(G::NoPrivileges);
    } else {
        report = report.with_missing(
            G::NoPrivileges,
            "the kernel has neither seccomp filters nor a bound on further user namespaces",
        );
    }
    if facts & fact::FILTERED != 0 {
        report.held.extend([G::Firewalled, G::SyscallFilter]);
    } else {
        report = report
            .with_missing(G::SyscallFilter, "the kernel has no seccomp filters")
            .with_missing(G::Firewalled, "without seccomp filters sockets to the hypervisor are open");
    }
    if facts & fact::LANDLOCKED != 0 {
        report.held.insert(G::Landlock);
    } else {
        report = report.with_missing(
            G::Landlock,
            "the kernel has no Landlock, or too old a one; Linux 5.19 is needed, and `landlock` among its boot \
             parameter `lsm`",
        );
    }
    if facts & fact::OWN_IMAGE != 0 {
        report.held.insert(G::OwnImage);
    } else {
        report = report.with_missing(
            G::OwnImage,
            "a part of the image is a single file, has something mounted below, or lies where the kernel makes no \
             overlays; this takes Linux 5.11 with overlayfs",
        );
    }
    if facts & fact::ID_RANGE != 0 {
        report.held.extend([G::MappedIds, G::SeparateInit]);
    } else {
        let why = "the program runs as an ordinary user, who has one id to give; start it as root";
        report = report.with_missing(G::MappedIds, why).with_missing(G::SeparateInit, why);
    }
    let controlled = [
        (Controller::Memory, G::MemoryLimit),
        (Controller::Cpu, G::CpuLimit),
        (Controller::Disk, G::DiskShare),
        (Controller::DiskRate, G::DiskRate),
    ];
    for (controller, guarantee) in controlled {
        match hierarchies.missing(controller) {
            None => drop(report.held.insert(guarantee)),
            Some(why) => report = report.with_missing(guarantee, why),
        }
    }
    // Without a control group the kernel counts a user's processes per user namespace (Linux 5.14), of which
    // every sandbox has its own.
    if hierarchies.missing(Controller::Processes).is_none() || kernel_is_at_least(5, 14) {
        report.held.insert(G::ProcessLimit);
    } else {
        report = report.with_missing(G::ProcessLimit, "this needs a pids control group or Linux 5.14");
    }
    if is_in_memory_only(facts, hierarchies, swap_is_on()) {
        report.held.insert(G::MemoryOnly);
        return report;
    }
    report.with_missing(
        G::MemoryOnly,
        "swap is on, and keeping a sandbox out of it takes root, Linux 6.4 and a memory control group of version 2; \
         turn swap off",
    )
}

/// What processes hold is kept from swap by their control group, and what files hold by their file system.
fn is_in_memory_only(facts: u32, hierarchies: &Hierarchies, swap_is_on: bool) -> bool {
    !swap_is_on || facts & fact::NOSWAP != 0 && hierarchies.keep_from_swap()
}

fn swap_is_on() -> bool {
    // The first line is the table's head.
    fs::read_to_string("/proc/swaps").is_ok_and(|swaps| swaps.lines().count() > 1)
}

/// Whether the kernel has overlays that a sandbox's own root can mount.
fn has_overlays() -> bool {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    kernel_is_at_least(5, 11)
        && known.lines().any(|line| line.trim_start_matches("nodev").trim() == "overlay")
}

pub(super) fn kernel_is_at_least(major: u32, minor: u32) -> bool {
    let release = rustix::system::uname();
    let release = release.release().to_string_lossy();
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse::<u32>().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (major, minor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_can_make_user_namespaces_is_not_without_privileges() {
        let holds = |facts| of(facts, &Hierarchies::default()).held.contains(&Guarantee::NoPrivileges);
        assert!(holds(fact::FILTERED) && holds(fact::NO_NESTING));
        assert!(!holds(0) && of(0, &Hierarchies::default()).missing.contains_key(&Guarantee::NoPrivileges));
    }

    #[test]
    fn files_that_are_not_swapped_are_not_all_of_a_job() {
        let groups = Hierarchies::default();
        assert!(!is_in_memory_only(fact::NOSWAP, &groups, true));
        assert!(is_in_memory_only(0, &groups, false));
    }
}
