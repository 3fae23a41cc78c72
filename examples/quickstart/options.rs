//! The program's arguments.

use std::ffi::OsString;
use std::path::PathBuf;

use ci_core::error::{Error, Result};
use ci_core::forge::RevisionName;
use ci_core::id::StepName;
use ci_core::sandbox::SandboxPath;

pub const USAGE: &str = "\
usage: quickstart [--state FOLDER] [--artifact PATH] [REPOSITORY [REF [COMMAND...]]]

  REPOSITORY        a folder or a URL (file:// or https://); the current folder by default
  REF               a branch, a tag, HEAD or a full commit; HEAD by default
  COMMAND           a step of the job, as a shell script; three examples by default
  --state FOLDER    where everything is kept; target/quickstart by default
  --artifact PATH   a file or folder of the job to keep, as a tar archive; the examples' report.txt by default";

/// What the program was asked to do.
#[derive(Debug)]
pub struct Options {
    pub state: PathBuf,
    pub artifact: Option<SandboxPath>,
    pub repository: String,
    pub reference: RevisionName,
    /// Names and scripts.
    pub steps: Vec<(StepName, String)>,
}

/// How many words stand before the commands.
const COMMANDS: usize = 2;

impl Options {
    /// Reads the arguments, or says what is wrong with them; nothing when they ask for help.
    pub fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Option<Self>, String> {
        let (mut state, mut artifact, mut words) = (None, None, Vec::new());
        let arguments: Vec<String> = arguments.map(text).collect::<Result<_, _>>()?;
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let (name, inline) = match argument.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (argument.as_str(), None),
            };
            let mut value = |what: &str| {
                let value = inline.clone().or_else(|| arguments.next());
                let is_one = |value: &String| !value.is_empty() && !value.starts_with('-');
                value.filter(is_one).ok_or_else(|| format!("error: {name} needs {what} after it; see --help"))
            };
            match name {
                "--help" | "-h" | "--state" | "--artifact" if !words.is_empty() => {
                    return Err(format!("error: {name} must stand before the repository; put it first"));
                }
                "--help" | "-h" => return Ok(None),
                "--state" => state = Some(PathBuf::from(value("a folder")?)),
                "--artifact" => artifact = Some(sandbox_path(&value("a path")?)?),
                "--" if words.is_empty() => words.extend(arguments.by_ref()),
                // A command may begin with anything.
                option if option.starts_with('-') && words.len() < COMMANDS => {
                    return Err(format!("error: there is no option {option:?}; see --help"));
                }
                _ => words.push(argument),
            }
        }
        Self::new(state, artifact, words).map(Some)
    }

    fn new(
        state: Option<PathBuf>,
        mut artifact: Option<SandboxPath>,
        words: Vec<String>,
    ) -> Result<Self, String> {
        let mut words = words.into_iter();
        let repository = words.next().unwrap_or_else(|| ".".to_owned());
        let reference = words.next().unwrap_or_else(|| "HEAD".to_owned());
        let told = |error: Error| format!("error: {error}");
        let mut steps: Vec<(StepName, String)> =
            words.map(|script| Ok((step_name(&script)?, script))).collect::<Result<_>>().map_err(told)?;
        if steps.is_empty() {
            for (name, script) in EXAMPLES {
                steps.push((StepName::parse(name).map_err(told)?, script.to_owned()));
            }
            artifact = artifact.or(Some(sandbox_path("report.txt")?));
        }
        let default_state = concat!(env!("CARGO_MANIFEST_DIR"), "/target/quickstart");
        Ok(Self {
            state: state.unwrap_or_else(|| PathBuf::from(default_state)),
            artifact,
            repository,
            reference: RevisionName::parse(&reference).map_err(told)?,
            steps,
        })
    }
}

const EXAMPLES: [(&str, &str); 3] = [
    ("look around", "git log -1 --oneline; ls"),
    (
        "print the secret, whole and in two writes",
        "echo \"whole: $QUICKSTART_TOKEN\"
         printf 'halves: '; printf '%s' \"$QUICKSTART_TOKEN\" | head -c 20; sleep 0.3
         printf '%s\\n' \"$QUICKSTART_TOKEN\" | tail -c +21",
    ),
    (
        "make a report",
        "find . -type f -not -path './.git/*' -print0 | sort -z | xargs -0 wc -c > report.txt; tail -n 1 report.txt",
    ),
];

fn text(argument: OsString) -> Result<String, String> {
    argument
        .into_string()
        .map_err(|argument| format!("error: the argument {:?} is not UTF-8", argument.to_string_lossy()))
}

fn sandbox_path(path: &str) -> Result<SandboxPath, String> {
    let path = if path.starts_with('/') { SandboxPath::parse(path) } else { SandboxPath::work().join(path) };
    path.map_err(|error| format!("error: {error}"))
}

/// A step is called after the first line of its script.
fn step_name(command: &str) -> Result<StepName> {
    const MOST: usize = 60;
    let printable = command.chars().map(|c| if c.is_control() { ' ' } else { c });
    let name: String = printable.take(MOST).collect();
    StepName::parse(if name.trim().is_empty() { "(empty)" } else { name.trim() })
}
