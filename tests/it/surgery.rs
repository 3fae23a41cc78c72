//! Surgery on the rows of a real SQLite file behind the vault's back: for every pair of rows and every column, an error or
//! the unchanged value, and never another value.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use ci_core::ErrorKind;
use ci_core::Result;
use ci_core::access::Write;
use ci_core::audit::Audit;
use ci_core::id::{RepositoryId, SecretName, TenantId};
use ci_core::identity::{IssuerUrl, TokenIssuer as _};
use ci_core::memory::Rig;
use ci_core::operator::Operator;
use ci_core::queue::Claim;
use ci_core::secret::{NewSecret, SecretStore as _, SecretValue};
use ci_core::trust::Origin;
use ci_secrets::identity::{Algorithm, Audiences, OidcIssuer};
use ci_secrets::ssh::SshKeys;
use ci_secrets::{FileRoot, SshSigner as _, Vault, VaultOptions};
use ci_storage::sqlite::Sqlite;
use rusqlite::Connection;
use rusqlite::types::Value;

const NATIVES: [&str; 2] = ["1", "2"];
/// The secrets of two repositories, one of them large.
const SECRETS: [(&str, &str); 4] = [("1", "ONE"), ("1", "TWO"), ("2", "ONE"), ("2", "LARGE")];
const COLUMNS: [&str; 3] = ["key", "version", "value"];
/// Rows that the vault wrote, and no others.
const OURS: &str = "(key LIKE 'secret/%' OR key LIKE 'key/%')";

type Row = BTreeMap<&'static str, Value>;

struct Table {
    rig: Rig,
    vault: Arc<Vault>,
    operator: Operator,
    ssh: SshKeys,
    issuer: OidcIssuer,
    /// The public halves of the private keys of each version.
    public: BTreeMap<&'static str, Vec<String>>,
    claims: BTreeMap<&'static str, Claim>,
    surgeon: Connection,
    _folder: tempfile::TempDir,
}

fn repository(native: &str) -> RepositoryId {
    Rig::repository(native, "acme").expect("an id")
}

fn name(text: &str) -> SecretName {
    SecretName::parse(text).expect("a name")
}

fn value(native: &str, secret: &str, version: &str) -> Vec<u8> {
    match secret {
        // Of one letter, which no masker looks for, for that takes its time.
        "LARGE" => version[..1].repeat(70_000).into_bytes(),
        _ => format!("{version} {secret} of {native}").into_bytes(),
    }
}

impl Table {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path: PathBuf = folder.path().join("ci.db");
        let rig = Rig::new().expect("a rig");
        let records = Arc::new(Sqlite::open(&path, rig.clock.clone()).await.expect("a database"));
        let audit = Audit::new(records.clone(), rig.clock.clone());
        let root = Arc::new(FileRoot::create(folder.path().join("root")).expect("a root key"));
        // Keys are read again every time, so that what happens to their rows is seen.
        let options = VaultOptions::default().with_most_keys(0);
        let vault = Vault::new(records, audit.clone(), root, rig.clock.clone()).with_options(options);
        let vault = Arc::new(vault);
        let url = IssuerUrl::parse("https://ci.example.org").expect("a URL");
        let issuer = OidcIssuer::new(vault.clone(), url, Audiences::any(Algorithm::EdDsa));
        let mut claims = BTreeMap::new();
        for native in NATIVES {
            let claim = rig.claim(&repository(native), Origin::Repository, Rig::spec()).await;
            claims.insert(native, claim.expect("a claim"));
        }
        let surgeon = Connection::open(&path).expect("the file opens");
        let mut table = Self {
            operator: Operator::new(&audit).expect("the operator"),
            ssh: SshKeys::new(vault.clone()),
            issuer: issuer.expect("an issuer"),
            public: BTreeMap::new(),
            rig,
            vault,
            claims,
            surgeon,
            _folder: folder,
        };
        table.set_all("first").await;
        table
    }

    async fn set_all(&mut self, version: &'static str) {
        for (native, secret) in SECRETS {
            let grant = self.rig.grant::<Write>(&Rig::user("ada").expect("an id"), &repository(native)).await;
            let new = NewSecret::file(SecretValue::new(value(native, secret, version)));
            self.vault.set(&grant.expect("a grant"), &name(secret), new).await.expect("it is set");
        }
        for native in NATIVES {
            let act = self.operator.act(repository(native).tenant(), "ssh_keys.replaced").await;
            let replaced = self.ssh.replace(&act.expect("an act"), &repository(native)).await;
            replaced.expect("an SSH key");
        }
        let act = self.operator.act(&TenantId::service(), "token_keys.replaced").await.expect("an act");
        self.issuer.replace(&act).await.expect("a key for tokens");
        let public = self.public().await.into_iter().map(|public| public.expect("it is read"));
        self.public.insert(version, public.collect());
    }

    /// The public halves of the private keys, for SSH and for tokens.
    async fn public(&self) -> Vec<Result<String>> {
        let mut public = Vec::new();
        for native in NATIVES {
            public.push(self.ssh.identity(&self.claims[native]).await.map(|key| key.to_string()));
        }
        public.push(self.issuer.jwks().await);
        public
    }

    /// Every secret and every private key is what was set, or an error; and which errors there were.
    async fn look(&self, version: &str, what: &str) -> Vec<ErrorKind> {
        let mut errors = Vec::new();
        let mut note = |error: ci_core::Error| {
            let kinds = [ErrorKind::Tampered, ErrorKind::NotFound, ErrorKind::Unavailable];
            assert!(kinds.contains(&error.kind()), "{what}: {error}");
            errors.push(error.kind());
        };
        for native in NATIVES {
            let names: Vec<_> = SECRETS.iter().filter(|of| of.0 == native).map(|of| name(of.1)).collect();
            // All at once, or else each by itself.
            let at_once = [&names[..]].into_iter();
            for names in at_once.chain(names.chunks(1)) {
                match self.vault.lease(self.claims[native].trusted().expect("trusted"), names).await {
                    Ok(lease) => {
                        for name in names {
                            let leased = lease.value(name).expect("leased").expose();
                            let expected = value(native, name.as_str(), version);
                            assert!(leased == expected, "{what}: another value");
                        }
                        if names.len() > 1 {
                            break;
                        }
                    }
                    Err(error) if names.len() == 1 => note(error),
                    Err(_) => {}
                }
            }
        }
        for (found, expected) in self.public().await.into_iter().zip(&self.public[version]) {
            match found {
                Ok(found) => assert_eq!(found, *expected, "{what}: another key"),
                Err(error) => note(error),
            }
        }
        errors
    }

    fn rows(&self) -> Vec<Row> {
        let query = format!("SELECT key, version, value FROM records WHERE {OURS} ORDER BY key");
        let mut query = self.surgeon.prepare(&query).expect("a query");
        let rows = query.query_map([], |row| {
            Ok(COLUMNS
                .iter()
                .enumerate()
                .map(|(at, column)| (*column, row.get(at).expect("a value")))
                .collect())
        });
        rows.expect("rows").map(|row| row.expect("a row")).collect()
    }

    /// Replaces all rows of the vault.
    fn operate(&self, rows: &[Row]) -> rusqlite::Result<()> {
        self.surgeon.execute_batch("BEGIN IMMEDIATE")?;
        let done = self.surgeon.execute(&format!("DELETE FROM records WHERE {OURS}"), []).and_then(|_| {
            let mut insert = self
                .surgeon
                .prepare_cached("INSERT INTO records (key, version, value) VALUES (?1, ?2, ?3)")?;
            rows.iter().try_for_each(|row| insert.execute(COLUMNS.map(|column| &row[column])).map(drop))
        });
        self.surgeon.execute_batch(if done.is_ok() { "COMMIT" } else { "ROLLBACK" })?;
        done
    }
}

/// Whether a change that nobody notices may be one that does not matter: the store's own count of commits, which key of a
/// tenant is current, which matters when a repository gets its first, and where the keys for tokens lie which key is current
/// and the decoy, because nobody writes or leases there.
fn is_idle(column: &str, row: &Row) -> bool {
    let key = format!("{:?}", row["key"]);
    let is_pointer = key.contains("/current");
    let is_unread = key.contains("/identity/") && (is_pointer || key.contains("/canary"));
    column == "version" || is_unread || (is_pointer && key.contains("key/tenant/"))
}

#[tokio::test]
async fn every_pair_of_rows_and_every_column_swapped_or_copied() {
    let table = Table::new().await;
    let right = table.rows();
    assert!(right.len() >= 28, "{} rows", right.len());
    let mut done = 0;
    for (one, other) in (0..right.len()).flat_map(|one| (0..right.len()).map(move |other| (one, other))) {
        if one == other {
            continue;
        }
        for column in COLUMNS {
            let what = format!("{column} of {:?} from {:?}", right[one]["key"], right[other]["key"]);
            let mut copied = right.clone();
            copied[one].insert(column, right[other][column].clone());
            // Two rows cannot have one key: copying it takes the place of the other row.
            if column == "key" {
                copied.remove(other);
            }
            if one < other {
                let mut swapped = right.clone();
                swapped[one].insert(column, right[other][column].clone());
                swapped[other].insert(column, right[one][column].clone());
                table.operate(&swapped).expect("it is done");
                let errors = table.look("first", &format!("{what}, swapped")).await;
                let idle = is_idle(column, &right[one]) && is_idle(column, &right[other]);
                assert!(!errors.is_empty() || idle, "{what}, swapped: nobody noticed");
                done += 1;
            }
            table.operate(&copied).expect("it is done");
            let errors = table.look("first", &format!("{what}, copied")).await;
            assert!(!errors.is_empty() || is_idle(column, &right[one]), "{what}, copied: nobody noticed");
            done += 1;
        }
    }
    assert!(done > 3_000, "{done} operations");
    table.operate(&right).expect("it is done");
    assert!(table.look("first", "put back").await.is_empty());
}

#[tokio::test]
async fn every_column_of_every_row_deleted_nulled_and_flipped() {
    let table = Table::new().await;
    let right = table.rows();
    for index in 0..right.len() {
        let what = format!("{:?}", right[index]["key"]);
        let mut deleted = right.clone();
        deleted.remove(index);
        table.operate(&deleted).expect("it is done");
        let errors = table.look("first", &what).await;
        assert!(!errors.is_empty() || is_idle("value", &right[index]), "{what} deleted: nobody noticed");
        if what.contains("secret/") {
            assert!(errors.iter().all(|kind| *kind == ErrorKind::Tampered), "{what} deleted: {errors:?}");
        }
        for column in COLUMNS {
            for (how, changed) in
                [("null", Value::Null), ("number", Value::Integer(7)), ("text", Value::Text("x".into()))]
            {
                let mut rows = right.clone();
                rows[index].insert(column, changed);
                // The table itself takes no null and no other type where it says so.
                if table.operate(&rows).is_ok() {
                    let errors = table.look("first", &format!("{column} of {what}: {how}")).await;
                    let idle = is_idle(column, &right[index]);
                    assert!(!errors.is_empty() || idle, "{column} of {what}: {how}: nobody noticed");
                }
            }
        }
        let Value::Blob(bytes) = &right[index]["value"] else { panic!("{what} holds no bytes") };
        for at in (0..bytes.len()).step_by(bytes.len().div_ceil(24)) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x10;
            let mut rows = right.clone();
            rows[index].insert("value", Value::Blob(flipped));
            table.operate(&rows).expect("it is done");
            let errors = table.look("first", &format!("byte {at} of {what}")).await;
            assert!(
                !errors.is_empty() || is_idle("value", &right[index]),
                "byte {at} of {what}: nobody noticed"
            );
        }
    }
    table.operate(&right).expect("it is done");
    assert!(table.look("first", "put back").await.is_empty());
}

/// Whether these are private keys and the list that they stand in: put back together they fit, and it takes an anchor to
/// notice it.
fn are_keys_and_their_list(one: &Row, other: &Row) -> bool {
    let [one, other] = [one, other].map(|row| match &row["key"] {
        Value::Text(key) => key.rsplit_once('/').expect("a path"),
        _ => panic!("a key that is no text"),
    });
    let is_so = |list: (&str, &str), keys: (&str, &str)| list.1 == "manifest" && keys.1.ends_with("-keys");
    one.0 == other.0 && (is_so(one, other) || is_so(other, one))
}

/// Each row, each pair of rows, and each secret's rows together.
#[tokio::test]
async fn every_row_and_every_pair_of_rows_rolled_back() {
    let mut table = Table::new().await;
    let before = table.rows();
    table.set_all("second").await;
    let right = table.rows();
    assert_eq!(before.len(), right.len());
    let changed: Vec<usize> =
        (0..right.len()).filter(|at| before[*at]["value"] != right[*at]["value"]).collect();
    assert!(changed.len() >= 14, "{} rows changed", changed.len());
    for one in &changed {
        for other in &changed {
            if are_keys_and_their_list(&right[*one], &right[*other]) {
                continue;
            }
            let mut rows = right.clone();
            rows[*one] = before[*one].clone();
            rows[*other] = before[*other].clone();
            let what = format!("{:?} and {:?} of before", right[*one]["key"], right[*other]["key"]);
            table.operate(&rows).expect("it is done");
            let errors = table.look("second", &what).await;
            assert!(!errors.is_empty(), "{what}: nobody noticed");
            assert!(errors.iter().all(|kind| *kind == ErrorKind::Tampered), "{what}: {errors:?}");
        }
    }
    for (native, secret) in SECRETS {
        let is_its = |row: &Row| {
            let key = format!("{:?}", row["key"]);
            key.contains(&format!("/{native}/")) && key.contains(secret)
        };
        let rows: Vec<Row> =
            right.iter().zip(&before).map(|(new, old)| if is_its(old) { old } else { new }.clone()).collect();
        table.operate(&rows).expect("it is done");
        let errors = table.look("second", secret).await;
        assert_eq!(errors, [ErrorKind::Tampered], "{secret} of {native}, all rows of before");
    }
    table.operate(&right).expect("it is done");
    assert!(table.look("second", "put back").await.is_empty());
}
