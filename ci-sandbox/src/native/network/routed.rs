//! Routed networks: which sandbox has which link, and what the firewall lets through.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use ci_core::network::NetworkPolicy;
use ci_core::{Error, ErrorKind, Result};
use rustix::io::Errno;
use tokio::sync::{Mutex as AsyncMutex, oneshot};
use tokio::time::{Instant, sleep};

use super::addresses::{self, Pair, Pool, Tag};
use super::netlink::{Attributes, Message, Socket};
use super::netlink_conntrack as conntrack;
use super::netlink_route as route;
use super::nft;
use super::nft_table::{ALLOWED, CONNECTED, Design, Entries, NEVER, RECEIVED, REFUSED};
use super::routed_config::RoutedNetwork;
use super::routed_link::{Plan, is_of_a_sandbox};
use super::routed_rules::{self, Allowed, Network};

const PREPARE: &str = "prepare routed networks";
const CREATE: &str = "create a sandbox";
const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";

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
    /// For looking.
    route: Socket,
    /// The links that are not gone yet.
    links: Mutex<BTreeSet<Pair>>,
    /// Says that the tag's owner lives.
    _sign: UnixDatagram,
}

impl Routed {
    /// Clears what dead programs have left, and makes the firewall.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] when this process or the machine cannot route; [`ErrorKind::Invalid`] when the
    /// addresses cannot be those of sandboxes.
    pub(in crate::native) fn new(config: &RoutedNetwork, is_root: bool) -> Result<Self> {
        let unsupported = |why| Error::new(ErrorKind::Unsupported, PREPARE).because(why);
        if !is_root {
            return Err(unsupported("this takes root; without it, network rules are for the proxy"));
        }
        let kernel = |error| unsupported("the kernel gives no nftables to this program").caused_by(error);
        let pool = pool(config)?;
        let network = (addresses::first(config.addresses), config.addresses.prefix());
        let mut route = Socket::route().map_err(kernel)?;
        refuse_used(&mut route, config, network)?;
        forward(config.switch_forwarding_on)?;

        let mut netfilter = Socket::netfilter().map_err(kernel)?;
        sweep(&mut netfilter, &mut route, config.rest).map_err(kernel)?;
        let (tag, sign) = choose_tag().map_err(kernel)?;
        let design = Design {
            tag: &tag,
            pool: network,
            never: &[],
            source: config.source,
            connections: config.connections,
        };
        match netfilter.transaction(design.messages(nft::OWNED)) {
            // Linux before 6.9 knows no tables that outlive their owner.
            Err(error) if is(&error, Errno::OPNOTSUPP) || is(&error, Errno::INVAL) => {
                netfilter.transaction(design.messages(0))
            }
            made => made,
        }
        .map_err(kernel)?;
        Ok(Self {
            pool,
            never: vec![network],
            rest: config.rest,
            netfilter: Mutex::new(netfilter),
            route,
            links: Mutex::default(),
            tag,
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
        let pair = self.claim(&allowed)?;
        let device = self.tag.device(pair);
        let entries = Entries::new(&device, pair.inside(), &allowed);
        Ok(Link {
            routed: self.clone(),
            entries,
            plan: Plan { device, pair, allowed },
            attaching: Arc::default(),
            progress: Mutex::default(),
        })
    }

    fn claim(&self, allowed: &[Allowed]) -> Result<Pair> {
        const ATTEMPTS: usize = 16;
        let failed = |error| {
            Error::new(ErrorKind::Unavailable, CREATE)
                .because("the firewall does not take its rules")
                .caused_by(error)
        };
        let mut netfilter = lock(&self.netfilter);
        let mut pair = self.pool.next();
        for _ in 0..ATTEMPTS {
            let entries = Entries::new(&self.tag.device(pair), pair.inside(), allowed);
            let mut messages = addresses::claim(pair, &self.tag);
            messages.extend(entries.add(&self.tag.table()));
            match netfilter.transaction(messages) {
                Ok(()) => {
                    lock(&self.links).insert(pair);
                    return Ok(pair);
                }
                Err(error) if is(&error, Errno::EXIST) => {}
                Err(error) => return Err(failed(error)),
            }
            let taken = addresses::taken(&mut netfilter).map_err(failed)?.into_keys().collect();
            pair = self.pool.next_but(&taken).ok_or_else(none_free)?;
        }
        Err(none_free())
    }
}

impl Drop for Routed {
    /// The table goes, unless a sandbox may still live: then it is swept by the next one who comes.
    fn drop(&mut self) {
        if lock(&self.links).is_empty() {
            let _ = lock(&self.netfilter).transaction(vec![nft::delete_table(&self.tag.table())]);
        }
    }
}

/// The link of one sandbox.
#[derive(Debug)]
pub(in crate::native) struct Link {
    routed: Arc<Routed>,
    plan: Plan,
    entries: Entries,
    /// Held while the link is being made.
    attaching: Arc<AsyncMutex<()>>,
    progress: Mutex<Progress>,
}

/// How far its end has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Progress {
    #[default]
    Open,
    Closed,
    Gone,
}

/// What a sandbox has sent and received over its link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::native) struct Traffic {
    /// Connections that were answered.
    pub(in crate::native) connections: u64,
    /// Packets that were not let through.
    pub(in crate::native) refused: u64,
    /// Bytes that it sent, headers included.
    pub(in crate::native) sent: u64,
    /// Bytes that it received, headers included.
    pub(in crate::native) received: u64,
    /// Bytes that it sent to each of its rules' networks and ports.
    pub(in crate::native) flows: Vec<(Allowed, u64)>,
}

impl Link {
    /// The name of its device: for the books.
    pub(in crate::native) fn device(&self) -> &str {
        &self.plan.device
    }

    /// Makes the link into the network of `process`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when a rule names an address of this machine; [`ErrorKind::Unavailable`] when the kernel
    /// does not do it.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, the link may be made all the same; [`is_gone`](Self::is_gone) waits for it.
    pub(in crate::native) async fn attach(&self, process: &OwnedFd) -> Result<()> {
        let failed = |error| {
            Error::new(ErrorKind::Unavailable, CREATE).because("a thread cannot be started").caused_by(error)
        };
        let attaching = self.attaching.clone().lock_owned().await;
        let (plan, process) = (self.plan.clone(), process.try_clone().map_err(failed)?);
        let (told, made) = oneshot::channel();
        // It waits for locks of the kernel, and visits the sandbox's network.
        let make = move || {
            let result = plan.make(&process);
            drop((process, attaching));
            let _ = told.send(result);
        };
        thread::Builder::new().name("ci-sandbox-link".to_owned()).spawn(make).map_err(failed)?;
        made.await.unwrap_or_else(|_| Err(failed(io::ErrorKind::BrokenPipe.into())))
    }

    /// Lets nothing through any more, at once.
    pub(in crate::native) fn close(&self) {
        let mut progress = lock(&self.progress);
        if *progress == Progress::Open {
            let messages = self.entries.delete(&self.routed.tag.table());
            if lock(&self.routed.netfilter).transaction(messages).is_ok() {
                *progress = Progress::Closed;
            }
        }
    }

    /// Waits until the device is gone, which it is some milliseconds after the last process of its sandbox, and gives
    /// its address back. False when that takes longer than `patience`, or the firewall still names it.
    pub(in crate::native) async fn is_gone(&self, patience: Duration) -> bool {
        self.close();
        let _attached = self.attaching.lock().await;
        if !vanishes(&self.routed.route, self.device(), patience).await {
            return false;
        }
        if *lock(&self.progress) == Progress::Closed && self.give_back().await.is_ok() {
            *lock(&self.progress) = Progress::Gone;
            lock(&self.routed.links).remove(&self.plan.pair);
        }
        *lock(&self.progress) == Progress::Gone
    }

    async fn give_back(&self) -> io::Result<()> {
        forget(self.plan.pair.inside()).await?;
        lock(&self.routed.netfilter).transaction(addresses::give_back(self.plan.pair, self.routed.rest))
    }

    /// Takes everything back, for a sandbox of which nothing has been made.
    pub(in crate::native) fn undo(&self) {
        self.close();
        let messages = addresses::give_back(self.plan.pair, Duration::ZERO);
        if lock(&self.routed.netfilter).transaction(messages).is_ok() {
            *lock(&self.progress) = Progress::Gone;
            lock(&self.routed.links).remove(&self.plan.pair);
        }
    }

    /// What has gone over it so far.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] when the link is closed, or the kernel does not tell.
    pub(in crate::native) fn traffic(&self) -> Result<Traffic> {
        self.count()
            .map_err(|error| Error::new(ErrorKind::Unavailable, "count a sandbox's traffic").caused_by(error))
    }

    fn count(&self) -> io::Result<Traffic> {
        let table = self.routed.tag.table();
        let mut netfilter = lock(&self.routed.netfilter);
        let mut one = |set| {
            let mut counted = Counted::default();
            netfilter.look_up(self.entries.count(&table, set), |message| {
                for_each_element(message, |_, found| counted = found);
            })?;
            io::Result::Ok(counted)
        };
        let mut traffic = Traffic {
            connections: one(CONNECTED)?.packets,
            refused: one(REFUSED)?.packets,
            received: one(RECEIVED)?.bytes,
            ..Traffic::default()
        };
        let mut flows: Vec<(Allowed, u64)> =
            self.plan.allowed.iter().map(|allowed| (allowed.clone(), 0)).collect();
        netfilter.look_up(nft::get(&table, ALLOWED, &self.entries.allowed), |message| {
            for_each_element(message, |key, found| {
                if let Some(item) = self.entries.allowed.iter().position(|element| element.first == key) {
                    flows[item].1 = found.bytes;
                }
            });
        })?;
        traffic.sent = flows.iter().map(|(_, bytes)| bytes).sum();
        traffic.flows = flows;
        Ok(traffic)
    }
}

/// What a counter has counted.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    bytes: u64,
    packets: u64,
}

/// Hands on key and counter of each element in an answer.
fn for_each_element(message: &[u8], mut each: impl FnMut(&[u8], Counted)) {
    for (_, element) in Attributes::after(message, nft::HEAD).within(3).iter() {
        let element = Attributes::new(element);
        let Some(key) = element.within(1).get(1) else { continue };
        // `NFTA_SET_ELEM_EXPR`, in it `NFTA_EXPR_DATA`, in it `NFTA_COUNTER_BYTES` and `NFTA_COUNTER_PACKETS`.
        let counter = element.within(7).within(2);
        let number = |kind| counter.get(kind)?.try_into().ok().map(u64::from_be_bytes);
        each(key, Counted { bytes: number(1).unwrap_or(0), packets: number(2).unwrap_or(0) });
    }
}

/// Waits until a dead owner's device is gone, and clears what else is left of it. False when that takes longer than
/// `patience`, or does not work.
pub(in crate::native) async fn clear(device: &str, patience: Duration) -> bool {
    let Some((_, pair)) = Tag::of_device(device) else { return true };
    let (Ok(mut route), Ok(mut netfilter)) = (Socket::route(), Socket::netfilter()) else { return false };
    vanishes(&route, device, patience).await
        && forget(pair.inside()).await.is_ok()
        && sweep(&mut netfilter, &mut route, RoutedNetwork::REST).is_ok()
}

async fn vanishes(route: &Socket, device: &str, patience: Duration) -> bool {
    const BETWEEN: Duration = Duration::from_millis(2);
    let deadline = Instant::now() + patience;
    loop {
        match route::device(route, device) {
            Ok(None) => return true,
            Ok(Some(_)) if Instant::now() < deadline => sleep(BETWEEN).await,
            _ => return false,
        }
    }
}

async fn forget(source: Ipv4Addr) -> io::Result<()> {
    let mut netfilter = Socket::netfilter()?;
    // The kernel goes through all connections of the machine.
    let forget = move || conntrack::forget(&mut netfilter, source).map(drop);
    tokio::task::spawn_blocking(forget).await.map_err(io::Error::other)?
}

/// Removes the firewalls of dead owners that have no device any more, and lets their addresses rest.
fn sweep(netfilter: &mut Socket, route: &mut Socket, rest: Duration) -> io::Result<()> {
    let taken = match addresses::taken(netfilter) {
        // Nobody has ever claimed one.
        Err(error) if is(&error, Errno::NOENT) => BTreeMap::new(),
        taken => taken?,
    };
    let mut tables = BTreeSet::new();
    netfilter.dump(nft::list_tables(), |message| {
        let name = Attributes::after(message, nft::HEAD).get(nft::TABLE_NAME).unwrap_or_default();
        let name = String::from_utf8_lossy(name.strip_suffix(&[0]).unwrap_or(name));
        tables.extend(Tag::of_table(&name));
    })?;
    let devices = route::devices(route)?;
    let tags: BTreeSet<&Tag> = tables.iter().chain(taken.values().flatten()).collect();
    for tag in tags {
        let is_used = devices.iter().any(|device| device.starts_with(&tag.devices()));
        // Whoever can take it knows that nobody has it, and keeps others from it meanwhile.
        let Ok(_sign) = sign(tag) else { continue };
        if is_used {
            continue;
        }
        let mut messages: Vec<Message> = Vec::new();
        if tables.contains(tag) {
            messages.push(nft::delete_table(&tag.table()));
        }
        let claims = taken.iter().filter(|(_, owner)| owner.as_ref() == Some(tag));
        messages.extend(claims.flat_map(|(pair, _)| addresses::give_back(*pair, rest)));
        match netfilter.transaction(messages) {
            // Somebody else who sweeps was faster.
            Err(error) if is(&error, Errno::NOENT) => {}
            swept => swept?,
        }
    }
    Ok(())
}

/// A tag, and the sign that it is taken.
fn choose_tag() -> io::Result<(Tag, UnixDatagram)> {
    const ATTEMPTS: usize = 16;
    for _ in 0..ATTEMPTS {
        let tag = Tag::random()?;
        match sign(&tag) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            taken => return Ok((tag, taken?)),
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}

/// A name in the network namespace that one at a time can have, and that its owner's death frees (unix(7)).
fn sign(tag: &Tag) -> io::Result<UnixDatagram> {
    UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(tag.table())?)
}

fn pool(config: &RoutedNetwork) -> Result<Pool> {
    let invalid =
        |why| Error::new(ErrorKind::Invalid, PREPARE).because(why).with("addresses", config.addresses);
    let pool = Pool::new(config.addresses).ok_or_else(|| {
        invalid("the sandboxes' addresses must be a network of IPv4 with a prefix of 1 to 31")
    })?;
    let network = (addresses::first(config.addresses), config.addresses.prefix());
    if NEVER.iter().any(|never| routed_rules::overlap(*never, network)) {
        return Err(invalid("the sandboxes' addresses are reserved for something else"));
    }
    let is_usable = |source: Ipv4Addr| {
        let never = NEVER.iter().any(|never| routed_rules::contains(*never, (source, 32)));
        !never && !routed_rules::contains(network, (source, 32))
    };
    if !config.source.is_none_or(is_usable) {
        return Err(invalid(
            "the source address must be one that others can answer to, outside of the sandboxes'",
        ));
    }
    Ok(pool)
}

/// Nothing but sandboxes may have addresses of the pool.
fn refuse_used(route: &mut Socket, config: &RoutedNetwork, network: Network) -> Result<()> {
    let own = route::addresses(route).map_err(|error| {
        Error::new(ErrorKind::Unavailable, PREPARE)
            .because("the machine's addresses cannot be listed")
            .caused_by(error)
    })?;
    let is_other = |(address, device): &&(Ipv4Addr, String)| {
        routed_rules::contains(network, (*address, 32)) && !is_of_a_sandbox(device)
    };
    match own.iter().find(is_other) {
        None => Ok(()),
        Some((address, _)) => Err(Error::new(ErrorKind::Invalid, PREPARE)
            .because(
                "this machine has an address out of those for sandboxes; give them a network of their own",
            )
            .with("addresses", config.addresses)
            .with("address", address)),
    }
}

fn forward(switch_on: bool) -> Result<()> {
    let refuse = || {
        Error::new(ErrorKind::Unsupported, PREPARE).because(
            "the machine forwards nothing; set net.ipv4.ip_forward=1, or have it set with \
             RoutedNetwork::with_forwarding_switched_on",
        )
    };
    let is_on = |text: String| text.trim() != "0";
    match fs::read_to_string(FORWARDING).map(is_on) {
        Ok(true) => Ok(()),
        Ok(false) if switch_on => fs::write(FORWARDING, "1").map_err(|error| refuse().caused_by(error)),
        Ok(false) => Err(refuse()),
        Err(error) => Err(refuse().caused_by(error)),
    }
}

fn none_free() -> Error {
    Error::new(ErrorKind::LimitExceeded, CREATE).because(
        "all addresses of routed sandboxes are in use, or rest after it; try later or configure more",
    )
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

/// What these guard is whole after every statement that holds them.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
