//! The system call filter of the init, compiled into a test: what the kernel is told about each call.

#[allow(clippy::cast_possible_truncation)] // As all of the init.
#[path = "../../init/filter.rs"]
mod format;
#[allow(dead_code)]
#[path = "../../init/nr.rs"]
mod nr;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use ci_core::sandbox::ExitStatus;

use crate::support::{Rig, path, spec};

const NATIVE: u32 = if cfg!(target_arch = "x86_64") { 0xc000_003e } else { 0xc000_00b7 };
/// 32-bit programs of either architecture: `AUDIT_ARCH_I386` and `AUDIT_ARCH_ARM`.
const FOREIGN: [u32; 2] = [0x4000_0003, 0x4000_0028];
/// The bit that marks a call of the x32 ABI.
const X32: usize = 0x4000_0000;

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
const EAFNOSUPPORT: u32 = 97;

/// What the kernel makes of a call: nothing when it is let through, else the error.
fn verdict(architecture: u32, number: usize, argument: u32) -> Option<u32> {
    let program = format::program();
    let data = |offset| match offset {
        0 => u32::try_from(number).unwrap(),
        4 => architecture,
        16 => argument,
        _ => panic!("the filter has no business at {offset}"),
    };
    let (mut loaded, mut place) = (0, 0);
    // Jumps only lead forward.
    for _ in 0..program.len() {
        let format::Instruction { code, jump_if, jump_else, value } = program[place];
        let is_so = match code {
            0x15 => loaded == value,
            0x35 => loaded >= value,
            0x20 => {
                loaded = data(value);
                true
            }
            0x06 if value == 0x7fff_0000 => return None,
            0x06 if value >> 16 == 5 => return Some(value & 0xffff),
            _ => panic!("the filter has an instruction that this test does not know: {code:#x} {value:#x}"),
        };
        place += 1 + usize::from(if is_so { jump_if } else { jump_else });
    }
    panic!("the filter has no end")
}

#[test]
fn calls_that_reach_past_the_namespaces_are_refused() {
    for number in [nr::ADD_KEY, nr::KEYCTL, nr::REQUEST_KEY, nr::BPF, nr::PERF_EVENT_OPEN, nr::USERFAULTFD] {
        assert_eq!(verdict(NATIVE, number, 0), Some(EPERM), "{number}");
    }
    for number in [nr::IO_SETUP, nr::IO_URING_SETUP, nr::IO_URING_ENTER, nr::IO_URING_REGISTER] {
        assert_eq!(verdict(NATIVE, number, 0), Some(EPERM), "{number}");
    }
}

#[test]
fn everything_else_is_let_through() {
    let last = nr::MOUNT_SETATTR;
    let refused: Vec<_> = (0..=last).filter(|number| verdict(NATIVE, *number, 2).is_some()).collect();
    assert_eq!(refused.len(), 10, "{refused:?}");
}

#[test]
fn sockets_are_of_four_families() {
    for call in [nr::SOCKET, nr::SOCKETPAIR] {
        let open: Vec<_> = (0..64).filter(|family| verdict(NATIVE, call, *family).is_none()).collect();
        // UNIX, IPv4, IPv6, netlink (Linux, `include/linux/socket.h`).
        assert_eq!(open, [1, 2, 10, 16]);
        assert_eq!(verdict(NATIVE, call, 40), Some(EAFNOSUPPORT));
    }
}

#[test]
fn calls_of_another_architecture_do_not_exist() {
    for architecture in FOREIGN {
        for number in [0, 20, 41, nr::SOCKET, nr::READ] {
            assert_eq!(verdict(architecture, number, 1), Some(ENOSYS), "{architecture:#x} {number}");
        }
    }
}

#[test]
fn numbers_of_x32_do_not_go_around_the_list() {
    for number in [nr::BPF, nr::KEYCTL, nr::READ, 512, 547] {
        assert_eq!(verdict(NATIVE, number | X32, 1), Some(ENOSYS), "{number}");
    }
}

/// A program of one piece that asks for its pid as `call` does it, and ends with the error as its code.
#[cfg(target_arch = "x86_64")]
fn asking(call: &[u8]) -> Vec<u8> {
    // neg %eax; mov %eax,%edi; mov $60,%eax (exit); syscall
    let code = [call, &[0xf7, 0xd8, 0x89, 0xc7, 0xb8, 60, 0, 0, 0, 0x0f, 0x05]].concat();
    let (base, start, size) = (0x40_0000_u64, 0x78, 0x78 + code.len() as u64);
    let mut program = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    for word in [base + start, 64, 0] {
        program.extend(word.to_le_bytes());
    }
    // No flags, a header of 64 bytes, one segment's of 56, and no sections.
    for half in [0_u16, 0, 64, 56, 1, 0, 0, 0] {
        program.extend(half.to_le_bytes());
    }
    // Loaded, to read and execute.
    program.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    for word in [0, base, base, size, size, 0x1000] {
        program.extend(word.to_le_bytes());
    }
    [program, code].concat()
}

#[tokio::test]
#[cfg(target_arch = "x86_64")]
async fn the_kernel_is_not_entered_by_another_door() {
    let programs = [
        // mov $20,%eax; int $0x80: getpid(2) as 32-bit programs ask for it.
        ("thirty-two", asking(&[0xb8, 20, 0, 0, 0, 0xcd, 0x80])),
        // mov $39|X32,%eax; syscall
        ("x32", asking(&[0xb8, 39, 0, 0, 0x40, 0x0f, 0x05])),
    ];
    let folder = tempfile::tempdir().unwrap();
    for (name, program) in &programs {
        let file = folder.path().join(name);
        fs::write(&file, program).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let rig = Rig::new();
    let spec = spec().with_host_folder_read_only(path("/doors"), folder.path());
    let sandbox = rig.sandbox_of(&spec).await;
    for (name, _) in programs {
        let ran = sandbox.run(&format!("exec /doors/{name}")).await;
        assert_eq!(ran.exit.status, ExitStatus::Code(38), "{name}: {ran:?}");
    }
    sandbox.destroy().await;
}
