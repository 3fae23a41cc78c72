//! The program that makes one sandbox and lives in it.
//!
//! It is executed afresh for every sandbox, so nothing of the program that embeds the SDK is in its memory.
//! First it is the *launcher*: on the host, trusted, watching. It makes the namespaces around a copy of
//! itself, the *init*: process 1 of the sandbox, which builds the root and starts the job's processes.
//!
//! ```text
//! supervisor --lifeline--> launcher --kills--> init --starts--> the job's processes
//!            --control--------------------->
//! ```
//!
//! Whoever loses the end of its line dies: the launcher when the supervisor is gone, after it has killed the
//! init; the init when launcher or supervisor is gone, and with it, by the kernel's rule for process 1,
//! everything inside.
//!
//! It uses no library, not even C's: what runs with privileges is what stands in this folder.

#![no_std]
#![no_main]
#![deny(unsafe_op_in_unsafe_fn)]
#![warn(clippy::pedantic, clippy::undocumented_unsafe_blocks)]
// Words have 64 bits on both architectures, and the kernel's numbers are what their types say.
#![allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)]
// Registers and system calls have the names that they have.
#![allow(clippy::many_single_char_names, clippy::similar_names)]

mod alarm;
mod archive;
mod call;
mod devices;
mod extract;
mod failure;
mod files;
mod folder;
mod init;
mod landlock;
mod launch;
mod limits;
mod mem;
mod mounts;
mod nr;
mod overlay;
mod packets;
mod proc;
mod rights;
mod root;
mod secrets;
mod serve;
mod sockets;
mod spawn;
mod sys;
mod tar;
mod task;
mod terminal;
mod text;
#[allow(dead_code, unused_imports)] // The supervisor's half of it.
mod wire;

use core::arch::global_asm;
use core::panic::PanicInfo;

// The kernel starts a program with the stack pointer at the argument count (System V ABI, "process
// initialization"). A function expects it aligned to 16 bytes and no frame above.
#[cfg(target_arch = "x86_64")]
global_asm!(".globl _start", "_start:", "xor ebp, ebp", "and rsp, -16", "call {start}", start = sym start);
#[cfg(target_arch = "aarch64")]
global_asm!(".globl _start", "_start:", "mov x29, xzr", "mov x30, xzr", "bl {start}", start = sym start);

extern "C" fn start() -> ! {
    launch::run()
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    task::exit(101)
}

/// Referenced by the unwinding tables of the precompiled `core`; nothing unwinds here.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
