//! Text of XML and HTML: XML 1.0 section 2.4 and 4.6, HTML section 13.3.

use super::Text;
use super::spell::{Unit, spell};

/// How both quotation marks are written: as in the standard for XML; by Python, Go, PHP; in text outside of attributes.
const QUOTES: [(&[u8], &[u8]); 6] = [
    (b"&quot;", b"&apos;"),
    (b"&quot;", b"&#x27;"),
    (b"&#34;", b"&#39;"),
    (b"&quot;", b"&#39;"),
    (b"&quot;", b"&#039;"),
    (b"\"", b"'"),
];

pub(super) fn forms(value: &[u8]) -> Vec<Text> {
    let all = QUOTES.iter().map(|(double, single)| {
        spell(value, |unit, out| match unit {
            Unit::Char('&') => out.extend_from_slice(b"&amp;"),
            Unit::Char('<') => out.extend_from_slice(b"&lt;"),
            Unit::Char('>') => out.extend_from_slice(b"&gt;"),
            Unit::Char('"') => out.extend_from_slice(double),
            Unit::Char('\'') => out.extend_from_slice(single),
            unit => unit.write(out),
        })
    });
    all.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_writer_is_there() {
        let forms: Vec<_> =
            forms(b"<a&b\"c'>").iter().map(|t| String::from_utf8_lossy(t).into_owned()).collect();
        for expected in ["&lt;a&amp;b&quot;c&apos;&gt;", "&lt;a&amp;b&#34;c&#39;&gt;", "&lt;a&amp;b\"c'&gt;"]
        {
            assert!(forms.iter().any(|form| form == expected), "{expected} is none of {forms:?}");
        }
    }
}
