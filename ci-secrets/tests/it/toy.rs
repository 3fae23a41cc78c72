//! A small sealed store that is right, or wrong in one way: the kits must catch each of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use ci_core::access::{Grant, Read, Write};
use ci_core::audit::{Audit, Entry};
use ci_core::clock::{Clock as _, ManualClock};
use ci_core::conformance::{Setup, run};
use ci_core::id::{Digest, RepositoryId, SecretName};
use ci_core::memory::{Database, Masking, Rig};
use ci_core::queue::TrustedClaim;
use ci_core::records::{Batch, Key, Records};
use ci_core::seal::{Context, DataKey, Opened};
use ci_core::secret::{
    Learned, Masker, NewSecret, SecretInfo, SecretLease, SecretStore, SecretValue, Sensitive, Stored,
};
use ci_core::{Error, ErrorKind, Result};
use ci_secrets::conformance::hostile::{self, HostileUnderTest};
use ci_secrets::conformance::secret_store::{self, StoreUnderTest};
use data_encoding::HEXLOWER;
use zeroize::Zeroizing;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    None,
    /// Seals without saying for what.
    NoPlace,
    /// Tries the other repository's key when its own does not fit.
    NextKey,
    /// Compares no row with the list.
    NoList,
    /// Takes a missing list for an empty one.
    NoListIsEmpty,
    /// Opens without looking at the first byte of a row.
    HalfARow,
    /// Keeps a value in memory that was leased.
    KeepsValues,
    /// Gives a secret to everybody who may have one.
    NoPolicy,
    /// Lets a new value widen a policy.
    ForgetsPolicy,
    /// Keeps what it says of a secret in the open.
    OpenPolicy,
    /// Says that everything can be hidden.
    Hopeful,
    /// Takes every file for a variable.
    NoKind,
}

/// A list of names and digests beside one row for each secret.
#[derive(Debug)]
struct Toy {
    records: Arc<dyn Records>,
    audit: Audit,
    clock: Arc<ManualClock>,
    keys: BTreeMap<String, DataKey>,
    writing: tokio::sync::Mutex<()>,
    kept: Mutex<Vec<Vec<u8>>>,
    flaw: Flaw,
}

type List = BTreeMap<SecretName, Digest>;

impl Toy {
    fn with(flaw: Flaw) -> HostileUnderTest {
        let rig = Rig::new().expect("a rig");
        let records: Arc<dyn Records> = Arc::new(Database::new(rig.clock.clone()));
        let audit = Audit::new(records.clone(), rig.clock.clone());
        let key = |native: &str| (native.to_owned(), DataKey::random());
        let store = Arc::new(Self {
            records: records.clone(),
            audit: audit.clone(),
            clock: rig.clock.clone(),
            keys: [key("1"), key("2")].into(),
            writing: tokio::sync::Mutex::default(),
            kept: Mutex::default(),
            flaw,
        });
        HostileUnderTest { store, audit, records }
    }

    fn place(repository: &RepositoryId, kind: &str) -> Key {
        Key::new("secret").repository(repository).part(kind)
    }

    fn context(&self, place: &Key) -> Context {
        let place = if self.flaw == Flaw::NoPlace { "anywhere" } else { place.as_str() };
        Context::new("toy").field(place)
    }

    fn seal(&self, repository: &RepositoryId, place: &Key, plain: &[u8]) -> Bytes {
        let key = &self.keys[if self.flaw == Flaw::NoPlace { "1" } else { repository.native().as_str() }];
        let sealed = key.seal(&self.context(place), plain);
        if self.flaw == Flaw::HalfARow { [&b"!"[..], &sealed].concat().into() } else { sealed }
    }

    fn open(&self, repository: &RepositoryId, place: &Key, row: &[u8]) -> Result<Opened> {
        let row = if self.flaw == Flaw::HalfARow { row.get(1..).unwrap_or_default() } else { row };
        let own = if self.flaw == Flaw::NoPlace { "1" } else { repository.native().as_str() };
        let opened = self.keys[own].open(&self.context(place), row);
        if opened.is_err() && self.flaw == Flaw::NextKey {
            let other = if own == "1" { "2" } else { "1" };
            let theirs = place.as_str().replace(&format!("/{own}/"), &format!("/{other}/"));
            let theirs = Key::from_stored(theirs).expect("a key");
            return self.keys[other].open(&self.context(&theirs), row);
        }
        opened
    }

    async fn list_of(&self, repository: &RepositoryId) -> Result<List> {
        let place = Self::place(repository, "list");
        let tampered = || Error::new(ErrorKind::Tampered, "read the list");
        match self.records.get(&place).await? {
            Some(row) => {
                let plain = self.open(repository, &place, &row.value)?;
                serde_json::from_slice(&plain).map_err(|error| tampered().caused_by(error))
            }
            // What was ever written leaves a mark in memory: a toy has no hierarchy.
            None if self.flaw == Flaw::NoListIsEmpty || !self.was_used(repository) => Ok(List::new()),
            None => Err(tampered()),
        }
    }

    /// What ignores the place is seen only where no list says what should be there.
    fn compares(&self) -> bool {
        !matches!(self.flaw, Flaw::NoList | Flaw::NoPlace | Flaw::NextKey)
    }

    fn was_used(&self, repository: &RepositoryId) -> bool {
        let mark = repository.to_string().into_bytes();
        self.kept.lock().expect("unpoisoned").contains(&mark)
    }

    async fn row(&self, repository: &RepositoryId, name: &SecretName) -> Result<(SecretInfo, SecretValue)> {
        let list = self.list_of(repository).await?;
        let place = Self::place(repository, "row").part(name.as_str());
        let row = self.records.get(&place).await?;
        let tampered = || Error::new(ErrorKind::Tampered, "read a secret");
        let row = match (list.get(name), row) {
            (Some(digest), Some(row)) if *digest == Digest::of(&row.value) => row,
            (_, Some(row)) if !self.compares() => row,
            (_, None) if !self.compares() => return Err(Error::new(ErrorKind::NotFound, "read")),
            (None, None) => return Err(Error::new(ErrorKind::NotFound, "read a secret")),
            _ => return Err(tampered()),
        };
        let plain = self.open(repository, &place, &row.value)?;
        let (info, value) = serde_json::from_slice::<(SecretInfo, String)>(&plain)
            .map_err(|error| tampered().caused_by(error))?;
        let value = Zeroizing::new(value);
        let mut bytes = vec![0; value.len() / 2];
        HEXLOWER.decode_mut(value.as_bytes(), &mut bytes).map_err(|_| tampered())?;
        Ok((info, SecretValue::new(bytes)))
    }

    async fn write(
        &self,
        repository: &RepositoryId,
        entry: Entry,
        name: &SecretName,
        new: Option<(SecretInfo, SecretValue)>,
    ) -> Result<()> {
        let mut list = self.list_of(repository).await?;
        let place = Self::place(repository, "row").part(name.as_str());
        self.audit.record(repository.tenant(), entry).await?;
        let mut batch = Batch::new();
        if let Some((info, value)) = new {
            if self.flaw == Flaw::OpenPolicy {
                let shown = Self::place(repository, "shown").part(name.as_str());
                batch = batch.put(shown, format!("{:?}", info.policy));
            }
            let mut digits = Zeroizing::new(String::with_capacity(value.expose().len() * 2));
            HEXLOWER.encode_append(value.expose(), &mut digits);
            let mut plain = Zeroizing::new(Vec::with_capacity(digits.len() + 4_096));
            serde_json::to_writer(&mut *plain, &(&info, &*digits)).expect("JSON");
            let row = self.seal(repository, &place, &plain);
            list.insert(name.clone(), Digest::of(&row));
            batch = batch.put(place, row);
        } else {
            list.remove(name);
            batch = batch.delete(place);
        }
        let place = Self::place(repository, "list");
        let list = self.seal(repository, &place, &serde_json::to_vec(&list).expect("JSON"));
        self.records.commit(batch.put(place, list)).await?;
        self.kept.lock().expect("unpoisoned").push(repository.to_string().into_bytes());
        Ok(())
    }
}

#[async_trait]
impl SecretStore for Toy {
    async fn lease(&self, claim: TrustedClaim<'_>, names: &[SecretName]) -> Result<SecretLease> {
        let repository = claim.claim().scope()?.repository();
        let mut secrets = Vec::new();
        for name in names {
            let (info, value) = self.row(repository, name).await?;
            if self.flaw == Flaw::KeepsValues {
                self.kept.lock().expect("unpoisoned").push(value.expose().to_vec());
            }
            let info = match self.flaw {
                Flaw::NoPolicy => info.with_policy(ci_secrets::SecretPolicy::default()),
                Flaw::NoKind => info.with_kind(ci_core::secret::SecretKind::Variable),
                _ => info,
            };
            info.admit(claim)?;
            secrets.push((info, value));
        }
        let entry = Entry::new("secret.leased", "job").about("job", claim.claim().job());
        self.audit.record(repository.tenant(), entry).await?;
        SecretLease::under_policies(claim, secrets, self.masker())
    }

    async fn set(&self, grant: &Grant<Write>, name: &SecretName, new: NewSecret) -> Result<Stored> {
        let _writing = self.writing.lock().await;
        let repository = grant.scope()?.repository();
        let before = match self.row(repository, name).await {
            Ok((info, _)) if self.flaw == Flaw::ForgetsPolicy => {
                Some(info.with_policy(ci_secrets::SecretPolicy::default()))
            }
            Ok((info, _)) => Some(info),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let info = SecretInfo::after(before.as_ref(), name, &new, self.clock.now());
        let value = SecretValue::new(new.value().expose());
        let masking = match self.flaw {
            Flaw::Hopeful => Learned::Hidden,
            _ => self.masker().learn(&Sensitive::Credential, &value),
        };
        let entry = Entry::new("secret.set", grant.user());
        self.write(repository, entry, name, Some((info.clone(), value))).await?;
        Ok(Stored { info, masking })
    }

    async fn list(&self, grant: &Grant<Read>) -> Result<Vec<SecretInfo>> {
        let repository = grant.scope()?.repository();
        let mut infos = Vec::new();
        for name in self.list_of(repository).await?.keys() {
            infos.push(self.row(repository, name).await?.0);
        }
        Ok(infos)
    }

    async fn delete(&self, grant: &Grant<Write>, name: &SecretName) -> Result<()> {
        let _writing = self.writing.lock().await;
        self.write(grant.scope()?.repository(), Entry::new("secret.deleted", grant.user()), name, None).await
    }

    fn masker(&self) -> Arc<dyn Masker> {
        Arc::new(Masking::new())
    }
}

mod right {
    use super::*;

    ci_secrets::hostile_kit!(async || Setup::ready(Toy::with(Flaw::None)));
}

macro_rules! caught {
    ($($test:ident: $flaw:ident by $kit:ident::$case:ident, $said:literal;)*) => {
        $(
            #[test]
            #[should_panic(expected = $said)]
            fn $test() {
                run(stringify!($flaw), async || Setup::ready($kit::of(Toy::with(Flaw::$flaw))), $kit::kit::$case);
            }
        )*
    };
}

mod rows {
    pub(super) use super::hostile as kit;
    use super::*;

    pub(super) fn of(test: HostileUnderTest) -> HostileUnderTest {
        test
    }
}

mod store {
    pub(super) use super::secret_store as kit;
    use super::*;

    pub(super) fn of(test: HostileUnderTest) -> StoreUnderTest {
        StoreUnderTest { store: test.store, audit: test.audit }
    }
}

caught! {
    a_store_that_ignores_the_place_is_caught: NoPlace by rows::copied_rows_are_noticed, "nobody noticed";
    a_store_that_tries_the_next_key_is_caught: NextKey by rows::swapped_rows_are_noticed, "nobody noticed";
    a_store_that_compares_nothing_is_caught: NoList by rows::rows_of_before_are_noticed, "put back";
    a_store_that_misses_nothing_is_caught: NoList by rows::deleted_rows_are_missed, "is NotFound";
    a_store_whose_list_may_be_missing_is_caught: NoListIsEmpty by rows::secrets_deleted_together_are_missed, "NotFound";
    a_store_that_opens_half_a_row_is_caught: HalfARow by rows::changed_bytes_are_noticed, "nobody noticed";
    a_store_that_keeps_values_is_caught: KeepsValues by rows::no_value_outlives_its_lease, "copies of a value are left";
    a_store_with_open_policies_is_caught: OpenPolicy by rows::no_value_and_no_policy_lies_in_the_records, "lies in the records";
    a_store_that_ignores_policies_is_caught: NoPolicy by store::a_policy_asks_for_trust, "assertion failed";
    a_store_that_forgets_policies_is_caught: ForgetsPolicy by store::a_policy_is_shown_and_kept, "assertion";
    a_store_that_hides_everything_is_caught: Hopeful by store::who_sets_a_secret_learns_whether_it_can_be_hidden, "assertion";
    a_store_that_ignores_the_kind_is_caught: NoKind by store::a_file_is_no_variable, "assertion failed";
}
