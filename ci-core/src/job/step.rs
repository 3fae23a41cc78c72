//! One command or script of a job, and the texts that it is made of.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::invalid;
use crate::error::{Error, ErrorKind, Result};
use crate::external::External;
use crate::id::{StepName, VariableName};
use crate::sandbox::{SandboxPath, SecretUse};

/// One command or script of a job.
///
/// # Example
///
/// ```
/// use ci_core::External;
/// use ci_core::id::{SecretName, StepName, VariableName};
/// use ci_core::job::{Arg, Script, Step};
///
/// let title = External::new("a title that anybody may have written; $(id)");
/// let announce = Step::script(StepName::parse("announce")?, Script::literal(r#"./announce "$TITLE""#))
///     .with_variable(VariableName::parse("TITLE")?, &title)
///     .with_secret(SecretName::parse("CHAT_TOKEN")?);
///
/// let test = Step::command(StepName::parse("test")?, Arg::new("cargo")?, [Arg::new("test")?]);
/// # let _ = (announce, test);
/// # Ok::<(), ci_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Step {
    /// What people call it.
    pub name: StepName,
    /// What runs.
    pub run: Run,
    /// Variables of this step, on top of the job's.
    #[serde(default)]
    pub environment: Environment,
    /// Which of the job's secrets it sees, each as the variable of the same name or as a file.
    #[serde(default)]
    pub secrets: Vec<SecretUse>,
    /// Where it runs; the checked-out source by default.
    #[serde(default)]
    pub directory: Option<SandboxPath>,
    /// How long it may take; the job's bound by default.
    #[serde(default)]
    pub timeout: Option<Duration>,
}

impl Step {
    /// A step that runs a shell script.
    pub fn script(name: StepName, script: Script) -> Self {
        Self::new(name, Run::Script(script))
    }

    /// A step that runs one program without a shell.
    pub fn command(name: StepName, program: Arg, arguments: impl IntoIterator<Item = Arg>) -> Self {
        Self::new(name, Run::Command { program, arguments: arguments.into_iter().collect() })
    }

    fn new(name: StepName, run: Run) -> Self {
        Self {
            name,
            run,
            environment: Environment::default(),
            secrets: Vec::new(),
            directory: None,
            timeout: None,
        }
    }

    /// Lets the step see a secret of the job: a name alone is a variable.
    pub fn with_secret(mut self, secret: impl Into<SecretUse>) -> Self {
        self.secrets.push(secret.into());
        self
    }

    /// Sets a variable.
    pub fn with_variable(mut self, name: VariableName, value: impl Into<Value>) -> Self {
        self.environment.set(name, value);
        self
    }

    /// Bounds the step's time.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Runs the step in another folder.
    pub fn with_directory(mut self, directory: SandboxPath) -> Self {
        self.directory = Some(directory);
        self
    }
}

/// What a step or a service runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Run {
    /// A script for `/bin/sh -e`.
    Script(Script),
    /// A program and its arguments, without a shell.
    Command {
        /// The program: a path, or a name that is looked up in the step's `PATH`.
        program: Arg,
        /// Its arguments.
        arguments: Vec<Arg>,
    },
}

impl Run {
    pub(super) fn check(&self) -> Result<()> {
        // The kernel takes no longer one (execve(2), MAX_ARG_STRLEN).
        const LONGEST_ARGUMENT: usize = 128 * 1024;
        if self.longest() >= LONGEST_ARGUMENT {
            return Err(invalid("a script or an argument has less than 128 KiB; keep it in the repository"));
        }
        Ok(())
    }

    /// How many bytes the longest of its texts has.
    fn longest(&self) -> usize {
        match self {
            Self::Script(script) => script.0.len(),
            Self::Command { program, arguments } => {
                arguments.iter().chain([program]).map(|text| text.0.len()).max().unwrap_or(0)
            }
        }
    }
}

/// The text of a shell script, as the pipeline's author wrote it.
///
/// It comes from a literal, from deserialising the pipeline's own file, or from [`authored`](Self::authored).
/// Text from outside ([`External`]) has no way in: hand it over as a variable and write `"$NAME"`.
///
/// ```compile_fail
/// use ci_core::{External, job::Script};
/// let branch = External::new("main; id");
/// let script = Script::authored(branch); // not a script
/// ```
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Script(String);

impl Script {
    /// A script that stands in the program's own source.
    pub fn literal(text: &'static str) -> Self {
        Self(text.to_owned())
    }

    /// A script that the pipeline's author wrote, read from the commit that the job runs.
    ///
    /// Never build `text` with `format!`: whatever an outsider put into it would run.
    pub fn authored(text: String) -> Self {
        Self(text)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Script({:?})", self.0)
    }
}

/// One argument of a program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Arg(String);

impl Arg {
    /// An argument that the pipeline's author or the SDK wrote.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when it holds a zero byte, which no argument can.
    pub fn new(text: impl Into<String>) -> Result<Self> {
        let text = text.into();
        if text.contains('\0') {
            return Err(Error::new(ErrorKind::Invalid, "take an argument").because("it holds a zero byte"));
        }
        Ok(Self(text))
    }

    /// An argument that an outsider chose, for a place where the program expects an operand.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when it is empty, holds a zero byte, or starts with `-`, so that a program could
    /// take it for an option.
    ///
    /// # Example
    ///
    /// ```
    /// use ci_core::{External, job::Arg};
    ///
    /// assert!(Arg::operand(&External::new("main")).is_ok());
    /// assert!(Arg::operand(&External::new("--upload-pack=id")).is_err());
    /// ```
    pub fn operand(text: &External) -> Result<Self> {
        let data = text.as_data();
        if data.is_empty() || data.starts_with('-') {
            return Err(Error::new(ErrorKind::Invalid, "take an argument from outside")
                .because("it is empty or a program could take it for an option")
                .with("given", crate::external::shortened(&text.to_string())));
        }
        Self::new(data)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Arg {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        Self::new(text)
    }
}

impl From<Arg> for String {
    fn from(argument: Arg) -> Self {
        argument.0
    }
}

/// Variables of a process. A sandbox passes on no others. The example of [`Step`] sets one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Environment(BTreeMap<VariableName, Value>);

impl Environment {
    /// Sets a variable, in place of an earlier one of that name.
    pub fn set(&mut self, name: VariableName, value: impl Into<Value>) {
        self.0.insert(name, value.into());
    }

    /// Takes over every variable of `other`, in place of earlier ones of the same name.
    pub fn extend(&mut self, other: &Self) {
        self.0.extend(other.0.iter().map(|(name, value)| (name.clone(), value.clone())));
    }

    /// Names and values, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&VariableName, &str)> {
        self.0.iter().map(|(name, value)| (name, value.0.as_str()))
    }
}

/// The value of a variable: a place where text from outside is data. It holds no zero byte: those are left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Value(String);

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl From<Value> for String {
    fn from(value: Value) -> Self {
        value.0
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self(text.replace('\0', ""))
    }
}

impl From<&External> for Value {
    fn from(text: &External) -> Self {
        Self::from(text.as_data())
    }
}
