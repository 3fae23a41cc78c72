//! Percent-encoding: RFC 3986 section 2.1, and what programs make of it.

use super::Text;
use super::spell::{LOWER, UPPER, hex};
use zeroize::Zeroizing;

/// The bytes beside letters and digits that stay as they are: by RFC 3986 section 2.3; in a path, as `urllib` and many
/// others write it; by `encodeURIComponent` (ECMA-262); in a form (the WHATWG URL standard).
const KEPT: [&[u8]; 4] = [b"-._~", b"-._~/", b"-._~!'()*", b"*-._"];

pub(super) fn forms(value: &[u8]) -> Vec<Text> {
    let mut forms = Vec::new();
    for (kept, digits) in KEPT.iter().flat_map(|kept| [(kept, UPPER), (kept, LOWER)]) {
        for blank in [&b"%20"[..], b"+"] {
            let mut text = Zeroizing::new(Vec::with_capacity(value.len() * 3));
            for byte in value {
                match byte {
                    b' ' => text.extend_from_slice(blank),
                    byte if byte.is_ascii_alphanumeric() || kept.contains(byte) => text.push(*byte),
                    byte => hex(b"%", *byte, digits, &mut text),
                }
            }
            forms.push(text);
        }
    }
    forms
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_encoder_is_there() {
        let forms: Vec<_> =
            forms("k é/~*'".as_bytes()).iter().map(|t| String::from_utf8_lossy(t).into_owned()).collect();
        for expected in [
            "k%20%C3%A9%2F~%2A%27", // RFC 3986
            "k%20%c3%a9%2f~%2a%27", // the same, lower case
            "k%20%C3%A9/~%2A%27",   // urllib.parse.quote
            "k%20%C3%A9%2F~*'",     // encodeURIComponent
            "k+%C3%A9%2F%7E*%27",   // URLSearchParams
        ] {
            assert!(forms.iter().any(|form| form == expected), "{expected} is none of {forms:?}");
        }
    }
}
