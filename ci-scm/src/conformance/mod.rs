//! What every forge must do, as tests that a backend of your own can run.
//!
//! A kit is called once, with a closure that makes a fresh bench for every case, and becomes one `#[test]` per case
//! ([`declare_kit!`](ci_core::declare_kit)). The bench is what a case needs to move a forge, and is written by
//! whoever tests one:
//!
//! | Kit | Bench | What it is about |
//! |---|---|---|
//! | [`permission_source_kit!`](crate::permission_source_kit) | [`permission::Bench`] | a [`PermissionSource`](ci_core::access::PermissionSource) |
//! | [`source_kit!`](crate::source_kit) | [`source::Bench`] | a [`Source`](ci_core::forge::Source) |
//!
//! A bench that needs a server which is not here returns [`Setup::Skip`](ci_core::conformance::Setup::Skip): a skip
//! is counted, and is not a pass.

pub mod permission;
pub mod source;
mod tar;
