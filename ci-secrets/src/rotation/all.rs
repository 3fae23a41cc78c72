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
    /// It goes on where an earlier call did not end. What one repository cannot do stops no other; the report names it.
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
        let place = note::all_place(tenant);
        let earlier = self.records.get(&place).await?;
        let mut done: Everything = earlier.as_ref().map(note::read).transpose()?.unwrap_or_default();
        if !done.tenant {
            let report = self.rotate_tenant(act, tenant, work.watch()).await?;
            let is_complete = report.is_complete();
            work.report.add(report);
            if !is_complete {
                return Ok(work.report);
            }
            done.tenant = true;
            self.note_all(&place, &done).await?;
        }
        work.report.resumed |= earlier.is_some();
        loop {
            let after = done.after.clone().map(Key::from_stored).transpose()?;
            let page = self.records.list(&layout::repositories(tenant), after.as_ref(), PAGE).await?;
            let Some(last) = page.last() else { break };
            let last = last.key.as_str().to_owned();
            for record in &page {
                let Some(repository) = layout::repository_of_pointer(&record.key) else { continue };
                let report = self.rotate_repository(act, &repository, work.watch()).await;
                match report {
                    Ok(report) => work.report.add(report),
                    Err(error) => work.leave(&repository, error)?,
                }
                done.after = Some(record.key.as_str().to_owned());
                self.note_all(&place, &done).await?;
            }
            done.after = Some(last);
        }
        self.records.commit(Batch::new().delete(place)).await?;
        Ok(work.report)
    }

    async fn note_all(&self, place: &Key, done: &Everything) -> Result<()> {
        self.records.commit(Batch::new().put(place.clone(), note::write(done)?)).await.map(drop)
    }
}
