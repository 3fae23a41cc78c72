//! Finds quickly where nothing can begin.
//!
//! Most text holds no secret. Every pattern that begins within the same `stride` bytes has one of its four-byte
//! pieces at the last of them; so only every `stride`-th piece of the text is looked up, in a set of hashes of
//! the first `stride` pieces of every pattern. The set has no false negatives.

const PIECE: usize = 4;
const MOST_STRIDE: usize = 8;

/// A set of hashes of pieces.
pub(super) struct Filter {
    bits: Vec<u64>,
    shift: u32,
    stride: usize,
}

impl Filter {
    /// A filter for patterns of at least four bytes each.
    pub(super) fn new<'a>(patterns: impl Iterator<Item = &'a [u8]> + Clone) -> Self {
        let shortest = patterns.clone().map(<[u8]>::len).min().unwrap_or(PIECE);
        let stride = (shortest + 1).saturating_sub(PIECE).clamp(1, MOST_STRIDE);
        // 64 bits a piece, so that one piece of text in 64 is a false positive, or fewer.
        let pieces = patterns.clone().count() * stride;
        let log2 = (pieces * 64).next_power_of_two().trailing_zeros().clamp(12, 23);
        let mut filter = Self { bits: vec![0; 1 << (log2 - 6)], shift: 32 - log2, stride };
        for pattern in patterns {
            for piece in pattern.windows(PIECE).take(stride) {
                let (word, bit) = filter.place(piece);
                filter.bits[word] |= bit;
            }
        }
        filter
    }

    /// Where in `text`, from `from` on, a pattern may begin, and up to where it may: no pattern begins in
    /// between. Where the text ends too early to tell, one may begin.
    pub(super) fn next(&self, text: &[u8], from: usize) -> (usize, usize) {
        let mut at = from + self.stride - 1;
        while let Some(piece) = text.get(at..at + PIECE) {
            let (word, bit) = self.place(piece);
            if self.bits[word] & bit != 0 {
                return (at + 1 - self.stride, at + 1);
            }
            at += self.stride;
        }
        ((at + 1 - self.stride).min(text.len()), text.len())
    }

    fn place(&self, piece: &[u8]) -> (usize, u64) {
        let piece: [u8; PIECE] = piece.try_into().unwrap_or_default();
        let hash = u32::from_le_bytes(piece).wrapping_mul(0x9E37_79B1) >> self.shift;
        ((hash >> 6) as usize, 1 << (hash & 63))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_beginning_is_missed() {
        let patterns: [&[u8]; 3] = [b"abcdefg", b"hunter2hunter2", b"0123456789abcdef"];
        let filter = Filter::new(patterns.into_iter());
        for pattern in patterns {
            for before in 0..40 {
                for after in 0..12 {
                    let text = [vec![b'.'; before], pattern.to_vec(), vec![b'.'; after]].concat();
                    for from in 0..=before {
                        let (first, until) = filter.next(&text, from);
                        assert!(first >= from && first <= until && until <= text.len());
                        assert!(first <= before, "{pattern:?} after {before} bytes, from {from}");
                    }
                }
            }
        }
    }
}
