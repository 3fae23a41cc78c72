//! Images and layers of an enemy.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use ci_core::ErrorKind;
use ci_core::id::SandboxId;
use ci_core::sandbox::{Backend as _, Spec};
use ci_sandbox::native::{ImageSource, Native};

use crate::images::{Layers, config, gzip, name, programs, refused, rig, write_folder};
use crate::support::{Rig, is_root, path, refusal};
use crate::tar::Made;

/// Unpacks an image of one layer over the programs that a shell needs, and returns the backend.
fn with_layer(layer: Made) -> Rig {
    let folder = tempfile::tempdir().unwrap();
    let (base, layer) = (programs().end(), layer.end());
    write_folder(&Layers::new([(gzip(&base), base), (layer.clone(), layer)]).files("a"), folder.path());
    rig(ImageSource::oci_layout(folder.path()))
}

#[tokio::test]
async fn whatever_stands_where_the_sandbox_has_its_own_is_covered() {
    // CVE-2019-19921, CVE-2023-27561, CVE-2025-31133, CVE-2025-52565, CVE-2025-52881, CVE-2026-41579.
    let own = ["dev", "home", "proc", "run", "tmp", "work"];
    let targets = ["/etc", "/proc/self/attr", "../../../../etc", "/proc/1/root/etc", "/nowhere", "proc", "."];
    for target in targets {
        let linked = own.iter().fold(Made::new(), |made, name| made.symlink(name, target));
        check_own_folders(&with_layer(linked), target).await;
    }
    let files = own.iter().fold(Made::new(), |made, name| made.file(name, b"a file"));
    check_own_folders(&with_layer(files), "a file").await;
    // What is in them is not what it seems.
    let inside = Made::new()
        .mode(0o777)
        .file("dev/null", b"no device")
        .symlink("dev/pts", "/etc")
        .symlink("dev/shm", "/etc")
        .symlink("dev/console", "/etc/passwd")
        .symlink("dev/fd", "/etc")
        .file("proc/self/attr/exec", b"")
        .file("proc/sys/kernel/hostname", b"forged\n")
        .file("home/ci/.profile", b"")
        .file("work/left", b"")
        .file("tmp/left", b"");
    check_own_folders(&with_layer(inside), "inside").await;
}

async fn check_own_folders(rig: &Rig, case: &str) {
    let sandbox = rig.sandbox_of(&Spec::new(name())).await;
    let output = async |script: &str| (case.to_owned(), sandbox.output(script).await);
    let expect = |expected: &str| (case.to_owned(), expected.to_owned());
    let own = "/dev /dev/shm /home /run /tmp /work";
    assert_eq!(output(&format!("stat -f -c %T {own}")).await, expect(&["tmpfs"; 6].join("\n")));
    assert_eq!(output("stat -f -c %T /proc /proc/sys /dev/pts").await, expect("proc\nproc\ndevpts"));
    assert_eq!(output("stat -c %F:%t:%T /dev/null").await, expect("character special file:1:3"));
    assert_eq!(output("cat /proc/sys/kernel/hostname").await, expect("sandbox"));
    assert_eq!(
        output("ls -A /home/ci /work /tmp /run").await,
        expect("/home/ci:\n\n/run:\nsecrets\n\n/tmp:\n\n/work:")
    );
    assert_eq!(output("cat /proc/cmdline /proc/keys 2>&1").await, expect(""));
    assert!(!sandbox.run("echo x > /proc/sys/kernel/core_pattern").await.exit.status.is_success());
    sandbox.destroy().await;
}

#[tokio::test]
async fn links_of_a_folder_lead_nowhere_but_inside() {
    let root = tempfile::tempdir().unwrap();
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let canary = tempfile::tempdir().unwrap();
    fs::set_permissions(canary.path(), fs::Permissions::from_mode(0o777)).unwrap();
    for name in ["etc", "var", "sys", "dev", "opt"] {
        symlink(canary.path(), root.path().join(name)).unwrap();
    }
    let state = tempfile::tempdir().unwrap();
    let native = Native::new(config(state.path(), ImageSource::Directory(root.path().into()))).unwrap();
    let id = SandboxId::random();
    drop(native.create(&id, &Spec::new(name())).await.unwrap());
    assert!(native.destroy(&id).await.unwrap().is_empty());
    // A folder of the host is not attached through one.
    let spec = Spec::new(name()).with_host_folder_read_only(path("/opt/source"), canary.path());
    let error = refusal(native.create(&SandboxId::random(), &spec).await);
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
    assert_eq!(fs::read_dir(canary.path()).unwrap().count(), 0);
}

#[test]
fn layers_that_reach_out_are_refused() {
    let cases = [
        ("absolute", Made::new().file("/etc/x", b"")),
        ("parent", Made::new().file("a/../../x", b"")),
        ("hard link climbs", Made::new().hard_link("a", "../../etc/passwd")),
        ("hard link absolute", Made::new().hard_link("a", "/etc/passwd")),
        ("hard link to nothing", Made::new().hard_link("a", "b")),
        ("hard link to a folder", Made::new().folder("b").hard_link("a", "b")),
        ("whiteout of the folder", Made::new().file("a/.wh..", b"")),
        ("whiteout of the parent", Made::new().file("a/.wh...", b"")),
        ("whiteout of nothing", Made::new().file("a/.wh.", b"")),
        ("through a file", Made::new().file("a", b"").file("a/b", b"")),
        ("through a link to nowhere", Made::new().symlink("a", "nowhere").file("a/b", b"")),
        ("through a circle", Made::new().symlink("a", "b").symlink("b", "a").file("a/b", b"")),
        ("sparse", Made::new().special("a", b'S')),
    ];
    for (case, layer) in cases {
        let layer = layer.end();
        let folder = tempfile::tempdir().unwrap();
        // Whiteouts take effect only where there is a folder.
        let base = Made::new().folder("a").end();
        let layers = if case.starts_with("whiteout") { vec![base, layer] } else { vec![layer] };
        write_folder(&Layers::plain(layers).files("a"), folder.path());
        let error = refused(ImageSource::oci_layout(folder.path()));
        assert_eq!(error.kind(), ErrorKind::Invalid, "{case}: {error:?}");
    }
    for (case, layer) in [("no archive", vec![1; 1024]), ("cut short", programs().end()[..5_000].to_vec())] {
        let folder = tempfile::tempdir().unwrap();
        write_folder(&Layers::plain([layer]).files("a"), folder.path());
        let error = refused(ImageSource::oci_layout(folder.path()));
        assert_eq!(error.kind(), ErrorKind::Invalid, "{case}: {error:?}");
    }
}

/// What a layer says is done inside of the image, and never outside.
#[tokio::test]
async fn layers_cannot_reach_out_through_links() {
    let canary = tempfile::tempdir().unwrap();
    fs::set_permissions(canary.path(), fs::Permissions::from_mode(0o777)).unwrap();
    fs::write(canary.path().join("here"), "untouched").unwrap();
    let outside = canary.path().to_str().unwrap();
    let inside = outside.trim_start_matches('/');
    let climb = format!("../../../../../../../../../..{outside}");
    let layer = Made::new()
        .folder(inside)
        .symlink("absolute", outside)
        .symlink("climbing", &climb)
        .file("absolute/one", b"1")
        .file("climbing/two", b"2")
        .file("absolute/here", b"3")
        .hard_link("absolute/link", "climbing/two")
        .file("absolute/.wh.here", b"")
        .file("climbing/.wh..wh..opq", b"")
        // In place of a link, and not through it.
        .symlink("replaced", &format!("{outside}/here"))
        .file("replaced", b"a file")
        .symlink("folder", outside)
        .folder("folder");
    let rig = with_layer(layer);
    let outside_now: Vec<_> =
        fs::read_dir(canary.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(outside_now, ["here"]);
    assert_eq!(fs::read_to_string(canary.path().join("here")).unwrap(), "untouched");
    let metadata = fs::metadata(canary.path()).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o777, 0o777);
    let sandbox = rig.sandbox_of(&Spec::new(name())).await;
    assert_eq!(sandbox.output("cat /replaced; stat -c ' %F' /folder").await, "a file directory");
    sandbox.destroy().await;
}

#[test]
fn an_image_of_any_depth_is_removed_again() {
    // Each round starts at the end of the last one, through a link: far deeper than any path can say.
    let below = "d/".repeat(40);
    let mut layer = Made::new().folder("l0");
    for round in 0..60 {
        layer = layer
            .folder(&format!("l{round}/{}", below.trim_end_matches('/')))
            .symlink(&format!("l{}", round + 1), &format!("l{round}/{}", below.trim_end_matches('/')));
    }
    let (folder, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let hide = Made::new().file(".wh.l0", b"").file("bin/x", b"").end();
    write_folder(&Layers::plain([layer.end(), hide]).files("a"), folder.path());
    let made = Native::new(config(state.path(), ImageSource::oci_layout(folder.path())));
    // The kernel follows forty links in one path and no more.
    let error = refusal(made);
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
    let left = fs::read_dir(state.path().join("images")).unwrap().map(|entry| entry.unwrap().path());
    assert!(left.into_iter().all(|path| Path::new(&path).is_file()));
}

#[tokio::test]
async fn privileges_do_not_come_with_an_image() {
    let rig = with_layer(
        Made::new()
            .mode(0o6755)
            .file("bin/privileged", b"#!/bin/sh\n")
            .mode(0o2777)
            .folder("group")
            .special("bin/disk", b'4')
            .special("bin/memory", b'3')
            .special("bin/pipe", b'6'),
    );
    let sandbox = rig.sandbox_of(&Spec::new(name())).await;
    assert_eq!(sandbox.output("stat -c %a /bin/privileged /group").await, "755\n777");
    assert!(!sandbox.run("ls /bin/disk || ls /bin/memory || ls /bin/pipe").await.exit.status.is_success());
    sandbox.destroy().await;
    assert!(is_root() || rig.entries() == 0);
}
