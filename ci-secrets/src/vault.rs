//! The vault: secrets and keys in a store of records.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use ci_core::access::{Grant, Read, Scope, Write};
use ci_core::audit::{Audit, Entry};
use ci_core::clock::Clock;
use ci_core::id::{KeyId, RepositoryId, SecretName};
use ci_core::queue::TrustedClaim;
use ci_core::records::{Batch, Condition, Record, Records};
use ci_core::seal::{Context, DataKey, Suite, key_id};
use ci_core::secret::{KeyRing, Masker, Purpose, SecretInfo, SecretLease, SecretStore, SecretValue};
use ci_core::{Error, ErrorKind, Result};

use crate::hierarchy::{Current, Hierarchy};
use crate::leases::Leases;
use crate::masker::StreamMasker;
use crate::root::RootKey;
use crate::row::{self, Place};

const SET: &str = "set a secret";
const LEASE: &str = "lease secrets";

/// Keeps secrets sealed in a store of records, and is the key ring for everything else that is sealed.
///
/// Whoever can write to the store can destroy a secret, but cannot read one, make one up, or pass one off as
/// another: a row that was altered, renamed, or copied from another repository or version is
/// [`ErrorKind::Tampered`].
///
/// What it does *not* notice: that both rows of a secret were deleted together, or put back together to an
/// earlier state, and that the whole database was. Noticing the latter takes a
/// [`FreshnessAnchor`](ci_core::secret::FreshnessAnchor), which the service asks when it starts.
///
/// A lease reads the secrets one after the other; each is as it was at one moment, and two of them need not be from
/// the same one. Secrets of a job that are more than [`MOST_LEASED`](Self::MOST_LEASED) together are
/// [`ErrorKind::LimitExceeded`], and so is one more than [`MOST_SECRETS`](Self::MOST_SECRETS) of a repository.
///
/// # Example
///
/// ```
/// use std::sync::Arc;
///
/// use ci_core::audit::Audit;
/// use ci_core::clock::SystemClock;
/// use ci_core::memory;
/// use ci_core::secret::SecretStore;
/// use ci_secrets::{FileRoot, Vault};
///
/// # let folder = tempfile::tempdir().expect("a folder");
/// # let path = folder.path().join("root.key");
/// let clock = Arc::new(SystemClock::new());
/// let records = Arc::new(memory::Database::new(clock.clone()));
/// let audit = Audit::new(records.clone(), clock.clone());
/// let vault = Vault::new(records, audit, Arc::new(FileRoot::create(path)?), clock);
/// let store: Arc<dyn SecretStore> = Arc::new(vault);
/// # Ok::<(), ci_core::Error>(())
/// ```
#[derive(Debug)]
pub struct Vault {
    pub(crate) records: Arc<dyn Records>,
    pub(crate) audit: Audit,
    pub(crate) hierarchy: Hierarchy,
    pub(crate) leases: Leases,
    pub(crate) clock: Arc<dyn Clock>,
}

/// How long a [`Vault`] remembers keys, and which cipher seals; for [`Vault::with_options`]. With a time or a number of
/// zero it asks the root key for every use.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct VaultOptions {
    /// How long an unwrapped key is kept in memory: 5 minutes. After half of this time the provider of the root key is
    /// asked for it again, by one of those who use it, so that an outage of up to half this time stops no job of a
    /// tenant whose key is in use. Another program can go on using a key for at most so long after its row was read;
    /// erasing or rotating a key ends that at once, because every use reads the row.
    pub keys_for: Duration,
    /// How many unwrapped keys are kept in memory at most: 1,024.
    pub most_keys: usize,
    /// What new content is sealed with, of this vault's secrets and keys and of everything that it is the key ring for:
    /// XChaCha20-Poly1305. What was sealed with another suite before still opens.
    pub suite: Suite,
}

impl Default for VaultOptions {
    fn default() -> Self {
        Self { keys_for: Duration::from_mins(5), most_keys: 1_024, suite: Suite::default() }
    }
}

impl VaultOptions {
    /// Replaces how long an unwrapped key is kept in memory.
    pub fn with_keys_for(mut self, keys_for: Duration) -> Self {
        self.keys_for = keys_for;
        self
    }

    /// Replaces how many unwrapped keys are kept in memory at most.
    pub fn with_most_keys(mut self, most_keys: usize) -> Self {
        self.most_keys = most_keys;
        self
    }

    /// Replaces what new content is sealed with.
    pub fn with_suite(mut self, suite: Suite) -> Self {
        self.suite = suite;
        self
    }
}

impl Vault {
    /// How many bytes a value may have: 64 KiB.
    pub const MOST_BYTES: usize = 64 * 1024;
    /// How many secrets a repository may have: 1,000, which is what one job may ask for.
    pub const MOST_SECRETS: usize = 1_000;
    /// How many bytes one job may lease: 1 MiB, which is less than a program's environment may have.
    pub const MOST_LEASED: usize = 1024 * 1024;

    /// A vault in `records` below `root`. `audit` must be over the same records: a secret and the entry that
    /// says who set it are written in one transaction.
    pub fn new(
        records: Arc<dyn Records>,
        audit: Audit,
        root: Arc<dyn RootKey>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let VaultOptions { keys_for, most_keys, suite: _ } = VaultOptions::default();
        let hierarchy = Hierarchy::new(records.clone(), root, clock.clone(), keys_for, most_keys);
        Self { records, audit, hierarchy, leases: Leases::default(), clock }
    }

    /// Replaces how long keys are remembered, and what new content is sealed with.
    pub fn with_options(mut self, options: VaultOptions) -> Self {
        let VaultOptions { keys_for, most_keys, suite } = options;
        self.hierarchy =
            self.hierarchy.with_bounds(self.clock.clone(), keys_for, most_keys).with_suite(suite);
        self
    }

    /// The same vault, which can also open what an earlier root key has wrapped: for as long as
    /// [`rotate_root`](Self::rotate_root) has not ended. Which root key wrapped something stands beside it.
    pub fn with_former_root(mut self, root: Arc<dyn RootKey>) -> Self {
        self.hierarchy = self.hierarchy.with_former_root(root);
        self
    }

    /// Drops those unwrapped keys from memory whose time is over. A vault that is used does so by itself; one that is
    /// idle keeps them until somebody calls this.
    pub fn forget_stale_keys(&self) {
        self.hierarchy.forget_stale();
    }

    /// Drops every unwrapped key from memory. The next use asks the root key's provider again.
    pub fn forget_keys(&self) {
        self.hierarchy.forget();
    }

    /// What the audit log calls a secret: its entries hold no names, because they outlive what they are about.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when the grant is over; [`ErrorKind::Tampered`] when the repository's key is not what was
    /// stored; [`ErrorKind::Unavailable`] when it cannot be had now.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, the repository's first key may have been made.
    pub async fn audit_tag(&self, grant: &Grant<Read>, name: &SecretName) -> Result<String> {
        let repository = grant.scope()?.repository();
        Ok(Place { repository, name }.tag(&*self.hierarchy.current(repository).await?))
    }

    /// What is stored of a secret without its value, if there is one, and the row it stands in.
    async fn info(&self, place: Place<'_>) -> Result<Option<(Record, SecretInfo)>> {
        let Some(record) = self.records.get(&place.info()).await? else { return Ok(None) };
        let info = self.open_info(place, &record).await?;
        Ok(Some((record, info)))
    }

    pub(crate) async fn open_info(&self, place: Place<'_>, record: &Record) -> Result<SecretInfo> {
        let key = self.hierarchy.key(place.repository, &key_id(&record.value)?).await?;
        place.open_info(&key, &record.value)
    }

    /// The value of a secret.
    async fn value(&self, place: Place<'_>) -> Result<SecretValue> {
        // Its two rows are read one after the other; somebody may set the secret in between.
        const MOST_ROUNDS: usize = 16;
        let missing = || missing(LEASE, place.name);
        for _ in 0..MOST_ROUNDS {
            let (record, info) = self.info(place).await?.ok_or_else(missing)?;
            let opened = self.open_value(place, info.version, &record.value).await;
            if !matches!(&opened, Err(error) if error.kind() == ErrorKind::Tampered) {
                return opened;
            }
            let now = self.records.get(&place.info()).await?;
            if now.is_some_and(|now| now.version == record.version) {
                return opened;
            }
        }
        Err(Error::new(ErrorKind::Unavailable, LEASE)
            .because("it is being set over and over")
            .with("secret", place.name))
    }

    pub(crate) async fn open_value(
        &self,
        place: Place<'_>,
        version: u64,
        info: &[u8],
    ) -> Result<SecretValue> {
        let record = self.records.get(&place.value()).await?.ok_or_else(|| place.tampered())?;
        let key = self.hierarchy.key(place.repository, &key_id(&record.value)?).await?;
        place.open_value(&key, version, info, &record.value)
    }

    /// What setting a secret writes.
    async fn setting(
        &self,
        place: Place<'_>,
        key: &DataKey,
        value: &SecretValue,
    ) -> Result<(Batch, SecretInfo)> {
        let before = self.info(place).await?;
        if before.is_none() {
            let infos = row::infos(place.repository);
            if self.records.list(&infos, None, Self::MOST_SECRETS).await?.len() >= Self::MOST_SECRETS {
                return Err(Error::new(ErrorKind::LimitExceeded, SET)
                    .because("a repository has at most 1000 secrets; delete one first"));
            }
        }
        let version = before.as_ref().map_or(1, |(_, info)| info.version.saturating_add(1));
        let info = SecretInfo { name: place.name.clone(), version, set_at: self.clock.now() };
        let batch = place.put(key, &info, value, before.as_ref().map(|(record, _)| record))?;
        Ok((batch, info))
    }
}

#[async_trait]
impl SecretStore for Vault {
    async fn lease(&self, claim: TrustedClaim<'_>, names: &[SecretName]) -> Result<SecretLease> {
        let claimed = claim.claim();
        let repository = claimed.scope()?.repository();
        let end = self.leases.begin(repository, claimed.job());
        let mut entry = about(Entry::new("secret.leased", "job").about("job", claimed.job()), repository);
        let names: BTreeSet<&SecretName> = names.iter().collect();
        let (mut values, mut bytes) = (Vec::with_capacity(names.len()), 0);
        for name in names {
            let place = Place { repository, name };
            let value = self.value(place).await?;
            if value.expose().is_empty() {
                return Err(withdrawn(name));
            }
            bytes += value.expose().len();
            if bytes > Self::MOST_LEASED {
                return Err(Error::new(ErrorKind::LimitExceeded, LEASE)
                    .because("the secrets of one job have at most 1 MiB together"));
            }
            values.push((name.clone(), value));
        }
        if !values.is_empty() {
            let key = self.hierarchy.current(repository).await?;
            for (name, _) in &values {
                entry = entry.about("secret", Place { repository, name }.tag(&key));
            }
            self.audit.record(repository.tenant(), entry).await?;
        }
        // All of this may have taken longer than the claim lasted.
        claimed.fence()?;
        Ok(SecretLease::new(claim, values, self.masker()).ending_with(&end))
    }

    async fn put(&self, grant: &Grant<Write>, name: &SecretName, value: SecretValue) -> Result<SecretInfo> {
        let repository = grant.scope()?.repository();
        if !(1..=Self::MOST_BYTES).contains(&value.expose().len()) {
            return Err(Error::new(ErrorKind::Invalid, SET)
                .because("a value has 1 to 65536 bytes")
                .with("secret", name));
        }
        let place = Place { repository, name };
        let key = self.hierarchy.current(repository).await?;
        let entry =
            about(Entry::new("secret.set", grant.user()), repository).about("secret", place.tag(&key));
        let done = Mutex::new(None);
        let commit = async |audit: Batch| {
            // A rotation may have moved on to another key since.
            let Current { key, still } = self.hierarchy.current_to_write(repository).await?;
            let (batch, info) = self.setting(place, &key, &value).await?;
            grant.scope()?;
            self.records.commit(batch.and(audit).require(still)).await?;
            *done.lock().unwrap_or_else(PoisonError::into_inner) = Some(info);
            Ok(())
        };
        self.audit.attempt(repository.tenant(), entry, commit).await?;
        let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        done.ok_or_else(|| Error::new(ErrorKind::Internal, SET).because("nothing was written"))
    }

    async fn list(&self, grant: &Grant<Read>) -> Result<Vec<SecretInfo>> {
        const PAGE: usize = 500;
        let repository = grant.scope()?.repository();
        let infos = row::infos(repository);
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = self.records.list(&infos, after.as_ref(), PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.key.clone());
            for record in &page {
                let name = row::name_of(&infos, record)?;
                found.push(self.open_info(Place { repository, name: &name }, record).await?);
            }
        }
        grant.scope()?;
        Ok(found)
    }

    async fn delete(&self, grant: &Grant<Write>, name: &SecretName) -> Result<()> {
        let repository = grant.scope()?.repository();
        let place = Place { repository, name };
        let key = self.hierarchy.current(repository).await?;
        let entry =
            about(Entry::new("secret.deleted", grant.user()), repository).about("secret", place.tag(&key));
        let commit = async |audit: Batch| {
            // It is not opened: deleting is also the way out when a row has been tampered with.
            let record = self.records.get(&place.info()).await?;
            let record = record.ok_or_else(|| missing("delete a secret", name))?;
            let batch = Batch::new()
                .require(Condition::Is(record.key, record.version))
                .delete(place.info())
                .delete(place.value());
            grant.scope()?;
            self.records.commit(batch.and(audit)).await.map(|_| ())
        };
        self.audit.attempt(repository.tenant(), entry, commit).await
    }

    fn masker(&self) -> Arc<dyn Masker> {
        Arc::new(StreamMasker::new())
    }
}

#[async_trait]
impl KeyRing for Vault {
    async fn data_key(
        &self,
        scope: Scope<'_>,
        purpose: &Purpose,
        id: Option<&KeyId>,
    ) -> Result<Arc<DataKey>> {
        let key = match id {
            None => self.hierarchy.current(scope.repository()).await?,
            Some(id) => self.hierarchy.key(scope.repository(), id).await?,
        };
        Ok(Arc::new(key.derive(&Context::new("purpose").field(purpose.kind()))))
    }
}

pub(crate) fn about(entry: Entry, repository: &RepositoryId) -> Entry {
    entry.about("forge", repository.forge()).about("repository", repository.native())
}

fn withdrawn(name: &SecretName) -> Error {
    Error::new(ErrorKind::Denied, LEASE)
        .because("the secrets of the repository were revoked; set it anew")
        .with("secret", name)
}

fn missing(operation: &'static str, name: &SecretName) -> Error {
    Error::new(ErrorKind::NotFound, operation)
        .because("the repository has no secret of that name; set it first")
        .with("secret", name)
}
