//! What a root key follows from that follows from a passphrase.
#![cfg(all(unix, feature = "passphrase"))]

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;

use ci_core::ErrorKind;
use ci_core::seal::Context;
use ci_secrets::{PassphraseCost, PassphraseRoot, RootKey as _};
use secrecy::SecretString;
use tempfile::TempDir;

use crate::bench::{exposed, kind};

const RIGHT: &str = "correct horse battery staple";

fn passphrase(text: &str) -> SecretString {
    SecretString::from(text)
}

/// The cheapest there is, so that tests are quick.
pub(crate) fn cheap() -> PassphraseCost {
    PassphraseCost::new(19_456, 2, 1).expect("the minimum")
}

fn created() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("root.passphrase");
    PassphraseRoot::create_with(&path, &passphrase(RIGHT), cheap()).expect("a root key");
    (folder, path)
}

#[tokio::test]
async fn the_same_passphrase_gives_the_same_key() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("root.passphrase");
    let root = PassphraseRoot::create(&path, &passphrase(RIGHT)).expect("a root key");
    assert_eq!(fs::metadata(&path).expect("it is there").mode() & 0o7777, 0o600);
    let wrapped = root.wrap(&Context::new("x"), &[7; 32]).await.expect("it is wrapped");
    let again = PassphraseRoot::open(&path, &passphrase(RIGHT)).expect("it opens");
    assert_eq!(again.key_ref(), root.key_ref());
    assert_eq!(exposed(&again.unwrap(&Context::new("x"), &wrapped).await.expect("it unwraps")), [7; 32]);
}

#[test]
fn a_wrong_passphrase_is_a_clear_final_error() {
    let (_folder, path) = created();
    for wrong in ["correct horse battery stapl", "Correct horse battery staple", " ", ""] {
        let error = PassphraseRoot::open(&path, &passphrase(wrong)).expect_err("it is wrong");
        assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Denied, false));
        assert_eq!(
            error.to_string(),
            "open the root key: the passphrase is not the one that the file was made with, or the file was altered"
        );
        let told = format!("{error:?}");
        assert!(!told.contains("horse") && told.contains("root.passphrase"), "{told}");
    }
}

#[test]
fn the_same_passphrase_with_another_salt_is_another_key() {
    let ((_a, one), (_b, other)) = (created(), created());
    let open = |path| PassphraseRoot::open(path, &passphrase(RIGHT)).expect("it opens").key_ref().to_owned();
    assert_ne!(open(one), open(other));
}

#[test]
fn what_is_easily_guessed_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("root.passphrase");
    for short in ["", "hunter2", "fourteen chars", "ääääääääääääää"] {
        assert_eq!(kind(PassphraseRoot::create(&path, &passphrase(short))), ErrorKind::Invalid, "{short}");
    }
    assert!(!path.exists());
    for (memory, passes, lanes) in [(19_455, 2, 1), (19_456, 1, 1), (19_456, 2, 0), (1 << 21, 2, 1)] {
        assert_eq!(kind(PassphraseCost::new(memory, passes, lanes)), ErrorKind::Invalid);
    }
}

/// By other implementations: `hash_secret_raw` of argon2-cffi 25.1, and HKDF-SHA-256 out of Python's `hmac`.
#[test]
fn a_file_of_earlier_opens() {
    const LINE: &str = "ci-root-passphrase-1 argon2id m=19456,t=2,p=1 000102030405060708090a0b0c0d0e0f \
                        577b5f8fcd832e75da96538accaad3e5\n";
    let (_folder, path) = created();
    fs::write(&path, LINE).expect("it is written");
    let root = PassphraseRoot::open(&path, &passphrase(RIGHT)).expect("it opens");
    assert_eq!(root.key_ref(), "passphrase:577b5f8fcd832e75da96538accaad3e5");
}

#[test]
fn nothing_but_the_line_decides() {
    let (_folder, path) = created();
    let right = fs::read_to_string(&path).expect("a file");
    assert!(right.starts_with("ci-root-passphrase-1 argon2id m=19456,t=2,p=1 "), "{right}");
    let check = |content: &str, expected: ErrorKind| {
        fs::write(&path, content).expect("it is written");
        assert_eq!(kind(PassphraseRoot::open(&path, &passphrase(RIGHT))), expected, "{content}");
    };
    check(&right.replace("t=2", "t=3"), ErrorKind::Denied);
    check(&right.replace("m=19456", "m=19457"), ErrorKind::Denied);
    for weak in
        [("m=19456", "m=8"), ("t=2", "t=1"), ("p=1", "p=0"), ("m=19456", "m=4194304"), ("t=2", "t=02")]
    {
        check(&right.replace(weak.0, weak.1), ErrorKind::Invalid);
    }
    for at in 0..right.len() {
        check(&right[..at], ErrorKind::Invalid);
    }
    check(&format!("{right}\n"), ErrorKind::Invalid);
    check(&"0".repeat(10_000), ErrorKind::Invalid);
    let salt = right.find("p=1 ").expect("a salt follows") + 4;
    let other = if &right[salt..=salt] == "0" { "1" } else { "0" };
    check(&format!("{}{other}{}", &right[..salt], &right[salt + 1..]), ErrorKind::Denied);
}

#[test]
fn the_file_is_as_private_as_a_key() {
    let (_folder, path) = created();
    fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("a mode");
    assert_eq!(kind(PassphraseRoot::open(&path, &passphrase(RIGHT))), ErrorKind::Denied);
    fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("a mode");
    let again = PassphraseRoot::create_with(&path, &passphrase(RIGHT), cheap());
    assert_eq!(kind(again), ErrorKind::Conflict);
    let root = PassphraseRoot::open(&path, &passphrase(RIGHT)).expect("it opens");
    assert_eq!(format!("{root:?}"), format!("PassphraseRoot {{ key_ref: {:?}, .. }}", root.key_ref()));
}
