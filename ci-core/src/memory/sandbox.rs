//! A sandbox whose programs are closures.

use std::collections::BTreeMap;
use std::fmt;
use std::future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures_util::stream;

use super::files::Files;
use super::process::{Running, Start};
use super::script::{Call, Reply};
use super::tar::Archive;
use crate::error::{Error, ErrorKind, Result};
use crate::id::SandboxId;
use crate::lock::lock;
use crate::network::NetworkReport;
use crate::sandbox::{
    Backend, Capabilities, Command, Instance, IsolationReport, Process, Residue, SandboxPath, SandboxUsage,
    SecretForm, SecretUse, Spec,
};
use crate::secret::SecretLease;
use crate::stream::{ByteStream, collect};
use crate::units::ByteSize;

/// A sandbox backend in which nothing runs: a program is a closure that was registered under its name, a file
/// exists in a map. It fails on demand, so that a caller's cleaning up can be tested.
///
/// Clones are the same backend. It protects from nothing: what runs in it is the test itself.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use std::sync::Arc;
/// use ci_core::job::Arg;
/// use ci_core::memory::{Masking, Reply, Rig};
/// use ci_core::sandbox::{Command, OutputStream, ProcessEvent, Spec};
/// use ci_core::secret::SecretLease;
/// use ci_core::trust::Origin;
///
/// let rig = Rig::new()?;
/// rig.backend.on("greet", |call| Reply::exit(0).stdout(format!("hello {}", call.arguments()[0])));
///
/// let claim = rig.claim(&Rig::repository("1", "acme")?, Origin::Repository, Rig::spec()).await?;
/// let sandbox = rig.sandboxes.create(&claim, &Spec::new(claim.spec().image.clone())).await?;
/// let lease = SecretLease::empty(&claim, Arc::new(Masking::new()));
/// let mut process = sandbox.exec(&Command::new(Arg::new("greet")?, [Arg::new("you")?]), &lease).await?;
/// assert_eq!(process.next().await?, ProcessEvent::Output(OutputStream::Stdout, "hello you".into()));
/// drop(process);
/// let _gone = sandbox.destroy().await?;
/// assert_eq!(rig.backend.living(), []);
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Scripted {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    programs: BTreeMap<String, Program>,
    sandboxes: BTreeMap<SandboxId, Stage>,
    abandoned: Vec<SandboxId>,
    capabilities: Capabilities,
    next_create: Option<Fault>,
    next_destroy: Option<Residue>,
    usage: SandboxUsage,
    network: NetworkReport,
}

/// What is registered under a name.
#[derive(Clone)]
pub(super) struct Program {
    pub(super) run: Arc<dyn Fn(&mut Call<'_>) -> Reply + Send + Sync>,
    /// Whether it reads its input to the end before it does anything.
    pub(super) reads: bool,
}

/// How far a sandbox is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Living,
    /// Nobody owns it any more, but something of it is left.
    Left,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    Fail(ErrorKind),
    Hang,
}

impl Scripted {
    /// A backend without programs, which guarantees nothing.
    pub fn new() -> Self {
        Self { shared: Arc::default() }
    }

    /// Registers what happens when `program` is started: by exactly this name, or by a path that ends in it.
    pub fn on(&self, program: &str, run: impl Fn(&mut Call<'_>) -> Reply + Send + Sync + 'static) {
        self.register(program, Program { run: Arc::new(run), reads: false });
    }

    /// The same for a program that reads its input: it runs once the input has ended, or a terminal's input holds the
    /// byte 0x04, and finds all of it in [`Call::input`]. The example of [`Input`](crate::sandbox::Input) has one.
    pub fn on_input(&self, program: &str, run: impl Fn(&mut Call<'_>) -> Reply + Send + Sync + 'static) {
        self.register(program, Program { run: Arc::new(run), reads: true });
    }

    fn register(&self, name: &str, program: Program) {
        lock(&self.shared).programs.insert(name.to_owned(), program);
    }

    /// Replaces what it says that it can do.
    pub fn set_capabilities(&self, capabilities: Capabilities) {
        lock(&self.shared).capabilities = capabilities;
    }

    /// Lets the next sandbox fail to be made, after something of it exists.
    pub fn fail_create(&self, kind: ErrorKind) {
        lock(&self.shared).next_create = Some(Fault::Fail(kind));
    }

    /// Lets the making of the next sandbox never end, after something of it exists.
    pub fn hang_create(&self) {
        lock(&self.shared).next_create = Some(Fault::Hang);
    }

    /// Lets the next sandbox that is taken down leave `residue`. Taking it down once more clears it.
    pub fn leave_residue(&self, residue: Residue) {
        lock(&self.shared).next_destroy = Some(residue);
    }

    /// Replaces what its sandboxes say that they use. The size of their files they know themselves.
    pub fn set_usage(&self, usage: SandboxUsage) {
        lock(&self.shared).usage = usage;
    }

    /// Replaces what its sandboxes say that went through their network.
    pub fn set_network(&self, report: NetworkReport) {
        lock(&self.shared).network = report;
    }

    /// Forgets who owns the living sandboxes, as if the process had been killed and started again.
    pub fn restart(&self) {
        lock(&self.shared).sandboxes.values_mut().for_each(|stage| *stage = Stage::Left);
    }

    /// The sandboxes of which anything exists.
    pub fn living(&self) -> Vec<SandboxId> {
        lock(&self.shared).sandboxes.keys().cloned().collect()
    }

    /// The sandboxes that were abandoned, in order.
    pub fn abandoned(&self) -> Vec<SandboxId> {
        lock(&self.shared).abandoned.clone()
    }
}

impl Default for Scripted {
    fn default() -> Self {
        Self::new()
    }
}

impl Shared {
    fn take_down(&mut self, id: &SandboxId) -> Residue {
        let Some(stage) = self.sandboxes.get_mut(id) else { return Residue::default() };
        if let Some(residue) = self.next_destroy.take() {
            *stage = Stage::Left;
            return residue;
        }
        self.sandboxes.remove(id);
        Residue::default()
    }

    fn program(&self, name: &str) -> Option<Program> {
        let last_part = name.rsplit('/').next();
        self.programs.get(name).or_else(|| self.programs.get(last_part?)).cloned()
    }
}

#[async_trait]
impl Backend for Scripted {
    async fn create(&self, id: &SandboxId, spec: &Spec) -> Result<Box<dyn Instance>> {
        let (fault, isolation) = {
            let mut shared = lock(&self.shared);
            shared.capabilities.require(spec)?;
            if shared.sandboxes.contains_key(id) {
                return Err(Error::new(ErrorKind::Conflict, "create a sandbox").with("sandbox", id));
            }
            shared.sandboxes.insert(id.clone(), Stage::Living);
            (shared.next_create.take(), shared.capabilities.isolation.clone())
        };
        match fault {
            Some(Fault::Fail(kind)) => Err(Error::new(kind, "create a sandbox").with("sandbox", id)),
            Some(Fault::Hang) => future::pending().await,
            None => Ok(Box::new(Fake {
                id: id.clone(),
                shared: self.shared.clone(),
                files: Mutex::new(Files::with_room(spec.limits.disk)),
                room: spec.limits.disk,
                isolation,
                starts: AtomicU64::new(0),
            })),
        }
    }

    async fn create_beside(
        &self,
        id: &SandboxId,
        spec: &Spec,
        other: &SandboxId,
    ) -> Result<Box<dyn Instance>> {
        if lock(&self.shared).sandboxes.get(other) != Some(&Stage::Living) {
            return Err(Error::new(ErrorKind::Unavailable, "create a sandbox")
                .because("the one that it is for is gone")
                .with("sandbox", other));
        }
        self.create(id, spec).await
    }

    async fn destroy(&self, id: &SandboxId) -> Result<Residue> {
        Ok(lock(&self.shared).take_down(id))
    }

    async fn leftovers(&self) -> Result<Vec<SandboxId>> {
        let shared = lock(&self.shared);
        let left = shared.sandboxes.iter().filter(|(_, stage)| **stage == Stage::Left);
        Ok(left.map(|(id, _)| id.clone()).collect())
    }

    fn abandon(&self, id: &SandboxId) {
        let mut shared = lock(&self.shared);
        shared.abandoned.push(id.clone());
        // What has been taken down once and left something needs whoever counts what is left.
        if shared.sandboxes.get(id) == Some(&Stage::Living) {
            shared.take_down(id);
        }
    }

    fn capabilities(&self) -> Capabilities {
        lock(&self.shared).capabilities.clone()
    }
}

impl fmt::Debug for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shared = lock(&self.shared);
        f.debug_struct("Scripted")
            .field("programs", &shared.programs.keys())
            .field("sandboxes", &shared.sandboxes)
            .finish_non_exhaustive()
    }
}

/// One sandbox.
pub(super) struct Fake {
    id: SandboxId,
    shared: Arc<Mutex<Shared>>,
    pub(super) files: Mutex<Files>,
    room: ByteSize,
    isolation: IsolationReport,
    starts: AtomicU64,
}

impl Fake {
    pub(super) fn check(&self) -> Result<()> {
        let stage = lock(&self.shared).sandboxes.get(&self.id).copied();
        if stage == Some(Stage::Living) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Unavailable, "use a sandbox")
            .because("it is gone")
            .with("sandbox", &self.id))
    }
}

#[async_trait]
impl Instance for Fake {
    async fn exec<'a>(&'a self, command: &Command, lease: &SecretLease) -> Result<Box<dyn Process + 'a>> {
        self.check()?;
        let missing = |what: &'static str| Error::new(ErrorKind::NotFound, "start a program").because(what);
        let program = lock(&self.shared).program(command.program.as_str());
        let program = program
            .ok_or_else(|| missing("there is no such program").with("program", command.program.as_str()))?;
        if !lock(&self.files).is_folder(&command.directory) {
            return Err(missing("there is no such folder").with("folder", &command.directory));
        }
        let plain = command
            .environment
            .iter()
            .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()));
        let mut variables: Vec<_> = plain.collect();
        let mut secrets = Vec::new();
        let folder = format!("/run/secrets/{}", self.starts.fetch_add(1, Ordering::Relaxed));
        for SecretUse { name, form } in &command.secrets {
            let value = lease.value(name)?.expose().to_vec();
            let seen = match form {
                SecretForm::Variable => value,
                SecretForm::File => {
                    let path = SandboxPath::parse(format!("{folder}/{name}"))?;
                    secrets.push((path.clone(), value));
                    path.as_str().as_bytes().to_vec()
                }
            };
            variables.push((name.as_str().to_owned(), seen));
        }
        Ok(Box::new(Running::new(self, Start { command: command.clone(), program, variables, secrets })?))
    }

    async fn upload(&self, path: &SandboxPath, tar: ByteStream<'_>) -> Result<()> {
        self.check()?;
        // Headers need no room in the sandbox; a bound is needed all the same.
        let most = ByteSize::bytes(self.room.as_u64().saturating_mul(2).saturating_add(1 << 20));
        let archive = Archive::parse(&collect(tar, most).await?)?;
        lock(&self.files).unpack(path, archive)
    }

    fn download(&self, path: &SandboxPath) -> ByteStream<'_> {
        let packed = self.check().and_then(|()| lock(&self.files).pack(path));
        Box::pin(stream::once(future::ready(packed.map(|archive| archive.to_bytes()))))
    }

    fn isolation(&self) -> &IsolationReport {
        &self.isolation
    }

    async fn usage(&self) -> Result<SandboxUsage> {
        self.check()?;
        let files = lock(&self.files).size();
        Ok(lock(&self.shared).usage.with_files(files))
    }

    fn network(&self) -> NetworkReport {
        lock(&self.shared).network.clone()
    }
}

impl fmt::Debug for Fake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fake").field("id", &self.id).finish_non_exhaustive()
    }
}
