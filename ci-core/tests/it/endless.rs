//! What a job prints without end: it is always ready, and must leave everything else its turn.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use ci_core::access::Read;
use ci_core::id::{JobId, SandboxId, SecretName, ServiceName, StepName};
use ci_core::job::{Arg, JobSpec, Run, Script, Service as Beside, Step};
use ci_core::log::{Cursor, LogStore as _};
use ci_core::memory::{Logs, Reply, Rig, Scripted};
use ci_core::network::NetworkReport;
use ci_core::outcome::Conclusion;
use ci_core::queue::Claim;
use ci_core::sandbox::{
    Backend, Capabilities, Command, Input, Instance, IsolationReport, OutputStream, Process, ProcessEvent,
    Residue, SandboxPath, SandboxUsage, Sandboxes, Signal, Spec, TerminalSize,
};
use ci_core::secret::{SecretLease, SecretStore as _, SecretValue};
use ci_core::{ByteStream, Error, ErrorKind, Result};
use futures_util::poll;
use tokio::task::{consume_budget, yield_now};

use crate::hanging::soon;
use crate::runner::{Service, never};
use crate::{ours, writer};

const SECRET: &str = "hunter2-hunter3";
const SECOND: Duration = Duration::from_secs(1);

/// Sandboxes whose programs print a line, and then the secret without end.
#[derive(Debug)]
struct Endless(Scripted);

#[async_trait]
impl Backend for Endless {
    async fn create(&self, id: &SandboxId, spec: &Spec) -> Result<Box<dyn Instance>> {
        Ok(Box::new(Printing(self.0.create(id, spec).await?)))
    }

    async fn destroy(&self, id: &SandboxId) -> Result<Residue> {
        self.0.destroy(id).await
    }

    async fn leftovers(&self) -> Result<Vec<SandboxId>> {
        self.0.leftovers().await
    }

    fn abandon(&self, id: &SandboxId) {
        self.0.abandon(id);
    }

    async fn create_beside(
        &self,
        id: &SandboxId,
        spec: &Spec,
        other: &SandboxId,
    ) -> Result<Box<dyn Instance>> {
        Ok(Box::new(Printing(self.0.create_beside(id, spec, other).await?)))
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }
}

#[derive(Debug)]
struct Printing(Box<dyn Instance>);

#[async_trait]
impl Instance for Printing {
    async fn exec<'a>(&'a self, command: &Command, lease: &SecretLease) -> Result<Box<dyn Process + 'a>> {
        match command.program.as_str() {
            "print" | "/bin/sh" => Ok(Box::new(Program { has_begun: false })),
            // One that needs what a task may do at a time.
            _ => Ok(Box::new(Frugal(self.0.exec(command, lease).await?))),
        }
    }

    async fn upload(&self, path: &SandboxPath, tar: ByteStream<'_>) -> Result<()> {
        self.0.upload(path, tar).await
    }

    fn download(&self, path: &SandboxPath) -> ByteStream<'_> {
        self.0.download(path)
    }

    fn isolation(&self) -> &IsolationReport {
        self.0.isolation()
    }

    async fn usage(&self) -> Result<SandboxUsage> {
        self.0.usage().await
    }

    fn network(&self) -> NetworkReport {
        self.0.network()
    }
}

#[derive(Debug)]
struct Program {
    has_begun: bool,
}

#[async_trait]
impl Process for Program {
    async fn next(&mut self) -> Result<ProcessEvent> {
        // As reading a pipe does: a task may do only so much at a time.
        consume_budget().await;
        let text = if std::mem::replace(&mut self.has_begun, true) { SECRET } else { "begun\n" };
        Ok(ProcessEvent::Output(OutputStream::Stdout, Bytes::from_static(text.as_bytes())))
    }

    async fn signal(&self, _: Signal) -> Result<()> {
        Ok(())
    }

    fn input(&mut self) -> Option<Box<dyn Input>> {
        None
    }

    async fn resize(&self, _: TerminalSize) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, "resize a terminal"))
    }
}

#[derive(Debug)]
struct Frugal<'a>(Box<dyn Process + 'a>);

#[async_trait]
impl Process for Frugal<'_> {
    async fn next(&mut self) -> Result<ProcessEvent> {
        consume_budget().await;
        self.0.next().await
    }

    async fn signal(&self, signal: Signal) -> Result<()> {
        self.0.signal(signal).await
    }

    fn input(&mut self) -> Option<Box<dyn Input>> {
        self.0.input()
    }

    async fn resize(&self, size: TerminalSize) -> Result<()> {
        self.0.resize(size).await
    }
}

/// A service of such sandboxes, and a job that has the secret.
async fn claimed() -> Result<(Service, Claim)> {
    let rig = Rig::new()?;
    let backend = Arc::new(Endless(rig.backend.clone()));
    let service = Service::with_parts(rig, |parts| parts.sandboxes = Sandboxes::new(backend));
    let token = SecretName::parse("TOKEN")?;
    let grant = writer(&service.rig, &ours()).await?;
    service.secrets.put(&grant, &token, SecretValue::new(SECRET)).await?;
    let step = Step::script(StepName::parse("print")?, Script::literal("x")).with_secret(token.clone());
    let claim = service.claim(JobSpec::new(Rig::spec().image).with_step(step).with_secret(token)).await?;
    Ok((service, claim))
}

async fn log_of(rig: &Rig, job: &JobId) -> Result<String> {
    let reader = writer(rig, &ours()).await?.lower::<Read>();
    let logs = Logs::new(rig.database.clone(), rig.clock.clone());
    let page = logs.read(&reader, job, Cursor(0), 1 << 20).await?;
    Ok(String::from_utf8_lossy(&page.bytes).into_owned())
}

#[tokio::test]
async fn a_job_that_prints_without_end_keeps_its_lease() -> Result<()> {
    let (service, claim) = claimed().await?;
    let mut run = pin!(service.runner.run(claim, never()));
    for second in 0..100 {
        assert!(poll!(&mut run).is_pending(), "after {second} seconds it has ended");
        let again = service.rig.dispatcher.next(&[]).await?;
        assert!(again.is_none(), "after {second} seconds another worker has the job");
        service.rig.clock.advance(SECOND);
        yield_now().await;
    }
    Ok(())
}

#[tokio::test]
async fn what_a_job_printed_is_shown_though_it_prints_on() -> Result<()> {
    let (service, claim) = claimed().await?;
    let job = claim.job().clone();
    let mut run = pin!(service.runner.run(claim, never()));
    for _ in 0..3 {
        assert!(poll!(&mut run).is_pending());
        service.rig.clock.advance(SECOND);
        yield_now().await;
    }
    assert_eq!(log_of(&service.rig, &job).await?, "begun\n***");
    Ok(())
}

#[tokio::test]
async fn services_that_print_without_end_leave_the_steps_their_turn() -> Result<()> {
    const STEPS: usize = 200;
    let rig = Rig::new()?;
    rig.backend.set_capabilities(Capabilities::default().with_services());
    rig.backend.on("work", |_| Reply::exit(0).stdout("worked\n"));
    rig.backend.on("probe", |_| Reply::exit(0).stdout("ready"));
    let backend = Arc::new(Endless(rig.backend.clone()));
    let service = Service::with_parts(rig, |parts| parts.sandboxes = Sandboxes::new(backend));
    let run = |program| Ok::<_, Error>(Run::Command { program: Arg::new(program)?, arguments: Vec::new() });
    let mut spec = JobSpec::new(Rig::spec().image);
    for name in ["one", "two"] {
        let (name, image) = (ServiceName::parse(name)?, Rig::spec().image);
        spec =
            spec.with_service(Beside::command(name, image, Arg::new("print")?, []).with_ready(run("probe")?));
    }
    for number in 0..STEPS {
        let name = StepName::parse(number.to_string())?;
        spec = spec.with_step(Step::command(name, Arg::new("work")?, []));
    }
    let outcome = soon(&service.rig, service.runner.run(service.claim(spec).await?, never())).await?;
    assert_eq!((outcome.conclusion, outcome.steps.len()), (Conclusion::Succeeded, STEPS));
    Ok(())
}
