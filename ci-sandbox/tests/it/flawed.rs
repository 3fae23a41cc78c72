//! The native backend with one flaw: what it does otherwise is sound.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use ci_core::id::SandboxId;
use ci_core::job::{Arg, Environment, Limits};
use ci_core::network::{Destination, EgressRule, NetworkPolicy, NetworkReport};
use ci_core::sandbox::{
    Backend, Capabilities, Command, Exit, ExitStatus, Input, Instance, IsolationReport, OutputStream,
    Process, ProcessEvent, Residue, SandboxPath, SandboxUsage, SecretForm, SecretUse, Signal, Spec, Streams,
    TerminalSize, Usage,
};
use ci_core::secret::SecretLease;
use ci_core::stream::{self, ByteStream};
use ci_core::{ByteSize, Error, ErrorKind, Result};
use futures_util::StreamExt as _;

use crate::tar::Made;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// It has none.
    None,
    // Programs and what they are given.
    LosesExitCodes,
    TellsSignalsAsCodes,
    TellsMemoryAsSignal,
    LosesArguments,
    AddsVariables,
    IgnoresDirectories,
    FeedsInput,
    TellsOtherErrors,
    KillsForEverySignal,
    LeavesDroppedPrograms,
    PretendsToKill,
    RunsElsewhere,
    // Their streams.
    LosesOutput,
    MergesNothing,
    LosesInput,
    EndsInputEarly,
    HandsInputOutAgain,
    TakesAllInput,
    TypesTwice,
    MakesNoTerminals,
    MakesTerminalsOnly,
    TurnsTerminals,
    // Files.
    ChangesDownloads,
    KeepsOldFiles,
    EchoesUploads,
    SwallowsErrors,
    IgnoresFolders,
    // Secrets.
    ForgetsSecrets,
    KeepsSecrets,
    KeepsSecretFiles,
    MakesSecretsVariables,
    // What it says of itself, and what it is asked for.
    ForgetsGuarantees,
    IgnoresMinimum,
    IgnoresRules,
    IgnoresLimits,
    AddsRules,
    LiesAboutUse,
    // Lives.
    TakesAnyImage,
    TakesAnIdTwice,
    DestroysOnce,
    CountsWhatIsGone,
    DestroysNothing,
    AbandonsNothing,
    ListsTheLiving,
    MakesOneForAll,
    MakesServicesApart,
    MakesServicesOfTheJob,
    /// Of this one there is no native backend.
    KeepsPrivileges,
}

/// One over `inner`, which it clears up after itself.
#[derive(Clone, Debug)]
pub(crate) struct Flawed(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    inner: Arc<dyn Backend>,
    flaw: Flaw,
    spec: Spec,
    made: Mutex<BTreeMap<SandboxId, Arc<dyn Instance>>>,
    destroyed: Mutex<BTreeSet<SandboxId>>,
    /// Held while the one for all is made.
    one: tokio::sync::Mutex<()>,
}

impl Flawed {
    /// `spec` is one that `inner` can make.
    pub(crate) fn new(inner: Arc<dyn Backend>, flaw: Flaw, spec: Spec) -> Self {
        Self(Arc::new(Shared {
            inner,
            flaw,
            spec,
            made: Mutex::default(),
            destroyed: Mutex::default(),
            one: tokio::sync::Mutex::default(),
        }))
    }

    /// Takes down what a flaw has left.
    pub(crate) async fn clear(&self) {
        let made: Vec<_> = self.0.made.lock().unwrap().keys().cloned().collect();
        for id in made {
            self.0.inner.destroy(&id).await.unwrap();
        }
    }

    fn has(&self, flaw: Flaw) -> bool {
        self.0.flaw == flaw
    }

    fn of_instance(
        &self,
        id: &SandboxId,
        instance: Arc<dyn Instance>,
        other: Option<Arc<dyn Instance>>,
    ) -> FlawedInstance {
        self.0.made.lock().unwrap().insert(id.clone(), instance.clone());
        FlawedInstance {
            flaw: self.0.flaw,
            isolation: match self.0.flaw {
                Flaw::ForgetsGuarantees => IsolationReport::default(),
                _ => instance.isolation().clone(),
            },
            inner: instance,
            other,
            count: AtomicUsize::new(0),
            uploads: Mutex::default(),
            kept: Mutex::default(),
        }
    }

    fn known(&self, id: &SandboxId) -> Option<Arc<dyn Instance>> {
        self.0.made.lock().unwrap().get(id).cloned()
    }
}

#[async_trait]
impl Backend for Flawed {
    async fn create(&self, id: &SandboxId, spec: &Spec) -> Result<Box<dyn Instance>> {
        let (mut spec, mut id, mut one) = (spec.clone(), id.clone(), None);
        match self.0.flaw {
            Flaw::IgnoresMinimum => spec.minimum.clear(),
            Flaw::IgnoresRules => spec.network = NetworkPolicy::None,
            Flaw::IgnoresLimits => spec.limits = Limits::default(),
            Flaw::IgnoresFolders => spec.binds.clear(),
            Flaw::TakesAnyImage => spec.image = self.0.spec.image.clone(),
            Flaw::TakesAnIdTwice if self.known(&id).is_some() => id = SandboxId::random(),
            Flaw::AddsRules => {
                if let NetworkPolicy::Allow(rules) = &mut spec.network {
                    let destination = Destination::Network("203.0.113.0/24".parse().unwrap());
                    rules.push(EgressRule { destination, ports: vec![53, 80] });
                }
            }
            Flaw::MakesOneForAll => {
                one = Some(self.0.one.lock().await);
                let first = self.0.made.lock().unwrap().values().next().cloned();
                if let Some(first) = first {
                    return Ok(Box::new(self.of_instance(&id, first, None)));
                }
            }
            _ => {}
        }
        let inner: Arc<dyn Instance> = self.0.inner.create(&id, &spec).await?.into();
        let mut other = None;
        if self.has(Flaw::RunsElsewhere) {
            let id = SandboxId::random();
            let instance: Arc<dyn Instance> = self.0.inner.create(&id, &spec).await?.into();
            self.0.made.lock().unwrap().insert(id, instance.clone());
            other = Some(instance);
        }
        let made = self.of_instance(&id, inner, other);
        drop(one);
        Ok(Box::new(made))
    }

    async fn create_beside(
        &self,
        id: &SandboxId,
        spec: &Spec,
        beside: &SandboxId,
    ) -> Result<Box<dyn Instance>> {
        let made = match (self.0.flaw, self.known(beside)) {
            (Flaw::MakesServicesApart, _) => self.0.inner.create(id, spec).await?.into(),
            (Flaw::MakesServicesOfTheJob, Some(job)) => job,
            _ => self.0.inner.create_beside(id, spec, beside).await?.into(),
        };
        Ok(Box::new(self.of_instance(id, made, None)))
    }

    async fn destroy(&self, id: &SandboxId) -> Result<Residue> {
        let is_first = self.0.destroyed.lock().unwrap().insert(id.clone());
        match self.0.flaw {
            Flaw::DestroysNothing => Ok(Residue::default()),
            Flaw::DestroysOnce if !is_first => Err(Error::new(ErrorKind::NotFound, "destroy a sandbox")),
            Flaw::CountsWhatIsGone => {
                self.0.inner.destroy(id).await?;
                Ok(Residue { processes: 1, ..Residue::default() })
            }
            _ => self.0.inner.destroy(id).await,
        }
    }

    async fn leftovers(&self) -> Result<Vec<SandboxId>> {
        if self.has(Flaw::ListsTheLiving) {
            return Ok(self.0.made.lock().unwrap().keys().cloned().collect());
        }
        self.0.inner.leftovers().await
    }

    fn abandon(&self, id: &SandboxId) {
        if !self.has(Flaw::AbandonsNothing) && !self.has(Flaw::DestroysNothing) {
            self.0.inner.abandon(id);
        }
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = self.0.inner.capabilities();
        if self.has(Flaw::IgnoresRules) {
            capabilities.egress_to_hosts = false;
        }
        capabilities
    }
}

struct FlawedInstance {
    flaw: Flaw,
    inner: Arc<dyn Instance>,
    /// Another sandbox, in which every other program runs.
    other: Option<Arc<dyn Instance>>,
    isolation: IsolationReport,
    count: AtomicUsize,
    uploads: Mutex<BTreeMap<SandboxPath, Vec<u8>>>,
    kept: Mutex<Environment>,
}

impl fmt::Debug for FlawedInstance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlawedInstance").field("flaw", &self.flaw).finish_non_exhaustive()
    }
}

impl FlawedInstance {
    /// Secrets as files that nobody takes away again.
    async fn keep_files(&self, command: &mut Command, lease: &SecretLease) -> Result<()> {
        for SecretUse { name, .. } in std::mem::take(&mut command.secrets) {
            let number = self.count.fetch_add(1, Ordering::Relaxed);
            let file = format!("kept-{number}");
            let tar = Made::new().mode(0o600).file(&file, lease.value(&name)?.expose()).end();
            self.inner.upload(&SandboxPath::work(), stream::once(tar)).await?;
            let variable = name.as_str().parse().unwrap();
            command.environment.set(variable, format!("/work/{file}"));
        }
        Ok(())
    }

    async fn change(&self, command: &mut Command, lease: &SecretLease) -> Result<()> {
        const SIZE: TerminalSize = TerminalSize { rows: 24, columns: 80 };
        match self.flaw {
            Flaw::LosesArguments => command.arguments.retain(|argument| !argument.as_str().is_empty()),
            Flaw::AddsVariables => command.environment.set("CI".parse().unwrap(), "true"),
            Flaw::IgnoresDirectories => command.directory = SandboxPath::work(),
            Flaw::ForgetsSecrets => command.secrets.clear(),
            Flaw::MakesSecretsVariables => {
                command.secrets.iter_mut().for_each(|secret| secret.form = SecretForm::Variable);
            }
            Flaw::KeepsSecretFiles
                if command.secrets.iter().any(|secret| secret.form == SecretForm::File) =>
            {
                self.keep_files(command, lease).await?;
            }
            Flaw::KeepsSecrets => {
                let mut kept = self.kept.lock().unwrap();
                for secret in &command.secrets {
                    let value = String::from_utf8_lossy(lease.value(&secret.name)?.expose()).into_owned();
                    kept.set(secret.name.as_str().parse().unwrap(), value);
                }
                command.environment.extend(&kept);
            }
            Flaw::MakesTerminalsOnly => *command = command.clone().with_terminal(SIZE),
            _ => {}
        }
        match (&mut command.streams, self.flaw) {
            (Streams::Pipes { merged, .. }, Flaw::MergesNothing) => *merged = false,
            (Streams::Pipes { input, .. }, Flaw::FeedsInput) => *input = true,
            (streams @ Streams::Terminal(_), Flaw::MakesNoTerminals) => {
                let program = Command::new(Arg::new("x")?, []).with_input();
                *streams = program.streams;
            }
            _ => {}
        }
        Ok(())
    }

    fn told(&self, error: Error) -> Error {
        match self.flaw {
            Flaw::TellsOtherErrors => {
                Error::new(ErrorKind::Internal, "use a flawed sandbox").caused_by(error)
            }
            _ => error,
        }
    }
}

#[async_trait]
impl Instance for FlawedInstance {
    async fn exec<'a>(&'a self, command: &Command, lease: &SecretLease) -> Result<Box<dyn Process + 'a>> {
        let mut command = command.clone();
        self.change(&mut command, lease).await?;
        let turn = self.count.fetch_add(1, Ordering::Relaxed);
        let instance = match &self.other {
            Some(other) if !turn.is_multiple_of(2) => other,
            _ => &self.inner,
        };
        let mut process = instance.exec(&command, lease).await.map_err(|error| self.told(error))?;
        if self.flaw == Flaw::FeedsInput
            && let Some(mut input) = process.input()
        {
            input.write("noise".into()).await?;
        }
        Ok(Box::new(FlawedProcess {
            flaw: self.flaw,
            inner: Some(process),
            is_killed: AtomicBool::new(false),
            pieces: 0,
        }))
    }

    async fn upload(&self, path: &SandboxPath, tar: ByteStream<'_>) -> Result<()> {
        let tar = match stream::collect(tar, ByteSize::mib(64)).await {
            Err(_) if self.flaw == Flaw::SwallowsErrors => return Ok(()),
            tar => tar?,
        };
        let is_first = self.uploads.lock().unwrap().insert(path.clone(), tar.clone()).is_none();
        if self.flaw == Flaw::KeepsOldFiles && !is_first {
            return Ok(());
        }
        if let Some(other) = &self.other {
            other.upload(path, stream::once(tar.clone())).await?;
        }
        match self.inner.upload(path, stream::once(tar)).await {
            Err(_) if self.flaw == Flaw::SwallowsErrors => Ok(()),
            done => done.map_err(|error| self.told(error)),
        }
    }

    fn download(&self, path: &SandboxPath) -> ByteStream<'_> {
        let uploads = self.uploads.lock().unwrap();
        let inner = self.inner.download(path);
        match self.flaw {
            Flaw::EchoesUploads => {
                let last = uploads.get(&SandboxPath::work()).cloned().unwrap_or_default();
                stream::once(last)
            }
            Flaw::ChangesDownloads => Box::pin(inner.map(|piece| {
                piece.map(|bytes| bytes.iter().map(|byte| if *byte == 9 { 8 } else { *byte }).collect())
            })),
            Flaw::SwallowsErrors => Box::pin(inner.filter(|piece| std::future::ready(piece.is_ok()))),
            _ => inner,
        }
    }

    async fn usage(&self) -> Result<SandboxUsage> {
        if self.flaw == Flaw::LiesAboutUse {
            return Ok(SandboxUsage::default().with_cpu(Duration::ZERO));
        }
        self.inner.usage().await
    }

    fn network(&self) -> NetworkReport {
        self.inner.network()
    }

    fn isolation(&self) -> &IsolationReport {
        &self.isolation
    }
}

struct FlawedProcess<'a> {
    flaw: Flaw,
    inner: Option<Box<dyn Process + 'a>>,
    is_killed: AtomicBool,
    pieces: usize,
}

impl fmt::Debug for FlawedProcess<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlawedProcess").field("flaw", &self.flaw).finish_non_exhaustive()
    }
}

impl<'a> FlawedProcess<'a> {
    fn inner(&self) -> &(dyn Process + 'a) {
        self.inner.as_deref().unwrap()
    }

    fn ended(&self, mut exit: Exit) -> Exit {
        exit.status = match (self.flaw, exit.status) {
            (Flaw::LosesExitCodes, ExitStatus::Code(_)) => ExitStatus::Code(0),
            (Flaw::TellsSignalsAsCodes, ExitStatus::Signal(signal)) => ExitStatus::Code(128 + signal),
            (Flaw::TellsMemoryAsSignal, ExitStatus::OutOfMemory) => ExitStatus::Signal(9),
            (_, status) => status,
        };
        if self.flaw == Flaw::LiesAboutUse {
            exit.usage = Usage::default();
        }
        exit
    }
}

#[async_trait]
impl Process for FlawedProcess<'_> {
    async fn next(&mut self) -> Result<ProcessEvent> {
        loop {
            if self.is_killed.load(Ordering::Relaxed) {
                let exit = Exit { status: ExitStatus::Signal(9), usage: Usage::default() };
                return Ok(ProcessEvent::Exited(exit));
            }
            match self.inner.as_mut().unwrap().next().await? {
                ProcessEvent::Exited(exit) => return Ok(ProcessEvent::Exited(self.ended(exit))),
                ProcessEvent::Output(stream, bytes) => {
                    self.pieces += 1;
                    // The first is what most programs say first: there would be nothing to be seen at all.
                    if self.flaw == Flaw::LosesOutput
                        && self.pieces.is_multiple_of(2)
                        && stream == OutputStream::Stdout
                    {
                        continue;
                    }
                    return Ok(ProcessEvent::Output(stream, bytes));
                }
            }
        }
    }

    async fn signal(&self, signal: Signal) -> Result<()> {
        match self.flaw {
            Flaw::KillsForEverySignal => self.inner().signal(Signal::Kill).await,
            Flaw::PretendsToKill if signal == Signal::Kill => {
                self.is_killed.store(true, Ordering::Relaxed);
                Ok(())
            }
            _ => self.inner().signal(signal).await,
        }
    }

    fn input(&mut self) -> Option<Box<dyn Input>> {
        let inner = self.inner.as_mut().unwrap().input();
        if inner.is_none() && self.flaw != Flaw::HandsInputOutAgain {
            return None;
        }
        Some(Box::new(FlawedInput { flaw: self.flaw, inner, count: 0 }))
    }

    async fn resize(&self, size: TerminalSize) -> Result<()> {
        let TerminalSize { rows, columns } = size;
        match self.flaw {
            Flaw::TurnsTerminals => self.inner().resize(TerminalSize { rows: columns, columns: rows }).await,
            _ => self.inner().resize(size).await,
        }
    }
}

impl Drop for FlawedProcess<'_> {
    fn drop(&mut self) {
        if matches!(self.flaw, Flaw::LeavesDroppedPrograms | Flaw::DestroysNothing) {
            std::mem::forget(self.inner.take());
        }
    }
}

#[derive(Debug)]
struct FlawedInput {
    flaw: Flaw,
    inner: Option<Box<dyn Input>>,
    count: usize,
}

#[async_trait]
impl Input for FlawedInput {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.count += 1;
        let Some(inner) = &mut self.inner else { return Ok(()) };
        match self.flaw {
            Flaw::LosesInput if self.count.is_multiple_of(7) => Ok(()),
            Flaw::TakesAllInput => Ok(()),
            Flaw::TypesTwice => {
                inner.write(bytes.clone()).await?;
                // It may have ended of it.
                let _ = inner.write(bytes).await;
                Ok(())
            }
            Flaw::EndsInputEarly => {
                inner.write(bytes).await?;
                self.inner = None;
                Ok(())
            }
            _ => inner.write(bytes).await,
        }
    }
}
