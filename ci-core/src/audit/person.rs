//! What the log calls people.
//!
//! ```text
//! audit/<tenant>/person/<SHA-256 of the person's id>/pseudonym   32 hexadecimal digits, drawn at random
//! ```

use data_encoding::HEXLOWER;

use super::{Audit, tampered};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Digest, TenantId, UserId, random_bytes};
use crate::operator::Act;
use crate::records::{Batch, Condition, Key};

impl Audit {
    /// What the log of `tenant` calls a person, if they have ever been in it: to find what they did.
    ///
    /// It is drawn at random for each tenant, so it says nothing about the person, and the same person is somebody else in
    /// the log of another tenant. Who can read the store and knows a person's id can look theirs up, as this does, until it
    /// is [forgotten](Self::forget).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when the act is for another tenant; [`ErrorKind::Tampered`] when it is not what was stored;
    /// [`ErrorKind::Unavailable`] when the store cannot be reached.
    ///
    /// # Example
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
    /// use ci_core::audit::Entry;
    /// use ci_core::memory::Rig;
    /// # use ci_core::id::TenantId;
    ///
    /// # let (rig, tenant) = (Rig::new()?, TenantId::parse("acme")?);
    /// let ada = Rig::user("ada")?;
    /// rig.audit.record(&tenant, Entry::new("secret.set", &ada)).await?;
    ///
    /// let act = rig.operator.act(&tenant, "account.erased").await?;
    /// let called = rig.audit.pseudonym(&act, &tenant, &ada).await?.expect("she did something");
    /// assert_eq!(rig.audit.entries(&act, &tenant, 0).await?[0].entry.actor, called);
    ///
    /// rig.audit.forget(&act, &tenant, &ada).await?; // the entry stays, and nobody can say any more whose it is
    /// assert_eq!(rig.audit.pseudonym(&act, &tenant, &ada).await?, None);
    /// # Ok::<(), ci_core::Error>(()) })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn pseudonym(
        &self,
        act: &Act<'_>,
        tenant: &TenantId,
        person: &UserId,
    ) -> Result<Option<String>> {
        act.covers(tenant)?;
        self.known(tenant, person).await
    }

    /// Destroys what links a person to their pseudonym in the log of `tenant`, and returns whether there was anything. The
    /// entries stay as they are, and so does the chain; if the person does something again, they are somebody new. Copies
    /// of the store that lie elsewhere are out of reach.
    ///
    /// # Errors
    ///
    /// As for [`pseudonym`](Self::pseudonym); calling again finishes it.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, it may have happened; calling again finishes it.
    pub async fn forget(&self, act: &Act<'_>, tenant: &TenantId, person: &UserId) -> Result<bool> {
        act.covers(tenant)?;
        Ok(self.records.purge(&folder(tenant, person)).await? > 0)
    }

    /// What the log calls a person, from now on if it has never called them anything.
    pub(super) async fn name(&self, tenant: &TenantId, person: &UserId) -> Result<String> {
        if let Some(known) = self.known(tenant, person).await? {
            return Ok(known);
        }
        let (place, new) = (place(tenant, person), HEXLOWER.encode(&random_bytes::<16>()));
        let batch = Batch::new().require(Condition::Absent(place.clone())).put(place, new.clone());
        match self.records.commit(batch).await {
            Ok(_) => Ok(actor(&new)),
            // Somebody else was first.
            Err(error) if error.kind() == ErrorKind::Conflict => {
                self.known(tenant, person).await?.ok_or_else(|| {
                    Error::new(ErrorKind::Unavailable, "write to the audit log")
                        .because("who it is about is being forgotten")
                })
            }
            Err(error) => Err(error),
        }
    }

    async fn known(&self, tenant: &TenantId, person: &UserId) -> Result<Option<String>> {
        let Some(record) = self.records.get(&place(tenant, person)).await? else { return Ok(None) };
        let is_hex = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let text = std::str::from_utf8(&record.value).ok();
        let text = text.filter(|text| text.len() == 32 && text.as_bytes().iter().all(is_hex));
        match text {
            Some(text) => Ok(Some(actor(text))),
            None => Err(tampered("look up a person of the audit log").with("record", &record.key)),
        }
    }
}

fn actor(pseudonym: &str) -> String {
    format!("person/{pseudonym}")
}

fn folder(tenant: &TenantId, person: &UserId) -> Key {
    let id = Key::new(person.forge().as_str()).part(person.native().as_str());
    let id = Digest::of(id.as_str().as_bytes());
    Key::new("audit").part(tenant.as_str()).part("person").part(id.as_str())
}

fn place(tenant: &TenantId, person: &UserId) -> Key {
    folder(tenant, person).part("pseudonym")
}
