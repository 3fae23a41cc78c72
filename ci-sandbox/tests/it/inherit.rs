//! What the program that embeds the SDK is and holds, and its sandboxes must not get from it.

use std::fs;
use std::time::Duration;

use crate::support::{Rig, eventually, is_root, itself, skip_here};

#[test]
fn no_crash_of_a_job_is_written_down() {
    holds_with(&shell("ulimit -S -c $(ulimit -H -c)"), "inherit::core_dumps_on");
}

/// Not a test of its own: whoever embeds the SDK wants to see its own crashes.
#[tokio::test]
#[ignore = "run by another test"]
async fn core_dumps_on() {
    if rustix::process::getrlimit(rustix::process::Resource::Core).current == Some(0) {
        return skip_here("core-dumps", "the machine allows no core dump");
    }
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    let limits = sandbox.output("grep 'core file size' /proc/self/limits").await;
    // Zero would stop files, but no program of the host's that collects crashes.
    assert_eq!(limits.split_whitespace().skip(4).collect::<Vec<_>>(), ["1", "1", "bytes"]);
    sandbox.destroy().await;
}

#[test]
fn a_job_goes_first_when_memory_runs_out() {
    holds_with(&[""; 0], "inherit::spared");
}

/// Not a test of its own: whoever embeds the SDK is spared, as far as it may.
#[tokio::test]
#[ignore = "run by another test"]
async fn spared() {
    // Without the power over resources, root's included, the other direction is all there is.
    fs::write("/proc/self/oom_score_adj", "-500")
        .or_else(|_| fs::write("/proc/self/oom_score_adj", "500"))
        .unwrap();
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    assert_eq!(sandbox.output("cat /proc/self/oom_score_adj").await, "500");
    // Without the power over resources, what the job can choose ends where it does for every program.
    assert!(!sandbox.run("echo -1 > /proc/self/oom_score_adj").await.exit.status.is_success());
    sandbox.destroy().await;
}

#[test]
fn signals_have_their_effect_on_a_job() {
    holds_with(&shell("trap '' INT QUIT TERM"), "inherit::signals_ignored");
}

/// Not a test of its own: a service that a shell has started in the background, say.
#[tokio::test]
#[ignore = "run by another test"]
async fn signals_ignored() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    let ignored = sandbox.output("grep -E '^Sig(Ign|Blk)' /proc/self/status").await;
    assert_eq!(ignored, "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000");
    sandbox.destroy().await;
}

#[test]
fn a_job_has_no_keys_of_the_program() {
    // keyctl(KEYCTL_JOIN_SESSION_KEYRING, name)
    let number = if cfg!(target_arch = "x86_64") { 250 } else { 219 };
    let join = format!("$name = '{KEYRING}'; syscall({number}, 1, $name) > 0 or die $!; exec @ARGV");
    holds_with(&["perl", "-e", &join], "inherit::with_a_keyring");
}

const KEYRING: &str = "ci-sandbox-test";

/// Not a test of its own: whoever embeds the SDK keeps keys in the kernel.
#[tokio::test]
#[ignore = "run by another test"]
async fn with_a_keyring() {
    let rig = Rig::new();
    let before = holders();
    let sandbox = rig.sandbox().await;
    let programs: Vec<_> = futures_util::future::join_all((0..20).map(|_| sandbox.start("sleep 1000"))).await;
    // The launcher is one. Those of processes that are gone take the kernel a moment.
    let is_alone = eventually(Duration::from_secs(20), || holders() < before + 10);
    assert!(is_alone, "the programs have the keyring: {before} holders, then {}", holders());
    drop(programs);
    sandbox.destroy().await;
}

/// How many hold the keyring, by the column of `/proc/keys` that counts them (keyrings(7)).
fn holders() -> usize {
    let keys = fs::read_to_string("/proc/keys").unwrap();
    let keyring = keys.lines().find(|line| line.contains(KEYRING)).unwrap();
    keyring.split_whitespace().nth(2).unwrap().parse().unwrap()
}

#[test]
fn no_process_of_a_sandbox_has_files_of_the_program() {
    holds_with(&shell("exec 9< /dev/zero"), "inherit::with_an_open_file");
}

/// Not a test of its own: whoever embeds the SDK has a library that forgets to close its files on exec.
#[tokio::test]
#[ignore = "run by another test"]
async fn with_an_open_file() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    // The last is the folder that `ls` reads. Whoever has started it has put its own files in order.
    assert_eq!(sandbox.output("ls /proc/self/fd").await, "0\n1\n2\n3");
    let [launcher, init] = rig.processes(&sandbox.id);
    let soon = Duration::from_secs(20);
    // Three streams, and the two things that it waits for. On version 1 of control groups it watches their memory too.
    let watches_memory = is_root() && fs::read_to_string("/proc/self/cgroup").unwrap().contains(":memory:");
    let expected = if watches_memory { 7 } else { 5 };
    assert!(eventually(soon, || files(launcher).len() == expected), "{:?}", files(launcher));
    // It closes what belongs to `ls` only after it has told of its end.
    let is_tidy = || files(init) == ["0", "1", "2", "3", "4", "5", "6"];
    assert!(!is_root() || eventually(soon, is_tidy), "{:?}", files(init));
    sandbox.destroy().await;
}

fn files(pid: i32) -> Vec<String> {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let mut names: Vec<_> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A shell that does something to itself before it becomes another program.
fn shell(script: &str) -> Vec<String> {
    ["sh", "-c", &format!("{script}; exec \"$@\""), "sh"].map(str::to_owned).to_vec()
}

/// Runs one of the tests above in a process that `wrapper` has prepared.
fn holds_with(wrapper: &[impl AsRef<str>], test: &str) {
    let wrapper: Vec<_> = wrapper.iter().map(AsRef::as_ref).collect();
    assert!(itself(&wrapper, test).status().unwrap().success(), "{test}");
}
