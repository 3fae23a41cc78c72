//! How a job ended.

use std::ops::Range;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::artifact::Artifact;
use crate::error::Error;
use crate::id::{ServiceName, StepName, UserId};
use crate::log::Cursor;
use crate::network::NetworkReport;
use crate::sandbox::{ExitStatus, IsolationReport, SandboxUsage, Usage};
use crate::secret::Leak;

/// How a job ended, and what it did until then.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use ci_core::memory::{Reply, Rig};
/// use ci_core::outcome::Conclusion;
/// # use ci_core::runner::Runner;
/// # use ci_core::trust::Origin;
/// # let rig = Rig::new()?;
/// # let runner = Runner::new(rig.parts());
/// # let claim = rig.claim(&Rig::repository("1", "acme")?, Origin::Repository, Rig::spec()).await?;
///
/// rig.backend.on("sh", |_| Reply::exit(3).stderr("1 test failed\n"));
/// let outcome = runner.run(claim, std::future::pending()).await?;
/// assert_eq!((outcome.conclusion, outcome.exit_code()), (Conclusion::Failed, 3));
/// assert_eq!((outcome.steps.len(), outcome.reason), (1, None));
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Outcome {
    /// The result in one word.
    pub conclusion: Conclusion,
    /// Why, in words that the job's readers may see, when no step says it.
    pub reason: Option<String>,
    /// The steps that were started, in their order.
    pub steps: Vec<StepOutcome>,
    /// The services that were made, in their order.
    #[serde(default)]
    pub services: Vec<ServiceOutcome>,
    /// What was kept.
    pub artifacts: Vec<Artifact>,
    /// How the job was isolated, when it got as far as a sandbox.
    pub isolation: Option<IsolationReport>,
    /// What its sandbox used, when it got as far as one: measured just before the sandbox was taken down.
    #[serde(default)]
    pub usage: Option<SandboxUsage>,
    /// What went through its network, when it got as far as a sandbox, with secrets hidden.
    #[serde(default)]
    pub network: Option<Box<NetworkReport>>,
    /// Who was let into its sandbox, in this order: what it did and left may be their doing. Nobody, as a rule; see
    /// [`debug`](crate::debug).
    #[serde(default)]
    pub influenced_by: Vec<UserId>,
    /// The secrets that it printed; they were hidden.
    #[serde(default)]
    pub leaks: Vec<Leak>,
    /// How long it ran.
    pub duration: Duration,
}

impl Outcome {
    pub(crate) fn new(conclusion: Conclusion) -> Self {
        Self {
            conclusion,
            reason: None,
            steps: Vec::new(),
            services: Vec::new(),
            artifacts: Vec::new(),
            isolation: None,
            usage: None,
            network: None,
            influenced_by: Vec::new(),
            leaks: Vec::new(),
            duration: Duration::ZERO,
        }
    }

    /// Adds to what was printed; the same in the same place is one entry.
    pub(crate) fn add_leaks(&mut self, leaks: impl IntoIterator<Item = Leak>) {
        for leak in leaks {
            match self.leaks.iter_mut().find(|earlier| earlier.is_like(&leak)) {
                Some(earlier) => earlier.times += leak.times,
                None => self.leaks.push(leak),
            }
        }
    }

    pub(crate) fn gave_up() -> Self {
        let reason = "it was tried three times; workers were lost, or servers that they need failed; the operator's \
                      log says more";
        Self { reason: Some(reason.to_owned()), ..Self::new(Conclusion::Errored) }
    }

    pub(crate) fn expired() -> Self {
        let reason = "no worker that could do it came in time; look at its labels, and start it again";
        Self { reason: Some(reason.to_owned()), ..Self::new(Conclusion::Refused) }
    }

    pub(crate) fn not_admitted() -> Self {
        let reason =
            "it is not the job that was enqueued, or no worker can open it; the operator's log says more";
        Self { reason: Some(reason.to_owned()), ..Self::new(Conclusion::Refused) }
    }

    pub(crate) fn cancelled() -> Self {
        Self::new(Conclusion::Cancelled)
    }

    pub(crate) fn refused(error: &Error) -> Self {
        Self { reason: Some(error.to_string()), ..Self::new(Conclusion::Refused) }
    }

    /// Whether somebody was let into its sandbox.
    pub fn is_influenced(&self) -> bool {
        !self.influenced_by.is_empty()
    }

    /// The exit code of a program that stands for the job:
    ///
    /// | Code | The job |
    /// |---|---|
    /// | 0 | succeeded |
    /// | the failed step's own | failed |
    /// | 128 and the number of the signal, as in a shell | failed: a signal ended its step |
    /// | 124, as of `timeout` | took too long |
    /// | 130, as after Ctrl-C | was cancelled |
    /// | 137, as after the kernel's own killing | ran out of memory |
    /// | 125, as of `docker run` | was refused, could not be run, printed too much, left nothing to keep, or had a service that failed before it was ready |
    pub fn exit_code(&self) -> u8 {
        const NOT_THE_JOB: u8 = 125;
        match (self.conclusion, self.steps.last().and_then(|step| step.status)) {
            (Conclusion::Succeeded, _) => 0,
            (Conclusion::Failed, Some(ExitStatus::Code(code))) if code != 0 => code,
            // What a shell reports for a program that a signal ended.
            (Conclusion::Failed, Some(ExitStatus::Signal(signal))) => 128_u8.saturating_add(signal),
            (Conclusion::LimitExceeded, Some(ExitStatus::OutOfMemory)) => 137,
            (Conclusion::TimedOut, _) => 124,
            (Conclusion::Cancelled, _) => 130,
            _ => NOT_THE_JOB,
        }
    }
}

/// The result of a job in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Conclusion {
    /// All steps succeeded.
    Succeeded,
    /// A step failed, a service failed before it was ready, or the steps left nothing where the job names something to
    /// keep.
    Failed,
    /// Somebody asked for it to stop.
    Cancelled,
    /// It took longer than it was allowed to, or a service was not ready in time.
    TimedOut,
    /// It used more than it was allowed to.
    LimitExceeded,
    /// It was not allowed to begin, or to have a secret that it asks for; or it has services where there can be none.
    Refused,
    /// It could not be run as it is written: no such commit, image or secret, or a machine that cannot.
    Errored,
}

/// How one step ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StepOutcome {
    /// What people call it.
    pub name: StepName,
    /// How its program ended; `None` when it was stopped.
    pub status: Option<ExitStatus>,
    /// How long it ran.
    pub duration: Duration,
    /// What it used.
    pub usage: Usage,
    /// Which part of the job's log it wrote. What could have been the beginning of a secret at its end stands where the
    /// next step writes, or at the log's end.
    pub output: Range<Cursor>,
}

/// How one service ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ServiceOutcome {
    /// What people call it.
    pub name: ServiceName,
    /// How its program ended by itself; `None` when it ran for as long as it was needed.
    pub status: Option<ExitStatus>,
    /// How long its program ran, until the job's own sandbox was taken down at the latest.
    pub duration: Duration,
    /// What its sandbox used, which is no part of what the job's used.
    pub usage: Option<SandboxUsage>,
}
