//! Where jobs run.
//!
//! A [`Backend`] makes [`Instance`]s and takes them down; that is all an implementor writes. Callers use
//! [`Sandboxes`] and [`Sandbox`], which ask for a [`Claim`], arm the clean-up before anything exists, and end
//! in a [`Teardown`]: a proof that only this crate can make, and only from a [`Residue`] that is empty.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::access::Scope;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ImageName, SandboxId, SecretName};
use crate::job::{Arg, Environment, Limits};
use crate::network::{Destination, NetworkPolicy};
use crate::queue::{Claim, Tenure};
use crate::secret::SecretLease;
use crate::stream::ByteStream;

/// What makes sandboxes: one machine's kernel, a container engine, a hypervisor, a cluster.
///
/// Every sandbox is fresh and is used once. What it holds lies in memory and is gone with it.
#[async_trait]
pub trait Backend: fmt::Debug + Send + Sync + 'static {
    /// Makes a sandbox. Returns an instance if and only if every guarantee in [`Spec::minimum`] holds for it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] when the machine or the backend cannot do what `spec` asks for;
    /// [`ErrorKind::NotFound`] when there is no such image; [`ErrorKind::Conflict`] when `id` is in use;
    /// [`ErrorKind::Unavailable`] when it may work later.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, [`abandon`](Self::abandon) or [`destroy`](Self::destroy) with the same id
    /// removes whatever had been made.
    async fn create(&self, id: &SandboxId, spec: &Spec) -> Result<Box<dyn Instance>>;

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

/// One living sandbox, as a backend makes it.
#[async_trait]
pub trait Instance: fmt::Debug + Send + Sync + 'static {
    /// Starts a program, with nothing on its standard input. Its variables are those of `command` and the secrets of
    /// `lease` that it names, and no others; a secret goes before a variable of the same name.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] when there is no such program or folder, or the lease lacks a named secret;
    /// [`ErrorKind::Invalid`] when the kernel refuses the program; [`ErrorKind::Unavailable`] when the sandbox
    /// is gone.
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
    /// `path`; [`ErrorKind::LimitExceeded`] when the sandbox is full.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped a part may have been unpacked.
    async fn upload(&self, path: &SandboxPath, tar: ByteStream<'_>) -> Result<()>;

    /// A file or folder as a tar archive whose entries are relative to `path`'s parent. The content is the
    /// job's and may be hostile.
    ///
    /// Errors come in the stream: [`ErrorKind::NotFound`] when there is nothing at `path`.
    fn download(&self, path: &SandboxPath) -> ByteStream<'_>;

    /// Which guarantees hold for this sandbox, and why the others do not.
    fn isolation(&self) -> &IsolationReport;
}

/// A program that runs in a sandbox. Dropping it stops it.
#[async_trait]
pub trait Process: fmt::Debug + Send {
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
}

/// What a running program does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcessEvent {
    /// It wrote this. The bytes are as it wrote them: secrets are not masked yet.
    Output(OutputStream, Bytes),
    /// It has ended.
    Exited(Exit),
}

/// Where a program wrote to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Signals that a caller may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Signal {
    /// Asks to end (SIGTERM).
    Terminate,
    /// Ends (SIGKILL).
    Kill,
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
    /// Because the sandbox ran out of its memory.
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

/// What a sandbox must be like.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Spec {
    /// Whose files it shows, read-only.
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

/// A program to run in a sandbox.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Command {
    /// The program: a path, or a name that is looked up in the `PATH` of `environment`.
    pub program: Arg,
    /// Its arguments.
    pub arguments: Vec<Arg>,
    /// Its variables.
    pub environment: Environment,
    /// The secrets of the lease that it sees, each as the variable of the same name.
    pub secrets: Vec<SecretName>,
    /// Where it runs.
    pub directory: SandboxPath,
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
        }
    }

    /// Adds variables.
    pub fn with_environment(mut self, environment: &Environment) -> Self {
        self.environment.extend(environment);
        self
    }

    /// Shows it secrets of the lease.
    pub fn with_secrets(mut self, secrets: &[SecretName]) -> Self {
        self.secrets.extend_from_slice(secrets);
        self
    }

    /// Runs it in another folder.
    pub fn with_directory(mut self, directory: SandboxPath) -> Self {
        self.directory = directory;
        self
    }
}

/// An absolute path inside of a sandbox, without `.` and `..`.
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

/// Something that a sandbox promises. A backend lists those that hold; a job may demand some.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Guarantee {
    /// The job sees only its own processes, mounts, host name and message queues.
    Namespaces,
    /// The job's user ids are mapped away from the host's.
    MappedIds,
    /// The program that supervises inside runs as another user than the job.
    SeparateInit,
    /// The job holds no capability and can gain none.
    NoPrivileges,
    /// Dangerous system calls are filtered.
    SyscallFilter,
    /// There is no network, or only what the rules allow.
    Firewalled,
    /// What the job writes never reaches a disk, not even by swapping.
    MemoryOnly,
    /// [`Limits::memory`](crate::job::Limits) is held.
    MemoryLimit,
    /// [`Limits::cpu_millis`](crate::job::Limits) is held.
    CpuLimit,
    /// [`Limits::processes`](crate::job::Limits) is held.
    ProcessLimit,
    /// [`Limits::disk`](crate::job::Limits) is held.
    DiskLimit,
    /// The job runs on a kernel of its own.
    OwnKernel,
}

/// Which guarantees hold, and why the others do not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct IsolationReport {
    /// What holds.
    pub held: BTreeSet<Guarantee>,
    /// What does not hold, with the reason.
    pub missing: BTreeMap<Guarantee, String>,
}

impl IsolationReport {
    /// A report in which `held` holds.
    pub fn new(held: impl IntoIterator<Item = Guarantee>) -> Self {
        Self { held: held.into_iter().collect(), missing: BTreeMap::new() }
    }

    /// Adds a guarantee that does not hold. It is then not among those that hold.
    pub fn with_missing(mut self, guarantee: Guarantee, why: impl Into<String>) -> Self {
        self.held.remove(&guarantee);
        self.missing.insert(guarantee, why.into());
        self
    }

    /// Refuses when one of `minimum` does not hold.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`], with every guarantee that is missing and the reason.
    pub fn require(&self, minimum: &BTreeSet<Guarantee>) -> Result<()> {
        let lacking: Vec<String> = minimum
            .difference(&self.held)
            .map(|guarantee| match self.missing.get(guarantee) {
                Some(why) => format!("{guarantee:?}: {why}"),
                None => format!("{guarantee:?}"),
            })
            .collect();
        if lacking.is_empty() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Unsupported, "create a sandbox")
            .because("it cannot guarantee what the job demands; use another machine or demand less")
            .with("missing", lacking.join("; ")))
    }
}

/// What a backend can do on this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// The guarantees that hold for every sandbox it makes, and why the others do not.
    pub isolation: IsolationReport,
    /// Whether a policy may name hosts.
    pub egress_to_hosts: bool,
    /// Whether a policy may name networks.
    pub egress_to_networks: bool,
    /// Whether a folder of the host can be shown read-only to a helper.
    pub host_folders: bool,
}

impl Capabilities {
    /// What `isolation` says, and nothing optional.
    pub fn new(isolation: IsolationReport) -> Self {
        Self { isolation, ..Self::default() }
    }

    /// Adds that a folder of the host can be shown read-only.
    pub fn with_host_folders(mut self) -> Self {
        self.host_folders = true;
        self
    }

    /// Refuses a spec that asks for more than this.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`], naming what is missing.
    pub fn require(&self, spec: &Spec) -> Result<()> {
        let unsupported =
            |what: &'static str| Err(Error::new(ErrorKind::Unsupported, "create a sandbox").because(what));
        if !spec.binds.is_empty() && !self.host_folders {
            return unsupported("this backend cannot show a folder of the host to a sandbox");
        }
        if let NetworkPolicy::Allow(rules) = &spec.network {
            let names_host = |to: &Destination| matches!(to, Destination::Host(_));
            if !self.egress_to_hosts && rules.iter().any(|rule| names_host(&rule.destination)) {
                return unsupported("this backend has no network rules that name hosts; use no network");
            }
            if !self.egress_to_networks && rules.iter().any(|rule| !names_host(&rule.destination)) {
                return unsupported("this backend has no network rules that name addresses; use no network");
            }
        }
        self.isolation.require(&spec.minimum)
    }
}

/// What a backend counted after it took a sandbox down. Zero everywhere means gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Residue {
    /// Processes that still run.
    pub processes: usize,
    /// Mounts that still exist.
    pub mounts: usize,
    /// Namespaces that something still holds.
    pub namespaces: usize,
    /// Control groups that still exist.
    pub cgroups: usize,
    /// Network devices that still exist.
    pub links: usize,
    /// Files of the host that belong to it.
    pub files: usize,
}

impl Residue {
    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        let Self { processes, mounts, namespaces, cgroups, links, files } = *self;
        processes + mounts + namespaces + cgroups + links + files == 0
    }
}

/// The proof that a sandbox is gone.
///
/// Only this crate makes one, and only when the backend counted nothing left.
#[derive(Debug)]
#[must_use = "the proof that nothing of the job is left"]
pub struct Teardown {
    id: SandboxId,
}

impl Teardown {
    fn prove(id: SandboxId, residue: Residue) -> Result<Self> {
        if residue.is_empty() {
            return Ok(Self { id });
        }
        Err(Error::new(ErrorKind::Internal, "destroy a sandbox")
            .because("something of it is left; the next start will try to clear it")
            .with("sandbox", &id)
            .detail(format!("{residue:?}")))
    }

    /// Which sandbox is gone.
    pub fn sandbox(&self) -> &SandboxId {
        &self.id
    }
}

/// What makes sandboxes for jobs: a [`Backend`] behind the rules that hold for all of them.
#[derive(Clone, Debug)]
pub struct Sandboxes {
    backend: Arc<dyn Backend>,
}

impl Sandboxes {
    /// Sandboxes of `backend`.
    pub fn new(backend: Arc<dyn Backend>) -> Self {
        Self { backend }
    }

    /// What the backend can do on this machine.
    pub fn capabilities(&self) -> Capabilities {
        self.backend.capabilities()
    }

    /// Makes the sandbox of a job.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Fenced`] when the claim is over; [`ErrorKind::Unsupported`] when the spec asks for more
    /// than the backend can do; the backend's own.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves nothing: the sandbox is abandoned.
    pub async fn create(&self, claim: &Claim, spec: &Spec) -> Result<Sandbox> {
        claim.fence()?;
        self.make(spec, Some(claim.tenure())).await
    }

    /// Makes a sandbox in which the SDK's own tools work on a repository, `git` for instance: on the
    /// operator's image, without secrets and without job code.
    ///
    /// # Errors
    ///
    /// As for [`create`](Self::create).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves nothing: the sandbox is abandoned.
    pub async fn create_helper(&self, _scope: Scope<'_>, spec: &Spec) -> Result<Sandbox> {
        self.make(spec, None).await
    }

    async fn make(&self, spec: &Spec, of: Option<Arc<Tenure>>) -> Result<Sandbox> {
        self.backend.capabilities().require(spec)?;
        let id = SandboxId::random();
        // Armed before anything exists: a drop during the await below finds it.
        let guard = Guard { backend: Some(self.backend.clone()), id: id.clone() };
        let instance = self.backend.create(&id, spec).await?;
        instance.isolation().require(&spec.minimum)?;
        Ok(Sandbox { instance, guard, of })
    }

    /// Takes down what earlier processes left behind, and returns how many sandboxes that were.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Internal`] when something is left of one of them; the backend's own.
    pub async fn reap(&self) -> Result<usize> {
        let leftovers = self.backend.leftovers().await?;
        let count = leftovers.len();
        for id in leftovers {
            let residue = self.backend.destroy(&id).await?;
            let _gone = Teardown::prove(id, residue)?;
        }
        Ok(count)
    }
}

/// A living sandbox of one job. It is used up by [`destroy`](Self::destroy); dropping it abandons it.
#[derive(Debug)]
pub struct Sandbox {
    // Before the guard, so that it goes first when the sandbox is dropped.
    instance: Box<dyn Instance>,
    guard: Guard,
    /// Whose it is; nobody's for a helper.
    of: Option<Arc<Tenure>>,
}

impl Sandbox {
    /// Which sandbox it is.
    pub fn id(&self) -> &SandboxId {
        &self.guard.id
    }

    /// Which guarantees hold, and why the others do not.
    pub fn isolation(&self) -> &IsolationReport {
        self.instance.isolation()
    }

    /// Starts a program; see [`Instance::exec`].
    ///
    /// # Errors
    ///
    /// As for [`Instance::exec`].
    pub async fn exec<'a>(&'a self, command: &Command, lease: &SecretLease) -> Result<Box<dyn Process + 'a>> {
        if !lease.is_of(self.of.as_ref()) {
            return Err(
                Error::new(ErrorKind::Denied, "start a program").because("the lease is of another job")
            );
        }
        self.instance.exec(command, lease).await
    }

    /// Unpacks a tar archive below `path`; see [`Instance::upload`].
    ///
    /// # Errors
    ///
    /// As for [`Instance::upload`].
    pub async fn upload(&self, path: &SandboxPath, tar: ByteStream<'_>) -> Result<()> {
        self.instance.upload(path, tar).await
    }

    /// A file or folder as a tar archive; see [`Instance::download`].
    pub fn download(&self, path: &SandboxPath) -> ByteStream<'_> {
        self.instance.download(path)
    }

    /// Takes the sandbox down and proves that nothing of it is left.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Internal`] when something is left; the backend's own. The sandbox is abandoned then, and
    /// the next [`Sandboxes::reap`] tries again.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future abandons the sandbox.
    pub async fn destroy(self) -> Result<Teardown> {
        let Self { instance, mut guard, of: _ } = self;
        drop(instance);
        let Some(backend) = guard.backend.clone() else {
            return Err(Error::new(ErrorKind::Internal, "destroy a sandbox"));
        };
        let residue = backend.destroy(&guard.id).await?;
        let teardown = Teardown::prove(guard.id.clone(), residue)?;
        guard.backend = None;
        Ok(teardown)
    }
}

/// Abandons the sandbox unless it was disarmed.
#[derive(Debug)]
struct Guard {
    backend: Option<Arc<dyn Backend>>,
    id: SandboxId,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(backend) = &self.backend {
            backend.abandon(&self.id);
        }
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

    #[test]
    fn a_residue_is_no_teardown() {
        let left = Residue { processes: 1, ..Residue::default() };
        assert_eq!(Teardown::prove(SandboxId::random(), left).expect_err("left").kind(), ErrorKind::Internal);
        assert!(Teardown::prove(SandboxId::random(), Residue::default()).is_ok());
    }

    #[test]
    fn what_is_missing_is_named() {
        let report = IsolationReport::new([Guarantee::Namespaces])
            .with_missing(Guarantee::MemoryOnly, "no privilege to mount without swap");
        let error = report.require(&[Guarantee::MemoryOnly].into()).expect_err("missing");
        assert_eq!(
            error.to_string(),
            "create a sandbox: it cannot guarantee what the job demands; use another machine or demand less \
             (missing: MemoryOnly: no privilege to mount without swap)"
        );
    }
}
