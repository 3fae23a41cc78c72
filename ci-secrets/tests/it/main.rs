//! The tests of `ci-secrets`, in one binary.

mod attacks;
mod bench;
mod broken;
mod broken_rotation;
mod erasure;
mod faults;
mod file_root;
#[cfg(feature = "identity")]
mod identity;
mod kits;
mod masker_kit;
mod masking;
#[cfg(target_os = "linux")]
mod memory;
#[cfg(feature = "identity")]
mod pyjwt;
mod rotation;
#[cfg(all(unix, feature = "ssh-agent"))]
mod ssh_agent;
mod ssh_keys;
#[cfg(all(unix, feature = "ssh-agent"))]
mod ssh_server;
mod vault;
