//! The backends under test, each over temporary files of its own.

use std::path::Path;
use std::sync::Arc;

use ci_core::artifact::ArtifactStore;
use ci_core::cache::CacheStore;
use ci_core::clock::ManualClock;
use ci_core::conformance::Setup;
use ci_core::log::LogStore;
use ci_core::memory::{Artifacts, Caches, Logs, Rig};
use ci_core::queue::Database;
use ci_core::records::Records;
use ci_storage::conformance::Bench;
use ci_storage::objects::Objects;
use ci_storage::sqlite::Sqlite;
use tempfile::TempDir;

pub(crate) fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

pub(crate) async fn sqlite(path: &Path, clock: Arc<ManualClock>) -> Sqlite {
    Sqlite::open(path.join("ci.db"), clock).await.expect("a database")
}

pub(crate) fn rig(clock: Arc<ManualClock>, database: Arc<dyn Database>) -> Rig {
    Rig::on(clock).and_then(|rig| rig.with_database(database)).expect("a rig")
}

/// A rig over a database in `path`.
pub(crate) async fn rig_in(path: &Path) -> (Rig, Sqlite) {
    let clock = Arc::new(ManualClock::new());
    let database = sqlite(path, clock.clone()).await;
    (rig(clock, Arc::new(database.clone())), database)
}

pub(crate) fn objects_in(path: &Path, rig: &Rig) -> Objects {
    let folder = path.join("objects");
    Objects::folder(folder, rig.records(), rig.ring.clone(), rig.clock.clone()).expect("a folder")
}

pub(crate) async fn sqlite_records() -> Setup<Arc<dyn Records>> {
    let folder = folder();
    let database = sqlite(folder.path(), Arc::new(ManualClock::new())).await;
    Setup::with_guard(Arc::new(database), folder)
}

pub(crate) async fn sqlite_rig() -> Setup<Rig> {
    let folder = folder();
    Setup::with_guard(rig_in(folder.path()).await.0, folder)
}

pub(crate) async fn sqlite_logs() -> Setup<Bench<dyn LogStore>> {
    let folder = folder();
    let (rig, database) = rig_in(folder.path()).await;
    let logs = database.logs(rig.ring.clone());
    Setup::with_guard(Bench::new(rig, Arc::new(logs)), folder)
}

pub(crate) async fn object_artifacts() -> Setup<Bench<dyn ArtifactStore>> {
    let folder = folder();
    let (rig, _) = rig_in(folder.path()).await;
    let artifacts = objects_in(folder.path(), &rig).artifacts();
    Setup::with_guard(Bench::new(rig, Arc::new(artifacts)), folder)
}

pub(crate) async fn object_caches() -> Setup<Bench<dyn CacheStore>> {
    let folder = folder();
    let (rig, _) = rig_in(folder.path()).await;
    let caches = objects_in(folder.path(), &rig).caches();
    Setup::with_guard(Bench::new(rig, Arc::new(caches)), folder)
}

pub(crate) fn memory_rig() -> Rig {
    Rig::new().expect("a rig")
}

pub(crate) fn memory_records() -> Setup<Arc<dyn Records>> {
    Setup::ready(memory_rig().records())
}

pub(crate) fn memory_logs() -> Setup<Bench<dyn LogStore>> {
    let rig = memory_rig();
    let logs = Logs::new(rig.database.clone(), rig.clock.clone());
    Setup::ready(Bench::new(rig, Arc::new(logs)))
}

pub(crate) fn memory_artifacts() -> Setup<Bench<dyn ArtifactStore>> {
    let rig = memory_rig();
    let artifacts = Artifacts::new(rig.records());
    Setup::ready(Bench::new(rig, Arc::new(artifacts)))
}

pub(crate) fn memory_caches() -> Setup<Bench<dyn CacheStore>> {
    let rig = memory_rig();
    let caches = Caches::new(rig.records());
    Setup::ready(Bench::new(rig, Arc::new(caches)))
}
