//! What every secret store must bear whose records somebody else can write to.
//!
//! Rows are looked for below `secret` and `key`, the first parts that [`ci_core::records`] gives to secrets and keys.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use ci_core::ErrorKind;
use ci_core::audit::Audit;
use ci_core::memory::Rig;
use ci_core::queue::Claim;
use ci_core::records::{Batch, Key, Record, Records};
use ci_core::secret::{NewSecret, SecretPolicy, SecretStore, SecretValue};
use ci_core::trust::{Origin, Trust};

use super::remembered::Remembered;
use super::{name, repository, rig, user};

/// A store, and the records that it keeps its secrets in. It must remember no keys, so that it notices what happens to
/// theirs.
#[derive(Clone, Debug)]
pub struct HostileUnderTest {
    /// The store, without any secret.
    pub store: Arc<dyn SecretStore>,
    /// Where it says what was done.
    pub audit: Audit,
    /// Where its rows lie, those of its keys included. The kit changes them behind its back.
    pub records: Arc<dyn Records>,
}

ci_core::declare_kit! {
    /// Runs every case about stores over hostile records; takes a closure that makes a
    /// [`HostileUnderTest`](crate::conformance::hostile::HostileUnderTest).
    hostile_kit for ci_secrets::conformance::hostile {
        no_value_and_no_policy_lies_in_the_records,
        swapped_rows_are_noticed,
        copied_rows_are_noticed,
        changed_bytes_are_noticed,
        deleted_rows_are_missed,
        rows_of_before_are_noticed,
        rows_of_a_deleted_secret_are_noticed,
        secrets_deleted_together_are_missed,
        no_value_outlives_its_lease,
    }
}

/// The secrets of the cases: two repositories with the same names, one value that is large.
const SECRETS: [(&str, &str); 4] = [("1", "ONE"), ("1", "TWO"), ("2", "ONE"), ("2", "LARGE")];

struct World {
    rig: Rig,
    test: HostileUnderTest,
    claims: BTreeMap<&'static str, Claim>,
}

impl World {
    async fn new(test: HostileUnderTest) -> Self {
        let rig = rig();
        let mut claims = BTreeMap::new();
        for native in ["1", "2"] {
            let claim = rig.claim(&repository(native), Origin::Repository, Rig::spec()).await;
            claims.insert(native, claim.expect("a claim"));
        }
        let world = Self { rig, test, claims };
        for (native, secret) in SECRETS {
            world.set(native, secret, "first").await;
        }
        world
    }

    fn value(native: &str, secret: &str, version: &str) -> Vec<u8> {
        match secret {
            // Of one letter, which no masker looks for, for that takes its time.
            "LARGE" => version[..1].repeat(70_000).into_bytes(),
            _ => format!("{version} value of {secret} in {native}").into_bytes(),
        }
    }

    async fn set(&self, native: &str, secret: &str, version: &str) {
        let grant = self.rig.grant(&user(), &repository(native)).await.expect("a grant");
        let new = NewSecret::file(SecretValue::new(Self::value(native, secret, version)));
        self.test.store.set(&grant, &name(secret), new).await.expect("the secret is set");
    }

    async fn delete(&self, native: &str, secret: &str) {
        let grant = self.rig.grant(&user(), &repository(native)).await.expect("a grant");
        self.test.store.delete(&grant, &name(secret)).await.expect("the secret is deleted");
    }

    /// A value, or why there is none.
    async fn read(&self, native: &str, secret: &str) -> Result<Vec<u8>, ErrorKind> {
        let trusted = self.claims[native].trusted().expect("trusted");
        let lease = self.test.store.lease(trusted, &[name(secret)]).await.map_err(|error| error.kind())?;
        let value = lease.value(&name(secret)).map_err(|error| error.kind())?;
        Ok(value.expose().to_vec())
    }

    /// That every secret is what was set, or an error of one of `kinds`; and how many were errors.
    async fn check(&self, version: &str, kinds: &[ErrorKind], what: &str) -> usize {
        let mut errors = 0;
        for (native, secret) in SECRETS {
            match self.read(native, secret).await {
                Ok(value) => {
                    let is_right = value == Self::value(native, secret, version);
                    assert!(is_right, "{what}: {secret} of {native} is another value");
                }
                Err(kind) => {
                    assert!(kinds.contains(&kind), "{what}: {secret} of {native} is {kind:?}");
                    errors += 1;
                }
            }
        }
        errors
    }

    async fn rows(&self) -> Vec<Record> {
        let mut rows = self.below(&Key::new("secret")).await;
        rows.extend(self.below(&Key::new("key")).await);
        rows
    }

    async fn below(&self, prefix: &Key) -> Vec<Record> {
        self.test.records.list(prefix, None, 1_000).await.expect("a list")
    }

    async fn commit(&self, batch: Batch) {
        self.test.records.commit(batch).await.expect("it is written");
    }

    async fn write(&self, key: &Key, value: Bytes) {
        self.commit(Batch::new().put(key.clone(), value)).await;
    }
}

/// What a store says of a row that is not what was stored: a key that it does not know may have been destroyed, and one
/// that another root key wrapped may be another installation's.
const WRONG: [ErrorKind; 3] = [ErrorKind::Tampered, ErrorKind::NotFound, ErrorKind::Unavailable];

/// Neither a value nor what its policy says.
pub async fn no_value_and_no_policy_lies_in_the_records(test: HostileUnderTest) {
    let world = World::new(test).await;
    let grant = world.rig.grant(&user(), &repository("1")).await.expect("a grant");
    let policy = SecretPolicy::default().with_trust(Trust::Protected);
    let new = NewSecret::new(SecretValue::new("correct horse battery staple")).with_policy(policy);
    world.test.store.set(&grant, &name("TOKEN"), new).await.expect("the secret is set");
    for needle in ["correct horse battery staple", "value of ONE", "Protected", "protected"] {
        let found = world.test.records.scan_raw(needle.as_bytes()).await.expect("a scan");
        assert_eq!(found, 0, "{needle:?} lies in the records");
    }
}

/// Every row with every other.
pub async fn swapped_rows_are_noticed(test: HostileUnderTest) {
    let world = World::new(test).await;
    let rows = world.rows().await;
    for (index, one) in rows.iter().enumerate() {
        for other in &rows[index + 1..] {
            let swapped = Batch::new()
                .put(one.key.clone(), other.value.clone())
                .put(other.key.clone(), one.value.clone());
            world.commit(swapped).await;
            let what = format!("{} swapped with {}", one.key, other.key);
            assert!(world.check("first", &WRONG, &what).await > 0, "{what}: nobody noticed");
            let back = Batch::new()
                .put(one.key.clone(), one.value.clone())
                .put(other.key.clone(), other.value.clone());
            world.commit(back).await;
        }
    }
    assert_eq!(world.check("first", &[], "put back").await, 0);
}

/// Every row over every other.
pub async fn copied_rows_are_noticed(test: HostileUnderTest) {
    let world = World::new(test).await;
    let rows = world.rows().await;
    for from in &rows {
        for to in rows.iter().filter(|to| to.key != from.key) {
            world.write(&to.key, from.value.clone()).await;
            let what = format!("{} copied to {}", from.key, to.key);
            // The key that is current matters to who writes.
            let is_pointer = to.key.as_str().ends_with("/current");
            assert!(world.check("first", &WRONG, &what).await > 0 || is_pointer, "{what}: nobody noticed");
            world.write(&to.key, to.value.clone()).await;
        }
    }
    assert_eq!(world.check("first", &[], "put back").await, 0);
}

/// Bytes from all over each row. A commitment that nobody compares is noticed here.
pub async fn changed_bytes_are_noticed(test: HostileUnderTest) {
    const MOST: usize = 48;
    let world = World::new(test).await;
    for row in world.rows().await {
        let is_pointer = row.key.as_str().ends_with("/current");
        for index in (0..row.value.len()).step_by(row.value.len().div_ceil(MOST).max(1)) {
            let mut changed = row.value.to_vec();
            changed[index] ^= 1;
            world.write(&row.key, changed.into()).await;
            let what = format!("byte {index} of {}", row.key);
            assert!(world.check("first", &WRONG, &what).await > 0 || is_pointer, "{what}: nobody noticed");
        }
        for shorter in [row.value.slice(..row.value.len().saturating_sub(1)), Bytes::new()] {
            world.write(&row.key, shorter).await;
            let what = format!("the end of {}", row.key);
            assert!(world.check("first", &WRONG, &what).await > 0 || is_pointer, "{what}: nobody noticed");
        }
        world.write(&row.key, row.value).await;
    }
    assert_eq!(world.check("first", &[], "put back").await, 0);
}

/// A secret that is gone was deleted by somebody who may, or it is an error that says otherwise.
pub async fn deleted_rows_are_missed(test: HostileUnderTest) {
    let world = World::new(test).await;
    for row in world.below(&Key::new("secret")).await {
        world.commit(Batch::new().delete(row.key.clone())).await;
        let what = format!("{} deleted", row.key);
        assert!(world.check("first", &[ErrorKind::Tampered], &what).await > 0, "{what}: nobody noticed");
        world.write(&row.key, row.value).await;
    }
    assert_eq!(world.check("first", &[], "put back").await, 0);
}

/// Each row by itself, and all rows of a secret together.
pub async fn rows_of_before_are_noticed(test: HostileUnderTest) {
    let world = World::new(test).await;
    let before = world.below(&Key::new("secret")).await;
    for (native, secret) in SECRETS {
        world.set(native, secret, "second").await;
    }
    let after = world.below(&Key::new("secret")).await;
    for row in &before {
        world.write(&row.key, row.value.clone()).await;
        let what = format!("{} put back", row.key);
        assert!(
            world.check("second", &[ErrorKind::Tampered], &what).await > 0 || is_in(&after, row),
            "{what}"
        );
        restore(&world, &after).await;
    }
    for (native, secret) in SECRETS {
        let prefix = Key::new("secret").repository(&repository(native));
        let rows = before.iter().filter(|row| row.key.is_below(&prefix) && row.key.as_str().contains(secret));
        let batch = rows.fold(Batch::new(), |batch, row| batch.put(row.key.clone(), row.value.clone()));
        assert!(!batch.puts.is_empty());
        world.commit(batch).await;
        assert_eq!(world.read(native, secret).await, Err(ErrorKind::Tampered), "an old {secret} of {native}");
        restore(&world, &after).await;
    }
    assert_eq!(world.check("second", &[], "put back").await, 0);
}

/// A revoked secret does not come back.
pub async fn rows_of_a_deleted_secret_are_noticed(test: HostileUnderTest) {
    let world = World::new(test).await;
    let before = world.below(&Key::new("secret")).await;
    world.delete("2", "LARGE").await;
    assert_eq!(world.read("2", "LARGE").await, Err(ErrorKind::NotFound), "it was deleted");
    let rows = before.iter().filter(|row| row.key.as_str().contains("LARGE"));
    let batch = rows.fold(Batch::new(), |batch, row| batch.put(row.key.clone(), row.value.clone()));
    world.commit(batch).await;
    assert_eq!(world.read("2", "LARGE").await, Err(ErrorKind::Tampered), "a revoked secret came back");
    world.delete("2", "LARGE").await;
    assert_eq!(world.read("2", "LARGE").await, Err(ErrorKind::NotFound), "deleting is the way out");
}

/// The keys tell that there was something.
pub async fn secrets_deleted_together_are_missed(test: HostileUnderTest) {
    let world = World::new(test).await;
    let rows = world.below(&Key::new("secret")).await;
    let batch = rows.iter().fold(Batch::new(), |batch, row| batch.delete(row.key.clone()));
    world.commit(batch).await;
    for (native, secret) in SECRETS {
        assert_eq!(world.read(native, secret).await, Err(ErrorKind::Tampered), "{secret} of {native}");
    }
}

/// Nothing of it is left in this process's memory when the lease has been dropped.
pub async fn no_value_outlives_its_lease(test: HostileUnderTest) {
    let Some(remembered) = Remembered::new() else { return };
    let world = World::new(test).await;
    let grant = world.rig.grant(&user(), &repository("1")).await.expect("a grant");
    let value = SecretValue::new(std::mem::take(&mut *remembered.bytes()));
    world.test.store.put(&grant, &name("TOKEN"), value).await.expect("the secret is set");
    let trusted = world.claims["1"].trusted().expect("trusted");
    let lease = world.test.store.lease(trusted, &[name("TOKEN")]).await.expect("a lease");
    assert_eq!(lease.mask_text("nothing to hide"), "nothing to hide");
    assert!(remembered.copies() > 0, "the search finds a value that is there");
    drop(lease);
    // Ciphers that are not optimized leave what they worked on upon the stack, for the next one to write over.
    world.set("1", "ONE", "first").await;
    assert_eq!(world.check("first", &[], "others").await, 0);
    assert_eq!(remembered.copies(), 0, "copies of a value are left when its lease is gone");
}

fn is_in(rows: &[Record], row: &Record) -> bool {
    rows.iter().any(|after| after.key == row.key && after.value == row.value)
}

async fn restore(world: &World, rows: &[Record]) {
    let batch = rows.iter().fold(Batch::new(), |batch, row| batch.put(row.key.clone(), row.value.clone()));
    world.commit(batch).await;
}
