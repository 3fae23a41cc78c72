//! The machine that the kit runs on: what of it must not be reachable from inside.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use ci_core::id::SandboxId;

/// A text that is nowhere else.
pub(crate) fn unique(prefix: &str) -> String {
    format!("{prefix}{}", SandboxId::random())
}

/// The text backwards: the program is told what to look for without holding it itself.
pub(crate) fn backwards(text: &str) -> String {
    text.chars().rev().collect()
}

/// The kernel's name for this boot, or a text that is none.
pub(crate) fn boot() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    if boot.trim().is_empty() { "unknown".to_owned() } else { boot.trim().to_owned() }
}

/// The namespace of a kind that the kit is in, as `pid:[4026531836]`.
pub(crate) fn namespace(kind: &str) -> String {
    fs::read_link(format!("/proc/self/ns/{kind}"))
        .map_or_else(|_| format!("{kind}:[0]"), |link| link.to_string_lossy().into_owned())
}

/// How many processes of this machine have `marker` among their arguments.
pub(crate) fn processes_with(marker: &str) -> usize {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let has_marker = |entry: &fs::DirEntry| {
        fs::read(entry.path().join("cmdline"))
            .is_ok_and(|line| line.windows(marker.len()).any(|window| window == marker.as_bytes()))
    };
    entries.filter(has_marker).count()
}

/// Waits until something is so, for at most `patience`.
pub(crate) async fn eventually(patience: Duration, mut check: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        if check() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A folder of the machine, gone when it is dropped.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> std::io::Result<Self> {
        let path = std::env::temp_dir().join(unique("ci-sandbox-kit-"));
        fs::create_dir(&path)?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A process of the machine with a text among its arguments. It ends with its standard input, so with the kit.
#[derive(Debug)]
pub(crate) struct Bystander(Child);

impl Bystander {
    pub(crate) fn new(argument: &str) -> std::io::Result<Self> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "read line", argument]).stdin(Stdio::piped());
        Ok(Self(command.spawn()?))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn lives(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Listeners on the machine, which count who comes.
#[derive(Debug)]
pub(crate) struct Listeners {
    connections: Vec<TcpListener>,
    datagrams: Vec<UdpSocket>,
    local: UnixListener,
    local_name: String,
}

impl Listeners {
    /// On all addresses of the machine, and at an abstract name.
    pub(crate) fn new() -> std::io::Result<Self> {
        let any: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        let connections: Vec<_> = any.iter().filter_map(|ip| TcpListener::bind((*ip, 0)).ok()).collect();
        let datagrams: Vec<_> = connections
            .iter()
            .filter_map(|listener| UdpSocket::bind(listener.local_addr().ok()?).ok())
            .collect();
        for listener in &connections {
            listener.set_nonblocking(true)?;
        }
        for socket in &datagrams {
            socket.set_nonblocking(true)?;
        }
        let local_name = unique("ci-sandbox-kit-");
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&local_name)?;
        let local = UnixListener::bind_addr(&address)?;
        local.set_nonblocking(true)?;
        Ok(Self { connections, datagrams, local, local_name })
    }

    /// The abstract name, as the program takes it.
    pub(crate) fn local_name(&self) -> String {
        format!("@{}", self.local_name)
    }

    /// The port for an address.
    pub(crate) fn port(&self, ip: IpAddr) -> u16 {
        let of_family = |listener: &&TcpListener| {
            listener.local_addr().is_ok_and(|address| address.is_ipv4() == ip.is_ipv4())
        };
        let listener = self.connections.iter().find(of_family).or(self.connections.first());
        listener.and_then(|listener| listener.local_addr().ok()).map_or(9, |address| address.port())
    }

    /// How many have come.
    pub(crate) fn visits(&self) -> usize {
        let connections = self.connections.iter().filter(|listener| listener.accept().is_ok()).count();
        let datagrams = self.datagrams.iter().filter(|socket| socket.recv(&mut [0; 64]).is_ok()).count();
        connections + datagrams + usize::from(self.local.accept().is_ok())
    }
}

/// The machine's own addresses: which one it would send from. Connecting a datagram socket sends nothing.
pub(crate) fn own_addresses() -> Vec<IpAddr> {
    // Documentation addresses (RFC 5737, RFC 3849): only the route is looked up.
    let targets: [(IpAddr, IpAddr); 2] = [
        (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into()),
        (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()),
    ];
    let from = |(local, target): &(IpAddr, IpAddr)| {
        let socket = UdpSocket::bind((*local, 0)).ok()?;
        socket.connect((*target, 9)).ok()?;
        socket.local_addr().ok().map(|address| address.ip())
    };
    targets.iter().filter_map(from).collect()
}

/// An address and a port, as the program takes them.
pub(crate) fn target(ip: IpAddr, port: u16) -> String {
    match ip {
        IpAddr::V4(ip) => format!("{ip}/{port}"),
        IpAddr::V6(ip) => {
            format!("{:032x}/{port}", ip.to_bits())
        }
    }
}

/// Whether somebody at `address` says `word`.
pub(crate) fn says(address: SocketAddr, word: &str) -> bool {
    const PATIENCE: Duration = Duration::from_millis(500);
    let Ok(mut stream) = TcpStream::connect_timeout(&address, PATIENCE) else { return false };
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let _ = stream.write_all(b"\n");
    let mut said = vec![0; word.len()];
    stream.read_exact(&mut said).is_ok() && said == word.as_bytes()
}

/// A file in one of `folders` that was written since `start` and has `marker` in its name or its first MiB.
pub(crate) fn find_marker(folders: &[PathBuf], marker: &str, start: SystemTime) -> Option<PathBuf> {
    const MOST_FILES: usize = 20_000;
    let mut pending: Vec<PathBuf> = folders.to_vec();
    let mut seen = 0;
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            seen += 1;
            if seen > MOST_FILES {
                return None;
            }
            if entry.file_name().to_string_lossy().contains(marker) {
                return Some(entry.path());
            }
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                pending.push(entry.path());
            } else if metadata.is_file()
                && metadata.modified().is_ok_and(|time| time >= start)
                && has_marker(&entry.path(), marker)
            {
                return Some(entry.path());
            }
        }
    }
    None
}

fn has_marker(file: &Path, marker: &str) -> bool {
    const MOST: u64 = 1024 * 1024;
    let mut content = Vec::new();
    let read = fs::File::open(file).and_then(|file| file.take(MOST).read_to_end(&mut content));
    read.is_ok() && content.windows(marker.len()).any(|window| window == marker.as_bytes())
}
