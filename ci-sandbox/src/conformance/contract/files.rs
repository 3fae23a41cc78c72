//! Files on their way in and out.

use std::fs;
use std::sync::Arc;

use ci_core::job::Limits;
use ci_core::sandbox::{ExitStatus, Guarantee, Spec};
use ci_core::stream::ByteStream;
use ci_core::{ByteSize, Error, ErrorKind};

use super::{declares, gone, refusal, sandbox, sandbox_of};
use crate::conformance::Bench;
use crate::conformance::guest::path;
use crate::conformance::machine::{Folder, unique};
use crate::conformance::tar::{Archive, entries};

#[doc(hidden)]
pub async fn a_tree_comes_back_as_it_went(bench: Arc<dyn Bench>) {
    let guest = sandbox(&bench).await;
    let big: Vec<u8> = (0..700_000_u32).map(|number| number.to_le_bytes()[1]).collect();
    let long = "n".repeat(90);
    let archive = Archive::new()
        .folder("tree")
        .folder("tree/empty")
        .file("tree/big", &big)
        .file("tree/nothing", b"")
        .file(&format!("tree/{long}"), b"long")
        .mode(0o755)
        .file("tree/tool", b"#!")
        .symlink("tree/link", "big")
        .symlink("tree/far", "/no/such/file");
    guest.upload("/work/deep/er", archive.end()).await.expect("it is unpacked");
    let back =
        entries(&guest.download("/work/deep/er/tree").await.expect("it is packed")).expect("an archive");
    let mut shown: Vec<_> = back
        .iter()
        .map(|entry| (entry.path(), char::from(entry.kind), entry.content.len(), entry.link.clone()))
        .collect();
    shown.sort();
    let expected = [
        ("tree".to_owned(), '5', 0, Vec::new()),
        ("tree/big".to_owned(), '0', big.len(), Vec::new()),
        ("tree/empty".to_owned(), '5', 0, Vec::new()),
        ("tree/far".to_owned(), '2', 0, b"/no/such/file".to_vec()),
        ("tree/link".to_owned(), '2', 0, b"big".to_vec()),
        (format!("tree/{long}"), '0', 4, Vec::new()),
        ("tree/nothing".to_owned(), '0', 0, Vec::new()),
        ("tree/tool".to_owned(), '0', 2, Vec::new()),
    ];
    assert_eq!(shown, expected);
    let of = |name: &str| back.iter().find(|entry| entry.path() == name).expect("an entry");
    assert!(of("tree/big").content == big, "the content is another one");
    assert_eq!((of("tree/tool").mode & 0o777, of("tree/big").mode & 0o777), (0o755, 0o644));
    gone(guest).await;
}

#[doc(hidden)]
pub async fn an_upload_replaces_what_is_there(bench: Arc<dyn Bench>) {
    let guest = sandbox(&bench).await;
    for content in ["one, the longer", "two"] {
        let archive = Archive::new().file("file", content.as_bytes()).end();
        guest.upload("/work/in", archive).await.expect("it is unpacked");
        assert_eq!(guest.run(&["read", "/work/in/file"]).await.expect("it runs").text(), content);
    }
    gone(guest).await;
}

#[doc(hidden)]
pub async fn privileges_do_not_travel(bench: Arc<dyn Bench>) {
    let guest = sandbox(&bench).await;
    let archive = Archive::new().mode(0o6755).file("tool", b"x").end();
    guest.upload("/work", archive).await.expect("it is unpacked");
    let back = entries(&guest.download("/work/tool").await.expect("it is packed")).expect("an archive");
    assert_eq!(back[0].mode & 0o7777, 0o755);
    gone(guest).await;
}

#[doc(hidden)]
pub async fn what_is_no_archive_is_refused(bench: Arc<dyn Bench>) {
    let guest = sandbox(&bench).await;
    let whole = Archive::new().file("file", &[7; 5_000]).end();
    for (name, bytes) in [("noise", vec![b'x'; 4_096]), ("cut short", whole[..3_000].to_vec())] {
        let error = refusal(guest.upload("/work/in", bytes).await);
        assert_eq!(error.kind(), ErrorKind::Invalid, "{name}: {error:?}");
    }
    let broken: ByteStream<'_> =
        Box::pin(futures_util::stream::iter([Err(Error::new(ErrorKind::TimedOut, "fetch"))]));
    let error = refusal(guest.instance().upload(&path("/work/in"), broken).await);
    assert_eq!(error.kind(), ErrorKind::TimedOut, "a stream's error is told as it is: {error:?}");
    gone(guest).await;
}

#[doc(hidden)]
pub async fn an_upload_that_does_not_fit_is_refused(bench: Arc<dyn Bench>) {
    if !declares(&bench, Guarantee::DiskLimit, "an_upload_that_does_not_fit_is_refused") {
        return;
    }
    let spec = Spec::new(bench.image()).with_limits(Limits::default().with_disk(ByteSize::mib(2)));
    let guest = sandbox_of(&bench, spec).await;
    let error = refusal(guest.upload("/work", Archive::new().file("big", &vec![1; 6_000_000]).end()).await);
    assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{error:?}");
    gone(guest).await;
}

#[doc(hidden)]
pub async fn what_is_not_there_is_not_found(bench: Arc<dyn Bench>) {
    let guest = sandbox(&bench).await;
    for missing in ["/work/missing", "/no/such/folder"] {
        let error = refusal(guest.download(missing).await);
        assert_eq!(error.kind(), ErrorKind::NotFound, "{missing}: {error:?}");
    }
    gone(guest).await;
}

#[doc(hidden)]
pub async fn the_image_is_not_the_jobs_to_write(bench: Arc<dyn Bench>) {
    let marker = unique("image-");
    let (guest, other) = (sandbox(&bench).await, sandbox(&bench).await);
    for folder in ["/usr", "/bin", "/etc"] {
        let _ = guest.upload(folder, Archive::new().file(&marker, b"hit").end()).await;
        let seen = other.run(&["read", &format!("{folder}/{marker}")]).await.expect("it runs");
        assert_eq!(seen.text(), "", "{folder} is shared with another sandbox");
    }
    gone(guest).await;
    gone(other).await;
}

#[doc(hidden)]
pub async fn a_folder_of_the_machine_is_read_only(bench: Arc<dyn Bench>) {
    let folder = Folder::new().expect("a folder");
    fs::write(folder.path().join("file"), "of the machine").expect("a file");
    let spec = Spec::new(bench.image()).with_host_folder_read_only(path("/shown"), folder.path());
    if !bench.backend().capabilities().host_folders {
        let error = bench.backend().capabilities().require(&spec).expect_err("it is not offered");
        return assert_eq!(error.kind(), ErrorKind::Unsupported);
    }
    let guest = sandbox_of(&bench, spec).await;
    assert_eq!(guest.run(&["read", "/shown/file"]).await.expect("it runs").text(), "of the machine");
    for file in ["/shown/file", "/shown/new"] {
        let put = guest.run(&["put", file, "hit"]).await.expect("it runs");
        assert_ne!(put.exit.status, ExitStatus::Code(0), "{file} can be written");
    }
    let _ = guest.upload("/shown", Archive::new().file("new", b"hit").end()).await;
    gone(guest).await;
    assert_eq!(fs::read_to_string(folder.path().join("file")).expect("the file"), "of the machine");
    assert!(!folder.path().join("new").exists(), "a file was made on the machine");
}
