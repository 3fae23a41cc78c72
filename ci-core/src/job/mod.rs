//! What a job is: an image, steps, and everything it may have, all of it declared before it starts.

mod limits;
mod service;
mod step;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use self::limits::{Limits, Timeouts};
pub use self::service::Service;
pub use self::step::{Arg, Environment, Run, Script, Step, Value};

use crate::error::{Error, ErrorKind, Result};
use crate::id::{ArtifactName, CacheKey, EnvironmentName, ImageName, Label, SecretName, VariableName};
use crate::network::NetworkPolicy;
use crate::queue::MOST_LABELS;
use crate::sandbox::{Guarantee, SandboxPath, SecretUse};

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

/// Whether submodules are checked out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Submodules {
    /// Their folders stay empty.
    #[default]
    Ignored,
    /// They are checked out at every depth, under the same rules as the repository itself.
    CheckedOut,
}
