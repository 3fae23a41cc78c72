//! The secrets of a job, all or none.

use std::collections::BTreeSet;

use bytes::Bytes;
use ci_core::audit::Entry;
use ci_core::id::{RepositoryId, SecretName};
use ci_core::queue::TrustedClaim;
use ci_core::records::Record;
use ci_core::seal::key_id;
use ci_core::secret::{SecretInfo, SecretLease, SecretStore as _, SecretValue};
use ci_core::{Error, ErrorKind, Result};

use super::context::Kind;
use super::manifest::{Listed, digest};
use super::row::{Place, kind_of_value};
use super::single::Single;
use super::snapshot::MOST_ROUNDS;
use super::value::{MOST_PARTS, Row};
use super::{Keys, Vault, about, canary, missing, row, withdrawn};

pub(super) const LEASE: &str = "lease secrets";

/// What a lease is made of.
struct Opened {
    secrets: Vec<(SecretInfo, SecretValue)>,
    canary: SecretValue,
}

/// The rows of one secret.
struct Rows<'a> {
    place: Place<'a>,
    info: SecretInfo,
    value: Record,
}

impl Vault {
    pub(super) async fn lease_all(
        &self,
        claim: TrustedClaim<'_>,
        names: &[SecretName],
    ) -> Result<SecretLease> {
        let claimed = claim.claim();
        let repository = claimed.scope()?.repository();
        let end = self.leases.begin(repository, claimed.job());
        let names: BTreeSet<&SecretName> = names.iter().collect();
        let Some(opened) = self.open_all(claim, repository, &names).await? else {
            return match names.first() {
                Some(name) => Err(missing(LEASE, name)),
                None => Ok(SecretLease::empty(claimed, self.masker())),
            };
        };
        if !opened.secrets.is_empty() {
            let key = self.hierarchy.current(repository).await?;
            let mut entry = about(Entry::new("secret.leased", "job").about("job", claimed.job()), repository);
            for name in names {
                entry = entry.about("secret", Place { repository, name }.tag(&key));
            }
            self.audit.record(repository.tenant(), entry).await?;
        }
        // All of this may have taken longer than the claim lasted, which this asks again.
        let lease = SecretLease::under_policies(claim, opened.secrets, self.masker())?.ending_with(&end);
        lease.watch_for(&canary::name(), &opened.canary);
        Ok(lease)
    }

    /// The named secrets as they were at one moment; `None` when the repository never had any.
    async fn open_all(
        &self,
        claim: TrustedClaim<'_>,
        repository: &RepositoryId,
        names: &BTreeSet<&SecretName>,
    ) -> Result<Option<Opened>> {
        let places = || names.iter().map(|name| Place { repository, name });
        let mut keys = vec![row::manifest(repository), Single::Canary.place(repository)];
        keys.extend(places().flat_map(|place| [place.info(), place.value()]));
        for _ in 0..MOST_ROUNDS {
            let mut records = self.records.get_all(&keys).await?.into_iter();
            let (manifest, canary) = (records.next().flatten(), records.next().flatten());
            let Some(manifest) = manifest else {
                // Also when there is a key, which a list belongs to.
                if self.snapshot(repository).await?.is_none() {
                    return Ok(None);
                }
                continue;
            };
            let rows = places().map(|place| (place, records.next().flatten(), records.next().flatten()));
            match self.open_rows(claim, manifest.clone(), canary, rows.collect()).await {
                Ok(opened) => return Ok(Some(opened)),
                // What does not fit together may be what somebody wrote in between, or sealed with another key.
                Err(error) if self.is_outdated(repository, &manifest, &error).await? => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::new(ErrorKind::Unavailable, LEASE).because("they are being set over and over"))
    }

    async fn open_rows(
        &self,
        claim: TrustedClaim<'_>,
        manifest: Record,
        canary: Option<Record>,
        rows: Vec<(Place<'_>, Option<Record>, Option<Record>)>,
    ) -> Result<Opened> {
        let repository = claim.claim().scope()?.repository();
        let keys = self.keys(repository);
        let manifest = self.opened(&keys, manifest).await?.manifest;
        let canary = canary::value(self.open_single(&keys, &manifest, Single::Canary, canary).await?)?;
        let mut found = Vec::with_capacity(rows.len());
        for (place, info, value) in rows {
            let Some(listed) = manifest.secrets.get(place.name) else {
                // A row that is not listed was put there by somebody else.
                let is_there = info.is_some() || value.is_some();
                return Err(if is_there { place.tampered() } else { missing(LEASE, place.name) });
            };
            let info = self.open_info(&keys, place, listed, info.as_ref()).await?;
            info.admit(claim)?;
            let value = value.filter(|record| digest(&record.value) == listed.value);
            let value = value.ok_or_else(|| place.tampered())?;
            found.push(Rows { place, info, value });
        }
        self.open_values(&keys, found).await.map(|secrets| Opened { secrets, canary })
    }

    /// Opens values, when it is known that all of them may be given.
    async fn open_values(
        &self,
        keys: &Keys<'_>,
        rows: Vec<Rows<'_>>,
    ) -> Result<Vec<(SecretInfo, SecretValue)>> {
        let mut values = Vec::with_capacity(rows.len());
        let mut bytes = 0;
        for Rows { place, info, value } in rows {
            let value = self.open_value(keys, place, &info, &value).await?;
            if value.expose().is_empty() {
                return Err(withdrawn(place.name));
            }
            bytes += value.expose().len();
            if bytes > Self::MOST_LEASED {
                return Err(Error::new(ErrorKind::LimitExceeded, LEASE)
                    .because("the secrets of one job have at most 4 MiB together"));
            }
            values.push((info, value));
        }
        Ok(values)
    }

    /// Opens what people may see of a secret, if it is what the list says.
    pub(super) async fn open_info(
        &self,
        keys: &Keys<'_>,
        place: Place<'_>,
        listed: &Listed,
        record: Option<&Record>,
    ) -> Result<SecretInfo> {
        let record = record.filter(|record| digest(&record.value) == listed.info);
        let record = record.ok_or_else(|| place.tampered())?;
        let key = keys.get(&key_id(&record.value)?).await?;
        let shown = Kind::Info.key(&key).open(&place.info_context(&key, listed.version), &record.value)?;
        let info: SecretInfo =
            serde_json::from_slice(&shown).map_err(|error| place.tampered().caused_by(error))?;
        let is_it = info.name == *place.name && info.version == listed.version;
        if is_it { Ok(info) } else { Err(place.tampered()) }
    }

    /// Opens a value whose row is the one that the list names.
    pub(super) async fn open_value(
        &self,
        keys: &Keys<'_>,
        place: Place<'_>,
        info: &SecretInfo,
        record: &Record,
    ) -> Result<SecretValue> {
        let tampered = || place.tampered();
        let row = Row::parse(&record.value).ok_or_else(tampered)?;
        let key = keys.get(&row.key_id().ok_or_else(tampered)?).await?;
        let mut parts: Vec<Bytes> = Vec::new();
        if row.parts() > 0 {
            let found = self.records.list(&place.parts(), None, MOST_PARTS + 1).await?;
            let is_in_place = |(number, part): (usize, &Record)| part.key == place.part(number);
            if found.len() != row.parts() || !found.iter().enumerate().all(is_in_place) {
                return Err(tampered());
            }
            parts.extend(found.into_iter().map(|part| part.value));
        }
        let context = place.value_context(&key, info);
        row.open(&kind_of_value(info).key(&key), &context, &parts).ok_or_else(tampered)
    }
}
