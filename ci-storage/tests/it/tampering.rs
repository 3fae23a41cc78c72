//! Somebody with write access to the files changes what is stored: it is noticed, and nothing is released.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ci_core::access::{Grant, Read};
use ci_core::artifact::ArtifactStore as _;
use ci_core::cache::CacheStore as _;
use ci_core::id::{ArtifactName, CacheKey, JobId, RepositoryId};
use ci_core::log::{Cursor, LogStore as _};
use ci_core::memory::{Masking, Rig};
use ci_core::queue::Claim;
use ci_core::secret::SecretLease;
use ci_core::trust::Origin;
use ci_core::{ByteSize, ErrorKind, Result, stream};
use ci_storage::objects::Objects;
use ci_storage::sqlite::{Sqlite, SqliteLogs};
use tempfile::TempDir;

use crate::backends::{folder, objects_in, rig_in};

/// What it is, and what it does to an object.
type Attack = (&'static str, fn(&mut Vec<u8>));

/// A service over files, with another program's connection to them.
struct Service {
    folder: TempDir,
    rig: Rig,
    logs: SqliteLogs,
    objects: Objects,
    _database: Sqlite,
}

impl Service {
    async fn new() -> Self {
        let folder = folder();
        let (rig, database) = rig_in(folder.path()).await;
        let logs = database.logs(rig.ring.clone());
        let objects = objects_in(folder.path(), &rig);
        Self { folder, rig, logs, objects, _database: database }
    }

    /// What somebody does who can write to the database.
    fn attack(&self, sql: &str) {
        let connection =
            rusqlite::Connection::open(self.folder.path().join("ci.db")).expect("the file opens");
        connection.busy_timeout(std::time::Duration::from_secs(10)).expect("a timeout");
        connection.pragma_update(None, "foreign_keys", false).expect("a setting");
        connection.execute_batch(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        // A connection that is dropped drops the locks of this whole process on the file (fcntl(2)), which an
        // attacker in another process would not.
        std::mem::forget(connection);
    }

    async fn claim(&self, repository: &RepositoryId) -> Claim {
        self.rig.claim(repository, Origin::Repository, Rig::spec()).await.expect("a claim")
    }

    async fn log(&self, repository: &RepositoryId, lines: &[&str]) -> Claim {
        let claim = self.claim(repository).await;
        let lease = SecretLease::empty(&claim, Arc::new(Masking::new()));
        for (seq, line) in (0..).zip(lines) {
            self.logs.append(&claim, seq, lease.mask().push(line.as_bytes())).await.expect("appended");
        }
        claim
    }

    async fn reader(&self, repository: &RepositoryId) -> Grant<Read> {
        self.rig.grant(&Rig::user("ada").expect("a user"), repository).await.expect("a grant")
    }

    async fn read(&self, repository: &RepositoryId, job: &JobId) -> Result<String> {
        let page = self.logs.read(&self.reader(repository).await, job, Cursor(0), 1_000_000).await?;
        Ok(String::from_utf8_lossy(&page.bytes).into_owned())
    }

    async fn artifact(&self, claim: &Claim, repository: &RepositoryId, name: &str) -> Result<Vec<u8>> {
        let name = ArtifactName::parse(name)?;
        let grant = self.reader(repository).await;
        let content = self.objects.artifacts().get(&grant, claim.job(), &name).await?;
        stream::collect(content, ByteSize::mib(10)).await
    }

    async fn keep(&self, claim: &Claim, name: &str, content: &[u8]) {
        let (name, content) = (ArtifactName::parse(name).expect("a name"), stream::once(content.to_vec()));
        self.objects.artifacts().put(claim, &name, content).await.expect("kept");
    }

    fn objects(&self) -> Vec<PathBuf> {
        let mut found = files(&self.folder.path().join("objects"));
        found.sort_by_key(|path| fs::metadata(path).and_then(|file| file.modified()).expect("a time"));
        found
    }
}

pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

fn acme() -> RepositoryId {
    Rig::repository("1", "acme").expect("a repository")
}

fn other() -> RepositoryId {
    Rig::repository("2", "acme").expect("a repository")
}

fn is_tampered<T: std::fmt::Debug>(result: &Result<T>, how: &str) {
    let kind = result.as_ref().err().map(ci_core::Error::kind);
    assert_eq!(kind, Some(ErrorKind::Tampered), "{how}: {result:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_log_is_noticed() {
    let attacks = [
        (
            "a flipped byte",
            "UPDATE chunks SET sealed = CAST(substr(sealed, 1, length(sealed) - 1) || x'00' AS BLOB) WHERE seq = 1",
        ),
        ("an emptied chunk", "UPDATE chunks SET sealed = x'' WHERE seq = 1"),
        ("a removed first chunk", "DELETE FROM chunks WHERE seq = 0"),
        ("a removed inner chunk", "DELETE FROM chunks WHERE seq = 1"),
        ("a removed last chunk", "DELETE FROM chunks WHERE seq = 2"),
        (
            "two swapped chunks",
            "UPDATE chunks SET seq = -1 WHERE seq = 0; UPDATE chunks SET seq = 0 WHERE seq = 1; UPDATE chunks SET seq = 1 WHERE seq = -1",
        ),
        ("a repeated chunk", "INSERT INTO chunks SELECT job, 3, token, sealed FROM chunks WHERE seq = 2"),
        ("a removed end", "DELETE FROM logs"),
        ("a log that is shown as open", "UPDATE logs SET closed = 0"),
        ("a log that is shown as shorter", "UPDATE logs SET next = 2; DELETE FROM chunks WHERE seq = 2"),
        ("a head that is no head", "UPDATE logs SET head = x'00'"),
        ("a chunk as the head", "UPDATE logs SET head = (SELECT sealed FROM chunks WHERE seq = 0)"),
    ];
    for (how, sql) in attacks {
        let service = Service::new().await;
        let claim = service.log(&acme(), &["one", "two", "three"]).await;
        service.logs.close(&claim).await.expect("closed");
        assert_eq!(service.read(&acme(), claim.job()).await.expect("read"), "onetwothree");
        service.attack(sql);
        is_tampered(&service.read(&acme(), claim.job()).await, how);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_cut_while_it_is_written_is_noticed() {
    let service = Service::new().await;
    let claim = service.log(&acme(), &["one", "two", "three"]).await;
    service.attack("DELETE FROM chunks WHERE seq = 2; UPDATE logs SET next = 2");
    is_tampered(&service.read(&acme(), claim.job()).await, "read");
    is_tampered(&service.logs.close(&claim).await, "closed as if it were whole");
    let lease = SecretLease::empty(&claim, Arc::new(Masking::new()));
    is_tampered(&service.logs.append(&claim, 3, lease.mask().push(b"four")).await, "appended to");
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_of_another_job_or_repository_do_not_open() {
    for from in [acme(), other()] {
        let service = Service::new().await;
        let victim = service.log(&acme(), &["victim"]).await;
        let source = service.log(&from, &["source"]).await;
        service.attack(&format!(
            "UPDATE chunks SET sealed = (SELECT sealed FROM chunks WHERE job = '{source}') WHERE job = '{victim}'",
            source = source.job(),
            victim = victim.job(),
        ));
        let read = service.read(&acme(), victim.job()).await;
        let kind = read.expect_err("it does not open").kind();
        // The key of another repository does not exist for this one.
        assert!(matches!(kind, ErrorKind::Tampered | ErrorKind::NotFound), "{kind:?}");
        assert_eq!(service.read(&from, source.job()).await.expect("read"), "source");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_moved_to_another_repository_shows_nothing_there() {
    let service = Service::new().await;
    let claim = service.log(&acme(), &["ours"]).await;
    service.attack("UPDATE jobs SET native = '2'");
    let read = service.read(&other(), claim.job()).await;
    assert!(matches!(read.expect_err("shown").kind(), ErrorKind::Tampered | ErrorKind::NotFound));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_object_is_noticed() {
    let content: Vec<u8> = (0..200_000_u32).map(|number| number.to_le_bytes()[0]).collect();
    let attacks: [Attack; 8] = [
        ("a flipped bit in the header", |object| object[30] ^= 1),
        ("a flipped bit in the first chunk", |object| object[100] ^= 1),
        ("a flipped bit in the last chunk", |object| *object.last_mut().expect("bytes") ^= 1),
        ("a cut chunk", |object| object.truncate(object.len() - 1)),
        ("a removed last chunk", |object| object.truncate(82 + 3 * (64 * 1_024 + 16))),
        ("swapped chunks", |object| {
            let (first, second) = object[82..].split_at_mut(64 * 1_024 + 16);
            first.swap_with_slice(&mut second[..64 * 1_024 + 16]);
        }),
        ("something behind the end", |object| object.push(0)),
        ("an emptied object", Vec::clear),
    ];
    for (how, attack) in attacks {
        let service = Service::new().await;
        let claim = service.claim(&acme()).await;
        service.keep(&claim, "a", &content).await;
        assert!(service.artifact(&claim, &acme(), "a").await.expect("read") == content);
        let path = &service.objects()[0];
        let mut object = fs::read(path).expect("an object");
        attack(&mut object);
        fs::write(path, object).expect("written");
        is_tampered(&service.artifact(&claim, &acme(), "a").await, how);
        fs::remove_file(path).expect("removed");
        is_tampered(&service.artifact(&claim, &acme(), "a").await, "a removed object");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_and_records_cannot_be_swapped() {
    let service = Service::new().await;
    let claim = service.claim(&acme()).await;
    service.keep(&claim, "a", b"content a").await;
    service.keep(&claim, "b", b"content b").await;
    let objects = service.objects();
    let [a, b] = [&objects[0], &objects[1]].map(|path| fs::read(path).expect("an object"));
    fs::write(&objects[0], b).expect("written");
    fs::write(&objects[1], a).expect("written");
    is_tampered(&service.artifact(&claim, &acme(), "a").await, "swapped objects");

    let service = Service::new().await;
    let claim = service.claim(&acme()).await;
    service.keep(&claim, "a", b"content a").await;
    service.keep(&claim, "b", b"content b").await;
    service.attack(
        "UPDATE records SET value = (SELECT value FROM records WHERE key LIKE 'artifact/%/b')
         WHERE key LIKE 'artifact/%/a'",
    );
    is_tampered(&service.artifact(&claim, &acme(), "a").await, "swapped records");
    let list = service.objects.artifacts().list(&service.reader(&acme()).await, claim.job()).await;
    is_tampered(&list, "listed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_is_moved_to_a_more_trusted_level_does_not_open() {
    let service = Service::new().await;
    let fork = service.rig.claim(&acme(), Origin::Fork, Rig::spec()).await.expect("a claim");
    let key = CacheKey::parse("cargo").expect("a key");
    service.objects.caches().save(&fork, &key, stream::once("poison")).await.expect("saved");
    service
        .attack("UPDATE records SET key = replace(key, '/untrusted/', '/trusted/') WHERE key LIKE 'cache/%'");
    let trusted = service.claim(&acme()).await;
    let restored = service.objects.caches().restore(&trusted, &key).await.map(|found| found.is_some());
    is_tampered(&restored, "poisoned");
    // And a job that saves it anew heals it.
    service.objects.caches().save(&trusted, &key, stream::once("sound")).await.expect("saved");
    let restored = service.objects.caches().restore(&trusted, &key).await.expect("restored").expect("there");
    assert_eq!(stream::collect(restored, ByteSize::kib(1)).await.expect("read"), b"sound");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_was_written_lies_in_the_files_as_it_was() {
    let service = Service::new().await;
    let line = "a line of output that says 4711-0815";
    let claim = service.log(&acme(), &[line, "second"]).await;
    service.keep(&claim, "report.tar", line.repeat(10_000).as_bytes()).await;
    let key = CacheKey::parse("cargo").expect("a key");
    service.objects.caches().save(&claim, &key, stream::once(line.repeat(10_000))).await.expect("saved");
    let paths = files(service.folder.path());
    assert!(paths.len() >= 4, "database, write-ahead log and two objects: {paths:?}");
    // The database itself is not read here: see the note on locks at `attack`.
    for path in paths.iter().filter(|path| path.extension().is_none_or(|ending| ending == "db-wal")) {
        let bytes = fs::read(path).expect("readable");
        assert!(!bytes.windows(12).any(|window| window == &line.as_bytes()[..12]), "{path:?}");
        for name in [claim.job().as_str(), "report", "cargo"] {
            assert!(!path.to_string_lossy().contains(name), "{path:?}");
        }
    }
    let found = service.rig.database.scan_raw(&line.as_bytes()[..12]).await.expect("looked");
    assert_eq!(found, 0);
    assert!(service.rig.database.scan_raw(claim.job().as_str().as_bytes()).await.expect("looked") > 0);
}
