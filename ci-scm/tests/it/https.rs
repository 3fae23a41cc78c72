//! Over HTTPS, from a real TLS server of the test's own.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use ci_core::trust::Trust;
use ci_core::{ErrorKind, conformance};
use ci_scm::git::{HostFetcher, HostFetcherOptions};
use tempfile::TempDir;

use crate::repository::Repository;
use crate::world::World;

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

/// A certificate for 127.0.0.1 that is its own authority.
fn certificate(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
    let (certificate, key) = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
    openssl.args(["-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]);
    openssl.arg("-out").arg(&certificate).arg("-keyout").arg(&key).stderr(Stdio::null());
    assert!(openssl.status().unwrap().success());
    (certificate, key)
}

fn start(test: &str, folder: &Path, credential: &str) -> Option<Server> {
    for program in ["python3", "openssl"] {
        if Command::new(program).arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
            conformance::skip(test, program, "there is no such program here");
            return None;
        }
    }
    let (certificate, key) = certificate(folder, "server");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/https.py");
    let mut command = Command::new("python3");
    let command = command.arg(script).arg(folder).arg(certificate).arg(key).arg(credential);
    let mut process = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
    Some(Server { process, port: line.trim().parse().unwrap() })
}

const TOKEN: &str = "a-token-that-nobody-may-see";

/// A world behind a server that asks for a token, reached below `prefix`.
async fn world(
    test: &str,
    prefix: &str,
    options: impl FnOnce(&Path, &str) -> HostFetcherOptions,
) -> Option<(World, Server)> {
    let folder: TempDir = tempfile::tempdir().unwrap();
    let server = start(test, folder.path(), &format!("ci:{TOKEN}"))?;
    let authority = format!("127.0.0.1:{}", server.port);
    let options = options(folder.path(), &authority).with_deadline(Duration::from_mins(1));
    let fetcher = HostFetcher::new(folder.path().join("fetched"), options).unwrap();
    let repository = Repository::new(folder.path().join("app.git"));
    let mut world = World::at(folder, repository, &format!("https://{authority}{prefix}/app.git")).await;
    world.git = world.git.with_fetcher(Arc::new(fetcher));
    Some((world, server))
}

fn trusting(folder: &Path, authority: &str) -> HostFetcherOptions {
    HostFetcherOptions::default().with_certificate_authorities(folder.join("server.pem")).with_credential(
        authority,
        "ci",
        TOKEN.into(),
    )
}

#[tokio::test]
async fn code_comes_over_https() {
    let Some((world, _server)) = world("code_comes_over_https", "", trusting).await else { return };
    let repository = &world.repository;
    let first = repository.commit("main", &[("f", "1")]);
    let second = repository.commit("feature", &[("f", "2")]);
    for (name, commit, trust) in [
        ("main", &first, Trust::Protected),
        ("HEAD", &first, Trust::Protected),
        ("feature", &second, Trust::Trusted),
        (first.as_str(), &first, Trust::Protected),
    ] {
        let code = world.resolve(name).await.unwrap();
        assert_eq!((code.commit(), code.trust()), (commit, trust), "{name}");
    }
    assert_eq!(world.read(&first, "f").await.unwrap(), "1");
    let files = world.check_out("feature").await.unwrap();
    assert_eq!(fs::read_to_string(files.path().join("f")).unwrap(), "2");
    let left = fs::read_dir(world.folder.path().join("fetched")).unwrap().count();
    assert_eq!(left, 1, "the lock and nothing else");
    for command in world.backend.commands() {
        assert!(!command.contains(TOKEN), "{command}");
    }
    let config = fs::read_to_string(files.path().join(".git/config")).unwrap();
    assert!(!config.contains("127.0.0.1") && !config.contains("extraheader"), "{config}");
}

#[tokio::test]
async fn a_server_of_another_authority_is_refused() {
    let other = |folder: &Path, authority: &str| {
        let (other, _) = certificate(folder, "other");
        trusting(folder, authority).with_certificate_authorities(other)
    };
    let Some((world, _server)) = world("a_server_of_another_authority_is_refused", "", other).await else {
        return;
    };
    let error = world.resolve("main").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(!error.is_retryable());
    assert!(error.to_string().contains("could not prove that it is the forge"), "{error:?}");
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let Some((world, _server)) = world("a_redirect_is_not_followed", "/away", trusting).await else { return };
    world.repository.commit("main", &[("f", "1")]);
    let error = world.resolve("main").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("sends git to another address"), "{error:?}");
}

#[tokio::test]
async fn a_token_is_shown_to_its_own_server_alone() {
    let elsewhere = |folder: &Path, _authority: &str| trusting(folder, "forge.example");
    let Some((world, _server)) = world("a_token_is_shown_to_its_own_server_alone", "", elsewhere).await
    else {
        return;
    };
    world.repository.commit("main", &[("f", "1")]);
    let error = world.resolve("main").await.unwrap_err();
    assert!(error.to_string().contains("the forge refuses the credential"), "{error:?}");
    assert!(!error.for_operator().to_string().contains(TOKEN));
    assert!(!format!("{:?}", world.git).contains(TOKEN));
}

#[tokio::test]
async fn a_pack_that_is_too_large_is_refused() {
    let small =
        |folder: &Path, authority: &str| trusting(folder, authority).with_largest(ci_core::ByteSize::kib(64));
    let Some((world, _server)) = world("a_pack_that_is_too_large_is_refused", "", small).await else {
        return;
    };
    let noise = noise(256 * 1024);
    world.repository.commit("main", &[("f", &noise)]);
    let claim = world.claim("main").await;
    let error = world.check_out_by(&claim).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{error:?}");
}

/// Text that hardly compresses.
fn noise(length: usize) -> String {
    let digest = |index: usize| ci_core::id::Digest::of(&index.to_be_bytes()).to_string();
    (0..length / 64).map(digest).collect()
}
