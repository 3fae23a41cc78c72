//! What a sandbox reaches beyond its own loopback interface.

mod addresses;
mod netlink;
mod netlink_conntrack;
mod netlink_route;
mod nft;
mod nft_table;
mod routed;
mod routed_config;
mod routed_link;
mod routed_rules;
mod socket;

pub(super) use self::routed::{Link, Routed, clear};
pub use self::routed_config::RoutedNetwork;
pub(super) use self::routed_rules::Allowed;
pub(super) use self::socket::NetworkSocket;
