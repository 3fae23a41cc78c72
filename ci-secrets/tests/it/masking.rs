//! The masker beside a slow one that is obviously right.

use ci_core::secret::{Learned, Masker as _, SecretValue};
use ci_secrets::PlainMasker;
use proptest::prelude::*;

fn masker(values: &[Vec<u8>]) -> PlainMasker {
    let masker = PlainMasker::new();
    for value in values {
        assert_eq!(masker.learn(&SecretValue::new(value.clone())), Learned::Hidden);
    }
    masker
}

/// Marks what the values cover that begin at `from` or later.
fn cover(covered: &mut [bool], values: &[Vec<u8>], text: &[u8], from: usize) {
    for value in values {
        for start in from..text.len() {
            if text[start..].starts_with(value) {
                covered[start..start + value.len()].fill(true);
            }
        }
    }
}

fn render(text: &[u8], covered: &[bool]) -> Vec<u8> {
    let mut out = Vec::new();
    for (index, byte) in text.iter().enumerate() {
        if !covered[index] {
            out.push(*byte);
        } else if index == 0 || !covered[index - 1] {
            out.extend_from_slice(b"***");
        }
    }
    out
}

/// Where the longest end of `text` begins that is a proper beginning of a value.
fn held_from(values: &[Vec<u8>], text: &[u8]) -> usize {
    let may_begin = |start: &usize| {
        let rest = &text[*start..];
        values.iter().any(|value| rest.len() < value.len() && value.starts_with(rest))
    };
    (0..text.len()).find(may_begin).unwrap_or(text.len())
}

fn pieces<'a>(text: &'a [u8], sizes: &[usize]) -> Vec<&'a [u8]> {
    let (mut found, mut rest) = (Vec::new(), text);
    for size in sizes.iter().cycle() {
        let (now, later) = rest.split_at((*size).min(rest.len()));
        found.push(now);
        rest = later;
        if rest.is_empty() {
            break;
        }
    }
    found
}

fn letters(most: u8, lengths: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec((b'a'..=b'a' + most).boxed(), lengths)
}

/// Values over few letters, some of them made of parts of others, so that they overlap in every way.
fn values(most: u8) -> impl Strategy<Value = Vec<Vec<u8>>> {
    let parts = proptest::collection::vec((any::<prop::sample::Index>(), 0..8_usize, 0..8_usize), 0..4);
    (proptest::collection::vec(letters(most, 4..12), 1..5), parts).prop_map(|(mut values, parts)| {
        for (index, front, back) in parts {
            let value = index.get(&values).clone();
            let (front, back) = (front.min(value.len()), back.min(value.len()));
            let mut part = value[front.min(value.len() - back)..value.len() - back].to_vec();
            if part.len() < PlainMasker::SHORTEST {
                part = [value.as_slice(), &value[..front]].concat();
            }
            values.push(part);
        }
        values
    })
}

/// Text with values in it, whole and in part.
fn text(most: u8, values: Vec<Vec<u8>>) -> impl Strategy<Value = (Vec<Vec<u8>>, Vec<u8>)> {
    let piece = (any::<prop::sample::Index>(), 0..12_usize, letters(most, 0..5));
    proptest::collection::vec(piece, 0..12).prop_map(move |pieces| {
        let mut text = Vec::new();
        for (index, length, noise) in pieces {
            let value = index.get(&values);
            text.extend_from_slice(&value[..length.min(value.len())]);
            text.extend(noise);
        }
        (values.clone(), text)
    })
}

fn cases() -> impl Strategy<Value = (Vec<Vec<u8>>, Vec<u8>)> {
    prop_oneof![
        values(1).prop_flat_map(|values| text(1, values)),
        values(3).prop_flat_map(|values| text(3, values)),
        values(25).prop_flat_map(|values| text(25, values)),
    ]
}

fn sizes() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![Just(vec![1]), Just(vec![usize::MAX]), proptest::collection::vec(1..20_usize, 1..6)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any way to cut the stream gives what the slow one gives, and nothing waits longer than it must.
    #[test]
    fn exactly_the_secrets_are_hidden_however_the_text_is_cut((values, text) in cases(), sizes in sizes()) {
        let mut covered = vec![false; text.len()];
        cover(&mut covered, &values, &text, 0);
        let (mut redactor, mut out, mut seen) = (masker(&values).redactor(), Vec::new(), 0);
        for piece in pieces(&text, &sizes) {
            redactor.push(piece, &mut out);
            seen += piece.len();
            let decided = held_from(&values, &text[..seen]);
            let mut so_far = vec![false; seen];
            cover(&mut so_far, &values, &text[..seen], 0);
            let runs_on = so_far[decided..].iter().take_while(|covered| **covered).count();
            let expected = render(&text[..decided + runs_on], &so_far[..decided + runs_on]);
            prop_assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(&expected), "after {}", seen);
        }
        redactor.finish(&mut out);
        let expected = render(&text, &covered);
        prop_assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(&expected));
    }

    /// What is learned in mid-stream counts for what was still held, and for what follows.
    #[test]
    fn what_is_learned_counts_from_what_was_held_on(
        (values, text) in cases(),
        split in any::<prop::sample::Index>(),
        known in any::<prop::sample::Index>(),
        sizes in sizes(),
    ) {
        let (split, known) = (split.index(text.len() + 1), known.index(values.len() + 1));
        let (before, after) = text.split_at(split);
        let mut covered = vec![false; text.len()];
        cover(&mut covered[..split], &values[..known], before, 0);
        cover(&mut covered, &values, &text, held_from(&values[..known], before));

        let masker = masker(&values[..known]);
        let (mut redactor, mut out) = (masker.redactor(), Vec::new());
        for piece in pieces(before, &sizes) {
            redactor.push(piece, &mut out);
        }
        for value in &values[known..] {
            masker.learn(&SecretValue::new(value.clone()));
        }
        for piece in pieces(after, &sizes) {
            redactor.push(piece, &mut out);
        }
        redactor.finish(&mut out);
        let expected = render(&text, &covered);
        prop_assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(&expected));
    }
}

fn masked(values: &[&str], text: &str) -> String {
    let masker = PlainMasker::new();
    for value in values {
        masker.learn(&SecretValue::new(*value));
    }
    let (mut redactor, mut out) = (masker.redactor(), Vec::new());
    redactor.push(text.as_bytes(), &mut out);
    redactor.finish(&mut out);
    String::from_utf8(out).expect("text")
}

#[test]
fn runs_become_one_mark() {
    assert_eq!(masked(&["abcdef", "defghi"], "1abcdefghi2"), "1***2");
    assert_eq!(masked(&["abcdef", "ghijkl"], "1abcdefghijkl2"), "1***2", "they touch");
    assert_eq!(masked(&["abcdef"], "abcdefabcdef abcdef"), "*** ***");
}

#[test]
fn what_is_learned_does_not_bring_back_what_was_hidden() {
    let masker = masker(&[b"abcdefghi".to_vec(), b"efghixyz".to_vec()]);
    let (mut redactor, mut out) = (masker.redactor(), Vec::new());
    redactor.push(b"abcdefghi", &mut out);
    masker.learn(&SecretValue::new("efgh"));
    redactor.push(b".", &mut out);
    redactor.finish(&mut out);
    assert_eq!(String::from_utf8_lossy(&out), "***.");
}

#[test]
fn each_line_of_a_value_is_hidden() {
    let key = "-----BEGIN KEY-----\nAAAAB3Nza\n  C1yc2E  \nab\n-----END KEY-----\n";
    let shown = masked(&[key], "line AAAAB3Nza of it, C1yc2E and ab\n");
    assert_eq!(shown, "line *** of it, *** and ab\n");
    assert_eq!(masked(&[key], key), "***\n");
}

#[test]
fn a_last_line_break_belongs_to_the_text() {
    assert_eq!(masked(&["hunter2\n"], "it is hunter2\nnext"), "it is ***\nnext");
}

#[test]
fn a_secret_that_repeats_itself_takes_no_longer() {
    // Every byte ends a match; a megabyte of them must not take a megabyte's square.
    let value = "a".repeat(20_000);
    let masker = PlainMasker::new();
    for length in [4, 10, 100, 20_000] {
        masker.learn(&SecretValue::new(&value.as_bytes()[..length]));
    }
    let (mut redactor, mut out) = (masker.redactor(), Vec::new());
    for _ in 0..20 {
        redactor.push(value.as_bytes(), &mut out);
    }
    for byte in value.bytes() {
        redactor.push(&[byte], &mut out);
    }
    redactor.push(b"b", &mut out);
    redactor.finish(&mut out);
    assert_eq!(out, b"***b");
}

#[test]
fn debug_shows_no_value() {
    let masker = PlainMasker::new();
    masker.learn(&SecretValue::new("hunter2"));
    let mut redactor = masker.redactor();
    redactor.push(b"hunt", &mut Vec::new());
    assert_eq!(
        format!("{masker:?} {redactor:?}"),
        "PlainMasker { patterns: 1 } PlainRedactor { held: 4, .. }"
    );
}
