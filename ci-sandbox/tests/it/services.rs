//! Sandboxes that share a network, and nothing else.

use ci_core::ErrorKind;
use ci_core::id::SandboxId;
use ci_core::sandbox::{Backend as _, ExitStatus, ProcessEvent, Signal};

use crate::support::{Rig, Sandbox, finish, is_root, spec};

/// Answers once at port 5432, and says when it listens.
const SERVICE: &str = "perl -MIO::Socket::INET -e '$| = 1;
    $s = IO::Socket::INET->new(LocalAddr => \"127.0.0.1\", LocalPort => 5432, Listen => 1) or die $!;
    print \"ready\"; $c = $s->accept; print $c \"from the service\"; close $c; sleep 1000'";

const CLIENT: &str = "perl -MIO::Socket::INET -e '
    $c = IO::Socket::INET->new(PeerAddr => \"127.0.0.1\", PeerPort => 5432) or die $!; print <$c>'";

/// A job and its service.
async fn pair(rig: &Rig) -> (Sandbox, Sandbox) {
    let job = rig.sandbox().await;
    let service = rig.sandbox_beside(&job).await;
    (job, service)
}

#[tokio::test]
async fn a_service_is_reached_at_the_loopback_address() {
    let rig = Rig::new();
    let (job, service) = pair(&rig).await;
    let mut process = service.start(SERVICE).await.unwrap();
    assert!(matches!(process.next().await.unwrap(), ProcessEvent::Output(_, bytes) if *bytes == *b"ready"));
    let stranger = rig.sandbox().await;
    assert_eq!(stranger.run(CLIENT).await.exit.status, ExitStatus::Code(111), "somebody else's job: refused");
    assert_eq!(job.output(CLIENT).await, "from the service");
    drop(process);
    for sandbox in [stranger, service, job] {
        sandbox.destroy().await;
    }
    assert_eq!(rig.entries(), 0);
}

#[tokio::test]
async fn nothing_but_the_network_is_shared() {
    let rig = Rig::new();
    let (job, service) = pair(&rig).await;
    let script = "cd /proc/self/ns && readlink cgroup ipc mnt net pid user uts";
    let (of_job, of_service) = (job.output(script).await, service.output(script).await);
    let shared: Vec<_> = of_job.lines().filter(|one| of_service.lines().any(|other| other == *one)).collect();
    let kinds: Vec<_> = shared.iter().map(|name| name.split_once(':').unwrap().0).collect();
    // The one id that an ordinary user has is the same for both in any case.
    assert_eq!(kinds, if is_root() { vec!["net"] } else { vec!["net", "user"] });

    job.output("echo the jobs > /work/file; cp /work/file /tmp; cp /work/file /dev/shm").await;
    let mut process = job.start("sleep 4711").await.unwrap();
    let script = "cat /work/* /tmp/* /dev/shm/* /proc/[0-9]*/cmdline 2> /dev/null | grep -ac -e 'the jo[b]s' -e 471[1]";
    assert_eq!(service.run(script).await.stdout, "0\n");
    service.run("kill -9 -1").await;
    process.signal(Signal::Terminate).await.unwrap();
    // It is still there to be ended.
    assert_eq!(finish(&mut *process).await.exit.status, ExitStatus::Signal(15));
    drop(process);
    service.destroy().await;
    job.destroy().await;
}

#[tokio::test]
async fn each_ends_without_the_other() {
    let rig = Rig::new();
    let (job, service) = pair(&rig).await;
    service.destroy().await;
    assert_eq!(job.output("cat /sys/class/net/lo/operstate 2> /dev/null; echo lives").await, "lives");
    let service = rig.sandbox_beside(&job).await;
    let (id, job_id) = (service.id.clone(), job.id.clone());
    job.destroy().await;
    assert_eq!(service.output("echo lives").await, "lives");
    assert_eq!(rig.native.leftovers().await.unwrap(), []);

    let late = rig.native.create_beside(&SandboxId::random(), &spec(), &job_id).await.map(drop);
    assert_eq!(late.unwrap_err().kind(), ErrorKind::Unavailable);
    service.destroy().await;
    assert!(rig.native.destroy(&id).await.unwrap().is_empty());
    assert_eq!(rig.entries(), 0);
}
