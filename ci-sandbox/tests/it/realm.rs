//! A world for the kit's cases about rules: a machine and what is around it, as two network namespaces that are joined to
//! nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use ci_core::id::{ImageName, SandboxId};
use ci_core::network::HostName;
use ci_core::sandbox::{Backend, Capabilities, Instance, Residue, Spec};
use ci_core::{Error, ErrorKind, Result};
use ci_sandbox::conformance::{Server, World};
use ci_sandbox::native::{Config, Egress, ImageSource, Native, Resolver, RoutedNetwork};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::runtime::{Handle, Runtime};

use crate::support::{image, is_root};
use crate::weak::Weak;
use crate::world::{MACHINE, METADATA, OTHER, OUTSIDE, POOL, SERVER, shell_in, within};

/// Somebody who answers whoever asks for a name.
const NAMES: &str = "203.0.113.53";

fn place(server: Server) -> (&'static str, u16) {
    match server {
        Server::Allowed => (SERVER, 80),
        Server::Machine => (MACHINE, 80),
        Server::Metadata => (METADATA[0], 80),
        Server::Names => (NAMES, 53),
        _ => (OTHER, 80),
    }
}

pub(crate) struct Realm {
    backend: Arc<dyn Backend>,
    servers: BTreeMap<Server, Arc<Mutex<Guests>>>,
    names: Names,
    // In the order in which they have to go.
    runtime: Option<Runtime>,
    _state: tempfile::TempDir,
    machine: Namespace,
    outside: Namespace,
}

impl fmt::Debug for Realm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Realm").field("backend", &self.backend).finish_non_exhaustive()
    }
}

/// Who came to a server, and how many are there.
#[derive(Debug, Default)]
struct Guests {
    came: BTreeSet<SocketAddr>,
    present: usize,
}

/// Knows the servers' names, and remembers what it was asked.
#[derive(Clone, Debug, Default)]
struct Names(Arc<Mutex<BTreeSet<String>>>);

#[async_trait]
impl Resolver for Names {
    async fn resolve(&self, name: &HostName) -> Result<Vec<IpAddr>> {
        self.0.lock().unwrap().insert(name.as_str().to_owned());
        let known = Server::ALL.into_iter().find(|server| name_of(*server) == *name);
        known
            .map(|server| vec![place(server).0.parse().unwrap()])
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "look a name up"))
    }
}

fn name_of(server: Server) -> HostName {
    HostName::parse(&format!("{server:?}.example")).unwrap()
}

impl Realm {
    /// Addresses of sandboxes as an operator would choose them.
    pub(crate) fn routed() -> RoutedNetwork {
        RoutedNetwork::new(POOL.parse().unwrap())
    }

    /// One with the native backend. Nothing where the machine has no means to make it.
    pub(crate) fn new(routed: RoutedNetwork) -> Option<Self> {
        Self::of(move |state, names| {
            let config = Config::new(state)
                .with_image(image(), ImageSource::host_toolchain())
                .with_routed(routed)
                .with_egress(Egress::default().with_resolver(Arc::new(names)));
            Arc::new(Native::new(config).unwrap())
        })
    }

    /// One with a weak backend. Nothing where the machine has no means to make it.
    pub(crate) fn of_weak(weak: Weak) -> Option<Self> {
        Self::of(|_, _| Arc::new(weak))
    }

    fn of(make: impl FnOnce(PathBuf, Names) -> Arc<dyn Backend> + Send + 'static) -> Option<Self> {
        const TOOLS: [&str; 6] = ["conntrack", "ip", "nft", "nsenter", "sysctl", "unshare"];
        let is_there = |tool: &str| {
            Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
        };
        if !is_root() || !TOOLS.into_iter().all(is_there) {
            return None;
        }
        let (machine, outside) = (Namespace::new(), Namespace::new());
        shell_in(
            machine.pid(),
            &format!(
                "ip link set lo up
                 ip link add up0 type veth peer name wan0 netns {}
                 sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.up0.disable_ipv6=1
                 ip address add {MACHINE}/24 dev up0; ip link set up0 up
                 ip route add default via {OUTSIDE}",
                outside.pid()
            ),
        );
        let addresses: String = [SERVER, OTHER, NAMES, METADATA[0]]
            .map(|address| format!("ip address add {address}/32 dev lo\n"))
            .concat();
        outside.shell(&format!(
            "sysctl -qw net.ipv6.conf.wan0.disable_ipv6=1
             ip link set lo up; ip address add {OUTSIDE}/24 dev wan0; ip link set wan0 up
             {addresses} ip route add {POOL} via {MACHINE}"
        ));
        let servers = Server::ALL.map(|server| {
            let namespace = if server == Server::Machine { &machine } else { &outside };
            (server, serve(namespace.pid(), place(server)))
        });
        let (state, names) = (tempfile::tempdir().unwrap(), Names::default());
        let (of_state, of_names) = (state.path().to_owned(), names.clone());
        let (runtime, inner) = in_namespace(machine.pid(), move || make(of_state, of_names));
        let backend = Arc::new(There { inner, handle: runtime.handle().clone() });
        let servers = servers.into();
        Some(Self { backend, servers, names, runtime: Some(runtime), _state: state, machine, outside })
    }

    /// Puts another backend in front of the one that it has.
    pub(crate) fn with_backend(mut self, change: impl FnOnce(Arc<dyn Backend>) -> Arc<dyn Backend>) -> Self {
        self.backend = change(self.backend.clone());
        self
    }
}

impl Drop for Realm {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn enter(pid: u32) {
    let there = File::open(format!("/proc/{pid}/ns/net")).unwrap();
    move_into_link_name_space(there.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
}

/// A backend all of whose threads are in the network of a process.
fn in_namespace(
    pid: u32,
    make: impl FnOnce() -> Arc<dyn Backend> + Send + 'static,
) -> (Runtime, Arc<dyn Backend>) {
    within(pid, move || {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime =
            runtime.worker_threads(2).enable_all().on_thread_start(move || enter(pid)).build().unwrap();
        let backend = runtime.block_on(async { make() });
        (runtime, backend)
    })
}

/// A backend whose work is done on a runtime of its own.
#[derive(Debug)]
struct There {
    inner: Arc<dyn Backend>,
    handle: Handle,
}

#[async_trait]
impl Backend for There {
    async fn create(&self, id: &SandboxId, spec: &Spec) -> Result<Box<dyn Instance>> {
        let (inner, id, spec) = (self.inner.clone(), id.clone(), spec.clone());
        self.handle.spawn(async move { inner.create(&id, &spec).await }).await.unwrap()
    }

    async fn create_beside(
        &self,
        id: &SandboxId,
        spec: &Spec,
        other: &SandboxId,
    ) -> Result<Box<dyn Instance>> {
        let (inner, id, spec, other) = (self.inner.clone(), id.clone(), spec.clone(), other.clone());
        self.handle.spawn(async move { inner.create_beside(&id, &spec, &other).await }).await.unwrap()
    }

    async fn destroy(&self, id: &SandboxId) -> Result<Residue> {
        let (inner, id) = (self.inner.clone(), id.clone());
        self.handle.spawn(async move { inner.destroy(&id).await }).await.unwrap()
    }

    async fn leftovers(&self) -> Result<Vec<SandboxId>> {
        let inner = self.inner.clone();
        self.handle.spawn(async move { inner.leftovers().await }).await.unwrap()
    }

    fn abandon(&self, id: &SandboxId) {
        let (inner, id) = (self.inner.clone(), id.clone());
        self.handle.spawn(async move { inner.abandon(&id) });
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
}

impl World for Realm {
    fn backend(&self) -> Arc<dyn Backend> {
        self.backend.clone()
    }

    fn image(&self) -> ImageName {
        image()
    }

    fn address(&self, server: Server) -> SocketAddr {
        let (address, port) = place(server);
        SocketAddr::new(address.parse().unwrap(), port)
    }

    fn visitors(&self, server: Server) -> BTreeSet<SocketAddr> {
        self.servers[&server].lock().unwrap().came.clone()
    }

    fn connections(&self, server: Server) -> usize {
        self.servers[&server].lock().unwrap().present
    }

    fn name(&self, server: Server) -> HostName {
        name_of(server)
    }

    fn asked(&self) -> BTreeSet<String> {
        self.names.0.lock().unwrap().clone()
    }

    fn reaches(&self, address: SocketAddr) -> bool {
        const PATIENCE: Duration = Duration::from_millis(500);
        let knock = move || TcpStream::connect_timeout(&address, PATIENCE).is_ok();
        within(self.outside.pid(), knock) || within(self.machine.pid(), knock)
    }

    /// The addresses that rest are no trace of a network, but of its having been.
    fn traces(&self) -> BTreeSet<String> {
        const SCRIPT: &str = "conntrack -L 2> /dev/null | grep -oE 'src=10\\.200\\.[^[]*' || true
            ip -o link | cut -d: -f2 | cut -d@ -f1; ip route show table all
            nft list tables | while read -r _ family name; do
                [ $name = ci_sandbox_addresses ] || nft -s list table $family $name | grep -oE '10\\.200\\.[0-9./]+' || true
            done";
        let shown = shell_in(self.machine.pid(), SCRIPT);
        shown.lines().map(|line| line.trim().to_owned()).collect()
    }
}

/// A server that says to everybody where they come from, and then what they say.
fn serve(pid: u32, (address, port): (&'static str, u16)) -> Arc<Mutex<Guests>> {
    let address: Ipv4Addr = address.parse().unwrap();
    let guests = Arc::<Mutex<Guests>>::default();
    let (listener, socket) = within(pid, move || {
        (TcpListener::bind((address, port)).unwrap(), UdpSocket::bind((address, port)).unwrap())
    });
    let of_socket = guests.clone();
    thread::spawn(move || {
        let mut room = [0; 512];
        while let Ok((length, peer)) = socket.recv_from(&mut room) {
            of_socket.lock().unwrap().came.insert(peer);
            let _ = socket.send_to(&room[..length], peer);
        }
    });
    let of_listener = guests.clone();
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let guests = of_listener.clone();
            thread::spawn(move || answer(connection, &guests));
        }
    });
    guests
}

fn answer(mut connection: TcpStream, guests: &Mutex<Guests>) {
    let Ok(peer) = connection.peer_addr() else { return };
    let mut here = guests.lock().unwrap();
    here.came.insert(peer);
    here.present += 1;
    drop(here);
    let _ = writeln!(connection, "{peer}");
    let mut room = [0; 512];
    while let Ok(length @ 1..) = connection.read(&mut room) {
        let _ = connection.write_all(&room[..length]);
    }
    guests.lock().unwrap().present -= 1;
}

/// A network namespace, for as long as the value lives, or this program.
struct Namespace(Child);

impl Namespace {
    fn new() -> Self {
        let mut child = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo up; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut up = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut up).unwrap();
        assert_eq!(up, "up\n");
        Self(child)
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn shell(&self, script: &str) {
        shell_in(self.pid(), script);
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
