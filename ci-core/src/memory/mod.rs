//! Every port, in memory.
//!
//! These are what examples and tests run against, and the reference that the conformance kits are checked with.
//! They keep the whole contract of their port and nothing beside: no thread, no file, no server, and no time but
//! that of the clock they are given. What is in them is gone with them.
//!
//! | Idea | Implementation |
//! |---|---|
//! | who somebody is, what they may do | [`People`], [`Permissions`] |
//! | rows and work | [`Database`] |
//! | keys and secrets | [`Ring`], [`Secrets`], [`Masking`], [`Signer`], [`Anchor`] |
//! | proof of who a job is | [`Tokens`] |
//! | output and files | [`Logs`], [`Artifacts`], [`Caches`] |
//! | a forge | [`Forge`] |
//! | a sandbox | [`Scripted`] |
//! | somebody who watches | [`Recorder`] |
//!
//! [`Rig`] wires them together for a test, and makes grants and claims.

mod access;
mod anchor;
mod artifact;
mod cache;
mod database;
mod files;
mod forge;
mod hook;
mod identity;
mod log;
mod mask;
mod observer;
mod process;
mod queue;
mod rig;
mod ring;
mod sandbox;
mod script;
mod secret;
mod signer;
mod tar;

pub use access::{People, Permissions};
pub use anchor::Anchor;
pub use artifact::Artifacts;
pub use cache::Caches;
pub use database::Database;
pub use files::Files;
pub use forge::{Forge, Report};
pub use identity::Tokens;
pub use log::Logs;
pub use mask::Masking;
pub use observer::Recorder;
pub use rig::Rig;
pub use ring::Ring;
pub use sandbox::Scripted;
pub use script::{Call, Reply};
pub use secret::Secrets;
pub use signer::Signer;
