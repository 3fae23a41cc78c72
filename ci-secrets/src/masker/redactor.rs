//! Masks one stream.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use aho_corasick::automaton::StateID;
use ci_core::secret::Redactor;
use zeroize::Zeroize as _;

use super::Known;
use super::automaton::{Automaton, Search};

/// What stands in place of a run of hidden bytes.
const MARK: &[u8] = b"***";

/// One stream of one job.
///
/// Positions count the bytes of the stream from its beginning. What a byte becomes depends only on which
/// patterns cover it, never on how the stream was cut, and it goes out as soon as nothing that follows can
/// change that.
pub(super) struct PlainRedactor {
    known: Arc<Known>,
    generation: u64,
    automaton: Arc<Automaton>,
    state: Option<StateID>,
    /// The end of what came in that may be the beginning of a pattern.
    held: VecDeque<u8>,
    /// How much came in.
    seen: u64,
    /// How much of it went out, or was replaced.
    done: u64,
    /// Whether the last byte that went out was replaced.
    in_run: bool,
    /// What is covered by patterns and is not done: in order, apart from each other.
    covered: VecDeque<(u64, u64)>,
}

impl PlainRedactor {
    pub(super) fn new(known: Arc<Known>) -> Self {
        let (automaton, generation) = known.automaton();
        let (held, covered) = (VecDeque::new(), VecDeque::new());
        let mut new = Self {
            known,
            generation,
            automaton,
            state: None,
            held,
            seen: 0,
            done: 0,
            in_run: false,
            covered,
        };
        new.reserve();
        new
    }

    /// Takes note of what was learned meanwhile, and looks for it in what is still held.
    fn refresh(&mut self) {
        if self.generation == self.known.generation() {
            return;
        }
        (self.automaton, self.generation) = self.known.automaton();
        self.reserve();
        self.covered.clear();
        self.state = None;
        let automaton = self.automaton.clone();
        let mut held = std::mem::take(&mut self.held);
        self.seen -= held.len() as u64;
        self.search(&automaton, held.make_contiguous());
        self.held = held;
    }

    /// As much room as will ever be needed: a buffer that grows leaves copies behind.
    fn reserve(&mut self) {
        let Automaton::Searching(search) = &*self.automaton else { return };
        if self.held.capacity() < search.longest {
            let mut larger = VecDeque::with_capacity(search.longest);
            larger.extend(&self.held);
            wipe(&mut self.held);
            self.held = larger;
        }
    }

    /// Looks for patterns in `text`, which follows on what was seen.
    fn search(&mut self, automaton: &Automaton, text: &[u8]) {
        match automaton {
            Automaton::Empty => self.seen += text.len() as u64,
            Automaton::Everything => {
                self.cover(self.seen, self.seen + text.len() as u64);
                self.seen += text.len() as u64;
            }
            Automaton::Searching(search) => self.search_for(search, text),
        }
    }

    fn search_for(&mut self, search: &Search, text: &[u8]) {
        let mut state = self.state.unwrap_or(search.start);
        // Where the filter has said that something may begin before this, it has nothing to add.
        let (mut at, mut until) = (0, 0);
        // The text of a secret that repeats itself stays in one state, whose length is asked for once.
        let mut last = None;
        while at < text.len() {
            if state == search.start && at >= until {
                (at, until) = search.next_beginning(text, at);
                if at == text.len() {
                    break;
                }
            }
            state = search.step(state, text[at]);
            at += 1;
            let ends = match last {
                Some((of, ends)) if of == state => Some(ends),
                _ => search.ends(state),
            };
            if let Some(length) = ends {
                last = Some((state, length));
                let end = self.seen + at as u64;
                self.cover(end.saturating_sub(length as u64), end);
            }
        }
        self.seen += text.len() as u64;
        self.state = Some(state);
    }

    /// Notes that a pattern lies from `start` to `end`, which is not before any end noted so far.
    fn cover(&mut self, start: u64, end: u64) {
        let mut start = start.max(self.done);
        while let Some((earlier, _)) = self.covered.pop_back_if(|(_, before)| *before >= start) {
            start = start.min(earlier);
        }
        if start < end {
            self.covered.push_back((start, end));
        }
    }

    /// Lets out what nothing can change any more: all up to `decided`, and covered bytes that follow on that.
    /// The bytes from `base` on lie in `parts`.
    fn let_out(&mut self, decided: u64, base: u64, parts: [&[u8]; 2], out: &mut Vec<u8>) {
        loop {
            let run = self.covered.front().copied();
            let raw_until = run.map_or(decided, |(start, _)| start.min(decided));
            if raw_until > self.done {
                copy(self.done - base, raw_until - base, parts, out);
                self.done = raw_until;
                self.in_run = false;
            }
            match run {
                Some((start, end)) if start <= self.done => {
                    if !self.in_run {
                        out.extend_from_slice(MARK);
                    }
                    self.in_run = true;
                    self.done = end;
                    self.covered.pop_front();
                }
                _ => return,
            }
        }
    }

    /// Keeps the last `count` bytes of what is held and of `text`.
    fn hold(&mut self, count: usize, text: &[u8]) {
        if count <= text.len() {
            self.held.clear();
            self.held.extend(&text[text.len() - count..]);
        } else {
            self.held.drain(..self.held.len() + text.len() - count);
            self.held.extend(text);
        }
    }
}

impl Redactor for PlainRedactor {
    fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        self.refresh();
        let automaton = self.automaton.clone();
        let base = self.seen - self.held.len() as u64;
        self.search(&automaton, bytes);
        let open = match (&*automaton, self.state) {
            (Automaton::Searching(search), Some(state)) => search.open(state),
            _ => 0,
        };
        let held = std::mem::take(&mut self.held);
        // What is held lies in two pieces at most; a third one is the new text.
        let (front, back) = held.as_slices();
        let decided = self.seen - open as u64;
        let before = base + held.len() as u64;
        self.let_out(decided.min(before), base, [front, back], out);
        self.let_out(decided, before, [bytes, &[]], out);
        self.held = held;
        self.hold(open, bytes);
    }

    fn finish(&mut self, out: &mut Vec<u8>) {
        self.refresh();
        let held = std::mem::take(&mut self.held);
        let (front, back) = held.as_slices();
        self.let_out(self.seen, self.seen - held.len() as u64, [front, back], out);
        self.held = held;
        wipe(&mut self.held);
        self.state = None;
    }
}

impl Drop for PlainRedactor {
    fn drop(&mut self) {
        wipe(&mut self.held);
    }
}

impl fmt::Debug for PlainRedactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlainRedactor").field("held", &self.held.len()).finish_non_exhaustive()
    }
}

/// Copies from `from` to `until` of what `parts` are together.
fn copy(from: u64, until: u64, parts: [&[u8]; 2], out: &mut Vec<u8>) {
    let place = |position: u64| usize::try_from(position).unwrap_or(usize::MAX);
    let (from, until, [front, back]) = (place(from), place(until), parts);
    let middle = front.len();
    out.extend_from_slice(&front[from.min(middle)..until.min(middle)]);
    out.extend_from_slice(&back[from.max(middle) - middle..until.max(middle) - middle]);
}

/// Empties a buffer, and overwrites what it ever held.
fn wipe(buffer: &mut VecDeque<u8>) {
    buffer.resize(buffer.capacity(), 0);
    buffer.make_contiguous().zeroize();
    buffer.clear();
}
