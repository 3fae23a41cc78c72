//! Quoting for a shell: POSIX.1-2024, Shell Command Language, 2.2.

use super::Text;
use super::spell::{Unit, spell};

/// What a backslash goes before in double quotes (2.2.3).
const IN_DOUBLE_QUOTES: &str = "$`\"\\";
/// What means something to a shell outside of quotes (2.2), and what does to some shells.
const SPECIAL: &str = "|&;<>()$`\\\"' \t*?[]#~=%!{}^,";

pub(super) fn forms(value: &[u8]) -> Vec<Text> {
    vec![
        // The two ways to write a single quote within single quotes,
        spell(value, |unit, out| quoted(unit, b"'\\''", out)),
        spell(value, |unit, out| quoted(unit, b"'\"'\"'", out)),
        // and those with backslashes: in double quotes, in bash's as well, and without quotes.
        spell(value, |unit, out| escaped(unit, |char| IN_DOUBLE_QUOTES.contains(char), out)),
        spell(value, |unit, out| escaped(unit, |char| char == '!' || IN_DOUBLE_QUOTES.contains(char), out)),
        spell(value, |unit, out| escaped(unit, |char| SPECIAL.contains(char), out)),
        // bash's `printf %q` leaves some of these as they are.
        spell(value, |unit, out| escaped(unit, |char| SPECIAL.contains(char) && !"#~=%".contains(char), out)),
    ]
}

fn quoted(unit: Unit, quote: &[u8], out: &mut Vec<u8>) {
    match unit {
        Unit::Char('\'') => out.extend_from_slice(quote),
        unit => unit.write(out),
    }
}

fn escaped(unit: Unit, is_special: impl Fn(char) -> bool, out: &mut Vec<u8>) {
    if let Unit::Char(char) = unit
        && is_special(char)
    {
        out.push(b'\\');
    }
    unit.write(out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_quoting_is_there() {
        let forms: Vec<_> =
            forms(b"a'b$c\"d e#f!").iter().map(|t| String::from_utf8_lossy(t).into_owned()).collect();
        for expected in [
            r#"a'\''b$c"d e#f!"#,
            r#"a'"'"'b$c"d e#f!"#,
            r#"a'b\$c\"d e#f!"#,
            r"a\'b\$c\042d\ e#f\!".replace("\\042", "\\\"").as_str(),
            r"a\'b\$c\042d\ e\#f\!".replace("\\042", "\\\"").as_str(),
        ] {
            assert!(forms.iter().any(|form| form == expected), "{expected} is none of {forms:?}");
        }
    }
}
