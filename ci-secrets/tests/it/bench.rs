//! A vault to work on, and what breaks around it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use ci_core::access::{Access, Grant};
use ci_core::audit::Audit;
use ci_core::conformance::{Fault, FaultyRecords};
use ci_core::id::{RepositoryId, SecretName};
use ci_core::memory::{Database, Rig};
use ci_core::queue::Claim;
use ci_core::records::{Batch, Key, Record, Records};
use ci_core::seal::{Context, DataKey};
use ci_core::secret::{SecretLease, SecretStore, SecretValue};
use ci_core::trust::Origin;
use ci_core::{Error, ErrorKind, Result};
use ci_secrets::{RootKey, Vault};
use secrecy::{ExposeSecret as _, SecretBox};

pub(crate) fn name(text: &str) -> SecretName {
    SecretName::parse(text).expect("a secret's name")
}

pub(crate) fn repository(native: &str) -> RepositoryId {
    Rig::repository(native, "acme").expect("a repository")
}

/// The place of a secret's rows: `info` or `value`.
pub(crate) fn row(repository: &RepositoryId, kind: &str, secret: &str) -> Key {
    Key::new("secret").repository(repository).part(kind).part(secret)
}

pub(crate) fn key_folder(repository: &RepositoryId) -> Key {
    Key::new("key").part("repository").repository(repository)
}

/// A root key in memory that can be switched off.
#[derive(Debug)]
pub(crate) struct Switched {
    key: DataKey,
    pub(crate) is_down: AtomicBool,
    /// How often it was asked to unwrap.
    pub(crate) unwraps: AtomicUsize,
    name: String,
}

impl Switched {
    pub(crate) fn new() -> Arc<Self> {
        let key = DataKey::random();
        let name = format!("memory:{}", key.id());
        Arc::new(Self { key, is_down: AtomicBool::new(false), unwraps: AtomicUsize::new(0), name })
    }

    fn check(&self) -> Result<()> {
        if self.is_down.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::Unavailable, "reach the root key"));
        }
        Ok(())
    }
}

#[async_trait]
impl RootKey for Switched {
    async fn wrap(&self, context: &Context, key: &[u8; 32]) -> Result<Bytes> {
        self.check()?;
        Ok(self.key.seal(context, key))
    }

    async fn unwrap(&self, context: &Context, wrapped: &[u8]) -> Result<SecretBox<[u8; 32]>> {
        self.check()?;
        self.unwraps.fetch_add(1, Ordering::AcqRel);
        let plain = self.key.open(context, wrapped)?;
        let key: [u8; 32] = plain.as_slice().try_into().expect("the length of a key");
        Ok(SecretBox::new(Box::new(key)))
    }

    fn key_ref(&self) -> &str {
        &self.name
    }
}

/// A vault over records in memory, and a rig whose grants and claims it is used with.
pub(crate) struct Bench {
    pub(crate) rig: Rig,
    pub(crate) records: Arc<dyn Records>,
    /// What the vault and the audit log see of them.
    pub(crate) faulty: Arc<FaultyRecords>,
    pub(crate) audit: Audit,
    pub(crate) root: Arc<Switched>,
    pub(crate) vault: Arc<Vault>,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let rig = Rig::new().expect("a rig");
        let records: Arc<dyn Records> = Arc::new(Database::new(rig.clock.clone()));
        let (faulty, root) = (FaultyRecords::over(records.clone(), rig.clock.clone()), Switched::new());
        let audit = Audit::new(faulty.clone(), rig.clock.clone());
        let vault = Vault::new(faulty.clone(), audit.clone(), root.clone(), rig.clock.clone());
        Self { rig, records, faulty, audit, root, vault: Arc::new(vault) }
    }

    /// Nothing can be written to the audit log until the records [heal](FaultyRecords::heal).
    pub(crate) fn break_audit(&self) {
        self.faulty.fail(Fault::Refused, Key::new("audit"));
    }

    /// Lets the next access below `part` take so long.
    pub(crate) fn delay(&self, part: &str, by: Duration) {
        self.faulty.fail_once(Fault::Slow(by), Key::new(part));
    }

    /// Another process over the same records.
    pub(crate) fn other_vault(&self, root: Arc<dyn RootKey>) -> Vault {
        Vault::new(self.faulty.clone(), self.audit.clone(), root, self.rig.clock.clone())
    }

    pub(crate) async fn grant<A: Access>(&self, repository: &RepositoryId) -> Grant<A> {
        self.rig.grant(&Rig::user("ada").expect("a person"), repository).await.expect("a grant")
    }

    pub(crate) async fn claim(&self, repository: &RepositoryId) -> Claim {
        self.rig.claim(repository, Origin::Repository, Rig::spec()).await.expect("a claim")
    }

    pub(crate) async fn put(&self, repository: &RepositoryId, secret: &str, value: &str) {
        let grant = self.grant(repository).await;
        self.vault.put(&grant, &name(secret), SecretValue::new(value)).await.expect("the secret is set");
    }

    pub(crate) async fn lease(&self, repository: &RepositoryId, secrets: &[&str]) -> Result<SecretLease> {
        let claim = self.claim(repository).await;
        let names: Vec<_> = secrets.iter().map(|secret| name(secret)).collect();
        self.vault.lease(claim.trusted()?, &names).await
    }

    pub(crate) async fn value(&self, repository: &RepositoryId, secret: &str) -> Result<Vec<u8>> {
        let claim = self.claim(repository).await;
        let lease = self.vault.lease(claim.trusted()?, &[name(secret)]).await?;
        Ok(lease.value(&name(secret))?.expose().to_vec())
    }

    pub(crate) async fn read(&self, key: &Key) -> Bytes {
        self.records.get(key).await.expect("it is read").expect("it is there").value
    }

    pub(crate) async fn write(&self, key: &Key, value: impl Into<Bytes>) {
        self.records.commit(Batch::new().put(key.clone(), value)).await.expect("it is written");
    }

    pub(crate) async fn remove(&self, key: &Key) {
        self.records.commit(Batch::new().delete(key.clone())).await.expect("it is deleted");
    }

    pub(crate) async fn below(&self, prefix: &Key) -> Vec<Record> {
        self.records.list(prefix, None, 1_000).await.expect("a list")
    }

    /// All rows of secrets and keys.
    pub(crate) async fn everything(&self) -> Vec<Record> {
        let mut all = self.below(&Key::new("secret")).await;
        all.extend(self.below(&Key::new("key")).await);
        all
    }

    /// Has these rows of secrets and keys, and no others.
    pub(crate) async fn put_all_back(&self, rows: &[Record]) {
        for folder in ["secret", "key"] {
            self.records.purge(&Key::new(folder)).await.expect("it is purged");
        }
        for row in rows {
            self.write(&row.key, row.value.clone()).await;
        }
    }
}

/// The kind of the error that `result` is.
#[track_caller]
pub(crate) fn kind<T>(result: Result<T>) -> ErrorKind {
    match result {
        Ok(_) => panic!("it was allowed"),
        Err(error) => error.kind(),
    }
}

/// Compares two wrapped keys by what they unwrap to.
pub(crate) fn exposed(key: &SecretBox<[u8; 32]>) -> [u8; 32] {
    *key.expose_secret()
}
