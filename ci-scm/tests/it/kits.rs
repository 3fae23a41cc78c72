//! The conformance kits: against plain git, against memory, and against sources that are broken on purpose.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use ci_core::access::{Level, PermissionSource, Scope, Session, Verdict};
use ci_core::clock::{Clock, ManualClock};
use ci_core::conformance::Setup;
use ci_core::forge::{Revision, RevisionName, Source};
use ci_core::id::{CommitId, ImageName, RepositoryId, UserId};
use ci_core::memory::{Forge, Permissions, Rig, Scripted};
use ci_core::queue::{Claim, NewJob};
use ci_core::sandbox::{Sandbox, Sandboxes};
use ci_core::trust::Origin;
use ci_core::{External, Result};
use ci_scm::conformance::{permission, source};
use ci_scm::git::{AccessFile, AccessFileOptions};

use crate::world::{World, app};

mod access_file {
    use super::*;
    ci_scm::permission_source_kit!(async || {
        let folder = tempfile::tempdir().unwrap();
        let bench: Arc<dyn permission::Bench> = Arc::new(FileBench::new(folder.path().join("access.toml")));
        Setup::with_guard(bench, folder)
    });
}

mod memory_permissions {
    use super::*;
    ci_scm::permission_source_kit!(async || {
        let bench: Arc<dyn permission::Bench> = Arc::new(MemoryPermissions::default());
        Setup::ready(bench)
    });
}

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

/// Whether a case fails, in a task of its own.
async fn bites(case: impl Future<Output = ()> + Send + 'static) -> bool {
    tokio::spawn(case).await.is_err()
}

#[tokio::test]
async fn the_kit_catches_an_outage_that_grants() {
    let broken = || Arc::new(OutageThatGrants(MemoryPermissions::default()));
    assert!(bites(permission::an_outage_grants_nobody_anything(broken())).await);
    assert!(!bites(permission::every_level_is_what_the_forge_says(broken())).await, "the rest of it works");
}

#[tokio::test]
async fn the_kit_catches_a_permission_that_stays() {
    let broken = Arc::new(PermissionThatStays(MemoryPermissions::default(), Remembered::default()));
    assert!(bites(permission::a_permission_taken_away_is_gone_at_the_next_question(broken)).await);
}

#[tokio::test]
async fn the_kit_catches_a_source_that_returns_the_branch() {
    let broken = || Arc::new(BranchInsteadOfCommit(Arc::default()));
    assert!(bites(source::a_checkout_holds_the_claims_commit_though_the_branch_has_moved(broken())).await);
    assert!(bites(source::an_older_commit_is_checked_out_by_its_id(broken())).await);
    assert!(!bites(source::a_branch_means_its_newest_commit(broken())).await, "the rest of it works");
}

#[derive(Debug)]
struct FileBench {
    path: PathBuf,
    clock: Arc<ManualClock>,
    file: Arc<AccessFile>,
    levels: Mutex<BTreeMap<String, Level>>,
    tokens: [String; 2],
}

impl FileBench {
    fn new(path: PathBuf) -> Self {
        let tokens = [AccessFile::new_token().1, AccessFile::new_token().1];
        let clock = Arc::new(ManualClock::new());
        write(&path, &tokens, &BTreeMap::new());
        let file = AccessFile::open(&path, clock.clone(), AccessFileOptions::default()).unwrap();
        Self { path, clock, file: Arc::new(file), levels: Mutex::default(), tokens }
    }
}

fn write(path: &PathBuf, [ada, bob]: &[String; 2], levels: &BTreeMap<String, Level>) {
    let mut text = format!(
        "forge = \"git\"\ntenant = \"acme\"\n[people.ada]\ntoken = \"{ada}\"\n[people.bob]\ntoken = \"{bob}\"\n\
         [[repository]]\nid = \"app\"\nurl = \"file:///srv/app\"\n"
    );
    for (list, wanted) in [("admin", Level::Admin), ("write", Level::Write), ("read", Level::Read)] {
        let names: Vec<_> =
            levels.iter().filter(|(_, level)| **level == wanted).map(|(name, _)| name).collect();
        writeln!(text, "{list} = {names:?}").unwrap();
    }
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn person(name: &str) -> UserId {
    UserId::new(name.parse().unwrap(), "git".parse().unwrap())
}

#[async_trait]
impl permission::Bench for FileBench {
    fn source(&self) -> Arc<dyn PermissionSource> {
        self.file.clone()
    }

    fn clock(&self) -> Arc<dyn Clock> {
        self.clock.clone()
    }

    fn person(&self) -> UserId {
        person("ada")
    }

    fn other_person(&self) -> UserId {
        person("bob")
    }

    fn repository(&self) -> RepositoryId {
        app()
    }

    async fn allow(&self, person: &UserId, _repository: &RepositoryId, level: Level) {
        let mut levels = self.levels.lock().unwrap();
        levels.insert(person.native().to_string(), level);
        write(&self.path, &self.tokens, &levels);
    }

    async fn go_down(&self) {
        fs::rename(&self.path, self.path.with_extension("away")).unwrap();
    }

    async fn come_back(&self) {
        fs::rename(self.path.with_extension("away"), &self.path).unwrap();
    }
}

#[derive(Debug)]
struct MemoryPermissions {
    clock: Arc<ManualClock>,
    permissions: Arc<Permissions>,
}

impl Default for MemoryPermissions {
    fn default() -> Self {
        let clock = Arc::new(ManualClock::new());
        Self { permissions: Arc::new(Permissions::new(clock.clone())), clock }
    }
}

#[async_trait]
impl permission::Bench for MemoryPermissions {
    fn source(&self) -> Arc<dyn PermissionSource> {
        self.permissions.clone()
    }

    fn clock(&self) -> Arc<dyn Clock> {
        self.clock.clone()
    }

    fn person(&self) -> UserId {
        person("ada")
    }

    fn other_person(&self) -> UserId {
        person("bob")
    }

    fn repository(&self) -> RepositoryId {
        app()
    }

    async fn allow(&self, person: &UserId, repository: &RepositoryId, level: Level) {
        self.permissions.allow(person, repository, level);
    }

    async fn go_down(&self) {
        self.permissions.go_down();
    }

    async fn come_back(&self) {
        self.permissions.come_back();
    }
}

/// Forwards all of a bench but its source.
macro_rules! bench_with_source {
    ($name:ty, $source:expr) => {
        #[async_trait]
        impl permission::Bench for $name {
            fn source(&self) -> Arc<dyn PermissionSource> {
                let source: fn(&Self) -> Arc<dyn PermissionSource> = $source;
                source(self)
            }

            fn clock(&self) -> Arc<dyn Clock> {
                self.0.clock()
            }

            fn person(&self) -> UserId {
                self.0.person()
            }

            fn other_person(&self) -> UserId {
                self.0.other_person()
            }

            fn repository(&self) -> RepositoryId {
                self.0.repository()
            }

            async fn allow(&self, person: &UserId, repository: &RepositoryId, level: Level) {
                self.0.allow(person, repository, level).await;
            }

            async fn go_down(&self) {
                self.0.go_down().await;
            }

            async fn come_back(&self) {
                self.0.come_back().await;
            }
        }
    };
}

#[derive(Debug)]
struct OutageThatGrants(MemoryPermissions);

bench_with_source!(OutageThatGrants, |bench| Arc::new(Granting(bench.0.permissions.clone())));

#[derive(Debug)]
struct Granting(Arc<Permissions>);

#[async_trait]
impl PermissionSource for Granting {
    async fn permission(&self, who: &Session, repository: &RepositoryId) -> Result<Verdict> {
        let verdict = self.0.permission(who, repository).await;
        Ok(verdict.unwrap_or_else(|_| Verdict::new(Level::Admin, ci_core::clock::Timestamp::default())))
    }
}

type Remembered = Arc<Mutex<BTreeMap<(UserId, RepositoryId), Verdict>>>;

#[derive(Debug)]
struct PermissionThatStays(MemoryPermissions, Remembered);

bench_with_source!(PermissionThatStays, |bench| {
    Arc::new(Remembering(bench.0.permissions.clone(), bench.1.clone()))
});

#[derive(Debug)]
struct Remembering(Arc<Permissions>, Remembered);

#[async_trait]
impl PermissionSource for Remembering {
    async fn permission(&self, who: &Session, repository: &RepositoryId) -> Result<Verdict> {
        let verdict = self.0.permission(who, repository).await?;
        let key = (who.user().clone(), repository.clone());
        Ok(*self.1.lock().unwrap().entry(key).or_insert(verdict))
    }
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
