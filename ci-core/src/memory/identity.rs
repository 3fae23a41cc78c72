//! Identity tokens, signed with a key that is drawn at the start.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use data_encoding::BASE64URL_NOPAD;
use ed25519_dalek::{Signer as _, SigningKey};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::cache::namespace;
use crate::clock::Clock;
use crate::error::Result;
use crate::id::{StepName, random_bytes};
use crate::identity::{Audience, MOST_TTL, TokenIssuer};
use crate::queue::Claim;
use crate::secret::SecretValue;

/// A token issuer in memory: JSON Web Tokens (RFC 7519), signed with `EdDSA` (RFC 8037).
///
/// Beside the registered claims `iss`, `sub` (the repository), `aud`, `iat`, `nbf`, `exp` and `jti`, a token has
/// `tenant`, `forge`, `repository`, `commit`, `trust`, `job` and `step`.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use std::time::Duration;
/// use ci_core::id::StepName;
/// use ci_core::identity::{Audience, TokenIssuer as _};
/// use ci_core::memory::{Rig, Tokens};
/// use ci_core::trust::Origin;
///
/// let rig = Rig::new()?;
/// let tokens = Tokens::new("https://ci.example.org", rig.clock.clone());
/// let claim = rig.claim(&Rig::repository("1", "acme")?, Origin::Protected, Rig::spec()).await?;
/// let (step, cloud) = (StepName::parse("deploy")?, Audience::parse("https://cloud.example.org")?);
/// let token = tokens.token(&claim, &step, &cloud, Duration::from_secs(60)).await?;
/// assert_eq!(token.expose().split(|byte| *byte == b'.').count(), 3);
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Tokens {
    issuer: String,
    key: SigningKey,
    clock: Arc<dyn Clock>,
}

impl Tokens {
    /// An issuer that calls itself `issuer`, a URL below which the keys are published.
    pub fn new(issuer: impl Into<String>, clock: Arc<dyn Clock>) -> Self {
        Self { issuer: issuer.into(), key: SigningKey::from_bytes(&random_bytes()), clock }
    }

    fn public(&self) -> String {
        BASE64URL_NOPAD.encode(self.key.verifying_key().as_bytes())
    }

    /// The thumbprint of the key (RFC 7638).
    fn key_id(&self) -> String {
        let canonical = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, self.public());
        BASE64URL_NOPAD.encode(&Sha256::digest(canonical))
    }
}

#[async_trait]
impl TokenIssuer for Tokens {
    async fn token(
        &self,
        claim: &Claim,
        step: &StepName,
        audience: &Audience,
        ttl: Duration,
    ) -> Result<SecretValue> {
        let repository = claim.scope()?.repository();
        let now = self.clock.now().unix_millis() / 1_000;
        let header = json!({ "alg": "EdDSA", "typ": "JWT", "kid": self.key_id() });
        let claims = json!({
            "iss": self.issuer,
            "sub": repository.to_string(),
            "aud": audience.as_str(),
            "iat": now,
            "nbf": now,
            "exp": now + ttl.min(MOST_TTL).as_secs(),
            "jti": data_encoding::HEXLOWER.encode(&random_bytes::<16>()),
            "tenant": repository.tenant(),
            "forge": repository.forge(),
            "repository": repository.native(),
            "commit": claim.code().commit(),
            "trust": namespace(claim.trust()),
            "job": claim.job(),
            "step": step,
        });
        let encode = |part: &Value| BASE64URL_NOPAD.encode(part.to_string().as_bytes());
        let signed = format!("{}.{}", encode(&header), encode(&claims));
        let signature = self.key.sign(signed.as_bytes()).to_bytes();
        Ok(SecretValue::new(format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature))))
    }

    async fn jwks(&self) -> Result<String> {
        let key = json!({
            "kty": "OKP", "crv": "Ed25519", "x": self.public(),
            "alg": "EdDSA", "use": "sig", "kid": self.key_id(),
        });
        Ok(json!({ "keys": [key] }).to_string())
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}
