//! What the job of one tenant learns of, and does to, others through the image that they share.

use std::process::Command as Program;

use ci_core::sandbox::{Guarantee, OutputStream, Process, ProcessEvent};

use crate::support::{Rig, Sandbox, finish};

/// Prints `seen` when somebody opens `/usr/bin/factor`, until a file `/work/end` is there.
#[cfg(target_arch = "x86_64")]
const WATCH: &str = r#"exec perl -e '
    $| = 1;
    my $fd = syscall(294, 0x800); die "inotify: $!" if $fd < 0;
    my $path = "/usr/bin"; syscall(254, $fd, $path, 0x20) >= 0 or die "watch: $!";
    print "watching\n";
    open my $in, "<&=", $fd or die;
    while (1) {
        my $ends = -e "/work/end";
        my $n = sysread $in, my $buf, 65536;
        while ($n && length $buf) {
            my ($wd, $mask, $cookie, $len) = unpack "iIII", $buf;
            my $name = unpack "Z*", substr $buf, 16, $len; substr $buf, 0, 16 + $len, "";
            if ($name eq "factor") { print "seen\n"; exit 0 }
        }
        exit 0 if $ends;
        select undef, undef, undef, 0.02;
    }'"#;

/// Waits for the first words of a program.
async fn says(process: &mut dyn Process, words: &str) {
    match process.next().await.unwrap() {
        ProcessEvent::Output(OutputStream::Stdout, said) => assert_eq!(said, words),
        event => panic!("{event:?}"),
    }
}

/// What a job that watches the image has seen when `others` have run.
#[cfg(target_arch = "x86_64")]
async fn seen_by(spy: &Sandbox, others: impl Future<Output = ()>) -> String {
    let mut watching = spy.start(WATCH).await.unwrap();
    says(&mut *watching, "watching\n").await;
    others.await;
    spy.output("touch /work/end").await;
    finish(&mut *watching).await.stdout
}

#[tokio::test]
#[cfg(target_arch = "x86_64")]
async fn a_job_does_not_see_which_programs_another_job_runs() {
    let rig = Rig::new();
    if !rig.holds(Guarantee::OwnImage) {
        return;
    }
    let (spy, other) = (rig.sandbox().await, rig.sandbox().await);
    let seen = seen_by(&spy, async { drop(other.output("/usr/bin/factor 12").await) }).await;
    assert_eq!(seen, "");
    // The watch itself works.
    spy.output("rm /work/end").await;
    let seen = seen_by(&spy, async { drop(spy.output("/usr/bin/factor 12").await) }).await;
    assert_eq!(seen, "seen\n");
    spy.destroy().await;
    other.destroy().await;
}

#[tokio::test]
#[cfg(target_arch = "x86_64")]
async fn a_job_does_not_see_which_programs_the_host_runs() {
    let rig = Rig::new();
    if !rig.holds(Guarantee::OwnImage) {
        return;
    }
    let spy = rig.sandbox().await;
    let seen = seen_by(&spy, async {
        assert!(Program::new("/usr/bin/factor").arg("12").output().unwrap().status.success());
    })
    .await;
    assert_eq!(seen, "");
    spy.destroy().await;
}

#[tokio::test]
async fn a_job_cannot_lock_the_files_that_others_use() {
    let rig = Rig::new();
    if !rig.holds(Guarantee::OwnImage) {
        return;
    }
    let (one, other) = (rig.sandbox().await, rig.sandbox().await);
    let mut holder =
        one.start("exec flock -x /usr/bin/factor sh -c 'echo locked; exec sleep 60'").await.unwrap();
    says(&mut *holder, "locked\n").await;
    // It does hold the lock, where it is.
    assert!(!one.run("flock -n -x /usr/bin/factor true").await.exit.status.is_success());
    other.output("flock -n -x /usr/bin/factor true").await;
    let host = Program::new("flock").args(["-n", "-x", "/usr/bin/factor", "true"]).status().unwrap();
    assert!(host.success());
    drop(holder);
    // Nor those that were put together for all of them.
    let mut holder = one.start("exec flock -x /etc/passwd sh -c 'echo locked; exec sleep 60'").await.unwrap();
    says(&mut *holder, "locked\n").await;
    other.output("flock -n -x /etc/passwd true").await;
    drop(holder);
    one.destroy().await;
    other.destroy().await;
}

#[tokio::test]
#[cfg(target_arch = "x86_64")]
async fn a_job_cannot_lease_the_files_that_others_use() {
    let rig = Rig::new();
    if !rig.holds(Guarantee::OwnImage) {
        return;
    }
    let (one, other) = (rig.sandbox().await, rig.sandbox().await);
    // F_SETLEASE: who opens the file to write waits for the holder, 45 seconds if need be. Only its owner may.
    let lease = |file: &str| {
        format!(
            "exec perl -e '$| = 1; open my $f, \"<\", \"{file}\" or die; print fcntl($f, 1024, 0) ? 1 : 0; sleep 60'"
        )
    };
    let mut holder = one.start(&lease("/usr/bin/factor")).await.unwrap();
    says(&mut *holder, "0").await;
    drop(holder);
    one.output("echo x > /work/mine").await;
    let mut holder = one.start(&lease("/work/mine")).await.unwrap();
    says(&mut *holder, "1").await;
    drop(holder);
    one.destroy().await;
    other.destroy().await;
}
