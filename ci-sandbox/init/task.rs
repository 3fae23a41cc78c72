//! The kernel's calls on processes and their privileges.

use core::ffi::{CStr, c_char};
use core::hint;

use crate::call::raw;
use crate::nr;
use crate::sys::{Errno, Fd, O_CLOEXEC, O_NONBLOCK, Raw, Result, word};
use crate::wire::Ended;

pub(crate) const SIGKILL: usize = 9;
pub(crate) const SIGCHLD: usize = 17;

pub(crate) const NEW_NS: u64 = 0x0002_0000;
pub(crate) const NEW_CGROUP: u64 = 0x0200_0000;
pub(crate) const NEW_UTS: u64 = 0x0400_0000;
pub(crate) const NEW_IPC: u64 = 0x0800_0000;
pub(crate) const NEW_USER: u64 = 0x1000_0000;
pub(crate) const NEW_PID: u64 = 0x2000_0000;
pub(crate) const NEW_NET: u64 = 0x4000_0000;

/// Ends this process.
pub(crate) fn exit(code: usize) -> ! {
    loop {
        // SAFETY: exit_group(2) takes a number and does not return.
        let _ = unsafe { raw(nr::EXIT_GROUP, [code, 0, 0, 0, 0, 0]) };
        hint::spin_loop();
    }
}

/// `struct clone_args` up to `set_tid_size`.
#[repr(C)]
#[derive(Default)]
struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
}

/// A copy of this process in new namespaces: its pid and pidfd, or nothing in the copy itself.
pub(crate) fn clone_into(namespaces: u64) -> Result<Option<(u32, Fd)>> {
    const PIDFD: u64 = 0x1000;
    let mut pidfd = -1_i32;
    let arguments = CloneArguments {
        flags: namespaces | PIDFD,
        pidfd: (&raw mut pidfd) as u64,
        exit_signal: SIGCHLD as u64,
        ..CloneArguments::default()
    };
    // SAFETY: clone3(2) reads the arguments and writes an int to `pidfd`. Without CLONE_VM the copy has this
    // stack and memory as its own, so going on from here is sound in both.
    let pid =
        unsafe { raw(nr::CLONE3, [(&raw const arguments) as usize, size_of_val(&arguments), 0, 0, 0, 0]) }?;
    Ok((pid != 0).then(|| (pid as u32, Fd::owned(pidfd))))
}

/// A copy of this process: its pid, or nothing in the copy itself.
pub(crate) fn fork() -> Result<Option<u32>> {
    // SAFETY: clone(2) with SIGCHLD alone is fork(2): the copy has this stack and memory as its own, and this
    // program has one thread.
    let pid = unsafe { raw(nr::CLONE, [SIGCHLD, 0, 0, 0, 0, 0]) }?;
    Ok((pid != 0).then_some(pid as u32))
}

pub(crate) fn unshare(namespaces: u64) -> Result<()> {
    // SAFETY: unshare(2) takes flags only.
    unsafe { raw(nr::UNSHARE, [namespaces as usize, 0, 0, 0, 0, 0]) }.map(drop)
}

/// Enters a namespace of the kind that `flag` names.
pub(crate) fn enter(namespace: Raw, flag: u64) -> Result<()> {
    // SAFETY: setns(2) takes numbers only.
    unsafe { raw(nr::SETNS, [word(namespace.0), flag as usize, 0, 0, 0, 0]) }.map(drop)
}

/// Becomes another program. It returns only when it did not work.
///
/// # Safety
///
/// `arguments` and `environment` must point to arrays of pointers to NUL-terminated strings, each array ended
/// by a null pointer.
pub(crate) unsafe fn execute(
    path: &CStr,
    arguments: *const *const c_char,
    environment: *const *const c_char,
) -> Errno {
    // SAFETY: execve(2) reads the path, which a `CStr` ends with NUL, and the arrays the caller vouches for.
    let answer = unsafe {
        raw(nr::EXECVE, [path.as_ptr() as usize, arguments as usize, environment as usize, 0, 0, 0])
    };
    answer.err().unwrap_or(Errno::EINVAL)
}

/// Signals a process, or with a negative number a process group.
pub(crate) fn kill(pid: i32, signal: usize) -> Result<()> {
    // SAFETY: kill(2) takes numbers only.
    unsafe { raw(nr::KILL, [word(pid), signal, 0, 0, 0, 0]) }.map(drop)
}

pub(crate) fn signal_by_fd(pidfd: Raw, signal: usize) -> Result<()> {
    // SAFETY: pidfd_send_signal(2) without siginfo takes numbers only.
    unsafe { raw(nr::PIDFD_SEND_SIGNAL, [word(pidfd.0), signal, 0, 0, 0, 0]) }.map(drop)
}

/// The first process found dead among the children, reaped.
pub(crate) fn reap() -> Option<(u32, Ended)> {
    const WAIT_ALL: usize = 0;
    const NO_HANG: usize = 1;
    wait(WAIT_ALL, 0, NO_HANG)
}

/// Waits for the death of one child, and for nothing less: a stopped or traced child is not dead.
pub(crate) fn wait_by_fd(pidfd: Raw) -> Option<(u32, Ended)> {
    const WAIT_PIDFD: usize = 3;
    wait(WAIT_PIDFD, word(pidfd.0), 0)
}

fn wait(which: usize, id: usize, options: usize) -> Option<(u32, Ended)> {
    const EXITED: usize = 4;
    /// `CLD_TRAPPED` and `CLD_STOPPED`.
    const TRAPPED: i32 = 4;
    const STOPPED: i32 = 5;
    /// `siginfo_t` of a child: signal, error, code, padding, pid, uid, status; 128 bytes in all.
    type Info = [i32; 32];
    let mut info: Info = [0; 32];
    let mut usage = [0_u64; 18];
    loop {
        // SAFETY: waitid(2) writes a siginfo_t (128 bytes) and a struct rusage (144 bytes).
        let waited = unsafe {
            raw(
                nr::WAITID,
                [which, id, info.as_mut_ptr() as usize, options | EXITED, usage.as_mut_ptr() as usize, 0],
            )
        };
        match waited {
            Err(Errno::EINTR) => {}
            Err(_) => return None,
            // A child that has itself traced and stops is told whatever was asked for. It lives, and is told once.
            Ok(_) if matches!(info[2], TRAPPED | STOPPED) => info = [0; 32],
            Ok(_) => break,
        }
    }
    let pid = info[4].cast_unsigned();
    let [user, user_rest, system, system_rest, max_rss_kib, ..] = usage;
    (pid != 0).then_some((
        pid,
        Ended {
            how: info[2].cast_unsigned(),
            status: info[6].cast_unsigned(),
            user_us: user.wrapping_mul(1_000_000).wrapping_add(user_rest),
            system_us: system.wrapping_mul(1_000_000).wrapping_add(system_rest),
            max_rss_kib,
        },
    ))
}

/// Blocks exactly the signals of `mask`.
pub(crate) fn block_signals(mask: u64) -> Result<()> {
    const SET: usize = 2;
    // SAFETY: rt_sigprocmask(2) reads a mask of eight bytes and writes none.
    unsafe { raw(nr::RT_SIGPROCMASK, [SET, (&raw const mask) as usize, 0, 8, 0, 0]) }.map(drop)
}

/// The set of one signal.
pub(crate) const fn signal_set(signal: usize) -> u64 {
    1 << (signal - 1)
}

/// Gives every signal its default effect: an ignored one would be inherited by every program.
pub(crate) fn default_signals() {
    let action = [0_usize; 4];
    for signal in 1..=64 {
        // SAFETY: rt_sigaction(2) reads a `struct sigaction` of four words: SIG_DFL, no flags, no mask.
        let _ = unsafe { raw(nr::RT_SIGACTION, [signal, action.as_ptr() as usize, 0, 8, 0, 0]) };
    }
}

/// A descriptor that is readable when one of the signals of `mask`, which are blocked, is pending.
pub(crate) fn signal_fd(mask: u64) -> Result<Fd> {
    // SAFETY: signalfd4(2) reads a mask of eight bytes.
    let answer = unsafe {
        raw(nr::SIGNALFD4, [word(-1), (&raw const mask) as usize, 8, O_CLOEXEC | O_NONBLOCK, 0, 0])
    };
    answer.map(|number| Fd::owned(number as i32))
}

/// Starts a session, so that there is no terminal to type into.
pub(crate) fn new_session() -> Result<()> {
    // SAFETY: setsid(2) takes nothing.
    unsafe { raw(nr::SETSID, [0; 6]) }.map(drop)
}

/// Takes the user and group `id` for good, without further groups.
pub(crate) fn become_user(id: u32) -> Result<()> {
    let id = id as usize;
    // SAFETY: setgroups(2) with a length of zero reads nothing; setresgid(2) and setresuid(2) take numbers.
    unsafe {
        raw(nr::SETGROUPS, [0; 6])?;
        raw(nr::SETRESGID, [id, id, id, 0, 0, 0])?;
        raw(nr::SETRESUID, [id, id, id, 0, 0, 0])?;
    }
    Ok(())
}

/// Takes another effective user and keeps all capabilities.
pub(crate) fn act_as(id: usize) -> Result<()> {
    const SECURE_BITS: usize = 28;
    const NO_SETUID_FIXUP: usize = 1 << 2;
    control(SECURE_BITS, NO_SETUID_FIXUP)?;
    // SAFETY: setresuid(2) takes numbers only; -1 leaves an id as it is.
    unsafe { raw(nr::SETRESUID, [usize::MAX, id, usize::MAX, 0, 0, 0]) }.map(drop)
}

pub(crate) fn set_umask(mask: usize) {
    // SAFETY: umask(2) takes a number and cannot fail.
    let _ = unsafe { raw(nr::UMASK, [mask, 0, 0, 0, 0, 0]) };
}

pub(crate) fn set_hostname(name: &CStr) -> Result<()> {
    // SAFETY: sethostname(2) reads as many bytes as it is told.
    unsafe { raw(nr::SETHOSTNAME, [name.as_ptr() as usize, name.count_bytes(), 0, 0, 0, 0]) }.map(drop)
}

pub(crate) const RLIMIT_NPROC: usize = 6;
pub(crate) const RLIMIT_NOFILE: usize = 7;

/// Sets the soft and the hard limit to `value`, or leaves a hard limit that is lower: raising takes privileges.
pub(crate) fn limit_at_most(resource: usize, value: u64) -> Result<()> {
    let [_, hard] = limits(resource)?;
    set_limits(resource, [value.min(hard); 2])
}

/// Sets the soft limit to `value`, which a program can raise as far as the hard limit goes.
pub(crate) fn limit_unless_asked(resource: usize, value: u64) -> Result<()> {
    let [_, hard] = limits(resource)?;
    set_limits(resource, [value.min(hard), hard])
}

fn limits(resource: usize) -> Result<[u64; 2]> {
    let mut now = [0_u64; 2];
    // SAFETY: prlimit64(2) writes a `struct rlimit64` of two 64-bit fields and reads none.
    unsafe { raw(nr::PRLIMIT64, [0, resource, 0, now.as_mut_ptr() as usize, 0, 0]) }?;
    Ok(now)
}

fn set_limits(resource: usize, limits: [u64; 2]) -> Result<()> {
    // SAFETY: prlimit64(2) reads a `struct rlimit64` of two 64-bit fields and writes none.
    unsafe { raw(nr::PRLIMIT64, [0, resource, limits.as_ptr() as usize, 0, 0, 0]) }.map(drop)
}

/// Has no crash written down, neither as a file nor by a program of the host's that collects them. Such a program
/// gets every crash whatever the limit is, except when it is one byte (Linux, `fs/coredump.c`).
pub(crate) fn forbid_core_dumps() -> Result<()> {
    const RLIMIT_CORE: usize = 4;
    match set_limits(RLIMIT_CORE, [1; 2]) {
        // Both limits are zero, and raising takes privileges.
        Err(Errno::EPERM) => Ok(()),
        set => set,
    }
}

fn control(option: usize, argument: usize) -> Result<()> {
    // SAFETY: the prctl(2) options used here take numbers only.
    unsafe { raw(nr::PRCTL, [option, argument, 0, 0, 0, 0]) }.map(drop)
}

/// Has the kernel kill this process when its parent dies. Taking other ids undoes it.
pub(crate) fn die_with_parent() -> Result<()> {
    control(1, SIGKILL)
}

/// This process's number.
pub(crate) fn own_number() -> usize {
    // SAFETY: getpid(2) takes nothing and cannot fail.
    unsafe { raw(nr::GETPID, [0; 6]) }.unwrap_or(0)
}

/// The number of this process's parent: another one's once that is dead.
pub(crate) fn parents_number() -> usize {
    // SAFETY: getppid(2) takes nothing and cannot fail.
    unsafe { raw(nr::GETPPID, [0; 6]) }.unwrap_or(0)
}

/// Shuts this process's memory and descriptors to tracing and to `/proc`, and forbids a core dump.
pub(crate) fn hide_memory() -> Result<()> {
    control(4, 0)
}

/// No program executed from here on gains privileges.
pub(crate) fn no_new_privileges() -> Result<()> {
    control(38, 1)
}

/// Filters the calls of this process and of all that it starts: `program` is an array of `struct sock_filter`.
pub(crate) fn filter(program: &[u8]) -> Result<()> {
    const SET_SECCOMP: usize = 22;
    const MODE_FILTER: usize = 2;
    const INSTRUCTION: usize = 8;
    /// `struct sock_fprog`.
    #[repr(C)]
    struct Program {
        length: u16,
        instructions: *const u8,
    }
    let program = Program { length: (program.len() / INSTRUCTION) as u16, instructions: program.as_ptr() };
    // SAFETY: prctl(PR_SET_SECCOMP) copies as many `struct sock_filter`, of eight bytes each and wherever they lie, as
    // the `struct sock_fprog` says.
    unsafe { raw(nr::PRCTL, [SET_SECCOMP, MODE_FILTER, (&raw const program) as usize, 0, 0, 0]) }.map(drop)
}

/// Leaves the session keyring of the program that embeds the SDK for a new one.
pub(crate) fn new_keyring() {
    const JOIN_SESSION_KEYRING: usize = 1;
    // SAFETY: keyctl(2) reads no name where the pointer is null. A kernel without keyrings has none to leave.
    let _ = unsafe { raw(nr::KEYCTL, [JOIN_SESSION_KEYRING, 0, 0, 0, 0, 0]) };
}

/// Forgoes every capability for all programs executed from here on, whoever they run as.
pub(crate) fn forgo_capabilities() -> Result<()> {
    const DROP_BOUNDING: usize = 24;
    const SECURE_BITS: usize = 28;
    /// `NOROOT`, `NO_SETUID_FIXUP` and `NO_CAP_AMBIENT_RAISE`, each with its lock.
    const LOCKED: usize = 0b1100_1111;
    for capability in 0..64 {
        if control(DROP_BOUNDING, capability) == Err(Errno::EINVAL) {
            // The kernel knows no capability of this number, nor of a higher one.
            break;
        }
    }
    // Setting the user does not clear capabilities any more once NO_SETUID_FIXUP is set; `keep_capabilities`
    // clears them.
    control(SECURE_BITS, LOCKED)
}

/// Keeps exactly the capabilities of `set`.
pub(crate) fn keep_capabilities(set: u64) -> Result<()> {
    const VERSION_3: u32 = 0x2008_0522;
    let header = [VERSION_3, 0];
    let (low, high) = (set as u32, (set >> 32) as u32);
    let data = [low, low, 0, high, high, 0];
    // SAFETY: capset(2) version 3 reads a header of two and data of twice three 32-bit fields.
    unsafe { raw(nr::CAPSET, [header.as_ptr() as usize, data.as_ptr() as usize, 0, 0, 0, 0]) }.map(drop)
}
