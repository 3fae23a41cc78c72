//! Whose ids the users of a sandbox have on the host.

use std::ffi::CString;
use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};

use ci_core::{Error, ErrorKind, Result};

/// The host's ids that sandboxes may get. They lie above those of people, services, and the containers of
/// other managers (systemd, "Users, Groups, UIDs and GIDs on systemd Systems").
const FIRST: u32 = 0x7000_0000;
const SLOTS: u32 = 0x8000;
/// How many ids one sandbox has.
const SIZE: u32 = 0x1_0000;
/// The job's user inside.
const JOB: u32 = 1000;

/// What this process can give to its sandboxes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Identity {
    /// A range of ids of its own for every sandbox.
    Range,
    /// The one id that an ordinary user has.
    Own {
        /// The user.
        uid: u32,
        /// The group.
        gid: u32,
    },
}

/// The maps of one sandbox, as the kernel takes them.
#[derive(Debug)]
pub(super) struct Maps {
    pub(super) uid: CString,
    pub(super) gid: CString,
    /// The host's id of the sandbox's root.
    pub(super) owner: CString,
    /// The host's id of the job's user.
    pub(super) job: CString,
}

impl Identity {
    /// Looks at what this process is.
    pub(super) fn detect() -> Result<Self> {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        if uid != 0 {
            return Ok(Self::Own { uid, gid });
        }
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        if has_capabilities(&status) && covers_range(&map) {
            return Ok(Self::Range);
        }
        // As the job of such a root, the job would own what this process owns.
        Err(Error::new(ErrorKind::Unsupported, "prepare native sandboxes").because(
            "this is a root without the powers of one; start the program as an ordinary user, or as root with \
             CAP_SYS_ADMIN, CAP_SETUID and CAP_SETGID outside of a container",
        ))
    }

    /// Maps for a new sandbox.
    pub(super) fn maps(self, slots: &Slots) -> Maps {
        let text = |text: String| CString::new(text).expect("digits and spaces hold no zero byte");
        match self {
            Self::Range => {
                let base = FIRST + slots.next() * SIZE;
                let map = text(format!("0 {base} {SIZE}"));
                Maps {
                    uid: map.clone(),
                    gid: map,
                    owner: text(base.to_string()),
                    job: text((base + JOB).to_string()),
                }
            }
            Self::Own { uid, gid } => Maps {
                uid: text(format!("{JOB} {uid} 1")),
                gid: text(format!("{JOB} {gid} 1")),
                owner: text(uid.to_string()),
                job: text(uid.to_string()),
            },
        }
    }
}

/// Which range the next sandbox gets. Two of one process share none until all have been used.
#[derive(Debug)]
pub(super) struct Slots(AtomicU32);

impl Slots {
    /// Starts somewhere, so that other processes start elsewhere.
    pub(super) fn new() -> Self {
        Self(AtomicU32::new(getrandom::u32().unwrap_or(0)))
    }

    fn next(&self) -> u32 {
        self.0.fetch_add(1, Ordering::Relaxed) % SLOTS
    }
}

fn has_capabilities(status: &str) -> bool {
    /// `CAP_SETGID`, `CAP_SETUID`, `CAP_SYS_ADMIN`.
    const NEEDED: u64 = 1 << 6 | 1 << 7 | 1 << 21;
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    effective.is_some_and(|bits| bits & NEEDED == NEEDED)
}

/// Whether a line of a `uid_map` (first id inside, first id outside, how many) holds all ids of sandboxes.
fn covers_range(map: &str) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().map(|number| number.parse::<u64>().unwrap_or(0));
        let (first, _, count) = (numbers.next(), numbers.next(), numbers.next());
        let end = u64::from(FIRST) + u64::from(SLOTS) * u64::from(SIZE);
        matches!((first, count), (Some(first), Some(count)) if first <= FIRST.into() && first + count >= end)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_in_a_small_namespace_is_no_root() {
        assert!(covers_range("         0          0 4294967295\n"));
        assert!(!covers_range("         0     100000      65536\n"));
        assert!(!covers_range(""));
    }

    #[test]
    fn powers_are_read_from_the_effective_set() {
        assert!(has_capabilities("Name:\tx\nCapEff:\t000001fffeffffff\n"));
        assert!(!has_capabilities("CapPrm:\t000001fffeffffff\nCapEff:\t00000000a80425fb\n"));
    }
}
