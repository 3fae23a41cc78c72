//! What begins inside of an escape sequence.
//!
//! An ESC before a secret makes an escape sequence out of its first bytes, which is left out of the text. So what was left
//! out is looked at as well: a sequence holds no second ESC and no line break, so that read from its middle the text is
//! the rest of the sequence, and then what it is anyway.

use std::ops::Range;

use zeroize::Zeroizing;

use super::normal::{Gap, MOST_GAP, Normal};
use super::pattern::LONGEST;
use super::patterns::Patterns;

/// A place inside of an escape sequence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Place {
    /// Where it is in the raw text.
    pub(super) raw: usize,
    /// How many bytes of the sequence there are from it on,
    pub(super) rest: usize,
    /// and before which byte of the text they were left out.
    pub(super) at: usize,
}

impl Place {
    /// How many bytes without gaps there are before it, if there are `before` the text: it counts from the sequence's end
    /// backwards, whether the sequence was left out or what is read begins in it.
    pub(super) fn position(&self, before: u64) -> u64 {
        before + self.at as u64 - self.rest as u64
    }
}

/// A pattern that begins inside of an escape sequence.
pub(super) struct Hit<'a> {
    pub(super) start: Place,
    pub(super) length: usize,
    /// Where it ends in the raw text.
    pub(super) end: usize,
    pub(super) subjects: &'a [u32],
}

impl Hit<'_> {
    pub(super) fn raw(&self) -> Range<usize> {
        self.start.raw..self.end
    }
}

/// The patterns that begin inside of what was left out of `raw`, in the order of their starts.
pub(super) fn find<'a>(patterns: &'a Patterns, normal: &Normal, raw: &[u8]) -> Vec<Hit<'a>> {
    let mut hits = Vec::new();
    for sequence in normal.sequences() {
        let (rest, after) = (sequence.until - sequence.from - 1, &normal.text()[sequence.at..]);
        if patterns.may_begin_across(&raw[..sequence.until], rest, after) {
            Reading::new(normal, raw, sequence).find(patterns, &mut hits);
        }
    }
    hits
}

/// The first place inside of what was left out of `raw` where a pattern may begin that goes on after it. `waits` is asked
/// with the length of that beginning and of the pattern.
pub(super) fn first_open(
    patterns: &Patterns,
    normal: &Normal,
    raw: &[u8],
    waits: impl Fn(usize, usize) -> bool,
) -> Option<Place> {
    let from = normal.text().len().saturating_sub(LONGEST - 1).max(normal.last_whole());
    let first = normal.sequences().partition_point(|sequence| sequence.at < from);
    let mut readings = normal.sequences()[first..].iter().map(|it| Reading::new(normal, raw, it));
    readings.find_map(|reading| {
        let open = patterns.first_open(&reading.bytes, reading.rest.len(), &waits)?;
        reading.is_near().then(|| reading.place(open))
    })
}

/// The text as it is from behind the ESC of an escape sequence on.
struct Reading<'a> {
    normal: &'a Normal,
    /// Where the text goes on.
    at: usize,
    /// Where the sequence lies without its ESC.
    rest: Range<usize>,
    /// As much as a pattern can be long that begins in the sequence.
    bytes: Zeroizing<Vec<u8>>,
}

impl<'a> Reading<'a> {
    fn new(normal: &'a Normal, raw: &[u8], sequence: &Gap) -> Self {
        let rest = sequence.from + 1..sequence.until;
        let after = &normal.text()[sequence.at..];
        let after = &after[..after.len().min(LONGEST - 1)];
        let bytes = Zeroizing::new([&raw[rest.clone()], after].concat());
        Self { normal, at: sequence.at, rest, bytes }
    }

    fn find<'p>(&self, patterns: &'p Patterns, hits: &mut Vec<Hit<'p>>) {
        patterns.find_near(&self.bytes, self.rest.len(), |start, end, subjects| {
            if self.is_whole(end) {
                let (start, length) = (self.place(start), end - start);
                hits.push(Hit { start, length, end: self.raw(end - 1) + 1, subjects });
            }
        });
    }

    fn place(&self, start: usize) -> Place {
        Place { raw: self.rest.start + start, rest: self.rest.len() - start, at: self.at }
    }

    fn raw(&self, at: usize) -> usize {
        match at.checked_sub(self.rest.len()) {
            None => self.rest.start + at,
            Some(after) => self.normal.raw(self.at + after),
        }
    }

    /// Whether what ends before `end` is close enough together to be one secret.
    fn is_whole(&self, end: usize) -> bool {
        match end.checked_sub(self.rest.len()) {
            None | Some(0) => true,
            Some(after) => self.is_near() && self.normal.is_whole(self.at, self.at + after),
        }
    }

    /// Whether what is behind the sequence is close enough to it to be of the same secret.
    fn is_near(&self) -> bool {
        self.normal.raw(self.at) - self.rest.end <= MOST_GAP
    }
}
