//! A terminal for one program: made by the child that becomes the program, in the sandbox's own file system of terminals.
//!
//! The end that steers it is the supervisor's alone. It is never open in a program of the job, and opening it by its name
//! gives another terminal.

use crate::packets;
use crate::serve::TERMINALS;
use crate::spawn::START;
use crate::sys::{self, Fd, O_NOCTTY, O_NONBLOCK, O_RDWR};
use crate::wire::Report;

/// Makes a terminal, hands both ends of it to the supervisor, and takes it for this session and its three streams.
pub(crate) fn take(size: u32) -> sys::Result<()> {
    const UNLOCK: usize = 0x4004_5431; // TIOCSPTLCK
    const SET_SIZE: usize = 0x5414; // TIOCSWINSZ
    const OPEN_OTHER_END: usize = 0x5441; // TIOCGPTPEER
    const TAKE_CONTROL: usize = 0x540e; // TIOCSCTTY
    // Reading and writing it must not block the supervisor, whatever the job does at the other end.
    let master = sys::open(TERMINALS, c"ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK, 0)?;
    sys::ioctl(*master, UNLOCK, &mut [0; 40])?;
    // `struct winsize`: rows and columns, then two numbers that nobody uses.
    let mut window = [0; 40];
    window[..4].copy_from_slice(&size.to_ne_bytes());
    sys::ioctl(*master, SET_SIZE, &mut window)?;
    let other_end = sys::ioctl_number(*master, OPEN_OTHER_END, O_RDWR | O_NOCTTY)?;
    let slave = Fd::owned(other_end as i32);
    packets::send(START, &Report::Terminal.encode(), [*master, *slave].into_iter())?;
    sys::ioctl_number(*slave, TAKE_CONTROL, 0)?;
    (0..3).try_for_each(|place| sys::duplicate(*slave, place))
}
