//! A living native sandbox.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use async_trait::async_trait;
use ci_core::job::Arg;
use ci_core::network::NetworkReport;
use ci_core::sandbox::{Command, Instance, IsolationReport, Process, SandboxPath};
use ci_core::secret::SecretLease;
use ci_core::stream::ByteStream;
use ci_core::{Error, ErrorKind, Result};
use zeroize::Zeroizing;

use super::life::Life;
use super::network::Network;
use super::process::{Answers, NativeProcess};
use super::wire::{BODY_LIMIT, Request, Writer};
use super::{failure, sys, transfer};

/// What [`Native`](super::Native) makes.
#[derive(Debug)]
pub(super) struct NativeInstance {
    pub(super) life: Arc<Life>,
    pub(super) isolation: IsolationReport,
    /// How many files one program may have open.
    pub(super) open_files: u64,
    /// The bound on processes, where no control group holds it.
    pub(super) processes: u64,
}

#[async_trait]
impl Instance for NativeInstance {
    async fn exec<'a>(&'a self, command: &Command, lease: &SecretLease) -> Result<Box<dyn Process + 'a>> {
        const OPERATION: &str = "start a program";
        let body = self.body(command, lease)?;
        let body = sys::memory_file(&body).map_err(failure::host(OPERATION))?;
        let (output, output_end) = sys::output_pipe().map_err(failure::host(OPERATION))?;
        let (errors, errors_end) = sys::output_pipe().map_err(failure::host(OPERATION))?;
        let id = self.life.next_request();
        let kills = self.life.groups.out_of_memory_kills();
        let answers =
            self.request(Request::Exec { id }, &body, &[&output_end, &errors_end], OPERATION).await?;
        drop((output_end, errors_end));
        let process = NativeProcess::new(self.life.clone(), id, answers, output, errors, kills)
            .map_err(failure::host(OPERATION))?;
        process.started().await?;
        Ok(Box::new(process))
    }

    async fn upload(&self, path: &SandboxPath, tar: ByteStream<'_>) -> Result<()> {
        const OPERATION: &str = transfer::UPLOAD;
        let body = sys::memory_file(&path_body(path)).map_err(failure::host(OPERATION))?;
        let (ours, theirs) = sys::stream_sockets().map_err(failure::host(OPERATION))?;
        let id = self.life.next_request();
        let answers = self.request(Request::Extract { id }, &body, &[&theirs], OPERATION).await?;
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
            let answers = self.request(Request::Archive { id }, &body, &[&theirs], OPERATION).await?;
            Ok((ours, answers))
        })
    }

    fn isolation(&self) -> &IsolationReport {
        &self.isolation
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

impl NativeInstance {
    /// Sends a request, and returns where its answers come from.
    async fn request(
        &self,
        request: Request,
        body: &OwnedFd,
        streams: &[&OwnedFd],
        operation: &'static str,
    ) -> Result<Answers> {
        let (answers, [start, end]) = Answers::new().map_err(failure::host(operation))?;
        let mut files = vec![body.as_fd(), start.as_fd(), end.as_fd()];
        files.extend(streams.iter().map(|stream| stream.as_fd()));
        self.life.control.send(&request.encode(), &files).await.map_err(|_| failure::gone(operation))?;
        Ok(answers)
    }

    /// What process 1 passes on unread: limits, folder, arguments, variables.
    fn body(&self, command: &Command, lease: &SecretLease) -> Result<Zeroizing<Vec<u8>>> {
        let mut environment: BTreeMap<&str, &[u8]> = BTreeMap::new();
        if self.life.network.get().is_some() {
            for (name, value) in Network::variables() {
                environment.insert(name, value.as_bytes());
            }
        }
        environment.extend(command.environment.iter().map(|(name, value)| (name.as_str(), value.as_bytes())));
        for name in &command.secrets {
            environment.insert(name.as_str(), lease.value(name)?.expose());
        }
        let arguments = || std::iter::once(&command.program).chain(&command.arguments).map(Arg::as_str);
        let size = arguments().map(|text| text.len() + 5).sum::<usize>()
            + environment.iter().map(|(name, value)| name.len() + value.len() + 6).sum::<usize>();
        if size > BODY_LIMIT / 2 {
            return Err(Error::new(ErrorKind::LimitExceeded, "start a program")
                .because("its arguments and variables are too large together"));
        }
        if let Some((name, _)) = environment.iter().find(|(_, value)| value.contains(&0)) {
            return Err(Error::new(ErrorKind::Invalid, "start a program")
                .because("the value of a variable holds a zero byte; hand it over in a file")
                .with("variable", name));
        }
        // Large enough from the start: growing would leave copies of secrets behind.
        let mut body = Zeroizing::new(Vec::with_capacity(size + 8_192));
        let mut writer = Writer(&mut *body);
        writer.u64(self.open_files).u64(self.processes).text(command.directory.as_str().as_bytes());
        writer.count(arguments().count());
        for argument in arguments() {
            writer.text(argument.as_bytes());
        }
        writer.count(environment.len());
        for (name, value) in environment {
            writer.texts(&[name.as_bytes(), b"=", value]);
        }
        Ok(body)
    }
}

fn path_body(path: &SandboxPath) -> Vec<u8> {
    let mut body = Vec::new();
    Writer(&mut body).text(path.as_str().as_bytes());
    body
}
