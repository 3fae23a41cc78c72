//! Identity tokens, signed with a key that is drawn at the start.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use data_encoding::BASE64URL_NOPAD;
use ed25519_dalek::{Signer as _, SigningKey};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{StepName, random_bytes};
use crate::identity::{Audience, IssuerUrl, Statement, TokenIssuer};
use crate::queue::Claim;
use crate::secret::SecretValue;

const ALGORITHM: &str = "EdDSA";

/// A token issuer in memory: JSON Web Tokens (RFC 7519), signed with `EdDSA` (RFC 8037), for any audience.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use std::time::Duration;
/// use ci_core::id::StepName;
/// use ci_core::identity::{Audience, IssuerUrl, TokenIssuer as _};
/// use ci_core::memory::{Rig, Tokens};
/// use ci_core::trust::Origin;
///
/// let rig = Rig::new()?;
/// let tokens = Tokens::new(IssuerUrl::parse("https://ci.example.org")?, rig.clock.clone());
/// let claim = rig.claim(&Rig::repository("1", "acme")?, Origin::Protected, Rig::spec()).await?;
/// let (step, cloud) = (StepName::parse("test")?, Audience::parse("https://cloud.example.org")?);
/// let token = tokens.token(&claim, &step, &cloud, Duration::from_secs(60)).await?;
/// assert_eq!(token.expose().split(|byte| *byte == b'.').count(), 3);
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Tokens {
    issuer: IssuerUrl,
    key: SigningKey,
    clock: Arc<dyn Clock>,
}

impl Tokens {
    /// An issuer that calls itself `issuer`.
    pub fn new(issuer: IssuerUrl, clock: Arc<dyn Clock>) -> Self {
        Self { issuer, key: SigningKey::from_bytes(&random_bytes()), clock }
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
        let statement = Statement::new(&self.issuer, claim, step, audience, ttl, self.clock.now())?;
        let header = json!({ "alg": ALGORITHM, "typ": "JWT", "kid": self.key_id() });
        let claims = serde_json::to_value(statement)
            .map_err(|error| Error::new(ErrorKind::Internal, "write an identity token").caused_by(error))?;
        let encode = |part: &Value| BASE64URL_NOPAD.encode(part.to_string().as_bytes());
        let signed = format!("{}.{}", encode(&header), encode(&claims));
        let signature = self.key.sign(signed.as_bytes()).to_bytes();
        Ok(SecretValue::new(format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature))))
    }

    async fn jwks(&self) -> Result<String> {
        let key = json!({
            "kty": "OKP", "crv": "Ed25519", "x": self.public(),
            "alg": ALGORITHM, "use": "sig", "kid": self.key_id(),
        });
        Ok(json!({ "keys": [key] }).to_string())
    }

    fn discovery(&self) -> String {
        self.issuer.discovery_document(&[ALGORITHM])
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}
