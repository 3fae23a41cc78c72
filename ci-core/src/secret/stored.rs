//! What is stored of a secret beside its value.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::policy::{SecretPolicy, denied};
use super::{Learned, SecretValue};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::id::SecretName;
use crate::queue::TrustedClaim;
use crate::sandbox::{SecretForm, SecretUse};

/// What people may see of a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct SecretInfo {
    /// Its name.
    pub name: SecretName,
    /// How often it has been set.
    pub version: u64,
    /// When it was set last.
    pub set_at: Timestamp,
    /// In which forms a program may see it.
    pub kind: SecretKind,
    /// Which jobs may have it.
    pub policy: SecretPolicy,
}

impl SecretInfo {
    /// A secret of the kind [`SecretKind::Variable`] under the default policy.
    pub fn new(name: SecretName, version: u64, set_at: Timestamp) -> Self {
        Self { name, version, set_at, kind: SecretKind::Variable, policy: SecretPolicy::default() }
    }

    /// Replaces its kind.
    pub fn with_kind(mut self, kind: SecretKind) -> Self {
        self.kind = kind;
        self
    }

    /// Replaces its policy.
    pub fn with_policy(mut self, policy: SecretPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// What is stored when `new` is set at `now` in place of `before`: what `new` does not say stays as it was.
    pub fn after(before: Option<&Self>, name: &SecretName, new: &NewSecret, now: Timestamp) -> Self {
        let version = before.map_or(0, |before| before.version).saturating_add(1);
        let kind = new.kind.or(before.map(|before| before.kind)).unwrap_or_default();
        let policy = new.policy.as_ref().or(before.map(|before| &before.policy)).cloned().unwrap_or_default();
        Self { name: name.clone(), version, set_at: now, kind, policy }
    }

    /// Refuses what could never be given to a job: a value without a byte, of more than [`NewSecret::MOST`], or too large for
    /// the forms that it may have, and a policy that is too large.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`], naming the secret.
    pub fn check(&self, value: &SecretValue) -> Result<()> {
        self.policy.check().map_err(|error| error.with("secret", &self.name))?;
        let length = value.expose().len();
        if !(1..=NewSecret::MOST).contains(&length) {
            return Err(Error::new(ErrorKind::Invalid, "set a secret")
                .because("a value has 1 byte to 1 MiB")
                .with("secret", &self.name));
        }
        if self.kind != SecretKind::File && length > NewSecret::MOST_IN_VARIABLE {
            return Err(Error::new(ErrorKind::Invalid, "set a secret")
                .because("a value of more than 127 KiB cannot be a variable; set it as a file")
                .with("secret", &self.name));
        }
        Ok(())
    }

    /// Whether the job of `claim` may have it: as its policy says, and in no other form than its kind allows.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`], which names the secret and the rule;
    /// [`ErrorKind::Fenced`] when the claim is over.
    pub fn admit(&self, claim: TrustedClaim<'_>) -> Result<()> {
        claim.claim().fence()?;
        self.policy.admit(&self.name, claim)?;
        let spec = claim.claim().spec();
        let steps = spec.steps.iter().flat_map(|step| &step.secrets);
        let services = spec.services.iter().flat_map(|service| &service.secrets);
        let as_variable = |used: &SecretUse| used.name == self.name && used.form == SecretForm::Variable;
        if self.kind == SecretKind::File && steps.chain(services).any(as_variable) {
            return Err(denied(
                &self.name,
                "kind",
                "it is given as a file only; say so where the job uses it",
            ));
        }
        Ok(())
    }
}

/// In which forms a program may see a secret.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum SecretKind {
    /// As a variable or as a file, whichever the job says.
    #[default]
    Variable,
    /// As a file only: a key, a certificate, anything with zero bytes or that is large.
    File,
}

/// A secret that somebody sets.
///
/// # Example
///
/// ```
/// use ci_core::id::StepName;
/// use ci_core::secret::{NewSecret, RefPattern, SecretPolicy, SecretValue};
/// use ci_core::trust::Trust;
///
/// let release = SecretPolicy::default()
///     .with_trust(Trust::Protected)
///     .with_reference(RefPattern::parse("refs/tags/v*")?)
///     .with_step(StepName::parse("publish")?);
/// let key = NewSecret::file(SecretValue::new("-----BEGIN KEY-----\n..")).with_policy(release);
/// # let _ = key;
/// # Ok::<(), ci_core::Error>(())
/// ```
pub struct NewSecret {
    pub(crate) value: SecretValue,
    pub(crate) kind: Option<SecretKind>,
    pub(crate) policy: Option<SecretPolicy>,
}

impl NewSecret {
    /// How many bytes a secret may have that can be a variable: 127 KiB. The Linux kernel takes one of 128 KiB, its name
    /// included (execve(2), `MAX_ARG_STRLEN`).
    pub const MOST_IN_VARIABLE: usize = 127 * 1024;

    /// How many bytes a secret may have: 1 MiB.
    pub const MOST: usize = 1024 * 1024;

    /// A value, in the forms and for the jobs that an earlier one of its name was for. Without an earlier one it may be
    /// a variable or a file, of any trusted job.
    pub fn new(value: SecretValue) -> Self {
        Self { value, kind: None, policy: None }
    }

    /// A value that is given as a file only.
    pub fn file(value: SecretValue) -> Self {
        Self { kind: Some(SecretKind::File), ..Self::new(value) }
    }

    /// Says which jobs may have it, in place of an earlier policy.
    pub fn with_policy(mut self, policy: SecretPolicy) -> Self {
        self.policy = Some(policy);
        self
    }

    /// The value, for an implementor of [`SecretStore`](super::SecretStore) to keep.
    pub fn value(&self) -> &SecretValue {
        &self.value
    }
}

impl fmt::Debug for NewSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { value: _, kind, policy } = self;
        f.debug_struct("NewSecret").field("kind", kind).field("policy", policy).finish_non_exhaustive()
    }
}

/// A secret that was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// What people see of it from now on.
    pub info: SecretInfo,
    /// Whether it can be hidden in output. If not, tell whoever set it, who alone should know.
    pub masking: Learned,
}
