//! Implementations that are wrong on purpose: the kits must catch each of them.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use ci_core::Result;
use ci_core::access::Scope;
use ci_core::audit::Audit;
use ci_core::conformance::{Setup, run};
use ci_core::id::KeyId;
use ci_core::memory::{Database, Rig, Ring, Secrets};
use ci_core::seal::{Context, DataKey};
use ci_core::secret::{KeyRing, Purpose, SecretStore};
use ci_secrets::RootKey;
use ci_secrets::conformance::root_key::RootsUnderTest;
use ci_secrets::conformance::secret_store::StoreUnderTest;
use ci_secrets::conformance::{key_ring, root_key, secret_store};
use secrecy::SecretBox;

use crate::bench::{Bench, Switched, exposed};

/// Seals without saying for what.
#[derive(Debug, Default)]
struct PlacelessRing(Ring);

#[async_trait]
impl KeyRing for PlacelessRing {
    async fn seal(&self, scope: Scope<'_>, purpose: &Purpose, plain: &[u8]) -> Result<Bytes> {
        Ok(self.data_key(scope, purpose, None).await?.seal(&Context::new("anything"), plain))
    }

    async fn open(&self, scope: Scope<'_>, purpose: &Purpose, sealed: &[u8]) -> Result<Bytes> {
        let id = ci_core::seal::key_id(sealed)?;
        let key = self.data_key(scope, purpose, Some(&id)).await?;
        Ok(key.open(&Context::new("anything"), sealed)?.to_vec().into())
    }

    async fn data_key(
        &self,
        scope: Scope<'_>,
        purpose: &Purpose,
        id: Option<&KeyId>,
    ) -> Result<Arc<DataKey>> {
        self.0.data_key(scope, purpose, id).await
    }
}

#[test]
#[should_panic(expected = "content that was moved: it was allowed")]
fn a_ring_that_ignores_the_place_is_caught() {
    let setup = async || Setup::ready(Arc::new(PlacelessRing::default()) as Arc<dyn KeyRing>);
    run("placeless ring", setup, key_ring::content_opens_in_its_place_only);
}

/// Has one key for everybody.
#[derive(Debug)]
struct OneKeyRing(Arc<DataKey>);

#[async_trait]
impl KeyRing for OneKeyRing {
    async fn data_key(&self, _: Scope<'_>, _: &Purpose, _: Option<&KeyId>) -> Result<Arc<DataKey>> {
        Ok(self.0.clone())
    }
}

fn one_key() -> Setup<Arc<dyn KeyRing>> {
    Setup::ready(Arc::new(OneKeyRing(Arc::new(DataKey::random()))))
}

#[test]
#[should_panic(expected = "another repository: it was allowed")]
fn a_ring_of_one_key_opens_what_is_not_its_own() {
    run("one key", async || one_key(), key_ring::content_of_another_repository_does_not_open);
}

#[test]
#[should_panic(expected = "has another repository's key")]
fn a_ring_of_one_key_is_caught() {
    run("one key", async || one_key(), key_ring::repositories_have_different_keys);
}

#[test]
#[should_panic(expected = "assertion `left != right` failed")]
fn a_ring_without_kinds_is_caught() {
    run("one key", async || one_key(), key_ring::kinds_have_different_keys);
}

#[test]
#[should_panic(expected = "a key that never was: it was allowed")]
fn a_ring_that_knows_every_id_is_caught() {
    run("one key", async || one_key(), key_ring::an_unknown_id_is_not_found);
}

/// Wraps without the context.
#[derive(Debug)]
struct PlacelessRoot(Arc<Switched>);

#[async_trait]
impl RootKey for PlacelessRoot {
    async fn wrap(&self, _: &Context, key: &[u8; 32]) -> Result<Bytes> {
        self.0.wrap(&Context::new("anything"), key).await
    }

    async fn unwrap(&self, _: &Context, wrapped: &[u8]) -> Result<SecretBox<[u8; 32]>> {
        self.0.unwrap(&Context::new("anything"), wrapped).await
    }

    fn key_ref(&self) -> &str {
        self.0.key_ref()
    }
}

/// Wraps nothing at all.
#[derive(Debug)]
struct NoRoot;

#[async_trait]
impl RootKey for NoRoot {
    async fn wrap(&self, _: &Context, key: &[u8; 32]) -> Result<Bytes> {
        Ok(Bytes::copy_from_slice(key))
    }

    async fn unwrap(&self, _: &Context, wrapped: &[u8]) -> Result<SecretBox<[u8; 32]>> {
        Ok(SecretBox::new(Box::new(wrapped.try_into().expect("32 bytes"))))
    }

    fn key_ref(&self) -> &'static str {
        "none"
    }
}

#[test]
#[should_panic(expected = "another context: it was allowed")]
fn a_root_that_ignores_the_context_is_caught() {
    let root = || Arc::new(PlacelessRoot(Switched::new()));
    let setup = async || Setup::ready(RootsUnderTest { one: root(), other: root() });
    run("placeless root", setup, root_key::it_unwraps_in_its_context_only);
}

fn no_root() -> Setup<RootsUnderTest> {
    Setup::ready(RootsUnderTest { one: Arc::new(NoRoot), other: Arc::new(NoRoot) })
}

#[test]
#[should_panic(expected = "the key lies in the open")]
fn a_root_that_wraps_nothing_is_caught() {
    run("no root", async || no_root(), root_key::wrapping_hides_the_key_and_never_repeats);
}

#[test]
#[should_panic(expected = "another root key: it was allowed")]
fn roots_that_are_the_same_are_caught() {
    run("no root", async || no_root(), root_key::another_root_key_does_not_unwrap);
}

#[tokio::test]
async fn the_root_of_these_tests_is_right() {
    let root = Switched::new();
    let wrapped = root.wrap(&Context::new("x"), &[7; 32]).await.expect("it is wrapped");
    assert_eq!(exposed(&root.unwrap(&Context::new("x"), &wrapped).await.expect("it unwraps")), [7; 32]);
}

#[test]
#[should_panic(expected = "a lease was given without an entry in the audit log")]
fn a_store_that_leases_without_an_entry_is_caught() {
    let setup = async || {
        let rig = Rig::new().expect("a rig");
        let nobody_reads = Audit::new(Arc::new(Database::new(rig.clock.clone())), rig.clock.clone());
        let store: Arc<dyn SecretStore> = Arc::new(Secrets::new(nobody_reads, rig.clock.clone()));
        Setup::ready(StoreUnderTest { store, audit: rig.audit })
    };
    run("silent store", setup, secret_store::every_lease_is_audited);
}

#[test]
fn the_vault_of_these_tests_is_right() {
    let setup = async || {
        let bench = Bench::new();
        Setup::ready(StoreUnderTest { store: bench.vault, audit: bench.audit })
    };
    run("vault", setup, secret_store::every_lease_is_audited);
}
