//! The link of one sandbox, from its addresses to the proof that it is gone.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::thread;

use ci_core::clock::{Clock as _, SystemClock, Timestamp};
use ci_core::network::{Flow, NetworkReport, Verdict};
use ci_core::{Error, ErrorKind, Result};
use rustix::io::Errno;
use tokio::sync::{Mutex as AsyncMutex, oneshot};

use super::super::ledger::Page;
use super::addresses::Pair;
use super::netlink::{Attributes, is};
use super::nft;
use super::nft_table::{CONNECTED, Entries, RECEIVED, REFUSED};
use super::routed::Routed;
use super::routed_flows::{self as flows, Count};
use super::routed_pair::{Plan, end_connections};
use super::{CREATE, lock};

/// The link of one sandbox.
#[derive(Debug)]
pub(in crate::native) struct Link {
    routed: Arc<Routed>,
    plan: Plan,
    entries: Entries,
    /// Held while the link is being made.
    attaching: Arc<AsyncMutex<()>>,
    /// The sandbox's network, once the link is in it and until its processes are gone.
    inside: Arc<Mutex<Option<OwnedFd>>>,
    progress: Mutex<Progress>,
    /// Since when it is counted.
    since: Timestamp,
    /// As it was when it was counted last.
    traffic: Mutex<Traffic>,
}

/// How far its end has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Progress {
    #[default]
    Open,
    Closed,
    GivenBack,
    Gone,
}

/// What has gone over a link.
#[derive(Clone, Debug, Default)]
struct Traffic {
    connections: u64,
    refused: u64,
    sent: u64,
    received: u64,
    flows: Vec<Flow>,
}

impl Link {
    /// A link that is not made yet; the firewall has its entries.
    pub(super) fn new(routed: Arc<Routed>, plan: Plan, entries: Entries) -> Self {
        Self {
            routed,
            plan,
            entries,
            attaching: Arc::default(),
            inside: Arc::default(),
            progress: Mutex::default(),
            since: SystemClock::new().now(),
            traffic: Mutex::default(),
        }
    }

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
    /// When the future is dropped, the link may be made all the same; who [sees it off](Self::see_off) waits for it.
    pub(in crate::native) async fn attach(&self, process: &OwnedFd) -> Result<()> {
        let failed = |error| {
            Error::new(ErrorKind::Unavailable, CREATE).because("a thread cannot be started").caused_by(error)
        };
        let attaching = self.attaching.clone().lock_owned().await;
        let (plan, inside) = (self.plan.clone(), self.inside.clone());
        let process = process.try_clone().map_err(failed)?;
        let make = move || {
            let _attaching = attaching;
            *lock(&inside) = Some(plan.make(&process)?);
            Ok(())
        };
        on_a_thread(make).await.map_err(failed)?
    }

    pub(super) fn pair(&self) -> Pair {
        self.plan.pair
    }

    pub(super) fn routed(&self) -> &Arc<Routed> {
        &self.routed
    }

    /// Lets nothing through any more, at once. False when the firewall does not take that.
    pub(in crate::native) fn close(&self) -> bool {
        let mut progress = lock(&self.progress);
        if *progress != Progress::Open {
            return true;
        }
        self.count();
        let messages = self.entries.delete(&self.routed.table());
        match self.routed.netfilter().transaction(messages) {
            // Somebody has removed the whole firewall.
            Err(error) if !is(&error, Errno::NOENT) => return false,
            _ => *progress = Progress::Closed,
        }
        true
    }

    /// Lets go of the sandbox's network, after what goes on in it without any process is ended. False while the link is
    /// still being made. It takes the calling thread into that network and back.
    pub(super) fn lets_go(&self) -> bool {
        let Ok(_attached) = self.attaching.try_lock() else { return false };
        if let Some(inside) = lock(&self.inside).take() {
            let _ = end_connections(&inside);
        }
        true
    }

    /// Its device is gone, and its addresses may be somebody else's from now on.
    pub(super) fn was_given_back(&self) {
        *lock(&self.progress) = Progress::GivenBack;
    }

    pub(super) fn is_given_back(&self) -> bool {
        *lock(&self.progress) == Progress::GivenBack
    }

    /// Strikes its sandbox out of the books when nothing else is left of it.
    pub(super) fn strike(&self, page: &Page) {
        if self.is_given_back() && page.strike() {
            *lock(&self.progress) = Progress::Gone;
        }
    }

    /// Whether nothing is left of it.
    pub(in crate::native) fn is_gone(&self) -> bool {
        *lock(&self.progress) == Progress::Gone
    }

    /// Takes everything back, for a sandbox of which nothing has been made.
    pub(in crate::native) fn undo(&self) {
        self.close();
        if self.routed.give_back(&[self.plan.pair], false).is_ok() {
            *lock(&self.progress) = Progress::Gone;
        }
    }

    /// Adds what has gone over it to a report, in bytes with the headers of IP and TCP. A connection counts when it was
    /// answered, a refusal by packets.
    pub(in crate::native) fn add_to(&self, report: &mut NetworkReport) {
        if *lock(&self.progress) == Progress::Open {
            self.count();
        }
        let Traffic { connections, refused, sent, received, flows } = lock(&self.traffic).clone();
        let of = |is_it: fn(Verdict) -> bool| {
            flows.iter().filter(|flow| is_it(flow.verdict)).map(|flow| flow.attempts).sum::<u64>()
        };
        let listed = of(|verdict| verdict == Verdict::Connected) + of(Verdict::is_refusal);
        report.connections += connections;
        report.refused += refused;
        report.failed += of(|verdict| verdict == Verdict::Unreachable);
        report.sent += sent;
        report.received += received;
        report.unlisted += (connections + refused).saturating_sub(listed);
        report.flows.extend(flows);
    }

    /// Counts; what cannot be counted now stays as it was.
    fn count(&self) {
        if let Ok(now) = self.traffic_now() {
            *lock(&self.traffic) = now;
        }
    }

    fn traffic_now(&self) -> io::Result<Traffic> {
        let table = self.routed.table();
        let mut netfilter = self.routed.netfilter();
        let mut sum = |message| {
            let mut sum = Count::default();
            netfilter.look_up(message, |reply| add_elements(&mut sum, reply)).map(|()| sum)
        };
        let mut sent = 0;
        for message in self.entries.count_sent(&table) {
            sent += sum(message)?.bytes;
        }
        let connections = sum(self.entries.count(&table, CONNECTED))?.packets;
        let refused = sum(self.entries.count(&table, REFUSED))?.packets;
        let received = sum(self.entries.count(&table, RECEIVED))?.bytes;
        let span = [self.since, SystemClock::new().now()];
        let flows = flows::flows(&mut netfilter, &table, self.device(), span)?;
        Ok(Traffic { connections, refused, sent, received, flows })
    }
}

/// Adds the counters of the elements in an answer.
fn add_elements(sum: &mut Count, message: &[u8]) {
    for (_, element) in Attributes::after(message, nft::HEAD).within(3).iter() {
        let Count { bytes, packets } = Count::of(Attributes::new(element));
        sum.bytes += bytes;
        sum.packets += packets;
    }
}

/// Does something on a thread of its own: it waits for locks of the kernel, and visits a sandbox's network.
pub(super) async fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (told, done) = oneshot::channel();
    let work = move || drop(told.send(work()));
    thread::Builder::new().name("ci-sandbox-link".to_owned()).spawn(work)?;
    done.await.map_err(|_| io::ErrorKind::BrokenPipe.into())
}
