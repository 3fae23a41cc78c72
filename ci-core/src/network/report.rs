//! Where a job did connect to.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::external::External;

/// What went through a sandbox's network, and what was refused.
///
/// The sums are whole. The list is bounded: what is alike is one entry with a count, and what comes after the list is full
/// is in the sums only, and counted in [`unlisted`](Self::unlisted).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct NetworkReport {
    /// Connections that were made.
    pub connections: u64,
    /// Attempts that the rules refused, look-ups of names among them.
    pub refused: u64,
    /// Attempts that the rules allow, and that failed.
    pub failed: u64,
    /// Bytes that left the sandbox, connections' content only.
    pub sent: u64,
    /// Bytes that came in.
    pub received: u64,
    /// What it was in detail: in the order of the first attempts by a proxy, by address where packets are counted.
    pub flows: Vec<Flow>,
    /// How many attempts are not in `flows`.
    pub unlisted: u64,
}

impl NetworkReport {
    /// The same with every text that the job chose passed through `mask`.
    pub(crate) fn masked(mut self, mask: impl Fn(&str) -> String) -> Self {
        for flow in &mut self.flows {
            flow.asked = External::new(mask(flow.asked.as_data()));
        }
        self
    }
}

/// Attempts that are alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Flow {
    /// The host as the job asked for it. The job chose the text.
    pub asked: External,
    /// By which protocol.
    #[serde(default)]
    pub protocol: Protocol,
    /// The port; `None` where a name was looked up only, or the protocol has none.
    pub port: Option<u16>,
    /// The address that was connected to, or would have been.
    pub address: Option<IpAddr>,
    /// What became of it.
    pub verdict: Verdict,
    /// How many attempts.
    pub attempts: u64,
    /// Bytes that left the sandbox.
    pub sent: u64,
    /// Bytes that came in.
    pub received: u64,
    /// When the first attempt was. Where packets are counted, this and `last` are when counting began and ended.
    pub first: Timestamp,
    /// When the last one was.
    pub last: Timestamp,
}

impl Flow {
    /// One attempt at `at` by TCP, without any bytes yet.
    pub fn new(
        asked: External,
        port: Option<u16>,
        address: Option<IpAddr>,
        verdict: Verdict,
        at: Timestamp,
    ) -> Self {
        Self {
            asked,
            protocol: Protocol::Tcp,
            port,
            address,
            verdict,
            attempts: 1,
            sent: 0,
            received: 0,
            first: at,
            last: at,
        }
    }
}

/// What lies above IP. `Display` names it in lower case, as `nft` and `/etc/protocols` do.
///
/// # Example
///
/// ```
/// use ci_core::network::Protocol;
///
/// assert_eq!(Protocol::Tcp.to_string(), "tcp");
/// assert_eq!(Protocol::Other(132).to_string(), "protocol 132");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Protocol {
    /// TCP, which is what rules speak of.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// ICMP.
    Icmp,
    /// Another one, by its number (IANA, "Protocol Numbers").
    Other(u8),
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp => f.write_str("tcp"),
            Self::Udp => f.write_str("udp"),
            Self::Icmp => f.write_str("icmp"),
            Self::Other(number) => write!(f, "protocol {number}"),
        }
    }
}

/// What became of an attempt to connect. `Display` says it in words that the job's readers may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Verdict {
    /// There was a connection.
    Connected,
    /// Refused: no rule of the job covers it.
    NoRule,
    /// Refused: its address is one that no job reaches, or none of those that the operator allows.
    Forbidden,
    /// Refused: it is no destination, or one that programs understand differently.
    Malformed,
    /// Refused: there were as many connections at once as there may be.
    Crowded,
    /// Failed: its name has no address.
    Unresolved,
    /// Failed: it did not answer, or did not want the connection.
    Unreachable,
}

impl Verdict {
    /// Whether it was refused.
    pub fn is_refusal(self) -> bool {
        matches!(self, Self::NoRule | Self::Forbidden | Self::Malformed | Self::Crowded)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connected => "connected",
            Self::NoRule => "no rule of the job allows it",
            Self::Forbidden => "its address is one that no job may reach",
            Self::Malformed => "it is no plain host and port",
            Self::Crowded => "there are too many connections at once; try again later",
            Self::Unresolved => "its name has no address",
            Self::Unreachable => "it does not answer",
        })
    }
}
