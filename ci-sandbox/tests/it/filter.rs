//! The system call filter, as programs meet it. What it says to each call is tested where it is made.
#![cfg(target_arch = "x86_64")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use ci_core::ErrorKind;
use ci_core::id::SandboxId;
use ci_core::sandbox::{Backend as _, ExitStatus, Guarantee};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter,
};

use crate::support::{Rig, itself, path, refusal, spec};

/// A program of one piece that asks for its pid as `call` does it, and ends with the error as its code.
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

#[test]
fn only_a_kernel_without_filters_is_done_without_one() {
    for test in ["filter::no_memory_for_a_filter", "filter::no_filters_at_all"] {
        assert!(itself(&[], test).status().unwrap().success(), "{test}");
    }
}

/// Has the kernel refuse with `errno` all further filters of this thread and of what it starts.
fn refuse_filters(errno: u32) {
    const PRCTL: i64 = 157;
    const SET_SECCOMP: u64 = 22;
    let asked = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, SET_SECCOMP).unwrap();
    let rules = [(PRCTL, vec![SeccompRule::new(vec![asked]).unwrap()])].into();
    let (refused, allowed) = (SeccompAction::Errno(errno), SeccompAction::Allow);
    let filter = SeccompFilter::new(rules, allowed, refused, TargetArch::x86_64).unwrap();
    apply_filter(&BpfProgram::try_from(filter).unwrap()).unwrap();
}

/// Not a test of its own: filters are refused to all that this thread starts. A job that uses up what filters are made of
/// must not take them from others.
#[tokio::test]
#[ignore = "run by another test"]
async fn no_memory_for_a_filter() {
    refuse_filters(12);
    let rig = Rig::new();
    let error = refusal(rig.native.create(&SandboxId::random(), &spec()).await);
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert_eq!(rig.entries(), 0);
}

/// Not a test of its own: filters are refused to all that this thread starts.
#[tokio::test]
#[ignore = "run by another test"]
async fn no_filters_at_all() {
    refuse_filters(22);
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    let isolation = sandbox.instance.isolation();
    for guarantee in [Guarantee::SyscallFilter, Guarantee::Firewalled] {
        assert!(isolation.missing.contains_key(&guarantee), "{isolation:?}");
    }
    assert!(isolation.held.contains(&Guarantee::NoPrivileges), "no further user namespace can be made");
    sandbox.destroy().await;
}
