//! Debug sessions in real sandboxes, with the SSH client that people have.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ci_core::ErrorKind;
use ci_core::access::{Grant, Level, Write};
use ci_core::conformance::skip;
use ci_core::debug::{DebugAccess, Desk, DeskOptions};
use ci_core::id::{JobId, RepositoryId, SecretName, StepName};
use ci_core::job::{JobSpec, Script, Step, Timeouts};
use ci_core::memory::{Rig, Secrets};
use ci_core::outcome::{Conclusion, Outcome};
use ci_core::runner::{Parts, Runner, Stop};
use ci_core::sandbox::Sandboxes;
use ci_core::secret::{SecretStore as _, SecretValue};
use ci_core::trust::Origin;
use ci_core::{ByteSize, Result, stream};
use ci_sandbox::debug::{AuthorizedKey, Config, Endpoint, HostKey, Server};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::support::{image, native};

const PATIENCE: Duration = Duration::from_mins(1);
const MINUTE: Duration = Duration::from_mins(1);

/// A worker with a desk and real sandboxes, a server before it, and somebody with a key.
struct Scene {
    rig: Rig,
    parts: Parts,
    desk: Desk,
    runner: Runner,
    server: Server,
    folder: tempfile::TempDir,
    key: AuthorizedKey,
}

/// A job that runs until it is stopped.
struct Job {
    id: JobId,
    stop: oneshot::Sender<()>,
    running: JoinHandle<Result<Outcome>>,
}

/// `None` where there is no client.
async fn scene(test: &str) -> Option<Scene> {
    scene_with(test, |config| config).await
}

async fn scene_with(test: &str, change: impl FnOnce(Config) -> Config) -> Option<Scene> {
    if Command::new("ssh").arg("-V").output().await.is_err() {
        skip(test, "ssh", "there is no SSH client; install openssh-client");
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::new().unwrap();
    let secrets = Arc::new(Secrets::new(rig.audit.clone(), rig.clock.clone()));
    let (name, value) = (SecretName::parse("TOKEN").unwrap(), SecretValue::new("hunter2"));
    secrets.put(&grant(&rig, "ada", &ours()).await, &name, value).await.unwrap();
    let sandboxes = Sandboxes::new(Arc::new(native(folder.path())));
    let parts = Parts { sandboxes, secrets, ..rig.parts() };
    let options = DeskOptions::default().with_keep_failed(MINUTE);
    let desk = Desk::with_options(rig.authority.clone(), rig.audit.clone(), rig.clock.clone(), options);
    let runner = Runner::new(parts.clone()).with_debug(desk.clone());
    let config = Config::new("127.0.0.1:0".parse().unwrap(), HostKey::random().unwrap());
    let server = Server::new(change(config));
    let key = make_key(folder.path(), "key", "ed25519").await;
    Some(Scene { rig, parts, desk, runner, server, folder, key })
}

fn ours() -> RepositoryId {
    Rig::repository("1", "acme").unwrap()
}

async fn grant(rig: &Rig, user: &str, repository: &RepositoryId) -> Grant<Write> {
    rig.grant(&Rig::user(user).unwrap(), repository).await.unwrap()
}

/// A key pair in a file of this name.
async fn make_key(folder: &Path, name: &str, kind: &str) -> AuthorizedKey {
    let path = folder.join(name);
    let made = Command::new("ssh-keygen").args(["-q", "-t", kind, "-N", "", "-f"]).arg(&path).status().await;
    assert!(made.unwrap().success());
    AuthorizedKey::parse(&std::fs::read_to_string(path.with_extension("pub")).unwrap()).unwrap()
}

impl Scene {
    /// A job whose only step is `script`, once its sandbox is there.
    async fn job(&self, script: &'static str) -> Job {
        self.job_of(&ours(), script).await
    }

    async fn job_of(&self, repository: &RepositoryId, script: &'static str) -> Job {
        let step = Step::script(StepName::parse("test").unwrap(), Script::literal(script));
        let spec = JobSpec::new(image())
            .with_step(step)
            .with_timeouts(Timeouts::default().with_job(100 * MINUTE).with_silence(100 * MINUTE));
        let name = SecretName::parse("TOKEN").unwrap();
        let spec = if *repository == ours() { spec.with_secret(name) } else { spec };
        let claim = self.rig.claim(repository, Origin::Repository, spec).await.unwrap();
        let id = claim.job().clone();
        let (stop, stopped) = oneshot::channel();
        let runner = self.runner.clone();
        let running = tokio::spawn(async move {
            let stop = async {
                let _ = stopped.await;
                Stop::Cancel
            };
            runner.run(claim, stop).await
        });
        Job { id, stop, running }
    }

    /// Ada's access to a job, as soon as there is something to get into.
    async fn access(&self, job: &Job) -> DebugAccess {
        self.access_as("ada", &ours(), job).await
    }

    async fn access_as(&self, user: &str, repository: &RepositoryId, job: &Job) -> DebugAccess {
        let grant = grant(&self.rig, user, repository).await;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.desk.open(&grant, &job.id, 10 * MINUTE).await {
                Err(error) if error.kind() == ErrorKind::NotFound && Instant::now() < deadline => {
                    sleep(Duration::from_millis(5)).await;
                }
                opened => return opened.unwrap(),
            }
        }
    }

    /// Lets Ada in with her key, and has her client believe the server.
    async fn admit(&self, job: &Job) -> (DebugAccess, Endpoint) {
        let access = self.access(job).await;
        let endpoint = self.server.admit(access.clone(), [self.key.clone()]).await.unwrap();
        let line = endpoint.known_hosts_line("127.0.0.1").unwrap();
        std::fs::write(self.folder.path().join("known_hosts"), line + "\n").unwrap();
        (access, endpoint)
    }

    /// Her client, for `user` at `endpoint`, with more options.
    fn ssh(&self, endpoint: &Endpoint, options: &[&str]) -> Command {
        self.ssh_as(endpoint, endpoint.user(), "key", options)
    }

    fn ssh_as(&self, endpoint: &Endpoint, user: &str, key: &str, options: &[&str]) -> Command {
        let path = |name: &str| -> PathBuf { self.folder.path().join(name) };
        let mut client = Command::new("ssh");
        client.args([
            "-F",
            "none",
            "-o",
            "BatchMode=yes",
            "-o",
            "IdentitiesOnly=yes",
            "-o",
            "IdentityAgent=none",
        ]);
        client.arg("-o").arg(format!("UserKnownHostsFile={}", path("known_hosts").display()));
        client.args(["-o", "GlobalKnownHostsFile=none", "-o", "StrictHostKeyChecking=yes", "-i"]);
        client.arg(path(key)).args(["-p", &endpoint.address().port().to_string()]).args(options);
        client.arg(format!("{user}@127.0.0.1")).kill_on_drop(true);
        client.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        client
    }

    /// What the client prints for a command.
    async fn output(&self, endpoint: &Endpoint, options: &[&str], command: &str) -> Output {
        done(self.ssh(endpoint, options).arg(command)).await
    }

    /// Lets time pass, so that everybody notices, the heartbeats of jobs included.
    async fn pass(&self, time: Duration) {
        const STEP: Duration = Duration::from_secs(5);
        let mut left = time;
        while !left.is_zero() {
            self.rig.clock.advance(STEP.min(left));
            left = left.saturating_sub(STEP);
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Stops a job, and returns how it ended and what its records show.
    async fn end(&self, job: Job) -> (Outcome, String) {
        let id = job.id.clone();
        (job.stop().await, self.recorded(&id).await)
    }

    /// All that the job's records show.
    async fn recorded(&self, job: &JobId) -> String {
        let grant = grant(&self.rig, "ada", &ours()).await.lower();
        let mut text = String::new();
        for artifact in self.parts.artifacts.list(&grant, job).await.unwrap() {
            let content = self.parts.artifacts.get(&grant, job, &artifact.name).await.unwrap();
            text += str::from_utf8(&stream::collect(content, ByteSize::mib(64)).await.unwrap()).unwrap();
        }
        text
    }
}

impl Job {
    async fn stop(self) -> Outcome {
        drop(self.stop);
        timeout(PATIENCE, self.running).await.expect("it ends").unwrap().unwrap()
    }
}

async fn done(client: &mut Command) -> Output {
    timeout(PATIENCE, client.output()).await.expect("the client ends").unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Reads until `wanted` has come.
async fn until(output: &mut (impl AsyncRead + Unpin), wanted: &str) -> String {
    let mut seen = Vec::new();
    let reading = async {
        while !text(&seen).contains(wanted) {
            let mut piece = [0; 4096];
            let length = output.read(&mut piece).await.unwrap();
            assert!(length > 0, "it ended: {}", text(&seen));
            seen.extend_from_slice(&piece[..length]);
        }
    };
    timeout(PATIENCE, reading).await.unwrap_or_else(|_| panic!("{wanted} never came"));
    text(&seen)
}

/// Whether somebody listens there.
async fn listens(address: SocketAddr) -> bool {
    TcpStream::connect(address).await.is_ok()
}

async fn soon_deaf(address: SocketAddr) {
    let gone = async {
        while listens(address).await {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(5), gone).await.expect("the listener goes");
}

async fn exited(mut client: Child) -> Output {
    drop(client.stdin.take());
    timeout(PATIENCE, client.wait_with_output()).await.expect("the client ends").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_types_in_a_shell_of_the_job() {
    let Some(scene) = scene("a_person_types_in_a_shell_of_the_job").await else { return };
    let job = scene.job("echo built > /work/result; exec sleep 1000").await;
    let (_, endpoint) = scene.admit(&job).await;
    let mut client =
        scene.ssh(&endpoint, &["-tt"]).env("TERM", "xterm-256color").stdin(Stdio::piped()).spawn().unwrap();
    let (mut keys, mut screen) = (client.stdin.take().unwrap(), client.stdout.take().unwrap());
    let script = "test -t 0 && echo term $TERM and $CI and token ${TOKEN-none}; while ! cat /work/result; do sleep 0.1; done\n";
    keys.write_all(script.as_bytes()).await.unwrap();
    let seen = until(&mut screen, "built\r\n").await;
    assert!(seen.contains("term xterm-256color and true and token none"), "{seen}");
    keys.write_all(b"echo hun''ter2 | sed s/x/y/; exit 7\n").await.unwrap();
    let mut rest = String::new();
    timeout(PATIENCE, screen.read_to_string(&mut rest)).await.expect("it ends").unwrap();
    assert!(rest.contains("***\r\n") && !rest.contains("hunter2"), "{rest}");
    assert_eq!(exited(client).await.status.code(), Some(7));
    let (outcome, record) = scene.end(job).await;
    assert!(record.contains("built\\r\\n") && !record.contains("hunter2"), "{record}");
    assert_eq!(outcome.influenced_by, [Rig::user("ada").unwrap()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_has_three_streams_and_an_end() {
    let Some(scene) = scene("a_command_has_three_streams_and_an_end").await else { return };
    let job = scene.job("exec sleep 1000").await;
    let (_, endpoint) = scene.admit(&job).await;
    let mut client = scene
        .ssh(&endpoint, &[])
        .arg("cat; echo error >&2; pwd; exit 3")
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    // More than fits into all buffers on the way.
    let sent = "0123456789abcdef".repeat(256 * 1024);
    let mut keys = client.stdin.take().unwrap();
    let typed = sent.clone();
    let typing = tokio::spawn(async move { keys.write_all(typed.as_bytes()).await });
    let output = exited(client).await;
    typing.await.unwrap().unwrap();
    assert_eq!(output.stdout.len(), sent.len() + "/work\n".len());
    assert_eq!(&output.stdout[..sent.len()], sent.as_bytes());
    assert_eq!((text(&output.stderr).as_str(), output.status.code()), ("error\n", Some(3)));
    let killed = scene.output(&endpoint, &[], "kill -9 $$").await;
    assert_eq!(killed.status.code(), Some(255), "as ssh reports a signal");
    let (_, record) = scene.end(job).await;
    assert!(record.contains("\"command\":\"cat; echo error >&2; pwd; exit 3\""));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_that_changes_is_noticed() {
    let Some(scene) = scene("a_window_that_changes_is_noticed").await else { return };
    let job = scene.job("exec sleep 1000").await;
    let (_, endpoint) = scene.admit(&job).await;
    // `script` gives the client a terminal, whose size its shell changes.
    let client = scene.ssh(&endpoint, &["-tt"]);
    let words: Vec<_> = client.as_std().get_args().map(|word| word.to_string_lossy().into_owned()).collect();
    let far = "trap \"stty size; exit\" WINCH; stty size; while :; do sleep 0.05; done";
    let line = format!(
        "stty rows 30 cols 100; (sleep 2; stty rows 50 cols 132 < /dev/tty) & ssh {} '{far}'",
        words.join(" ")
    );
    let output = done(
        Command::new("script").args(["-qefc", &line, "/dev/null"]).stdin(Stdio::null()).kill_on_drop(true),
    )
    .await;
    let shown = text(&output.stdout);
    assert!(shown.contains("30 100") && shown.contains("50 132"), "{shown}");
    let (_, record) = scene.end(job).await;
    assert!(record.contains("\"r\",\"132x50\""), "{record}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_access_nobody_listens() {
    let Some(scene) = scene("without_an_access_nobody_listens").await else { return };
    let job = scene.job("exec sleep 1000").await;
    let (first, endpoint) = scene.admit(&job).await;
    assert!(listens(endpoint.address()).await);
    let (second, again) = scene.admit(&job).await;
    assert_eq!(again.address(), endpoint.address(), "they share it");
    first.close();
    first.ended().await;
    assert!(listens(endpoint.address()).await, "one is open");
    second.close();
    soon_deaf(endpoint.address()).await;
    let (_, endpoint) = scene.admit(&job).await;
    assert!(listens(endpoint.address()).await);
    job.stop().await;
    soon_deaf(endpoint.address()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fixed_port_is_taken_again_at_once() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let change = |mut config: Config| {
        config.address = free;
        config
    };
    let Some(scene) = scene_with("a_fixed_port_is_taken_again_at_once", change).await else { return };
    let job = scene.job("exec sleep 1000").await;
    for _ in 0..5 {
        let (access, endpoint) = scene.admit(&job).await;
        assert_eq!(text(&scene.output(&endpoint, &[], "echo in").await.stdout), "in\n");
        access.close();
        access.ended().await;
    }
    let (access, _) = scene.admit(&job).await;
    let other = Server::new(Config::new(free, HostKey::random().unwrap()));
    let taken = other.admit(access, [scene.key.clone()]).await;
    assert_eq!(taken.expect_err("taken").kind(), ErrorKind::Conflict);
    job.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_access_that_ends_cuts_the_session() {
    let Some(scene) = scene("an_access_that_ends_cuts_the_session").await else { return };
    for (how, why) in [("time", "its time is over"), ("withdrawn", "withdrawn"), ("closed", "it was closed")]
    {
        let job = scene.job("exec sleep 1000").await;
        let (access, endpoint) = scene.admit(&job).await;
        let mut client = scene.ssh(&endpoint, &["-tt"]).stdin(Stdio::piped()).spawn().unwrap();
        let (mut keys, mut screen) = (client.stdin.take().unwrap(), client.stdout.take().unwrap());
        keys.write_all(b"echo u''p; exec sleep 1001\n").await.unwrap();
        until(&mut screen, "up\r\n").await;
        let start = Instant::now();
        match how {
            "time" => scene.pass(10 * MINUTE).await,
            "withdrawn" => {
                scene.rig.permissions.allow(&Rig::user("ada").unwrap(), &ours(), Level::Read);
                scene.pass(Duration::from_secs(5)).await;
            }
            _ => access.close(),
        }
        let output = exited(client).await;
        assert_eq!(output.status.code(), Some(255));
        assert!(text(&output.stderr).contains(why), "{how}: {}", text(&output.stderr));
        assert!(start.elapsed() < Duration::from_secs(30), "{how}");
        soon_deaf(endpoint.address()).await;
        // The step goes on as if nothing had been.
        assert!(!job.running.is_finished());
        assert_eq!(job.stop().await.conclusion, Conclusion::Cancelled);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_listen_is_cut_too() {
    let Some(scene) = scene("a_client_that_does_not_listen_is_cut_too").await else { return };
    let job = scene.job("exec sleep 1000").await;
    let (access, endpoint) = scene.admit(&job).await;
    // Its output is read by nobody, so that everything on the way is full.
    let mut client = scene.ssh(&endpoint, &[]).arg("yes").spawn().unwrap();
    let mut screen = client.stdout.take().unwrap();
    until(&mut screen, "y\n").await;
    sleep(Duration::from_millis(200)).await;
    access.close();
    access.ended().await;
    soon_deaf(endpoint.address()).await;
    let outcome = job.stop().await;
    assert_eq!(outcome.conclusion, Conclusion::Cancelled);
    drop(screen);
    assert!(!exited(client).await.status.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_stay_out() {
    let Some(scene) = scene("strangers_stay_out").await else { return };
    let job = scene.job("exec sleep 1000").await;
    let (_, endpoint) = scene.admit(&job).await;
    let theirs = Rig::repository("2", "globex").unwrap();
    let other_job = scene.job_of(&theirs, "exec sleep 1000").await;
    let other_key = make_key(scene.folder.path(), "other", "ecdsa").await;
    let access = scene.access_as("eve", &theirs, &other_job).await;
    let other = scene.server.admit(access, [other_key]).await.unwrap();
    assert_eq!(other.address(), endpoint.address());
    make_key(scene.folder.path(), "unknown", "ed25519").await;

    let inside = done(scene.ssh_as(&other, other.user(), "other", &[]).arg("echo in")).await;
    assert_eq!(text(&inside.stdout), "in\n");
    let random = JobId::random();
    for (user, key) in [
        (endpoint.user(), "unknown"),
        (endpoint.user(), "other"),
        (other.user(), "key"),
        (random.as_str(), "key"),
        ("root", "key"),
    ] {
        let refused = done(scene.ssh_as(&endpoint, user, key, &[]).arg("echo in")).await;
        assert_eq!(
            (refused.status.code(), text(&refused.stdout)),
            (Some(255), String::new()),
            "{user} {key}"
        );
        assert!(text(&refused.stderr).contains("Permission denied (publickey)"), "{}", text(&refused.stderr));
    }
    for how in ["password", "keyboard-interactive", "none"] {
        let options = ["-o", &format!("PreferredAuthentications={how}")];
        let refused = scene.output(&endpoint, &options, "echo in").await;
        assert_eq!((refused.status.code(), text(&refused.stdout)), (Some(255), String::new()), "{how}");
    }
    for number in 0..8 {
        make_key(scene.folder.path(), &format!("key{number}"), "ed25519").await;
    }
    let options: Vec<_> = (0..8)
        .map(|number| format!("-oIdentityFile={}/key{number}", scene.folder.path().display()))
        .collect();
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    let refused = done(scene.ssh_as(&endpoint, endpoint.user(), "unknown", &options).arg("echo in")).await;
    assert!(text(&refused.stderr).contains("Too many authentication"), "{}", text(&refused.stderr));
    job.stop().await;
    other_job.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_forwarded_and_there_are_no_subsystems() {
    let Some(scene) = scene("nothing_is_forwarded_and_there_are_no_subsystems").await else { return };
    let job = scene.job("exec sleep 1000").await;
    let (_, endpoint) = scene.admit(&job).await;
    let sink = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = sink.local_addr().unwrap().port();
    sink.set_nonblocking(true).unwrap();

    let stdio = format!("127.0.0.1:{port}");
    let refused = done(&mut scene.ssh(&endpoint, &["-W", &stdio])).await;
    assert!(!refused.status.success() && text(&refused.stderr).contains("prohibited"), "{refused:?}");
    let socket = scene.folder.path().join("socket");
    let to_socket = format!("{}:/run/socket", socket.display());
    let fail = ["-o", "ExitOnForwardFailure=yes"];
    for remote in ["0:127.0.0.1:1", "/tmp/socket:127.0.0.1:1"] {
        let refused = scene.output(&endpoint, &[&fail[..], &["-R", remote]].concat(), "echo in").await;
        assert_eq!((refused.status.code(), text(&refused.stdout)), (Some(255), String::new()), "{remote}");
    }
    // The client opens these by itself, and finds out only when somebody uses them.
    let mut client = scene.ssh(&endpoint, &["-N", "-L", &to_socket]).spawn().unwrap();
    let deadline = Instant::now() + PATIENCE;
    while !socket.exists() && Instant::now() < deadline {
        sleep(Duration::from_millis(5)).await;
    }
    let mut through = tokio::net::UnixStream::connect(&socket).await.unwrap();
    assert_eq!(timeout(PATIENCE, through.read(&mut [0])).await.unwrap().unwrap_or(0), 0);
    client.kill().await.unwrap();

    let agent = scene.output(&endpoint, &["-A"], "echo agent ${SSH_AUTH_SOCK-none}").await;
    assert_eq!(text(&agent.stdout), "agent none\n");
    let x11 =
        done(scene.ssh(&endpoint, &["-Y"]).arg("echo display ${DISPLAY-none}").env("DISPLAY", "127.0.0.1:9"))
            .await;
    assert_eq!(text(&x11.stdout), "display none\n");
    let variable = done(
        scene.ssh(&endpoint, &["-o", "SendEnv=SECRET_*"]).arg("echo ${SECRET_A-none}").env("SECRET_A", "a"),
    )
    .await;
    assert_eq!(text(&variable.stdout), "none\n");
    let sftp = done(scene.ssh(&endpoint, &["-s"]).arg("sftp")).await;
    assert!(!sftp.status.success() && text(&sftp.stderr).contains("subsystem request failed"), "{sftp:?}");
    assert!(sink.accept().is_err(), "nobody has come through");
    job.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_has_one_session() {
    let Some(scene) = scene("a_connection_has_one_session").await else { return };
    let job = scene.job("exec sleep 1000").await;
    let (_, endpoint) = scene.admit(&job).await;
    let control = format!("ControlPath={}/c", scene.folder.path().display());
    let mut first =
        scene.ssh(&endpoint, &["-M", "-o", &control]).arg("echo one; exec sleep 1002").spawn().unwrap();
    until(&mut first.stdout.take().unwrap(), "one\n").await;
    let second = scene.output(&endpoint, &["-o", &control, "-o", "ControlMaster=no"], "echo two").await;
    assert!(text(&second.stderr).contains("refused"), "{second:?}");
    // Another connection is another matter.
    assert_eq!(text(&scene.output(&endpoint, &[], "echo three").await.stdout), "three\n");
    first.kill().await.unwrap();
    job.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_says_nothing_is_cut_and_there_are_only_so_many() {
    let change = |config: Config| config.with_handshake(Duration::from_secs(3)).with_most_connections(4);
    let Some(scene) = scene_with("who_says_nothing_is_cut_and_there_are_only_so_many", change).await else {
        return;
    };
    let job = scene.job("exec sleep 1000").await;
    let (_, endpoint) = scene.admit(&job).await;
    let mut silent = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(endpoint.address()).await.unwrap();
        until(&mut stream, "SSH-2.0-").await;
        silent.push(stream);
    }
    // Half as many as there may be are strangers already.
    let mut third = TcpStream::connect(endpoint.address()).await.unwrap();
    let length =
        timeout(Duration::from_secs(2), third.read(&mut [0; 64])).await.expect("it is closed at once");
    assert_eq!(length.unwrap_or(0), 0);
    let start = Instant::now();
    for mut stream in silent {
        // One byte at a time is no way to stay.
        let _ = stream.write_all(b"S").await;
        let cut = async { while matches!(stream.read(&mut [0; 1024]).await, Ok(1..)) {} };
        timeout(PATIENCE, cut).await.expect("it is cut");
    }
    assert!(start.elapsed() < Duration::from_secs(20));
    assert_eq!(text(&scene.output(&endpoint, &[], "echo in").await.stdout), "in\n");
    job.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_failed_step_left_can_be_looked_at() {
    let Some(scene) = scene("what_a_failed_step_left_can_be_looked_at").await else { return };
    let job = scene.job("echo half > /work/result; exit 3").await;
    let (access, endpoint) = scene.admit(&job).await;
    let read = "while ! test -s result; do sleep 0.1; done; cat result";
    assert_eq!(text(&scene.output(&endpoint, &[], read).await.stdout), "half\n");
    assert!(!job.running.is_finished());
    access.close();
    let outcome = timeout(PATIENCE, job.running).await.expect("it is over").unwrap().unwrap();
    assert_eq!((outcome.conclusion, outcome.exit_code()), (Conclusion::Failed, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_press_is_seen_soon() {
    let Some(scene) = scene("a_key_press_is_seen_soon").await else { return };
    let job = scene.job("exec sleep 1000").await;
    let (_, endpoint) = scene.admit(&job).await;
    let mut client = scene.ssh(&endpoint, &["-tt"]).stdin(Stdio::piped()).spawn().unwrap();
    let (mut keys, mut screen) = (client.stdin.take().unwrap(), client.stdout.take().unwrap());
    keys.write_all(b"echo u''p; exec cat > /dev/null\n").await.unwrap();
    until(&mut screen, "up\r\n").await;
    let mut times = Vec::new();
    for _ in 0..100 {
        let start = Instant::now();
        keys.write_all(b"x").await.unwrap();
        until(&mut screen, "x").await;
        times.push(start.elapsed());
    }
    times.sort();
    println!("a key press is seen after {:?} (median), {:?} (95 of 100)", times[50], times[95]);
    // The pause after which console output is stored must not be in it.
    assert!(times[50] < Duration::from_millis(200), "{:?}", times[50]);
    drop(keys);
    client.kill().await.unwrap();
    job.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_endpoint_says_what_ssh_says() {
    let Some(scene) = scene("the_endpoint_says_what_ssh_says").await else { return };
    let folder = scene.folder.path();
    make_key(folder, "host", "ed25519").await;
    let shown =
        done(Command::new("ssh-keygen").args(["-l", "-f"]).arg(folder.join("host")).stdout(Stdio::piped()))
            .await;
    let host_key = HostKey::from_openssh(&std::fs::read_to_string(folder.join("host")).unwrap()).unwrap();
    assert!(!format!("{host_key:?}").contains("PRIVATE"));
    let server = Server::new(Config::new("127.0.0.1:0".parse().unwrap(), host_key));
    let job = scene.job("exec sleep 1000").await;
    let access = scene.access(&job).await;
    let none = server.admit(access.clone(), []).await;
    assert_eq!(none.expect_err("no key").kind(), ErrorKind::Invalid);
    let endpoint = server.admit(access, [scene.key.clone()]).await.unwrap();
    assert!(text(&shown.stdout).contains(endpoint.fingerprint()), "{shown:?}");
    assert!(endpoint.known_hosts_line("a b").is_err());

    // A client that knows another key goes away.
    let wrong = Server::new(Config::new("127.0.0.1:0".parse().unwrap(), HostKey::random().unwrap()));
    let access = scene.access(&job).await;
    let wrong = wrong.admit(access, [scene.key.clone()]).await.unwrap();
    let line = endpoint.known_hosts_line("127.0.0.1").unwrap();
    let line = line.replace(&endpoint.address().port().to_string(), &wrong.address().port().to_string());
    std::fs::write(folder.join("known_hosts"), line + "\n").unwrap();
    let refused = scene.output(&wrong, &[], "echo in").await;
    assert!(text(&refused.stderr).contains("HOST IDENTIFICATION HAS CHANGED"), "{refused:?}");
    job.stop().await;
}

#[test]
fn only_keys_are_keys() {
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIO9HNE4z1yjKLBMBXhrrRQqnX7hUXe3ckdQh3p3hXPWM";
    assert!(AuthorizedKey::parse(&format!("{key} ada@home\n")).is_ok());
    let long = format!("{key} {}", "x".repeat(20_000));
    let options = format!("command=\"id\" {key}");
    let two = format!("{key}\n{key}");
    let cut = &key[..60];
    for bad in ["", "ssh-ed25519", "ssh-ed25519 AAAA", cut, &long, &options, &two, "\u{0}"] {
        assert_eq!(AuthorizedKey::parse(bad).expect_err(bad).kind(), ErrorKind::Invalid, "{bad:?}");
    }
    assert!(HostKey::from_openssh("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END").is_err());
}
