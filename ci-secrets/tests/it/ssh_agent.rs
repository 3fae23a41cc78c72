//! The SSH agent, spoken to by clients that do as they like.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ci_core::access::Read;
use ci_core::memory::{Rig, Signer};
use ci_core::queue::Claim;
use ci_core::secret::{SshPublicKey, SshSigner as _};
use ci_core::trust::Origin;
use ci_core::{ErrorKind, conformance};
use ci_secrets::ssh::{Destination, HostKey, SshAgent, SshAgentOptions};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::bench::{kind, repository};

const SESSION: [u8; 32] = [9; 32];
const FAILURE: &[u8] = &[5];
const SUCCESS: &[u8] = &[6];

/// A forge's server and a checkout of a job.
struct World {
    rig: Rig,
    signer: Arc<Signer>,
    claim: Claim,
    /// The key that is listed.
    key: SshPublicKey,
    server: SigningKey,
    folder: TempDir,
}

impl World {
    async fn new() -> Self {
        let (rig, signer, ours) = (Rig::new().expect("a rig"), Arc::new(Signer::new()), repository("1"));
        let grant = rig.grant::<Read>(&Rig::user("ada").expect("a user"), &ours).await.expect("a grant");
        let key = signer.public_keys(&grant).await.expect("keys")[0];
        let claim = rig.claim(&ours, Origin::Fork, Rig::spec()).await.expect("a claim");
        let folder = tempfile::tempdir().expect("a folder");
        Self { rig, signer, claim, key, server: SigningKey::from_bytes(&[3; 32]), folder }
    }

    fn agent(&self) -> SshAgent {
        let pinned = HostKey::parse(&public(&self.server).to_string()).expect("a host key");
        let forge = Destination::new("git", [pinned]).expect("a destination");
        SshAgent::open(self.folder.path(), forge, self.signer.clone(), self.rig.clock.clone())
            .expect("an agent")
    }

    /// Does something while an agent answers.
    async fn with<T>(&self, agent: SshAgent, work: impl AsyncFnOnce(&Path) -> T) -> T {
        let socket = agent.socket().to_owned();
        agent.during(&self.claim, work(&socket)).await
    }

    /// What binds a connection to the pinned server.
    fn bind(&self) -> Vec<u8> {
        bind(&self.server, &self.server, &SESSION, false)
    }

    fn sign_in(&self) -> SignIn {
        SignIn {
            session: SESSION.to_vec(),
            number: 50,
            user: "git",
            service: "ssh-connection",
            method: "publickey",
            signed: 1,
            algorithm: "ssh-ed25519",
            key: self.key.to_blob(),
            host_key: None,
            more: &[],
        }
    }

    /// Asks for a signature with the key.
    fn ask(&self, data: &[u8], flags: u32) -> Vec<u8> {
        ask(&self.key.to_blob(), data, flags)
    }
}

fn public(key: &SigningKey) -> SshPublicKey {
    SshPublicKey::from_ed25519(key.verifying_key().to_bytes())
}

fn string(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).expect("short").to_be_bytes(), bytes].concat()
}

fn bind(shown: &SigningKey, signing: &SigningKey, session: &[u8], forwarding: bool) -> Vec<u8> {
    let signature = signing.sign(session).to_bytes();
    let signature = [string(b"ssh-ed25519"), string(&signature)].concat();
    let parts = [&b"session-bind@openssh.com"[..], &public(shown).to_blob(), session, &signature];
    let body: Vec<u8> = parts.iter().flat_map(|part| string(part)).collect();
    [&[27], &body[..], &[u8::from(forwarding)]].concat()
}

fn ask(key: &[u8], data: &[u8], flags: u32) -> Vec<u8> {
    [&[13], &string(key)[..], &string(data), &flags.to_be_bytes()].concat()
}

#[derive(Clone)]
struct SignIn {
    session: Vec<u8>,
    number: u8,
    user: &'static str,
    service: &'static str,
    method: &'static str,
    signed: u8,
    algorithm: &'static str,
    key: Vec<u8>,
    host_key: Option<Vec<u8>>,
    more: &'static [u8],
}

impl SignIn {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = string(&self.session);
        bytes.push(self.number);
        for part in [self.user, self.service, self.method] {
            bytes.extend(string(part.as_bytes()));
        }
        bytes.push(self.signed);
        bytes.extend(string(self.algorithm.as_bytes()));
        bytes.extend(string(&self.key));
        if let Some(key) = &self.host_key {
            bytes.extend(string(key));
        }
        bytes.extend(self.more);
        bytes
    }
}

/// One connection to the agent.
struct Client(UnixStream);

impl Client {
    async fn connect(socket: &Path) -> Self {
        Self(UnixStream::connect(socket).await.expect("the agent listens"))
    }

    /// The answer, or `None` when the agent closed the connection.
    async fn tell(&mut self, message: &[u8]) -> Option<Vec<u8>> {
        self.0.write_all(&string(message)).await.ok()?;
        self.answer().await
    }

    async fn answer(&mut self) -> Option<Vec<u8>> {
        let length = self.0.read_u32().await.ok()?;
        let mut answer = vec![0; usize::try_from(length).expect("it fits")];
        self.0.read_exact(&mut answer).await.ok()?;
        Some(answer)
    }
}

#[tokio::test]
async fn a_client_that_shows_the_pinned_server_signs_in() {
    let world = World::new().await;
    let plain = world.sign_in();
    let host_key = Some(public(&world.server).to_blob());
    let bound = SignIn { method: "publickey-hostbound-v00@openssh.com", host_key, ..plain.clone() };
    world
        .with(world.agent(), async |socket| {
            let mut client = Client::connect(socket).await;
            let listed = client.tell(&[11]).await.expect("a list");
            assert_eq!(listed[..5], [12, 0, 0, 0, 1]);
            assert!(listed[5..].starts_with(&string(&world.key.to_blob())));
            assert_eq!(client.tell(&world.bind()).await.as_deref(), Some(SUCCESS));
            for data in [plain.bytes(), bound.bytes()] {
                let answer = client.tell(&world.ask(&data, 0)).await.expect("an answer");
                let inner = [string(b"ssh-ed25519"), string(&answer[answer.len() - 64..])].concat();
                assert_eq!(answer, [&[14], &string(&inner)[..]].concat());
                let signature = Signature::from_slice(&answer[answer.len() - 64..]).expect("a signature");
                let key = VerifyingKey::from_bytes(world.key.as_ed25519()).expect("a key");
                assert!(key.verify_strict(&data, &signature).is_ok());
            }
        })
        .await;
}

#[tokio::test]
async fn nothing_is_signed_before_a_pinned_server_has_shown_itself() {
    let world = World::new().await;
    let stranger = SigningKey::from_bytes(&[4; 32]);
    let (server, ask) = (&world.server, world.ask(&world.sign_in().bytes(), 0));
    let refused = [
        ("another server", bind(&stranger, &stranger, &SESSION, false)),
        ("a server's key without its signature", bind(server, &stranger, &SESSION, false)),
        ("a forwarded connection", bind(server, server, &SESSION, true)),
        ("a session without an id", bind(server, server, &[], false)),
        ("a session with a short id", bind(server, server, &[9; 15], false)),
        ("a session with a long id", bind(server, server, &[9; 65], false)),
    ];
    world
        .with(world.agent(), async |socket| {
            let mut client = Client::connect(socket).await;
            assert_eq!(client.tell(&ask).await.as_deref(), Some(FAILURE), "no bind at all");
            assert_eq!(client.tell(&world.bind()).await.as_deref(), Some(SUCCESS), "that spoils nothing");
            for (what, bind) in refused {
                let mut client = Client::connect(socket).await;
                assert_eq!(client.tell(&bind).await.as_deref(), Some(FAILURE), "{what}");
                assert_eq!(client.tell(&ask).await.as_deref(), Some(FAILURE), "{what}");
                assert_eq!(
                    client.tell(&world.bind()).await.as_deref(),
                    Some(FAILURE),
                    "{what}, then the right one"
                );
                assert_eq!(client.tell(&ask).await.as_deref(), Some(FAILURE), "{what}, then the right one");
            }
            let mut client = Client::connect(socket).await;
            assert_eq!(client.tell(&world.bind()).await.as_deref(), Some(SUCCESS));
            assert_eq!(client.tell(&world.bind()).await.as_deref(), Some(FAILURE), "a second bind");
            assert_eq!(client.tell(&ask).await.as_deref(), Some(FAILURE), "after a second bind");
        })
        .await;
}

#[tokio::test]
async fn nothing_is_signed_but_signing_in() {
    let world = World::new().await;
    let right = world.sign_in();
    let stranger = public(&SigningKey::from_bytes(&[4; 32])).to_blob();
    let server = public(&world.server).to_blob();
    let hostbound = "publickey-hostbound-v00@openssh.com";
    let data = [
        ("another session", SignIn { session: vec![8; 32], ..right.clone() }.bytes()),
        ("another message", SignIn { number: 51, ..right.clone() }.bytes()),
        ("another user", SignIn { user: "root", ..right.clone() }.bytes()),
        ("another service", SignIn { service: "ssh-userauth", ..right.clone() }.bytes()),
        ("another method", SignIn { method: "hostbased", ..right.clone() }.bytes()),
        ("a question whether a key would do", SignIn { signed: 0, ..right.clone() }.bytes()),
        ("another algorithm", SignIn { algorithm: "ssh-rsa", ..right.clone() }.bytes()),
        ("another key inside", SignIn { key: stranger.clone(), ..right.clone() }.bytes()),
        ("something behind it", SignIn { more: b"x", ..right.clone() }.bytes()),
        ("a server that is not named", SignIn { method: hostbound, ..right.clone() }.bytes()),
        ("a server that should not be named", SignIn { host_key: Some(server), ..right.clone() }.bytes()),
        (
            "another server",
            SignIn { method: hostbound, host_key: Some(stranger.clone()), ..right.clone() }.bytes(),
        ),
        ("a signed file", [b"SSHSIG".to_vec(), string(b"git"), string(b"")].concat()),
        ("anything", b"anything".to_vec()),
        ("nothing", vec![]),
    ];
    world
        .with(world.agent(), async |socket| {
            let mut client = Client::connect(socket).await;
            assert_eq!(client.tell(&world.bind()).await.as_deref(), Some(SUCCESS));
            for (what, data) in data {
                assert_eq!(client.tell(&world.ask(&data, 0)).await.as_deref(), Some(FAILURE), "{what}");
            }
            let other_key = ask(&stranger, &SignIn { key: stranger.clone(), ..right.clone() }.bytes(), 0);
            assert_eq!(client.tell(&other_key).await.as_deref(), Some(FAILURE), "another key");
            for flags in [2, 4, 1 << 31] {
                let flagged = world.ask(&right.bytes(), flags);
                assert_eq!(client.tell(&flagged).await.as_deref(), Some(FAILURE), "flags {flags}");
            }
            let answer = client.tell(&world.ask(&right.bytes(), 0)).await.expect("an answer");
            assert_eq!(answer[0], 14, "and that alone");
        })
        .await;
}

#[tokio::test]
async fn every_other_message_is_refused() {
    let world = World::new().await;
    world
        .with(world.agent(), async |socket| {
            let mut client = Client::connect(socket).await;
            let key = string(&world.key.to_blob());
            let extension = |name: &[u8]| [&string(name)[..], &key].concat();
            for number in 0..=u8::MAX {
                for body in [vec![], key.clone(), extension(b"query"), extension(b"session-bind")] {
                    if (number, body.is_empty()) == (11, true) {
                        continue;
                    }
                    let message = [&[number], &body[..]].concat();
                    assert_eq!(client.tell(&message).await.as_deref(), Some(FAILURE), "{number}");
                }
            }
            assert_eq!(client.tell(&[11]).await.expect("a list")[4], 1, "nothing was removed or locked");
        })
        .await;
}

#[tokio::test]
async fn what_one_client_takes_is_bounded() {
    let world = World::new().await;
    let options = SshAgentOptions::default().with_signatures(2).with_connections(2);
    world
        .with(world.agent().with_options(options), async |socket| {
            for length in [0, 16 * 1024 + 1, u32::MAX] {
                let mut client = Client::connect(socket).await;
                client.0.write_u32(length).await.expect("it is sent");
                assert_eq!(client.answer().await, None, "a message of {length} bytes");
            }
            let mut clients = [Client::connect(socket).await, Client::connect(socket).await];
            let ask = world.ask(&world.sign_in().bytes(), 0);
            for (client, expected) in clients.iter_mut().zip([[14, 14], [5, 5]]) {
                assert_eq!(client.tell(&world.bind()).await.as_deref(), Some(SUCCESS));
                for number in expected {
                    assert_eq!(client.tell(&ask).await.expect("an answer")[0], number);
                }
            }
            // A third one waits for its turn.
            let mut third = Client::connect(socket).await;
            third.0.write_all(&string(&[11])).await.expect("it is sent");
            assert_eq!(clients[0].tell(&[11]).await.expect("a list")[0], 12);
            assert!(third.0.try_read(&mut [0]).is_err(), "it is answered beside the two");
            // Their time is up, by the clock of the service; the claim ends before that.
            world.rig.clock.advance(Duration::from_mins(1));
            assert_eq!(clients[0].answer().await, None);
            assert_eq!(clients[1].answer().await, None);
            assert_eq!(third.answer().await.expect("its turn"), [12, 0, 0, 0, 0], "no claim, no key");
        })
        .await;
}

#[tokio::test]
async fn a_claim_that_is_over_signs_nothing() {
    let world = World::new().await;
    world
        .with(world.agent(), async |socket| {
            let mut client = Client::connect(socket).await;
            assert_eq!(client.tell(&world.bind()).await.as_deref(), Some(SUCCESS));
            world.rig.clock.advance(Duration::from_secs(30));
            let ask = world.ask(&world.sign_in().bytes(), 0);
            assert_eq!(client.tell(&ask).await.as_deref(), Some(FAILURE));
        })
        .await;
}

#[tokio::test]
async fn the_socket_dies_with_the_checkout() {
    let world = World::new().await;
    let is_empty = || fs::read_dir(world.folder.path()).expect("a folder").next().is_none();
    let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    let client = world
        .with(world.agent(), async |socket| {
            assert_eq!((mode(socket), mode(socket.parent().expect("a folder"))), (0o600, 0o700));
            let mut client = Client::connect(socket).await;
            assert!(client.tell(&[11]).await.is_some());
            client
        })
        .await;
    assert!(is_empty());
    let mut client = client;
    assert_eq!(client.tell(&[11]).await, None, "its connections end as well");

    drop(world.agent());
    assert!(is_empty(), "one that was never used");
    let mut stopped = Box::pin(world.agent().during(&world.claim, std::future::pending::<()>()));
    let polled = futures_util::poll!(stopped.as_mut());
    assert!(polled.is_pending() && !is_empty());
    drop(stopped);
    assert!(is_empty(), "one whose checkout was stopped");
}

#[tokio::test]
async fn a_path_that_is_no_socket_s_is_refused() {
    let world = World::new().await;
    let open = |parent: &Path| {
        let pinned = HostKey::parse(&public(&world.server).to_string()).expect("a host key");
        let forge = Destination::new("git", [pinned]).expect("a destination");
        SshAgent::open(parent, forge, world.signer.clone(), world.rig.clock.clone())
    };
    assert_eq!(kind(open(&world.folder.path().join("x".repeat(100)))), ErrorKind::Invalid);
    assert_eq!(kind(open(&world.folder.path().join("missing"))), ErrorKind::Unavailable);
    assert_eq!(kind(Destination::new("git", [])), ErrorKind::Invalid);
}

#[test]
fn a_host_key_is_a_plain_key() {
    let key = public(&SigningKey::from_bytes(&[3; 32])).to_string();
    assert_eq!(HostKey::parse(&format!("{key} forge.example")).expect("a key").to_string(), key);
    let (name, body) = key.split_once(' ').expect("two words");
    let short = &body[..body.len() - 4];
    for bad in [
        String::new(),
        name.to_owned(),
        format!("ssh-rsa {body}"),
        format!("ssh-ed25519-cert-v01@openssh.com {body}"),
        format!("{name} {short}"),
        format!("{name} {body}AAAA"),
        format!("forge.example {key}"),
    ] {
        assert_eq!(kind(HostKey::parse(&bad)), ErrorKind::Invalid, "{bad}");
    }
}

/// What OpenSSH's own tool makes of the agent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_real_ssh_add_lists_and_cannot_change() {
    let test = "the_real_ssh_add_lists_and_cannot_change";
    if std::process::Command::new("ssh-add").arg("-h").output().is_err() {
        return conformance::skip(test, "ssh", "there is no openssh-client here");
    }
    let world = World::new().await;
    let file = world.folder.path().join("key.pub");
    fs::write(&file, format!("{}\n", world.key)).expect("a file");
    world
        .with(world.agent(), async |socket| {
            let run = async |arguments: &[&str]| {
                let mut command = std::process::Command::new("ssh-add");
                command.args(arguments).env("SSH_AUTH_SOCK", socket).stdin(std::process::Stdio::null());
                let output = tokio::task::spawn_blocking(move || command.output()).await.expect("it ends");
                let output = output.expect("ssh-add starts");
                (output.status.success(), String::from_utf8_lossy(&output.stdout).trim().to_owned())
            };
            let file = file.to_str().expect("a path");
            assert_eq!(run(&["-L"]).await, (true, format!("{} checkout", world.key)));
            let (_, listed) = run(&["-l"]).await;
            assert_eq!(listed, format!("256 {} checkout (ED25519)", world.key.fingerprint()));
            assert!(!run(&["-d", file]).await.0, "a key cannot be removed");
            assert!(!run(&["-D"]).await.0, "nor can all");
            assert!(!run(&["-T", file]).await.0, "it signs no random data");
            assert_eq!(run(&["-L"]).await, (true, format!("{} checkout", world.key)));
        })
        .await;
}
