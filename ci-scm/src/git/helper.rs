//! `git` in a helper sandbox: the only place where the content of a repository is looked at.

use std::path::Path;
use std::sync::Arc;

use ci_core::access::Scope;
use ci_core::id::VariableName;
use ci_core::job::{Arg, Environment};
use ci_core::sandbox::{
    Command, ExitStatus, OutputStream, ProcessEvent, Sandbox, SandboxPath, Sandboxes, Spec,
};
use ci_core::secret::{Leak, Learned, Masker, Redactor, SecretLease, SecretValue, Sensitive};
use ci_core::{ByteSize, ByteStream, Error, ErrorKind, Result};

use super::failure::{MOST_WORDS, explain};
use super::hardening;
use super::options::HelperOptions;
use super::url::Protocol;

/// Where the helper sees the repository.
const REPOSITORY: &str = "/repository";
/// The only configuration that git reads in the helper. It is on the other side of `/work`, which goes to the job.
const GLOBAL: &str = "/tmp/ci-git-configuration";

/// How much `git` may print, and what is wrong when it prints more.
#[derive(Clone, Copy)]
struct Most {
    bytes: usize,
    why: &'static str,
}

/// For an answer that is read here.
const ANSWER: Most = Most {
    bytes: 4 * 1024 * 1024,
    why: "git has more to say than 4 MiB; the repository has too many branches and tags",
};

/// A helper sandbox that sees one repository read-only.
pub(crate) struct Helper<'a> {
    sandbox: Sandbox,
    lease: SecretLease,
    options: &'a HelperOptions,
}

/// How a `git` ended, and what it printed.
pub(crate) struct Ran {
    pub(crate) status: ExitStatus,
    pub(crate) output: Vec<u8>,
    errors: Vec<u8>,
}

impl Ran {
    /// What it printed, if it succeeded.
    pub(crate) fn output(self, operation: &'static str) -> Result<Vec<u8>> {
        if self.status.is_success() { Ok(self.output) } else { Err(self.failure(operation)) }
    }

    pub(crate) fn failure(&self, operation: &'static str) -> Error {
        match self.status {
            ExitStatus::OutOfMemory => explain(operation, b"out of memory"),
            _ => explain(operation, &self.errors),
        }
    }
}

impl<'a> Helper<'a> {
    pub(crate) async fn start(
        helpers: &Sandboxes,
        scope: Scope<'_>,
        repository: &Path,
        options: &'a HelperOptions,
    ) -> Result<Self> {
        let inside = SandboxPath::parse(REPOSITORY)?;
        let spec = Spec::new(options.image.clone())
            .with_limits(options.limits)
            .with_minimum(options.minimum.iter().copied())
            .with_host_folder_read_only(inside, repository);
        let sandbox = helpers.create_helper(scope, &spec).await?;
        let helper = Self { sandbox, lease: SecretLease::for_helper(Arc::new(NothingToHide)), options };
        // The folder belongs to another user than the helper's, which git takes for a trap: in a repository of
        // somebody else its configuration is theirs. That is so, and what the helper is for. A variable would not
        // do, because `git fetch` hands none to the `git upload-pack` that reads the folder.
        let trust = ["config", "--file", GLOBAL, "safe.directory", "*"];
        match helper.git("prepare a helper", &trust).await {
            Ok(_) => Ok(helper),
            Err(error) => helper.end(Err(error)).await,
        }
    }

    /// Takes the helper down, whatever came of its work, and returns what did.
    pub(crate) async fn end<T>(self, done: Result<T>) -> Result<T> {
        let gone = self.sandbox.destroy().await;
        let done = done?;
        gone.map(|_teardown| done)
    }

    /// What lies in the working folder, as an archive of `work/…`.
    pub(crate) fn work(&self) -> ByteStream<'_> {
        self.sandbox.download(&SandboxPath::work())
    }

    /// Runs `git` in the working folder, and returns what it printed.
    pub(crate) async fn git(&self, operation: &'static str, arguments: &[&str]) -> Result<Vec<u8>> {
        self.try_git(operation, arguments, ANSWER).await?.output(operation)
    }

    /// Runs `git` on the repository itself, which it only reads.
    pub(crate) async fn look(&self, operation: &'static str, arguments: &[&str]) -> Result<Ran> {
        let arguments: Vec<_> = ["-C", REPOSITORY].iter().chain(arguments).copied().collect();
        self.try_git(operation, &arguments, ANSWER).await
    }

    /// The content of a blob of the repository, of at most `limit` bytes.
    pub(crate) async fn blob(
        &self,
        operation: &'static str,
        object: &str,
        limit: ByteSize,
    ) -> Result<Vec<u8>> {
        let bytes = usize::try_from(limit.as_u64()).unwrap_or(usize::MAX);
        let most = Most { bytes, why: "the file is larger than allowed" };
        let ran = self.try_git(operation, &["-C", REPOSITORY, "cat-file", "blob", object], most).await?;
        ran.output(operation)
    }

    /// The repository, as `git fetch` takes it. As a plain path it would be copied without regard for depth.
    pub(crate) fn url() -> String {
        format!("{}://{REPOSITORY}", Protocol::File)
    }

    async fn try_git(&self, operation: &'static str, arguments: &[&str], most: Most) -> Result<Ran> {
        let command = self.command(arguments)?;
        match tokio::time::timeout(self.options.deadline, self.run(operation, &command, most)).await {
            Ok(ran) => ran,
            Err(_) => Err(Error::new(ErrorKind::TimedOut, operation)),
        }
    }

    fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut environment = Environment::default();
        for (name, value) in hardening::variables(&self.options.path, GLOBAL, Protocol::File) {
            environment.set(VariableName::parse(name)?, value);
        }
        let hardened = hardening::arguments(Protocol::File).into_iter();
        let all = hardened.chain(arguments.iter().map(|argument| (*argument).to_owned()));
        let all = all.map(Arg::new).collect::<Result<Vec<_>>>()?;
        Ok(Command::new(Arg::new("git")?, all).with_environment(&environment))
    }

    async fn run(&self, operation: &'static str, command: &Command, most: Most) -> Result<Ran> {
        let mut process =
            self.sandbox.exec(command, &self.lease).await.map_err(|error| match error.kind() {
                ErrorKind::NotFound => Error::new(ErrorKind::Unsupported, operation)
                    .because("the helper's image has no git; choose another image")
                    .with("image", &self.options.image)
                    .caused_by(error),
                _ => error,
            })?;
        let (mut output, mut errors) = (Vec::new(), Vec::new());
        loop {
            match process.next().await? {
                ProcessEvent::Output(OutputStream::Stdout, bytes) => {
                    if output.len() + bytes.len() > most.bytes {
                        return Err(Error::new(ErrorKind::LimitExceeded, operation).because(most.why));
                    }
                    output.extend_from_slice(&bytes);
                }
                ProcessEvent::Output(OutputStream::Stderr, bytes) => {
                    let room = MOST_WORDS - errors.len();
                    errors.extend_from_slice(&bytes[..bytes.len().min(room)]);
                }
                ProcessEvent::Exited(exit) => return Ok(Ran { status: exit.status, output, errors }),
            }
        }
    }
}

/// The masker of a helper: there are no secrets in it, and no output of it is shown to anybody.
#[derive(Debug)]
struct NothingToHide;

impl Masker for NothingToHide {
    fn learn(&self, _what: &Sensitive, _value: &SecretValue) -> Learned {
        Learned::Hidden
    }

    fn redactor(&self) -> Box<dyn Redactor> {
        Box::new(Self)
    }
}

impl Redactor for NothingToHide {
    /// Lets nothing through: that hides every value that it was told to hide.
    fn push(&mut self, _bytes: &[u8], _out: &mut Vec<u8>) {}

    fn flush(&mut self, _out: &mut Vec<u8>) {}

    fn finish(&mut self, _out: &mut Vec<u8>) {}

    fn leaks(&mut self) -> Vec<Leak> {
        Vec::new()
    }
}
