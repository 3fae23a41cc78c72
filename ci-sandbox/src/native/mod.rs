//! Sandboxes out of this machine's own kernel: namespaces, control groups, and a root file system in memory.
//!
//! Nothing has to be installed, and no daemon runs. Every sandbox has user, mount, process, network, IPC, host name and
//! control group namespaces of its own; its root is the image with memory over it, and where the kernel has Landlock, a
//! second rule refuses devices and processes outside. Inside, process 1 is a program of this crate (see `init/`); the
//! job's programs run as another user, without capabilities and without a way to any.
//!
//! # What it protects from
//!
//! The job cannot see or signal processes of the host, reach a network past its rules, write to the host's files, or stay
//! behind. What it can do all the same stands on the [front page](crate#what-native-sandboxes-do-not-protect-from).
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
//! A copy of the image for every sandbox is not made: it would take the image's size in memory, and a second for every two
//! gigabytes. Nor are files compared after a job: what is wrong with a page has been used by others by then.
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
//! As root every sandbox gets 65,536 ids that nothing else on the machine has, and memory that is never swapped out.
//! Its devices are made for it, where this program may do so (`CAP_MKNOD`). An ordinary user has one id to give: the
//! job runs under it, and process 1 too; and its sandboxes show the machine's own devices, so that who locks or watches
//! `/dev/null` is seen by all that do. Which guarantees hold is in [`Backend::capabilities`]; ask for what you need
//! with [`Spec::with_minimum`](ci_core::sandbox::Spec::with_minimum).
//!
//! # What holds a limit
//!
//! **Held** is what the job cannot get past; the rest is in the report as missing, with the reason. Control groups are
//! those of version 1, version 2 or both at once, whichever has the controller. *Delegated* is an ordinary user's
//! control group of version 2 that the service manager handed over (systemd: `Delegate=yes` and
//! `DelegateSubgroup=supervisor`); under root on version 2 the same is needed, unless the program is in the root group.
//!
//! | Limit | By | root, version 1 | root, version 2 | user, delegated | user, not delegated |
//! |---|---|---|---|---|---|
//! | memory | memory group | held | held | held | no: see below |
//! | no swap | a tmpfs that is never swapped (Linux 6.4, root), memory group of version 2; else swap that is off | where swap is off | held | where swap is off | where swap is off |
//! | running out of it ends all | launcher (1), `memory.oom.group` (2) | held | held | held | no |
//! | socket buffers | memory group (2), an eighth beside it (1) | held | held | held | no |
//! | processes | pids group, else `RLIMIT_NPROC` per user namespace | held | held | held | held |
//! | processor time | quota of the cpu group | held | held | held | no |
//! | weight, processors | shares of the cpu group | held | held | held | no |
//! | weight, disks | blkio or io group, where a disk's scheduler is `bfq` or the cost model is on | held | held | held | no |
//! | reading from disks, bytes and operations per second | `blkio.throttle` (1), `io.max` (2) of the blkio or io group, on every disk | held | held | held | no |
//! | disk (files in memory) | size and inodes of the tmpfs | held | held | held | held |
//! | open files, core dumps | rlimits | held | held | held | held |
//! | priority, real time | given up before the job starts, rlimits | held | held | held | held |
//! | timers, message queues, locked memory, inotify | rlimits and counts of the user namespace | users of its own | users of its own | a part of the user's | a part of the user's |
//! | output, time | the runner | held | held | held | held |
//!
//! Without a memory group there is no bound on memory at all. One per process (`RLIMIT_AS`, `RLIMIT_DATA`) would hold
//! nothing in sum, and would break programs that reserve more than they use: address sanitizers, virtual machines of
//! languages. Files in memory are bounded all the same.
//!
//! What the kernel counts per user of the host and has no bound for a namespace, sandboxes of an ordinary user share:
//! memory in pipes, descriptors on their way through sockets, watches of `epoll(7)`. Under root they do not.
//!
//! Reading is all that a job does to disks, its image's files above all, as far as they are not in memory: what it writes
//! lies in memory and is not swapped out (`Guarantee::MemoryOnly`). So there are no bounds on writing to disks. Those on
//! reading are for each disk, and take images on file systems that lie on disks of this machine (not ZFS, nor one of the
//! network, whose reading the kernel does on behalf of nobody); a job that asks for one that cannot be held is refused.
//!
//! Not held anywhere: bandwidth of memory and caches, and shares of disks whose scheduler does not know groups; what
//! waits unread in netlink sockets, some 200 KiB for each, which the kernel counts for no group (when the machine's
//! memory runs out, jobs are ended first); and the machine's one bound on translated packet filters
//! (`net.core.bpf_jit_limit`), to which filters of jobs' sockets count: where it is used up, and the kernel does not
//! interpret them instead, no sandbox is made. A job can run on all processors that its control groups allow, also
//! where the program that started it was bound to some by `taskset`: use a cpuset for that.
//!
//! # What a program has
//!
//! Pipes, or on request a terminal: it is made in the sandbox, in a file system that holds its own terminals alone (64 of
//! them), and the end that steers it is open nowhere but in this process. Output waits in the kernel until it is read, at
//! most 512 KiB of a pipe and some KiB of a terminal, and then the program waits. A secret as a file lies in
//! `/run/secrets`, in a folder of its program that process 1 removes before the program's exit is reported.
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
//! [`Instance::network`]. A program that goes neither way, by the address of an allowed network past the proxy say, finds
//! no network at all, and what it tried is not in there: where such programs have to work, add a [`RoutedNetwork`]. Then
//! what went by the proxy and what went past it are two entries.
//!
//! One sandbox has at most 128 connections at once (more wait), begins 100 per second after the first 256, and asks 500
//! names per second after the first 1,000; a connection on which nothing moves on the sandbox's side for 15 to 30
//! minutes is closed, and one that does not say what it wants after 30 seconds. Each connection takes two of this
//! program's descriptors, each port of a host one. All sandboxes together take at most half of what the program may
//! have ([`Egress::descriptors`]). Of these, room for eight connections is each one's own from the start, so that none
//! can take what another needs; beyond, half of all is shared, of which each has at most as much as is free beside it.
//! What finds no room for two seconds is answered with status 503, the general failure of SOCKS or a reset, and counted
//! as refused; a sandbox for which there is no room is not made. Allow 600 per sandbox with a network for none of it to
//! happen (`RLIMIT_NOFILE`, `LimitNOFILE=` of systemd). Together, the hosts of its rules have at most 237 ports. All
//! connections end with the sandbox. A job cannot listen on *all* addresses at a port above 1023 that a rule names for
//! a host; on `127.0.0.1` it can.
//!
//! ## What a proxy cannot see
//!
//! Inside of TLS the client names the host that it wants by itself. Where an allowed host serves others too (a CDN, a cloud's
//! storage), a job can reach those through it (domain fronting), and what an allowed host passes on or stores for others goes
//! wherever it goes. Rules for hosts that anybody can write to, a package registry say, are rules for carrying data out. How
//! often and when a job connects is seen by whoever is connected to.
//!
//! # Kernels
//!
//! The tests of this crate run on these, as root and as an ordinary user; others should do, and what one lacks is in the
//! [`IsolationReport`].
//!
//! | Linux | Control groups | What it lacks |
//! |---|---|---|
//! | 6.18 | both versions | nothing |
//! | 6.1 (Debian 12) | version 2 alone | `noswap`: memory is kept from disks only while swap is off. Handles on namespaces: that nobody holds one is not proven. Of Landlock the rules about steering devices, signals and abstract sockets. Tables of rules that outlive whoever removes all rules |
//!
//! All of this is `x86_64`. The numbers and the convention of system calls of `aarch64` are written down too, but nothing
//! of it has been linked or run.
//!
//! # Ready before anybody asks
//!
//! With [`Config::with_warm`] sandboxes of a kind are made in the background and handed out as they are asked for, in a
//! tenth of the time. Each is as fresh as any other: nothing has run in it, and it is used once.
//!
//! # Services
//!
//! A sandbox made beside another ([`Backend::create_beside`]) is in the other's network, with its rules, and shares
//! nothing else with it: neither files nor processes, memory, limits or users. An ordinary user's two sandboxes have one
//! user namespace, for the one id that there is.
//!
//! # How it ends
//!
//! A launcher outside of the sandbox waits for the end of a socket, its lifeline. Whether [`Backend::destroy`]
//! was called, the value was dropped, or the whole program was killed with SIGKILL: the kernel closes the
//! socket, the launcher kills process 1, and the kernel kills everything else inside. The books and control
//! groups of a killed program are found by the next one through [`Backend::leftovers`].
//!
//! The proof: process 1 has been waited for, after which the kernel has no other process of its namespace; every control
//! group could be removed, which takes that no process is in it (without control groups, all processes of the machine are
//! looked through); and the firewall lets nothing of it through. That nobody else holds a namespace is seen later, by file
//! handles that go stale (root, Linux 6.18), and so is the end of a network card: the kernel takes up to fifty milliseconds
//! for it, two seconds after it has killed for want of memory, and nobody waits. Call [`Backend::destroy`] again to wait for
//! it. Until then the books name the card, and its addresses are nobody else's. What is still there after five seconds makes
//! the sandbox a leftover.

mod answers;
mod cgroup;
mod channel;
mod config;
mod failure;
#[path = "../../init/files.rs"]
mod files;
mod folder;
mod identity;
mod image;
mod input;
mod instance;
mod launch;
mod ledger;
mod life;
mod lingering;
mod lock;
mod namespaces;
mod network;
mod output;
mod patience;
mod pool;
mod process;
mod proof;
mod report;
mod seccomp;
mod shared;
mod sys;
#[allow(dead_code, unused_imports)] // The init's half of it.
#[path = "../../init/tar/mod.rs"]
mod tar;
mod terminal;
mod transfer;
#[allow(dead_code)] // The init's half of it.
#[path = "../../init/wire/mod.rs"]
mod wire;

pub use config::{Config, ImageSource};
pub use network::{Egress, Resolver, RoutedNetwork, SystemResolver};

use std::sync::Arc;

use async_trait::async_trait;
use ci_core::Result;
use ci_core::id::SandboxId;
use ci_core::sandbox::{Backend, Capabilities, Instance, Residue, Spec};
#[cfg(doc)]
use ci_core::{ErrorKind, sandbox::IsolationReport};

use self::patience::Patience;
use self::pool::Prepared;
use self::shared::Shared;

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

impl Native {
    /// Looks at the machine, opens the books and looks up the images.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] when this process can make no sandboxes, or not those to keep ready;
    /// [`ErrorKind::NotFound`] when those name an image that is not configured; [`ErrorKind::Invalid`] when the host
    /// name is none, or sandboxes are to be kept ready and this is no `tokio` runtime; [`ErrorKind::Unavailable`] when
    /// the state folder or an image cannot be used.
    pub fn new(config: Config) -> Result<Self> {
        Ok(Self(Shared::new(config, Patience::default())?))
    }

    /// How many sandboxes are ready ([`Config::with_warm`]).
    pub fn ready(&self) -> usize {
        self.0.pool.ready()
    }

    /// Takes down the sandboxes that are kept ready ([`Config::with_warm`]), and makes no more of them. Call it before the
    /// program ends; without it they end with the program, and what they leave in the books is cleared at the next start.
    pub async fn drain(&self) {
        for Prepared { id, .. } in self.0.pool.close() {
            // What is left of it then is found by `leftovers`.
            let _ = self.0.destroy(&id).await;
        }
        self.0.pool.settled().await;
    }

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
        let isolation = match shared.take_prepared(id, spec)? {
            Some(isolation) => isolation,
            None => shared.make(id, spec, None).await?,
        };
        shared.instance(id, spec, isolation)
    }

    async fn create_beside(
        &self,
        id: &SandboxId,
        spec: &Spec,
        other: &SandboxId,
    ) -> Result<Box<dyn Instance>> {
        let shared = &self.0;
        self.capabilities().require(spec)?;
        let network = shared.living().get(other).and_then(|job| job.network_namespace());
        let network = network.ok_or_else(|| failure::gone("create a sandbox beside another"))?;
        let isolation = shared.make(id, spec, Some(network)).await?;
        shared.instance(id, spec, isolation)
    }

    async fn destroy(&self, id: &SandboxId) -> Result<Residue> {
        self.0.destroy(id).await
    }

    async fn leftovers(&self) -> Result<Vec<SandboxId>> {
        self.0.leftovers().await
    }

    fn abandon(&self, id: &SandboxId) {
        self.0.abandon(id);
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new(self.0.expected.clone())
            .with_host_folders()
            .with_services()
            .with_egress_to_hosts()
            .with_egress_to_networks()
    }
}
