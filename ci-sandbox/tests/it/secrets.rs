//! Secrets that programs find in files.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use ci_core::ByteSize;
use ci_core::ErrorKind;
use ci_core::id::SecretName;
use ci_core::job::{Arg, Limits};
use ci_core::memory::{self, Masking};
use ci_core::queue::Claim;
use ci_core::sandbox::{Command, ExitStatus, SecretUse};
use ci_core::secret::{SecretLease, SecretValue};
use ci_core::trust::Origin;

use crate::streams::text;
use crate::support::{Ran, Rig, Sandbox, finish, is_root, refusal, shell, spec};

const VALUE: &[u8] = b"-----BEGIN KEY-----\0\xff\n of two lines, and no text\n";

/// A lease, with the claim that it ends with.
struct Leased {
    lease: SecretLease,
    _claim: Claim,
    _rig: memory::Rig,
}

impl Leased {
    async fn of(value: impl Into<Vec<u8>>) -> Self {
        let rig = memory::Rig::new().unwrap();
        let repository = memory::Rig::repository("1", "tenant").unwrap();
        let claim = rig.claim(&repository, Origin::Protected, memory::Rig::spec()).await.unwrap();
        let values = [("KEY", SecretValue::new(value)), ("TOKEN", SecretValue::new("hunter2"))]
            .map(|(name, value)| (name.parse().unwrap(), value));
        let lease = SecretLease::new(claim.trusted().unwrap(), values, Arc::new(Masking::new()));
        Self { lease, _claim: claim, _rig: rig }
    }
}

fn with_key(command: Command) -> Command {
    let [key, token] = ["KEY", "TOKEN"].map(|name| SecretName::parse(name).unwrap());
    command.with_secrets([SecretUse::file(key), SecretUse::variable(token)])
}

async fn run(sandbox: &Sandbox, script: &str, leased: &Leased) -> Ran {
    let mut process = sandbox.instance.exec(&with_key(shell(script)), &leased.lease).await.unwrap();
    finish(&mut *process).await
}

#[tokio::test]
async fn a_file_holds_the_value_and_is_the_jobs_alone() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    let leased = Leased::of(VALUE).await;
    let ran =
        run(&sandbox, r#"echo "$KEY $TOKEN"; stat -c '%a %u %g' "$KEY"; od -An -v -tx1 "$KEY""#, &leased)
            .await;
    let mut lines = ran.stdout.lines();
    let (path, token) = lines.next().unwrap().split_once(' ').unwrap();
    assert!(path.starts_with("/run/secrets/") && path.ends_with("/KEY"), "{path}");
    assert_eq!((token, lines.next()), ("hunter2", Some("400 1000 1000")));
    let bytes: Vec<u8> =
        lines.flat_map(str::split_whitespace).map(|hex| u8::from_str_radix(hex, 16).unwrap()).collect();
    assert_eq!(bytes, VALUE);
    // It lies in the memory of the sandbox, with everything else.
    let ran = run(&sandbox, r#"stat -f -c %T "$KEY"; stat -c %d "$KEY" /tmp"#, &leased).await;
    let lines: Vec<_> = ran.stdout.lines().collect();
    assert_eq!((lines[0], lines[1]), ("tmpfs", lines[2]), "{ran:?}");
    sandbox.destroy().await;
}

#[tokio::test]
async fn it_is_gone_when_the_program_has_ended() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    let leased = Leased::of(VALUE).await;
    for script in
        ["exit 3", "kill -9 $$", "sleep 1000 < $KEY > /dev/null 2>&1 & exit 0", "chmod 600 $KEY; echo > $KEY"]
    {
        run(&sandbox, script, &leased).await;
        assert_eq!(sandbox.output("ls -A /run/secrets").await, "", "{script}");
    }
    let nothing = Command::new(Arg::new("/no/such/program").unwrap(), []);
    assert_eq!(
        refusal(sandbox.instance.exec(&with_key(nothing), &leased.lease).await).kind(),
        ErrorKind::NotFound
    );
    for _ in 0..100 {
        if sandbox.output("ls -A /run/secrets").await.is_empty() {
            return sandbox.destroy().await;
        }
    }
    panic!("a program that did not start has left its secret");
}

#[tokio::test]
async fn each_program_has_its_own() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    let leased = Leased::of("a value").await;
    let script = "echo $KEY; while [ ! -e /work/go ]; do sleep 0.01; done; cat $KEY";
    let mut long = sandbox.instance.exec(&with_key(shell(script)), &leased.lease).await.unwrap();
    let path = text(&mut *long).await;
    let short = run(&sandbox, "cat $KEY; echo; echo $KEY", &leased).await;
    assert!(short.stdout.starts_with("a value\n") && !short.stdout.contains(&path), "{short:?}");
    sandbox.output("touch /work/go").await;
    assert_eq!(finish(&mut *long).await.stdout, "a value");
    drop(long);
    sandbox.destroy().await;
}

#[tokio::test]
async fn its_value_is_nowhere_else() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    let value = format!("needle-{}", std::process::id());
    let leased = Leased::of(value.clone()).await;
    let mut process =
        sandbox.instance.exec(&with_key(shell("echo up; exec sleep 1000")), &leased.lease).await.unwrap();
    assert_eq!(text(&mut *process).await, "up\n");
    let script = "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline | grep -ac 'needle[-]'";
    assert_eq!(sandbox.run(script).await.stdout, "0\n");
    if is_root() {
        for pid in rig.processes(&sandbox.id) {
            let memory = memory_of(pid);
            assert!(memory.len() > 4096, "nothing was read");
            assert!(!memory.windows(value.len()).any(|window| window == value.as_bytes()), "process {pid}");
        }
    }
    drop(process);
    sandbox.destroy().await;
}

/// All that a process has in its memory.
fn memory_of(pid: i32) -> Vec<u8> {
    let file = File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut all = Vec::new();
    for line in fs::read_to_string(format!("/proc/{pid}/maps")).unwrap().lines() {
        let (start, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
        let [start, end] = [start, end].map(|hex| u64::from_str_radix(hex, 16).unwrap());
        let mut piece = vec![0; usize::try_from(end - start).unwrap()];
        if file.read_exact_at(&mut piece, start).is_ok() {
            all.append(&mut piece);
        }
    }
    all
}

#[tokio::test]
async fn a_job_cannot_lead_it_astray() {
    let rig = Rig::new();
    let sandbox = rig.sandbox().await;
    let leased = Leased::of("needle").await;
    let attempts = "cd /run/secrets || exit; for id in $(seq 0 200); do mkdir $id; ln -s /work $id; done; \
                    perl -e 'rename qw(/run/secrets /run/moved)'; rm -rf /run/secrets; ls -A /run/secrets";
    sandbox.run(attempts).await;
    let started = sandbox
        .instance
        .exec(
            &with_key(shell("cat $KEY; perl -e 'rename shift, q(/run/moved)' ${KEY%/*}; rm -f $KEY")),
            &leased.lease,
        )
        .await;
    if is_root() {
        let ran = finish(&mut *started.unwrap()).await;
        assert_eq!(ran.stdout, "needle", "{ran:?}");
        assert_eq!(
            sandbox.output("ls -A /run /run/secrets /work").await,
            "/run:\nsecrets\n\n/run/secrets:\n\n/work:"
        );
    } else {
        // An ordinary user's job can stand in its own way, and gets nothing then.
        assert_eq!(refusal(started.map(drop)).kind(), ErrorKind::Invalid);
        assert_eq!(sandbox.run("grep -r needle /work /tmp /run").await.stdout, "");
    }
    sandbox.destroy().await;
}

#[tokio::test]
async fn one_that_does_not_fit_is_refused() {
    let rig = Rig::new();
    let sandbox = rig.sandbox_of(&spec().with_limits(Limits::default().with_disk(ByteSize::mib(1)))).await;
    sandbox.run("head -c 2000000 /dev/zero > /work/full").await;
    let fits_not = Leased::of(vec![b'x'; 100_000]).await;
    let error = refusal(sandbox.instance.exec(&with_key(shell("true")), &fits_not.lease).await);
    assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{error:?}");
    let too_large = Leased::of(vec![b'x'; 3_000_000]).await;
    let error = refusal(sandbox.instance.exec(&with_key(shell("true")), &too_large.lease).await);
    assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{error:?}");
    sandbox.output("rm /work/full").await;
    let ran = run(&sandbox, "wc -c < $KEY; ls /run/secrets | wc -l", &fits_not).await;
    assert_eq!((ran.stdout.as_str(), ran.exit.status), ("100000\n1\n", ExitStatus::Code(0)));
    sandbox.destroy().await;
}
