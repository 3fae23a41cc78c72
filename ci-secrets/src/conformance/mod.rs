//! Conformance kits: what every secret store, key ring, root key and masker must do, as tests that an
//! implementor runs.
//!
//! Each kit is a macro that takes a closure which sets up what is tested, and becomes one `#[test]` per case. A
//! case panics when it fails.
//!
//! | Kit | Tests | Is given |
//! |---|---|---|
//! | [`secret_store_kit!`](crate::secret_store_kit) | a [`SecretStore`](ci_core::secret::SecretStore) | [`StoreUnderTest`](secret_store::StoreUnderTest) |
//! | [`key_ring_kit!`](crate::key_ring_kit) | a [`KeyRing`](ci_core::secret::KeyRing) | `Arc<dyn KeyRing>` |
//! | [`root_key_kit!`](crate::root_key_kit) | a [`RootKey`](crate::RootKey) | [`RootsUnderTest`](root_key::RootsUnderTest) |
//! | [`masker_kit!`](crate::masker_kit) | a [`Masker`](ci_core::secret::Masker) | `Arc<dyn Masker>` |
//!
//! # Example
//!
//! ```
//! use std::sync::Arc;
//!
//! use ci_core::conformance::Setup;
//! use ci_core::secret::Masker;
//! use ci_secrets::PlainMasker;
//!
//! mod plain {
//!     # use super::*;
//!     ci_secrets::masker_kit!(async || Setup::ready(Arc::new(PlainMasker::new()) as Arc<dyn Masker>));
//! }
//! # fn main() {}
//! ```

#![allow(clippy::missing_panics_doc, reason = "every case panics when it fails: that is what it is for")]
#![allow(clippy::unused_async, reason = "a case of a kit is async, whether or not it waits")]

pub mod key_ring;
pub mod masker;
pub mod root_key;
pub mod secret_store;

use ci_core::id::{RepositoryId, SecretName, UserId};
use ci_core::memory::Rig;
use ci_core::{ErrorKind, Result};

fn rig() -> Rig {
    Rig::new().expect("a rig")
}

fn user() -> UserId {
    Rig::user("ada").expect("a person")
}

fn repository(native: &str) -> RepositoryId {
    Rig::repository(native, "acme").expect("a repository")
}

fn name(text: &str) -> SecretName {
    SecretName::parse(text).expect("a secret's name")
}

/// That `result` is an error of one of `kinds`.
#[track_caller]
fn refused<T>(result: Result<T>, kinds: &[ErrorKind], what: &str) {
    match result {
        Ok(_) => panic!("{what}: it was allowed"),
        Err(error) => assert!(kinds.contains(&error.kind()), "{what}: {error:?} is none of {kinds:?}"),
    }
}
