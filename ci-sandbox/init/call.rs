//! The one instruction that enters the kernel, and the numbers of the calls.

use core::arch::asm;

use crate::sys::Errno;

/// Declares the numbers of the calls for both architectures.
macro_rules! numbers {
    ($($name:ident $x86_64:literal $aarch64:literal;)*) => {
        #[cfg(target_arch = "x86_64")]
        pub(crate) mod nr { $(pub(crate) const $name: usize = $x86_64;)* }
        #[cfg(target_arch = "aarch64")]
        pub(crate) mod nr { $(pub(crate) const $name: usize = $aarch64;)* }
    };
}

// arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h of Linux.
numbers! {
    READ 0 63;
    WRITE 1 64;
    CLOSE 3 57;
    MMAP 9 222;
    MUNMAP 11 215;
    RT_SIGACTION 13 134;
    RT_SIGPROCMASK 14 135;
    IOCTL 16 29;
    SOCKET 41 198;
    SOCKETPAIR 53 199;
    IO_SETUP 206 0;
    SENDMSG 46 211;
    RECVMSG 47 212;
    CLONE 56 220;
    EXECVE 59 221;
    KILL 62 129;
    CHDIR 80 49;
    FCHDIR 81 50;
    FCHMOD 91 52;
    UMASK 95 166;
    SETSID 112 157;
    SETGROUPS 116 159;
    SETRESUID 117 147;
    SETRESGID 119 149;
    CAPSET 126 91;
    PIVOT_ROOT 155 41;
    PRCTL 157 167;
    MOUNT 165 40;
    UMOUNT2 166 39;
    SETHOSTNAME 170 161;
    GETDENTS64 217 61;
    EXIT_GROUP 231 94;
    WAITID 247 95;
    OPENAT 257 56;
    MKDIRAT 258 34;
    UNLINKAT 263 35;
    LINKAT 265 37;
    SYMLINKAT 266 36;
    READLINKAT 267 78;
    FCHMODAT 268 53;
    FCHOWNAT 260 54;
    PPOLL 271 73;
    UNSHARE 272 97;
    UTIMENSAT 280 88;
    SIGNALFD4 289 74;
    DUP3 292 24;
    PIPE2 293 59;
    PRLIMIT64 302 261;
    ADD_KEY 248 217;
    REQUEST_KEY 249 218;
    KEYCTL 250 219;
    PERF_EVENT_OPEN 298 241;
    BPF 321 280;
    USERFAULTFD 323 282;
    STATX 332 291;
    IO_URING_SETUP 425 425;
    IO_URING_ENTER 426 426;
    IO_URING_REGISTER 427 427;
    PIDFD_SEND_SIGNAL 424 424;
    OPEN_TREE 428 428;
    MOVE_MOUNT 429 429;
    FSOPEN 430 430;
    FSCONFIG 431 431;
    FSMOUNT 432 432;
    CLONE3 435 435;
    CLOSE_RANGE 436 436;
    OPENAT2 437 437;
    MOUNT_SETATTR 442 442;
}

/// Makes one call.
///
/// # Safety
///
/// The arguments must be what the manual page of call `number` demands: every pointer valid for what the
/// kernel reads or writes through it, for as long as it does.
pub(crate) unsafe fn raw(number: usize, arguments: [usize; 6]) -> Result<usize, Errno> {
    let [a, b, c, d, e, f] = arguments;
    let answer: isize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the x86-64 system call convention: number in rax, arguments as below, rcx and r11 overwritten,
    // the stack untouched; what the pointers mean is the caller's promise.
    unsafe {
        asm!("syscall", inlateout("rax") number.cast_signed() => answer, in("rdi") a, in("rsi") b, in("rdx") c,
             in("r10") d, in("r8") e, in("r9") f, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: the AArch64 system call convention: number in x8, arguments in x0 to x5, answer in x0, all other
    // registers and the stack untouched; what the pointers mean is the caller's promise.
    unsafe {
        asm!("svc #0", in("x8") number, inlateout("x0") a.cast_signed() => answer, in("x1") b, in("x2") c,
             in("x3") d, in("x4") e, in("x5") f, options(nostack));
    }
    match answer {
        // The kernel answers -4095 to -1 for errors and never uses them for results.
        -4095..=-1 => Err(Errno(-(answer as i32))),
        _ => Ok(answer.cast_unsigned()),
    }
}
