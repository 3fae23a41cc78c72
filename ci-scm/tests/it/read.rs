//! One file of an exact commit, before there is a job: of repositories that were made to do harm, too.

use ci_core::access::Read;
use ci_core::forge::{self, SourcePath};
use ci_core::memory::Rig;
use ci_core::trust::Trust;
use ci_core::{ByteSize, ErrorKind};

use crate::repository::Repository;
use crate::world::World;

#[tokio::test]
async fn a_pipeline_file_is_read_by_somebody_who_may_only_read() {
    let world = World::new().await;
    world.repository.commit("feature", &[(".ci.yml", "test: cargo test")]);
    let code = world.resolve("feature").await.unwrap();
    world.repository.commit("feature", &[(".ci.yml", "steal: everything")]);
    let reader = world.rig.grant::<Read>(&Rig::user("reader").unwrap(), code.repository()).await.unwrap();
    let (path, most) = (SourcePath::parse(".ci.yml").unwrap(), ByteSize::kib(64));
    let scope = reader.scope().unwrap();
    let read = forge::read(&world.git, scope, &world.sandboxes, &code, &path, most).await;
    assert_eq!(read.unwrap(), "test: cargo test");
    assert_eq!(world.backend.living(), 0, "a helper is left");
}

#[tokio::test]
async fn what_is_not_there_is_said_in_one_line() {
    let world = World::new().await;
    let commit = world.repository.commit("main", &[("file", "1"), ("script", "2")]);
    let about = format!("(repository: acme/git/app, commit: {commit}, path: ");
    for path in ["nothing", "file/below", "fil", "FILE", "a/b/c"] {
        let error = world.read(&commit, path).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{path}");
        let why = "read a file of a commit: there is no such file in the commit";
        assert_eq!(error.to_string(), format!("{why} {about}{path})"));
    }
    let error = world.read_within(&commit, "file", ByteSize::bytes(0)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "read a file of a commit: the file is larger than allowed (size: 1 B, limit: 0 B, {}file)",
            &about[1..]
        )
    );
}

#[tokio::test]
async fn a_file_of_any_mode_and_any_byte_is_read() {
    let world = World::new().await;
    let repository = &world.repository;
    let blob = repository.blob("a\0b\r\nä".as_bytes());
    let tree = repository.tree(&[("100644", b"plain", &blob), ("100755", b"script", &blob)]);
    let commit = repository.push("main", &tree);
    for path in ["plain", "script"] {
        assert_eq!(world.read(&commit, path).await.unwrap(), "a\0b\r\nä", "{path}");
    }
    let empty = repository.commit("main", &[("empty", "")]);
    assert_eq!(world.read_within(&empty, "empty", ByteSize::bytes(0)).await.unwrap(), "");
}

#[tokio::test]
async fn a_commit_that_no_branch_leads_to_is_read_while_it_is_there() {
    let world = World::new().await;
    let repository = &world.repository;
    let tree = repository.tree_at(".ci.yml", "100644", &repository.blob(b"of a fork"));
    let stray = repository.stray(&tree, None);
    assert_eq!(world.resolve(stray.as_str()).await.unwrap().trust(), Trust::Untrusted);
    assert_eq!(world.read(&stray, ".ci.yml").await.unwrap(), "of a fork");
    repository.git(&["prune", "--expire=now"]);
    let error = world.read(&stray, ".ci.yml").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("there is no such commit in the repository"), "{error}");
}

#[tokio::test]
async fn only_a_commit_is_a_commit() {
    let world = World::new().await;
    let repository = &world.repository;
    let commit = repository.commit("main", &[("f", "1")]);
    repository.git(&["tag", "-a", "-m", "a tag", "v1", commit.as_str()]);
    for name in ["v1", "main^{tree}", "main:f"] {
        let object = repository.git(&["rev-parse", name]).parse().unwrap();
        let error = world.read(&object, "f").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{name}");
        assert!(error.to_string().contains("the object with that id is not a commit"), "{error}");
    }
}

/// The target is in the commit, beside it, on the machine, and nowhere.
#[tokio::test]
async fn a_link_is_not_followed_wherever_it_stands() {
    let world = World::new().await;
    let repository = &world.repository;
    let outside = world.folder.path().join("outside");
    std::fs::write(&outside, "of the machine").unwrap();
    let file = repository.blob(b"of the commit");
    let folder = repository.tree(&[("100644", b"file", &file)]);
    for target in ["folder", "folder/file", outside.to_str().unwrap(), "../../app.git/HEAD", "nowhere", ""] {
        let link = repository.blob(target.as_bytes());
        let tree = repository.tree(&[("040000", b"folder", &folder), ("120000", b"link", &link)]);
        let commit = repository.push("main", &tree);
        let error = world.read(&commit, "link").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{target}");
        assert!(error.to_string().contains("it is a symbolic link, which is not followed"), "{error}");
        assert_eq!(world.read(&commit, "link/file").await.unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(world.read(&commit, "folder/file").await.unwrap(), "of the commit");
    }
}

#[tokio::test]
async fn a_folder_and_a_submodule_are_named() {
    let world = World::new().await;
    let repository = &world.repository;
    let file = repository.blob(b"1");
    let folder = repository.tree(&[("100644", b"file", &file)]);
    let tree = repository.tree(&[("040000", b"folder", &folder), ("160000", b"module", &"5".repeat(40))]);
    let commit = repository.push("main", &tree);
    for (path, why) in [("folder", "it is a folder; name a file in it"), ("module", "it is a submodule, ")] {
        let error = world.read(&commit, path).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{path}");
        assert!(error.to_string().contains(why), "{error}");
    }
    assert_eq!(world.read(&commit, "module/file").await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_huge_file_is_refused_without_being_read() {
    let world = World::new().await;
    let huge = "x".repeat(8 * 1024 * 1024);
    let commit = world.repository.commit("main", &[("huge", &huge)]);
    let one_less = ByteSize::bytes(huge.len() as u64 - 1);
    let error = world.read_within(&commit, "huge", one_less).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitExceeded);
    assert!(!world.backend.commands().iter().any(|command| command.contains("cat-file blob")));
    let read = world.read_within(&commit, "huge", ByteSize::bytes(huge.len() as u64)).await.unwrap();
    assert!(read == huge, "a limit of the caller's own is the only one");
}

/// What the product hands in as a path may come from outside as well.
#[tokio::test]
async fn a_hostile_path_does_not_get_as_far_as_git() {
    let world = World::new().await;
    let commit = world.repository.commit("main", &[("f", "1")]);
    for path in
        ["--output=f", "-f", "f\n", "f\0", "../f", "/f", "./f", "f/", ".git/config", "x/.GIT/config", ""]
    {
        assert_eq!(world.read(&commit, path).await.unwrap_err().kind(), ErrorKind::Invalid, "{path:?}");
    }
    assert_eq!(world.backend.commands(), Vec::<String>::new());
}

#[tokio::test]
async fn hostile_names_beside_the_file_change_nothing() {
    let world = World::new().await;
    let repository = &world.repository;
    let (wanted, other) = (repository.blob(b"wanted"), repository.blob(b"other"));
    let names: [&[u8]; 7] = [b"--", b"--help", b"*", b"f\ng", b"f\tx", b"f g", b"\xff"];
    let mut entries: Vec<_> = names.iter().map(|name| ("100644", *name, other.as_str())).collect();
    entries.push(("100644", b"f", &wanted));
    entries.sort_by_key(|(_, name, _)| *name);
    let inner = repository.tree(&entries);
    let commit =
        repository.push("main", &repository.tree(&[("040000", b"-C", &inner), ("100644", b"f", &wanted)]));
    let commit_of_inner = repository.push("main", &inner);
    assert_eq!(world.read(&commit_of_inner, "f").await.unwrap(), "wanted");
    assert_eq!(world.read(&commit_of_inner, "*").await.unwrap(), "other");
    assert_eq!(world.read(&commit_of_inner, "?").await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(world.read(&commit, "f/-C").await.unwrap_err().kind(), ErrorKind::NotFound);
}

/// A name that begins like an option stands behind a folder's.
#[tokio::test]
async fn a_name_like_an_option_is_a_name() {
    let world = World::new().await;
    let repository = &world.repository;
    let blob = repository.blob(b"1");
    for path in ["ci/--help", "ci/-rf", "ci/--/file", "ci/:(top)f", "ci/:/f"] {
        let commit = repository.push("main", &repository.tree_at(path, "100644", &blob));
        assert_eq!(world.read(&commit, path).await.unwrap(), "1", "{path}");
    }
}

/// No `git` writes such trees, but whoever pushes can: what they mean depends on who reads them.
#[tokio::test]
async fn a_tree_with_two_meanings_is_refused() {
    let world = World::new().await;
    let repository = &world.repository;
    let (one, two) = (repository.blob(b"one"), repository.blob(b"two"));
    let inner = repository.tree(&[("100644", b"f", &one)]);
    for (entries, path, expected) in [
        (vec![("100644", &b"f"[..], &one), ("100644", b"f", &two)], "f", ErrorKind::Invalid),
        (vec![("120000", b"f", &one), ("100644", b"f", &two)], "f", ErrorKind::Invalid),
        (vec![("120000", b"d", &one), ("40000", b"d", &inner)], "d/f", ErrorKind::Invalid),
        (vec![("100644", b"d/f", &one)], "d/f", ErrorKind::NotFound),
        (vec![("40000", b"d/e", &inner)], "d/e/f", ErrorKind::NotFound),
        (vec![("0", b"f", &one)], "f", ErrorKind::Invalid),
        (vec![("100644", b"f", &inner)], "f", ErrorKind::Invalid),
        (vec![("40000", b"d", &one)], "d/f", ErrorKind::Invalid),
    ] {
        let entries: Vec<_> = entries.into_iter().map(|(mode, name, id)| (mode, name, id.as_str())).collect();
        let commit = repository.stray(&repository.raw_tree(&entries), None);
        let read = world.read(&commit, path).await;
        assert_eq!(read.map_err(|error| error.kind()), Err(expected), "{entries:?}");
    }
}

#[tokio::test]
async fn another_hash_function_works() {
    let folder = tempfile::tempdir().unwrap();
    let repository = Repository::with_format(folder.path().join("app.git"), "sha256");
    let url = format!("file://{}", repository.path().display());
    let world = World::at(folder, repository, &url).await;
    let tree = world.repository.tree_at("ci/f", "100644", &world.repository.blob(b"1"));
    let commit = world.repository.push("main", &tree);
    assert_eq!(world.read(&commit, "ci/f").await.unwrap(), "1");
}
