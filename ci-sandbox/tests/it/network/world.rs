//! A machine and an internet, as two network namespaces.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::net::TcpListener;
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::User;

/// The machine, where the SDK runs.
pub(super) const MACHINE: &str = "198.51.100.1";
/// Another address of it, for what it lets out.
pub(super) const SOURCE: &str = "198.51.100.3";
/// Hosts that tests allow somebody to reach.
pub(super) const ALLOWED: [&str; 3] = ["203.0.113.10", "203.0.113.30", "10.0.0.1"];
/// Hosts that are there, and that nobody may reach.
pub(super) const CLOSED: [&str; 5] =
    ["203.0.113.20", "169.254.169.254", "100.100.100.200", "10.0.0.2", "168.63.129.16"];

/// A namespace that lives as long as a process in it.
struct Namespace(Child);

impl Namespace {
    fn new() -> Self {
        let mut process = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo up; exec sleep 600"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self(process)
    }

    fn path(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.0.id()).into()
    }

    /// A command that will run in it.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg(program);
        command
    }

    fn ip(&self, arguments: &str) {
        let status = self.command("ip").args(arguments.split(' ')).status().unwrap();
        assert!(status.success(), "ip {arguments}");
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(super) struct World {
    machine: Namespace,
    internet: Namespace,
}

impl World {
    pub(super) fn new() -> Self {
        let (machine, internet) = (Namespace::new(), Namespace::new());
        machine.ip(&format!("link add cable type veth peer name cable netns {}", internet.0.id()));
        for (namespace, addresses) in
            [(&machine, vec!["198.51.100.1/24", "198.51.100.3/24"]), (&internet, vec!["198.51.100.2/24"])]
        {
            namespace.ip("link set lo up");
            for address in addresses {
                namespace.ip(&format!("address add {address} dev cable"));
            }
            namespace.ip("link set cable up");
        }
        machine.ip("route add default via 198.51.100.2");
        for address in ALLOWED.iter().chain(&CLOSED) {
            internet.ip(&format!("address add {address}/32 dev lo"));
        }
        Self { machine, internet }
    }

    /// A listener in the internet.
    pub(super) fn listen(&self, address: &str) -> TcpListener {
        listen(&self.internet, address)
    }

    /// A listener of the machine's own.
    pub(super) fn listen_on_machine(&self, address: &str) -> TcpListener {
        listen(&self.machine, address)
    }

    /// A command that runs in the internet.
    pub(super) fn in_internet(&self, program: &str) -> Command {
        self.internet.command(program)
    }

    /// Runs the ignored tests whose names begin with `tests`, on the machine, one after the other: they count what is open.
    pub(super) fn run(&self, tests: &str, user: User) {
        const PATIENCE: Duration = Duration::from_mins(4);
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let program = folder.path().join("it");
        std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        let mut command = self.machine.command("setpriv");
        if user == User::Nobody {
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        }
        command.arg("--").arg(program).args([tests, "--ignored", "--test-threads=1"]).current_dir("/");
        let mut child = command.spawn().unwrap();
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                panic!("the tests take too long");
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        assert!(status.success(), "as {user:?}");
    }
}

fn listen(namespace: &Namespace, address: &str) -> TcpListener {
    let file = File::open(namespace.path()).unwrap();
    // A thread enters a namespace by itself, and takes what it makes out of it.
    std::thread::scope(|scope| {
        let listener = scope.spawn(|| -> io::Result<TcpListener> {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
            TcpListener::bind(address)
        });
        listener.join().unwrap().unwrap_or_else(|error| panic!("listen on {address}: {error}"))
    })
}
