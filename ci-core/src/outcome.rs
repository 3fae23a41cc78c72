//! How a job ended.

use std::ops::Range;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::artifact::Artifact;
use crate::error::Error;
use crate::id::StepName;
use crate::log::Cursor;
use crate::sandbox::{ExitStatus, IsolationReport, Usage};

/// How a job ended, and what it did until then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Outcome {
    /// The result in one word.
    pub conclusion: Conclusion,
    /// Why, in words that the job's readers may see, when no step says it.
    pub reason: Option<String>,
    /// The steps that were started, in their order.
    pub steps: Vec<StepOutcome>,
    /// What was kept.
    pub artifacts: Vec<Artifact>,
    /// How the job was isolated, when it got as far as a sandbox.
    pub isolation: Option<IsolationReport>,
    /// How long it ran.
    pub duration: Duration,
}

impl Outcome {
    pub(crate) fn new(conclusion: Conclusion) -> Self {
        Self {
            conclusion,
            reason: None,
            steps: Vec::new(),
            artifacts: Vec::new(),
            isolation: None,
            duration: Duration::ZERO,
        }
    }

    pub(crate) fn gave_up() -> Self {
        let reason = "every worker that took the job was lost; the operator's log says more";
        Self { reason: Some(reason.to_owned()), ..Self::new(Conclusion::Errored) }
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

    /// The exit code of a program that stands for the job: the failed step's own, 0 on success, and 125 when the
    /// job failed for another reason than a step (the code that `docker run` uses for its own failures).
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
    /// A step failed.
    Failed,
    /// Somebody asked for it to stop.
    Cancelled,
    /// It took longer than it was allowed to.
    TimedOut,
    /// It used more than it was allowed to.
    LimitExceeded,
    /// It was not allowed to begin.
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
