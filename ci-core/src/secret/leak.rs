//! What a masker knows of a value: what it is, why it cannot be hidden, and where it was about to be shown.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{SecretName, StepName};
use crate::sandbox::OutputStream;

/// What a masked value is, so that a report can name it. It holds no value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Sensitive {
    /// A secret that the job leased.
    Secret(SecretName),
    /// A credential that was made for this job: a checkout token, an identity token.
    Credential,
    /// A decoy that no job was given. Where it appears, somebody read what they should not.
    Canary(SecretName),
}

impl fmt::Display for Sensitive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secret(name) => write!(f, "{name}"),
            Self::Credential => f.write_str("a credential of the job"),
            Self::Canary(name) => write!(f, "the canary {name}"),
        }
    }
}

/// Whether a masker can hide a value, and if not, why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Learned {
    /// It is hidden from now on.
    Hidden,
    /// It is so short that hiding it would hide ordinary text; it is *not* hidden.
    TooShort,
    /// It is a number or a word that ordinary output is full of; it is *not* hidden.
    TooCommon,
    /// It is one or two characters again and again, as a ruled line is; it is *not* hidden.
    TooRegular,
}

impl fmt::Display for Learned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hidden => "hidden",
            Self::TooShort => "too short to be hidden",
            Self::TooCommon => "too common to be hidden",
            Self::TooRegular => "too regular to be hidden",
        })
    }
}

/// A secret that cannot be hidden in output.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unmasked {
    /// Which.
    pub secret: SecretName,
    /// Why: anything but [`Learned::Hidden`].
    pub why: Learned,
}

/// How a value was written where it appeared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Form {
    /// As it is.
    Plain,
    /// One line of it.
    Line,
    /// Its words, with one blank between them, as a shell prints an unquoted variable.
    Words,
    /// Base64, in either alphabet.
    Base64,
    /// Hexadecimal digits.
    Hex,
    /// Percent-encoded, as in an address.
    Percent,
    /// As a string of JSON.
    Json,
    /// Quoted for a shell.
    Shell,
    /// As text of XML or HTML.
    Markup,
    /// As a string of C, Go or a similar language.
    Escaped,
    /// UTF-16, the lower byte first.
    Utf16,
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "plain text",
            Self::Line => "a line of it",
            Self::Words => "its words",
            Self::Base64 => "Base64",
            Self::Hex => "hexadecimal digits",
            Self::Percent => "percent-encoding",
            Self::Json => "JSON",
            Self::Shell => "a shell's quoting",
            Self::Markup => "XML or HTML",
            Self::Escaped => "an escaped string",
            Self::Utf16 => "UTF-16",
        })
    }
}

/// A secret that a job printed. It was hidden there; but a job that prints its secrets hands them to other programs,
/// too, so that its owner should rotate it and mend the job.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// # use ci_core::{access::Write, id::{JobId, SecretName, StepName}, memory::{Reply, Rig}};
/// # use ci_core::{job::JobSpec, runner::Runner, secret::SecretValue, trust::Origin};
/// # let (rig, repository) = (Rig::new()?, Rig::repository("1", "acme")?);
/// # let (grant, token) = (rig.grant::<Write>(&Rig::user("ada")?, &repository).await?, SecretName::parse("TOKEN")?);
/// # let parts = rig.parts();
/// # parts.secrets.put(&grant, &token, SecretValue::new("hunter2")).await?;
/// # let mut spec = Rig::spec();
/// # spec.secrets = vec![token];
/// # spec.steps[0].name = StepName::parse("build")?;
/// # let claim = rig.claim(&repository, Origin::Repository, spec).await?;
/// # let runner = Runner::new(parts);
/// rig.backend.on("sh", |_| Reply::exit(0).stdout("+ curl -u ada:hunter2\n"));
/// let outcome = runner.run(claim, std::future::pending()).await?;
/// assert_eq!(outcome.leaks[0].to_string(), "TOKEN was printed as plain text in step build");
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Leak {
    /// What was printed.
    pub what: Sensitive,
    /// How it was written.
    pub form: Form,
    /// How often. What lies side by side or one over the other counts once.
    pub times: u64,
    /// In which step's output; `None` where it was elsewhere: in the text of an error, say.
    pub step: Option<StepName>,
    /// Where that step wrote it to.
    pub stream: Option<OutputStream>,
}

impl Leak {
    /// `what` was seen `times` times in `form`.
    pub fn new(what: Sensitive, form: Form, times: u64) -> Self {
        Self { what, form, times, step: None, stream: None }
    }

    /// Whether both say the same, but for how often.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let Self { what, form, times: _, step, stream } = self;
        (what, form, step, stream) == (&other.what, &other.form, &other.step, &other.stream)
    }

    pub(crate) fn in_step(mut self, step: Option<&StepName>, stream: OutputStream) -> Self {
        self.step = step.cloned();
        self.stream = Some(stream);
        self
    }
}

impl fmt::Display for Leak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} was printed as {}", self.what, self.form)?;
        if let Some(step) = &self.step {
            write!(f, " in step {step}")?;
        }
        if self.times > 1 {
            write!(f, ", {} times", self.times)?;
        }
        Ok(())
    }
}
