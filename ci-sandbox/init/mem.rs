//! What compiled code expects to find without a C library, and memory from the kernel.

#[cfg(target_arch = "x86_64")]
use core::arch::asm;
use core::slice;

use crate::sys::{self, Raw};

/// Memory of its own pages: zero at first, given back to the kernel (which clears it) when dropped.
pub(crate) struct Pages {
    start: *mut u8,
    length: usize,
}

impl Pages {
    /// `length` bytes of zeros.
    pub(crate) fn zeroed(length: usize) -> sys::Result<Self> {
        let length = length.max(1);
        Ok(Self { start: sys::map(None, length)?, length })
    }

    /// A private view of the first `length` bytes of a memory file, so that its content is never copied.
    pub(crate) fn of_file(file: Raw, length: usize) -> sys::Result<Self> {
        Ok(Self { start: sys::map(Some(file), length)?, length })
    }

    /// The bytes.
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: mmap(2) gave `length` readable and writable private bytes at `start`, page aligned, and they
        // stay until `drop`; the only reference to them is borrowed from `self`.
        unsafe { slice::from_raw_parts_mut(self.start, self.length) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        sys::unmap(self.start, self.length);
    }
}

/// `memcpy(3)`.
///
/// # Safety
///
/// `length` bytes must be valid to read at `from` and to write at `to`, without overlap.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    // SAFETY: the caller's promise is that of `forward`, and more.
    unsafe { forward(to, from, length) };
    to
}

/// `memmove(3)`.
///
/// # Safety
///
/// `length` bytes must be valid to read at `from` and to write at `to`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= length {
        // SAFETY: `to` is not inside what is still to be read, so copying upwards never reads a written byte.
        unsafe { forward(to, from, length) };
    } else {
        for index in (0..length).rev() {
            // SAFETY: index < length. Volatile, so that the compiler does not turn this into a call of itself.
            unsafe { to.add(index).write_volatile(from.add(index).read_volatile()) };
        }
    }
    to
}

/// `memset(3)`.
///
/// # Safety
///
/// `length` bytes must be valid to write at `to`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, length: usize) -> *mut u8 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: `rep stosb` writes rcx bytes at rdi, which the caller promised; the direction flag is clear by
    // the calling convention.
    unsafe {
        asm!("rep stosb", inout("rcx") length => _, inout("rdi") to => _, in("al") value as u8,
             options(nostack, preserves_flags));
    }
    #[cfg(not(target_arch = "x86_64"))]
    for index in 0..length {
        // SAFETY: index < length. Volatile, so that the compiler does not turn this into a call of itself.
        unsafe { to.add(index).write_volatile(value as u8) };
    }
    to
}

/// `memcmp(3)`.
///
/// # Safety
///
/// `length` bytes must be valid to read at `a` and at `b`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, length: usize) -> i32 {
    for index in 0..length {
        // SAFETY: index < length.
        let (left, right) = unsafe { (a.add(index).read_volatile(), b.add(index).read_volatile()) };
        if left != right {
            return i32::from(left) - i32::from(right);
        }
    }
    0
}

/// `bcmp(3)`.
///
/// # Safety
///
/// As for `memcmp`.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, length: usize) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { memcmp(a, b, length) }
}

/// `strlen(3)`.
///
/// # Safety
///
/// A NUL must follow at `text`.
#[unsafe(no_mangle)]
unsafe extern "C" fn strlen(text: *const u8) -> usize {
    let mut length = 0;
    // SAFETY: every byte up to the NUL may be read.
    while unsafe { text.add(length).read_volatile() } != 0 {
        length += 1;
    }
    length
}

/// Copies upwards.
///
/// # Safety
///
/// As for `memmove`, and `to` must not lie inside `from + 1 .. from + length`.
unsafe fn forward(to: *mut u8, from: *const u8, length: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: `rep movsb` copies rcx bytes from rsi to rdi, which the caller promised; the direction flag is
    // clear by the calling convention.
    unsafe {
        asm!("rep movsb", inout("rcx") length => _, inout("rdi") to => _, inout("rsi") from => _,
             options(nostack, preserves_flags));
    }
    #[cfg(not(target_arch = "x86_64"))]
    for index in 0..length {
        // SAFETY: index < length. Volatile, so that the compiler does not turn this into a call of memcpy.
        unsafe { to.add(index).write_volatile(from.add(index).read_volatile()) };
    }
}
