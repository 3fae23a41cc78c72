//! Conformance kits: what every secret store, key ring, root key and masker must do, as tests that an
//! implementor runs.
//!
//! Each kit is a macro that takes a closure which sets up what is tested, and becomes one `#[test]` per case. A
//! case panics when it fails.
//!
//! | Kit | Tests | Is given |
//! |---|---|---|
//! | [`secret_store_kit!`](crate::secret_store_kit) | a [`SecretStore`](ci_core::secret::SecretStore) | [`StoreUnderTest`](secret_store::StoreUnderTest) |
//! | [`hostile_kit!`](crate::hostile_kit) | a store whose records somebody else can write to | [`HostileUnderTest`](hostile::HostileUnderTest) |
//! | [`key_ring_kit!`](crate::key_ring_kit) | a [`KeyRing`](ci_core::secret::KeyRing) | `Arc<dyn KeyRing>` |
//! | [`key_rotation_kit!`](crate::key_rotation_kit) | the same, when keys rotate | [`Rotating`](key_ring::Rotating) |
//! | [`root_key_kit!`](crate::root_key_kit) | a [`RootKey`](crate::RootKey) | [`RootsUnderTest`](root_key::RootsUnderTest) |
//! | [`remote_root_key_kit!`](crate::remote_root_key_kit) | a [`RootKey`](crate::RootKey) at a provider that fails | [`RemoteUnderTest`](root_key::remote::RemoteUnderTest) |
//! | [`masker_kit!`](crate::masker_kit) | a [`Masker`](ci_core::secret::Masker) | `Arc<dyn Masker>` |
//! | [`ssh_signer_kit!`](crate::ssh_signer_kit) | an [`SshSigner`](ci_core::secret::SshSigner) | `Arc<dyn SshSigner>` |
//! | [`token_issuer_kit!`](crate::token_issuer_kit) | a [`TokenIssuer`](ci_core::identity::TokenIssuer) | `Arc<dyn TokenIssuer>` |
//!
//! What fails around them, on purpose: a store of records is [`FaultyRecords`](ci_core::conformance::FaultyRecords), a root
//! key [`FaultyRoot`](root_key::FaultyRoot), and the clock that jumps
//! [`ManualClock`](ci_core::clock::ManualClock::jump_to).
//!
//! # How to run them
//!
//! The `Cargo.toml` of an implementor's crate, beside whatever else is in it:
//!
//! ```toml
//! [dependencies]
//! ci-core = "0.1"
//!
//! [dev-dependencies]
//! ci-secrets = { version = "0.1", features = ["conformance"] }
//! ```
//!
//! The feature turns on `conformance` and `memory` of `ci-core`, for the tests only; they need no other
//! dependency. A crate that depends on `ci-secrets` anyway, for [`RootKey`](crate::RootKey), names it in both places.
//!
//! One file of tests, `tests/kits.rs`, with a module for each kit, because a kit's cases are functions beside each
//! other:
//!
//! ```
//! use std::sync::Arc;
//! use ci_core::conformance::Setup;
//! use ci_core::memory::Rig;
//! use ci_core::secret::{KeyRing, Masker};
//! use ci_secrets::conformance::root_key::RootsUnderTest;
//! use ci_secrets::conformance::secret_store::StoreUnderTest;
//! # use ci_core::memory::{Masking as MyMasker, Ring as MyRing, Secrets as MyStore};
//! # use ci_secrets::FileRoot;
//!
//! async fn store() -> Setup<StoreUnderTest> {
//!     let rig = Rig::new().expect("a rig"); // records, an audit log and a clock for the store to use
//!     let store = Arc::new(MyStore::new(rig.audit.clone(), rig.clock.clone()));
//!     Setup::ready(StoreUnderTest { store, audit: rig.audit })
//! }
//!
//! async fn ring() -> Setup<Arc<dyn KeyRing>> {
//!     Setup::ready(Arc::new(MyRing::new()))
//! }
//!
//! async fn roots() -> Setup<RootsUnderTest> {
//!     let folder = tempfile::tempdir().expect("a folder");
//!     let root = |name| Arc::new(FileRoot::create(folder.path().join(name)).expect("a root key"));
//!     Setup::with_guard(RootsUnderTest { one: root("one"), other: root("other") }, folder)
//! }
//!
//! async fn masker() -> Setup<Arc<dyn Masker>> {
//!     Setup::ready(Arc::new(MyMasker::new()))
//! }
//!
//! mod secret_store {
//!     ci_secrets::secret_store_kit!(super::store);
//! }
//! mod key_ring {
//!     ci_secrets::key_ring_kit!(super::ring);
//! }
//! mod root_key {
//!     ci_secrets::root_key_kit!(super::roots);
//! }
//! mod masker {
//!     ci_secrets::masker_kit!(super::masker);
//! }
//! # fn main() {
//! #     use ci_core::conformance::run;
//! #     use ci_secrets::conformance as kits;
//! #     run("store", store, kits::secret_store::a_leased_value_is_what_was_set);
//! #     run("ring", ring, kits::key_ring::what_is_sealed_opens);
//! #     run("roots", roots, kits::root_key::what_is_wrapped_unwraps);
//! #     run("masker", masker, kits::masker::a_value_is_hidden);
//! # }
//! ```
//!
//! The setup is called anew for every case, and makes something that no other case uses: cases run at the same time.
//! What must outlive it (a temporary folder, a server) goes into
//! [`Setup::with_guard`](ci_core::conformance::Setup::with_guard). Where there is nothing to test, it answers
//! [`Setup::Skip`](ci_core::conformance::Setup::Skip), which is a failure under `CI_REQUIRE`.

#![allow(clippy::missing_panics_doc, reason = "every case panics when it fails: that is what it is for")]
#![allow(clippy::unused_async, reason = "a case of a kit is async, whether or not it waits")]

pub mod hostile;
pub mod key_ring;
pub mod masker;
mod remembered;
pub mod root_key;
pub mod secret_store;
pub mod ssh_signer;
pub mod token_issuer;

use ci_core::id::{RepositoryId, SecretName, UserId};
use ci_core::memory::Rig;
use ci_core::{ErrorKind, Result};

/// Reads `bytes` as the opened list of a repository's secrets and writes it again, for a fuzz target.
#[doc(hidden)]
pub fn rewritten_manifest(bytes: &[u8]) -> Option<Vec<u8>> {
    crate::vault::rewritten_manifest(bytes)
}

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
