//! From a spec to a running sandbox.

use std::ffi::CString;
use std::os::fd::AsFd as _;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::{Arc, Mutex as Lock, OnceLock};
use std::time::Duration;

use ci_core::id::SandboxId;
use ci_core::job::Limits;
use ci_core::sandbox::Spec;
use ci_core::{Error, ErrorKind, Result};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::cgroup::{Groups, OutOfMemory, disks};
use super::channel::Channel;
use super::failure::{self, CREATE};
use super::identity::Identity;
use super::image::Mount;
use super::ledger::Entry;
use super::life::{Init, Life, NetworkNamespace, SharedNetwork};
use super::namespaces::Namespaces;
use super::network::{Allowed, Link};
use super::shared::Shared;
use super::sys;
use super::wire::{CONFIG_LIMIT, Configuration, List, Reader, Report, Socket, Stage, mount};

/// How long making a sandbox may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A sandbox that has been thought through; nothing of it exists.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    limits: &'a Limits,
    mounts: Vec<Mount>,
    groups: Groups,
    /// What the supervisor wants to hold of the sandbox's network.
    sockets: Vec<Socket>,
    /// Whose network it gets, if not one of its own.
    joined: Option<SharedNetwork>,
    /// What it reaches over a network card of its own.
    routes: Vec<Allowed>,
    /// The launcher's configuration.
    packet: Vec<u8>,
}

/// Plans the sandbox `id`, with these sockets in its network, or in the network of another.
pub(super) fn plan<'a>(
    shared: &Shared,
    id: &SandboxId,
    spec: &'a Spec,
    sockets: Vec<Socket>,
    joined: Option<SharedNetwork>,
) -> Result<Plan<'a>> {
    let mounts: Vec<Mount> = shared.image(&spec.image)?.mounts.iter().cloned().chain(binds(spec)).collect();
    if let Some(why) = unbounded_reads(spec) {
        return Err(Error::new(ErrorKind::Unsupported, CREATE)
            .because("how fast it reads from disks cannot be bounded")
            .with("missing", why));
    }
    let groups = shared.hierarchies.groups(id, &spec.limits);
    let packet = configuration(shared, spec, &groups, &mounts, &sockets, joined.is_some())?;
    if packet.len() > CONFIG_LIMIT {
        return Err(Error::new(ErrorKind::LimitExceeded, CREATE)
            .because("its image and folders consist of too many paths"));
    }
    let routes =
        shared.routed.as_ref().map(|routed| routed.rules(&spec.network)).transpose()?.unwrap_or_default();
    Ok(Plan { limits: &spec.limits, mounts, groups, sockets, joined, routes, packet })
}

/// Why its bound on reading would not hold for the folders of the host that it is shown.
fn unbounded_reads(spec: &Spec) -> Option<String> {
    let mut folders = spec.binds.values().filter(|_| spec.limits.bounds_disk_reads());
    folders.find_map(|folder| disks::hold(folder).err())
}

/// Starts the launcher. There is no await in here: either everything that must be undone is in the value that is
/// returned, or it is undone already.
pub(super) fn start(shared: &Shared, id: &SandboxId, plan: &Plan<'_>) -> Result<Life> {
    const BOTH_WAYS: Interest = Interest::READABLE.add(Interest::WRITABLE);
    let (lifeline, lifeline_end) = sys::packet_sockets().map_err(failure::host(CREATE))?;
    let (control, control_end) = sys::packet_sockets().map_err(failure::host(CREATE))?;
    let lifeline = Channel::new(lifeline, BOTH_WAYS).map_err(failure::host(CREATE))?;
    let control = Channel::new(control, BOTH_WAYS).map_err(failure::host(CREATE))?;
    // It finds its configuration when it starts, and need not wait for us.
    let network: Vec<_> = plan.joined.iter().map(|network| network.file.as_fd()).collect();
    lifeline.try_send(&plan.packet, &network).map_err(failure::host(CREATE))?;
    let entry = shared.ledger.enter(id, &plan.groups).map_err(failure::host(CREATE))?;
    let link = reserve(shared, &entry, plan).inspect_err(|_| {
        entry.page().strike();
    })?;
    let made = shared.hierarchies.make(&plan.groups, plan.limits);
    let spawned = made.and_then(|()| sys::spawn(&shared.program, lifeline_end, control_end));
    let (launcher, pid) = spawned.map_err(|error| {
        link.iter().for_each(Link::undo);
        if plan.groups.remove() == 0 {
            entry.page().strike();
        }
        failure::host(CREATE)(error)
    })?;
    // Without this line, one who clears up after us relies on the lifeline alone.
    let _ = entry.add_process(pid);
    Ok(Life {
        lifeline,
        control,
        out_of_memory: OutOfMemory::of(&plan.groups),
        groups: plan.groups.clone(),
        entry,
        link: link.map(Arc::new),
        launcher,
        init: Lock::default(),
        shares_network: AtomicBool::new(plan.joined.is_some()),
        is_released: AtomicBool::new(false),
        namespace: Lock::new(plan.joined.clone()),
        requests: AtomicU32::new(0),
        runtime: Handle::current(),
        patience: shared.patience,
        is_over: Mutex::default(),
        network: OnceLock::new(),
    })
}

/// Addresses and rules of the sandbox's network card, if it has one.
fn reserve(shared: &Shared, entry: &Entry, plan: &Plan<'_>) -> Result<Option<Link>> {
    let Some(routed) = shared.routed.as_ref().filter(|_| !plan.routes.is_empty()) else { return Ok(None) };
    let link = routed.reserve(plan.routes.clone())?;
    // Before there is a device that somebody would have to wait for.
    entry.add_link(link.device()).inspect_err(|_| link.undo()).map_err(failure::host(CREATE))?;
    Ok(Some(link))
}

/// What the init says when it takes requests.
#[derive(Debug)]
pub(super) struct Ready {
    /// Constants of [`fact`](super::wire::fact).
    pub(super) facts: u32,
    /// The plan's sockets, in its order. They do not block.
    pub(super) sockets: Vec<OwnedFd>,
}

/// Waits until the init takes requests.
pub(super) async fn finish(life: &Life, plan: &Plan<'_>) -> Result<Ready> {
    match timeout(PATIENCE, handshake(life, !plan.sockets.is_empty())).await {
        // Of descriptors for which there is no room the kernel says nothing.
        Ok(Ok(ready)) if ready.sockets.len() != plan.sockets.len() => {
            Err(failure::host(CREATE)(Errno::MFILE.into()))
        }
        Ok(Ok(ready)) => Ok(ready),
        Ok(Err(Refusal::Failed(report))) => Err(explain(report, plan)),
        Ok(Err(Refusal::Unlinked(error))) => Err(error),
        Ok(Err(Refusal::Gone)) => Err(life.gone(CREATE)),
        Err(_) => {
            Err(Error::new(ErrorKind::Unavailable, CREATE)
                .because("the machine has not made it in ten seconds"))
        }
    }
}

/// Why there is no sandbox.
enum Refusal {
    Failed(Report),
    Unlinked(Error),
    Gone,
}

async fn handshake(life: &Life, is_proxied: bool) -> Result<Ready, Refusal> {
    let (report, files) = life.lifeline.report().await.map_err(|_| Refusal::Gone)?;
    let Report::Launched { pid, facts } = report else { return Err(Refusal::Failed(report)) };
    let mut files = files.into_iter();
    if let (Some(process), Some(pid_namespace), Some(network)) = (files.next(), files.next(), files.next()) {
        let pid = pid.cast_signed();
        let _ = life.entry.add_process(pid);
        let namespaces = Namespaces::of(pid, &process);
        life.set_network_namespace(NetworkNamespace { file: network, is_proxied });
        life.set_init(Init { process, pid_namespace, namespaces });
    }
    // Process 1 builds the root meanwhile.
    if let (Some(link), Some(init)) = (&life.link, life.init()) {
        link.attach(&init.process).await.map_err(Refusal::Unlinked)?;
    }
    match life.control.report().await {
        Ok((Report::Ready { facts: more }, sockets)) => Ok(Ready { facts: facts | more, sockets }),
        Ok((report, _)) => Err(Refusal::Failed(report)),
        Err(_) => Err(Refusal::Gone),
    }
}

/// Folders of the host for a helper: shown so that the job's user can read what their owner can.
fn binds(spec: &Spec) -> impl Iterator<Item = Mount> {
    spec.binds.iter().map(|(inside, host)| Mount {
        kind: mount::BIND_MAPPED,
        source: host.as_os_str().as_bytes().to_vec(),
        target: inside.as_str().as_bytes().to_vec(),
    })
}

fn configuration(
    shared: &Shared,
    spec: &Spec,
    groups: &Groups,
    mounts: &[Mount],
    sockets: &[Socket],
    joins: bool,
) -> Result<Vec<u8>> {
    let maps = shared.identity.maps(&shared.slots);
    let number = |value: u64| CString::new(value.to_string()).unwrap_or_default();
    // Zero would be no bound at all (tmpfs(5)).
    let (size, inodes) = (number(spec.limits.disk.as_u64().max(1)), number(shared.files.max(1)));
    let watched = shared.hierarchies.watched(groups).map_or(&b""[..], |group| group.as_os_str().as_bytes());
    let watched = CString::new(watched).map_err(|error| failure::host(CREATE)(error.into()))?;
    let nothing = List { count: 0, records: Reader::EMPTY };
    let configuration = Configuration {
        range: shared.identity == Identity::Range,
        joins,
        uid_map: &maps.uid,
        gid_map: &maps.gid,
        owner: &maps.owner,
        job: &maps.job,
        size: &size,
        inodes: &inodes,
        watched: &watched,
        hostname: &shared.hostname,
        filter: &shared.filter,
        groups: nothing,
        mounts: nothing,
        sockets: nothing,
    };
    let entrances = groups.entrances();
    let mut packet = Vec::new();
    configuration.encode(
        entrances.iter().map(Vec::as_slice),
        mounts.iter().map(|mount| (mount.kind, mount.source.as_slice(), mount.target.as_slice())),
        sockets,
        &mut packet,
    );
    Ok(packet)
}

fn explain(report: Report, plan: &Plan<'_>) -> Error {
    let Report::Failed { stage, errno, item } = report else { return failure::gone(CREATE) };
    let item = item as usize;
    let entrances = plan.groups.entrances();
    let item = match stage {
        Stage::OpenBind => plan.mounts.get(item).map(|mount| mount.source.as_slice()),
        Stage::Mount => plan.mounts.get(item).map(|mount| mount.target.as_slice()),
        Stage::JoinGroup => entrances.get(item).map(Vec::as_slice),
        _ => None,
    };
    failure::creating(stage, errno, item)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeMap;
    use std::fs;
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, UdpSocket};

    use ci_core::id::ImageName;
    use ci_core::job::Arg;
    use ci_core::memory::Masking;
    use ci_core::sandbox::{Backend as _, Command, Instance as _, ProcessEvent};
    use ci_core::secret::SecretLease;

    use super::super::instance::NativeInstance;
    use super::super::{Config, ImageSource, Native, report};
    use super::*;

    /// What a script sees that talks to the sockets of its sandbox's network, which this process serves.
    #[tokio::test]
    async fn sockets_of_the_sandbox_are_served_from_outside_and_held_by_nobody_inside() {
        let state = tempfile::tempdir().unwrap();
        let image = ImageName::parse("host").unwrap();
        let config = Config::new(state.path()).with_image(image.clone(), ImageSource::host_toolchain());
        let native = Native::new(config).unwrap();
        let wanted = vec![
            Socket::Listener("127.0.0.1:443".parse().unwrap()),
            Socket::Listener("[::1]:853".parse().unwrap()),
            Socket::Datagram("127.0.0.1:53".parse().unwrap()),
        ];
        let (id, spec) = (SandboxId::random(), Spec::new(image));
        let plan = plan(&native.0, &id, &spec, wanted, None).unwrap();
        let life = native.0.begin(&id, &plan).unwrap();
        let ready = finish(&life, &plan).await.unwrap();
        let [four, six, datagrams]: [OwnedFd; 3] = ready.sockets.try_into().unwrap();
        let isolation = report::of(ready.facts, &native.0.hierarchies);
        let instance =
            NativeInstance { life, isolation, environment: BTreeMap::new(), open_files: 64, processes: 64 };

        let served = std::thread::spawn(|| (serve(four), serve(six), answer(datagrams)));
        let script = "exec 3<>/dev/tcp/127.0.0.1/443 && echo four >&3 && cat <&3; \
                      exec 3<>/dev/tcp/::1/853 && echo six >&3 && cat <&3; \
                      exec 3<>/dev/udp/127.0.0.1/53 && echo datagram >&3 && head -n 1 <&3; \
                      exec 3<&-; ls -l /proc/*/fd 2>/dev/null | grep -c socket: || true";
        let arguments = ["-c", script].map(|text| Arg::new(text).unwrap());
        let command = Command::new(Arg::new("/bin/bash").unwrap(), arguments);
        let lease = SecretLease::for_helper(Arc::new(Masking::new()));
        let mut process = instance.exec(&command, &lease).await.unwrap();
        let mut output = String::new();
        while let ProcessEvent::Output(_, bytes) = process.next().await.unwrap() {
            output += &String::from_utf8_lossy(&bytes);
        }
        drop(process);
        let (four, six, datagram) = served.join().unwrap();
        assert_eq!([four, six, datagram], ["four\n", "six\n", "datagram\n"]);
        assert_eq!(output, "HELLO\nHELLO\nHELLO\n0\n");
        // It has answered a request, so it is past handing out.
        assert_eq!(
            sockets_of_process_one(&instance.life),
            1,
            "process 1 has kept more than the control channel"
        );
        assert!(native.destroy(&id).await.unwrap().is_empty());
    }

    fn serve(listener: OwnedFd) -> String {
        let listener = TcpListener::from(listener);
        listener.set_nonblocking(false).unwrap();
        let (mut connection, peer) = listener.accept().unwrap();
        assert!(peer.ip().is_loopback());
        let mut heard = [0; 16];
        let count = connection.read(&mut heard).unwrap();
        connection.write_all(b"HELLO\n").unwrap();
        String::from_utf8_lossy(&heard[..count]).into_owned()
    }

    fn answer(socket: OwnedFd) -> String {
        let socket = UdpSocket::from(socket);
        socket.set_nonblocking(false).unwrap();
        let mut heard = [0; 16];
        let (count, from) = socket.recv_from(&mut heard).unwrap();
        socket.send_to(b"HELLO\n", from).unwrap();
        String::from_utf8_lossy(&heard[..count]).into_owned()
    }

    /// How many sockets process 1 holds.
    fn sockets_of_process_one(life: &Life) -> usize {
        use std::os::fd::AsRawFd as _;
        let pidfd = life.init().unwrap().process.as_raw_fd();
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{pidfd}")).unwrap();
        let pid = info.lines().find_map(|line| line.strip_prefix("Pid:")).unwrap().trim();
        let files = fs::read_dir(format!("/proc/{pid}/fd"));
        // An ordinary user may not look, nor may the job.
        let Ok(files) = files else { return 1 };
        let links = files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
        links.filter(|link| link.to_string_lossy().starts_with("socket:")).count()
    }
}
