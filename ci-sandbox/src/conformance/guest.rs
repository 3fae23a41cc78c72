//! A sandbox with the kit's program in it.

use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use ci_core::id::SandboxId;
use ci_core::job::Arg;
use ci_core::memory::Masking;
use ci_core::sandbox::{
    Backend, Command, Exit, ExitStatus, Instance, OutputStream, Process, ProcessEvent, Residue, SandboxPath,
    Spec,
};
use ci_core::secret::SecretLease;
use ci_core::stream::{self, ByteStream};
use ci_core::{ByteSize, Error, ErrorKind, Result};

use super::attack::Outcome;
use super::tar::Archive;

/// The program of `attack/`.
pub(crate) static PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/attack"));

/// Where it is inside.
pub(crate) const PATH: &str = "/work/attack";

/// How long anything may take that is not about time: long enough for an engine that is slow, and short enough that what
/// hangs is noticed.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// What the future returns, or the error that it hung.
pub(crate) async fn within<T>(what: &'static str, future: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(done) => done,
        Err(_) => Err(Error::new(ErrorKind::TimedOut, what).because("it hangs")),
    }
}

/// The program as an archive.
pub(crate) fn program() -> Vec<u8> {
    static ARCHIVE: LazyLock<Vec<u8>> =
        LazyLock::new(|| Archive::new().mode(0o755).file("attack", PROGRAM).end());
    ARCHIVE.clone()
}

/// A lease without secrets.
pub(crate) fn no_secrets() -> SecretLease {
    SecretLease::for_helper(Arc::new(Masking::new()))
}

/// The program with these words.
pub(crate) fn command(words: &[&str]) -> Command {
    let arg = |text: &str| Arg::new(text).expect("a word without zero bytes");
    Command::new(arg(PATH), words.iter().map(|word| arg(word)))
}

/// A path inside.
pub(crate) fn path(text: &str) -> SandboxPath {
    SandboxPath::parse(text).expect("a path")
}

/// A sandbox that is abandoned when it is dropped.
pub(crate) struct Guest {
    backend: Arc<dyn Backend>,
    instance: Option<Box<dyn Instance>>,
    pub(crate) id: SandboxId,
}

impl fmt::Debug for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guest").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What a program did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) exit: Exit,
}

impl Ran {
    /// Its output as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

impl Guest {
    pub(crate) async fn of(backend: Arc<dyn Backend>, spec: Spec) -> Result<Self> {
        let guest = Self::empty(backend, SandboxId::random(), &spec).await?;
        within("upload the program", guest.instance().upload(&SandboxPath::work(), stream::once(program())))
            .await?;
        Ok(guest)
    }

    /// One in the network of another, with the program in it.
    pub(crate) async fn beside(backend: Arc<dyn Backend>, spec: Spec, other: &SandboxId) -> Result<Self> {
        let mut guest = Self { backend, instance: None, id: SandboxId::random() };
        let made = guest.backend.create_beside(&guest.id, &spec, other);
        guest.instance = Some(within("create a sandbox beside another", made).await?);
        guest.upload("/work", program()).await?;
        Ok(guest)
    }

    /// One without the program, under this id.
    pub(crate) async fn empty(backend: Arc<dyn Backend>, id: SandboxId, spec: &Spec) -> Result<Self> {
        let mut guest = Self { backend, instance: None, id };
        let instance = within("create a sandbox", guest.backend.create(&guest.id, spec)).await?;
        guest.instance = Some(instance);
        Ok(guest)
    }

    pub(crate) fn instance(&self) -> &dyn Instance {
        self.instance.as_deref().expect("it is there until it is destroyed")
    }

    /// Starts the program.
    pub(crate) async fn start<'a>(&'a self, words: &[&str]) -> Result<Box<dyn Process + 'a>> {
        self.exec(&command(words)).await
    }

    pub(crate) async fn exec<'a>(&'a self, command: &Command) -> Result<Box<dyn Process + 'a>> {
        within("start a program", self.instance().exec(command, &no_secrets())).await
    }

    /// Starts the program, and returns when it has said that it is up.
    pub(crate) async fn start_up<'a>(&'a self, words: &[&str]) -> Result<Box<dyn Process + 'a>> {
        let mut process = self.start(words).await?;
        let said = line(&mut *process).await?;
        if said.lines().next() != Some("up") {
            return Err(unexpected("start a program", format!("it said {said:?}")));
        }
        Ok(process)
    }

    /// Runs the program to its end.
    pub(crate) async fn run(&self, words: &[&str]) -> Result<Ran> {
        finish(&mut *self.start(words).await?).await
    }

    /// Tries an attack.
    pub(crate) async fn attack(&self, words: &[&str]) -> Result<Outcome> {
        const BAD_SYSTEM_CALL: u8 = 31;
        let ran = self.run(words).await?;
        let text = ran.text();
        let said = text.lines().last().and_then(|line| line.split_once(": "));
        match (said, ran.exit.status) {
            (Some(("held", how)), ExitStatus::Code(0)) => Ok(Outcome::Held(how.to_owned())),
            (Some(("BROKEN", how)), ExitStatus::Code(1)) => Ok(Outcome::Broken(how.to_owned())),
            (Some(("untried", why)), ExitStatus::Code(77)) => Ok(Outcome::Untried(why.to_owned())),
            (_, ExitStatus::Signal(BAD_SYSTEM_CALL)) => {
                Ok(Outcome::Held("the filter ended the program for asking".to_owned()))
            }
            _ => Err(unexpected("try an attack", format!("{words:?}: {}, {text:?}", ran.exit.status))),
        }
    }

    pub(crate) async fn upload(&self, to: &str, tar: Vec<u8>) -> Result<()> {
        within("upload", self.instance().upload(&path(to), stream::once(tar))).await
    }

    pub(crate) async fn download(&self, from: &str) -> Result<Vec<u8>> {
        let content: ByteStream<'_> = self.instance().download(&path(from));
        within("download", stream::collect(content, ByteSize::mib(64))).await
    }

    /// Takes it down, and says what is left.
    pub(crate) async fn destroy(mut self) -> Result<Residue> {
        drop(self.instance.take());
        let backend = self.backend.clone();
        within("destroy a sandbox", backend.destroy(&self.id)).await
    }

    /// Starts the program, and lets go of sandbox and program without ending either.
    pub(crate) async fn leak_with(self, words: &[&str]) -> Result<SandboxId> {
        let guest: &'static Self = Box::leak(Box::new(self));
        std::mem::forget(guest.start_up(words).await?);
        Ok(guest.id.clone())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        drop(self.instance.take());
        self.backend.abandon(&self.id);
    }
}

/// An error of a case itself.
pub(crate) fn unexpected(operation: &'static str, what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Internal, operation).because(what.into())
}

/// The next line that a program writes.
pub(crate) async fn line(process: &mut dyn Process) -> Result<String> {
    let mut said = Vec::new();
    while !said.ends_with(b"\n") {
        match within("read a program's output", process.next()).await? {
            ProcessEvent::Output(_, bytes) => said.extend_from_slice(&bytes),
            ProcessEvent::Exited(exit) => {
                let said = String::from_utf8_lossy(&said).into_owned();
                return Err(unexpected(
                    "read a line",
                    format!("the program ended: {}, {said:?}", exit.status),
                ));
            }
        }
    }
    Ok(String::from_utf8_lossy(&said).trim_end().to_owned())
}

/// Collects what a program writes until it ends.
pub(crate) async fn finish(process: &mut dyn Process) -> Result<Ran> {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    loop {
        match within("wait for a program", process.next()).await? {
            ProcessEvent::Output(OutputStream::Stdout, bytes) => stdout.extend_from_slice(&bytes),
            ProcessEvent::Output(OutputStream::Stderr, bytes) => stderr.extend_from_slice(&bytes),
            ProcessEvent::Exited(exit) => return Ok(Ran { stdout, stderr, exit }),
        }
    }
}
