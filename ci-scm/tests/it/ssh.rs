//! Over SSH, from a real `sshd` of the test's own.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ci_core::trust::Trust;
use ci_core::{ErrorKind, conformance};
use ci_scm::git::{Fetcher as _, HostFetcher, HostFetcherOptions, SshIdentity, SshOptions};

use crate::repository::Repository;
use crate::world::World;

const SSHD: &str = "/usr/sbin/sshd";

/// A server that lets one key in, as the user of the test.
struct Server {
    process: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn keygen(path: &Path) {
    let mut command = Command::new("ssh-keygen");
    let command = command.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path);
    assert!(command.status().unwrap().success());
}

fn public(key: &Path) -> String {
    fs::read_to_string(key.with_extension("pub")).unwrap()
}

impl Server {
    fn start(folder: &Path, more: &str) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (host, user) = (folder.join("host"), folder.join("user"));
        keygen(&host);
        keygen(&user);
        let authorized = folder.join("authorized");
        fs::write(&authorized, public(&user)).unwrap();
        let config = folder.join("sshd_config");
        let text = format!(
            "ListenAddress 127.0.0.1\nPort {port}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nUsePAM no\n\
             StrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n{more}\n",
            host.display(),
            authorized.display()
        );
        fs::write(&config, text).unwrap();
        let log = fs::File::create(folder.join("sshd.log")).unwrap();
        let mut process =
            Command::new(SSHD).args(["-D", "-e", "-f"]).arg(&config).stderr(log).spawn().unwrap();
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(
                process.try_wait().unwrap().is_none(),
                "{}",
                fs::read_to_string(folder.join("sshd.log")).unwrap()
            );
            assert!(started.elapsed() < Duration::from_secs(20), "sshd does not listen");
            std::thread::yield_now();
        }
        Self { process, port }
    }
}

/// A world whose repository is behind a server, or `None` where there can be none.
async fn world(test: &str) -> Option<(World, Server, PathBuf)> {
    world_behind(test, "AcceptEnv GIT_PROTOCOL").await
}

async fn world_behind(test: &str, more: &str) -> Option<(World, Server, PathBuf)> {
    let folder = tempfile::tempdir().unwrap();
    let is_root = fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    // As root it needs its folder for separated privileges, which the package's start script makes.
    if !Path::new(SSHD).exists() || (is_root && fs::create_dir_all("/run/sshd").is_err()) {
        conformance::skip(test, "sshd", "there is no openssh-server here");
        return None;
    }
    let keys = folder.path().join("keys");
    fs::create_dir(&keys).unwrap();
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o700)).unwrap();
    let server = Server::start(&keys, more);
    let user = Command::new("id").arg("-un").output().unwrap().stdout;
    let user = String::from_utf8(user).unwrap();
    let repository = Repository::new(folder.path().join("app.git"));
    let path = repository.path().display().to_string();
    let url = format!("ssh://{}@127.0.0.1:{}{path}", user.trim(), server.port);
    pin(&keys, server.port, &keys.join("host"));
    Some((World::at(folder, repository, &url).await, server, keys))
}

/// Writes the known hosts: the server has this key.
fn pin(keys: &Path, port: u16, key: &Path) {
    fs::write(keys.join("known_hosts"), format!("[127.0.0.1]:{port} {}", public(key))).unwrap();
}

fn with(mut world: World, keys: &Path, identity: SshIdentity) -> (World, PathBuf) {
    let folder = world.folder.path().join("fetched");
    let ssh = SshOptions::new(keys.join("known_hosts"), identity);
    let options = HostFetcherOptions::default().with_ssh(ssh).with_deadline(Duration::from_mins(1));
    let fetcher = HostFetcher::new(&folder, options).unwrap();
    world.git = world.git.with_fetcher(Arc::new(fetcher));
    (world, folder)
}

fn key(keys: &Path) -> SshIdentity {
    SshIdentity::KeyFile(keys.join("user"))
}

fn fetched(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().filter(|entry| entry.as_ref().unwrap().file_name() != "lock").count()
}

#[tokio::test]
async fn code_comes_over_ssh() {
    let Some((world, _server, keys)) = world("code_comes_over_ssh").await else { return };
    let (world, folder) = with(world, &keys, key(&keys));
    let repository = &world.repository;
    let first = repository.commit("main", &[("f", "1")]);
    let second = repository.commit("main", &[("f", "2")]);
    repository.git(&["tag", "-a", "-m", "a tag", "v1", first.as_str()]);
    let stray = repository.stray(&repository.tree(&[]), Some(first.as_str()));
    for (name, commit, trust) in [
        ("main", &second, Trust::Protected),
        ("HEAD", &second, Trust::Protected),
        ("v1", &first, Trust::Trusted),
        (first.as_str(), &first, Trust::Protected),
        (stray.as_str(), &stray, Trust::Untrusted),
    ] {
        let code = world.resolve(name).await.unwrap();
        assert_eq!((code.commit(), code.trust()), (commit, trust), "{name}");
    }
    for missing in ["nothing", &"1".repeat(40)] {
        assert_eq!(world.resolve(missing).await.unwrap_err().kind(), ErrorKind::NotFound, "{missing}");
    }
    assert_eq!(world.read(&first, "f").await.unwrap(), "1");
    assert_eq!(world.read(&stray, "f").await.unwrap_err().kind(), ErrorKind::NotFound);
    let nowhere = "1".repeat(40).parse().unwrap();
    assert_eq!(world.read(&nowhere, "f").await.unwrap_err().kind(), ErrorKind::NotFound);
    let claim = world.claim("main").await;
    repository.commit("main", &[("f", "3")]);
    let files = world.check_out_by(&claim).await.unwrap();
    assert_eq!(fs::read_to_string(files.path().join("f")).unwrap(), "2");
    assert_eq!(fetched(&folder), 0, "a fetched repository is left");
}

/// An `sshd` as it is installed does not accept git's variable: the server then speaks protocol 0.
#[tokio::test]
async fn a_server_that_hands_out_only_tips_works_too() {
    let test = "a_server_that_hands_out_only_tips_works_too";
    let Some((world, _server, keys)) = world_behind(test, "").await else { return };
    let (world, folder) = with(world, &keys, key(&keys));
    let first = world.repository.commit("main", &[("f", "1")]);
    let claim = world.claim("main").await;
    let second = world.repository.commit("main", &[("f", "2")]);
    let files = world.check_out_by(&claim).await.unwrap();
    assert_eq!(fs::read_to_string(files.path().join("f")).unwrap(), "1");
    assert_eq!(world.read(&first, "f").await.unwrap(), "1");
    assert_eq!(world.resolve("main").await.unwrap().commit(), &second);
    assert_eq!(world.resolve(first.as_str()).await.unwrap().trust(), Trust::Protected);
    let stray = world.repository.stray(&world.repository.tree(&[]), None);
    assert_eq!(world.resolve(stray.as_str()).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(fetched(&folder), 0);
}

#[tokio::test]
async fn a_server_with_another_key_is_refused() {
    let Some((world, server, keys)) = world("a_server_with_another_key_is_refused").await else { return };
    let (world, folder) = with(world, &keys, key(&keys));
    world.repository.commit("main", &[("f", "1")]);
    assert!(world.resolve("main").await.is_ok());
    keygen(&keys.join("other"));
    pin(&keys, server.port, &keys.join("other"));
    for known_hosts in [None, Some("")] {
        if let Some(text) = known_hosts {
            fs::write(keys.join("known_hosts"), text).unwrap();
        }
        let error = world.resolve("main").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(!error.is_retryable());
        assert!(error.to_string().contains("could not prove that it is the forge"), "{error:?}");
    }
    assert_eq!(fs::read_to_string(keys.join("known_hosts")).unwrap(), "", "nothing is added");
    assert_eq!(fetched(&folder), 0);
}

#[tokio::test]
async fn a_key_that_the_server_does_not_know_is_refused() {
    let Some((world, _server, keys)) = world("a_key_that_the_server_does_not_know_is_refused").await else {
        return;
    };
    keygen(&keys.join("other"));
    let (world, _) = with(world, &keys, SshIdentity::KeyFile(keys.join("other")));
    let error = world.resolve("main").await.unwrap_err();
    assert!(error.to_string().contains("the forge refuses the credential"), "{error:?}");
}

#[tokio::test]
async fn a_key_can_stay_in_an_agent() {
    let Some((world, _server, keys)) = world("a_key_can_stay_in_an_agent").await else { return };
    let socket = keys.join("agent");
    let mut agent =
        Command::new("ssh-agent").args(["-D", "-a"]).arg(&socket).stdout(Stdio::null()).spawn().unwrap();
    let started = Instant::now();
    while !socket.exists() {
        assert!(started.elapsed() < Duration::from_secs(20), "the agent does not listen");
        std::thread::yield_now();
    }
    let added =
        Command::new("ssh-add").arg("-q").arg(keys.join("user")).env("SSH_AUTH_SOCK", &socket).status();
    assert!(added.unwrap().success());
    fs::remove_file(keys.join("user")).unwrap();
    let (world, _) = with(world, &keys, SshIdentity::Agent(socket));
    world.repository.commit("main", &[("f", "1")]);
    let resolved = world.resolve("main").await;
    agent.kill().unwrap();
    agent.wait().unwrap();
    assert!(resolved.is_ok(), "{resolved:?}");
}

#[tokio::test]
async fn a_repository_that_is_not_there_is_not_found() {
    let Some((world, _server, keys)) = world("a_repository_that_is_not_there_is_not_found").await else {
        return;
    };
    let (world, _) = with(world, &keys, key(&keys));
    fs::remove_dir_all(world.repository.path()).unwrap();
    let error = world.resolve("main").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
}

#[tokio::test]
async fn an_empty_repository_has_no_commits_yet() {
    let Some((world, _server, keys)) = world("an_empty_repository_has_no_commits_yet").await else { return };
    let (world, _) = with(world, &keys, key(&keys));
    for name in ["main", "HEAD", &"1".repeat(40)] {
        let error = world.resolve(name).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{name}: {error:?}");
        assert!(error.to_string().contains("the repository has no commits yet"), "{name}: {error}");
    }
    world.repository.commit("other", &[("f", "1")]);
    assert!(world.resolve("other").await.is_ok(), "HEAD is on a branch that is not there");
}

#[tokio::test]
async fn what_a_killed_process_left_is_swept_and_the_folder_is_closed() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("fetched");
    let fetcher = HostFetcher::new(&folder, HostFetcherOptions::default()).unwrap();
    assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    let second = HostFetcher::new(&folder, HostFetcherOptions::default()).unwrap_err();
    assert_eq!(second.kind(), ErrorKind::Conflict);
    assert!(!fetcher.serves(ci_scm::git::Protocol::Ssh), "no host keys, no ssh");
    drop(fetcher);
    fs::create_dir_all(folder.join("fetched-0123/objects")).unwrap();
    let _fetcher = HostFetcher::new(&folder, HostFetcherOptions::default()).unwrap();
    assert_eq!(fetched(&folder), 0);
    let open = parent.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).unwrap();
    let error = HostFetcher::new(&open, HostFetcherOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    std::os::unix::fs::symlink(&folder, parent.path().join("link")).unwrap();
    assert!(HostFetcher::new(parent.path().join("link"), HostFetcherOptions::default()).is_err());
}
