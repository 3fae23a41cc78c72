//! Finds every occurrence of every pattern in one pass.

use aho_corasick::Anchored;
use aho_corasick::automaton::{Automaton as _, StateID};
use aho_corasick::nfa::contiguous::NFA;

use super::filter::Filter;
use super::pattern::Pattern;

/// An Aho-Corasick automaton over all patterns, and what it does not say itself: how much of the text its state
/// stands for.
pub(super) enum Automaton {
    /// There is nothing to hide.
    Empty,
    /// There is too much to tell apart.
    Everything,
    Searching(Box<Search>),
}

pub(super) struct Search {
    nfa: NFA,
    pub(super) start: StateID,
    filter: Filter,
    /// Of each state that a text can end in, in the order of their ids.
    states: Vec<StateFacts>,
    pub(super) longest: usize,
}

struct StateFacts {
    id: StateID,
    /// How many of the last bytes may be the beginning of a pattern that has not ended yet.
    open: usize,
    /// How long the longest pattern is that ends here, or zero.
    ends: usize,
}

impl Automaton {
    pub(super) fn new(patterns: &[Pattern]) -> Self {
        if patterns.is_empty() {
            return Self::Empty;
        }
        // A failure to build is a bound of the crate that was reached: then nothing can be told apart.
        match NFA::builder().prefilter(false).build(patterns.iter().map(Pattern::as_bytes)) {
            Ok(nfa) => Search::new(nfa, patterns)
                .map_or(Self::Everything, |search| Self::Searching(Box::new(search))),
            Err(_) => Self::Everything,
        }
    }

    pub(super) fn hiding_everything() -> Self {
        Self::Everything
    }
}

impl Search {
    /// With the standard kind of matching, the state after a pattern's first bytes is a node of the trie that
    /// belongs to exactly these bytes: walking all patterns meets all states.
    fn new(nfa: NFA, patterns: &[Pattern]) -> Option<Self> {
        let start = nfa.start_state(Anchored::No).ok()?;
        let mut states = Vec::with_capacity(patterns.iter().map(|p| p.as_bytes().len()).sum());
        for pattern in patterns {
            let (mut id, bytes) = (start, pattern.as_bytes());
            for (index, byte) in bytes.iter().enumerate() {
                id = nfa.next_state(Anchored::No, id, *byte);
                let open = if index + 1 < bytes.len() { index + 1 } else { 0 };
                states.push(StateFacts { id, open, ends: longest_match(&nfa, id) });
            }
        }
        // A node is met once for every pattern that begins with its bytes; it is open if any of them goes on.
        states.sort_unstable_by_key(|state| (state.id, std::cmp::Reverse(state.open)));
        states.dedup_by_key(|state| state.id);
        let filter = Filter::new(patterns.iter().map(Pattern::as_bytes));
        let longest = patterns.iter().map(|p| p.as_bytes().len()).max()?;
        let mut search = Self { nfa, start, filter, states, longest };
        search.close_ends(patterns);
        Some(search)
    }

    /// A pattern that is no beginning of another one leaves open what its own end leaves open: the longest
    /// proper end of it that is the beginning of a pattern. Shorter patterns first, because such an end may be a
    /// whole pattern itself.
    fn close_ends(&mut self, patterns: &[Pattern]) {
        let mut by_length: Vec<&[u8]> = patterns.iter().map(Pattern::as_bytes).collect();
        by_length.sort_unstable_by_key(|bytes| bytes.len());
        for bytes in by_length {
            let whole = bytes.iter().fold(self.start, |id, byte| self.step(id, *byte));
            let end = bytes[1..].iter().fold(self.start, |id, byte| self.step(id, *byte));
            let open = self.open(end);
            if let Ok(index) = self.find(whole)
                && self.states[index].open == 0
            {
                self.states[index].open = open;
            }
        }
    }

    pub(super) fn step(&self, state: StateID, byte: u8) -> StateID {
        self.nfa.next_state(Anchored::No, state, byte)
    }

    /// How long the longest pattern is that ends in `state`, if one does.
    pub(super) fn ends(&self, state: StateID) -> Option<usize> {
        if !self.nfa.is_match(state) {
            return None;
        }
        // A match state that was never met cannot be; if it were, hiding too much is the safe side.
        Some(self.find(state).map_or(self.longest, |index| self.states[index].ends))
    }

    /// How many bytes before `state` may be the beginning of a pattern that has not ended.
    pub(super) fn open(&self, state: StateID) -> usize {
        if state == self.start {
            return 0;
        }
        self.find(state).map_or(self.longest - 1, |index| self.states[index].open)
    }

    /// As [`Filter::next`].
    pub(super) fn next_beginning(&self, text: &[u8], from: usize) -> (usize, usize) {
        self.filter.next(text, from)
    }

    fn find(&self, state: StateID) -> Result<usize, usize> {
        self.states.binary_search_by_key(&state, |facts| facts.id)
    }
}

fn longest_match(nfa: &NFA, state: StateID) -> usize {
    if !nfa.is_match(state) {
        return 0;
    }
    let ends = (0..nfa.match_len(state)).map(|index| nfa.pattern_len(nfa.match_pattern(state, index)));
    ends.max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::pattern::patterns_of;
    use super::*;

    fn open(patterns: &[&str], text: &str) -> usize {
        let mut patterns: Vec<_> = patterns.iter().flat_map(|p| patterns_of(p.as_bytes())).collect();
        patterns.sort_unstable();
        let Automaton::Searching(search) = Automaton::new(&patterns) else { panic!("there are patterns") };
        search.open(text.bytes().fold(search.start, |id, byte| search.step(id, byte)))
    }

    #[test]
    fn only_what_may_be_a_beginning_is_open() {
        assert_eq!(open(&["abcd"], "xab"), 2);
        assert_eq!(open(&["abcd"], "xabcd"), 0, "it has ended");
        assert_eq!(open(&["abcd", "abcdef"], "xabcd"), 4, "the longer one may follow");
        assert_eq!(open(&["abcd", "cdxy"], "abcd"), 2, "its end may begin another one");
        assert_eq!(open(&["aabab", "abab", "babx"], "aabab"), 3, "the end of its end");
        assert_eq!(open(&["aaaa"], "aaaaaaa"), 3);
    }
}
