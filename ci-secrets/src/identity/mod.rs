//! Identity tokens: how a job proves to others who it is, without a stored secret (`OpenID` Connect).
//!
//! [`OidcIssuer`] makes them. [`Audiences`] say for whom, and for which jobs.

mod algorithm;
mod audiences;
mod keys;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ci_core::id::{ForgeId, NativeId, RepositoryId, StepName, TenantId};
use ci_core::identity::{Audience, IssuerUrl, Statement, TokenIssuer};
use ci_core::operator::Act;
use ci_core::queue::Claim;
use ci_core::seal::Opened;
use ci_core::secret::SecretValue;
use ci_core::{Error, ErrorKind, Result};
use data_encoding::BASE64URL_NOPAD;
use serde_json::json;

use crate::strongbox::{Change, Strongbox};
use crate::vault::{Single, Vault};
use keys::Keys;

pub use algorithm::Algorithm;
pub use audiences::Audiences;

const MAKE: &str = "make an identity token";

/// Makes identity tokens for jobs, signed with keys that lie sealed in a vault's records.
///
/// The integrator serves two documents, [`discovery`](TokenIssuer::discovery) and [`jwks`](TokenIssuer::jwks), over HTTPS
/// at the addresses that [`IssuerUrl`] tells, and teaches every token to the job's masker. Every token has its entry in
/// the audit log before it is released.
///
/// # Replacing keys
///
/// [`rotate`](Self::rotate) makes the next keys. They are published at once and sign when they have been for the time of
/// [`with_lead`](Self::with_lead); the ones before stay published until their last token has expired. No token that has not
/// expired ever fails to verify with a key set that was fetched within that time. All of it is one transaction: many
/// processes share the keys through the records, and one that is killed leaves them as they were or as they shall be.
/// Call it every few weeks. When a key may be known to somebody, [`replace`](Self::replace).
///
/// # What it does not protect from
///
/// Somebody who can write to the database can destroy the keys, and is noticed: they stand in a list, as secrets do. That
/// keys were put back together with that list, or deleted together with the key that seals both, takes an
/// [anchor](Vault::with_anchor) to be noticed; without one a key signs again then which was replaced, or new ones are
/// made, and tokens fail to verify. None can be forged. A process whose calendar is wrong makes tokens that are rejected.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// # use std::{sync::Arc, time::Duration};
/// # use ci_core::{id::{StepName, TenantId}, memory::Rig, trust::Origin};
/// use ci_core::identity::{Audience, IssuerUrl, TokenIssuer as _};
/// use ci_secrets::identity::{Algorithm, Audiences, OidcIssuer};
/// # use ci_secrets::{FileRoot, Vault};
/// # let folder = tempfile::tempdir().expect("a folder");
/// # let root = Arc::new(FileRoot::create(folder.path().join("root.key"))?);
/// # let rig = Rig::new()?;
/// # let vault = Arc::new(Vault::new(rig.records(), rig.audit.clone(), root, rig.clock.clone()));
/// # let claim = rig.claim(&Rig::repository("1", "acme")?, Origin::Protected, Rig::spec()).await?;
///
/// let url = IssuerUrl::parse("https://ci.example.org")?;
/// let issuer = OidcIssuer::new(vault, url, Audiences::any(Algorithm::Es256))?;
/// let (step, cloud) = (StepName::parse("test")?, Audience::parse("https://cloud.example.org")?);
/// let token = issuer.token(&claim, &step, &cloud, Duration::from_mins(5)).await?;
/// # assert_eq!(token.expose().split(|byte| *byte == b'.').count(), 3);
/// let (for_everybody, keys) = (issuer.discovery(), issuer.jwks().await?); // to be served
///
/// let act = rig.operator.act(&TenantId::service(), "token_keys.rotated").await?;
/// issuer.rotate(&act).await?; // from time to time
/// # assert!(for_everybody.contains("ES256") && keys.len() < issuer.jwks().await?.len());
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct OidcIssuer {
    vault: Arc<Vault>,
    url: IssuerUrl,
    audiences: Audiences,
    lead: Duration,
    /// Below whose key the keys lie: of the service itself, and of no tenant.
    place: RepositoryId,
}

impl OidcIssuer {
    /// The issuer `url`, whose keys lie beside the secrets of `vault`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when the audiences need no algorithm, because there are none.
    pub fn new(vault: Arc<Vault>, url: IssuerUrl, audiences: Audiences) -> Result<Self> {
        if audiences.algorithms().is_empty() {
            return Err(Error::new(ErrorKind::Invalid, "make an issuer of identity tokens")
                .because("there is no audience that it makes tokens for"));
        }
        let (native, forge) = (NativeId::parse(url.as_str())?, ForgeId::parse("identity")?);
        let place = RepositoryId::new(native, forge, TenantId::service());
        Ok(Self { vault, url, audiences, lead: Duration::from_hours(24), place })
    }

    /// Replaces for how long a key is published before it signs: 24 hours. Let nobody keep the key set for longer, by the
    /// `Cache-Control` with which it is served.
    pub fn with_lead(mut self, lead: Duration) -> Self {
        self.lead = lead;
        self
    }

    /// Makes the next keys, unless they wait for their time already, and forgets those that no token needs any more.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when the act is not for [the service](TenantId::service); [`ErrorKind::Tampered`] when what
    /// is stored is not what was; [`ErrorKind::Unavailable`] when the keys cannot be had now.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, it may have happened: call it again.
    pub async fn rotate(&self, act: &Act<'_>) -> Result<()> {
        act.covers(&TenantId::service())?;
        let algorithms = self.audiences.algorithms();
        self.change("token_keys.made", |keys| keys.rotate(&algorithms, self.vault.clock.now(), self.lead))
            .await
    }

    /// Destroys all keys and makes new ones, which sign at once: for keys that somebody else may know. Tokens that were
    /// made before fail to verify as soon as verifiers fetch the key set again. It does so also when the keys were
    /// tampered with, as long as the list is whole in which they stand.
    ///
    /// # Errors
    ///
    /// As for [`rotate`](Self::rotate).
    ///
    /// # Cancel safety
    ///
    /// As for [`rotate`](Self::rotate).
    pub async fn replace(&self, act: &Act<'_>) -> Result<()> {
        act.covers(&TenantId::service())?;
        let mut keys = Keys::default();
        keys.complete(&self.audiences.algorithms(), self.vault.clock.now(), self.lead)?;
        let entry = self.strongbox().entry("token_keys.replaced", "operator");
        self.strongbox().change(entry, &|| Ok(()), |_| Ok(Some(Change::Fill(keys.write())))).await
    }

    /// Where the keys lie: beside the secrets of this repository, which is the service's own. Its key is rotated
    /// ([`Vault::rotate_repository`]) and what lies there erased ([`Vault::erase`]) like any other's.
    pub fn repository(&self) -> &RepositoryId {
        &self.place
    }

    fn strongbox(&self) -> Strongbox<'_> {
        Strongbox { vault: &self.vault, repository: &self.place, kind: Single::TokenKeys }
    }

    /// The keys, at least one for every algorithm.
    async fn keys(&self) -> Result<Keys> {
        let algorithms = self.audiences.algorithms();
        let complete = |keys: &mut Keys| keys.complete(&algorithms, self.vault.clock.now(), self.lead);
        let mut keys = self.stored().await?;
        if complete(&mut keys)? {
            self.change("token_keys.made", complete).await?;
            keys = self.stored().await?;
        }
        Ok(keys)
    }

    async fn stored(&self) -> Result<Keys> {
        self.read(self.strongbox().open().await?)
    }

    fn read(&self, found: Option<Opened>) -> Result<Keys> {
        let keys = found.map_or_else(|| Some(Keys::default()), |plain| Keys::read(&plain));
        keys.ok_or_else(|| self.strongbox().tampered())
    }

    async fn change(&self, action: &str, edit: impl Fn(&mut Keys) -> Result<bool> + Sync) -> Result<()> {
        let edited = |found: Result<_>| {
            let mut keys = self.read(found?)?;
            Ok(edit(&mut keys)?.then(|| Change::Fill(keys.write())))
        };
        let strongbox = self.strongbox();
        strongbox.change(strongbox.entry(action, "issuer"), &|| Ok(()), edited).await
    }
}

#[async_trait]
impl TokenIssuer for OidcIssuer {
    async fn token(
        &self,
        claim: &Claim,
        step: &StepName,
        audience: &Audience,
        ttl: Duration,
    ) -> Result<SecretValue> {
        let repository = claim.scope()?.repository();
        let algorithm = self.audiences.allow(audience, claim.trust())?;
        let keys = self.keys().await?;
        let now = self.vault.clock.now();
        let Some(key) = keys.signing(algorithm, now) else {
            let wait = keys.wait(algorithm, now).unwrap_or(self.lead);
            return Err(Error::new(ErrorKind::Unavailable, MAKE)
                .because("the key for this audience has not been published for long enough")
                .retryable_after(wait));
        };
        let private = key.private().ok_or_else(|| self.strongbox().tampered())?;
        let statement = Statement::new(&self.url, claim, step, audience, ttl, now)?;
        let entry = Strongbox { repository, ..self.strongbox() }
            .entry("token.issued", "job")
            .about("job", claim.job())
            .about("audience", audience)
            .about("token", statement.id());
        self.vault.audit.record(repository.tenant(), entry).await?;
        // All of this may have taken longer than the claim lasted.
        claim.fence()?;
        signed(key.algorithm, &private, &statement)
    }

    async fn jwks(&self) -> Result<String> {
        let keys = self.keys().await?;
        let public = |key: &keys::Entry| {
            let private = key.private().ok_or_else(|| self.strongbox().tampered())?;
            Ok(private.jwk(key.algorithm))
        };
        let public: Result<Vec<_>> = keys.published(self.vault.clock.now()).map(public).collect();
        Ok(json!({ "keys": public? }).to_string())
    }

    fn discovery(&self) -> String {
        let names: Vec<_> = self.audiences.algorithms().into_iter().map(Algorithm::name).collect();
        self.url.discovery_document(&names)
    }
}

/// The compact form (RFC 7515, section 7.1).
fn signed(algorithm: Algorithm, key: &algorithm::PrivateKey, statement: &Statement) -> Result<SecretValue> {
    let header = json!({ "alg": algorithm.name(), "typ": "JWT", "kid": key.id() }).to_string();
    let claims = serde_json::to_vec(statement)
        .map_err(|error| Error::new(ErrorKind::Internal, MAKE).caused_by(error))?;
    let encode = |part: &[u8]| BASE64URL_NOPAD.encode(part);
    let message = format!("{}.{}", encode(header.as_bytes()), encode(&claims));
    let signature = encode(&key.sign(message.as_bytes())?);
    Ok(SecretValue::new(format!("{message}.{signature}")))
}
