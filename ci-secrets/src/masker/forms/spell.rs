//! Writes a value one character after the other.

use zeroize::Zeroizing;

use super::Text;

/// How many bytes one byte of a value becomes at most: `&#039;`, `\u001b`.
const WIDEST: usize = 6;

/// A character, or a byte that belongs to none.
#[derive(Clone, Copy)]
pub(super) enum Unit {
    Char(char),
    Byte(u8),
}

impl Unit {
    pub(super) fn write(self, out: &mut Vec<u8>) {
        match self {
            Self::Char(char) => out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes()),
            Self::Byte(byte) => out.push(byte),
        }
    }
}

/// What `each` writes for the characters of `value`, one after the other.
pub(super) fn spell(value: &[u8], mut each: impl FnMut(Unit, &mut Vec<u8>)) -> Text {
    // As much as can be needed: a buffer that grows leaves copies behind.
    let mut text = Zeroizing::new(Vec::with_capacity(value.len() * WIDEST));
    for chunk in value.utf8_chunks() {
        chunk.valid().chars().for_each(|char| each(Unit::Char(char), &mut text));
        chunk.invalid().iter().for_each(|byte| each(Unit::Byte(*byte), &mut text));
    }
    text
}

/// UTF-16 with the lower byte first (RFC 2781), as PowerShell writes; empty for what is no text.
pub(super) fn utf16(value: &[u8]) -> Text {
    if std::str::from_utf8(value).is_err() {
        return Text::default();
    }
    spell(value, |unit, out| {
        if let Unit::Char(char) = unit {
            char.encode_utf16(&mut [0; 2]).iter().for_each(|half| out.extend_from_slice(&half.to_le_bytes()));
        }
    })
}

/// `\u` and the four digits of each half of `char`: RFC 8259 section 7.
pub(super) fn unicode_escape(char: char, digits: &[u8; 16], out: &mut Vec<u8>) {
    for half in char.encode_utf16(&mut [0; 2]) {
        out.extend_from_slice(b"\\u");
        for shift in [12, 8, 4, 0] {
            out.push(digits[usize::from(*half >> shift & 15)]);
        }
    }
}

/// `before` and the two digits of `byte`.
pub(super) fn hex(before: &[u8], byte: u8, digits: &[u8; 16], out: &mut Vec<u8>) {
    out.extend_from_slice(before);
    out.extend_from_slice(&[digits[usize::from(byte >> 4)], digits[usize::from(byte & 15)]]);
}

pub(super) const LOWER: &[u8; 16] = b"0123456789abcdef";
pub(super) const UPPER: &[u8; 16] = b"0123456789ABCDEF";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_becomes_utf16() {
        assert_eq!(*utf16("aé😀".as_bytes()), [0x61, 0, 0xe9, 0, 0x3d, 0xd8, 0x00, 0xde]);
        assert!(utf16(b"\xff").is_empty());
    }
}
