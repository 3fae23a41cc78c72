//! A vault to work on, and what breaks around it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use ci_core::access::{Access, Grant};
use ci_core::audit::Audit;
use ci_core::clock::ManualClock;
use ci_core::id::{RepositoryId, SecretName};
use ci_core::memory::{Database, Rig};
use ci_core::queue::Claim;
use ci_core::records::{Batch, Key, Record, Records, Version};
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

/// Records that cannot write to the audit log while told so, and that take as long as they are told.
#[derive(Debug)]
pub(crate) struct NoAudit {
    inner: Arc<dyn Records>,
    clock: Arc<ManualClock>,
    pub(crate) is_broken: AtomicBool,
    slow: Mutex<Option<(Key, Duration)>>,
}

impl NoAudit {
    pub(crate) fn over(inner: Arc<dyn Records>, clock: Arc<ManualClock>) -> Arc<Self> {
        Arc::new(Self { inner, clock, is_broken: AtomicBool::new(false), slow: Mutex::default() })
    }

    /// Lets the next read below `prefix` take so long.
    pub(crate) fn delay(&self, prefix: Key, by: Duration) {
        *self.slow.lock().expect("unpoisoned") = Some((prefix, by));
    }
}

#[async_trait]
impl Records for NoAudit {
    async fn get(&self, key: &Key) -> Result<Option<Record>> {
        if let Some((_, by)) =
            self.slow.lock().expect("unpoisoned").take_if(|(prefix, _)| key.is_below(prefix))
        {
            self.clock.advance(by);
        }
        self.inner.get(key).await
    }

    async fn list(&self, prefix: &Key, after: Option<&Key>, limit: usize) -> Result<Vec<Record>> {
        if let Some((_, by)) =
            self.slow.lock().expect("unpoisoned").take_if(|(slow, _)| prefix.is_below(slow))
        {
            self.clock.advance(by);
        }
        self.inner.list(prefix, after, limit).await
    }

    async fn commit(&self, batch: Batch) -> Result<Version> {
        let is_audit = batch.puts.iter().any(|(key, _)| key.is_below(&Key::new("audit")));
        if is_audit && self.is_broken.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::Unavailable, "write a record"));
        }
        self.inner.commit(batch).await
    }

    async fn purge(&self, prefix: &Key) -> Result<usize> {
        self.inner.purge(prefix).await
    }

    async fn scan_raw(&self, needle: &[u8]) -> Result<usize> {
        self.inner.scan_raw(needle).await
    }
}

/// A vault over records in memory, and a rig whose grants and claims it is used with.
pub(crate) struct Bench {
    pub(crate) rig: Rig,
    pub(crate) records: Arc<dyn Records>,
    pub(crate) no_audit: Arc<NoAudit>,
    pub(crate) audit: Audit,
    pub(crate) root: Arc<Switched>,
    pub(crate) vault: Arc<Vault>,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let rig = Rig::new().expect("a rig");
        let records: Arc<dyn Records> = Arc::new(Database::new(rig.clock.clone()));
        let (no_audit, root) = (NoAudit::over(records.clone(), rig.clock.clone()), Switched::new());
        let audit = Audit::new(no_audit.clone(), rig.clock.clone());
        let vault = Vault::new(no_audit.clone(), audit.clone(), root.clone(), rig.clock.clone());
        Self { rig, records, no_audit, audit, root, vault: Arc::new(vault) }
    }

    /// Another process over the same records.
    pub(crate) fn other_vault(&self, root: Arc<dyn RootKey>) -> Vault {
        Vault::new(self.no_audit.clone(), self.audit.clone(), root, self.rig.clock.clone())
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
