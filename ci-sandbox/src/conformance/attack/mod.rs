//! What hostile code does, one case per attack.
//!
//! | Letter | What is attacked |
//! |---|---|
//! | P | processes and how long they live |
//! | F | files, mounts, devices |
//! | S | the kernel, by its calls |
//! | N | the network |
//! | R | what reads the output, and what shares the machine |
//! | E | secrets, and what names the machine |
//! | K | a guard of the sandbox, looked at directly |

mod files;
mod images;
mod network;
mod process;
mod resources;
mod routed;
mod secrets;
mod stage;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use ci_core::Result;
use ci_core::conformance::skip;
use ci_core::sandbox::{Guarantee, IsolationReport};

pub(crate) use self::network::port_of;
pub(crate) use self::secrets::{claim, lease};
pub(crate) use self::stage::Stage;
use super::Bench;

/// What came of an attack.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// It was stopped, and by what.
    Held(String),
    /// It worked, and what it could do.
    Broken(String),
    /// It cannot be tried here, and why not.
    Untried(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held(how) => write!(f, "held: {how}"),
            Self::Broken(how) => write!(f, "BROKEN: {how}"),
            Self::Untried(why) => write!(f, "untried: {why}"),
        }
    }
}

/// What an attack on a build platform is about, where SLSA demands that it fail: the requirements of Build L3 that are a
/// sandbox's (<https://slsa.dev/spec/v1.1/requirements>, "Isolated" and "Provenance is unforgeable").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Requirement {
    /// A build cannot read the platform's secrets, the key that signs provenance among them.
    PlatformSecrets,
    /// Builds that overlap in time cannot influence each other.
    OverlappingBuilds,
    /// A build cannot influence those that come after it.
    SubsequentBuilds,
    /// Nothing outside can influence a build while it runs.
    RemoteInfluence,
}

/// One way to get out, or to get at what is another's.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Attack {
    /// Its identifier.
    pub id: &'static str,
    /// The case of the kit.
    pub case: &'static str,
    /// What it tries, in a few words.
    pub about: &'static str,
    /// The guarantees that together promise that it fails. Without any, every sandbox promises it.
    pub guarantees: &'static [Guarantee],
    /// What of SLSA's requirements it would break.
    pub breaks: Option<Requirement>,
    run: Run,
}

impl fmt::Debug for Attack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attack").field("id", &self.id).field("case", &self.case).finish_non_exhaustive()
    }
}

/// How an attack is tried.
#[derive(Clone, Copy)]
enum Run {
    /// By the program alone, with these words.
    Program(&'static [&'static str]),
    /// With something around it.
    Scene(for<'a> fn(&'a Stage) -> Scene<'a>),
}

type Scene<'a> = Pin<Box<dyn Future<Output = Result<Outcome>> + Send + 'a>>;

impl Attack {
    /// The guarantee that it needs and that `isolation` does not hold, and why.
    pub(crate) fn undeclared(&self, isolation: &IsolationReport) -> Option<(Guarantee, String)> {
        let missing = self.guarantees.iter().find(|guarantee| !isolation.held.contains(guarantee))?;
        let why = isolation.missing.get(missing).cloned();
        Some((*missing, why.unwrap_or_else(|| "the backend does not say why".to_owned())))
    }

    /// Tries it: an outcome, or an error when it could not be tried to its end.
    pub(crate) async fn attempt(&self, stage: &Stage) -> Result<Outcome> {
        match self.run {
            Run::Program(words) => stage.guest().await?.attack(words).await,
            Run::Scene(scene) => scene(stage).await,
        }
    }
}

/// Tries the attack of a case, and demands that it fails.
async fn demand(case: &str, bench: Arc<dyn Bench>) {
    let attack = ATTACKS.iter().find(|attack| attack.case == case).expect("the case is declared");
    let isolation = bench.backend().capabilities().isolation;
    if let Some((guarantee, why)) = attack.undeclared(&isolation) {
        return skip(case, "guarantee", &format!("{guarantee:?} is not declared: {why}"));
    }
    let mut stage = Stage::new(bench);
    let outcome = attack.attempt(&stage).await;
    stage.clear().await.expect("the sandbox can be taken down");
    match outcome {
        Ok(Outcome::Held(_)) => {}
        Ok(Outcome::Broken(how)) => panic!("{} ({}): {how}", attack.id, attack.about),
        Ok(Outcome::Untried(why)) => {
            skip(case, "attack", &format!("{} ({}): {why}", attack.id, attack.about));
        }
        Err(error) => panic!("{} ({}): {error}: {}", attack.id, attack.about, error.for_operator()),
    }
}

macro_rules! run {
    (program $($word:literal)+) => { Run::Program(&[$($word),+]) };
    (scene $scene:path) => { Run::Scene(|stage| Box::pin($scene(stage))) };
}

macro_rules! breaks {
    () => {
        None
    };
    ($requirement:ident) => {
        Some(Requirement::$requirement)
    };
}

/// Declares the attacks: the list, one case for each, and the kit.
macro_rules! attacks {
    ($($case:ident: $id:literal, $about:literal, [$($guarantee:ident)*], [$($requirement:ident)?],
        $kind:ident $run:tt;)+) => {
        /// Every attack that is known here.
        pub const ATTACKS: &[Attack] = &[$(Attack {
            id: $id,
            case: stringify!($case),
            about: $about,
            guarantees: &[$(Guarantee::$guarantee),*],
            breaks: breaks!($($requirement)?),
            run: attacks!(@run $kind $run),
        }),+];

        $(
            #[doc(hidden)]
            pub async fn $case(bench: Arc<dyn Bench>) {
                demand(stringify!($case), bench).await;
            }
        )+

        ci_core::declare_kit! {
            /// Runs every attack, against a closure that makes a [`Bench`](crate::conformance::Bench) in an `Arc`.
            sandbox_attack_kit for ::ci_sandbox::conformance::attack { $($case),+ }
        }
    };
    (@run program [$($word:literal)+]) => { run!(program $($word)+) };
    (@run scene [$scene:path]) => { run!(scene $scene) };
}

attacks! {
    p_01_fork_bomb: "P-1", "start more processes than are allowed",
        [ProcessLimit], [OverlappingBuilds], scene [process::fork_bomb];
    p_02_daemon: "P-2", "outlive the sandbox as a daemon",
        [], [SubsequentBuilds], scene [process::daemon];
    p_03_deaf_to_signals: "P-3", "ignore and block every signal",
        [], [], scene [process::deaf];
    p_04_stopped: "P-4", "stop oneself, and everybody else",
        [], [], scene [process::stopped];
    p_05_fork_and_die_race: "P-5", "start and die faster than a killer goes through the list",
        [], [SubsequentBuilds], scene [process::race];
    p_06_parked: "P-6", "wait in a way that only SIGKILL ends",
        [], [], scene [process::parked];
    p_07_zombies: "P-7", "fill the process table with corpses",
        [], [], program ["P-7"];
    p_08_kill_everything: "P-8", "signal every process that can be signalled",
        [Namespaces], [OverlappingBuilds], scene [process::kill_everything];
    p_09_ptrace_of_process_one: "P-9", "trace process 1",
        [SeparateInit], [], program ["P-9"];
    p_09_a_traced_process_one_wedges_nothing: "P-9", "trace process 1, end, and leave it stopped",
        [], [], scene [process::wedge];
    p_10_traced_and_stopped: "P-10", "look dead while being traced and stopped",
        [], [], scene [process::traced];
    p_11_supervisor_killed: "P-11", "outlive the program that made the sandbox",
        [], [SubsequentBuilds], scene [process::supervisor_killed];
    p_12_maker_thread_ends: "P-12", "die, or live on, with the thread that made the sandbox",
        [], [], scene [process::maker_thread_ends];
    p_14_very_short: "P-14", "end before anybody waits, a thousand times",
        [], [], scene [process::very_short];
    p_15_setuid: "P-15", "gain privileges by setuid programs and file capabilities",
        [NoPrivileges], [PlatformSecrets], program ["P-15"];
    p_17_jump_the_queue: "P-17", "go before everybody else on processors and disks",
        [NoPrivileges], [OverlappingBuilds], program ["P-17"];
    p_18_starve_a_sibling_of_processes: "P-18", "use up the processes of another sandbox",
        [ProcessLimit], [OverlappingBuilds], scene [process::starve_processes];
    p_19_signal_after_the_end: "P-19", "be another's process under a number that was used before",
        [], [], scene [process::signal_after_the_end];

    f_01_inherited_descriptors: "F-1", "use descriptors that were left open (CVE-2024-21626)",
        [], [PlatformSecrets], program ["F-1"];
    f_02_overwrite_the_supervisor: "F-2", "overwrite the supervising program (CVE-2019-5736)",
        [SeparateInit], [PlatformSecrets], program ["F-2"];
    f_03_hostile_images: "F-3", "be an image whose links, names and devices lead outside (CVE-2019-19921)",
        [], [PlatformSecrets], scene [images::hostile];
    f_05_devices_are_devices: "F-5", "be shown something else as a device (CVE-2025-31133)",
        [], [], program ["F-5"];
    f_06_proc_is_proc: "F-6", "have writes to /proc go elsewhere (CVE-2025-52881)",
        [], [], program ["F-6"];
    f_07_mounts: "F-7", "change mounts and the root",
        [NoPrivileges], [PlatformSecrets], program ["F-7"];
    f_08_uncover_proc: "F-8", "uncover /proc in a user namespace",
        [NoPrivileges], [PlatformSecrets], program ["F-8"];
    f_09_devices: "F-9", "make and open devices",
        [NoPrivileges], [PlatformSecrets], program ["F-9"];
    f_10_switches: "F-10", "turn the kernel's switches in /proc and /sys",
        [Namespaces NoPrivileges], [OverlappingBuilds], program ["F-10"];
    f_10_tales_of_the_machine: "F-10", "read what /proc and /sys tell of the machine",
        [Namespaces], [PlatformSecrets], program ["F-10-read"];
    f_11_core_dump: "F-11", "have a crash written down",
        [], [PlatformSecrets], program ["F-11"];
    f_12_control_groups: "F-12", "write to control groups (CVE-2022-0492)",
        [NoPrivileges], [OverlappingBuilds], program ["F-12"];
    f_13_fill_the_disk: "F-13", "write more than is allowed",
        [DiskLimit], [OverlappingBuilds], scene [resources::fill_the_disk];
    f_14_memory_anonymous: "F-14", "hold more memory than is allowed: its own",
        [MemoryLimit], [OverlappingBuilds], scene [resources::anonymous];
    f_14_memory_files: "F-14", "hold more memory than is allowed: files",
        [MemoryLimit], [OverlappingBuilds], scene [resources::files];
    f_14_memory_shared: "F-14", "hold more memory than is allowed: /dev/shm",
        [MemoryLimit], [OverlappingBuilds], scene [resources::shared];
    f_14_memory_memfd: "F-14", "hold more memory than is allowed: memory files",
        [MemoryLimit], [OverlappingBuilds], scene [resources::memory_files];
    f_14_memory_system_v: "F-14", "hold more memory than is allowed: System V segments",
        [MemoryLimit], [OverlappingBuilds], scene [resources::segments];
    f_14_memory_pipes: "F-14", "hold more memory than is allowed: pipes",
        [MemoryLimit], [OverlappingBuilds], scene [resources::pipes];
    f_14_memory_sockets: "F-14", "hold more memory than is allowed: sockets",
        [MemoryLimit], [OverlappingBuilds], scene [resources::sockets];
    f_14_memory_page_tables: "F-14", "hold more memory than is allowed: page tables",
        [MemoryLimit], [OverlappingBuilds], scene [resources::page_tables];
    f_15_deep_and_many: "F-15", "leave a tree that nobody can clear by hand",
        [], [SubsequentBuilds], scene [files::deep_and_many];
    f_16_hostile_download: "F-16", "have a download lead outside, wait, or never end",
        [], [PlatformSecrets], scene [files::hostile_download];
    f_17_hostile_archives: "F-17", "have an archive unpacked outside of its folder",
        [], [PlatformSecrets], scene [files::hostile_archives];
    f_17_links_in_the_way: "F-17", "have an upload follow links of the job",
        [], [PlatformSecrets], scene [files::links_in_the_way];
    f_17_race: "F-17", "swap a folder for a link while something is uploaded",
        [], [PlatformSecrets], scene [files::race];
    f_18_page_cache: "F-18", "write into files that can only be read (CVE-2026-31431)",
        [SyscallFilter], [SubsequentBuilds], program ["F-18"];
    f_19_memory_alone: "F-19", "have what it writes reach a disk",
        [MemoryOnly], [SubsequentBuilds], program ["F-19"];
    f_20_residue: "F-20", "leave something behind",
        [], [SubsequentBuilds], scene [files::residue];
    f_21_starve_a_sibling_of_watches: "F-21", "use up the watches of another sandbox",
        [MappedIds], [OverlappingBuilds], scene [resources::starve_watches];

    s_01_keys: "S-1", "use the kernel's keys",
        [SyscallFilter], [PlatformSecrets], program ["S-1"];
    s_02_terminal: "S-2", "type into a terminal (CVE-2017-5226)",
        [SyscallFilter], [OverlappingBuilds], program ["S-2"];
    s_02_given_terminal: "S-2", "type into the terminal that it was given",
        [SyscallFilter], [OverlappingBuilds], scene [resources::given_terminal];
    s_02_terminal_of_the_supervisor: "S-2", "have the supervisor's terminal for its own",
        [], [PlatformSecrets], program ["S-2-supervisor"];
    s_03_processes_outside: "S-3", "read and signal processes outside",
        [Namespaces], [PlatformSecrets], scene [secrets::processes_outside];
    s_04_messages: "S-4", "find messages and shared memory of another sandbox",
        [Namespaces], [OverlappingBuilds], scene [secrets::messages];
    s_05_namespaces: "S-5", "make namespaces",
        [SyscallFilter], [], program ["S-5"];
    s_06_administration: "S-6", "administer the machine",
        [NoPrivileges SyscallFilter], [PlatformSecrets], program ["S-6"];
    s_07_other_doors: "S-7", "enter the kernel as 32-bit and x32 programs do",
        [SyscallFilter], [], program ["S-7"];
    s_08_unknown_calls: "S-8", "ask for calls that nobody knows",
        [], [], program ["S-8"];
    s_09_confine_further: "S-9", "confine itself further, which must work",
        [], [], program ["S-9"];
    s_10_hypervisor: "S-10", "speak to the hypervisor",
        [Firewalled], [RemoteInfluence], program ["S-10"];
    s_11_odd_sockets: "S-11", "open sockets below the rules",
        [Firewalled NoPrivileges], [RemoteInfluence], program ["S-11"];
    s_12_personality: "S-12", "switch the kernel's defences off",
        [SyscallFilter], [], program ["S-12"];
    s_13_host_name: "S-13", "rename the machine",
        [NoPrivileges], [OverlappingBuilds], program ["S-13"];
    s_14_clock: "S-14", "turn the machine's clock",
        [NoPrivileges], [OverlappingBuilds], program ["S-14"];
    s_15_dodge_the_killer: "S-15", "have others killed when memory runs out",
        [NoPrivileges], [OverlappingBuilds], program ["S-15"];

    n_01_loopback_alone: "N-1", "find a network device or a route",
        [Firewalled], [RemoteInfluence], scene [network::devices_and_routes];
    n_02_sibling: "N-2", "reach a listener in another sandbox",
        [Firewalled], [OverlappingBuilds], scene [network::sibling];
    n_03_host: "N-3", "reach listeners of the machine",
        [Firewalled], [PlatformSecrets], scene [network::host];
    n_03_abstract_names: "N-3", "reach abstract UNIX sockets outside (CVE-2020-15257)",
        [Firewalled], [PlatformSecrets], scene [network::abstract_names];
    n_04_metadata: "N-4", "reach a cloud's metadata service, however it is spelled",
        [Firewalled], [PlatformSecrets], scene [network::metadata];
    n_04_beside_the_rules: "N-4", "reach, where rules allow somebody, those whom they do not",
        [Firewalled], [PlatformSecrets], scene [routed::beside_the_rules];
    n_05_name_tunnel: "N-5", "send data out as names that are looked up",
        [Firewalled], [RemoteInfluence], scene [routed::tunnel];
    n_06_forged_packets: "N-6", "send packets that lie about where they come from",
        [Firewalled], [OverlappingBuilds], scene [routed::forged];
    n_07_surviving_flow: "N-7", "leave a connection that outlives it",
        [Firewalled], [SubsequentBuilds], scene [routed::surviving_flow];
    n_08_inbound: "N-8", "be reached from outside",
        [Firewalled], [RemoteInfluence], scene [network::inbound];
    n_09_exhaustion: "N-9", "use up another's connections",
        [Firewalled], [OverlappingBuilds], scene [routed::exhaustion];
    n_10_before_the_rules: "N-10", "connect before there are rules, and leave some behind",
        [Firewalled], [SubsequentBuilds], scene [routed::before_the_rules];
    n_11_inherited_address: "N-11", "receive what was sent to the one before",
        [Firewalled], [SubsequentBuilds], scene [routed::inherited_address];

    r_01_flood: "R-1", "write without end",
        [], [OverlappingBuilds], scene [resources::flood];
    r_02_held_output: "R-2", "end while another process keeps the output",
        [], [], scene [resources::held_output];
    r_02_closed_output: "R-2", "close the output and go on",
        [], [], scene [resources::closed_output];
    r_03_slow_reader: "R-3", "lose output to a slow reader",
        [], [], scene [resources::slow_reader];
    r_04_processor: "R-4", "use more processors than are allowed",
        [CpuLimit], [OverlappingBuilds], scene [resources::processor];
    r_04_hidden_work: "R-4", "use processors without its being counted",
        [], [], scene [resources::hidden_work];
    r_05_forged_frames: "R-5", "forge frames and ends in the output",
        [], [], scene [resources::forged_frames];
    r_06_sockets_in_sight: "R-6", "find a socket of the supervisor or an engine",
        [Namespaces], [PlatformSecrets], program ["R-6"];
    r_07_many_programs: "R-7", "run a hundred programs at once",
        [], [], scene [resources::many_programs];

    e_01_secret_of_another_program: "E-1", "find a secret that another program was given",
        [], [PlatformSecrets], scene [secrets::of_another_program];
    e_02_names_of_the_machine: "E-2", "read what names the machine, and its variables",
        [Namespaces], [PlatformSecrets], scene [secrets::names_of_the_machine];
    e_03_secret_file: "E-3", "find a secret that another program was given as a file",
        [], [PlatformSecrets], scene [secrets::in_a_file];
    e_04_secret_of_another_sandbox: "E-4", "find a secret of another sandbox, and of one that is gone",
        [], [OverlappingBuilds], scene [secrets::of_another_sandbox];
    e_05_randomness: "E-5", "have the same random numbers as another sandbox",
        [], [OverlappingBuilds], scene [secrets::randomness];

    k_01_namespaces: "K-1", "be in the machine's own namespaces",
        [Namespaces], [OverlappingBuilds], scene [secrets::namespaces];
    k_02_image: "K-2", "change the image",
        [], [SubsequentBuilds], scene [files::change_the_image];
    k_03_shared_folders: "K-3", "find files of another sandbox",
        [], [OverlappingBuilds], scene [files::shared_folders];
    k_04_service_beside: "K-4", "share more with a service than its network",
        [], [OverlappingBuilds], scene [secrets::beside];
}
