//! The native backend on this machine's kernel: real sandboxes, as root and as an ordinary user.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, missing_docs)]

mod books;
mod crash;
mod errand;
mod filter;
mod holes;
mod inherit;
mod isolation;
mod kit;
mod life;
mod limits;
mod mounts;
mod ordinary;
mod port;
mod shared;
mod support;
mod tar;
mod transfer;
mod weak;
