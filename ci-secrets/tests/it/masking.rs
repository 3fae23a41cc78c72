//! The masker beside a slow one that is obviously right, and its forms beside what programs print.

use ci_core::id::SecretName;
use ci_core::secret::{Learned, Masker as _, SecretValue, Sensitive};
use ci_secrets::StreamMasker;
use data_encoding::{BASE64, HEXLOWER};
use proptest::prelude::*;

/// A text as an oracle sees it from one of its bytes on: the bytes that count, and where each of them was.
struct Seen {
    bytes: Vec<(usize, u8)>,
    /// Up to where the text could be read.
    read: usize,
}

/// Leaves out line breaks and escape sequences, one byte after the other.
fn see(text: &[u8], is_last: bool) -> Seen {
    see_from(0, text, is_last, usize::MAX)
}

/// The same for up to `most` bytes that count of a text that begins at `from`, as if nothing were before it.
fn see_from(from: usize, text: &[u8], is_last: bool, most: usize) -> Seen {
    let (mut bytes, mut at) = (Vec::new(), from);
    while at < text.len() && bytes.len() < most {
        match (text[at], escape(&text[at..])) {
            (b'\n' | b'\r', _) => at += 1,
            (_, Some(Ok(length))) => at += length,
            (_, Some(Err(()))) if !is_last => break,
            _ => {
                bytes.push((at, text[at]));
                at += 1;
            }
        }
    }
    Seen { bytes, read: at }
}

/// Marks the bytes of `text` that patterns cover: from wherever it is read, a pattern that is the first to be seen is one.
fn cover(text: &[u8], is_last: bool, covered: &mut [bool], patterns: &[Vec<u8>]) {
    for_each_start(text, is_last, patterns, |start, seen| {
        for pattern in patterns {
            let it = seen.bytes.iter().map(|byte| byte.1).take(pattern.len());
            if it.eq(pattern.iter().copied()) && seen.is_whole(pattern.len()) {
                covered[start..=seen.bytes[pattern.len() - 1].0].fill(true);
            }
        }
        false
    });
}

/// From where on the text must wait for what follows: where a pattern may begin of which more than a `part`-th is there, or
/// what cannot be read yet.
fn held_from(text: &[u8], patterns: &[Vec<u8>], part: usize) -> usize {
    if patterns.is_empty() {
        return text.len();
    }
    let open = for_each_start(text, false, patterns, |_, seen| {
        let rest: Vec<u8> = seen.bytes.iter().map(|byte| byte.1).collect();
        let is_open =
            |it: &Vec<u8>| rest.len() < it.len() && it.starts_with(&rest) && rest.len() * part > it.len();
        seen.is_whole(rest.len())
            && seen.read - seen.bytes[rest.len() - 1].0 <= 129
            && patterns.iter().any(is_open)
    });
    open.unwrap_or_else(|| see(text, false).read)
}

/// Gives `visit` what is seen from every byte of the text that counts if the text is read from it on, as far as patterns
/// are long; until `visit` has found what it looks for.
fn for_each_start(
    text: &[u8],
    is_last: bool,
    patterns: &[Vec<u8>],
    mut visit: impl FnMut(usize, &Seen) -> bool,
) -> Option<usize> {
    let longest = patterns.iter().map(Vec::len).max()?;
    (0..text.len()).find(|start| {
        let seen = see_from(*start, text, is_last, longest);
        seen.bytes.first().is_some_and(|first| first.0 == *start) && visit(*start, &seen)
    })
}

/// How long the escape sequence is that `text` begins with; an error when it has no end yet.
fn escape(text: &[u8]) -> Option<Result<usize, ()>> {
    let text = &text[..text.len().min(33)];
    let between = |byte: &u8| (0x20..=0x2f).contains(byte);
    let [0x1b, rest @ ..] = text else { return None };
    let (body, first_final) = match rest {
        [] => return Some(Err(())),
        [b'[', rest @ ..] => {
            let parameters = rest.iter().take_while(|byte| (0x30..=0x3f).contains(*byte)).count();
            let more = rest[parameters..].iter().take_while(|byte| between(byte)).count();
            (1 + parameters + more, 0x40)
        }
        rest if between(&rest[0]) => (rest.iter().take_while(|byte| between(byte)).count(), 0x30),
        _ => return None,
    };
    match rest.get(body) {
        _ if body + 1 >= 32 => None,
        None => Some(Err(())),
        Some(last) if (first_final..=0x7e).contains(last) => Some(Ok(1 + body + 1)),
        Some(_) => None,
    }
}

impl Seen {
    /// Whether its first bytes are close enough together to be one secret.
    fn is_whole(&self, length: usize) -> bool {
        self.bytes[..length].windows(2).all(|pair| pair[1].0 - pair[0].0 <= 129)
    }
}

/// What is looked for in text of a few letters, line breaks and blanks, in which no other form can lie.
fn patterns(value: &[u8]) -> Vec<Vec<u8>> {
    let read =
        |bytes: &[u8], is_last| see(bytes, is_last).bytes.iter().map(|byte| byte.1).collect::<Vec<u8>>();
    // What follows may make an escape sequence of its end.
    let plain = |bytes: &[u8]| [read(bytes, true), read(bytes, false)];
    let value = value.trim_ascii();
    let words: Vec<&[u8]> = value.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).collect();
    let lines = value.split(|byte| matches!(byte, b'\n' | b'\r')).map(<[u8]>::trim_ascii);
    let letters = |line: &[u8]| (0..=255).filter(|byte| line.contains(byte)).count();
    let lines = lines.filter(|line| line.len() >= 8 && letters(line) > 2).flat_map(plain);
    let all = plain(value).into_iter().chain(plain(&words.join(&b' '))).chain(lines);
    all.filter(|it| it.len() >= 4).collect()
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

fn learn(masker: &StreamMasker, value: &[u8]) -> Learned {
    masker.learn(&Sensitive::Credential, &SecretValue::new(value))
}

/// Three letters, so that secrets begin everywhere.
fn letters(lengths: std::ops::Range<usize>) -> BoxedStrategy<Vec<u8>> {
    proptest::collection::vec(b'a'..=b'c', lengths).boxed()
}

/// The same with what can lie between lines and words.
fn lines(lengths: std::ops::Range<usize>) -> BoxedStrategy<Vec<u8>> {
    let letter = prop_oneof![12 => b'a'..=b'c', 1 => Just(b'\n'), 1 => Just(b' '), 1 => Just(b'\r')];
    proptest::collection::vec(letter, lengths).boxed()
}

/// Letters and what escape sequences are made of.
fn escapes(lengths: std::ops::Range<usize>) -> BoxedStrategy<Vec<u8>> {
    let letter = prop_oneof![6 => b'a'..=b'c', 2 => Just(0x1b), 2 => Just(b'['), 1 => Just(b'('), 1 => Just(b'1'), 1 => Just(b'\n')];
    proptest::collection::vec(letter, lengths).boxed()
}

fn noise() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => lines(0..4),
        2 => Just(b"\n".to_vec()),
        2 => Just(b"\x1b[1;31m".to_vec()),
        1 => Just(b"\x1b(B\r\n".to_vec()),
        2 => Just(b"\x1b[1".to_vec()),
        2 => Just(b"\x1b[".to_vec()),
        1 => Just(b"\x1b(".to_vec()),
        1 => Just(b"\x1b".to_vec()),
        1 => (126..132_usize).prop_map(|count| vec![b'\n'; count]),
        1 => (26..36_usize).prop_map(|count| [&b"\x1b["[..], &vec![b'0'; count], b"m"].concat()),
    ]
}

/// Values of which some are made of parts of others, so that they overlap in every way, and one that is long.
fn values(of: BoxedStrategy<Vec<u8>>) -> impl Strategy<Value = Vec<Vec<u8>>> {
    let parts = proptest::collection::vec((any::<prop::sample::Index>(), 0..8_usize, 0..8_usize), 0..4);
    (proptest::collection::vec(of, 1..5), parts).prop_map(|(mut values, parts)| {
        for (index, front, back) in parts {
            let value = index.get(&values).clone();
            let (front, back) = (front.min(value.len()), back.min(value.len()));
            values.push([&value[front..], &value[..back]].concat());
        }
        values
    })
}

/// Values that can be hidden, and text with them in it, whole, in part, and with something in between.
fn cases() -> impl Strategy<Value = (Vec<Vec<u8>>, Vec<u8>)> {
    cases_of(letters(4..16))
}

fn cases_of(value: BoxedStrategy<Vec<u8>>) -> impl Strategy<Value = (Vec<Vec<u8>>, Vec<u8>)> {
    values(value).prop_flat_map(|values| {
        let piece = (any::<prop::sample::Index>(), 0..16_usize, noise(), 0..16_usize, noise());
        proptest::collection::vec(piece, 0..10).prop_map(move |pieces| {
            let mut text = Vec::new();
            for (index, first, between, second, after) in pieces {
                let value = index.get(&values);
                let first = first.min(value.len());
                let second = (first + second).min(value.len());
                text.extend([&value[..first], &between, &value[first..second], &after].concat());
            }
            (values.clone(), text)
        })
    })
}

fn sizes() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![Just(vec![1]), Just(vec![usize::MAX]), proptest::collection::vec(1..20_usize, 1..6)]
}

fn known(values: &[Vec<u8>]) -> (StreamMasker, Vec<Vec<u8>>) {
    let masker = StreamMasker::new();
    let hidden = values.iter().filter(|value| learn(&masker, value) == Learned::Hidden);
    let patterns = hidden.flat_map(|value| patterns(value)).collect();
    (masker, patterns)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, max_shrink_iters: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any way to cut the stream gives what the slow one gives, and nothing waits longer than it must.
    #[test]
    fn exactly_the_secrets_are_hidden_however_the_text_is_cut((values, text) in cases(), sizes in sizes()) {
        let (masker, patterns) = known(&values);
        let (mut redactor, mut out, mut seen) = (masker.redactor(), Vec::new(), 0);
        for piece in pieces(&text, &sizes) {
            redactor.push(piece, &mut out);
            seen += piece.len();
            let decided = held_from(&text[..seen], &patterns, usize::MAX / 1_000);
            let mut covered = vec![false; seen];
            cover(&text[..seen], false, &mut covered, &patterns);
            let runs_on = covered[decided..].iter().take_while(|covered| **covered).count();
            let expected = render(&text[..decided + runs_on], &covered[..decided + runs_on]);
            prop_assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(&expected), "after {}", seen);
        }
        redactor.finish(&mut out);
        let mut covered = vec![false; text.len()];
        cover(&text, true, &mut covered, &patterns);
        let expected = render(&text, &covered);
        prop_assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(&expected));
    }

    /// Values of several lines and words, whose other forms begin as they do.
    #[test]
    fn lines_and_words_are_hidden_however_the_text_is_cut((values, text) in cases_of(lines(8..30)), sizes in sizes()) {
        let (masker, patterns) = known(&values);
        let (mut redactor, mut out) = (masker.redactor(), Vec::new());
        for piece in pieces(&text, &sizes) {
            redactor.push(piece, &mut out);
        }
        redactor.finish(&mut out);
        let mut covered = vec![false; text.len()];
        cover(&text, true, &mut covered, &patterns);
        let expected = render(&text, &covered);
        prop_assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(&expected));
    }

    /// Values with escape sequences in them, whole and not, in text that makes others of their beginnings and ends.
    #[test]
    fn escape_sequences_save_no_secret((values, text) in cases_of(escapes(4..16)), sizes in sizes()) {
        let (masker, patterns) = known(&values);
        let (mut redactor, mut out) = (masker.redactor(), Vec::new());
        for piece in pieces(&text, &sizes) {
            redactor.push(piece, &mut out);
        }
        redactor.finish(&mut out);
        let mut covered = vec![false; text.len()];
        cover(&text, true, &mut covered, &patterns);
        let expected = render(&text, &covered);
        prop_assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(&expected));
        for value in values.iter().filter(|value| learn(&masker, value) == Learned::Hidden) {
            let value = value.trim_ascii();
            prop_assert!(!out.windows(value.len()).any(|shown| shown == value), "{:?} is in {:?}", value, out);
        }
    }

    /// What is learned in mid-stream counts for what was still held, and for what follows.
    #[test]
    fn what_is_learned_counts_from_what_was_held_on(
        (values, text) in cases(),
        split in any::<prop::sample::Index>(),
        first in any::<prop::sample::Index>(),
        sizes in sizes(),
    ) {
        let (split, first) = (split.index(text.len() + 1), first.index(values.len() + 1));
        let (before, after) = text.split_at(split);
        let (masker, few) = known(&values[..first]);
        let (mut redactor, mut out) = (masker.redactor(), Vec::new());
        for piece in pieces(before, &sizes) {
            redactor.push(piece, &mut out);
        }
        let held_from = held_from(before, &few, usize::MAX / 1_000);
        for value in &values[first..] {
            learn(&masker, value);
        }
        for piece in pieces(after, &sizes) {
            redactor.push(piece, &mut out);
        }
        redactor.finish(&mut out);
        let mut covered = vec![false; text.len()];
        cover(before, false, &mut covered[..split], &few);
        // Where nothing was known, nothing was held: not even half of an escape sequence.
        cover(&text[held_from..], true, &mut covered[held_from..], &known(&values).1);
        let expected = render(&text, &covered);
        prop_assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(&expected));
    }

    /// A pause lets out all but long beginnings, and changes nothing for what follows on it but what it has let out.
    #[test]
    fn a_pause_holds_back_long_beginnings_alone((values, text) in cases(), split in any::<prop::sample::Index>()) {
        let split = split.index(text.len() + 1);
        let (masker, patterns) = known(&values);
        let (mut redactor, mut out) = (masker.redactor(), Vec::new());
        redactor.push(&text[..split], &mut out);
        redactor.flush(&mut out);
        let out_until = held_from(&text[..split], &patterns, 4);
        let mut covered = vec![false; text.len()];
        cover(&text[..split], false, &mut covered[..split], &patterns);
        let runs_on = covered[out_until..split].iter().take_while(|covered| **covered).count();
        let let_out = render(&text[..out_until + runs_on], &covered);
        prop_assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(&let_out));
        redactor.push(&text[split..], &mut out);
        redactor.finish(&mut out);
        let mut later = vec![false; text.len()];
        cover(&text, true, &mut later, &patterns);
        later[..out_until + runs_on].copy_from_slice(&covered[..out_until + runs_on]);
        let expected = render(&text, &later);
        prop_assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(&expected));
    }

    /// How often something is reported does not depend on the cuts.
    #[test]
    fn reports_do_not_depend_on_the_cuts(text in "(correct horse|Y29ycmVjdCBob3JzZQ|\x1b\\[1?|[ab\n]){0,12}", sizes in sizes()) {
        let report = |sizes: &[usize]| {
            let masker = StreamMasker::new();
            learn(&masker, b"correct horse");
            let (mut redactor, mut out) = (masker.redactor(), Vec::new());
            for piece in pieces(text.as_bytes(), sizes) {
                redactor.push(piece, &mut out);
            }
            redactor.finish(&mut out);
            redactor.leaks()
        };
        prop_assert_eq!(report(&sizes), report(&[usize::MAX]));
    }
}

fn masked(values: &[&str], text: &str) -> String {
    let masker = StreamMasker::new();
    for value in values {
        learn(&masker, value.as_bytes());
    }
    let (mut redactor, mut out) = (masker.redactor(), Vec::new());
    redactor.push(text.as_bytes(), &mut out);
    redactor.finish(&mut out);
    String::from_utf8_lossy(&out).into_owned()
}

#[test]
fn runs_become_one_mark() {
    assert_eq!(masked(&["abcdef", "defghi"], "1abcdefghi2"), "1***2");
    assert_eq!(masked(&["abcdef", "ghijkl"], "1abcdefghijkl2"), "1***2", "they touch");
    assert_eq!(masked(&["abcdef"], "abcdefabcdef abcdef"), "*** ***");
}

#[test]
fn what_is_learned_does_not_bring_back_what_was_hidden() {
    let masker = StreamMasker::new();
    learn(&masker, b"abcdefghi");
    learn(&masker, b"efghixyz");
    let (mut redactor, mut out) = (masker.redactor(), Vec::new());
    redactor.push(b"abcdefghi", &mut out);
    learn(&masker, b"efgh");
    redactor.push(b".", &mut out);
    redactor.finish(&mut out);
    assert_eq!(String::from_utf8_lossy(&out), "***.");
}

#[test]
fn each_line_of_a_value_is_hidden() {
    let key = "-----BEGIN KEY-----\nAAAAB3Nza\n  C1yc2EAAAA  \nab\n-----END KEY-----\n";
    let shown = masked(&[key], "line AAAAB3Nza of it, C1yc2EAAAA and ab\n-----BEGIN KEY-----\n");
    assert_eq!(shown, "line *** of it, *** and ab\n-----BEGIN KEY-----\n");
    assert_eq!(masked(&[key], key), "***\n");
    assert_eq!(masked(&[key], &key.replace('\n', "\r\n")), "***\r\n");
    let words = "-----BEGIN KEY----- AAAAB3Nza C1yc2EAAAA ab -----END KEY-----";
    assert_eq!(masked(&[key], &format!("key={words};")), "key=***;");
}

#[test]
fn a_last_line_break_belongs_to_the_text() {
    assert_eq!(masked(&["hunter2\n"], "it is hunter2\nnext"), "it is ***\nnext");
}

#[test]
fn colours_and_wrapped_lines_do_not_save_a_secret() {
    assert_eq!(
        masked(&["hunter2hunter2"], "a \x1b[31mhunter2\x1b[0mhunter2\x1b[0m b"),
        "a \x1b[31m***\x1b[0m b"
    );
    assert_eq!(masked(&["hunter2hunter2"], "a hunter2\r\r\nhunter2 b"), "a *** b");
    let value = "correct horse battery staple under the bridge";
    for columns in [64, 76] {
        for before in 0..100 {
            let text = BASE64.encode(format!("{}{value} and more", "-".repeat(before)).as_bytes());
            let lines: Vec<&str> = text
                .as_bytes()
                .chunks(columns)
                .map(|line| std::str::from_utf8(line).expect("letters"))
                .collect();
            let shown = masked(&[value], &lines.join("\n")).replace('\n', "");
            let core = &text[(before * 8).div_ceil(6)..(before + value.len()) * 8 / 6];
            assert!(
                !core
                    .as_bytes()
                    .windows(6)
                    .any(|part| shown.contains(std::str::from_utf8(part).expect("letters")))
            );
        }
    }
}

#[test]
fn an_escape_before_a_secret_does_not_save_it() {
    assert_eq!(masked(&["&\\6["], "\x1b,&\\6["), "\x1b,***");
    for before in ["\x1b", "\x1b[", "\x1b[1;3", "\x1b(", "\x1b $", "\x1b[0m\x1b["] {
        for secret in ["hunter2", "hun\nter2", "h\x1b[0munter2", "8[h\runter2", "8[h\x1b[1m\x1b[munter2"] {
            let value = if secret.starts_with('8') { "8[hunter2" } else { "hunter2" };
            assert_eq!(
                masked(&[value], &format!("{before}{secret}.")),
                format!("{before}***."),
                "{secret:?}"
            );
        }
    }
    let near = format!("\x1b[h{}unter2", "\n".repeat(128));
    assert_eq!(masked(&["hunter2"], &near), "\x1b[***");
    let far = format!("\x1b[h{}unter2", "\n".repeat(129));
    assert_eq!(masked(&["hunter2"], &far), far);
}

#[test]
fn a_secret_with_an_escape_in_it_is_hidden() {
    assert_eq!(masked(&["hun\x1bter2"], "\x1b[hun\x1bter2."), "\x1b[***.");
    assert_eq!(masked(&["hun\x1b[1mter2"], "\x1b[hun\x1b[1mter2, hunter2."), "\x1b[***, ***.");
    assert_eq!(masked(&["hunter2\x1b[3"], "hunter2\x1b[3\nhunter2\x1b[31m."), "***\n***\x1b[31m.");
    assert_eq!(learn(&StreamMasker::new(), b"hun\x1b[31"), Learned::TooShort);
}

#[test]
fn a_file_that_is_printed_in_part_is_hidden_in_pieces() {
    let words: Vec<String> = (0..400).map(|line| format!("{:x}", line * 7_919)).collect();
    let file = words.join(" ");
    let file = file.as_str();
    assert_eq!(masked(&[file], &format!("1 {file} 2")), "1 *** 2");
    let shown = masked(&[file], &file[..1_000]);
    assert!(shown.starts_with("***") && shown.len() < 3 + 128, "{shown}");
    let shown = masked(&[file], &HEXLOWER.encode(file.as_bytes()));
    assert_eq!(shown, "***");
}

/// What is printed by programs of this machine, beside the forms.
#[test]
fn what_real_programs_print_is_hidden() {
    let value = r#"p@ss "w0rd'\<é>&$x/+~"#;
    let programs: [(&str, &[&str]); 8] = [
        ("perl", &["-MMIME::Base64", "-e", "print encode_base64(\"user:$ARGV[0]:\")"]),
        ("perl", &["-e", "print unpack 'H*', $ARGV[0]"]),
        ("perl", &["-CA", "-MJSON::PP", "-e", "print JSON::PP->new->ascii->encode([$ARGV[0]])"]),
        ("perl", &["-e", "$_ = $ARGV[0]; s/([^A-Za-z0-9._~-])/sprintf '%%%02X', ord $1/ge; print"]),
        ("bash", &["-c", "set -x; : \"$0\""]),
        ("bash", &["-c", "printf %q \"$0\""]),
        ("sh", &["-c", "printf %s \"$0\" | od -An -v -tx1 | tr -d ' \\n'"]),
        ("sh", &["-c", "printf %s \"$0\" | base64 -w 5"]),
    ];
    for (program, arguments) in programs {
        let Ok(output) =
            std::process::Command::new(program).args(arguments).arg(value).env("LC_ALL", "C.UTF-8").output()
        else {
            ci_core::conformance::skip(
                "masking::what_real_programs_print_is_hidden",
                program,
                "it is not installed",
            );
            continue;
        };
        let printed = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        let shown = masked(&[value], &printed);
        let hidden = printed.len() - shown.replace("***", "").len();
        assert!(
            shown.contains("***") && hidden >= value.len() - 1,
            "{program} {arguments:?}: {printed} is shown as {shown}"
        );
    }
}

#[test]
fn what_cannot_be_hidden_is_told() {
    let masker = StreamMasker::new();
    assert_eq!(learn(&masker, b" x \n"), Learned::TooShort);
    assert_eq!(learn(&masker, b"true"), Learned::TooCommon);
    assert_eq!(learn(&masker, b"5432"), Learned::TooCommon);
    assert_eq!(learn(&masker, b"--------"), Learned::TooRegular);
    let text = "x = true at 5432\n--------\n";
    let (mut redactor, mut out) = (masker.redactor(), Vec::new());
    redactor.push(text.as_bytes(), &mut out);
    redactor.finish(&mut out);
    assert_eq!(String::from_utf8_lossy(&out), text);
}

#[test]
fn a_report_names_secret_and_form() {
    let masker = StreamMasker::new();
    let named = |name: &str| Sensitive::Secret(SecretName::parse(name).expect("a name"));
    masker.learn(&named("TOKEN"), &SecretValue::new("pass word/1"));
    masker.learn(&named("SAME"), &SecretValue::new("pass word/1"));
    let (mut redactor, mut out) = (masker.redactor(), Vec::new());
    redactor.push(
        b"pass word/1 pass%20word%2F1 \"pass word\\/1\" p\0a\0s\0s\0 \0w\0o\0r\0d\0/\x001\0 pass\nword/1",
        &mut out,
    );
    redactor.finish(&mut out);
    let leaks: Vec<String> = redactor.leaks().iter().map(|leak| format!("{leak}")).collect();
    let of = |name: &str| {
        ["plain text", "percent-encoding", "JSON", "UTF-16"]
            .map(|form| format!("{name} was printed as {form}"))
    };
    assert_eq!(leaks, [of("SAME"), of("TOKEN")].concat());
}

#[test]
fn a_secret_that_repeats_itself_takes_no_longer() {
    // Every fourth byte ends a match; a megabyte of them must not take a megabyte's square.
    let value = "aabc".repeat(15_000);
    let masker = StreamMasker::new();
    for length in [4, 10, 100, 20_000] {
        learn(&masker, &value.as_bytes()[..length]);
    }
    let (mut redactor, mut out) = (masker.redactor(), Vec::new());
    for _ in 0..20 {
        redactor.push(value.as_bytes(), &mut out);
    }
    for byte in value.bytes().take(20_000) {
        redactor.push(&[byte], &mut out);
    }
    redactor.push(b"d", &mut out);
    redactor.finish(&mut out);
    assert!(
        out.starts_with(b"***") && out.ends_with(b"d") && out.len() < 3 + 6,
        "{}",
        String::from_utf8_lossy(&out)
    );
}

#[test]
fn what_is_held_back_is_bounded() {
    let masker = StreamMasker::new();
    let value = (0..2_000).map(|n| format!("{n:x}")).collect::<Vec<_>>().join("-");
    learn(&masker, value.as_bytes());
    let (mut redactor, mut out, mut pushed) = (masker.redactor(), Vec::new(), 0);
    for byte in value.bytes() {
        // The widest gap that is looked through, after every byte.
        let piece = [&[byte][..], &[b'\n'; 128]].concat();
        redactor.push(&piece, &mut out);
        pushed += piece.len();
        let held: usize = format!("{redactor:?}")
            .split(&[' ', ','][..])
            .find_map(|word| word.parse().ok())
            .expect("a number");
        assert!(held <= 128 * 129, "{held} bytes are held back of {pushed}");
    }
}

#[test]
fn debug_shows_no_value() {
    let masker = StreamMasker::new();
    learn(&masker, b"hunter2");
    let mut redactor = masker.redactor();
    redactor.push(b"hunt", &mut Vec::new());
    let shown = format!("{masker:?} {redactor:?}");
    assert!(
        shown.starts_with("StreamMasker { patterns: ") && shown.ends_with("StreamRedactor { held: 4, .. }"),
        "{shown}"
    );
}
