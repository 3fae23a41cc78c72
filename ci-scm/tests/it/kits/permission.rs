//! The kit for permissions.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use ci_core::Result;
use ci_core::access::{Level, PermissionSource, Session, Verdict};
use ci_core::clock::{Clock, ManualClock};
use ci_core::conformance::{Setup, bites};
use ci_core::id::{RepositoryId, UserId};
use ci_core::memory::Permissions;
use ci_scm::conformance::permission;
use ci_scm::git::{AccessFile, AccessFileOptions};

use crate::world::app;

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
