//! Addresses inside of a sandbox that stand for hosts outside.
//!
//! A program that knows no proxies looks a host up and connects to the address. So every host that a rule names has an
//! address of its own in the sandbox's loopback network, on which exactly its ports are served.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ci_core::network::{Endpoint, Host, HostName};

use super::policy::Policy;

/// The hosts of a policy and their addresses inside.
#[derive(Debug, Default)]
pub(super) struct Names {
    hosts: BTreeMap<HostName, Ipv4Addr>,
    /// The sandbox's own name.
    own: Option<HostName>,
}

impl Names {
    pub(super) fn of(policy: &Policy, own: Option<HostName>) -> Self {
        // 127.64.0.1 and on: who listens on 127.0.0.1 is in nobody's way.
        const FIRST: u32 = Ipv4Addr::new(127, 64, 0, 1).to_bits();
        let addresses = (FIRST..).map(Ipv4Addr::from_bits);
        Self { hosts: policy.hosts().into_keys().cloned().zip(addresses).collect(), own }
    }

    /// The address that stands for a host; none when no rule names it and it is not the sandbox itself.
    pub(super) fn address(&self, host: &HostName) -> Option<Ipv4Addr> {
        // RFC 6761, section 6.3.
        let is_this =
            self.own.as_ref() == Some(host) || host.as_str().rsplit('.').next() == Some("localhost");
        if is_this { Some(Ipv4Addr::LOCALHOST) } else { self.hosts.get(host).copied() }
    }

    /// Where to listen in the sandbox, and what for.
    pub(super) fn doors(&self, policy: &Policy) -> Vec<(SocketAddr, Endpoint)> {
        let mut doors = Vec::new();
        for (name, ports) in policy.hosts() {
            let Some(address) = self.hosts.get(name).copied() else { continue };
            for port in ports {
                let endpoint = Endpoint { host: Host::Name(name.clone()), port };
                doors.push((SocketAddr::new(IpAddr::V4(address), port), endpoint));
            }
        }
        doors
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::Egress;
    use super::super::policy::tests::rules;
    use super::*;

    #[test]
    fn every_host_has_an_address_and_on_it_its_ports() {
        let rules =
            rules(&["b.example:443", "a.example:22", "a.example:443", "10.0.0.0/8:80", "a.example:22"]);
        let policy = Policy::new(&rules, &Egress::default()).unwrap();
        let names = Names::of(&policy, HostName::parse("sandbox").ok());
        let doors = names.doors(&policy);
        let shown: Vec<_> = doors.iter().map(|(at, to)| format!("{at} is {to}")).collect();
        assert_eq!(
            shown,
            [
                "127.64.0.1:22 is a.example:22",
                "127.64.0.1:443 is a.example:443",
                "127.64.0.2:443 is b.example:443"
            ]
        );
        let address = |name: &str| names.address(&HostName::parse(name).unwrap());
        assert_eq!((address("a.example"), address("c.example")), (Some(Ipv4Addr::new(127, 64, 0, 1)), None));
        assert_eq!(
            (address("sandbox"), address("localhost")),
            (Some(Ipv4Addr::LOCALHOST), Some(Ipv4Addr::LOCALHOST))
        );
    }
}
