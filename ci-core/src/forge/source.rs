//! The code itself.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;

#[cfg(doc)]
use super::VerifiedDelivery;
use super::{RevisionName, SourcePath};
use crate::access::Scope;
use crate::error::{Error, ErrorKind, Result};
use crate::external::External;
use crate::id::CommitId;
use crate::queue::Claim;
use crate::sandbox::{Sandbox, Sandboxes};
use crate::trust::{Origin, Provenance};
use crate::units::ByteSize;

/// Gets code from a forge.
///
/// The forge's content is hostile: an implementor looks at it only inside of a helper sandbox, on the operator's
/// image, where neither host nor job nor key can be reached.
///
/// An integrator calls [`resolve`] and [`read()`], and the [`Runner`](crate::runner::Runner) calls
/// [`checkout`](Self::checkout). The kit in `ci-scm`'s feature `conformance` tells an implementor whether their
/// source keeps this contract.
///
/// # Example
///
/// From a branch to a job, with a look at the pipeline file between:
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use ci_core::access::Write;
/// use ci_core::forge::{self, Revision, RevisionName, Source, SourcePath};
/// use ci_core::id::{CommitId, ImageName, StepName};
/// use ci_core::job::{JobSpec, Script, Step};
/// use ci_core::memory::Rig;
/// use ci_core::queue::NewJob;
/// use ci_core::trust::Origin;
/// use ci_core::{ByteSize, External};
///
/// # let (rig, repository) = (Rig::new()?, Rig::repository("1", "acme")?);
/// # let commit = CommitId::parse("a".repeat(40))?;
/// # let main = Revision::new(commit, Origin::Repository).with_reference(External::new("main"));
/// # rig.forge.add_commit(&repository, main, [(".ci.yml", "cargo test")])?;
/// # let grant = rig.grant::<Write>(&Rig::user("ada")?, &repository).await?;
/// let source: &dyn Source = &*rig.forge;
/// let (name, path) = (RevisionName::parse("main")?, SourcePath::parse(".ci.yml")?);
///
/// let code = forge::resolve(source, grant.scope()?, &rig.sandboxes, &name).await?;
/// let most = ByteSize::kib(64);
/// let pipeline = forge::read(source, grant.scope()?, &rig.sandboxes, &code, &path, most).await?;
///
/// // A product's own syntax: here, the file is the script.
/// let script = Script::authored(String::from_utf8_lossy(&pipeline).into_owned());
/// let step = Step::script(StepName::parse("the only step")?, script);
/// let spec = JobSpec::new(ImageName::parse("host")?).with_step(step);
/// rig.dispatcher.enqueue(&NewJob::requested(&grant, code, spec)?).await?;
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[async_trait]
pub trait Source: fmt::Debug + Send + Sync + 'static {
    /// The exact commit that `name` means now, and where it was found. [`resolve`] makes a provenance of it.
    ///
    /// [`Origin::Protected`] or [`Origin::Repository`] may be answered if and only if the commit lies on a branch or
    /// tag of the scope's own repository, as the forge says; what is not known is [`Origin::Fork`]. A shortened
    /// commit is not found: somebody could push another that begins alike.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] when there is no such repository, branch, tag or commit;
    /// [`ErrorKind::Unavailable`] when the forge cannot be reached.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves nothing: a helper is abandoned.
    async fn resolve(&self, scope: Scope<'_>, helpers: &Sandboxes, name: &RevisionName) -> Result<Revision>;

    /// Puts the files of the claim's exact commit into [`SandboxPath::work`](crate::sandbox::SandboxPath::work)
    /// of the job's sandbox.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] when the commit is gone; [`ErrorKind::Fenced`] when the claim is over;
    /// [`ErrorKind::Unsupported`] when the job asks for what the source cannot bring, submodules for instance;
    /// [`ErrorKind::Invalid`] when the commit is malformed; [`ErrorKind::LimitExceeded`] when the files do not fit;
    /// [`ErrorKind::Unavailable`] when the forge cannot be reached.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, a part of the files may lie in `into`; a helper is abandoned.
    async fn checkout(&self, claim: &Claim, helpers: &Sandboxes, into: &Sandbox) -> Result<()>;

    /// The content of one file of one exact commit: the pipeline file, before there is a job. [`read()`] makes sure
    /// that the commit is of the scope's repository.
    ///
    /// It returns what was committed at `path`, if and only if a regular file was. A symbolic link is never
    /// followed, wherever in the path it stands: whoever wrote the commit chose where it leads.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] when there is no such repository, commit or file; [`ErrorKind::Invalid`] when there
    /// is a folder, a symbolic link or a submodule at `path`, or the commit is malformed;
    /// [`ErrorKind::LimitExceeded`] when the file has more than `limit` bytes, which are then not kept in memory;
    /// [`ErrorKind::Unavailable`] when the forge cannot be reached.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves nothing: a helper is abandoned.
    async fn read(
        &self,
        scope: Scope<'_>,
        helpers: &Sandboxes,
        commit: &CommitId,
        path: &SourcePath,
        limit: ByteSize,
    ) -> Result<Bytes>;
}

/// What a [`Source`] found, or a webhook speaks of. It is a fact of the forge; [`resolve`] and
/// [`VerifiedDelivery::parse`] make a [`Provenance`] of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Revision {
    /// The exact commit.
    pub commit: CommitId,
    /// Where it was found.
    pub origin: Origin,
    /// The branch or tag it was found by.
    pub reference: Option<External>,
}

impl Revision {
    /// The commit `commit`, found in `origin`.
    pub fn new(commit: CommitId, origin: Origin) -> Self {
        Self { commit, origin, reference: None }
    }

    /// Says by which branch or tag it was found.
    pub fn with_reference(mut self, reference: External) -> Self {
        self.reference = Some(reference);
        self
    }
}

/// Which exact code `name` means now in the repository of `scope`, and where it comes from.
///
/// # Errors
///
/// As for [`Source::resolve`].
///
/// # Cancel safety
///
/// As for [`Source::resolve`].
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use ci_core::access::Read;
/// use ci_core::forge::{self, Revision, RevisionName};
/// use ci_core::id::CommitId;
/// use ci_core::memory::Rig;
/// use ci_core::trust::{Origin, Trust};
/// use ci_core::{ErrorKind, External};
///
/// let (rig, repository) = (Rig::new()?, Rig::repository("1", "acme")?);
/// let commit = CommitId::parse("a".repeat(40))?;
/// let main = Revision::new(commit.clone(), Origin::Protected).with_reference(External::new("main"));
/// rig.forge.add_commit(&repository, main, [("README", "hello")])?;
///
/// let grant = rig.grant::<Read>(&Rig::user("ada")?, &repository).await?;
/// let main = RevisionName::parse("main")?;
/// let code = forge::resolve(&*rig.forge, grant.scope()?, &rig.sandboxes, &main).await?;
/// assert_eq!((code.commit(), code.trust()), (&commit, Trust::Protected));
///
/// let gone = RevisionName::parse("no-such-branch")?;
/// let error = forge::resolve(&*rig.forge, grant.scope()?, &rig.sandboxes, &gone).await.unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::NotFound);
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub async fn resolve(
    source: &dyn Source,
    scope: Scope<'_>,
    helpers: &Sandboxes,
    name: &RevisionName,
) -> Result<Provenance> {
    let repository = scope.repository().clone();
    let revision = source.resolve(scope, helpers, name).await?;
    Ok(Provenance::new(repository, revision))
}

/// The content of the file at `path` in exactly `code`, of at most `limit` bytes: the pipeline file, for instance,
/// before there is a job.
///
/// It may be hostile, whoever asks for it: whoever wrote the commit wrote it, and
/// [`code.trust()`](Provenance::trust) says who that can be.
///
/// # Errors
///
/// [`ErrorKind::Denied`] when `code` is of another repository than `scope`; otherwise as for [`Source::read`].
///
/// # Cancel safety
///
/// As for [`Source::read`].
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use ci_core::access::Read;
/// use ci_core::forge::{self, Revision, RevisionName, SourcePath};
/// use ci_core::id::CommitId;
/// use ci_core::memory::Rig;
/// use ci_core::trust::Origin;
/// use ci_core::{ByteSize, ErrorKind, External};
///
/// # let (rig, repository) = (Rig::new()?, Rig::repository("1", "acme")?);
/// # let commit = CommitId::parse("a".repeat(40))?;
/// # let main = Revision::new(commit, Origin::Repository).with_reference(External::new("main"));
/// # rig.forge.add_commit(&repository, main, [(".ci.yml", "test: cargo test")])?;
/// # let grant = rig.grant::<Read>(&Rig::user("ada")?, &repository).await?;
/// # let (source, sandboxes) = (rig.forge.clone(), rig.sandboxes.clone());
/// let name = RevisionName::parse("main")?;
/// let code = forge::resolve(&*source, grant.scope()?, &sandboxes, &name).await?;
///
/// let (path, most) = (SourcePath::parse(".ci.yml")?, ByteSize::kib(64));
/// let pipeline = forge::read(&*source, grant.scope()?, &sandboxes, &code, &path, most).await?;
/// assert_eq!(pipeline, "test: cargo test");
///
/// let most = ByteSize::bytes(3);
/// let error = forge::read(&*source, grant.scope()?, &sandboxes, &code, &path, most).await.unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::LimitExceeded);
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub async fn read(
    source: &dyn Source,
    scope: Scope<'_>,
    helpers: &Sandboxes,
    code: &Provenance,
    path: &SourcePath,
    limit: ByteSize,
) -> Result<Bytes> {
    if code.repository() != scope.repository() {
        return Err(Error::new(ErrorKind::Denied, "read a file of a commit")
            .because(
                "the commit is of another repository than the permission; ask for one for its repository",
            )
            .with("repository", scope.repository()));
    }
    source.read(scope, helpers, code.commit(), path, limit).await
}
