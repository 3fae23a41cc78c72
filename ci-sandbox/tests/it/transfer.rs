//! Files on their way in and out.

use std::time::Duration;

use bytes::Bytes;
use ci_core::job::Limits;
use ci_core::sandbox::{OutputStream, ProcessEvent};
use ci_core::stream::{self, ByteStream};
use ci_core::{ByteSize, Error, ErrorKind};
use futures_util::StreamExt as _;
use tokio::time::timeout;

use crate::support::{Rig, Sandbox, path, refusal, spec};
use crate::tar::Made;

async fn download(sandbox: &Sandbox, from: &str) -> Result<Vec<u8>, Error> {
    stream::collect(sandbox.instance.download(&path(from)), ByteSize::mib(64)).await
}

async fn upload(sandbox: &Sandbox, to: &str, tar: Vec<u8>) -> Result<(), Error> {
    sandbox.instance.upload(&path(to), stream::once(tar)).await
}

#[tokio::test]
async fn a_tree_comes_back_as_it_went() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    let long = "n".repeat(200);
    let make = format!(
        "mkdir -p out/empty out/{long} && cd out && head -c 300000 /dev/urandom > random && echo x > {long}/{long} \
         && ln -s random link && ln -s {long}{long} far && ln random second && chmod 750 random && touch -d @1000000 random \
         && chmod 700 empty && printf '' > nothing"
    );
    sandbox.output(&make).await;
    let tar = download(&sandbox, "/work/out").await.unwrap();
    upload(&sandbox, "/work/copy/of/it", tar).await.unwrap();
    sandbox.output("diff -r --no-dereference out copy/of/it/out").await;
    let listing =
        "find . -type f -printf '%p %m %s\\n' -o -type l -printf '%p %l\\n' -o -printf '%p %m\\n' | sort";
    let one = sandbox.output(&format!("cd out && {listing}")).await;
    assert_eq!(one, sandbox.output(&format!("cd copy/of/it/out && {listing}")).await);
    assert_eq!(sandbox.output("stat -c %Y copy/of/it/out/random").await, "1000000");
    sandbox.destroy().await;
}

#[tokio::test]
async fn other_programs_read_and_write_the_same_format() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    let long = format!("{}/{}", "d".repeat(90), "e".repeat(60));
    sandbox
        .output(&format!("mkdir -p in/{long} && echo one > in/{long}/file && ln -s file in/{long}/link"))
        .await;
    for format in ["ustar", "gnu", "pax", "oldgnu"] {
        sandbox.output(&format!("tar --format={format} -cf {format}.tar in")).await;
        let tar = download(&sandbox, &format!("/work/{format}.tar")).await.unwrap();
        // What comes out is an archive with the one file in it, which is the archive that goes in.
        let size = tar.len() - 3 * 512;
        upload(&sandbox, &format!("/work/{format}"), tar[512..512 + size].to_vec()).await.unwrap();
        sandbox.output(&format!("diff -r --no-dereference in {format}/in")).await;
    }
    let ours = download(&sandbox, "/work/in").await.unwrap();
    upload(&sandbox, "/work/box", Made::new().file("ours.tar", &ours).end()).await.unwrap();
    sandbox.output("cd box && tar -xf ours.tar && diff -r --no-dereference in ../in").await;
    sandbox.destroy().await;
}

#[tokio::test]
async fn an_upload_of_many_pieces_is_one_archive() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    let content: Vec<u8> = (0..2_000_000_u32).map(|number| (number % 251) as u8).collect();
    let tar = Made::new().file("big", &content).end();
    let pieces: Vec<_> = tar.chunks(7_777).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    let pieces: ByteStream<'static> = Box::pin(futures_util::stream::iter(pieces));
    sandbox.instance.upload(&path("/work"), pieces).await.unwrap();
    let back = download(&sandbox, "/work/big").await.unwrap();
    assert_eq!(back[512..512 + content.len()], content);
    sandbox.destroy().await;
}

#[tokio::test]
async fn hostile_archives_are_refused_and_reach_nothing() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    sandbox.output("echo safe > outside; mkdir in").await;
    let cases: [(&str, Vec<u8>); 9] = [
        ("climbs", Made::new().file("../outside", b"hit").end()),
        ("climbs within", Made::new().file("a/../../outside", b"hit").end()),
        ("absolute", Made::new().file("/work/outside", b"hit").end()),
        ("through a link", Made::new().symlink("door", "..").file("door/outside", b"hit").end()),
        ("through an absolute link", Made::new().symlink("door", "/work").file("door/outside", b"hit").end()),
        ("hard link to outside", Made::new().hard_link("name", "../outside").file("name", b"hit").end()),
        ("hard link through a link", Made::new().symlink("door", "..").hard_link("n", "door/outside").end()),
        ("device", Made::new().special("disk", b'4').end()),
        ("pipe", Made::new().special("pipe", b'6').end()),
    ];
    for (name, tar) in cases {
        let error = refusal(upload(&sandbox, "/work/in", tar).await);
        assert_eq!(error.kind(), ErrorKind::Invalid, "{name}: {error:?}");
    }
    assert_eq!(sandbox.output("cat outside").await, "safe");
    sandbox.destroy().await;
}

#[tokio::test]
async fn links_are_replaced_and_not_followed() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    sandbox.output("echo safe > outside; mkdir in; ln -s ../outside in/file; ln -s .. in/folder").await;
    let tar = Made::new().file("file", b"new").folder("folder").file("folder/outside", b"new").end();
    upload(&sandbox, "/work/in", tar).await.unwrap();
    assert_eq!(sandbox.output("cat outside in/file in/folder/outside").await, "safe\nnewnew");
    sandbox.destroy().await;
}

#[tokio::test]
async fn privileges_do_not_travel() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    upload(&sandbox, "/work", Made::new().mode(0o6755).file("tool", b"x").end()).await.unwrap();
    assert_eq!(sandbox.output("stat -c %a tool").await, "755");
    sandbox.destroy().await;
}

#[tokio::test]
async fn what_is_no_archive_says_so() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    let whole = Made::new().file("file", &[7; 5_000]).end();
    for (name, tar) in [
        ("noise", vec![b'x'; 4_096]),
        ("cut short", whole[..3_000].to_vec()),
        ("cut in a header", whole[..100].to_vec()),
    ] {
        let error = refusal(upload(&sandbox, "/work/in", tar).await);
        assert_eq!(error.kind(), ErrorKind::Invalid, "{name}: {error:?}");
    }
    upload(&sandbox, "/work/in", Vec::new()).await.unwrap();
    sandbox.destroy().await;
}

#[tokio::test]
async fn a_full_sandbox_and_a_failing_stream_are_errors() {
    let rig = Rig::new();
    let sandbox = rig.sandbox_of(&spec().with_limits(Limits::default().with_disk(ByteSize::mib(1)))).await;
    let tar = Made::new().file("big", &vec![1; 3_000_000]).end();
    assert_eq!(refusal(upload(&sandbox, "/work", tar).await).kind(), ErrorKind::LimitExceeded);
    let broken: ByteStream<'static> = Box::pin(futures_util::stream::iter([
        Ok(Bytes::from_static(&[0; 100])),
        Err(Error::new(ErrorKind::TimedOut, "fetch")),
    ]));
    assert_eq!(refusal(sandbox.instance.upload(&path("/work"), broken).await).kind(), ErrorKind::TimedOut);
    sandbox.destroy().await;
}

#[tokio::test]
async fn places_that_are_not_the_jobs_are_refused() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    let tar = || Made::new().file("file", b"x").end();
    for place in ["/usr/new", "/proc/new"] {
        let error = refusal(upload(&sandbox, place, tar()).await);
        assert_eq!(error.kind(), ErrorKind::Invalid, "{place}");
        assert!(error.to_string().ends_with("choose one below /work or /tmp"), "{place}: {error}");
    }
    assert!(upload(&sandbox, "/proc/1", tar()).await.is_err());
    assert_eq!(refusal(download(&sandbox, "/work/missing").await).kind(), ErrorKind::NotFound);
    assert_eq!(refusal(download(&sandbox, "/no/such/folder").await).kind(), ErrorKind::NotFound);
    sandbox.destroy().await;
}

#[tokio::test]
async fn only_files_folders_and_links_come_out() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    sandbox
        .output("mkdir out && cd out && mkfifo pipe && ln -s /etc/passwd link && ln -s /dev/zero endless")
        .await;
    let tar = download(&sandbox, "/work/out").await.unwrap();
    upload(&sandbox, "/work/copy", tar).await.unwrap();
    assert_eq!(sandbox.output("cd copy/out && ls && readlink link").await, "endless\nlink\n/etc/passwd");
    sandbox.destroy().await;
}

#[tokio::test]
async fn a_file_that_changes_meanwhile_still_gives_an_archive() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    let writer = "mkdir out; echo up; while :; do echo more >> out/grows; : > out/shrinks; \
                  head -c 90000 /dev/zero > out/shrinks; mv out/grows out/moves; done";
    let mut process = sandbox.start(writer).await.unwrap();
    assert!(matches!(process.next().await.unwrap(), ProcessEvent::Output(..)));
    for round in 0..20 {
        let tar = download(&sandbox, "/work/out").await.unwrap();
        upload(&sandbox, &format!("/tmp/{round}"), tar).await.unwrap();
    }
    drop(process);
    sandbox.destroy().await;
}

#[tokio::test]
async fn a_file_that_becomes_a_pipe_is_not_waited_for() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    // renameat2(2) of both names in the working directory, with RENAME_EXCHANGE.
    let number = if cfg!(target_arch = "x86_64") { 316 } else { 276 };
    let swap = format!("syscall({number}, -100, $file, -100, $pipe, 2) == 0 or die $!");
    let writer = format!(
        "mkdir out && cd out && echo x > file && mkfifo pipe && \
         exec perl -e '$| = 1; ($file, $pipe) = qw(file pipe); print q(up); while (1) {{ {swap} }}'"
    );
    let mut process = sandbox.start(&writer).await.unwrap();
    assert!(matches!(process.next().await.unwrap(), ProcessEvent::Output(OutputStream::Stdout, _)));
    for _ in 0..200 {
        let packed = timeout(Duration::from_secs(10), download(&sandbox, "/work/out")).await;
        packed.expect("it waits for a writer").unwrap();
    }
    drop(process);
    sandbox.destroy().await;
}

#[tokio::test]
async fn a_reader_that_loses_interest_holds_nothing_up() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    sandbox.output("head -c 10000000 /dev/zero > big").await;
    let mut stream = sandbox.instance.download(&path("/work/big"));
    assert!(stream.next().await.unwrap().is_ok());
    drop(stream);
    assert_eq!(sandbox.output("echo alive").await, "alive");
    sandbox.destroy().await;
}

#[tokio::test]
async fn trees_that_are_too_deep_are_refused() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    sandbox.output("i=0; while [ $i -lt 300 ]; do mkdir d && cd d || exit 1; i=$((i+1)); done").await;
    assert_eq!(refusal(download(&sandbox, "/work/d").await).kind(), ErrorKind::LimitExceeded);
    sandbox.destroy().await;
}
