//! Looking through folders and files.

use core::ffi::CStr;

use crate::nr;
use crate::sys::{Errno, O_DIRECTORY, O_RDONLY, Page, Result, ask, number, open, read};

/// A path of formatted parts.
macro_rules! path_of {
    ($($text:tt)*) => { $crate::sys::Page::text($crate::verdict::line!($($text)*).as_bytes()) };
}
pub(crate) use path_of;

/// Calls `each` with the names in a folder, for as long as it wants more.
pub(crate) fn names(folder: &CStr, mut each: impl FnMut(&CStr) -> bool) -> Result<()> {
    let folder = open(folder, O_RDONLY | O_DIRECTORY)?;
    let mut page = Page::new();
    loop {
        let filled = ask!(nr::GETDENTS64, folder.0, &mut page, Page::SIZE)?;
        if filled == 0 {
            return Ok(());
        }
        let mut rest = &page.bytes()[..filled];
        // struct linux_dirent64: inode, offset, the record's length, a kind, the name.
        while rest.len() > 19 {
            let length = usize::from(u16::from_ne_bytes([rest[16], rest[17]]));
            let name = CStr::from_bytes_until_nul(&rest[19..length]).unwrap_or(c"");
            if !matches!(name.to_bytes(), b"." | b"..") && !each(name) {
                return Ok(());
            }
            rest = &rest[length..];
        }
    }
}

/// Calls `each` with every process that `/proc` shows.
pub(crate) fn processes(mut each: impl FnMut(usize)) -> Result<()> {
    names(c"/proc", |name| {
        if name.to_bytes().iter().all(u8::is_ascii_digit) {
            each(number(name.to_bytes()));
        }
        true
    })
}

/// Whether `needle` is in `hay`.
pub(crate) fn contains(hay: &[u8], needle: &[u8]) -> bool {
    !needle.is_empty() && hay.windows(needle.len()).any(|window| window == needle)
}

/// Whether `needle` is in the first MiB of a file.
pub(crate) fn file_contains(path: &CStr, needle: &[u8]) -> Result<bool> {
    const MOST: usize = 256;
    let file = open(path, O_RDONLY)?;
    // What the last page ended with stands before the next one.
    let mut window = [0_u8; Page::SIZE + 256];
    let keep = needle.len().min(256);
    let mut kept = 0;
    let mut page = Page::new();
    for _ in 0..MOST {
        let filled = read(file.0, &mut page)?;
        if filled == 0 {
            return Ok(false);
        }
        window[kept..kept + filled].copy_from_slice(&page.bytes()[..filled]);
        let length = kept + filled;
        if contains(&window[..length], needle) {
            return Ok(true);
        }
        let next = length.min(keep);
        window.copy_within(length - next..length, 0);
        kept = next;
    }
    Ok(false)
}

/// Where a symbolic link leads.
pub(crate) fn link(path: &CStr) -> Result<Page> {
    let mut target = Page::new();
    ask!(nr::READLINKAT, crate::sys::CWD, path, &mut target, Page::SIZE - 1)?;
    Ok(target)
}

/// What statx(2) says of a path, without following a link at its end: the mode, and the device that it is.
pub(crate) fn kind(path: &CStr) -> Result<(u32, [u32; 2])> {
    const NO_FOLLOW: usize = 0x100;
    const BASIC: usize = 0x7ff;
    let mut stat = Page::new();
    ask!(nr::STATX, crate::sys::CWD, path, NO_FOLLOW, BASIC, &mut stat)?;
    Ok((stat.u32(28) & 0xffff, [stat.u32(128), stat.u32(132)]))
}

/// The magic number of the file system that a path is on.
pub(crate) fn file_system(path: &CStr) -> Result<u64> {
    let mut stat = Page::new();
    ask!(nr::STATFS, path, &mut stat)?;
    Ok(stat.u64(0))
}

/// The value of a line of `/proc/PID/status`.
pub(crate) fn status_field<'a>(status: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    status.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(name)?.strip_prefix(b":\t"))
}

/// The status of a process.
pub(crate) fn status(pid: usize) -> Result<Page, Errno> {
    let mut page = Page::new();
    crate::sys::read_start(path_of!("/proc/{pid}/status").as_text(), &mut page)?;
    Ok(page)
}

/// A hexadecimal number.
pub(crate) fn hexadecimal(text: &[u8]) -> u64 {
    text.iter().fold(0, |number, digit| match char::from(*digit).to_digit(16) {
        Some(digit) => number << 4 | u64::from(digit),
        None => number,
    })
}

/// Text for people.
pub(crate) fn shown(text: &CStr) -> &str {
    text.to_str().unwrap_or("(not text)")
}
