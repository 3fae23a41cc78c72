//! Sandboxes for tests.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command as Program;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ci_core::conformance::skip;
use ci_core::id::{ImageName, SandboxId};
use ci_core::job::{Arg, Environment};
use ci_core::memory::Masking;
use ci_core::sandbox::{
    Backend as _, Command, Exit, ExitStatus, Guarantee, Instance, OutputStream, Process, ProcessEvent,
    SandboxPath, Spec,
};
use ci_core::secret::SecretLease;
use ci_core::{Error, Result};
use ci_sandbox::native::{Config, ImageSource, Native};

/// A backend with books of its own, which go when it is dropped.
pub(crate) struct Rig {
    pub(crate) native: Native,
    state: tempfile::TempDir,
}

impl Rig {
    pub(crate) fn new() -> Self {
        let state = tempfile::tempdir().unwrap();
        Self::of(native(state.path()), state)
    }

    pub(crate) fn of(native: Native, state: tempfile::TempDir) -> Self {
        Self { native, state }
    }

    /// The backend and the folder of its books.
    pub(crate) fn into_parts(self) -> (Native, tempfile::TempDir) {
        (self.native, self.state)
    }

    /// A fresh sandbox on this machine's programs.
    pub(crate) async fn sandbox(&self) -> Sandbox {
        self.sandbox_of(&spec()).await
    }

    pub(crate) async fn sandbox_of(&self, spec: &Spec) -> Sandbox {
        let id = SandboxId::random();
        let instance = self.native.create(&id, spec).await.unwrap();
        Sandbox { native: self.native.clone(), instance, id }
    }

    /// A sandbox in the network of another.
    pub(crate) async fn sandbox_beside(&self, other: &Sandbox) -> Sandbox {
        let id = SandboxId::random();
        let instance = self.native.create_beside(&id, &spec(), &other.id).await.unwrap();
        Sandbox { native: self.native.clone(), instance, id }
    }

    /// Where the books are.
    pub(crate) fn state(&self) -> &Path {
        self.state.path()
    }

    /// The sandboxes that stand in the books.
    pub(crate) fn entries(&self) -> usize {
        entries(self.state.path()).len()
    }

    /// The ids that stand in the books.
    pub(crate) fn ids(&self) -> Vec<SandboxId> {
        let name = |entry: &PathBuf| SandboxId::parse(entry.file_name().unwrap().to_str().unwrap()).unwrap();
        entries(self.state.path()).iter().map(name).collect()
    }

    /// Drops the backend, and keeps the folder with its books.
    pub(crate) fn into_state(self) -> tempfile::TempDir {
        self.state
    }

    /// What the books know of a sandbox's processes: the launcher, and process 1.
    pub(crate) fn processes(&self, id: &SandboxId) -> [i32; 2] {
        let entries = entries(self.state.path());
        let entry = entries.iter().find(|entry| entry.ends_with(id.as_str())).unwrap();
        let text = fs::read_to_string(entry).unwrap();
        let lines = text.lines().filter_map(|line| line.strip_prefix("process "));
        let pids: Vec<i32> = lines.map(|line| line.split_once(' ').unwrap().0.parse().unwrap()).collect();
        pids.try_into().unwrap()
    }

    /// Whether a guarantee holds; the test that needs it is skipped where it does not.
    pub(crate) fn holds(&self, guarantee: Guarantee) -> bool {
        let isolation = self.native.capabilities().isolation;
        if let Some(why) = isolation.missing.get(&guarantee) {
            skip_here(&format!("{guarantee:?}"), why);
        }
        isolation.held.contains(&guarantee)
    }
}

/// Says that the running test cannot run here, for want of `need`.
pub(crate) fn skip_here(need: &str, reason: &str) {
    // The harness names a test's thread after it.
    let thread = std::thread::current();
    skip(thread.name().unwrap_or("a test"), need, reason);
}

/// A backend on this machine's programs, with its books in `state`.
pub(crate) fn native(state: &Path) -> Native {
    Native::new(Config::new(state).with_image(image(), ImageSource::host_toolchain())).unwrap()
}

/// The entries of all books below `state`.
pub(crate) fn entries(state: &Path) -> Vec<PathBuf> {
    let folders = fs::read_dir(state.join("sandboxes")).into_iter().flatten().flatten();
    let files = folders.flat_map(|folder| fs::read_dir(folder.path()).into_iter().flatten().flatten());
    files.map(|file| file.path()).filter(|path| !path.ends_with("lock")).collect()
}

pub(crate) fn image() -> ImageName {
    ImageName::parse("host").unwrap()
}

pub(crate) fn spec() -> Spec {
    Spec::new(image())
}

pub(crate) fn path(text: &str) -> SandboxPath {
    SandboxPath::parse(text).unwrap()
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A living sandbox.
pub(crate) struct Sandbox {
    native: Native,
    pub(crate) instance: Box<dyn Instance>,
    pub(crate) id: SandboxId,
}

/// What a program did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) exit: Exit,
}

impl Sandbox {
    /// Runs a shell script to its end.
    pub(crate) async fn run(&self, script: &str) -> Ran {
        let mut process = self.start(script).await.unwrap();
        finish(&mut *process).await
    }

    /// The output of a script that must succeed.
    pub(crate) async fn output(&self, script: &str) -> String {
        let ran = self.run(script).await;
        assert_eq!(ran.exit.status, ExitStatus::Code(0), "{script}: {ran:?}");
        ran.stdout.trim_end().to_owned()
    }

    pub(crate) async fn start(&self, script: &str) -> Result<Box<dyn Process + '_>> {
        self.exec(&shell(script)).await
    }

    pub(crate) async fn exec(&self, command: &Command) -> Result<Box<dyn Process + '_>> {
        self.instance.exec(command, &no_secrets()).await
    }

    /// Takes it down and checks the proof.
    pub(crate) async fn destroy(self) {
        drop(self.instance);
        let residue = self.native.destroy(&self.id).await.unwrap();
        assert!(residue.is_empty(), "{residue:?}");
    }
}

pub(crate) fn no_secrets() -> SecretLease {
    SecretLease::for_helper(Arc::new(Masking::new()))
}

/// A command with the usual `PATH` and nothing else.
pub(crate) fn shell(script: &str) -> Command {
    let arg = |text: &str| Arg::new(text).unwrap();
    let mut environment = Environment::default();
    environment.set("PATH".parse().unwrap(), "/usr/bin:/bin:/usr/sbin:/sbin");
    Command::new(arg("/bin/sh"), [arg("-c"), arg(script)]).with_environment(&environment)
}

/// Collects what a program writes until it ends.
pub(crate) async fn finish(process: &mut dyn Process) -> Ran {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    loop {
        match process.next().await.unwrap() {
            ProcessEvent::Output(OutputStream::Stdout, bytes) => stdout.extend_from_slice(&bytes),
            ProcessEvent::Output(OutputStream::Stderr, bytes) => stderr.extend_from_slice(&bytes),
            ProcessEvent::Exited(exit) => {
                let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
                return Ran { stdout: text(&stdout), stderr: text(&stderr), exit };
            }
        }
    }
}

/// The error of something that must fail.
pub(crate) fn refusal<T>(result: Result<T>) -> Error {
    result.err().expect("it must be refused")
}

/// One ignored test of this program, in a process of its own, which `wrapper` prepares: a program that executes what
/// follows its arguments.
pub(crate) fn itself(wrapper: &[&str], test: &str) -> Program {
    let program = std::env::current_exe().unwrap();
    let mut words = wrapper.iter().map(OsStr::new).chain([program.as_os_str()]);
    let mut command = Program::new(words.next().unwrap());
    command.args(words).args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"]);
    command
}

/// How many processes of the machine have `marker` in their command line.
pub(crate) fn processes_with(marker: &str) -> usize {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let has_marker = |entry: &fs::DirEntry| {
        fs::read(entry.path().join("cmdline"))
            .is_ok_and(|line| String::from_utf8_lossy(&line).contains(marker))
    };
    entries.filter(has_marker).count()
}

/// Waits until something is so, for at most `patience`.
pub(crate) fn eventually(patience: Duration, mut check: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        if check() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
