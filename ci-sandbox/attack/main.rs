//! The program that the conformance kit sends into a sandbox to get out of it.
//!
//! `attack P-9` tries the attack of that identifier and says in one line what came of it: `held: what stopped it`,
//! `BROKEN: what it could do`, or `untried: why it cannot be tried here`; with 0, 1 and 77 as exit codes. Words in
//! small letters are not attacks but what the kit needs inside: a program that writes, waits, listens, ends.
//!
//! It uses no library, not even C's, and is one static piece: it runs in any image, also in one that is empty, and
//! makes the kernel's calls with exactly the arguments that an attack is about.
//!
//! Where a guard is missing it does no harm to the machine: what would change something is asked for with arguments
//! that the kernel refuses *after* it has looked whether the caller may, what grows is bounded, and signals go only to
//! processes of which it is known that they are the sandbox's own.

#![no_std]
#![no_main]
#![deny(unsafe_op_in_unsafe_fn)]
#![warn(clippy::pedantic, clippy::undocumented_unsafe_blocks)]
// Words have 64 bits on both architectures, and the kernel's numbers are what their types say.
#![allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)]
// Registers and system calls have the names that they have.
#![allow(clippy::many_single_char_names, clippy::similar_names)]

mod bombs;
#[path = "../init/call.rs"]
mod call;
mod files;
mod kernel;
mod limits;
#[allow(dead_code)] // The init's half of it.
#[path = "../init/mem.rs"]
mod mem;
mod network;
#[macro_use]
#[allow(dead_code)] // The init's half of it.
#[path = "../init/nr.rs"]
mod nr_of_init;
mod nr;
mod outside;
mod process;
mod scan;
mod secrets;
mod streams;
mod sys;
mod task;
mod terminal;
mod tools;
mod verdict;
mod world;

use core::arch::global_asm;
use core::ffi::CStr;
use core::panic::PanicInfo;

use self::sys::Words;
use self::verdict::Verdict;

// The kernel starts a program with the stack pointer at the argument count (System V ABI, "process
// initialization"). A function expects it aligned to 16 bytes and no frame above.
#[cfg(target_arch = "x86_64")]
global_asm!(
    ".globl _start", "_start:", "mov rdi, rsp", "xor ebp, ebp", "and rsp, -16", "call {start}",
    start = sym start
);
#[cfg(target_arch = "aarch64")]
global_asm!(
    ".globl _start", "_start:", "mov x0, sp", "mov x29, xzr", "mov x30, xzr", "bl {start}",
    start = sym start
);

extern "C" fn start(stack: *const usize) -> ! {
    // SAFETY: `_start` hands on the stack pointer as the kernel set it.
    let words = unsafe { Words::of_the_stack(stack) };
    let name = words.get(1);
    if let Some(attack) = attack(name) {
        task::exit(attack(words).tell());
    }
    task::exit(tools::run(name, words));
}

/// The attack of an identifier.
fn attack(name: &CStr) -> Option<fn(Words) -> Verdict> {
    Some(match name.to_bytes() {
        b"P-1" => limits::fork_bomb,
        b"P-7" => process::zombies,
        b"P-8" => process::kill_everything,
        b"P-9" => process::trace_process_one,
        b"P-15" => process::gain_privileges,
        b"P-17" => process::jump_the_queue,
        b"P-18" => limits::start_a_few,
        b"F-1" => files::inherited_descriptors,
        b"F-2" => files::overwrite_the_supervisor,
        b"F-5" => files::devices_are_devices,
        b"F-6" => files::proc_is_proc,
        b"F-7" => kernel::change_mounts,
        b"F-8" => kernel::uncover_in_a_user_namespace,
        b"F-9" => files::devices,
        b"F-10" => files::switches,
        b"F-10-read" => files::tales_of_the_machine,
        b"F-11" => limits::core_dumps,
        b"F-12" => files::control_groups,
        b"F-13" => limits::fill_the_disk,
        b"F-14" => bombs::memory,
        b"F-15" => files::deep_and_many,
        b"F-18" => kernel::write_the_page_cache,
        b"F-19" => files::in_memory_alone,
        b"F-21" => limits::one_watch,
        b"image" => files::write_the_image,
        b"S-1" => kernel::keys,
        b"S-2" => terminal::type_into_it,
        b"S-3" => outside::reach_in,
        b"S-4" => outside::find_messages,
        b"S-5" => kernel::new_namespaces,
        b"S-6" => kernel::administer,
        b"S-7" => kernel::other_doors,
        b"S-8" => kernel::unknown_calls,
        b"S-9" => kernel::confine_further,
        b"S-10" => network::hypervisor_sockets,
        b"S-11" => network::odd_sockets,
        b"S-12" => kernel::personality,
        b"S-13" => kernel::rename_the_host,
        b"S-14" => kernel::turn_the_clock,
        b"S-15" => process::dodge_the_killer,
        b"N-1" => network::devices_and_routes,
        b"N-2" | b"N-3" | b"N-4" => network::reach,
        b"N-3-local" => network::reach_local,
        b"N-5" => world::tunnel,
        b"N-6" => world::forge_packets,
        b"S-2-supervisor" => terminal::take_the_supervisors,
        b"F-3" => files::hostile_image,
        b"R-4" => limits::burn,
        b"R-6" => network::sockets_in_sight,
        b"E-1" => secrets::search,
        b"E-2" => secrets::what_names_the_machine,
        b"namespaces" => outside::namespaces,
        _ => return None,
    })
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    task::exit(101)
}

/// Referenced by the unwinding tables of the precompiled `core`; nothing unwinds here.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
