//! Masking: however output is split, it is the same.

use ci_core::memory::Masking;
use ci_core::secret::{Learned, Masker as _, SecretValue, Sensitive};
use proptest::prelude::*;

fn masked<'a>(values: &[&str], pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let masking = Masking::new();
    for value in values {
        masking.learn(&Sensitive::Credential, &SecretValue::new(*value));
    }
    let (mut redactor, mut out) = (masking.redactor(), Vec::new());
    for piece in pieces {
        redactor.push(piece, &mut out);
    }
    redactor.finish(&mut out);
    out
}

#[test]
fn what_was_learned_is_hidden() {
    let check = |values: &[&str], text: &str, expected: &str| {
        let out = masked(values, [text.as_bytes()]);
        assert_eq!(String::from_utf8_lossy(&out), expected);
    };
    check(&["secret"], "a secret b", "a *** b");
    check(&["secret"], "secretsecret", "***");
    check(&["secret", "retry"], "secretry", "***");
    check(&["abab"], "ababab", "***");
    check(&["abcd", "abcdef"], "abcdef", "***");
    check(&["abcdef", "bcde"], "abcdx", "abcdx");
    check(&["secret"], "secre", "secre");
    check(&["abc"], "abc", "abc");
}

#[test]
fn a_value_that_is_learned_late_is_hidden_in_what_is_held_back() {
    let masking = Masking::new();
    masking.learn(&Sensitive::Credential, &SecretValue::new("tokens are long"));
    let (mut redactor, mut out) = (masking.redactor(), Vec::new());
    redactor.push(b"my token", &mut out);
    assert_eq!(out, b"my ");
    assert_eq!(masking.learn(&Sensitive::Credential, &SecretValue::new("token")), Learned::Hidden);
    redactor.push(b" x", &mut out);
    redactor.finish(&mut out);
    assert_eq!(out, b"my *** x");
}

proptest! {
    #[test]
    fn every_split_gives_the_same(
        values in prop::collection::vec("[ab]{4,6}", 1..4),
        text in "[abc]{0,40}",
        cuts in prop::collection::vec(0_usize..40, 0..6),
    ) {
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let pieces = cuts.windows(2).map(|cut| &text.as_bytes()[cut[0]..cut[1]]);
        let split = masked(&values, pieces);
        prop_assert_eq!(&split, &masked(&values, [text.as_bytes()]));
        let shown = String::from_utf8_lossy(&split).into_owned();
        prop_assert!(values.iter().all(|value| !shown.contains(value)), "{}", shown);
    }
}
