//! The vault as the store of secrets that people set and jobs lease.

use std::sync::Arc;

use async_trait::async_trait;
use ci_core::access::{Grant, Read, Write};
use ci_core::audit::Entry;
use ci_core::id::SecretName;
use ci_core::queue::{Claim, TrustedClaim};
use ci_core::records::Batch;
use ci_core::seal::DataKey;
use ci_core::secret::{Mark, Masker, NewSecret, SecretInfo, SecretLease, SecretStore, SecretValue, Stored};
use ci_core::{Error, ErrorKind, Result};

use super::context::Kind;
use super::manifest::{Listed, digest};
use super::row::{Place, kind_of_value};
use super::snapshot::missing as no_list;
use super::{Vault, about, missing, value};
use crate::hierarchy::Current;
use crate::masker::StreamMasker;

const SET: &str = "set a secret";

#[async_trait]
impl SecretStore for Vault {
    async fn lease(&self, claim: TrustedClaim<'_>, names: &[SecretName]) -> Result<SecretLease> {
        self.lease_all(claim, names).await
    }

    async fn watch(&self, claim: &Claim) -> Result<SecretLease> {
        self.watched(claim).await
    }

    async fn set(&self, grant: &Grant<Write>, name: &SecretName, new: NewSecret) -> Result<Stored> {
        let repository = grant.scope()?.repository();
        if !(1..=Self::MOST_BYTES).contains(&new.value().expose().len()) {
            return Err(Error::new(ErrorKind::Invalid, SET)
                .because("a value has 1 to 1048576 bytes")
                .with("secret", name));
        }
        let place = Place { repository, name };
        let key = self.hierarchy.current(repository).await?;
        let entry =
            about(Entry::new("secret.set", grant.user()), repository).about("secret", place.tag(&key));
        let commit = async |audit: Batch| {
            // A rotation may have moved on to another key since.
            let Current { key, still } = self.hierarchy.current_to_write(repository).await?;
            let (batch, mark, info) = self.setting(place, &key, &new).await?;
            grant.scope()?;
            // The audit log's condition says as much as `still`, because a rotation writes its entry in the commit in
            // which it moves on. That nothing is written under a former key is not to hang on that.
            self.records.commit(batch.and(audit).require(still)).await?;
            Ok((mark, info))
        };
        let (mark, info) = self.audit.attempt(repository.tenant(), entry, commit).await?;
        self.remember(repository, &mark).await?;
        let masking = StreamMasker::judged(new.value());
        Ok(Stored { info, masking })
    }

    async fn list(&self, grant: &Grant<Read>) -> Result<Vec<SecretInfo>> {
        let found = self.infos(grant.scope()?.repository()).await?;
        grant.scope()?;
        Ok(found)
    }

    async fn delete(&self, grant: &Grant<Write>, name: &SecretName) -> Result<()> {
        let repository = grant.scope()?.repository();
        let place = Place { repository, name };
        let key = self.hierarchy.current(repository).await?;
        let entry =
            about(Entry::new("secret.deleted", grant.user()), repository).about("secret", place.tag(&key));
        let commit = async |audit: Batch| {
            let Current { key, still } = self.hierarchy.current_to_write(repository).await?;
            let (batch, mark) = self.deleting(place, &key).await?;
            grant.scope()?;
            self.records.commit(batch.and(audit).require(still)).await?;
            Ok(mark)
        };
        let mark = self.audit.attempt(repository.tenant(), entry, commit).await?;
        self.remember(repository, &mark).await
    }

    fn masker(&self) -> Arc<dyn Masker> {
        Arc::new(StreamMasker::new())
    }
}

impl Vault {
    /// What setting a secret writes.
    async fn setting(
        &self,
        place: Place<'_>,
        key: &DataKey,
        new: &NewSecret,
    ) -> Result<(Batch, Mark, SecretInfo)> {
        let snapshot = self.snapshot(place.repository).await?.ok_or_else(no_list)?;
        let secrets = &snapshot.manifest.secrets;
        let before = match secrets.get(place.name) {
            None if secrets.len() >= Self::MOST_SECRETS => {
                return Err(Error::new(ErrorKind::LimitExceeded, SET)
                    .because("a repository has at most 1000 secrets; delete one first"));
            }
            None => None,
            Some(listed) => {
                let (record, keys) = (self.records.get(&place.info()).await?, self.keys(place.repository));
                match self.open_info(&keys, place, listed, record.as_ref()).await {
                    // Somebody has set it in between: the audit log asks for another try.
                    Err(error) if self.is_outdated(place.repository, &snapshot.record, &error).await? => {
                        return Err(Error::new(ErrorKind::Conflict, SET).caused_by(error));
                    }
                    opened => Some(opened?),
                }
            }
        };
        let info = SecretInfo::after(before.as_ref(), place.name, new, self.clock.now());
        info.check(new.value())?;
        let (rows, listed) = sealed(place, key, &info, new.value())?;
        let mut next = snapshot.manifest.next();
        next.secrets.insert(place.name.clone(), listed);
        let (list, mark) = snapshot.replace(place.repository, key, &next);
        Ok((rows.and(list), mark, info))
    }

    /// What deleting a secret writes. It is not opened: deleting is also the way out when a row has been tampered with.
    async fn deleting(&self, place: Place<'_>, key: &DataKey) -> Result<(Batch, Mark)> {
        let snapshot = self.snapshot(place.repository).await?.ok_or_else(no_list)?;
        let mut next = snapshot.manifest.next();
        if next.secrets.remove(place.name).is_none() {
            let strange = self.records.get_all(&[place.info(), place.value()]).await?;
            if strange.iter().all(Option::is_none) {
                return Err(missing("delete a secret", place.name));
            }
        }
        let (list, mark) = snapshot.replace(place.repository, key, &next);
        Ok((place.clear().and(list), mark))
    }
}

/// The rows of a secret in place of all earlier ones, and what the list says of them.
pub(super) fn sealed(
    place: Place<'_>,
    key: &DataKey,
    info: &SecretInfo,
    value: &SecretValue,
) -> Result<(Batch, Listed)> {
    let shown =
        serde_json::to_vec(info).map_err(|error| Error::new(ErrorKind::Internal, SET).caused_by(error))?;
    let shown = Kind::Info.key(key).seal(&place.info_context(key, info.version), &shown);
    let kept = value::seal(&kind_of_value(info).key(key), &place.value_context(key, info), value);
    let listed = Listed { version: info.version, info: digest(&shown), value: digest(&kept.row) };
    let rows = place.clear().put(place.info(), shown).put(place.value(), kept.row);
    let parts = kept.parts.into_iter().enumerate();
    Ok((parts.fold(rows, |rows, (number, part)| rows.put(place.part(number), part)), listed))
}
