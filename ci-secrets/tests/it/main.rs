//! The tests of `ci-secrets`, in one binary.

mod attacks;
mod bench;
mod broken;
mod faults;
mod file_root;
mod kits;
mod masker_kit;
mod masking;
#[cfg(all(unix, feature = "ssh-agent"))]
mod ssh_agent;
mod ssh_keys;
#[cfg(all(unix, feature = "ssh-agent"))]
mod ssh_server;
mod vault;
