//! What all sandboxes of one backend share, and how they come and go.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use ci_core::id::{ImageName, SandboxId};
use ci_core::sandbox::{Instance, IsolationReport, Residue, Spec};
use ci_core::{Error, ErrorKind, Result};
use tokio::runtime::Handle;

use super::cgroup::{self, Controller, Hierarchies, disks};
use super::config::Config;
use super::identity::{Identity, Slots};
use super::image::{self, Bounds, Finder, Image, Store};
use super::instance::NativeInstance;
use super::launch::{self, Plan};
use super::ledger::{Ledger, Remains};
use super::life::{self, Life, SharedNetwork};
use super::lingering::Lingering;
use super::lock::lock;
use super::network::{self, Budget, Egress, Network, Routed};
use super::patience::Patience;
use super::pool::{Pool, Prepared};
use super::{failure, report, seccomp, sys};

/// How often books are looked at that another process has for the moment.
const LOOKS: u32 = 10;
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

/// What all sandboxes of one backend share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) state: PathBuf,
    /// What every sandbox will be like, as far as the machine shows it beforehand.
    pub(super) expected: IsolationReport,
    pub(super) images: BTreeMap<ImageName, Image>,
    pub(super) store: Store,
    pub(super) hostname: CString,
    pub(super) filter: Vec<u8>,
    pub(super) files: u64,
    pub(super) open_files: u64,
    pub(super) egress: Egress,
    pub(super) budget: Arc<Budget>,
    pub(super) identity: Identity,
    pub(super) slots: Slots,
    pub(super) routed: Option<Arc<Routed>>,
    pub(super) hierarchies: Hierarchies,
    pub(super) ledger: Ledger,
    pub(super) patience: Patience,
    /// The program of `init/`.
    pub(super) program: OwnedFd,
    pub(super) living: Mutex<HashMap<SandboxId, Arc<Life>>>,
    pub(super) lingering: Lingering,
    pub(super) pool: Pool,
}

impl Shared {
    /// Looks at the machine, opens the books and looks up the images, as [`Native::new`](super::Native::new) says.
    pub(super) fn new(config: Config, patience: Patience) -> Result<Arc<Self>> {
        const OPERATION: &str = "prepare native sandboxes";
        let Config {
            state,
            store,
            image_bytes,
            image_entries,
            images,
            hostname,
            routed,
            files,
            open_files,
            egress,
            warm,
        } = config;
        let is_hostname = (1..=64).contains(&hostname.len())
            && hostname.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte));
        let hostname = CString::new(hostname).ok().filter(|_| is_hostname).ok_or_else(|| {
            Error::new(ErrorKind::Invalid, OPERATION)
                .because("the host name must be 1 to 64 of A-Z a-z 0-9 - .")
        })?;
        let identity = Identity::detect()?;
        let is_root = identity == Identity::Range;
        let routed =
            routed.map(|routed| Routed::new(&routed, &egress.denied, is_root)).transpose()?.map(Arc::new);
        let ledger = Ledger::open(&state).map_err(|error| {
            Error::new(ErrorKind::Unavailable, OPERATION)
                .because("the state folder cannot be written")
                .detail(state.display().to_string())
                .caused_by(error)
                .permanent()
        })?;
        let store = store.unwrap_or_else(|| state.join("images"));
        let store = Store::open(&store).map_err(image::unusable_store)?;
        let finder = Finder {
            store: &store,
            range: is_root,
            bounds: Bounds { bytes: image_bytes, entries: image_entries },
            maps_layers: is_root && report::kernel_is_at_least(5, 19),
        };
        let images: BTreeMap<ImageName, Image> = images
            .into_iter()
            .map(|(name, source)| match finder.resolve(&source) {
                Ok(image) => Ok((name, image)),
                Err(error) => Err(error.with("image", name)),
            })
            .collect::<Result<_>>()?;
        let hierarchies = hierarchies(&images);
        let expected = report::expected(&identity, &hierarchies, images.values().all(Image::is_all_layers));
        let shared = Arc::new(Self {
            expected,
            images,
            store,
            hostname,
            filter: seccomp::filter(),
            files,
            open_files,
            budget: Budget::new(egress.descriptors),
            egress,
            identity,
            slots: Slots::new(),
            routed,
            hierarchies,
            ledger,
            patience,
            program: sys::init_program().map_err(failure::host(OPERATION))?,
            living: Mutex::default(),
            lingering: Lingering::default(),
            pool: Pool::new(warm),
            state,
        });
        for spec in shared.pool.specs() {
            shared.image(&spec.image)?;
            shared.expected.require(&spec.minimum)?;
        }
        if shared.pool.specs().next().is_some() {
            let runtime = Handle::try_current().map_err(|_| {
                Error::new(ErrorKind::Invalid, OPERATION)
                    .because("sandboxes are kept ready by tasks; make the backend within a tokio runtime")
            })?;
            shared.pool.keep_filled(&shared, &runtime);
        }
        Ok(shared)
    }

    pub(super) fn living(&self) -> MutexGuard<'_, HashMap<SandboxId, Arc<Life>>> {
        lock(&self.living)
    }

    pub(super) fn image(&self, name: &ImageName) -> Result<&Image> {
        self.images.get(name).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, failure::CREATE)
                .because("the configuration names no such image")
                .with("image", name)
        })
    }

    /// The living sandbox `id` as callers see it.
    pub(super) fn instance(
        &self,
        id: &SandboxId,
        spec: &Spec,
        isolation: IsolationReport,
    ) -> Result<Box<dyn Instance>> {
        let life = self.living().get(id).cloned().ok_or_else(|| failure::gone(failure::CREATE))?;
        let is_grouped = self.hierarchies.missing(Controller::Processes).is_none();
        let bound = u64::from(spec.limits.processes) + u64::from(cgroup::PROCESS_ONE);
        let processes = if is_grouped { u64::MAX } else { bound };
        let environment = self.image(&spec.image)?.environment.clone();
        let open_files = self.open_files;
        Ok(Box::new(NativeInstance { life, isolation, environment, open_files, processes }))
    }

    /// Makes a sandbox, in a network of its own or in another's. It is then among the living, or taken down again where
    /// it is not as `spec` asks.
    pub(super) async fn make(
        &self,
        id: &SandboxId,
        spec: &Spec,
        joined: Option<SharedNetwork>,
    ) -> Result<IsolationReport> {
        let network = match joined {
            Some(_) => None,
            None => network::Plan::of(&spec.network, &self.egress, &self.hostname, &self.budget)?,
        };
        let sockets = network.as_ref().map(network::Plan::sockets).unwrap_or_default();
        let plan = launch::plan(self, id, spec, sockets, joined)?;
        let life = self.begin(id, &plan)?;
        let made = launch::finish(&life, &plan).await.and_then(|ready| {
            let isolation = report::of(ready.facts, &self.hierarchies);
            isolation.require(&spec.minimum)?;
            if let Some(network) = network {
                let network = Network::start(network, ready.sockets, &life.runtime);
                let _ = life.network.set(network.map_err(failure::host(failure::CREATE))?);
            }
            Ok(isolation)
        });
        if made.is_err() {
            // What remains of it then is found by `leftovers`.
            let _ = self.end(id, &life).await;
        }
        made
    }

    /// Starts a sandbox's launcher, under an id that is not in use.
    pub(super) fn begin(&self, id: &SandboxId, plan: &Plan<'_>) -> Result<Arc<Life>> {
        let mut living = self.living();
        self.require_unused(id, &living)?;
        let life = Arc::new(launch::start(self, id, plan)?);
        living.insert(id.clone(), life.clone());
        Ok(life)
    }

    fn require_unused(&self, id: &SandboxId, living: &HashMap<SandboxId, Arc<Life>>) -> Result<()> {
        if living.contains_key(id) || Ledger::anyone_has(&self.state, id) {
            return Err(Error::new(ErrorKind::Conflict, failure::CREATE)
                .because("there is one of this id already")
                .with("sandbox", id));
        }
        Ok(())
    }

    /// Gives the id to a sandbox that is ready, if one is.
    pub(super) fn take_prepared(
        self: &Arc<Self>,
        id: &SandboxId,
        spec: &Spec,
    ) -> Result<Option<IsolationReport>> {
        while let Some(Prepared { id: own, isolation }) = self.pool.take(spec) {
            match self.rename(&own, id) {
                Ok(true) => return Ok(Some(isolation)),
                // It has died, of a machine that ran out of memory for instance.
                Ok(false) => self.abandon(&own),
                Err(error) => {
                    self.abandon(&own);
                    return Err(error);
                }
            }
        }
        Ok(None)
    }

    /// Gives another id to a living sandbox. False when it does not live any more.
    fn rename(&self, own: &SandboxId, id: &SandboxId) -> Result<bool> {
        let mut living = self.living();
        self.require_unused(id, &living)?;
        let Some(life) = living.get_mut(own).and_then(Arc::get_mut).filter(|life| life.is_alive()) else {
            return Ok(false);
        };
        life.entry.rename(id).map_err(failure::host(failure::CREATE))?;
        let life = living.remove(own);
        living.extend(life.map(|life| (id.clone(), life)));
        Ok(true)
    }

    pub(super) async fn destroy(&self, id: &SandboxId) -> Result<Residue> {
        let life = self.living().get(id).cloned();
        if let Some(life) = life {
            return self.end(id, &life).await;
        }
        let residue = self.lingering.gone(id, self.patience.namespaces).await;
        if residue.is_empty() { self.clear_remains(id).await } else { Ok(residue) }
    }

    async fn end(&self, id: &SandboxId, life: &Life) -> Result<Residue> {
        let residue = life.end().await.map_err(|error| error.with("sandbox", id))?;
        if residue.is_empty() {
            if let Some(dead) = life.release() {
                self.lingering.add(id, dead);
            }
            // By now another may have the id.
            self.living().retain(|one, living| one != id || !std::ptr::eq(&raw const **living, life));
        }
        Ok(residue)
    }

    pub(super) fn abandon(self: &Arc<Self>, id: &SandboxId) {
        let Some(life) = self.living().get(id).cloned() else { return };
        life.cut();
        let (shared, id) = (self.clone(), id.clone());
        let runtime = life.runtime.clone();
        runtime.spawn(async move {
            const AGAIN: Duration = Duration::from_secs(1);
            while !shared.end(&id, &life).await.is_ok_and(|residue| residue.is_empty()) {
                tokio::time::sleep(AGAIN).await;
            }
        });
    }

    pub(super) async fn leftovers(&self) -> Result<Vec<SandboxId>> {
        let mut ids = self.lingering.overdue(self.patience.namespaces);
        for look in 1..=LOOKS {
            for ledger in self.ledgers_of_the_dead()? {
                ids.extend(ledger.ids().map_err(failure::host("list leftover sandboxes"))?);
            }
            if !ids.is_empty() || look == LOOKS || !self.ledger.others_live() {
                break;
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
        Ok(ids)
    }

    fn ledgers_of_the_dead(&self) -> Result<Vec<Ledger>> {
        Ledger::of_the_dead(&self.state).map_err(failure::host("read the books of sandboxes"))
    }

    /// What a process that is gone has left of a sandbox, with its books, which are ours for as long as they are held.
    async fn find_remains(&self, id: &SandboxId) -> Result<Option<(Vec<Ledger>, Remains)>> {
        // Whoever clears another sandbox of the same owner has all of the owner's books for that time.
        for look in 1..=LOOKS {
            let books = self.ledgers_of_the_dead()?;
            if let Some(remains) = books.iter().find_map(|ledger| ledger.remains(id)) {
                return Ok(Some((books, remains)));
            }
            if !Ledger::anyone_has(&self.state, id) {
                return Ok(None);
            }
            drop(books);
            if look < LOOKS {
                tokio::time::sleep(BETWEEN_LOOKS).await;
            }
        }
        Err(Error::new(ErrorKind::Unavailable, "destroy a sandbox")
            .because("another process owns it, or clears it right now")
            .with("sandbox", id))
    }

    /// Clears what a process that is gone has left of a sandbox.
    async fn clear_remains(&self, id: &SandboxId) -> Result<Residue> {
        let mut residue = Residue::default();
        let Some((_books, remains)) = self.find_remains(id).await? else { return Ok(residue) };
        remains.groups.kill();
        for process in remains.living() {
            sys::kill(process.as_fd());
            residue.processes += usize::from(!life::dies(&process, self.patience.kernel).await);
            // One that a dropped backend of this process has left is this process's child.
            sys::reap(process.as_fd());
        }
        for device in &remains.links {
            residue.links += usize::from(!network::clear(device, self.patience.launcher).await);
        }
        residue.cgroups = life::clear(&remains.groups, self.patience).await;
        residue.processes += if residue.cgroups > 0 { remains.groups.processes() } else { 0 };
        if residue.is_empty() && !remains.page.strike() {
            residue.files = 1;
        }
        Ok(residue)
    }
}

/// What holds limits for sandboxes that show these images.
fn hierarchies(images: &BTreeMap<ImageName, Image>) -> Hierarchies {
    let mut found = Hierarchies::detect();
    let sources = images.values().flat_map(|image| &image.mounts).map(|mount| mount.source.as_slice());
    let elsewhere = sources.map(OsStr::from_bytes).find_map(|source| disks::hold(Path::new(source)).err());
    if let Some(why) = elsewhere.filter(|_| found.missing(Controller::DiskRate).is_none()) {
        found.give_up(Controller::DiskRate, why);
    }
    found
}
