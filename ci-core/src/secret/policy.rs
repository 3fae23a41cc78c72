//! Which jobs may have a secret.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::external::External;
use crate::id::{Digest, EnvironmentName, SecretName, StepName};
use crate::job::JobSpec;
use crate::queue::{Cause, TrustedClaim};
use crate::sandbox::SecretUse;
use crate::seal::Context;
use crate::trust::Trust;

/// Which jobs may have a secret, and which of their steps. Every rule that is set must hold; the default asks for
/// trusted code and nothing else.
///
/// What a job says of itself (its steps' names, the environment that it deploys to) was written by whoever wrote the
/// job. Rules about these keep a secret out of places where it has no business by mistake; against people who may push
/// to the repository but not have the secret, ask for [`Trust::Protected`] and a reference as well, which the forge
/// vouches for.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use ci_core::ErrorKind;
/// use ci_core::access::Write;
/// use ci_core::id::SecretName;
/// use ci_core::memory::{Rig, Secrets};
/// use ci_core::secret::{NewSecret, SecretPolicy, SecretStore as _, SecretValue};
/// use ci_core::trust::{Origin, Trust};
///
/// # let (rig, repository) = (Rig::new()?, Rig::repository("1", "acme")?);
/// # let secrets = Secrets::new(rig.audit.clone(), rig.clock.clone());
/// # let (grant, token) = (rig.grant::<Write>(&Rig::user("ada")?, &repository).await?, SecretName::parse("TOKEN")?);
/// let protected = SecretPolicy::default().with_trust(Trust::Protected);
/// let new = NewSecret::new(SecretValue::new("hunter2")).with_policy(protected);
/// secrets.set(&grant, &token, new).await?;
///
/// let branch = rig.claim(&repository, Origin::Repository, Rig::spec()).await?;
/// let denied = secrets.lease(branch.trusted()?, &[token.clone()]).await.expect_err("any writer can push there");
/// assert_eq!(denied.kind(), ErrorKind::Denied);
///
/// let main = rig.claim(&repository, Origin::Protected, Rig::spec()).await?;
/// assert!(secrets.lease(main.trusted()?, &[token]).await.is_ok());
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct SecretPolicy {
    /// How far the job's code must be trusted: [`Trust::Trusted`] at least, whatever it says here.
    pub trust: Trust,
    /// What may have started the job; anything when empty.
    #[serde(default)]
    pub events: BTreeSet<Cause>,
    /// On which branches and tags the code must have been found; anywhere when empty. A job whose code was found by its
    /// commit alone is on none.
    #[serde(default)]
    pub references: BTreeSet<RefPattern>,
    /// Where the job must deploy to; anywhere and nowhere when empty.
    #[serde(default)]
    pub environments: BTreeSet<EnvironmentName>,
    /// Which steps may see it; any when empty. Where it is set, no service may.
    #[serde(default)]
    pub steps: BTreeSet<StepName>,
}

impl Default for SecretPolicy {
    fn default() -> Self {
        Self {
            trust: Trust::Trusted,
            events: BTreeSet::new(),
            references: BTreeSet::new(),
            environments: BTreeSet::new(),
            steps: BTreeSet::new(),
        }
    }
}

impl SecretPolicy {
    /// How many events, references, environments and steps a policy may name together.
    pub const MOST_RULES: usize = 100;

    /// Replaces how far the code must be trusted. Code that is not trusted gets no secret, also with
    /// [`Trust::Untrusted`] here.
    pub fn with_trust(mut self, trust: Trust) -> Self {
        self.trust = trust.max(Trust::Trusted);
        self
    }

    /// Allows jobs that `event` started, and no longer those of all others.
    pub fn with_event(mut self, event: Cause) -> Self {
        self.events.insert(event);
        self
    }

    /// Allows code that was found on such a branch or tag, and no longer that on all others.
    pub fn with_reference(mut self, pattern: RefPattern) -> Self {
        self.references.insert(pattern);
        self
    }

    /// Allows jobs that deploy to `environment`, and no longer all others.
    pub fn with_environment(mut self, environment: EnvironmentName) -> Self {
        self.environments.insert(environment);
        self
    }

    /// Allows the step of that name, and no longer all others.
    pub fn with_step(mut self, step: StepName) -> Self {
        self.steps.insert(step);
        self
    }

    /// Refuses a policy that is too large to be kept with every secret.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when it names more than [`MOST_RULES`](Self::MOST_RULES).
    pub fn check(&self) -> Result<()> {
        let Self { trust: _, events, references, environments, steps } = self;
        if events.len() + references.len() + environments.len() + steps.len() > Self::MOST_RULES {
            return Err(
                Error::new(ErrorKind::Invalid, "check a policy").because("it names at most 100 things")
            );
        }
        Ok(())
    }

    /// The digest of everything that it says; two policies that differ have different ones.
    pub fn digest(&self) -> Digest {
        let Self { trust, events, references, environments, steps } = self;
        let list = |context: Context, items: Vec<&str>| {
            items.iter().fold(context.field(items.len().to_be_bytes()), Context::field)
        };
        let trust = Context::new("secret policy").field(match trust {
            Trust::Untrusted | Trust::Trusted => "trusted",
            Trust::Protected => "protected",
        });
        let events = list(trust, events.iter().map(|event| event.as_str()).collect());
        let references = list(events, references.iter().map(RefPattern::as_str).collect());
        let environments = list(references, environments.iter().map(EnvironmentName::as_str).collect());
        let steps = list(environments, steps.iter().map(StepName::as_str).collect());
        Digest::of(steps.as_bytes())
    }

    /// Whether the job of `claim` may have the secret `name`, and all of its steps and services that name it may see it.
    pub(super) fn admit(&self, name: &SecretName, claim: TrustedClaim<'_>) -> Result<()> {
        let Self { trust, events, references, environments, steps } = self;
        let (claim, spec) = (claim.claim(), claim.claim().spec());
        let denied = |rule, reason| Err(denied(name, rule, reason));
        if claim.trust() < (*trust).max(Trust::Trusted) {
            return denied("trust", "its policy asks for code on a branch or tag that the forge protects");
        }
        if !events.is_empty() && !events.contains(&claim.trigger().cause()) {
            return denied("events", "its policy names other events than the one that started the job");
        }
        let found = claim.code().reference();
        let is_on = |pattern: &RefPattern| found.is_some_and(|reference| pattern.matches(reference));
        if !references.is_empty() && !references.iter().any(is_on) {
            return denied("references", "its policy names other branches or tags than the job's");
        }
        let target = spec.deploys_to.as_ref();
        if !environments.is_empty() && !target.is_some_and(|target| environments.contains(target)) {
            return denied("environments", "its policy names other environments than the job deploys to");
        }
        if steps.is_empty() { Ok(()) } else { self.admit_users(name, spec) }
    }

    /// Whether all that use the secret `name` are steps that the policy names.
    fn admit_users(&self, name: &SecretName, spec: &JobSpec) -> Result<()> {
        let uses = |secrets: &[SecretUse]| secrets.iter().any(|used| used.name == *name);
        let mut steps = spec.steps.iter().filter(|step| uses(&step.secrets));
        if let Some(step) = steps.find(|step| !self.steps.contains(&step.name)) {
            return Err(denied(name, "steps", "its policy names other steps than one that uses it")
                .with("step", &step.name));
        }
        if let Some(service) = spec.services.iter().find(|service| uses(&service.secrets)) {
            return Err(denied(name, "steps", "its policy gives it to steps only, and a service uses it")
                .with("service", &service.name));
        }
        Ok(())
    }
}

pub(super) fn denied(name: &SecretName, rule: &'static str, reason: &'static str) -> Error {
    Error::new(ErrorKind::Denied, "lease secrets").because(reason).with("secret", name).with("rule", rule)
}

/// Branches and tags by their full names: `*` stands for any characters but `/`, and `**` for any.
///
/// # Example
///
/// ```
/// use ci_core::External;
/// use ci_core::secret::RefPattern;
///
/// let releases = RefPattern::parse("refs/heads/release/*")?;
/// assert!(releases.matches(&External::new("refs/heads/release/1.2")));
/// assert!(!releases.matches(&External::new("refs/heads/release/1.2/x")));
/// assert!(!releases.matches(&External::new("refs/tags/release/1.2")));
/// assert!(RefPattern::parse("main").is_err()); // a branch or a tag?
/// # Ok::<(), ci_core::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RefPattern(String);

impl RefPattern {
    /// Checks and takes a pattern.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] unless it begins with `refs/` and has at most 255 bytes without blanks and control
    /// characters.
    pub fn parse(text: impl AsRef<str>) -> Result<Self> {
        let text = text.as_ref();
        let is_plain = !text.contains(|c: char| c.is_control() || c.is_whitespace());
        if text.len() <= 255 && text.len() > "refs/".len() && text.starts_with("refs/") && is_plain {
            return Ok(Self(text.to_owned()));
        }
        Err(Error::new(ErrorKind::Invalid, "parse a reference pattern")
            .because("it must be a full name like refs/heads/main, with * or ** for parts of it")
            .with("given", format_args!("{:?}", crate::external::shortened(text))))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `reference` is one of them.
    pub fn matches(&self, reference: &External) -> bool {
        matches(self.0.as_bytes(), reference.as_data().as_bytes())
    }
}

/// Goes back to the last star only, and to the last double one when a `/` stops that: no pattern makes it slower than
/// the product of both lengths.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut seen) = (0, 0);
    // Where to go on behind a star, and what it has taken so far.
    let (mut single, mut double) = (None, None);
    loop {
        let rest = &pattern[at..];
        if rest.starts_with(b"**") {
            (at, single, double) = (at + 2, None, Some((at + 2, seen)));
        } else if rest.starts_with(b"*") {
            (at, single) = (at + 1, Some((at + 1, seen)));
        } else if rest.is_empty() && seen == text.len() {
            return true;
        } else if seen < text.len() && rest.first() == text.get(seen) {
            (at, seen) = (at + 1, seen + 1);
        } else if let Some((behind, taken)) =
            single.filter(|(_, taken)| text.get(*taken).is_some_and(|b| *b != b'/'))
        {
            (at, seen, single) = (behind, taken + 1, Some((behind, taken + 1)));
        } else if let Some((behind, taken)) = double.filter(|(_, taken)| *taken < text.len()) {
            (at, seen, single, double) = (behind, taken + 1, None, Some((behind, taken + 1)));
        } else {
            return false;
        }
    }
}

impl fmt::Debug for RefPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RefPattern({})", self.0)
    }
}

impl fmt::Display for RefPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for RefPattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

impl TryFrom<String> for RefPattern {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        Self::parse(text)
    }
}

impl From<RefPattern> for String {
    fn from(pattern: RefPattern) -> Self {
        pattern.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The obvious way, which takes exponential time.
    fn slowly(pattern: &[u8], text: &[u8]) -> bool {
        match pattern {
            [] => text.is_empty(),
            [b'*', b'*', rest @ ..] => (0..=text.len()).any(|taken| slowly(rest, &text[taken..])),
            [b'*', rest @ ..] => {
                let most = text.iter().position(|byte| *byte == b'/').unwrap_or(text.len());
                (0..=most).any(|taken| slowly(rest, &text[taken..]))
            }
            [first, rest @ ..] => text.first() == Some(first) && slowly(rest, &text[1..]),
        }
    }

    proptest! {
        #[test]
        fn a_pattern_matches_what_it_says(pattern in "[ab/*]{0,8}", text in "[ab/]{0,9}") {
            prop_assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), slowly(pattern.as_bytes(), text.as_bytes()));
        }

        #[test]
        fn different_policies_have_different_digests(one in policy(), other in policy()) {
            prop_assert_eq!(one == other, one.digest() == other.digest());
        }
    }

    fn policy() -> impl Strategy<Value = SecretPolicy> {
        let names = || prop::collection::btree_set("[ab]{1,2}", 0..3);
        (any::<bool>(), names(), names(), names()).prop_map(|(protected, references, environments, steps)| {
            let trust = if protected { Trust::Protected } else { Trust::Trusted };
            let policy = SecretPolicy::default().with_trust(trust);
            let reference = |text| RefPattern::parse(format!("refs/{text}")).expect("a pattern");
            SecretPolicy {
                references: references.into_iter().map(reference).collect(),
                environments: environments
                    .iter()
                    .map(|e| EnvironmentName::parse(e).expect("a name"))
                    .collect(),
                steps: steps.iter().map(|step| StepName::parse(step).expect("a name")).collect(),
                ..policy
            }
        })
    }

    #[test]
    fn a_hostile_pattern_is_not_slow() {
        let pattern = format!("refs/{}b", "*a".repeat(120));
        let pattern = RefPattern::parse(pattern).expect("a pattern");
        assert!(!pattern.matches(&External::new(format!("refs/{}", "a".repeat(100_000)))));
    }

    #[test]
    fn what_is_written_is_read_again() {
        let policy = SecretPolicy::default()
            .with_trust(Trust::Protected)
            .with_event(Cause::Push)
            .with_reference(RefPattern::parse("refs/heads/main").expect("a pattern"));
        let json = serde_json::to_string(&policy).expect("JSON");
        assert_eq!(serde_json::from_str::<SecretPolicy>(&json).expect("a policy"), policy);
        assert!(serde_json::from_str::<SecretPolicy>(r#"{"trust":"Trusted","branches":[]}"#).is_err());
    }

    #[test]
    fn no_policy_asks_for_less_than_trust() {
        let lowest = SecretPolicy::default().with_trust(Trust::Untrusted);
        assert_eq!(lowest, SecretPolicy::default());
    }
}
