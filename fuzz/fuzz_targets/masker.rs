//! Console output through the masker, cut anywhere and with pauses: no secret is in it, what is no secret is, and the cuts
//! mean nothing.
#![no_main]

use ci_core::secret::{Learned, Masker, SecretValue, Sensitive};
use ci_secrets::StreamMasker;
use libfuzzer_sys::fuzz_target;

fn masked<'a>(masker: &dyn Masker, pieces: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let (mut redactor, mut out) = (masker.redactor(), Vec::new());
    for piece in pieces {
        redactor.push(piece, &mut out);
    }
    redactor.finish(&mut out);
    out
}

fn holds(text: &[u8], value: &[u8]) -> bool {
    text.windows(value.len()).any(|window| window == value)
}

fuzz_target!(|input: (Vec<Vec<u8>>, Vec<u8>, Vec<u8>)| {
    let (secrets, text, cuts) = input;
    let masker = StreamMasker::new();
    let mut hidden = Vec::new();
    for secret in secrets.iter().take(8) {
        let secret = secret.trim_ascii();
        if masker.learn(&Sensitive::Credential, &SecretValue::new(secret)) == Learned::Hidden {
            hidden.push(secret);
        }
    }
    // Fuzzers do not come upon secrets by themselves: each byte that is one of their numbers is one of them.
    let text: Vec<u8> = text
        .iter()
        .flat_map(|byte| match secrets.get(usize::from(*byte)) {
            Some(secret) => secret.clone(),
            None => vec![*byte],
        })
        .collect();

    let whole = masked(&masker, std::iter::once(text.as_slice()));
    let mut rest = text.as_slice();
    let pieces = cuts.iter().map(|cut| {
        let (piece, after) = rest.split_at(usize::from(*cut).min(rest.len()));
        rest = after;
        piece
    });
    let mut pieces: Vec<&[u8]> = pieces.collect();
    let cut: usize = pieces.iter().map(|piece| piece.len()).sum();
    pieces.push(&text[cut..]);
    assert_eq!(masked(&masker, pieces.iter().copied()), whole, "cut otherwise");

    // What is longer is hidden in pieces, and stars are what stands in place of secrets.
    for secret in hidden.iter().filter(|secret| secret.len() <= 128 && !secret.contains(&b'*')) {
        assert!(!holds(&whole, secret), "{:?} is in {:?}", secret, whole);
    }
    if hidden.is_empty() {
        assert_eq!(whole, text, "there was nothing to hide");
    }

    // With pauses, which may let out beginnings: nothing fails, and what is no secret still comes out.
    let (mut redactor, mut out) = (masker.redactor(), Vec::new());
    for piece in pieces {
        redactor.push(piece, &mut out);
        redactor.flush(&mut out);
    }
    redactor.finish(&mut out);
    assert!(out.len() + 4 >= whole.len() || holds(&text, b"*"), "{out:?} is less than {whole:?}");
});
