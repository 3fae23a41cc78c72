//! A backend of `bwrap` and Perl, sound as far as it says, into which a test makes one hole.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Program, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use ci_core::id::SandboxId;
use ci_core::job::Arg;
use ci_core::network::NetworkReport;
use ci_core::sandbox::{
    Backend, Capabilities, Command, Exit, ExitStatus, Guarantee, Input, Instance, IsolationReport,
    OutputStream, Process, ProcessEvent, Residue, SandboxPath, SandboxUsage, SecretForm, SecretUse, Signal,
    Spec, Streams, TerminalSize, Usage,
};
use ci_core::secret::SecretLease;
use ci_core::stream::{self, ByteStream};
use ci_core::{ByteSize, Error, ErrorKind, Result};
use rustix::process::{Pid, kill_process, kill_process_group};
use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{ChildStderr, ChildStdout};

const ENTER: &str = include_str!("enter.pl");

/// A backend with at most one hole, by the name that the tests and `enter.pl` have for it.
#[derive(Clone, Debug)]
pub(crate) struct Weak(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    hole: &'static str,
    declared: Vec<Guarantee>,
    filter: String,
    /// A folder of the machine's, for holes that share one.
    folder: tempfile::TempDir,
    living: Mutex<HashMap<SandboxId, Arc<Inside>>>,
}

/// The processes around a sandbox.
#[derive(Debug)]
struct Inside {
    bwrap: Mutex<Child>,
    /// Whose namespaces are the sandbox's.
    first: i32,
    /// Its tree of files, held, so that no other one gets its number: who is in it is a process of the sandbox.
    tree: File,
}

impl Weak {
    /// Sound but for `hole`, and said to hold `declared` beside what the sound one holds.
    pub(crate) fn new(hole: &'static str, declared: &[Guarantee]) -> Self {
        use Guarantee as G;
        let sound = [G::Namespaces, G::NoPrivileges, G::SyscallFilter, G::Firewalled, G::SeparateInit];
        let folder = tempfile::tempdir().unwrap();
        for name in ["tmp", "certs"] {
            let path = folder.path().join(name);
            fs::create_dir(&path).unwrap();
            fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o1777)).unwrap();
        }
        Self(Arc::new(Shared {
            hole,
            declared: sound.iter().chain(declared).copied().collect(),
            filter: filter(),
            folder,
            living: Mutex::default(),
        }))
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.0.folder.path().to_owned()
    }
}

/// What the sound one forbids, as the hexadecimal form of its program.
fn filter() -> String {
    let is = |argument: u8, op: SeccompCmpOp, value: u64| {
        let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, op, value).unwrap();
        SeccompRule::new(vec![condition]).unwrap()
    };
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    // Namespaces, mounts, keys, and large parts of the kernel.
    for call in [
        155, 161, 165, 166, 179, 248, 249, 250, 272, 298, 300, 304, 308, 312, 321, 323, 425, 428, 429, 430,
        433, 435, 438, 442,
    ] {
        rules.insert(call, Vec::new());
    }
    let new_namespaces =
        [0x2_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000];
    let clone = new_namespaces.map(|flag| is(0, SeccompCmpOp::MaskedEq(flag), flag));
    rules.insert(56, clone.into());
    rules.insert(16, [0x5412, 0x541c].map(|request| is(1, SeccompCmpOp::Eq, request)).into());
    rules.insert(135, vec![is(0, SeccompCmpOp::Ge, 1)]);
    for call in [41, 53] {
        let families = [5, 9, 15, 17, 21, 29, 30, 31, 38, 40, 44];
        rules.insert(call, families.map(|family| is(0, SeccompCmpOp::Eq, family)).into());
    }
    let filter =
        SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(1), TargetArch::x86_64).unwrap();
    let program: seccompiler::BpfProgram = filter.try_into().unwrap();
    program.iter().fold(String::new(), |text, instruction| {
        // As it lies in memory: struct sock_filter.
        let [low, high] = instruction.code.to_le_bytes();
        let start = u32::from_be_bytes([low, high, instruction.jt, instruction.jf]);
        text + &format!("{start:08x}{:08x}", instruction.k.swap_bytes())
    })
}

impl Shared {
    fn has(&self, hole: &str) -> bool {
        self.hole.split(',').any(|one| one == hole)
    }

    fn start(&self) -> std::io::Result<Inside> {
        let mut bwrap = Program::new("bwrap");
        bwrap.env_clear().args(["--unshare-ipc", "--unshare-uts", "--unshare-cgroup", "--hostname", "weak"]);
        if !self.has("host processes") {
            bwrap.arg("--unshare-pid");
        }
        if !self.has("host network") {
            bwrap.arg("--unshare-net");
        }
        if self.has("dies with a thread") {
            bwrap.arg("--die-with-parent");
        }
        bwrap.args(["--tmpfs", "/", "--ro-bind", "/usr", "/usr", "--dev", "/dev"]);
        for name in ["bin", "sbin", "lib", "lib64"] {
            bwrap.args(["--symlink", &format!("usr/{name}"), &format!("/{name}")]);
        }
        if self.has("host processes") {
            bwrap.args(["--ro-bind", "/proc", "/proc"]);
        } else {
            bwrap.args(["--proc", "/proc"]);
        }
        if !self.has("telling proc") {
            for name in
                ["cmdline", "interrupts", "kcore", "keys", "sched_debug", "timer_list", "latency_stats"]
            {
                let file = format!("/proc/{name}");
                if Path::new(&file).exists() {
                    bwrap.args(["--ro-bind", "/dev/null", &file]);
                }
            }
            for name in ["acpi", "pressure", "scsi"] {
                let folder = format!("/proc/{name}");
                if Path::new(&folder).exists() {
                    bwrap.args(["--tmpfs", &folder]);
                }
            }
        }
        bwrap.args(["--dir", "/etc/ssl/certs", "--perms", "1777", "--tmpfs", "/work"]);
        bwrap.args(["--perms", "1777", "--tmpfs", "/tmp", "--perms", "1777", "--tmpfs", "/dev/shm"]);
        if self.has("shared folder") {
            bwrap.arg("--bind").arg(self.folder.path().join("tmp")).arg("/tmp");
        }
        if self.has("writable image") {
            bwrap.arg("--bind").arg(self.folder.path().join("certs")).arg("/etc/ssl/certs");
        }
        // It ends with its input, so with the test.
        bwrap.args(["--new-session", "/bin/sh", "-c", "echo up; exec cat"]);
        let mut bwrap = bwrap.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut up = String::new();
        BufReader::new(bwrap.stdout.take().unwrap()).read_line(&mut up)?;
        assert_eq!(up, "up\n", "bwrap makes no sandbox");
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", bwrap.id()))?;
        let first = children.split_whitespace().next().unwrap().parse().unwrap();
        let tree = File::open(format!("/proc/{first}/ns/mnt"))?;
        assert_ne!(
            inode(&tree)?,
            inode(&File::open("/proc/self/ns/mnt")?)?,
            "bwrap makes no tree of its own"
        );
        Ok(Inside { bwrap: Mutex::new(bwrap), first, tree })
    }
}

impl Inside {
    /// Kills everything that is in the sandbox's tree of files, by whatever way it came there.
    fn end(&self) {
        let mut bwrap = self.bwrap.lock().unwrap();
        let _ = bwrap.kill();
        let _ = bwrap.wait();
        let Ok(tree) = inode(&self.tree) else { return };
        loop {
            let mut count = 0;
            for entry in fs::read_dir("/proc").unwrap().flatten() {
                let pid = entry.file_name().to_string_lossy().parse().ok().and_then(Pid::from_raw);
                let is_inside =
                    fs::metadata(entry.path().join("ns/mnt")).is_ok_and(|file| file.ino() == tree);
                if let (Some(pid), true) = (pid, is_inside) {
                    let _ = kill_process(pid, rustix::process::Signal::KILL);
                    count += 1;
                }
            }
            if count == 0 {
                return;
            }
        }
    }
}

/// The number of a namespace.
fn inode(namespace: &File) -> std::io::Result<u64> {
    namespace.metadata().map(|file| file.ino())
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.end();
    }
}

#[async_trait]
impl Backend for Weak {
    async fn create(&self, id: &SandboxId, _spec: &Spec) -> Result<Box<dyn Instance>> {
        let inside = Arc::new(self.0.start().map_err(failed)?);
        self.0.living.lock().unwrap().insert(id.clone(), inside.clone());
        Ok(Box::new(WeakInstance {
            shared: self.0.clone(),
            inside,
            isolation: self.capabilities().isolation,
        }))
    }

    async fn destroy(&self, id: &SandboxId) -> Result<Residue> {
        if self.0.has("survivors") {
            return Ok(Residue::default());
        }
        let inside = self.0.living.lock().unwrap().remove(id);
        if let Some(inside) = inside {
            inside.end();
        }
        Ok(Residue::default())
    }

    async fn leftovers(&self) -> Result<Vec<SandboxId>> {
        Ok(Vec::new())
    }

    fn abandon(&self, id: &SandboxId) {
        if !self.0.has("survivors") {
            drop(self.0.living.lock().unwrap().remove(id));
        }
    }

    fn capabilities(&self) -> Capabilities {
        let capabilities = Capabilities::new(IsolationReport::new(self.0.declared.iter().copied()));
        if self.0.has("rules") { capabilities.with_egress_to_networks() } else { capabilities }
    }
}

#[derive(Debug)]
struct WeakInstance {
    shared: Arc<Shared>,
    inside: Arc<Inside>,
    isolation: IsolationReport,
}

impl WeakInstance {
    /// Starts a program in the sandbox's namespaces.
    async fn enter(
        &self,
        folder: &str,
        words: &[&str],
        variables: &[Vec<u8>],
        input: &Path,
        is_terminal: bool,
    ) -> std::io::Result<WeakProcess> {
        let mut perl = tokio::process::Command::new("perl");
        perl.args(["-e", ENTER]);
        if !self.shared.has("environment") {
            perl.env_clear();
        }
        perl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = perl.spawn()?;
        let first = self.inside.first.to_string();
        let count = variables.len().to_string();
        let holes = format!("{}{}", self.shared.hole, if is_terminal { ",terminal" } else { "" });
        let mut told: Vec<&[u8]> =
            [first.as_str(), &holes, folder, &self.shared.filter].map(str::as_bytes).to_vec();
        told.extend([input.as_os_str().as_bytes(), count.as_bytes()]);
        told.extend(variables.iter().map(Vec::as_slice));
        told.extend(words.iter().map(|word| word.as_bytes()));
        let mut told = told.join(&0);
        told.push(0);
        child.stdin.take().unwrap().write_all(&told).await?;
        let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        Ok(WeakProcess { group: group.unwrap(), stdout, stderr, child, ended: None })
    }

    /// Runs a script inside with a file of the machine as its input: its exit code, and what it said.
    async fn script(&self, script: &str, path: &SandboxPath, input: &Path) -> Result<(ExitStatus, Vec<u8>)> {
        let words = ["/bin/sh", "-c", script, "sh", path.as_str()];
        let mut process = self.enter("/", &words, &[], input, false).await.map_err(failed)?;
        let mut output = Vec::new();
        loop {
            match process.next().await? {
                ProcessEvent::Output(OutputStream::Stdout, bytes) => output.extend_from_slice(&bytes),
                ProcessEvent::Output(..) => {}
                ProcessEvent::Exited(exit) => return Ok((exit.status, output)),
            }
        }
    }

    /// Unpacks as the machine's root, by a path that the sandbox has a say in.
    fn unpack_outside(&self, path: &SandboxPath, archive: &Path) -> std::io::Result<bool> {
        let folder = format!("/proc/{}/root{path}", self.inside.first);
        fs::create_dir_all(&folder)?;
        let mut tar = Program::new("tar");
        tar.args(["-x", "--no-same-owner", "-C", &folder, "-f"]).arg(archive).stderr(Stdio::null());
        Ok(tar.status()?.success())
    }
}

#[async_trait]
impl Instance for WeakInstance {
    async fn exec<'a>(&'a self, command: &Command, lease: &SecretLease) -> Result<Box<dyn Process + 'a>> {
        let set = command.environment.iter();
        let mut variables: Vec<Vec<u8>> =
            set.map(|(name, value)| [name.as_str().as_bytes(), b"=", value.as_bytes()].concat()).collect();
        let is_terminal = match command.streams {
            Streams::Pipes { input: false, merged: false, .. } => false,
            Streams::Terminal(_) => true,
            _ => return Err(unsupported("it reads nothing and merges nothing")),
        };
        for SecretUse { name, form } in &command.secrets {
            if *form != SecretForm::Variable {
                return Err(unsupported("secrets are variables here"));
            }
            variables.push([name.as_str().as_bytes(), b"=", lease.value(name)?.expose()].concat());
        }
        let words: Vec<&str> =
            std::iter::once(&command.program).chain(&command.arguments).map(Arg::as_str).collect();
        let nothing = Path::new("/dev/null");
        let process = self.enter(command.directory.as_str(), &words, &variables, nothing, is_terminal).await;
        Ok(Box::new(process.map_err(failed)?))
    }

    async fn upload(&self, path: &SandboxPath, tar: ByteStream<'_>) -> Result<()> {
        let bytes = stream::collect(tar, ByteSize::mib(64)).await?;
        let invalid = || Error::new(ErrorKind::Invalid, "unpack an archive");
        let archive = tempfile::NamedTempFile::new().map_err(failed)?;
        fs::write(archive.path(), &bytes).map_err(failed)?;
        let is_unpacked = if self.shared.has("unpacks outside") {
            self.unpack_outside(path, archive.path()).map_err(failed)?
        } else {
            let script = "mkdir -p \"$1\" && exec tar -x --no-same-owner -C \"$1\" 2> /dev/null";
            crate::tar::is_plain(&bytes)
                && self.script(script, path, archive.path()).await?.0 == ExitStatus::Code(0)
        };
        if is_unpacked { Ok(()) } else { Err(invalid()) }
    }

    fn download(&self, path: &SandboxPath) -> ByteStream<'_> {
        let path = path.clone();
        Box::pin(futures_util::stream::once(async move {
            // Files, folders and links: a pipe would wait.
            let script = "cd \"${1%/*}/\" && test -e \"${1##*/}\" || exit 44; find \"${1##*/}\" \
                 \\( -type f -o -type d -o -type l \\) -print0 | tar -c --no-recursion --null -T -";
            match self.script(script, &path, Path::new("/dev/null")).await? {
                (ExitStatus::Code(44), _) => Err(Error::new(ErrorKind::NotFound, "pack a folder")),
                (_, archive) => Ok(Bytes::from(archive)),
            }
        }))
    }

    async fn usage(&self) -> Result<SandboxUsage> {
        Ok(SandboxUsage::default())
    }

    fn network(&self) -> NetworkReport {
        NetworkReport::default()
    }

    fn isolation(&self) -> &IsolationReport {
        &self.isolation
    }
}

#[derive(Debug)]
struct WeakProcess {
    group: Pid,
    child: tokio::process::Child,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    ended: Option<(std::process::ExitStatus, Instant)>,
}

/// What there is, or nothing at the end, and never anything after it.
async fn piece(from: &mut Option<impl AsyncRead + Unpin>) -> Option<Bytes> {
    let Some(stream) = from else { return std::future::pending().await };
    let mut bytes = vec![0; 64 * 1024];
    if let Ok(length @ 1..) = stream.read(&mut bytes).await {
        bytes.truncate(length);
        return Some(bytes.into());
    }
    *from = None;
    None
}

fn unsupported(why: &'static str) -> Error {
    Error::new(ErrorKind::Unsupported, "use a weak sandbox").because(why)
}

#[async_trait]
impl Process for WeakProcess {
    async fn next(&mut self) -> Result<ProcessEvent> {
        /// For what was written before the end, whoever else goes on writing.
        const REST: Duration = Duration::from_millis(30);
        loop {
            let ended = self.ended;
            let is_read = self.stdout.is_none() && self.stderr.is_none();
            let rest = async {
                match ended {
                    Some(_) if is_read => {}
                    Some((_, since)) => tokio::time::sleep_until((since + REST).into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = rest => {}
                bytes = piece(&mut self.stdout) => match bytes {
                    Some(bytes) => return Ok(ProcessEvent::Output(OutputStream::Stdout, bytes)),
                    None => continue,
                },
                bytes = piece(&mut self.stderr) => match bytes {
                    Some(bytes) => return Ok(ProcessEvent::Output(OutputStream::Stderr, bytes)),
                    None => continue,
                },
                status = self.child.wait(), if ended.is_none() => {
                    self.ended = Some((status.map_err(failed)?, Instant::now()));
                    continue;
                }
            }
            let Some((status, _)) = self.ended else { continue };
            let byte = |number: i32| u8::try_from(number).unwrap_or(u8::MAX);
            let status = match (status.code(), status.signal()) {
                (Some(code), _) => ExitStatus::Code(byte(code)),
                (None, signal) => ExitStatus::Signal(byte(signal.unwrap_or(0))),
            };
            return Ok(ProcessEvent::Exited(Exit { status, usage: Usage::default() }));
        }
    }

    async fn signal(&self, signal: Signal) -> Result<()> {
        let signal = rustix::process::Signal::from_named_raw(signal.number().into()).expect("a signal");
        if self.ended.is_none() && self.child.id().is_some() {
            let _ = kill_process_group(self.group, signal);
        }
        Ok(())
    }

    fn input(&mut self) -> Option<Box<dyn Input>> {
        None
    }

    async fn resize(&self, _: TerminalSize) -> Result<()> {
        Err(unsupported("there is no terminal"))
    }
}

impl Drop for WeakProcess {
    fn drop(&mut self) {
        if self.child.id().is_some() {
            let _ = kill_process_group(self.group, rustix::process::Signal::KILL);
        }
    }
}

fn failed(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, "use a weak sandbox").caused_by(error)
}
