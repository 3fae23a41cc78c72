//! The kit for code.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use ci_core::access::Scope;
use ci_core::conformance::Setup;
use ci_core::forge::{Revision, RevisionName, Source};
use ci_core::id::{CommitId, ImageName, RepositoryId};
use ci_core::memory::{Forge, Rig, Scripted};
use ci_core::queue::{Claim, NewJob};
use ci_core::sandbox::{Sandbox, Sandboxes};
use ci_core::trust::Origin;
use ci_core::{External, Result};
use ci_scm::conformance::source;

use super::bites;
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
    assert!(!bites(source::a_branch_means_its_newest_commit(broken())).await, "the rest of it works");
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

    async fn commit(&self, branch: &str, file: &str, content: &str) -> CommitId {
        self.0.repository.commit(branch, &[(file, content)])
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

    async fn commit(&self, branch: &str, file: &str, content: &str) -> CommitId {
        let count = {
            let mut count = self.count.lock().unwrap();
            *count += 1;
            *count
        };
        let commit = CommitId::parse(format!("{count:040x}")).unwrap();
        let origin = if branch == "main" { Origin::Protected } else { Origin::Repository };
        let revision = Revision::new(commit.clone(), origin).with_reference(External::new(branch));
        self.forge.add_commit(&app(), revision, [(file, content.to_owned())]).unwrap();
        commit
    }

    async fn stray_commit(&self) -> Option<CommitId> {
        let commit = CommitId::parse("f".repeat(40)).unwrap();
        let revision = Revision::new(commit.clone(), Origin::Fork);
        self.forge.add_commit::<&str, &str>(&app(), revision, []).unwrap();
        Some(commit)
    }
}

/// Checks out what the branch means when the job starts.
#[derive(Debug)]
struct BranchInsteadOfCommit(Arc<MemoryForge>);

#[async_trait]
impl source::Bench for BranchInsteadOfCommit {
    fn source(&self) -> Arc<dyn Source> {
        Arc::new(Newest(self.0.clone()))
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

    async fn commit(&self, branch: &str, file: &str, content: &str) -> CommitId {
        self.0.commit(branch, file, content).await
    }

    async fn stray_commit(&self) -> Option<CommitId> {
        self.0.stray_commit().await
    }
}

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
}
