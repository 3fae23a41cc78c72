//! Who gets tokens for whom.

use std::collections::{BTreeMap, BTreeSet};

use ci_core::identity::Audience;
use ci_core::trust::Trust;
use ci_core::{Error, ErrorKind, Result};

use super::algorithm::Algorithm;

/// For which audiences jobs get tokens, how far their code must be trusted for it, and how the tokens are signed.
///
/// What is not listed follows [`any`](Self::any) or is refused ([`listed`](Self::listed)). Jobs of untrusted code get a
/// token only where an audience is listed for them: whoever takes it must look at the claim `trust`, or at `sub`.
///
/// # Example
///
/// ```
/// use ci_core::identity::Audience;
/// use ci_core::trust::Trust;
/// use ci_secrets::identity::{Algorithm, Audiences};
///
/// let audiences = Audiences::any(Algorithm::Rs256)
///     .with(Audience::parse("https://deploy.example.org")?, Trust::Protected, Algorithm::Es256)
///     .with(Audience::parse("https://coverage.example.org")?, Trust::Untrusted, Algorithm::EdDsa);
/// # let _ = audiences;
/// # Ok::<(), ci_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Audiences {
    others: Option<Rule>,
    listed: BTreeMap<Audience, Rule>,
}

#[derive(Clone, Copy, Debug)]
struct Rule {
    least: Trust,
    algorithm: Algorithm,
}

impl Audiences {
    /// Jobs of trusted code get tokens for any audience.
    pub fn any(algorithm: Algorithm) -> Self {
        Self { others: Some(Rule { least: Trust::Trusted, algorithm }), listed: BTreeMap::new() }
    }

    /// Nobody gets a token but for what is [added](Self::with).
    pub fn listed() -> Self {
        Self { others: None, listed: BTreeMap::new() }
    }

    /// Jobs whose code is trusted at `least` so far get tokens for `audience`, and no others do.
    pub fn with(mut self, audience: Audience, least: Trust, algorithm: Algorithm) -> Self {
        self.listed.insert(audience, Rule { least, algorithm });
        self
    }

    /// How a token for `audience` is signed, if a job of this trust gets one.
    pub(super) fn allow(&self, audience: &Audience, trust: Trust) -> Result<Algorithm> {
        let rule = self.listed.get(audience).or(self.others.as_ref());
        let denied = |why| {
            Error::new(ErrorKind::Denied, "make an identity token").because(why).with("audience", audience)
        };
        match rule {
            Some(rule) if trust >= rule.least => Ok(rule.algorithm),
            Some(_) => Err(denied("the job's code is not trusted enough for this audience")),
            None => Err(denied("the issuer makes none for this audience")),
        }
    }

    /// All algorithms that are needed.
    pub(super) fn algorithms(&self) -> BTreeSet<Algorithm> {
        self.listed.values().chain(&self.others).map(|rule| rule.algorithm).collect()
    }
}
