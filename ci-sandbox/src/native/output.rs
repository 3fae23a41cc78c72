//! What a program writes.

use std::io;
use std::mem;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;
use ci_core::sandbox::{OutputStream, ProcessEvent};
use rustix::buffer::spare_capacity;
use rustix::io::{ioctl_fionread, read};
use rustix::pipe::fcntl_setpipe_size;
use tokio::io::Interest;

use super::sys::{self, Watched};
use super::terminal::Terminal;

/// The most that one event carries: what a pipe holds.
const CHUNK: usize = 64 * 1024;

/// What a pipe is made to hold when a program has filled it, so that it goes on writing while that is read.
const LARGE_PIPE: usize = 512 * 1024;

/// More than a terminal holds (Linux, `drivers/tty`: a line of 4 KiB and buffers of 8 KiB).
const TERMINAL_HOLDS: usize = 16 * 1024;

/// One of the two streams of a program's output, or its terminal.
#[derive(Debug)]
pub(super) struct Output {
    stream: OutputStream,
    source: Source,
    buffer: Vec<u8>,
    is_large: bool,
    /// How many bytes are still to be had, once the program has ended.
    left: Option<usize>,
}

#[derive(Debug)]
enum Source {
    Pipe(Watched),
    Terminal(Arc<Terminal>),
    /// There is nothing more to come.
    Closed,
}

impl Source {
    fn file(&self) -> Option<&Watched> {
        match self {
            Self::Pipe(pipe) => Some(pipe),
            Self::Terminal(terminal) => Some(&terminal.master),
            Self::Closed => None,
        }
    }
}

impl Output {
    /// Over our end of a pipe, which does not block.
    pub(super) fn of_pipe(stream: OutputStream, pipe: OwnedFd) -> io::Result<Self> {
        Ok(Self::new(stream, Source::Pipe(sys::watch(pipe, Interest::READABLE)?)))
    }

    pub(super) fn of_terminal(terminal: Arc<Terminal>) -> Self {
        Self::new(OutputStream::Stdout, Source::Terminal(terminal))
    }

    /// One that nothing is written to.
    pub(super) fn closed() -> Self {
        Self::new(OutputStream::Stderr, Source::Closed)
    }

    fn new(stream: OutputStream, source: Source) -> Self {
        Self { stream, source, buffer: Vec::new(), is_large: false, left: None }
    }

    /// The next bytes; waits for ever when there is nothing more to come.
    pub(super) async fn next(&mut self) -> ProcessEvent {
        while let Some(file) = self.source.file() {
            let buffer = &mut self.buffer;
            match file.async_io(Interest::READABLE, |file| fill(buffer, file)).await {
                Ok(1..) => return self.event(),
                // Nobody can write any more.
                _ => self.source = Source::Closed,
            }
        }
        std::future::pending().await
    }

    /// Bytes that lay there when the program ended. What another process writes later is not waited for.
    pub(super) fn rest(&mut self) -> Option<ProcessEvent> {
        let file = self.source.file()?.get_ref();
        let left = match self.left {
            Some(left) => left,
            None => match &self.source {
                // What was written last is on its way into the terminal's buffer, and counted nowhere; but reading
                // waits for it.
                Source::Terminal(_) => TERMINAL_HOLDS,
                _ => ioctl_fionread(file).ok().and_then(|count| usize::try_from(count).ok()).unwrap_or(0),
            },
        };
        if left > 0
            && let Ok(length @ 1..) = fill(&mut self.buffer, file)
        {
            self.left = Some(left.saturating_sub(length));
            return Some(self.event());
        }
        self.source = Source::Closed;
        None
    }

    /// What was read. A buffer that is well filled goes to the reader; of a little the reader gets a copy, so that what
    /// it keeps takes about as much memory as it is long.
    fn event(&mut self) -> ProcessEvent {
        if self.buffer.len() == CHUNK
            && !mem::replace(&mut self.is_large, true)
            && let Source::Pipe(pipe) = &self.source
        {
            // An ordinary user may have only so much in pipes; then it stays as it is.
            let _ = fcntl_setpipe_size(pipe.get_ref(), LARGE_PIPE);
        }
        let bytes = if self.buffer.len() >= CHUNK / 4 {
            Bytes::from(mem::take(&mut self.buffer))
        } else {
            Bytes::copy_from_slice(&self.buffer)
        };
        ProcessEvent::Output(self.stream, bytes)
    }
}

/// Reads what is there into the emptied buffer.
fn fill(buffer: &mut Vec<u8>, file: &OwnedFd) -> io::Result<usize> {
    buffer.clear();
    buffer.reserve_exact(CHUNK);
    Ok(read(file, spare_capacity(buffer))?)
}
