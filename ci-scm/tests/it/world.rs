//! An access file, one repository, a sandbox backend and somebody who may write: what most tests start from.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use ci_core::access::{Grant, Write};
use ci_core::clock::ManualClock;
use ci_core::forge::{self, RevisionName, Source as _, SourcePath};
use ci_core::id::{CommitId, ImageName, RepositoryId};
use ci_core::job::JobSpec;
use ci_core::memory::Rig;
use ci_core::queue::{Claim, NewJob};
use ci_core::sandbox::{Sandbox, SandboxPath, Sandboxes, Spec};
use ci_core::trust::Provenance;
use ci_core::{ByteSize, Result, stream};
use ci_scm::git::{AccessFile, AccessFileOptions, Git, HelperOptions};
use tempfile::TempDir;

use crate::repository::Repository;
use crate::unconfined::Unconfined;

pub(crate) struct World {
    pub(crate) folder: TempDir,
    pub(crate) repository: Repository,
    pub(crate) backend: Unconfined,
    pub(crate) sandboxes: Sandboxes,
    pub(crate) git: Git,
    pub(crate) access: Arc<AccessFile>,
    pub(crate) rig: Rig,
    pub(crate) grant: Grant<Write>,
}

pub(crate) fn options() -> HelperOptions {
    HelperOptions::default().with_minimum([])
}

pub(crate) fn app() -> RepositoryId {
    "app"
        .parse()
        .map(|native| RepositoryId::new(native, "git".parse().unwrap(), "acme".parse().unwrap()))
        .unwrap()
}

impl World {
    pub(crate) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let repository = Repository::new(folder.path().join("app.git"));
        let url = format!("file://{}", repository.path().display());
        Self::at(folder, repository, &url).await
    }

    /// A world whose repository is reached by `url`.
    pub(crate) async fn at(folder: TempDir, repository: Repository, url: &str) -> Self {
        let path = write_access(&folder, url);
        let access =
            AccessFile::open(path, Arc::new(ManualClock::new()), AccessFileOptions::default()).unwrap();
        let (access, backend) = (Arc::new(access), Unconfined::default());
        let git = Git::new(access.clone()).with_options(options());
        let sandboxes = Sandboxes::new(Arc::new(backend.clone()));
        let rig = Rig::new().unwrap();
        let grant = rig.grant(&Rig::user("writer").unwrap(), &app()).await.unwrap();
        Self { folder, repository, backend, sandboxes, git, access, rig, grant }
    }

    pub(crate) async fn resolve(&self, name: &str) -> Result<Provenance> {
        let name = RevisionName::parse(name)?;
        let found = forge::resolve(&self.git, self.grant.scope()?, &self.sandboxes, &name).await;
        assert_eq!(self.backend.living(), 0, "a helper is left");
        found
    }

    /// The file at `path` of a commit, of at most a mebibyte.
    pub(crate) async fn read(&self, commit: &CommitId, path: &str) -> Result<String> {
        self.read_within(commit, path, ByteSize::mib(1)).await
    }

    pub(crate) async fn read_within(&self, commit: &CommitId, path: &str, limit: ByteSize) -> Result<String> {
        let (scope, path) = (self.grant.scope()?, SourcePath::parse(path)?);
        let content = self.git.read(scope, &self.sandboxes, commit, &path, limit).await;
        assert_eq!(self.backend.living(), 0, "a helper is left");
        Ok(String::from_utf8(content?.into()).unwrap())
    }

    pub(crate) async fn claim(&self, name: &str) -> Claim {
        self.claim_with(name, Rig::spec()).await
    }

    pub(crate) async fn claim_with(&self, name: &str, spec: JobSpec) -> Claim {
        let code = self.resolve(name).await.unwrap();
        self.rig.dispatcher.enqueue(&NewJob::requested(&self.grant, code, spec).unwrap()).await.unwrap();
        self.rig.dispatcher.next(&[]).await.unwrap().unwrap()
    }

    /// Checks out what `name` means, and returns the folder as a job would find it.
    pub(crate) async fn check_out(&self, name: &str) -> Result<TempDir> {
        self.check_out_by(&self.claim(name).await).await
    }

    pub(crate) async fn check_out_by(&self, claim: &Claim) -> Result<TempDir> {
        let job = self.job(claim).await;
        let done = self.git.checkout(claim, &self.sandboxes, &job).await;
        assert_eq!(self.backend.living(), 1, "a helper is left");
        let archive = stream::collect(job.download(&SandboxPath::work()), ByteSize::gib(1)).await;
        let _gone = job.destroy().await.unwrap();
        done?;
        let folder = tempfile::tempdir().unwrap();
        unpack(&archive?, &folder);
        Ok(folder)
    }

    pub(crate) async fn job(&self, claim: &Claim) -> Sandbox {
        let spec = Spec::new(ImageName::parse("host").unwrap());
        self.sandboxes.create(claim, &spec).await.unwrap()
    }

    pub(crate) async fn check_out_error(&self, commit: &CommitId) -> ci_core::Error {
        self.check_out(commit.as_str()).await.expect_err("it is refused")
    }
}

fn unpack(archive: &[u8], folder: &TempDir) {
    use std::io::Write as _;
    let mut tar = std::process::Command::new("tar");
    let tar = tar.args(["-x", "--strip-components=1", "-C"]).arg(folder.path());
    let mut child = tar.stdin(std::process::Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(archive).unwrap();
    assert!(child.wait().unwrap().success());
}

fn write_access(folder: &TempDir, url: &str) -> PathBuf {
    let path = folder.path().join("access.toml");
    let text = format!(
        "forge = \"git\"\ntenant = \"acme\"\n[[repository]]\nid = \"app\"\nurl = \"{url}\"\n\
         protected = [\"main\", \"release/*\"]\nprotected_tags = [\"official\"]\n"
    );
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}
