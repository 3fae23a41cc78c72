//! The tests of `ci-secrets`, in one binary.

mod attacks;
mod bench;
mod broken;
mod faults;
mod file_root;
mod kits;
mod masker_kit;
mod masking;
mod passphrase_root;
mod vault;
