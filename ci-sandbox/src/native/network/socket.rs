//! Sockets that lie in a sandbox's network and are served from here.

use std::net::{IpAddr, SocketAddr};

use crate::native::wire::{SocketRecord, socket};

#[allow(dead_code)] // Each way out of a sandbox needs some of them.
/// A socket that process 1 is to open and hand out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::native) enum NetworkSocket {
    /// TCP, listening.
    Listener(SocketAddr),
    /// UDP.
    Datagram(SocketAddr),
    /// The kernel's interface to links, addresses and routes (rtnetlink(7)).
    Route,
}

impl NetworkSocket {
    /// How the configuration says it.
    pub(in crate::native) fn record(self) -> SocketRecord {
        let (kind, at) = match self {
            Self::Listener(at) => (socket::LISTENER, Some(at)),
            Self::Datagram(at) => (socket::DATAGRAM, Some(at)),
            Self::Route => (socket::ROUTE, None),
        };
        let mut address = [0; 16];
        let length = match at.map(|at| at.ip()) {
            None => 0,
            Some(IpAddr::V4(v4)) => {
                address[..4].copy_from_slice(&v4.octets());
                4
            }
            Some(IpAddr::V6(v6)) => {
                address = v6.octets();
                16
            }
        };
        SocketRecord { kind, address, length, port: at.map_or(0, |at| at.port()) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeMap;
    use std::fs;
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, UdpSocket};
    use std::os::fd::OwnedFd;
    use std::sync::Arc;

    use ci_core::id::{ImageName, SandboxId};
    use ci_core::job::Arg;
    use ci_core::memory::Masking;
    use ci_core::sandbox::{Backend as _, Command, Instance as _, ProcessEvent, Spec};
    use ci_core::secret::SecretLease;

    use super::NetworkSocket;
    use crate::native::instance::NativeInstance;
    use crate::native::{Config, ImageSource, Native, launch, report};

    /// What a script sees that talks to the sockets of its sandbox's network, which this process serves.
    #[tokio::test]
    async fn sockets_of_the_sandbox_are_served_from_outside_and_held_by_nobody_inside() {
        let state = tempfile::tempdir().unwrap();
        let image = ImageName::parse("host").unwrap();
        let config = Config::new(state.path()).with_image(image.clone(), ImageSource::host_toolchain());
        let native = Native::new(config).unwrap();
        let wanted = vec![
            NetworkSocket::Listener("127.0.0.1:443".parse().unwrap()),
            NetworkSocket::Listener("[::1]:853".parse().unwrap()),
            NetworkSocket::Datagram("127.0.0.1:53".parse().unwrap()),
            NetworkSocket::Route,
        ];
        let (id, spec) = (SandboxId::random(), Spec::new(image));
        let plan = launch::plan(&native.0, &id, &spec, wanted, None).unwrap();
        let life = native.0.begin(&id, &plan).unwrap();
        let ready = launch::finish(&life, &plan).await.unwrap();
        let [four, six, datagrams, route]: [OwnedFd; 4] = ready.sockets.try_into().unwrap();
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
        assert_eq!(interfaces(&route), 1, "its namespace has loopback only, whatever the host's has");
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
    fn sockets_of_process_one(life: &crate::native::life::Life) -> usize {
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

    /// How many links the kernel lists (`RTM_GETLINK` with `NLM_F_DUMP`).
    fn interfaces(route: &OwnedFd) -> usize {
        let mut request = [0_u8; 32];
        request[0] = 32;
        request[4] = 18;
        request[6..8].copy_from_slice(&0x301_u16.to_ne_bytes());
        rustix::net::send(route, &request, rustix::net::SendFlags::empty()).unwrap();
        let mut answer = vec![0_u8; 32 * 1024];
        let (_, length) = rustix::net::recv(route, &mut *answer, rustix::net::RecvFlags::empty()).unwrap();
        let (mut rest, mut count) = (&answer[..length], 0);
        while let [a, b, c, d, kind, ..] = rest {
            count += usize::from(*kind == 16);
            let size = u32::from_ne_bytes([*a, *b, *c, *d]) as usize;
            rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
        }
        count
    }
}
