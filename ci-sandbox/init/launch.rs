//! The launcher: on the host, it makes the namespaces around the init, watches both ends, and kills.

use core::ffi::CStr;
use core::iter;

use crate::alarm::Alarm;
use crate::devices;
use crate::failure::{At, Failure};
use crate::init::{self, Inherited};
use crate::limits;
use crate::mem::Pages;
use crate::mounts::{self, Configuring};
use crate::packets;
use crate::sys::{self, CWD, Fd, O_WRONLY, Poll, Raw};
use crate::task;
use crate::text::{Digits, Line};
use crate::wire::{CONFIG_LIMIT, Configuration, MOST_SOCKETS, Reader, Report, Stage, fact, mount};

/// To the supervisor: its configuration comes in, reports go out, its end means death.
const LIFELINE: Raw = Raw(0);
/// From the supervisor to the init.
pub(crate) const CONTROL: Raw = Raw(1);

/// The most paths that can be attached to a sandbox's root.
pub(crate) const MOST_MOUNTS: usize = 256;

/// The mounts that were prepared outside, by their place in the configuration.
pub(crate) type Binds = [Option<Fd>; MOST_MOUNTS];

/// Everything from the configuration to the sandbox's death.
pub(crate) fn run() -> ! {
    // Whatever the program that embeds the SDK leaked into its children ends here.
    sys::close_from(3);
    task::default_signals();
    match launch() {
        Ok((pidfd, alarm)) => watch(&pidfd, alarm.as_ref()),
        Err(failure) => {
            let _ = packets::send(LIFELINE, &failure.report().encode(), iter::empty());
            task::exit(1)
        }
    }
}

fn launch() -> Result<(Fd, Option<Alarm>), Failure> {
    task::block_signals(0).at(Stage::Configuration)?;
    sys::change_directory(c"/").at(Stage::Configuration)?;
    let mut packet = Pages::zeroed(CONFIG_LIMIT).at(Stage::Configuration)?;
    let mut files = [const { None }; packets::MOST_FILES];
    let length = packets::receive(LIFELINE, packet.bytes(), &mut files).at(Stage::Configuration)?;
    let malformed = Failure::malformed(Stage::Configuration);
    let configuration = Configuration::decode(&packet.bytes()[..length]).ok_or(malformed)?;
    if configuration.mounts.count as usize > MOST_MOUNTS
        || configuration.sockets.count as usize > MOST_SOCKETS
    {
        return Err(malformed);
    }
    task::forbid_core_dumps().at(Stage::Limits)?;
    limits::take_no_precedence().at(Stage::Limits)?;

    let mut facts = 0;
    let mut binds = [const { None }; MOST_MOUNTS];
    let (mut memory_files, mut own_devices) = (None, None);
    if configuration.range {
        facts |= fact::ID_RANGE;
        memory_files = Some(make_memory_files(&configuration, &mut facts)?);
        own_devices = devices::make().at(Stage::Devices)?;
        open_binds(&configuration, &mut binds)?;
    }
    let mut namespaces = task::NEW_NS | task::NEW_PID | task::NEW_IPC | task::NEW_UTS;
    if configuration.makes_users() {
        namespaces |= task::NEW_USER;
    }
    match files {
        [Some(network), ..] if configuration.joins => {
            join(&configuration, &network).at(Stage::JoinNetwork)?;
        }
        _ if configuration.joins => return Err(malformed),
        _ => namespaces |= task::NEW_NET,
    }
    let (go, hold) = sys::pipe().at(Stage::Clone)?;
    // The kernel charges what a user namespace uses up, inotify instances and pending signals for instance, to
    // whoever made it too: for the moment that is the sandbox's own root, and not the host's.
    let owner =
        configuration.owner.to_bytes().iter().fold(0, |id, digit| id * 10 + usize::from(digit - b'0'));
    if configuration.range {
        task::act_as(owner).at(Stage::Clone)?;
    }
    let cloned = task::clone_into(namespaces).at(Stage::Clone)?;
    let Some((pid, pidfd)) = cloned else {
        drop(hold);
        init::run(&configuration, Inherited { memory_files, own_devices, binds, launcher: go, facts })
    };
    drop(go);
    if configuration.range {
        task::act_as(0).at(Stage::Clone)?;
    }
    let process = ProcessPaths::new(pid);
    prepare(&configuration, &process, &binds, &mut facts)?;
    let alarm = match configuration.watched {
        nothing if nothing.is_empty() => None,
        group => Some(Alarm::set(group).at(Stage::WatchMemory)?),
    };
    let launched = Report::Launched { pid, facts };
    let processes = process.namespace(b"ns/pid").at(Stage::Clone)?;
    let network = process.namespace(b"ns/net").at(Stage::Clone)?;
    let files = [*pidfd, *processes, *network];
    packets::send(LIFELINE, &launched.encode(), files.into_iter()).at(Stage::Clone)?;
    // The byte says go. The pipe stays open for life: its end tells the init that the launcher is gone.
    sys::write_all(*hold, &[1]).at(Stage::Clone)?;
    core::mem::forget(hold);
    Ok((pidfd, alarm))
}

impl Configuration<'_> {
    /// Whether the sandbox has a user namespace of its own. An ordinary user can enter another network only together with
    /// the user namespace that owns it, inside of which no further one can be made.
    fn makes_users(&self) -> bool {
        self.range || !self.joins
    }
}

fn join(configuration: &Configuration<'_>, network: &Fd) -> sys::Result<()> {
    if !configuration.makes_users() {
        task::enter(*sys::owner_of(**network)?, task::NEW_USER)?;
    }
    task::enter(**network, task::NEW_NET)
}

/// The tmpfs is made here, outside of the user namespace, for only here it can be kept from being swapped out.
fn make_memory_files(configuration: &Configuration<'_>, facts: &mut u32) -> Result<Fd, Failure> {
    let mut make = || {
        let files = Configuring::open(c"tmpfs")?;
        let owner = configuration.owner;
        for (key, value) in [
            (c"size", configuration.size),
            (c"nr_inodes", configuration.inodes),
            (c"mode", c"0755"),
            (c"uid", owner),
            (c"gid", owner),
        ] {
            files.set(key, value)?;
        }
        // Linux 6.4 and later.
        if files.flag(c"noswap").is_ok() {
            *facts |= fact::NOSWAP;
        }
        files.mount(mounts::NOSUID | mounts::NODEV)
    };
    make().at(Stage::MemoryFiles)
}

/// Opens the sources of all binds. As root this is done on the host, for the sandbox's own root may not enter
/// the folders that lead to them.
pub(crate) fn open_binds(configuration: &Configuration<'_>, binds: &mut Binds) -> Result<(), Failure> {
    let mut records = configuration.mounts.records;
    for (item, place) in (0..configuration.mounts.count).zip(binds) {
        let (kind, source, _) = mount_record(&mut records)?;
        // What is mounted below a layer is a layer of its own. To an ordinary user the kernel does not give one
        // without the other.
        let is_layer = configuration.range && matches!(kind, mount::LAYER | mount::LAYER_MAPPED);
        let open = if is_layer { mounts::clone_mount } else { mounts::clone_tree };
        *place = Some(open_bind(source, open).at_item(Stage::OpenBind, item)?);
    }
    Ok(())
}

/// A read-only mount of what lies at `source`, attached nowhere yet.
fn open_bind(source: &CStr, open: impl Fn(Raw, &CStr) -> sys::Result<Fd>) -> sys::Result<Fd> {
    let bind = open(CWD, source)?;
    mounts::detach_from_peers(*bind)?;
    mounts::restrict(*bind, mounts::RDONLY | mounts::NOSUID | mounts::NODEV)?;
    Ok(bind)
}

/// One record of the configuration's mounts: kind, source, target.
pub(crate) fn mount_record<'a>(records: &mut Reader<'a>) -> Result<(u32, &'a CStr, &'a CStr), Failure> {
    let read = |records: &mut Reader<'a>| Some((records.u32()?, records.text()?, records.text()?));
    read(records).ok_or(Failure::malformed(Stage::Configuration))
}

/// What must hold before the init may take its first step.
fn prepare(
    configuration: &Configuration<'_>,
    process: &ProcessPaths,
    binds: &Binds,
    facts: &mut u32,
) -> Result<(), Failure> {
    if configuration.makes_users() {
        map_ids(configuration, process).at(Stage::MapIds)?;
    }
    // The job is the first to go when memory runs out, whatever was set for the program that embeds the SDK, and before
    // any other that has less than half of the machine's: of what it takes, some is counted for no process (what waits in
    // its sockets, its files). Set from here, by a root with power over resources, it also holds: the kernel remembers the
    // value as the lowest that the job can choose.
    let _ = process.write(b"oom_score_adj", b"500");

    let mut groups = configuration.groups.records;
    for item in 0..configuration.groups.count {
        let group = groups.text().ok_or(Failure::malformed(Stage::Configuration))?;
        write_file(group, process.digits()).at_item(Stage::JoinGroup, item)?;
    }
    map_binds(configuration, process, binds, facts)
}

fn map_ids(configuration: &Configuration<'_>, process: &ProcessPaths) -> sys::Result<()> {
    if !configuration.range {
        // An ordinary user may map its own group only after it has given up changing groups (user_namespaces(7)).
        process.write(b"setgroups", b"deny")?;
    }
    process.write(b"uid_map", configuration.uid_map.to_bytes())?;
    process.write(b"gid_map", configuration.gid_map.to_bytes())
}

fn map_binds(
    configuration: &Configuration<'_>,
    process: &ProcessPaths,
    binds: &Binds,
    facts: &mut u32,
) -> Result<(), Failure> {
    let mut records = configuration.mounts.records;
    for (item, bind) in (0..configuration.mounts.count).zip(binds) {
        let (kind, ..) = mount_record(&mut records)?;
        let Some(bind) = bind else { continue };
        let namespace = match kind {
            mount::LAYER_MAPPED => process.namespace(b"ns/user"),
            mount::BIND_MAPPED => owner_to_job(bind, configuration.job),
            _ => continue,
        };
        // Not every file system can.
        if mounts::map_owners(**bind, *namespace.at_item(Stage::OpenBind, item)?).is_err() {
            *facts |= fact::PLAIN_BIND;
        }
    }
    Ok(())
}

/// A user namespace, without a process, in which the owner of `bind` is the job's user: what the owner alone
/// may read, the job can then read too, and nothing else of the host's.
fn owner_to_job(bind: &Fd, job: &CStr) -> sys::Result<Fd> {
    let stat = sys::stat(**bind, c"")?;
    let launcher = task::own_number();
    let Some((pid, pidfd)) = task::clone_into(task::NEW_USER)? else {
        // It only has to exist, and to be gone should the launcher be: also should it have died in between.
        if task::die_with_parent().is_err() || task::parents_number() != launcher {
            task::exit(1);
        }
        loop {
            sys::poll(&mut []);
        }
    };
    let process = ProcessPaths::new(pid);
    let namespace = process
        .write(b"uid_map", Line::new([Digits::of(stat.uid).get(), job.to_bytes(), b"1"]).get())
        .and_then(|()| {
            process.write(b"gid_map", Line::new([Digits::of(stat.gid).get(), job.to_bytes(), b"1"]).get())
        })
        .and_then(|()| process.namespace(b"ns/user"));
    task::signal_by_fd(*pidfd, task::SIGKILL)?;
    task::wait_by_fd(*pidfd);
    namespace
}

fn write_file(path: &CStr, content: &[u8]) -> sys::Result<()> {
    let file = sys::open(CWD, path, O_WRONLY, 0)?;
    sys::write_all(*file, content)
}

/// Waits for the first end there is, and leaves nothing behind it.
fn watch(pidfd: &Fd, alarm: Option<&Alarm>) -> ! {
    /// What the kernel passes over.
    const NOTHING: Raw = Raw(-1);
    // Only the init may hold these: its death must be seen at the other ends.
    let _ = sys::duplicate(Raw(2), CONTROL.0);
    loop {
        let mut polls = [LIFELINE, **pidfd, alarm.map_or(NOTHING, Alarm::event)].map(Poll::readable);
        sys::poll(&mut polls);
        let [lifeline, init, ringing] = polls;
        let is_out_of_memory = ringing.is_ready() && alarm.is_some_and(Alarm::is_serious);
        // Anything from the supervisor means the same, be it a word or its end.
        if lifeline.is_ready() || is_out_of_memory {
            let _ = task::signal_by_fd(**pidfd, task::SIGKILL);
            break;
        }
        if init.is_ready() {
            break;
        }
    }
    // When process 1 of a namespace has been reaped, no process is left in it (pid_namespaces(7)).
    if let Some((_, ended)) = task::wait_by_fd(**pidfd) {
        let _ = packets::send(LIFELINE, &Report::Ended(ended).encode(), iter::empty());
    }
    task::exit(0)
}

/// The files of a process below `/proc`.
struct ProcessPaths(Digits);

impl ProcessPaths {
    fn new(pid: u32) -> Self {
        Self(Digits::of(pid))
    }

    fn digits(&self) -> &[u8] {
        self.0.get()
    }

    fn write(&self, name: &[u8], content: &[u8]) -> sys::Result<()> {
        write_file(self.path(name).as_c_str(), content)
    }

    fn namespace(&self, name: &[u8]) -> sys::Result<Fd> {
        sys::open(CWD, self.path(name).as_c_str(), 0, 0)
    }

    fn path(&self, name: &[u8]) -> Line {
        Line::of([b"/proc/", self.digits(), b"/", name])
    }
}
