//! Strings of programming languages: C (ISO 9899, 6.4.4.4), Go (`strconv.Quote`), Rust, Python, bash's `$'...'`.

use super::Text;
use super::spell::{LOWER, UPPER, Unit, hex, spell, unicode_escape};

/// How a language writes what it has no letter for.
#[derive(Clone, Copy)]
enum Other {
    /// `\x1b`, and text that is not ASCII as it is.
    Hex,
    /// The same in upper case.
    UpperHex,
    /// `\033`, byte by byte.
    Octal,
    /// `\x1b` for ASCII, and `\u00e9` for the rest of text: Go's `QuoteToASCII`.
    Unicode,
    /// `\xc3\xa9`, byte by byte.
    Bytes,
    /// `\u{1b}`: Rust.
    Braces,
}

pub(super) fn forms(value: &[u8]) -> Vec<Text> {
    let others = [Other::Hex, Other::UpperHex, Other::Octal, Other::Unicode, Other::Bytes, Other::Braces];
    let all = others.iter().flat_map(|other| ["\"", "'", "\"'"].map(|quotes| (other, quotes)));
    all.map(|(other, quotes)| spell(value, |unit, out| write(*other, quotes, unit, out))).collect()
}

fn write(other: Other, quotes: &str, unit: Unit, out: &mut Vec<u8>) {
    match unit {
        Unit::Byte(byte) => escape_byte(other, byte, out),
        Unit::Char(char) if char == '\\' || quotes.contains(char) => {
            out.push(b'\\');
            unit.write(out);
        }
        Unit::Char(char) => match (letter(char), char) {
            // Rust and Python have fewer letters than the others.
            (Some(letter), '\n' | '\r' | '\t') => out.extend_from_slice(&[b'\\', letter]),
            (Some(letter), _) if !matches!(other, Other::Braces | Other::UpperHex) => {
                out.extend_from_slice(&[b'\\', letter]);
            }
            _ if char < ' ' || char == '\u{7f}' => escape_byte(other, char as u8, out),
            _ if char.is_ascii() => unit.write(out),
            _ => write_text(other, char, unit, out),
        },
    }
}

fn write_text(other: Other, char: char, unit: Unit, out: &mut Vec<u8>) {
    match other {
        Other::Hex | Other::UpperHex | Other::Braces => unit.write(out),
        Other::Unicode => unicode_escape(char, LOWER, out),
        Other::Octal | Other::Bytes => {
            char.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| escape_byte(other, byte, out));
        }
    }
}

fn escape_byte(other: Other, byte: u8, out: &mut Vec<u8>) {
    match other {
        Other::Hex | Other::Unicode | Other::Bytes => hex(b"\\x", byte, LOWER, out),
        Other::UpperHex => hex(b"\\x", byte, UPPER, out),
        Other::Octal => {
            out.extend_from_slice(&[b'\\', b'0' + (byte >> 6), b'0' + (byte >> 3 & 7), b'0' + (byte & 7)]);
        }
        Other::Braces => {
            out.extend_from_slice(b"\\u{");
            if byte >= 16 {
                out.push(LOWER[usize::from(byte >> 4)]);
            }
            out.extend_from_slice(&[LOWER[usize::from(byte & 15)], b'}']);
        }
    }
}

fn letter(char: char) -> Option<u8> {
    Some(match char {
        '\u{7}' => b'a',
        '\u{8}' => b'b',
        '\u{c}' => b'f',
        '\n' => b'n',
        '\r' => b'r',
        '\t' => b't',
        '\u{b}' => b'v',
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_language_is_there() {
        let value = "a\"b'c\\d\ne\u{1b}\u{7}é";
        let forms: Vec<_> =
            forms(value.as_bytes()).iter().map(|t| String::from_utf8_lossy(t).into_owned()).collect();
        let rust = format!("{value:?}");
        for expected in [
            &rust[1..rust.len() - 1],
            r#"a\"b'c\\d\ne\x1b\aé"#,        // Go's Quote
            r#"a\"b'c\\d\ne\x1b\a\u00e9"#,   // Go's QuoteToASCII
            r#"a\"b'c\\d\ne\033\a\303\251"#, // C
            r#"a"b\'c\\d\ne\x1b\a\xc3\xa9"#, // bytes
            r#"a"b\'c\\d\ne\033\a\303\251"#, // bash
        ] {
            assert!(forms.iter().any(|form| form == expected), "{expected} is none of {forms:?}");
        }
    }
}
