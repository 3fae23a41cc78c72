//! What a sandbox is asked for, and what runs in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Guarantee, SecretUse, TerminalSize};
use crate::error::{Error, ErrorKind, Result};
use crate::id::ImageName;
use crate::job::{Arg, Environment, Limits};
use crate::network::NetworkPolicy;

/// What a sandbox must be like. The example of [`Sandboxes`](super::Sandboxes) asks for one.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Spec {
    /// Whose files it shows. What a job changes of them, as far as it may, is gone with the sandbox.
    pub image: ImageName,
    /// How much it may use.
    pub limits: Limits,
    /// Where it may connect to.
    pub network: NetworkPolicy,
    /// What must hold; a backend refuses rather than do without.
    pub minimum: BTreeSet<Guarantee>,
    /// Folders of the host that it sees read-only, by path inside. Only the SDK's own helpers have any.
    pub binds: BTreeMap<SandboxPath, PathBuf>,
}

impl Spec {
    /// A sandbox on `image` within the default limits, without network.
    pub fn new(image: ImageName) -> Self {
        Self {
            image,
            limits: Limits::default(),
            network: NetworkPolicy::None,
            minimum: BTreeSet::new(),
            binds: BTreeMap::new(),
        }
    }

    /// Replaces the limits.
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Replaces the network policy.
    pub fn with_network(mut self, network: NetworkPolicy) -> Self {
        self.network = network;
        self
    }

    /// Adds guarantees that must hold.
    pub fn with_minimum(mut self, guarantees: impl IntoIterator<Item = Guarantee>) -> Self {
        self.minimum.extend(guarantees);
        self
    }

    /// Shows the folder `host` of the machine at `inside`, read-only.
    ///
    /// What lies there becomes readable for whatever runs in the sandbox: only for helpers that run no job
    /// code, and never with a path that a tenant chose.
    pub fn with_host_folder_read_only(mut self, inside: SandboxPath, host: &Path) -> Self {
        self.binds.insert(inside, host.to_owned());
        self
    }
}

impl Spec {
    /// Refuses what no backend could mean anything by. A job's own spec was checked before; this is for who makes one.
    pub(super) fn check(&self) -> Result<()> {
        self.limits.check()?;
        self.network.check()
    }
}

/// A program to run in a sandbox. The example of [`Sandboxes`](super::Sandboxes) runs one.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Command {
    /// The program: a path, or a name that is looked up in the `PATH` of `environment` or of the image, and where neither
    /// has one in the backend's usual folders (`/usr/bin` and `/bin` among them).
    pub program: Arg,
    /// Its arguments.
    pub arguments: Vec<Arg>,
    /// Its variables.
    pub environment: Environment,
    /// The secrets of the lease that it sees.
    pub secrets: Vec<SecretUse>,
    /// Where it runs.
    pub directory: SandboxPath,
    /// What it reads from and writes to.
    pub streams: Streams,
}

/// What a program reads from and writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Streams {
    /// Pipes.
    #[non_exhaustive]
    Pipes {
        /// Whether the caller writes its standard input; it is empty otherwise.
        input: bool,
        /// Whether standard error goes where standard output goes, in the order in which both are written.
        merged: bool,
    },
    /// A terminal of this size for all three.
    Terminal(TerminalSize),
}

impl Command {
    /// A program with its arguments, in [`SandboxPath::work`], without variables.
    pub fn new(program: Arg, arguments: impl IntoIterator<Item = Arg>) -> Self {
        Self {
            program,
            arguments: arguments.into_iter().collect(),
            environment: Environment::default(),
            secrets: Vec::new(),
            directory: SandboxPath::work(),
            streams: Streams::Pipes { input: false, merged: false },
        }
    }

    /// Adds variables.
    pub fn with_environment(mut self, environment: &Environment) -> Self {
        self.environment.extend(environment);
        self
    }

    /// Shows it secrets of the lease: a name alone is a variable.
    pub fn with_secrets(mut self, secrets: impl IntoIterator<Item = impl Into<SecretUse>>) -> Self {
        self.secrets.extend(secrets.into_iter().map(Into::into));
        self
    }

    /// Lets the caller write its standard input: [`Process::input`](super::Process::input).
    pub fn with_input(mut self) -> Self {
        if let Streams::Pipes { input, .. } = &mut self.streams {
            *input = true;
        }
        self
    }

    /// Sends standard error where standard output goes, so that what it writes keeps its order.
    pub fn with_merged_output(mut self) -> Self {
        if let Streams::Pipes { merged, .. } = &mut self.streams {
            *merged = true;
        }
        self
    }

    /// Gives it a terminal, which is its input and takes all its output, and is its controlling one: a program that
    /// starts others as a shell does can. It finds the terminal's kind in the variable `TERM`, which is the caller's to
    /// set. Bytes are changed on the way as terminals do: a line of output ends in `\r\n`, for instance, what is written
    /// comes back, and the byte 0x03 interrupts.
    pub fn with_terminal(mut self, size: TerminalSize) -> Self {
        self.streams = Streams::Terminal(size);
        self
    }

    /// Runs it in another folder.
    pub fn with_directory(mut self, directory: SandboxPath) -> Self {
        self.directory = directory;
        self
    }
}

/// An absolute path inside of a sandbox, without `.` and `..`.
///
/// # Example
///
/// ```
/// use ci_core::sandbox::SandboxPath;
///
/// let report = SandboxPath::work().join("target/report.xml")?;
/// assert_eq!(report.as_str(), "/work/target/report.xml");
/// assert!(SandboxPath::work().join("../etc/passwd").is_err());
/// # Ok::<(), ci_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SandboxPath(String);

impl SandboxPath {
    /// Checks and takes a path.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] unless it starts with `/`, is at most 4,095 bytes long, and has no empty, `.` or
    /// `..` part and no control character.
    pub fn parse(path: impl Into<String>) -> Result<Self> {
        let path = path.into();
        let is_part = |part: &str| !matches!(part, "" | "." | "..");
        let parts_are_good =
            path == "/" || path.strip_prefix('/').is_some_and(|rest| rest.split('/').all(is_part));
        if parts_are_good && path.len() < 4_096 && !path.chars().any(char::is_control) {
            return Ok(Self(path));
        }
        Err(Error::new(ErrorKind::Invalid, "parse a path in the sandbox")
            .because("it must be absolute, without empty, . or .. parts and without control characters")
            .with("given", format_args!("{:?}", crate::external::shortened(&path))))
    }

    /// The folder with the job's source, `/work`: the only one that every backend makes writable, `/tmp` aside.
    pub fn work() -> Self {
        Self("/work".to_owned())
    }

    /// The path below this one.
    ///
    /// # Errors
    ///
    /// As for [`parse`](Self::parse).
    pub fn join(&self, below: &str) -> Result<Self> {
        Self::parse(format!("{}/{below}", self.0.trim_end_matches('/')))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SandboxPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for SandboxPath {
    type Error = Error;

    fn try_from(path: String) -> Result<Self> {
        Self::parse(path)
    }
}

impl From<SandboxPath> for String {
    fn from(path: SandboxPath) -> Self {
        path.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_cannot_climb() {
        for bad in ["", "work", "/a/../b", "/a//b", "/a/", "/./a", "/a\0b", "/a\nb"] {
            assert!(SandboxPath::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(SandboxPath::work().join("a/b").expect("a path").as_str(), "/work/a/b");
        assert!(SandboxPath::work().join("../etc").is_err());
        assert_eq!(
            SandboxPath::parse("/").and_then(|root| root.join("etc")).expect("a path").as_str(),
            "/etc"
        );
    }
}
