//! Names of things, each a type of its own with one fallible constructor.
//!
//! Whoever holds such a value knows that its text has been checked: no empty names, no control characters,
//! nothing that could leave a path, end a line or pass for an option. Reading one from a file (`Deserialize`) checks as
//! `parse` does.
//!
//! # Example
//!
//! ```
//! use ci_core::id::{ArtifactName, ForgeId, NativeId, RepositoryId, TenantId};
//!
//! assert!(ArtifactName::parse("report.tar").is_ok());
//! assert!(ArtifactName::parse("../report.tar").is_err());
//!
//! let (native, forge) = (NativeId::parse("4711")?, ForgeId::parse("github")?);
//! let repository = RepositoryId::new(native, forge, TenantId::parse("acme")?);
//! assert_eq!(repository.to_string(), "acme/github/4711");
//! # Ok::<(), ci_core::Error>(())
//! ```

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::error::{Error, ErrorKind, Result};

/// Declares a newtype over checked text.
macro_rules! checked_text {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            #[doc = concat!("Checks and takes the text of ", $what, ": ", $rule, ".")]
            ///
            /// # Errors
            ///
            /// [`ErrorKind::Invalid`] for any other text.
            pub fn parse(text: impl AsRef<str>) -> Result<Self> {
                let text = text.as_ref();
                let check: fn(&str) -> bool = $check;
                if check(text) {
                    Ok(Self(text.into()))
                } else {
                    Err(Error::new(ErrorKind::Invalid, concat!("parse ", $what))
                        .because(concat!("it must be ", $rule))
                        .with("given", format_args!("{:?}", crate::external::shortened(text))))
                }
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                Self::parse(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;

            fn try_from(text: String) -> Result<Self> {
                Self::parse(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }
    };
}

fn is_slug(text: &str, most: usize) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=most).contains(&text.len())
        && text.bytes().all(inner)
        && text.as_bytes()[0].is_ascii_alphanumeric()
        && !text.contains("..")
}

fn is_printable(text: &str, most: usize) -> bool {
    // Line and paragraph separators, and what turns the direction of text around.
    let misleads = |c: char| matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    (1..=most).contains(&text.len()) && !text.contains(|c: char| c.is_control() || misleads(c))
}

fn is_lower_hex(text: &str, lengths: &[usize]) -> bool {
    lengths.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

checked_text! {
    /// Who pays: the unit that keys, quotas and erasure belong to.
    TenantId, "a tenant", "1 to 64 of A-Z a-z 0-9 - _ . that starts with a letter or digit", |t| is_slug(t, 64)
}
impl TenantId {
    /// Stands for the installation itself, in whose books everything is recorded that concerns no single tenant.
    /// No tenant can have its name.
    pub fn service() -> Self {
        Self("*".into())
    }
}

checked_text! {
    /// One installation of a forge, as the operator calls it: `github`, `gitlab.example.org`.
    ForgeId, "a forge name", "1 to 128 of A-Z a-z 0-9 - _ . that starts with a letter or digit", |t| is_slug(t, 128)
}
checked_text! {
    /// What a machine must offer for a job: `linux`, `arm64`, `gpu`.
    Label, "a label", "1 to 64 of A-Z a-z 0-9 - _ . that starts with a letter or digit", |t| is_slug(t, 64)
}
checked_text! {
    /// An image as the operator's configuration names it; a backend maps it to files or a digest.
    ImageName, "an image name", "1 to 128 of A-Z a-z 0-9 - _ . that starts with a letter or digit", |t| is_slug(t, 128)
}
checked_text! {
    /// What a job deploys to: `production`.
    EnvironmentName, "an environment's name", "1 to 128 of A-Z a-z 0-9 - _ . that starts with a letter or digit", |t| {
        is_slug(t, 128)
    }
}
checked_text! {
    /// A step of a job, for people.
    StepName, "a step name", "1 to 128 bytes without control characters", |t| is_printable(t, 128)
}
checked_text! {
    /// An artifact of a job. It is a file name, never a path.
    ArtifactName, "an artifact name", "1 to 128 of A-Z a-z 0-9 - _ . that starts with a letter or digit", |t| is_slug(t, 128)
}
checked_text! {
    /// What a job calls one of its caches. Two jobs that say the same name share it within one trust level.
    CacheKey, "a cache key", "1 to 256 bytes without control characters", |t| is_printable(t, 256)
}
checked_text! {
    /// What people call a service that runs beside a job.
    ServiceName, "a service's name", "1 to 64 of A-Z a-z 0-9 - _ . that starts with a letter or digit", |t| {
        is_slug(t, 64)
    }
}
checked_text! {
    /// A secret's name, which is also the name of the variable that a step sees.
    SecretName, "a secret name", "1 to 128 of A-Z 0-9 _ that does not start with a digit", |t| {
        (1..=128).contains(&t.len())
            && t.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
            && !t.as_bytes()[0].is_ascii_digit()
    }
}
checked_text! {
    /// The name of an environment variable.
    VariableName, "a variable name", "1 to 128 of A-Z a-z 0-9 _ that does not start with a digit", |t| {
        (1..=128).contains(&t.len())
            && t.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && !t.as_bytes()[0].is_ascii_digit()
    }
}
checked_text! {
    /// An exact commit, SHA-1 or SHA-256.
    CommitId, "a commit", "40 or 64 lower-case hexadecimal digits", |t| is_lower_hex(t, &[40, 64])
}
checked_text! {
    /// Which key of a hierarchy sealed something.
    KeyId, "a key id", "32 lower-case hexadecimal digits", |t| is_lower_hex(t, &[32])
}
checked_text! {
    /// One job. It is drawn at random, so it cannot be guessed, and says nothing about the job.
    JobId, "a job id", "32 lower-case hexadecimal digits", |t| is_lower_hex(t, &[32])
}
checked_text! {
    /// One sandbox. It is drawn at random.
    SandboxId, "a sandbox id", "32 lower-case hexadecimal digits", |t| is_lower_hex(t, &[32])
}
checked_text! {
    /// A SHA-256 digest of content.
    Digest, "a digest", "64 lower-case hexadecimal digits", |t| is_lower_hex(t, &[64])
}

impl JobId {
    /// A new job's id.
    pub fn random() -> Self {
        Self(random_hex().into())
    }
}

impl SandboxId {
    /// A new sandbox's id.
    pub fn random() -> Self {
        Self(random_hex().into())
    }
}

impl KeyId {
    /// A new key's id.
    pub fn random() -> Self {
        Self(random_hex().into())
    }
}

impl Digest {
    /// The digest of `content`.
    pub fn of(content: &[u8]) -> Self {
        Self::from_sha256(Sha256::digest(content).into())
    }

    /// A digest that was computed piece by piece.
    pub fn from_sha256(bytes: [u8; 32]) -> Self {
        Self(data_encoding::HEXLOWER.encode(&bytes).into())
    }
}

fn random_hex() -> String {
    data_encoding::HEXLOWER.encode(&random_bytes::<16>())
}

/// Random bytes of the operating system.
pub(crate) fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    fill_random(&mut bytes);
    bytes
}

/// The same into `bytes`.
///
/// # Panics
///
/// When the operating system has none to give: to go on without would be worse.
pub(crate) fn fill_random(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the operating system gives random bytes");
}

/// One repository, by ids that never change: a renamed or re-created repository is not confused with another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RepositoryId {
    tenant: TenantId,
    forge: ForgeId,
    native: NativeId,
}

checked_text! {
    /// What a forge itself calls a thing for ever: a number or a UUID, not a name that can be reused.
    NativeId, "a forge id", "1 to 256 bytes without control characters", |t| is_printable(t, 256)
}

impl RepositoryId {
    /// The repository that `forge` knows as `native`, in the books of `tenant`.
    pub fn new(native: NativeId, forge: ForgeId, tenant: TenantId) -> Self {
        Self { tenant, forge, native }
    }

    /// Who pays for it.
    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// Where it lives.
    pub fn forge(&self) -> &ForgeId {
        &self.forge
    }

    /// What the forge calls it.
    pub fn native(&self) -> &NativeId {
        &self.native
    }
}

impl fmt::Display for RepositoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.tenant, self.forge, self.native)
    }
}

/// One person, by the id that their forge never reuses, not by a login that can change hands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct UserId {
    forge: ForgeId,
    native: NativeId,
}

impl UserId {
    /// The person that `forge` knows as `native`.
    pub fn new(native: NativeId, forge: ForgeId) -> Self {
        Self { forge, native }
    }

    /// Where the account lives.
    pub fn forge(&self) -> &ForgeId {
        &self.forge
    }

    /// What the forge calls the person.
    pub fn native(&self) -> &NativeId {
        &self.native
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.forge, self.native)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_refuse_what_could_leave_a_path_or_end_a_line() {
        for bad in ["", ".", "..", "a/b", "-x", "a..b", "a\nb", "ä", &"x".repeat(129)] {
            assert!(ArtifactName::parse(bad).is_err(), "{bad:?}");
        }
        assert!(ArtifactName::parse("report-1.2_x.tar").is_ok());
        for bad in ["build\u{7f}", "a\u{2028}b", "a\u{202e}b", "a\u{2066}b"] {
            assert!(StepName::parse(bad).is_err(), "{bad:?}");
        }
        assert!(SecretName::parse("lower").is_err());
        assert!(SecretName::parse("1ST").is_err());
        assert!(CommitId::parse("HEAD").is_err());
        assert!(CommitId::parse("A".repeat(40)).is_err());
        assert!(CommitId::parse("a".repeat(64)).is_ok());
    }

    #[test]
    fn the_error_shows_what_was_given_without_its_control_characters() {
        let error = Label::parse("a\u{1b}[31m").expect_err("refused");
        assert_eq!(
            error.to_string(),
            "parse a label: it must be 1 to 64 of A-Z a-z 0-9 - _ . that starts with a letter or digit \
             (given: \"a\\u{1b}[31m\")"
        );
    }

    #[test]
    fn deserialising_checks_too() {
        assert!(serde_json::from_str::<Label>("\"linux\"").is_ok());
        assert!(serde_json::from_str::<Label>("\"a b\"").is_err());
    }

    #[test]
    fn random_ids_differ() {
        assert_ne!(JobId::random(), JobId::random());
    }
}
