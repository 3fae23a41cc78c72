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
    let mut report = IsolationReport::new([G::Namespaces, G::NoPrivileges, G::DiskLimit])
        .with_missing(G::OwnKernel, "sandboxes of this backend share the machine's kernel");
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
    let never_swapped = facts & fact::NOSWAP != 0 && hierarchies.missing(Controller::Memory).is_none();
    if never_swapped || !swap_is_on() {
        report.held.insert(G::MemoryOnly);
        return report;
    }
    report.with_missing(
        G::MemoryOnly,
        "swap is on, and keeping a sandbox out of it takes root, Linux 6.4 and a memory control group; \
         turn swap off",
    )
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
