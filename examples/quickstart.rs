//! Runs a job on a git repository, the way a CI service would, on this machine and without any server.
//!
//! ```text
//! cargo run --release --example quickstart [-- [--state FOLDER] [--artifact PATH] [REPOSITORY [REF [COMMAND...]]]]
//! ```
//!
//! It takes a permission from an access file, runs the job's steps in a fresh sandbox with a sealed secret, shows
//! masked output as it comes, keeps an artifact, and then reads log and artifact back as the owner and shows that a
//! stranger is refused. Its exit code is the job's own.

#![expect(unreachable_pub, reason = "a program has no outside")]

#[path = "quickstart/options.rs"]
mod options;
#[path = "quickstart/service.rs"]
mod service;
#[path = "quickstart/terminal.rs"]
mod terminal;

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use ci_core::access::{Read, Write};
use ci_core::error::{Error, ErrorKind, Result};
use ci_core::id::{ArtifactName, Digest, ImageName, JobId, SecretName};
use ci_core::job::{JobSpec, Script, Step};
use ci_core::log::{Cursor, LogStoreExt as _};
use ci_core::queue::NewJob;
use ci_core::runner::Stop;
use ci_core::secret::{SecretStore as _, SecretValue};
use ci_core::{ByteSize, forge, stream};
use tokio::signal::unix::{SignalKind, signal};

use options::Options;
use service::Service;
use terminal::Terminal;

/// What the program returns when the fault is not the job's: the code that `docker run` uses for that.
const NOT_THE_JOB: u8 = 125;

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args_os().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            let _ = writeln!(std::io::stdout(), "{}", options::USAGE);
            return ExitCode::SUCCESS;
        }
        Err(usage) => {
            let _ = writeln!(std::io::stderr(), "{usage}");
            return ExitCode::from(NOT_THE_JOB);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(quickstart(&options)),
        Err(error) => Err(Error::new(ErrorKind::Internal, "start").caused_by(error)),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            // The person at this terminal is the operator too.
            let _ = writeln!(std::io::stderr(), "error: {}", error.for_operator());
            ExitCode::from(NOT_THE_JOB)
        }
    }
}

async fn quickstart(options: &Options) -> Result<u8> {
    let terminal = Arc::new(Terminal::new());
    let service = Service::open(&options.state, &options.repository, terminal.clone()).await?;
    terminal.heading("A job on this machine");
    terminal.fact("repository", &service.url);
    terminal.fact("state", options.state.display());

    // A person may set a secret who may write to the repository, and nobody can read it again.
    let token = SecretName::parse("QUICKSTART_TOKEN")?;
    let grant = service.authority.grant::<Write>(&service.owner, &service.repository).await?;
    service.vault.put(&grant, &token, SecretValue::new(random_token())).await?;

    // How far the code is trusted follows from where it comes from; who asks for the job must have the right to.
    let code = forge::resolve(&*service.git, grant.scope()?, &service.sandboxes, &options.reference).await?;
    terminal.fact("commit", code.commit());
    let job = service.dispatcher.enqueue(&NewJob::requested(&grant, code, spec(options, &token)?)?).await?;
    terminal.fact("job", &job);

    let outcome = service.run(&job, interrupted()).await?;
    read_back(&service, &terminal, &job).await?;
    Ok(outcome.exit_code())
}

/// Ready when the person at the terminal does not want the job any more, or the machine asks the program to end.
async fn interrupted() -> Stop {
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => tokio::select! {
            _ = tokio::signal::ctrl_c() => Stop::Cancel,
            _ = terminate.recv() => Stop::ShutDown,
        },
        Err(_) => std::future::pending().await,
    }
}

/// A secret that nobody has seen before.
fn random_token() -> String {
    format!("quickstart-{}-{}", JobId::random(), JobId::random())
}

/// The job: a step per command, each of which sees the secret.
fn spec(options: &Options, token: &SecretName) -> Result<JobSpec> {
    let mut spec = JobSpec::new(ImageName::parse("host")?).with_secret(token.clone());
    for (name, script) in &options.steps {
        let step = Step::script(name.clone(), Script::authored(script.clone()));
        spec = spec.with_step(step.with_secret(token.clone()));
    }
    if let Some(path) = &options.artifact {
        let file = path.as_str().rsplit('/').next().unwrap_or_default();
        spec = spec.with_artifact(ArtifactName::parse(file)?, path.clone());
    }
    Ok(spec)
}

/// Reads log and artifacts as the owner, and tries the same as a stranger.
async fn read_back(service: &Service, terminal: &Terminal, job: &JobId) -> Result<()> {
    const MOST: ByteSize = ByteSize::gib(1);
    terminal.heading("\nWho may see it");
    let grant = service.authority.grant::<Read>(&service.owner, &service.repository).await?;
    let log = service.logs.clone().follow(grant.lower(), service.authority.clone(), job.clone(), Cursor(0));
    let log = stream::collect(log, MOST).await?;
    terminal.good(&format!("the owner reads {} bytes of log", log.len()));
    for artifact in service.artifacts.list(&grant, job).await? {
        let content = service.artifacts.get(&grant, job, &artifact.name).await?;
        let content = stream::collect(content, MOST).await?;
        if Digest::of(&content) != artifact.digest {
            return Err(Error::new(ErrorKind::Tampered, "read an artifact").with("artifact", &artifact.name));
        }
        terminal.good(&format!(
            "the owner reads {} ({}, sha256 {})",
            artifact.name, artifact.size, artifact.digest
        ));
    }
    match service.authority.grant::<Read>(&service.stranger, &service.repository).await {
        Err(refused) if refused.kind() == ErrorKind::Denied => {
            terminal.good(&format!("a stranger is refused: {refused}"));
        }
        Err(error) => return Err(error),
        Ok(_) => return Err(Error::new(ErrorKind::Internal, "refuse a stranger")),
    }
    Ok(())
}
