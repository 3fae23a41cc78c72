//! All patterns of a masker, in order, to look up what begins at a place of a text.

use std::ops::Range;

use zeroize::{Zeroize, Zeroizing};

use super::filter::Filter;
use super::pattern::Pattern;

/// How many bytes of a pattern find it.
const HEAD: usize = 8;

/// Patterns of 4 to [`LONGEST`](super::pattern::LONGEST) bytes, each of them once.
pub(super) struct Patterns {
    /// One after the other, in the order of their bytes.
    bytes: Zeroizing<Vec<u8>>,
    entries: Vec<Entry>,
    /// What is seen where a pattern is: see [`Entry::subjects`].
    subjects: Vec<u32>,
    filter: Filter,
    heads: Heads,
}

struct Entry {
    bytes: Range<u32>,
    /// The longest other pattern that this one begins with.
    within: Option<u32>,
    /// Which of `subjects`.
    subjects: Range<u32>,
}

impl Patterns {
    /// `sorted` are at least one, by their bytes and then by their subjects.
    pub(super) fn new(sorted: &[Pattern]) -> Self {
        let mut bytes = Vec::with_capacity(sorted.iter().map(|pattern| pattern.bytes.len()).sum());
        let (mut entries, mut subjects) = (Vec::<Entry>::new(), Vec::with_capacity(sorted.len()));
        // The patterns that the last one begins with, the longest at the end.
        let mut around: Vec<u32> = Vec::new();
        for same in sorted.chunk_by(|one, other| one.bytes == other.bytes) {
            let text = same[0].bytes.as_slice();
            while let Some(outer) = around.last()
                && !text.starts_with(slice(&bytes, &entries[*outer as usize].bytes))
            {
                around.pop();
            }
            let (start, first) = (place(bytes.len()), place(subjects.len()));
            bytes.extend_from_slice(text);
            subjects.extend(same.iter().map(|pattern| pattern.subject));
            let within = around.last().copied();
            around.push(place(entries.len()));
            entries.push(Entry {
                bytes: start..place(bytes.len()),
                within,
                subjects: first..place(subjects.len()),
            });
        }
        let all = || entries.iter().map(|entry| slice(&bytes, &entry.bytes));
        let (filter, heads) = (Filter::new(all()), Heads::new(all()));
        Self { bytes: Zeroizing::new(bytes), entries, subjects, filter, heads }
    }

    /// Calls `found` with the start, the end and the subjects of every pattern in `text`: in the order of their starts,
    /// the longest first.
    pub(super) fn find(&self, text: &[u8], mut found: impl FnMut(usize, usize, &[u32])) {
        self.filter.scan(text, |start| {
            self.find_at(&text[start..], |length, subjects| {
                found(start, start + length, subjects);
            });
        });
    }

    /// The same for the patterns that begin with one of the first `starts` bytes of `text`.
    pub(super) fn find_near<'a>(
        &'a self,
        text: &[u8],
        starts: usize,
        mut found: impl FnMut(usize, usize, &'a [u32]),
    ) {
        for start in (0..starts).filter(|start| self.filter.may_begin(&text[*start..])) {
            self.find_at(&text[start..], |length, subjects| found(start, start + length, subjects));
        }
    }

    /// Whether a pattern may begin in the last `starts` bytes of `text`, and go on with `after`.
    #[inline]
    pub(super) fn may_begin_across(&self, text: &[u8], starts: usize, after: &[u8]) -> bool {
        let (Some(last), Some(next)) = (text.last_chunk::<4>(), after.first_chunk::<4>()) else {
            return true;
        };
        let mut around = [0; 8];
        around[..4].copy_from_slice(last);
        around[4..].copy_from_slice(next);
        // The last four are looked at with what is after them.
        let mut earlier = text[text.len() - starts..text.len() - 1].windows(4);
        self.filter.may_begin_near(around) || earlier.any(|piece| self.filter.may_begin(piece))
    }

    /// The first of the first `starts` bytes of `text` where a pattern may begin that goes on after it. `waits` is asked
    /// with the length of that beginning and of the pattern.
    pub(super) fn first_open(
        &self,
        text: &[u8],
        starts: usize,
        waits: impl Fn(usize, usize) -> bool,
    ) -> Option<usize> {
        (0..starts).find(|start| {
            let rest = &text[*start..];
            self.filter.may_begin(rest) && self.beginning_with(rest).any(|length| waits(rest.len(), length))
        })
    }

    /// How long the patterns are that begin with `text` and go on.
    fn beginning_with(&self, text: &[u8]) -> impl Iterator<Item = usize> {
        let first = self.entries.partition_point(|entry| self.text(entry) < text);
        let begun = self.entries[first..].iter().map(|entry| self.text(entry));
        begun.take_while(move |it| it.starts_with(text)).map(<[u8]>::len).filter(move |it| *it > text.len())
    }

    /// Of the patterns that come before `text` in the order of bytes, the last one is the longest that `text` begins
    /// with, or begins with all of these itself.
    fn find_at<'a>(&'a self, text: &[u8], mut found: impl FnMut(usize, &'a [u32])) {
        let Some(range) = self.heads.get(text) else { return };
        let group = &self.entries[range.clone()];
        let before = group.partition_point(|entry| self.text(entry) <= text);
        let mut next = before.checked_sub(1).map(|last| range.start + last);
        while let Some(entry) = next.map(|index| &self.entries[index]) {
            let pattern = self.text(entry);
            if text.starts_with(pattern) {
                let subjects = entry.subjects.start as usize..entry.subjects.end as usize;
                found(pattern.len(), &self.subjects[subjects]);
            }
            next = entry.within.map(|index| index as usize);
        }
    }

    fn text(&self, entry: &Entry) -> &[u8] {
        slice(&self.bytes, &entry.bytes)
    }
}

fn slice<'a>(bytes: &'a [u8], range: &Range<u32>) -> &'a [u8] {
    &bytes[range.start as usize..range.end as usize]
}

/// A masker has fewer patterns, and fewer bytes of them, than this can count: see `MOST_BYTES`.
fn place(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Which patterns begin with the same bytes: a hash table, never full.
struct Heads {
    /// How many bytes: as many as the shortest pattern has, and eight at most.
    length: usize,
    slots: Zeroizing<Vec<Head>>,
}

#[derive(Clone, Copy, Default, Zeroize)]
struct Head {
    bytes: u64,
    start: u32,
    /// Zero where there is none.
    end: u32,
}

impl Heads {
    fn new<'a>(patterns: impl Iterator<Item = &'a [u8]> + Clone) -> Self {
        let length = patterns.clone().map(<[u8]>::len).min().unwrap_or(HEAD).min(HEAD);
        let count = patterns.clone().count();
        let slots = Zeroizing::new(vec![Head::default(); (count * 2).next_power_of_two()]);
        let mut heads = Self { length, slots };
        for (index, pattern) in patterns.enumerate() {
            let Some(bytes) = heads.head(pattern) else { continue };
            let slot = heads.slot(bytes);
            let head = &mut heads.slots[slot];
            let start = if head.end == 0 { place(index) } else { head.start };
            *head = Head { bytes, start, end: place(index) + 1 };
        }
        heads
    }

    fn get(&self, text: &[u8]) -> Option<Range<usize>> {
        let Head { start, end, .. } = self.slots[self.slot(self.head(text)?)];
        (end > 0).then_some(start as usize..end as usize)
    }

    fn head(&self, text: &[u8]) -> Option<u64> {
        if let Some(head) = text.first_chunk() {
            return Some(u64::from_le_bytes(*head) & u64::MAX >> (64 - 8 * self.length));
        }
        let mut head = [0; HEAD];
        head[..self.length].copy_from_slice(text.get(..self.length)?);
        Some(u64::from_le_bytes(head))
    }

    fn slot(&self, bytes: u64) -> usize {
        let mask = self.slots.len() - 1;
        let mut slot = (bytes.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as usize & mask;
        while self.slots[slot].end != 0 && self.slots[slot].bytes != bytes {
            slot = (slot + 1) & mask;
        }
        slot
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(texts: &[&str]) -> Patterns {
        let mut sorted: Vec<Pattern> =
            (0..).zip(texts).map(|(n, text)| Pattern::new(text.as_bytes(), n)).collect();
        sorted.sort_unstable();
        Patterns::new(&sorted)
    }

    #[test]
    fn everything_is_found_where_it_is() {
        let check = |texts: &[&str], text: &str, expected: &[(usize, usize)]| {
            let mut found = Vec::new();
            patterns(texts).find(text.as_bytes(), |start, end, _| found.push((start, end)));
            assert_eq!(found, expected, "{texts:?} in {text:?}");
        };
        check(&["abcdef", "bcde", "abcd"], ".abcdef", &[(1, 7), (1, 5), (2, 6)]);
        check(&["abcd", "abcdefghijkl"], "abcdefghijk", &[(0, 4)]);
        check(&["abcdefghij", "abcdefghijkl", "abcdefghijaa"], "abcdefghijkk", &[(0, 10)]);
        check(&["aaaa"], "aaaaaa", &[(0, 4), (1, 5), (2, 6)]);
        check(&["abcd"], "abc", &[]);
    }

    #[test]
    fn what_two_secrets_share_is_of_both() {
        let mut found = Vec::new();
        patterns(&["shared", "shared"]).find(b"shared", |_, _, subjects| found.extend_from_slice(subjects));
        assert_eq!(found, [0, 1]);
    }

    #[test]
    fn only_what_may_be_a_beginning_is_open() {
        let open =
            |texts: &[&str], text: &str| patterns(texts).first_open(text.as_bytes(), text.len(), |_, _| true);
        assert_eq!(open(&["abcd"], "xab"), Some(1));
        assert_eq!(open(&["abcd"], "xabcd"), None, "it has ended");
        assert_eq!(open(&["abcd", "abcdef"], "xabcd"), Some(1), "the longer one may follow");
        assert_eq!(open(&["abcd", "cdxy"], "abcd"), Some(2), "its end may begin another one");
        assert_eq!(open(&["abcdefgh"], "abcde"), Some(0));
        assert_eq!(open(&["abcdefgh"], "abcdx"), None);
        let quarter = |text: &str| {
            patterns(&["abcdefgh", "bxyz"]).first_open(text.as_bytes(), text.len(), |has, of| has * 4 > of)
        };
        assert_eq!((quarter("a"), quarter("ab"), quarter("abc")), (None, None, Some(0)));
    }
}
