//! The kernel's calls as functions that cannot be misused in memory.

use core::ffi::CStr;
use core::mem::MaybeUninit;
use core::ops::Deref;
use core::ptr;

use crate::call::raw;
use crate::nr;

/// The kernel's number of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Errno(pub(crate) i32);

impl Errno {
    pub(crate) const EPERM: Self = Self(1);
    pub(crate) const ENOENT: Self = Self(2);
    pub(crate) const EINTR: Self = Self(4);
    pub(crate) const E2BIG: Self = Self(7);
    pub(crate) const ENXIO: Self = Self(6);
    pub(crate) const EACCES: Self = Self(13);
    pub(crate) const EBUSY: Self = Self(16);
    pub(crate) const EEXIST: Self = Self(17);
    pub(crate) const ENOTDIR: Self = Self(20);
    pub(crate) const EINVAL: Self = Self(22);
    pub(crate) const EROFS: Self = Self(30);
    pub(crate) const ENAMETOOLONG: Self = Self(36);
    pub(crate) const ENOSYS: Self = Self(38);
    pub(crate) const ELOOP: Self = Self(40);
    pub(crate) const EBADMSG: Self = Self(74);
    pub(crate) const EOPNOTSUPP: Self = Self(95);
}

pub(crate) type Result<T, E = Errno> = core::result::Result<T, E>;

/// A descriptor that somebody else closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Raw(pub(crate) i32);

/// The working directory, where a call takes a directory.
pub(crate) const CWD: Raw = Raw(-100);

/// A descriptor that is closed when dropped.
#[derive(Debug)]
pub(crate) struct Fd(Raw);

impl Fd {
    /// Takes a descriptor that the kernel has just given.
    pub(crate) fn owned(number: i32) -> Self {
        Self(Raw(number))
    }
}

impl Deref for Fd {
    type Target = Raw;

    fn deref(&self) -> &Raw {
        &self.0
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        // SAFETY: close(2) takes a number only.
        let _ = unsafe { raw(nr::CLOSE, [word(self.0.0), 0, 0, 0, 0, 0]) };
    }
}

/// A descriptor's number as an argument.
pub(crate) const fn word(number: i32) -> usize {
    (number as isize).cast_unsigned()
}

fn text(text: &CStr) -> usize {
    text.as_ptr() as usize
}

fn fd(answer: usize) -> Fd {
    Fd::owned(answer as i32)
}

pub(crate) const O_WRONLY: usize = 1;
pub(crate) const O_RDWR: usize = 2;
const O_CREAT: usize = 0o100;
const O_EXCL: usize = 0o200;
pub(crate) const O_NOCTTY: usize = 0o400;
pub(crate) const O_NONBLOCK: usize = 0o4000;
#[cfg(target_arch = "x86_64")]
pub(crate) const O_DIRECTORY: usize = 0o200_000;
#[cfg(target_arch = "x86_64")]
pub(crate) const O_NOFOLLOW: usize = 0o400_000;
#[cfg(target_arch = "aarch64")]
pub(crate) const O_DIRECTORY: usize = 0o40_000;
#[cfg(target_arch = "aarch64")]
pub(crate) const O_NOFOLLOW: usize = 0o100_000;
pub(crate) const O_CLOEXEC: usize = 0o2_000_000;
pub(crate) const O_PATH: usize = 0o10_000_000;

/// Opens `path` below `directory`; the descriptor is closed on exec.
pub(crate) fn open(directory: Raw, path: &CStr, flags: usize, mode: usize) -> Result<Fd> {
    // SAFETY: openat(2) reads a NUL-terminated path, which a `CStr` is.
    unsafe { raw(nr::OPENAT, [word(directory.0), text(path), flags | O_CLOEXEC, mode, 0, 0]) }.map(fd)
}

/// Opens `path` without ever leaving `directory`, by links or otherwise.
pub(crate) fn open_beneath(directory: Raw, path: &CStr, flags: usize) -> Result<Fd> {
    const BENEATH: u64 = 0x08;
    const NO_MAGICLINKS: u64 = 0x02;
    let how = [(flags | O_CLOEXEC) as u64, 0, BENEATH | NO_MAGICLINKS];
    // SAFETY: openat2(2) reads a NUL-terminated path and a `struct open_how` of three 64-bit fields.
    unsafe {
        raw(nr::OPENAT2, [word(directory.0), text(path), how.as_ptr() as usize, size_of_val(&how), 0, 0])
    }
    .map(fd)
}

/// Opens a folder for what is in it; not through a link.
pub(crate) fn open_folder(directory: Raw, path: &CStr) -> Result<Fd> {
    open(directory, path, O_PATH | O_DIRECTORY | O_NOFOLLOW, 0)
}

/// Makes a file that must not exist, not even as a link, and opens it for writing.
pub(crate) fn create(directory: Raw, path: &CStr, mode: usize) -> Result<Fd> {
    open(directory, path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, mode)
}

/// Reads what is there, up to the buffer's length; 0 is the end.
pub(crate) fn read(from: Raw, buffer: &mut [u8]) -> Result<usize> {
    loop {
        // SAFETY: read(2) writes at most `buffer.len()` bytes into the buffer.
        let read =
            unsafe { raw(nr::READ, [word(from.0), buffer.as_mut_ptr() as usize, buffer.len(), 0, 0, 0]) };
        if read != Err(Errno::EINTR) {
            return read;
        }
    }
}

/// Reads until the buffer is full or the stream ends.
pub(crate) fn read_full(from: Raw, buffer: &mut [u8]) -> Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match read(from, &mut buffer[filled..])? {
            0 => break,
            more => filled += more,
        }
    }
    Ok(filled)
}

/// Writes all of `bytes`.
pub(crate) fn write_all(to: Raw, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        // SAFETY: write(2) reads at most `bytes.len()` bytes of the slice.
        match unsafe { raw(nr::WRITE, [word(to.0), bytes.as_ptr() as usize, bytes.len(), 0, 0, 0]) } {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A pipe: the end to read, the end to write.
pub(crate) fn pipe() -> Result<(Fd, Fd)> {
    let mut ends = [0_i32; 2];
    // SAFETY: pipe2(2) writes two ints.
    unsafe { raw(nr::PIPE2, [ends.as_mut_ptr() as usize, O_CLOEXEC, 0, 0, 0, 0]) }?;
    Ok((Fd::owned(ends[0]), Fd::owned(ends[1])))
}

/// Makes `to` another name of `from`, kept on exec.
pub(crate) fn duplicate(from: Raw, to: i32) -> Result<()> {
    duplicate_with(from, to, 0)
}

/// The same, closed on exec.
pub(crate) fn duplicate_private(from: Raw, to: i32) -> Result<()> {
    duplicate_with(from, to, O_CLOEXEC)
}

fn duplicate_with(from: Raw, to: i32, flags: usize) -> Result<()> {
    // SAFETY: dup3(2) takes numbers only.
    unsafe { raw(nr::DUP3, [word(from.0), word(to), flags, 0, 0, 0]) }.map(drop)
}

/// Closes `first` and every descriptor above.
pub(crate) fn close_from(first: usize) {
    // SAFETY: close_range(2) takes numbers only.
    let _ = unsafe { raw(nr::CLOSE_RANGE, [first, u32::MAX as usize, 0, 0, 0, 0]) };
}

/// The user namespace that owns a namespace.
pub(crate) fn owner_of(namespace: Raw) -> Result<Fd> {
    const GET_USER_NAMESPACE: usize = 0xb701;
    // SAFETY: this ioctl takes no argument (`ioctl_nsfs(2)`, NS_GET_USERNS).
    unsafe { raw(nr::IOCTL, [word(namespace.0), GET_USER_NAMESPACE, 0, 0, 0, 0]) }.map(fd)
}

pub(crate) fn ioctl(file: Raw, request: usize, argument: &mut [u8; 40]) -> Result<()> {
    // SAFETY: the ioctls that are used read and write a `struct ifreq`, which is 40 bytes long, or less.
    unsafe { raw(nr::IOCTL, [word(file.0), request, argument.as_mut_ptr() as usize, 0, 0, 0]) }.map(drop)
}

/// One of the ioctls that take a number.
pub(crate) fn ioctl_number(file: Raw, request: usize, argument: usize) -> Result<usize> {
    // SAFETY: the ioctls that are used, TIOCGPTPEER and TIOCSCTTY, do not take their argument for a pointer.
    unsafe { raw(nr::IOCTL, [word(file.0), request, argument, 0, 0, 0]) }
}

pub(crate) const AF_INET: u16 = 2;
pub(crate) const AF_INET6: u16 = 10;
pub(crate) const SOCK_STREAM: usize = 1;
pub(crate) const SOCK_DGRAM: usize = 2;

/// A socket that does not block.
pub(crate) fn socket(family: u16, kind: usize) -> Result<Fd> {
    // SAFETY: socket(2) takes numbers only.
    unsafe { raw(nr::SOCKET, [family.into(), kind | O_CLOEXEC | O_NONBLOCK, 0, 0, 0, 0]) }.map(fd)
}

/// Gives a socket its address, a `struct sockaddr` of the socket's family.
pub(crate) fn bind(socket: Raw, address: &[u8]) -> Result<()> {
    // SAFETY: bind(2) reads `address.len()` bytes.
    unsafe { raw(nr::BIND, [word(socket.0), address.as_ptr() as usize, address.len(), 0, 0, 0]) }.map(drop)
}

/// Has a socket take connections, of which `backlog` may wait.
pub(crate) fn listen(socket: Raw, backlog: usize) -> Result<()> {
    // SAFETY: listen(2) takes numbers only.
    unsafe { raw(nr::LISTEN, [word(socket.0), backlog, 0, 0, 0, 0]) }.map(drop)
}

/// `struct pollfd`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Poll {
    file: Raw,
    wanted: i16,
    found: i16,
}

impl Poll {
    /// Waits for bytes or the end of `file`.
    pub(crate) fn readable(file: Raw) -> Self {
        Self { file, wanted: 1, found: 0 }
    }

    /// Whether there are bytes, an end or an error.
    pub(crate) fn is_ready(self) -> bool {
        self.found != 0
    }
}

/// Waits until one is ready.
pub(crate) fn poll(files: &mut [Poll]) {
    // SAFETY: ppoll(2) reads and writes `files.len()` structures of the layout of `Poll`; no timeout, no mask.
    let _ = unsafe { raw(nr::PPOLL, [files.as_mut_ptr() as usize, files.len(), 0, 0, 0, 0]) };
}

/// Waits for seconds and nanoseconds, or less.
pub(crate) fn pause(time: &[u64; 2]) {
    // SAFETY: nanosleep(2) reads a `struct timespec` of two 64-bit fields and writes none.
    let _ = unsafe { raw(nr::NANOSLEEP, [time.as_ptr() as usize, 0, 0, 0, 0, 0]) };
}

/// How many bytes the files of the file system at `path` take up.
pub(crate) fn used_bytes(path: &CStr) -> Result<u64> {
    // `struct statfs` is 120 bytes long.
    let mut statfs = [0_u64; 15];
    // SAFETY: statfs(2) reads a NUL-terminated path and writes a `struct statfs`.
    unsafe { raw(nr::STATFS, [text(path), statfs.as_mut_ptr() as usize, 0, 0, 0, 0]) }?;
    let [_, block_size, blocks, free, ..] = statfs;
    Ok(blocks.saturating_sub(free).saturating_mul(block_size))
}

/// What is known of a file.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Stat {
    mask: u32,
    block_size: u32,
    attributes: u64,
    links: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mode: u16,
    pad: u16,
    inode: u64,
    pub(crate) size: u64,
    blocks: u64,
    attributes_mask: u64,
    times: [[u64; 2]; 3],
    pub(crate) mtime_seconds: i64,
    mtime_rest: u64,
    pub(crate) rdev: [u32; 2],
    rest: [u64; 15],
}

pub(crate) const KIND: u16 = 0o170_000;
pub(crate) const DIRECTORY: u16 = 0o040_000;
pub(crate) const REGULAR: u16 = 0o100_000;
pub(crate) const SYMLINK: u16 = 0o120_000;
pub(crate) const CHARACTER: u16 = 0o020_000;

const _: () = assert!(size_of::<Stat>() == 256, "struct statx is 256 bytes long");

/// Looks at `path` below `directory`, or at `directory` itself when `path` is empty; links are not followed.
pub(crate) fn stat(directory: Raw, path: &CStr) -> Result<Stat> {
    /// `AT_SYMLINK_NOFOLLOW`, `AT_EMPTY_PATH` and `AT_NO_AUTOMOUNT`.
    const FLAGS: usize = 0x100 | 0x1000 | 0x800;
    const BASIC: usize = 0x7ff;
    let mut stat = MaybeUninit::<Stat>::zeroed();
    // SAFETY: statx(2) reads a NUL-terminated path and writes one `struct statx` (256 bytes, asserted above).
    unsafe {
        raw(nr::STATX, [word(directory.0), text(path), FLAGS, BASIC, stat.as_mut_ptr() as usize, 0])?;
    }
    // SAFETY: every field is a number, so all bytes, zeros too, are a valid value.
    Ok(unsafe { stat.assume_init() })
}

pub(crate) fn mkdir(directory: Raw, path: &CStr, mode: usize) -> Result<()> {
    // SAFETY: mkdirat(2) reads a NUL-terminated path.
    unsafe { raw(nr::MKDIRAT, [word(directory.0), text(path), mode, 0, 0, 0]) }.map(drop)
}

/// Makes a character device with the numbers `rdev`.
pub(crate) fn make_device(directory: Raw, path: &CStr, mode: usize, rdev: [u32; 2]) -> Result<()> {
    // The kernel takes both in one word, which has them as it had them of old where they are small (`new_decode_dev`).
    let numbers = (rdev[0] << 8 | rdev[1]) as usize;
    let mode = CHARACTER as usize | mode;
    // SAFETY: mknodat(2) reads a NUL-terminated path.
    unsafe { raw(nr::MKNODAT, [word(directory.0), text(path), mode, numbers, 0, 0]) }.map(drop)
}

pub(crate) fn unlink(directory: Raw, path: &CStr) -> Result<()> {
    // SAFETY: unlinkat(2) reads a NUL-terminated path.
    unsafe { raw(nr::UNLINKAT, [word(directory.0), text(path), 0, 0, 0, 0]) }.map(drop)
}

pub(crate) fn remove_folder(directory: Raw, path: &CStr) -> Result<()> {
    const REMOVE_FOLDER: usize = 0x200;
    // SAFETY: unlinkat(2) reads a NUL-terminated path.
    unsafe { raw(nr::UNLINKAT, [word(directory.0), text(path), REMOVE_FOLDER, 0, 0, 0]) }.map(drop)
}

pub(crate) fn symlink(target: &CStr, directory: Raw, path: &CStr) -> Result<()> {
    // SAFETY: symlinkat(2) reads two NUL-terminated paths.
    unsafe { raw(nr::SYMLINKAT, [text(target), word(directory.0), text(path), 0, 0, 0]) }.map(drop)
}

pub(crate) fn link(from: Raw, old: &CStr, to: Raw, new: &CStr) -> Result<()> {
    // SAFETY: linkat(2) reads two NUL-terminated paths.
    unsafe { raw(nr::LINKAT, [word(from.0), text(old), word(to.0), text(new), 0, 0]) }.map(drop)
}

pub(crate) fn chmod(file: Raw, mode: usize) -> Result<()> {
    // SAFETY: fchmod(2) takes numbers only.
    unsafe { raw(nr::FCHMOD, [word(file.0), mode, 0, 0, 0, 0]) }.map(drop)
}

pub(crate) fn chmod_path(directory: Raw, path: &CStr, mode: usize) -> Result<()> {
    // SAFETY: fchmodat(2) reads a NUL-terminated path.
    unsafe { raw(nr::FCHMODAT, [word(directory.0), text(path), mode, 0, 0, 0]) }.map(drop)
}

pub(crate) fn chown_path(directory: Raw, path: &CStr, uid: u32, gid: u32) -> Result<()> {
    // SAFETY: fchownat(2) reads a NUL-terminated path.
    unsafe { raw(nr::FCHOWNAT, [word(directory.0), text(path), uid as usize, gid as usize, 0, 0]) }.map(drop)
}

/// Sets both times of an open file.
pub(crate) fn set_times(file: Raw, seconds: i64) -> Result<()> {
    let times = [seconds, 0, seconds, 0];
    // SAFETY: utimensat(2) without a path reads two `struct timespec` of two 64-bit fields.
    unsafe { raw(nr::UTIMENSAT, [word(file.0), 0, times.as_ptr() as usize, 0, 0, 0]) }.map(drop)
}

/// Reads a symbolic link; the answer is its whole length, cut to the buffer's.
pub(crate) fn read_link(directory: Raw, path: &CStr, buffer: &mut [u8]) -> Result<usize> {
    // SAFETY: readlinkat(2) reads a NUL-terminated path and writes at most `buffer.len()` bytes.
    unsafe {
        raw(nr::READLINKAT, [word(directory.0), text(path), buffer.as_mut_ptr() as usize, buffer.len(), 0, 0])
    }
}

/// Reads records of a directory; 0 is the end.
pub(crate) fn read_directory(directory: Raw, buffer: &mut [u8]) -> Result<usize> {
    // SAFETY: getdents64(2) writes at most `buffer.len()` bytes.
    unsafe { raw(nr::GETDENTS64, [word(directory.0), buffer.as_mut_ptr() as usize, buffer.len(), 0, 0, 0]) }
}

pub(crate) fn change_directory(path: &CStr) -> Result<()> {
    // SAFETY: chdir(2) reads a NUL-terminated path.
    unsafe { raw(nr::CHDIR, [text(path), 0, 0, 0, 0, 0]) }.map(drop)
}

pub(crate) fn change_directory_to(directory: Raw) -> Result<()> {
    // SAFETY: fchdir(2) takes a number only.
    unsafe { raw(nr::FCHDIR, [word(directory.0), 0, 0, 0, 0, 0]) }.map(drop)
}

/// Maps `length` private bytes: of a file, or zeros.
pub(crate) fn map(file: Option<Raw>, length: usize) -> Result<*mut u8> {
    const READ_WRITE: usize = 3;
    const PRIVATE: usize = 2;
    const ANONYMOUS: usize = 0x20;
    let (flags, number) = match file {
        Some(file) => (PRIVATE, word(file.0)),
        None => (PRIVATE | ANONYMOUS, word(-1)),
    };
    // SAFETY: mmap(2) without an address touches no existing mapping.
    let start = unsafe { raw(nr::MMAP, [0, length, READ_WRITE, flags, number, 0]) }?;
    Ok(ptr::with_exposed_provenance_mut(start))
}

/// Undoes `map`; the caller keeps no reference.
pub(crate) fn unmap(start: *mut u8, length: usize) {
    // SAFETY: only `mem::Pages` calls this, once, with what `map` gave it and no borrow alive.
    let _ = unsafe { raw(nr::MUNMAP, [start as usize, length, 0, 0, 0, 0]) };
}
