//! How often some bytes lie in a file, whatever the file thinks they are.

use std::io::{self, Read};

use super::schema::PAGE;

/// Only needles of at least this many bytes are looked for in two parts: a shorter part lies anywhere by chance.
const SHORTEST_IN_PARTS: usize = 16;
/// Where the content of an overflow page begins: behind the number of the next one.
const CONTENT: usize = 4;

/// Where the pages of a file lie (SQLite's documentation, "Database File Format", sections 1.3 and 4.1).
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    /// How many bytes come before the first page.
    header: usize,
    /// How many come before every page.
    frame: usize,
}

impl Layout {
    pub(super) const DATABASE: Self = Self { header: 0, frame: 0 };
    pub(super) const JOURNAL: Self = Self { header: 32, frame: 24 };
}

/// In how many places `needle` lies in what `file` holds.
///
/// SQLite cuts a long value where a page ends, and goes on in another page. A needle of at least 16 bytes that
/// was cut is found by its longer part, which lies where the content of a page begins or in front of a cut. That
/// errs on the safe side: other text that shares that part may be counted too, and nothing is missed.
pub(super) fn count(mut file: impl Read, layout: Layout, needle: &[u8]) -> io::Result<usize> {
    let mut whole = Pattern::new(needle);
    let mut cut = 0;
    let mut header = vec![0; layout.header];
    let length = fill(&mut file, &mut header)?;
    whole.feed(&header[..length]);
    let mut buffer = vec![0; layout.frame + PAGE];
    loop {
        let length = fill(&mut file, &mut buffer)?;
        if length == 0 {
            return Ok(whole.found + cut);
        }
        whole.feed(&buffer[..length]);
        if length == buffer.len() && needle.len() >= SHORTEST_IN_PARTS {
            cut += count_cut(&buffer[layout.frame..], needle);
        }
    }
}

fn fill(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// In how many places the longer part of a needle that was cut lies in this page.
fn count_cut(page: &[u8], needle: &[u8]) -> usize {
    let middle = needle.len() / 2;
    let ends_here = (1..=middle).any(|cut| page[CONTENT..].starts_with(&needle[cut..]));
    let begins = |place: &usize| {
        let rest = &page[*place..];
        let length = rest.iter().zip(needle).take_while(|(here, there)| here == there).count();
        // In front of a cut is the page's end, or the number of the page where the value goes on.
        let is_cut = match rest[length..] {
            [] => true,
            [first, second, third, fourth, ..] => first == 0 && (second, third, fourth) != (0, 0, 0),
            _ => false,
        };
        (middle + 1..needle.len()).contains(&length) && is_cut
    };
    usize::from(ends_here) + (0..page.len()).filter(begins).count()
}

/// A search over a stream; it keeps no more than one piece of the stream and the end of the piece before.
struct Pattern<'a> {
    bytes: &'a [u8],
    window: Vec<u8>,
    found: usize,
}

impl<'a> Pattern<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, window: Vec::new(), found: 0 }
    }

    fn feed(&mut self, piece: &[u8]) {
        self.window.extend_from_slice(piece);
        self.found += self.window.windows(self.bytes.len()).filter(|window| *window == self.bytes).count();
        let undecided = self.window.len().min(self.bytes.len() - 1);
        self.window.drain(..self.window.len() - undecided);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file that gives out its bytes in pieces of `size`.
    struct Pieces<'a>(&'a [u8], usize);

    impl Read for Pieces<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let (now, later) = self.0.split_at(self.0.len().min(self.1));
            self.0 = later;
            buffer[..now.len()].copy_from_slice(now);
            Ok(now.len())
        }
    }

    fn count(file: impl Read, needle: &[u8]) -> usize {
        super::count(file, Layout::DATABASE, needle).expect("read")
    }

    #[test]
    fn a_needle_is_found_however_the_reads_fall() {
        let text = b"..needle-needle-needle..needle-needle";
        for size in 1..text.len() {
            assert_eq!(count(Pieces(text, size), b"needle-needle"), 3, "pieces of {size}");
        }
        assert_eq!(count(&b"needle-needl"[..], b"needle-needle"), 0);
        assert_eq!(count(&b""[..], b"needle-needle"), 0);
    }

    #[test]
    fn a_needle_that_lies_across_two_pages_is_found() {
        let text = [vec![0; PAGE - 5], b"needle-needle".to_vec(), vec![0; PAGE]].concat();
        assert_eq!(count(&text[..], b"needle-needle"), 1);
        assert_eq!(super::count(&text[..], Layout::JOURNAL, b"needle-needle").expect("read"), 1);
    }

    #[test]
    fn a_needle_that_was_cut_is_found_once() {
        let needle = b"0123456789abcdefghij";
        for layout in [Layout::DATABASE, Layout::JOURNAL] {
            let page = |content: &[u8]| [vec![0; layout.frame], content.to_vec()].concat();
            for cut in 1..needle.len() {
                let (one, two) = needle.split_at(cut);
                let in_leaf =
                    [b"_".repeat(50), one.to_vec(), b"\0\0\0\x07".to_vec(), b"_".repeat(PAGE)].concat();
                let at_end = [b"_".repeat(PAGE - one.len()), one.to_vec()].concat();
                let follows = [b"\0\0\0\0".to_vec(), two.to_vec(), b"_".repeat(PAGE)].concat();
                for first in [&in_leaf[..PAGE], &at_end] {
                    let text = [vec![0; layout.header], page(&follows[..PAGE]), page(first)].concat();
                    assert_eq!(super::count(&text[..], layout, needle).expect("read"), 1, "cut at {cut}");
                }
            }
        }
    }

    #[test]
    fn half_of_a_needle_among_other_text_is_not_it() {
        let text = [&b"0123456789abcdef and so on"[..], b"..456789abcdefghij", &[b'_'; PAGE]].concat();
        assert_eq!(count(&text[..PAGE], b"0123456789abcdefghij"), 0);
    }
}
