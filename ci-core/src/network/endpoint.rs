//! One destination, as a program asks for it.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use super::HostName;
use crate::error::{Error, ErrorKind, Result};

/// Where a program wants to connect to: `host:port`, in one spelling only.
///
/// What a rule is compared with must mean the same to everyone. So a name is in lower case and without the dot at its end,
/// an IPv4 address in IPv6 clothes (`::ffff:192.0.2.1`, RFC 4291, section 2.5.5.2) is an IPv4 address, and what some
/// programs read as something else is refused: addresses in octal, hexadecimal or as one number, escapes, zones, users
/// before an `@`, and names that are not of this alphabet.
///
/// # Example
///
/// ```
/// use ci_core::network::Endpoint;
///
/// assert_eq!("Files.Example.:443".parse::<Endpoint>()?.to_string(), "files.example:443");
/// assert_eq!("[::ffff:192.0.2.1]:22".parse::<Endpoint>()?.to_string(), "192.0.2.1:22");
/// for trick in ["0x7f.1:80", "2130706433:80", "010.0.0.1:80", "files.example@evil.example:443", "files.example:+443"] {
///     assert!(trick.parse::<Endpoint>().is_err());
/// }
/// # Ok::<(), ci_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The host.
    pub host: Host,
    /// The TCP port; never 0.
    pub port: u16,
}

/// A host by name or by address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// By name.
    Name(HostName),
    /// By address; never an IPv4 address in IPv6 clothes.
    Address(IpAddr),
}

impl Endpoint {
    /// Takes apart `host:port`, where an IPv6 address stands in brackets; `default` is the port where the text has none.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for anything else.
    pub fn parse(text: &str, default: Option<u16>) -> Result<Self> {
        parse(text, default).ok_or_else(|| {
            Error::new(ErrorKind::Invalid, "parse a destination")
                .because("it must be host:port with a plain name or address, like files.example:443 or [2001:db8::1]:22")
                .with("given", format_args!("{:?}", crate::external::shortened(text)))
        })
    }
}

impl Host {
    /// Takes a name, or an IPv4 address of four decimal numbers, or an IPv6 address without brackets.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for anything else.
    pub fn parse(text: &str) -> Result<Self> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(address.into());
        }
        HostName::parse(text.strip_suffix('.').unwrap_or(text)).map(Self::Name)
    }
}

impl From<IpAddr> for Host {
    fn from(address: IpAddr) -> Self {
        Self::Address(address.to_canonical())
    }
}

fn parse(text: &str, default: Option<u16>) -> Option<Endpoint> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        (Host::from(IpAddr::from(address.parse::<Ipv6Addr>().ok()?)), port)
    } else {
        // With a second colon, what is left is no port.
        let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
        (Host::parse(host).ok()?, port)
    };
    let port = match port.strip_prefix(':') {
        // `u16::from_str` would take a sign, too.
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().ok()?,
        None if port.is_empty() => default?,
        _ => return None,
    };
    (port != 0).then_some(Endpoint { host, port })
}

impl FromStr for Endpoint {
    type Err = Error;

    /// [`parse`](Self::parse) without a default: the port must be there.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`], as for [`parse`](Self::parse).
    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text, None)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name.as_str()),
            Self::Address(address) => address.fmt(f),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Address(IpAddr::V6(v6)) => write!(f, "[{v6}]:{}", self.port),
            host => write!(f, "{host}:{}", self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_thing_has_one_spelling() {
        for (given, shown) in [
            ("files.example:443", "files.example:443"),
            ("FILES.EXAMPLE.:443", "files.example:443"),
            ("xn--bcher-kva.example:80", "xn--bcher-kva.example:80"),
            ("192.0.2.1:22", "192.0.2.1:22"),
            ("[2001:DB8:0::1]:22", "[2001:db8::1]:22"),
            ("[::ffff:10.0.0.1]:22", "10.0.0.1:22"),
            ("[::ffff:a00:1]:22", "10.0.0.1:22"),
            ("a:00443", "a:443"),
        ] {
            assert_eq!(given.parse::<Endpoint>().expect(given).to_string(), shown);
        }
        assert_eq!(Endpoint::parse("a.example", Some(80)).expect("a name").port, 80);
        assert_eq!(Endpoint::parse("a.example:8080", Some(80)).expect("a name").port, 8080);
    }

    #[test]
    fn what_others_may_read_differently_is_refused() {
        for bad in [
            "",
            ":443",
            "files.example",
            "files.example:",
            "files.example:0",
            "files.example:65536",
            "files.example:+443",
            "files.example:-1",
            "files.example:443:80",
            "files.example:443 ",
            " files.example:443",
            "files.example: 443",
            "files.example..:443",
            "user@files.example:443",
            "user:pass@files.example:443",
            "files.example\0.evil.example:443",
            "crates%2eio:443",
            "b\u{fc}cher.example:443",
            "crates\u{3002}io:443",
            "files.example/:443",
            "files.example#:443",
            "files.example?:443",
            "\\files.example:443",
            "2130706433:80",
            "0x7f000001:80",
            "0x7f.1:80",
            "127.1:80",
            "0177.0.0.1:80",
            "127.0.0.1.:80",
            "127.0.0.1..:80",
            "::1:80",
            "[::1]",
            "[::1]80",
            "[::1]:80:80",
            "[::1%lo]:80",
            "[fe80::1%25eth0]:80",
            "[127.0.0.1]:80",
            "[files.example]:443",
            "[[::1]]:80",
            "a_b.example:80",
            "*.example:80",
        ] {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_taken_has_one_spelling_and_nothing_in_it_that_others_read_differently(
            text in "(\\[?[a-fA-F0-9xX.:%@/ -]{0,24}\\]?|[A-Za-z.-]{1,12}|\\PC{0,12})(:[0-9+]{0,6})?"
        ) {
            if let Ok(endpoint) = text.parse::<Endpoint>() {
                let shown = endpoint.to_string();
                prop_assert!(shown.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".:-[]".contains(&byte)));
                prop_assert_eq!(shown.parse::<Endpoint>().expect("its own text"), endpoint);
            }
        }
    }
}
