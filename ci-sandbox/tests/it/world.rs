//! A world for tests that send packets: a machine, with sandboxes, and an outside, each a network namespace. None of it
//! is joined to the real one.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use ci_core::conformance::skip;
use ci_core::network::{Destination, EgressRule, NetworkPolicy};
use ci_core::sandbox::Spec;
use ci_sandbox::native::{Config, ImageSource, Native, RoutedNetwork};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::support::{self, Rig, Sandbox, eventually, image, is_root, itself};

/// The outside's address and the machine's, on the wire between them.
pub(crate) const OUTSIDE: &str = "198.51.100.2";
pub(crate) const MACHINE: &str = "198.51.100.1";
/// A second address of the machine, which the outside allows.
pub(crate) const ALLOW_LISTED: Ipv4Addr = Ipv4Addr::new(10, 1, 7, 2);
/// A server outside that jobs may reach, one that they may not, and what clouds keep at this address.
pub(crate) const SERVER: &str = "203.0.113.10";
pub(crate) const OTHER: &str = "203.0.113.20";
pub(crate) const METADATA: [&str; 2] = ["169.254.169.254", "100.100.100.200"];
/// The addresses of sandboxes.
pub(crate) const POOL: &str = "10.200.0.0/24";

/// Runs an ignored test of this program in a network namespace of its own, which becomes the machine's.
pub(crate) fn alone(test: &str) {
    const TOOLS: [&str; 6] = ["ip", "nft", "conntrack", "ping", "nsenter", "sysctl"];
    if !is_root() {
        return skip(test, "root", "an ordinary user has no network namespace to route from");
    }
    let is_missing = |tool: &str| {
        Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err()
    };
    if let Some(tool) = TOOLS.into_iter().find(|tool| is_missing(tool)) {
        return skip(test, "network-tools", &format!("there is no program {tool}"));
    }
    let output = itself(&["unshare", "--net"], test).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("1 passed"), "{said}");
}

/// The machine is the network namespace that the test runs in.
pub(crate) struct World {
    pub(crate) outside: Namespace,
}

impl World {
    pub(crate) fn new() -> Self {
        let outside = Namespace::new();
        let pid = outside.0.id();
        // Packets are counted: neighbours are asked for once and not again.
        let asked_once = |device: &str| {
            let neighbours = format!("net.ipv4.neigh.{device}");
            format!(
                "sysctl -qw {neighbours}.base_reachable_time_ms=3600000 {neighbours}.delay_first_probe_time=3600\n"
            )
        };
        let (asked_inside, asked_outside) = (asked_once("up0"), asked_once("wan0"));
        shell(&format!(
            "ip link set lo up; ip address add {ALLOW_LISTED}/32 dev lo
             ip link add up0 type veth peer name wan0 netns {pid}
             sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.up0.disable_ipv6=1
             {asked_inside}
             ip address add {MACHINE}/24 dev up0; ip link set up0 up
             ip route add default via {OUTSIDE}"
        ));
        let addresses: String = [SERVER, OTHER, METADATA[0], METADATA[1]]
            .map(|address| format!("ip address add {address}/32 dev lo\n"))
            .concat();
        outside.shell(&format!(
            "sysctl -qw net.ipv6.conf.wan0.disable_ipv6=1
             {asked_outside}
             ip link set lo up; ip address add {OUTSIDE}/24 dev wan0; ip link set wan0 up
             {addresses}
             ip route add {ALLOW_LISTED}/32 via {MACHINE}; ip route add {POOL} via {MACHINE}"
        ));
        Self { outside }
    }

    /// A backend whose sandboxes are routed.
    pub(crate) fn rig(&self) -> Rig {
        self.rig_of(routed())
    }

    #[expect(clippy::unused_self, reason = "it routes in this world")]
    pub(crate) fn rig_of(&self, routed: RoutedNetwork) -> Rig {
        let state = tempfile::tempdir().unwrap();
        Rig::of(Native::new(config(&state, routed)).unwrap(), state)
    }
}

pub(crate) fn config(state: &tempfile::TempDir, routed: RoutedNetwork) -> Config {
    config_at(state.path(), routed)
}

pub(crate) fn config_at(state: &std::path::Path, routed: RoutedNetwork) -> Config {
    Config::new(state).with_image(image(), ImageSource::host_toolchain()).with_routed(routed)
}

pub(crate) fn routed() -> RoutedNetwork {
    RoutedNetwork::new(POOL.parse().unwrap())
}

/// A sandbox that may connect to these ports of these networks.
pub(crate) fn spec(rules: &[(&str, &[u16])]) -> Spec {
    let rule = |(network, ports): &(&str, &[u16])| EgressRule {
        destination: Destination::Network(network.parse().unwrap()),
        ports: ports.to_vec(),
    };
    support::spec().with_network(NetworkPolicy::Allow(rules.iter().map(rule).collect()))
}

/// A network namespace, for as long as the value lives.
pub(crate) struct Namespace(Child);

impl Namespace {
    fn new() -> Self {
        let own = fs::read_link("/proc/self/ns/net").unwrap();
        let child = Command::new("unshare").args(["--net", "sleep", "1000"]).spawn().unwrap();
        let path = format!("/proc/{}/ns/net", child.id());
        assert!(eventually(Duration::from_secs(20), || fs::read_link(&path).is_ok_and(|other| other != own)));
        Self(child)
    }

    pub(crate) fn shell(&self, script: &str) -> String {
        shell_in(self.0.id(), script)
    }

    /// A server for TCP on all addresses, which says to everybody who comes where they come from, and then what they
    /// say.
    pub(crate) fn serve(&self, port: u16) {
        let listener = within(self.0.id(), move || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap());
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                thread::spawn(move || answer(connection));
            }
        });
    }

    /// The same for UDP.
    pub(crate) fn serve_datagrams(&self, port: u16) {
        let socket = within(self.0.id(), move || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap());
        thread::spawn(move || {
            let mut room = [0; 512];
            while let Ok((_, peer)) = socket.recv_from(&mut room) {
                let _ = socket.send_to(format!("{}\n", peer.ip()).as_bytes(), peer);
            }
        });
    }

    /// How many packets have come in from the machine.
    pub(crate) fn arrived(&self) -> u64 {
        packets(self.0.id(), "wan0").0
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn answer(mut connection: TcpStream) {
    let _ = writeln!(connection, "{}", connection.peer_addr().unwrap().ip());
    let mut room = [0; 4096];
    while let Ok(1..) = connection.read(&mut room).inspect(|length| {
        let _ = connection.write_all(&room[..*length]);
    }) {}
}

/// Does something in the network of a process.
pub(crate) fn within<T: Send + 'static>(pid: u32, work: impl FnOnce() -> T + Send + 'static) -> T {
    let visit = move || {
        let there = File::open(format!("/proc/{pid}/ns/net")).unwrap();
        move_into_link_name_space(there.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        work()
    };
    thread::spawn(visit).join().unwrap()
}

/// How many packets a device of a process's network has received, and sent.
pub(crate) fn packets(pid: u32, device: &str) -> (u64, u64) {
    let table = fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap();
    let line = table.lines().find_map(|line| line.trim().strip_prefix(&format!("{device}:"))).unwrap();
    let numbers: Vec<u64> = line.split_whitespace().map(|number| number.parse().unwrap()).collect();
    (numbers[1], numbers[9])
}

/// The output of a script on the machine, which must succeed.
pub(crate) fn shell(script: &str) -> String {
    shell_in(std::process::id(), script)
}

/// The same in the network of a process, with all powers over it.
pub(crate) fn shell_in(pid: u32, script: &str) -> String {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/proc/{pid}/ns/net")).args(["sh", "-ec", script]);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What a job that connects there is told, or nothing. It waits for two seconds at most.
pub(crate) async fn ask(sandbox: &Sandbox, address: &str, port: u16) -> Option<String> {
    let script = format!("timeout 2 bash -c 'exec 3<>/dev/tcp/{address}/{port} && head -n 1 <&3'");
    let ran = sandbox.run(&script).await;
    ran.exit.status.is_success().then(|| ran.stdout.trim_end().to_owned())
}

/// The machine's own server.
pub(crate) fn serve_here(port: u16) {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
    thread::spawn(move || {
        listener.incoming().flatten().for_each(|connection| drop(thread::spawn(|| answer(connection))));
    });
}

/// Whether the machine itself reaches a server.
pub(crate) fn reaches(address: &str, port: u16) -> bool {
    let address = std::net::SocketAddr::new(address.parse().unwrap(), port);
    TcpStream::connect_timeout(&address, Duration::from_secs(2)).is_ok()
}
