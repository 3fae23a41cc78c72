//! Files of a commit, read before there is a job.

use ci_core::access::Read;
use ci_core::forge::{self, Revision, RevisionName, Source as _, SourcePath};
use ci_core::id::{CommitId, RepositoryId};
use ci_core::memory::Rig;
use ci_core::trust::{Origin, Provenance};
use ci_core::{ByteSize, ErrorKind, External, Result};

use crate::{ours, refused, theirs};

const MOST: ByteSize = ByteSize::kib(1);

fn commit() -> Result<CommitId> {
    CommitId::parse("c".repeat(40))
}

/// A repository whose `main` holds the pipeline file with this content.
async fn code(rig: &Rig, repository: &RepositoryId, content: &'static str) -> Result<Provenance> {
    let main = Revision::new(commit()?, Origin::Repository).with_reference(External::new("main"));
    rig.forge.add_commit(repository, main, [("ci/pipeline.yml", content)])?;
    let grant = rig.grant::<Read>(&Rig::user("ada")?, repository).await?;
    let name = RevisionName::parse("main")?;
    forge::resolve(&*rig.forge, grant.scope()?, &rig.sandboxes, &name).await
}

/// Both repositories have a commit of this id, as a fork and its origin do.
#[tokio::test]
async fn code_is_read_with_the_permission_for_its_own_repository_alone() -> Result<()> {
    let rig = Rig::new()?;
    let (our_code, their_code) = (code(&rig, &ours(), "ours").await?, code(&rig, &theirs(), "theirs").await?);
    let grant = rig.grant::<Read>(&Rig::user("ada")?, &ours()).await?;
    let path = SourcePath::parse("ci/pipeline.yml")?;
    let read = async |code| forge::read(&*rig.forge, grant.scope()?, &rig.sandboxes, code, &path, MOST).await;
    assert_eq!(read(&our_code).await?, "ours");
    let error = read(&their_code).await.expect_err("it is of another repository");
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert_eq!(
        error.to_string(),
        "read a file of a commit: the commit is of another repository than the permission; ask for one for its \
         repository (repository: acme/memory/1)"
    );
    Ok(())
}

#[tokio::test]
async fn what_is_no_file_or_too_large_is_not_read() -> Result<()> {
    let rig = Rig::new()?;
    code(&rig, &ours(), "four").await?;
    let grant = rig.grant::<Read>(&Rig::user("ada")?, &ours()).await?;
    let read = async |commit: CommitId, path, limit| {
        let path = SourcePath::parse(path)?;
        rig.forge.read(grant.scope()?, &rig.sandboxes, &commit, &path, ByteSize::bytes(limit)).await
    };
    assert_eq!(read(commit()?, "ci/pipeline.yml", 4).await?, "four");
    for (commit, path, limit, kind) in [
        (commit()?, "ci/pipeline.yml", 3, ErrorKind::LimitExceeded),
        (commit()?, "ci", 4, ErrorKind::Invalid),
        (commit()?, "c", 4, ErrorKind::NotFound),
        (commit()?, "ci/pipeline.yml/x", 4, ErrorKind::NotFound),
        (commit()?, "ci/*", 4, ErrorKind::NotFound),
        (CommitId::parse("d".repeat(40))?, "ci/pipeline.yml", 4, ErrorKind::NotFound),
    ] {
        assert_eq!(refused(read(commit, path, limit).await), kind, "{path}");
    }
    Ok(())
}
