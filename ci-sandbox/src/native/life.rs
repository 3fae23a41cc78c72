//! One sandbox from its first process to the proof that it is gone.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex as Lock, OnceLock};
use std::time::Duration;

use ci_core::sandbox::Residue;
use ci_core::{Error, ErrorKind, Result};
use tokio::io::Interest;
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};

use super::cgroup::{Groups, OutOfMemory};
use super::channel::Channel;
use super::ledger::Entry;
use super::lingering::Dead;
use super::lock::lock;
use super::namespaces::Namespaces;
use super::network::{Link, Network};
use super::patience::Patience;
use super::{failure, proof, sys};

/// A sandbox whose launcher has been started.
///
/// Dropping it closes the lifeline, and the launcher kills the sandbox. The books and the control groups are
/// then left to whoever reads the ledger next.
#[derive(Debug)]
pub(super) struct Life {
    /// To the launcher. Its end is the sandbox's.
    pub(super) lifeline: Channel,
    /// To the init.
    pub(super) control: Channel,
    pub(super) groups: Groups,
    pub(super) out_of_memory: OutOfMemory,
    pub(super) entry: Entry,
    /// Its network card, if it has one.
    pub(super) link: Option<Arc<Link>>,
    pub(super) launcher: OwnedFd,
    /// Known from when the launcher has told until nothing is left.
    pub(super) init: Lock<Option<Arc<Init>>>,
    /// The network that it is in, its own or another sandbox's, from when it is known until its processes are dead.
    pub(super) namespace: Lock<Option<SharedNetwork>>,
    /// Whether the network is another sandbox's, or others were left in it.
    pub(super) shares_network: AtomicBool,
    /// Whether somebody watches what the kernel still has of it.
    pub(super) is_released: AtomicBool,
    pub(super) requests: AtomicU32,
    /// Where what must not wait for anybody goes on.
    pub(super) runtime: Handle,
    pub(super) patience: Patience,
    /// Whether it has been counted that nothing is left.
    pub(super) is_over: Mutex<bool>,
    /// Its way out, when it has one and stands.
    pub(super) network: OnceLock<Network>,
}

/// What the supervisor holds of process 1.
#[derive(Debug)]
pub(super) struct Init {
    pub(super) process: OwnedFd,
    pub(super) pid_namespace: OwnedFd,
    pub(super) namespaces: Namespaces,
}

/// A network, shared by a sandbox and those that were made beside it.
pub(super) type SharedNetwork = Arc<NetworkNamespace>;

/// What the supervisor holds of a network.
#[derive(Debug)]
pub(super) struct NetworkNamespace {
    pub(super) file: OwnedFd,
    /// Whether a proxy is served in it.
    pub(super) is_proxied: bool,
}

impl Life {
    /// A number for a new request.
    pub(super) fn next_request(&self) -> u32 {
        self.requests.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether its process 1 runs.
    pub(super) fn is_alive(&self) -> bool {
        self.init().is_some_and(|init| !sys::is_dead(&init.process))
    }

    /// Process 1, once the launcher has told of it and while anything is left.
    pub(super) fn init(&self) -> Option<Arc<Init>> {
        lock(&self.init).clone()
    }

    /// What the launcher has told.
    pub(super) fn set_init(&self, init: Init) {
        *lock(&self.init) = Some(Arc::new(init));
    }

    /// Lets go of process 1, and returns what the kernel still has of the sandbox for somebody to watch: once. A network
    /// that others still share is none of its namespaces.
    pub(super) fn release(&self) -> Option<Dead> {
        if self.is_released.swap(true, Ordering::Relaxed) {
            return None;
        }
        let is_shared = self.shares_network.load(Ordering::Relaxed);
        let namespaces = lock(&self.init).take().map(|init| init.namespaces.clone()).unwrap_or_default();
        let namespaces = if is_shared { namespaces.without_network() } else { namespaces };
        Some(Dead::new(namespaces, self.link.clone()))
    }

    /// The network that it is in.
    pub(super) fn network_namespace(&self) -> Option<SharedNetwork> {
        lock(&self.namespace).clone()
    }

    /// Enters what the launcher has told, where it is not another's that was known before.
    pub(super) fn set_network_namespace(&self, namespace: NetworkNamespace) {
        lock(&self.namespace).get_or_insert_with(|| Arc::new(namespace));
    }

    /// Whether programs in it are to be told of a proxy.
    pub(super) fn is_proxied(&self) -> bool {
        lock(&self.namespace).as_ref().is_some_and(|network| network.is_proxied)
    }

    /// What is held stays, and with it the network's devices.
    fn leave_network(&self) {
        if lock(&self.namespace).take().is_some_and(|namespace| Arc::strong_count(&namespace) > 1) {
            self.shares_network.store(true, Ordering::Relaxed);
        }
    }

    /// Whether the kernel has killed any of its processes for want of memory, which is the end of them all.
    pub(super) fn ran_out_of_memory(&self) -> bool {
        self.out_of_memory.kills() > 0
    }

    /// Why it does not answer any more.
    pub(super) fn gone(&self, operation: &'static str) -> Error {
        if self.ran_out_of_memory() { failure::out_of_memory(operation) } else { failure::gone(operation) }
    }

    /// Whether process 1 is dead, and everything inside with it.
    pub(super) fn is_gone(&self) -> bool {
        !self.is_alive()
    }

    /// Has the launcher kill the sandbox, without waiting for it.
    pub(super) fn cut(&self) {
        self.lifeline.shut_down();
        if let Some(network) = self.network.get() {
            network.cut();
        }
    }

    /// Ends the sandbox and counts what is left. Once nothing was left, it is not counted again.
    pub(super) async fn end(&self) -> Result<Residue> {
        let mut is_over = self.is_over.lock().await;
        if *is_over {
            return Ok(Residue::default());
        }
        self.cut();
        if let Some(link) = &self.link {
            link.close();
        }
        self.kill().await?;
        self.leave_network();
        let cgroups = clear(&self.groups, self.patience).await;
        self.bury().await?;
        let residue = self.count(cgroups).await;
        *is_over = residue.is_empty();
        Ok(residue)
    }

    /// Kills process 1 and waits for its death, which comes after that of everything inside (`pid_namespaces(7)`).
    async fn kill(&self) -> Result<()> {
        self.groups.kill();
        let Some(init) = self.init() else { return self.bury().await };
        // The launcher does the same at the end of its lifeline, unless it is stuck.
        sys::kill(init.process.as_fd());
        if dies(&init.process, self.patience.kernel).await { Ok(()) } else { Err(Self::undead()) }
    }

    /// Waits for the launcher's death, before which a process 1 that it has not told of yet dies.
    async fn bury(&self) -> Result<()> {
        if !dies(&self.launcher, self.patience.launcher).await {
            // It is stuck. Whatever it waits for, the kernel does not.
            sys::kill(self.launcher.as_fd());
            if !dies(&self.launcher, self.patience.kernel).await {
                return Err(Self::undead());
            }
        }
        sys::reap(self.launcher.as_fd());
        Ok(())
    }

    fn undead() -> Error {
        Error::new(ErrorKind::Unavailable, "destroy a sandbox")
            .because("the kernel has not ended its processes yet")
    }

    async fn count(&self, cgroups: usize) -> Residue {
        let mut residue = Residue { cgroups, ..Residue::default() };
        // The kernel removes a group only when no process is left in it, and none gets out of its group. Without groups
        // the processes of the machine are looked at one by one.
        if let Some(init) = self.init().filter(|_| cgroups > 0 || self.groups.0.is_empty()) {
            let users = proof::users_of(&init.pid_namespace);
            residue.processes = users.processes.max(self.groups.processes());
            residue.namespaces = users.namespaces;
            residue.mounts = users.mounts;
        }
        // A socket that is held from here holds the sandbox's network.
        if let Some(network) = self.network.get() {
            residue.namespaces += usize::from(!network.end(self.patience.kernel).await);
        }
        residue.links = usize::from(self.link.as_ref().is_some_and(|link| !link.close()));
        if residue.is_empty() {
            match &self.link {
                // The books name its device for as long as there is one.
                Some(link) => link.see_off(self.entry.page().clone(), &self.runtime),
                None => residue.files = usize::from(!self.entry.page().strike()),
            }
        }
        residue
    }
}

/// Removes control groups whose last processes may still be on their way out, and returns how many stayed.
pub(super) async fn clear(groups: &Groups, patience: Patience) -> usize {
    let deadline = Instant::now() + patience.launcher;
    loop {
        let left = groups.remove();
        if left == 0 || Instant::now() > deadline {
            return left;
        }
        sleep(Duration::from_millis(1)).await;
    }
}

/// Waits for the death of a process. False when it takes longer than `patience`, or cannot be told.
pub(super) async fn dies(process: &OwnedFd, patience: Duration) -> bool {
    let watched = process.try_clone().and_then(|process| sys::watch(process, Interest::READABLE));
    let Ok(watched) = watched else { return sys::is_dead(process) };
    timeout(patience, watched.readable()).await.is_ok_and(|ready| ready.is_ok())
}
