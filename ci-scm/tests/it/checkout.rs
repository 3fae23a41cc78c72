//! What a job finds in its folder.

use std::fs;
use std::process::Command;
use std::time::Duration;

use ci_core::ErrorKind;
use ci_core::forge::Source as _;
use ci_core::job::Submodules;
use ci_core::memory::Rig;
use ci_core::sandbox::Guarantee;
use ci_scm::git::{Depth, Git, HelperOptions};

use crate::world::{World, options};

fn git(folder: &std::path::Path, arguments: &[&str]) -> String {
    let mut command = Command::new("git");
    let command = command.args(["-c", "safe.directory=*"]).args(arguments).current_dir(folder);
    let output =
        command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

#[tokio::test]
async fn the_exact_commit_although_the_branch_moved() {
    let world = World::new().await;
    let first = world.repository.commit("main", &[("f", "1"), ("only-in-the-first", "")]);
    let claim = world.claim("main").await;
    world.repository.commit("main", &[("f", "2")]);
    let files = world.check_out_by(&claim).await.unwrap();
    assert_eq!(fs::read_to_string(files.path().join("f")).unwrap(), "1");
    assert!(files.path().join("only-in-the-first").exists());
    assert_eq!(git(files.path(), &["rev-parse", "HEAD"]), first.as_str());
    assert_eq!(git(files.path(), &["status", "--porcelain"]), "");
}

#[tokio::test]
async fn the_git_folder_names_no_server_no_machine_and_no_program() {
    let world = World::new().await;
    world.repository.commit("main", &[("f", "1")]);
    let files = world.check_out("main").await.unwrap();
    let config = fs::read_to_string(files.path().join(".git/config")).unwrap();
    for word in ["remote", "url", "repository =", "credential", "filter", "hooks"] {
        assert!(!config.contains(word), "{config}");
    }
    for absent in ["hooks", "FETCH_HEAD", "logs", "description", "info/alternates"] {
        assert!(!files.path().join(".git").join(absent).exists(), "{absent}");
    }
    assert_eq!(git(files.path(), &["remote"]), "");
    assert_eq!(git(files.path(), &["branch", "--show-current"]), "");
}

#[tokio::test]
async fn history_is_as_deep_as_the_operator_says() {
    let mut world = World::new().await;
    for content in ["1", "2", "3"] {
        world.repository.commit("main", &[("f", content)]);
    }
    world.repository.git(&["tag", "-a", "-m", "a tag", "v1", "main~2"]);
    let count = async |world: &World| {
        let files = world.check_out("main").await.unwrap();
        (git(files.path(), &["rev-list", "--count", "HEAD"]), files)
    };
    assert_eq!(count(&world).await.0, "1");
    world.git = world.git.with_options(options().with_depth(Depth::Last(2.try_into().unwrap())));
    assert_eq!(count(&world).await.0, "2");
    world.git = world.git.with_options(options().with_depth(Depth::Full));
    let (commits, files) = count(&world).await;
    assert_eq!(commits, "3");
    assert!(git(files.path(), &["describe"]).starts_with("v1-2-g"));
}

#[tokio::test]
async fn submodules_are_refused_and_not_left_out() {
    let world = World::new().await;
    world.repository.commit("main", &[("f", "1")]);
    let mut spec = Rig::spec();
    spec.submodules = Submodules::CheckedOut;
    let claim = world.claim_with("main", spec).await;
    let error = world.check_out_by(&claim).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("whoever wrote the commit chose their URLs"), "{error}");
}

#[tokio::test]
async fn a_commit_that_is_gone_is_not_found() {
    let world = World::new().await;
    world.repository.commit("main", &[("f", "1")]);
    let gone = world.repository.commit("feature", &[("f", "2")]);
    let claim = world.claim("feature").await;
    world.repository.git(&["update-ref", "-d", "refs/heads/feature"]);
    world.repository.git(&["prune", "--expire=now"]);
    let error = world.check_out_by(&claim).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(
        error.to_string(),
        format!("check out a commit: the commit is no longer in the repository (commit: {gone})")
    );
}

#[tokio::test]
async fn a_claim_that_ends_during_the_checkout_puts_nothing_into_the_job() {
    let world = World::new().await;
    world.repository.commit("main", &[("f", "1")]);
    let claim = world.claim("main").await;
    let job = world.job(&claim).await;
    world.rig.clock.advance(Duration::from_mins(10));
    let error = world.git.checkout(&claim, &world.sandboxes, &job).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced);
    assert_eq!(world.backend.living(), 1);
}

#[tokio::test]
async fn a_backend_that_does_not_isolate_gets_no_hostile_repository() {
    let mut world = World::new().await;
    world.repository.commit("main", &[("f", "1")]);
    world.git = Git::new(world.access.clone());
    let error = world.resolve("main").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(HelperOptions::default().minimum.contains(&Guarantee::Firewalled));
}

#[tokio::test]
async fn a_git_that_hangs_is_ended() {
    let mut world = World::new().await;
    world.repository.commit("main", &[("f", "1")]);
    let claim = world.claim("main").await;
    let bin = world.folder.path().join("bin");
    fs::create_dir(&bin).unwrap();
    fs::write(bin.join("git"), "#!/bin/sh\nexec /bin/sleep 600\n").unwrap();
    fs::set_permissions(bin.join("git"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let slow = options().with_path(bin.to_str().unwrap()).with_deadline(Duration::from_millis(200));
    world.git = world.git.with_options(slow);
    assert_eq!(world.check_out_by(&claim).await.unwrap_err().kind(), ErrorKind::TimedOut);
}

#[tokio::test]
async fn an_image_without_git_is_named() {
    let mut world = World::new().await;
    world.git = world.git.with_options(options().with_path("/nonexistent"));
    let error = world.resolve("main").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "prepare a helper: the helper's image has no git; choose another image (image: host, repository: acme/git/app)"
    );
}
