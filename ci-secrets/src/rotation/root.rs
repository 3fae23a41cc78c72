//! Rotating the root key: the keys of tenants are wrapped anew.

use ci_core::audit::Entry;
use ci_core::id::TenantId;
use ci_core::operator::Act;
use ci_core::records::{Batch, Condition};
use ci_core::{Error, ErrorKind, Result};

use super::report::Work;
use super::rewrap::Above;
use super::{PAGE, Progress, RotationReport, Step};
use crate::Vault;
use crate::hierarchy::{layout, root_place};

impl Vault {
    /// Wraps the keys of all tenants with the root key in use, in place of the former ones; values are not touched, and
    /// nor are the keys of repositories.
    ///
    /// In this order: start every program that uses the database with the new root key and the former one
    /// ([`with_former_root`](Self::with_former_root)), call this until the report
    /// [is complete](RotationReport::is_complete), start the programs without the former root key, destroy it. From
    /// the first moment on, a program that does not have the new one makes no new keys of tenants.
    ///
    /// `act` is for [the service](TenantId::service). `watch` is told after every 200 keys; pass `&mut |_| {}` for
    /// nobody. It holds no more than 200 keys in memory, and unwraps and wraps eight at once. What the provider
    /// wrapped is unwrapped once more before the former row is replaced, so that a provider at fault costs nothing.
    ///
    /// Who knows the former root key and has an old copy of the database knows every tenant's key: when the root key
    /// has leaked, rotate the tenants' keys too ([`rotate_all`](Self::rotate_all)).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when the act is for a tenant; [`ErrorKind::Conflict`] when meanwhile somebody began to rotate
    /// to yet another root key; [`ErrorKind::Unavailable`] when the records or a root key's provider cannot be reached
    /// now: calling again goes on.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, a part is done; calling again goes on.
    ///
    /// # Example
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
    /// use std::sync::Arc;
    /// use ci_core::id::TenantId;
    /// # use ci_core::{access::Read, id::JobId, memory::Rig};
    /// use ci_secrets::{FileRoot, Vault};
    /// # use ci_secrets::{KeyRing as _, Purpose};
    /// # let folder = tempfile::tempdir().expect("a folder");
    /// # let path = |name| folder.path().join(name);
    /// # let rig = Rig::new()?;
    /// # let (records, audit, clock) = (rig.records(), rig.audit.clone(), rig.clock.clone());
    /// # let before = Arc::new(FileRoot::create(path("old.key"))?);
    /// # let vault = Vault::new(records.clone(), audit.clone(), before, clock.clone());
    /// # let grant = rig.grant::<Read>(&Rig::user("ada")?, &Rig::repository("1", "acme")?).await?;
    /// # let purpose = Purpose::log(&JobId::random(), 1);
    /// # let sealed = vault.seal(grant.scope()?, &purpose, b"hello").await?;
    ///
    /// let (old, new) = (Arc::new(FileRoot::open(path("old.key"))?), Arc::new(FileRoot::create(path("new.key"))?));
    /// let vault = Vault::new(records, audit, new, clock).with_former_root(old);
    /// let act = rig.operator.act(&TenantId::service(), "root_key.rotated").await?;
    /// let report = vault.rotate_root(&act, &mut |_| {}).await?;
    /// assert!(report.is_complete()); // old.key can be destroyed
    /// assert_eq!(report.rewrapped, 1);
    /// # assert_eq!(vault.open(grant.scope()?, &purpose, &sealed).await?, "hello");
    /// # Ok::<(), ci_core::Error>(()) })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn rotate_root(
        &self,
        act: &Act<'_>,
        watch: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<RotationReport> {
        act.covers(&TenantId::service())?;
        let mut work = Work::new(watch);
        let still = self.announce_root(&mut work).await?;
        let mut after = None;
        loop {
            let page = self.records.list(&layout::tenants(), after.as_ref(), PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.key.clone());
            self.rewrap_page(page, Above::Root, &still, &mut work).await?;
            work.tell(Step::TenantKeys);
        }
        if work.report.is_complete() {
            work.report.forgotten = self.scrub().await?;
        }
        Ok(work.report)
    }

    /// Writes down which root key wraps from now on.
    async fn announce_root(&self, work: &mut Work<'_>) -> Result<Condition> {
        let (place, root) = (root_place(), self.hierarchy.root().key_ref());
        let earlier = self.records.get(&place).await?;
        if let Some(record) = earlier.filter(|record| record.value == root) {
            work.report.resumed = true;
            return Ok(Condition::Is(place, record.version));
        }
        let entry = Entry::new("root_key.rotating", "operator").about("to", root);
        self.audit
            .attempt(&TenantId::service(), entry, async |audit: Batch| {
                self.records.commit(audit.put(root_place(), root.to_owned())).await.map(drop)
            })
            .await?;
        let record = self.records.get(&place).await?.filter(|record| record.value == root);
        record.map(|record| Condition::Is(place, record.version)).ok_or_else(|| {
            Error::new(ErrorKind::Conflict, "rotate the root key")
                .because("meanwhile somebody began to rotate to another one; end that first")
        })
    }
}
