//! What one sandbox may connect to.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ci_core::network::{Destination, EgressRule, Endpoint, Host, HostName, IpNetwork};
use ci_core::{Error, ErrorKind, Result};

use super::reach::{self, Reach};
use super::{CREATE, Egress};

/// The rules of a job within the bounds of the operator.
#[derive(Debug)]
pub(super) struct Policy {
    rules: Vec<EgressRule>,
    egress: Egress,
}

impl Policy {
    /// Takes a job's rules, unless the operator does not allow them.
    pub(super) fn new(rules: &[EgressRule], egress: &Egress) -> Result<Self> {
        let named = rules.iter().filter_map(network);
        if let Some(private) = named.into_iter().find(|network| reach::is_private(network))
            && !egress.private_networks
        {
            return Err(Error::new(ErrorKind::Denied, CREATE)
                .because("a network rule names a private network, which the operator does not allow")
                .with("network", private));
        }
        Ok(Self { rules: rules.to_vec(), egress: egress.clone() })
    }

    pub(super) fn egress(&self) -> &Egress {
        &self.egress
    }

    /// Whether a rule speaks of it.
    pub(super) fn covers(&self, endpoint: &Endpoint) -> bool {
        self.rules.iter().any(|rule| rule.covers(endpoint))
    }

    /// Whether a job that may connect to a destination may do so at this address of it. Whether the address is one of
    /// this machine's is for [`leads_away`](super::netlink_route::leads_away) to say.
    pub(super) fn permits(&self, address: IpAddr, port: u16) -> bool {
        let address = address.to_canonical();
        let face = match address {
            IpAddr::V6(v6) => reach::embedded(v6).map(IpAddr::from),
            IpAddr::V4(_) => None,
        };
        let is_denied = |address: IpAddr| self.egress.denied.iter().any(|network| network.contains(address));
        if is_denied(address) || face.is_some_and(is_denied) {
            return false;
        }
        match Reach::of(address) {
            Reach::Never => false,
            Reach::Public => true,
            Reach::Private => {
                let endpoint = Endpoint { host: Host::from(address), port };
                let mut named = self.rules.iter().filter(|rule| network(rule).is_some_and(reach::is_private));
                named.any(|rule| rule.covers(&endpoint))
            }
        }
    }

    /// The hosts that rules name, each with its ports.
    pub(super) fn hosts(&self) -> BTreeMap<&HostName, BTreeSet<u16>> {
        let mut hosts: BTreeMap<&HostName, BTreeSet<u16>> = BTreeMap::new();
        for rule in &self.rules {
            if let Destination::Host(name) = &rule.destination {
                hosts.entry(name).or_default().extend(rule.ports.iter().filter(|port| **port != 0));
            }
        }
        hosts
    }
}

fn network(rule: &EgressRule) -> Option<&IpNetwork> {
    match &rule.destination {
        Destination::Network(network) => Some(network),
        Destination::Host(_) => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// Rules from `host:port` and `network:port`.
    pub(crate) fn rules(texts: &[&str]) -> Vec<EgressRule> {
        let rule = |text: &&str| {
            let (destination, port) = text.rsplit_once(':').unwrap();
            let destination = match destination.parse() {
                Ok(network) => Destination::Network(network),
                Err(_) => Destination::Host(HostName::parse(destination).unwrap()),
            };
            EgressRule { destination, ports: vec![port.parse().unwrap()] }
        };
        texts.iter().map(rule).collect()
    }

    fn policy(texts: &[&str], egress: &Egress) -> Policy {
        Policy::new(&rules(texts), egress).unwrap()
    }

    fn permits(policy: &Policy, address: &str, port: u16) -> bool {
        policy.permits(address.parse().unwrap(), port)
    }

    #[test]
    fn private_addresses_need_a_rule_that_names_their_network() {
        let anywhere = policy(&["a.example:443", "0.0.0.0/0:443", "::/0:443"], &Egress::default());
        assert!(permits(&anywhere, "203.0.113.1", 443) && permits(&anywhere, "2001:db8::1", 443));
        assert!(!permits(&anywhere, "10.0.0.1", 443) && !permits(&anywhere, "fd00::1", 443));
        let inside = policy(&["a.example:443", "10.1.0.0/16:443"], &Egress::default());
        assert!(permits(&inside, "10.1.2.3", 443) && permits(&inside, "::ffff:10.1.2.3", 443));
        assert!(!permits(&inside, "10.2.0.1", 443) && !permits(&inside, "10.1.2.3", 22));
        assert!(!permits(&inside, "64:ff9b::10.1.2.3", 443));
    }

    #[test]
    fn naming_what_no_job_reaches_does_not_help() {
        let rules = ["169.254.169.254/32:80", "127.0.0.0/8:80", "fd00:ec2::254/128:80", "100.64.0.0/10:80"];
        let policy = policy(&rules, &Egress::default());
        for never in ["169.254.169.254", "127.0.0.1", "fd00:ec2::254", "100.100.100.200"] {
            assert!(!permits(&policy, never, 80), "{never}");
        }
        assert!(permits(&policy, "100.64.0.1", 80));
    }

    #[test]
    fn the_operator_has_the_last_word() {
        let egress = Egress::default().with_denied("203.0.113.0/24".parse().unwrap());
        let denied = policy(&["203.0.113.0/24:443"], &egress);
        for face in ["203.0.113.1", "::ffff:203.0.113.1", "64:ff9b::203.0.113.1", "2002:cb00:7101::1"] {
            assert!(!permits(&denied, face, 443), "{face}");
        }
        assert!(permits(&denied, "198.51.100.1", 443));
        let refused = Policy::new(&rules(&["10.0.0.0/8:443"]), &Egress::default().without_private_networks());
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Denied);
        assert!(
            Policy::new(&rules(&["0.0.0.0/0:443"]), &Egress::default().without_private_networks()).is_ok()
        );
    }
}
