//! Shows a job as it runs: for a person at a terminal, or as plain lines into a pipe.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use ci_core::id::JobId;
use ci_core::outcome::{Outcome, StepOutcome};
use ci_core::runner::{Event, Observer};
use ci_core::secret::Unmasked;

/// Writes what happens to standard output: colours only where somebody looks.
#[derive(Debug)]
pub struct Terminal {
    colours: bool,
    // Whether the last byte that a step wrote ended a line.
    line_start: Mutex<bool>,
    // The beginning of a character whose end has not come yet.
    begun: Mutex<Vec<u8>>,
}

impl Terminal {
    pub fn new() -> Self {
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            colours: io::stdout().is_terminal() && !no_colour,
            line_start: Mutex::new(true),
            begun: Mutex::default(),
        }
    }

    pub fn heading(&self, text: &str) {
        self.line(Style::new().bold(), text);
    }

    pub fn fact(&self, name: &str, value: impl std::fmt::Display) {
        let style = self.style(Style::new().dimmed());
        write(format_args!("  {style}{name:<12}{style:#} {value}\n"));
    }

    pub fn good(&self, text: &str) {
        self.line(AnsiColor::Green.on_default(), &format!("✓ {text}"));
    }

    pub fn bad(&self, text: &str) {
        self.line(AnsiColor::Red.on_default(), &format!("✗ {text}"));
    }

    fn line(&self, style: Style, text: &str) {
        let style = self.style(style);
        write(format_args!("{style}{text}{style:#}\n"));
    }

    fn style(&self, style: Style) -> Style {
        if self.colours { style } else { Style::new() }
    }

    /// A step's output, each line behind a bar, so that it cannot pass for the program's own.
    fn output(&self, bytes: &[u8]) {
        let bar = self.style(Style::new().dimmed());
        let mut line_start = self.line_start.lock().unwrap_or_else(PoisonError::into_inner);
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = [std::mem::take(&mut *begun), bytes.to_vec()].concat();
        *begun = bytes.split_off(whole(&bytes));
        let mut out = io::stdout().lock();
        for line in harmless(&bytes, self.colours).split_inclusive(|byte| *byte == b'\n') {
            if *line_start {
                let _ = write!(out, "  {bar}│{bar:#} ");
            }
            let _ = out.write_all(line);
            *line_start = line.ends_with(b"\n");
        }
        let _ = out.flush();
    }

    fn end_line(&self) {
        let mut line_start = self.line_start.lock().unwrap_or_else(PoisonError::into_inner);
        if !*line_start {
            write(format_args!("\n"));
            *line_start = true;
        }
        if self.colours {
            write(format_args!("{}", anstyle::Reset));
        }
    }

    fn step(&self, outcome: &StepOutcome) {
        self.end_line();
        let took = seconds(outcome.duration);
        match outcome.status {
            Some(status) if status.is_success() => self.good(&format!("{}  {took}", outcome.name)),
            Some(status) => self.bad(&format!("{}  {took}  {status}", outcome.name)),
            None => self.bad(&format!("{}  {took}  stopped", outcome.name)),
        }
    }

    fn finished(&self, outcome: &Outcome) {
        let text = format!("{:?} after {}", outcome.conclusion, seconds(outcome.duration));
        let text = outcome.reason.as_ref().map_or_else(|| text.clone(), |reason| format!("{text}: {reason}"));
        if outcome.exit_code() == 0 {
            self.good(&text);
        } else {
            self.bad(&text);
        }
        if let Some(usage) = &outcome.usage {
            self.fact("used", usage);
        }
    }
}

impl Observer for Terminal {
    fn observe(&self, _job: &JobId, event: &Event<'_>) {
        match event {
            Event::Unmasked(secrets) => {
                for Unmasked { secret, why, .. } in *secrets {
                    self.bad(&format!("the secret {secret} is {why} in the output"));
                }
            }
            Event::SandboxCreated(report) => {
                self.good("fresh sandbox");
                for (guarantee, why) in &report.missing {
                    self.fact("not held", format_args!("{guarantee:?}: {why}"));
                }
            }
            Event::CheckedOut => self.good("exact commit checked out"),
            Event::StepStarted { index, count, name } => {
                self.heading(&format!("\n[{}/{count}] {name}", index + 1));
            }
            Event::Output { bytes, .. } => self.output(bytes.as_bytes()),
            Event::StepFinished { outcome, .. } => self.step(outcome),
            Event::ArtifactKept(artifact) => {
                self.good(&format!("kept {} ({})", artifact.name, artifact.size));
            }
            Event::SandboxDestroyed => self.good("sandbox destroyed: nothing of it is left"),
            Event::Finished(outcome) => self.finished(outcome),
            _ => {}
        }
    }
}

/// Output without the bytes that drive a terminal: a carriage return becomes a line end, so that a line cannot
/// paint over its bar, and colours stay where they are shown.
fn harmless(bytes: &[u8], colours: bool) -> Vec<u8> {
    let mut shown = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let [byte, after @ ..] = rest {
        rest = after;
        match (byte, after) {
            (b'\r', [b'\n', ..]) => {}
            (b'\r', _) => shown.push(b'\n'),
            (0x1b, [b'[', tail @ ..]) if let Some(length) = colour(tail) => {
                if colours {
                    shown.extend_from_slice(b"\x1b[");
                    shown.extend_from_slice(&tail[..length]);
                }
                rest = &tail[length..];
            }
            // U+0080 to U+009F: control characters too, for a terminal that reads UTF-8.
            (0xc2, [0x80..=0x9f, tail @ ..]) => {
                shown.push(b'?');
                rest = tail;
            }
            (b'\n' | b'\t' | b' '..=0x7e, _) => shown.push(*byte),
            // Only whole characters: a single byte of these is a control character for some terminals.
            (0xc2.., _) => {
                match std::str::from_utf8(&bytes[bytes.len() - after.len() - 1..][..=length(*byte, after)]) {
                    Ok(character) => {
                        shown.extend_from_slice(character.as_bytes());
                        rest = &after[character.len() - 1..];
                    }
                    Err(_) => shown.push(b'?'),
                }
            }
            _ => shown.push(b'?'),
        }
    }
    shown
}

/// How many bytes of `after` belong to the character that `first` begins, if they are there.
fn length(first: u8, after: &[u8]) -> usize {
    let wanted = if first >= 0xf0 { 3 } else { 1 + usize::from(first >= 0xe0) };
    wanted.min(after.len())
}

/// How many bytes there are before a character whose end is missing.
fn whole(bytes: &[u8]) -> usize {
    let cut = bytes.utf8_chunks().last().map_or(&[][..], |last| last.invalid());
    let is_begun = cut.first().is_some_and(|first| length(*first, &[0; 3]) >= cut.len());
    bytes.len() - if is_begun && cut[0] >= 0xc2 { cut.len() } else { 0 }
}

/// How long the rest of a colour sequence is, `31m` for instance, if it is one.
fn colour(tail: &[u8]) -> Option<usize> {
    const LONGEST: usize = 16;
    let length = tail.iter().take_while(|byte| byte.is_ascii_digit() || **byte == b';').count();
    (length <= LONGEST && tail.get(length) == Some(&b'm')).then_some(length + 1)
}

/// A reader that has gone away (`quickstart | head`) does not stop the job.
fn write(text: std::fmt::Arguments<'_>) {
    let _ = io::stdout().lock().write_fmt(text);
}

fn seconds(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}
