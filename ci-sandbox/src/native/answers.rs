//! What is told of one request: how its start went, and how it ended.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use ci_core::Error;
use rustix::io::read;
use tokio::io::Interest;

use super::channel::Channel;
use super::life::Life;
use super::sys::{self, Watched};
use super::terminal::Terminal;
use super::wire::{Ended, Report, Stage};

/// Our ends of what the child and process 1 report on.
#[derive(Debug)]
pub(super) struct Answers {
    life: Arc<Life>,
    start: Channel,
    end: Arc<End>,
}

impl Answers {
    /// A socket and a pipe, and the ends of the sandbox.
    pub(super) fn new(life: &Arc<Life>) -> io::Result<(Self, [OwnedFd; 2])> {
        let (start, start_end) = sys::packet_sockets()?;
        let (end, end_end) = End::new()?;
        let answers =
            Self { life: life.clone(), start: Channel::new(start, Interest::READABLE)?, end: Arc::new(end) };
        Ok((answers, [start_end, end_end]))
    }

    /// Waits until the program runs or the errand is done; the failure when it could not.
    pub(super) async fn started(&self) -> Result<(), (Stage, i32)> {
        match self.start.report().await {
            Ok((Report::Failed { stage, errno, .. }, _)) => Err((stage, errno)),
            // When the sandbox is gone this ends too; `ended` knows.
            _ => Ok(()),
        }
    }

    /// Waits for the terminal of a program that is being started; nothing when the sandbox is gone.
    pub(super) async fn terminal(&self) -> Result<Option<Terminal>, (Stage, i32)> {
        match self.start.report().await {
            Ok((Report::Failed { stage, errno, .. }, _)) => Err((stage, errno)),
            Ok((Report::Terminal, files)) => Ok(Terminal::new(files)),
            _ => Ok(None),
        }
    }

    /// Why there was no answer.
    pub(super) fn gone(&self, operation: &'static str) -> Error {
        self.life.gone(operation)
    }

    /// Waits for the end; nothing when the sandbox is gone.
    pub(super) async fn ended(&self) -> Option<Ended> {
        match self.end.report().await {
            Some(Report::Ended(ended)) => Some(ended),
            _ => None,
        }
    }

    /// Where somebody else sees whether the end has come.
    pub(super) fn end(&self) -> Arc<End> {
        self.end.clone()
    }
}

/// The pipe on which process 1 reports.
#[derive(Debug)]
pub(super) struct End(Watched);

impl End {
    /// A pipe, and the end of the sandbox.
    pub(super) fn new() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = sys::output_pipe()?;
        Ok((Self(sys::watch(ours, Interest::READABLE)?), theirs))
    }

    /// Waits for the report; nothing when the sandbox is gone. Nothing is lost if the future is dropped.
    pub(super) async fn report(&self) -> Option<Report> {
        let mut packet = [0; Report::SIZE];
        let length = self.0.async_io(Interest::READABLE, |pipe| Ok(read(pipe, &mut packet)?)).await.ok()?;
        Report::decode(&packet[..length])
    }

    /// Returns when the report has come, whether or not it has been read, and when none can come any more.
    pub(super) async fn has_come(&self) {
        let _ = self.0.readable().await;
    }
}
