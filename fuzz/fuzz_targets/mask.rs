//! Console output through the masker, cut anywhere: it is what the slow and simple masker of `ci_core::memory` gives
//! for the whole at once, and no secret is in it.
#![no_main]

use ci_core::memory::Masking;
use ci_core::secret::{Learned, Masker, SecretValue};
use ci_secrets::PlainMasker;
use libfuzzer_sys::fuzz_target;

fn masked<'a>(masker: &dyn Masker, pieces: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let (mut redactor, mut out) = (masker.redactor(), Vec::new());
    for piece in pieces {
        redactor.push(piece, &mut out);
    }
    redactor.finish(&mut out);
    out
}

fuzz_target!(|input: (Vec<Vec<u8>>, Vec<u8>, Vec<u8>)| {
    let (secrets, text, cuts) = input;
    let (ours, simple) = (PlainMasker::new(), Masking::new());
    for secret in secrets.iter().take(8) {
        // What blanks and line ends mean is each masker's own affair.
        let secret: Vec<u8> = secret.iter().filter(|byte| !byte.is_ascii_whitespace()).copied().take(64).collect();
        let learned = ours.learn(&SecretValue::new(secret.clone()));
        assert_eq!(learned == Learned::Hidden, simple.learn(&SecretValue::new(secret.clone())) == Learned::Hidden);
    }
    let mut rest = text.as_slice();
    let pieces = cuts.iter().map(|cut| {
        let (piece, after) = rest.split_at(usize::from(*cut).min(rest.len()));
        rest = after;
        piece
    });
    let mut pieces: Vec<&[u8]> = pieces.collect();
    let cut: usize = pieces.iter().map(|piece| piece.len()).sum();
    pieces.push(&text[cut..]);
    let whole = masked(&ours, std::iter::once(text.as_slice()));
    assert_eq!(masked(&ours, pieces.into_iter()), whole, "cut otherwise");
    assert_eq!(masked(&simple, std::iter::once(text.as_slice())), whole, "beside the simple masker");
});
