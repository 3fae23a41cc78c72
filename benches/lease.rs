//! Leasing 50 secrets of a repository of 1,000 from a SQLite file: how long it takes, and what it asks of the database and
//! of the root key.
//!
//! The peer reads the same 100 rows one after the other, opens them with the same keys, and adds the same entry to the
//! audit log: what no lease can do without.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use ci_core::access::Write;
use ci_core::audit::{Audit, Entry};
use ci_core::id::SecretName;
use ci_core::memory::Rig;
use ci_core::queue::Claim;
use ci_core::records::{Batch, Key, Record, Records, Version};
use ci_core::seal::{Context, DataKey};
use ci_core::secret::{SecretStore as _, SecretValue};
use ci_core::trust::Origin;
use ci_secrets::{FileRoot, RootKey, Vault};
use ci_storage::sqlite::Sqlite;
use secrecy::SecretBox;

const SECRETS: usize = 1_000;
const LEASED: usize = 50;
const ROUNDS: usize = 400;

/// Counts what is asked of the database.
#[derive(Debug)]
struct Counted {
    inner: Arc<dyn Records>,
    reads: AtomicUsize,
    commits: AtomicUsize,
}

#[async_trait]
impl Records for Counted {
    async fn get(&self, key: &Key) -> ci_core::Result<Option<Record>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.inner.get(key).await
    }

    async fn get_all(&self, keys: &[Key]) -> ci_core::Result<Vec<Option<Record>>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.inner.get_all(keys).await
    }

    async fn list(&self, prefix: &Key, after: Option<&Key>, limit: usize) -> ci_core::Result<Vec<Record>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.inner.list(prefix, after, limit).await
    }

    async fn commit(&self, batch: Batch) -> ci_core::Result<Version> {
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.inner.commit(batch).await
    }

    async fn purge(&self, prefix: &Key) -> ci_core::Result<usize> {
        self.inner.purge(prefix).await
    }

    async fn scan_raw(&self, needle: &[u8]) -> ci_core::Result<usize> {
        self.inner.scan_raw(needle).await
    }
}

/// Counts what is asked of the root key.
#[derive(Debug)]
struct CountedRoot(FileRoot, AtomicUsize);

#[async_trait]
impl RootKey for CountedRoot {
    async fn wrap(&self, context: &Context, key: &[u8; 32]) -> ci_core::Result<Bytes> {
        self.0.wrap(context, key).await
    }

    async fn unwrap(&self, context: &Context, wrapped: &[u8]) -> ci_core::Result<SecretBox<[u8; 32]>> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.unwrap(context, wrapped).await
    }

    fn key_ref(&self) -> &str {
        self.0.key_ref()
    }
}

struct Service {
    rig: Rig,
    records: Arc<Counted>,
    root: Arc<CountedRoot>,
    audit: Audit,
    vault: Vault,
    names: Vec<SecretName>,
    claim: Claim,
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    runtime.block_on(async {
        let service = service(folder.path()).await;
        let (mut cold, mut warm) = (Vec::new(), Vec::new());
        let (mut reads, mut commits, mut unwraps) = (0, 0, 0);
        for _ in 0..ROUNDS / 4 {
            service.vault.forget_keys();
            cold.push(service.lease().await);
            let counts = service.counts();
            (reads, commits, unwraps) = (reads.max(counts.0), commits.max(counts.1), unwraps.max(counts.2));
        }
        println!("a lease of {LEASED} of {SECRETS}, keys not remembered: at most {reads} reads, {commits} commits, {unwraps} unwraps");
        assert!(commits <= 1 && unwraps <= 1, "one entry in the audit log, one unwrap");
        let mut peer = Vec::new();
        for _ in 0..ROUNDS {
            warm.push(service.lease().await);
            peer.push(service.peer().await);
        }
        print("lease, keys not remembered", cold);
        print("lease, keys remembered", warm);
        print("peer: the same rows one by one, opened, and the entry", peer);
    });
}

async fn service(folder: &std::path::Path) -> Service {
    let rig = Rig::new().expect("a rig");
    let inner = Arc::new(Sqlite::open(folder.join("ci.db"), rig.clock.clone()).await.expect("a database"));
    let records = Arc::new(Counted { inner, reads: AtomicUsize::new(0), commits: AtomicUsize::new(0) });
    let audit = Audit::new(records.clone(), rig.clock.clone());
    let root = FileRoot::create(folder.join("root")).expect("a root key");
    let root = Arc::new(CountedRoot(root, AtomicUsize::new(0)));
    let vault = Vault::new(records.clone(), audit.clone(), root.clone(), rig.clock.clone());
    let repository = Rig::repository("1", "acme").expect("an id");
    let grant = rig.grant::<Write>(&Rig::user("ada").expect("an id"), &repository).await.expect("a grant");
    let name = |index| SecretName::parse(format!("SERVICE_{index}_ACCESS_TOKEN")).expect("a name");
    let names: Vec<_> = (0..SECRETS).map(name).collect();
    let start = Instant::now();
    for name in &names {
        let value = SecretValue::new(format!("the token of {name}, and as long as such tokens usually are"));
        vault.put(&grant, name, value).await.expect("the secret is set");
    }
    let each = start.elapsed() / u32::try_from(SECRETS).expect("a number");
    println!("setting {SECRETS} secrets one after the other: {each:.2?} each on average");
    let claim = rig.claim(&repository, Origin::Repository, Rig::spec()).await.expect("a claim");
    Service { rig, records, root, audit, vault, names, claim }
}

impl Service {
    /// Names from all over the repository.
    fn asked(&self) -> Vec<SecretName> {
        self.names.iter().step_by(SECRETS / LEASED).cloned().collect()
    }

    async fn lease(&self) -> Duration {
        let names = self.asked();
        self.counts();
        let start = Instant::now();
        let lease = self.vault.lease(self.claim.trusted().expect("trusted"), &names).await.expect("a lease");
        let took = start.elapsed();
        assert!(lease.value(&names[LEASED - 1]).is_ok());
        took
    }

    async fn peer(&self) -> Duration {
        let key = DataKey::random();
        let context =
            Context::new("bench").field("as long as that of a secret is, more or less").field([0; 200]);
        let sealed = key.seal(&context, &[7; 64]);
        let folder = Key::new("secret").repository(&Rig::repository("1", "acme").expect("an id"));
        let start = Instant::now();
        for name in self.asked() {
            for kind in ["info", "value"] {
                let row =
                    self.records.get(&folder.clone().part(kind).part(name.as_str())).await.expect("a row");
                assert!(row.is_some());
                key.open(&context, &sealed).expect("it opens");
            }
        }
        let tenant = self.claim.code().repository().tenant();
        self.audit.record(tenant, Entry::new("secret.leased", "job")).await.expect("an entry");
        let took = start.elapsed();
        let _ = &self.rig;
        took
    }

    fn counts(&self) -> (usize, usize, usize) {
        let take = |count: &AtomicUsize| count.swap(0, Ordering::Relaxed);
        (take(&self.records.reads), take(&self.records.commits), take(&self.root.1))
    }
}

fn print(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!("{what}: p50 {:.2?}, p99 {:.2?} of {} runs", at(50), at(99), times.len());
}
