//! Sandboxes out of this machine's own kernel: namespaces, control groups, and a root file system in memory.
//!
//! Nothing has to be installed, and no daemon runs. Every sandbox has user, mount, process, network, IPC, host
//! name and control group namespaces of its own; its root is the image with memory over it. Inside, process 1 is a program of this crate (see `init/`); the job's programs run as another
//! user, without capabilities and without a way to any.
//!
//! # What it protects from
//!
//! The job cannot see or signal processes of the host, reach a network, write to the host's files, or stay behind. What
//! it can do all the same stands on the [front page](crate#what-native-sandboxes-do-not-protect-from).
//!
//! # Images
//!
//! Whatever the kind of image, `/dev`, `/home`, `/proc`, `/run`, `/tmp` and `/work` are the sandbox's own, and what the
//! image has there, links that lead elsewhere included, is covered before anything is attached. The rest is shown
//! through overlays (overlayfs) whose upper layer is the sandbox's memory. They are mounted inside of the sandbox's user
//! namespace, by a root that has no power outside.
//!
//! | [`ImageSource`] | What is shown | Owners, as root | Who else sees changes on disk |
//! |---|---|---|---|
//! | `HostToolchain` | large folders as they are; small ones, files and links as they were when the backend was made | those of the machine, up to 65,535 | running sandboxes, in large folders |
//! | `Directory` | the folder as it is | those on disk, up to 65,535 | running sandboxes |
//! | `OciLayout`, `Archive` | what was unpacked, once, by the digest of the image's configuration | those of the image, up to 65,535 | nobody: the store is this backend's |
//!
//! | What holds | By what | Where not |
//! |---|---|---|
//! | Nobody's watches and locks meet on a file of the image | inodes of an overlay per sandbox | without `Guarantee::OwnImage`: before Linux 5.11, for a single file below the sandbox's own folders, and for an ordinary user whose image has something mounted below; there files are shown read-only as they are |
//! | What a job changes stays in memory, and only what owner and mode let it change | the overlay's upper layer; the job is user 1000 and never root | - |
//! | No file of an image brings privileges | `nosuid` and `nodev` on every mount, `no_new_privs`; set-user-id, devices and attributes are not unpacked | - |
//! | What is unpacked is what was published | every digest and size, of documents, layers and their content, before the image has its name | a `Directory` and the machine's own files are believed |
//! | An image unpacks nothing beside itself | openat2(2) with the image's root as `/`, nothing followed or written in place, bounds in [`Config`] | - |
//! | Half an image is none | a name by rename(2) after syncfs(2), locks with flock(2) | - |
//!
//! **Not** protected: an image is shared page cache. Which pages of it are in memory can be timed, and a bug of the kernel
//! that writes into the page cache of a file that was opened to read (CVE-2022-0847) changes it for all sandboxes that
//! show it, until the page is dropped; the calls that are known to lead there are filtered. Where that is too much, run
//! on a virtual machine, or make a store per tenant with [`Config::with_store`] and the image's files unpacked for each.
//!
//! Of an image's configuration its variables (`Env`, `PATH` above all) lie below those of a command. Its user, entry
//! point, command, working directory, volumes and ports are not used: a job runs as the sandbox's user, and says what
//! runs where.
//!
//! As an ordinary user, files that are unpacked belong to that user, and so to the job, whatever the image says; files
//! that only their owner may read are then readable for it, and all of the image can be changed, in memory.
//!
//! # As root and as an ordinary user
//!
//! As root every sandbox gets 65,536 ids that nothing else on the machine has, and memory that is never swapped
//! out. An ordinary user has one id to give: the job runs under it, and process 1 too. Which guarantees hold is
//! in [`Backend::capabilities`]; ask for what you need with
//! [`Spec::with_minimum`](ci_core::sandbox::Spec::with_minimum).
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
#[path = "../../init/files.rs"]
mod files;
mod identity;
mod image;
mod instance;
mod launch;
mod ledger;
mod life;
mod patience;
mod process;
mod proof;
mod report;
mod seccomp;
mod sys;
#[allow(dead_code, unused_imports)] // The init's half of it.
#[path = "../../init/tar/mod.rs"]
mod tar;
mod transfer;
#[allow(dead_code)] // The init's half of it.
#[path = "../../init/wire.rs"]
mod wire;

pub use config::{Config, ImageSource};

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
use self::image::{Bounds, Image, Resolver, Store};
use self::instance::NativeInstance;
use self::launch::Plan;
use self::ledger::Ledger;
use self::life::Life;
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
    images: BTreeMap<ImageName, Image>,
    store: Store,
    hostname: CString,
    filter: Vec<u8>,
    files: u64,
    open_files: u64,
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
        let Config { state, store, image_bytes, image_entries, images, hostname, files, open_files } = config;
        let is_hostname = (1..=64).contains(&hostname.len())
            && hostname.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte));
        let hostname = CString::new(hostname).ok().filter(|_| is_hostname).ok_or_else(|| {
            Error::new(ErrorKind::Invalid, OPERATION)
                .because("the host name must be 1 to 64 of A-Z a-z 0-9 - .")
        })?;
        let identity = Identity::detect()?;
        let ledger = Ledger::open(&state).map_err(|error| {
            Error::new(ErrorKind::Unavailable, OPERATION)
                .because("the state folder cannot be written")
                .detail(state.display().to_string())
                .caused_by(error)
                .permanent()
        })?;
        let store = store.unwrap_or_else(|| state.join("images"));
        let store = Store::open(&store).map_err(image::unusable_store)?;
        let resolver = Resolver {
            store: &store,
            range: identity == Identity::Range,
            bounds: Bounds { bytes: image_bytes, entries: image_entries },
            maps_layers: identity == Identity::Range && report::kernel_is_at_least(5, 19),
        };
        let images = images
            .into_iter()
            .map(|(name, source)| Ok((name, resolver.resolve(&source)?)))
            .collect::<Result<_>>()?;
        Ok(Self(Arc::new(Shared {
            images,
            store,
            hostname,
            filter: seccomp::filter(),
            files,
            open_files,
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

impl Native {
    /// Removes what was unpacked of images that no backend uses any more, of this process or another, and returns how
    /// many they were.
    ///
    /// A backend uses all images that its configuration names, for as long as a clone of it lives.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] when the store cannot be read or written; what was removed by then is removed.
    pub fn remove_unused_images(&self) -> Result<usize> {
        self.0.store.remove_unused().map(|removed| removed.len()).map_err(image::unusable_store)
    }
}

#[async_trait]
impl Backend for Native {
    async fn create(&self, id: &SandboxId, spec: &Spec) -> Result<Box<dyn Instance>> {
        let shared = &self.0;
        self.capabilities().require(spec)?;
        let plan = launch::plan(shared, id, spec)?;
        let life = shared.begin(id, &plan)?;
        let made = launch::finish(&life, &plan).await.and_then(|facts| {
            let isolation = report::of(facts, &shared.hierarchies);
            isolation.require(&spec.minimum)?;
            Ok(isolation)
        });
        match made {
            Ok(isolation) => {
                let is_grouped = shared.hierarchies.missing(Controller::Processes).is_none();
                let bound = u64::from(spec.limits.processes) + cgroup::PROCESS_ONE;
                let processes = if is_grouped { u64::MAX } else { bound };
                let environment = shared.image(&spec.image)?.environment.clone();
                Ok(Box::new(NativeInstance {
                    life,
                    isolation,
                    environment,
                    open_files: shared.open_files,
                    processes,
                }))
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
        let layered = self.0.images.values().all(Image::is_all_layers);
        let expected = report::expected(&self.0.identity, &self.0.hierarchies, layered);
        Capabilities::new(expected).with_host_folders()
    }
}

impl Shared {
    fn living(&self) -> MutexGuard<'_, HashMap<SandboxId, Arc<Life>>> {
        // The map is whole after every statement that holds the lock.
        self.living.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn image(&self, name: &ImageName) -> Result<&Image> {
        self.images.get(name).ok_or_else(|| {
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
