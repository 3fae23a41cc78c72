//! Finds the control characters of a text.
//!
//! There is one in about sixty bytes of what a build prints. A search that is begun anew behind each of them, as a
//! `memchr` is, takes longer to begin than to search; here 64 bytes are compared at once, and each that was found is one
//! bit.

use wide::u8x16;

const BLOCK: usize = 64;
const LANES: usize = 16;
const LAST_CONTROL: u8 = 0x1f;

/// Where the control characters of a text are (ECMA-48 section 5.2: its bytes below the blank), in their order.
pub(super) struct Controls<'a> {
    text: &'a [u8],
    /// Where the block is that was looked at.
    block: usize,
    /// Which of its bytes are still to be told of.
    found: u64,
    next: usize,
}

impl<'a> Controls<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self { text, block: 0, found: 0, next: 0 }
    }
}

impl Iterator for Controls<'_> {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        while self.found == 0 {
            let rest = &self.text[self.next..];
            let (found, length) = match rest.first_chunk() {
                Some(block) => (controls(block), BLOCK),
                None if rest.is_empty() => return None,
                None => {
                    let mut block = [b' '; BLOCK];
                    block[..rest.len()].copy_from_slice(rest);
                    (controls(&block), rest.len())
                }
            };
            (self.block, self.found, self.next) = (self.next, found, self.next + length);
        }
        let first = self.found.trailing_zeros() as usize;
        self.found &= self.found - 1;
        Some(self.block + first)
    }
}

/// One bit for each byte, the lowest for the first.
#[inline]
fn controls(block: &[u8; BLOCK]) -> u64 {
    let (lanes, _) = block.as_chunks::<LANES>();
    lanes.iter().rev().fold(0, |found, lanes| {
        let bytes = u8x16::new(*lanes);
        let is_control = bytes.min(u8x16::splat(LAST_CONTROL)).simd_eq(bytes);
        found << LANES | u64::from(is_control.to_bitmask())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_control_character_is_found_wherever_it_is() {
        for length in 0..3 * BLOCK {
            for byte in 0..=u8::MAX {
                let mut text = vec![b'x'; length];
                if let Some(last) = text.last_mut() {
                    *last = byte;
                }
                let expected = (length > 0 && byte < b' ').then_some(length.wrapping_sub(1));
                assert_eq!(
                    Controls::new(&text).collect::<Vec<_>>(),
                    Vec::from_iter(expected),
                    "{byte} {length}"
                );
            }
        }
    }

    #[test]
    fn they_come_in_their_order() {
        let text: Vec<u8> =
            (0..1000_u32).map(|n| u8::try_from(n * n * 7 % 251).expect("below 251")).collect();
        let expected: Vec<usize> = (0..text.len()).filter(|at| text[*at] < b' ').collect();
        assert!(expected.len() > 100, "{expected:?}");
        assert_eq!(Controls::new(&text).collect::<Vec<_>>(), expected);
    }
}
