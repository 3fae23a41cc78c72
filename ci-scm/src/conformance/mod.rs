//! What every forge must do, as tests that a backend of your own can run.
//!
//! A kit is called once, with a closure that makes a fresh bench for every case, and becomes one `#[test]` per case
//! ([`declare_kit!`](ci_core::declare_kit)):
//!
//! ```
//! use std::sync::Arc;
//! use ci_core::conformance::Setup;
//! use ci_scm::conformance::permission::Bench;
//!
//! mod permissions {
//!     # use super::*;
//!     ci_scm::permission_source_kit!(async || Setup::ready(super::my_forge()));
//! }
//!
//! fn my_forge() -> Arc<dyn Bench> {
//!     todo!("your forge, and the hands that change it")
//! }
//! # fn main() {}
//! ```
//!
//! [`permission::Bench`] and [`source::Bench`] are what a case needs to move a forge: they are written by whoever
//! tests one.

pub mod permission;
pub mod source;
mod tar;
