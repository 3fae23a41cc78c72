//! Short texts for the kernel: lines, paths and numbers, without an allocator.

use core::ffi::CStr;

/// A short text with its NUL.
pub(crate) struct Line([u8; 64]);

impl Line {
    /// Parts put together.
    pub(crate) fn of<const PARTS: usize>(parts: [&[u8]; PARTS]) -> Self {
        let mut line = Self([0; 64]);
        let last = line.0.len() - 1;
        for (place, byte) in line.0[..last].iter_mut().zip(parts.into_iter().flatten()) {
            *place = *byte;
        }
        line
    }

    /// Words with spaces between them.
    pub(crate) fn new([first, second, third]: [&[u8]; 3]) -> Self {
        Self::of([first, b" ", second, b" ", third])
    }

    pub(crate) fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.0).unwrap_or(c"")
    }

    pub(crate) fn get(&self) -> &[u8] {
        self.as_c_str().to_bytes()
    }
}

/// A number in decimal, with a NUL.
pub(crate) struct Digits {
    bytes: [u8; 11],
    start: usize,
}

impl Digits {
    pub(crate) fn of(mut number: u32) -> Self {
        let mut bytes = [0; 11];
        let mut start = bytes.len() - 1;
        loop {
            start -= 1;
            bytes[start] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                return Self { bytes, start };
            }
        }
    }

    pub(crate) fn get(&self) -> &[u8] {
        self.as_c_str().to_bytes()
    }

    pub(crate) fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_with_nul(&self.bytes[self.start..]).unwrap_or(c"")
    }
}
