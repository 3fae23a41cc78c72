//! The language of an embeddable CI SDK: ids, capabilities, jobs, ports, and the [`Runner`](runner::Runner) that
//! composes them.
//!
//! Who builds a CI product or a runner calls what is here; who writes a backend implements the traits that are
//! here. The crate has no backend of its own but the ones in memory (feature `memory`).
//!
//! # Capabilities
//!
//! Everything guarded asks for one of three values. Ports return facts; only this crate makes the values.
//!
//! - [`access::Grant`]: a *person's* fresh permission for one repository, made by [`access::Authority`].
//! - [`queue::Claim`]: a *job's* right to act, made by [`queue::Dispatcher`] from a sealed ticket.
//! - [`operator::Act`]: one recorded use of the [`Operator`](operator::Operator)'s power.
//!
//! # Ports
//!
//! | Port | What it is asked |
//! |---|---|
//! | [`access::PermissionSource`] | what may this person do? |
//! | [`forge::SignIn`], [`forge::Hooks`], [`forge::Checks`], [`forge::Source`] | who is it, what happened, tell how it went, get the code |
//! | [`sandbox::Backend`], [`sandbox::Instance`], [`sandbox::Process`] | run this, isolated, and leave nothing |
//! | [`secret::SecretStore`], [`secret::KeyRing`], [`secret::Masker`], [`secret::SshSigner`], [`secret::FreshnessAnchor`] | keep, lease and hide secrets |
//! | [`identity::TokenIssuer`] | prove who a job is |
//! | [`records::Records`], [`queue::Queue`], [`log::LogStore`] | keep rows, work and output |
//! | [`artifact::ArtifactStore`], [`cache::CacheStore`] | keep files |
//! | [`clock::Clock`] | what time is it? |
//! | [`runner::Observer`] | look: this happened |
//!
//! Ports are small, object-safe and used as `Arc<dyn _>`. A method's documentation is the contract that an
//! implementor signs; the conformance kits of the domain crates check it.

#![forbid(unsafe_code)]

pub mod access;
pub mod artifact;
pub mod audit;
pub mod cache;
pub mod clock;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod error;
mod external;
pub mod forge;
pub mod id;
pub mod identity;
pub mod job;
pub mod log;
#[cfg(feature = "memory")]
pub mod memory;
pub mod network;
pub mod operator;
pub mod outcome;
pub mod queue;
pub mod records;
pub mod runner;
pub mod sandbox;
pub mod seal;
pub mod secret;
pub mod stream;
pub mod trust;
mod units;

pub use error::{Error, ErrorKind, Result};
pub use external::External;
pub use stream::ByteStream;
pub use units::ByteSize;
