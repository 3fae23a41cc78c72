//! How a program is shown a secret.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::id::SecretName;

/// A secret that a program sees, and in which form.
///
/// In a pipeline's file a plain name is a variable; `{ "name": "DEPLOY_KEY", "as": "file" }` is a file.
///
/// # Example
///
/// ```
/// use ci_core::id::{SecretName, StepName};
/// use ci_core::job::{Script, Step};
/// use ci_core::sandbox::SecretUse;
///
/// let (token, key) = (SecretName::parse("TOKEN")?, SecretName::parse("DEPLOY_KEY")?);
/// let deploy = Step::script(StepName::parse("deploy")?, Script::literal(r#"ssh -i "$DEPLOY_KEY" host.example"#))
///     .with_secret(token.clone())
///     .with_secret(SecretUse::file(key.clone()));
///
/// let same: Vec<SecretUse> = serde_json::from_str(r#"["TOKEN", { "name": "DEPLOY_KEY", "as": "file" }]"#)?;
/// assert_eq!(same, deploy.secrets);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretUse {
    /// Which secret.
    pub name: SecretName,
    /// How the program finds it.
    pub form: SecretForm,
}

/// How a program finds a secret.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum SecretForm {
    /// The variable of the secret's name holds its value, which must be without zero bytes.
    #[default]
    Variable,
    /// The variable of the secret's name holds the path of a file, which holds the value: any bytes. The file lies in
    /// the sandbox's memory, nobody but the job's user can read it, and it is removed when the program has ended,
    /// whatever still runs then. What the job's programs have copied meanwhile is theirs.
    File,
}

impl SecretUse {
    /// The value of a variable.
    pub fn variable(name: SecretName) -> Self {
        Self { name, form: SecretForm::Variable }
    }

    /// The content of a file.
    pub fn file(name: SecretName) -> Self {
        Self { name, form: SecretForm::File }
    }
}

impl From<SecretName> for SecretUse {
    fn from(name: SecretName) -> Self {
        Self::variable(name)
    }
}

/// The long way to write one down.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: SecretName,
    #[serde(default, rename = "as")]
    form: SecretForm,
}

impl Serialize for SecretUse {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { name, form } = self.clone();
        match form {
            SecretForm::Variable => name.serialize(serializer),
            SecretForm::File => Written { name, form }.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for SecretUse {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(EitherWay)
    }
}

/// Takes both ways, and says for each what is wrong with it.
struct EitherWay;

impl<'de> Visitor<'de> for EitherWay {
    type Value = SecretUse;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a secret's name, or a name and `as` with `variable` or `file`")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<SecretUse, E> {
        SecretName::parse(name).map(SecretUse::variable).map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<SecretUse, A::Error> {
        let Written { name, form } = Written::deserialize(MapAccessDeserializer::new(map))?;
        Ok(SecretUse { name, form })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_said() {
        let refused = |json| serde_json::from_str::<SecretUse>(json).expect_err("bad").to_string();
        for (json, why) in [
            (r#""lower""#, "a secret name"),
            ("7", "a secret's name, or"),
            (r#"{ "as": "file" }"#, "missing field `name`"),
            (r#"{ "name": "A", "as": "argument" }"#, "unknown variant `argument`"),
            (r#"{ "name": "A", "mode": "file" }"#, "unknown field `mode`"),
        ] {
            assert!(refused(json).contains(why), "{json}: {}", refused(json));
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let name = SecretName::parse("KEY").expect("a name");
        for secret in [SecretUse::variable(name.clone()), SecretUse::file(name)] {
            let json = serde_json::to_string(&secret).expect("JSON");
            assert_eq!(serde_json::from_str::<SecretUse>(&json).expect(&json), secret);
        }
    }
}
