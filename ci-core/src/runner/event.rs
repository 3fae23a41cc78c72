//! What happens in a job, and who is told of it.

use std::fmt;
use std::time::Duration;

use crate::artifact::Artifact;
#[cfg(doc)]
use crate::debug::Desk;
use crate::id::{JobId, ServiceName, StepName, UserId};
use crate::outcome::{Outcome, StepOutcome};
use crate::sandbox::{IsolationReport, OutputStream, SandboxUsage};
use crate::secret::{Masked, Unmasked};

/// Watches jobs as they run: for progress, metrics, traces. It must not block, because the job waits for it; what takes
/// time goes into a channel.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use ci_core::id::JobId;
/// use ci_core::runner::{Event, Observer};
///
/// /// Counts bytes of output, for a chart.
/// #[derive(Debug, Default)]
/// struct Printed(AtomicU64);
///
/// impl Observer for Printed {
///     fn observe(&self, _: &JobId, event: &Event<'_>) {
///         if let Event::Output { bytes, .. } = event {
///             self.0.fetch_add(bytes.len() as u64, Ordering::Relaxed);
///         }
///     }
/// }
/// # use ci_core::memory::{Reply, Rig};
/// # use ci_core::{runner::{Parts, Runner}, trust::Origin};
/// # let (rig, printed) = (Rig::new()?, Arc::new(Printed::default()));
/// let runner = Runner::new(Parts { observer: printed.clone(), ..rig.parts() });
/// # rig.backend.on("sh", |_| Reply::exit(0).stdout("hello"));
/// # let claim = rig.claim(&Rig::repository("1", "acme")?, Origin::Repository, Rig::spec()).await?;
/// # runner.run(claim, std::future::pending()).await?;
/// # assert_eq!(printed.0.load(Ordering::Relaxed), 5);
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Observer: fmt::Debug + Send + Sync + 'static {
    /// Something happened in `job`.
    fn observe(&self, job: &JobId, event: &Event<'_>);
}

/// What happens in a job. When it is stopped, its sandbox goes first, and its last output comes after that.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Some of its secrets cannot be hidden in its output.
    Unmasked(&'a [Unmasked]),
    /// Its sandbox is there.
    SandboxCreated(&'a IsolationReport),
    /// Its code is in the sandbox.
    CheckedOut,
    /// One of its services is ready.
    ServiceReady(&'a ServiceName),
    /// A step begins.
    StepStarted {
        /// Its number, from 0.
        index: usize,
        /// How many there are.
        count: usize,
        /// Its name.
        name: &'a StepName,
    },
    /// The running step wrote something, or there is something to say about a service.
    Output {
        /// Where to.
        stream: OutputStream,
        /// What, with secrets hidden.
        bytes: &'a Masked,
    },
    /// What its own sandbox uses, every ten seconds while steps run.
    Usage(&'a SandboxUsage),
    /// A step has ended.
    StepFinished {
        /// Its number, from 0.
        index: usize,
        /// How.
        outcome: &'a StepOutcome,
    },
    /// A file was kept.
    ArtifactKept(&'a Artifact),
    /// A step or a service failed, and its sandbox is kept for so long, or until whoever came has gone.
    Kept(Duration),
    /// Somebody was let in through the [`Desk`].
    DebugOpened(&'a UserId),
    /// Its sandbox is proven gone, and those of its services are.
    SandboxDestroyed,
    /// It has ended, and its outcome is recorded. A job that is given back for another try has no such event.
    Finished(&'a Outcome),
}
