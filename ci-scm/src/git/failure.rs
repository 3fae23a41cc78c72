//! What it means that `git` failed. Its words are hostile text: they choose between fixed sentences and are kept
//! for the operator, never shown to a tenant.

use ci_core::{Error, ErrorKind};

/// How many bytes of a program's errors are kept.
pub(crate) const MOST_WORDS: usize = 8 * 1024;

/// Some words of git, and what they mean.
struct Meaning {
    words: &'static str,
    kind: ErrorKind,
    why: &'static str,
}

const fn meaning(words: &'static str, kind: ErrorKind, why: &'static str) -> Meaning {
    Meaning { words, kind, why }
}

/// In the order in which they are looked for: git says the cause first and what followed from it later.
const MEANINGS: &[Meaning] = &[
    meaning("Host key verification failed", ErrorKind::Unavailable, NOT_PROVEN),
    meaning("server certificate verification failed", ErrorKind::Unavailable, NOT_PROVEN),
    meaning("SSL certificate", ErrorKind::Unavailable, NOT_PROVEN),
    meaning("certificate verify failed", ErrorKind::Unavailable, NOT_PROVEN),
    meaning("Permission denied (", ErrorKind::Unavailable, NO_CREDENTIAL),
    meaning("Authentication failed", ErrorKind::Unavailable, NO_CREDENTIAL),
    meaning("could not read Username", ErrorKind::Unavailable, NO_CREDENTIAL),
    meaning("returned error: 401", ErrorKind::Unavailable, NO_CREDENTIAL),
    meaning("returned error: 403", ErrorKind::Unavailable, NO_CREDENTIAL),
    meaning(
        "returned error: 30",
        ErrorKind::Unavailable,
        "the server sends git to another address, which it does not follow; correct the URL",
    ),
    meaning("not a git repository", ErrorKind::NotFound, NO_REPOSITORY),
    meaning("does not appear to be a git repository", ErrorKind::NotFound, NO_REPOSITORY),
    meaning("repository '", ErrorKind::NotFound, NO_REPOSITORY),
    meaning("not our ref", ErrorKind::NotFound, GONE),
    meaning("couldn't find remote ref", ErrorKind::NotFound, GONE),
    meaning(
        "request for unadvertised object",
        ErrorKind::Unsupported,
        "the server hands out only what its branches and tags name; let it speak protocol 2",
    ),
    meaning("mismatched algorithms", ErrorKind::NotFound, GONE),
    meaning("error in object: ", ErrorKind::Invalid, MALFORMED),
    meaning("pack is corrupted", ErrorKind::Invalid, MALFORMED),
    meaning("fsck error", ErrorKind::Invalid, MALFORMED),
    meaning("not a tree object", ErrorKind::Invalid, MALFORMED),
    meaning(": bad file", ErrorKind::Invalid, MALFORMED),
    meaning("index-pack died of signal", ErrorKind::LimitExceeded, TOO_LARGE),
    meaning("No space left on device", ErrorKind::LimitExceeded, TOO_LARGE),
    meaning("Disk quota exceeded", ErrorKind::LimitExceeded, TOO_LARGE),
    meaning("out of memory", ErrorKind::LimitExceeded, TOO_LARGE),
    // Without another word before it: index-pack was ended when its file grew past the bound.
    meaning("invalid index-pack output", ErrorKind::LimitExceeded, TOO_LARGE),
];

const TOO_LARGE: &str = "the repository does not fit";
const NOT_PROVEN: &str = "the server could not prove that it is the forge; compare its key or certificate";
const NO_CREDENTIAL: &str = "the forge refuses the credential; check it in the configuration";
const NO_REPOSITORY: &str = "there is no git repository at the configured URL; check whether it was moved";
const GONE: &str = "the commit is no longer in the repository";
pub(crate) const MALFORMED: &str = "git refuses a malformed object of the repository; git fsck names it";

/// The error for a `git` that failed with these words.
pub(crate) fn explain(operation: &'static str, words: &[u8]) -> Error {
    let words = String::from_utf8_lossy(words);
    let found = MEANINGS.iter().find(|meaning| words.contains(meaning.words));
    let error = match found {
        Some(Meaning { kind, why, .. }) => Error::new(*kind, operation).because(*why).permanent(),
        None => {
            Error::new(ErrorKind::Unavailable, operation).because("git failed; the operator's log says why")
        }
    };
    error.detail(format!("{:?}", words.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_git_are_for_the_operator() {
        let error =
            explain("fetch", b"fatal: '/srv/secret' does not appear to be a git repository\x1b[31m\n");
        assert_eq!(
            error.to_string(),
            "fetch: there is no git repository at the configured URL; check whether it was moved"
        );
        assert!(error.for_operator().to_string().contains("/srv/secret"));
        assert!(!error.for_operator().to_string().contains('\u{1b}'));
        assert!(!error.is_retryable());
        assert!(explain("fetch", b"ssh: connect to host x port 22: Connection refused").is_retryable());
    }
}
