//! The kit's teeth: backends that are sound but for one hole, each of which the right cases must find, and no others.
#![cfg(target_arch = "x86_64")]

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use ci_core::conformance::skip;
use ci_core::id::ImageName;
use ci_core::sandbox::{Backend, Guarantee};
use ci_sandbox::conformance::attack::{ATTACKS, Attack};
use ci_sandbox::conformance::{Assessment, Bench, Outcome, assess_by};

use crate::support::{image, is_root, itself};
use crate::weak::Weak;

#[derive(Debug)]
struct OnWeak(Weak);

impl Bench for OnWeak {
    fn backend(&self) -> Arc<dyn Backend> {
        Arc::new(self.0.clone())
    }

    fn image(&self) -> ImageName {
        image()
    }

    fn folders(&self) -> Vec<PathBuf> {
        vec![self.0.folder()]
    }
}

/// Cases that start hundreds of programs, which takes a backend of shells and scripts long.
const LONG: [&str; 4] = ["p_14_very_short", "f_17_race", "r_03_slow_reader", "r_07_many_programs"];

/// What the kit says of a backend with this hole; nothing where none can be made.
async fn assessed(test: &str, hole: &'static str, declared: &[Guarantee]) -> Option<Assessment> {
    let has = |program: &str| Command::new(program).arg("--version").output().is_ok();
    if !is_root() || !has("bwrap") || !has("perl") {
        skip(test, "bwrap", "a weak backend is made of bwrap and perl, by root");
        return None;
    }
    let weak = Weak::new(hole, declared);
    let isolation = weak.capabilities().isolation;
    // Not those about what it does not say it has, and not those that are long and about nothing that is weak here.
    let is_declared =
        |attack: &Attack| attack.guarantees.iter().all(|guarantee| isolation.held.contains(guarantee));
    let attacks = ATTACKS.iter().filter(|attack| is_declared(attack) && !LONG.contains(&attack.case));
    Some(assess_by(Arc::new(OnWeak(weak)), attacks).await)
}

/// The cases that found a hole, and what they say of it.
fn found(assessment: &Assessment) -> (BTreeSet<&'static str>, String) {
    let cases = assessment.holes().map(|finding| finding.attack.case).collect();
    let said = assessment.holes().map(|finding| match &finding.outcome {
        Ok(Outcome::Broken(how)) => format!("{}: {how}\n", finding.attack.case),
        other => format!("{}: {other:?}\n", finding.attack.case),
    });
    (cases, said.collect())
}

/// Checks that exactly `cases` find the hole, and that they say what it is.
async fn finds(
    test: &str,
    hole: &'static str,
    declared: &[Guarantee],
    cases: &[&'static str],
    words: &[&str],
) {
    let Some(assessment) = assessed(test, hole, declared).await else { return };
    let (found, said) = found(&assessment);
    assert_eq!(found, cases.iter().copied().collect(), "{hole}\n{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in\n{said}");
    }
}

/// Checks that at least `cases` find the hole, which is as large as the kernel makes it, and that what others find is
/// about the same guarantees.
async fn finds_among(
    test: &str,
    hole: &'static str,
    declared: &[Guarantee],
    about: &[Guarantee],
    cases: &[&str],
) {
    let Some(assessment) = assessed(test, hole, declared).await else { return };
    let (found, said) = found(&assessment);
    for case in cases {
        assert!(found.contains(case), "{hole}: {case} does not find it:\n{said}");
    }
    for finding in assessment.holes() {
        let guarantees = finding.attack.guarantees;
        assert!(guarantees.iter().any(|guarantee| about.contains(guarantee)), "{hole}: {finding:?}\n{said}");
    }
}

/// One test per hole that is found by exactly these cases.
macro_rules! exactly {
    ($($test:ident: $hole:literal, [$($guarantee:ident)*], [$($case:literal),*], [$($word:literal),*];)+) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                finds(stringify!($test), $hole, &[$(Guarantee::$guarantee),*], &[$($case),*], &[$($word),*]).await;
            }
        )+
    };
}

exactly! {
    a_sound_backend_has_none: "", [], [], [];
    an_inherited_descriptor: "inherited descriptor", [],
        ["f_01_inherited_descriptors"], ["use the open descriptor"];
    a_shared_folder: "shared folder", [],
        ["f_20_residue", "k_03_shared_folders"], ["f_20_residue: it could: leave ", "share /tmp with another sandbox"];
    a_writable_image: "writable image", [],
        ["k_02_image"], ["change /etc/ssl/certs of other sandboxes"];
    variables_of_the_supervisor: "environment", [],
        ["e_02_names_of_the_machine"], ["read the variable"];
    no_bound_on_processes: "no bound", [ProcessLimit],
        ["p_01_fork_bomb"], ["where 100 are allowed"];
    no_bound_on_the_disk: "no bound", [DiskLimit],
        ["f_13_fill_the_disk"], ["where 8 are allowed"];
    no_bound_on_processors: "no bound", [CpuLimit],
        ["r_04_processor"], ["of processor time"];
    careless_waiting: "careless waiting", [],
        ["p_10_traced_and_stopped"], ["a program that lives was taken for ended"];
    crashes_that_are_written_down: "core dumps", [],
        ["f_11_core_dump"], ["have crashes written down"];
    a_proc_that_tells: "telling proc", [],
        ["e_02_names_of_the_machine", "f_10_tales_of_the_machine"], ["read /proc/cmdline"];
    a_sandbox_that_dies_with_a_thread: "dies with a thread", [],
        ["p_12_maker_thread_ends"], ["a program in it ended"];
    archives_unpacked_from_outside: "unpacks outside", [],
        ["f_17_hostile_archives", "f_17_links_in_the_way"], ["change a file of the machine"];
}

/// Who survives besides the daemon is a matter of who was quicker.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn survivors() {
    let about_ends = ["p_02_daemon", "p_04_stopped", "p_05_fork_and_die_race", "p_06_parked", "f_20_residue"];
    let Some(assessment) = assessed("survivors", "survivors", &[]).await else { return };
    let (found, said) = found(&assessment);
    assert!(found.contains("p_02_daemon") && said.contains("live on"), "{said}");
    assert!(found.iter().all(|case| about_ends.contains(case)), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_filter_of_calls() {
    use Guarantee as G;
    let mut cases = vec!["s_05_namespaces", "s_07_other_doors", "s_12_personality"];
    // Where nobody can type into a terminal any more (Linux 6.2), no filter is needed for it.
    if fs::read_to_string("/proc/sys/dev/tty/legacy_tiocsti").is_ok_and(|switch| switch.trim() == "1") {
        cases.extend(["s_02_terminal", "s_02_given_terminal"]);
    }
    finds_among("no_filter_of_calls", "no filter", &[], &[G::SyscallFilter, G::Firewalled], &cases).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_bound_on_memory() {
    use Guarantee as G;
    let cases = ["f_14_memory_anonymous", "f_14_memory_files", "f_14_memory_memfd", "f_14_memory_shared"];
    finds_among("no_bound_on_memory", "no bound", &[G::MemoryLimit], &[G::MemoryLimit], &cases).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn privileges_that_were_kept() {
    use Guarantee as G;
    let cases = ["p_15_setuid", "p_17_jump_the_queue", "s_13_host_name"];
    let about = [G::NoPrivileges, G::SeparateInit, G::Namespaces];
    finds_among("privileges_that_were_kept", "privileges", &[], &about, &cases).await;
}

/// Whether the machine's own process 1 buries orphans in time is not the kit's to find.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_machines_processes() {
    let cases = [
        "e_01_secret_of_another_program",
        "e_04_secret_of_another_sandbox",
        "k_01_namespaces",
        "p_08_kill_everything",
        "s_03_processes_outside",
    ];
    let Some(assessment) = assessed("the_machines_processes", "host processes", &[]).await else { return };
    let (mut found, said) = found(&assessment);
    found.remove("p_07_zombies");
    assert_eq!(found, cases.into(), "{said}");
    for word in
        ["the machine's own pid namespace", "could signal the machine's processes", "see a process outside"]
    {
        assert!(said.contains(word), "{word:?} is not in\n{said}");
    }
}

/// In a network of its own, with a metadata service in it: what gets out reaches nobody.
#[test]
fn the_machines_network() {
    if !is_root() {
        return skip("the_machines_network", "root", "it takes root to make a network");
    }
    let network = "ip link set lo up && ip address add 169.254.169.254/32 dev lo && \
        ip link add out type veth peer name far && ip address add 192.0.2.9/24 dev out && \
        ip link set out up && ip link set far up && exec \"$@\"";
    let wrapper = ["unshare", "--net", "sh", "-c", network, "sh"];
    let output = itself(&wrapper, "holes::the_machines_network_inside").output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
}

/// Not a test of its own: what runs in that network.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by another test"]
async fn the_machines_network_inside() {
    let cases = [
        "k_01_namespaces",
        "n_01_loopback_alone",
        "n_02_sibling",
        "n_03_abstract_names",
        "n_03_host",
        "n_04_metadata",
        "n_08_inbound",
    ];
    let words = ["use the network device out", "find a route to 192.0.2.1", "reach 169.254.169.254/80"];
    finds("the_machines_network", "host network", &[], &cases, &words).await;
}
