//! The cases for a [`Source`].

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use ci_core::access::{Grant, Write};
use ci_core::forge::{self, RevisionName, Source, SourcePath};
use ci_core::id::{CommitId, ImageName, NativeId, RepositoryId};
use ci_core::memory::Rig;
use ci_core::queue::{Claim, NewJob};
use ci_core::sandbox::{Sandbox, SandboxPath, Sandboxes, Spec};
use ci_core::trust::{Provenance, Trust};
use ci_core::{ByteSize, ErrorKind, Result, stream};

use super::tar;

/// A source with one repository, and the hands that push to it.
///
/// # Example
///
/// The forge in memory, which has neither links nor submodules:
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU32, Ordering};
/// use async_trait::async_trait;
/// use ci_core::External;
/// use ci_core::conformance::Setup;
/// use ci_core::forge::{Revision, Source};
/// use ci_core::id::{CommitId, ImageName, RepositoryId};
/// use ci_core::memory::Rig;
/// use ci_core::sandbox::Sandboxes;
/// use ci_core::trust::Origin;
/// use ci_scm::conformance::source::{self, Bench};
///
/// #[derive(Debug)]
/// struct Memory {
///     rig: Rig,
///     commits: AtomicU32,
/// }
///
/// #[async_trait]
/// impl Bench for Memory {
///     fn source(&self) -> Arc<dyn Source> {
///         self.rig.forge.clone()
///     }
///
///     fn sandboxes(&self) -> Sandboxes {
///         self.rig.sandboxes.clone()
///     }
///
///     fn image(&self) -> ImageName {
///         ImageName::parse("host").expect("a name")
///     }
///
///     fn repository(&self) -> RepositoryId {
///         Rig::repository("1", "acme").expect("a name")
///     }
///
///     fn protected_branch(&self) -> String {
///         "main".to_owned()
///     }
///
///     fn open_branch(&self) -> String {
///         "feature".to_owned()
///     }
///
///     async fn commit(&self, branch: &str, path: &str, content: &str) -> CommitId {
///         let number = self.commits.fetch_add(1, Ordering::Relaxed);
///         let commit = CommitId::parse(format!("{number:040x}")).expect("40 digits");
///         let origin = if branch == "main" { Origin::Protected } else { Origin::Repository };
///         let revision = Revision::new(commit.clone(), origin).with_reference(External::new(branch));
///         let files = [(path, content.to_owned())];
///         self.rig.forge.add_commit(&self.repository(), revision, files).expect("a path");
///         commit
///     }
///
///     async fn commit_link(&self, _branch: &str, _name: &str, _target: &str) -> Option<CommitId> {
///         None
///     }
///
///     async fn commit_submodule(&self, _branch: &str, _name: &str) -> Option<CommitId> {
///         None
///     }
///
///     async fn stray_commit(&self) -> Option<CommitId> {
///         None
///     }
/// }
///
/// fn bench() -> Arc<dyn Bench> {
///     let rig = Rig::new().expect("a service in memory");
///     Arc::new(Memory { rig, commits: AtomicU32::new(1) })
/// }
///
/// mod memory {
///     # use super::*;
///     ci_scm::source_kit!(async || Setup::ready(super::bench()));
/// }
/// # fn main() -> std::io::Result<()> {
/// # let runtime = tokio::runtime::Builder::new_current_thread().build()?;
/// # runtime.block_on(source::a_file_beyond_the_limit_is_refused(bench()));
/// # Ok(())
/// # }
/// ```
#[async_trait]
pub trait Bench: fmt::Debug + Send + Sync {
    /// The source under test.
    fn source(&self) -> Arc<dyn Source>;

    /// Where its helpers run, and the jobs of the cases too.
    fn sandboxes(&self) -> Sandboxes;

    /// An image of those sandboxes.
    fn image(&self) -> ImageName;

    /// The repository.
    fn repository(&self) -> RepositoryId;

    /// A branch that the forge protects, and that `HEAD` names.
    fn protected_branch(&self) -> String;

    /// A branch that any writer can move.
    fn open_branch(&self) -> String;

    /// Adds a commit to a branch, which is made where it does not exist, with one file of this content: at its root,
    /// or in the folder that `path` names before it.
    async fn commit(&self, branch: &str, path: &str, content: &str) -> CommitId;

    /// Adds a commit to a branch with nothing but a symbolic link to `target` at its root; `None` where the forge has
    /// no such thing.
    async fn commit_link(&self, branch: &str, name: &str, target: &str) -> Option<CommitId>;

    /// Adds a commit to a branch with nothing but a submodule at its root, whatever its URL; `None` where the forge
    /// has no such thing.
    async fn commit_submodule(&self, branch: &str, name: &str) -> Option<CommitId>;

    /// Adds a commit that lies on no branch and no tag; `None` where there is no such thing.
    async fn stray_commit(&self) -> Option<CommitId>;
}

ci_core::declare_kit! {
    /// Runs every case about a `Source`, against a closure that makes a
    /// [`Bench`](crate::conformance::source::Bench) in an `Arc`.
    source_kit for ::ci_scm::conformance::source {
        a_branch_means_its_newest_commit,
        head_means_the_newest_commit_of_its_branch,
        a_commit_means_itself,
        what_does_not_exist_is_not_found,
        a_shortened_commit_is_not_found,
        another_repository_is_not_found,
        a_protected_branch_is_protected_and_an_open_one_is_not,
        a_stray_commit_is_not_trusted,
        a_checkout_holds_the_claims_commit_though_the_branch_has_moved,
        an_older_commit_is_checked_out_by_its_id,
        a_claim_that_is_over_checks_nothing_out,
        a_file_is_read_from_the_exact_commit_though_the_branch_has_moved,
        a_file_in_a_folder_is_read_by_its_whole_path,
        a_path_is_a_name_and_no_pattern,
        what_is_not_in_the_commit_is_not_read,
        a_folder_is_not_read,
        a_link_is_not_followed,
        a_submodule_is_not_entered,
        a_file_beyond_the_limit_is_refused,
    }
}

const FILE: &str = "content.txt";
const MOST: ByteSize = ByteSize::kib(1);

#[doc(hidden)]
pub async fn a_branch_means_its_newest_commit(bench: Arc<dyn Bench>) {
    let case = Case::new(bench).await;
    let branch = case.bench.open_branch();
    let first = case.bench.commit(&branch, FILE, "one").await;
    assert_eq!(case.resolve(&branch).await.expect("it exists").commit(), &first);
    let second = case.bench.commit(&branch, FILE, "two").await;
    assert_eq!(case.resolve(&branch).await.expect("it exists").commit(), &second);
}

#[doc(hidden)]
pub async fn head_means_the_newest_commit_of_its_branch(bench: Arc<dyn Bench>) {
    let case = Case::new(bench).await;
    let commit = case.bench.commit(&case.bench.protected_branch(), FILE, "one").await;
    assert_eq!(case.resolve("HEAD").await.expect("it exists").commit(), &commit);
}

#[doc(hidden)]
pub async fn a_commit_means_itself(bench: Arc<dyn Bench>) {
    let case = Case::new(bench).await;
    let branch = case.bench.open_branch();
    let first = case.bench.commit(&branch, FILE, "one").await;
    case.bench.commit(&branch, FILE, "two").await;
    assert_eq!(case.resolve(first.as_str()).await.expect("it exists").commit(), &first);
}

#[doc(hidden)]
pub async fn what_does_not_exist_is_not_found(bench: Arc<dyn Bench>) {
    let case = Case::new(bench).await;
    case.bench.commit(&case.bench.open_branch(), FILE, "one").await;
    for name in ["no-such-branch", "refs/heads/no-such-branch", &"0".repeat(39), &"1".repeat(40)] {
        assert_eq!(case.refused(name).await, ErrorKind::NotFound, "{name}");
    }
}

/// Somebody could push another commit that begins alike.
#[doc(hidden)]
pub async fn a_shortened_commit_is_not_found(bench: Arc<dyn Bench>) {
    let case = Case::new(bench).await;
    let commit = case.bench.commit(&case.bench.open_branch(), FILE, "one").await;
    assert_eq!(case.refused(&commit.as_str()[..12]).await, ErrorKind::NotFound);
}

#[doc(hidden)]
pub async fn another_repository_is_not_found(bench: Arc<dyn Bench>) {
    let case = Case::new(bench).await;
    let branch = case.bench.open_branch();
    case.bench.commit(&branch, FILE, "one").await;
    let (ours, native) = (case.bench.repository(), NativeId::parse("no-such-repository").expect("a name"));
    let missing = RepositoryId::new(native, ours.forge().clone(), ours.tenant().clone());
    let grant = case.grant(&missing).await;
    let error = case.resolve_by(&grant, &branch).await.expect_err("there is none");
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[doc(hidden)]
pub async fn a_protected_branch_is_protected_and_an_open_one_is_not(bench: Arc<dyn Bench>) {
    let case = Case::new(bench).await;
    let (protected, open) = (case.bench.protected_branch(), case.bench.open_branch());
    case.bench.commit(&protected, FILE, "one").await;
    case.bench.commit(&open, FILE, "two").await;
    assert_eq!(case.resolve(&protected).await.expect("it exists").trust(), Trust::Protected);
    assert_eq!(case.resolve(&open).await.expect("it exists").trust(), Trust::Trusted);
}

#[doc(hidden)]
pub async fn a_stray_commit_is_not_trusted(bench: Arc<dyn Bench>) {
    let case = Case::new(bench).await;
    case.bench.commit(&case.bench.protected_branch(), FILE, "one").await;
    let Some(stray) = case.bench.stray_commit().await else { return };
    match case.resolve(stray.as_str()).await {
        Ok(code) => assert_eq!(code.trust(), Trust::Untrusted),
        Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound),
    }
}

#[doc(hidden)]
pub async fn a_checkout_holds_the_claims_commit_though_the_branch_has_moved(bench: Arc<dyn Bench>) {
    let case = Case::new(bench).await;
    let branch = case.bench.open_branch();
    case.bench.commit(&branch, FILE, "one").await;
    let claim = case.claim(&branch).await;
    case.bench.commit(&branch, FILE, "two").await;
    assert_eq!(case.checked_out(&claim).await, "one");
}

#[doc(hidden)]
pub async fn an_older_commit_is_checked_out_by_its_id(bench: Arc<dyn Bench>) {
    let case = Case::new(bench).await;
    let branch = case.bench.open_branch();
    let first = case.bench.commit(&branch, FILE, "one").await;
    case.bench.commit(&branch, FILE, "two").await;
    let claim = case.claim(first.as_str()).await;
    assert_eq!(case.checked_out(&claim).await, "one");
}

#[doc(hidden)]
pub async fn a_claim_that_is_over_checks_nothing_out(bench: Arc<dyn Bench>) {
    let case = Case::new(bench).await;
    case.bench.commit(&case.bench.open_branch(), FILE, "one").await;
    let claim = case.claim(&case.bench.open_branch()).await;
    let (sandboxes, sandbox) = (case.bench.sandboxes(), case.sandbox(&claim).await);
    case.rig.clock.advance(Duration::from_mins(5));
    let error = case.bench.source().checkout(&claim, &sandboxes, &sandbox).await.expect_err("it is over");
    assert_eq!(error.kind(), ErrorKind::Fenced);
    assert_eq!(content(&sandbox).await.map_err(|error| error.kind()), Err(ErrorKind::NotFound));
    let _gone = sandbox.destroy().await.expect("it is taken down");
}

#[doc(hidden)]
pub async fn a_file_is_read_from_the_exact_commit_though_the_branch_has_moved(bench: Arc<dyn Bench>) {
    let case = Case::new(bench).await;
    let branch = case.bench.open_branch();
    case.bench.commit(&branch, FILE, "one").await;
    let code = case.resolve(&branch).await.expect("it exists");
    let second = case.bench.commit(&branch, FILE, "two").await;
    let (sandboxes, scope) = (case.bench.sandboxes(), case.grant.scope().expect("it holds"));
    let content = forge::read(&*case.bench.source(), scope, &sandboxes, &code, &path(FILE), MOST).await;
    assert_eq!(content.expect("it is there"), "one");
    assert_eq!(case.read(&second, FILE).await.expect("it is there"), "two");
}

#[doc(hidden)]
pub async fn a_file_in_a_folder_is_read_by_its_whole_path(bench: Arc<dyn Bench>) {
    let case = Case::new(bench).await;
    let commit = case.bench.commit(&case.bench.open_branch(), "ci/jobs/test.yml", "one").await;
    assert_eq!(case.read(&commit, "ci/jobs/test.yml").await.expect("it is there"), "one");
    for other in ["test.yml", "jobs/test.yml", "ci/test.yml", "ci/jobs/test.ym", "ci/jobs/test.yml/x"] {
        assert_eq!(case.unread(&commit, other).await, ErrorKind::NotFound, "{other}");
    }
}

#[doc(hidden)]
pub async fn a_path_is_a_name_and_no_pattern(bench: Arc<dyn Bench>) {
    let case = Case::new(bench).await;
    let commit = case.bench.commit(&case.bench.open_branch(), FILE, "one").await;
    for other in ["*", "content.???", "[c]ontent.txt", "CONTENT.TXT", ":content.txt", ":(top)content.txt"] {
        assert_eq!(case.unread(&commit, other).await, ErrorKind::NotFound, "{other}");
    }
}

#[doc(hidden)]
pub async fn what_is_not_in_the_commit_is_not_read(bench: Arc<dyn Bench>) {
    let case = Case::new(bench).await;
    let branch = case.bench.open_branch();
    let first = case.bench.commit(&branch, FILE, "one").await;
    case.bench.commit(&branch, "added-later.txt", "two").await;
    assert_eq!(case.unread(&first, "added-later.txt").await, ErrorKind::NotFound);
    let nowhere = CommitId::parse("1".repeat(40)).expect("an id");
    assert_eq!(case.unread(&nowhere, FILE).await, ErrorKind::NotFound);
}

#[doc(hidden)]
pub async fn a_folder_is_not_read(bench: Arc<dyn Bench>) {
    let case = Case::new(bench).await;
    let commit = case.bench.commit(&case.bench.open_branch(), "ci/jobs/test.yml", "one").await;
    for folder in ["ci", "ci/jobs"] {
        assert_eq!(case.unread(&commit, folder).await, ErrorKind::Invalid, "{folder}");
    }
}

/// Whoever wrote the commit chose where it leads.
#[doc(hidden)]
pub async fn a_link_is_not_followed(bench: Arc<dyn Bench>) {
    let case = Case::new(bench).await;
    let branch = case.bench.open_branch();
    for target in ["/etc/passwd", "../../etc/passwd", FILE, "."] {
        let Some(commit) = case.bench.commit_link(&branch, "link", target).await else { return };
        assert_eq!(case.unread(&commit, "link").await, ErrorKind::Invalid, "{target}");
        assert_eq!(case.unread(&commit, "link/passwd").await, ErrorKind::NotFound, "{target}");
    }
}

#[doc(hidden)]
pub async fn a_submodule_is_not_entered(bench: Arc<dyn Bench>) {
    let case = Case::new(bench).await;
    let Some(commit) = case.bench.commit_submodule(&case.bench.open_branch(), "module").await else { return };
    assert_eq!(case.unread(&commit, "module").await, ErrorKind::Invalid);
    assert_eq!(case.unread(&commit, "module/content.txt").await, ErrorKind::NotFound);
}

#[doc(hidden)]
pub async fn a_file_beyond_the_limit_is_refused(bench: Arc<dyn Bench>) {
    let case = Case::new(bench).await;
    let commit = case.bench.commit(&case.bench.open_branch(), FILE, "four").await;
    let read = async |limit| case.read_within(&commit, FILE, ByteSize::bytes(limit)).await;
    assert_eq!(read(4).await.expect("it fits"), "four");
    for limit in [3, 0] {
        let error = read(limit).await.expect_err("it does not fit");
        assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{limit}");
    }
}

/// A bench with somebody who may write to its repository.
struct Case {
    bench: Arc<dyn Bench>,
    rig: Rig,
    grant: Grant<Write>,
}

impl Case {
    async fn new(bench: Arc<dyn Bench>) -> Self {
        let rig = Rig::new().expect("a service in memory");
        let grant = grant(&rig, &bench.repository()).await;
        Self { bench, rig, grant }
    }

    async fn grant(&self, repository: &RepositoryId) -> Grant<Write> {
        grant(&self.rig, repository).await
    }

    async fn resolve(&self, name: &str) -> Result<Provenance> {
        self.resolve_by(&self.grant, name).await
    }

    async fn resolve_by(&self, grant: &Grant<Write>, name: &str) -> Result<Provenance> {
        let name = RevisionName::parse(name).expect("a name");
        let (source, sandboxes) = (self.bench.source(), self.bench.sandboxes());
        forge::resolve(&*source, grant.scope().expect("it holds"), &sandboxes, &name).await
    }

    async fn refused(&self, name: &str) -> ErrorKind {
        self.resolve(name).await.expect_err("it does not exist").kind()
    }

    async fn read(&self, commit: &CommitId, file: &str) -> Result<Bytes> {
        self.read_within(commit, file, MOST).await
    }

    async fn read_within(&self, commit: &CommitId, file: &str, limit: ByteSize) -> Result<Bytes> {
        let (source, sandboxes) = (self.bench.source(), self.bench.sandboxes());
        let scope = self.grant.scope().expect("it holds");
        source.read(scope, &sandboxes, commit, &path(file), limit).await
    }

    async fn unread(&self, commit: &CommitId, file: &str) -> ErrorKind {
        self.read(commit, file).await.expect_err("there is no such file").kind()
    }

    async fn claim(&self, name: &str) -> Claim {
        let code = self.resolve(name).await.expect("it exists");
        let job = NewJob::requested(&self.grant, code, Rig::spec()).expect("a job");
        self.rig.dispatcher.enqueue(&job).await.expect("a place in the queue");
        self.rig.dispatcher.next(&[]).await.expect("a queue").expect("the job")
    }

    async fn sandbox(&self, claim: &Claim) -> Sandbox {
        self.bench.sandboxes().create(claim, &Spec::new(self.bench.image())).await.expect("a sandbox")
    }

    /// What the file holds after a checkout.
    async fn checked_out(&self, claim: &Claim) -> String {
        let sandbox = self.sandbox(claim).await;
        self.bench.source().checkout(claim, &self.bench.sandboxes(), &sandbox).await.expect("a checkout");
        let content = content(&sandbox).await.expect("the file was checked out");
        let _gone = sandbox.destroy().await.expect("it is taken down");
        content
    }
}

fn path(text: &str) -> SourcePath {
    SourcePath::parse(text).expect("a path")
}

async fn grant(rig: &Rig, repository: &RepositoryId) -> Grant<Write> {
    rig.grant(&Rig::user("writer").expect("a name"), repository).await.expect("a permission")
}

async fn content(sandbox: &Sandbox) -> Result<String> {
    let path = SandboxPath::work().join(FILE)?;
    let archive = stream::collect(sandbox.download(&path), ByteSize::mib(1)).await?;
    let file = tar::first_file(&archive).expect("an archive of one file");
    Ok(String::from_utf8_lossy(file).into_owned())
}
