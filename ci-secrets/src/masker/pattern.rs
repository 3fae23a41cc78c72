//! What of a value is looked for.

use zeroize::{Zeroize, ZeroizeOnDrop};

use super::PlainMasker;

/// Bytes that are hidden wherever they stand. Wiped when dropped.
#[derive(PartialEq, Eq, PartialOrd, Ord, Zeroize, ZeroizeOnDrop)]
pub(super) struct Pattern(Vec<u8>);

impl Pattern {
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The whole value and each of its lines, without the blanks around them; what is too short is left out.
pub(super) fn patterns_of(value: &[u8]) -> Vec<Pattern> {
    let lines = value.split(|byte| matches!(byte, b'\n' | b'\r'));
    let mut found: Vec<Pattern> = std::iter::once(value)
        .chain(lines)
        .map(<[u8]>::trim_ascii)
        .filter(|bytes| bytes.len() >= PlainMasker::SHORTEST)
        .map(|bytes| Pattern(bytes.to_vec()))
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: &str, expected: &[&str]) {
        let found = patterns_of(value.as_bytes());
        let found: Vec<_> = found.iter().map(|p| std::str::from_utf8(p.as_bytes()).expect("text")).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_value_and_its_lines_are_looked_for() {
        check("hunter2", &["hunter2"]);
        check("abc", &[]);
        check("", &[]);
        check("      ", &[]);
        check("token\n", &["token"]);
        check("  token  ", &["token"]);
        check("one-1\n  two-2\r\nx\nthree", &["one-1", "one-1\n  two-2\r\nx\nthree", "three", "two-2"]);
        check("ab\ncd", &["ab\ncd"]);
    }
}
