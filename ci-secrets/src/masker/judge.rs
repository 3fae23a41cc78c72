//! What can be hidden without hiding ordinary text.

use ci_core::secret::Learned;

use super::StreamMasker;
use super::pattern::is_regular;

/// As many digits, points and the like as a number, a date or a version may have.
const LONGEST_NUMBER: usize = 10;

/// Words that builds print all the time, and that people set as "secrets" although they are settings: in order.
const COMMON: [&str; 92] = [
    "admin",
    "already",
    "android",
    "archive",
    "artifact",
    "bash",
    "branch",
    "build",
    "building",
    "bundle",
    "cache",
    "cached",
    "cargo",
    "changed",
    "checkout",
    "clean",
    "client",
    "clone",
    "commit",
    "compile",
    "compiled",
    "compiling",
    "complete",
    "config",
    "container",
    "copy",
    "create",
    "created",
    "darwin",
    "debug",
    "default",
    "dependencies",
    "deploy",
    "deployment",
    "develop",
    "development",
    "digest",
    "docker",
    "done",
    "download",
    "downloaded",
    "downloading",
    "error",
    "exit",
    "failed",
    "false",
    "file",
    "files",
    "finished",
    "found",
    "from",
    "github",
    "gitlab",
    "home",
    "http",
    "https",
    "image",
    "info",
    "install",
    "latest",
    "linux",
    "local",
    "localhost",
    "main",
    "master",
    "module",
    "none",
    "null",
    "package",
    "passed",
    "password",
    "postgres",
    "prod",
    "production",
    "release",
    "remote",
    "root",
    "running",
    "secret",
    "server",
    "stage",
    "staging",
    "step",
    "success",
    "test",
    "testing",
    "tests",
    "token",
    "true",
    "user",
    "version",
    "warning",
];

/// Whether `value`, without blanks around it, can be hidden.
pub(super) fn judge(value: &[u8]) -> Learned {
    if value.len() < StreamMasker::SHORTEST {
        Learned::TooShort
    } else if is_number(value) || is_common(value) {
        Learned::TooCommon
    } else if is_regular(value) {
        Learned::TooRegular
    } else {
        Learned::Hidden
    }
}

fn is_number(value: &[u8]) -> bool {
    value.len() <= LONGEST_NUMBER
        && value.iter().any(u8::is_ascii_digit)
        && value.iter().all(|byte| byte.is_ascii_digit() || b".,:-_+/".contains(byte))
}

fn is_common(value: &[u8]) -> bool {
    // In place: a copy in lower case would stay in memory.
    COMMON.iter().any(|word| word.as_bytes().eq_ignore_ascii_case(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_hide_ordinary_text_is_told() {
        let check = |expected: Learned, values: &[&str]| {
            for value in values {
                assert_eq!(judge(value.as_bytes()), expected, "{value:?}");
            }
        };
        check(Learned::TooShort, &["", "x", "abc"]);
        check(
            Learned::TooCommon,
            &["8080", "1234567890", "1.2.3", "true", "Production", "MASTER", "2026-01-01"],
        );
        check(Learned::TooRegular, &["----", "abababababab", "................"]);
        check(Learned::Hidden, &["hunter2", "a1b2", "12345678901", "mastery", "correct horse"]);
    }

    #[test]
    fn the_words_are_in_order_and_none_is_too_short_anyway() {
        assert!(COMMON.is_sorted());
        assert!(COMMON.iter().all(|word| word.len() >= StreamMasker::SHORTEST));
    }
}
