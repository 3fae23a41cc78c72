//! Routed networks: the firewall of one backend, and who of its sandboxes has which address.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use ci_core::network::{IpNetwork, NetworkPolicy};
use ci_core::{Error, ErrorKind, Result};
use rustix::io::Errno;

use super::addresses::{self, Pair, Pool, Tag};
use super::netlink::{Socket, is};
use super::nft;
use super::nft_table::{Design, Entries};
use super::routed_config::RoutedNetwork;
use super::routed_end::Departed;
use super::routed_link::Link;
use super::routed_pair::Plan;
use super::routed_rules::{self, Allowed, Network, of_ipv4};
use super::routed_sweep::{choose_tag, sweep};
use super::{CREATE, lock};

/// The firewall of one backend, and the addresses of its sandboxes.
#[derive(Debug)]
pub(in crate::native) struct Routed {
    tag: Tag,
    pool: Pool,
    /// What no rule may name alone, beside what no sandbox ever reaches.
    never: Vec<Network>,
    rest: Duration,
    /// The table belongs to this socket: all that changes it goes through it.
    netfilter: Mutex<Socket>,
    /// The links that are not gone yet.
    links: Mutex<BTreeSet<Pair>>,
    /// Of these, the ones whose sandboxes are dead.
    pub(super) departed: Mutex<Departed>,
    /// Held while they are looked at.
    pub(super) seeing_off: Mutex<()>,
    /// Says that the tag's owner lives.
    _sign: UnixDatagram,
}

impl Routed {
    /// Clears what dead programs have left, and makes the firewall. No job reaches `denied` either.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] when this process or the machine cannot route; [`ErrorKind::Invalid`] when the
    /// addresses cannot be those of sandboxes.
    pub(in crate::native) fn new(
        config: &RoutedNetwork,
        denied: &[IpNetwork],
        is_root: bool,
    ) -> Result<Self> {
        let unsupported = |why| Error::new(ErrorKind::Unsupported, RoutedNetwork::PREPARE).because(why);
        if !is_root {
            return Err(unsupported("this takes root; without it, network rules are for the proxy"));
        }
        let kernel = |error| unsupported("the kernel gives no nftables to this program").caused_by(error);
        let pool = config.pool()?;
        config.refuse_used_addresses()?;
        config.forward()?;

        let mut netfilter = Socket::netfilter().map_err(kernel)?;
        sweep(&mut netfilter, config.rest).map_err(kernel)?;
        let (tag, sign) = choose_tag().map_err(kernel)?;
        let never: Vec<Network> =
            denied.iter().chain([&config.addresses]).copied().filter_map(of_ipv4).collect();
        let design =
            Design { tag: &tag, never: &never, source: config.source, connections: config.connections };
        match netfilter.transaction(design.messages(nft::OWNED)) {
            // Linux before 6.9 knows no tables that outlive their owner.
            Err(error) if is(&error, Errno::OPNOTSUPP) || is(&error, Errno::INVAL) => {
                netfilter.transaction(design.messages(0))
            }
            made => made,
        }
        .map_err(kernel)?;
        Ok(Self {
            tag,
            pool,
            never,
            rest: config.rest,
            netfilter: Mutex::new(netfilter),
            links: Mutex::default(),
            departed: Mutex::default(),
            seeing_off: Mutex::default(),
            _sign: sign,
        })
    }

    /// The rules of a policy that are for a routed network.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] and [`ErrorKind::LimitExceeded`] when a rule cannot be.
    pub(in crate::native) fn rules(&self, policy: &NetworkPolicy) -> Result<Vec<Allowed>> {
        routed_rules::rules(policy, &self.never)
    }

    /// Claims addresses for a sandbox and tells the firewall what it may reach. The device does not exist yet.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::LimitExceeded`] when no address is free.
    pub(in crate::native) fn reserve(self: &Arc<Self>, allowed: Vec<Allowed>) -> Result<Link> {
        let (pair, entries) = self.claim(&allowed)?;
        Ok(Link::new(self.clone(), Plan { device: self.tag.device(pair), pair, allowed }, entries))
    }

    fn claim(&self, allowed: &[Allowed]) -> Result<(Pair, Entries)> {
        const ATTEMPTS: usize = 16;
        let mut netfilter = self.netfilter();
        let mut pair = self.pool.next();
        for _ in 0..ATTEMPTS {
            let entries = Entries::new(&self.tag.device(pair), pair.inside(), allowed);
            let mut messages = addresses::claim(pair, &self.tag);
            messages.extend(entries.add(&self.table()));
            match netfilter.transaction(messages) {
                Ok(()) => {
                    lock(&self.links).insert(pair);
                    return Ok((pair, entries));
                }
                Err(error) if is(&error, Errno::EXIST) => {}
                Err(error) => return Err(unwilling(error)),
            }
            let taken = addresses::taken(&mut netfilter).map_err(unwilling)?.into_keys().collect();
            pair = self.pool.next_but(&taken).ok_or_else(none_free)?;
        }
        Err(none_free())
    }

    /// Gives the addresses of links that are gone back: all of them, or none.
    pub(super) fn give_back(&self, pairs: &[Pair], rests: bool) -> io::Result<()> {
        let rest = if rests { self.rest } else { Duration::ZERO };
        let messages: Vec<_> = pairs.iter().flat_map(|pair| addresses::give_back(*pair, rest)).collect();
        match self.netfilter().transaction(messages) {
            // Somebody has emptied the list. Of several, all others are as they were.
            Err(error) if is(&error, Errno::NOENT) && pairs.len() == 1 => {}
            given => given?,
        }
        lock(&self.links).retain(|link| !pairs.contains(link));
        Ok(())
    }

    /// The name of the table.
    pub(super) fn table(&self) -> String {
        self.tag.table()
    }

    /// What the table is changed through.
    pub(super) fn netfilter(&self) -> MutexGuard<'_, Socket> {
        lock(&self.netfilter)
    }
}

impl Drop for Routed {
    /// The table goes, unless a sandbox may still live: then it is swept by the next one who comes.
    fn drop(&mut self) {
        if lock(&self.links).is_empty() {
            let _ = self.netfilter().transaction(vec![nft::delete_table(&self.table())]);
        }
    }
}

fn unwilling(error: io::Error) -> Error {
    let why = if is(&error, Errno::NOENT) {
        "somebody has removed the firewall of routed sandboxes; start this program again"
    } else {
        "the firewall does not take its rules"
    };
    Error::new(ErrorKind::Unavailable, CREATE).because(why).caused_by(error)
}

fn none_free() -> Error {
    Error::new(ErrorKind::LimitExceeded, CREATE).because(
        "all addresses of routed sandboxes are in use, or rest after it; try later or configure more",
    )
}
