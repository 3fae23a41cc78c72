//! What a caller does to a running program: write to it, resize its terminal, signal it.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;

#[cfg(doc)]
use super::{Command, Process};
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::Result;

/// The standard input of a running program, handed out by [`Process::input`].
///
/// It is independent of the process: writing and reading go on side by side, and must. A program that is given more than
/// it reads, and writes more than is read from it, waits for a caller who does only one of the two.
///
/// Dropping it ends the program's input. A terminal has no such end: there, the byte `0x04` at the start of a line is
/// what a program takes for one, unless it has changed its terminal's mode.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use ci_core::job::Arg;
/// use ci_core::memory::{Reply, Rig};
/// use ci_core::sandbox::{Command, OutputStream, ProcessEvent};
/// # use std::sync::Arc;
/// # use ci_core::{memory::Masking, sandbox::Spec, secret::SecretLease, trust::Origin};
/// # let rig = Rig::new()?;
/// # let claim = rig.claim(&Rig::repository("1", "acme")?, Origin::Repository, Rig::spec()).await?;
/// # let lease = SecretLease::empty(&claim, Arc::new(Masking::new()));
/// # let sandbox = rig.sandboxes.create(&claim, &Spec::new(claim.spec().image.clone())).await?;
/// rig.backend.on_input("cat", |call| Reply::exit(0).stdout(call.input().clone()));
///
/// let command = Command::new(Arg::new("cat")?, []).with_input();
/// let mut process = sandbox.exec(&command, &lease).await?;
/// let mut input = process.input().expect("the command asks for it, and this is the first call");
/// let feed = async {
///     input.write("hello".into()).await?;
///     drop(input); // its end
///     Ok::<(), ci_core::Error>(())
/// };
/// let (fed, event) = tokio::join!(feed, process.next());
/// fed?;
/// assert_eq!(event?, ProcessEvent::Output(OutputStream::Stdout, "hello".into()));
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[async_trait]
pub trait Input: fmt::Debug + Send + Sync {
    /// Hands `bytes` to the program, and waits until it, or what buffers for it, has taken all of them.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Conflict`], not retryable, when the program has closed its input or has ended;
    /// [`ErrorKind::Unavailable`] when the sandbox is gone.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped the program has got a part of `bytes`, and there is no telling how large a part: let
    /// the input go then, too.
    async fn write(&mut self, bytes: Bytes) -> Result<()>;
}

/// How large a program's terminal is, in characters. A program takes 0 for "not known".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TerminalSize {
    /// How many lines it shows.
    pub rows: u16,
    /// How many characters a line has.
    pub columns: u16,
}

/// Signals that a caller may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Signal {
    /// Its terminal is gone, or it shall read its configuration again (SIGHUP).
    Hangup,
    /// Somebody interrupts it (SIGINT).
    Interrupt,
    /// Somebody wants it to end, and to see where it was (SIGQUIT).
    Quit,
    /// Asks to end (SIGTERM).
    Terminate,
    /// Ends (SIGKILL).
    Kill,
    /// What the program makes of it (SIGUSR1).
    User1,
    /// What the program makes of it (SIGUSR2).
    User2,
}

impl Signal {
    /// Its number on Linux, as in [`ExitStatus::Signal`](super::ExitStatus::Signal).
    pub fn number(self) -> u8 {
        match self {
            Self::Hangup => 1,
            Self::Interrupt => 2,
            Self::Quit => 3,
            Self::Kill => 9,
            Self::User1 => 10,
            Self::User2 => 12,
            Self::Terminate => 15,
        }
    }
}
