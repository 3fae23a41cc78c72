//! Where jobs run.
//!
//! A [`Backend`] makes [`Instance`]s and takes them down; that is all an implementor writes. Callers use
//! [`Sandboxes`] and [`Sandbox`], which ask for a [`Claim`](crate::queue::Claim), arm the clean-up before anything
//! exists, and end in a [`Teardown`]: a proof that only this crate can make, and only from a [`Residue`] that is empty.

mod bounded;
mod io;
mod isolation;
mod life;
mod secret_use;
mod spec;
mod usage;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use self::bounded::{Bounded, Bounds};
pub use self::io::{Input, Signal, TerminalSize};
pub use self::isolation::{Capabilities, Guarantee, IsolationReport};
pub use self::life::{Residue, Sandbox, Sandboxes, Teardown};
pub use self::secret_use::{SecretForm, SecretUse};
pub use self::spec::{Command, SandboxPath, Spec, Streams};
pub use self::usage::SandboxUsage;

use crate::error::{Error, ErrorKind, Result};
use crate::id::SandboxId;
use crate::network::NetworkReport;
use crate::secret::SecretLease;
use crate::stream::ByteStream;

/// What makes sandboxes: one machine's kernel, a container engine, a hypervisor, a cluster.
///
/// Every sandbox is fresh and is used once. What it holds lies in memory and is gone with it.
///
/// An implementor writes these methods, [`Instance`] and [`Process`]. The smallest complete implementation is
/// `memory::Scripted`, in which programs are closures; `ci_sandbox::native` is one of a real machine. Callers hand a
/// backend to [`Sandboxes`] and never call it themselves.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use std::sync::Arc;
/// use async_trait::async_trait;
/// use ci_core::id::{ImageName, SandboxId};
/// use ci_core::sandbox::{Backend, Capabilities, Instance, Residue, Spec};
/// use ci_core::{Error, ErrorKind, Result};
///
/// /// A backend over another one, for a machine that has only some images.
/// #[derive(Debug)]
/// struct WithImages<B> {
///     images: Vec<ImageName>,
///     inner: B,
/// }
///
/// #[async_trait]
/// impl<B: Backend> Backend for WithImages<B> {
///     async fn create(&self, id: &SandboxId, spec: &Spec) -> Result<Box<dyn Instance>> {
///         if self.images.contains(&spec.image) {
///             return self.inner.create(id, spec).await;
///         }
///         Err(Error::new(ErrorKind::NotFound, "create a sandbox").with("image", &spec.image))
///     }
///
///     async fn destroy(&self, id: &SandboxId) -> Result<Residue> {
///         self.inner.destroy(id).await
///     }
///     // `create_beside`, `leftovers`, `abandon` and `capabilities` hand on what they are asked as well.
/// #   async fn create_beside(&self, id: &SandboxId, spec: &Spec, other: &SandboxId) -> Result<Box<dyn Instance>> {
/// #       self.inner.create_beside(id, spec, other).await
/// #   }
/// #   async fn leftovers(&self) -> Result<Vec<SandboxId>> { self.inner.leftovers().await }
/// #   fn abandon(&self, id: &SandboxId) { self.inner.abandon(id) }
/// #   fn capabilities(&self) -> Capabilities { self.inner.capabilities() }
/// }
/// # use ci_core::{memory::Rig, sandbox::Sandboxes, trust::Origin};
/// # let rig = Rig::new()?;
/// # let claim = rig.claim(&Rig::repository("1", "acme")?, Origin::Repository, Rig::spec()).await?;
/// # let backend = WithImages { images: vec![claim.spec().image.clone()], inner: rig.backend.clone() };
/// # let sandboxes = Sandboxes::new(Arc::new(backend));
/// # sandboxes.create(&claim, &Spec::new(claim.spec().image.clone())).await?.destroy().await?;
/// # let other = Spec::new(ImageName::parse("other")?);
/// # assert_eq!(sandboxes.create(&claim, &other).await.expect_err("no such image").kind(), ErrorKind::NotFound);
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[async_trait]
pub trait Backend: fmt::Debug + Send + Sync + 'static {
    /// Makes a sandbox. Returns an instance if and only if every guarantee in [`Spec::minimum`] holds for it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] when the machine or the backend cannot do what `spec` asks for;
    /// [`ErrorKind::NotFound`] when there is no such image; [`ErrorKind::LimitExceeded`] when the limits are too low
    /// even for the sandbox itself; [`ErrorKind::Conflict`] when `id` is in use; [`ErrorKind::Unavailable`] when it may
    /// work later.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, [`abandon`](Self::abandon) or [`destroy`](Self::destroy) with the same id
    /// removes whatever had been made.
    async fn create(&self, id: &SandboxId, spec: &Spec) -> Result<Box<dyn Instance>>;

    /// Makes a sandbox that shares the network of the living sandbox `other`, and nothing else with it: what listens in
    /// one is reached from the other at the loopback address. [`Spec::network`] has no meaning for it.
    ///
    /// A backend that cannot do so keeps this method as it is, and [`Capabilities::services`] false. One around another
    /// that hands on the other's capabilities hands on this method too, or it promises what it refuses.
    ///
    /// # Errors
    ///
    /// As for [`create`](Self::create); [`ErrorKind::Unavailable`] when `other` is gone.
    ///
    /// # Cancel safety
    ///
    /// As for [`create`](Self::create).
    async fn create_beside(
        &self,
        id: &SandboxId,
        spec: &Spec,
        other: &SandboxId,
    ) -> Result<Box<dyn Instance>> {
        let _ = (id, spec, other);
        Err(Error::new(ErrorKind::Unsupported, "create a sandbox").because(
            "this backend has no sandboxes that share a network; run the service as a part of the job",
        ))
    }

    /// Takes the sandbox down and counts what is left of it. Idempotent: for an id that is unknown or gone it
    /// returns an empty residue.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] when the answer cannot be had now; the sandbox may then still run.
    ///
    /// # Cancel safety
    ///
    /// What was begun goes on; calling again finishes it.
    async fn destroy(&self, id: &SandboxId) -> Result<Residue>;

    /// The sandboxes that earlier processes left behind. It never names one that a living process owns.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] when the answer cannot be had now.
    async fn leftovers(&self) -> Result<Vec<SandboxId>>;

    /// Begins to take the sandbox down, without waiting: never blocks, never fails, for use in `Drop`.
    fn abandon(&self, id: &SandboxId);

    /// What this backend can do on this machine.
    fn capabilities(&self) -> Capabilities;
}

/// One living sandbox, as a backend makes it. Dropping it need not end the sandbox: [`destroy`](Backend::destroy) or
/// [`abandon`](Backend::abandon) does. Callers hold a [`Sandbox`] around it.
///
/// A call on a sandbox that is gone fails with [`ErrorKind::Unavailable`], and is retryable if and only if the job
/// cannot have been the cause (a machine that was lost, say): only then does the runner try the job again. On one that
/// ended because it ran out of memory it fails with [`ErrorKind::LimitExceeded`].
#[async_trait]
pub trait Instance: fmt::Debug + Send + Sync + 'static {
    /// Starts a program. Its standard input is empty unless the command asks for one. Its variables are those of
    /// `command` and the secrets of `lease` that it names, and no others; a secret goes before a variable of the same
    /// name. A secret that it wants as a file is one before the program starts, and none when its exit is reported.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] when there is no such program or folder, or the lease lacks a named secret;
    /// [`ErrorKind::Invalid`] when the kernel refuses the program; [`ErrorKind::LimitExceeded`] when its arguments,
    /// variables and secrets are too large together, or the sandbox is full, or runs as many processes or has as many
    /// terminals as it may; [`ErrorKind::Fenced`] when the lease names secrets and its claim is over;
    /// [`ErrorKind::Unavailable`] when the sandbox is gone.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped the program may have started; it ends with the sandbox at the latest.
    async fn exec<'a>(&'a self, command: &Command, lease: &SecretLease) -> Result<Box<dyn Process + 'a>>;

    /// Unpacks a tar archive below `path`, which is made where it does not exist. Nothing outside of the
    /// sandbox can be written, whatever the archive says.
    ///
    /// # Errors
    ///
    /// The stream's own error; [`ErrorKind::Invalid`] when it is not an archive or names a path outside of
    /// `path`, and when the job may not make `path`; [`ErrorKind::LimitExceeded`] when the sandbox is full;
    /// [`ErrorKind::Unavailable`] when it is gone.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped a part may have been unpacked.
    async fn upload(&self, path: &SandboxPath, tar: ByteStream<'_>) -> Result<()>;

    /// A file or folder as a tar archive whose entries are relative to `path`'s parent. The content is the
    /// job's and may be hostile.
    ///
    /// Errors come in the stream: [`ErrorKind::NotFound`] when there is nothing at `path`;
    /// [`ErrorKind::Unavailable`] when the sandbox is gone.
    fn download(&self, path: &SandboxPath) -> ByteStream<'_>;

    /// Which guarantees hold for this sandbox, and why the others do not.
    fn isolation(&self) -> &IsolationReport;

    /// What the sandbox uses, as far as the machine can tell. It answers within a few seconds whatever the job does,
    /// and also when all processes have ended, until the sandbox is taken down.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] when the sandbox is gone, or nothing can be told now.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    async fn usage(&self) -> Result<SandboxUsage>;

    /// What went through its network so far. A backend that cannot tell returns the default: nothing.
    fn network(&self) -> NetworkReport;
}

/// A program that runs in a sandbox. Dropping it stops it. The example of [`Sandboxes`] reads one to its end.
#[async_trait]
pub trait Process: fmt::Debug + Send + Sync {
    /// What happens next. After [`ProcessEvent::Exited`] it must not be called again.
    ///
    /// The exit is reported when the *program* has ended and what it had written until then has been returned,
    /// whether or not another process still holds its output open.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] when the sandbox is gone.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing; the next call returns what it would have returned.
    async fn next(&mut self) -> Result<ProcessEvent>;

    /// Sends a signal to the program and the processes of its group. A program that has ended takes no notice.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] when the sandbox is gone.
    async fn signal(&self, signal: Signal) -> Result<()>;

    /// The program's standard input, if and only if its command asks for one and this is the first call. Until it is
    /// taken, and dropped, the input is open.
    fn input(&mut self) -> Option<Box<dyn Input>>;

    /// Changes the size of the program's terminal, and lets it know (SIGWINCH). A program that has ended takes no notice.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] when the program has no terminal; [`ErrorKind::Unavailable`] when the sandbox is gone.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped the size may have been changed.
    async fn resize(&self, size: TerminalSize) -> Result<()>;
}

/// What a running program does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcessEvent {
    /// It wrote this. The bytes are as it wrote them: secrets are not masked yet.
    Output(OutputStream, Bytes),
    /// It has ended.
    Exited(Exit),
}

/// Where a program wrote to. On a terminal, or where both go the same way, all is standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// How a program ended and what it used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// How it ended.
    pub status: ExitStatus,
    /// What it and its waited-for children used.
    pub usage: Usage,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ExitStatus {
    /// By itself, with this code.
    Code(u8),
    /// By this signal.
    Signal(u8),
    /// Because the sandbox ran out of its memory. All that ran in it has ended, its files may be gone with that, and
    /// nothing more can be done in it.
    OutOfMemory,
}

impl ExitStatus {
    /// Whether it ended by itself with code 0.
    pub fn is_success(self) -> bool {
        self == Self::Code(0)
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::OutOfMemory => f.write_str("out of memory"),
        }
    }
}

/// What a program used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Usage {
    /// Processor time.
    pub cpu: Duration,
    /// The largest resident set of one process, in bytes.
    pub peak_memory: u64,
}

impl Usage {
    /// `cpu` time and a peak of `peak_memory` bytes.
    pub fn new(cpu: Duration, peak_memory: u64) -> Self {
        Self { cpu, peak_memory }
    }
}
