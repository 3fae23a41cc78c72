//! The operator's power: sweeping, rotation, reaping, erasure, schedules.

use bytes::Bytes;

use crate::access::Scope;
use crate::audit::{Audit, Entry};
use crate::error::{Error, ErrorKind, Result};
use crate::forge::{self, RevisionName, Source, SourcePath};
use crate::id::{RepositoryId, TenantId};
use crate::sandbox::Sandboxes;
use crate::trust::Provenance;
use crate::units::ByteSize;

/// Whoever runs the service. There is one for an [`Audit`] and its clones, made where the service is put together.
///
/// It can do nothing by itself: every use of its power is an [`Act`], and an act exists only when the audit log
/// holds the entry for it.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use ci_core::id::TenantId;
/// use ci_core::memory::Rig;
///
/// let (rig, acme) = (Rig::new()?, TenantId::parse("acme")?);
/// let act = rig.operator.act(&acme, "audit.read").await?; // recorded before it is allowed
/// assert!(act.covers(&TenantId::parse("umbrella")?).is_err());
///
/// let entries = rig.audit.entries(&act, &acme, 0).await?;
/// assert_eq!((&entries[0].entry.action[..], &entries[0].entry.actor[..]), ("audit.read", "operator"));
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Operator {
    audit: Audit,
}

impl Operator {
    /// The operator of the service whose uses of power `audit` records.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Conflict`] when this audit log has an operator already.
    pub fn new(audit: &Audit) -> Result<Self> {
        if audit.take_operator() {
            return Ok(Self { audit: audit.clone() });
        }
        Err(Error::new(ErrorKind::Conflict, "make the operator")
            .because("this audit log has one; pass it on from where the service is put together"))
    }

    /// Records one use of power over what belongs to `tenant`, and then allows it. What goes over all tenants is
    /// recorded for [the service](TenantId::service); that covers nothing which belongs to a single one.
    ///
    /// # Errors
    ///
    /// As for [`Audit::record`]: nothing is allowed that cannot be recorded.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, the entry may have been written, for a use that never was.
    pub async fn act(&self, tenant: &TenantId, action: &str) -> Result<Act<'_>> {
        self.audit.record(tenant, Entry::new(action, "operator")).await?;
        Ok(Act { _operator: self, tenant: tenant.clone() })
    }
}

/// A recorded use of the operator's power over what belongs to one tenant; [`Operator::act`] makes it. It may be used
/// more than once: pass it to one operation, and record another one for the next.
#[derive(Debug)]
pub struct Act<'a> {
    _operator: &'a Operator,
    tenant: TenantId,
}

impl Act<'_> {
    /// Refuses when it was recorded for another tenant.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`], since the tenant's own log would not show it.
    pub fn covers(&self, tenant: &TenantId) -> Result<()> {
        if self.tenant == *tenant {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Denied, "use the operator's power")
            .because("it was recorded for another tenant; record it for this one")
            .with("tenant", tenant))
    }

    /// Which exact code `name` means now, and where it comes from: for a job that a schedule starts.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when the repository is of another tenant; otherwise as for [`Source::resolve`].
    pub async fn resolve(
        &self,
        source: &dyn Source,
        helpers: &Sandboxes,
        repository: &RepositoryId,
        name: &RevisionName,
    ) -> Result<Provenance> {
        self.covers(repository.tenant())?;
        forge::resolve(source, Scope::new(repository), helpers, name).await
    }

    /// The content of the file at `path` in exactly `code`, of at most `limit` bytes: the pipeline file of a job that a
    /// schedule starts.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when the repository is of another tenant; otherwise as for [`forge::read()`].
    pub async fn read(
        &self,
        source: &dyn Source,
        helpers: &Sandboxes,
        code: &Provenance,
        path: &SourcePath,
        limit: ByteSize,
    ) -> Result<Bytes> {
        self.covers(code.repository().tenant())?;
        forge::read(source, Scope::new(code.repository()), helpers, code, path, limit).await
    }
}
