//! A program that runs in a native sandbox.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ci_core::sandbox::{
    Command, Exit, ExitStatus, Input, OutputStream, Process, ProcessEvent, Signal, TerminalSize, Usage,
};
use ci_core::{Error, ErrorKind, Result};

use super::answers::Answers;
use super::input::NativeInput;
use super::life::Life;
use super::output::Output;
use super::terminal::Terminal;
use super::wire::{Ended, Request, Stage};
use super::{failure, sys};

/// What [`exec`](ci_core::sandbox::Instance::exec) returns.
#[derive(Debug)]
pub(super) struct NativeProcess {
    life: Arc<Life>,
    id: u32,
    answers: Answers,
    input: Option<NativeInput>,
    outputs: [Output; 2],
    /// Hung up when this is dropped.
    terminal: Option<Arc<Terminal>>,
    ended: Option<Ended>,
}

impl NativeProcess {
    /// A program that is about to be asked for. From here on, dropping this stops it.
    pub(super) fn new(life: &Arc<Life>, answers: Answers) -> Self {
        Self {
            life: life.clone(),
            id: life.next_request(),
            answers,
            input: None,
            outputs: [Output::closed(), Output::closed()],
            terminal: None,
            ended: None,
        }
    }

    /// The number of its request.
    pub(super) fn id(&self) -> u32 {
        self.id
    }

    /// Makes its pipes, and returns the sandbox's ends in the order of a request.
    pub(super) fn open_pipes(&mut self, has_input: bool, is_merged: bool) -> io::Result<Vec<OwnedFd>> {
        let (output, end) = sys::output_pipe()?;
        let mut ends = vec![end];
        self.outputs[0] = Output::of_pipe(OutputStream::Stdout, output)?;
        if !is_merged {
            let (errors, end) = sys::output_pipe()?;
            self.outputs[1] = Output::of_pipe(OutputStream::Stderr, errors)?;
            ends.push(end);
        }
        if has_input {
            let (input, end) = sys::input_pipe()?;
            self.input = Some(NativeInput::of_pipe(input, self.answers.end(), &self.life)?);
            ends.push(end);
        }
        Ok(ends)
    }

    /// Waits until the program of `command` has its terminal.
    pub(super) async fn has_terminal(&mut self, command: &Command) -> Result<()> {
        let terminal = self.answers.terminal().await.map_err(not_started(command))?;
        let terminal = Arc::new(terminal.ok_or_else(|| failure::gone(START))?);
        self.outputs[0] = Output::of_terminal(terminal.clone());
        self.input = Some(NativeInput::of_terminal(&terminal, self.answers.end(), &self.life));
        self.terminal = Some(terminal);
        Ok(())
    }

    /// Waits until the program of `command` runs.
    pub(super) async fn started(&self, command: &Command) -> Result<()> {
        self.answers.started().await.map_err(not_started(command))
    }

    fn exit(&self, ended: Ended) -> Exit {
        const EXITED: u32 = 1;
        let number = u8::try_from(ended.status).unwrap_or(u8::MAX);
        let status = match ended.how {
            EXITED => ExitStatus::Code(number),
            _ => ExitStatus::Signal(number),
        };
        let usage = Usage::new(
            Duration::from_micros(ended.user_us.saturating_add(ended.system_us)),
            ended.max_rss_kib.saturating_mul(1024),
        );
        // The kernel kills a child of the program as readily as the program, which may go on for a moment and end well
        // before all of the sandbox is ended for it.
        Exit { status: if self.life.ran_out_of_memory() { ExitStatus::OutOfMemory } else { status }, usage }
    }
}

#[async_trait]
impl Process for NativeProcess {
    async fn next(&mut self) -> Result<ProcessEvent> {
        if self.ended.is_none() {
            let [output, errors] = &mut self.outputs;
            // Every branch either completes or has taken nothing, so a drop loses nothing.
            tokio::select! {
                event = output.next() => return Ok(event),
                event = errors.next() => return Ok(event),
                ended = self.answers.ended() => match ended {
                    None if self.life.ran_out_of_memory() => self.ended = Some(KILLED),
                    None => return Err(self.life.gone("follow a program")),
                    ended => self.ended = ended,
                },
            }
        }
        if let Some(event) = self.outputs.iter_mut().find_map(Output::rest) {
            return Ok(event);
        }
        let ended = self.ended.ok_or_else(|| Error::new(ErrorKind::Internal, "follow a program"))?;
        Ok(ProcessEvent::Exited(self.exit(ended)))
    }

    async fn signal(&self, signal: Signal) -> Result<()> {
        let request = Request::Signal { id: self.id, signal: signal.number().into() };
        self.life.control.send(&request.encode(), &[]).await.map_err(|_| self.life.gone("signal a program"))
    }

    fn input(&mut self) -> Option<Box<dyn Input>> {
        self.input.take().map(|input| Box::new(input) as _)
    }

    async fn resize(&self, size: TerminalSize) -> Result<()> {
        const OPERATION: &str = "resize a terminal";
        let terminal = self.terminal.as_ref().ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, OPERATION)
                .because("the program has none; ask for one when it is started")
        })?;
        if self.life.is_gone() {
            return Err(self.life.gone(OPERATION));
        }
        terminal.resize(size).map_err(failure::host(OPERATION))
    }
}

impl Drop for NativeProcess {
    fn drop(&mut self) {
        if self.ended.is_none() {
            let request = Request::Signal { id: self.id, signal: SIGKILL };
            // When there is no room for it, the program ends with the sandbox.
            let _ = self.life.control.try_send(&request.encode(), &[]);
        }
    }
}

pub(super) const START: &str = "start a program";

fn not_started(command: &Command) -> impl Fn((Stage, i32)) -> Error {
    |(stage, errno)| failure::starting(stage, errno, command)
}

const SIGKILL: u32 = 9;

/// The end of a program together with its process 1.
const KILLED: Ended = Ended { how: 2, status: SIGKILL, user_us: 0, system_us: 0, max_rss_kib: 0 };
