//! Runs `git` on the host: without this process's variables, within a deadline, and with everything that it
//! started ended when it is no longer wanted.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use ci_core::{ByteSize, Error, ErrorKind, Result};
use rustix::process::{Pid, Signal};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};

use super::failure::{MOST_WORDS, explain};

/// How much `git` may print for an answer that is read here.
const MOST_ANSWER: usize = 64 * 1024;

/// What holds for every `git` on the host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// How long it may take.
    pub(crate) deadline: Duration,
    /// How large a file it may write.
    pub(crate) largest: ByteSize,
}

/// A `git` to run.
pub(crate) struct Git<'a> {
    pub(crate) arguments: Vec<String>,
    pub(crate) variables: Vec<(&'static str, &'a str)>,
    pub(crate) directory: &'a Path,
}

impl Git<'_> {
    /// Runs it, and returns what it printed.
    pub(crate) async fn run(self, operation: &'static str, bounds: Bounds) -> Result<Vec<u8>> {
        match tokio::time::timeout(bounds.deadline, self.finish(operation, bounds)).await {
            Ok(done) => done,
            Err(_) => {
                Err(Error::new(ErrorKind::TimedOut, operation).because("the forge took too long").retryable())
            }
        }
    }

    async fn finish(self, operation: &'static str, bounds: Bounds) -> Result<Vec<u8>> {
        let failed = |error: std::io::Error| {
            let (kind, why) = match error.kind() {
                std::io::ErrorKind::NotFound => {
                    (ErrorKind::Unsupported, "there is no git in the configured PATH")
                }
                _ => (ErrorKind::Unavailable, "git cannot be run on this machine"),
            };
            Error::new(kind, operation).because(why).caused_by(error)
        };
        let mut child = self.spawn().map_err(failed)?;
        // Dropped before the child, and therefore before its process id can belong to another one.
        let mut group = Group::of(&child);
        group.limit(bounds.largest);
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (output, errors, status) =
            tokio::join!(read(stdout, MOST_ANSWER), read(stderr, MOST_WORDS), child.wait());
        group.disarm();
        let (output, errors, status): (_, _, ExitStatus) =
            (output.map_err(failed)?, errors.map_err(failed)?, status.map_err(failed)?);
        if !status.success() {
            return Err(explain(operation, &errors.kept));
        }
        if output.is_cut {
            return Err(
                Error::new(ErrorKind::LimitExceeded, operation).because("git has more to say than 64 KiB")
            );
        }
        Ok(output.kept)
    }

    fn spawn(&self) -> std::io::Result<Child> {
        Command::new("git")
            .args(&self.arguments)
            .env_clear()
            .envs(self.variables.iter().copied())
            .current_dir(self.directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
    }
}

/// The processes that one `git` has started, which end with this value unless it was disarmed.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw))
    }

    /// Bounds the files that it writes from now on: a server may send without end.
    fn limit(&self, largest: ByteSize) {
        #[cfg(target_os = "linux")]
        {
            use rustix::process::{Resource, Rlimit, prlimit};
            let most = Some(largest.as_u64());
            // It fails only for a process that has already ended.
            let _ = prlimit(self.0, Resource::Fsize, Rlimit { current: most, maximum: most });
        }
        #[cfg(not(target_os = "linux"))]
        let _ = largest;
    }

    fn disarm(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // It fails only when nothing is left to end.
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
    }
}

/// What a program wrote, up to a bound. The rest was read and forgotten, so that the program could go on.
#[derive(Default)]
struct Read {
    kept: Vec<u8>,
    is_cut: bool,
}

async fn read(from: Option<impl AsyncRead + Unpin>, most: usize) -> std::io::Result<Read> {
    let (mut read, mut buffer) = (Read::default(), [0; 4_096]);
    let Some(mut from) = from else { return Ok(read) };
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return Ok(read);
        }
        let taken = length.min(most - read.kept.len());
        read.kept.extend_from_slice(&buffer[..taken]);
        read.is_cut |= taken < length;
    }
}
