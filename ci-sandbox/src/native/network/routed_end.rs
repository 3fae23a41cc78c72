//! The end of links whose sandboxes are dead.
//!
//! The kernel takes tens of milliseconds to let go of a network's devices, and hardly more for many at once, so nobody
//! waits for it. A closed link lets nothing through; what is left of it is looked at from here, all in one go: one list
//! of the machine's devices tells of as many links as there are. Only a link whose device is gone gives its addresses
//! back, and until then the books name it.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::super::ledger::Page;
use super::addresses::Pair;
use super::lock;
use super::netlink::Socket;
use super::netlink_conntrack as conntrack;
use super::netlink_route as route;
use super::routed::Routed;
use super::routed_flows as flows;
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
    // A list can lack a device when others go while it is made.
    let is_there =
        |device: &str| devices.contains(device) || !matches!(route::device(&kernel, device), Ok(None));
    let (staying, gone): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|leaving| is_there(leaving.link.device()));
    for Leaving { link, .. } in staying.iter().filter(|leaving| leaving.since.elapsed() > BY_ITSELF) {
        // What holds one is no matter of the others.
        let _ = route::remove(&mut kernel, link.device());
    }
    give_back(
        routed,
        gone.iter().map(|leaving| &*leaving.link).filter(|link| !link.is_given_back()).collect(),
    )?;
    for Leaving { link, page, .. } in gone {
        link.strike(&page);
    }
    Ok(())
}

/// Gives addresses back: once, for then they may be somebody else's.
fn give_back(routed: &Routed, gone: Vec<&Link>) -> io::Result<()> {
    if gone.is_empty() {
        return Ok(());
    }
    let pairs: Vec<Pair> = gone.iter().map(|link| link.pair()).collect();
    conntrack::forget(&mut Socket::netfilter()?, &pairs.iter().map(|pair| pair.inside()).collect())?;
    let devices = gone.iter().map(|link| link.device().to_owned()).collect();
    flows::forget(&mut routed.netfilter(), &routed.table(), &devices)?;
    let all_at_once = routed.give_back(&pairs, true).is_ok();
    for link in gone {
        if all_at_once || routed.give_back(&[link.pair()], true).is_ok() {
            link.was_given_back();
        }
    }
    Ok(())
}
