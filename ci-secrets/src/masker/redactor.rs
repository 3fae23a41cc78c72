//! Masks one stream.

use std::fmt;
use std::mem;
use std::ops::Range;
use std::sync::Arc;

use ci_core::secret::{Leak, Redactor};
use zeroize::Zeroizing;

use super::inside;
use super::known::{Known, Matcher};
use super::normal::{LONGEST_SEQUENCE, MOST_GAP, Normal};
use super::pattern::LONGEST;
use super::patterns::Patterns;
use super::tally::Tally;

/// What stands in place of a run of hidden bytes.
const MARK: &[u8] = b"***";
/// How much is looked at together: so much that what is held back is little of it, so little that it stays in a near
/// cache.
const BLOCK: usize = 64 * 1024;
/// How much of new text is put behind what was held back.
const JOINED: usize = 4 * 1024;
/// The most that is held back: an escape sequence that is not whole, behind the beginning of a pattern with gaps.
const MOST_HELD: usize = LONGEST * (1 + MOST_GAP);

/// One stream of one job.
///
/// What a byte becomes depends only on which patterns cover it, never on how the stream was cut: whatever may be the
/// beginning of a pattern is held back, and looked at again together with what follows. As no pattern is long, that is
/// never much.
pub(super) struct StreamRedactor {
    known: Arc<Known>,
    generation: u64,
    matcher: Arc<Matcher>,
    /// The end of what came in, where a pattern may have begun.
    held: Zeroizing<Vec<u8>>,
    /// How much of `held` went out, or was replaced.
    out: usize,
    /// Whether the last byte that went out was replaced.
    in_run: bool,
    /// How many bytes without gaps there were before `held`, and as many more as a sequence has: where what begins in one
    /// is counted from its end.
    position: u64,
    normal: Normal,
    covered: Vec<(usize, usize)>,
    tally: Tally,
}

impl StreamRedactor {
    pub(super) fn new(known: Arc<Known>) -> Self {
        let (matcher, generation) = known.matcher();
        Self {
            known,
            generation,
            matcher,
            held: Zeroizing::default(),
            out: 0,
            in_run: false,
            position: LONGEST_SEQUENCE as u64,
            normal: Normal::default(),
            covered: Vec::new(),
            tally: Tally::default(),
        }
    }

    /// Takes note of what was learned meanwhile.
    fn refresh(&mut self) -> Arc<Matcher> {
        if self.generation != self.known.generation() {
            (self.matcher, self.generation) = self.known.matcher();
        }
        self.matcher.clone()
    }

    /// Looks at what is held together with what follows, and then at the rest.
    fn search(&mut self, patterns: &Patterns, mut rest: &[u8], out: &mut Vec<u8>) {
        while !self.held.is_empty() && !rest.is_empty() {
            let joined = rest.len().min(JOINED);
            self.hold(&rest[..joined]);
            let held = mem::take(&mut self.held);
            let decided = self.pass(patterns, &held, out);
            self.held = held;
            let left = self.held.len() - decided;
            if left <= joined && joined < rest.len() {
                self.held.clear();
                rest = &rest[joined - left..];
            } else {
                self.held.drain(..decided);
                rest = &rest[joined..];
            }
        }
        while !rest.is_empty() {
            let block = &rest[..rest.len().min(BLOCK)];
            let decided = self.pass(patterns, block, out);
            if block.len() == rest.len() {
                return self.hold(&block[decided..]);
            }
            rest = &rest[decided..];
        }
    }

    /// Lets out of `text`, which begins with what was held, as much as nothing can change that follows; returns how much
    /// that is.
    fn pass(&mut self, patterns: &Patterns, text: &[u8], out: &mut Vec<u8>) -> usize {
        self.look(patterns, text, false);
        let (decided, before) = self.first_open(patterns, text, |_, _| true);
        self.let_out(text, decided, out);
        self.position = before;
        self.out -= decided;
        decided
    }

    /// Notes what patterns cover in `text`.
    fn look(&mut self, patterns: &Patterns, text: &[u8], is_last: bool) {
        let Self { normal, covered, tally, position, .. } = self;
        normal.read(text, is_last);
        covered.clear();
        let mut note = |start: u64, length: usize, raw: Range<usize>, subjects: &[u32]| {
            for subject in subjects {
                tally.see(*subject, start, start + length as u64);
            }
            match covered.last_mut() {
                Some((_, until)) if *until >= raw.start => *until = raw.end.max(*until),
                _ => covered.push((raw.start, raw.end)),
            }
        };
        // Both in the order of their starts.
        let mut inside = inside::find(patterns, normal, text).into_iter().peekable();
        patterns.find(normal.text(), |start, end, subjects| {
            while let Some(hit) = inside.next_if(|hit| hit.start.at <= start) {
                note(hit.start.position(*position), hit.length, hit.raw(), hit.subjects);
            }
            if normal.is_whole(start, end) {
                let raw = normal.raw(start)..normal.raw(end - 1) + 1;
                note(*position + start as u64, end - start, raw, subjects);
            }
        });
        for hit in inside {
            note(hit.start.position(*position), hit.length, hit.raw(), hit.subjects);
        }
    }

    /// Where in `text`, which was read, a pattern may begin that goes on after it, or its end; and the position there.
    fn first_open(
        &self,
        patterns: &Patterns,
        text: &[u8],
        waits: impl Fn(usize, usize) -> bool,
    ) -> (usize, u64) {
        let normal = &self.normal;
        let from = normal.text().len().saturating_sub(LONGEST - 1).max(normal.last_whole());
        let ends = &normal.text()[from..];
        let open = from + patterns.first_open(ends, ends.len(), &waits).unwrap_or(ends.len());
        let decided = normal.raw(open);
        match inside::first_open(patterns, normal, text, &waits) {
            Some(place) if place.raw < decided => (place.raw, place.position(self.position)),
            _ => (decided, self.position + open as u64),
        }
    }

    /// Lets out all of `text` up to `decided` that is not out, and covered bytes that follow on that.
    fn let_out(&mut self, text: &[u8], decided: usize, out: &mut Vec<u8>) {
        for (start, end) in &self.covered {
            // A run that went out further than what is decided may go on.
            if *start > decided.max(self.out) {
                break;
            }
            let start = (*start).max(self.out);
            if start > self.out {
                out.extend_from_slice(&text[self.out..start]);
                self.in_run = false;
            }
            if *end > start {
                if !self.in_run {
                    out.extend_from_slice(MARK);
                }
                self.in_run = true;
                self.out = *end;
            }
        }
        if decided > self.out {
            out.extend_from_slice(&text[self.out..decided]);
            self.in_run = false;
            self.out = decided;
        }
    }

    fn hold(&mut self, text: &[u8]) {
        if self.held.capacity() == 0 {
            // All that will ever be needed: a buffer that grows leaves copies behind.
            self.held.reserve_exact(MOST_HELD + JOINED);
        }
        self.held.extend_from_slice(text);
    }

    fn hide(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        if !bytes.is_empty() && !self.in_run {
            out.extend_from_slice(MARK);
            self.in_run = true;
        }
    }
}

impl Redactor for StreamRedactor {
    fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        match &*self.refresh() {
            Matcher::Nothing => out.extend_from_slice(bytes),
            Matcher::Everything => self.hide(bytes, out),
            Matcher::Patterns(patterns) => self.search(patterns, bytes, out),
        }
    }

    fn flush(&mut self, out: &mut Vec<u8>) {
        if let Matcher::Patterns(patterns) = &*self.refresh() {
            let held = mem::take(&mut self.held);
            self.look(patterns, &held, false);
            let (open, _) = self.first_open(patterns, &held, |length, of| length * 4 > of);
            self.let_out(&held, open, out);
            self.held = held;
        }
    }

    fn finish(&mut self, out: &mut Vec<u8>) {
        let held = mem::take(&mut self.held);
        match &*self.refresh() {
            Matcher::Nothing => {}
            Matcher::Everything => self.hide(&held[self.out..], out),
            Matcher::Patterns(patterns) => {
                self.look(patterns, &held, true);
                self.let_out(&held, held.len(), out);
            }
        }
        self.position += held.len() as u64 + 1;
        self.out = 0;
    }

    fn leaks(&mut self) -> Vec<Leak> {
        let seen = self.tally.take().collect();
        self.known.leaks(seen)
    }
}

impl fmt::Debug for StreamRedactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamRedactor").field("held", &self.held.len()).finish_non_exhaustive()
    }
}
