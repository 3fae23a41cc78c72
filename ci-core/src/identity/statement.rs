//! What a token says.

use std::time::Duration;

use data_encoding::HEXLOWER;
use serde::Serialize;

use super::{Audience, IssuerUrl, MOST_TTL};
use crate::cache::{namespace, readable};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::external::External;
use crate::id::{CacheKey, CommitId, ForgeId, JobId, NativeId, StepName, TenantId, random_bytes};
use crate::queue::Claim;
use crate::records::Key;
use crate::trust::Trust;

/// The claims of one token, taken from a claim and its sealed ticket: what a token says of a job can be made up by
/// nobody, its worker included.
///
/// | Claim | Says |
/// |---|---|
/// | `iss`, `aud`, `iat`, `nbf`, `exp`, `jti` | what RFC 7519 says; one audience, times in seconds |
/// | `sub` | `repository/<tenant>/<forge>/<repository>/trust/<trust>`, with what is not `A-Z a-z 0-9 . _ -` as `%XX` |
/// | `tenant`, `forge`, `repository` | whose the job is, by ids that never change |
/// | `commit` | the exact code |
/// | `ref` | the branch or tag by which it was found; never for untrusted code, which can be on a branch of any name |
/// | `trust` | `untrusted`, `trusted` or `protected` |
/// | `job`, `run`, `step` | the job, this try of it (`<job>.<attempt>`), and the step that asks |
/// | `caches` | what may have flowed in: each cache of the job, and the trust of those who may have written it |
///
/// A policy that looks at `sub` only still tells a fork's job from the others.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use std::time::Duration;
/// use ci_core::clock::Clock as _;
/// use ci_core::id::StepName;
/// use ci_core::identity::{Audience, IssuerUrl, Statement};
/// use ci_core::memory::Rig;
/// use ci_core::trust::Origin;
///
/// let rig = Rig::new()?;
/// let claim = rig.claim(&Rig::repository("1", "acme")?, Origin::Fork, Rig::spec()).await?;
/// let (issuer, cloud) = (IssuerUrl::parse("https://ci.example.org")?, Audience::parse("cloud")?);
/// let step = StepName::parse("test")?;
/// let said = Statement::new(&issuer, &claim, &step, &cloud, Duration::from_secs(60), rig.clock.now())?;
/// let said = serde_json::to_value(&said)?;
/// assert_eq!(said["sub"], "repository/acme/memory/1/trust/untrusted");
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Serialize)]
pub struct Statement {
    iss: String,
    sub: String,
    aud: String,
    iat: u64,
    nbf: u64,
    exp: u64,
    jti: String,
    tenant: TenantId,
    forge: ForgeId,
    repository: NativeId,
    commit: CommitId,
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    reference: Option<External>,
    trust: &'static str,
    job: JobId,
    run: String,
    step: StepName,
    caches: Vec<CacheInput>,
}

/// A cache that a job may have been given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CacheInput {
    /// What the job calls it.
    pub key: CacheKey,
    /// How far the code was trusted of the jobs that may have written it.
    pub from: &'static [&'static str],
}

impl Statement {
    /// The names of all claims.
    pub const CLAIMS: &[&str] = &[
        "iss",
        "sub",
        "aud",
        "iat",
        "nbf",
        "exp",
        "jti",
        "tenant",
        "forge",
        "repository",
        "commit",
        "ref",
        "trust",
        "job",
        "run",
        "step",
        "caches",
    ];

    /// What `issuer` says at `now`, for `ttl` or [`MOST_TTL`], of a step of the job that holds `claim`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Fenced`] when the claim is over; [`ErrorKind::Invalid`] when the job has no such step, or the time is
    /// below a second.
    pub fn new(
        issuer: &IssuerUrl,
        claim: &Claim,
        step: &StepName,
        audience: &Audience,
        ttl: Duration,
        now: Timestamp,
    ) -> Result<Self> {
        let repository = claim.scope()?.repository();
        let invalid = |why| Error::new(ErrorKind::Invalid, "make an identity token").because(why);
        if !claim.spec().steps.iter().any(|known| known.name == *step) {
            return Err(invalid("the job has no such step").with("step", step));
        }
        let (ttl, now) = (ttl.min(MOST_TTL).as_secs(), now.unix_millis() / 1_000);
        if ttl == 0 {
            return Err(invalid("a token lives at least one second"));
        }
        let (code, trust) = (claim.code(), namespace(claim.trust()));
        let sub = Key::new("repository").repository(repository).part("trust").part(trust);
        let reference = code.reference().filter(|_| claim.trust() > Trust::Untrusted);
        let from = readable(claim.trust());
        let caches = claim.spec().caches.iter().map(|cache| CacheInput { key: cache.key.clone(), from });
        Ok(Self {
            iss: issuer.as_str().to_owned(),
            sub: sub.as_str().to_owned(),
            aud: audience.as_str().to_owned(),
            iat: now,
            nbf: now,
            exp: now.saturating_add(ttl),
            jti: HEXLOWER.encode(&random_bytes::<16>()),
            tenant: repository.tenant().clone(),
            forge: repository.forge().clone(),
            repository: repository.native().clone(),
            commit: code.commit().clone(),
            reference: reference.cloned(),
            trust,
            job: claim.job().clone(),
            run: format!("{}.{}", claim.job(), claim.attempt()),
            step: step.clone(),
            caches: caches.collect(),
        })
    }

    /// The token's own id, which no other has.
    pub fn id(&self) -> &str {
        &self.jti
    }
}
