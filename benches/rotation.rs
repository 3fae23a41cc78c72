//! Rotating the root key of 10,000 tenants with a repository each, in one SQLite file, beside the same unwrapping and
//! wrapping without a database.
//!
//! A root key wraps keys of tenants alone, so that many repositories of one tenant cost nothing; with one each this is
//! the worst case. What rotating adds is reading the rows, unwrapping once more what was wrapped, and 50 durable
//! commits of 200 rows; and at the end the rewriting of all records, so that what was replaced is gone from the file.
//! It is one run of seconds and no matter for a sampling harness.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ci_core::access::Read;
use ci_core::audit::Audit;
use ci_core::clock::SystemClock;
use ci_core::id::{JobId, TenantId};
use ci_core::memory::Rig;
use ci_core::operator::Operator;
use ci_core::records::Records;
use ci_core::seal::{Context, DataKey};
use ci_core::secret::{KeyRing as _, Purpose};
use ci_secrets::{FileRoot, Progress, RootKey, Vault};
use ci_storage::sqlite::Sqlite;
use secrecy::ExposeSecret as _;

const TENANTS: usize = 10_000;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(rotate());
}

async fn rotate() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = |name| Arc::new(FileRoot::create(folder.path().join(name)).expect("a root key"));
    let (old, new) = (root("old.key"), root("new.key"));
    let clock = Arc::new(SystemClock::new());
    let records: Arc<dyn Records> =
        Arc::new(Sqlite::open(folder.path().join("ci.db"), clock.clone()).await.expect("a database"));
    let audit = Audit::new(records.clone(), clock.clone());
    let operator = Operator::new(&audit).expect("the operator");
    fill(&Vault::new(records.clone(), audit.clone(), old.clone(), clock.clone())).await;

    let vault = Vault::new(records, audit, new.clone(), clock).with_former_root(old.clone());
    let act = operator.act(&TenantId::service(), "root_key.rotated").await.expect("an act");
    let (before, mut most, start) = (resident(), 0, Instant::now());
    let mut wrapped = None;
    let mut watch = |progress: Progress| {
        most = most.max(resident());
        if progress.done == TENANTS {
            wrapped.get_or_insert(start.elapsed());
        }
    };
    let report = vault.rotate_root(&act, &mut watch).await.expect("rotated");
    let (all, wrapped) = (start.elapsed(), wrapped.expect("told"));
    assert!(report.is_complete() && report.rewrapped == TENANTS, "{report:?}");

    let raw = raw(old.as_ref(), new.as_ref()).await;
    println!(
        "rotating the root key of {TENANTS} tenants with {TENANTS} repositories, {} wrapped anew",
        report.rewrapped
    );
    println!("  in the database: {wrapped:.2?}, {:.0} keys per second", per_second(wrapped));
    println!("  and the rewriting of all records: {all:.2?} together");
    println!("  unwrap + wrap alone: {raw:.2?}, {:.0} keys per second", per_second(raw));
    println!("  ratio: {:.2} (goal: none yet)", wrapped.as_secs_f64() / raw.as_secs_f64());
    println!("  memory: {before} KiB before, at most {most} KiB while it wrapped");
}

/// A tenant with a repository, ten thousand times.
async fn fill(vault: &Vault) {
    let rig = Rig::new().expect("a rig");
    let (user, purpose) = (Rig::user("ada").expect("a person"), Purpose::log(&JobId::random(), 0));
    let start = Instant::now();
    for number in 0..TENANTS {
        let repository = Rig::repository("1", &format!("tenant-{number}")).expect("a repository");
        let grant = rig.grant::<Read>(&user, &repository).await.expect("a grant");
        vault.data_key(grant.scope().expect("fresh"), &purpose, None).await.expect("a key");
    }
    println!("made in {:.1?}", start.elapsed());
}

/// The same keys, unwrapped and wrapped in memory, one after the other.
async fn raw(old: &dyn RootKey, new: &dyn RootKey) -> Duration {
    let context = |number: usize| Context::new("tenant key").field(format!("tenant-{number}"));
    let mut wrapped: Vec<Bytes> = Vec::with_capacity(TENANTS);
    for number in 0..TENANTS {
        wrapped.push(old.wrap(&context(number), DataKey::random().expose()).await.expect("wrapped"));
    }
    let start = Instant::now();
    for (number, row) in wrapped.iter_mut().enumerate() {
        let key = old.unwrap(&context(number), row).await.expect("it unwraps");
        *row = new.wrap(&context(number), key.expose_secret()).await.expect("wrapped");
    }
    start.elapsed()
}

#[expect(clippy::cast_precision_loss, reason = "ten thousand is exact")]
fn per_second(time: Duration) -> f64 {
    TENANTS as f64 / time.as_secs_f64()
}

/// How much memory this process has, in KiB.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
