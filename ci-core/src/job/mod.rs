//! What a job is: an image, steps, and everything it may have, all of it declared before it starts.

mod service;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::service::Service;

use crate::error::{Error, ErrorKind, Result};
use crate::external::External;
use crate::id::{
    ArtifactName, CacheKey, EnvironmentName, ImageName, Label, SecretName, StepName, VariableName,
};
use crate::network::NetworkPolicy;
use crate::queue::MOST_LABELS;
use crate::sandbox::{Guarantee, SandboxPath, SecretUse};
use crate::units::ByteSize;

/// A job as its author wrote it: what to run, on what, with what.
///
/// It is plain data. It becomes work only as a [`NewJob`](crate::queue::NewJob), which adds where the code
/// comes from. Read from a file, what it does not say has its default; a field that is not known is an error, and a
/// duration is `{"secs": 60, "nanos": 0}`.
///
/// # Example
///
/// ```
/// use ci_core::id::{ImageName, StepName};
/// use ci_core::job::{JobSpec, Script, Step};
///
/// let job = JobSpec::new(ImageName::parse("host")?)
///     .with_step(Step::script(StepName::parse("test")?, Script::literal("cargo test")));
/// assert_eq!(job.steps.len(), 1);
///
/// let same: JobSpec = serde_json::from_str(
///     r#"{ "image": "host", "steps": [{ "name": "test", "run": { "Script": "cargo test" } }] }"#,
/// )?;
/// assert_eq!(same, job);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct JobSpec {
    /// The image whose files the job sees.
    pub image: ImageName,
    /// What runs, in this order; the first failure ends the job.
    pub steps: Vec<Step>,
    /// What runs beside the steps: a database for tests, say. The job is refused where the backend has no services.
    #[serde(default)]
    pub services: Vec<Service>,
    /// Variables of every step.
    #[serde(default)]
    pub environment: Environment,
    /// Secrets that are leased for this job; a step or a service sees those that it names.
    #[serde(default)]
    pub secrets: Vec<SecretName>,
    /// What it deploys to, if anything: what a [`SecretPolicy`](crate::secret::SecretPolicy) may ask for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deploys_to: Option<EnvironmentName>,
    /// Folders that are restored before the first step and saved after the last one succeeded.
    #[serde(default)]
    pub caches: Vec<CacheSpec>,
    /// Files that are kept when all steps have run, whether or not they succeeded.
    #[serde(default)]
    pub artifacts: Vec<ArtifactSpec>,
    /// How much it may use. Each of its services may use as much again, or what it says itself.
    #[serde(default)]
    pub limits: Limits,
    /// Where it may connect to.
    #[serde(default)]
    pub network: NetworkPolicy,
    /// How long it may take.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// What a machine must offer to be given this job.
    #[serde(default)]
    pub labels: Vec<Label>,
    /// Whether submodules are checked out too.
    #[serde(default)]
    pub submodules: Submodules,
    /// What the sandbox must guarantee, and that of each service; the job is refused where it cannot.
    #[serde(default)]
    pub minimum: Vec<Guarantee>,
}

impl JobSpec {
    /// A job on `image` without steps, services, secrets, network, caches or artifacts, within the default limits.
    pub fn new(image: ImageName) -> Self {
        Self {
            image,
            steps: Vec::new(),
            services: Vec::new(),
            environment: Environment::default(),
            secrets: Vec::new(),
            deploys_to: None,
            caches: Vec::new(),
            artifacts: Vec::new(),
            limits: Limits::default(),
            network: NetworkPolicy::None,
            timeouts: Timeouts::default(),
            labels: Vec::new(),
            submodules: Submodules::Ignored,
            minimum: Vec::new(),
        }
    }

    /// Adds a step.
    pub fn with_step(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    /// Runs a service beside the steps.
    pub fn with_service(mut self, service: Service) -> Self {
        self.services.push(service);
        self
    }

    /// Asks for a secret.
    pub fn with_secret(mut self, name: SecretName) -> Self {
        self.secrets.push(name);
        self
    }

    /// Says what it deploys to.
    pub fn with_deployment(mut self, to: EnvironmentName) -> Self {
        self.deploys_to = Some(to);
        self
    }

    /// Keeps a file or folder.
    pub fn with_artifact(mut self, name: ArtifactName, path: SandboxPath) -> Self {
        self.artifacts.push(ArtifactSpec { name, path });
        self
    }

    /// Uses a cache.
    pub fn with_cache(mut self, key: CacheKey, path: SandboxPath) -> Self {
        self.caches.push(CacheSpec { key, path });
        self
    }

    /// Sets a variable of every step.
    pub fn with_variable(mut self, name: VariableName, value: impl Into<Value>) -> Self {
        self.environment.set(name, value);
        self
    }

    /// Demands a machine that offers `label`.
    pub fn with_label(mut self, label: Label) -> Self {
        self.labels.push(label);
        self
    }

    /// Replaces where it may connect to.
    pub fn with_network(mut self, network: NetworkPolicy) -> Self {
        self.network = network;
        self
    }

    /// Says whether submodules are checked out.
    pub fn with_submodules(mut self, submodules: Submodules) -> Self {
        self.submodules = submodules;
        self
    }

    /// Replaces the limits.
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Replaces the timeouts.
    pub fn with_timeouts(mut self, timeouts: Timeouts) -> Self {
        self.timeouts = timeouts;
        self
    }

    /// Demands a guarantee of the sandbox.
    pub fn with_minimum(mut self, guarantee: Guarantee) -> Self {
        self.minimum.push(guarantee);
        self
    }

    /// Refuses a job that could not run as it is written: no steps, more than 1,000 steps, secrets, caches, artifacts or
    /// labels, more than 8 services, more than 1 MiB as JSON, limits in which nothing runs, a network rule without a
    /// port or for port 0, or a step or service that names a secret which the job does
    /// not ask for, or in two forms. [`NewJob`](crate::queue::NewJob) does so by itself.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`], naming the part.
    pub fn check(&self) -> Result<()> {
        const MOST_PARTS: usize = 1_000;
        const MOST_SERVICES: usize = 8;
        const MOST_BYTES: usize = 1024 * 1024;
        if self.steps.is_empty() {
            return Err(invalid("a job needs at least one step"));
        }
        let Self { steps, services, secrets, caches, artifacts, labels, limits, network, .. } = self;
        let parts = [steps.len(), secrets.len(), caches.len(), artifacts.len()];
        if parts.iter().any(|part| *part > MOST_PARTS) {
            return Err(invalid("a job has at most 1000 steps, secrets, caches and artifacts each"));
        }
        if labels.len() > MOST_LABELS {
            return Err(invalid("a job demands at most 5 labels"));
        }
        if services.len() > MOST_SERVICES {
            return Err(invalid("a job has at most 8 services"));
        }
        limits.check()?;
        network.check()?;
        let names: BTreeSet<_> = artifacts.iter().map(|artifact| &artifact.name).collect();
        let keys: BTreeSet<_> = caches.iter().map(|cache| &cache.key).collect();
        if names.len() < artifacts.len() || keys.len() < caches.len() {
            return Err(invalid("two artifacts or two caches have the same name; rename one"));
        }
        let names: BTreeSet<_> = services.iter().map(|service| &service.name).collect();
        if names.len() < services.len() {
            return Err(invalid("two services have the same name; rename one"));
        }
        if serde_json::to_vec(self).map_or(true, |json| json.len() > MOST_BYTES) {
            return Err(invalid("a job says at most 1 MiB; keep large scripts in the repository"));
        }
        for Step { name, run, secrets, .. } in steps {
            let checked = run.check().and_then(|()| self.check_secrets(secrets));
            checked.map_err(|error| error.with("step", name))?;
        }
        for service in services {
            self.check_service(service).map_err(|error| error.with("service", &service.name))?;
        }
        Ok(())
    }

    fn check_service(&self, service: &Service) -> Result<()> {
        let Service { run, secrets, limits, ready, patience, .. } = service;
        run.check()?;
        ready.as_ref().map_or(Ok(()), Run::check)?;
        limits.map_or(Ok(()), |limits| limits.check())?;
        if patience.is_zero() {
            return Err(invalid("a service needs time to become ready; raise its patience"));
        }
        self.check_secrets(secrets)
    }

    /// Checks what a step or a service asks for.
    fn check_secrets(&self, secrets: &[SecretUse]) -> Result<()> {
        let mut forms = BTreeMap::new();
        for SecretUse { name, form } in secrets {
            if !self.secrets.contains(name) {
                return Err(invalid("it names a secret that the job does not ask for; add it to the job")
                    .with("secret", name));
            }
            if forms.insert(name, form).is_some_and(|before| before != form) {
                return Err(invalid("it has a secret either as a variable or as a file; choose one")
                    .with("secret", name));
            }
        }
        Ok(())
    }
}

fn invalid(reason: &'static str) -> Error {
    Error::new(ErrorKind::Invalid, "check the job").because(reason)
}

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
    fn check(&self) -> Result<()> {
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

/// A folder that is kept from one job of a repository to the next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheSpec {
    /// What the cache is called.
    pub key: CacheKey,
    /// The folder.
    pub path: SandboxPath,
}

/// A file or folder that outlives the job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArtifactSpec {
    /// What the artifact is called.
    pub name: ArtifactName,
    /// The file or folder; it is kept as a tar archive.
    pub path: SandboxPath,
}

/// How much a job may use, or a service of it. A backend that cannot hold one of them says so in its
/// [`IsolationReport`](crate::sandbox::IsolationReport).
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use ci_core::ByteSize;
/// use ci_core::id::ImageName;
/// use ci_core::job::{JobSpec, Limits, Timeouts};
///
/// let small = Limits::default().with_memory(ByteSize::mib(512)).with_cpu_millis(500);
/// let short = Timeouts::default().with_job(Duration::from_secs(600));
/// let job = JobSpec::new(ImageName::parse("host")?).with_limits(small).with_timeouts(short);
/// # let _ = job;
/// # Ok::<(), ci_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Limits {
    /// Memory of all processes together, files in memory included: 4 GiB.
    pub memory: ByteSize,
    /// Processor time, in thousandths of one core: 2,000, which is two cores.
    pub cpu_millis: u32,
    /// The share of processors and disks that it gets, in proportion to those of others, when all together want more
    /// than there is: 100. From 1 to 10,000. Whoever may choose it decides about the shares of others.
    pub weight: u32,
    /// Bytes per second that are read from any one disk, whether or not somebody else wants to: no bound. What lies in
    /// memory is not read from a disk, and what the job writes lies in memory, so there is no bound on writing. At least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_read_bytes: Option<ByteSize>,
    /// Operations per second that read from any one disk: no bound. One reads as much as is asked for at a time, or what
    /// the kernel reads ahead. At least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_read_operations: Option<u32>,
    /// Processes and threads at one time: 2,048.
    pub processes: u32,
    /// Files that the job writes, all of them in memory: 2 GiB.
    pub disk: ByteSize,
    /// Console output, hidden or not: 64 MiB. The job ends when it prints more.
    pub output: ByteSize,
    /// The size of one artifact or cache, as a tar archive: 1 GiB. A job that keeps a larger artifact ends; a larger
    /// cache is not saved.
    pub artifact: ByteSize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: ByteSize::gib(4),
            cpu_millis: 2_000,
            weight: 100,
            disk_read_bytes: None,
            disk_read_operations: None,
            processes: 2_048,
            disk: ByteSize::gib(2),
            output: ByteSize::mib(64),
            artifact: ByteSize::gib(1),
        }
    }
}

impl Limits {
    pub(crate) fn check(&self) -> Result<()> {
        if self.memory == ByteSize::bytes(0) || self.cpu_millis == 0 || self.processes == 0 {
            return Err(invalid(
                "nothing runs without memory, processor time and a process; raise its limits",
            ));
        }
        if !(1..=10_000).contains(&self.weight) {
            return Err(invalid("a weight is from 1 to 10000"));
        }
        if self.disk_read_bytes == Some(ByteSize::bytes(0)) || self.disk_read_operations == Some(0) {
            return Err(invalid("a bound on reading from disks is at least 1 per second; raise it"));
        }
        Ok(())
    }

    /// Replaces the bound on memory.
    pub fn with_memory(mut self, memory: ByteSize) -> Self {
        self.memory = memory;
        self
    }

    /// Replaces the bound on processor time, in thousandths of one core.
    pub fn with_cpu_millis(mut self, cpu_millis: u32) -> Self {
        self.cpu_millis = cpu_millis;
        self
    }

    /// Replaces the share of processors and disks.
    pub fn with_weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }

    /// Bounds how many bytes per second are read from a disk. A job that has a bound on reading is refused where it
    /// cannot be held.
    pub fn with_disk_read_bytes(mut self, per_second: ByteSize) -> Self {
        self.disk_read_bytes = Some(per_second);
        self
    }

    /// Bounds how many operations per second read from a disk, as [`with_disk_read_bytes`](Self::with_disk_read_bytes)
    /// does for bytes.
    pub fn with_disk_read_operations(mut self, per_second: u32) -> Self {
        self.disk_read_operations = Some(per_second);
        self
    }

    /// Whether there is a bound on reading from disks.
    pub fn bounds_disk_reads(&self) -> bool {
        self.disk_read_bytes.is_some() || self.disk_read_operations.is_some()
    }

    /// Replaces the bound on processes.
    pub fn with_processes(mut self, processes: u32) -> Self {
        self.processes = processes;
        self
    }

    /// Replaces the bound on files.
    pub fn with_disk(mut self, disk: ByteSize) -> Self {
        self.disk = disk;
        self
    }

    /// Replaces the bound on console output.
    pub fn with_output(mut self, output: ByteSize) -> Self {
        self.output = output;
        self
    }

    /// Replaces the bound on one artifact or cache.
    pub fn with_artifact(mut self, artifact: ByteSize) -> Self {
        self.artifact = artifact;
        self
    }
}

/// How long a job may take; the example of [`Limits`] sets it. A step may have less: [`Step::with_timeout`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Timeouts {
    /// From the job's entry in the audit log to the last artifact and cache: 1 hour.
    pub job: Duration,
    /// Without any output of the running step: 10 minutes.
    pub silence: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { job: Duration::from_hours(1), silence: Duration::from_mins(10) }
    }
}

impl Timeouts {
    /// Replaces the bound on the whole job.
    pub fn with_job(mut self, job: Duration) -> Self {
        self.job = job;
        self
    }

    /// Replaces the bound on silence.
    pub fn with_silence(mut self, silence: Duration) -> Self {
        self.silence = silence;
        self
    }
}

/// Whether submodules are checked out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Submodules {
    /// Their folders stay empty.
    #[default]
    Ignored,
    /// They are checked out at every depth, under the same rules as the repository itself.
    CheckedOut,
}
