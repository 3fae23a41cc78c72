//! The tests of `ci-secrets`, in one binary.

mod attacks;
mod bench;
mod broken;
mod broken_rotation;
mod erasure;
mod faults;
mod file_root;
mod kits;
mod masker_kit;
mod masking;
#[cfg(target_os = "linux")]
mod memory;
mod rotation;
mod vault;
