//! Rotating a tenant's key: the keys of its repositories are wrapped anew, and the former key is destroyed.

use ci_core::Result;
use ci_core::audit::Entry;
use ci_core::id::TenantId;
use ci_core::operator::Act;
use ci_core::records::{Batch, Condition};

use super::note::{self, Note, Noted, Then};
use super::report::Work;
use super::rewrap::Above;
use super::{MOST_ROUNDS, PAGE, Progress, RotationReport, Step, overtaken};
use crate::Vault;
use crate::hierarchy::layout;

impl Vault {
    /// Gives `tenant` a new key, wraps the keys of its repositories with it, and destroys the former one, once nothing
    /// is left that depends on it. A tenant without a key gets none.
    ///
    /// When one was begun earlier and something is left of it to do, this ends it, and begins none. `watch` is told after
    /// every 200 keys.
    ///
    /// # Errors
    ///
    /// [`Denied`](ci_core::ErrorKind::Denied) when the act is for another tenant;
    /// [`Tampered`](ci_core::ErrorKind::Tampered) when the tenant's key is not what was stored;
    /// [`Unavailable`](ci_core::ErrorKind::Unavailable) when the records or the root key cannot be reached now, or
    /// somebody else rotates the same key: calling again goes on.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, a part is done; calling again goes on.
    ///
    /// # Example
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
    /// # use ci_core::{access::Read, id::JobId, memory::Rig};
    /// # use ci_secrets::{KeyRing as _, Purpose};
    /// # let folder = tempfile::tempdir().expect("a folder");
    /// # let root = std::sync::Arc::new(ci_secrets::FileRoot::create(folder.path().join("root.key"))?);
    /// # let rig = Rig::new()?;
    /// # let vault = ci_secrets::Vault::new(rig.records(), rig.audit.clone(), root, rig.clock.clone());
    /// # let repository = Rig::repository("1", "acme")?;
    /// # let grant = rig.grant::<Read>(&Rig::user("ada")?, &repository).await?;
    /// # vault.seal(grant.scope()?, &Purpose::log(&JobId::random(), 1), b"hello").await?;
    /// let act = rig.operator.act(repository.tenant(), "tenant_key.rotated").await?;
    /// let report = vault.rotate_tenant(&act, repository.tenant(), &mut |_| {}).await?;
    /// assert_eq!((report.made, report.rewrapped, report.destroyed), (1, 1, 1));
    /// # Ok::<(), ci_core::Error>(()) })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn rotate_tenant(
        &self,
        act: &Act<'_>,
        tenant: &TenantId,
        watch: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<RotationReport> {
        act.covers(tenant)?;
        let mut work = Work::new(watch);
        for _ in 0..MOST_ROUNDS {
            if self.hierarchy.pointer(&layout::tenant_folder(tenant)).await?.is_none() {
                return Ok(work.report);
            }
            if let Some(noted) = self.begin_tenant(tenant, &mut work).await? {
                self.finish_tenant(tenant, &noted, &mut work).await?;
            }
            if work.count() > 0 {
                return Ok(work.report);
            }
        }
        Err(overtaken())
    }

    async fn finish_tenant(&self, tenant: &TenantId, noted: &Noted, work: &mut Work<'_>) -> Result<()> {
        let current = self.hierarchy.current_of_tenant(tenant).await?;
        if *current.key.id() != noted.note.to {
            return Err(overtaken());
        }
        let mut after = None;
        loop {
            let page = self.records.list(&layout::repositories(tenant), after.as_ref(), PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.key.clone());
            self.rewrap_page(page, Above::Tenant(&current.key), &current.still, work).await?;
            work.tell(Step::RepositoryKeys);
        }
        if work.report.is_complete() {
            work.report.destroyed += self.destroy_former_of_tenant(tenant, noted, &current.still).await?;
            // Once more when it had been destroyed before a crash: the note says that nobody has got here yet.
            work.report.forgotten = self.scrub().await?;
            self.end(noted).await?;
        }
        Ok(())
    }

    /// Makes the new key, moves the pointer on to it and writes that down, all at once; or finds what was written down.
    /// `None` when somebody else has begun one and ended it meanwhile.
    async fn begin_tenant(&self, tenant: &TenantId, work: &mut Work<'_>) -> Result<Option<Noted>> {
        let (place, folder) = (note::tenant_place(tenant), layout::tenant_folder(tenant));
        let earlier = self.records.get(&place).await?;
        let Some(before) = self.hierarchy.pointer(&folder).await? else { return Ok(None) };
        if let Some(noted) = Noted::of(earlier.as_ref(), &before.id) {
            work.began(false);
            return Ok(Some(noted));
        }
        let unchanged = note::unchanged(&place, earlier.as_ref());
        let root_is = self.hierarchy.root_in_use().await?;
        let new = self.hierarchy.new_key();
        let row = self.hierarchy.wrap_for_tenant(tenant, new.id(), new.expose()).await?;
        let note = Note { from: before.id.clone(), to: new.id().clone(), then: Then::Reseal };
        let entry =
            Entry::new("tenant_key.rotated", "operator").about("from", &note.from).about("to", &note.to);
        let commit = async |audit: Batch| {
            if !self.hierarchy.holds(&unchanged).await? {
                return Ok(false);
            }
            if !self.hierarchy.holds(&before.still).await? || !self.hierarchy.holds(&root_is).await? {
                return Err(overtaken());
            }
            let batch = audit
                .require(before.still.clone())
                .require(root_is.clone())
                .require(unchanged.clone())
                .put(layout::current_place(&folder), new.id().as_str().to_owned())
                .put(layout::wrapped_place(&folder, new.id()), row.clone())
                .put(place.clone(), note::write(&note)?);
            self.records.commit(batch).await.map(|_| true)
        };
        let is_first = self.audit.attempt(tenant, entry, commit).await?;
        work.began(is_first);
        self.records.get(&place).await?.map(|record| Noted::read(&record)).transpose()
    }

    /// Destroys every key of the tenant but the current one, under which everything is by now.
    async fn destroy_former_of_tenant(
        &self,
        tenant: &TenantId,
        noted: &Noted,
        still: &Condition,
    ) -> Result<usize> {
        let folder = layout::tenant_folder(tenant);
        let keep = layout::wrapped_place(&folder, &noted.note.to);
        let (mut destroyed, mut after) = (0, None);
        loop {
            let page = self.records.list(&layout::wrapped(&folder), after.as_ref(), PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.key.clone());
            let former: Vec<_> =
                page.into_iter().map(|record| record.key).filter(|key| *key != keep).collect();
            if former.is_empty() {
                continue;
            }
            let entry = Entry::new("tenant_key.destroyed", "operator").about("key", &noted.note.from);
            let commit = async |audit: Batch| {
                if !self.hierarchy.holds(still).await? || !self.hierarchy.holds(&noted.still).await? {
                    return Err(overtaken());
                }
                let batch = audit.require(still.clone()).require(noted.still.clone());
                let batch = former.iter().fold(batch, |batch, place| batch.delete(place.clone()));
                self.records.commit(batch).await.map(drop)
            };
            self.audit.attempt(tenant, entry, commit).await?;
            destroyed += former.len();
        }
        self.hierarchy.forget_below(&folder);
        Ok(destroyed)
    }
}
