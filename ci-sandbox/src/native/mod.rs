//! Sandboxes out of this machine's own kernel: namespaces, control groups, and a root file system in memory.
//!
//! Nothing has to be installed, and no daemon runs. Every sandbox has user, mount, process, network, IPC, host
//! name and control group namespaces of its own; its root is a tmpfs on which the image's folders are shown
//! read-only. Inside, process 1 is a program of this crate (see `init/`); the job's programs run as another
//! user, without capabilities and without a way to any.
//!
//! # What it protects from
//!
//! The job cannot see or signal processes of the host, reach a network past its rules, write to the host's files, or stay
//! behind. What it can do all the same stands on the [front page](crate#what-native-sandboxes-do-not-protect-from).
//!
//! # As root and as an ordinary user
//!
//! As root every sandbox gets 65,536 ids that nothing else on the machine has, and memory that is never swapped
//! out. An ordinary user has one id to give: the job runs under it, and process 1 too. Which guarantees hold is
//! in [`Backend::capabilities`]; ask for what you need with
//! [`Spec::with_minimum`](ci_core::sandbox::Spec::with_minimum).
//!
//! # Network
//!
//! A sandbox has a loopback interface of its own and nothing else. Where its [policy](ci_core::network::NetworkPolicy) names
//! destinations, this program connects to them for it, in the same way for root and for an ordinary user:
//!
//! - **By proxy**, at `127.0.0.1:808` in the sandbox, which speaks HTTP (`CONNECT`, and whole `http:` URLs) and SOCKS 5. The
//!   variables `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, in both cases, tell programs so unless the job sets
//!   them. This is how networks are reached, by an address in them, and how hosts can be.
//! - **By name**, for programs that know no proxies: every host that a rule names has an address in the sandbox
//!   (`127.64.x.y`), and a connection to one of the rule's ports there is one to the host. Names are looked up at
//!   `127.0.0.1:53`, where nobody outside is asked: what no rule names does not exist. Only IPv4 and TCP: no UDP (so no
//!   HTTP/3), no ICMP.
//!
//! A host is looked up by this program ([`Resolver`]), once per connection; every address is checked, and one that passed is
//! connected to. This machine's own addresses, loopback, link-local addresses, metadata services, multicast, and their forms
//! in IPv6 are never reached; private addresses only where a rule names a private network that holds them and the port, also
//! by the name of a host. The operator narrows it further and chooses the address that others see with
//! [`Config::with_egress`]. What was tried, what became of it and how much went each way is in
//! [`Instance::network`].
//!
//! One sandbox has at most 128 connections at once (more wait), begins 100 per second after the first 256, and asks 500
//! names per second after the first 1,000; a connection on which nothing moves on the sandbox's side for 15 to 30 minutes is
//! closed. Each connection takes two of this program's descriptors, each port of a host one (`RLIMIT_NOFILE`, `LimitNOFILE=` of
//! systemd: allow 300 per sandbox that has a network). Together, the hosts of its rules have at most 237 ports. All connections end with the sandbox. A job cannot listen
//! on *all* addresses at a port above 1023 that a rule names for a host; on `127.0.0.1` it can.
//!
//! ## What a proxy cannot see
//!
//! Inside of TLS the client names the host that it wants by itself. Where an allowed host serves others too (a CDN, a cloud's
//! storage), a job can reach those through it (domain fronting), and what an allowed host passes on or stores for others goes
//! wherever it goes. Rules for hosts that anybody can write to, a package registry say, are rules for carrying data out. How
//! often and when a job connects is seen by whoever is connected to.
//!
//! # How it ends
//!
//! A launcher outside of the sandbox waits for the end of a socket, its lifeline. Whether [`Backend::destroy`]
//! was called, the value was dropped, or the whole program was killed with SIGKILL: the kernel closes the
//! socket, the launcher kills process 1, and the kernel kills everything else inside. The books and control
//! groups of a killed program are found by the next one through [`Backend::leftovers`].

mod cgroup;
mod channel;
mod config;
mod failure;
mod identity;
mod image;
mod instance;
mod launch;
mod ledger;
mod life;
mod network;
mod patience;
mod process;
mod proof;
mod report;
mod seccomp;
mod sys;
mod transfer;
#[allow(dead_code)] // The init's half of it.
#[path = "../../init/wire.rs"]
mod wire;

pub use config::{Config, ImageSource};
pub use network::{Egress, Resolver, SystemResolver};

use std::collections::{BTreeMap, HashMap};
use std::ffi::CString;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use ci_core::id::{ImageName, SandboxId};
use ci_core::sandbox::{Backend, Capabilities, Instance, Residue, Spec};
use ci_core::{Error, ErrorKind, Result};

use self::cgroup::{Controller, Hierarchies};
use self::identity::{Identity, Slots};
use self::image::Mount;
use self::instance::NativeInstance;
use self::launch::Plan;
use self::ledger::Ledger;
use self::life::Life;
use self::network::Network;
use self::patience::Patience;

/// Makes sandboxes out of this machine's kernel.
///
/// Its methods must be called within a `tokio` runtime that has its I/O and time drivers enabled.
///
/// # Example
///
/// ```no_run
/// # async fn example() -> ci_core::Result<()> {
/// use ci_core::id::{ImageName, SandboxId};
/// use ci_core::sandbox::{Backend, Spec};
/// use ci_sandbox::native::{Config, ImageSource, Native};
///
/// let image = ImageName::parse("host")?;
/// let native =
///     Native::new(Config::new("/var/lib/ci").with_image(image.clone(), ImageSource::host_toolchain()))?;
/// let id = SandboxId::random();
/// let sandbox = native.create(&id, &Spec::new(image)).await?;
/// println!("{:?}", sandbox.isolation());
/// assert!(native.destroy(&id).await?.is_empty());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Native(Arc<Shared>);

/// What all sandboxes of one backend share.
#[derive(Debug)]
struct Shared {
    state: PathBuf,
    images: BTreeMap<ImageName, Vec<Mount>>,
    hostname: CString,
    filter: Vec<u8>,
    files: u64,
    open_files: u64,
    egress: Egress,
    identity: Identity,
    slots: Slots,
    hierarchies: Hierarchies,
    ledger: Ledger,
    patience: Patience,
    /// The program of `init/`.
    program: OwnedFd,
    living: Mutex<HashMap<SandboxId, Arc<Life>>>,
}

impl Native {
    /// Looks at the machine, opens the books and looks up the images.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] when this process can make no sandboxes; [`ErrorKind::Invalid`] when the host
    /// name is none; [`ErrorKind::Unavailable`] when the state folder or an image cannot be used.
    pub fn new(config: Config) -> Result<Self> {
        Self::with_patience(config, Patience::default())
    }

    fn with_patience(config: Config, patience: Patience) -> Result<Self> {
        const OPERATION: &str = "prepare native sandboxes";
        let Config { state, images, hostname, files, open_files, egress } = config;
        let is_hostname = (1..=64).contains(&hostname.len())
            && hostname.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte));
        let hostname = CString::new(hostname).ok().filter(|_| is_hostname).ok_or_else(|| {
            Error::new(ErrorKind::Invalid, OPERATION)
                .because("the host name must be 1 to 64 of A-Z a-z 0-9 - .")
        })?;
        let images = images
            .into_iter()
            .map(|(name, source)| Ok((name, image::resolve(&source)?)))
            .collect::<Result<_>>()?;
        let identity = Identity::detect()?;
        let ledger = Ledger::open(&state).map_err(|error| {
            Error::new(ErrorKind::Unavailable, OPERATION)
                .because("the state folder cannot be written")
                .detail(state.display().to_string())
                .caused_by(error)
                .permanent()
        })?;
        Ok(Self(Arc::new(Shared {
            images,
            hostname,
            filter: seccomp::filter(),
            files,
            open_files,
            egress,
            identity,
            slots: Slots::new(),
            hierarchies: Hierarchies::detect(),
            ledger,
            patience,
            program: sys::init_program().map_err(failure::host(OPERATION))?,
            living: Mutex::default(),
            state,
        })))
    }
}

#[async_trait]
impl Backend for Native {
    async fn create(&self, id: &SandboxId, spec: &Spec) -> Result<Box<dyn Instance>> {
        let shared = &self.0;
        self.capabilities().require(spec)?;
        let network = network::Plan::of(&spec.network, &shared.egress, &shared.hostname)?;
        let sockets = network.as_ref().map(network::Plan::sockets).unwrap_or_default();
        let plan = launch::plan(shared, id, spec, sockets)?;
        let life = shared.begin(id, &plan)?;
        let made = launch::finish(&life, &plan).await.and_then(|ready| {
            let isolation = report::of(ready.facts, &shared.hierarchies);
            isolation.require(&spec.minimum)?;
            if let Some(network) = network {
                let network = Network::start(network, ready.sockets, &life.runtime);
                let _ = life.network.set(network.map_err(failure::host("create a sandbox"))?);
            }
            Ok(isolation)
        });
        match made {
            Ok(isolation) => {
                let is_grouped = shared.hierarchies.missing(Controller::Processes).is_none();
                let bound = u64::from(spec.limits.processes) + cgroup::PROCESS_ONE;
                let processes = if is_grouped { u64::MAX } else { bound };
                Ok(Box::new(NativeInstance { life, isolation, open_files: shared.open_files, processes }))
            }
            Err(error) => {
                // What remains of it then is found by `leftovers`.
                let _ = shared.end(&life).await;
                Err(error)
            }
        }
    }

    async fn destroy(&self, id: &SandboxId) -> Result<Residue> {
        let life = self.0.living().get(id).cloned();
        match life {
            Some(life) => self.0.end(&life).await,
            None => self.0.clear_remains(id).await,
        }
    }

    async fn leftovers(&self) -> Result<Vec<SandboxId>> {
        const LOOKS: u32 = 10;
        const BETWEEN: Duration = Duration::from_millis(20);
        let mut ids = Vec::new();
        for look in 1..=LOOKS {
            for ledger in self.0.ledgers_of_the_dead()? {
                ids.extend(ledger.ids().map_err(failure::host("list leftover sandboxes"))?);
            }
            if !ids.is_empty() || look == LOOKS || !self.0.ledger.others_live() {
                break;
            }
            tokio::time::sleep(BETWEEN).await;
        }
        Ok(ids)
    }

    fn abandon(&self, id: &SandboxId) {
        let Some(life) = self.0.living().get(id).cloned() else { return };
        life.cut();
        let shared = self.0.clone();
        let runtime = life.runtime.clone();
        runtime.spawn(async move {
            const AGAIN: Duration = Duration::from_secs(1);
            while !shared.end(&life).await.is_ok_and(|residue| residue.is_empty()) {
                tokio::time::sleep(AGAIN).await;
            }
        });
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new(report::expected(&self.0.identity, &self.0.hierarchies))
            .with_host_folders()
            .with_egress_to_hosts()
            .with_egress_to_networks()
    }
}

impl Shared {
    fn living(&self) -> MutexGuard<'_, HashMap<SandboxId, Arc<Life>>> {
        // The map is whole after every statement that holds the lock.
        self.living.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn image(&self, name: &ImageName) -> Result<&[Mount]> {
        self.images.get(name).map(Vec::as_slice).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "create a sandbox")
                .because("the configuration names no such image")
                .with("image", name)
        })
    }

    /// Starts a sandbox's launcher, under an id that is not in use.
    fn begin(&self, id: &SandboxId, plan: &Plan<'_>) -> Result<Arc<Life>> {
        let mut living = self.living();
        if living.contains_key(id) || Ledger::anyone_has(&self.state, id) {
            return Err(Error::new(ErrorKind::Conflict, "create a sandbox")
                .because("there is one of this id already")
                .with("sandbox", id));
        }
        let life = Arc::new(launch::start(self, id, plan)?);
        living.insert(id.clone(), life.clone());
        Ok(life)
    }

    async fn end(&self, life: &Life) -> Result<Residue> {
        let residue = life.end().await?;
        if residue.is_empty() {
            self.living().remove(&life.id);
        }
        Ok(residue)
    }

    fn ledgers_of_the_dead(&self) -> Result<Vec<Ledger>> {
        Ledger::of_the_dead(&self.state).map_err(failure::host("read the books of sandboxes"))
    }

    /// Clears what a process that is gone has left of a sandbox.
    async fn clear_remains(&self, id: &SandboxId) -> Result<Residue> {
        let mut residue = Residue::default();
        let ledgers = self.ledgers_of_the_dead()?;
        let Some(remains) = ledgers.iter().find_map(|ledger| ledger.remains(id)) else {
            if Ledger::anyone_has(&self.state, id) {
                return Err(Error::new(ErrorKind::Unavailable, "destroy a sandbox")
                    .because("another process owns it, or clears it right now")
                    .with("sandbox", id));
            }
            return Ok(residue);
        };
        for process in remains.living() {
            sys::kill(process.as_fd());
            residue.processes += usize::from(!life::dies(&process, self.patience.kernel).await);
            // One that a dropped backend of this process has left is this process's child.
            sys::reap(process.as_fd());
        }
        residue.cgroups = life::clear(&remains.groups, self.patience).await;
        residue.processes += if residue.cgroups > 0 { remains.groups.processes() } else { 0 };
        if residue.is_empty() && !remains.strike() {
            residue.files = 1;
        }
        Ok(residue)
    }
}
