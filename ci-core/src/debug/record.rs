//! The record of one session, as an asciicast.
//!
//! <https://docs.asciinema.org/manual/asciicast/v2/>: a line of JSON with a header, then one line per event,
//! `[seconds, code, data]`, where the code is `o` for output and `r` for another size.

use std::mem;
use std::str;
use std::time::Duration;

use serde_json::json;

use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ArtifactName, random_bytes};
use crate::sandbox::TerminalSize;
use crate::secret::Masked;
use crate::units::ByteSize;

/// A part is stored when it has this many bytes,
const FULL: usize = 1024 * 1024;
/// or is this old, so that a lost worker does not take it along.
const LONGEST_WAIT: Duration = Duration::from_mins(1);

/// What a session showed, on its way into the store.
#[derive(Debug)]
pub(crate) struct Record {
    name: String,
    command: Option<String>,
    terminal: Option<(String, TerminalSize)>,
    /// When it began: by the calendar, and by elapsed time.
    start: (Timestamp, Duration),
    /// How much it may still hold.
    room: u64,
    /// The part that is written.
    lines: String,
    since: Duration,
    /// The beginning of a character whose end has not come yet.
    cut: Vec<u8>,
    /// How many parts are complete.
    count: usize,
    /// The part that is complete and not stored yet.
    full: Option<(ArtifactName, String)>,
}

impl Record {
    /// Of a session that begins now. What the person wrote must be masked.
    pub(crate) fn new(
        command: Option<String>,
        terminal: Option<(String, TerminalSize)>,
        start: (Timestamp, Duration),
        room: ByteSize,
    ) -> Self {
        let name = format!("debug-{}", data_encoding::HEXLOWER.encode(&random_bytes::<8>()));
        let mut record = Self {
            name,
            command,
            terminal,
            start,
            room: room.as_u64(),
            lines: String::new(),
            since: start.1,
            cut: Vec::new(),
            count: 0,
            full: None,
        };
        record.begin();
        record
    }

    /// The program wrote `bytes`.
    ///
    /// # Errors
    ///
    /// `LimitExceeded` when it does not fit.
    pub(crate) fn output(&mut self, now: Duration, bytes: &Masked) -> Result<()> {
        self.cut.extend_from_slice(bytes.as_bytes());
        let text = whole_characters(&mut self.cut);
        if text.is_empty() { Ok(()) } else { self.event(now, "o", &text) }
    }

    /// The terminal has another size.
    pub(crate) fn resized(&mut self, now: Duration, size: TerminalSize) -> Result<()> {
        if let Some((_, before)) = &mut self.terminal {
            *before = size;
            return self.event(now, "r", &format!("{}x{}", size.columns, size.rows));
        }
        Ok(())
    }

    /// Whether a part is to be stored before anything else is shown.
    pub(crate) fn is_full(&self) -> bool {
        self.full.is_some() || self.lines.len() >= FULL
    }

    /// After how long a part should be stored.
    pub(crate) fn due_within(&self, now: Duration) -> Duration {
        if self.is_full() {
            return Duration::ZERO;
        }
        LONGEST_WAIT.saturating_sub(now.saturating_sub(self.since))
    }

    /// Completes the part that is written, unless one waits to be stored, and returns the one to store.
    pub(crate) fn part(&mut self, now: Duration) -> Result<Option<(ArtifactName, String)>> {
        let has_events = self.lines.lines().nth(1).is_some();
        // The first one is a proof that there was a session, whatever it showed.
        if self.full.is_none() && (has_events || self.count == 0) {
            self.count += 1;
            let name = ArtifactName::parse(format!("{}.{}.cast", self.name, self.count))?;
            self.full = Some((name, mem::take(&mut self.lines)));
            self.begin();
        }
        self.since = now;
        Ok(self.full.clone())
    }

    /// The part to store is.
    pub(crate) fn stored(&mut self) {
        self.full = None;
    }

    /// Nothing more comes: what was cut is shown as it is.
    pub(crate) fn finish(&mut self, now: Duration) -> Result<()> {
        let cut = mem::take(&mut self.cut);
        if cut.is_empty() { Ok(()) } else { self.event(now, "o", &String::from_utf8_lossy(&cut)) }
    }

    /// Whether there is nothing left to store.
    pub(crate) fn is_stored(&self) -> bool {
        self.full.is_none() && self.count > 0 && self.lines.lines().nth(1).is_none()
    }

    fn begin(&mut self) {
        // What a program without a terminal writes is shown on one of the usual size.
        const USUAL: TerminalSize = TerminalSize { rows: 24, columns: 80 };
        let size = self.terminal.as_ref().map_or(USUAL, |(_, size)| *size);
        let mut header = json!({
            "version": 2,
            "width": size.columns,
            "height": size.rows,
            "timestamp": self.start.0.unix_millis() / 1000,
        });
        if let Some(command) = &self.command {
            header["command"] = json!(command);
        }
        if let Some((kind, _)) = &self.terminal {
            header["env"] = json!({ "TERM": kind });
        }
        self.lines = format!("{header}\n");
    }

    fn event(&mut self, now: Duration, code: &str, data: &str) -> Result<()> {
        let seconds = now.saturating_sub(self.start.1).as_secs_f64();
        let line = json!([seconds, code, data]).to_string();
        let length = line.len() as u64 + 1;
        self.room = self.room.checked_sub(length).ok_or_else(|| {
            Error::new(ErrorKind::LimitExceeded, "record a debug session")
                .because("its record is full; begin another one, and write less")
        })?;
        self.lines.push_str(&line);
        self.lines.push('\n');
        Ok(())
    }
}

/// Takes the characters that are complete. What can be none is replaced, as terminals do.
fn whole_characters(bytes: &mut Vec<u8>) -> String {
    let incomplete = match str::from_utf8(bytes) {
        Ok(_) => 0,
        // Only the end of the whole can be the beginning of a character.
        Err(_) => {
            (1..=bytes.len().min(3)).rev().find(|length| begins(&bytes[bytes.len() - length..])).unwrap_or(0)
        }
    };
    let rest = bytes.split_off(bytes.len() - incomplete);
    let text = String::from_utf8_lossy(bytes).into_owned();
    *bytes = rest;
    text
}

/// Whether all of `bytes` is the beginning of one character.
fn begins(bytes: &[u8]) -> bool {
    str::from_utf8(bytes).is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_put_together_wherever_they_are_cut() {
        let bytes = "aé€😀\u{fffd}z".as_bytes();
        for first in 0..=bytes.len() {
            for second in first..=bytes.len() {
                let (mut held, mut text) = (Vec::new(), String::new());
                for piece in [&bytes[..first], &bytes[first..second], &bytes[second..]] {
                    held.extend_from_slice(piece);
                    text += &whole_characters(&mut held);
                }
                assert_eq!((text.as_bytes(), held.len()), (bytes, 0), "{first} {second}");
            }
        }
        let mut broken = b"a\xffb\xe2\x82\xe2".to_vec();
        assert_eq!(whole_characters(&mut broken), "a\u{fffd}b\u{fffd}");
        assert_eq!(broken, b"\xe2");
    }
}
