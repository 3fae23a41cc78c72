//! What came of an attack, and how it is told.

use core::fmt::{self, Write as _};

use crate::sys::{Errno, Result, write_all};

/// What came of an attack.
pub(crate) enum Verdict {
    /// What stopped it.
    Held(Line),
    /// What it could do.
    Broken(Line),
    /// Why it cannot be tried here.
    Untried(Line),
}

impl Verdict {
    /// Says it on standard output, and returns the exit code that says it too.
    pub(crate) fn tell(self) -> usize {
        let (code, word, line) = match self {
            Self::Held(line) => (0, "held", line),
            Self::Broken(line) => (1, "BROKEN", line),
            Self::Untried(line) => (77, "untried", line),
        };
        let _ = write_all(1, line!("{word}: {line}\n").as_bytes());
        code
    }
}

/// A line of text, cut where it is too long.
pub(crate) struct Line {
    bytes: [u8; Self::MOST],
    length: usize,
}

impl Line {
    const MOST: usize = 1024;

    pub(crate) const fn new() -> Self {
        Self { bytes: [0; Self::MOST], length: 0 }
    }

    pub(crate) fn of(text: fmt::Arguments<'_>) -> Self {
        let mut line = Self::new();
        let _ = line.write_fmt(text);
        line
    }

    pub(crate) fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.length) {
            *place = byte;
            self.length += 1;
        }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.length == 0
    }
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| self.push(byte));
        Ok(())
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(str::from_utf8(self.as_bytes()).unwrap_or("(not text)"))
    }
}

macro_rules! line {
    ($($text:tt)*) => { $crate::verdict::Line::of(format_args!($($text)*)) };
}
macro_rules! held {
    ($($text:tt)*) => { $crate::verdict::Verdict::Held($crate::verdict::line!($($text)*)) };
}
macro_rules! broken {
    ($($text:tt)*) => { $crate::verdict::Verdict::Broken($crate::verdict::line!($($text)*)) };
}
macro_rules! untried {
    ($($text:tt)*) => { $crate::verdict::Verdict::Untried($crate::verdict::line!($($text)*)) };
}
pub(crate) use {broken, held, line, untried};

/// Doors that all have to be closed.
pub(crate) struct Doors {
    open: Line,
    tried: usize,
    reasons: [i32; 8],
}

impl Doors {
    pub(crate) const fn new() -> Self {
        Self { open: Line::new(), tried: 0, reasons: [0; 8] }
    }

    /// A call that must not be made at all: whatever else it answers shows that the kernel has looked at its arguments.
    pub(crate) fn forbidden(&mut self, what: &str, answer: Result<usize>) {
        // EPERM, EACCES, ENOSYS.
        self.refused(what, answer, &[1, 13, 38]);
    }

    /// Something that must not be there, or must not be had.
    pub(crate) fn closed<T>(&mut self, what: &str, answer: Result<T>) {
        // Also ENOENT, ESRCH, ENXIO, ENODEV, ENOTDIR, ETXTBSY, EROFS, and families of sockets that are not there.
        self.refused(what, answer, &[1, 13, 38, 2, 3, 6, 19, 20, 26, 30, 93, 94, 97]);
    }

    /// One that must answer with an error of `good`.
    #[allow(clippy::needless_pass_by_value)] // What was opened is closed here.
    pub(crate) fn refused<T>(&mut self, what: &str, answer: Result<T>, good: &[i32]) {
        self.tried += 1;
        match answer {
            Err(Errno(number)) if good.contains(&number) => {
                if let Some(free) = self.reasons.iter_mut().find(|known| **known == number || **known == 0) {
                    *free = number;
                }
            }
            Err(error) => self.open(&line!("{what} (answers {error})")),
            Ok(_) => self.open(&line!("{what}")),
        }
    }

    /// Counts a look at something that is not a call.
    pub(crate) fn tried_one(&mut self) {
        self.tried += 1;
    }

    /// One that stands open.
    pub(crate) fn open(&mut self, what: &Line) {
        let comma = if self.open.is_empty() { "" } else { ", " };
        let _ = write!(self.open, "{comma}{what}");
    }

    pub(crate) fn verdict(self) -> Verdict {
        if !self.open.is_empty() {
            return broken!("it could: {}", self.open);
        }
        let mut reasons = Line::new();
        for reason in self.reasons.iter().filter(|reason| **reason != 0) {
            let comma = if reasons.is_empty() { "" } else { ", " };
            let _ = write!(reasons, "{comma}{}", Errno(*reason));
        }
        held!("{} tries refused: {reasons}", self.tried)
    }
}
