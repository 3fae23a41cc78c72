//! The network around a machine, where a backend lets jobs out into it.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use ci_core::id::ImageName;
use ci_core::network::HostName;
use ci_core::sandbox::Backend;

/// A server in a [`World`]: who it is to a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Server {
    /// Rules allow it.
    Allowed,
    /// No rule names it.
    Other,
    /// It is a program of the machine's own.
    Machine,
    /// It is what a cloud tells its machines, at the address that clouds have for that.
    Metadata,
    /// It is a name server, at its usual port, for TCP and for UDP.
    Names,
}

impl Server {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Allowed, Self::Other, Self::Machine, Self::Metadata, Self::Names];
}

/// A network that a backend's tests make around a machine, of which nothing reaches the real one, with servers in it that
/// the machine reaches. It goes when it is dropped.
///
/// A server says to whoever connects, in one line, the address that they come from, and then repeats what it is told. It
/// remembers who came, whether by TCP or UDP.
pub trait World: fmt::Debug + Send + Sync {
    /// The backend under test, on that machine.
    fn backend(&self) -> Arc<dyn Backend>;

    /// An image that it can show.
    fn image(&self) -> ImageName;

    /// Where a server is. All addresses are of IPv4.
    fn address(&self, server: Server) -> SocketAddr;

    /// Who has come to a server.
    fn visitors(&self, server: Server) -> BTreeSet<SocketAddr>;

    /// How many connections it has now.
    fn connections(&self, server: Server) -> usize;

    /// The name that the backend finds the server under, where rules name hosts.
    fn name(&self, server: Server) -> HostName;

    /// The names that somebody outside has been asked for.
    fn asked(&self) -> BTreeSet<String>;

    /// Whether somebody outside, and the machine itself, can connect to this address. It may take seconds.
    fn reaches(&self, address: SocketAddr) -> bool;

    /// What of the machine's network could be left behind: devices, routes, rules that name an address of a sandbox, and
    /// connections of one that it keeps track of, a line each.
    fn traces(&self) -> BTreeSet<String>;
}
