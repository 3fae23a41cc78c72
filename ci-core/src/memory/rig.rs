//! Everything wired together, for a test or an example.

use std::sync::Arc;

use secrecy::SecretString;

use super::access::{People, Permissions};
use super::artifact::Artifacts;
use super::cache::Caches;
use super::database::Database;
use super::forge::Forge;
use super::log::Logs;
use super::observer::Recorder;
use super::ring::Ring;
use super::sandbox::Scripted;
use super::secret::Secrets;
use crate::access::{Access, Authority, Grant, Session, Write};
use crate::audit::Audit;
use crate::clock::ManualClock;
use crate::error::{Error, ErrorKind, Result};
use crate::forge::{self, Challenge, Revision, RevisionName};
use crate::id::{
    CommitId, ForgeId, ImageName, JobId, NativeId, RepositoryId, StepName, TenantId, UserId, random_bytes,
};
use crate::job::{JobSpec, Script, Step};
use crate::operator::Operator;
use crate::queue::{Claim, Dispatcher, NewJob, Queue};
use crate::records::Records;
use crate::runner::Parts;
use crate::sandbox::Sandboxes;
use crate::secret::KeyRing;
use crate::trust::{Origin, Provenance};

/// A service in memory, on a clock that a test moves. It makes the sessions, grants and claims that a test of a
/// backend needs, in the one way in which they can be made.
///
/// Its grants allow what they ask for: [`grant`](Self::grant) gives the person the permission first. To see somebody
/// refused, [`sign_in`](Self::sign_in) and ask the [`authority`](Self::authority).
///
/// To test a database or a key ring, put it under the rig with [`with_database`](Self::with_database) or
/// [`with_ring`](Self::with_ring).
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use std::time::Duration;
/// use ci_core::memory::Rig;
/// use ci_core::trust::{Origin, Trust};
///
/// let rig = Rig::new()?;
/// let claim = rig.claim(&Rig::repository("1", "acme")?, Origin::Fork, Rig::spec()).await?;
/// assert_eq!(claim.trust(), Trust::Untrusted);
/// rig.clock.advance(Duration::from_secs(30));
/// assert!(claim.fence().is_err());
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct Rig {
    /// The time of everything.
    pub clock: Arc<ManualClock>,
    /// Who may sign in.
    pub people: People,
    /// Who may do what.
    pub permissions: Arc<Permissions>,
    /// What makes sessions and grants.
    pub authority: Authority,
    /// Records and queue.
    pub database: Arc<dyn crate::queue::Database>,
    /// The keys of the tickets.
    pub ring: Arc<dyn KeyRing>,
    /// What makes claims.
    pub dispatcher: Dispatcher,
    /// The audit log in the database.
    pub audit: Audit,
    /// The operator.
    pub operator: Operator,
    /// Where the code comes from.
    pub forge: Arc<Forge>,
    /// Where jobs run: programs are registered here.
    pub backend: Scripted,
    /// The same, behind the rules for all backends.
    pub sandboxes: Sandboxes,
}

impl Rig {
    /// A rig on a clock of its own.
    ///
    /// # Errors
    ///
    /// None in practice; it has the type of the calls it is made of.
    pub fn new() -> Result<Self> {
        Self::on(Arc::new(ManualClock::new()))
    }

    /// A rig on `clock`.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new).
    pub fn on(clock: Arc<ManualClock>) -> Result<Self> {
        let permissions = Arc::new(Permissions::new(clock.clone()));
        let authority = Authority::new(permissions.clone(), clock.clone());
        let database: Arc<dyn crate::queue::Database> = Arc::new(Database::new(clock.clone()));
        let ring: Arc<dyn KeyRing> = Arc::new(Ring::new());
        let dispatcher = Dispatcher::new(database.clone(), ring.clone(), authority.clone(), clock.clone());
        let audit = Audit::new(database.clone(), clock.clone());
        let operator = Operator::new(&audit)?;
        let backend = Scripted::new();
        let sandboxes = Sandboxes::new(Arc::new(backend.clone()));
        let (people, forge) = (People::new(), Arc::new(Forge::new()));
        Ok(Self {
            clock,
            people,
            permissions,
            authority,
            database,
            ring,
            dispatcher,
            audit,
            operator,
            forge,
            backend,
            sandboxes,
        })
    }

    /// Puts another database under the rig. It must go by the rig's clock.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new).
    pub fn with_database(mut self, database: Arc<dyn crate::queue::Database>) -> Result<Self> {
        self.audit = Audit::new(database.clone(), self.clock.clone());
        self.operator = Operator::new(&self.audit)?;
        self.database = database;
        Ok(self.wired())
    }

    /// Puts another key ring under the rig.
    pub fn with_ring(mut self, ring: Arc<dyn KeyRing>) -> Self {
        self.ring = ring;
        self.wired()
    }

    fn wired(mut self) -> Self {
        self.dispatcher = self.dispatcher_of(self.database.clone());
        self
    }

    /// A dispatcher of another queue, with the rest of the rig. The queue must go by the rig's clock.
    pub fn dispatcher_of(&self, queue: Arc<dyn Queue>) -> Dispatcher {
        Dispatcher::new(queue, self.ring.clone(), self.authority.clone(), self.clock.clone())
    }

    /// The same records, as the port.
    pub fn records(&self) -> Arc<dyn Records> {
        self.database.clone()
    }

    /// Parts of a runner: those of the rig, and the others in memory. Replace what a test wants to see.
    pub fn parts(&self) -> Parts {
        Parts {
            secrets: Arc::new(Secrets::new(self.audit.clone(), self.clock.clone())),
            sandboxes: self.sandboxes.clone(),
            source: self.forge.clone(),
            logs: Arc::new(Logs::new(self.database.clone(), self.clock.clone())),
            artifacts: Arc::new(Artifacts::new(self.records())),
            caches: Arc::new(Caches::new(self.records())),
            checks: Some(self.forge.clone()),
            audit: self.audit.clone(),
            observer: Arc::new(Recorder::new()),
            clock: self.clock.clone(),
        }
    }

    /// The repository that the forge knows as `native`, in the books of `tenant`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for names that cannot be.
    pub fn repository(native: &str, tenant: &str) -> Result<RepositoryId> {
        Ok(RepositoryId::new(NativeId::parse(native)?, ForgeId::parse("memory")?, TenantId::parse(tenant)?))
    }

    /// The person that the forge knows as `native`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for a name that cannot be.
    pub fn user(native: &str) -> Result<UserId> {
        Ok(UserId::new(NativeId::parse(native)?, ForgeId::parse("memory")?))
    }

    /// A job of one step, which starts `true`.
    ///
    /// # Panics
    ///
    /// Never: its names are names.
    pub fn spec() -> JobSpec {
        let (image, step) = (ImageName::parse("host"), StepName::parse("test"));
        let step = Step::script(step.expect("a step's name"), Script::literal("true"));
        JobSpec::new(image.expect("an image's name")).with_step(step)
    }

    /// Signs a person in.
    ///
    /// # Errors
    ///
    /// None in practice.
    pub async fn sign_in(&self, user: &UserId) -> Result<Session> {
        let token = SecretString::from(data_encoding::HEXLOWER.encode(&random_bytes::<16>()));
        self.people.add(user, &token)?;
        self.authority.sign_in(&self.people, &Challenge::Credential, token).await
    }

    /// A grant for a person, who may do that from now on.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] when the permissions are down.
    pub async fn grant<A: Access>(&self, user: &UserId, repository: &RepositoryId) -> Result<Grant<A>> {
        if self.permissions.level(user, repository) < A::LEVEL {
            self.permissions.allow(user, repository, A::LEVEL);
        }
        self.authority.grant(&self.sign_in(user).await?, repository).await
    }

    /// A new commit without files, found in `origin`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] when the permissions are down.
    pub async fn code(&self, repository: &RepositoryId, origin: Origin) -> Result<Provenance> {
        let commit = CommitId::parse(data_encoding::HEXLOWER.encode(&random_bytes::<20>()))?;
        let name = RevisionName::parse(commit.as_str())?;
        self.forge.add_commit::<String, &str>(repository, Revision::new(commit, origin), [])?;
        let grant = self.grant::<Write>(&Self::user("rig")?, repository).await?;
        forge::resolve(self.forge.as_ref(), grant.scope()?, &self.sandboxes, &name).await
    }

    /// Enqueues a job, asked for by the person `rig`, whose code was found in `origin`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when the spec cannot run; those of the queue and the key ring.
    pub async fn enqueue(&self, repository: &RepositoryId, origin: Origin, spec: JobSpec) -> Result<JobId> {
        self.enqueue_by(&self.dispatcher, repository, origin, spec).await
    }

    async fn enqueue_by(
        &self,
        dispatcher: &Dispatcher,
        repository: &RepositoryId,
        origin: Origin,
        spec: JobSpec,
    ) -> Result<JobId> {
        let code = self.code(repository, origin).await?;
        let grant = self.grant::<Write>(&Self::user("rig")?, repository).await?;
        dispatcher.enqueue(&NewJob::requested(&grant, code, spec)?).await
    }

    /// Enqueues a job and claims it.
    ///
    /// # Errors
    ///
    /// As for [`enqueue`](Self::enqueue); [`ErrorKind::Conflict`] when an older job waited.
    pub async fn claim(&self, repository: &RepositoryId, origin: Origin, spec: JobSpec) -> Result<Claim> {
        self.claim_by(&self.dispatcher, repository, origin, spec).await
    }

    /// The same, through another dispatcher.
    ///
    /// # Errors
    ///
    /// As for [`claim`](Self::claim).
    pub async fn claim_by(
        &self,
        dispatcher: &Dispatcher,
        repository: &RepositoryId,
        origin: Origin,
        spec: JobSpec,
    ) -> Result<Claim> {
        let labels = spec.labels.clone();
        let job = self.enqueue_by(dispatcher, repository, origin, spec).await?;
        let claim = dispatcher.next(&labels).await?.filter(|claim| *claim.job() == job);
        claim.ok_or_else(|| {
            Error::new(ErrorKind::Conflict, "claim a job").because("another job waited before it")
        })
    }
}
