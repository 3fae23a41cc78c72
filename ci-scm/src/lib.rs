//! Forges for an embeddable CI SDK: who somebody is, what they may do, and the code itself.
//!
//! | Module | Forge |
//! |---|---|
//! | [`git`] | plain git: people and permissions from a file, code by the `git` program |
#![cfg_attr(
    feature = "conformance",
    doc = "| [`conformance`] | none: the tests that every forge must pass |"
)]
//!
//! The ports are those of `ci-core`; they are re-exported here, for one who reads only about forges.

#![forbid(unsafe_code)]

#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(feature = "git")]
pub mod git;

pub use ci_core::access::PermissionSource;
pub use ci_core::forge::{SignIn, Source};
