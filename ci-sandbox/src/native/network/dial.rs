//! From what a job asks for to a connection, or to the reason that there is none.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ci_core::network::{Endpoint, Host, Verdict};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::netlink_route as route;
use super::policy::Policy;
use super::relay::Metered;
use super::transcript::Transcript;

/// How long the resolver may take.
const LOOK_UP: Duration = Duration::from_secs(5);
/// How long one address may take to answer.
const CONNECT: Duration = Duration::from_secs(5);
/// How many addresses of a host are tried.
const MOST_TRIES: usize = 4;

/// Connects for one sandbox, by its policy, and writes down every attempt.
#[derive(Clone, Debug)]
pub(super) struct Dialer {
    pub(super) policy: Arc<Policy>,
    pub(super) transcript: Arc<Transcript>,
    /// Whether there is no room for a connection, whatever the policy says.
    pub(super) is_crowded: bool,
}

impl Dialer {
    /// Connects to `endpoint`, whose host the job spelled like `asked`.
    pub(super) async fn dial(&self, asked: &str, endpoint: &Endpoint) -> Result<Metered<TcpStream>, Verdict> {
        let note = |address, verdict| self.transcript.note(asked, Some(endpoint.port), address, verdict);
        match self.connect(endpoint).await {
            Ok((stream, address)) => Ok(Metered::new(stream, note(Some(address), Verdict::Connected))),
            Err((verdict, address)) => {
                note(address, verdict);
                Err(verdict)
            }
        }
    }

    /// Refuses what is no destination.
    pub(super) fn refuse_malformed(&self, asked: &str) -> Verdict {
        self.transcript.note(asked, None, None, Verdict::Malformed);
        Verdict::Malformed
    }

    async fn connect(&self, endpoint: &Endpoint) -> Result<(TcpStream, IpAddr), (Verdict, Option<IpAddr>)> {
        if !self.policy.covers(endpoint) {
            return Err((Verdict::NoRule, None));
        }
        if self.is_crowded {
            return Err((Verdict::Crowded, None));
        }
        let mut failure = (Verdict::Unresolved, None);
        for address in self.addresses(&endpoint.host).await.into_iter().take(MOST_TRIES) {
            // From here on it is this address and no other: nothing is looked up twice.
            match self.connect_to(address.to_canonical(), endpoint.port).await {
                Ok(stream) => return Ok((stream, address)),
                Err(verdict) => failure = (verdict, Some(address)),
            }
        }
        Err(failure)
    }

    async fn addresses(&self, host: &Host) -> Vec<IpAddr> {
        match host {
            Host::Address(address) => vec![*address],
            Host::Name(name) => {
                let resolver = &self.policy.egress().resolver;
                timeout(LOOK_UP, resolver.resolve(name)).await.ok().and_then(Result::ok).unwrap_or_default()
            }
        }
    }

    async fn connect_to(&self, address: IpAddr, port: u16) -> Result<TcpStream, Verdict> {
        if !self.policy.permits(address, port) {
            return Err(Verdict::Forbidden);
        }
        match route::leads_away(address) {
            Ok(true) => {}
            Ok(false) => return Err(Verdict::Forbidden),
            Err(_) => return Err(Verdict::Unreachable),
        }
        let socket = self.socket_for(address).map_err(|_| Verdict::Unreachable)?;
        let connecting = timeout(CONNECT, socket.connect(SocketAddr::new(address, port))).await;
        let stream = connecting.ok().and_then(Result::ok).ok_or(Verdict::Unreachable)?;
        // What is small is not held back: the job's program has decided already when to send.
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }

    /// A socket that comes from where the operator wants it to.
    fn socket_for(&self, address: IpAddr) -> std::io::Result<TcpSocket> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        let sources = &self.policy.egress().sources;
        match sources.iter().find(|source| source.is_ipv4() == address.is_ipv4()) {
            Some(source) => socket.bind(SocketAddr::new(*source, 0))?,
            None if sources.is_empty() => {}
            None => return Err(std::io::ErrorKind::AddrNotAvailable.into()),
        }
        Ok(socket)
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]

    use async_trait::async_trait;
    use ci_core::network::HostName;
    use ci_core::{Error, ErrorKind};

    use super::super::policy::tests::rules;
    use super::super::{Egress, Resolver};
    use super::*;

    /// Answers the same whatever it is asked.
    #[derive(Debug)]
    struct Always(&'static [&'static str]);

    #[async_trait]
    impl Resolver for Always {
        async fn resolve(&self, _: &HostName) -> ci_core::Result<Vec<IpAddr>> {
            if self.0.is_empty() {
                return Err(Error::new(ErrorKind::NotFound, "look up a host"));
            }
            Ok(self.0.iter().map(|address| address.parse().unwrap()).collect())
        }
    }

    fn resolving(texts: &[&str], addresses: &'static [&'static str]) -> Dialer {
        let egress = Egress::default().with_resolver(Arc::new(Always(addresses)));
        let policy = Arc::new(Policy::new(&rules(texts), &egress).unwrap());
        Dialer { policy, transcript: Arc::default(), is_crowded: false }
    }

    /// A dialer whose hosts have no addresses.
    pub(crate) fn dialer(texts: &[&str]) -> Dialer {
        resolving(texts, &[])
    }

    async fn verdict(dialer: &Dialer, to: &str) -> Verdict {
        dialer.dial(to, &to.parse().unwrap()).await.unwrap_err()
    }

    /// N-4: an allowed name that leads to what no job reaches.
    #[tokio::test]
    async fn a_name_opens_no_way_to_what_is_closed() {
        let addresses = &["127.0.0.1", "169.254.169.254", "10.0.0.1", "::ffff:127.0.0.1"];
        let rebinding = resolving(&["a.example:443"], addresses);
        assert_eq!(verdict(&rebinding, "a.example:443").await, Verdict::Forbidden);
        assert_eq!(verdict(&rebinding, "b.example:443").await, Verdict::NoRule);
        assert_eq!(verdict(&rebinding, "a.example:80").await, Verdict::NoRule);
        assert_eq!(verdict(&rebinding, "127.0.0.1:443").await, Verdict::NoRule);
        assert_eq!(verdict(&dialer(&["a.example:443"]), "a.example:443").await, Verdict::Unresolved);
        let named = dialer(&["127.0.0.0/8:443", "0.0.0.0/0:443"]);
        assert_eq!(verdict(&named, "127.0.0.1:443").await, Verdict::Forbidden);
        let report = rebinding.transcript.report();
        assert_eq!((report.connections, report.refused, report.flows.len()), (0, 4, 4));
    }
}
