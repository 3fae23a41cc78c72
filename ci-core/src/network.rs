//! Where a job may connect to.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

/// Where a job may connect to. Whatever the rules say, no job reaches the host, a sibling, a link-local
/// address or the cloud's metadata service. A backend without such rules refuses the job
/// ([`Capabilities::require`](crate::sandbox::Capabilities::require)).
///
/// # Example
///
/// ```
/// use ci_core::network::{Destination, EgressRule, HostName, NetworkPolicy};
///
/// let crates = EgressRule { destination: Destination::Host(HostName::parse("crates.io")?), ports: vec![443] };
/// let mirror = EgressRule { destination: Destination::Network("10.1.0.0/16".parse()?), ports: vec![80, 443] };
/// let policy = NetworkPolicy::Allow(vec![crates, mirror]);
///
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

/// One destination and its ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EgressRule {
    /// Where to.
    pub destination: Destination,
    /// Which TCP ports.
    pub ports: Vec<u16>,
}

/// A host by name, or addresses by network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Destination {
    /// A host, resolved outside of the sandbox.
    Host(HostName),
    /// All addresses of a network.
    Network(IpNetwork),
}

/// The name of a host: labels of letters, digits and hyphens (RFC 1123, section 2.1), in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostName(String);

impl HostName {
    /// Checks and takes a host name; upper case becomes lower case.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for anything that is not a host name, an IP address included.
    pub fn parse(text: &str) -> Result<Self> {
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let numeric_end =
            text.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
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
        assert_eq!(HostName::parse("Crates.IO").expect("a host").as_str(), "crates.io");
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
}
