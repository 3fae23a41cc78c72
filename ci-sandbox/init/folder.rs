//! What stands in a folder, and which folder a path leads to.

use core::ffi::CStr;

use crate::sys::{self, Errno, Raw, Result};
use crate::tar::LONGEST_PATH;

/// Calls `see` with every name in an open folder, `.` and `..` left out.
pub(crate) fn each_name<E>(
    folder: Raw,
    unreadable: impl Fn(Errno) -> E,
    mut see: impl FnMut(&CStr) -> Result<(), E>,
) -> Result<(), E> {
    let mut records = [0; 4096];
    loop {
        let filled = sys::read_directory(folder, &mut records).map_err(&unreadable)?;
        if filled == 0 {
            return Ok(());
        }
        for name in Names(&records[..filled]) {
            if name != c"." && name != c".." {
                see(name)?;
            }
        }
    }
}

/// The names in records of getdents64(2): inode and offset (8 bytes each), length (2), kind (1), name, NUL.
pub(crate) struct Names<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Names<'a> {
    type Item = &'a CStr;

    fn next(&mut self) -> Option<&'a CStr> {
        let length = u16::from_ne_bytes(self.0.get(16..18)?.try_into().ok()?) as usize;
        let (record, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        CStr::from_bytes_until_nul(record.get(19..)?).ok()
    }
}

/// Where the last part of a path stands, written into `room`, which is zero, and that part.
pub(crate) fn split<'a, 'b>(
    path: &'a CStr,
    room: &'b mut [u8; LONGEST_PATH],
) -> Result<(&'b CStr, &'a CStr)> {
    let bytes = path.to_bytes_with_nul();
    let start = path.to_bytes().iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    let name = CStr::from_bytes_with_nul(&bytes[start..]).unwrap_or(path);
    let folder = room[..LONGEST_PATH - 1].get_mut(..start).ok_or(Errno::ENAMETOOLONG)?;
    folder.copy_from_slice(&bytes[..start]);
    match CStr::from_bytes_until_nul(room) {
        Ok(folder) if start > 0 => Ok((folder, name)),
        _ => Ok((c".", name)),
    }
}
