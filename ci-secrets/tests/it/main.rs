//! The tests of `ci-secrets`, in one binary.

mod attacks;
mod bench;
mod broken;
mod broken_roots;
mod faults;
mod file_root;
mod kits;
#[cfg(all(feature = "kms", feature = "transit"))]
mod kms_root;
mod masker_kit;
mod masking;
mod passphrase_root;
#[cfg(all(feature = "kms", feature = "transit"))]
mod providers;
#[cfg(all(feature = "kms", feature = "transit"))]
mod python;
mod root_faults;
#[cfg(all(feature = "kms", feature = "transit"))]
mod transit_root;
mod vault;
