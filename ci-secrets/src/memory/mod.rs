//! This process's memory, which holds keys: who else may read it.
//!
//! What is done everywhere: keys and values lie in boxes that wipe them when they are dropped, which are as large as
//! they have to be from the start, so that nothing is left behind in a smaller one. Unwrapped keys are dropped after a
//! short time.
//!
//! What is not done: keys do not lie in memory of `memfd_secret(2)`, which even the kernel cannot read on behalf of
//! others. Mapping such memory and pointing to it takes code that the compiler cannot check, which this crate forbids.
//! The crates that would hide it were looked at: `memsec` 0.7 offers it as unsafe functions only; `memfd-secret` 1.0
//! has safe ones, but is one author's, without an audit that anybody could name; `secmem-alloc` locks memory and wipes
//! it, but does not hide it; `rustix` has no such call. It would also protect less than it seems: a cipher copies its
//! key to the stack and to registers wherever that key lies.

#[cfg(target_os = "linux")]
mod harden;

#[cfg(target_os = "linux")]
pub use self::harden::harden_process;
