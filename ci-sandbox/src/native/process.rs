//! A program that runs in a native sandbox.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use ci_core::sandbox::{Exit, ExitStatus, OutputStream, Process, ProcessEvent, Signal, Usage};
use ci_core::{Error, ErrorKind, Result};
use rustix::io::{ioctl_fionread, read};
use tokio::io::Interest;

use super::failure;
use super::life::Life;
use super::sys::{self, Watched};
use super::wire::{Ended, Report, Request, Stage};

/// The most that one event carries: what a pipe holds.
const CHUNK: usize = 64 * 1024;

/// A pipe of reports on one request.
#[derive(Debug)]
pub(super) struct Reports(Watched);

impl Reports {
    /// Takes over an end that does not block.
    pub(super) fn new(pipe: OwnedFd) -> io::Result<Self> {
        sys::watch(pipe, Interest::READABLE).map(Self)
    }

    /// The next report, or nothing at the end. Nothing is lost if the future is dropped.
    pub(super) async fn next(&self) -> Option<Report> {
        let mut packet = [0; Report::SIZE];
        let length = self.0.async_io(Interest::READABLE, |pipe| Ok(read(pipe, &mut packet)?)).await.ok()?;
        Report::decode(&packet[..length])
    }
}

/// What is told of one request.
#[derive(Debug)]
pub(super) struct Answers {
    life: Arc<Life>,
    start: Reports,
    end: Reports,
}

impl Answers {
    /// Two pipes, and the ends of the sandbox.
    pub(super) fn new(life: &Arc<Life>) -> io::Result<(Self, [OwnedFd; 2])> {
        let (start, start_end) = sys::output_pipe()?;
        let (end, end_end) = sys::output_pipe()?;
        let answers = Self { life: life.clone(), start: Reports::new(start)?, end: Reports::new(end)? };
        Ok((answers, [start_end, end_end]))
    }

    /// Waits until the program runs or the errand is done; the failure when it could not.
    pub(super) async fn started(&self) -> Result<(), (Stage, i32)> {
        match self.start.next().await {
            Some(Report::Failed { stage, errno, .. }) => Err((stage, errno)),
            // When the sandbox is gone this ends too; `ended` knows.
            _ => Ok(()),
        }
    }

    /// Why there was no answer.
    pub(super) fn gone(&self, operation: &'static str) -> Error {
        self.life.gone(operation)
    }

    /// Waits for the end; nothing when the sandbox is gone.
    pub(super) async fn ended(&self) -> Option<Ended> {
        match self.end.next().await {
            Some(Report::Ended(ended)) => Some(ended),
            _ => None,
        }
    }
}

/// One of the two streams of a program's output.
#[derive(Debug)]
struct Output {
    stream: OutputStream,
    pipe: Option<Watched>,
    /// How many bytes are still to be had, once the program has ended.
    left: Option<usize>,
}

impl Output {
    fn new(stream: OutputStream, pipe: OwnedFd) -> io::Result<Self> {
        let pipe = sys::watch(pipe, Interest::READABLE)?;
        Ok(Self { stream, pipe: Some(pipe), left: None })
    }

    /// The next bytes; waits for ever when there is nothing more to come.
    async fn next(&mut self, buffer: &mut [u8]) -> ProcessEvent {
        while let Some(pipe) = &self.pipe {
            match pipe.async_io(Interest::READABLE, |pipe| Ok(read(pipe, &mut *buffer)?)).await {
                Ok(length @ 1..) => {
                    return ProcessEvent::Output(self.stream, Bytes::copy_from_slice(&buffer[..length]));
                }
                // Nobody can write any more.
                _ => self.pipe = None,
            }
        }
        std::future::pending().await
    }

    /// Bytes that lay in the pipe when the program ended. What another process writes later is not waited for.
    fn rest(&mut self, buffer: &mut [u8]) -> Option<ProcessEvent> {
        let pipe = self.pipe.as_ref()?;
        let left = self.left.get_or_insert_with(|| {
            ioctl_fionread(pipe.get_ref()).ok().and_then(|count| usize::try_from(count).ok()).unwrap_or(0)
        });
        let wanted = (*left).min(buffer.len());
        if let Ok(length @ 1..) = read(pipe.get_ref(), &mut buffer[..wanted]) {
            *left -= length;
            return Some(ProcessEvent::Output(self.stream, Bytes::copy_from_slice(&buffer[..length])));
        }
        self.pipe = None;
        None
    }
}

/// What [`exec`](ci_core::sandbox::Instance::exec) returns.
#[derive(Debug)]
pub(super) struct NativeProcess {
    life: Arc<Life>,
    id: u32,
    answers: Answers,
    outputs: [Output; 2],
    buffer: Box<[u8]>,
    ended: Option<Ended>,
    /// How many there had been before it was started.
    out_of_memory_kills: u64,
}

impl NativeProcess {
    pub(super) fn new(
        life: Arc<Life>,
        id: u32,
        answers: Answers,
        output: OwnedFd,
        errors: OwnedFd,
        out_of_memory_kills: u64,
    ) -> io::Result<Self> {
        let outputs =
            [Output::new(OutputStream::Stdout, output)?, Output::new(OutputStream::Stderr, errors)?];
        let buffer = vec![0; CHUNK].into_boxed_slice();
        Ok(Self { life, id, answers, outputs, buffer, ended: None, out_of_memory_kills })
    }

    /// Waits until the program runs.
    pub(super) async fn started(&self) -> Result<()> {
        self.answers.started().await.map_err(|(stage, errno)| failure::starting(stage, errno))
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
        Exit { status: if self.ran_out_of_memory() { ExitStatus::OutOfMemory } else { status }, usage }
    }

    fn ran_out_of_memory(&self) -> bool {
        self.life.groups.out_of_memory_kills() > self.out_of_memory_kills
    }
}

#[async_trait]
impl Process for NativeProcess {
    async fn next(&mut self) -> Result<ProcessEvent> {
        if self.ended.is_none() {
            let [output, errors] = &mut self.outputs;
            let (low, high) = self.buffer.split_at_mut(CHUNK / 2);
            // Every branch either completes or has taken nothing, so a drop loses nothing.
            tokio::select! {
                event = output.next(low) => return Ok(event),
                event = errors.next(high) => return Ok(event),
                ended = self.answers.ended() => match ended {
                    None if self.ran_out_of_memory() => self.ended = Some(KILLED),
                    None => return Err(self.life.gone("follow a program")),
                    ended => self.ended = ended,
                },
            }
        }
        for output in &mut self.outputs {
            if let Some(event) = output.rest(&mut self.buffer) {
                return Ok(event);
            }
        }
        let ended = self.ended.ok_or_else(|| Error::new(ErrorKind::Internal, "follow a program"))?;
        Ok(ProcessEvent::Exited(self.exit(ended)))
    }

    async fn signal(&self, signal: Signal) -> Result<()> {
        let signal = match signal {
            Signal::Terminate => 15,
            Signal::Kill => SIGKILL,
        };
        let request = Request::Signal { id: self.id, signal };
        self.life.control.send(&request.encode(), &[]).await.map_err(|_| self.life.gone("signal a program"))
    }
}

impl Drop for NativeProcess {
    fn drop(&mut self) {
        if self.ended.is_none() {
            let request = Request::Signal { id: self.id, signal: SIGKILL };
            // When there is no room for it, the program ends with the sandbox.
            let _ = self.life.control.try_send(&request.encode());
        }
    }
}

const SIGKILL: u32 = 9;

/// The end of a program together with its process 1.
const KILLED: Ended = Ended { how: 2, status: SIGKILL, user_us: 0, system_us: 0, max_rss_kib: 0 };
