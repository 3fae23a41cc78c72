//! The host's kernel, as far as `std` does not reach.

#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{MemfdFlags, OFlags, SealFlags, fcntl_add_seals, fcntl_setfl, memfd_create};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The program of `init/`, as `build.rs` made it.
const INIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/init"));

/// A descriptor whose readiness can be awaited.
pub(super) type Watched = AsyncFd<OwnedFd>;

/// Has the runtime watch a descriptor, which must not block.
pub(super) fn watch(file: OwnedFd, interest: Interest) -> io::Result<Watched> {
    // SAFETY: an `OwnedFd` is an open descriptor and stays it: the `AsyncFd` owns it from here on, lends it out
    // by shared reference only, through which it cannot be closed or replaced, and deregisters before closing.
    Ok(unsafe { AsyncFd::register_with_interest(file, interest) }?)
}

/// The init's program in a memory file that nobody can change any more, a sandboxed process with a path to it
/// included (CVE-2019-5736).
pub(super) fn init_program() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = match memfd_create("ci-sandbox", flags | MemfdFlags::EXEC) {
        // Before Linux 6.3 every memory file could be executed, and the flag was not known.
        Err(Errno::INVAL) => memfd_create("ci-sandbox", flags)?,
        created => created?,
    };
    let mut file = File::from(file);
    file.write_all(INIT)?;
    fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(file.into())
}

/// Executes `program` with the two sockets and nothing else, and returns a pidfd and the pid of the process.
///
/// The process is no `tokio` child and its pid is waited for by pidfd only, so neither a handler of `SIGCHLD`
/// nor another child of the embedding program is disturbed.
pub(super) fn spawn(program: &OwnedFd, lifeline: OwnedFd, control: OwnedFd) -> io::Result<(OwnedFd, i32)> {
    let mut child = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()))
        .arg0("ci-sandbox")
        .env_clear()
        .stdin(Stdio::from(lifeline))
        .stdout(Stdio::from(control))
        .stderr(Stdio::null())
        .spawn()?;
    let pid = child.id().cast_signed();
    let opened = Pid::from_raw(pid).ok_or(Errno::SRCH).and_then(|name| pidfd_open(name, PidfdFlags::empty()));
    let process = opened.or_else(|error| {
        // Nobody would wait for it, and what it has begun by then would not be undone.
        child.kill()?;
        child.wait()?;
        Err(io::Error::from(error))
    })?;
    Ok((process, pid))
}

/// Which version of Landlock's interface the kernel has; 0 where it has none.
pub(super) fn landlock_version() -> i64 {
    const VERSION: u32 = 1;
    let none = std::ptr::null::<u8>();
    // SAFETY: landlock_create_ruleset(2) with this flag takes neither attributes nor their size.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0_usize, VERSION) };
    version.max(0)
}

/// A pidfd of a process by number.
pub(super) fn open_process(pid: i32) -> io::Result<OwnedFd> {
    Ok(pidfd_open(Pid::from_raw(pid).ok_or(Errno::SRCH)?, PidfdFlags::empty())?)
}

/// Kills a process; one that is gone is no error.
pub(super) fn kill(process: BorrowedFd<'_>) {
    let _ = pidfd_send_signal(process, Signal::KILL);
}

/// Reaps a dead child. When the embedding program reaps everybody's children, it has done so already.
pub(super) fn reap(process: BorrowedFd<'_>) {
    let _ = waitid(WaitId::PidFd(process), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
}

/// Two ends that carry packets and do not block.
pub(super) fn packet_sockets() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    fcntl_setfl(&ours, OFlags::NONBLOCK)?;
    Ok((ours, theirs))
}

/// Two ends that carry a stream; ours does not block. Unlike a pipe, writing to it raises no signal.
pub(super) fn stream_sockets() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    fcntl_setfl(&ours, OFlags::NONBLOCK)?;
    Ok((ours, theirs))
}

/// A pipe out of the sandbox: our end to read, which does not block, and theirs to write, which does.
pub(super) fn output_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
    fcntl_setfl(&ours, OFlags::NONBLOCK)?;
    Ok((ours, theirs))
}

/// A pipe into the sandbox: our end to write, which does not block, and theirs to read, which does.
pub(super) fn input_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC)?;
    fcntl_setfl(&ours, OFlags::NONBLOCK)?;
    Ok((ours, theirs))
}

/// Writes to a pipe, and raises no `SIGPIPE` when nobody reads it any more: what that does is the embedding program's
/// affair, and by default it is its end.
pub(super) fn write_without_signal(pipe: &OwnedFd, bytes: &[u8]) -> io::Result<usize> {
    let signals = PipeSignals::hold()?;
    let written = rustix::io::write(pipe, bytes);
    signals.release(written == Err(Errno::PIPE));
    Ok(written?)
}

/// `SIGPIPE`, held back from this thread.
struct PipeSignals {
    before: libc::sigset_t,
    pipe: libc::sigset_t,
    /// Whether one was there already, which is not ours.
    was_pending: bool,
}

impl PipeSignals {
    fn hold() -> io::Result<Self> {
        let [mut before, mut pipe, mut pending] = [MaybeUninit::<libc::sigset_t>::zeroed(); 3];
        // SAFETY: sigemptyset(3) makes `pipe` a set, and sigaddset(3) and pthread_sigmask(3) take one; the latter writes
        // a set to `before`, and sigpending(2) one to `pending`, so all three are sets in the end. A set is an array of
        // numbers, so even zeros would be one.
        unsafe {
            libc::sigemptyset(pipe.as_mut_ptr());
            libc::sigaddset(pipe.as_mut_ptr(), libc::SIGPIPE);
            libc::sigpending(pending.as_mut_ptr());
            let held = libc::pthread_sigmask(libc::SIG_BLOCK, pipe.as_ptr(), before.as_mut_ptr());
            if held != 0 {
                return Err(io::Error::from_raw_os_error(held));
            }
            let was_pending = libc::sigismember(pending.as_ptr(), libc::SIGPIPE) == 1;
            Ok(Self { before: before.assume_init(), pipe: pipe.assume_init(), was_pending })
        }
    }

    /// Takes the signal that was `raised` away, and lets further ones through as before.
    fn release(self, raised: bool) {
        let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: sigtimedwait(2) reads a set and a time and writes nothing where the information's pointer is null;
        // pthread_sigmask(3) reads a set and writes none where the pointer is null.
        unsafe {
            if raised && !self.was_pending {
                libc::sigtimedwait(&raw const self.pipe, std::ptr::null_mut(), &raw const now);
            }
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, std::ptr::null_mut());
        }
    }
}

/// A memory file with `content`, for a request's body.
pub(super) fn memory_file(content: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create("request", MemfdFlags::CLOEXEC)?);
    file.write_all(content)?;
    Ok(file.into())
}

/// Whether a process is gone.
pub(super) fn is_dead(process: &OwnedFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut polls = [PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN)];
    matches!(poll(&mut polls, Some(&Timespec::default())), Ok(1..))
}

/// A file's name in the kernel: `struct file_handle`, with room for the sixteen bytes that name a namespace.
#[derive(Clone, Debug)]
#[repr(C)]
pub(super) struct FileHandle {
    size: u32,
    kind: i32,
    name: [u64; 2],
}

/// The handle of what a path leads to.
pub(super) fn file_handle(path: &Path) -> io::Result<FileHandle> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut handle = FileHandle { size: 16, kind: 0, name: [0; 2] };
    let mut mount = 0;
    // SAFETY: name_to_handle_at(2) reads a NUL-terminated path and writes a number and as much of a name as the handle
    // has room for, by its `size`. It fails where that is too little.
    let answer = unsafe {
        libc::name_to_handle_at(
            libc::AT_FDCWD,
            path.as_ptr(),
            (&raw mut handle).cast(),
            &raw mut mount,
            libc::AT_SYMLINK_FOLLOW,
        )
    };
    if answer == 0 { Ok(handle) } else { Err(io::Error::last_os_error()) }
}

/// Opens what a handle names on the file system that `any` is a file of.
pub(super) fn open_handle(any: BorrowedFd<'_>, handle: &FileHandle) -> io::Result<OwnedFd> {
    // The kernel takes a pointer to something that it could change; it does not.
    let mut handle = handle.clone();
    // SAFETY: open_by_handle_at(2) reads the handle, whose `size` was set by `file_handle`.
    let file = unsafe {
        libc::open_by_handle_at(any.as_raw_fd(), (&raw mut handle).cast(), libc::O_RDONLY | libc::O_CLOEXEC)
    };
    if file < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given this descriptor, and to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(file) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    fn nobody_changes_the_program_that_every_sandbox_runs() {
        let file = File::from(init_program().unwrap());
        let length = INIT.len() as u64;
        assert_eq!(file.metadata().unwrap().len(), length);
        assert!(file.write_at(b"x", 0).is_err(), "written");
        assert!(file.set_len(length - 1).is_err(), "cut short");
        assert!(file.set_len(length + 1).is_err(), "made longer");
        assert!(fcntl_add_seals(&file, SealFlags::FUTURE_WRITE).is_err(), "sealed further");
    }

    #[test]
    fn writing_where_nobody_reads_raises_no_signal() {
        let is_pending = || {
            let mut pending = MaybeUninit::<libc::sigset_t>::zeroed();
            // SAFETY: sigpending(2) writes a set, and sigismember(3) reads it.
            unsafe {
                libc::sigpending(pending.as_mut_ptr());
                libc::sigismember(pending.as_ptr(), libc::SIGPIPE) == 1
            }
        };
        let (ours, theirs) = input_pipe().unwrap();
        drop(theirs);
        // Held back, a signal stays to be seen, even where it is ignored as in this program.
        let outer = PipeSignals::hold().unwrap();
        assert_eq!(write_without_signal(&ours, b"x").unwrap_err().raw_os_error(), Some(libc::EPIPE));
        assert!(!is_pending(), "it was raised and not taken away");
        assert_eq!(rustix::io::write(&ours, b"x"), Err(Errno::PIPE));
        assert!(is_pending(), "without that it is raised");
        assert_eq!(write_without_signal(&ours, b"x").unwrap_err().raw_os_error(), Some(libc::EPIPE));
        assert!(is_pending(), "one that was there before is not ours to take");
        outer.release(true);
        assert!(!is_pending());
    }
}
