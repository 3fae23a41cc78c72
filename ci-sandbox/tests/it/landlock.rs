//! The second rule against devices and processes outside: what it says, and that it holds where the kernel has it.

#[path = "../../init/rights.rs"]
mod rights;

use ci_core::conformance::skip;
use ci_core::sandbox::{Backend as _, Guarantee};

use crate::support::{Rig, Sandbox};
use rights::{HANDLED, MAKE_DEVICE, REFER, RULES, granted, known};

#[test]
fn no_rule_grants_what_is_not_handled_and_none_a_device() {
    for (path, allowed) in RULES {
        assert_eq!(allowed & !HANDLED, 0, "{path:?}");
        assert_eq!(allowed & MAKE_DEVICE, 0, "{path:?}");
    }
    // Reading, executing and writing are none of them.
    assert_eq!(HANDLED & 0b1111, 0);
}

#[test]
fn an_older_kernel_is_asked_for_what_it_knows() {
    // How many rights and scopes each version of the interface knows.
    let newest_rights = [(2, 13), (3, 13), (4, 13), (5, 15), (6, 15), (7, 15)];
    for (version, newest) in newest_rights {
        let (handled, scoped) = known(version).unwrap();
        assert_eq!(handled.ilog2(), newest, "{version}");
        assert_eq!(handled | REFER, handled, "moving files is what `known` refuses the first version for");
        assert_eq!(scoped, if version >= 6 { 3 } else { 0 }, "{version}");
        // Before the fifth it knows nothing of terminals, and refuses a rule that allows nothing.
        let folders: Vec<_> = granted(handled).map(|(path, _)| path).collect();
        assert_eq!(folders, if version >= 5 { vec![c"/", c"/dev"] } else { vec![c"/"] }, "{version}");
    }
    assert_eq!((known(0), known(1)), (None, None));
}

/// A sandbox, if this machine's kernel has Landlock.
async fn restricted(test: &str) -> Option<(Rig, Sandbox)> {
    let rig = Rig::new();
    if let Some(why) = rig.native.capabilities().isolation.missing.get(&Guarantee::Landlock) {
        skip(test, "landlock", why);
        return None;
    }
    let sandbox = rig.sandbox().await;
    assert!(sandbox.instance.isolation().held.contains(&Guarantee::Landlock));
    Some((rig, sandbox))
}

#[tokio::test]
async fn what_it_says_of_itself_is_so() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    let expected = rig.native.capabilities().isolation;
    let found = sandbox.instance.isolation();
    assert_eq!(found.held.contains(&Guarantee::Landlock), expected.held.contains(&Guarantee::Landlock));
    assert_eq!(found.missing.get(&Guarantee::Landlock), expected.missing.get(&Guarantee::Landlock));
    sandbox.destroy().await;
}

#[tokio::test]
async fn a_job_steers_its_terminals_and_no_device_elsewhere() {
    let Some((_rig, sandbox)) = restricted("landlock::a_job_steers_its_terminals").await else { return };
    for allowed in [
        "cd /work && mkdir -p a/b && echo x > a/b/c && mv a/b/c /tmp/c && mv /tmp/c a/d && ln a/d a/b/e && rm -r a",
        "echo x > /var/tmp/x && echo x >> /var/tmp/x && truncate -s 0 /var/tmp/x",
        "echo x > /dev/shm/x && echo x > /dev/null && mkfifo /tmp/pipe && rm /tmp/pipe",
        "echo renamed > /proc/self/comm && echo 600 > /proc/self/oom_score_adj",
        "script -qec true /dev/null < /dev/null > /dev/null || ! command -v script > /dev/null",
        // A message queue lies on a file system without a path.
        QUEUE,
    ] {
        sandbox.output(allowed).await;
    }
    sandbox.destroy().await;
}

/// Makes a message queue (`mq_open(2)`), for reading and writing.
const QUEUE: &str = if cfg!(target_arch = "x86_64") {
    "perl -e '$name = q(queue); syscall(240, $name, 0102, 0600, 0) >= 0 or die $!'"
} else {
    "perl -e '$name = q(queue); syscall(180, $name, 0102, 0600, 0) >= 0 or die $!'"
};

#[tokio::test]
#[cfg(target_arch = "x86_64")]
async fn programs_can_restrict_themselves_further_and_signal_each_other() {
    let Some((_rig, sandbox)) = restricted("landlock::programs_can_restrict_themselves").await else {
        return;
    };
    let script = "
        my $attributes = pack('Q', 1 << 1);
        my $rules = syscall(444, $attributes, 8, 0);
        $rules >= 0 && syscall(446, $rules, 0) == 0 or die qq(no rules: $!);
        open(my $file, '>', '/work/x') and die qq(it can write);
        print qq(restricted);";
    assert_eq!(sandbox.output(&format!("perl -e '{}'", script.replace('\'', "\""))).await, "restricted");
    // A program of one step, seen from another.
    let other = sandbox.start("exec sleep 1000").await.unwrap();
    sandbox.output("for round in $(seq 1000); do pkill -x sleep && exit; done; exit 1").await;
    drop(other);
    sandbox.destroy().await;
}
