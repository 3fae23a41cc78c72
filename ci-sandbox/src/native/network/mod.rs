//! What a sandbox reaches beyond its own loopback interface.
//!
//! A sandbox whose policy names destinations has no network card either. Process 1 opens sockets in the sandbox's
//! loopback network and hands them out; they are served from here, outside ([`server`]), for as long as the
//! sandbox lives. What a program in the sandbox asks for is compared with the rules ([`policy`]), looked up, compared
//! again, and connected to ([`dial`]):
//!
//! | In the sandbox | Who uses it |
//! |---|---|
//! | `127.0.0.1:808` | programs that know proxies, by HTTP ([`http`]) or SOCKS 5 ([`socks`]); variables say so ([`variables`]) |
//! | `127.0.0.1:53` | look-ups of names ([`dns`]); nobody outside is asked |
//! | `127.64.x.y` | one for every host of the rules ([`names`]), for programs that know no proxies |
//!
//! Where the operator wants it, a sandbox whose rules name networks of IPv4 has a network card all the same, for programs
//! that know no proxies: [`routed`] claims its addresses ([`addresses`]) and tells the firewall what it may reach
//! ([`nft_table`]), then the card is made ([`routed_pair`]). Both ways can be open at once.

mod addresses;
mod budget;
mod dial;
mod dns;
mod egress;
mod http;
mod names;
mod netlink;
mod netlink_conntrack;
mod netlink_route;
mod netlink_sockets;
mod nft;
mod nft_rule;
mod nft_table;
mod pace;
mod policy;
mod reach;
mod relay;
mod routed;
mod routed_config;
mod routed_end;
mod routed_flows;
mod routed_link;
mod routed_pair;
mod routed_rules;
mod routed_sweep;
mod server;
mod socks;
mod transcript;

use std::ffi::CStr;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use ci_core::network::{HostName, NetworkPolicy};
use ci_core::{Error, ErrorKind, Result};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::timeout;

use self::budget::Account;
use self::dial::Dialer;
use self::names::Names;
use self::policy::Policy;
use self::server::{Door, MOST_TURNED_AWAY, Server};
use self::transcript::Transcript;
use super::failure::CREATE;
use super::lock::lock;
use super::wire::{MOST_SOCKETS, Socket};

pub(super) use self::budget::Budget;
pub use self::egress::{Egress, Resolver, SystemResolver};
pub(super) use self::routed::Routed;
pub use self::routed_config::RoutedNetwork;
pub(super) use self::routed_link::Link;
pub(super) use self::routed_rules::Allowed;
pub(super) use self::routed_sweep::clear;

/// Where the proxy listens. Nobody in a sandbox may listen on a port below 1024, so it is in nobody's way.
const PROXY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 808);
/// Where names are looked up.
const LOOK_UPS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 53);

/// The variables that tell programs of the proxy, and of what needs none. `ALL_PROXY` speaks HTTP too: several clients
/// fail at a SOCKS proxy that they would not even use.
const VARIABLES: [(&str, &str); 8] = [
    ("ALL_PROXY", "http://127.0.0.1:808"),
    ("HTTPS_PROXY", "http://127.0.0.1:808"),
    ("HTTP_PROXY", "http://127.0.0.1:808"),
    ("NO_PROXY", "localhost,127.0.0.1,::1"),
    ("all_proxy", "http://127.0.0.1:808"),
    ("http_proxy", "http://127.0.0.1:808"),
    ("https_proxy", "http://127.0.0.1:808"),
    ("no_proxy", "localhost,127.0.0.1,::1"),
];

/// A way out that has been thought through. Nothing of it exists but the descriptors that it may have open.
#[derive(Debug)]
pub(super) struct Plan {
    policy: Policy,
    names: Names,
    account: Arc<Account>,
}

impl Plan {
    /// Plans what `policy` asks for in a sandbox that is called `hostname`; nothing where it asks for no network.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] and [`ErrorKind::LimitExceeded`] when a rule cannot be; [`ErrorKind::Unavailable`] when other
    /// sandboxes have too much open.
    pub(super) fn of(
        policy: &NetworkPolicy,
        egress: &Egress,
        hostname: &CStr,
        budget: &Arc<Budget>,
    ) -> Result<Option<Self>> {
        const OTHERS: usize = 3;
        /// That waits for room.
        const CONNECTION: usize = 1;
        let rules = match policy {
            NetworkPolicy::None => return Ok(None),
            NetworkPolicy::Allow(rules) => rules,
            _ => {
                return Err(Error::new(ErrorKind::Unsupported, CREATE)
                    .because("this backend does not know such a network policy"));
            }
        };
        let policy = Policy::new(rules, egress)?;
        let names = Names::of(&policy, hostname.to_str().ok().and_then(|name| HostName::parse(name).ok()));
        let most = MOST_SOCKETS - OTHERS;
        let doors = names.doors(&policy).len();
        if doors > most {
            return Err(Error::new(ErrorKind::LimitExceeded, CREATE)
                .because("its network rules name too many hosts; the bound counts every port of every host")
                .with("most", most));
        }
        let account = budget.open(OTHERS + doors + MOST_TURNED_AWAY + CONNECTION).ok_or_else(|| {
            Error::new(ErrorKind::Unavailable, CREATE).because(
                "sandboxes with a network have all descriptors that they may have together; raise RLIMIT_NOFILE, or \
                 have fewer at once",
            )
        })?;
        Ok(Some(Self { policy, names, account }))
    }

    /// What process 1 is to open.
    pub(super) fn sockets(&self) -> Vec<Socket> {
        let doors = self.names.doors(&self.policy);
        let mut sockets =
            vec![Socket::Datagram(LOOK_UPS), Socket::Listener(LOOK_UPS), Socket::Listener(PROXY)];
        sockets.extend(doors.into_iter().map(|(at, _)| Socket::Listener(at)));
        sockets
    }
}

/// The way out of one living sandbox. Dropping it closes all of it.
#[derive(Debug)]
pub(super) struct Network {
    transcript: Arc<Transcript>,
    stop: watch::Sender<bool>,
    /// Its other end is dropped when nothing is left.
    open: watch::Receiver<()>,
}

impl Network {
    /// Begins to serve the plan's sockets, which process 1 has opened.
    ///
    /// # Errors
    ///
    /// When the runtime cannot watch one of them.
    pub(super) fn start(plan: Plan, sockets: Vec<OwnedFd>, runtime: &Handle) -> io::Result<Self> {
        let Plan { policy, names, account } = plan;
        let hosts = names.doors(&policy).into_iter().map(|(_, endpoint)| Door::Host(Arc::new(endpoint)));
        let doors = [Door::LookUps, Door::Proxy].into_iter().chain(hosts);
        let mut sockets = sockets.into_iter();
        let look_ups = sockets.next().ok_or(io::ErrorKind::InvalidInput)?;
        let transcript = Arc::<Transcript>::default();
        let dialer = Dialer { policy: Arc::new(policy), transcript: transcript.clone(), is_crowded: false };
        let server = Server::new(dialer, names, account, look_ups, sockets.zip(doors).collect())?;
        let (stop, mut stopped) = watch::channel(false);
        let (closed, open) = watch::channel(());
        runtime.spawn(async move {
            // An error says that whoever could have said it is gone.
            server.run(async { drop(stopped.wait_for(|is_so| *is_so).await) }).await;
            drop(closed);
        });
        Ok(Self { transcript, stop, open })
    }

    /// Closes every connection, without waiting for it.
    pub(super) fn cut(&self) {
        self.stop.send_replace(true);
    }

    /// Closes every connection. False when that takes longer than `patience`.
    pub(super) async fn end(&self, patience: Duration) -> bool {
        self.cut();
        let mut open = self.open.clone();
        timeout(patience, async { while open.changed().await.is_ok() {} }).await.is_ok()
    }

    /// What went through it so far.
    pub(super) fn transcript(&self) -> &Transcript {
        &self.transcript
    }

    /// The variables that programs in the sandbox get, unless the job sets them.
    pub(super) fn variables() -> [(&'static str, &'static str); 8] {
        VARIABLES
    }
}
