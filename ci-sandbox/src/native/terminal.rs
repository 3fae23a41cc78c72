//! The end of a program's terminal that steers it.

use std::io;
use std::os::fd::OwnedFd;

use ci_core::sandbox::TerminalSize;
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::Interest;

use super::sys::{self, Watched};

/// A terminal that the init made.
#[derive(Debug)]
pub(super) struct Terminal {
    /// Nobody else has it open, so it stays as the init opened it: without blocking.
    pub(super) master: Watched,
    /// Never used. While it is open, a program may close its terminal and open it again.
    _other_end: OwnedFd,
}

impl Terminal {
    /// Takes over both ends; nothing when they are not there, or cannot be watched.
    pub(super) fn new(files: Vec<OwnedFd>) -> Option<Self> {
        let [master, other_end] = files.try_into().ok()?;
        let master = sys::watch(master, Interest::READABLE | Interest::WRITABLE).ok()?;
        Some(Self { master, _other_end: other_end })
    }

    /// Changes its size. The kernel tells the programs that are in its foreground.
    pub(super) fn resize(&self, size: TerminalSize) -> io::Result<()> {
        let TerminalSize { rows, columns } = size;
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        Ok(tcsetwinsize(self.master.get_ref(), size)?)
    }
}
