//! A living native sandbox.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ci_core::job::Arg;
use ci_core::network::NetworkReport;
use ci_core::sandbox::{
    Command, Instance, IsolationReport, Process, SandboxPath, SandboxUsage, SecretForm, SecretUse, Streams,
    TerminalSize,
};
use ci_core::secret::SecretLease;
use ci_core::stream::ByteStream;
use ci_core::{ByteSize, Error, ErrorKind, Result};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::answers::{Answers, End};
use super::life::Life;
use super::network::Network;
use super::process::{NativeProcess, START};
use super::wire::{BODY_LIMIT, Report, Request, Writer, option};
use super::{failure, sys, transfer};

/// How many secrets one program can have in files, so that process 1 removes them all in one turn.
const MOST_SECRET_FILES: usize = 1_000;

/// What [`Native`](super::Native) makes.
#[derive(Debug)]
pub(super) struct NativeInstance {
    pub(super) life: Arc<Life>,
    pub(super) isolation: IsolationReport,
    /// What its image's programs find in their environment unless a command says otherwise.
    pub(super) environment: BTreeMap<String, Vec<u8>>,
    /// How many files one program may have open.
    pub(super) open_files: u64,
    /// The bound on processes, where no control group holds it.
    pub(super) processes: u64,
}

#[async_trait]
impl Instance for NativeInstance {
    async fn exec<'a>(&'a self, command: &Command, lease: &SecretLease) -> Result<Box<dyn Process + 'a>> {
        // The last of its processes may be dying still.
        if self.life.ran_out_of_memory() {
            return Err(failure::out_of_memory(START));
        }
        let (answers, reports) = Answers::new(&self.life).map_err(failure::host(START))?;
        let mut process = NativeProcess::new(&self.life, answers);
        let id = process.id();
        let body = self.body(id, command, lease)?;
        let body = sys::memory_file(&body).map_err(failure::host(START))?;
        let mut options = if has_secret_files(command) { option::SECRET_FILES } else { 0 };
        let (mut size, mut pipes) = (0, Vec::new());
        match command.streams {
            Streams::Terminal(TerminalSize { rows, columns }) => {
                options |= option::TERMINAL;
                size = u32::from(rows) | u32::from(columns) << 16;
            }
            Streams::Pipes { input, merged, .. } => {
                options |= if input { option::INPUT } else { 0 } | if merged { option::MERGED } else { 0 };
                pipes = process.open_pipes(input, merged).map_err(failure::host(START))?;
            }
            _ => {
                return Err(Error::new(ErrorKind::Unsupported, START)
                    .because("native sandboxes have no such streams"));
            }
        }
        let pipes: Vec<_> = pipes.iter().collect();
        self.send(Request::Exec { id, options, size }, &body, reports, &pipes, START).await?;
        drop((body, pipes));
        if options & option::TERMINAL != 0 {
            process.has_terminal(command).await?;
        }
        process.started(command).await?;
        Ok(Box::new(process))
    }

    async fn upload(&self, path: &SandboxPath, tar: ByteStream<'_>) -> Result<()> {
        const OPERATION: &str = transfer::UPLOAD;
        let body = sys::memory_file(&path_body(path)).map_err(failure::host(OPERATION))?;
        let (ours, theirs) = sys::stream_sockets().map_err(failure::host(OPERATION))?;
        let id = self.life.next_request();
        let answers = self.request(Request::Extract { id }, &body, &theirs, OPERATION).await?;
        drop(theirs);
        transfer::upload(ours, answers, tar).await
    }

    fn download(&self, path: &SandboxPath) -> ByteStream<'_> {
        const OPERATION: &str = transfer::DOWNLOAD;
        let body = path_body(path);
        transfer::download(async move {
            let body = sys::memory_file(&body).map_err(failure::host(OPERATION))?;
            let (ours, theirs) = sys::output_pipe().map_err(failure::host(OPERATION))?;
            let id = self.life.next_request();
            let answers = self.request(Request::Archive { id }, &body, &theirs, OPERATION).await?;
            Ok((ours, answers))
        })
    }

    fn isolation(&self) -> &IsolationReport {
        &self.isolation
    }

    async fn usage(&self) -> Result<SandboxUsage> {
        if self.life.init().is_none() {
            return Err(self.life.gone("tell what a sandbox uses"));
        }
        let mut usage = self.life.groups.usage();
        // Of its file tree only the sandbox itself knows. A job that leaves its process 1 no time, or has ended, hides
        // no more than that.
        usage.files = timeout(PATIENCE, self.measured()).await.ok().flatten().map(ByteSize::bytes);
        Ok(usage)
    }

    fn network(&self) -> NetworkReport {
        let mut report =
            self.life.network.get().map(|network| network.transcript().report()).unwrap_or_default();
        if let Some(link) = &self.life.link {
            link.add_to(&mut report);
        }
        report
    }
}

/// How long process 1 may take to look at its files.
const PATIENCE: Duration = Duration::from_secs(1);

impl NativeInstance {
    /// What the files take up; nothing where process 1 does not say it.
    async fn measured(&self) -> Option<u64> {
        let (answer, theirs) = End::new().ok()?;
        self.life.control.send(&Request::Measure.encode(), &[theirs.as_fd()]).await.ok()?;
        drop(theirs);
        match answer.report().await? {
            Report::Measured { files } => Some(files),
            _ => None,
        }
    }

    /// Sends a request, and returns where its answers come from.
    async fn request(
        &self,
        request: Request,
        body: &OwnedFd,
        stream: &OwnedFd,
        operation: &'static str,
    ) -> Result<Answers> {
        let (answers, reports) = Answers::new(&self.life).map_err(failure::host(operation))?;
        self.send(request, body, reports, &[stream], operation).await?;
        Ok(answers)
    }

    async fn send(
        &self,
        request: Request,
        body: &OwnedFd,
        [start, end]: [OwnedFd; 2],
        streams: &[&OwnedFd],
        operation: &'static str,
    ) -> Result<()> {
        let mut files = vec![body.as_fd(), start.as_fd(), end.as_fd()];
        files.extend(streams.iter().map(|stream| stream.as_fd()));
        self.life.control.send(&request.encode(), &files).await.map_err(|_| self.life.gone(operation))
    }

    /// What process 1 passes on unread: secrets in files, limits, folder, arguments, variables.
    fn body(&self, id: u32, command: &Command, lease: &SecretLease) -> Result<Zeroizing<Vec<u8>>> {
        let ways_out = self.life.is_proxied().then(Network::variables).into_iter().flatten();
        let ways_out = ways_out.map(|(name, value)| (name, Cow::from(value.as_bytes())));
        let image = self.environment.iter().map(|(name, value)| (name.as_str(), Cow::from(value)));
        let variables =
            command.environment.iter().map(|(name, value)| (name.as_str(), Cow::from(value.as_bytes())));
        let mut environment: BTreeMap<&str, Cow<'_, [u8]>> = ways_out.chain(image).chain(variables).collect();
        let mut files = BTreeMap::new();
        for SecretUse { name, form } in &command.secrets {
            let value = lease.value(name)?.expose();
            match form {
                SecretForm::Variable => environment.insert(name.as_str(), value.into()),
                SecretForm::File => {
                    files.insert(name.as_str(), value);
                    environment.insert(name.as_str(), format!("/run/secrets/{id}/{name}").into_bytes().into())
                }
                _ => {
                    return Err(Error::new(ErrorKind::Unsupported, START)
                        .because("native sandboxes show no secret in this form")
                        .with("secret", name));
                }
            };
        }
        let arguments = || std::iter::once(&command.program).chain(&command.arguments).map(Arg::as_str);
        let size = arguments().map(|text| text.len() + 5).sum::<usize>()
            + environment.iter().map(|(name, value)| name.len() + value.len() + 6).sum::<usize>()
            + files.iter().map(|(name, value)| name.len() + value.len() + 9).sum::<usize>();
        if size > BODY_LIMIT / 2 || files.len() > MOST_SECRET_FILES {
            return Err(Error::new(ErrorKind::LimitExceeded, START)
                .because("its arguments, variables and secrets are too large together"));
        }
        if let Some((name, _)) = environment.iter().find(|(_, value)| value.contains(&0)) {
            return Err(Error::new(ErrorKind::Invalid, START)
                .because("the value of a variable holds a zero byte; hand it over in a file")
                .with("variable", name));
        }
        // Large enough from the start: growing would leave copies of secrets behind.
        let mut body = Zeroizing::new(Vec::with_capacity(size + 8_192));
        let mut writer = Writer(&mut *body);
        if !files.is_empty() {
            writer.count(files.len());
        }
        for (name, value) in files {
            writer.text(name.as_bytes()).bytes(value);
        }
        writer.u64(self.open_files).u64(self.processes).text(command.directory.as_str().as_bytes());
        writer.count(arguments().count());
        for argument in arguments() {
            writer.text(argument.as_bytes());
        }
        writer.count(environment.len());
        for (name, value) in environment {
            writer.texts(&[name.as_bytes(), b"=", &value]);
        }
        Ok(body)
    }
}

fn has_secret_files(command: &Command) -> bool {
    command.secrets.iter().any(|secret| secret.form == SecretForm::File)
}

fn path_body(path: &SandboxPath) -> Vec<u8> {
    let mut body = Vec::new();
    Writer(&mut body).text(path.as_str().as_bytes());
    body
}
