//! Wrapping keys anew, a page of rows in one transaction.

use bytes::Bytes;
use ci_core::records::{Batch, Condition, Record};
use ci_core::seal::{DataKey, key_id};
use ci_core::{Error, ErrorKind, Result};
use futures_util::future::join_all;
use secrecy::ExposeSecret as _;

use super::report::Work;
use super::{AT_ONCE, overtaken};
use crate::Vault;
use crate::hierarchy::{layout, open_repository_row};

/// How often others may change some of a page's rows while it is worked on.
const MOST_ROUNDS: usize = 16;

/// What keys are wrapped with.
#[derive(Clone, Copy)]
pub(super) enum Above<'a> {
    /// The root key in use: rows are those of tenants' keys.
    Root,
    /// This key of a tenant: rows are those of its repositories' keys.
    Tenant(&'a DataKey),
}

impl Vault {
    /// Wraps the keys among `rows` that something else than `above` has wrapped, all that can be in one transaction, and
    /// while `still` holds, which says that `above` is what keys are to be wrapped with.
    pub(super) async fn rewrap_page(
        &self,
        mut rows: Vec<Record>,
        above: Above<'_>,
        still: &Condition,
        work: &mut Work<'_>,
    ) -> Result<()> {
        for _ in 0..MOST_ROUNDS {
            rows.retain(|record| self.is_former(above, record));
            let (batch, count, strange) = self.rewrapped(&rows, above, still).await;
            let committed = if count == 0 { Ok(()) } else { self.records.commit(batch).await.map(drop) };
            match committed {
                Ok(()) => {
                    work.report.rewrapped += count;
                    return strange.into_iter().try_for_each(|(row, error)| self.leave_key(row, error, work));
                }
                Err(error) if error.kind() != ErrorKind::Conflict => return Err(error),
                Err(_) if !self.hierarchy.holds(still).await? => return Err(overtaken()),
                Err(_) => {}
            }
            // Somebody else was faster with some of them, or destroyed them.
            let mut now = Vec::with_capacity(rows.len());
            for record in rows {
                now.extend(self.records.get(&record.key).await?);
            }
            rows = now;
        }
        Err(overtaken())
    }

    /// What is written, how many keys that are, and the rows that cannot be wrapped anew.
    async fn rewrapped<'a>(
        &self,
        rows: &'a [Record],
        above: Above<'_>,
        still: &Condition,
    ) -> (Batch, usize, Vec<(&'a Record, Error)>) {
        let (mut batch, mut count) = (Batch::new().require(still.clone()), 0);
        let mut strange = Vec::new();
        for some in rows.chunks(AT_ONCE) {
            let mut running = Vec::with_capacity(AT_ONCE);
            for record in some {
                running.push(self.rewrap(above, record));
            }
            for (record, row) in some.iter().zip(join_all(running).await) {
                match row {
                    Ok(row) => {
                        let unchanged = Condition::Is(record.key.clone(), record.version);
                        batch = batch.require(unchanged).put(record.key.clone(), row);
                        count += 1;
                    }
                    Err(error) => strange.push((record, error)),
                }
            }
        }
        (batch, count, strange)
    }

    /// Whether it is the row of a key, and `above` did not wrap it. A row that cannot be read is one: it is not passed
    /// over.
    fn is_former(&self, above: Above<'_>, record: &Record) -> bool {
        if record.key.as_str().ends_with("/current") {
            return false;
        }
        match above {
            Above::Root => {
                let root = layout::read_tenant_row(&record.value).map(|(root, _)| root);
                root.ok() != Some(self.hierarchy.root().key_ref())
            }
            Above::Tenant(key) => key_id(&record.value).ok().as_ref() != Some(key.id()),
        }
    }

    async fn rewrap(&self, above: Above<'_>, record: &Record) -> Result<Bytes> {
        let strange =
            || Error::new(ErrorKind::Tampered, "wrap a key anew").because("there is a row that is no key's");
        match above {
            Above::Root => {
                let (tenant, id) = layout::tenant_of(&record.key).ok_or_else(strange)?;
                let key = self.hierarchy.open_tenant_row(&tenant, &id, &record.value).await?;
                self.hierarchy.wrap_for_tenant(&tenant, &id, key.expose_secret()).await
            }
            Above::Tenant(to) => {
                let (repository, id) = layout::repository_of(&record.key).ok_or_else(strange)?;
                let from = self.hierarchy.key_of_tenant(repository.tenant(), &key_id(&record.value)?).await?;
                let key = open_repository_row(&repository, &id, &from, &record.value)?;
                Ok(to.seal(&layout::repository_context(&repository, &id), key.expose()))
            }
        }
    }

    /// A key whose root key this program does not have is left; a provider that is down stops everything.
    fn leave_key(&self, record: &Record, error: Error, work: &mut Work<'_>) -> Result<()> {
        let root = layout::tenant_of(&record.key).and_then(|_| layout::read_tenant_row(&record.value).ok());
        if root.is_some_and(|(root, _)| self.hierarchy.root_named(root).is_err()) {
            work.leave_for_now(&record.key, &error);
            return Ok(());
        }
        work.leave(&record.key, error)
    }
}
