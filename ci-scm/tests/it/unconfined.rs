//! A sandbox that is none: it runs commands as plain processes of the test, in a temporary folder. It holds no
//! guarantee and says so; it is here so that the real `git` runs.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use ci_core::id::SandboxId;
use ci_core::network::NetworkReport;
use ci_core::sandbox::{
    Backend, Capabilities, Command, Exit, ExitStatus, Input, Instance, IsolationReport, OutputStream,
    Process, ProcessEvent, Residue, SandboxPath, SandboxUsage, Signal, Spec, TerminalSize, Usage,
};
use ci_core::secret::SecretLease;
use ci_core::{ByteSize, ByteStream, Error, ErrorKind, Result, stream};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;

#[derive(Clone, Debug, Default)]
pub(crate) struct Unconfined {
    living: Arc<Mutex<BTreeMap<SandboxId, Arc<TempDir>>>>,
    /// Every command line that was run, for tests that look at what git was told.
    commands: Arc<Mutex<Vec<String>>>,
}

impl Unconfined {
    pub(crate) fn living(&self) -> usize {
        self.living.lock().unwrap().len()
    }

    pub(crate) fn commands(&self) -> Vec<String> {
        self.commands.lock().unwrap().clone()
    }
}

#[async_trait]
impl Backend for Unconfined {
    async fn create(&self, id: &SandboxId, spec: &Spec) -> Result<Box<dyn Instance>> {
        let root = Arc::new(tempfile::tempdir().unwrap());
        for folder in ["work", "tmp"] {
            std::fs::create_dir(root.path().join(folder)).unwrap();
        }
        self.living.lock().unwrap().insert(id.clone(), root.clone());
        let binds = spec.binds.clone();
        Ok(Box::new(Place {
            root,
            binds,
            report: IsolationReport::default(),
            commands: self.commands.clone(),
        }))
    }

    async fn destroy(&self, id: &SandboxId) -> Result<Residue> {
        self.living.lock().unwrap().remove(id);
        Ok(Residue::default())
    }

    async fn leftovers(&self) -> Result<Vec<SandboxId>> {
        Ok(Vec::new())
    }

    fn abandon(&self, id: &SandboxId) {
        self.living.lock().unwrap().remove(id);
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new(IsolationReport::default()).with_host_folders()
    }
}

#[derive(Debug)]
struct Place {
    root: Arc<TempDir>,
    binds: BTreeMap<SandboxPath, PathBuf>,
    report: IsolationReport,
    commands: Arc<Mutex<Vec<String>>>,
}

impl Place {
    fn outside(&self, path: &SandboxPath) -> PathBuf {
        self.root.path().join(path.as_str().trim_start_matches('/'))
    }

    /// An argument or variable in which a path of the sandbox is the one of the host.
    fn translated(&self, text: &str) -> String {
        let (start, path) = match text.strip_prefix("file://") {
            Some(path) => ("file://", path),
            None => ("", text),
        };
        let bound = self.binds.iter().find_map(|(inside, outside)| {
            let rest = path.strip_prefix(inside.as_str())?;
            (rest.is_empty() || rest.starts_with('/')).then(|| format!("{start}{}{rest}", outside.display()))
        });
        // The test's own folders are below `/tmp` too, and stay as they are.
        let is_own = path.starts_with("/tmp/") && !Path::new(path).exists();
        match bound {
            Some(bound) => bound,
            None if is_own => format!("{start}{}{path}", self.root.path().display()),
            None => text.to_owned(),
        }
    }
}

#[async_trait]
impl Instance for Place {
    async fn exec<'a>(&'a self, command: &Command, _lease: &SecretLease) -> Result<Box<dyn Process + 'a>> {
        let arguments: Vec<_> =
            command.arguments.iter().map(|argument| self.translated(argument.as_str())).collect();
        self.commands.lock().unwrap().push(arguments.join(" "));
        let output = tokio::process::Command::new(command.program.as_str())
            .args(&arguments)
            .env_clear()
            .envs(command.environment.iter().map(|(name, value)| (name.as_str(), self.translated(value))))
            .current_dir(self.outside(&command.directory))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|error| Error::new(ErrorKind::NotFound, "start a program").caused_by(error))?;
        let status = match output.status.code() {
            Some(code) => ExitStatus::Code(u8::try_from(code).unwrap()),
            None => ExitStatus::Signal(9),
        };
        let exit = Exit { status, usage: Usage::new(Duration::ZERO, 0) };
        Ok(Box::new(Done(VecDeque::from([
            ProcessEvent::Output(OutputStream::Stdout, output.stdout.into()),
            ProcessEvent::Output(OutputStream::Stderr, output.stderr.into()),
            ProcessEvent::Exited(exit),
        ]))))
    }

    async fn upload(&self, path: &SandboxPath, tar: ByteStream<'_>) -> Result<()> {
        let archive = stream::collect(tar, ByteSize::gib(1)).await?;
        let folder = self.outside(path);
        std::fs::create_dir_all(&folder).unwrap();
        let mut child = tokio::process::Command::new("tar")
            .args(["-x", "-C"])
            .arg(&folder)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&archive).await.unwrap();
        assert!(child.wait().await.unwrap().success());
        Ok(())
    }

    fn download(&self, path: &SandboxPath) -> ByteStream<'_> {
        let path = self.outside(path);
        match packed(&path) {
            Ok(archive) => stream::once(archive),
            Err(error) => {
                let missing = Error::new(ErrorKind::NotFound, "download").caused_by(error);
                Box::pin(futures_util::stream::once(std::future::ready(Err(missing))))
            }
        }
    }

    fn isolation(&self) -> &IsolationReport {
        &self.report
    }

    async fn usage(&self) -> Result<SandboxUsage> {
        Ok(SandboxUsage::default())
    }

    fn network(&self) -> NetworkReport {
        NetworkReport::default()
    }
}

fn packed(path: &Path) -> std::io::Result<Vec<u8>> {
    std::fs::symlink_metadata(path)?;
    let (parent, name) = (path.parent().unwrap(), path.file_name().unwrap());
    Ok(std::process::Command::new("tar").arg("-c").arg("-C").arg(parent).arg(name).output()?.stdout)
}

#[derive(Debug)]
struct Done(VecDeque<ProcessEvent>);

#[async_trait]
impl Process for Done {
    async fn next(&mut self) -> Result<ProcessEvent> {
        loop {
            match self.0.pop_front().unwrap() {
                ProcessEvent::Output(_, bytes) if bytes == Bytes::new() => {}
                event => return Ok(event),
            }
        }
    }

    async fn signal(&self, _signal: Signal) -> Result<()> {
        Ok(())
    }

    fn input(&mut self) -> Option<Box<dyn Input>> {
        None
    }

    async fn resize(&self, _size: TerminalSize) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, "resize a terminal"))
    }
}
