//! The kit for code.

use std::process::Command;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use ci_core::access::{Read, Scope};
use ci_core::conformance::{Setup, bites};
use ci_core::forge::{Revision, RevisionName, Source, SourcePath};
use ci_core::id::{CommitId, ImageName, RepositoryId};
use ci_core::memory::{Forge, Rig, Scripted};
use ci_core::queue::{Claim, NewJob};
use ci_core::sandbox::{Sandbox, Sandboxes};
use ci_core::trust::Origin;
use ci_core::{ByteSize, Error, ErrorKind, External, Result};
use ci_scm::conformance::source;
use ci_scm::git::Git;

use crate::repository::Repository;
use crate::world::{World, app};

mod git {
    use super::*;
    ci_scm::source_kit!(async || {
        let bench: Arc<dyn source::Bench> = Arc::new(GitBench(World::new().await));
        Setup::ready(bench)
    });
}

mod memory_forge {
    use super::*;
    ci_scm::source_kit!(async || {
        let bench: Arc<dyn source::Bench> = Arc::new(MemoryForge::default());
        Setup::ready(bench)
    });
}
#[tokio::test]
async fn the_kit_catches_a_source_that_returns_the_branch() {
    let broken = || Arc::new(BranchInsteadOfCommit(Arc::default()));
    assert!(bites(source::a_checkout_holds_the_claims_commit_though_the_branch_has_moved(broken())).await);
    assert!(bites(source::an_older_commit_is_checked_out_by_its_id(broken())).await);
    assert!(bites(source::a_file_is_read_from_the_exact_commit_though_the_branch_has_moved(broken())).await);
    assert!(bites(source::what_is_not_in_the_commit_is_not_read(broken())).await);
    assert!(!bites(source::a_branch_means_its_newest_commit(broken())).await, "the rest of it works");
}

#[tokio::test]
async fn the_kit_catches_a_source_that_reads_whatever_there_is() {
    let broken = async || Arc::new(WhateverThereIs(GitBench(World::new().await)));
    assert!(bites(source::a_folder_is_not_read(broken().await)).await);
    assert!(bites(source::a_link_is_not_followed(broken().await)).await);
    assert!(bites(source::a_submodule_is_not_entered(broken().await)).await);
    assert!(bites(source::a_file_beyond_the_limit_is_refused(broken().await)).await);
    let works = source::a_file_in_a_folder_is_read_by_its_whole_path(broken().await);
    assert!(!bites(works).await, "the rest of it works");
}

#[tokio::test]
async fn the_kit_catches_a_source_that_searches() {
    let broken = async || Arc::new(Searching(GitBench(World::new().await)));
    assert!(bites(source::a_file_in_a_folder_is_read_by_its_whole_path(broken().await)).await);
    assert!(bites(source::a_path_is_a_name_and_no_pattern(broken().await)).await);
    let works = source::what_is_not_in_the_commit_is_not_read(broken().await);
    assert!(!bites(works).await, "the rest of it works");
}

struct GitBench(World);

impl std::fmt::Debug for GitBench {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.git.fmt(f)
    }
}

#[async_trait]
impl source::Bench for GitBench {
    fn source(&self) -> Arc<dyn Source> {
        Arc::new(self.0.git.clone())
    }

    fn sandboxes(&self) -> Sandboxes {
        self.0.sandboxes.clone()
    }

    fn image(&self) -> ImageName {
        ImageName::parse("host").unwrap()
    }

    fn repository(&self) -> RepositoryId {
        app()
    }

    fn protected_branch(&self) -> String {
        "main".to_owned()
    }

    fn open_branch(&self) -> String {
        "feature".to_owned()
    }

    async fn commit(&self, branch: &str, path: &str, content: &str) -> CommitId {
        let repository = &self.0.repository;
        repository.push(branch, &repository.tree_at(path, "100644", &repository.blob(content.as_bytes())))
    }

    async fn commit_link(&self, branch: &str, name: &str, target: &str) -> Option<CommitId> {
        let repository = &self.0.repository;
        let link = repository.blob(target.as_bytes());
        Some(repository.push(branch, &repository.tree_at(name, "120000", &link)))
    }

    async fn commit_submodule(&self, branch: &str, name: &str) -> Option<CommitId> {
        let repository = &self.0.repository;
        Some(repository.push(branch, &repository.tree_at(name, "160000", &"5".repeat(40))))
    }

    async fn stray_commit(&self) -> Option<CommitId> {
        let tree = self.0.repository.tree(&[]);
        Some(self.0.repository.stray(&tree, None))
    }
}

#[derive(Debug)]
struct MemoryForge {
    forge: Arc<Forge>,
    sandboxes: Sandboxes,
    count: Mutex<u32>,
}

impl Default for MemoryForge {
    fn default() -> Self {
        let sandboxes = Sandboxes::new(Arc::new(Scripted::new()));
        Self { forge: Arc::new(Forge::new()), sandboxes, count: Mutex::default() }
    }
}

#[async_trait]
impl source::Bench for MemoryForge {
    fn source(&self) -> Arc<dyn Source> {
        self.forge.clone()
    }

    fn sandboxes(&self) -> Sandboxes {
        self.sandboxes.clone()
    }

    fn image(&self) -> ImageName {
        ImageName::parse("host").unwrap()
    }

    fn repository(&self) -> RepositoryId {
        app()
    }

    fn protected_branch(&self) -> String {
        "main".to_owned()
    }

    fn open_branch(&self) -> String {
        "feature".to_owned()
    }

    async fn commit(&self, branch: &str, path: &str, content: &str) -> CommitId {
        let count = {
            let mut count = self.count.lock().unwrap();
            *count += 1;
            *count
        };
        let commit = CommitId::parse(format!("{count:040x}")).unwrap();
        let origin = if branch == "main" { Origin::Protected } else { Origin::Repository };
        let revision = Revision::new(commit.clone(), origin).with_reference(External::new(branch));
        self.forge.add_commit(&app(), revision, [(path, content.to_owned())]).unwrap();
        commit
    }

    async fn commit_link(&self, _branch: &str, _name: &str, _target: &str) -> Option<CommitId> {
        None
    }

    async fn commit_submodule(&self, _branch: &str, _name: &str) -> Option<CommitId> {
        None
    }

    async fn stray_commit(&self) -> Option<CommitId> {
        let commit = CommitId::parse("f".repeat(40)).unwrap();
        let revision = Revision::new(commit.clone(), Origin::Fork);
        self.forge.add_commit::<&str, &str>(&app(), revision, []).unwrap();
        Some(commit)
    }
}

/// Forwards all of a bench but its source.
macro_rules! bench_with_source {
    ($name:ty, $source:expr) => {
        #[async_trait]
        impl source::Bench for $name {
            fn source(&self) -> Arc<dyn Source> {
                let source: fn(&Self) -> Arc<dyn Source> = $source;
                source(self)
            }

            fn sandboxes(&self) -> Sandboxes {
                self.0.sandboxes()
            }

            fn image(&self) -> ImageName {
                self.0.image()
            }

            fn repository(&self) -> RepositoryId {
                self.0.repository()
            }

            fn protected_branch(&self) -> String {
                self.0.protected_branch()
            }

            fn open_branch(&self) -> String {
                self.0.open_branch()
            }

            async fn commit(&self, branch: &str, path: &str, content: &str) -> CommitId {
                self.0.commit(branch, path, content).await
            }

            async fn commit_link(&self, branch: &str, name: &str, target: &str) -> Option<CommitId> {
                self.0.commit_link(branch, name, target).await
            }

            async fn commit_submodule(&self, branch: &str, name: &str) -> Option<CommitId> {
                self.0.commit_submodule(branch, name).await
            }

            async fn stray_commit(&self) -> Option<CommitId> {
                self.0.stray_commit().await
            }
        }
    };
}

/// Takes what the branch means now for the commit.
#[derive(Debug)]
struct BranchInsteadOfCommit(Arc<MemoryForge>);

bench_with_source!(BranchInsteadOfCommit, |bench| Arc::new(Newest(bench.0.clone())));

#[derive(Debug)]
struct Newest(Arc<MemoryForge>);

#[async_trait]
impl Source for Newest {
    async fn resolve(&self, scope: Scope<'_>, helpers: &Sandboxes, name: &RevisionName) -> Result<Revision> {
        self.0.forge.resolve(scope, helpers, name).await
    }

    async fn checkout(&self, claim: &Claim, helpers: &Sandboxes, into: &Sandbox) -> Result<()> {
        // A claim for the newest commit, as this source would have it.
        let rig = Rig::new()?;
        let grant = rig.grant(&Rig::user("writer")?, claim.scope()?.repository()).await?;
        let head = RevisionName::parse("HEAD")?;
        let newest = ci_core::forge::resolve(&*self.0.forge, grant.scope()?, helpers, &head).await?;
        rig.dispatcher.enqueue(&NewJob::requested(&grant, newest, Rig::spec())?).await?;
        let claim = rig.dispatcher.next(&[]).await?.unwrap();
        self.0.forge.checkout(&claim, helpers, into).await
    }
    async fn read(
        &self,
        scope: Scope<'_>,
        helpers: &Sandboxes,
        _commit: &CommitId,
        path: &SourcePath,
        limit: ByteSize,
    ) -> Result<Bytes> {
        let grant = Rig::new()?.grant::<Read>(&Rig::user("reader")?, scope.repository()).await?;
        let head = RevisionName::parse("HEAD")?;
        let newest = self.0.forge.resolve(grant.scope()?, helpers, &head).await?;
        self.0.forge.read(scope, helpers, &newest.commit, path, limit).await
    }
}

/// Reads with other commands than it should, and resolves and checks out as it should.
#[derive(Debug)]
struct ReadsBy {
    git: Git,
    repository: Repository,
    /// What it asks git for the file at a path of a commit.
    arguments: fn(&CommitId, &SourcePath) -> Vec<String>,
}

#[async_trait]
impl Source for ReadsBy {
    async fn resolve(&self, scope: Scope<'_>, helpers: &Sandboxes, name: &RevisionName) -> Result<Revision> {
        self.git.resolve(scope, helpers, name).await
    }

    async fn checkout(&self, claim: &Claim, helpers: &Sandboxes, into: &Sandbox) -> Result<()> {
        self.git.checkout(claim, helpers, into).await
    }

    async fn read(
        &self,
        _scope: Scope<'_>,
        _helpers: &Sandboxes,
        commit: &CommitId,
        path: &SourcePath,
        _limit: ByteSize,
    ) -> Result<Bytes> {
        let mut git = Command::new("git");
        let output = git.arg("-C").arg(self.repository.path()).args((self.arguments)(commit, path)).output();
        let output = output.expect("git runs");
        let is_there = output.status.success() && !output.stdout.is_empty();
        is_there.then(|| output.stdout.into()).ok_or_else(|| Error::new(ErrorKind::NotFound, "read a file"))
    }
}

impl ReadsBy {
    fn source(bench: &GitBench, arguments: fn(&CommitId, &SourcePath) -> Vec<String>) -> Arc<dyn Source> {
        let World { git, repository, .. } = &bench.0;
        Arc::new(Self { git: git.clone(), repository: repository.clone(), arguments })
    }
}

/// Hands out what `git show` prints: a file of any size, the target of a link, the list of a folder.
#[derive(Debug)]
struct WhateverThereIs(GitBench);

bench_with_source!(WhateverThereIs, |bench| {
    ReadsBy::source(&bench.0, |commit, path| vec!["show".to_owned(), format!("{commit}:{}", path.as_str())])
});

/// Hands out every file whose path ends in something that looks like the asked one.
#[derive(Debug)]
struct Searching(GitBench);

bench_with_source!(Searching, |bench| {
    ReadsBy::source(&bench.0, |commit, path| {
        let pattern = format!(":(glob)**/{}", path.as_str());
        ["grep", "-h", "-e", "", commit.as_str(), "--", &pattern].map(str::to_owned).to_vec()
    })
});
