//! Text without what can lie inside of a secret and is no part of it.
//!
//! Line breaks (programs wrap long text), carriage returns (terminals) and escape sequences (colours) are left out
//! of what is searched. They are hidden together with the secret around them.

use zeroize::Zeroizing;

use super::controls::Controls;

const ESCAPE: u8 = 0x1b;
/// The longest escape sequence that is known as one.
pub(super) const LONGEST_SEQUENCE: usize = 32;
/// How many bytes may lie between two neighbouring bytes of a secret.
pub(super) const MOST_GAP: usize = 128;

/// A piece of text, and where its bytes come from.
#[derive(Default)]
pub(super) struct Normal {
    text: Zeroizing<Vec<u8>>,
    gaps: Vec<Gap>,
    /// The escape sequences in them, in order.
    sequences: Vec<Gap>,
    /// The places of gaps that no secret reaches across, in order.
    barriers: Vec<usize>,
    /// How much of the raw text was read; what follows may be the beginning of an escape sequence.
    read: usize,
}

/// Raw bytes that were left out.
#[derive(Clone, Copy)]
pub(super) struct Gap {
    /// Before which byte of the text.
    pub(super) at: usize,
    /// From where in the raw text,
    pub(super) from: usize,
    /// and until where.
    pub(super) until: usize,
}

impl Normal {
    /// Reads `raw` in place of what was read before. If `is_last`, nothing follows on it.
    pub(super) fn read(&mut self, raw: &[u8], is_last: bool) {
        self.clear(raw.len());
        let mut from = 0;
        for at in Controls::new(raw) {
            if at < from {
                continue; // inside of an escape sequence
            }
            let length = match raw[at] {
                b'\n' | b'\r' => 1,
                ESCAPE => match sequence(&raw[at..]) {
                    Sequence::Whole(length) => length,
                    Sequence::Begun if !is_last => {
                        self.text.extend_from_slice(&raw[from..at]);
                        self.read = at;
                        return;
                    }
                    Sequence::Begun | Sequence::No => continue,
                },
                _ => continue,
            };
            self.text.extend_from_slice(&raw[from..at]);
            from = at + length;
            self.leave_out(at, from);
            if length > 1 {
                self.sequences.push(Gap { at: self.text.len(), from: at, until: from });
            }
        }
        self.text.extend_from_slice(&raw[from..]);
        self.read = raw.len();
    }

    pub(super) fn text(&self) -> &[u8] {
        &self.text
    }

    /// The escape sequences that were left out, in order.
    pub(super) fn sequences(&self) -> &[Gap] {
        &self.sequences
    }

    /// Where in the raw text the byte `at` of the text lies; for the end of the text, where reading ended.
    pub(super) fn raw(&self, at: usize) -> usize {
        if at == self.text.len() {
            return self.read;
        }
        match self.gaps.partition_point(|gap| gap.at <= at) {
            0 => at,
            next => self.gaps[next - 1].until + at - self.gaps[next - 1].at,
        }
    }

    /// Whether the text from `start` to `end` is close enough together to be one secret.
    pub(super) fn is_whole(&self, start: usize, end: usize) -> bool {
        let next = self.barriers.partition_point(|barrier| *barrier <= start);
        self.barriers.get(next).is_none_or(|barrier| *barrier >= end)
    }

    /// From where on the text can be the beginning of a secret that goes on after it.
    pub(super) fn last_whole(&self) -> usize {
        self.barriers.last().copied().unwrap_or(0)
    }

    fn clear(&mut self, room: usize) {
        self.text.clear();
        if self.text.capacity() < room {
            // A buffer that grows leaves copies behind; the old one is wiped.
            self.text = Zeroizing::new(Vec::with_capacity(room));
        }
        self.gaps.clear();
        self.sequences.clear();
        self.barriers.clear();
    }

    fn leave_out(&mut self, from: usize, until: usize) {
        let at = self.text.len();
        match self.gaps.last_mut() {
            Some(gap) if gap.at == at => {
                gap.until = until;
                if until - gap.from > MOST_GAP && self.barriers.last() != Some(&at) {
                    self.barriers.push(at);
                }
            }
            _ => self.gaps.push(Gap { at, from, until }),
        }
    }
}

/// What a secret's bytes are in text that was read.
pub(super) fn normalised(bytes: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut normal = Normal::default();
    normal.read(bytes, true);
    normal.text
}

/// The same without an escape sequence at the end that is not whole: what follows may make it whole, and then it is left
/// out of the text.
pub(super) fn settled(bytes: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut normal = Normal::default();
    normal.read(bytes, false);
    normal.text
}

#[derive(Debug, PartialEq)]
enum Sequence {
    Whole(usize),
    /// It may be one, if more follows.
    Begun,
    No,
}

/// The escape sequence that `text` begins with: ECMA-48 section 5.4 (control sequences, of which colours are some) and
/// ECMA-35 section 13.2 (with intermediate bytes, as `tput sgr0` writes).
fn sequence(text: &[u8]) -> Sequence {
    let is_control = text.get(1) == Some(&b'[');
    let mut at = 1 + usize::from(is_control);
    let mut skip = |bytes: std::ops::RangeInclusive<u8>| {
        let from = at;
        while at < LONGEST_SEQUENCE && text.get(at).is_some_and(|byte| bytes.contains(byte)) {
            at += 1;
        }
        at - from
    };
    let finals = if is_control {
        skip(0x30..=0x3f);
        skip(0x20..=0x2f);
        0x40..=0x7e
    } else if skip(0x20..=0x2f) > 0 {
        0x30..=0x7e
    } else if text.len() == 1 {
        return Sequence::Begun;
    } else {
        return Sequence::No;
    };
    match text.get(at) {
        _ if at == LONGEST_SEQUENCE => Sequence::No,
        Some(byte) if finals.contains(byte) => Sequence::Whole(at + 1),
        Some(_) => Sequence::No,
        None => Sequence::Begun,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(raw: &str, is_last: bool) -> Normal {
        let mut normal = Normal::default();
        normal.read(raw.as_bytes(), is_last);
        normal
    }

    #[test]
    fn line_breaks_and_colours_are_left_out() {
        let check = |raw: &str, text: &str| {
            assert_eq!(String::from_utf8_lossy(read(raw, true).text()), text, "{raw:?}");
        };
        check("a\r\nb\n\nc", "abc");
        check("\x1b[1;32mab\x1b[0mc\x1b(B\x1b[m", "abc");
        check("\x1b[38;2;1;2;3mx", "x");
        check("\x1bx \x1b", "\x1bx \x1b");
        check("\x1b[12\nm", "\x1b[12m");
        check(&format!("\x1b[{}m", "1".repeat(40)), &format!("\x1b[{}m", "1".repeat(40)));
    }

    #[test]
    fn every_byte_is_where_it_was() {
        let raw = "\nab\x1b[1mcd\r\n\r\ne\n";
        let normal = read(raw, true);
        let found: Vec<u8> = (0..normal.text().len()).map(|at| raw.as_bytes()[normal.raw(at)]).collect();
        assert_eq!(found, normal.text());
        assert_eq!(normal.raw(normal.text().len()), raw.len());
    }

    #[test]
    fn a_sequence_that_is_not_whole_waits() {
        let normal = read("ab\x1b[3", false);
        assert_eq!((normal.text(), normal.raw(2)), (&b"ab"[..], 2));
        assert_eq!(sequence(b"\x1b"), Sequence::Begun);
        assert_eq!(sequence(b"\x1b("), Sequence::Begun);
        assert_eq!(sequence(b"\x1b[0m"), Sequence::Whole(4));
        assert_eq!(sequence("\x1b[é".as_bytes()), Sequence::No);
        assert_eq!(sequence(b"\x1b[[-x"), Sequence::Whole(3), "the second bracket ends it, whatever follows");
    }

    #[test]
    fn what_may_become_a_sequence_is_not_settled() {
        let check = |raw: &str, whole: &str, sure: &str| {
            assert_eq!(
                (&**normalised(raw.as_bytes()), &**settled(raw.as_bytes())),
                (whole.as_bytes(), sure.as_bytes())
            );
        };
        check("ab\x1b[3", "ab\x1b[3", "ab");
        check("ab\x1bcd\x1b", "ab\x1bcd\x1b", "ab\x1bcd");
        check("ab\x1b[3mcd", "abcd", "abcd");
    }

    #[test]
    fn a_wide_gap_keeps_text_apart() {
        let near = format!("ab{}cd", "\n".repeat(MOST_GAP));
        assert!(read(&near, true).is_whole(0, 4));
        let far = read(&format!("ab{}cd", "\n".repeat(MOST_GAP + 1)), true);
        assert!(!far.is_whole(0, 4) && !far.is_whole(1, 3) && far.is_whole(0, 2) && far.is_whole(2, 4));
        assert_eq!(far.last_whole(), 2);
    }
}
