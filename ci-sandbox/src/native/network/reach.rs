//! What kind of address an address is, whatever the rules say.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ci_core::network::IpNetwork;

/// What an address is to a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// No job reaches it.
    Never,
    /// A rule has to name its network.
    Private,
    /// Everybody's.
    Public,
}

pub(super) type V4 = (Ipv4Addr, u32);
type V6 = (Ipv6Addr, u32);

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u32) -> V4 {
    (Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(a: u16, b: u16, c: u16, prefix: u32) -> V6 {
    (Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), prefix)
}

/// IANA's registry of special-purpose addresses, and the metadata services that lie outside of it.
pub(super) const NEVER_V4: [V4; 10] = [
    v4(0, 0, 0, 0, 8),
    v4(100, 100, 100, 200, 32), // Alibaba Cloud's metadata.
    v4(127, 0, 0, 0, 8),
    v4(168, 63, 129, 16, 32), // Azure's host agent.
    v4(169, 254, 0, 0, 16),   // Link-local, with the metadata of most clouds.
    v4(192, 0, 0, 0, 24),     // Protocol assignments, with Oracle Cloud's metadata.
    v4(192, 88, 99, 0, 24),   // Relays of 6to4.
    v4(224, 0, 0, 0, 4),
    v4(240, 0, 0, 0, 4),
    v4(255, 255, 255, 255, 32),
];

pub(super) const PRIVATE_V4: [V4; 5] = [
    v4(10, 0, 0, 0, 8),
    v4(100, 64, 0, 0, 10),
    v4(172, 16, 0, 0, 12),
    v4(192, 168, 0, 0, 16),
    v4(198, 18, 0, 0, 15),
];

const PRIVATE_V6: V6 = v6(0xfc00, 0, 0, 7);
/// All that has been given out to the public.
const PUBLIC_V6: V6 = v6(0x2000, 0, 0, 3);
/// Protocol assignments, with Teredo.
const PROTOCOLS_V6: V6 = v6(0x2001, 0, 0, 23);
const SIX_TO_FOUR: V6 = v6(0x2002, 0, 0, 16);
const NAT64: V6 = v6(0x64, 0xff9b, 0, 96);

/// Metadata services inside of the private range: those of AWS and of Google Cloud.
const METADATA_V6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)];

impl Reach {
    /// What `address` is.
    pub(super) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self::of_v4(v4),
            IpAddr::V6(v6) => Self::of_v6(v6),
        }
    }

    fn of_v4(address: Ipv4Addr) -> Self {
        if NEVER_V4.iter().any(|network| holds_v4(*network, address)) {
            return Self::Never;
        }
        let is_private = PRIVATE_V4.iter().any(|network| holds_v4(*network, address));
        if is_private { Self::Private } else { Self::Public }
    }

    fn of_v6(address: Ipv6Addr) -> Self {
        if let Some(v4) = embedded(address) {
            // What is private is not meant to be reached like this.
            return if Self::of_v4(v4) == Self::Public { Self::Public } else { Self::Never };
        }
        if METADATA_V6.contains(&address) || holds_v6(PROTOCOLS_V6, address) {
            Self::Never
        } else if holds_v6(PRIVATE_V6, address) {
            Self::Private
        } else if holds_v6(PUBLIC_V6, address) {
            Self::Public
        } else {
            Self::Never
        }
    }
}

/// Whether all of `network` is private: only then does a rule that names it mean to reach into a private range.
pub(super) fn is_private(network: &IpNetwork) -> bool {
    let prefix = u32::from(network.prefix());
    match network.address() {
        IpAddr::V4(v4) => PRIVATE_V4.iter().any(|private| prefix >= private.1 && holds_v4(*private, v4)),
        IpAddr::V6(v6) => prefix >= PRIVATE_V6.1 && holds_v6(PRIVATE_V6, v6),
    }
}

/// The IPv4 address that an IPv6 address leads to by translation or a tunnel (RFC 3056, RFC 6052).
pub(super) fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let at = |start: usize| {
        let octets = address.octets();
        Ipv4Addr::new(octets[start], octets[start + 1], octets[start + 2], octets[start + 3])
    };
    if holds_v6(SIX_TO_FOUR, address) {
        return Some(at(2));
    }
    holds_v6(NAT64, address).then(|| at(12))
}

pub(super) fn holds_v4((network, prefix): V4, address: Ipv4Addr) -> bool {
    (network.to_bits() ^ address.to_bits()) >> (32 - prefix) == 0
}

fn holds_v6((network, prefix): V6, address: Ipv6Addr) -> bool {
    (network.to_bits() ^ address.to_bits()) >> (128 - prefix) == 0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// N-4: the metadata services and everything that is nobody's to reach, in every form.
    #[test]
    fn what_no_job_reaches_is_not_reached_in_any_form() {
        for never in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "169.254.0.1",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "192.88.99.1",
            "224.0.0.251",
            "239.1.2.3",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::203.0.113.1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:0:10.0.0.1",
            "64:ff9b::127.0.0.1",
            "64:ff9b::169.254.169.254",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::203.0.113.1",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
            "2002:a00:1::1",
            "2001::1",
            "2001:0:4136:e378::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "fd00:ec2::254",
            "fd20:ce::254",
            "100::1",
            "4000::1",
        ] {
            assert_eq!(Reach::of(never.parse().unwrap()), Reach::Never, "{never}");
        }
        for private in [
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "198.18.0.1",
            "fd00::1",
            "fc00::1",
        ] {
            assert_eq!(Reach::of(private.parse().unwrap()), Reach::Private, "{private}");
        }
        assert_eq!(Reach::of("::ffff:10.0.0.1".parse().unwrap()), Reach::Private);
        for public in [
            "1.1.1.1",
            "172.15.255.255",
            "172.32.0.1",
            "100.128.0.1",
            "203.0.113.1",
            "::ffff:203.0.113.1",
            "2606:4700::1111",
            "2001:db8::1",
            "2002:cb00:7101::1",
            "64:ff9b::203.0.113.1",
        ] {
            assert_eq!(Reach::of(public.parse().unwrap()), Reach::Public, "{public}");
        }
    }

    #[test]
    fn a_network_is_named_as_private_by_naming_nothing_else() {
        let named = |text: &str| is_private(&text.parse().unwrap());
        assert!(named("10.0.0.0/8") && named("10.1.2.3/32") && named("192.168.0.0/16") && named("fd00::/8"));
        assert!(!named("0.0.0.0/0") && !named("8.0.0.0/5") && !named("::/0") && !named("203.0.113.0/24"));
    }
}
