//! A scripted program that was started.

use std::fmt;
use std::future;
use std::mem;
use std::sync::Mutex;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

use super::sandbox::{Fake, Program};
use super::script::{Call, Reply};
use crate::error::{Error, ErrorKind, Result};
use crate::job::Arg;
use crate::lock::lock;
use crate::sandbox::{
    Command, Exit, ExitStatus, Input, Process, ProcessEvent, SandboxPath, Signal, Streams, TerminalSize,
    Usage,
};

/// What a terminal in its usual mode takes for the end of its input.
const END_OF_TRANSMISSION: u8 = 4;

/// Everything that is known when a program is started.
pub(super) struct Start {
    pub(super) command: Command,
    pub(super) program: Program,
    pub(super) variables: Vec<(String, Vec<u8>)>,
    pub(super) secrets: Vec<(SandboxPath, Vec<u8>)>,
}

/// One program that was started.
pub(super) struct Running<'a> {
    sandbox: &'a Fake,
    start: Start,
    terminal: Mutex<Option<TerminalSize>>,
    /// What the program does, once it has what it waits for.
    reply: Mutex<Option<Reply>>,
    /// The caller's end of the input, until it is taken.
    input: Option<Box<dyn Input>>,
    /// Our end, until the program has ended. Without a sender the input has ended.
    written: Option<watch::Receiver<Bytes>>,
    /// A terminal's input does not end because its writer is gone.
    line: Option<watch::Sender<Bytes>>,
}

impl<'a> Running<'a> {
    pub(super) fn new(sandbox: &'a Fake, mut start: Start) -> Result<Self> {
        for (path, value) in &mut start.secrets {
            lock(&sandbox.files).write(path, mem::take(value))?;
        }
        let (terminal, has_input) = match start.command.streams {
            Streams::Terminal(size) => (Some(size), true),
            Streams::Pipes { input, .. } => (None, input),
        };
        let (sender, written) = watch::channel(Bytes::new());
        let line = terminal.map(|_| sender.clone());
        let input = has_input.then(|| Box::new(Written(sender)) as _);
        let waits = has_input && start.program.reads;
        let running = Self {
            sandbox,
            start,
            terminal: Mutex::new(terminal),
            reply: Mutex::new(None),
            input,
            written: Some(written),
            line,
        };
        if !waits {
            running.run(Bytes::new());
        }
        Ok(running)
    }

    /// Lets the program do what it does.
    fn run(&self, input: Bytes) {
        let Start { command, program, variables, .. } = &self.start;
        let reply = (program.run)(&mut Call {
            program: command.program.as_str(),
            arguments: command.arguments.iter().map(Arg::as_str).collect(),
            variables: variables.iter().map(|(name, value)| (name.as_str(), value.clone())).collect(),
            directory: &command.directory,
            input,
            terminal: *lock(&self.terminal),
            files: &mut lock(&self.sandbox.files),
        });
        let is_merged = !matches!(command.streams, Streams::Pipes { merged: false, .. });
        *lock(&self.reply) = Some(if is_merged { reply.merged() } else { reply });
    }

    /// Waits for the end of the input.
    async fn read(&self) -> Bytes {
        let Some(mut written) = self.written.clone() else { return Bytes::new() };
        let is_terminal = lock(&self.terminal).is_some();
        let end = |input: &Bytes| {
            is_terminal.then(|| input.iter().position(|byte| *byte == END_OF_TRANSMISSION)).flatten()
        };
        let ended = written.wait_for(|input| end(input).is_some()).await.is_ok();
        let input = written.borrow().clone();
        if ended { input.slice(..end(&input).unwrap_or_default()) } else { input }
    }

    fn remove_secrets(&mut self) {
        let mut files = lock(&self.sandbox.files);
        for (path, _) in &self.start.secrets {
            files.remove(path);
        }
    }
}

#[async_trait]
impl Process for Running<'_> {
    async fn next(&mut self) -> Result<ProcessEvent> {
        self.sandbox.check()?;
        if lock(&self.reply).is_none() {
            let input = self.read().await;
            self.sandbox.check()?;
            self.run(input);
        }
        let event = lock(&self.reply).as_mut().and_then(Reply::next);
        let Some(event) = event else { return future::pending().await };
        if matches!(event, ProcessEvent::Exited(_)) {
            (self.written, self.line) = (None, None);
            self.remove_secrets();
        }
        Ok(event)
    }

    async fn signal(&self, signal: Signal) -> Result<()> {
        self.sandbox.check()?;
        let exit = Exit { status: ExitStatus::Signal(signal.number()), usage: Usage::default() };
        let mut reply = lock(&self.reply);
        reply.get_or_insert_with(Reply::hang).end.get_or_insert(exit);
        Ok(())
    }

    fn input(&mut self) -> Option<Box<dyn Input>> {
        self.input.take()
    }

    async fn resize(&self, size: TerminalSize) -> Result<()> {
        self.sandbox.check()?;
        match &mut *lock(&self.terminal) {
            Some(terminal) => *terminal = size,
            None => {
                return Err(Error::new(ErrorKind::Unsupported, "resize a terminal")
                    .because("the program has none; ask for one when it is started"));
            }
        }
        Ok(())
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.remove_secrets();
    }
}

impl fmt::Debug for Running<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the variables, which hold secrets.
        f.debug_struct("Running").field("program", &self.start.command.program).finish_non_exhaustive()
    }
}

/// The caller's end of an input. It holds as much as is written.
#[derive(Debug)]
struct Written(watch::Sender<Bytes>);

#[async_trait]
impl Input for Written {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        if self.0.is_closed() {
            return Err(Error::new(ErrorKind::Conflict, "write to a program")
                .because("it has ended or closed its input"));
        }
        self.0.send_modify(|input| *input = [input.as_ref(), &bytes].concat().into());
        Ok(())
    }
}
