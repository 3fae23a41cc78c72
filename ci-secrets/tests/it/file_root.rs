//! Which files a root key is taken from.
#![cfg(unix)]

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::PathBuf;
use std::process::Command;

use ci_core::ErrorKind;
use ci_core::seal::Context;
use ci_secrets::{FileRoot, RootKey as _};
use tempfile::TempDir;

use crate::bench::{exposed, kind};

fn created() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("root.key");
    FileRoot::create(&path).expect("a root key");
    (folder, path)
}

#[tokio::test]
async fn what_was_created_opens_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("root.key");
    let root = FileRoot::create(&path).expect("a root key");
    assert_eq!(fs::metadata(&path).expect("it is there").mode() & 0o7777, 0o600);
    let wrapped = root.wrap(&Context::new("x"), &[7; 32]).await.expect("it is wrapped");
    let again = FileRoot::open(&path).expect("it opens");
    assert_eq!(again.key_ref(), root.key_ref());
    assert_eq!(exposed(&again.unwrap(&Context::new("x"), &wrapped).await.expect("it unwraps")), [7; 32]);
}

#[test]
fn two_roots_are_two_keys() {
    let ((_a, one), (_b, other)) = (created(), created());
    assert_ne!(fs::read(one).expect("a file"), fs::read(other).expect("a file"));
}

#[test]
fn nothing_is_overwritten() {
    let (folder, path) = created();
    let before = fs::read(&path).expect("a file");
    assert_eq!(kind(FileRoot::create(&path)), ErrorKind::Conflict);
    assert_eq!(fs::read(&path).expect("a file"), before);

    let (link, target) = (folder.path().join("link"), folder.path().join("target"));
    symlink(&target, &link).expect("a link");
    assert_eq!(kind(FileRoot::create(&link)), ErrorKind::Conflict);
    assert!(!target.exists(), "a link was followed");
}

#[test]
fn only_its_owner_may_use_the_file() {
    let (_folder, path) = created();
    for mode in 0..=0o7777 {
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("a mode");
        let opened = FileRoot::open(&path);
        if mode & !0o600 != 0 {
            // The superuser may open any file; anybody else is refused by the kernel, with the same kind.
            let error = opened.expect_err("it is too open");
            assert_eq!(error.kind(), ErrorKind::Denied, "{mode:o}");
        } else if mode & 0o400 != 0 {
            assert!(opened.is_ok(), "{mode:o}");
        }
    }
    fs::set_permissions(&path, Permissions::from_mode(0o640)).expect("a mode");
    let text = FileRoot::open(&path).expect_err("it is too open").to_string();
    assert_eq!(
        text,
        "open the root key: others than its owner may use it; run chmod 600 on it, and replace the key if they did"
    );
}

#[test]
fn the_file_of_another_user_is_refused() {
    let (_folder, path) = created();
    if chown(&path, Some(65_534), None).is_err() {
        ci_core::conformance::skip(
            "the_file_of_another_user_is_refused",
            "root",
            "only root gives files away",
        );
        return;
    }
    let error = FileRoot::open(&path).expect_err("it is another user's");
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(!error.to_string().contains("root.key"), "a tenant reads no path: {error}");
    assert!(error.for_operator().to_string().contains("root.key"));
}

#[test]
fn a_link_is_not_followed() {
    let (folder, path) = created();
    let link = folder.path().join("link");
    symlink(&path, &link).expect("a link");
    assert_eq!(kind(FileRoot::open(&link)), ErrorKind::Denied);
}

#[test]
fn only_a_regular_file_is_a_file() {
    let (folder, _path) = created();
    assert_eq!(kind(FileRoot::open(folder.path())), ErrorKind::Invalid);
    let pipe = folder.path().join("pipe");
    let made = Command::new("mkfifo").arg("-m").arg("600").arg(&pipe).status().expect("mkfifo runs");
    assert!(made.success());
    assert_eq!(kind(FileRoot::open(&pipe)), ErrorKind::Invalid, "and nobody waited for a writer");
    assert_eq!(kind(FileRoot::open("/dev/null")), ErrorKind::Invalid);
    assert_eq!(kind(FileRoot::open(folder.path().join("missing"))), ErrorKind::NotFound);
    assert_eq!(kind(FileRoot::create(folder.path().join("no/folder"))), ErrorKind::NotFound);
}

#[test]
fn every_altered_byte_is_noticed() {
    let (_folder, path) = created();
    let right = fs::read(&path).expect("a file");
    let check = |content: &[u8]| {
        fs::write(&path, content).expect("it is written");
        assert_eq!(kind(FileRoot::open(&path)), ErrorKind::Invalid, "{}", String::from_utf8_lossy(content));
    };
    for index in 0..right.len() {
        let mut altered = right.clone();
        altered[index] ^= 1;
        check(&altered);
        check(&right[..index]);
    }
    check(&[&right[..], b"\n"].concat());
    check(&[&right[..], &right[..]].concat());
    check(&vec![b'0'; 10_000]);
    fs::write(&path, &right).expect("it is written");
    assert!(FileRoot::open(&path).is_ok());
}

#[test]
fn debug_shows_no_key() {
    let (_folder, path) = created();
    let root = FileRoot::open(&path).expect("it opens");
    let text = fs::read_to_string(&path).expect("a file");
    let key = text.trim_end().rsplit(' ').next().expect("a key");
    let shown = format!("{root:?}");
    assert!(!shown.contains(&key[..8]) && shown.contains(root.key_ref()), "{shown}");
    assert!(!root.key_ref().contains(&key[..8]), "the reference follows from the key, but does not show it");
}
