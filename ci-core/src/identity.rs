//! Tokens by which a job proves to others who it is, without a stored secret (`OpenID` Connect Core 1.0).

mod statement;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

use crate::error::{Error, ErrorKind, Result};
use crate::id::StepName;
use crate::queue::Claim;
use crate::secret::SecretValue;

pub use statement::{CacheInput, Statement};

/// Makes identity tokens for jobs. The [`Runner`](crate::runner::Runner) asks for none by itself. A product does, in a
/// [`SecretStore`](crate::secret::SecretStore) around its own whose leases have a token beside the secrets
/// ([`SecretLease::with_credential`](crate::secret::SecretLease::with_credential)). It is made when the job begins then,
/// and is over for steps that begin more than [`MOST_TTL`] later; and only jobs of trusted code have leases.
///
/// # Cancel safety
///
/// Dropping a future has no effect; a token that nobody has seen is of no use to anybody.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use std::sync::Arc;
/// use std::time::Duration;
/// use ci_core::id::StepName;
/// use ci_core::identity::{Audience, IssuerUrl, TokenIssuer as _};
/// use ci_core::memory::{Masking, Rig, Tokens};
/// use ci_core::secret::SecretLease;
/// # use ci_core::trust::Origin;
///
/// # let rig = Rig::new()?;
/// # let claim = rig.claim(&Rig::repository("1", "acme")?, Origin::Protected, Rig::spec()).await?;
/// let tokens = Tokens::new(IssuerUrl::parse("https://ci.example.org")?, rig.clock.clone());
/// let (step, cloud) = (StepName::parse("test")?, Audience::parse("https://cloud.example.org")?);
/// let token = tokens.token(&claim, &step, &cloud, Duration::from_secs(300)).await?;
///
/// let lease = SecretLease::empty(&claim, Arc::new(Masking::new()));
/// lease.teach(&token); // before a step sees it
/// let printed = String::from_utf8_lossy(token.expose()).into_owned();
/// assert_eq!(lease.mask_text(&printed), "***");
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[async_trait]
pub trait TokenIssuer: fmt::Debug + Send + Sync + 'static {
    /// A token for one step of the job and one audience: a JSON Web Token (RFC 7519) with the claims of [`Statement`],
    /// signed with one of the published keys. It lives as long as it is asked to, at most [`MOST_TTL`].
    ///
    /// Teach it to the job's masker before a step sees it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when a job of this trust gets no token for that audience; [`ErrorKind::Invalid`] when the
    /// job has no such step, or the time is below a second; [`ErrorKind::Fenced`] when the claim is over;
    /// [`ErrorKind::Tampered`] when the stored keys are not what was stored; [`ErrorKind::Unavailable`] when the key
    /// cannot be had now.
    async fn token(
        &self,
        claim: &Claim,
        step: &StepName,
        audience: &Audience,
        ttl: Duration,
    ) -> Result<SecretValue>;

    /// The public keys as a JSON Web Key Set (RFC 7517), for the integrator to serve at [`IssuerUrl::jwks`]. A key is in it
    /// before it signs, and until the last token that it signed has expired: serve what this returns, and let nobody
    /// keep it for longer than the issuer was told.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Tampered`] when the stored keys are not what was stored; [`ErrorKind::Unavailable`] when they cannot
    /// be had now.
    async fn jwks(&self) -> Result<String>;

    /// The discovery document (`OpenID` Connect Discovery 1.0, section 3) as JSON, for the integrator to serve at
    /// [`IssuerUrl::discovery`].
    fn discovery(&self) -> String;
}

/// How long a token lives at most.
pub const MOST_TTL: Duration = Duration::from_mins(10);

/// For whom a token is meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Audience(String);

impl fmt::Display for Audience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Audience {
    /// Checks and takes an audience.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] unless it is 1 to 255 printable ASCII characters.
    pub fn parse(text: &str) -> Result<Self> {
        if (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Ok(Self(text.to_owned()));
        }
        Err(Error::new(ErrorKind::Invalid, "parse an audience")
            .because("it must be 1 to 255 printable ASCII characters without spaces"))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The name of an issuer, which is also the address below which its documents are served.
///
/// # Example
///
/// ```
/// use ci_core::identity::IssuerUrl;
///
/// let issuer = IssuerUrl::parse("https://ci.example.org/acme")?;
/// assert_eq!(issuer.discovery(), "https://ci.example.org/acme/.well-known/openid-configuration");
/// assert!(IssuerUrl::parse("http://ci.example.org").is_err());
/// # Ok::<(), ci_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IssuerUrl(String);

impl IssuerUrl {
    /// Checks and takes the URL. Verifiers compare it byte by byte, so it is never rewritten.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] unless it is `https://`, a host in lower case, perhaps a port and a path, at most 255
    /// characters, without user, query, fragment and a slash at the end (`OpenID` Connect Discovery 1.0, section 2).
    pub fn parse(text: &str) -> Result<Self> {
        let is_host = |host: &str| {
            let (name, port) = host.split_once(':').unwrap_or((host, "443"));
            let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'-' | b'.');
            name.starts_with(|c: char| c.is_ascii_alphanumeric())
                && name.bytes().all(plain)
                && (1..=5).contains(&port.len())
                && port.bytes().all(|c| c.is_ascii_digit())
        };
        let is_part = |part: &str| {
            let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b'_' | b'~');
            !matches!(part, "" | "." | "..") && part.bytes().all(plain)
        };
        let mut parts = text.strip_prefix("https://").unwrap_or_default().split('/');
        if text.len() <= 255 && parts.next().is_some_and(is_host) && parts.all(is_part) {
            return Ok(Self(text.to_owned()));
        }
        Err(Error::new(ErrorKind::Invalid, "parse an issuer's URL").because(
            "it must be https, a host in lower case, perhaps a port and a path, and no slash at the end",
        ))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Where verifiers look for the discovery document.
    pub fn discovery(&self) -> String {
        format!("{self}/.well-known/openid-configuration")
    }

    /// Where the discovery document says that the keys are.
    pub fn jwks(&self) -> String {
        format!("{self}/.well-known/jwks.json")
    }

    /// The discovery document of this issuer, which signs with these algorithms (RFC 7518, RFC 8037).
    pub fn discovery_document(&self, algorithms: &[&str]) -> String {
        let document = serde_json::json!({
            "issuer": self.0,
            "jwks_uri": self.jwks(),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": algorithms,
            "scopes_supported": ["openid"],
            "claims_supported": Statement::CLAIMS,
        });
        document.to_string()
    }
}

impl fmt::Display for IssuerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_issuer_is_named_in_one_way_only() {
        for good in ["https://ci.example.org", "https://ci.example.org:8443", "https://a/b/c-1"] {
            assert_eq!(IssuerUrl::parse(good).expect(good).as_str(), good);
        }
        for bad in [
            "",
            "https://",
            "http://a",
            "https://a/",
            "https://A",
            "https://a?b",
            "https://a#b",
            "https://u@a",
            "https://a//b",
            "https://a/../b",
            "https://a b",
            "https://a/\"",
            "https://:80",
            "https://a:",
            "https://a:x",
            "ftp://a",
        ] {
            assert_eq!(IssuerUrl::parse(bad).expect_err(bad).kind(), ErrorKind::Invalid);
        }
        assert!(IssuerUrl::parse(&format!("https://{}", "a".repeat(248))).is_err());
    }
}
