//! Reading a chain to its end, and holding it against what somebody has kept of it.

use super::{Audit, Chain, Checkpoint, Head, broken, busy, entries_key, tampered};
use crate::error::{ErrorKind, Result};
use crate::id::TenantId;
use crate::operator::Act;
use crate::records::Key;
use crate::secret::{FreshnessAnchor, Mark};

impl Audit {
    /// Checks the whole chain of `tenant`, which reads all of it, and returns its end.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Tampered`] when an entry was changed, removed, added or moved;
    /// [`ErrorKind::Unavailable`] when the log cannot be read.
    pub async fn verify(&self, tenant: &TenantId) -> Result<Head> {
        Ok(self.verified(tenant, |_| Ok(())).await?.head().clone())
    }

    /// Checks the whole chain of `tenant`, and that it goes on from where it ended when `kept` was its end.
    ///
    /// # Errors
    ///
    /// As for [`verify`](Self::verify); [`ErrorKind::Tampered`] also when what came before `kept` is not what it was,
    /// however well the chain fits together.
    pub async fn verify_since(&self, tenant: &TenantId, kept: &Head) -> Result<Head> {
        let is_the_same = |chain: &Chain| match chain.head() {
            head if head.count == kept.count && head != kept => Err(broken(tenant, head.count)),
            _ => Ok(()),
        };
        let chain = self.verified(tenant, is_the_same).await?;
        has_come_to(tenant, chain.head(), kept.count)?;
        Ok(chain.head().clone())
    }

    /// Checks the whole chain of `tenant`, and that it begins with the entries that were signed.
    ///
    /// # Errors
    ///
    /// As for [`verify_since`](Self::verify_since).
    pub async fn verify_checkpoint(&self, tenant: &TenantId, checkpoint: &Checkpoint) -> Result<Head> {
        let chain = self.verified(tenant, |chain| checkpoint.check(chain)).await?;
        has_come_to(tenant, chain.head(), checkpoint.size())?;
        Ok(chain.head().clone())
    }

    /// Checks the whole chain of `tenant`, and that it goes on from what `anchor` remembers of it; then moves the anchor on.
    /// One anchor serves the logs of all tenants.
    ///
    /// # Errors
    ///
    /// As for [`verify`](Self::verify); [`ErrorKind::Tampered`] also when the log was put back to an earlier state, or
    /// another one was written in its place; [`ErrorKind::Unavailable`] also when the anchor cannot be reached. Put the
    /// latest copy of the store back then, or take this one with [`accept_restored`](Self::accept_restored).
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, the anchor may have moved.
    pub async fn verify_fresh(&self, tenant: &TenantId, anchor: &dyn FreshnessAnchor) -> Result<Head> {
        // First the anchor: what others write meanwhile only makes the log longer.
        let place = anchored(tenant);
        let latest = anchor.latest(&place).await?;
        let head = match &latest {
            None => self.verify(tenant).await?,
            Some(Mark { number, digest }) => {
                self.verify_since(tenant, &Head { count: *number, hash: digest.clone() }).await?
            }
        };
        if head.count > latest.map_or(0, |latest| latest.number) {
            match anchor.advance(&place, &Mark { number: head.count, digest: head.hash.clone() }).await {
                // Somebody else has moved it further.
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                moved => moved?,
            }
        }
        Ok(head)
    }

    /// Takes the log of `tenant` as it is in a store that a copy has replaced on purpose: what `anchor` remembers of it is
    /// forgotten.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when the act is for another tenant; [`ErrorKind::Unavailable`] when the anchor cannot be
    /// reached.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, it may have happened; calling again finishes it.
    pub async fn accept_restored(
        &self,
        act: &Act<'_>,
        tenant: &TenantId,
        anchor: &dyn FreshnessAnchor,
    ) -> Result<()> {
        act.covers(tenant)?;
        anchor.forget(&anchored(tenant)).await
    }

    /// The whole chain, when it fits together and ends where its head says. `look` is asked about every state that it has
    /// been in.
    pub(super) async fn verified(
        &self,
        tenant: &TenantId,
        look: impl Fn(&Chain) -> Result<()>,
    ) -> Result<Chain> {
        // Others may add to it meanwhile; each round sees what they have added.
        const MOST_ROUNDS: usize = 1_000;
        let mut chain = Chain::new();
        look(&chain)?;
        for round in 0..MOST_ROUNDS {
            let before = chain.head().count;
            self.walk(tenant, &mut chain, None, &look).await?;
            let (stored, _) = self.head(tenant).await?;
            if stored == *chain.head() {
                return Ok(chain);
            }
            let has_moved = round == 0 || chain.head().count > before;
            if stored.count <= chain.head().count || !has_moved {
                return Err(broken(tenant, chain.head().count));
            }
        }
        Err(busy("verify the audit log"))
    }

    /// Adds the entries that are stored behind the end of `chain`, up to `until` of them in all.
    async fn walk(
        &self,
        tenant: &TenantId,
        chain: &mut Chain,
        until: Option<u64>,
        look: impl Fn(&Chain) -> Result<()>,
    ) -> Result<()> {
        let is_done = |chain: &Chain| until.is_some_and(|until| chain.head().count >= until);
        while !is_done(chain) {
            let page = self.page(tenant, chain.head().count).await?;
            if page.is_empty() {
                break;
            }
            for record in &page {
                if is_done(chain) {
                    break;
                }
                if record.key != entries_key(tenant).number(chain.head().count) {
                    return Err(broken(tenant, chain.head().count));
                }
                chain.push(&record.value).map_err(|error| error.with("tenant", tenant))?;
                look(chain)?;
            }
        }
        Ok(())
    }

    /// The chain `signed`, gone on to `head`, of which what is behind it was checked.
    pub(super) async fn gone_on(&self, tenant: &TenantId, signed: Chain, head: &Head) -> Result<Chain> {
        let mut chain = signed;
        has_come_to(tenant, head, chain.head().count)?;
        self.walk(tenant, &mut chain, Some(head.count), |_| Ok(())).await?;
        if chain.head() == head { Ok(chain) } else { Err(broken(tenant, head.count)) }
    }
}

/// That the chain that ends with `head` has as many entries as it once had.
pub(super) fn has_come_to(tenant: &TenantId, head: &Head, earlier: u64) -> Result<()> {
    if head.count >= earlier {
        return Ok(());
    }
    Err(tampered("verify the audit log")
        .because("its end was cut off, or the database was put back: there were more entries")
        .with("tenant", tenant)
        .with("entries", head.count)
        .with("earlier", earlier))
}

/// What a freshness anchor calls the log of `tenant`.
fn anchored(tenant: &TenantId) -> Key {
    Key::new("audit").part(tenant.as_str())
}
