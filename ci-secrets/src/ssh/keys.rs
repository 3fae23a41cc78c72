//! The SSH keys of repositories, sealed in a vault's records.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use ci_core::access::{Admin, Grant, Read};
use ci_core::audit::{Actor, Entry};
use ci_core::id::RepositoryId;
use ci_core::operator::Act;
use ci_core::queue::Claim;
use ci_core::seal::Opened;
use ci_core::secret::{SshPublicKey, SshSigner};
use ci_core::{Error, ErrorKind, Result};

use super::pair::{Pairs, SshKeyInfo, SshKeyStage, draw, public_half};
use crate::strongbox::{Change, Strongbox};
use crate::vault::{Single, Vault};

/// One SSH key for every repository, made in this process and kept sealed beside the vault's secrets.
///
/// The private half is sealed as a kind of its own, which no lease opens and no [`KeyRing`](crate::KeyRing) has a purpose
/// for. It is unsealed for one signature at a time, and wiped; nothing hands it out. Every signature has its entry in the
/// audit log before it is released.
///
/// # Replacing a key
///
/// A key is replaced without a checkout failing: [`rotate`](Self::rotate) makes the next one, which is listed beside the
/// current one and signs nothing; once the forge knows it, [`activate`](Self::activate) lets it sign; once the forge has
/// forgotten the old one, [`remove`](Self::remove) destroys that. Each step is one transaction, and can be repeated when
/// its answer was lost. A key that somebody else may know is replaced at once ([`replace`](Self::replace)).
///
/// # What it does not protect from
///
/// Somebody who can write to the database can destroy a repository's keys, and is noticed: they stand in the same list
/// as its secrets. That keys were put back together with that list takes an [anchor](Vault::with_anchor) to be noticed;
/// without one an old key signs again then, which the forge no longer knows. Neither shows a key to anybody.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// # use std::sync::Arc;
/// use ci_core::access::Admin;
/// use ci_core::memory::Rig;
/// use ci_secrets::ssh::SshKeys;
/// use ci_secrets::{FileRoot, SshSigner as _, Vault};
/// # let folder = tempfile::tempdir().expect("a folder");
/// # let root = Arc::new(FileRoot::create(folder.path().join("root.key"))?);
/// # let (rig, repository) = (Rig::new()?, Rig::repository("1", "acme")?);
/// # let vault = Arc::new(Vault::new(rig.records(), rig.audit.clone(), root, rig.clock.clone()));
///
/// let keys = SshKeys::new(vault);
/// let grant = rig.grant::<Admin>(&Rig::user("ada")?, &repository).await?;
/// let first = keys.public_keys(&grant.lower()).await?[0]; // install it at the forge
///
/// let second = keys.rotate(&grant).await?; // install it too
/// assert_eq!(keys.public_keys(&grant.lower()).await?, [first, second]);
/// keys.activate(&grant, &second).await?; // now remove the first one from the forge
/// keys.remove(&grant, &first).await?;
/// assert_eq!(keys.public_keys(&grant.lower()).await?, [second]);
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct SshKeys {
    vault: Arc<Vault>,
}

impl SshKeys {
    /// The keys that lie beside the secrets of `vault`.
    pub fn new(vault: Arc<Vault>) -> Self {
        Self { vault }
    }

    /// The public halves of a repository's keys, the one that signs first, and how far each has come. It makes none.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when the grant is over; [`ErrorKind::Tampered`] when what is stored is not what was;
    /// [`ErrorKind::Unavailable`] when the keys cannot be had now.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn list(&self, grant: &Grant<Read>) -> Result<Vec<SshKeyInfo>> {
        let list = self.boxed(grant.scope()?.repository()).pairs().await?.list();
        grant.scope()?;
        Ok(list)
    }

    /// Makes the next key, or returns the one that was made and not activated yet. The first key of a repository signs at
    /// once.
    ///
    /// # Errors
    ///
    /// As for [`list`](Self::list).
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, the key may have been made: call it again.
    pub async fn rotate(&self, grant: &Grant<Admin>) -> Result<SshPublicKey> {
        let keys = self.boxed(grant.scope()?.repository());
        let still = || grant.scope().map(drop);
        keys.make("ssh_key.made", grant.user(), &still, |pairs| pairs.at(SshKeyStage::Next)).await
    }

    /// Lets `key` sign from now on, in place of the current one, which becomes old.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] when the repository has no such key; [`ErrorKind::Conflict`] when it is an old one, or when
    /// an older one has not been [removed](Self::remove); otherwise as for [`list`](Self::list).
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, it may have happened: call it again.
    pub async fn activate(&self, grant: &Grant<Admin>, key: &SshPublicKey) -> Result<()> {
        let keys = self.boxed(grant.scope()?.repository());
        let entry = keys.entry("ssh_key.activated", grant.user()).about("key", key.fingerprint());
        let edit = |pairs: &mut Pairs| match pairs.stage(key) {
            Some(SshKeyStage::Current) => Ok(Edit::Nothing),
            Some(SshKeyStage::Next) if pairs.at(SshKeyStage::Old).is_none() => {
                pairs.activate();
                Ok(Edit::Fill)
            }
            Some(SshKeyStage::Next) => Err(refused("remove the old key first", key)),
            Some(SshKeyStage::Old) => Err(refused("an old key does not sign again; make a new one", key)),
            None => Err(unknown(key)),
        };
        keys.change(entry, &|| grant.scope().map(drop), edit).await
    }

    /// Destroys a key that does not sign: an old one, or the next one when it is not wanted after all.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] when the repository has no such key; [`ErrorKind::Conflict`] when it is the one that signs;
    /// otherwise as for [`list`](Self::list).
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, it may have happened: look at [`list`](Self::list).
    pub async fn remove(&self, grant: &Grant<Admin>, key: &SshPublicKey) -> Result<()> {
        let keys = self.boxed(grant.scope()?.repository());
        let entry = keys.entry("ssh_key.removed", grant.user()).about("key", key.fingerprint());
        let edit = |pairs: &mut Pairs| match pairs.stage(key) {
            Some(SshKeyStage::Next | SshKeyStage::Old) => {
                pairs.remove(key);
                Ok(Edit::Fill)
            }
            Some(SshKeyStage::Current) => {
                Err(refused("it signs; activate another one, or delete them all", key))
            }
            None => Err(unknown(key)),
        };
        keys.change(entry, &|| grant.scope().map(drop), edit).await
    }

    /// Destroys all keys of a repository. It does so also when they were tampered with.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when the grant is over; [`ErrorKind::NotFound`] when there are none;
    /// [`ErrorKind::Tampered`] when the repository's list is not what was stored; [`ErrorKind::Unavailable`] when it
    /// cannot be had now.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, it may have happened: look at [`list`](Self::list).
    pub async fn delete(&self, grant: &Grant<Admin>) -> Result<()> {
        let keys = self.boxed(grant.scope()?.repository());
        let entry = keys.entry("ssh_key.deleted", grant.user());
        let emptied = |found| match found {
            Ok(None) => {
                Err(Error::new(ErrorKind::NotFound, "delete SSH keys").because("the repository has none"))
            }
            _ => Ok(Some(Change::Empty)),
        };
        keys.0.change(entry, &|| grant.scope().map(drop), emptied).await
    }

    /// Destroys all keys of a repository and makes a new one that signs at once: for keys that somebody else may know.
    /// It does so also when they were tampered with. Checkouts fail until the forge knows the new one.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when the act is for another tenant; [`ErrorKind::Tampered`] when the repository's list is not
    /// what was stored; [`ErrorKind::Unavailable`] when it cannot be had now.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, it may have happened: call it again, or look at [`list`](Self::list).
    pub async fn replace(&self, act: &Act<'_>, repository: &RepositoryId) -> Result<SshPublicKey> {
        act.covers(repository.tenant())?;
        let keys = self.boxed(repository);
        let seed = draw()?;
        let entry = keys.entry("ssh_key.replaced", "operator").about("key", public_half(&seed).fingerprint());
        let filled = |_| {
            let mut pairs = Pairs::default();
            pairs.add(&seed, self.vault.clock.now());
            Ok(Some(Change::Fill(pairs.write())))
        };
        keys.0.change(entry, &|| Ok(()), filled).await?;
        Ok(public_half(&seed))
    }

    fn boxed<'a>(&'a self, repository: &'a RepositoryId) -> Keys<'a> {
        Keys(Strongbox { vault: &self.vault, repository, kind: Single::SshKeys })
    }
}

#[async_trait]
impl SshSigner for SshKeys {
    async fn public_keys(&self, grant: &Grant<Read>) -> Result<Vec<SshPublicKey>> {
        let keys = self.boxed(grant.scope()?.repository());
        let mut list = keys.pairs().await?.list();
        if list.is_empty() {
            let still = || grant.scope().map(drop);
            let current = |pairs: &Pairs| pairs.at(SshKeyStage::Current);
            keys.make("ssh_key.made", grant.user(), &still, current).await?;
            list = keys.pairs().await?.list();
        }
        grant.scope()?;
        Ok(list.into_iter().map(|info| info.key).collect())
    }

    async fn identity(&self, claim: &Claim) -> Result<SshPublicKey> {
        let current = self.boxed(claim.scope()?.repository()).pairs().await?.at(SshKeyStage::Current);
        claim.fence()?;
        current.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "use an SSH key")
                .because("the repository has none; ask for its public keys and install them at the forge")
        })
    }

    async fn sign(&self, claim: &Claim, key: &SshPublicKey, data: &[u8]) -> Result<[u8; 64]> {
        let repository = claim.scope()?.repository();
        let keys = self.boxed(repository);
        let signature = keys.pairs().await?.sign(key, data).ok_or_else(|| unknown(key))?;
        let entry = keys.entry("ssh_key.used", "job").about("job", claim.job());
        self.vault.audit.record(repository.tenant(), entry.about("key", key.fingerprint())).await?;
        // All of this may have taken longer than the claim lasted.
        claim.fence()?;
        Ok(signature)
    }
}

/// The keys of one repository.
struct Keys<'a>(Strongbox<'a>);

/// What a change comes to.
enum Edit {
    /// It has been made already.
    Nothing,
    /// It is to be written.
    Fill,
}

impl Keys<'_> {
    async fn pairs(&self) -> Result<Pairs> {
        self.read(self.0.open().await?)
    }

    fn read(&self, found: Option<Opened>) -> Result<Pairs> {
        let pairs = found.map_or_else(|| Some(Pairs::default()), |plain| Pairs::read(&plain));
        pairs.ok_or_else(|| self.0.tampered())
    }

    fn entry(&self, action: &str, actor: impl Into<Actor>) -> Entry {
        self.0.entry(action, actor)
    }

    /// Makes a key, unless there is one that `existing` finds, and returns the one that is there then.
    async fn make(
        &self,
        action: &str,
        actor: impl Into<Actor>,
        still: &(dyn Fn() -> Result<()> + Sync),
        existing: impl Fn(&Pairs) -> Option<SshPublicKey> + Sync,
    ) -> Result<SshPublicKey> {
        let seed = draw()?;
        let made = Mutex::new(public_half(&seed));
        let entry = self.entry(action, actor).about("key", public_half(&seed).fingerprint());
        let edit = |pairs: &mut Pairs| {
            if let Some(found) = existing(pairs) {
                *made.lock().unwrap_or_else(PoisonError::into_inner) = found;
                return Ok(Edit::Nothing);
            }
            pairs.add(&seed, self.0.vault.clock.now());
            Ok(Edit::Fill)
        };
        self.change(entry, still, edit).await?;
        Ok(made.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the keys in one transaction with its entry in the audit log, if the right to it holds `still`.
    async fn change(
        &self,
        entry: Entry,
        still: &(dyn Fn() -> Result<()> + Sync),
        edit: impl Fn(&mut Pairs) -> Result<Edit> + Sync,
    ) -> Result<()> {
        let edited = |found: Result<_>| {
            let mut pairs = self.read(found?)?;
            Ok(match edit(&mut pairs)? {
                Edit::Nothing => None,
                Edit::Fill => Some(Change::Fill(pairs.write())),
            })
        };
        self.0.change(entry, still, edited).await
    }
}

fn refused(reason: &'static str, key: &SshPublicKey) -> Error {
    Error::new(ErrorKind::Conflict, "change SSH keys").because(reason).with("key", key.fingerprint())
}

fn unknown(key: &SshPublicKey) -> Error {
    Error::new(ErrorKind::NotFound, "use an SSH key")
        .because("the repository has no such key that signs")
        .with("key", key.fingerprint())
}
