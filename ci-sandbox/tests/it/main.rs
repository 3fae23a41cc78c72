//! The native backend on this machine's kernel: real sandboxes, as root and as an ordinary user.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, missing_docs)]

mod apart;
mod bombs;
mod books;
mod crash;
mod debugging;
mod errand;
mod fairness;
mod filter;
mod holes;
mod hostile;
mod images;
mod inherit;
mod isolation;
mod kit;
mod landlock;
mod life;
mod limits;
mod mounts;
mod network;
mod ordinary;
mod port;
mod routed;
mod secrets;
mod services;
mod shared;
mod streams;
mod support;
mod tar;
mod terminal;
mod transfer;
mod usage;
mod warm;
mod weak;
mod world;
