//! The life of a sandbox: made for a claim, used up by the proof that it is gone.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    Backend, Capabilities, Command, Instance, IsolationReport, Process, SandboxPath, SandboxUsage, Spec,
};
use crate::access::Scope;
use crate::error::{Error, ErrorKind, Result};
use crate::id::SandboxId;
use crate::network::{NetworkPolicy, NetworkReport};
use crate::queue::{Claim, Tenure};
use crate::secret::SecretLease;
use crate::stream::ByteStream;

/// What a backend counted after it took a sandbox down. Zero everywhere means gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use ci_core::ErrorKind;
/// use ci_core::sandbox::{Residue, Spec};
/// # use ci_core::{memory::Rig, trust::Origin};
/// # let rig = Rig::new()?;
/// # let claim = rig.claim(&Rig::repository("1", "acme")?, Origin::Repository, Rig::spec()).await?;
/// # let spec = Spec::new(claim.spec().image.clone());
/// # let mut left = Residue::default();
/// # left.processes = 1;
///
/// let sandbox = rig.sandboxes.create(&claim, &spec).await?;
/// rig.backend.leave_residue(left); // a process that cannot be killed
/// let error = sandbox.destroy().await.expect_err("something is left");
/// assert_eq!(error.kind(), ErrorKind::Internal);
/// assert_eq!(rig.sandboxes.reap().await?, 1); // later, or at the next start
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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

/// What makes sandboxes for jobs: a [`Backend`] behind the rules that hold for all of them. Clones share the backend.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use ci_core::job::Arg;
/// use ci_core::memory::{Masking, Reply, Rig};
/// use ci_core::sandbox::{Command, ProcessEvent, Spec};
/// use ci_core::secret::SecretLease;
/// # use std::sync::Arc;
/// # use ci_core::trust::Origin;
/// # let rig = Rig::new()?;
/// # rig.backend.on("uname", |_| Reply::exit(0).stdout("Linux\n"));
/// # let claim = rig.claim(&Rig::repository("1", "acme")?, Origin::Repository, Rig::spec()).await?;
/// # let lease = SecretLease::empty(&claim, Arc::new(Masking::new()));
///
/// let sandbox = rig.sandboxes.create(&claim, &Spec::new(claim.spec().image.clone())).await?;
/// let mut process = sandbox.exec(&Command::new(Arg::new("uname")?, []), &lease).await?;
/// let (mut mask, mut shown) = (lease.mask(), Vec::new());
/// let exit = loop {
///     match process.next().await? {
///         ProcessEvent::Output(_, bytes) => shown.extend_from_slice(mask.push(&bytes).as_bytes()),
///         ProcessEvent::Exited(exit) => break exit,
///     }
/// };
/// assert!(exit.status.is_success() && shown == b"Linux\n");
/// drop(process);
/// let gone = sandbox.destroy().await?; // the proof that nothing of it is left
/// # let _ = gone;
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
    /// [`ErrorKind::Fenced`] when the claim is over; [`ErrorKind::Invalid`] when nothing could run within the spec's
    /// limits, or a rule of its network would never allow anything; [`ErrorKind::Unsupported`] when the spec asks for
    /// more than the backend can do; those of [`Backend::create`].
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
    /// [`ErrorKind::Invalid`] and [`ErrorKind::Unsupported`] as for [`create`](Self::create); those of
    /// [`Backend::create`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves nothing: the sandbox is abandoned.
    pub async fn create_helper(&self, _scope: Scope<'_>, spec: &Spec) -> Result<Sandbox> {
        self.make(spec, None).await
    }

    async fn make(&self, spec: &Spec, of: Option<Arc<Tenure>>) -> Result<Sandbox> {
        spec.check()?;
        self.backend.capabilities().require(spec)?;
        let guard = Guard::new(&self.backend);
        let instance = self.backend.create(&guard.id, spec).await?;
        instance.isolation().require(&spec.minimum)?;
        Ok(Sandbox { instance, guard, of })
    }

    /// Takes down what earlier processes left behind, and returns how many sandboxes that were. Call it when a worker
    /// starts; sandboxes that are in use are none of them.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Internal`] when something is left of one of them; those of [`Backend::leftovers`] and
    /// [`Backend::destroy`]. The first of them, when all others have been taken down that could be.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, some have been taken down; the next call goes on.
    pub async fn reap(&self) -> Result<usize> {
        let (mut count, mut failed) = (0, Ok(()));
        for id in self.backend.leftovers().await? {
            match self.backend.destroy(&id).await.and_then(|residue| Teardown::prove(id.clone(), residue)) {
                Ok(_gone) => count += 1,
                // Somebody else who starts at the same time may be at it.
                Err(_) if !self.backend.leftovers().await?.contains(&id) => {}
                // One that cannot be cleared, now or ever, must not keep the others.
                Err(error) => failed = failed.and(Err(error)),
            }
        }
        failed.map(|()| count)
    }
}

/// A living sandbox of one job or helper; the example of [`Sandboxes`] uses one. It is used up by
/// [`destroy`](Self::destroy); dropping it abandons it.
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

    /// Makes a sandbox for a service of the job, a database for its tests say: it shares the network of this one, and
    /// nothing else. Each reaches at the loopback address what listens in the other. Destroy it before this one.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Fenced`] when the claim is over; [`ErrorKind::Invalid`] as for [`Sandboxes::create`];
    /// [`ErrorKind::Unsupported`] when the backend has no services, or the spec asks for a network of its own or for more
    /// than the backend can do; those of [`Backend::create_beside`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves nothing: the service's sandbox is abandoned.
    pub async fn create_beside(&self, spec: &Spec) -> Result<Sandbox> {
        const OPERATION: &str = "create a sandbox for a service";
        if let Some(tenure) = &self.of {
            tenure.check(OPERATION)?;
        }
        let unsupported = |why: &'static str| Err(Error::new(ErrorKind::Unsupported, OPERATION).because(why));
        let backend = self.guard.backend()?;
        let capabilities = backend.capabilities();
        spec.check()?;
        capabilities.require(spec)?;
        if !capabilities.services {
            return unsupported("this backend has none; start the service as a part of the job");
        }
        if spec.network != NetworkPolicy::None {
            return unsupported("it has the network of its job, with the rules of that");
        }
        let guard = Guard::new(backend);
        let instance = backend.create_beside(&guard.id, spec, self.id()).await?;
        instance.isolation().require(&spec.minimum)?;
        Ok(Sandbox { instance, guard, of: self.of.clone() })
    }

    /// What went through its network so far. The texts in it are the job's, and may hold secrets.
    pub fn network(&self) -> NetworkReport {
        self.instance.network()
    }

    /// Starts a program; see [`Instance::exec`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when the lease is of another job; as for [`Instance::exec`].
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped the program may have started; it ends with the sandbox at the latest.
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
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped a part may have been unpacked.
    pub async fn upload(&self, path: &SandboxPath, tar: ByteStream<'_>) -> Result<()> {
        self.instance.upload(path, tar).await
    }

    /// A file or folder as a tar archive; see [`Instance::download`]. It is as large as the job made it: put
    /// [`limited`](crate::stream::limited) around it.
    pub fn download(&self, path: &SandboxPath) -> ByteStream<'_> {
        self.instance.download(path)
    }

    /// What the sandbox uses; see [`Instance::usage`].
    ///
    /// # Errors
    ///
    /// As for [`Instance::usage`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    ///
    /// # Example
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
    /// # use std::time::Duration;
    /// # use ci_core::{memory::Rig, sandbox::{SandboxUsage, Spec}, trust::Origin};
    /// # let rig = Rig::new()?;
    /// # let claim = rig.claim(&Rig::repository("1", "acme")?, Origin::Repository, Rig::spec()).await?;
    /// # let spec = Spec::new(claim.spec().image.clone());
    /// # rig.backend.set_usage(SandboxUsage::default().with_cpu(Duration::from_secs(2)));
    /// let sandbox = rig.sandboxes.create(&claim, &spec).await?;
    /// if let Some(cpu) = sandbox.usage().await?.cpu {
    ///     println!("{cpu:.1?} of processor time so far");
    /// }
    /// # let _gone = sandbox.destroy().await?;
    /// # Ok::<(), ci_core::Error>(()) })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn usage(&self) -> Result<SandboxUsage> {
        self.instance.usage().await
    }

    /// Takes the sandbox down and proves that nothing of it is left.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Internal`] when something is left; those of [`Backend::destroy`]. The sandbox is abandoned then, and
    /// the next [`Sandboxes::reap`] tries again.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future abandons the sandbox.
    pub async fn destroy(self) -> Result<Teardown> {
        let Self { instance, mut guard, of: _ } = self;
        drop(instance);
        let residue = guard.backend()?.destroy(&guard.id).await?;
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

impl Guard {
    /// Armed before anything exists: whoever is dropped while a sandbox is being made finds it.
    fn new(backend: &Arc<dyn Backend>) -> Self {
        Self { backend: Some(backend.clone()), id: SandboxId::random() }
    }

    fn backend(&self) -> Result<&Arc<dyn Backend>> {
        self.backend.as_ref().ok_or_else(|| Error::new(ErrorKind::Internal, "use a sandbox"))
    }
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
    fn a_residue_is_no_teardown() {
        let left = Residue { processes: 1, ..Residue::default() };
        assert_eq!(Teardown::prove(SandboxId::random(), left).expect_err("left").kind(), ErrorKind::Internal);
        assert!(Teardown::prove(SandboxId::random(), Residue::default()).is_ok());
    }
}
