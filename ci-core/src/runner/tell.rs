//! What is told of a job where it outlasts the job: the audit log, the queue, the log of its output, the forge.

use std::pin::pin;
use std::time::Duration;

use super::{LAST_PATIENCE, Runner, until};
use crate::audit::Entry;
use crate::error::{ErrorKind, Result};
use crate::forge::CheckState;
use crate::outcome::{Conclusion, Outcome};
use crate::queue::Claim;

impl Runner {
    /// Says that the job has begun: in the audit log first.
    pub(super) async fn open(&self, claim: &Claim) -> Result<()> {
        let entry = Entry::new("job.opened", "job")
            .about("job", claim.job())
            .about("repository", claim.scope()?.repository())
            .about("commit", claim.code().commit())
            .about("attempt", claim.attempt());
        self.parts.audit.record(claim.scope()?.repository().tenant(), entry).await?;
        self.tell(claim, CheckState::Running, "running").await;
        Ok(())
    }

    /// The log of a job that has ended is at its end, closed or not: what cannot be closed must not make the job run
    /// again.
    pub(super) async fn close_log(&self, claim: &Claim) -> Result<()> {
        let closed = claim.retried(|| self.parts.logs.close(claim));
        match until(pin!(self.late(LAST_PATIENCE, "close a job's log")), closed).await {
            Err(error) if error.kind() == ErrorKind::Fenced => Err(error),
            Err(error) => {
                tracing::warn!(job = %claim.job(), error = %error.for_operator(), "log not closed");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Records how the job ended, and with that that it has.
    pub(super) async fn record(&self, claim: &Claim, outcome: &Outcome) -> Result<()> {
        let entry = Entry::new("job.finished", "job")
            .about("job", claim.job())
            .about("conclusion", format_args!("{:?}", outcome.conclusion));
        let tenant = claim.code().repository().tenant();
        let end = &claim.retried(|| claim.seal(outcome)).await?;
        claim
            .retried(|| self.parts.audit.attempt(tenant, entry.clone(), |batch| claim.finish(end, batch)))
            .await
    }

    /// Only when it is recorded: a forge that heard of a success that never was would go on showing it.
    pub(super) async fn tell_end(&self, claim: &Claim, outcome: &Outcome) {
        let state = match outcome.conclusion {
            Conclusion::Succeeded => CheckState::Succeeded,
            Conclusion::Failed | Conclusion::LimitExceeded | Conclusion::TimedOut => CheckState::Failed,
            _ => CheckState::Errored,
        };
        self.tell(claim, state, outcome.reason.as_deref().unwrap_or("done")).await;
    }

    /// A forge that cannot be told does not stop a job.
    async fn tell(&self, claim: &Claim, state: CheckState, description: &str) {
        const PATIENCE: Duration = Duration::from_secs(30);
        let Some(checks) = &self.parts.checks else { return };
        let late = self.late(PATIENCE, "report a status");
        if let Err(error) = until(pin!(late), checks.report(claim, state, description)).await {
            tracing::warn!(job = %claim.job(), %error, "status not reported");
        }
    }
}
