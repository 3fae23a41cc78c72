//! The tests of `ci-secrets`, in one binary.

mod attacks;
mod bench;
mod broken;
mod faults;
#[cfg(unix)]
mod file_anchor;
mod file_root;
mod kits;
mod manifest;
mod masker_kit;
mod masking;
mod toy;
mod vault;
