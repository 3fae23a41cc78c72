//! The vault: secrets and keys in a store of records.

mod canary;
mod context;
mod export;
mod lease;
mod manifest;
mod reseal;
pub(crate) mod row;
mod single;
mod snapshot;
mod store;
mod value;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use ci_core::access::{Grant, Read, Scope};
use ci_core::audit::{Audit, Entry};
use ci_core::clock::Clock;
use ci_core::id::{KeyId, RepositoryId, SecretName};
use ci_core::operator::Act;
use ci_core::records::Records;
use ci_core::seal::{Context, DataKey, Suite};
use ci_core::secret::{FreshnessAnchor, KeyRing, Purpose};
use ci_core::{Error, ErrorKind, Result};

use self::row::Place;
use crate::hierarchy::Hierarchy;
use crate::leases::Leases;
use crate::root::RootKey;

pub(crate) use self::canary::first_rows;
pub(crate) use self::reseal::{Item, Treated, Treatment};
pub(crate) use self::single::Single;
pub(crate) use self::snapshot::Snapshot;

/// What is written of what is read from `bytes`, if they are a list of secrets.
#[cfg(feature = "conformance")]
pub(crate) fn rewritten_manifest(bytes: &[u8]) -> Option<Vec<u8>> {
    manifest::Manifest::from_bytes(bytes).map(|manifest| manifest.to_bytes())
}

/// Keeps secrets sealed in a store of records, and is the key ring for everything else that is sealed.
///
/// Whoever can write to the store can destroy a secret, but cannot read one, make one up, or pass one off as
/// another: a row that was altered, renamed, deleted, added, put back to an earlier state, or copied from another
/// repository is [`ErrorKind::Tampered`], and never a wrong value or "not found". What must be there stands in a sealed
/// list per repository, which is written in the same commit as every change. The private keys of [`ssh`](crate::ssh) and
/// `identity` stand in the same lists.
///
/// What the list alone does *not* notice: that it was put back itself to an earlier state, together with rows of that time,
/// or deleted together with the repository's key. [`with_anchor`](Self::with_anchor) does.
///
/// | Somebody with write access to the database | without an anchor | with one |
/// |---|---|---|
/// | alters, swaps, copies, adds or deletes rows | noticed | noticed |
/// | puts an earlier row of a secret or of private keys back | noticed | noticed |
/// | puts an earlier list back, and with it the rows of a secret or of private keys | **not** noticed by who reads these; by who reads others that changed since | noticed |
/// | puts the whole database back | **not** noticed | noticed |
/// | puts the whole database back, and a repository was erased since | its secrets are back | noticed |
/// | deletes all of these rows and the repository's key | as if it had never had any | noticed |
/// | does any of these between a commit and the anchor's next mark | as above | that one commit may be undone |
///
/// A lease takes all rows in one read, and the list shows that they belong together. The secrets of a job that are more
/// than [`MOST_LEASED`](Self::MOST_LEASED) together are [`ErrorKind::LimitExceeded`], and so is one more than
/// [`MOST_SECRETS`](Self::MOST_SECRETS) of a repository.
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
    pub(crate) anchor: Option<Arc<dyn FreshnessAnchor>>,
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
    /// How many bytes a value may have: 1 MiB.
    pub const MOST_BYTES: usize = value::MOST_BYTES;
    /// How many secrets a repository may have: 1,000, which is what one job may ask for.
    pub const MOST_SECRETS: usize = 1_000;
    /// How many bytes one job may lease: 4 MiB. A masker takes some thirty times as much memory.
    pub const MOST_LEASED: usize = 4 * 1024 * 1024;

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
        Self { records, audit, hierarchy, leases: Leases::default(), clock, anchor: None }
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

    /// Compares every list of secrets and private keys that is read with `anchor`, which lies outside of the database, and moves that on
    /// with every change. A list that is older than it was is [`ErrorKind::Tampered`] from then on, whatever the database
    /// says, until the latest copy is back, or [`accept_restored`](Self::accept_restored) takes this one. Give the same
    /// anchor to every vault over these records: what a vault without it writes on top of an old copy is newer than all
    /// that the anchor has seen.
    ///
    /// Of the database, these lists are all that is compared. A service that asks
    /// [`Audit::verify_fresh`] of every tenant when it starts, with the same anchor, notices that the whole of it was put
    /// back before it serves logs and artifacts from there.
    ///
    /// # Example
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
    /// # use std::sync::Arc;
    /// # use ci_core::{ErrorKind, access::Write, id::SecretName, memory::Rig, records::{Batch, Key}};
    /// # use ci_secrets::{FileAnchor, FileRoot, SecretStore as _, SecretValue, Vault};
    /// # let folder = tempfile::tempdir().expect("a folder");
    /// # let root = Arc::new(FileRoot::create(folder.path().join("root.key"))?);
    /// # let (rig, repository) = (Rig::new()?, Rig::repository("1", "acme")?);
    /// # let (grant, token) = (rig.grant::<Write>(&Rig::user("ada")?, &repository).await?, SecretName::parse("TOKEN")?);
    /// let anchor = Arc::new(FileAnchor::open(folder.path().join("anchor"))?); // on another disk than the database
    /// let vault = Vault::new(rig.records(), rig.audit.clone(), root, rig.clock.clone()).with_anchor(anchor);
    /// vault.put(&grant, &token, SecretValue::new("leaked, and soon rotated")).await?;
    ///
    /// let earlier = rig.database.list(&Key::new("secret"), None, 100).await?; // somebody keeps a copy
    /// vault.put(&grant, &token, SecretValue::new("rotated")).await?;
    /// for record in earlier {
    ///     rig.database.commit(Batch::new().put(record.key, record.value)).await?;
    /// }
    /// let error = vault.list(&grant.lower()).await.expect_err("all of it fits together, and is old");
    /// assert_eq!(error.kind(), ErrorKind::Tampered);
    /// # Ok::<(), ci_core::Error>(()) })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn with_anchor(mut self, anchor: Arc<dyn FreshnessAnchor>) -> Self {
        self.anchor = Some(anchor);
        self
    }

    /// Takes the secrets of `repository` as they are in the database, which a copy has replaced on purpose: what the anchor
    /// remembers of them is forgotten. What was set, deleted or revoked after the copy was made is as it was before;
    /// what was [erased](Self::erase) stays so.
    ///
    /// The tenant's audit log takes [`Audit::accept_restored`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when the act is for another tenant; [`ErrorKind::Unsupported`] when the vault has no anchor;
    /// [`ErrorKind::Unavailable`] when it cannot be reached.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, it may have happened; calling again finishes it.
    pub async fn accept_restored(&self, act: &Act<'_>, repository: &RepositoryId) -> Result<()> {
        act.covers(repository.tenant())?;
        let Some(anchor) = &self.anchor else {
            return Err(Error::new(ErrorKind::Unsupported, "accept a restored database")
                .because("the vault has no freshness anchor, and accepts any"));
        };
        anchor.forget(&row::folder(repository)).await
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
}

/// The keys of a repository for one operation, in which the same one is asked for over and over.
#[derive(Debug)]
struct Keys<'a> {
    hierarchy: &'a Hierarchy,
    repository: &'a RepositoryId,
    latest: Mutex<Option<Arc<DataKey>>>,
}

impl Keys<'_> {
    async fn get(&self, id: &KeyId) -> Result<Arc<DataKey>> {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(key) = latest.filter(|key| key.id() == id) {
            return Ok(key);
        }
        let key = match self.hierarchy.key(self.repository, id).await {
            // What secrets were sealed with is destroyed together with all other keys, or not at all.
            Err(error)
                if error.kind() == ErrorKind::NotFound && self.hierarchy.exists(self.repository).await? =>
            {
                return Err(Error::new(ErrorKind::Tampered, "fetch a key")
                    .because("the key that something stored was sealed with is missing")
                    .caused_by(error));
            }
            found => found?,
        };
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner) = Some(key.clone());
        Ok(key)
    }
}

impl Vault {
    fn keys<'a>(&'a self, repository: &'a RepositoryId) -> Keys<'a> {
        Keys { hierarchy: &self.hierarchy, repository, latest: Mutex::default() }
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

fn missing(operation: &'static str, name: &SecretName) -> Error {
    Error::new(ErrorKind::NotFound, operation)
        .because("the repository has no secret of that name; set it first")
        .with("secret", name)
}

fn withdrawn(name: &SecretName) -> Error {
    Error::new(ErrorKind::Denied, lease::LEASE)
        .because("the secrets of the repository were revoked; set it anew")
        .with("secret", name)
}
