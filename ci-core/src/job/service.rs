//! What runs beside a job.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Arg, Environment, Limits, Run, Script, Value};
use crate::id::{ImageName, ServiceName, VariableName};
use crate::sandbox::SecretUse;

/// A program that runs beside a job for as long as its steps do: a database for its tests, say.
///
/// It has a fresh sandbox of its own, which shares the network of the job's and nothing else: the steps reach what it
/// listens on at the loopback address, and so do the other services. Of the code, the files and the processes of the job
/// it sees nothing. All services of a job are started at once, when its code has been checked out, and the steps begin
/// when all of them are ready; they are ended when the last step has ended.
///
/// What a service prints is kept from the log, but for the last 64 KiB when it is not ready in time or ends with a
/// failure. A service that ends while steps run fails no job by itself; the log says that it has ended. One that fails
/// before it is ready, or is not ready in time, fails the job before its first step.
///
/// The program is meant to stay in the foreground. Where it only starts others and ends with success, those run on, and
/// have to write elsewhere: nobody reads their output.
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use ci_core::id::{ImageName, ServiceName, StepName};
/// use ci_core::job::{JobSpec, Run, Script, Service, Step};
///
/// let start = Script::literal("initdb -D /tmp/data && exec postgres -D /tmp/data -c unix_socket_directories=/tmp");
/// let database = Service::script(ServiceName::parse("db")?, ImageName::parse("postgres-15")?, start)
///     .with_ready(Run::Script(Script::literal("pg_isready --host 127.0.0.1")))
///     .with_patience(Duration::from_secs(30));
/// let test = Step::script(StepName::parse("test")?, Script::literal("cargo test -- --database 127.0.0.1:5432"));
/// let job = JobSpec::new(ImageName::parse("rust")?).with_service(database).with_step(test);
/// assert!(job.check().is_ok());
///
/// let same: Service = serde_json::from_str(
///     r#"{ "name": "cache", "image": "redis-7", "run": { "Script": "redis-server" } }"#,
/// )?;
/// assert_eq!((same.ready, same.patience), (None, Duration::from_secs(60)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Service {
    /// What people call it.
    pub name: ServiceName,
    /// The image whose files it sees.
    pub image: ImageName,
    /// What runs, in the folder `/work`, which is empty.
    pub run: Run,
    /// Its variables, on top of those that every program of the job has; those of the job are for steps.
    #[serde(default)]
    pub environment: Environment,
    /// Which of the job's secrets it sees, each as the variable of the same name or as a file.
    #[serde(default)]
    pub secrets: Vec<SecretUse>,
    /// How much it may use, on top of what the job may; as much as the job by default. When it prints more than
    /// [`Limits::output`], hidden or not, the job ends.
    #[serde(default)]
    pub limits: Option<Limits>,
    /// A program that succeeds if and only if the service is ready. It runs in the service's sandbox, with the service's
    /// variables and secrets, again and again until it succeeds. Without one the service is ready when it has started.
    #[serde(default)]
    pub ready: Option<Run>,
    /// How long it may take to become ready: 1 minute.
    #[serde(default = "one_minute")]
    pub patience: Duration,
}

fn one_minute() -> Duration {
    Duration::from_mins(1)
}

impl Service {
    /// A service that is a shell script.
    pub fn script(name: ServiceName, image: ImageName, script: Script) -> Self {
        Self::new(name, image, Run::Script(script))
    }

    /// A service that is one program without a shell.
    pub fn command(
        name: ServiceName,
        image: ImageName,
        program: Arg,
        arguments: impl IntoIterator<Item = Arg>,
    ) -> Self {
        Self::new(name, image, Run::Command { program, arguments: arguments.into_iter().collect() })
    }

    fn new(name: ServiceName, image: ImageName, run: Run) -> Self {
        Self {
            name,
            image,
            run,
            environment: Environment::default(),
            secrets: Vec::new(),
            limits: None,
            ready: None,
            patience: one_minute(),
        }
    }

    /// Lets the service see a secret of the job: a name alone is a variable.
    pub fn with_secret(mut self, secret: impl Into<SecretUse>) -> Self {
        self.secrets.push(secret.into());
        self
    }

    /// Sets a variable.
    pub fn with_variable(mut self, name: VariableName, value: impl Into<Value>) -> Self {
        self.environment.set(name, value);
        self
    }

    /// Gives it limits of its own.
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = Some(limits);
        self
    }

    /// Says what succeeds when it is ready.
    pub fn with_ready(mut self, ready: Run) -> Self {
        self.ready = Some(ready);
        self
    }

    /// Bounds the time that it may take to become ready.
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }
}
