//! Which system calls a job's programs may make, as data.
//!
//! It allows what Docker's default profile allows to a container without capabilities
//! (<https://github.com/moby/profiles/blob/main/seccomp/default.json>), and less: no 32-bit and x32 programs, sockets of
//! four families alone, no asynchronous I/O whose bound all of the machine shares. A call that is not named here
//! does not exist, so that programs fall back as they do on an older kernel; one that exists and is not for jobs is
//! not permitted.

use linux_raw_sys::general;

/// The numbers of calls by the kernel's own names for them.
macro_rules! calls {
    ($($call:ident)*) => {
        &[$(general::$call),*]
    };
}

/// What the kernel does with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It makes it.
    Allow,
    /// It answers that the call is done, and does nothing.
    Done,
    /// It answers with this error.
    Fail(u32),
}

/// A set of calls that one reason holds for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group {
    pub(super) calls: &'static [u32],
    pub(super) rule: Rule,
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// The same, however it is made.
    Always(Verdict),
    /// What one argument says.
    By(Check),
}

/// A look at the lower half of an argument: the kernel takes no more of those that are looked at here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Check {
    /// Which argument, from 0.
    pub(super) argument: u32,
    /// Which of its bits count.
    pub(super) mask: u32,
    /// When they are one of these,
    pub(super) values: &'static [u32],
    /// this,
    pub(super) then: Verdict,
    /// and else that.
    pub(super) otherwise: Verdict,
}

/// For calls that nobody named.
pub(super) const UNKNOWN: Verdict = Verdict::Fail(ENOSYS);

const ENOSYS: u32 = 38;
const EAFNOSUPPORT: u32 = 97;
/// Puts bytes into a terminal's input (`ioctl_tty(2)`).
const TIOCSTI: u32 = 0x5412;
/// Speaks to the console (`ioctl_console(2)`).
const TIOCLINUX: u32 = 0x541c;
/// Who may run on the other threads of a core (`Documentation/admin-guide/hw-vuln/core-scheduling.rst`).
const PR_SCHED_CORE: u32 = 62;
const FORBIDDEN: Verdict = Verdict::Fail(1);

const fn allow(calls: &'static [u32]) -> Group {
    Group { calls, rule: Rule::Always(Verdict::Allow) }
}

const fn forbid(calls: &'static [u32]) -> Group {
    Group { calls, rule: Rule::Always(FORBIDDEN) }
}

/// The whole policy. No call is in two groups.
pub(super) const POLICY: &[Group] = &[
    // A job's own descriptors: what it could not open, it cannot read or write.
    allow(calls![
        __NR_read __NR_write __NR_readv __NR_writev __NR_pread64 __NR_pwrite64 __NR_preadv
        __NR_pwritev __NR_preadv2 __NR_pwritev2 __NR_openat __NR_openat2 __NR_close __NR_close_range
        __NR_lseek __NR_dup __NR_dup3 __NR_fcntl __NR_flock __NR_ftruncate __NR_truncate
        __NR_fallocate __NR_fadvise64 __NR_readahead __NR_sendfile __NR_copy_file_range __NR_splice
        __NR_tee __NR_vmsplice __NR_fsync __NR_fdatasync __NR_sync_file_range __NR_pipe2
        __NR_memfd_create __NR_memfd_secret
    ]),
    #[cfg(target_arch = "x86_64")]
    allow(calls![
        __NR_open __NR_creat __NR_dup2 __NR_pipe
    ]),
    // Names and folders, in a tree where nothing leads to the host.
    allow(calls![
        __NR_faccessat __NR_faccessat2 __NR_fstat __NR_newfstatat __NR_statx __NR_statfs
        __NR_fstatfs __NR_statmount __NR_listmount __NR_getdents64 __NR_getcwd __NR_chdir
        __NR_fchdir __NR_mkdirat __NR_renameat __NR_renameat2 __NR_linkat __NR_symlinkat
        __NR_readlinkat __NR_unlinkat __NR_mknodat __NR_name_to_handle_at __NR_cachestat
    ]),
    #[cfg(target_arch = "x86_64")]
    allow(calls![
        __NR_access __NR_stat __NR_lstat __NR_getdents __NR_mkdir __NR_rmdir __NR_rename __NR_link
        __NR_symlink __NR_readlink __NR_unlink __NR_mknod
    ]),
    // Modes, owners, times and attributes, of files that are the job's or read-only.
    allow(calls![
        __NR_fchmod __NR_fchmodat __NR_fchmodat2 __NR_fchown __NR_fchownat __NR_utimensat __NR_umask
        __NR_getxattr __NR_lgetxattr __NR_fgetxattr __NR_getxattrat __NR_setxattr __NR_lsetxattr
        __NR_fsetxattr __NR_setxattrat __NR_listxattr __NR_llistxattr __NR_flistxattr
        __NR_listxattrat __NR_removexattr __NR_lremovexattr __NR_fremovexattr __NR_removexattrat
    ]),
    #[cfg(target_arch = "x86_64")]
    allow(calls![
        __NR_chmod __NR_chown __NR_lchown __NR_utime __NR_utimes __NR_futimesat
    ]),
    // A process's own memory, which its control group counts.
    allow(calls![
        __NR_brk __NR_mmap __NR_munmap __NR_mremap __NR_mprotect __NR_pkey_alloc __NR_pkey_free
        __NR_pkey_mprotect __NR_madvise __NR_mincore __NR_mlock __NR_mlock2 __NR_mlockall
        __NR_munlock __NR_munlockall __NR_msync __NR_membarrier __NR_map_shadow_stack __NR_mseal
        __NR_remap_file_pages __NR_process_mrelease
    ]),
    // Starting, ending and waiting for processes of the sandbox. `clone` is below.
    allow(calls![
        __NR_execve __NR_execveat __NR_exit __NR_exit_group __NR_wait4 __NR_waitid __NR_getpid
        __NR_getppid __NR_gettid __NR_getpgid __NR_setpgid __NR_getsid __NR_setsid
        __NR_set_tid_address __NR_set_robust_list __NR_get_robust_list __NR_rseq
        __NR_pidfd_open __NR_pidfd_send_signal
    ]),
    #[cfg(target_arch = "x86_64")]
    allow(calls![
        __NR_fork __NR_vfork __NR_getpgrp __NR_arch_prctl
    ]),
    // Debuggers and leak checkers, among processes that have the same user: process 1 has another one.
    allow(calls![__NR_ptrace __NR_process_vm_readv __NR_process_vm_writev]),
    // Signals reach nothing outside of the process namespace.
    allow(calls![
        __NR_kill __NR_tkill __NR_tgkill __NR_rt_sigaction __NR_rt_sigprocmask __NR_rt_sigpending
        __NR_rt_sigqueueinfo __NR_rt_tgsigqueueinfo __NR_rt_sigreturn __NR_rt_sigsuspend
        __NR_rt_sigtimedwait __NR_sigaltstack __NR_restart_syscall __NR_signalfd4
    ]),
    #[cfg(target_arch = "x86_64")]
    allow(calls![__NR_pause __NR_alarm __NR_signalfd]),
    // Waiting for something.
    allow(calls![
        __NR_futex __NR_futex_wait __NR_futex_wake __NR_futex_requeue __NR_futex_waitv __NR_ppoll
        __NR_pselect6 __NR_epoll_create1 __NR_epoll_ctl __NR_epoll_pwait __NR_epoll_pwait2
        __NR_eventfd2 __NR_inotify_init1 __NR_inotify_add_watch __NR_inotify_rm_watch
        __NR_fanotify_mark
    ]),
    #[cfg(target_arch = "x86_64")]
    allow(calls![
        __NR_poll __NR_select __NR_epoll_create __NR_epoll_wait __NR_eventfd __NR_inotify_init
    ]),
    // Reading clocks and setting timers. Setting the clock takes a capability that nobody has.
    allow(calls![
        __NR_gettimeofday __NR_clock_gettime __NR_clock_getres __NR_clock_nanosleep __NR_nanosleep
        __NR_times __NR_adjtimex __NR_clock_adjtime __NR_getitimer __NR_setitimer __NR_timer_create
        __NR_timer_delete __NR_timer_getoverrun __NR_timer_gettime __NR_timer_settime
        __NR_timerfd_create __NR_timerfd_gettime __NR_timerfd_settime
    ]),
    #[cfg(target_arch = "x86_64")]
    allow(calls![__NR_time]),
    // Order among the job's own processes; their group's share stays what it is.
    allow(calls![
        __NR_sched_yield __NR_sched_getaffinity __NR_sched_setaffinity __NR_sched_getparam
        __NR_sched_setparam __NR_sched_getscheduler __NR_sched_setscheduler __NR_sched_getattr
        __NR_sched_setattr __NR_sched_get_priority_max __NR_sched_get_priority_min
        __NR_sched_rr_get_interval __NR_getpriority __NR_setpriority __NR_ioprio_get __NR_ioprio_set
        __NR_getcpu
    ]),
    // Programs look at their ids and give up what they do not have.
    allow(calls![
        __NR_getuid __NR_geteuid __NR_getgid __NR_getegid __NR_getresuid __NR_getresgid
        __NR_getgroups __NR_setuid __NR_setgid __NR_setreuid __NR_setregid __NR_setresuid
        __NR_setresgid __NR_setgroups __NR_setfsuid __NR_setfsgid __NR_capget __NR_capset
    ]),
    // Limits are only ever lowered: raising takes a capability.
    allow(calls![
        __NR_getrlimit __NR_setrlimit __NR_prlimit64 __NR_getrusage __NR_sysinfo __NR_uname
        __NR_getrandom
    ]),
    // Sockets of the families below, within a network namespace of its own.
    allow(calls![
        __NR_accept __NR_accept4 __NR_bind __NR_connect __NR_listen __NR_getsockname
        __NR_getpeername __NR_getsockopt __NR_setsockopt __NR_shutdown __NR_sendto __NR_recvfrom
        __NR_sendmsg __NR_recvmsg __NR_sendmmsg __NR_recvmmsg
    ]),
    // Objects of an IPC namespace of its own, gone with it.
    allow(calls![
        __NR_semget __NR_semop __NR_semtimedop __NR_semctl __NR_shmget __NR_shmat __NR_shmdt
        __NR_shmctl __NR_msgget __NR_msgsnd __NR_msgrcv __NR_msgctl __NR_mq_open __NR_mq_unlink
        __NR_mq_timedsend __NR_mq_timedreceive __NR_mq_notify __NR_mq_getsetattr
    ]),
    // Programs that confine themselves further: browsers, package managers.
    allow(calls![
        __NR_seccomp __NR_landlock_create_ruleset __NR_landlock_add_rule __NR_landlock_restrict_self
    ]),
    // Everything in a sandbox lies in memory, and the host's disks are not the job's to wait for, or to keep busy.
    Group { calls: calls![__NR_sync __NR_syncfs], rule: Rule::Always(Verdict::Done) },
    // New namespaces bring the powers of a root over kernel code that is meant for administrators. `clone3` hides its
    // flags in memory, where no filter sees them: it does not exist, and programs fall back to `clone`.
    Group {
        calls: calls![__NR_clone],
        rule: Rule::By(Check {
            argument: 0,
            mask: general::CLONE_NEWCGROUP
                | general::CLONE_NEWIPC
                | general::CLONE_NEWNET
                | general::CLONE_NEWNS
                | general::CLONE_NEWPID
                | general::CLONE_NEWUSER
                | general::CLONE_NEWUTS,
            values: &[0],
            then: Verdict::Allow,
            otherwise: FORBIDDEN,
        }),
    },
    // Typing into a terminal (CVE-2017-5226, CVE-2023-28100), whatever the upper half says (CVE-2019-10063).
    Group {
        calls: calls![__NR_ioctl],
        rule: Rule::By(Check {
            argument: 1,
            mask: u32::MAX,
            values: &[TIOCSTI, TIOCLINUX],
            then: FORBIDDEN,
            otherwise: Verdict::Allow,
        }),
    },
    // A process that will share a core with nobody (`PR_SCHED_CORE`) keeps the core's other threads idle, which no group's
    // quota counts: a job of many of them would take twice its processors from the others.
    Group {
        calls: calls![__NR_prctl],
        rule: Rule::By(Check {
            argument: 0,
            mask: u32::MAX,
            values: &[PR_SCHED_CORE],
            then: FORBIDDEN,
            otherwise: Verdict::Allow,
        }),
    },
    // UNIX, IPv4, IPv6, netlink. Others know no namespace (vsock leads to the hypervisor) or lead to kernel code that
    // nobody's build needs (the crypto sockets of CVE-2026-31431).
    Group {
        calls: calls![__NR_socket __NR_socketpair],
        rule: Rule::By(Check {
            argument: 0,
            mask: u32::MAX,
            values: &[1, 2, 10, 16],
            then: Verdict::Allow,
            otherwise: Verdict::Fail(EAFNOSUPPORT),
        }),
    },
    // Asking for the personality, and those that only change what `uname` says.
    Group {
        calls: calls![__NR_personality],
        rule: Rule::By(Check {
            argument: 0,
            mask: u32::MAX,
            values: &[0, 0x0008, 0x2_0000, 0x2_0008, 0xffff_ffff],
            then: Verdict::Allow,
            otherwise: FORBIDDEN,
        }),
    },
    // The file tree and the namespaces stay as they were made.
    forbid(calls![
        __NR_mount __NR_umount2 __NR_pivot_root __NR_chroot __NR_open_tree __NR_open_tree_attr
        __NR_move_mount __NR_fsopen __NR_fsconfig __NR_fsmount __NR_fspick __NR_mount_setattr
        __NR_unshare __NR_setns __NR_sethostname __NR_setdomainname __NR_open_by_handle_at
    ]),
    // Large parts of the kernel that a build does not need, and where most ways out were found.
    forbid(calls![
        __NR_bpf __NR_perf_event_open __NR_userfaultfd __NR_io_uring_setup __NR_io_uring_enter
        __NR_io_uring_register __NR_fanotify_init __NR_kcmp __NR_pidfd_getfd __NR_process_madvise
    ]),
    // Keys that the user's other sessions would share.
    forbid(calls![__NR_add_key __NR_request_key __NR_keyctl]),
    // What is the machine's and has one bound for all of it.
    forbid(calls![
        __NR_io_setup __NR_io_destroy __NR_io_submit __NR_io_cancel __NR_io_getevents
        __NR_io_pgetevents __NR_mbind __NR_get_mempolicy __NR_set_mempolicy
        __NR_set_mempolicy_home_node __NR_migrate_pages __NR_move_pages
    ]),
    // What is an administrator's.
    forbid(calls![
        __NR_acct __NR_clock_settime __NR_delete_module __NR_finit_module __NR_init_module
        __NR_kexec_load __NR_kexec_file_load __NR_quotactl __NR_quotactl_fd __NR_reboot
        __NR_settimeofday __NR_swapoff __NR_swapon __NR_syslog __NR_vhangup
    ]),
    #[cfg(target_arch = "x86_64")]
    forbid(calls![__NR_ioperm __NR_iopl]),
];
