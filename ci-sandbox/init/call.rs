//! The one instruction that enters the kernel.

use core::arch::asm;

use crate::sys::Errno;

/// Makes one call.
///
/// # Safety
///
/// The arguments must be what the manual page of call `number` demands: every pointer valid for what the
/// kernel reads or writes through it, for as long as it does.
pub(crate) unsafe fn raw(number: usize, arguments: [usize; 6]) -> Result<usize, Errno> {
    let [a, b, c, d, e, f] = arguments;
    let answer: isize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the x86-64 system call convention: number in rax, arguments as below, rcx and r11 overwritten,
    // the stack untouched; what the pointers mean is the caller's promise.
    unsafe {
        asm!("syscall", inlateout("rax") number.cast_signed() => answer, in("rdi") a, in("rsi") b, in("rdx") c,
             in("r10") d, in("r8") e, in("r9") f, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: the AArch64 system call convention: number in x8, arguments in x0 to x5, answer in x0, all other
    // registers and the stack untouched; what the pointers mean is the caller's promise.
    unsafe {
        asm!("svc #0", in("x8") number, inlateout("x0") a.cast_signed() => answer, in("x1") b, in("x2") c,
             in("x3") d, in("x4") e, in("x5") f, options(nostack));
    }
    match answer {
        // The kernel answers -4095 to -1 for errors and never uses them for results.
        -4095..=-1 => Err(Errno(-(answer as i32))),
        _ => Ok(answer.cast_unsigned()),
    }
}
