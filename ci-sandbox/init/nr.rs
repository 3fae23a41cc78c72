//! The numbers of the calls.

/// Declares the numbers of the calls for both architectures.
macro_rules! numbers {
    ($($name:ident $x86_64:literal $aarch64:literal;)*) => {
        $(pub(crate) const $name: usize = if cfg!(target_arch = "x86_64") { $x86_64 } else { $aarch64 };)*
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
    KEYCTL 250 219;
    STATX 332 291;
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
