//! A job's rules as the firewall takes them: ranges that do not overlap.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;

use ci_core::network::{Destination, IpNetwork, NetworkPolicy};
use ci_core::{Error, ErrorKind, Result};

use super::CREATE;
use super::nft_table::{MOST_ELEMENTS, mask};
use super::reach::{NEVER_V4, PRIVATE_V4, V4};

/// A network of IPv4 by its first address and its prefix.
pub(super) type Network = V4;

type ByPort = BTreeMap<u16, BTreeSet<Network>>;

/// What a sandbox may connect to: these TCP ports of all addresses of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::native) struct Allowed {
    pub(super) network: Network,
    pub(super) ports: RangeInclusive<u16>,
}

impl Allowed {
    /// The network's first address.
    pub(super) fn first(&self) -> Ipv4Addr {
        self.network.0
    }

    /// Whether it reaches into a private range; others do not, even where they hold one.
    pub(super) fn is_private(&self) -> bool {
        PRIVATE_V4.iter().any(|private| contains(*private, self.network))
    }

    /// The network's last address.
    pub(super) fn last(&self) -> Ipv4Addr {
        self.network.0 | !mask(self.network.1)
    }
}

/// The rules of a policy that name networks of IPv4. The rest is not for a routed network: hosts are resolved
/// outside, by the proxy, and IPv6 is off.
///
/// # Errors
///
/// [`ErrorKind::Denied`] when a rule names only what no sandbox reaches; [`ErrorKind::LimitExceeded`] when there are
/// too many.
pub(super) fn rules(policy: &NetworkPolicy, never: &[Network]) -> Result<Vec<Allowed>> {
    let NetworkPolicy::Allow(rules) = policy else { return Ok(Vec::new()) };
    let (mut private, mut others) = (ByPort::new(), ByPort::new());
    for rule in rules {
        let Destination::Network(network) = &rule.destination else { continue };
        let Some(named) = of_ipv4(*network) else { continue };
        if NEVER_V4.iter().chain(never).any(|never| contains(*never, named)) {
            return Err(unreachable(*network));
        }
        let is_private = PRIVATE_V4.iter().any(|private| contains(*private, named));
        let by_port = if is_private { &mut private } else { &mut others };
        for port in &rule.ports {
            by_port.entry(*port).or_default().insert(named);
        }
    }
    let allowed: Vec<Allowed> = join_ports(private).into_iter().chain(join_ports(others)).collect();
    if allowed.len() > MOST_ELEMENTS {
        return Err(Error::new(ErrorKind::LimitExceeded, CREATE)
            .because(
                "its network rules have too many networks and ports; name larger networks or ranges of ports",
            )
            .with("limit", MOST_ELEMENTS)
            .with("given", allowed.len()));
    }
    Ok(allowed)
}

/// The refusal of a rule.
pub(super) fn unreachable(network: IpNetwork) -> Error {
    Error::new(ErrorKind::Denied, CREATE)
        .because("a network rule names what no job reaches: the machine itself, its sandboxes, link-local or metadata addresses")
        .with("network", network)
}

/// A network, unless it is one of IPv6.
pub(super) fn of_ipv4(network: IpNetwork) -> Option<Network> {
    match network.address() {
        IpAddr::V4(first) => Some((first, network.prefix().into())),
        IpAddr::V6(_) => None,
    }
}

/// Whether all of `inner` lies in `outer`.
pub(super) fn contains(outer: Network, inner: Network) -> bool {
    outer.1 <= inner.1 && inner.0 & mask(outer.1) == outer.0
}

/// Whether two networks have an address in common.
pub(super) fn overlap(one: Network, other: Network) -> bool {
    contains(one, other) || contains(other, one)
}

/// Of each port only the networks that lie in no other one, and of each network its ports in as few ranges as
/// possible. Two networks that overlap are one within the other, so at any port none do.
fn join_ports(by_port: ByPort) -> Vec<Allowed> {
    let mut by_network: BTreeMap<Network, Vec<RangeInclusive<u16>>> = BTreeMap::new();
    for (port, networks) in by_port {
        let is_outermost = |network: &&Network| {
            !networks.iter().any(|other| other != *network && contains(*other, **network))
        };
        for network in networks.iter().filter(is_outermost) {
            let ranges = by_network.entry(*network).or_default();
            match ranges.last_mut() {
                Some(last) if last.end().checked_add(1) == Some(port) => *last = *last.start()..=port,
                _ => ranges.push(port..=port),
            }
        }
    }
    let flat = |(network, ranges): (Network, Vec<_>)| {
        ranges.into_iter().map(move |ports| Allowed { network, ports })
    };
    by_network.into_iter().flat_map(flat).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use ci_core::network::EgressRule;
    use proptest::prelude::*;

    use super::*;

    fn policy(rules: &[(&str, &[u16])]) -> NetworkPolicy {
        let rule = |(network, ports): &(&str, &[u16])| EgressRule {
            destination: Destination::Network(network.parse().unwrap()),
            ports: ports.to_vec(),
        };
        NetworkPolicy::Allow(rules.iter().map(rule).collect())
    }

    fn shown(policy: &NetworkPolicy) -> Vec<String> {
        let show = |allowed: &Allowed| {
            let ((address, prefix), ports) = (allowed.network, &allowed.ports);
            format!("{address}/{prefix} {}-{}", ports.start(), ports.end())
        };
        rules(policy, &[]).unwrap().iter().map(show).collect()
    }

    #[test]
    fn what_lies_in_another_network_or_next_to_another_port_is_joined() {
        let policy = policy(&[
            ("10.0.0.0/8", &[443, 80, 81]),
            ("10.1.0.0/16", &[443, 22]),
            ("10.0.0.0/8", &[82, 80]),
            ("2001:db8::/32", &[1]),
            ("192.0.2.7/32", &[]),
        ]);
        assert_eq!(shown(&policy), ["10.0.0.0/8 80-82", "10.0.0.0/8 443-443", "10.1.0.0/16 22-22"]);
        // In 0.0.0.0/0 there is no private network.
        let both = self::policy(&[("0.0.0.0/0", &[443]), ("10.0.0.0/8", &[443]), ("8.0.0.0/8", &[443])]);
        assert_eq!(shown(&both), ["10.0.0.0/8 443-443", "0.0.0.0/0 443-443"]);
        let everywhere: Vec<u16> = (0..=u16::MAX).collect();
        assert_eq!(shown(&self::policy(&[("0.0.0.0/0", &everywhere)])), ["0.0.0.0/0 0-65535"]);
        assert!(shown(&NetworkPolicy::None).is_empty());
    }

    #[test]
    fn what_no_job_reaches_cannot_be_named() {
        let never = [(Ipv4Addr::new(10, 9, 0, 0), 16)];
        for bad in
            ["169.254.169.254/32", "127.0.0.0/8", "100.100.100.200/32", "10.9.3.0/24", "255.255.255.255/32"]
        {
            let error = rules(&policy(&[(bad, &[80])]), &never).expect_err(bad);
            assert_eq!(error.kind(), ErrorKind::Denied, "{bad}");
        }
        // It holds more than that, and the rest can be reached.
        assert_eq!(rules(&policy(&[("10.0.0.0/8", &[80])]), &never).unwrap().len(), 1);
    }

    #[test]
    fn there_is_an_end_to_rules() {
        let scattered: Vec<u16> = (0..=2 * u16::try_from(MOST_ELEMENTS).unwrap()).step_by(2).collect();
        let error = rules(&policy(&[("10.0.0.0/8", &scattered)]), &[]).expect_err("too many");
        assert_eq!(error.kind(), ErrorKind::LimitExceeded);
    }

    proptest! {
        /// The same is allowed after as before, and no two overlap: the kernel would refuse them.
        #[test]
        fn joining_changes_nothing(rules in proptest::collection::vec((0u8..4, 28u32..=32, 0u16..4), 1..12)) {
            let network = |low: u8, prefix: u32| {
                (Ipv4Addr::new(10, 0, 0, low * 5) & mask(prefix), prefix)
            };
            let mut by_port: BTreeMap<u16, BTreeSet<Network>> = BTreeMap::new();
            for (low, prefix, port) in &rules {
                by_port.entry(*port).or_default().insert(network(*low, *prefix));
            }
            let joined = join_ports(by_port.clone());
            for port in 0..4 {
                for low in 0..32 {
                    let one = (Ipv4Addr::new(10, 0, 0, low), 32);
                    let before = by_port.get(&port).is_some_and(|all| all.iter().any(|each| contains(*each, one)));
                    let after = joined.iter().filter(|a| a.ports.contains(&port) && contains(a.network, one)).count();
                    prop_assert_eq!(usize::from(before), after);
                }
            }
        }
    }
}
