//! An access to a job's sandbox, from both sides: the person's, and the runner's.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

use crate::access::{Authority, Grant, Write};
use crate::clock::{Clock, Deadline};
use crate::error::{Error, ErrorKind, Result};
use crate::external::External;
use crate::id::{JobId, UserId};
use crate::sandbox::{ExitStatus, OutputStream, Signal, TerminalSize};
use crate::secret::Masked;

const OPERATION: &str = "use a debug session";

/// How often it is looked whether a person may still write.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

/// How many pieces of input and of output may be on their way.
const ON_THE_WAY: usize = 16;

/// A person's access to the sandbox of one job; the example of [`Desk`](super::Desk) uses one.
///
/// Clones are the same access. It ends when the last one is dropped, and at the latest as [`DebugEnd`] says.
#[derive(Clone, Debug)]
pub struct DebugAccess {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    job: JobId,
    user: UserId,
    until: Deadline,
    clock: Arc<dyn Clock>,
    starts: mpsc::Sender<Start>,
    /// Whether it shall end.
    closing: watch::Sender<bool>,
    end: watch::Receiver<Option<DebugEnd>>,
}

/// Why an access has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DebugEnd {
    /// Its time is over.
    TimeIsOver,
    /// The person may no longer write to the repository, or the forge could not be asked.
    Withdrawn,
    /// It was closed or dropped.
    Closed,
    /// The job's sandbox goes.
    JobEnded,
}

impl DebugEnd {
    fn words(self) -> &'static str {
        match self {
            Self::TimeIsOver => "its time is over; open another one",
            Self::Withdrawn => "the permission to write was withdrawn, or cannot be asked for now",
            Self::Closed => "it was closed",
            Self::JobEnded => "the job has ended",
        }
    }

    fn error(self, job: &JobId) -> Error {
        let kind = match self {
            Self::TimeIsOver => ErrorKind::TimedOut,
            Self::Withdrawn => ErrorKind::Denied,
            Self::Closed => ErrorKind::Cancelled,
            Self::JobEnded => ErrorKind::NotFound,
        };
        Error::new(kind, OPERATION).because(self.words()).with("job", job)
    }
}

impl fmt::Display for DebugEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}

impl DebugAccess {
    /// Whose sandbox it is.
    pub fn job(&self) -> &JobId {
        &self.shared.job
    }

    /// Who was let in.
    pub fn user(&self) -> &UserId {
        &self.shared.user
    }

    /// How much of its time is left.
    pub fn left(&self) -> Duration {
        self.shared.until.left(self.shared.clock.as_ref())
    }

    /// Starts a program in `/work`, with the variables that all steps of the job have, and without a secret.
    ///
    /// # Errors
    ///
    /// That of [`ended`](Self::ended) when it has; [`ErrorKind::Invalid`] for a command or the name of a terminal that
    /// cannot be one; those of [`Instance::exec`](crate::sandbox::Instance::exec).
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped the program may have started, and is stopped.
    pub async fn start(&self, program: DebugProgram) -> Result<DebugSession> {
        let (answer, answered) = oneshot::channel();
        if self.shared.starts.send(Start { program, answer }).await.is_ok()
            && let Ok(session) = answered.await
        {
            return session;
        }
        Err(self.ended().await.error(self.job()))
    }

    /// Ends it, with all that was started through it.
    pub fn close(&self) {
        self.shared.closing.send_replace(true);
    }

    /// Returns when it has ended, and why.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub fn ended(&self) -> impl Future<Output = DebugEnd> + Send + use<> {
        ended(self.shared.end.clone())
    }
}

async fn ended(mut end: watch::Receiver<Option<DebugEnd>>) -> DebugEnd {
    // Who drops the other side without a word is a runner that is dropped.
    let end = end.wait_for(Option::is_some).await;
    end.ok().and_then(|end| *end).unwrap_or(DebugEnd::JobEnded)
}

/// What is started in a sandbox: a shell, or a command for one, with or without a terminal.
#[derive(Clone, Debug, Default)]
pub struct DebugProgram {
    pub(crate) command: Option<External>,
    pub(crate) terminal: Option<(External, TerminalSize)>,
}

impl DebugProgram {
    /// A shell that reads what the person types.
    pub fn shell() -> Self {
        Self::default()
    }

    /// A command, which `/bin/sh -c` runs. The person has a whole shell as well, so its text is theirs.
    pub fn command(text: impl Into<String>) -> Self {
        Self { command: Some(External::new(text)), terminal: None }
    }

    /// Gives it a terminal of this kind, as the variable `TERM` says (`xterm-256color`), and size.
    pub fn with_terminal(mut self, kind: impl Into<String>, size: TerminalSize) -> Self {
        self.terminal = Some((External::new(kind), size));
        self
    }
}

/// A program that was started for a person. Dropping it stops the program.
#[derive(Debug)]
pub struct DebugSession {
    job: JobId,
    input: Option<DebugInput>,
    events: mpsc::Receiver<Result<DebugEvent>>,
    end: watch::Receiver<Option<DebugEnd>>,
    has_ended: bool,
}

/// What a person sees of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DebugEvent {
    /// It wrote this, and it is in the record. On a terminal all is standard output.
    Output(OutputStream, Masked),
    /// It has ended, and its record is stored.
    Exited(ExitStatus),
}

impl DebugSession {
    /// What happens next. After [`DebugEvent::Exited`] or an error it must not be called again.
    ///
    /// # Errors
    ///
    /// Why the access has ended: [`ErrorKind::TimedOut`] when its time is over, [`ErrorKind::Denied`] when the permission
    /// was withdrawn, [`ErrorKind::Cancelled`] when it was closed, [`ErrorKind::NotFound`] when the job has ended;
    /// [`ErrorKind::LimitExceeded`] when the record is full, or that of the store when it cannot be stored;
    /// [`ErrorKind::Unavailable`] when the sandbox is gone.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<DebugEvent> {
        if self.has_ended {
            return Err(Error::new(ErrorKind::Conflict, OPERATION).because("it has ended"));
        }
        let event = match self.events.recv().await {
            Some(event) => event,
            None => Err(ended(self.end.clone()).await.error(&self.job)),
        };
        self.has_ended = !matches!(event, Ok(DebugEvent::Output(..)));
        event
    }

    /// The person's end of it, on the first call.
    pub fn input(&mut self) -> Option<DebugInput> {
        self.input.take()
    }
}

/// What a person does to a program that was started for them. Dropping it ends the program's input, but a terminal's.
#[derive(Debug)]
pub struct DebugInput {
    typed: Option<mpsc::Sender<Bytes>>,
    sizes: watch::Sender<Option<TerminalSize>>,
    signals: mpsc::Sender<Signal>,
}

impl DebugInput {
    /// Hands over what was typed. It waits while a good dozen of earlier pieces wait for a program that does not read.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Conflict`] when the program has ended or closed its input, and after [`end`](Self::end).
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, nothing of `bytes` is written.
    pub async fn write(&mut self, bytes: Bytes) -> Result<()> {
        if let Some(typed) = &self.typed
            && typed.send(bytes).await.is_ok()
        {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Conflict, OPERATION).because("its program reads no more"))
    }

    /// Ends the program's input. A terminal has no such end: there, the byte `0x04` at the start of a line is one.
    pub fn end(&mut self) {
        self.typed = None;
    }

    /// Changes the size of the program's terminal, without effect where there is none or the program has ended. Of several
    /// that come at once only the last may be seen.
    pub fn resize(&self, size: TerminalSize) {
        self.sizes.send_replace(Some(size));
    }

    /// Sends the program a signal, without effect when it has ended. Those that come faster than they can be sent are lost.
    pub fn signal(&self, signal: Signal) {
        // It never waits: who steers a program must not be kept by one that nobody listens to.
        let _ = self.signals.try_send(signal);
    }
}

/// A program that shall be started.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) program: DebugProgram,
    pub(crate) answer: oneshot::Sender<Result<DebugSession>>,
}

/// The runner's side of a session.
#[derive(Debug)]
pub(crate) struct Wires {
    pub(crate) typed: mpsc::Receiver<Bytes>,
    pub(crate) sizes: watch::Receiver<Option<TerminalSize>>,
    pub(crate) signals: mpsc::Receiver<Signal>,
    /// Closed when the person's side is gone.
    pub(crate) events: mpsc::Sender<Result<DebugEvent>>,
}

/// The runner's side of an access.
#[derive(Debug)]
pub(crate) struct Visit {
    pub(crate) stay: Stay,
    /// Ends when the person's side is gone.
    pub(crate) starts: mpsc::Receiver<Start>,
}

/// How long an access lasts.
#[derive(Debug)]
pub(crate) struct Stay {
    grant: Grant<Write>,
    job: JobId,
    until: Deadline,
    clock: Arc<dyn Clock>,
    closing: watch::Receiver<bool>,
    end: watch::Sender<Option<DebugEnd>>,
}

impl Stay {
    pub(crate) fn user(&self) -> &UserId {
        self.grant.user()
    }

    /// Returns when it is over.
    pub(crate) async fn is_over(&self, authority: &Authority) -> DebugEnd {
        // Also when nobody is left who could say so.
        let closed = async {
            let _ = self.closing.clone().wait_for(|closing| *closing).await;
        };
        tokio::select! {
            () = self.time() => DebugEnd::TimeIsOver,
            () = closed => DebugEnd::Closed,
            () = self.permission(authority) => DebugEnd::Withdrawn,
        }
    }

    /// Returns when its time is over, by calendar or elapsed time.
    async fn time(&self) {
        loop {
            let left = self.until.left(self.clock.as_ref());
            if left.is_zero() {
                return;
            }
            self.clock.sleep(left.min(BETWEEN_LOOKS)).await;
        }
    }

    /// Returns when the person may no longer write, or nobody can say that they may.
    async fn permission(&self, authority: &Authority) {
        let mut grant = self.grant.lower::<Write>();
        loop {
            if grant.scope().is_err() {
                grant = match grant.renew(authority).await {
                    Ok(grant) => grant,
                    Err(error) => {
                        tracing::info!(job = %self.job, %error, "debug session withdrawn");
                        return;
                    }
                };
            }
            self.clock.sleep(BETWEEN_LOOKS).await;
        }
    }

    /// Lets the person know.
    pub(crate) fn ends(&self, why: DebugEnd) {
        self.end.send_replace(Some(why));
    }

    /// The two sides of a session.
    pub(crate) fn wires(&self) -> (Wires, DebugSession) {
        let (typed, to_type) = mpsc::channel(ON_THE_WAY);
        let (signals, signalled) = mpsc::channel(ON_THE_WAY);
        let sizes = watch::Sender::new(None);
        let (events, happened) = mpsc::channel(ON_THE_WAY);
        let wires = Wires { typed: to_type, sizes: sizes.subscribe(), signals: signalled, events };
        let session = DebugSession {
            job: self.job.clone(),
            input: Some(DebugInput { typed: Some(typed), sizes, signals }),
            events: happened,
            end: self.end.subscribe(),
            has_ended: false,
        };
        (wires, session)
    }
}

/// The two sides of an access.
pub(super) fn pair(
    grant: Grant<Write>,
    job: JobId,
    until: Deadline,
    clock: Arc<dyn Clock>,
) -> (DebugAccess, Visit) {
    let (starts, started) = mpsc::channel(1);
    let (closing, end) = (watch::Sender::new(false), watch::Sender::new(None));
    let shared = Shared {
        job: job.clone(),
        user: grant.user().clone(),
        until,
        clock: clock.clone(),
        starts,
        end: end.subscribe(),
        closing,
    };
    let closing = shared.closing.subscribe();
    let stay = Stay { grant, job, until, clock, closing, end };
    (DebugAccess { shared: Arc::new(shared) }, Visit { stay, starts: started })
}
