//! What is told of one request: how its start went, and how it ended.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::read;
use tokio::io::Interest;

use super::channel::Channel;
use super::sys::{self, Watched};
use super::terminal::Terminal;
use super::wire::{Ended, Report, Stage};

/// Our ends of what the child and process 1 report on.
#[derive(Debug)]
pub(super) struct Answers {
    start: Channel,
    end: Arc<End>,
}

impl Answers {
    /// A socket and a pipe, and the ends of the sandbox.
    pub(super) fn new() -> io::Result<(Self, [OwnedFd; 2])> {
        let (start, start_end) = sys::packet_sockets()?;
        let (end, end_end) = sys::output_pipe()?;
        let end = Arc::new(End(sys::watch(end, Interest::READABLE)?));
        Ok((Self { start: Channel::new(start)?, end }, [start_end, end_end]))
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

    /// Waits for the end; nothing when the sandbox is gone.
    pub(super) async fn ended(&self) -> Option<Ended> {
        self.end.report().await
    }

    /// Where somebody else sees whether the end has come.
    pub(super) fn end(&self) -> Arc<End> {
        self.end.clone()
    }
}

/// The pipe on which process 1 reports an end.
#[derive(Debug)]
pub(super) struct End(Watched);

impl End {
    /// Waits for the report. Nothing is lost if the future is dropped.
    async fn report(&self) -> Option<Ended> {
        let mut packet = [0; Report::SIZE];
        let length = self.0.async_io(Interest::READABLE, |pipe| Ok(read(pipe, &mut packet)?)).await.ok()?;
        match Report::decode(&packet[..length]) {
            Some(Report::Ended(ended)) => Some(ended),
            _ => None,
        }
    }

    /// Returns when the report has come, whether or not it has been read, and when none can come any more.
    pub(super) async fn has_come(&self) {
        let _ = self.0.readable().await;
    }
}
