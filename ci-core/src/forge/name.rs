//! What people and pipelines call code: a revision, a file.

use crate::error::{Error, ErrorKind, Result};

/// A branch, a tag, `HEAD` or a commit, as a person named it: a plain name, never an expression, a pattern or an
/// option.
///
/// # Example
///
/// ```
/// use ci_core::forge::RevisionName;
///
/// for name in ["main", "feature/login", "refs/tags/v1", "HEAD"] {
///     assert_eq!(RevisionName::parse(name)?.as_str(), name);
/// }
/// for name in ["--upload-pack=id", "main~1", "main..evil", "@{u}", "release/*"] {
///     assert!(RevisionName::parse(name).is_err());
/// }
/// # Ok::<(), ci_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RevisionName(String);

impl RevisionName {
    /// Checks and takes a name by git's rules for references (git-check-ref-format(1)).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for a name that no reference can have, and for any that a program could take for
    /// an option.
    pub fn parse(text: &str) -> Result<Self> {
        let is_part =
            |part: &str| !part.is_empty() && !part.starts_with('.') && part.strip_suffix(".lock").is_none();
        let is_bad = |c: char| c.is_control() || " ~^:?*[\\".contains(c);
        let good = (1..=255).contains(&text.len())
            && text.split('/').all(is_part)
            && !text.starts_with('-')
            && !text.ends_with('.')
            && text != "@"
            && !text.contains("..")
            && !text.contains("@{")
            && !text.contains(is_bad);
        if good {
            return Ok(Self(text.to_owned()));
        }
        Err(Error::new(ErrorKind::Invalid, "parse a branch, tag or commit")
            .because(
                "it must be a branch, a tag, HEAD or a commit by git's rules for names, and no expression",
            )
            .with("given", format_args!("{:?}", crate::external::shortened(text))))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A file in the code: its path from the root of the repository.
///
/// It has no part that git refuses in a tree: none that is empty, `.`, `..` or, in any case of its letters, `.git`
/// (git-fsck(1): `emptyName`, `hasDot`, `hasDotdot`, `hasDotgit`). No program takes it for an option. It is not
/// escaped for anything else: a forge's implementor who puts it into a URL encodes it, and it is compared byte for
/// byte, never as a pattern.
///
/// # Example
///
/// ```
/// use ci_core::forge::SourcePath;
///
/// let path = SourcePath::parse("ci/pipeline.yml")?;
/// assert_eq!(path.parts().collect::<Vec<_>>(), ["ci", "pipeline.yml"]);
/// assert!(SourcePath::parse("../other/secret").is_err());
/// assert!(SourcePath::parse(".git/config").is_err());
/// # Ok::<(), ci_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourcePath(String);

impl SourcePath {
    /// How many bytes a path may have.
    pub const MOST: usize = 1_024;

    /// Checks and takes a path.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for a path that is absolute, ends in `/`, has a part that git refuses, holds a control
    /// character, starts with `-`, or is longer than [`MOST`](Self::MOST).
    pub fn parse(text: &str) -> Result<Self> {
        let is_part = |part: &str| !matches!(part, "" | "." | "..") && !part.eq_ignore_ascii_case(".git");
        let good = text.len() <= Self::MOST
            && text.split('/').all(is_part)
            && !text.starts_with('-')
            && !text.contains(char::is_control);
        if good {
            return Ok(Self(text.to_owned()));
        }
        Err(Error::new(ErrorKind::Invalid, "parse the path of a file in a repository")
            .because(
                "it must be relative and at most 1024 bytes long, without empty, ., .. and .git parts, without \
                 control characters and without a leading -",
            )
            .with("given", format_args!("{:?}", crate::external::shortened(text))))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The names of the folders that lead to the file, and its own.
    pub fn parts(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_path_stays_in_the_repository_and_is_never_an_option() {
        let too_long = "a".repeat(SourcePath::MOST + 1);
        let bad = [
            "",
            "/",
            "/a",
            "a/",
            "a//b",
            ".",
            "..",
            "../a",
            "a/../b",
            "a/..",
            "./a",
            "a/.",
            ".git",
            ".git/config",
            "a/.GIT/x",
            "sub/.Git",
            "-",
            "-x",
            "--output=x",
            "a\nb",
            "a\0",
            "\u{1b}[2J",
            "a\u{85}b",
            &too_long,
        ];
        for text in bad {
            assert_eq!(SourcePath::parse(text).expect_err(text).kind(), ErrorKind::Invalid, "{text:?}");
        }
        for text in
            [".ci.yml", "ci/-x", ".github/a", ".gitignore", "a b", "*", ":(top)a", "ä", "...", &too_long[1..]]
        {
            assert_eq!(SourcePath::parse(text).expect("a path").as_str(), text);
        }
    }

    #[test]
    fn a_refused_path_is_shown_harmless_and_short() {
        let error = SourcePath::parse(&format!("/\u{1b}[2J{}", "x".repeat(9_000))).expect_err("absolute");
        assert!(!error.to_string().contains('\u{1b}') && error.to_string().len() < 400, "{error}");
    }

    proptest! {
        #[test]
        fn no_path_leads_out(text in "(/|-|)([a.]{0,3}/|\\.git/|[^/]{0,4}/){0,4}(.{0,5}|\\.\\.|\\.git)") {
            if let Ok(path) = SourcePath::parse(&text) {
                prop_assert!(!path.as_str().starts_with(['/', '-']));
                prop_assert!(!path.as_str().contains(|c: char| c.is_control()));
                prop_assert!(path.parts().all(|part| !["", ".", "..", ".git"].contains(&part)));
            }
        }
    }

    #[test]
    fn a_revision_is_never_an_option_or_an_expression() {
        let bad = [
            "",
            "-x",
            "--upload-pack=id",
            "a..b",
            "a b",
            "HEAD~1",
            "HEAD^",
            "a:b",
            "@{u}",
            "@",
            "a//b",
            "/a",
            "a/",
            ".a",
            "a/.b",
            "a.lock",
            "a.",
            "a\n",
            "a*",
            "refs/heads/[",
            "a\\b",
            "a\u{0}",
        ];
        for text in bad {
            assert!(RevisionName::parse(text).is_err(), "{text:?}");
        }
        for text in ["main", "HEAD", "v1.2", "feature/x-1", "refs/heads/main", "0123abc"] {
            assert!(RevisionName::parse(text).is_ok(), "{text:?}");
        }
    }
}
