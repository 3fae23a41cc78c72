//! What an operator decides about routed networks.

use std::net::Ipv4Addr;
use std::time::Duration;

use ci_core::network::IpNetwork;

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
/// | Nobody else's address | each device has one source; packets with another, or with IP options, are dropped |
/// | No way in | only answers, and errors about what was sent, are forwarded to a sandbox; the machine itself cannot connect to it either |
/// | No IPv6 | off on both ends before they are up, and dropped by the firewall |
/// | No time without rules | they are there before the device is, and go before the sandbox does; connections are forgotten |
/// | No mix-up | an address is claimed in a set of the kernel's that all programs share, and rests before it is used again |
/// | Not undone by others | from Linux 6.9 on the firewall is owned by this program: `nft flush ruleset` leaves it, and it stays when the program is killed. On older kernels do not flush all rules while jobs run |
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
}
