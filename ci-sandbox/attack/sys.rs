//! Any call of the kernel, in a way that cannot be misused in memory.

use core::ffi::{CStr, c_char};
use core::fmt;
use core::ptr;

use crate::call::raw;
use crate::nr;

/// The kernel's number of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Errno(pub(crate) i32);

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            1 => "EPERM",
            2 => "ENOENT",
            3 => "ESRCH",
            6 => "ENXIO",
            11 => "EAGAIN",
            12 => "ENOMEM",
            13 => "EACCES",
            16 => "EBUSY",
            19 => "ENODEV",
            20 => "ENOTDIR",
            22 => "EINVAL",
            26 => "ETXTBSY",
            27 => "EFBIG",
            28 => "ENOSPC",
            30 => "EROFS",
            38 => "ENOSYS",
            93 => "EPROTONOSUPPORT",
            94 => "ESOCKTNOSUPPORT",
            95 => "EOPNOTSUPP",
            97 => "EAFNOSUPPORT",
            99 => "EADDRNOTAVAIL",
            100 => "ENETDOWN",
            101 => "ENETUNREACH",
            110 => "ETIMEDOUT",
            111 => "ECONNREFUSED",
            113 => "EHOSTUNREACH",
            115 => "EINPROGRESS",
            122 => "EDQUOT",
            other => return write!(f, "error {other}"),
        })
    }
}

pub(crate) type Result<T, E = Errno> = core::result::Result<T, E>;

/// A descriptor that somebody else closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Raw(pub(crate) i32);

/// The working directory, where a call takes a directory.
pub(crate) const CWD: i32 = -100;

/// Memory that the kernel is shown, large enough for whatever a call here reads or writes.
#[repr(C, align(4096))]
pub(crate) struct Page([u8; Page::SIZE]);

impl Page {
    pub(crate) const SIZE: usize = 4096;

    pub(crate) const fn new() -> Self {
        Self([0; Self::SIZE])
    }

    pub(crate) fn bytes(&mut self) -> &mut [u8; Self::SIZE] {
        &mut self.0
    }

    /// Puts a text with its NUL at the start, cut where it is too long.
    pub(crate) fn text(text: &[u8]) -> Self {
        let mut page = Self::new();
        let length = text.len().min(Self::SIZE - 1);
        page.0[..length].copy_from_slice(&text[..length]);
        page
    }

    pub(crate) fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub(crate) fn put_u32(&mut self, at: usize, value: u32) {
        self.put(at, &value.to_ne_bytes());
    }

    pub(crate) fn put_u64(&mut self, at: usize, value: u64) {
        self.put(at, &value.to_ne_bytes());
    }

    pub(crate) fn u32(&self, at: usize) -> u32 {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&self.0[at..at + 4]);
        u32::from_ne_bytes(bytes)
    }

    pub(crate) fn u64(&self, at: usize) -> u64 {
        u64::from(self.u32(at)) | u64::from(self.u32(at + 4)) << 32
    }

    /// Where it lies, for a structure that points to it.
    pub(crate) fn address(&mut self) -> u64 {
        self.0.as_mut_ptr() as u64
    }

    /// The text at the start.
    pub(crate) fn as_text(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.0).unwrap_or(c"")
    }
}

/// One argument of a call.
pub(crate) enum Arg<'a> {
    Number(usize),
    Text(&'a CStr),
    Page(&'a mut Page),
}

impl From<usize> for Arg<'_> {
    fn from(number: usize) -> Self {
        Self::Number(number)
    }
}

impl From<i32> for Arg<'_> {
    fn from(number: i32) -> Self {
        Self::Number((number as isize).cast_unsigned())
    }
}

impl<'a> From<&'a CStr> for Arg<'a> {
    fn from(text: &'a CStr) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a mut Page> for Arg<'a> {
    fn from(page: &'a mut Page) -> Self {
        Self::Page(page)
    }
}

/// Makes a call with up to six numbers, texts and pages.
macro_rules! ask {
    ($number:expr $(, $argument:expr)* $(,)?) => {
        $crate::sys::enter($number, &mut [$($crate::sys::Arg::from($argument)),*])
    };
}
pub(crate) use ask;

/// Makes a call.
///
/// What it may read and write is a page, or ends with a NUL. No call is made through here that maps or unmaps memory or
/// shares it with another process (those have functions of their own), that takes numbers as addresses of this process,
/// or that says that more than a page is at a page's address.
pub(crate) fn enter(number: usize, arguments: &mut [Arg<'_>]) -> Result<usize> {
    let mut words = [0; 6];
    for (word, argument) in words.iter_mut().zip(arguments) {
        *word = match argument {
            Arg::Number(number) => *number,
            Arg::Text(text) => text.as_ptr() as usize,
            Arg::Page(page) => page.0.as_mut_ptr() as usize,
        };
    }
    // SAFETY: all pointers are to a page, which is borrowed for the call and larger than every structure of the calls
    // made here, or to a text with its NUL, which the kernel only reads; the rest are numbers, as said above.
    unsafe { raw(number, words) }
}

pub(crate) const O_RDONLY: usize = 0;
pub(crate) const O_WRONLY: usize = 1;
pub(crate) const O_RDWR: usize = 2;
pub(crate) const O_CREAT: usize = 0o100;
pub(crate) const O_NOCTTY: usize = 0o400;
pub(crate) const O_TRUNC: usize = 0o1000;
pub(crate) const O_NONBLOCK: usize = 0o4000;
pub(crate) const O_CLOEXEC: usize = 0o2_000_000;
pub(crate) const O_DIRECTORY: usize = if cfg!(target_arch = "x86_64") { 0o200_000 } else { 0o40_000 };

/// A descriptor that is closed when dropped.
pub(crate) struct Fd(pub(crate) i32);

impl Drop for Fd {
    fn drop(&mut self) {
        let _ = ask!(nr::CLOSE, self.0);
    }
}

/// Opens a path, without ever waiting for the other end of a pipe.
pub(crate) fn open(path: &CStr, flags: usize) -> Result<Fd> {
    let flags = flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
    ask!(nr::OPENAT, CWD, path, flags, 0o666_usize).map(|number| Fd(number as i32))
}

/// Reads up to a page.
pub(crate) fn read(file: i32, page: &mut Page) -> Result<usize> {
    ask!(nr::READ, file, page, Page::SIZE)
}

/// Reads the start of a file into a page, as far as it goes.
pub(crate) fn read_start(path: &CStr, page: &mut Page) -> Result<usize> {
    let file = open(path, O_RDONLY)?;
    read(file.0, page)
}

/// Writes all of `bytes`, and fails where that is not possible.
pub(crate) fn write_all(file: i32, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        // SAFETY: write(2) reads at most `bytes.len()` bytes of the slice.
        let written = unsafe {
            raw(nr::WRITE, [(file as isize).cast_unsigned(), bytes.as_ptr() as usize, bytes.len(), 0, 0, 0])
        };
        match written {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno(4)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Maps `length` private bytes of zeros, or a file's; [`crate::mem::Pages`] takes care of them.
pub(crate) fn map(file: Option<Raw>, length: usize) -> Result<*mut u8> {
    const READ_WRITE: usize = 3;
    const PRIVATE: usize = 2;
    const ANONYMOUS: usize = 0x20;
    let (flags, number) = match file {
        Some(file) => (PRIVATE, (file.0 as isize).cast_unsigned()),
        None => (PRIVATE | ANONYMOUS, usize::MAX),
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

/// Attaches a segment of shared memory and writes to every page of it. It stays attached until the process ends.
pub(crate) fn fill_segment(segment: usize, length: usize) -> Result<()> {
    // SAFETY: shmat(2) without an address touches no existing mapping.
    let start = unsafe { raw(nr::SHMAT, [segment, 0, 0, 0, 0, 0]) }?;
    let start = ptr::with_exposed_provenance_mut::<u8>(start);
    for at in (0..length).step_by(Page::SIZE) {
        // SAFETY: the segment has `length` bytes, attached at `start` to read and write, and nothing refers to them.
        unsafe { start.add(at).write_volatile(1) };
    }
    Ok(())
}

/// The arguments and variables that the program was started with.
#[derive(Clone, Copy)]
pub(crate) struct Words {
    first: *const *const c_char,
    count: usize,
}

impl Words {
    /// # Safety
    ///
    /// `stack` must be the stack pointer as it was at the program's first instruction.
    pub(crate) unsafe fn of_the_stack(stack: *const usize) -> Self {
        // SAFETY: the count stands there, and pointers to the arguments behind it (System V ABI).
        unsafe { Self { count: *stack, first: stack.add(1).cast() } }
    }

    /// An argument; the first is the program's name. It is empty where there is none.
    pub(crate) fn get(self, index: usize) -> &'static CStr {
        if index < self.count { self.at(index).unwrap_or(c"") } else { c"" }
    }

    pub(crate) fn count(self) -> usize {
        self.count
    }

    /// An argument as a number.
    pub(crate) fn number(self, index: usize) -> usize {
        number(self.get(index).to_bytes())
    }

    /// An argument that is written backwards, so that whoever looks for it does not find it in this program's own.
    pub(crate) fn backwards(self, index: usize) -> Backwards {
        let text = self.get(index).to_bytes();
        let mut word = Backwards { bytes: [0; 128], length: text.len().min(128) };
        for (place, byte) in word.bytes.iter_mut().zip(text.iter().rev()) {
            *place = *byte;
        }
        word
    }

    /// A variable, as `NAME=value`.
    pub(crate) fn variable(self, index: usize) -> Option<&'static CStr> {
        // The arguments end with a null pointer.
        self.at(self.count + 1 + index)
    }

    fn at(self, index: usize) -> Option<&'static CStr> {
        // SAFETY: the callers count no further than to the null pointer that ends the variables, and all others point
        // to texts with their NUL that the kernel has put on the stack.
        unsafe {
            let text = *self.first.add(index);
            (!text.is_null()).then(|| CStr::from_ptr(text))
        }
    }
}

/// A word that was written backwards.
pub(crate) struct Backwards {
    bytes: [u8; 128],
    length: usize,
}

impl Backwards {
    pub(crate) fn get(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// A number in decimal, up to the first byte that is no digit.
pub(crate) fn number(text: &[u8]) -> usize {
    text.iter()
        .take_while(|byte| byte.is_ascii_digit())
        .fold(0, |number, digit| number.wrapping_mul(10).wrapping_add(usize::from(digit - b'0')))
}
