//! Finds quickly where a pattern may begin.
//!
//! Most text holds no secret. Of all pieces of four bytes in which a pattern may lie, only every `stride`-th is looked
//! up: in a set of hashes of the first `stride` pieces of every pattern, which is small and has no false negatives.
//! Where it says yes, a table of the pieces themselves says where in a pattern they stand. (The idea is that of
//! Wu and Manber, "A fast algorithm for multi-pattern searching", 1994, with a fixed step.)

use zeroize::{Zeroize, Zeroizing};

const PIECE: usize = 4;
const MOST_STRIDE: usize = 8;

/// To look a bit up is faster than to shift it by a number that the compiler does not know.
const BITS: [u64; 64] = {
    let mut bits = [1; 64];
    let mut bit = 1;
    while bit < 64 {
        bits[bit] = 1 << bit;
        bit += 1;
    }
    bits
};

/// The first pieces of all patterns.
pub(super) struct Filter {
    stride: usize,
    /// Words of 64 bits; as many as a power of two.
    bits: Vec<u64>,
    /// A hash table, never full. It holds parts of secrets.
    pieces: Zeroizing<Vec<Piece>>,
}

#[derive(Clone, Copy, Default, Zeroize)]
struct Piece {
    bytes: u32,
    /// At which places of patterns it stands: bit 0 for the very first. No bit says that there is no piece here.
    places: u8,
}

impl Filter {
    /// The shorter the shortest of the `patterns`, each of at least four bytes, the more pieces are looked up: with 11
    /// bytes, one of eight.
    pub(super) fn new<'a>(patterns: impl Iterator<Item = &'a [u8]> + Clone) -> Self {
        let shortest = patterns.clone().map(<[u8]>::len).min().unwrap_or(PIECE);
        let stride = (shortest + 1).saturating_sub(PIECE).clamp(1, MOST_STRIDE);
        let count = patterns.clone().count() * stride;
        // 64 bits a piece, so that one piece of other text in 64 is taken for one, while there are not too many.
        let log2 = (count * 64).next_power_of_two().trailing_zeros().clamp(12, 22);
        let pieces = Zeroizing::new(vec![Piece::default(); (count * 2).next_power_of_two()]);
        let mut filter = Self { stride, bits: vec![0; 1 << (log2 - 6)], pieces };
        for pattern in patterns {
            for (place, piece) in pattern.windows(PIECE).take(stride).enumerate() {
                filter.add(number(piece), 1 << place);
            }
        }
        filter
    }

    /// Calls `visit` for every place of `text` where a pattern may begin that lies in it whole, in their order.
    pub(super) fn scan(&self, text: &[u8], visit: impl FnMut(usize)) {
        match self.stride {
            // The compiler makes a faster loop for the usual stride, as it knows it.
            MOST_STRIDE => self.scan_by(MOST_STRIDE, text, visit),
            stride => self.scan_by(stride, text, visit),
        }
    }

    #[inline]
    fn scan_by(&self, stride: usize, text: &[u8], mut visit: impl FnMut(usize)) {
        let mut at = stride - 1;
        // Four at once, without a branch in between.
        while let Some(window) = text.get(at..at + 3 * stride + PIECE) {
            let piece = |index: usize| self.has(number(&window[index * stride..]));
            if piece(0) | piece(1) | piece(2) | piece(3) {
                for _ in 0..4 {
                    self.look(text, at, &mut visit);
                    at += stride;
                }
            } else {
                at += 4 * stride;
            }
        }
        while at + PIECE <= text.len() {
            self.look(text, at, &mut visit);
            at += stride;
        }
    }

    /// Whether a pattern may begin with `text`.
    #[inline]
    pub(super) fn may_begin(&self, text: &[u8]) -> bool {
        let piece = number(text);
        text.len() < PIECE || self.has(piece) && self.places(piece) & 1 != 0
    }

    /// Whether a pattern may begin with one of the first four bytes of `text`.
    #[inline]
    pub(super) fn may_begin_near(&self, text: [u8; 2 * PIECE]) -> bool {
        let piece = |at: usize| self.has(number(&text[at..]));
        // Almost never; so without a branch in between.
        (piece(0) | piece(1) | piece(2) | piece(3)) && text.windows(PIECE).any(|it| self.may_begin(it))
    }

    #[inline]
    fn look(&self, text: &[u8], at: usize, visit: &mut impl FnMut(usize)) {
        let piece = number(&text[at..]);
        if !self.has(piece) {
            return;
        }
        let mut places = self.places(piece);
        while let Some(place) = places.checked_ilog2() {
            places ^= 1 << place;
            visit(at - place as usize);
        }
    }

    #[inline]
    fn has(&self, piece: u32) -> bool {
        let (word, bit) = self.bit(piece);
        self.bits[word] & bit != 0
    }

    /// In which word of `bits` a piece is noted, and where in it.
    #[inline]
    fn bit(&self, piece: u32) -> (usize, u64) {
        let hash = hash(piece);
        (hash as usize & (self.bits.len() - 1), BITS[(hash >> 26) as usize])
    }

    fn places(&self, piece: u32) -> u8 {
        self.pieces[self.slot(piece)].places
    }

    fn add(&mut self, piece: u32, place: u8) {
        let (word, bit) = self.bit(piece);
        self.bits[word] |= bit;
        let slot = self.slot(piece);
        self.pieces[slot].bytes = piece;
        self.pieces[slot].places |= place;
    }

    /// Where `piece` is in the table, or where it would be.
    fn slot(&self, piece: u32) -> usize {
        let mask = self.pieces.len() - 1;
        let mut slot = hash(piece) as usize >> 7 & mask;
        while self.pieces[slot].places != 0 && self.pieces[slot].bytes != piece {
            slot = (slot + 1) & mask;
        }
        slot
    }
}

#[inline]
fn number(text: &[u8]) -> u32 {
    text.first_chunk().map_or(0, |piece| u32::from_le_bytes(*piece))
}

/// Multiplicative hashing (Knuth, The Art of Computer Programming 3, 6.4): 32 bits on which all of a piece has an effect.
#[inline]
fn hash(piece: u32) -> u32 {
    (u64::from(piece).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_beginning_is_missed() {
        let patterns: [&[u8]; 4] = [b"abcdefg", b"hunter2hunter2", b"0123456789abcdef", b"word"];
        for known in 1..=patterns.len() {
            let filter = Filter::new(patterns[..known].iter().copied());
            for pattern in &patterns[..known] {
                for (before, after) in (0..40).flat_map(|before| (0..40).map(move |after| (before, after))) {
                    let text = [vec![b'.'; before], pattern.to_vec(), vec![b'.'; after]].concat();
                    let mut found = Vec::new();
                    filter.scan(&text, |start| found.push(start));
                    assert!(found.contains(&before), "{pattern:?} after {before}, before {after}");
                    assert!(found.is_sorted(), "{found:?}");
                }
            }
        }
    }

    #[test]
    fn a_beginning_nearby_is_seen() {
        let near = |text: &[u8; 8]| Filter::new([&b"0123456789abcdef"[..]].into_iter()).may_begin_near(*text);
        assert!([b"0123....", b".0123...", b"..0123..", b"...0123."].into_iter().all(near));
        assert!(!near(b"....0123") && !near(b"12345678"), "too far away, and not a beginning");
    }

    #[test]
    fn a_short_pattern_has_more_pieces_looked_up() {
        let stride = |length: usize| Filter::new([&b"0123456789abcdef"[..length]].into_iter()).stride;
        assert_eq!([4, 5, 8, 11, 16].map(stride), [1, 2, 5, 8, 8]);
    }
}
