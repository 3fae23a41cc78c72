//! What happens at a bound, and what is said of use.

use std::sync::Arc;
use std::time::Duration;

use ci_core::job::Limits;
use ci_core::sandbox::{ExitStatus, Guarantee, SandboxUsage, Signal, Spec};
use ci_core::{ByteSize, ErrorKind};

use super::{declares, gone, refusal, sandbox, sandbox_of};
use crate::conformance::guest::{Guest, finish, within};
use crate::conformance::{Bench, Outcome};

/// Whoever asked for the memory, all that ran has ended, and says so.
#[doc(hidden)]
pub async fn running_out_of_memory_is_an_outcome(bench: Arc<dyn Bench>) {
    if !declares(&bench, Guarantee::MemoryLimit, "running_out_of_memory_is_an_outcome") {
        return;
    }
    let spec = Spec::new(bench.image()).with_limits(Limits::default().with_memory(ByteSize::mib(48)));
    let guest = sandbox_of(&bench, spec).await;
    let mut bystander = guest.start_up(&["wait"]).await.expect("it starts");
    let ran = guest.run(&["F-14", "anonymous", "256"]).await.expect("its end is an outcome, not an error");
    assert_eq!(ran.exit.status, ExitStatus::OutOfMemory);
    let other = finish(&mut *bystander).await.expect("its end is an outcome too");
    assert_eq!(other.exit.status, ExitStatus::OutOfMemory, "all that ran in it has ended");
    drop(bystander);
    let error = refusal(guest.start(&["exit", "0"]).await);
    assert_eq!(error.kind(), ErrorKind::LimitExceeded, "nothing more can be done in it: {error:?}");
    assert!(!error.is_retryable(), "the job was the cause");
    gone(guest).await;
}

/// A full disk is an error of whoever writes, and has room again when something is removed.
#[doc(hidden)]
pub async fn a_full_disk_is_the_writers_error(bench: Arc<dyn Bench>) {
    const NO_SPACE: [ExitStatus; 2] = [ExitStatus::Code(28), ExitStatus::Code(122)];
    if !declares(&bench, Guarantee::DiskLimit, "a_full_disk_is_the_writers_error") {
        return;
    }
    let spec = Spec::new(bench.image()).with_limits(Limits::default().with_disk(ByteSize::mib(8)));
    let guest = sandbox_of(&bench, spec).await;
    let status = guest.run(&["fill", "/work/fill", "32"]).await.expect("it runs").exit.status;
    assert!(NO_SPACE.contains(&status), "it is told ENOSPC or EDQUOT, and not: {status}");
    guest.run(&["remove", "/work/fill"]).await.expect("the sandbox goes on");
    let status = guest.run(&["fill", "/work/again", "2"]).await.expect("it runs").exit.status;
    assert_eq!(status, ExitStatus::Code(0), "there is room again");
    gone(guest).await;
}

/// A full table of processes is an error of whoever starts one, and has room again when some have ended.
#[doc(hidden)]
pub async fn a_full_process_table_is_an_error(bench: Arc<dyn Bench>) {
    if !declares(&bench, Guarantee::ProcessLimit, "a_full_process_table_is_an_error") {
        return;
    }
    let spec = Spec::new(bench.image()).with_limits(Limits::default().with_processes(40));
    let guest = sandbox_of(&bench, spec).await;
    let mut hoard = guest.start_up(&["hoard-processes", "200"]).await.expect("it starts");
    // A backend may keep some for whoever asks from outside; each of those waits.
    let (mut waiting, mut told) = (Vec::new(), None);
    for _ in 0..200 {
        match guest.start(&["wait"]).await {
            Ok(process) => waiting.push(process),
            Err(error) => {
                told = Some(error);
                break;
            }
        }
    }
    // Or it has no such bound for the caller's own programs: the job's then start none.
    if let Some(error) = told {
        assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{error:?}");
    } else {
        let outcome = guest.attack(&["P-18"]).await;
        let is_held = matches!(outcome, Ok(Outcome::Broken(_)));
        assert!(is_held, "200 programs run where 40 are allowed, and start others");
    }
    drop(waiting);
    hoard.signal(Signal::Kill).await.expect("it is there");
    finish(&mut *hoard).await.expect("it ends");
    drop(hoard);
    within("start a program again", async {
        while guest.run(&["exit", "0"]).await.is_err() {}
        Ok(())
    })
    .await
    .expect("there is room again");
    gone(guest).await;
}

#[doc(hidden)]
pub async fn a_programs_use_is_counted(bench: Arc<dyn Bench>) {
    let guest = sandbox(&bench).await;
    let ran = guest.run(&["R-4", "64000"]).await.expect("it runs");
    assert!(ran.exit.usage.cpu > Duration::from_millis(50), "{:?}", ran.exit.usage);
    assert!(ran.exit.usage.cpu < Duration::from_secs(10), "{:?}", ran.exit.usage);
    let ran = guest.run(&["F-14", "anonymous", "16"]).await.expect("it runs");
    let peak = ran.exit.usage.peak_memory;
    assert!((8 * 1024 * 1024..1024 * 1024 * 1024).contains(&peak), "{peak} bytes of 16 MiB");
    let ran = guest.run(&["exit", "0"]).await.expect("it runs");
    assert!(
        ran.exit.usage.cpu < Duration::from_millis(500),
        "what others did is not its own: {:?}",
        ran.exit.usage
    );
    gone(guest).await;
}

async fn usage(guest: &Guest) -> SandboxUsage {
    within("ask what a sandbox uses", guest.instance().usage()).await.expect("it can be told")
}

/// Work of which it is known how much it is. What a machine cannot tell is missing, and not zero.
#[doc(hidden)]
pub async fn a_sandboxs_use_is_what_it_did(bench: Arc<dyn Bench>) {
    const CHILDREN: u32 = 12;
    let mib = |count: u64| ByteSize::mib(count).as_u64();
    let guest = sandbox(&bench).await;
    let idle = usage(&guest).await;
    guest.run(&["fill", "/work/fill", "8"]).await.expect("it runs");
    guest.run(&["F-14", "anonymous", "24"]).await.expect("it runs");
    guest.run(&["R-4", "64000"]).await.expect("it runs");
    let children = guest.start_up(&["hoard-processes", &CHILDREN.to_string()]).await.expect("it starts");
    let busy = usage(&guest).await;
    if let Some(cpu) = busy.cpu {
        let before = idle.cpu.unwrap_or_default();
        let range = before + Duration::from_millis(50)..before + Duration::from_secs(20);
        assert!(range.contains(&cpu), "{cpu:?} of processor time, for two processes that ran for a second");
    }
    if let Some(peak) = busy.peak_memory {
        assert!((mib(24)..mib(512)).contains(&peak.as_u64()), "at most {peak:?}, where 24 MiB were held");
        assert!(Some(peak) >= busy.memory, "more now than ever: {busy:?}");
    }
    if let Some(memory) = idle.memory {
        assert!(memory.as_u64() < mib(64), "{memory:?} before anything ran");
    }
    let counts = CHILDREN..CHILDREN + 20;
    for count in [busy.processes, busy.peak_processes].into_iter().flatten() {
        assert!(counts.contains(&count), "{count} processes, where {CHILDREN} and their parent were");
    }
    if let Some(files) = busy.files {
        assert!((mib(8)..mib(24)).contains(&files.as_u64()), "{files:?} of files, where 8 MiB were written");
    }
    drop(children);
    // What has been stays, what is goes.
    guest.run(&["remove", "/work/fill"]).await.expect("it runs");
    within("wait for less use", async {
        loop {
            let later = usage(&guest).await;
            assert!(later.cpu >= busy.cpu, "processor time is taken back: {busy:?}, then {later:?}");
            assert!(later.peak_memory >= busy.peak_memory, "a peak is taken back: {busy:?}, then {later:?}");
            assert!(
                later.peak_processes >= busy.peak_processes,
                "a peak is taken back: {busy:?}, then {later:?}"
            );
            let is_less = |now: Option<u64>, bound: u64| now.is_none_or(|now| now < bound);
            if is_less(later.processes.map(u64::from), CHILDREN.into())
                && is_less(later.files.map(ByteSize::as_u64), mib(8))
            {
                return Ok(());
            }
        }
    })
    .await
    .expect("what is gone is not counted any more");
    gone(guest).await;
}

#[doc(hidden)]
pub async fn a_sandbox_that_is_gone_uses_nothing(bench: Arc<dyn Bench>) {
    let guest = sandbox(&bench).await;
    let residue = bench.backend().destroy(&guest.id).await.expect("it can be taken down");
    assert!(residue.is_empty(), "something of it is left: {residue:?}");
    let error = refusal(within("ask what a sandbox uses", guest.instance().usage()).await);
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
}
