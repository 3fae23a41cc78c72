//! Tokens by which a job proves to others who it is, without a stored secret (`OpenID` Connect Core 1.0).

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

use crate::error::{Error, ErrorKind, Result};
use crate::id::StepName;
use crate::queue::Claim;
use crate::secret::SecretValue;

/// Makes identity tokens for jobs. The [`Runner`](crate::runner::Runner) asks for none by itself: a product does, and
/// hands them to the step.
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
/// use ci_core::identity::{Audience, TokenIssuer as _};
/// use ci_core::memory::{Masking, Rig, Tokens};
/// use ci_core::secret::SecretLease;
/// # use ci_core::trust::Origin;
///
/// # let rig = Rig::new()?;
/// # let claim = rig.claim(&Rig::repository("1", "acme")?, Origin::Protected, Rig::spec()).await?;
/// let tokens = Tokens::new("https://ci.example.org", rig.clock.clone());
/// let (step, cloud) = (StepName::parse("deploy")?, Audience::parse("https://cloud.example.org")?);
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
    /// A token for one step and one audience. It says the repository's immutable id, the commit, the trust
    /// level, the job and the step, and lives as long as it is asked to, at most ten minutes.
    ///
    /// Teach it to the job's masker before a step sees it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Fenced`] when the claim is over; [`ErrorKind::Unavailable`] when the key cannot be had now.
    async fn token(
        &self,
        claim: &Claim,
        step: &StepName,
        audience: &Audience,
        ttl: Duration,
    ) -> Result<SecretValue>;

    /// The public keys as a JSON Web Key Set (RFC 7517), for the integrator to publish.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] when the keys cannot be had now.
    async fn jwks(&self) -> Result<String>;
}

/// How long a token lives at most.
pub const MOST_TTL: Duration = Duration::from_mins(10);

/// For whom a token is meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Audience(String);

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
