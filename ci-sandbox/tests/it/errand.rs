//! What packs and unpacks in a sandbox is the init's program, and yet no more than the job.

use std::fs;

use ci_core::stream::ByteStream;
use futures_util::stream;

use crate::support::{Rig, Sandbox, is_root, path, skip_here};

/// Finds the one who unpacks, waits until it waits for its archive, and sets `$it` to its folder below `/proc`.
const FIND: &str = "\
    for round in $(seq 1000); do
      it=$(grep -lza '^ci-sandbox$' /proc/[0-9]*/cmdline 2> /dev/null | grep -v '^/proc/1/') && break
    done
    it=${it%/cmdline}
    for round in $(seq 1000); do grep -q '^State:.S' $it/status && break; done";

/// Looks at a sandbox while one who unpacks in it waits for an archive that does not come.
async fn while_unpacking<T>(sandbox: &Sandbox, look: impl Future<Output = T>) -> T {
    let (folder, archive): (_, ByteStream<'static>) = (path("/work"), Box::pin(stream::pending()));
    tokio::select! {
        biased;
        ended = sandbox.instance.upload(&folder, archive) => panic!("it ended: {ended:?}"),
        seen = look => seen,
    }
}

#[tokio::test]
async fn it_has_no_powers() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    let script = format!("{FIND}; grep -E '^(Uid|Cap|NoNewPrivs|Seccomp:)' $it/status");
    let status = while_unpacking(&sandbox, sandbox.output(&script)).await;
    for line in status.lines() {
        let (name, value) = line.split_once(":\t").unwrap();
        let expected = match name {
            "Uid" => "1000\t1000\t1000\t1000",
            "NoNewPrivs" => "1",
            "Seccomp" => "2",
            _ => "0000000000000000",
        };
        assert_eq!(value, expected, "{name}: {status}");
    }
    assert_eq!(status.lines().count(), 8, "{status}");
    sandbox.destroy().await;
}

#[tokio::test]
async fn it_is_out_of_the_jobs_reach() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    let script = format!("{FIND}; test -d $it && cat $it/maps $it/environ $it/fd/0 $it/fd/4");
    let ran = while_unpacking(&sandbox, sandbox.run(&script)).await;
    assert_eq!(ran.stderr.matches("Permission denied").count(), 4, "{ran:?}");
    sandbox.destroy().await;
}

#[tokio::test]
async fn it_has_no_files_of_the_inits() {
    if !is_root() {
        return skip_here("root", "an ordinary user cannot see its files");
    }
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    // Others that run meanwhile have files in the init.
    let other = sandbox.start("sleep 1000").await.unwrap();
    let [_, init] = rig.processes(&sandbox.id);
    let look = async {
        sandbox.output(FIND).await;
        let children = fs::read_to_string(format!("/proc/{init}/task/{init}/children")).unwrap();
        let of_the_init =
            |pid: &&str| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == b"ci-sandbox\0");
        let unpacker = children.split_whitespace().find(of_the_init).unwrap();
        fs::read_dir(format!("/proc/{unpacker}/fd")).unwrap().count()
    };
    // Three streams, the report, the request, and the folder that it unpacks into.
    assert_eq!(while_unpacking(&sandbox, look).await, 6);
    drop(other);
    sandbox.destroy().await;
}
