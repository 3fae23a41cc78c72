//! Maskers that are wrong as those of others are, or as ours could be: the kit must catch each of them.

use std::sync::{Arc, Mutex};

use aho_corasick::{AhoCorasick, MatchKind};
use ci_core::conformance::{Setup, run};
use ci_core::memory::Masking;
use ci_core::secret::{Form, Leak, Learned, Masker, Redactor, SecretValue, Sensitive};
use ci_secrets::conformance::masker;
use data_encoding::BASE64;

/// A masker that is made of one function over all values and a text.
struct Naive {
    values: Arc<Mutex<Vec<Vec<u8>>>>,
    replace: fn(&[Vec<u8>], &[u8]) -> Vec<u8>,
    /// Whether the function sees the whole stream at its end, or each piece by itself.
    at_the_end: bool,
}

impl Naive {
    fn setup(replace: fn(&[Vec<u8>], &[u8]) -> Vec<u8>, at_the_end: bool) -> Setup<Arc<dyn Masker>> {
        Setup::ready(Arc::new(Self { values: Arc::default(), replace, at_the_end }))
    }
}

impl std::fmt::Debug for Naive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Naive")
    }
}

impl Masker for Naive {
    fn learn(&self, _: &Sensitive, value: &SecretValue) -> Learned {
        self.values.lock().expect("unpoisoned").push(value.expose().to_vec());
        Learned::Hidden
    }

    fn redactor(&self) -> Box<dyn Redactor> {
        let (values, replace) = (self.values.clone(), self.replace);
        Box::new(NaiveRedactor { values, replace, at_the_end: self.at_the_end, held: Vec::new() })
    }
}

struct NaiveRedactor {
    values: Arc<Mutex<Vec<Vec<u8>>>>,
    replace: fn(&[Vec<u8>], &[u8]) -> Vec<u8>,
    at_the_end: bool,
    held: Vec<u8>,
}

impl std::fmt::Debug for NaiveRedactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NaiveRedactor")
    }
}

impl Redactor for NaiveRedactor {
    fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        self.held.extend_from_slice(bytes);
        if !self.at_the_end {
            self.finish(out);
        }
    }

    fn flush(&mut self, out: &mut Vec<u8>) {
        self.finish(out);
    }

    fn finish(&mut self, out: &mut Vec<u8>) {
        let held = std::mem::take(&mut self.held);
        out.extend((self.replace)(&self.values.lock().expect("unpoisoned"), &held));
    }

    fn leaks(&mut self) -> Vec<Leak> {
        Vec::new()
    }
}

fn leftmost_longest(values: &[Vec<u8>], text: &[u8]) -> Vec<u8> {
    let search =
        AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(values).expect("it is built");
    search.replace_all_bytes(text, &vec!["***"; values.len()])
}

/// Leaves escape sequences out of what it searches, and with them what they swallow.
fn between_colours(values: &[Vec<u8>], text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for (index, part) in text.split(|byte| *byte == 0x1b).enumerate() {
        let is_sequence = index > 0 && part.starts_with(b"[");
        let length = part.iter().position(|byte| is_sequence && byte.is_ascii_alphabetic());
        let (sequence, text) = part.split_at(length.map_or(0, |last| last + 1));
        out.extend_from_slice(&[&b"\x1b"[..usize::from(index > 0)], sequence].concat());
        out.extend(leftmost_longest(values, text));
    }
    out
}

#[test]
#[should_panic(expected = "unter2hunter2")]
fn masking_that_leaves_out_the_beginning_of_a_value_is_caught() {
    let setup = async || Naive::setup(between_colours, true);
    run("between colours", setup, masker::what_stands_before_a_value_does_not_save_it);
}

#[test]
#[should_panic(expected = "abcdefghijkl 2")]
fn leftmost_longest_masking_is_caught() {
    let setup = async || Naive::setup(leftmost_longest, true);
    run("leftmost-longest", setup, masker::overlapping_values_are_hidden_whole);
}

#[test]
#[should_panic(expected = "in pieces of [1]")]
fn masking_each_piece_by_itself_is_caught() {
    run("piecewise", async || Naive::setup(leftmost_longest, false), masker::a_value_is_hidden);
}

#[test]
#[should_panic(expected = "in pieces of")]
fn masking_that_depends_on_the_cuts_is_caught() {
    let setup = async || Naive::setup(leftmost_longest, false);
    run("piecewise", setup, masker::however_it_is_cut_the_output_is_the_same);
}

#[test]
#[should_panic(expected = "assertion `left == right` failed")]
fn masking_at_the_end_only_is_caught() {
    let setup = async || Naive::setup(leftmost_longest, true);
    run("at the end", setup, masker::nothing_is_held_without_need);
}

#[test]
#[should_panic(expected = "TooShort")]
fn masking_that_says_it_hides_everything_is_caught() {
    let setup = async || Naive::setup(leftmost_longest, true);
    run("boastful", setup, masker::short_values_are_not_hidden_and_told);
}

#[test]
#[should_panic(expected = "more than a quarter of a secret was shown")]
fn a_flush_that_lets_everything_out_is_caught() {
    let setup = async || Naive::setup(leftmost_longest, true);
    run("leaky flush", setup, masker::a_pause_lets_short_beginnings_out);
}

#[test]
#[should_panic(expected = "assertion `left == right` failed")]
fn a_masker_that_tells_nothing_is_caught() {
    let setup = async || Naive::setup(leftmost_longest, false);
    run("silent", setup, masker::what_was_hidden_is_told);
}

/// What a [`Changed`] does to what it is given and made of.
trait Change: Send + Sync + 'static {
    /// Teaches `masker` the value.
    fn learn(masker: &Masking, what: &Sensitive, value: &SecretValue) -> Learned {
        masker.learn(what, value)
    }

    /// A stream of `masker`.
    fn redactor(masker: &Masking) -> Box<dyn Redactor> {
        masker.redactor()
    }
}

/// The masker in memory, made wrong.
struct Changed<C>(Masking, std::marker::PhantomData<C>);

impl<C: Change> Changed<C> {
    fn setup() -> Setup<Arc<dyn Masker>> {
        Setup::ready(Arc::new(Self(Masking::new(), std::marker::PhantomData)))
    }
}

impl<C> std::fmt::Debug for Changed<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Changed")
    }
}

impl<C: Change> Masker for Changed<C> {
    fn learn(&self, what: &Sensitive, value: &SecretValue) -> Learned {
        C::learn(&self.0, what, value)
    }

    fn redactor(&self) -> Box<dyn Redactor> {
        C::redactor(&self.0)
    }
}

/// GitLab Runner's way across writes: where a value does not go on, the search begins anew *behind* what was compared,
/// so that the value `ssecret` is missed in `ss` and `secret`.
#[derive(Debug)]
struct Restarting {
    values: Arc<Mutex<Vec<Vec<u8>>>>,
    compared: Vec<u8>,
}

impl Redactor for Restarting {
    fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let values = self.values.lock().expect("unpoisoned").clone();
        for byte in bytes {
            self.compared.push(*byte);
            if values.contains(&self.compared) {
                out.extend_from_slice(b"***");
                self.compared.clear();
            } else if !values.iter().any(|value| value.starts_with(&self.compared)) {
                out.append(&mut self.compared);
            }
        }
    }

    fn flush(&mut self, _: &mut Vec<u8>) {}

    fn finish(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.compared);
    }

    fn leaks(&mut self) -> Vec<Leak> {
        Vec::new()
    }
}

#[derive(Debug, Default)]
struct RestartingMasker(Arc<Mutex<Vec<Vec<u8>>>>);

impl Masker for RestartingMasker {
    fn learn(&self, _: &Sensitive, value: &SecretValue) -> Learned {
        self.0.lock().expect("unpoisoned").push(value.expose().to_vec());
        Learned::Hidden
    }

    fn redactor(&self) -> Box<dyn Redactor> {
        Box::new(Restarting { values: self.0.clone(), compared: Vec::new() })
    }
}

#[test]
#[should_panic(expected = "sssecret1")]
fn a_search_that_forgets_a_false_start_is_caught() {
    let setup = async || Setup::ready(Arc::new(RestartingMasker::default()) as Arc<dyn Masker>);
    run("restarting", setup, masker::a_false_start_does_not_hide_the_real_one);
}

/// GitHub's runner: the Base64 text of the value, of the value without its first byte and without its first two, with
/// padding, which is what stands in an encoded text only where the value ends with it.
struct Padded;

impl Change for Padded {
    fn learn(masker: &Masking, what: &Sensitive, value: &SecretValue) -> Learned {
        // A value of three bytes has no forms in the masker in memory that could help.
        for from in 0..3 {
            let text = BASE64.encode(&value.expose()[from.min(value.expose().len())..]);
            Plain::learn(masker, what, &SecretValue::new(text));
        }
        Plain::learn(masker, what, value)
    }

    fn redactor(masker: &Masking) -> Box<dyn Redactor> {
        Plain::redactor(masker)
    }
}

/// No forms at all: every byte is shifted on its way in, and back on its way out.
struct Plain;

#[derive(Debug)]
struct Shifted(Box<dyn Redactor>);

fn shift(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|byte| byte ^ 0x80).collect()
}

impl Shifted {
    fn with(&mut self, out: &mut Vec<u8>, work: impl FnOnce(&mut dyn Redactor, &mut Vec<u8>)) {
        let mut shifted = Vec::new();
        work(&mut *self.0, &mut shifted);
        out.extend(shifted.iter().map(|byte| if *byte == b'*' { *byte } else { byte ^ 0x80 }));
    }
}

impl Redactor for Shifted {
    fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        self.with(out, |redactor, out| redactor.push(&shift(bytes), out));
    }

    fn flush(&mut self, out: &mut Vec<u8>) {
        self.with(out, |redactor, out| redactor.flush(out));
    }

    fn finish(&mut self, out: &mut Vec<u8>) {
        self.with(out, |redactor, out| redactor.finish(out));
    }

    fn leaks(&mut self) -> Vec<Leak> {
        let leaks = self.0.leaks().into_iter();
        leaks.filter(|leak| leak.form == Form::Plain).collect()
    }
}

impl Change for Plain {
    fn learn(masker: &Masking, what: &Sensitive, value: &SecretValue) -> Learned {
        masker.learn(what, &SecretValue::new(shift(value.expose())))
    }

    fn redactor(masker: &Masking) -> Box<dyn Redactor> {
        Box::new(Shifted(masker.redactor()))
    }
}

#[test]
fn plain_masking_hides_plain_values() {
    run("plain", async || Changed::<Plain>::setup(), masker::a_value_is_hidden);
}

#[test]
#[should_panic(expected = "shows a part of")]
fn masking_base64_with_padding_alone_is_caught() {
    run("padded", async || Changed::<Padded>::setup(), masker::base64_is_hidden_wherever_a_value_begins);
}

#[test]
#[should_panic(expected = "assertion `left == right` failed")]
fn masking_without_hexadecimal_digits_is_caught() {
    run("plain", async || Changed::<Plain>::setup(), masker::hexadecimal_digits_are_hidden);
}

#[test]
#[should_panic(expected = "assertion `left == right` failed")]
fn masking_without_lines_is_caught() {
    run(
        "one line",
        async || Naive::setup(leftmost_longest, true),
        masker::each_long_line_of_a_value_is_hidden,
    );
}

/// Looks for what was known when the stream began.
struct Forgetful;

impl Change for Forgetful {
    fn redactor(masker: &Masking) -> Box<dyn Redactor> {
        let _ = masker;
        Masking::new().redactor()
    }
}

#[test]
#[should_panic(expected = "assertion `left == right` failed")]
fn a_masker_that_forgets_late_values_is_caught() {
    run("forgetful", async || Changed::<Forgetful>::setup(), masker::a_value_is_learned_in_mid_stream);
}

/// Keeps a copy of everything for ever.
struct Hoarding;

impl Change for Hoarding {
    fn learn(masker: &Masking, what: &Sensitive, value: &SecretValue) -> Learned {
        std::mem::forget(value.expose().to_vec());
        masker.learn(what, value)
    }
}

#[test]
#[should_panic(expected = "the value is still in memory")]
fn a_masker_that_keeps_values_is_caught() {
    run("hoarding", async || Changed::<Hoarding>::setup(), masker::no_value_outlives_the_masker);
}

/// Takes a decoy for a secret.
struct Unsuspecting;

impl Change for Unsuspecting {
    fn learn(masker: &Masking, _: &Sensitive, value: &SecretValue) -> Learned {
        masker.learn(&Sensitive::Credential, value)
    }
}

#[test]
#[should_panic(expected = "assertion `left == right` failed")]
fn a_masker_that_does_not_know_a_canary_is_caught() {
    run("unsuspecting", async || Changed::<Unsuspecting>::setup(), masker::a_canary_is_told_as_one);
}
