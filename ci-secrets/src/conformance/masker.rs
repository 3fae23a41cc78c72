//! What every masker must do.
//!
//! What stands in place of a secret is the masker's choice, but must not be made of letters, digits or blanks.

use std::sync::Arc;

use ci_core::id::SecretName;
use ci_core::secret::{Form, Leak, Learned, Masker, SecretValue, Sensitive};
use data_encoding::{BASE64, BASE64URL, HEXLOWER, HEXUPPER};

use super::remembered::Remembered;

ci_core::declare_kit! {
    /// Runs every case about maskers; takes a closure that makes an `Arc<dyn Masker>` that knows no value.
    masker_kit for ci_secrets::conformance::masker {
        text_without_secrets_stays_as_it_is,
        a_value_is_hidden,
        short_values_are_not_hidden_and_told,
        overlapping_values_are_hidden_whole,
        a_value_inside_another_is_hidden_with_and_without_it,
        a_false_start_does_not_hide_the_real_one,
        however_it_is_cut_the_output_is_the_same,
        exactly_the_values_are_hidden,
        a_value_is_learned_in_mid_stream,
        what_is_held_is_hidden_by_what_is_learned,
        streams_do_not_mix,
        nothing_is_held_without_need,
        the_end_lets_everything_out,
        any_bytes_are_masked,
        what_stands_before_a_value_does_not_save_it,
        each_long_line_of_a_value_is_hidden,
        base64_is_hidden_wherever_a_value_begins,
        hexadecimal_digits_are_hidden,
        a_pause_lets_short_beginnings_out,
        what_was_hidden_is_told,
        a_canary_is_told_as_one,
        no_value_outlives_the_masker,
    }
}

type Subject = Arc<dyn Masker>;

fn learn(masker: &Subject, values: &[&[u8]]) {
    for value in values {
        assert_eq!(masker.learn(&Sensitive::Credential, &SecretValue::new(*value)), Learned::Hidden);
    }
}

/// The output for `text`, cut into pieces of `sizes` over and over.
fn masked(masker: &Subject, text: &[u8], sizes: &[usize]) -> Vec<u8> {
    let (mut redactor, mut out, mut rest) = (masker.redactor(), Vec::new(), text);
    for size in sizes.iter().cycle() {
        let (now, later) = rest.split_at((*size).min(rest.len()));
        redactor.push(now, &mut out);
        rest = later;
        if rest.is_empty() {
            break;
        }
    }
    redactor.finish(&mut out);
    out
}

/// The same without what stands in place of secrets.
fn shown(output: &[u8]) -> String {
    let is_text = |byte: &&u8| byte.is_ascii_alphanumeric() || byte.is_ascii_whitespace();
    output.iter().filter(is_text).map(|byte| char::from(*byte)).collect()
}

#[track_caller]
fn check(masker: &Subject, text: &str, expected: &str) {
    for sizes in [&[usize::MAX][..], &[1], &[2], &[3, 1], &[1, 5]] {
        let output = masked(masker, text.as_bytes(), sizes);
        assert_eq!(shown(&output), expected, "{text:?} in pieces of {sizes:?}");
    }
}

/// Nothing learned, or nothing to hide.
pub async fn text_without_secrets_stays_as_it_is(masker: Subject) {
    let text = b"total 12\ndrwxr-xr-x 2 root root\n\xff\x00";
    assert_eq!(masked(&masker, text, &[3]), text);
    learn(&masker, &[b"correct horse"]);
    assert_eq!(masked(&masker, text, &[3]), text);
    assert_eq!(masked(&masker, b"", &[1]), b"");
}

/// In the middle, at both ends, more than once.
pub async fn a_value_is_hidden(masker: Subject) {
    learn(&masker, &[b"hunter2hunter2", b"correct horse"]);
    check(&masker, "a hunter2hunter2 b correct horse c", "a  b  c");
    check(&masker, "correct horse", "");
    check(&masker, "hunter2hunter2 hunter2hunter2", " ");
}

/// Hiding every `x` would hide ordinary text; not to say so would hide a leak.
pub async fn short_values_are_not_hidden_and_told(masker: Subject) {
    for value in ["", "x", "no"] {
        let learned = masker.learn(&Sensitive::Credential, &SecretValue::new(value));
        assert_eq!(learned, Learned::TooShort, "{value:?}");
    }
    check(&masker, "x no xx", "x no xx");
}

/// Where two secrets overlap, both are hidden whole.
pub async fn overlapping_values_are_hidden_whole(masker: Subject) {
    learn(&masker, &[b"abcdefgh", b"efghijkl", b"klmnopqr"]);
    check(&masker, "1 abcdefghijkl 2", "1  2");
    check(&masker, "1 abcdefghijklmnopqr 2", "1  2");
    check(&masker, "1 abcdefghefghijkl 2", "1  2");
}

/// A secret that is the beginning, the end or the middle of another one.
pub async fn a_value_inside_another_is_hidden_with_and_without_it(masker: Subject) {
    learn(&masker, &[b"abcdefghijkl", b"abcdef", b"defghi", b"ghijkl"]);
    check(&masker, "1 abcdefghijkl 2", "1  2");
    check(&masker, "1 abcdefghijk 2", "1 jk 2");
    check(&masker, "1 bcdefghijkl 2", "1 bc 2");
    check(&masker, "1 abcdefgh 2", "1 gh 2");
}

/// The beginning of a secret, and then the whole of it.
pub async fn a_false_start_does_not_hide_the_real_one(masker: Subject) {
    learn(&masker, &[b"ssecret1", b"AAAAC3NzaC1"]);
    check(&masker, "sssecret1", "s");
    check(&masker, "key AAAAAAAC3NzaC1 x", "key AAA x");
    check(&masker, "ssecretssecret1", "ssecret");
}

/// The cuts between pieces mean nothing: every way to cut gives the same bytes.
pub async fn however_it_is_cut_the_output_is_the_same(masker: Subject) {
    learn(&masker, &OVERLAPPING);
    let mut dice = Dice(1);
    for _ in 0..200 {
        let text = dice.text(64);
        let whole = masked(&masker, &text, &[usize::MAX]);
        for sizes in [&[1][..], &[2], &[3], &[7, 1], &[1, 1, 5]] {
            let cut = masked(&masker, &text, sizes);
            assert_eq!(cut, whole, "{:?} in pieces of {sizes:?}", String::from_utf8_lossy(&text));
        }
    }
}

/// Neither less nor more than the secrets, however they overlap.
pub async fn exactly_the_values_are_hidden(masker: Subject) {
    learn(&masker, &OVERLAPPING);
    let mut dice = Dice(2);
    for _ in 0..500 {
        let text = dice.text(48);
        let mut hidden = vec![false; text.len()];
        for value in OVERLAPPING {
            for start in 0..text.len() {
                if text[start..].starts_with(value) {
                    hidden[start..start + value.len()].fill(true);
                }
            }
        }
        let left = text.iter().zip(&hidden).filter(|(_, hidden)| !**hidden);
        let expected: String = left.map(|(byte, _)| char::from(*byte)).collect();
        assert_eq!(shown(&masked(&masker, &text, &[5])), expected, "{:?}", String::from_utf8_lossy(&text));
    }
}

/// What is learned later is hidden from then on, in streams that have begun.
pub async fn a_value_is_learned_in_mid_stream(masker: Subject) {
    let (mut redactor, mut out) = (masker.redactor(), Vec::new());
    redactor.push(b"before later-value ", &mut out);
    learn(&masker, &[b"later-value"]);
    redactor.push(b"after later-value end", &mut out);
    redactor.finish(&mut out);
    assert!(out.starts_with(b"before later-value after "), "{}", String::from_utf8_lossy(&out));
    assert_eq!(shown(&out).matches("value").count(), 1);
    assert!(out.ends_with(b" end"));
}

/// Bytes that have not gone out yet are masked by what is learned now.
pub async fn what_is_held_is_hidden_by_what_is_learned(masker: Subject) {
    learn(&masker, &[b"correct horse battery"]);
    let (mut redactor, mut out) = (masker.redactor(), Vec::new());
    redactor.push(b"1 correct horse", &mut out);
    assert_eq!(shown(&out), "1 ", "it may be the beginning of a secret");
    learn(&masker, &[b"horse stable"]);
    redactor.push(b" stable 2", &mut out);
    redactor.finish(&mut out);
    assert_eq!(shown(&out), "1 correct  2");

    let (mut redactor, mut out) = (masker.redactor(), Vec::new());
    redactor.push(b"1 correct horse", &mut out);
    learn(&masker, &[b"correct h"]);
    redactor.finish(&mut out);
    assert_eq!(shown(&out), "1 orse");
}

/// Two streams of a job share what is learned, and nothing else.
pub async fn streams_do_not_mix(masker: Subject) {
    learn(&masker, &[b"correct horse"]);
    let (mut one, mut other) = (masker.redactor(), masker.redactor());
    let (mut first, mut second) = (Vec::new(), Vec::new());
    one.push(b"correct ", &mut first);
    other.push(b"horse", &mut second);
    one.push(b"horse", &mut first);
    one.finish(&mut first);
    other.finish(&mut second);
    assert_eq!((shown(&first).as_str(), shown(&second).as_str()), ("", "horse"));
}

/// Live output does not lag: only what may be the beginning of a secret waits.
pub async fn nothing_is_held_without_need(masker: Subject) {
    learn(&masker, &[b"correct horse battery"]);
    let (mut redactor, mut out) = (masker.redactor(), Vec::new());
    redactor.push(b"compiling\n", &mut out);
    assert_eq!(shown(&out), "compiling\n");
    redactor.push(b"correct", &mut out);
    assert_eq!(shown(&out), "compiling\n");
    redactor.push(b"ly\n", &mut out);
    assert_eq!(shown(&out), "compiling\ncorrectly\n", "it is not the secret after all");
}

/// What was held for a secret that never came is part of the output.
pub async fn the_end_lets_everything_out(masker: Subject) {
    learn(&masker, &[b"correct horse battery"]);
    assert_eq!(masked(&masker, b"correct horse", &[4]), b"correct horse");
}

/// Secrets are bytes, and so is output.
pub async fn any_bytes_are_masked(masker: Subject) {
    let value: Vec<u8> = (0..=255).rev().collect();
    learn(&masker, &[&value]);
    let text = [b"1 ", value.as_slice(), b" 2"].concat();
    for sizes in [&[usize::MAX][..], &[1], &[100]] {
        assert_eq!(shown(&masked(&masker, &text, sizes)), "1  2");
    }
}

/// Who leaves escape sequences out of what is searched must not leave out the beginning of a secret with them.
pub async fn what_stands_before_a_value_does_not_save_it(masker: Subject) {
    learn(&masker, &[b"hunter2hunter2", b"72correct horse"]);
    for before in ["\x1b", "\x1b[", "\x1b[3;", "\x1b(", "\x1b %", "\\", "%", "\x1b[0m\x1b["] {
        let left = shown(before.as_bytes());
        check(&masker, &format!("{before}hunter2hunter2 b"), &format!("{left} b"));
        check(&masker, &format!("a {before}72correct horse"), &format!("a {left}"));
    }
}

/// A key file is printed line by line, by a tool that says something of each.
pub async fn each_long_line_of_a_value_is_hidden(masker: Subject) {
    learn(&masker, &[b"correct horse battery\nstaple under the bridge\nend"]);
    check(&masker, "1 staple under the bridge 2", "1  2");
    check(&masker, "1 correct horse battery 2\n", "1  2\n");
}

/// `echo "$TOKEN" | base64`, and `user:token` of basic authentication: a value begins at any bit of a character.
pub async fn base64_is_hidden_wherever_a_value_begins(masker: Subject) {
    let value: &[u8] = b"correct~horse?battery>staple";
    learn(&masker, &[value]);
    for (before, after) in (0..4).flat_map(|before| (0..4).map(move |after| (before, after))) {
        let text = [&b"ada:"[..before], value, &b"\n--\n"[..after]].concat();
        for encoded in [BASE64.encode(&text), BASE64URL.encode(&text)] {
            // The characters all of whose bits are the value's.
            let core = &encoded[(before * 8).div_ceil(6)..(before + value.len()) * 8 / 6];
            for sizes in [&[usize::MAX][..], &[1]] {
                let output = masked(&masker, encoded.as_bytes(), sizes);
                let output = String::from_utf8_lossy(&output);
                let shown =
                    core.as_bytes().windows(6).any(|part| output.as_bytes().windows(6).any(|it| it == part));
                assert!(
                    !shown,
                    "{output} shows a part of {encoded}, which has {before} bytes before a secret"
                );
            }
        }
    }
}

/// `xxd -p`, checksums' habits: both cases.
pub async fn hexadecimal_digits_are_hidden(masker: Subject) {
    let value = b"correct~horse/battery";
    learn(&masker, &[value]);
    for digits in [HEXLOWER.encode(value), HEXUPPER.encode(value)] {
        check(&masker, &format!("1 {digits} 2"), "1  2");
    }
}

/// Who watches sees the end of a line although a secret could begin with it; and if it does, its rest stays hidden.
pub async fn a_pause_lets_short_beginnings_out(masker: Subject) {
    learn(&masker, &[b"correct horse battery"]);
    let (mut redactor, mut out) = (masker.redactor(), Vec::new());
    redactor.push(b"1 corr", &mut out);
    redactor.flush(&mut out);
    assert_eq!(shown(&out), "1 corr", "less than a quarter of a secret waits for more");
    redactor.push(b"ect ho", &mut out);
    redactor.flush(&mut out);
    assert_eq!(shown(&out), "1 corr", "more than a quarter of a secret was shown");
    redactor.push(b"rse battery 2 correct", &mut out);
    redactor.flush(&mut out);
    redactor.finish(&mut out);
    assert_eq!(shown(&out), "1 corr 2 correct");
}

/// Somebody has to rotate it.
pub async fn what_was_hidden_is_told(masker: Subject) {
    let (token, key) = (named("TOKEN"), named("KEY"));
    masker.learn(&token, &SecretValue::new("correct horse"));
    masker.learn(&key, &SecretValue::new("battery staple"));
    let (mut redactor, mut out) = (masker.redactor(), Vec::new());
    redactor.push(b"1 correct horse, battery stable, correct ho", &mut out);
    let told = [Leak::new(token.clone(), Form::Plain, 1)];
    assert_eq!(redactor.leaks(), told);
    assert_eq!(redactor.leaks(), [], "it was told");
    redactor.push(b"rse, Y29ycmVjdCBob3JzZQ==, battery staple", &mut out);
    let told = [
        Leak::new(key, Form::Plain, 1),
        Leak::new(token.clone(), Form::Plain, 1),
        Leak::new(token, Form::Base64, 1),
    ];
    assert_eq!(redactor.leaks(), told);
    redactor.finish(&mut out);
    assert_eq!(redactor.leaks(), []);
}

/// A decoy that appears was read by somebody who had no business to.
pub async fn a_canary_is_told_as_one(masker: Subject) {
    let canary = Sensitive::Canary(secret("DECOY"));
    masker.learn(&canary, &SecretValue::new("correct horse"));
    let (mut redactor, mut out) = (masker.redactor(), Vec::new());
    redactor.push(b"1 correct horse 2", &mut out);
    assert_eq!((redactor.leaks(), shown(&out).as_str()), (vec![Leak::new(canary, Form::Plain, 1)], "1  2"));
}

/// Whoever reads the memory of a worker finds no secrets of jobs that have ended.
pub async fn no_value_outlives_the_masker(masker: Subject) {
    let Some(value) = Remembered::new() else { return };
    learn(&masker, &[&value.bytes()]);
    let mut redactor = masker.redactor();
    redactor.push(&value.bytes()[..16], &mut Vec::new());
    assert!(value.copies() > 0, "the search finds a value that is there");
    drop(redactor);
    drop(masker);
    assert_eq!(value.copies(), 0, "the value is still in memory");
}

fn named(name: &str) -> Sensitive {
    Sensitive::Secret(secret(name))
}

fn secret(name: &str) -> SecretName {
    SecretName::parse(name).expect("a name")
}

/// Numbers that look random and are the same every time (xorshift, Marsaglia 2003).
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Parts of the overlapping values, one after the other.
    fn text(&mut self, length: usize) -> Vec<u8> {
        let mut text = Vec::new();
        while text.len() < length {
            let value = OVERLAPPING[self.below(OVERLAPPING.len())];
            let (start, end) = (self.below(3), value.len() - self.below(3));
            text.extend_from_slice(&value[start..end]);
        }
        text
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.roll()).unwrap_or(usize::MAX) % bound
    }
}

/// Values that begin and end with parts of each other, and of themselves.
const OVERLAPPING: [&[u8]; 5] = [b"aabcaabc", b"abcaabca", b"bcbcaabcb", b"caabcaabcaab", b"aabcbcaa"];
