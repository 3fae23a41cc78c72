//! What of a value is looked for.

use zeroize::{Zeroize, ZeroizeOnDrop};

use super::StreamMasker;
use super::normal::{normalised, settled};

/// The longest pattern. What is longer is cut into pieces, each of which is hidden by itself: a file that is printed in
/// part is hidden as far as whole pieces of it are there, and little has to be held back.
pub(super) const LONGEST: usize = 128;

/// Normalised bytes that are hidden wherever they stand, and as what they are reported. Wiped when dropped.
#[derive(PartialEq, Eq, PartialOrd, Ord, Zeroize, ZeroizeOnDrop)]
pub(super) struct Pattern {
    pub(super) bytes: Vec<u8>,
    pub(super) subject: u32,
}

impl Pattern {
    pub(super) fn new(bytes: &[u8], subject: u32) -> Self {
        Self { bytes: bytes.to_vec(), subject }
    }
}

/// The patterns for one form of a value.
pub(super) fn patterns_of(form: &[u8], subject: u32) -> impl Iterator<Item = Pattern> {
    let (whole, sure) = (normalised(form), settled(form));
    let sure = (sure.len() < whole.len()).then_some(sure);
    [Some(whole), sure].into_iter().flatten().flat_map(move |bytes| pieces_of(&bytes, subject))
}

fn pieces_of(bytes: &[u8], subject: u32) -> Vec<Pattern> {
    let count = bytes.len().div_ceil(LONGEST).max(1);
    let size = bytes.len().div_ceil(count).max(1);
    let pieces = bytes
        .chunks(size)
        .filter(|piece| piece.len() >= StreamMasker::SHORTEST && (count == 1 || !is_regular(piece)));
    pieces.map(|piece| Pattern::new(piece, subject)).collect()
}

/// Whether there are no more than two different bytes in it, as in a ruled line.
pub(super) fn is_regular(bytes: &[u8]) -> bool {
    let Some(first) = bytes.first() else { return true };
    let mut others = bytes.iter().filter(|byte| *byte != first);
    let second = others.next();
    others.all(|byte| Some(byte) == second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_long_is_cut_into_pieces() {
        let long: Vec<u8> =
            (0..=255).cycle().take(1_000).filter(|byte| ![b'\n', b'\r', 0x1b].contains(byte)).collect();
        let pieces: Vec<Pattern> = patterns_of(&long, 7).collect();
        assert_eq!(pieces.iter().flat_map(|piece| piece.bytes.iter().copied()).collect::<Vec<_>>(), long);
        assert!(
            pieces
                .iter()
                .all(|piece| (LONGEST / 2..=LONGEST).contains(&piece.bytes.len()) && piece.subject == 7)
        );
        assert_eq!(patterns_of(&long[..LONGEST], 0).count(), 1);
        assert_eq!(patterns_of(b"a\nb", 0).count(), 0);
        assert_eq!(
            patterns_of(b"abcd\x1b[1", 0).count(),
            2,
            "what follows may make a whole sequence of its end"
        );
        assert_eq!(patterns_of(b"", 0).count(), 0);
    }

    #[test]
    fn a_ruled_line_inside_of_a_long_value_is_left_out() {
        let value = [vec![b'-'; 256], (0..128).collect()].concat();
        assert!(patterns_of(&value, 0).all(|piece| !is_regular(&piece.bytes)));
        assert!(is_regular(b"abababab") && is_regular(b"") && !is_regular(b"abac"));
    }
}
