//! Routed networks: what a job reaches, and the attacks on it, by the identifiers of the attack list.
//!
//! Every test runs again in a network namespace of its own, so that nothing of it leaves this machine.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, UdpSocket};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use ci_core::ErrorKind;
use ci_core::id::SandboxId;
use ci_core::network::{
    Destination, EgressRule, Flow, HostName, NetworkPolicy, NetworkReport, Protocol, Verdict,
};
use ci_core::sandbox::{Backend as _, Signal};
use ci_sandbox::native::{Egress, Native, Resolver, RoutedNetwork};

use crate::support::{Rig, Sandbox, eventually, finish, refusal};
use crate::world::{
    self, ALLOW_LISTED, MACHINE, METADATA, OTHER, OUTSIDE, POOL, SERVER, World, ask, packets, routed, shell,
    shell_in, spec,
};

/// Tests, each of which runs in a world of its own.
macro_rules! worlds {
    ($($(#[$about:meta])* async fn $name:ident($world:ident) $body:block)*) => {
        $($(#[$about])* #[test] fn $name() { world::alone(concat!("routed::worlds::", stringify!($name))) })*
        mod worlds {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread")]
            #[ignore = "run by the test of the same name"]
            async fn $name() {
                let $world = World::new();
                $body
            })*
        }
    };
}

const STATE: &str = "CI_SANDBOX_TEST_ROUTED_STATE";

/// Everywhere that can be named.
const EVERYWHERE: (&str, &[u16]) = ("0.0.0.0/0", &[22, 80, 443, 8080]);

/// Knows one address for every host.
#[derive(Debug)]
struct Everything;

#[async_trait]
impl Resolver for Everything {
    async fn resolve(&self, _: &HostName) -> ci_core::Result<Vec<IpAddr>> {
        Ok(vec![OTHER.parse().unwrap()])
    }
}

fn kernel_is_at_least(major: u32, minor: u32) -> bool {
    let release = shell("uname -r");
    let mut numbers = release.split(['.', '-']).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (major, minor)
}

/// Process 1 of a sandbox, in whose network one then has the powers that the job has not.
fn process_one(rig: &Rig, sandbox: &Sandbox) -> u32 {
    rig.processes(&sandbox.id)[1].cast_unsigned()
}

fn address_of(rig: &Rig, sandbox: &Sandbox) -> String {
    let shown = shell_in(process_one(rig, sandbox), "ip -4 -brief address show dev eth0");
    shown.split_whitespace().nth(2).unwrap().strip_suffix("/31").unwrap().to_owned()
}

/// Waits for the proof that nothing is left of a sandbox that is destroyed.
async fn proven(rig: &Rig, id: &SandboxId) {
    let residue = rig.native.destroy(id).await.unwrap();
    assert!(residue.is_empty(), "{residue:?}");
}

/// Takes a sandbox down, and waits for the proof.
async fn destroyed(rig: &Rig, sandbox: Sandbox) {
    let id = sandbox.id.clone();
    sandbox.destroy().await;
    proven(rig, &id).await;
}

/// The addresses that are claimed or rest.
fn taken() -> String {
    shell("nft list set inet ci_sandbox_addresses taken")
}

/// The devices of sandboxes that the machine has.
fn devices() -> BTreeSet<String> {
    let shown = shell("ip -brief link");
    let names = shown.lines().map(|line| line.split(['@', ' ']).next().unwrap().to_owned());
    names.filter(|name| name.starts_with("sb")).collect()
}

/// How many entries about flows the firewall of the only backend has.
fn flows_in_the_kernel() -> usize {
    let table = format!("ci_sandbox_{}", tables().pop_first().unwrap());
    shell(&format!("nft list set inet {table} flows")).matches(" counter packets ").count()
}

/// The firewalls of backends.
fn tables() -> BTreeSet<String> {
    let shown = shell("nft list tables");
    let names = shown.lines().filter_map(|line| line.strip_prefix("table inet ci_sandbox_"));
    names.filter(|name| *name != "addresses").map(ToOwned::to_owned).collect()
}

/// Sends frames of these bytes, in hexadecimal, out of the sandbox's device, as only a broken kernel would let a job:
/// to everybody, as they are, and to the other end, whose hardware address is the same as this one's.
fn send_frames(pid: u32, frames: &[String]) {
    const SCRIPT: &str = r#"
        socket(my $s, 17, 3, 0) or die $!;
        my ($index, $own) = `ip -o link show eth0` =~ /^(\d+).*link.ether (\S+)/;
        my $to = pack("S n i S C C a8", 17, 3, $index, 1, 0, 6, chr(255) x 6);
        $own =~ s/://g;
        for (@ARGV) {
            for my $frame ($_, $own . substr($_, 12)) { defined send($s, pack("H*", $frame), 0, $to) or die $! }
        }"#;
    shell_in(pid, &format!("perl -e '{SCRIPT}' {}", frames.join(" ")));
}

/// A frame to everybody, of IPv4, with this protocol and what follows the header; `words` of four bytes are options.
fn frame(from: &str, to: &str, protocol: u8, fragment: u16, options: &[u8], payload: &[u8]) -> String {
    let octets = |text: &str| text.parse::<std::net::Ipv4Addr>().unwrap().octets();
    let length = u16::try_from(20 + options.len() + payload.len()).unwrap();
    let words = u8::try_from(5 + options.len() / 4).unwrap();
    let mut header = vec![0x40 | words, 0];
    header.extend(length.to_be_bytes());
    header.extend([0, 1]);
    header.extend(fragment.to_be_bytes());
    header.extend([64, protocol, 0, 0]);
    header.extend(octets(from));
    header.extend(octets(to));
    header.extend(options);
    let sum: u32 = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    ethernet("0800", &[header, payload.to_vec()].concat())
}

fn ethernet(kind: &str, payload: &[u8]) -> String {
    let head = format!("ffffffffffff020000000001{kind}");
    payload.iter().fold(head, |frame, byte| frame + &format!("{byte:02x}"))
}

/// The head of a TCP segment that opens a connection to a port.
fn syn(port: u16) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    vec![0x9c, 0x40, high, low, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]
}

/// What is there still to be seen once packets that were sent before have come or not: the last one is seen.
async fn settled(sandbox: &Sandbox) {
    assert!(ask(sandbox, SERVER, 80).await.is_some(), "what is allowed still is");
}

worlds! {
    async fn a_job_reaches_what_its_rules_name_and_nothing_else(world) {
        for port in [80, 443] {
            world.outside.serve(port);
        }
        world.outside.serve_datagrams(80);
        let rig = world.rig();
        let sandbox = rig.sandbox_of(&spec(&[("203.0.113.10/32", &[80])])).await;
        let address = ask(&sandbox, SERVER, 80).await.expect("the rule allows it");
        assert_eq!(address, address_of(&rig, &sandbox));
        assert_eq!(ask(&sandbox, SERVER, 443).await, None);
        assert_eq!(ask(&sandbox, OTHER, 80).await, None);
        let datagram = "exec 3<>/dev/udp/203.0.113.10/80; echo hello >&3; timeout 1 head -n 1 <&3";
        assert_eq!(sandbox.run(&format!("bash -c '{datagram}'")).await.stdout, "", "a rule is for TCP");
        sandbox.destroy().await;
    }

    /// A refusal is an answer, so that no program waits for it.
    async fn refusals_are_told_at_once(world) {
        let rig = world.rig();
        let sandbox = rig.sandbox_of(&spec(&[("203.0.113.10/32", &[80])])).await;
        let began = Instant::now();
        for address in [OTHER, MACHINE, METADATA[0]] {
            let ran = sandbox.run(&format!("bash -c 'exec 3<>/dev/tcp/{address}/80'")).await;
            assert!(ran.stderr.contains("refused"), "{ran:?}");
        }
        // The first repetition of a packet would come after a second.
        assert!(began.elapsed() < Duration::from_millis(900), "{:?}", began.elapsed());
        sandbox.destroy().await;
    }

    /// P18: the outside sees the operator's address.
    async fn jobs_come_from_the_address_that_the_operator_chose(world) {
        world.outside.serve(80);
        let rig = world.rig_of(routed().with_source(ALLOW_LISTED));
        let (one, other) = (rig.sandbox_of(&spec(&[EVERYWHERE])).await, rig.sandbox_of(&spec(&[EVERYWHERE])).await);
        world.outside.shell(&format!("ip route del {POOL}"));
        for sandbox in [one, other] {
            assert_eq!(ask(&sandbox, SERVER, 80).await, Some(ALLOW_LISTED.to_string()));
            sandbox.destroy().await;
        }
    }

    async fn n1_a_job_without_rules_has_no_card(world) {
        world.outside.serve(80);
        let rig = world.rig();
        let sandbox = rig.sandbox().await;
        assert_eq!(sandbox.output("ls /sys/class/net 2> /dev/null; tail -n +3 /proc/net/dev | cut -d: -f1").await.trim(), "lo");
        assert_eq!(ask(&sandbox, SERVER, 80).await, None);
        assert!(devices().is_empty());
        sandbox.destroy().await;
    }

    /// TCP, UDP and ICMP to its address; ARP, neighbour discovery, IPv6 link-local, multicast and broadcast.
    async fn n2_siblings_do_not_meet(world) {
        world.outside.serve(80);
        let (rig, second) = (world.rig(), world.rig());
        let attacker = rig.sandbox_of(&spec(&[EVERYWHERE])).await;
        for rig_of_victim in [&rig, &second] {
            let victim = rig_of_victim.sandbox_of(&spec(&[EVERYWHERE])).await;
            let (pid, attacking) = (process_one(rig_of_victim, &victim), process_one(&rig, &attacker));
            let address = address_of(rig_of_victim, &victim);
            let server = "exec perl -MIO::Socket -e '$s=IO::Socket::INET->new(Listen=>5,LocalPort=>8080); print qq(up\\n); $|=1; sleep 100'";
            let mut listening = victim.start(server).await.unwrap();
            let _ = listening.next().await.unwrap();
            let before = packets(pid, "eth0").0;
            assert_eq!(ask(&attacker, &address, 8080).await, None);
            let own = address_of(&rig, &attacker);
            let mut frames = vec![
                frame(&own, &address, 6, 0, &[], &syn(8080)),
                frame(&own, &address, 17, 0, &[], &[0, 53, 0, 53, 0, 8, 0, 0]),
                frame(&own, &address, 1, 0, &[], &[8, 0, 0xf7, 0xff, 0, 0, 0, 0]),
                frame(&own, "255.255.255.255", 17, 0, &[], &[0, 67, 0, 68, 0, 8, 0, 0]),
                frame(&own, "224.0.0.251", 17, 0, &[], &[20, 233, 20, 233, 0, 8, 0, 0]),
            ];
            // Who has the victim's address?
            let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 200, 0, 1, 0, 0, 0, 0, 0, 0];
            arp.extend(address.parse::<std::net::Ipv4Addr>().unwrap().octets());
            frames.push(ethernet("0806", &arp));
            // A neighbour solicitation to all nodes.
            let mut solicitation = vec![0x60, 0, 0, 0, 0, 8, 58, 255, 0xfe, 0x80];
            solicitation.extend([0; 13].iter().chain(&[1, 0xff, 2]).chain(&[0; 13]).chain(&[1, 135, 0, 0, 0, 0, 0, 0, 0]));
            frames.push(ethernet("86dd", &solicitation));
            send_frames(attacking, &frames);
            settled(&attacker).await;
            assert_eq!(packets(pid, "eth0").0, before, "something came through");
            listening.signal(Signal::Kill).await.unwrap();
            finish(&mut *listening).await;
            drop(listening);
            victim.destroy().await;
        }
        attacker.destroy().await;
    }

    /// Nothing answers a job's ARP, and it learns no address of the machine.
    async fn n2_there_is_no_arp(world) {
        let rig = world.rig();
        let sandbox = rig.sandbox_of(&spec(&[EVERYWHERE])).await;
        let pid = process_one(&rig, &sandbox);
        let before = packets(pid, "eth0").0;
        let gateway = shell_in(pid, "ip route show default").split_whitespace().nth(2).unwrap().to_owned();
        for target in [gateway.as_str(), MACHINE] {
            let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1];
            let octets = |text: &str| text.parse::<std::net::Ipv4Addr>().unwrap().octets();
            arp.extend(octets(&address_of(&rig, &sandbox)));
            arp.extend([0; 6]);
            arp.extend(octets(target));
            send_frames(pid, &[ethernet("0806", &arp)]);
        }
        world.outside.serve(80);
        settled(&sandbox).await;
        let neighbours = shell_in(pid, "ip neighbour; cat /proc/net/arp | tail -n +2");
        assert_eq!(neighbours, "");
        // The answers of the connection, and not one for ARP before them: nobody knows the hardware address.
        assert!(packets(pid, "eth0").0 > before);
        sandbox.destroy().await;
    }

    /// Whatever the rules say: all addresses of the machine, those of other devices and later ones too.
    async fn n3_the_machine_is_never_reached(world) {
        world.outside.serve(80);
        world::serve_here(80);
        let mailbox = UdpSocket::bind("0.0.0.0:90").unwrap();
        mailbox.set_nonblocking(true).unwrap();
        let rig = world.rig();
        let sandbox = rig.sandbox_of(&spec(&[EVERYWHERE, ("10.0.0.0/8", &[80]), ("198.51.100.0/24", &[80])])).await;
        shell("ip address add 203.0.113.77/32 dev lo");
        let gateway = shell_in(process_one(&rig, &sandbox), "ip route show default");
        let gateway = gateway.split_whitespace().nth(2).unwrap();
        for address in [gateway, MACHINE, &ALLOW_LISTED.to_string(), "203.0.113.77"] {
            assert!(world::reaches(address, 80), "the machine itself does reach {address}");
            assert_eq!(ask(&sandbox, address, 80).await, None, "{address}");
            sandbox.run(&format!("bash -c 'echo letter > /dev/udp/{address}/90'")).await;
        }
        assert!(mailbox.recv(&mut [0; 16]).is_err(), "it does not even hear of it");
        assert_eq!(ask(&sandbox, OUTSIDE, 80).await, Some(address_of(&rig, &sandbox)), "it is none of the machine's");
        sandbox.destroy().await;

        for own in [MACHINE.to_owned(), ALLOW_LISTED.to_string()] {
            let refused = refusal(rig.native.create(&SandboxId::random(), &spec(&[(&format!("{own}/32"), &[80])])).await);
            assert_eq!(refused.kind(), ErrorKind::Denied, "{refused}");
            assert!(refused.to_string().contains(&own), "{refused}");
        }
        assert!(eventually(Duration::from_secs(20), || rig.entries() == 0));
        assert!(devices().is_empty());
    }

    /// A rule for everywhere does not mean the operator's own networks.
    async fn private_networks_are_reached_by_rules_that_name_them(world) {
        world.outside.serve(80);
        world.outside.shell("ip address add 10.5.5.5/32 dev lo; ip address add 192.168.5.5/32 dev lo");
        let rig = world.rig();
        let sandbox = rig.sandbox_of(&spec(&[EVERYWHERE, ("192.168.5.0/24", &[80])])).await;
        assert_eq!(ask(&sandbox, "10.5.5.5", 80).await, None);
        assert!(ask(&sandbox, "192.168.5.5", 80).await.is_some());
        settled(&sandbox).await;
        sandbox.destroy().await;
    }

    /// What was sent, received and refused stands in the report, also when the link is closed.
    async fn traffic_is_counted(world) {
        world.outside.serve(80);
        let rig = world.rig();
        let (sandbox, other) = (rig.sandbox_of(&spec(&[EVERYWHERE])).await, rig.sandbox_of(&spec(&[EVERYWHERE])).await);
        let sums = |sandbox: &Sandbox| {
            let report = sandbox.instance.network();
            (report.connections, report.refused, report.sent, report.received)
        };
        assert_eq!(sums(&sandbox), (0, 0, 0, 0));
        let echo = "bash -c 'exec 3<>/dev/tcp/203.0.113.10/80; head -c 100000 /dev/zero >&3 & exec 3<&3; head -c 100000 <&3 | wc -c'";
        assert_eq!(sandbox.output(echo).await, "100000");
        assert_eq!(ask(&sandbox, METADATA[0], 80).await, None);
        let (connections, refused, sent, received) = sums(&sandbox);
        assert_eq!((connections, refused), (1, 1));
        assert!((100_000..200_000).contains(&sent) && (100_000..200_000).contains(&received), "{sent} {received}");
        assert_eq!(sums(&other), (0, 0, 0, 0), "it is another's");
        other.destroy().await;
        sandbox.destroy().await;
    }

    /// Where it went, and where it was not let.
    async fn flows_are_listed_by_address_and_port(world) {
        world.outside.serve(80);
        let rig = world.rig_of(routed().with_source(ALLOW_LISTED));
        let (sandbox, other) = (rig.sandbox_of(&spec(&[EVERYWHERE])).await, rig.sandbox_of(&spec(&[EVERYWHERE])).await);
        let echo = "bash -c 'exec 3<>/dev/tcp/203.0.113.10/80; head -c 100000 /dev/zero >&3 & exec 3<&3; head -c 100000 <&3 | wc -c'";
        assert_eq!(sandbox.output(echo).await, "100000");
        settled(&sandbox).await;
        for (address, port) in [(METADATA[0], 80), (SERVER, 81), (SERVER, 81), (MACHINE, 80), (SERVER, 443)] {
            assert_eq!(ask(&sandbox, address, port).await, None);
        }
        sandbox.run("bash -c 'echo letter > /dev/udp/203.0.113.10/53'").await;
        assert!(ask(&other, OTHER, 80).await.is_some());
        let listed = |sandbox: &Sandbox| {
            let report = sandbox.instance.network();
            assert_eq!(report.unlisted, 0, "{report:?}");
            let flow = |flow: &Flow| (flow.address.unwrap().to_string(), flow.protocol, flow.port, flow.verdict, flow.attempts);
            report.flows.iter().map(flow).collect::<Vec<_>>()
        };
        let line = |address: &str, protocol, port, verdict, attempts| (address.to_owned(), protocol, Some(port), verdict, attempts);
        let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
        let mut lines = listed(&sandbox);
        lines.sort_by_key(|line| format!("{line:?}"));
        assert_eq!(lines, [
            line(METADATA[0], tcp, 80, Verdict::Forbidden, 1),
            line(MACHINE, tcp, 80, Verdict::Forbidden, 1),
            line(SERVER, tcp, 443, Verdict::Unreachable, 1),
            line(SERVER, tcp, 80, Verdict::Connected, 2),
            line(SERVER, tcp, 81, Verdict::NoRule, 2),
            line(SERVER, udp, 53, Verdict::NoRule, 1),
        ]);
        // It was listened to for a little longer by the end.
        let timeless = |mut report: NetworkReport| {
            report.flows.iter_mut().for_each(|flow| flow.last = flow.first);
            report
        };
        let report = timeless(sandbox.instance.network());
        let busy = report.flows.iter().find(|flow| flow.verdict == Verdict::Connected).unwrap();
        assert!((100_000..200_000).contains(&busy.sent) && (100_000..200_000).contains(&busy.received), "{busy:?}");
        assert!(busy.sent < report.sent, "what did not answer was sent too");
        assert_eq!(listed(&other), [line(OTHER, tcp, 80, Verdict::Connected, 1)]);
        let instance = sandbox.instance;
        let residue = rig.native.destroy(&sandbox.id).await.unwrap();
        assert!(residue.is_empty(), "{residue:?}");
        assert_eq!(timeless(instance.network()), report, "it is as it was, when the firewall has forgotten it");
        drop(instance);
        proven(&rig, &sandbox.id).await;
        assert_eq!(flows_in_the_kernel(), 4, "the other's alone: listed, sent, received, connected");
        destroyed(&rig, other).await;
        assert_eq!(flows_in_the_kernel(), 0);
    }

    /// N-9: who knocks at all doors has its sums, fills no memory, and hides nobody's list.
    async fn a_port_scan_is_listed_up_to_a_bound(world) {
        world.outside.serve(80);
        let rig = world.rig();
        let (sandbox, other) = (rig.sandbox_of(&spec(&[EVERYWHERE])).await, rig.sandbox_of(&spec(&[EVERYWHERE])).await);
        let (pid, own) = (process_one(&rig, &sandbox), address_of(&rig, &sandbox));
        let refused: Vec<String> = (1000..1400).map(|port| frame(&own, SERVER, 6, 0, &[], &syn(port))).collect();
        let pings: Vec<String> = (0..50).map(|n| frame(&own, SERVER, 1, 0, &[], &[8, 0, n, n, 0, 0, 0, n])).collect();
        let silent: Vec<String> = (0..250).map(|host| frame(&own, &format!("192.0.2.{host}"), 6, 0, &[], &syn(80))).collect();
        for frames in [pings, refused, silent] {
            for some in frames.chunks(100) {
                send_frames(pid, some);
            }
        }
        settled(&sandbox).await;
        let report = sandbox.instance.network();
        assert_eq!(report.flows.len(), 200, "{report:?}");
        assert_eq!(report.refused, 450, "{report:?}");
        assert_eq!(report.connections, 1);
        assert_eq!(report.unlisted, 450 - 50 - 99 + 1, "{report:?}");
        let icmp: Vec<_> = report.flows.iter().filter(|flow| flow.protocol == Protocol::Icmp).map(|flow| (flow.port, flow.attempts)).collect();
        assert_eq!(icmp, [(None, 50)]);
        assert!(flows_in_the_kernel() <= 500, "{}", flows_in_the_kernel());
        settled(&other).await;
        assert_eq!(other.instance.network().flows.len(), 1);
        destroyed(&rig, sandbox).await;
        assert_eq!(flows_in_the_kernel(), 4);
        other.destroy().await;
    }

    /// Hosts by the proxy and networks by the card, in one sandbox.
    async fn hosts_and_networks_go_together(world) {
        world.outside.serve(80);
        let state = tempfile::tempdir().unwrap();
        let egress = Egress::default().with_resolver(Arc::new(Everything));
        let native = Native::new(world::config(&state, routed()).with_egress(egress)).unwrap();
        let rig = Rig::of(native, state);
        let mut both = spec(&[("203.0.113.10/32", &[80])]);
        let NetworkPolicy::Allow(rules) = &mut both.network else { unreachable!() };
        let host = Destination::Host(HostName::parse("other.example").unwrap());
        rules.push(EgressRule { destination: host, ports: vec![80] });
        let sandbox = rig.sandbox_of(&both).await;
        assert_eq!(ask(&sandbox, SERVER, 80).await, Some(address_of(&rig, &sandbox)), "by the card");
        assert_eq!(ask(&sandbox, OTHER, 80).await, None, "by the card");
        let connect = "exec 3<>/dev/tcp/127.0.0.1/808; printf \"CONNECT other.example:80 HTTP/1.1\\r\\nHost: other.example:80\\r\\n\\r\\n\" >&3; while read -r line && [ ${#line} -gt 1 ]; do :; done <&3; head -n 1 <&3";
        let seen = sandbox.output(&format!("timeout 5 bash -c '{connect}'")).await;
        assert_eq!(seen, MACHINE, "by the proxy");
        sandbox.destroy().await;
    }

    async fn n4_metadata_and_special_addresses_are_never_reached(world) {
        world.outside.serve(80);
        for address in METADATA {
            assert!(world::reaches(address, 80), "the machine itself does reach {address}");
        }
        let rig = world.rig();
        let sandbox = rig.sandbox_of(&spec(&[EVERYWHERE])).await;
        let before = world.outside.arrived();
        // In other spellings too, as far as a resolver takes them for addresses.
        for address in [METADATA[0], METADATA[1], "2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "168.63.129.16", "192.0.0.192"] {
            assert_eq!(ask(&sandbox, address, 80).await, None, "{address}");
        }
        for address in ["::ffff:169.254.169.254", "fd00:ec2::254", "fe80::1"] {
            assert_eq!(ask(&sandbox, address, 80).await, None, "{address}");
        }
        assert_eq!(world.outside.arrived(), before, "something left the machine");
        settled(&sandbox).await;
        sandbox.destroy().await;
        for rule in ["169.254.169.254/32", "169.254.0.0/16", "100.100.100.200/32", "127.0.0.1/32", "10.200.0.0/28"] {
            let refused = refusal(rig.native.create(&SandboxId::random(), &spec(&[(rule, &[80])])).await);
            assert_eq!(refused.kind(), ErrorKind::Denied, "{rule}");
        }
    }

    /// A job whose kernel has failed it: other sources, options, fragments, other protocols, router advertisements, DHCP.
    async fn n6_forged_packets_go_nowhere(world) {
        world.outside.serve(80);
        let rig = world.rig();
        let (sandbox, sibling) = (rig.sandbox_of(&spec(&[EVERYWHERE])).await, rig.sandbox_of(&spec(&[EVERYWHERE])).await);
        settled(&sandbox).await;
        let pid = process_one(&rig, &sandbox);
        let (own, other) = (address_of(&rig, &sandbox), address_of(&rig, &sibling));
        let before = world.outside.arrived();
        let syn = &syn(80);
        let mut frames: Vec<String> = [other.as_str(), MACHINE, OUTSIDE, "127.0.0.1", "10.200.0.77", "8.8.8.8", "0.0.0.0"]
            .iter()
            .map(|source| frame(source, SERVER, 6, 0, &[], syn))
            .collect();
        // A source route, a record route.
        frames.push(frame(&own, SERVER, 6, 0, &[131, 7, 4, 203, 0, 113, 20, 0], syn));
        frames.push(frame(&own, SERVER, 6, 0, &[7, 7, 4, 0, 0, 0, 0, 0], syn));
        // A fragment that begins later, one that never ends.
        frames.push(frame(&own, SERVER, 6, 0x0001, &[], syn));
        frames.push(frame(&own, SERVER, 6, 0x2000, &[], &[syn.as_slice(), &[0; 4]].concat()));
        // IP in IP, GRE, ESP, AH, SCTP, and one that nobody has.
        frames.extend([4, 47, 50, 51, 132, 253].map(|protocol| frame(&own, SERVER, protocol, 0, &[], syn)));
        // An ICMP redirect to the gateway, DHCP offers and requests.
        frames.push(frame(&own, SERVER, 1, 0, &[], &[5, 1, 0, 0, 203, 0, 113, 20]));
        frames.push(frame("0.0.0.0", "255.255.255.255", 17, 0, &[], &[0, 68, 0, 67, 0, 8, 0, 0]));
        frames.push(frame(&own, "255.255.255.255", 17, 0, &[], &[0, 67, 0, 68, 0, 8, 0, 0]));
        // A router advertisement: fe80::1 to all nodes, with a prefix to take an address of.
        let mut advertisement = vec![0x60, 0, 0, 0, 0, 48, 58, 255, 0xfe, 0x80];
        advertisement.extend([0; 13].iter().chain(&[1, 0xff, 2]).chain(&[0; 13]).chain(&[1, 134, 0, 0, 0, 64, 0, 7, 8]));
        advertisement.extend([0; 8].iter().chain(&[3, 4, 64, 0xc0, 0, 0, 7, 8, 0, 0, 7, 8, 0, 0, 0, 0, 0x20, 1, 0xd, 0xb8]));
        advertisement.extend([0; 12]);
        frames.push(ethernet("86dd", &advertisement));
        send_frames(pid, &frames);
        assert_eq!(world.outside.arrived(), before, "something left the machine");
        // The same in order does leave.
        send_frames(pid, &[frame(&own, SERVER, 6, 0, &[], syn)]);
        assert!(world.outside.arrived() > before);
        assert_eq!(shell("ip -6 -o address show scope global; ip -6 route show default").trim(), "");
        settled(&sandbox).await;
        sandbox.destroy().await;
        sibling.destroy().await;
    }

    async fn n6_ipv6_is_off_on_both_ends(world) {
        let rig = world.rig();
        let sandbox = rig.sandbox_of(&spec(&[EVERYWHERE])).await;
        let inside = sandbox.output("cut -c 45- /proc/net/if_inet6").await;
        assert_eq!(inside.trim(), "lo", "its own loopback has it");
        let device = devices().pop_first().unwrap();
        assert_eq!(shell(&format!("ip -6 address show dev {device}")), "");
        assert_eq!(shell(&format!("cat /proc/sys/net/ipv6/conf/{device}/disable_ipv6")), "1\n");
        sandbox.destroy().await;
    }

    /// What a peer leaves unanswered would keep a dead job's network alive for minutes.
    async fn n7_a_silent_peer_delays_no_end(world) {
        world.outside.serve(80);
        let rig = world.rig();
        let sandbox = rig.sandbox_of(&spec(&[EVERYWHERE])).await;
        // Nothing unread may be left: that would end it at once.
        let held = "exec bash -c 'exec 3<>/dev/tcp/203.0.113.10/80; head -n 1 <&3; until [ -e /work/go ]; do :; done; \
                    echo lost >&3; echo sent; sleep 100'";
        let mut holding = sandbox.start(held).await.unwrap();
        let _ = holding.next().await.unwrap();
        world.outside.shell("ip link set wan0 down");
        sandbox.output("touch /work/go").await;
        let _ = holding.next().await.unwrap();
        drop(holding);
        let began = Instant::now();
        destroyed(&rig, sandbox).await;
        assert!(began.elapsed() < Duration::from_millis(450), "{:?}: it had to be removed", began.elapsed());
    }

    /// A connection does not outlive its sandbox, here or in the kernel's memory.
    async fn n7_connections_end_with_the_sandbox(world) {
        world.outside.serve(80);
        let rig = world.rig_of(routed().with_source(ALLOW_LISTED));
        let sandbox = rig.sandbox_of(&spec(&[EVERYWHERE])).await;
        let neighbour = rig.sandbox_of(&spec(&[EVERYWHERE])).await;
        let (address, spared) = (address_of(&rig, &sandbox), address_of(&rig, &neighbour));
        let held = "bash -c 'exec 3<>/dev/tcp/203.0.113.10/80; head -n 1 <&3; sleep 100' &";
        sandbox.output(&format!("{held} sleep 0.2")).await;
        neighbour.output(&format!("{held} sleep 0.2")).await;
        let remembered = |source: &str| shell(&format!("conntrack -L -s {source} 2> /dev/null")).lines().count();
        assert_eq!((remembered(&address), remembered(&spared)), (1, 1));
        destroyed(&rig, sandbox).await;
        assert_eq!((remembered(&address), remembered(&spared)), (0, 1));
        neighbour.destroy().await;
    }

    async fn n8_nobody_comes_in(world) {
        let rig = world.rig();
        let sandbox = rig.sandbox_of(&spec(&[EVERYWHERE])).await;
        let address = address_of(&rig, &sandbox);
        let server = "exec perl -MIO::Socket -e '$s=IO::Socket::INET->new(Listen=>5,LocalPort=>8080); $|=1; print qq(up\\n); while ($c=$s->accept) { print $c qq(in\\n) }'";
        let mut listening = sandbox.start(server).await.unwrap();
        let _ = listening.next().await.unwrap();
        assert_eq!(ask(&sandbox, "127.0.0.1", 8080).await, Some("in".to_owned()), "it is there");
        let before = packets(process_one(&rig, &sandbox), "eth0").0;
        let knock = format!("timeout 2 bash -c 'exec 3<>/dev/tcp/{address}/8080 && head -n 1 <&3' || echo closed");
        assert_eq!(world.outside.shell(&knock), "closed\n");
        assert_eq!(shell(&knock), "closed\n", "the machine itself");
        shell(&format!("ping -c 1 -W 1 {address} > /dev/null && exit 1 || true"));
        assert_eq!(packets(process_one(&rig, &sandbox), "eth0").0, before);
        drop(listening);
        sandbox.destroy().await;
    }

    /// One job's connections are no other's loss.
    async fn n9_connections_are_bounded(world) {
        world.outside.serve(80);
        let rig = world.rig_of(routed().with_connections(8));
        let sandbox = rig.sandbox_of(&spec(&[EVERYWHERE])).await;
        let other = rig.sandbox_of(&spec(&[EVERYWHERE])).await;
        let flood = "perl -MIO::Socket -e 'for (1..20) { $c = IO::Socket::INET->new(PeerAddr=>\"203.0.113.10:80\", Timeout=>1); push @c, $c if $c } print scalar @c'";
        assert_eq!(sandbox.output(flood).await, "8");
        let hold = "perl -MIO::Socket -e 'for (1..8) { push @c, IO::Socket::INET->new(PeerAddr=>\"203.0.113.10:80\") } $|=1; print qq(up\\n); sleep 100'";
        let mut held = other.start(hold).await.unwrap();
        let _ = held.next().await.unwrap();
        assert_eq!(ask(&other, SERVER, 80).await, None, "it has its eight");
        let told = other.instance.network();
        assert!(told.flows.iter().any(|flow| flow.verdict == Verdict::Crowded), "{told:?}");
        drop(held);
        sandbox.destroy().await;
        other.destroy().await;
    }

    /// Before a program can run the rules are there, and afterwards they are gone.
    async fn n10_rules_are_there_before_and_gone_after(world) {
        let rig = world.rig();
        let table = format!("ci_sandbox_{}", tables().pop_first().unwrap());
        let elements = || shell(&format!("nft list table inet {table}")).matches("elements = ").count();
        assert_eq!(elements(), 0);
        let sandbox = rig.sandbox_of(&spec(&[EVERYWHERE])).await;
        assert_eq!(elements(), 8, "sources, allowed, received, connected, refused, crowded, room, refusal_room");
        assert_eq!(devices().len(), 1);
        // Without its source it reaches nothing, so the rules and not the route let it.
        world.outside.serve(80);
        settled(&sandbox).await;
        let id = sandbox.id.clone();
        sandbox.destroy().await;
        assert!(elements() <= 1, "at once, but for what was counted");
        proven(&rig, &id).await;
        assert_eq!(elements(), 0);
        assert!(devices().is_empty());
        drop(rig);
        assert!(eventually(Duration::from_secs(1), || tables().is_empty()), "the firewall goes with its backend");
    }

    async fn n11_addresses_rest_and_are_given_once(world) {
        let small = || RoutedNetwork::new("10.200.0.0/29".parse().unwrap()).with_rest(Duration::from_secs(1));
        let (one, other) = (world.rig_of(small()), world.rig_of(small()));
        let mut sandboxes = Vec::new();
        let mut addresses = BTreeSet::new();
        for rig in [&one, &other, &one, &other] {
            let sandbox = rig.sandbox_of(&spec(&[EVERYWHERE])).await;
            addresses.insert(address_of(rig, &sandbox));
            sandboxes.push(sandbox);
        }
        assert_eq!(addresses.len(), 4, "{addresses:?}");
        let refused = |error: ci_core::Error| assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{error}");
        refused(refusal(one.native.create(&SandboxId::random(), &spec(&[EVERYWHERE])).await));
        destroyed(&other, sandboxes.pop().unwrap()).await;
        refused(refusal(one.native.create(&SandboxId::random(), &spec(&[EVERYWHERE])).await));
        assert_eq!((one.entries(), other.entries()), (2, 1), "nothing is left of what was refused");
        assert!(eventually(Duration::from_secs(20), || shell("nft list set inet ci_sandbox_addresses taken").matches("10.200.").count() == 3));
        one.sandbox_of(&spec(&[EVERYWHERE])).await.destroy().await;
        for sandbox in sandboxes {
            sandbox.destroy().await;
        }
    }

    /// As an administrator does who loads other rules.
    async fn flushing_all_rules_opens_nothing(world) {
        world.outside.serve(80);
        let rig = world.rig();
        let sandbox = rig.sandbox_of(&spec(&[("203.0.113.10/32", &[80])])).await;
        shell("nft flush ruleset");
        if tables().is_empty() && !kernel_is_at_least(6, 9) {
            return ci_core::conformance::skip("flushing_all_rules_opens_nothing", "linux-6.9", "the kernel has no owned tables");
        }
        settled(&sandbox).await;
        assert_eq!(ask(&sandbox, OTHER, 80).await, None);
        sandbox.destroy().await;
        // Others start on an empty list of addresses, and find the way to this one taken.
        rig.sandbox_of(&spec(&[EVERYWHERE])).await.destroy().await;
    }

    async fn a_dead_backends_firewall_and_addresses_are_cleared_by_the_next(world) {
        world.outside.serve(80);
        let state = tempfile::tempdir().unwrap();
        let first = Native::new(world::config(&state, routed())).unwrap();
        let id = SandboxId::random();
        drop(first.create(&id, &spec(&[EVERYWHERE])).await.unwrap());
        let rig = Rig::of(first, state);
        // Somebody holds the sandbox's network, so that its device stays.
        let network = format!("/proc/{}/ns/net", rig.processes(&id)[1]);
        let held = std::fs::File::open(network).unwrap();
        let (first, state) = rig.into_parts();
        drop(first);
        assert_eq!(tables().len(), 1, "its sandbox may still live");
        let second = Native::new(world::config(&state, routed())).unwrap();
        assert_eq!(tables().len(), 2, "it guards the device that is there");
        assert_eq!(second.leftovers().await.unwrap(), std::slice::from_ref(&id));
        assert!(second.destroy(&id).await.unwrap().is_empty());
        assert_eq!((tables().len(), devices().len()), (1, 0), "the second's own; the device was removed");
        drop(held);
        let taken = shell("nft list set inet ci_sandbox_addresses taken");
        assert!(!taken.contains("comment"), "nobody holds one: {taken}");
        assert!(taken.contains("expires"), "the first's rests: {taken}");
        drop(second);
        assert!(tables().is_empty());
    }

    /// Killed with SIGKILL, in the middle of a connection.
    async fn a_killed_programs_link_is_closed_and_cleared(world) {
        world.outside.serve(80);
        let state = tempfile::tempdir().unwrap();
        let mut command = crate::support::itself(&[], "routed::victim");
        let mut victim = command.env(STATE, state.path()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(victim.stdout.take().unwrap()).lines();
        let id = said.find_map(|line| Some(SandboxId::parse(line.unwrap().rsplit_once("victim ")?.1).unwrap())).unwrap();
        let (table, device) = (tables().pop_first().unwrap(), devices().pop_first().unwrap());
        let next = Native::new(world::config(&state, routed())).unwrap();
        assert!(tables().contains(&table), "its owner lives");
        victim.kill().unwrap();
        victim.wait().unwrap();
        assert_eq!(next.leftovers().await.unwrap(), std::slice::from_ref(&id));
        assert!(tables().contains(&table), "it guards what may still live");
        assert!(next.destroy(&id).await.unwrap().is_empty());
        assert!(!devices().contains(&device) && !tables().contains(&table));
        let taken = shell("nft list set inet ci_sandbox_addresses taken");
        assert!(taken.contains("expires") && !taken.contains("comment"), "{taken}");
        assert_eq!(shell("conntrack -L 2> /dev/null"), "");
    }

    /// Nothing that could be found later: no sandbox lived.
    async fn a_killed_programs_idle_firewall_is_swept(world) {
        let _outside = world;
        let state = tempfile::tempdir().unwrap();
        let mut command = crate::support::itself(&[], "routed::idle_victim");
        let mut victim = command.env(STATE, state.path()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(victim.stdout.take().unwrap()).lines();
        assert!(said.any(|line| line.unwrap().ends_with("victim")));
        let table = tables().pop_first().unwrap();
        victim.kill().unwrap();
        victim.wait().unwrap();
        assert!(tables().contains(&table));
        let _next = Native::new(world::config(&state, routed())).unwrap();
        assert!(!tables().contains(&table));
        assert_eq!(tables().len(), 1);
    }

    /// Dropped at many points of its making, with its link half made.
    async fn a_cancelled_create_leaves_nothing(world) {
        let rig = world.rig();
        for microseconds in (0..12_000).step_by(400) {
            let id = SandboxId::random();
            let spec = spec(&[EVERYWHERE]);
            let create = rig.native.create(&id, &spec);
            drop(tokio::time::timeout(Duration::from_micros(microseconds), create).await);
            rig.native.abandon(&id);
        }
        assert!(eventually(Duration::from_secs(10), || rig.entries() == 0));
        assert!(devices().is_empty());
        assert!(!taken().contains("comment"), "{}", taken());
        drop(rig);
        assert!(eventually(Duration::from_secs(1), || tables().is_empty()));
    }

    async fn the_device_is_proven_gone_in_time(world) {
        const ROUNDS: u32 = 20;
        let rig = world.rig();
        let (mut results, mut proofs) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let sandbox = rig.sandbox_of(&spec(&[EVERYWHERE])).await;
            let (id, began) = (sandbox.id.clone(), Instant::now());
            sandbox.destroy().await;
            results.push(began.elapsed());
            proven(&rig, &id).await;
            proofs.push(began.elapsed());
            assert!(devices().is_empty());
        }
        for (what, times) in [("result", &mut results), ("proof", &mut proofs)] {
            times.sort();
            println!("from destroy to the {what}: median {:?}, most {:?}", times[times.len() / 2], times[times.len() - 1]);
        }
        assert!(proofs[proofs.len() / 2] < Duration::from_millis(250), "{proofs:?}");
        assert!(results[results.len() / 2] < proofs[proofs.len() / 2], "nobody waits for the kernel");
    }

    async fn fifty_at_once_are_gone_and_proven(world) {
        let rig = world.rig_of(routed());
        let mut sandboxes = Vec::new();
        for _ in 0..50 {
            sandboxes.push(rig.sandbox_of(&spec(&[EVERYWHERE])).await);
        }
        let ids: Vec<SandboxId> = sandboxes.iter().map(|sandbox| sandbox.id.clone()).collect();
        assert_eq!(devices().len(), 50);
        let began = Instant::now();
        futures_util::future::join_all(sandboxes.into_iter().map(Sandbox::destroy)).await;
        let results = began.elapsed();
        futures_util::future::join_all(ids.iter().map(|id| proven(&rig, id))).await;
        println!("fifty at once: results after {results:?}, proofs after {:?}", began.elapsed());
        assert!(devices().is_empty());
        assert_eq!(rig.entries(), 0);
        assert_eq!((taken().matches("expires").count(), taken().matches("comment").count()), (50, 0));
    }

    /// N-11: neither the address nor the name of a device that the kernel still has.
    async fn n11_nothing_is_used_again_before_the_proof(world) {
        // Two at a time, which need not rest.
        let rig = world.rig_of(RoutedNetwork::new("10.200.0.0/30".parse().unwrap()).with_rest(Duration::ZERO));
        for _ in 0..10 {
            let sandbox = rig.sandbox_of(&spec(&[EVERYWHERE])).await;
            let held = std::fs::File::open(format!("/proc/{}/ns/net", process_one(&rig, &sandbox))).unwrap();
            let (id, address) = (sandbox.id.clone(), address_of(&rig, &sandbox));
            sandbox.destroy().await;
            let second = rig.sandbox_of(&spec(&[EVERYWHERE])).await;
            assert_ne!(address_of(&rig, &second), address);
            let third = SandboxId::random();
            match rig.native.create(&third, &spec(&[EVERYWHERE])).await {
                Err(error) => assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{error}"),
                // So slow a machine that the device has been removed by now.
                Ok(_) => assert_eq!(shell(&format!("ip -brief address show to {address}")), ""),
            }
            drop(held);
            proven(&rig, &id).await;
            proven(&rig, &third).await;
            proven(&rig, &third).await;
            destroyed(&rig, rig.sandbox_of(&spec(&[EVERYWHERE])).await).await;
            destroyed(&rig, second).await;
        }
        assert_eq!(taken().matches("10.200.").count(), 0, "{}", taken());
    }

    /// What does not go is told after five seconds, here an entry in the books that cannot be struck out.
    async fn a_link_that_stays_is_a_leftover(world) {
        let rig = world.rig_of(routed());
        let sandbox = rig.sandbox_of(&spec(&[EVERYWHERE])).await;
        let id = sandbox.id.clone();
        let entry = crate::support::entries(rig.state()).remove(0);
        std::fs::remove_file(&entry).unwrap();
        std::fs::create_dir(&entry).unwrap();
        sandbox.destroy().await;
        assert!(rig.native.leftovers().await.unwrap().is_empty(), "not yet");
        assert_eq!(rig.native.destroy(&id).await.unwrap().links, 1);
        assert_eq!(rig.native.leftovers().await.unwrap(), std::slice::from_ref(&id));
        std::fs::remove_dir(&entry).unwrap();
        assert!(eventually(Duration::from_secs(5), || taken().matches("expires").count() == 1));
        tokio::time::timeout(Duration::from_secs(5), async {
            while !rig.native.leftovers().await.unwrap().is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .expect("it goes when it can");
        proven(&rig, &id).await;
    }

    /// Killed with SIGKILL when the result is out and the proof is not.
    async fn a_program_killed_before_the_proof_is_cleared_by_the_next(world) {
        world.outside.serve(80);
        let state = tempfile::tempdir().unwrap();
        let mut command = crate::support::itself(&[], "routed::mourner");
        let mut victim = command.env(STATE, state.path()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(victim.stdout.take().unwrap()).lines();
        let id = said.find_map(|line| Some(SandboxId::parse(line.unwrap().rsplit_once("mourner ")?.1).unwrap())).unwrap();
        let stopped = || std::fs::read_to_string(format!("/proc/{}/stat", victim.id())).unwrap().contains(") T ");
        assert!(eventually(Duration::from_secs(5), stopped));
        assert_eq!(devices().len(), 1, "the kernel still has it");
        assert!(taken().contains("comment"), "its addresses are claimed: {}", taken());
        let table = tables().pop_first().unwrap();
        victim.kill().unwrap();
        victim.wait().unwrap();
        let next = Native::new(world::config(&state, routed())).unwrap();
        assert_eq!(next.leftovers().await.unwrap(), std::slice::from_ref(&id));
        assert!(next.destroy(&id).await.unwrap().is_empty());
        assert!(devices().is_empty() && !tables().contains(&table));
        assert!(taken().contains("expires") && !taken().contains("comment"), "{}", taken());
        assert_eq!(shell("conntrack -L 2> /dev/null"), "");
        assert!(next.leftovers().await.unwrap().is_empty());
    }

    async fn what_cannot_be_routed_is_refused(world) {
        let state = tempfile::tempdir().unwrap();
        let refused = |network: RoutedNetwork, kind| {
            let error = refusal(Native::new(world::config(&state, network)));
            assert_eq!(error.kind(), kind, "{error}");
            error.to_string()
        };
        for bad in ["2001:db8::/64", "10.200.0.1/32", "127.0.0.0/8", "169.254.0.0/17", "198.51.100.0/28", "0.0.0.0/1"] {
            refused(RoutedNetwork::new(bad.parse().unwrap()), ErrorKind::Invalid);
        }
        for source in ["127.0.0.1", "0.0.0.0", "10.200.0.9", "224.0.0.1"] {
            refused(routed().with_source(source.parse().unwrap()), ErrorKind::Invalid);
        }
        shell("sysctl -qw net.ipv4.ip_forward=0");
        let error = refused(routed(), ErrorKind::Unsupported);
        assert!(error.contains("net.ipv4.ip_forward=1"), "{error}");
        drop(world.rig_of(routed().with_forwarding_switched_on()));
        assert_eq!(shell("sysctl -n net.ipv4.ip_forward"), "1\n");
        assert!(tables().is_empty());
    }
}

/// Not a test of its own: the program that a test kills.
#[tokio::test]
#[ignore = "run by another test"]
async fn victim() {
    let Ok(state) = std::env::var(STATE) else { return };
    let native = Native::new(world::config_at(state.as_ref(), routed())).unwrap();
    let id = SandboxId::random();
    let instance = native.create(&id, &spec(&[EVERYWHERE])).await.unwrap();
    let script = "exec 3<>/dev/tcp/203.0.113.10/80; head -n 1 <&3; sleep 1000";
    let script = format!("exec bash -c '{script}'");
    let mut process =
        instance.exec(&crate::support::shell(&script), &crate::support::no_secrets()).await.unwrap();
    process.next().await.unwrap();
    println!("victim {id}");
    std::future::pending::<()>().await;
}

/// Not a test of its own: destroys a sandbox whose network it holds, and stands still as soon as it has the result.
#[tokio::test]
#[ignore = "run by another test"]
async fn mourner() {
    use rustix::process::{Signal, getpid, kill_process};
    let Ok(state) = std::env::var(STATE) else { return };
    let native = Native::new(world::config_at(state.as_ref(), routed())).unwrap();
    let id = SandboxId::random();
    let instance = native.create(&id, &spec(&[EVERYWHERE])).await.unwrap();
    let script = "exec bash -c 'exec 3<>/dev/tcp/203.0.113.10/80; head -n 1 <&3'";
    let (command, lease) = (crate::support::shell(script), crate::support::no_secrets());
    finish(&mut *instance.exec(&command, &lease).await.unwrap()).await;
    drop(instance);
    let books = std::fs::read_to_string(&crate::support::entries(state.as_ref())[0]).unwrap();
    let process_one =
        books.lines().last().unwrap().strip_prefix("process ").unwrap().split(' ').next().unwrap();
    let _held = std::fs::File::open(format!("/proc/{process_one}/ns/net")).unwrap();
    assert!(native.destroy(&id).await.unwrap().is_empty());
    println!("mourner {id}");
    kill_process(getpid(), Signal::STOP).unwrap();
}

/// Not a test of its own: the same, without a sandbox.
#[test]
#[ignore = "run by another test"]
fn idle_victim() {
    let Ok(state) = std::env::var(STATE) else { return };
    let _native = Native::new(world::config_at(state.as_ref(), routed())).unwrap();
    println!("victim");
    loop {
        std::thread::park();
    }
}

#[test]
fn an_ordinary_user_cannot_route() {
    if crate::support::is_root() {
        return;
    }
    let state = tempfile::tempdir().unwrap();
    let error = refusal(Native::new(world::config(&state, routed())));
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}
