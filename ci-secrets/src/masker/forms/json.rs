//! Strings of JSON: RFC 8259 section 7.

use super::Text;
use super::spell::{LOWER, UPPER, Unit, spell, unicode_escape};

/// What a writer escapes beyond what it must.
#[derive(Clone, Copy, Default)]
struct Writer {
    /// All that is not ASCII, as Python does.
    ascii: bool,
    /// The slash, as PHP does.
    slash: bool,
    /// What a browser could take for markup, as Go does.
    markup: bool,
}

pub(super) fn forms(value: &[u8]) -> Vec<Text> {
    let plain = Writer::default();
    let writers = [
        plain,
        Writer { ascii: true, ..plain },
        Writer { slash: true, ..plain },
        Writer { ascii: true, slash: true, ..plain },
        Writer { markup: true, ..plain },
    ];
    let all = writers.iter().flat_map(|writer| [(writer, LOWER), (writer, UPPER)]);
    all.map(|(writer, digits)| spell(value, |unit, out| write(*writer, digits, unit, out))).collect()
}

fn write(writer: Writer, digits: &[u8; 16], unit: Unit, out: &mut Vec<u8>) {
    let Unit::Char(char) = unit else { return unit.write(out) };
    match char {
        '"' | '\\' => out.extend_from_slice(&[b'\\', char as u8]),
        '/' if writer.slash => out.extend_from_slice(b"\\/"),
        '\n' => out.extend_from_slice(b"\\n"),
        '\r' => out.extend_from_slice(b"\\r"),
        '\t' => out.extend_from_slice(b"\\t"),
        '\u{8}' => out.extend_from_slice(b"\\b"),
        '\u{c}' => out.extend_from_slice(b"\\f"),
        '<' | '>' | '&' | '\u{2028}' | '\u{2029}' if writer.markup => unicode_escape(char, digits, out),
        char if char < ' ' || (writer.ascii && char > '~') => unicode_escape(char, digits, out),
        _ => unit.write(out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_writer_is_there() {
        let value = "a\"b\\c/d\ne\u{1b}é😀<";
        let forms: Vec<_> =
            forms(value.as_bytes()).iter().map(|t| String::from_utf8_lossy(t).into_owned()).collect();
        let serde = serde_json::to_string(value).expect("a string");
        for expected in [
            serde.trim_matches('"'),
            r#"a\"b\\c/d\ne\u001b\u00e9\ud83d\ude00<"#,  // Python
            r#"a\"b\\c/d\ne\u001B\u00E9\uD83D\uDE00<"#,  // upper case
            r#"a\"b\\c\/d\ne\u001b\u00e9\ud83d\ude00<"#, // PHP
            r#"a\"b\\c/d\ne\u001bé😀\u003c"#,            // Go
        ] {
            assert!(forms.iter().any(|form| form == expected), "{expected} is none of {forms:?}");
        }
    }
}
