//! What stands in a folder.

use core::ffi::CStr;

use crate::sys::{self, Raw, Result};

/// Calls `see` with every name in an open folder, `.` and `..` left out.
pub(crate) fn each_name<E>(
    folder: Raw,
    unreadable: impl Fn(sys::Errno) -> E,
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
