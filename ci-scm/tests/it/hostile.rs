//! Repositories that were made to do harm.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use ci_core::ErrorKind;

use crate::world::World;

/// A program that leaves a mark when it is run.
fn trap(world: &World) -> (PathBuf, PathBuf) {
    let (program, mark) = (world.folder.path().join("trap"), world.folder.path().join("mark"));
    fs::write(&program, format!("#!/bin/sh\n/usr/bin/touch {}\n", mark.display())).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    (program, mark)
}

#[tokio::test]
async fn nothing_that_a_repository_configures_runs() {
    let world = World::new().await;
    let commit = world.repository.commit(
        "main",
        &[
            (".gitattributes", "* filter=trap diff=trap merge=trap text\n"),
            ("f", "1"),
            (".gitconfig", "[core]\n"),
        ],
    );
    let (program, mark) = trap(&world);
    let program = program.to_str().unwrap();
    let included = world.folder.path().join("included");
    fs::write(&included, format!("[core]\n\tfsmonitor = {program}\n")).unwrap();
    for (name, value) in [
        ("core.fsmonitor", program),
        ("core.pager", program),
        ("core.editor", program),
        ("core.sshCommand", program),
        ("core.askPass", program),
        ("core.alternateRefsCommand", program),
        ("core.gitProxy", program),
        ("uploadpack.packObjectsHook", program),
        ("filter.trap.smudge", program),
        ("filter.trap.clean", program),
        ("filter.trap.process", program),
        ("filter.trap.required", "true"),
        ("diff.external", program),
        ("credential.helper", program),
        ("gpg.program", program),
        ("include.path", included.to_str().unwrap()),
        ("extensions.partialClone", "origin"),
        ("remote.origin.promisor", "true"),
        ("remote.origin.url", &format!("ext::{program}")),
        ("protocol.ext.allow", "always"),
    ] {
        world.repository.git(&["config", name, value]);
    }
    world.repository.git(&["config", "core.repositoryFormatVersion", "1"]);
    for hook in
        ["post-checkout", "reference-transaction", "post-index-change", "pre-auto-gc", "fsmonitor-watchman"]
    {
        let hook = world.repository.path().join("hooks").join(hook);
        fs::create_dir_all(hook.parent().unwrap()).unwrap();
        fs::copy(program, hook).unwrap();
    }
    for name in ["main", "HEAD", commit.as_str(), &"1".repeat(40)] {
        let _ = world.resolve(name).await;
    }
    assert_eq!(world.read(&commit, "f").await.unwrap(), "1");
    let files = world.check_out("main").await.unwrap();
    assert_eq!(fs::read_to_string(files.path().join("f")).unwrap(), "1");
    assert!(!mark.exists(), "the repository ran a program");
}

#[tokio::test]
async fn names_of_files_are_names() {
    let world = World::new().await;
    let blob = world.repository.blob(b"content");
    let names: [&[u8]; 6] = [b"--force", b"-rf", b"a\nb", b"a b$(id)", b"\xff\xfe", b"*"];
    let mut entries: Vec<_> = names.iter().map(|name| ("100644", *name, blob.as_str())).collect();
    entries.sort();
    world.repository.push("main", &world.repository.tree(&entries));
    let files = world.check_out("main").await.unwrap();
    for name in names {
        let path = files.path().join(std::ffi::OsStr::from_bytes(name));
        assert_eq!(fs::read(path).unwrap(), b"content", "{name:?}");
    }
}

#[tokio::test]
async fn a_link_leads_where_it_says_but_nothing_is_written_through_it() {
    let world = World::new().await;
    let outside = world.folder.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let link = world.repository.blob(outside.to_str().unwrap().as_bytes());
    world.repository.push("main", &world.repository.tree(&[("120000", b"link", &link)]));
    let files = world.check_out("main").await.unwrap();
    assert_eq!(fs::read_link(files.path().join("link")).unwrap(), outside);

    // The same name as a link and as a folder: what lies in the folder would be written through the link.
    let file = world.repository.blob(b"hostile");
    let folder = world.repository.tree(&[("100644", b"file", &file)]);
    let commit = world
        .repository
        .push("feature", &world.repository.tree(&[("120000", b"link", &link), ("040000", b"link", &folder)]));
    let _ = world.check_out(commit.as_str()).await;
    assert!(!outside.join("file").exists(), "a file was written outside");
}

#[tokio::test]
async fn trees_that_hold_a_git_folder_are_refused() {
    let world = World::new().await;
    let blob = world.repository.blob(b"[core]\n\tfsmonitor = id\n");
    let inner = world.repository.tree(&[("100644", b"config", &blob)]);
    for name in [&b".git"[..], b".GIT", b"git~1", ".g\u{200c}it".as_bytes(), b"..", b"."] {
        let tree = world.repository.tree(&[("040000", name, &inner)]);
        let commit = world.repository.push("main", &tree);
        let error = world.check_out_error(&commit).await;
        assert_eq!(error.kind(), ErrorKind::Invalid, "{name:?}: {error:?}");
        assert!(error.to_string().contains("git refuses a malformed object"), "{error}");
    }
}

#[tokio::test]
async fn submodules_with_hostile_urls_are_refused_or_left_alone() {
    let world = World::new().await;
    let (program, mark) = trap(&world);
    let other = world.repository.commit("other", &[("f", "1")]);
    for (url, is_refused) in [
        (format!("ext::{}", program.display()), false),
        ("--upload-pack=id".to_owned(), true),
        ("-u./trap".to_owned(), true),
        ("ssh://-oProxyCommand=id/x".to_owned(), true),
    ] {
        let modules =
            format!("[submodule \"m\"]\n\tpath = m\n\turl = {url}\n\tupdate = !{}\n", program.display());
        let modules = if is_refused { modules } else { modules.replace("update = !", "branch = ") };
        let modules = world.repository.blob(modules.as_bytes());
        let tree =
            world.repository.tree(&[("100644", b".gitmodules", &modules), ("160000", b"m", other.as_str())]);
        let commit = world.repository.push("main", &tree);
        let done = world.check_out(commit.as_str()).await;
        assert_eq!(done.is_err(), is_refused, "{url}");
        if let Ok(files) = done {
            assert_eq!(fs::read_dir(files.path().join("m")).unwrap().count(), 0);
        }
    }
    assert!(!mark.exists());
}

#[tokio::test]
async fn git_is_told_one_protocol_and_no_other() {
    let world = World::new().await;
    world.repository.commit("main", &[("f", "1")]);
    world.check_out("main").await.unwrap();
    let commands = world.backend.commands();
    assert!(!commands.is_empty());
    for command in commands {
        assert!(command.contains("protocol.allow=never"), "{command}");
        assert!(command.contains("protocol.file.allow=always"), "{command}");
        assert!(!command.contains("protocol.ssh.allow"), "{command}");
    }
}

#[tokio::test]
async fn a_reference_with_a_hostile_name_is_never_an_option() {
    let world = World::new().await;
    let commit = world.repository.commit("main", &[("f", "1")]);
    let refs = world.repository.path().join("packed-refs");
    let mut lines = fs::read_to_string(&refs).unwrap_or_default();
    for name in [
        "refs/heads/--upload-pack=id",
        "refs/heads/a b",
        "refs/heads/\u{202e}x",
        &format!("refs/heads/{}", vec!["x"; 1_000].join("/")),
    ] {
        writeln!(lines, "{commit} {name}").unwrap();
    }
    fs::write(&refs, lines).unwrap();
    assert!(ci_core::forge::RevisionName::parse("--upload-pack=id").is_err());
    assert_eq!(world.resolve("main").await.unwrap().commit(), &commit);
    let _ = world.resolve(commit.as_str()).await;
}

/// Git takes the repository of another user for a trap, unless it is told that it is in one.
#[tokio::test]
async fn a_repository_of_another_user_is_read() {
    let world = World::new().await;
    let commit = world.repository.commit("main", &[("f", "1")]);
    let path = world.repository.path().to_str().unwrap();
    let given =
        std::process::Command::new("chown").args(["-R", "65534", path]).stderr(Stdio::null()).status();
    if !given.unwrap().success() {
        let test = "a_repository_of_another_user_is_read";
        return ci_core::conformance::skip(test, "root", "only root gives files away");
    }
    assert_eq!(world.resolve("main").await.unwrap().commit(), &commit);
    assert_eq!(world.read(&commit, "f").await.unwrap(), "1");
    assert!(world.check_out("main").await.unwrap().path().join("f").exists());
}

#[test]
fn the_trap_works() {
    let folder = tempfile::tempdir().unwrap();
    let (program, mark) = (folder.path().join("trap"), folder.path().join("mark"));
    fs::write(&program, format!("#!/bin/sh\n/usr/bin/touch {}\n", mark.display())).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    assert!(std::process::Command::new("/bin/sh").arg(&program).status().unwrap().success());
    assert!(Path::new(&mark).exists());
}
