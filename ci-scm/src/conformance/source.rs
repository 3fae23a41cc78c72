//! The cases for a [`Source`].

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ci_core::access::{Grant, Write};
use ci_core::forge::{self, RevisionName, Source};
use ci_core::id::{CommitId, ImageName, NativeId, RepositoryId};
use ci_core::memory::Rig;
use ci_core::queue::{Claim, NewJob};
use ci_core::sandbox::{Sandbox, SandboxPath, Sandboxes, Spec};
use ci_core::trust::{Provenance, Trust};
use ci_core::{ByteSize, ErrorKind, Result, stream};

use super::tar;

/// A source with one repository, and the hands that push to it.
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

    /// Adds a commit to a branch, which is made where it does not exist, with one file of this content at its root.
    async fn commit(&self, branch: &str, file: &str, content: &str) -> CommitId;

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
    }
}

const FILE: &str = "content.txt";

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

async fn grant(rig: &Rig, repository: &RepositoryId) -> Grant<Write> {
    rig.grant(&Rig::user("writer").expect("a name"), repository).await.expect("a permission")
}

async fn content(sandbox: &Sandbox) -> Result<String> {
    let path = SandboxPath::work().join(FILE)?;
    let archive = stream::collect(sandbox.download(&path), ByteSize::mib(1)).await?;
    let file = tar::first_file(&archive).expect("an archive of one file");
    Ok(String::from_utf8_lossy(file).into_owned())
}
