//! Nobody before others: priorities, limits and what the kernel counts per user (P-17, P-18, F-21, S-15).

use std::process::Command as Program;

use ci_core::conformance::skip;

use crate::support::{Rig, is_root, itself, skip_here};

#[tokio::test]
async fn no_priority_can_be_had() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    for attempt in [
        "perl -e 'exit !setpriority(0, 0, -1)'",
        "perl -e 'setpriority(0, 0, 5); exit !setpriority(0, 0, 4)'",
        "chrt --fifo 1 true",
        "chrt --rr 1 true",
        "chrt --deadline --sched-runtime 1000000 --sched-period 10000000 0 true",
        "ionice -c 1 true",
        "echo -1 > /proc/self/oom_score_adj",
        "echo -1000 > /proc/self/oom_score_adj",
        "ulimit -S -r 1",
        "ulimit -S -e 1",
    ] {
        let ran = sandbox.run(attempt).await;
        assert!(!ran.exit.status.is_success(), "{attempt}: {ran:?}");
    }
    // Going behind others is everybody's right.
    sandbox.output("nice -n 19 true && chrt --idle 0 true && ionice -c 3 true").await;
    sandbox.output("echo 600 > /proc/self/oom_score_adj").await;
    sandbox.destroy().await;
}

#[tokio::test]
async fn limits_can_only_be_lowered() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    for (option, at_most) in
        [("c", 1), ("e", 0), ("i", 4_096), ("l", 8_192), ("n", 65_536), ("q", 819_200), ("r", 0)]
    {
        let hard: u64 = sandbox.output(&format!("bash -c 'ulimit -H -{option}'")).await.parse().unwrap();
        assert!(hard <= at_most, "{option}: {hard}");
        let raised = sandbox.run(&format!("bash -c 'ulimit -H -{option} {}'", hard + 1)).await;
        assert!(!raised.exit.status.is_success(), "{option}: {raised:?}");
    }
    assert_eq!(sandbox.output("bash -c 'ulimit -S -s'").await, "8192");
    // Some builds ask for more.
    sandbox.output("bash -c 'ulimit -S -s $(ulimit -H -s)'").await;
    sandbox.destroy().await;
}

#[test]
fn a_program_that_goes_before_others_does_not_pass_it_on() {
    if !is_root() {
        return skip_here("root", "an ordinary user cannot go before others");
    }
    for wrapper in [
        &["prlimit", "--rtprio=99", "--nice=40", "--stack=65536:unlimited", "--memlock=unlimited"][..],
        &["nice", "-n", "-10"],
        &["chrt", "--rr", "1"],
        &["ionice", "-c", "1"],
    ] {
        let (program, arguments) = wrapper.split_first().unwrap();
        if !Program::new(program).args(arguments).arg("true").status().unwrap().success() {
            let need = if *program == "prlimit" { "sys-resource" } else { "sys-nice" };
            skip("fairness::precedence", need, &format!("this root may not {}", wrapper.join(" ")));
            continue;
        }
        let held = itself(wrapper, "fairness::with_precedence").output().unwrap();
        assert!(held.status.success(), "{wrapper:?}: {}", String::from_utf8_lossy(&held.stderr));
    }
}

/// Not a test of its own: whoever embeds the SDK was given precedence over others.
#[tokio::test]
#[ignore = "run by another test"]
async fn with_precedence() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    // Niceness and scheduling policy by their fields (proc_pid_stat(5)), of a step and of process 1.
    let script = "cut -d' ' -f19,41 /proc/self/stat /proc/1/stat; ionice -p $$ | grep -c realtime; \
                  bash -c 'ulimit -H -r; ulimit -H -e; ulimit -S -s; ulimit -H -l'";
    assert_eq!(sandbox.run(script).await.stdout, "0 0\n0 0\n0\n0\n0\n8192\n8192\n");
    sandbox.destroy().await;
}

/// As root every sandbox has users of its own; as an ordinary user it has a part of what the user has.
#[tokio::test]
async fn what_the_kernel_counts_per_user_is_divided() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    let read = async |file: &str| -> u64 {
        sandbox.output(&format!("cat /proc/sys/user/{file}")).await.parse().unwrap()
    };
    if !is_root() {
        assert_eq!(read("max_inotify_instances").await, 32);
        assert_eq!(read("max_inotify_watches").await, 32_768);
    }
    assert_eq!(read("max_user_namespaces").await, 0);
    assert_eq!(read("max_fanotify_groups").await, 0);
    let raised = sandbox.run("echo 1000 > /proc/sys/user/max_inotify_instances").await;
    assert!(!raised.exit.status.is_success(), "{raised:?}");
    sandbox.destroy().await;
}
