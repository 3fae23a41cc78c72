//! One sandbox from its first process to the proof that it is gone.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ci_core::id::SandboxId;
use ci_core::sandbox::Residue;
use ci_core::{Error, ErrorKind, Result};
use tokio::io::Interest;
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};

use super::cgroup::Groups;
use super::channel::Channel;
use super::ledger::Entry;
use super::network::{Link, Network};
use super::patience::Patience;
use super::{proof, sys};

/// A sandbox whose launcher has been started.
///
/// Dropping it closes the lifeline, and the launcher kills the sandbox. The books and the control groups are
/// then left to whoever reads the ledger next.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) id: SandboxId,
    /// To the launcher. Its end is the sandbox's.
    pub(super) lifeline: Channel,
    /// To the init.
    pub(super) control: Channel,
    pub(super) groups: Groups,
    pub(super) entry: Entry,
    /// Its network card, if it has one.
    pub(super) link: Option<Link>,
    pub(super) launcher: OwnedFd,
    /// Set when the launcher has told.
    pub(super) init: OnceLock<Init>,
    pub(super) requests: AtomicU32,
    /// Where what must not wait for anybody goes on.
    pub(super) runtime: Handle,
    pub(super) patience: Patience,
    pub(super) ending: Mutex<Ending>,
    /// Its way out, when it has one and stands.
    pub(super) network: OnceLock<Network>,
}

/// What the supervisor holds of process 1.
#[derive(Debug)]
pub(super) struct Init {
    pub(super) process: OwnedFd,
    pub(super) user_namespace: OwnedFd,
}

/// How far the end has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Ending {
    #[default]
    Alive,
    Over,
}

impl Life {
    /// A number for a new request.
    pub(super) fn next_request(&self) -> u32 {
        self.requests.fetch_add(1, Ordering::Relaxed)
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
        let mut ending = self.ending.lock().await;
        if *ending == Ending::Over {
            return Ok(Residue::default());
        }
        self.cut();
        if let Some(link) = &self.link {
            link.close();
        }
        self.bury().await?;
        let residue = self.count().await;
        if residue.is_empty() {
            *ending = Ending::Over;
        }
        Ok(residue)
    }

    /// Waits for the launcher's death, which comes after that of everything inside.
    async fn bury(&self) -> Result<()> {
        if !dies(&self.launcher, self.patience.launcher).await {
            // It is stuck. Whatever it waits for, the kernel does not.
            if let Some(init) = self.init.get() {
                sys::kill(init.process.as_fd());
            }
            sys::kill(self.launcher.as_fd());
            if !dies(&self.launcher, self.patience.kernel).await {
                return Err(self.undead());
            }
        }
        sys::reap(self.launcher.as_fd());
        // When the launcher was killed by somebody else, the init dies of that, but later.
        match self.init.get() {
            Some(init)
                if !sys::is_dead(&init.process) && !dies(&init.process, self.patience.kernel).await =>
            {
                Err(self.undead())
            }
            _ => Ok(()),
        }
    }

    fn undead(&self) -> Error {
        Error::new(ErrorKind::Unavailable, "destroy a sandbox")
            .because("the kernel has not ended its processes yet")
            .with("sandbox", &self.id)
    }

    async fn count(&self) -> Residue {
        let mut residue = Residue::default();
        if let Some(init) = self.init.get() {
            let users = proof::users_of(&init.user_namespace);
            residue.processes = users.processes;
            residue.namespaces = users.namespaces;
            residue.mounts = users.mounts;
        }
        residue.cgroups = clear(&self.groups, self.patience).await;
        if residue.cgroups > 0 {
            residue.processes = residue.processes.max(self.groups.processes());
        }
        // A socket that is held from here holds the sandbox's network.
        if let Some(network) = self.network.get() {
            residue.namespaces += usize::from(!network.end(self.patience.kernel).await);
        }
        if let Some(link) = &self.link {
            residue.links = usize::from(!link.is_gone(self.patience.launcher).await);
        }
        if residue.is_empty() && !self.entry.strike() {
            residue.files = 1;
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
