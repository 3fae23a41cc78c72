//! What an operator decides about the way out of sandboxes.

use std::fmt;
use std::io;
use std::net::{IpAddr, ToSocketAddrs as _};
use std::sync::Arc;

use async_trait::async_trait;
use ci_core::network::{HostName, IpNetwork};
use ci_core::{Error, ErrorKind, Result};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

/// What jobs may reach at most, whatever their rules say, and from which address.
///
/// Nobody has to deny what no job ever reaches: this machine's own addresses, loopback, link-local addresses, the
/// metadata services of clouds, multicast, and the forms of these in IPv6.
///
/// # Example
///
/// ```
/// use ci_sandbox::native::{Config, Egress};
///
/// let egress = Egress::default()
///     .without_private_networks()
///     .with_denied("203.0.113.0/24".parse()?)
///     .with_source("198.51.100.7".parse().expect("an address"));
/// let config = Config::new("/var/lib/ci").with_egress(egress);
/// # let _ = config;
/// # Ok::<(), ci_core::Error>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Egress {
    /// Networks that no job reaches, by name or by address.
    pub denied: Vec<IpNetwork>,
    /// Whether rules may name networks of the private ranges: `10.0.0.0/8`, `172.16.0.0/12`,
    /// `192.168.0.0/16`, `100.64.0.0/10`, `198.18.0.0/15` and
    /// `fc00::/7`. They may by default, and must: no other rule reaches into these ranges, a host's by its name included.
    pub private_networks: bool,
    /// Addresses of this machine that connections come from: the first of each family, or what the kernel chooses. When
    /// there is one, only destinations of the families that have one are reached.
    pub sources: Vec<IpAddr>,
    /// Who knows the addresses of hosts.
    pub resolver: Arc<dyn Resolver>,
    /// How many of this program's descriptors the sandboxes of a backend may take together for their connections, two
    /// each, and for what listens in them; half of `RLIMIT_NOFILE`, as it is when the backend is made, where there is
    /// nothing.
    pub descriptors: Option<usize>,
}

impl Egress {
    /// Adds a network that no job reaches.
    pub fn with_denied(mut self, network: IpNetwork) -> Self {
        self.denied.push(network);
        self
    }

    /// Refuses jobs whose rules name a private network.
    pub fn without_private_networks(mut self) -> Self {
        self.private_networks = false;
        self
    }

    /// Has connections come from `address`, which others can then let in.
    pub fn with_source(mut self, address: IpAddr) -> Self {
        self.sources.push(address);
        self
    }

    /// Bounds the descriptors that connections take.
    pub fn with_descriptors(mut self, descriptors: usize) -> Self {
        self.descriptors = Some(descriptors);
        self
    }

    /// Replaces who knows the addresses of hosts.
    pub fn with_resolver(mut self, resolver: Arc<dyn Resolver>) -> Self {
        self.resolver = resolver;
        self
    }
}

impl Default for Egress {
    /// Everything that rules can name, by the system's resolver.
    fn default() -> Self {
        let resolver = Arc::new(SystemResolver::default());
        Self { denied: Vec::new(), private_networks: true, sources: Vec::new(), resolver, descriptors: None }
    }
}

/// Who knows the addresses of hosts. It is asked outside of the sandbox, for hosts that a rule names only, and once for
/// every connection: what it answers is checked, and one of the addresses that passed is connected to.
///
/// # Example
///
/// ```
/// use std::collections::BTreeMap;
/// use std::net::IpAddr;
/// use async_trait::async_trait;
/// use ci_core::network::HostName;
/// use ci_core::{Error, ErrorKind, Result};
/// use ci_sandbox::native::Resolver;
///
/// /// Hosts of a list, and no others.
/// #[derive(Debug)]
/// struct Known(BTreeMap<HostName, Vec<IpAddr>>);
///
/// #[async_trait]
/// impl Resolver for Known {
///     async fn resolve(&self, host: &HostName) -> Result<Vec<IpAddr>> {
///         self.0.get(host).cloned().ok_or_else(|| Error::new(ErrorKind::NotFound, "look up a host"))
///     }
/// }
/// ```
#[async_trait]
pub trait Resolver: fmt::Debug + Send + Sync + 'static {
    /// The addresses of `host`, the best first.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] or [`ErrorKind::Unavailable`] when there are none; the job is told the same in both cases.
    ///
    /// # Cancel safety
    ///
    /// It is dropped when it takes longer than a few seconds, or the sandbox ends.
    async fn resolve(&self, host: &HostName) -> Result<Vec<IpAddr>>;
}

/// This machine's own way to look up hosts: `getaddrinfo(3)`, at most 32 at a time; clones share that bound.
///
/// A look-up holds one of `tokio`'s threads for blocking work until it has an answer, also when nobody waits for that any
/// more: half a minute and longer where no server answers. Jobs must not get at all of these threads in that way.
#[derive(Clone, Debug)]
pub struct SystemResolver {
    slots: Arc<Semaphore>,
}

impl SystemResolver {
    const MOST_AT_ONCE: usize = 32;

    /// Does blocking work when there is a slot for it, which is free again when the work is done and not before.
    async fn in_slot<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let slot = self.slots.clone().acquire_owned().await.map_err(io::Error::other)?;
        let work = move || {
            let _slot = slot;
            work()
        };
        spawn_blocking(work).await.map_err(io::Error::other)?
    }
}

impl Default for SystemResolver {
    fn default() -> Self {
        Self { slots: Arc::new(Semaphore::new(Self::MOST_AT_ONCE)) }
    }
}

#[async_trait]
impl Resolver for SystemResolver {
    async fn resolve(&self, host: &HostName) -> Result<Vec<IpAddr>> {
        let name = host.as_str().to_owned();
        let look_up = move || {
            let found = (name.as_str(), 0).to_socket_addrs()?;
            Ok(found.map(|address| address.ip()).collect())
        };
        let found = self.in_slot(look_up).await;
        found.map_err(|error| Error::new(ErrorKind::NotFound, "look up a host").caused_by(error))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Mutex;
    use tokio::task::JoinSet;

    use super::*;

    /// Look-ups that no server answers, given up by those who asked: they must leave threads for others.
    #[tokio::test]
    async fn look_ups_that_hang_do_not_take_all_threads() {
        let resolver = SystemResolver::default();
        let (running, gate) = (Arc::<AtomicUsize>::default(), Arc::<Mutex<()>>::default());
        let closed = gate.lock().await;
        let mut asked = JoinSet::new();
        for _ in 0..10 * SystemResolver::MOST_AT_ONCE {
            let (resolver, running, gate) = (resolver.clone(), running.clone(), gate.clone());
            asked.spawn(async move {
                let hang = move || {
                    running.fetch_add(1, Ordering::Relaxed);
                    drop(gate.blocking_lock());
                    Ok(())
                };
                resolver.in_slot(hang).await
            });
        }
        while running.load(Ordering::Relaxed) < SystemResolver::MOST_AT_ONCE {
            tokio::task::yield_now().await;
        }
        asked.shutdown().await;
        assert_eq!(resolver.slots.available_permits(), 0, "they still run");
        spawn_blocking(|| ()).await.unwrap();
        assert_eq!(running.load(Ordering::Relaxed), SystemResolver::MOST_AT_ONCE);
        drop(closed);
        resolver.in_slot(|| Ok(())).await.unwrap();
    }
}
