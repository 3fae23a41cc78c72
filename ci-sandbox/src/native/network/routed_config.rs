//! What an operator decides about routed networks.

use std::fs;
use std::net::Ipv4Addr;
use std::time::Duration;

use ci_core::network::IpNetwork;
use ci_core::{Error, ErrorKind, Result};

use super::addresses::{Pool, Tag};
use super::netlink::Socket;
use super::netlink_route as route;
use super::reach::NEVER_V4;
use super::routed_rules::{contains, of_ipv4, overlap};

/// How sandboxes reach the networks of their rules themselves, without a proxy: each over a network card of its own
/// and through the machine's firewall.
///
/// Give it to [`Config::with_routed`](super::super::Config::with_routed). Then every rule of a job that names a network
/// of IPv4 holds for all programs in its sandbox, whether or not they know proxies. Rules that name hosts stay with
/// the proxy; a job can have both.
///
/// # What it takes
///
/// Root with `CAP_NET_ADMIN`, a kernel with nftables, and `net.ipv4.ip_forward`. Nothing has to be installed. Where the
/// machine has a firewall of its own that forwards nothing by default, allow it to forward from devices whose names
/// begin with `sb` and back: a packet passes only if every firewall lets it.
///
/// # What it guarantees, and by what
///
/// | | |
/// |---|---|
/// | Only what the rules allow | a set of nftables: source, destination, protocol and port of every packet |
/// | Never the machine | what comes from a sandbox to an address of the machine is refused in the `input` hook, also at addresses that it gets later |
/// | Never a sibling | one pair of devices with a /31 for each sandbox, no bridge, no ARP; nothing is forwarded between sandboxes, of other programs neither |
/// | Never link-local, metadata, multicast or reserved addresses | refused before the rules are looked at |
/// | Private networks by name only | a rule for `0.0.0.0/0` does not reach into `10.0.0.0/8` and its like; one that lies in it does. [`Egress::denied`](super::super::Egress) and [`Egress::private_networks`](super::super::Egress) hold here too |
/// | Nobody else's address | each device has one source; packets with another, or with IP options, are dropped |
/// | No way in | only answers, and errors about what was sent, are forwarded to a sandbox; the machine itself cannot connect to it either |
/// | No IPv6 | off on both ends before they are up, and dropped by the firewall |
/// | No time without rules | they are there before the device is, and go before the sandbox does; connections are forgotten |
/// | No end that waits for others | what is left of connections when the processes are dead is ended (`sock_diag(7)`), so that no silent peer keeps the sandbox's network |
/// | No mix-up | an address is claimed in a set of the kernel's that all programs share, and rests before it is used again |
/// | Not undone by others | from Linux 6.9 on the firewall is owned by this program: `nft flush ruleset` leaves it, and it stays when the program is killed. On older kernels do not flush all rules while jobs run |
///
/// In the report of a job's network, a routed connection counts when it was answered, a refusal by packets, and bytes
/// with the headers of IP and TCP. The list has the first 100 destinations that are let through, and the first 100 that
/// are refused, by address, protocol and port; what comes later is in the sums. A destination that never answered is
/// listed as failed, with as many attempts as packets. So a sandbox costs the kernel at most 500 entries, some 150 KiB,
/// however many ports it tries.
///
/// # What it does not protect from
///
/// What an allowed destination passes on, and what two jobs tell each other by how fast the machine's network is for
/// them. Who holds a packet socket on the machine, a DHCP server for instance, sees what sandboxes send before any
/// firewall does.
///
/// # Example
///
/// ```
/// use ci_sandbox::native::{Config, RoutedNetwork};
///
/// // 8,192 sandboxes at a time, which the private network sees as 10.1.7.2.
/// let routed = RoutedNetwork::new("10.200.0.0/18".parse()?).with_source("10.1.7.2".parse()?);
/// let config = Config::new("/var/lib/ci").with_routed(routed);
/// # let _ = config;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RoutedNetwork {
    /// The addresses of sandboxes, two for each: a network of IPv4 that is used for nothing else. Programs that share a
    /// machine may share it.
    pub addresses: IpNetwork,
    /// The address that the outside sees: one of this machine, or one that is routed to it. Where there is none, the
    /// outside sees each sandbox's own address, and has to have a route to it.
    pub source: Option<Ipv4Addr>,
    /// How long an address is not used again after its sandbox is gone.
    pub rest: Duration,
    /// How many connections a sandbox may have at once.
    pub connections: u32,
    /// Whether to switch `net.ipv4.ip_forward` on where it is off. It makes a router of the machine, between all of its
    /// networks: be sure of its firewall.
    pub switch_forwarding_on: bool,
}

impl RoutedNetwork {
    /// What it is for, in errors.
    pub(super) const PREPARE: &str = "prepare routed networks";
    /// How long an address rests unless told otherwise.
    pub(super) const REST: Duration = Duration::from_secs(30);

    /// Sandboxes with these addresses, which they also show outside, with at most 1,024 connections each.
    pub fn new(addresses: IpNetwork) -> Self {
        Self { addresses, source: None, rest: Self::REST, connections: 1_024, switch_forwarding_on: false }
    }

    /// Shows this address outside, for the networks that allow it.
    pub fn with_source(mut self, source: Ipv4Addr) -> Self {
        self.source = Some(source);
        self
    }

    /// Replaces how long an address rests.
    pub fn with_rest(mut self, rest: Duration) -> Self {
        self.rest = rest;
        self
    }

    /// Bounds the connections that a sandbox may have at once.
    pub fn with_connections(mut self, connections: u32) -> Self {
        self.connections = connections;
        self
    }

    /// Makes a router of the machine if it is none.
    pub fn with_forwarding_switched_on(mut self) -> Self {
        self.switch_forwarding_on = true;
        self
    }

    /// The addresses, when they and the source can be used.
    pub(super) fn pool(&self) -> Result<Pool> {
        let pool = Pool::new(self.addresses).zip(of_ipv4(self.addresses));
        let (pool, network) = pool.ok_or_else(|| {
            self.invalid("the sandboxes' addresses must be a network of IPv4 with a prefix of 1 to 31")
        })?;
        if NEVER_V4.iter().any(|never| overlap(*never, network)) {
            return Err(self.invalid("the sandboxes' addresses are reserved for something else"));
        }
        let is_usable = |source: Ipv4Addr| {
            let mut others = NEVER_V4.iter().chain([&network]);
            !others.any(|other| contains(*other, (source, 32)))
        };
        if self.source.is_none_or(is_usable) {
            return Ok(pool);
        }
        Err(self
            .invalid("the source address must be one that others can answer to, outside of the sandboxes'"))
    }

    /// Nothing but sandboxes may have addresses of the pool.
    pub(super) fn refuse_used_addresses(&self) -> Result<()> {
        let own = Socket::route().and_then(|mut socket| route::addresses(&mut socket)).map_err(|error| {
            Error::new(ErrorKind::Unavailable, Self::PREPARE)
                .because("the machine's addresses cannot be listed")
                .caused_by(error)
        })?;
        let is_other = |(address, device): &&(Ipv4Addr, String)| {
            self.addresses.contains((*address).into()) && Tag::of_device(device).is_none()
        };
        match own.iter().find(is_other) {
            None => Ok(()),
            Some((address, _)) => Err(self
                .invalid("this machine has an address out of those for sandboxes; give them a network of their own")
                .with("address", address)),
        }
    }

    /// Sees to it that the machine is a router.
    pub(super) fn forward(&self) -> Result<()> {
        const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";
        let refuse = || {
            Error::new(ErrorKind::Unsupported, Self::PREPARE).because(
                "the machine forwards nothing; set net.ipv4.ip_forward=1, or have it set with \
                 RoutedNetwork::with_forwarding_switched_on",
            )
        };
        match fs::read_to_string(FORWARDING) {
            Ok(text) if text.trim() != "0" => Ok(()),
            Ok(_) if self.switch_forwarding_on => {
                fs::write(FORWARDING, "1").map_err(|error| refuse().caused_by(error))
            }
            Ok(_) => Err(refuse()),
            Err(error) => Err(refuse().caused_by(error)),
        }
    }

    fn invalid(&self, why: &'static str) -> Error {
        Error::new(ErrorKind::Invalid, Self::PREPARE).because(why).with("addresses", self.addresses)
    }
}
