//! Base64: RFC 4648 sections 4 and 5.
//!
//! A value inside of an encoded text begins at any bit of a character: what it looks like depends on how many bytes are
//! before it, but not on which. So for each of the three ways there is one *core*: the characters that stand for bits
//! of the value alone, without those at both ends that share bits with a neighbour, and without padding.

use data_encoding::{BASE64_NOPAD, BASE64URL_NOPAD};
use zeroize::Zeroizing;

use super::Text;

pub(super) fn forms(value: &[u8]) -> Vec<Text> {
    let alphabets = [BASE64_NOPAD, BASE64URL_NOPAD];
    let all = alphabets.iter().flat_map(|alphabet| (0..3).map(move |before| (alphabet, before)));
    all.map(|(alphabet, before)| {
        let mut bytes = Zeroizing::new(Vec::with_capacity(before + value.len()));
        bytes.resize(before, 0);
        bytes.extend_from_slice(value);
        let encoded = Zeroizing::new(alphabet.encode(&bytes).into_bytes());
        let core = (before * 8).div_ceil(6)..(before + value.len()) * 8 / 6;
        Zeroizing::new(encoded[core.start.min(core.end)..core.end].to_vec())
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use data_encoding::BASE64;

    use super::*;

    #[test]
    fn a_core_is_in_every_text_with_the_value() {
        let value = [b'~', b'?', 0xff, b'x', 0, b'>', b'>', b'>', b'q', b'9'];
        for length in 4..=value.len() {
            let forms = forms(&value[..length]);
            for (before, after) in (0..6).flat_map(|before| (0..4).map(move |after| (before, after))) {
                let text = [&[0xa5; 6][..before], &value[..length], &[0x5a; 4][..after]].concat();
                let encoded = BASE64.encode(&text).into_bytes();
                let core = &forms[before % 3];
                assert!(
                    encoded.windows(core.len()).any(|window| window == core.as_slice()),
                    "{before} {after}"
                );
                assert!(core.len() >= length * 8 / 6 - 1, "no more than the ends are missing");
            }
        }
    }

    #[test]
    fn both_alphabets_are_there() {
        let forms = forms(b"~~~???");
        assert_eq!((forms[0].as_slice(), forms[3].as_slice()), (&b"fn5+Pz8/"[..], &b"fn5-Pz8_"[..]));
    }
}
