//! The system calls that would undo what the namespaces promise.
//!
//! This is no allowlist of what a job may do. It closes the holes that namespaces leave: address families that
//! know no network namespace (`AF_VSOCK` reaches the hypervisor), or that are little more than an attack surface
//! (`AF_ALG`, CVE-2026-31431); `io_uring`, which makes sockets without asking this filter; kernel keyrings, which
//! belong to the host's user; and the kernel's own debugging interfaces.

use super::nr;

/// `struct sock_filter`: one instruction of classic BPF (Linux, `Documentation/networking/filter.rst`).
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Instruction {
    pub(crate) code: u16,
    pub(crate) jump_if: u8,
    pub(crate) jump_else: u8,
    pub(crate) value: u32,
}

/// What the job's programs may open sockets of: UNIX, IPv4, IPv6, netlink.
const FAMILIES: [u32; 4] = [1, 2, 10, 16];

const DENIED: [usize; 10] = [
    nr::ADD_KEY,
    nr::BPF,
    nr::IO_SETUP,
    nr::IO_URING_ENTER,
    nr::IO_URING_REGISTER,
    nr::IO_URING_SETUP,
    nr::KEYCTL,
    nr::PERF_EVENT_OPEN,
    nr::REQUEST_KEY,
    nr::USERFAULTFD,
];

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// Calls from here on are those of the x32 ABI, where they exist at all.
const FOREIGN_NUMBERS: u32 = 0x4000_0000;

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
const EAFNOSUPPORT: u32 = 97;

const LENGTH: usize = 4 + DENIED.len() + 3 + FAMILIES.len() + 4;

/// Loads a word of `struct seccomp_data`: the number is at 0, the architecture at 4, the first argument at 16.
const fn load(offset: u32) -> Instruction {
    Instruction { code: 0x20, jump_if: 0, jump_else: 0, value: offset }
}

/// Skips `jump_if` instructions when the loaded word is `value`.
const fn equal(value: u32, jump_if: u8) -> Instruction {
    Instruction { code: 0x15, jump_if, jump_else: 0, value }
}

const fn answer(value: u32) -> Instruction {
    Instruction { code: 0x06, jump_if: 0, jump_else: 0, value }
}

/// The kernel's answer in place of the call's.
const fn error(errno: u32) -> Instruction {
    answer(0x0005_0000 | errno)
}

const ALLOW: Instruction = answer(0x7fff_0000);

/// The whole filter.
pub(crate) fn program() -> [Instruction; LENGTH] {
    // From the end: allowed, refused as unknown, refused as forbidden, refused family.
    const ALLOWED: usize = LENGTH - 1;
    const UNKNOWN: usize = LENGTH - 2;
    const FORBIDDEN: usize = LENGTH - 3;
    const FAMILY: usize = LENGTH - 4;
    let mut program = [ALLOW; LENGTH];
    program[UNKNOWN] = error(ENOSYS);
    program[FORBIDDEN] = error(EPERM);
    program[FAMILY] = error(EAFNOSUPPORT);
    let to = |from: usize, target: usize| (target - from - 1) as u8;

    program[0] = load(4);
    program[1] = Instruction { jump_else: to(1, UNKNOWN), ..equal(ARCHITECTURE, 0) };
    program[2] = load(0);
    program[3] = Instruction { code: 0x35, ..equal(FOREIGN_NUMBERS, to(3, UNKNOWN)) };
    for (place, number) in (4..).zip(DENIED) {
        program[place] = equal(number as u32, to(place, FORBIDDEN));
    }
    let socket = 4 + DENIED.len();
    program[socket] = equal(nr::SOCKET as u32, 1);
    program[socket + 1] =
        Instruction { jump_else: to(socket + 1, ALLOWED), ..equal(nr::SOCKETPAIR as u32, 0) };
    program[socket + 2] = load(16);
    for (place, family) in (socket + 3..).zip(FAMILIES) {
        program[place] = equal(family, to(place, ALLOWED));
    }
    // A family that is none of these falls through to the refusal, which stands right behind.
    program
}
