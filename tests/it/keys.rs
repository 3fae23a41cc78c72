//! Rotation and erasure of keys over a real database file: killed at random moments, and looked for in its bytes.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ci_core::access::{Admin, Write};
use ci_core::audit::Audit;
use ci_core::clock::{ManualClock, SystemClock};
use ci_core::id::{JobId, KeyId, RepositoryId, SecretName, StepName, TenantId};
use ci_core::identity::{Audience, IssuerUrl, TokenIssuer as _};
use ci_core::memory::Rig;
use ci_core::operator::Operator;
use ci_core::records::{Key, Record, Records};
use ci_core::seal::{Context, key_id};
use ci_core::secret::{KeyRing as _, Purpose, SecretStore as _, SecretValue};
use ci_core::trust::Origin;
use ci_core::{ErrorKind, Result};
use ci_secrets::identity::{Algorithm, Audiences, OidcIssuer};
use ci_secrets::ssh::{SshKeyStage, SshKeys};
use ci_secrets::{FileRoot, RootKey, SshSigner as _, Vault};
use ci_storage::sqlite::Sqlite;

/// Names the folder of the database for the process that is killed.
const FOLDER: &str = "CI_TEST_KEYS_FOLDER";
const REPOSITORIES: [&str; 4] = ["1", "2", "3", "4"];
const SECRETS: [&str; 3] = ["ONE", "TWO", "THREE"];
/// The repository that is erased again and again.
const ERASED: &str = "erased";

fn repository(native: &str) -> RepositoryId {
    Rig::repository(native, "acme").expect("a repository")
}

fn acme() -> TenantId {
    TenantId::parse("acme").expect("a tenant")
}

fn name(text: &str) -> SecretName {
    SecretName::parse(text).expect("a name")
}

/// A vault over a database file. Its two root keys are in files; either is in use, the other a former one.
struct Service {
    rig: Rig,
    records: Arc<dyn Records>,
    audit: Audit,
    operator: Operator,
    vault: Arc<Vault>,
    ssh: SshKeys,
    issuer: OidcIssuer,
}

impl Service {
    async fn open(folder: &Path, root: usize) -> Self {
        let clock = Arc::new(SystemClock::new());
        let records: Arc<dyn Records> =
            Arc::new(Sqlite::open(folder.join("ci.db"), clock.clone()).await.expect("a database"));
        let rig = Rig::on(Arc::new(ManualClock::new())).expect("a rig");
        let audit = Audit::new(records.clone(), clock.clone());
        let operator = Operator::new(&audit).expect("the operator");
        let roots: [Arc<dyn RootKey>; 2] = ["a.key", "b.key"].map(|name| {
            let path = folder.join(name);
            let root = if path.exists() { FileRoot::open(path) } else { FileRoot::create(path) };
            Arc::new(root.expect("a root key")) as Arc<dyn RootKey>
        });
        let vault = Vault::new(records.clone(), audit.clone(), roots[root % 2].clone(), clock)
            .with_former_root(roots[(root + 1) % 2].clone());
        let vault = Arc::new(vault);
        let url = IssuerUrl::parse("https://ci.example.org").expect("a URL");
        let issuer = OidcIssuer::new(vault.clone(), url, Audiences::any(Algorithm::EdDsa));
        let ssh = SshKeys::new(vault.clone());
        Self { rig, records, audit, operator, vault, ssh, issuer: issuer.expect("an issuer") }
    }

    /// Secrets and private keys for everybody.
    async fn begin(&self) {
        for native in REPOSITORIES {
            for secret in SECRETS {
                self.put(native, secret, &format!("value of {secret} of {native}, 0")).await.expect("set");
            }
            self.change_ssh_key(native).await.expect("made");
        }
        self.issuer.jwks().await.expect("made");
    }

    async fn put(&self, native: &str, secret: &str, value: &str) -> Result<()> {
        let grant = self.rig.grant::<Write>(&Rig::user("ada")?, &repository(native)).await?;
        self.vault.put(&grant, &name(secret), SecretValue::new(value)).await.map(drop)
    }

    async fn value(&self, native: &str, secret: &str) -> Result<String> {
        let claim = self.rig.claim(&repository(native), Origin::Repository, Rig::spec()).await?;
        let lease = self.vault.lease(claim.trusted()?, &[name(secret)]).await?;
        Ok(String::from_utf8_lossy(lease.value(&name(secret))?.expose()).into_owned())
    }

    /// Does the next step of replacing a repository's SSH key.
    async fn change_ssh_key(&self, native: &str) -> Result<()> {
        let grant = self.rig.grant::<Admin>(&Rig::user("ada")?, &repository(native)).await?;
        let list = self.ssh.list(&grant.lower()).await?;
        let at = |stage| list.iter().find(|info| info.stage == stage).map(|info| info.key);
        match (at(SshKeyStage::Old), at(SshKeyStage::Next)) {
            (Some(old), _) => self.ssh.remove(&grant, &old).await,
            (None, Some(next)) => self.ssh.activate(&grant, &next).await,
            (None, None) => self.ssh.rotate(&grant).await.map(drop),
        }
    }

    async fn replace_token_keys(&self) -> Result<()> {
        let act = self.operator.act(&TenantId::service(), "token_keys.replaced").await?;
        self.issuer.replace(&act).await
    }

    /// Rotates what seals the keys for tokens.
    async fn rotate_service(&self) -> Result<()> {
        let act = self.operator.act(&TenantId::service(), "service_keys.rotated").await?;
        let report = self.vault.rotate_all(&act, &TenantId::service(), &mut |_| {}).await?;
        assert!(report.is_complete(), "{report:?}");
        Ok(())
    }

    async fn rotate_root(&self) -> Result<()> {
        let act = self.operator.act(&TenantId::service(), "root_key.rotated").await?;
        let report = self.vault.rotate_root(&act, &mut |_| {}).await?;
        assert!(report.is_complete(), "{report:?}");
        Ok(())
    }

    async fn rotate_tenant(&self) -> Result<()> {
        let act = self.operator.act(&acme(), "tenant_key.rotated").await?;
        let report = self.vault.rotate_tenant(&act, &acme(), &mut |_| {}).await?;
        assert!(report.is_complete(), "{report:?}");
        Ok(())
    }

    async fn rotate_repository(&self, native: &str) -> Result<()> {
        let act = self.operator.act(&acme(), "repository_key.rotated").await?;
        let report = self.vault.rotate_repository(&act, &repository(native), &mut |_| {}).await?;
        assert!(report.is_complete(), "{report:?}");
        Ok(())
    }

    async fn erase(&self, native: &str) -> Result<ci_secrets::ErasureReceipt> {
        let act = self.operator.act(&acme(), "repository.erased").await?;
        self.vault.erase(&act, &repository(native)).await
    }

    async fn below(&self, prefix: &Key) -> Vec<Record> {
        self.records.list(prefix, None, 10_000).await.expect("a list")
    }

    /// A repository's SSH key signs.
    async fn check_ssh_key(&self, native: &str) {
        let claim = self.rig.claim(&repository(native), Origin::Repository, Rig::spec()).await;
        let claim = claim.expect("a claim");
        let key = self.ssh.identity(&claim).await.expect("one signs");
        self.ssh.sign(&claim, &key, b"x").await.expect("it can be read");
    }

    /// A token is signed with a key that is published.
    async fn check_token(&self) {
        let claim = self.rig.claim(&repository("1"), Origin::Repository, Rig::spec()).await;
        let (step, audience) = (StepName::parse("test"), Audience::parse("https://cloud.example.org"));
        let (step, audience) = (step.expect("a name"), audience.expect("an audience"));
        let (claim, minute) = (claim.expect("a claim"), Duration::from_mins(1));
        let token = self.issuer.token(&claim, &step, &audience, minute).await.expect("a token");
        let header = token.expose().split(|byte| *byte == b'.').next().expect("a header");
        let header = data_encoding::BASE64URL_NOPAD.decode(header).expect("base64url");
        let header: serde_json::Value = serde_json::from_slice(&header).expect("JSON");
        let keys = self.issuer.jwks().await.expect("the keys");
        assert!(keys.contains(header["kid"].as_str().expect("an id")), "{keys}");
    }

    /// Every secret has a value that somebody set, and every private key signs, whatever was going on.
    async fn check_values(&self) {
        self.check_token().await;
        for native in REPOSITORIES {
            self.check_ssh_key(native).await;
            for secret in SECRETS {
                let value = self.value(native, secret).await.expect("it can be read");
                let begins = format!("value of {secret} of {native}, ");
                assert!(value.starts_with(&begins), "{native}/{secret}: {value}");
            }
        }
    }

    /// Nothing is half done, and there is one active key of each kind.
    async fn check_keys(&self, root: usize, folder: &Path) {
        // The secrets, the SSH keys, the list and the decoy.
        let ours = REPOSITORIES.map(|native| (repository(native), 2 * SECRETS.len() + 3));
        let theirs = (self.issuer.repository().clone(), 3);
        for (tenant, repositories) in [(acme(), &ours[..]), (TenantId::service(), &[theirs])] {
            let above = self.check_tenant_key(&tenant, root, folder).await;
            for (repository, rows) in repositories {
                self.check_repository_keys(repository, *rows, &above).await;
            }
        }
        let notes = self.below(&Key::new("rotation")).await;
        let open = notes.iter().filter(|note| note.key.as_str().ends_with("/note")).count();
        assert_eq!(open + self.below(&Key::new("rotation").part("tenant")).await.len(), 0, "notes");
        assert!(self.below(&Key::new("erasure")).await.is_empty(), "notes of erasures");
    }

    async fn check_tenant_key(&self, tenant: &TenantId, root: usize, folder: &Path) -> KeyId {
        let wrapped = Key::new("key").part("tenant").part(tenant.as_str()).part("wrapped");
        let wrapped = self.below(&wrapped).await;
        assert_eq!(wrapped.len(), 1, "one key of the tenant");
        let path = folder.join(["a.key", "b.key"][root % 2]);
        let root = FileRoot::open(path).expect("a root key");
        let named = root.key_ref().as_bytes();
        assert!(
            wrapped[0].value.windows(named.len()).any(|bytes| bytes == named),
            "under the root key in use"
        );
        wrapped[0].key.as_str().rsplit('/').next().map(KeyId::parse).expect("an id").expect("an id")
    }

    async fn check_repository_keys(&self, repository: &RepositoryId, rows: usize, above: &KeyId) {
        let keys = Key::new("key").part("repository").repository(repository);
        for row in self.below(&keys.clone().part("wrapped")).await {
            assert_eq!(key_id(&row.value).expect("an id"), *above, "under the tenant's only key");
        }
        let current = self.records.get(&keys.part("current")).await.expect("read").expect("there").value;
        let secrets = self.below(&Key::new("secret").repository(repository)).await;
        assert_eq!(secrets.len(), rows, "{secrets:?}");
        // A value that is not large has one byte in front.
        let front = |row: &Record| usize::from(row.key.as_str().contains("/value/"));
        let sealed = secrets.iter().map(|row| key_id(&row.value[front(row)..]).expect("a sealed row"));
        let used: BTreeSet<KeyId> = sealed.collect();
        assert_eq!(used.len(), 1, "under exactly one key");
        assert_eq!(used.first().expect("one").as_str().as_bytes(), current);
    }
}

/// Kills a process that rotates, sets and erases, `count` times, and looks after each what it has left.
async fn kill(count: u64) {
    let folder = tempfile::tempdir().expect("a folder");
    let first = Service::open(folder.path(), 0).await;
    first.begin().await;
    drop(first);
    let (start, mut interrupted, mut done) = (Instant::now(), 0, 0);
    for round in 0..count {
        let root = usize::try_from(round).expect("few");
        let mut victim = start_victim(folder.path(), root);
        // From its first write to the middle of its work, never twice at the same moment.
        std::thread::sleep(Duration::from_micros(1_000 + (round * 7_919 * 13) % 90_000));
        victim.kill().expect("killed");
        victim.wait().expect("gone");
        let service = Service::open(folder.path(), root).await;
        service.check_values().await;
        let notes = service.below(&Key::new("rotation")).await;
        interrupted += usize::from(notes.iter().any(|note| note.key.as_str().ends_with("/note")));
        interrupted += usize::from(!service.below(&Key::new("erasure")).await.is_empty());
        interrupted += service.below(&Key::new("rotation").part("tenant")).await.len();
        // Whoever comes next finishes it.
        service.rotate_root().await.expect("the root key");
        service.rotate_tenant().await.expect("the tenant's key");
        service.rotate_service().await.expect("the keys of the service itself");
        for native in REPOSITORIES {
            service.rotate_repository(native).await.expect("the repository's key");
        }
        let receipt = service.erase(ERASED).await.expect("it is erased");
        assert!(receipt.is_verified(), "{receipt:?}");
        assert_eq!(service.value(ERASED, "ONE").await.expect_err("it is gone").kind(), ErrorKind::NotFound);
        let claim = service.rig.claim(&repository(ERASED), Origin::Repository, Rig::spec()).await;
        let identity = service.ssh.identity(&claim.expect("a claim")).await;
        assert_eq!(identity.expect_err("it is gone").kind(), ErrorKind::NotFound);
        service.check_keys(root, folder.path()).await;
        service.check_values().await;
        for tenant in [acme(), TenantId::service()] {
            service.audit.verify(&tenant).await.expect("the audit log is whole");
        }
        done += 1;
        // Logs are not kept here: a key that no secret depends on is of no use.
        if round % 10 == 9 {
            let later = ci_core::clock::Timestamp::from_unix_millis(u64::MAX / 2);
            for place in REPOSITORIES.map(repository).iter().chain([service.issuer.repository()]) {
                let act = service.operator.act(place.tenant(), "key.retired").await.expect("an act");
                let report = service.vault.retire_keys(&act, place, later).await.expect("retired");
                assert!(report.is_complete(), "{report:?}");
            }
            service.check_values().await;
        }
    }
    println!("{done} kills, {interrupted} things found half done, in {:.1?}", start.elapsed());
    assert!(interrupted > 0, "it was never killed in the middle of anything");
}

fn start_victim(folder: &Path, root: usize) -> Child {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", "keys::victim", "--nocapture", "--ignored"]);
    command.env(FOLDER, format!("{root}:{}", folder.display())).stdin(Stdio::null()).stderr(Stdio::null());
    let mut victim = command.stdout(Stdio::piped()).spawn().expect("a process");
    let mut lines = BufReader::new(victim.stdout.as_mut().expect("its output")).lines();
    let begins = lines.any(|line| line.is_ok_and(|line| line.contains("victim begins")));
    assert!(begins, "it has ended");
    victim
}

/// Not a test of its own: the process that is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by another test"]
async fn victim() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let folder = folder.into_string().expect("text");
    let (root, folder) = folder.split_once(':').expect("two parts");
    let service = Service::open(Path::new(folder), root.parse().expect("a number")).await;
    println!("victim begins");
    std::io::stdout().flush().expect("somebody reads");
    // Each round begins elsewhere, so that the kill hits everything.
    let first: usize = root.parse().expect("a number");
    for step in first.. {
        let native = REPOSITORIES[step % REPOSITORIES.len()];
        let done = match step % 9 {
            0 => service.rotate_repository(native).await,
            1 => service.rotate_tenant().await,
            2 => service.rotate_root().await,
            3 => service.put(native, "ONE", &format!("value of ONE of {native}, {step}")).await,
            4 => service.change_ssh_key(native).await,
            5 => service.replace_token_keys().await,
            6 => service.rotate_service().await,
            7 => {
                service.put(ERASED, "ONE", "to be erased").await.expect("nobody else is here");
                service.change_ssh_key(ERASED).await
            }
            _ => service.erase(ERASED).await.map(drop),
        };
        done.expect("nobody else is here");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_few_kills_lose_nothing() {
    kill(20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a campaign: tests/run --campaign"]
async fn two_hundred_kills_lose_nothing() {
    kill(200).await;
}

#[tokio::test]
async fn an_erased_key_is_nowhere_in_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let service = Service::open(folder.path(), 0).await;
    for native in ["1", "2"] {
        service.put(native, "TOKEN", "some value").await.expect("set");
    }
    // The same key in three wrappings: as it was made, under the tenant's next key, and the next after that.
    let keys = Key::new("key").part("repository").repository(&repository("1")).part("wrapped");
    let mut needles = Vec::new();
    for _ in 0..2 {
        needles.push(service.below(&keys).await[0].value.slice(18..));
        service.rotate_tenant().await.expect("rotated");
    }
    for needle in &needles {
        assert_eq!(in_files(folder.path(), needle), 0, "a former wrapping");
    }
    let last = service.below(&keys).await[0].value.slice(18..);
    assert!(in_files(folder.path(), &last) > 0, "the search finds what is there");
    let values = service.below(&Key::new("secret").repository(&repository("1"))).await;

    let receipt = service.erase("1").await.expect("it is erased");
    assert!(receipt.is_verified(), "{receipt:?}");
    needles.push(last);
    needles.extend(values.into_iter().map(|row| row.value.slice(18..)));
    for needle in needles {
        // Nor half of it.
        for part in [&needle[..], &needle[..32], &needle[needle.len() - 32..]] {
            assert_eq!(in_files(folder.path(), part), 0);
        }
    }
    assert_eq!(service.value("2", "TOKEN").await.expect("another repository's"), "some value");
}

#[tokio::test]
async fn a_tenants_former_key_is_nowhere_in_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let service = Service::open(folder.path(), 0).await;
    service.put("1", "TOKEN", "some value").await.expect("set");
    let wrapped = Key::new("key").part("tenant").part("acme").part("wrapped");
    let by_former_root = service.below(&wrapped).await[0].value.clone();
    drop(service);
    let service = Service::open(folder.path(), 1).await;
    service.rotate_root().await.expect("rotated");
    let by_new_root = service.below(&wrapped).await[0].value.clone();
    assert_eq!(
        in_files(folder.path(), &by_former_root[by_former_root.len() - 48..]),
        0,
        "the root key rotated"
    );
    service.rotate_tenant().await.expect("rotated");
    assert_eq!(
        in_files(folder.path(), &by_new_root[by_new_root.len() - 48..]),
        0,
        "the tenant's key rotated"
    );
    assert_eq!(service.value("1", "TOKEN").await.expect("it can be read"), "some value");
}

/// In how many places of the database's files, whatever SQLite thinks they hold.
fn in_files(folder: &Path, needle: &[u8]) -> usize {
    let mut found = 0;
    for file in ["ci.db", "ci.db-wal"] {
        let bytes = std::fs::read(folder.join(file)).unwrap_or_default();
        found += bytes.windows(needle.len()).filter(|window| *window == needle).count();
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_processes_rotate_one_file_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = Service::open(folder.path(), 0).await;
    first.begin().await;
    // Each has its own connections, cache and audit log; the file is what they share.
    let mut running = Vec::new();
    for number in 0..3 {
        let folder = folder.path().to_owned();
        running.push(tokio::spawn(async move {
            let service = Service::open(&folder, 0).await;
            for step in 0..6 {
                let done = match (step + number) % 4 {
                    0 => service.rotate_tenant().await,
                    1 => service.rotate_repository("1").await,
                    2 => match service.change_ssh_key("1").await {
                        // Others have done that step, or the next one.
                        Err(error) if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::NotFound) => {
                            Ok(())
                        }
                        done => done,
                    },
                    _ => service.put("1", "ONE", "value of ONE of 1, again").await,
                };
                if let Err(error) = done {
                    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
                }
            }
        }));
    }
    for one in running {
        one.await.expect("it ends");
    }
    first.rotate_tenant().await.expect("rotated");
    first.rotate_repository("1").await.expect("rotated");
    first.check_values().await;
    first.audit.verify(&acme()).await.expect("the audit log is whole");
    let grant = first.rig.grant::<Write>(&Rig::user("ada").expect("a person"), &repository("1")).await;
    let scope = grant.as_ref().map(|grant| grant.scope().expect("fresh")).expect("a grant");
    let key = first.vault.data_key(scope, &Purpose::log(&JobId::random(), 0), None).await.expect("a key");
    let sealed = key.seal(&Context::new("x"), b"y");
    assert_eq!(*key.open(&Context::new("x"), &sealed).expect("it opens"), b"y");
}
