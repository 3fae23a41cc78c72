//! The agent between the real `ssh` and a real `sshd` on this machine.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ci_core::access::Read;
use ci_core::conformance;
use ci_core::memory::Rig;
use ci_core::secret::SshSigner as _;
use ci_core::trust::Origin;
use ci_secrets::ssh::{Destination, HostKey, SshAgent, SshKeys};
use tempfile::TempDir;

use crate::bench::{Bench, repository};

const SSHD: &str = "/usr/sbin/sshd";

/// A server with one host key, which lets nobody in until it is told whom.
struct Server {
    process: Child,
    port: u16,
    folder: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn keygen(path: &Path, kind: &[&str]) -> HostKey {
    let mut command = Command::new("ssh-keygen");
    let command = command.args(["-q", "-N", "", "-t"]).args(kind).arg("-f").arg(path);
    assert!(command.status().expect("ssh-keygen").success());
    HostKey::parse(&public(path)).expect("a host key")
}

fn public(path: &Path) -> String {
    fs::read_to_string(path.with_extension("pub")).expect("a public key").trim().to_owned()
}

impl Server {
    /// `None` where there can be none.
    fn start(test: &str, kind: &[&str]) -> Option<(Self, HostKey)> {
        // As root it needs its folder for separated privileges, which the package's start script makes.
        let is_root = rustix::process::getuid().is_root();
        if !Path::new(SSHD).exists() || (is_root && fs::create_dir_all("/run/sshd").is_err()) {
            conformance::skip(test, "sshd", "there is no openssh-server here");
            return None;
        }
        let folder = tempfile::tempdir().expect("a folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).expect("its mode");
        let at = |name: &str| folder.path().join(name);
        let host = keygen(&at("host"), kind);
        let port =
            TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
        let config = format!(
            "ListenAddress 127.0.0.1\nPort {port}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nUsePAM no\n\
             StrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n",
            at("host").display(),
            at("authorized").display()
        );
        fs::write(at("sshd_config"), config).expect("a file");
        let mut command = Command::new(SSHD);
        command
            .args(["-D", "-e", "-f"])
            .arg(at("sshd_config"))
            .stderr(File::create(at("log")).expect("a log"));
        let mut process = command.spawn().expect("sshd starts");
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = process.try_wait().expect("its state");
            assert!(ended.is_none(), "{}", fs::read_to_string(at("log")).expect("the log"));
            assert!(started.elapsed() < Duration::from_secs(20), "sshd does not listen");
            std::thread::yield_now();
        }
        Some((Self { process, port, folder }, host))
    }

    /// `ssh`, which believes this server and signs in with what the agent at `socket` offers.
    fn client(&self, socket: &Path) -> Command {
        let known = self.folder.path().join("known_hosts");
        let line = format!("[127.0.0.1]:{} {}\n", self.port, public(&self.folder.path().join("host")));
        fs::write(&known, line).expect("a file");
        let mut command = Command::new("ssh");
        command.args(["-F", "/dev/null", "-p", &self.port.to_string(), "-v"]);
        for option in [
            "BatchMode=yes",
            "StrictHostKeyChecking=yes",
            "GlobalKnownHostsFile=/dev/null",
            "PreferredAuthentications=publickey",
            "IdentityFile=none",
            "ConnectTimeout=20",
            &format!("UserKnownHostsFile={}", known.display()),
            &format!("IdentityAgent={}", socket.display()),
        ] {
            command.args(["-o", option]);
        }
        command.stdin(Stdio::null()).args([&format!("{}@127.0.0.1", user()), "echo in"]);
        command
    }
}

/// Who runs these tests: the only one that the server can let in when that is not root.
fn user() -> String {
    let output = Command::new("id").arg("-un").output().expect("id");
    String::from_utf8(output.stdout).expect("a name").trim().to_owned()
}

/// Signs in to `server`, which has the repository's key, with an agent that pins `host` and `user`; tells whether that
/// worked, and what `ssh` said.
async fn sign_in(server: &Server, host: HostKey, user: &str) -> (bool, String) {
    let (bench, ours) = (Bench::new(), repository("1"));
    let keys = Arc::new(SshKeys::new(bench.vault.clone()));
    let grant = bench.grant::<Read>(&ours).await;
    let key = keys.public_keys(&grant).await.expect("keys")[0];
    fs::write(server.folder.path().join("authorized"), format!("{key}\n")).expect("a file");

    let claim = bench.rig.claim(&ours, Origin::Fork, Rig::spec()).await.expect("a claim");
    let forge = Destination::new(user, [host]).expect("a destination");
    let folder = tempfile::tempdir().expect("a folder");
    let agent = SshAgent::open(folder.path(), forge, keys, bench.rig.clock.clone()).expect("an agent");
    let mut client = server.client(agent.socket());
    let output = async { tokio::task::spawn_blocking(move || client.output()).await.expect("it ends") };
    let output = agent.during(&claim, output).await.expect("ssh starts");
    let is_in = output.status.success() && output.stdout == b"in\n";
    (is_in, String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_server_with_the_pinned_key_lets_the_agent_in() {
    let test = "a_real_server_with_the_pinned_key_lets_the_agent_in";
    let kinds: [&[&str]; 5] = [
        &["ed25519"],
        &["ecdsa", "-b", "256"],
        &["ecdsa", "-b", "384"],
        &["ecdsa", "-b", "521"],
        &["rsa", "-b", "3072"],
    ];
    for kind in kinds {
        let Some((server, host)) = Server::start(test, kind) else { return };
        let (is_in, said) = sign_in(&server, host, &user()).await;
        assert!(is_in, "{kind:?}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_server_with_another_key_gets_no_signature() {
    let test = "a_real_server_with_another_key_gets_no_signature";
    let Some((server, _)) = Server::start(test, &["ed25519"]) else { return };
    let another = keygen(&server.folder.path().join("another"), &["ed25519"]);
    let (is_in, said) = sign_in(&server, another, &user()).await;
    assert!(!is_in, "{said}");
    assert!(said.contains("agent refused operation"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_signs_in_as_another_user() {
    let Some((server, host)) = Server::start("nobody_signs_in_as_another_user", &["ed25519"]) else { return };
    let (is_in, said) = sign_in(&server, host, "git").await;
    assert!(!is_in, "{said}");
    assert!(said.contains("agent refused operation"), "{said}");
}
