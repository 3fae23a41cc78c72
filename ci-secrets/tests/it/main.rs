//! The tests of `ci-secrets`, in one binary.

mod attacks;
mod bench;
mod broken;
mod broken_roots;
mod broken_rotation;
mod erasure;
mod faults;
#[cfg(unix)]
mod file_anchor;
mod file_root;
#[cfg(feature = "identity")]
mod identity;
mod kits;
#[cfg(all(feature = "kms", feature = "transit"))]
mod kms_root;
mod manifest;
mod masker_kit;
mod masking;
#[cfg(target_os = "linux")]
mod memory;
mod passphrase_root;
#[cfg(all(feature = "kms", feature = "transit"))]
mod providers;
#[cfg(feature = "identity")]
mod pyjwt;
#[cfg(all(feature = "kms", feature = "transit"))]
mod python;
mod root_faults;
mod rotation;
#[cfg(all(unix, feature = "ssh-agent"))]
mod ssh_agent;
mod ssh_keys;
#[cfg(all(unix, feature = "ssh-agent"))]
mod ssh_server;
mod toy;
#[cfg(all(feature = "kms", feature = "transit"))]
mod transit_root;
mod vault;
