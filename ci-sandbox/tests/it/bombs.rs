//! Jobs that take all there is of something (P-1, F-13, F-14, R-10): each meets its own bound, and nobody else notices.

use std::time::{Duration, Instant};

use ci_core::job::Limits;
use ci_core::sandbox::{ExitStatus, Guarantee};
use ci_core::{ByteSize, ErrorKind};
use ci_sandbox::native::{Config, ImageSource, Native};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Ran, Rig, Sandbox, finish, image, path, refusal, spec};

/// A sandbox of this much memory, where that can be held.
async fn small(rig: &Rig, memory: ByteSize) -> Option<Sandbox> {
    if !rig.holds(Guarantee::MemoryLimit) {
        return None;
    }
    Some(rig.sandbox_of(&spec().with_limits(Limits::default().with_memory(memory))).await)
}

/// Runs a Perl script that takes memory in some way, beside a sandbox that wants nothing.
async fn takes_memory(script: &str) -> Option<Ran> {
    let rig = Rig::new();
    let greedy = small(&rig, ByteSize::mib(32)).await?;
    let modest = small(&rig, ByteSize::mib(32)).await?;
    let ran = greedy.run(&format!("perl -e '{script}'")).await;
    assert_eq!(modest.output("echo alive").await, "alive");
    greedy.destroy().await;
    modest.destroy().await;
    Some(ran)
}

/// It must end all of the sandbox, and the outcome must say why.
async fn ends_by_memory(script: &str) {
    if let Some(ran) = takes_memory(script).await {
        assert_eq!(ran.exit.status, ExitStatus::OutOfMemory, "{ran:?}");
    }
}

#[tokio::test]
async fn a_fork_bomb_is_held_and_ends_at_once() {
    let rig = Rig::new();
    if !rig.holds(Guarantee::ProcessLimit) {
        return;
    }
    let greedy = rig.sandbox_of(&spec().with_limits(Limits::default().with_processes(64))).await;
    let modest = rig.sandbox().await;
    let bomb = "perl -e '$| = 1; while (1) { defined fork or $no++ or print qq(no more: $!) }'";
    let mut process = greedy.start(bomb).await.unwrap();
    let ci_core::sandbox::ProcessEvent::Output(_, said) = process.next().await.unwrap() else {
        panic!("it ended")
    };
    assert!(said.starts_with(b"no more: Resource temporarily unavailable"), "{said:?}");
    assert_eq!(modest.output("echo alive").await, "alive");
    let peak = greedy.instance.usage().await.unwrap().peak_processes;
    assert!(peak.is_none_or(|peak| (32..=64).contains(&peak)), "{peak:?}");
    drop(process);
    let start = Instant::now();
    greedy.destroy().await;
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    modest.destroy().await;
}

/// On version 1 of the control groups the launcher ends the rest, which takes it a moment.
#[tokio::test]
async fn nothing_starts_where_the_memory_has_run_out() {
    let rig = Rig::new();
    let Some(sandbox) = small(&rig, ByteSize::mib(32)).await else { return };
    let launcher = Pid::from_raw(rig.processes(&sandbox.id)[0]).unwrap();
    kill_process(launcher, Signal::STOP).unwrap();
    let ran = sandbox.run("head -c 200000000 /dev/zero | tail").await;
    assert_eq!(ran.exit.status, ExitStatus::OutOfMemory, "{ran:?}");
    let error = refusal(sandbox.start("true").await);
    assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{error:?}");
    kill_process(launcher, Signal::CONT).unwrap();
    sandbox.destroy().await;
}

#[tokio::test]
async fn the_end_by_memory_is_that_of_everything_inside() {
    let rig = Rig::new();
    let Some(sandbox) = small(&rig, ByteSize::mib(32)).await else { return };
    let mut bystander = sandbox.start("exec sleep 1000").await.unwrap();
    let ran = sandbox.run("head -c 200000000 /dev/zero | tail; echo went on").await;
    assert_eq!(ran.exit.status, ExitStatus::OutOfMemory, "{ran:?}");
    assert_eq!(finish(&mut *bystander).await.exit.status, ExitStatus::OutOfMemory);
    drop(bystander);
    let error = refusal(sandbox.start("true").await);
    assert_eq!(error.kind(), ErrorKind::LimitExceeded);
    let why = "a program: the sandbox ran out of memory and is gone; raise its limit, or use less";
    assert!(error.to_string().ends_with(why), "{error}");
    sandbox.destroy().await;
}

#[tokio::test]
async fn anonymous_memory_counts() {
    ends_by_memory("push @a, qq(x) x 1000000 while 1").await;
}

#[tokio::test]
async fn shared_memory_counts() {
    ends_by_memory("for (1..200) { $i = shmget(0, 1 << 20, 01600) // die; shmwrite($i, qq(x) x (1 << 20), 0, 1 << 20) or die }")
        .await;
}

#[tokio::test]
#[cfg(target_arch = "x86_64")]
async fn memory_files_without_a_name_count() {
    ends_by_memory(
        "for (1..200) { my $n = syscall(319, $m = qq(m\\0), 0); open($f[$_], q(>&=), $n) or die; \
         syswrite($f[$_], qq(x) x (1 << 20)) or die }",
    )
    .await;
}

#[tokio::test]
async fn what_waits_in_pipes_counts() {
    // Without waiting: 64 KiB each, until the user has 64 MiB of them, and then one page.
    ends_by_memory(
        "use Fcntl; for (1..20000) { pipe($r[$_], $w[$_]) or die $!; fcntl($w[$_], F_SETFL, O_NONBLOCK); \
         1 while syswrite($w[$_], qq(x) x 4096) }",
    )
    .await;
}

#[tokio::test]
async fn what_waits_in_sockets_counts() {
    ends_by_memory(
        "use Socket; use Fcntl; for (1..20000) { socketpair($a[$_], $b[$_], AF_UNIX, SOCK_STREAM, 0) or die $!; \
         fcntl($a[$_], F_SETFL, O_NONBLOCK); 1 while syswrite($a[$_], qq(x) x 4096) }",
    )
    .await;
}

#[tokio::test]
#[cfg(target_arch = "x86_64")]
async fn page_tables_count() {
    // 64 GiB that is only ever read, one page of every 2 MiB: the pages are all the same, the tables are not.
    ends_by_memory(
        "$a = syscall(9, 0, 1 << 36, 1, 0x4022, -1, 0); $a > 0 or die $!; \
         unpack(q(P1), pack(q(Q), $a + ($_ << 21))) for 0..32767",
    )
    .await;
}

#[tokio::test]
async fn file_locks_count() {
    // From the end to the start, so that none has to be looked past.
    ends_by_memory(
        "use Fcntl; open($f, q(>), q(/work/f)) or die; \
         for (reverse 1..1000000) { fcntl($f, F_SETLK, pack(q(s s x4 q q l x4), F_WRLCK, 0, $_ * 2, 1, 0)) or die $! }",
    )
    .await;
}

/// On version 1 of control groups these are not memory of the group, and have a bound of their own.
#[tokio::test]
async fn what_waits_in_network_sockets_is_bounded() {
    const MOST: u64 = 32 << 20;
    let script = "use IO::Socket::INET; $l = IO::Socket::INET->new(Listen => 4096, LocalAddr => q(127.0.0.1)) or die; \
        $| = 1; for (1..400) { $c = IO::Socket::INET->new(PeerAddr => q(127.0.0.1), PeerPort => $l->sockport) or last; \
        push @all, $c, $l->accept; $c->blocking(0); \
        while ($n = syswrite($c, qq(x) x 65536)) { $sum += $n; last if $sum > 1 << 30 } } print $sum";
    let Some(ran) = takes_memory(script).await else { return };
    if ran.exit.status != ExitStatus::OutOfMemory {
        let waiting: u64 = ran.stdout.parse().unwrap();
        assert!((1..MOST).contains(&waiting), "{ran:?}");
    }
}

/// What a job reads of an image is cached in its name, and makes room before anything ends.
#[tokio::test]
async fn reading_more_than_there_is_memory_is_no_reason_to_end() {
    use std::io::Write as _;
    const CHUNK: usize = 1 << 20;
    let rig = Rig::new();
    let folder = tempfile::tempdir().unwrap();
    let mut file = std::fs::File::create(folder.path().join("large")).unwrap();
    for _ in 0..100 {
        file.write_all(&vec![7; CHUNK]).unwrap();
    }
    file.sync_all().unwrap();
    // The next who reads it has it charged.
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    let limits = Limits::default().with_memory(ByteSize::mib(32));
    let spec = spec().with_limits(limits).with_host_folder_read_only(path("/input"), folder.path());
    let sandbox = rig.sandbox_of(&spec).await;
    let ran = sandbox.run("cat /input/large | wc -c").await;
    assert_eq!((ran.exit.status, ran.stdout.trim()), (ExitStatus::Code(0), "104857600"), "{ran:?}");
    sandbox.destroy().await;
}

#[tokio::test]
async fn a_disk_is_full_of_what_takes_room_and_not_of_what_could() {
    let rig = Rig::new();
    let sandbox = rig.sandbox_of(&spec().with_limits(Limits::default().with_disk(ByteSize::mib(4)))).await;
    sandbox.output("truncate -s 1T /work/sparse").await;
    for bomb in [
        "fallocate -l 8M /work/reserved",
        "head -c 8000000 /dev/zero > /work/sparse",
        "cat /dev/zero > /tmp/endless",
    ] {
        let ran = sandbox.run(bomb).await;
        assert!(ran.stderr.contains("No space left"), "{bomb}: {ran:?}");
        sandbox
            .output("rm -f /work/reserved /tmp/endless; truncate -s 0 /work/sparse; echo x > /work/fits")
            .await;
    }
    sandbox.destroy().await;
}

#[tokio::test]
async fn there_are_only_so_many_files() {
    let state = tempfile::tempdir().unwrap();
    let config = Config::new(state.path()).with_image(image(), ImageSource::host_toolchain()).with_files(500);
    let rig = Rig::of(Native::new(config).unwrap(), state);
    let sandbox = rig.sandbox().await;
    let made = "perl -e 'for (1..1000) { open(F, q(>), qq(/work/$_)) or print(qq($_ $!)), last }'";
    let said = sandbox.output(made).await;
    let (count, why) = said.split_once(' ').unwrap();
    assert_eq!(why, "No space left on device");
    assert!((300..500).contains(&count.parse::<u32>().unwrap()), "{said}");
    sandbox.output("rm -r /work/*; echo x > /work/fits").await;
    sandbox.destroy().await;
}
