//! Names of entries: bounded, relative, and never climbing.

use core::ffi::CStr;

use super::read::Problem;
use super::{DEEPEST, LONGEST_PATH};

/// A path with its NUL, in place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Name {
    bytes: [u8; LONGEST_PATH],
    length: usize,
}

impl Name {
    pub(super) const EMPTY: Self = Self { bytes: [0; LONGEST_PATH], length: 0 };

    pub(super) fn clear(&mut self) {
        self.length = 0;
        self.bytes[0] = 0;
    }

    pub(super) fn push<E>(&mut self, more: &[u8]) -> Result<(), Problem<E>> {
        let end = self.length + more.len();
        if end >= LONGEST_PATH || more.contains(&0) {
            return Err(Problem::UnsafeName);
        }
        self.bytes[self.length..end].copy_from_slice(more);
        self.bytes[end] = 0;
        self.length = end;
        Ok(())
    }

    pub(super) fn set<E>(&mut self, text: &[u8]) -> Result<(), Problem<E>> {
        self.clear();
        self.push(text)
    }

    pub(super) fn get(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    pub(super) fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or(c"")
    }

    /// Makes it a relative path that cannot climb.
    pub(super) fn tidy<E>(&mut self) -> Result<(), Problem<E>> {
        if self.bytes[0] == b'/' {
            return Err(Problem::UnsafeName);
        }
        let untidy = *self;
        self.clear();
        let mut depth = 0;
        for part in untidy.get().split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => continue,
                b".." => return Err(Problem::UnsafeName),
                _ if depth > DEEPEST => return Err(Problem::TooDeep),
                _ if depth > 0 => self.push(b"/")?,
                _ => {}
            }
            self.push(part)?;
            depth += 1;
        }
        Ok(())
    }
}
