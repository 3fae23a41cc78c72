//! What names mean, and how far what they mean is trusted.

use ci_core::ErrorKind;
use ci_core::trust::Trust;

use crate::repository::Repository;
use crate::world::World;

#[tokio::test]
async fn names_mean_exact_commits() {
    let world = World::new().await;
    let repository = &world.repository;
    let first = repository.commit("main", &[("f", "1")]);
    repository.git(&["tag", "-a", "-m", "a tag", "v1", first.as_str()]);
    repository.git(&["tag", "light", first.as_str()]);
    let second = repository.commit("main", &[("f", "2")]);
    for (name, commit, reference) in [
        ("main", &second, Some("refs/heads/main")),
        ("refs/heads/main", &second, Some("refs/heads/main")),
        ("HEAD", &second, Some("refs/heads/main")),
        ("v1", &first, Some("refs/tags/v1")),
        ("light", &first, Some("refs/tags/light")),
        ("refs/tags/v1", &first, Some("refs/tags/v1")),
        (first.as_str(), &first, None),
    ] {
        let code = world.resolve(name).await.unwrap();
        assert_eq!(code.commit(), commit, "{name}");
        assert_eq!(code.reference().map(ToString::to_string).as_deref(), reference, "{name}");
    }
}

#[tokio::test]
async fn trust_follows_from_where_a_commit_lies() {
    let world = World::new().await;
    let repository = &world.repository;
    let main = repository.commit("main", &[("f", "1")]);
    let feature = repository.commit("feature", &[("f", "2")]);
    repository.commit("release/1", &[("f", "3")]);
    repository.commit("releases/1", &[("f", "4")]);
    repository.git(&["tag", "official", feature.as_str()]);
    repository.git(&["tag", "refs-tag", main.as_str()]);
    let tree = repository.tree(&[]);
    let stray = repository.stray(&tree, Some(main.as_str()));
    repository.git(&["update-ref", "refs/pull/1/head", stray.as_str()]);
    for (name, trust) in [
        ("main", Trust::Protected),
        ("feature", Trust::Trusted),
        ("release/1", Trust::Protected),
        ("releases/1", Trust::Trusted),
        ("official", Trust::Protected),
        ("refs-tag", Trust::Trusted),
        (main.as_str(), Trust::Protected),
        (feature.as_str(), Trust::Protected),
        (stray.as_str(), Trust::Untrusted),
    ] {
        assert_eq!(world.resolve(name).await.unwrap().trust(), trust, "{name}");
    }
    assert_eq!(world.resolve("refs/pull/1/head").await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_branch_goes_before_a_tag_and_a_commit_before_both() {
    let world = World::new().await;
    let repository = &world.repository;
    let (one, two) = (repository.commit("one", &[("f", "1")]), repository.commit("two", &[("f", "2")]));
    repository.git(&["tag", "one", two.as_str()]);
    // `git branch` refuses such a name, a push does not.
    repository.git(&["update-ref", &format!("refs/heads/{one}"), two.as_str()]);
    assert_eq!(world.resolve("one").await.unwrap().commit(), &one);
    assert_eq!(world.resolve(one.as_str()).await.unwrap().commit(), &one);
}

/// `git rev-parse refs/heads/release/1` would find the tag.
#[tokio::test]
async fn a_tag_cannot_stand_in_for_a_protected_branch() {
    let world = World::new().await;
    let commit = world.repository.commit("feature", &[("f", "1")]);
    world.repository.git(&["update-ref", "refs/tags/refs/heads/release/1", commit.as_str()]);
    world.repository.git(&["update-ref", "refs/heads/refs/heads/release/1", commit.as_str()]);
    world.repository.git(&["update-ref", "refs/heads/release/1/x", commit.as_str()]);
    for name in ["release/1", "refs/heads/release/1"] {
        assert_eq!(world.resolve(name).await.unwrap_err().kind(), ErrorKind::NotFound, "{name}");
    }
}

/// Anybody who can push can push `refs/replace/*`.
#[tokio::test]
async fn a_replaced_commit_is_no_part_of_a_protected_history() {
    let world = World::new().await;
    let repository = &world.repository;
    let main = repository.commit("main", &[("f", "1")]);
    let tree = repository.tree(&[]);
    let stray = repository.stray(&tree, None);
    let liar = repository.stray(&tree, Some(stray.as_str()));
    repository.git(&["update-ref", &format!("refs/replace/{main}"), liar.as_str()]);
    assert_eq!(world.resolve(stray.as_str()).await.unwrap().trust(), Trust::Untrusted);
}

#[tokio::test]
async fn what_is_not_there_is_said_in_one_line() {
    let world = World::new().await;
    let commit = world.repository.commit("main", &[("f", "1")]);
    let blob = world.repository.blob(b"not a commit");
    world.repository.git(&["tag", "blob", &blob]);
    let none = "there is no branch or tag of that name, and no commit with that full id; check it, and whether it \
                was pushed";
    for (name, why) in [
        ("nothing", none),
        (&commit.as_str()[..10], none),
        (&"1".repeat(40), none),
        (&"1".repeat(64), none),
        (&"x".repeat(255), none),
        ("blob", "the tag does not name a commit"),
        (&blob, "the object with that id is not a commit"),
    ] {
        let error = world.resolve(name).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{name}");
        assert!(error.to_string().starts_with(&format!("resolve a revision: {why} (")), "{error}");
        assert!(!error.to_string().contains('\n'));
    }
}

#[tokio::test]
async fn an_empty_a_broken_and_a_moved_repository_are_told_apart() {
    let world = World::new().await;
    for name in ["main", "HEAD", &"1".repeat(40)] {
        let error = world.resolve(name).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{name}");
        assert_eq!(
            error.to_string(),
            format!(
                "resolve a revision: the repository has no commits yet; commit something and push it \
                 (name: {name}, repository: acme/git/app)"
            )
        );
    }
    world.repository.commit("other", &[("f", "1")]);
    let unborn = world.resolve("HEAD").await.unwrap_err();
    assert_eq!(unborn.kind(), ErrorKind::NotFound);
    assert!(
        unborn.to_string().contains("the branch of the repository's HEAD has no commits; name a"),
        "{unborn}"
    );
    assert!(world.resolve("main").await.unwrap_err().to_string().contains("no branch or tag of that name"));

    let path = world.repository.path();
    std::fs::rename(path, world.folder.path().join("elsewhere")).unwrap();
    let moved = world.resolve("main").await.unwrap_err();
    assert_eq!(
        moved.to_string(),
        "open a repository: there is no git repository at the configured URL; check whether it was moved \
         (repository: acme/git/app)"
    );

    std::fs::create_dir(path).unwrap();
    for name in ["main", "HEAD", &"1".repeat(40)] {
        let error = world.resolve(name).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{name}");
        assert!(error.to_string().contains("there is no git repository at the configured URL"), "{error}");
        assert!(!error.to_string().contains(&*path.display().to_string()), "a tenant reads no path: {error}");
    }
}

#[tokio::test]
async fn a_repository_of_another_hash_function_works() {
    let folder = tempfile::tempdir().unwrap();
    let repository = Repository::with_format(folder.path().join("app.git"), "sha256");
    let url = format!("file://{}", repository.path().display());
    let world = World::at(folder, repository, &url).await;
    let commit = world.repository.commit("main", &[("f", "1")]);
    assert_eq!(commit.as_str().len(), 64);
    assert_eq!(world.resolve("main").await.unwrap().commit(), &commit);
    let files = world.check_out("main").await.unwrap();
    assert_eq!(std::fs::read_to_string(files.path().join("f")).unwrap(), "1");
}

/// A working copy is a repository too.
#[tokio::test]
async fn a_repository_with_a_working_tree_works() {
    let world = World::new().await;
    let commit = world.repository.commit("main", &[("f", "1")]);
    let copy = world.folder.path().join("copy");
    world.repository.git(&["clone", "--quiet", "--no-local", ".", copy.to_str().unwrap()]);
    std::fs::remove_dir_all(world.repository.path()).unwrap();
    std::fs::rename(copy, world.repository.path()).unwrap();
    assert_eq!(world.resolve("main").await.unwrap().commit(), &commit);
    assert!(world.check_out("main").await.unwrap().path().join("f").exists());
}
