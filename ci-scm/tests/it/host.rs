//! What holds for `git` on the host, whatever it does.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use ci_core::ErrorKind;
use ci_scm::git::{Fetcher as _, HostFetcher, HostFetcherOptions, Protocols, RemoteUrl, Want};
use tempfile::TempDir;

/// A fetcher whose `git` is this script, and its folder.
fn scripted(script: &str) -> (HostFetcher, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let git = folder.path().join("git");
    fs::write(&git, format!("#!/bin/sh\nhere={}\n{script}\n", folder.path().display())).unwrap();
    fs::set_permissions(&git, fs::Permissions::from_mode(0o755)).unwrap();
    let options = HostFetcherOptions::default()
        .with_path(format!("{}:/usr/bin:/bin", folder.path().display()))
        .with_deadline(Duration::from_secs(3))
        .with_credential("forge.example", "ci", "hunter2".into());
    let fetcher = HostFetcher::new(folder.path().join("fetched"), options).unwrap();
    (fetcher, folder)
}

async fn fetch(fetcher: &HostFetcher) -> ci_core::Error {
    let url = RemoteUrl::parse("https://forge.example/app.git", &Protocols::default()).unwrap();
    fetcher.fetch(&url, &Want::Tips).await.map(drop).unwrap_err()
}

fn is_running(pid: &str) -> bool {
    let status = fs::read_to_string(Path::new("/proc").join(pid.trim()).join("stat")).unwrap_or_default();
    // A process that has ended and was not yet collected runs no more.
    status.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}

#[tokio::test]
async fn what_git_started_ends_with_its_deadline() {
    let (fetcher, folder) = scripted("sleep 600 & echo $! > $here/child; echo $$ > $here/own; wait");
    assert_eq!(fetch(&fetcher).await.kind(), ErrorKind::TimedOut);
    for name in ["child", "own"] {
        let pid = fs::read_to_string(folder.path().join(name)).unwrap();
        let asked = Instant::now();
        while is_running(&pid) {
            assert!(asked.elapsed() < Duration::from_secs(10), "{name} still runs");
            std::thread::yield_now();
        }
    }
    assert_eq!(fs::read_dir(folder.path().join("fetched")).unwrap().count(), 1, "the lock and nothing else");
}

#[tokio::test]
async fn it_sees_no_variable_of_this_process_and_no_token_in_its_arguments() {
    let (fetcher, folder) = scripted(
        "tr '\\0' '\\n' < /proc/$$/environ > $here/variables; echo \"$@\" > $here/arguments; exit 1",
    );
    fetch(&fetcher).await;
    let variables = fs::read_to_string(folder.path().join("variables")).unwrap();
    let foreign = variables.lines().filter(|line| {
        let own = ["GIT_", "PATH=", "HOME=/nonexistent", "LC_ALL=C", "SSH_ASKPASS_REQUIRE=never"];
        !own.iter().any(|own| line.starts_with(own))
    });
    assert_eq!(foreign.collect::<Vec<_>>(), Vec::<&str>::new());
    assert!(variables.contains("GIT_CONFIG_KEY_0=http.https://forge.example/.extraHeader"));
    // RFC 7617: base64 of ci:hunter2
    assert!(variables.contains("GIT_CONFIG_VALUE_0=Authorization: Basic Y2k6aHVudGVyMg=="));
    let arguments = fs::read_to_string(folder.path().join("arguments")).unwrap();
    assert!(arguments.contains("ls-remote --symref -- https://forge.example/app.git HEAD"), "{arguments}");
    assert!(!arguments.contains("Y2k6") && !arguments.contains("hunter2"), "{arguments}");
}

#[tokio::test]
async fn what_it_prints_is_bounded() {
    let (fetcher, _folder) = scripted("head -c 1000000 /dev/zero");
    assert_eq!(fetch(&fetcher).await.kind(), ErrorKind::LimitExceeded);
    let (fetcher, _folder) = scripted("head -c 1000000 /dev/zero >&2; exit 1");
    let error = fetch(&fetcher).await;
    assert!(error.for_operator().to_string().len() < 100_000);
}

#[tokio::test]
async fn a_path_without_git_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let options = HostFetcherOptions::default().with_path("/nonexistent");
    let fetcher = HostFetcher::new(folder.path().join("fetched"), options).unwrap();
    let error = fetch(&fetcher).await;
    assert_eq!(error.to_string(), "fetch a repository: there is no git in the configured PATH");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}
