//! The init: process 1 of the sandbox, from its first step to its service.

use crate::failure::{At, Failure};
use crate::landlock;
use crate::launch::{Binds, CONTROL};
use crate::limits;
use crate::packets;
use crate::root;
use crate::serve;
use crate::sockets::Sockets;
use crate::sys::{self, Errno, Fd};
use crate::task;
use crate::wire::{Configuration, Report, Stage, fact};

/// What the launcher hands to its copy.
pub(crate) struct Inherited {
    pub(crate) memory_files: Option<Fd>,
    pub(crate) own_devices: Option<Fd>,
    pub(crate) binds: Binds,
    /// A byte when the launcher is done, and an end when it is gone.
    pub(crate) launcher: Fd,
    pub(crate) facts: u32,
}

/// The rest of process 1's life.
pub(crate) fn run(configuration: &Configuration<'_>, inherited: Inherited) -> ! {
    // The lifeline is the launcher's alone. Reading from nothing is what is left in its place.
    let _ = sys::duplicate(sys::Raw(2), 0);
    let Inherited { memory_files, own_devices, mut binds, launcher, mut facts } = inherited;
    let mut built = take_identity(configuration, &launcher);
    if built.is_ok() {
        built = root::build(configuration, memory_files, own_devices, &mut binds, &mut facts);
    }
    drop(binds);
    let ready = built.and_then(|()| settle(configuration, &mut facts));
    let (report, sockets) = match ready {
        Ok(sockets) => (Report::Ready { facts }, Some(sockets)),
        Err(failure) => (failure.report(), None),
    };
    let handed_out = sockets.iter().flat_map(Sockets::iter);
    if packets::send(CONTROL, &report.encode(), handed_out).is_err() || sockets.is_none() {
        task::exit(1);
    }
    // The supervisor's alone from here on.
    drop(sockets);
    serve::run(&launcher, configuration.range)
}

fn take_identity(configuration: &Configuration<'_>, launcher: &Fd) -> Result<(), Failure> {
    let mut go = [0];
    task::die_with_parent().at(Stage::Identity)?;
    if sys::read_full(**launcher, &mut go) != Ok(1) {
        task::exit(1);
    }
    if configuration.range {
        task::become_user(0).at(Stage::Identity)?;
        // Taking other ids undid it. Should the launcher have died in between, its pipe will say so.
        task::die_with_parent().at(Stage::Identity)?;
    }
    // Only now, inside of its control group, so that the group is what the sandbox sees as its root.
    task::unshare(task::NEW_CGROUP).at(Stage::Clone)
}

/// The last steps before strangers' code runs.
fn settle(configuration: &Configuration<'_>, facts: &mut u32) -> Result<Sockets, Failure> {
    task::set_hostname(configuration.hostname).at(Stage::Identity)?;
    if !configuration.joins {
        bring_loopback_up().at(Stage::Network)?;
    }
    if configuration.sockets.count > 0 {
        widen_loopback().at(Stage::Network)?;
    }
    if configuration.sockets.count > 0 || configuration.joins {
        root::resolve_here().at(Stage::Mount)?;
    }
    let sockets = Sockets::open(configuration.sockets)?;
    task::new_keyring();
    limits::hold(configuration.range).at(Stage::Limits)?;
    task::forgo_capabilities().at(Stage::Privileges)?;
    task::no_new_privileges().at(Stage::Privileges)?;
    if landlock::restrict().at(Stage::Landlock)? {
        *facts |= fact::LANDLOCKED;
    }
    match task::filter(configuration.filter) {
        Ok(()) => *facts |= fact::FILTERED,
        // The kernel has no filters. Where it only has no room for one, other jobs may have seen to that.
        Err(Errno::EINVAL | Errno::ENOSYS) => {}
        Err(error) => return Err(error).at(Stage::Privileges),
    }
    task::hide_memory().at(Stage::Privileges)?;
    let kept = if configuration.range { POWERS } else { 0 };
    task::keep_capabilities(kept).at(Stage::Privileges)?;
    Ok(sockets)
}

/// `CAP_CHOWN`, `CAP_KILL`, `CAP_SETGID` and `CAP_SETUID`: all that it takes to start the job's processes, to signal them,
/// and to give them files with secrets.
const POWERS: u64 = 1 << 0 | 1 << 5 | 1 << 6 | 1 << 7;

/// `lo` is the first interface of every network namespace, and down.
fn bring_loopback_up() -> sys::Result<()> {
    const SET_FLAGS: usize = 0x8914;
    const UP_AND_RUNNING: u8 = 0x41;
    // `struct ifreq`: sixteen bytes of name, then the flags.
    let mut request = [0; 40];
    request[..2].copy_from_slice(b"lo");
    request[16] = UP_AND_RUNNING;
    let socket = sys::socket(sys::AF_INET, sys::SOCK_DGRAM)?;
    sys::ioctl(*socket, SET_FLAGS, &mut request)
}

/// Gives `lo` a second address. With 127.0.0.1 alone, glibc takes a machine for one without IPv4 and looks up no
/// addresses for programs that ask for those of use only (`AI_ADDRCONFIG` of getaddrinfo(3)).
fn widen_loopback() -> sys::Result<()> {
    const SET_ADDRESS: usize = 0x8916;
    // `struct ifreq`: sixteen bytes of name, then a `struct sockaddr_in`.
    let mut request = [0; 40];
    request[..4].copy_from_slice(b"lo:1");
    request[16..18].copy_from_slice(&sys::AF_INET.to_ne_bytes());
    request[20..24].copy_from_slice(&[127, 0, 0, 2]);
    let socket = sys::socket(sys::AF_INET, sys::SOCK_DGRAM)?;
    sys::ioctl(*socket, SET_ADDRESS, &mut request)
}
