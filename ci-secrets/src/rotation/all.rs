//! Rotating everything of a tenant.

use ci_core::Result;
use ci_core::id::TenantId;
use ci_core::operator::Act;
use ci_core::records::{Batch, Key};

use super::note::{self, Everything};
use super::report::Work;
use super::{PAGE, Progress, RotationReport};
use crate::Vault;
use crate::hierarchy::layout;

impl Vault {
    /// Gives `tenant` and each of its repositories a new key, and seals all of their secrets anew: what to do when a
    /// database, a copy of it or a process's memory may have been read.
    ///
    /// It goes on where an earlier call did not end; see [`RotationReport::resumed`]. What one repository
    /// cannot do stops no other; the report names it.
    ///
    /// # Errors
    ///
    /// [`Denied`](ci_core::ErrorKind::Denied) when the act is for another tenant; otherwise as for
    /// [`rotate_tenant`](Self::rotate_tenant).
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, a part is done; calling again goes on.
    pub async fn rotate_all(
        &self,
        act: &Act<'_>,
        tenant: &TenantId,
        watch: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<RotationReport> {
        act.covers(tenant)?;
        let mut work = Work::new(watch);
        // Always, also where an earlier call had done it: a note can be forged, and it costs little.
        let report = self.rotate_tenant(act, tenant, work.watch()).await?;
        let is_complete = report.is_complete();
        work.report.add(report);
        if !is_complete {
            return Ok(work.report);
        }
        let earlier = self.records.get(&note::all_place(tenant)).await?;
        let after = earlier.and_then(|record| note::read::<Everything>(&record).ok()?.after);
        let (before, is_resumed) = (work.count(), after.is_some());
        self.rotate_repositories(act, tenant, after, &mut work).await?;
        if is_resumed && work.count() == before {
            // Nothing was left of it to do. Perhaps nobody had begun it.
            self.rotate_repositories(act, tenant, None, &mut work).await?;
        } else {
            work.report.resumed |= is_resumed;
        }
        Ok(work.report)
    }

    /// Rotates the keys of the repositories whose records come behind the one with the key `after`.
    async fn rotate_repositories(
        &self,
        act: &Act<'_>,
        tenant: &TenantId,
        after: Option<String>,
        work: &mut Work<'_>,
    ) -> Result<()> {
        let place = note::all_place(tenant);
        let mut after = after.and_then(|after| Key::from_stored(after).ok());
        loop {
            let page = self.records.list(&layout::repositories(tenant), after.as_ref(), PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.key.clone());
            for record in &page {
                let Some(repository) = layout::repository_of_pointer(&record.key) else { continue };
                let report = self.rotate_repository(act, &repository, work.watch()).await;
                match report {
                    Ok(report) => work.report.add(report),
                    Err(error) => work.leave(&repository, error)?,
                }
                let done = Everything { after: Some(record.key.as_str().to_owned()) };
                self.records.commit(Batch::new().put(place.clone(), note::write(&done)?)).await?;
            }
        }
        self.records.commit(Batch::new().delete(place)).await.map(drop)
    }
}
