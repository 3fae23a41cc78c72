//! What a caller writes to a program.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use bytes::{Buf as _, Bytes};
use ci_core::sandbox::Input;
use ci_core::{Error, ErrorKind, Result};
use rustix::io::{Errno, write};
use tokio::io::Interest;

use super::answers::End;
use super::failure;
use super::life::Life;
use super::sys::{self, Watched};
use super::terminal::Terminal;

const OPERATION: &str = "write to a program";

/// A program's standard input. It keeps neither the program nor its terminal nor the sandbox alive.
#[derive(Debug)]
pub(super) struct NativeInput {
    line: Line,
    end: Arc<End>,
    life: Weak<Life>,
}

#[derive(Debug)]
enum Line {
    Pipe(Watched),
    Terminal(Weak<Terminal>),
}

impl NativeInput {
    /// Over our end of a pipe, which does not block.
    pub(super) fn of_pipe(pipe: OwnedFd, end: Arc<End>, life: &Arc<Life>) -> io::Result<Self> {
        let line = Line::Pipe(sys::watch(pipe, Interest::WRITABLE)?);
        Ok(Self { line, end, life: Arc::downgrade(life) })
    }

    pub(super) fn of_terminal(terminal: &Arc<Terminal>, end: Arc<End>, life: &Arc<Life>) -> Self {
        Self { line: Line::Terminal(Arc::downgrade(terminal)), end, life: Arc::downgrade(life) }
    }

    async fn feed(&self, mut bytes: Bytes) -> io::Result<()> {
        while bytes.has_remaining() {
            let written = match &self.line {
                Line::Pipe(pipe) => {
                    pipe.async_io(Interest::WRITABLE, |pipe| sys::write_without_signal(pipe, &bytes)).await?
                }
                Line::Terminal(terminal) => {
                    let terminal = terminal.upgrade().ok_or(Errno::PIPE)?;
                    terminal.master.async_io(Interest::WRITABLE, |master| Ok(write(master, &bytes)?)).await?
                }
            };
            bytes.advance(written);
        }
        Ok(())
    }
}

#[async_trait]
impl Input for NativeInput {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let fed = tokio::select! {
            biased;
            // Another program may hold the other end, and would keep us waiting.
            () = self.end.has_come() => Err(Errno::PIPE.into()),
            fed = self.feed(bytes) => fed,
        };
        match fed {
            Ok(()) => Ok(()),
            Err(_) if self.life.upgrade().is_none_or(|life| life.is_gone()) => Err(failure::gone(OPERATION)),
            Err(error) => Err(Error::new(ErrorKind::Conflict, OPERATION)
                .because("it has ended or closed its input")
                .caused_by(error)),
        }
    }
}
