//! What a job prints without end: it is always ready, and must leave everything else its turn.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use ci_core::access::Read;
use ci_core::id::{JobId, SandboxId, SecretName, StepName};
use ci_core::job::{JobSpec, Script, Step};
use ci_core::log::{Cursor, LogStore as _};
use ci_core::memory::{Logs, Rig, Scripted};
use ci_core::network::NetworkReport;
use ci_core::queue::Claim;
use ci_core::sandbox::{
    Backend, Capabilities, Command, Input, Instance, IsolationReport, OutputStream, Process, ProcessEvent,
    Residue, SandboxPath, SandboxUsage, Sandboxes, Signal, Spec, TerminalSize,
};
use ci_core::secret::{SecretLease, SecretStore as _, SecretValue};
use ci_core::{ByteStream, Error, ErrorKind, Result};
use futures_util::poll;
use tokio::task::{consume_budget, yield_now};

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

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }
}

#[derive(Debug)]
struct Printing(Box<dyn Instance>);

#[async_trait]
impl Instance for Printing {
    async fn exec<'a>(&'a self, _: &Command, _: &SecretLease) -> Result<Box<dyn Process + 'a>> {
        Ok(Box::new(Program { has_begun: false }))
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
