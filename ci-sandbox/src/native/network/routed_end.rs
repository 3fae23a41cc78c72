//! The end of links whose sandboxes are dead.
//!
//! The kernel takes tens of milliseconds to let go of a network's devices, and hardly more for many at once, so nobody
//! waits for it. A closed link lets nothing through; what is left of it is looked at from here, all in one go: one list
//! of the machine's devices tells of as many links as there are. Only a link whose device is gone gives its addresses
//! back, and until then the books name it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::super::ledger::Page;
use super::addresses::Pair;
use super::netlink::Socket;
use super::netlink_conntrack as conntrack;
use super::netlink_route as route;
use super::routed::{Routed, lock};
use super::routed_link::{Link, on_a_thread};

/// How long a device has to go by itself, before it is removed out of a network that something holds.
pub(super) const BY_ITSELF: Duration = Duration::from_millis(500);

/// The links of dead sandboxes, and who looks after them.
#[derive(Debug, Default)]
pub(super) struct Departed {
    links: Vec<Leaving>,
    watcher: Option<JoinHandle<()>>,
}

#[derive(Clone, Debug)]
struct Leaving {
    link: Arc<Link>,
    since: Instant,
    /// Struck out when the link is gone.
    page: Page,
}

impl Link {
    /// Has somebody see to its end, once it is closed, the sandbox's processes are dead and nothing of this program but
    /// the link itself is in its network.
    pub(in crate::native) fn see_off(self: &Arc<Self>, page: Page, runtime: &Handle) {
        let mut departed = lock(&self.routed().departed);
        departed.links.push(Leaving { link: self.clone(), since: Instant::now(), page });
        // A watcher that is finished has left with its runtime.
        if departed.watcher.as_ref().is_none_or(JoinHandle::is_finished) {
            departed.watcher = Some(runtime.spawn(watch(self.routed().clone())));
        }
    }
}

/// Sees all off who leave, until nobody does.
async fn watch(routed: Arc<Routed>) {
    const BETWEEN: Duration = Duration::from_millis(10);
    /// When nobody has come for a while, what is left is held by somebody.
    const LONG: Duration = Duration::from_secs(1);
    const BETWEEN_LATER: Duration = Duration::from_millis(100);
    loop {
        let all = {
            let mut departed = lock(&routed.departed);
            departed.links.retain(|leaving| !leaving.link.is_gone());
            if departed.links.is_empty() {
                departed.watcher = None;
                return;
            }
            departed.links.clone()
        };
        let is_fresh = all.iter().any(|leaving| leaving.since.elapsed() < LONG);
        let seeing = routed.clone();
        // What does not work may do so the next time.
        let _ = on_a_thread(move || see_off_all(&seeing, all)).await;
        sleep(if is_fresh { BETWEEN } else { BETWEEN_LATER }).await;
    }
}

/// One look at all. It visits the sandboxes' networks, and waits for locks of the kernel.
fn see_off_all(routed: &Routed, mut all: Vec<Leaving>) -> io::Result<()> {
    // The one before may still be at it when its runtime has gone.
    let _alone = lock(&routed.seeing_off);
    all.retain(|leaving| !leaving.link.is_gone() && leaving.link.lets_go());
    let mut kernel = Socket::route()?;
    let devices: BTreeSet<String> = route::devices(&mut kernel)?.into_iter().collect();
    let (staying, gone): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|leaving| devices.contains(leaving.link.device()));
    give_back(routed, gone)?;
    for Leaving { link, .. } in staying.iter().filter(|leaving| leaving.since.elapsed() > BY_ITSELF) {
        route::remove(&mut kernel, link.device())?;
    }
    Ok(())
}

fn give_back(routed: &Routed, gone: Vec<Leaving>) -> io::Result<()> {
    let mut netfilter = Socket::netfilter()?;
    let mut forgotten = BTreeMap::new();
    for leaving in gone {
        let pair = leaving.link.pair();
        if conntrack::forget(&mut netfilter, pair.inside()).is_ok() {
            forgotten.insert(pair, leaving);
        }
    }
    let pairs: Vec<Pair> = forgotten.keys().copied().collect();
    routed.give_back(&pairs, true)?;
    for Leaving { link, page, .. } in forgotten.into_values() {
        link.was_given_back(&page);
    }
    Ok(())
}
