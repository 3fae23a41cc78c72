//! Time that a program may take.

use std::future::{self, Future};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::{Either, select};

use super::{Input, Process, ProcessEvent, Signal, TerminalSize};
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};

/// How long killing a program may keep whoever waits for its error.
const LAST_PATIENCE: Duration = Duration::from_secs(10);

/// How long a program may take. Without bounds: as long as it likes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Bounds {
    /// From before it is started to its end.
    pub timeout: Option<Duration>,
    /// Without any output.
    pub silence: Option<Duration>,
}

impl Bounds {
    /// Bounds the whole time, starting the program included.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Bounds the time without output. Output that waits for its reader counts as none only until it is read: a slow
    /// reader does not make a program silent.
    pub fn with_silence(mut self, silence: Duration) -> Self {
        self.silence = Some(silence);
        self
    }
}

/// A program that is killed when it takes longer than it may.
///
/// It is a [`Process`] like the one that it holds. [`next`](Process::next) fails with [`ErrorKind::TimedOut`] once, when
/// the program has been killed; whoever wants its last words and its usage calls on, and gets them without any bound.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// use std::time::Duration;
/// use ci_core::ErrorKind;
/// use ci_core::job::Arg;
/// use ci_core::memory::{Reply, Rig};
/// use ci_core::sandbox::{Bounded, Bounds, Command, Process};
/// # use std::sync::Arc;
/// # use ci_core::{memory::Masking, sandbox::Spec, secret::SecretLease, trust::Origin};
/// # let rig = Rig::new()?;
/// # let claim = rig.claim(&Rig::repository("1", "acme")?, Origin::Repository, Rig::spec()).await?;
/// # let lease = SecretLease::empty(&claim, Arc::new(Masking::new()));
/// # let sandbox = rig.sandboxes.create(&claim, &Spec::new(claim.spec().image.clone())).await?;
/// rig.backend.on("wait", |_| Reply::hang());
///
/// let command = Command::new(Arg::new("wait")?, []);
/// let bounds = Bounds::default().with_timeout(Duration::from_secs(10));
/// let mut process =
///     Bounded::start("wait for a while", rig.clock.clone(), bounds, sandbox.exec(&command, &lease)).await?;
/// let (event, ()) = tokio::join!(process.next(), async { rig.clock.advance(Duration::from_secs(10)) });
/// assert_eq!(event.expect_err("it hangs").kind(), ErrorKind::TimedOut);
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Bounded<'a> {
    process: Box<dyn Process + 'a>,
    watch: Watch,
}

impl<'a> Bounded<'a> {
    /// Starts a program by waiting for `starting`, which is what `exec` returns; an error about time names `operation`.
    ///
    /// # Errors
    ///
    /// That of `starting`; [`ErrorKind::TimedOut`] when it has not started within its time.
    ///
    /// # Cancel safety
    ///
    /// That of `starting`, also when it took too long: the program may have started, and ends with the sandbox at the
    /// latest.
    pub async fn start(
        operation: &'static str,
        clock: Arc<dyn Clock>,
        bounds: Bounds,
        starting: impl Future<Output = Result<Box<dyn Process + 'a>>> + Send,
    ) -> Result<Self> {
        let start = clock.elapsed();
        let mut watch = Watch { operation, clock, bounds, start, last_output: start };
        let process = match select(pin!(watch.timeout()), pin!(starting)).await {
            Either::Left((error, _)) => return Err(error),
            Either::Right((process, _)) => process?,
        };
        watch.last_output = watch.clock.elapsed();
        Ok(Self { process, watch })
    }
}

/// What is left of the time.
#[derive(Debug)]
struct Watch {
    operation: &'static str,
    clock: Arc<dyn Clock>,
    bounds: Bounds,
    start: Duration,
    last_output: Duration,
}

impl Watch {
    /// Returns when the whole time is over.
    async fn timeout(&self) -> Error {
        let Some(timeout) = self.bounds.timeout else { return future::pending().await };
        self.until(self.start.saturating_add(timeout)).await;
        Error::new(ErrorKind::TimedOut, self.operation)
            .because("it took longer than it may; raise its timeout, or find out what it waits for")
            .with("seconds", timeout.as_secs())
    }

    /// Returns when nothing was written for too long.
    async fn silence(&self) -> Error {
        let Some(silence) = self.bounds.silence else { return future::pending().await };
        self.until(self.last_output.saturating_add(silence)).await;
        Error::new(ErrorKind::TimedOut, self.operation)
            .because("it wrote nothing for too long; let it say what it does, or raise the bound on silence")
            .with("seconds", silence.as_secs())
    }

    async fn until(&self, deadline: Duration) {
        let left = deadline.saturating_sub(self.clock.elapsed());
        if !left.is_zero() {
            self.clock.sleep(left).await;
        }
    }
}

#[async_trait]
impl Process for Bounded<'_> {
    async fn next(&mut self) -> Result<ProcessEvent> {
        // The whole time first, for a program can write without end; silence last, for it is none while output waits.
        let event = {
            let (timeout, silence) = (pin!(self.watch.timeout()), pin!(self.watch.silence()));
            match select(timeout, select(self.process.next(), silence)).await {
                Either::Left((late, _)) => Err(late),
                Either::Right((Either::Left((event, _)), _)) => Ok(event?),
                Either::Right((Either::Right((silent, _)), _)) => Err(silent),
            }
        };
        if event.is_ok() {
            self.watch.last_output = self.watch.clock.elapsed();
            return event;
        }
        // Once only. What cannot be killed is gone, or goes with the sandbox.
        self.watch.bounds = Bounds::default();
        let _ = select(self.process.signal(Signal::Kill), self.watch.clock.sleep(LAST_PATIENCE)).await;
        event
    }

    async fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal).await
    }

    fn input(&mut self) -> Option<Box<dyn Input>> {
        self.process.input()
    }

    async fn resize(&self, size: TerminalSize) -> Result<()> {
        self.process.resize(size).await
    }
}
