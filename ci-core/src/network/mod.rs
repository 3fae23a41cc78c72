//! Where a job may connect to, and where it did.

mod endpoint;
mod report;

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use self::endpoint::{Endpoint, Host};
pub use self::report::{Flow, NetworkReport, Protocol, Verdict};
use crate::error::{Error, ErrorKind, Result};

/// Where a job may connect to, by TCP. Whatever the rules say, no job reaches the host, a sibling, a link-local
/// address or the cloud's metadata service. A backend without such rules refuses the job
/// ([`Capabilities::require`](crate::sandbox::Capabilities::require)).
///
/// # Example
///
/// ```
/// use ci_core::network::{Destination, EgressRule, HostName, NetworkPolicy};
///
/// let files = EgressRule { destination: Destination::Host(HostName::parse("files.example")?), ports: vec![443] };
/// let mirror = EgressRule { destination: Destination::Network("10.1.0.0/16".parse()?), ports: vec![80, 443] };
/// let policy = NetworkPolicy::Allow(vec![files, mirror]);
///
/// assert_eq!(HostName::parse("Files.Example")?.to_string(), "files.example");
/// assert!(HostName::parse("10.1.0.1").is_err()); // an address is a network: 10.1.0.1/32
/// # let _ = policy;
/// # Ok::<(), ci_core::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum NetworkPolicy {
    /// Nowhere: the sandbox has a loopback interface of its own and nothing else.
    #[default]
    None,
    /// To these destinations only.
    Allow(Vec<EgressRule>),
}

impl NetworkPolicy {
    /// Refuses rules that would never allow anything: who wrote one meant something else.
    pub(crate) fn check(&self) -> Result<()> {
        let Self::Allow(rules) = self else { return Ok(()) };
        let Some(rule) = rules.iter().find(|rule| rule.ports.is_empty() || rule.ports.contains(&0)) else {
            return Ok(());
        };
        Err(Error::new(ErrorKind::Invalid, "check the job")
            .because("a network rule names its ports one by one, from 1 to 65535; there is no port for all")
            .with("destination", &rule.destination))
    }
}

/// One destination and its ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EgressRule {
    /// Where to.
    pub destination: Destination,
    /// Which TCP ports, one by one; at least one, and none is 0. A job whose rules say otherwise is refused.
    pub ports: Vec<u16>,
}

impl EgressRule {
    /// Whether the rule speaks of `endpoint`: a host by exactly its name, an address by its network. The name of a host
    /// says nothing of its addresses, nor the other way around.
    pub fn covers(&self, endpoint: &Endpoint) -> bool {
        let is_it = match (&self.destination, &endpoint.host) {
            (Destination::Host(allowed), Host::Name(asked)) => allowed == asked,
            (Destination::Network(allowed), Host::Address(asked)) => allowed.contains(*asked),
            _ => false,
        };
        is_it && self.ports.contains(&endpoint.port)
    }
}

/// A host by name, or addresses by network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Destination {
    /// A host, resolved outside of the sandbox. At a private address it is reached only where another rule names a private
    /// network that holds the address.
    Host(HostName),
    /// All addresses of a network.
    Network(IpNetwork),
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(name) => name.fmt(f),
            Self::Network(network) => network.fmt(f),
        }
    }
}

/// The name of a host: labels of letters, digits and hyphens (RFC 1123, section 2.1), in lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostName(String);

impl HostName {
    /// Checks and takes a host name; upper case becomes lower case.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for anything that is not a host name, an IP address in any spelling included: whatever
    /// ends in a number, decimal or hexadecimal, is one to some programs (WHATWG URL, "ends in a number checker").
    pub fn parse(text: &str) -> Result<Self> {
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let numeric_end = text.rsplit('.').next().is_some_and(|last| {
            let hexadecimal = last.strip_prefix("0x").or(last.strip_prefix("0X"));
            last.bytes().all(|b| b.is_ascii_digit())
                || hexadecimal.is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
        });
        if text.len() <= 253 && text.split('.').all(is_label) && !numeric_end {
            return Ok(Self(text.to_ascii_lowercase()));
        }
        Err(Error::new(ErrorKind::Invalid, "parse a host name")
            .because("it must be labels of letters, digits and hyphens, joined by dots")
            .with("given", format_args!("{:?}", crate::external::shortened(text))))
    }

    /// The name, in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for HostName {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        Self::parse(&text)
    }
}

impl From<HostName> for String {
    fn from(name: HostName) -> Self {
        name.0
    }
}

/// A network in CIDR form, `10.0.0.0/8` (RFC 4632, RFC 4291).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IpNetwork {
    address: IpAddr,
    prefix: u8,
}

impl IpNetwork {
    /// The network's first address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// How many leading bits are fixed.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether `address` is one of the network's.
    pub fn contains(&self, address: IpAddr) -> bool {
        let shift = |bits: u32| bits - u32::from(self.prefix);
        match (self.address, address) {
            // Shifting by the whole width leaves nothing to compare.
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                (ours.to_bits() ^ theirs.to_bits()).checked_shr(shift(32)).unwrap_or(0) == 0
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => {
                (ours.to_bits() ^ theirs.to_bits()).checked_shr(shift(128)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }

    /// Whether every address of this network is one of `other`'s too.
    pub fn is_within(&self, other: &Self) -> bool {
        self.prefix >= other.prefix && other.contains(self.address)
    }
}

impl FromStr for IpNetwork {
    type Err = Error;

    /// Parses `address/prefix`; bits after the prefix must be zero.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for any other text.
    fn from_str(text: &str) -> Result<Self> {
        let parsed = text.split_once('/').and_then(|(address, prefix)| {
            let address: IpAddr = address.parse().ok()?;
            let prefix: u8 = prefix.parse().ok()?;
            let (bits, width) = match address {
                IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, 32),
                IpAddr::V6(v6) => (v6.to_bits(), 128),
            };
            let rest = if prefix == 128 { 0 } else { u128::MAX >> prefix.min(127) };
            (prefix <= width && bits & rest == 0).then_some(Self { address, prefix })
        });
        parsed.ok_or_else(|| {
            Error::new(ErrorKind::Invalid, "parse a network")
                .because("it must be address/prefix with zero bits after the prefix, like 10.0.0.0/8")
                .with("given", format_args!("{:?}", crate::external::shortened(text)))
        })
    }
}

impl fmt::Display for IpNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl TryFrom<String> for IpNetwork {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<IpNetwork> for String {
    fn from(network: IpNetwork) -> Self {
        network.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_and_not_addresses() {
        assert_eq!(HostName::parse("Files.Example").expect("a host").as_str(), "files.example");
        for bad in ["", ".", "a..b", "-a.b", "a-.b", "a_b", "10.0.0.1", "2130706433", "a b", "*.example.org"]
        {
            assert!(HostName::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn networks_have_no_bits_after_the_prefix() {
        for good in ["10.0.0.0/8", "0.0.0.0/0", "192.0.2.7/32", "2001:db8::/32", "::/0", "::1/128"] {
            let network: IpNetwork = good.parse().expect(good);
            assert_eq!(network.to_string(), good);
        }
        for bad in ["10.0.0.1/8", "10.0.0.0/33", "::1/127", "10.0.0.0", "x/8", "2001:db8::/129"] {
            assert!(bad.parse::<IpNetwork>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn addresses_in_hexadecimal_are_no_hosts() {
        for bad in ["0x7f000001", "127.0.0.0x1", "0X7F.1", "a.0x", "0x7f.0.0.0x1"] {
            assert!(HostName::parse(bad).is_err(), "{bad:?}");
        }
        assert!(HostName::parse("0x7g").is_ok() && HostName::parse("0x7f.example").is_ok());
    }

    #[test]
    fn networks_know_their_addresses() {
        let network = |text: &str| text.parse::<IpNetwork>().expect(text);
        let holds = |net: &str, address: &str| network(net).contains(address.parse().expect(address));
        assert!(holds("10.0.0.0/8", "10.255.255.255") && !holds("10.0.0.0/8", "11.0.0.0"));
        assert!(holds("0.0.0.0/0", "255.255.255.255") && !holds("0.0.0.0/0", "::1"));
        assert!(holds("192.0.2.7/32", "192.0.2.7") && !holds("192.0.2.7/32", "192.0.2.6"));
        assert!(
            holds("::/0", "ff::1") && holds("2001:db8::/32", "2001:db8:ffff::") && !holds("::1/128", "::")
        );
        let within = |inner: &str, outer: &str| network(inner).is_within(&network(outer));
        assert!(within("10.1.0.0/16", "10.0.0.0/8") && within("10.0.0.0/8", "10.0.0.0/8"));
        assert!(!within("0.0.0.0/0", "10.0.0.0/8") && !within("::/0", "0.0.0.0/0"));
    }

    #[test]
    fn a_rule_covers_names_by_name_and_addresses_by_network() {
        let rule = |destination, ports: &[u16]| EgressRule { destination, ports: ports.to_vec() };
        let host = rule(Destination::Host(HostName::parse("a.example").expect("a host")), &[443, 22]);
        let network = rule(Destination::Network("192.0.2.0/24".parse().expect("a network")), &[443]);
        let covers = |rule: &EgressRule, to: &str| rule.covers(&to.parse().expect(to));
        assert!(covers(&host, "a.example:443") && covers(&host, "A.Example.:22"));
        assert!(
            !covers(&host, "a.example:80")
                && !covers(&host, "b.a.example:443")
                && !covers(&host, "192.0.2.1:443")
        );
        assert!(covers(&network, "192.0.2.1:443") && covers(&network, "[::ffff:192.0.2.1]:443"));
        assert!(!covers(&network, "192.0.3.1:443") && !covers(&network, "a.example:443"));
    }
}
