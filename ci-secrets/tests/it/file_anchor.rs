//! The anchor in a folder.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

use ci_core::ErrorKind;
use ci_core::records::Key;
use ci_core::secret::{FreshnessAnchor as _, Mark};
use ci_secrets::FileAnchor;
use tempfile::TempDir;

use crate::bench::kind;

fn place() -> (TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("anchor");
    (folder, path)
}

fn log() -> Key {
    Key::new("audit").part("acme")
}

fn mode(path: &std::path::Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o7777
}

#[tokio::test]
async fn marks_only_grow_and_outlive_the_process() {
    let (_folder, path) = place();
    let (anchor, other) =
        (FileAnchor::open(&path).expect("an anchor"), Key::new("secret").part("x".repeat(300)));
    assert_eq!(anchor.latest(&log()).await.expect("nothing yet"), None);
    for number in [1, 2, 9] {
        anchor.advance(&log(), &Mark::of(number, b"x")).await.expect("it grows");
        anchor.advance(&log(), &Mark::of(number, b"x")).await.expect("the same again");
    }
    anchor.advance(&other, &Mark::of(3, b"y")).await.expect("a long key");
    for mark in [Mark::of(9, b"another"), Mark::of(8, b"x"), Mark::of(0, b"x")] {
        assert_eq!(kind(anchor.advance(&log(), &mark).await), ErrorKind::Conflict, "{mark:?}");
    }
    drop(anchor);
    let anchor = FileAnchor::open(&path).expect("an anchor");
    assert_eq!(anchor.latest(&log()).await.expect("a mark"), Some(Mark::of(9, b"x")));
    assert_eq!(anchor.latest(&other).await.expect("a mark"), Some(Mark::of(3, b"y")));
    anchor.forget(&other).await.expect("it is forgotten");
    anchor.forget(&other).await.expect("once more");
    assert_eq!(anchor.latest(&other).await.expect("no mark"), None);
    assert_eq!(anchor.latest(&log()).await.expect("a mark"), Some(Mark::of(9, b"x")));
}

#[tokio::test]
async fn it_belongs_to_one_user_and_one_process() {
    let (_folder, path) = place();
    let anchor = FileAnchor::open(&path).expect("an anchor");
    anchor.advance(&log(), &Mark::of(1, b"x")).await.expect("it grows");
    assert_eq!(mode(&path), 0o700);
    for file in fs::read_dir(&path).expect("a folder") {
        let file = file.expect("a file").path();
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
    assert_eq!(kind(FileAnchor::open(&path)), ErrorKind::Conflict);
    drop(anchor);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).expect("the mode is set");
    assert_eq!(kind(FileAnchor::open(&path)), ErrorKind::Denied);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("the mode is set");
    // Only root can give it away.
    if chown(&path, Some(65_534), None).is_ok() {
        assert_eq!(kind(FileAnchor::open(&path)), ErrorKind::Denied);
        chown(&path, Some(0), None).expect("it is taken back");
    }
    let link = path.with_file_name("link");
    symlink(&path, &link).expect("a link");
    assert_eq!(kind(FileAnchor::open(&link)), ErrorKind::Denied);
    let file = path.with_file_name("file");
    fs::write(&file, "x").expect("a file");
    assert_eq!(kind(FileAnchor::open(&file)), ErrorKind::Invalid);
    assert_eq!(kind(FileAnchor::open(path.join("no/such/folder"))), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_damaged_file_is_no_missing_mark() {
    let (_folder, path) = place();
    let anchor = FileAnchor::open(&path).expect("an anchor");
    anchor.advance(&log(), &Mark::of(7, b"x")).await.expect("it grows");
    let mut files = fs::read_dir(&path).expect("a folder").map(|file| file.expect("a file").path());
    let file = files.find(|file| !file.ends_with("lock")).expect("the mark");
    let right = fs::read_to_string(&file).expect("text");
    for wrong in
        ["", "x", &right[..right.len() - 1], &right.replace(" 7 ", " 07 "), &right.replace("acme", "ceme")]
    {
        fs::write(&file, wrong).expect("it is written");
        assert_eq!(kind(anchor.latest(&log()).await), ErrorKind::Tampered, "{wrong:?}");
        let advanced = anchor.advance(&log(), &Mark::of(8, b"x")).await;
        assert_eq!(kind(advanced), ErrorKind::Tampered, "{wrong:?}");
    }
    // Half a file that was being written is no mark.
    fs::write(&file, right).expect("it is written");
    fs::write(path.join("new"), "half").expect("it is written");
    assert_eq!(anchor.latest(&log()).await.expect("a mark"), Some(Mark::of(7, b"x")));
    anchor.advance(&log(), &Mark::of(8, b"x")).await.expect("it grows");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_advances_at_once_leaves_the_furthest() {
    let (_folder, path) = place();
    let anchor = std::sync::Arc::new(FileAnchor::open(&path).expect("an anchor"));
    let mut all = Vec::new();
    for number in 1..=20 {
        let anchor = anchor.clone();
        all.push(tokio::spawn(async move { anchor.advance(&log(), &Mark::of(number, b"x")).await }));
    }
    for one in all {
        if let Err(error) = one.await.expect("it ends") {
            assert_eq!(error.kind(), ErrorKind::Conflict, "somebody was further");
        }
    }
    assert_eq!(anchor.latest(&log()).await.expect("a mark"), Some(Mark::of(20, b"x")));
}
