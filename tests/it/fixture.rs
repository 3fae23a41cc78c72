//! A repository, a state folder, and a service over both.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex, PoisonError};

use ci_core::access::Write;
use ci_core::conformance;
use ci_core::forge::{self, RevisionName};
use ci_core::id::{ImageName, JobId, SecretName, StepName};
use ci_core::job::{JobSpec, Script, Step};
use ci_core::outcome::Outcome;
use ci_core::queue::NewJob;
use ci_core::runner::{Event, Observer};
use ci_core::secret::SecretValue;
use tempfile::TempDir;

use crate::service::Service;

/// A folder with a git repository of one commit, and a place for state.
#[derive(Debug)]
pub struct Fixture {
    folder: TempDir,
}

impl Fixture {
    /// A fixture, or a counted skip where there are no sandboxes.
    pub fn new(test: &str) -> Option<Self> {
        if fs::read_to_string("/proc/sys/user/max_user_namespaces").is_ok_and(|most| most.trim() == "0") {
            conformance::skip(test, "namespaces", "this machine allows no user namespaces");
            return None;
        }
        let fixture = Self { folder: tempfile::tempdir().expect("a folder") };
        let repository = fixture.repository();
        fs::create_dir(&repository).expect("a folder");
        fs::write(repository.join("hello.txt"), "hello from the commit\n").expect("a file");
        for arguments in [
            &["init", "--quiet", "--initial-branch=main"][..],
            &["add", "."],
            &["-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "--quiet", "-m", "one"],
        ] {
            let git =
                Command::new("git").arg("-C").arg(&repository).args(arguments).output().expect("git runs");
            assert!(git.status.success(), "{git:?}");
        }
        Some(fixture)
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn repository(&self) -> PathBuf {
        self.path().join("a repository")
    }

    pub fn state(&self) -> PathBuf {
        self.path().join("state")
    }

    /// A service for this repository.
    pub async fn service(&self, observer: Arc<dyn Observer>) -> Service {
        self.service_in(&self.state(), observer).await
    }

    /// A service for this repository on another's state.
    pub async fn service_in(&self, state: &Path, observer: Arc<dyn Observer>) -> Service {
        let repository = self.repository();
        Service::open(state, repository.to_str().expect("UTF-8"), observer).await.expect("a service")
    }

    /// The quickstart on this repository and state.
    pub fn quickstart(&self, commands: &[&str]) -> Command {
        let mut quickstart = quickstart();
        quickstart.arg("--state").arg(self.state()).arg(self.repository()).arg("HEAD").args(commands);
        quickstart
    }
}

/// The program, as cargo has built it beside the tests.
pub fn quickstart() -> Command {
    let test = std::env::current_exe().expect("a path");
    let profile = test.parent().and_then(Path::parent).expect("target/<profile>");
    let program = profile.join("examples/quickstart");
    assert!(program.exists(), "build it with `cargo build --examples`: {}", program.display());
    Command::new(program)
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A job whose steps are `scripts`, each of which sees the secret `TOKEN`.
pub fn spec(scripts: &[&'static str]) -> JobSpec {
    let token = SecretName::parse("TOKEN").expect("a name");
    let mut spec = JobSpec::new(ImageName::parse("host").expect("a name")).with_secret(token.clone());
    for (index, script) in scripts.iter().enumerate() {
        let name = StepName::parse(format!("step {index}")).expect("a name");
        spec = spec.with_step(Step::script(name, Script::literal(script)).with_secret(token.clone()));
    }
    spec
}

/// Sets the secret `TOKEN`, enqueues the job as the owner, and runs it.
pub async fn run(service: &Service, secret: &str, spec: JobSpec) -> (JobId, Outcome) {
    let job = enqueue(service, secret, spec).await;
    let outcome = service.run(&job, std::future::pending()).await.expect("an outcome");
    (job, outcome)
}

pub async fn enqueue(service: &Service, secret: &str, spec: JobSpec) -> JobId {
    let grant = service.authority.grant::<Write>(&service.owner, &service.repository).await.expect("a grant");
    let token = SecretName::parse("TOKEN").expect("a name");
    let put =
        ci_core::secret::SecretStore::put(&*service.vault, &grant, &token, SecretValue::new(secret)).await;
    put.expect("the secret is set");
    let head = RevisionName::parse("HEAD").expect("a name");
    let scope = grant.scope().expect("fresh");
    let code = forge::resolve(&*service.git, scope, &service.sandboxes, &head).await.expect("a commit");
    let new = NewJob::requested(&grant, code, spec).expect("a job");
    service.dispatcher.enqueue(&new).await.expect("enqueued")
}

/// Remembers what happened.
#[derive(Debug, Default)]
pub struct Recorder {
    events: Mutex<Vec<String>>,
    output: Mutex<Vec<u8>>,
}

impl Recorder {
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&self.output.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    pub fn events(&self) -> Vec<String> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Observer for Recorder {
    fn observe(&self, _job: &JobId, event: &Event<'_>) {
        if let Event::Output { bytes, .. } = event {
            self.output.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes.as_bytes());
        }
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{event:?}"));
    }
}
