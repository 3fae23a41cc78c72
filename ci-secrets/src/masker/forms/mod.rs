//! How programs write a value: each way is a form of it, and each form is looked for.

mod base64;
mod escaped;
mod json;
mod markup;
mod percent;
mod shell;
mod spell;

use ci_core::secret::{Form, Learned};
use data_encoding::{HEXLOWER, HEXUPPER};
use zeroize::Zeroizing;

use super::judge::judge;

/// Bytes that are one form of a value.
pub(super) type Text = Zeroizing<Vec<u8>>;

/// The shortest line of a value of several lines that is hidden by itself.
const SHORTEST_LINE: usize = 8;

/// All forms of a value, the plainest first; each text once.
pub(super) fn forms(value: &[u8]) -> Vec<(Form, Text)> {
    let plain = Zeroizing::new(value.to_vec());
    let mut forms = vec![(Form::Plain, plain)];
    let mut add = |form, texts: Vec<Text>| {
        for text in texts {
            // For most values most forms are the same.
            if forms.iter().all(|(_, known)| *known != text) {
                forms.push((form, text));
            }
        }
    };
    add(Form::Line, lines(value));
    add(Form::Words, vec![words(value)]);
    add(Form::Base64, base64::forms(value));
    add(Form::Hex, [HEXLOWER, HEXUPPER].iter().map(|hex| hex.encode(value).into_bytes().into()).collect());
    add(Form::Percent, percent::forms(value));
    add(Form::Json, json::forms(value));
    add(Form::Shell, shell::forms(value));
    add(Form::Markup, markup::forms(value));
    add(Form::Escaped, escaped::forms(value));
    add(Form::Utf16, vec![spell::utf16(value)]);
    forms
}

/// The lines that are secret by themselves: of more than one, each that is long enough, but for the labels around a key
/// (RFC 7468), which are the same for all keys.
fn lines(value: &[u8]) -> Vec<Text> {
    if !value.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
        return Vec::new();
    }
    let lines = value.split(|byte| matches!(byte, b'\n' | b'\r')).map(<[u8]>::trim_ascii);
    let secret = lines.filter(|line| {
        line.len() >= SHORTEST_LINE && !line.starts_with(b"-----") && judge(line) == Learned::Hidden
    });
    secret.map(|line| Zeroizing::new(line.to_vec())).collect()
}

/// What `echo $VALUE` prints: field splitting of POSIX.1-2024, Shell Command Language, 2.6.5.
fn words(value: &[u8]) -> Text {
    let mut text = Zeroizing::new(Vec::with_capacity(value.len()));
    for word in value.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()) {
        if !text.is_empty() {
            text.push(b' ');
        }
        text.extend_from_slice(word);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(of: Form, value: &str) -> Vec<String> {
        let forms = forms(value.as_bytes()).into_iter().filter(|(form, _)| *form == of);
        forms.map(|(_, text)| String::from_utf8_lossy(&text).into_owned()).collect()
    }

    #[test]
    fn lines_are_secret_where_they_are_long_enough() {
        let key = "-----BEGIN KEY-----\nAAAAB3NzaC1yc2E=\r\n  b3BlbnNzaC1r  \nab==\n----------------\n-----END KEY-----";
        assert_eq!(texts(Form::Line, key), ["AAAAB3NzaC1yc2E=", "b3BlbnNzaC1r"]);
        assert!(texts(Form::Line, "one line alone").is_empty());
    }

    #[test]
    fn words_have_one_blank_between_them() {
        assert_eq!(texts(Form::Words, "one\n  two\tthree"), ["one two three"]);
    }

    #[test]
    fn hexadecimal_digits_come_in_both_cases() {
        assert_eq!(texts(Form::Hex, "j\u{f}k"), ["6a0f6b", "6A0F6B"]);
    }

    #[test]
    fn bytes_that_are_no_text_have_all_forms() {
        for value in [&b"\xff\xfe\x80secret\xc3"[..], b"\0\0\0\x01"] {
            assert!(forms(value).len() > 8);
        }
        assert_eq!(forms(b"").len(), 1);
    }
}
