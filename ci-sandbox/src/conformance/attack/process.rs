//! Processes, and how long they live.

use std::time::{Duration, Instant};

use ci_core::job::Limits;
use ci_core::sandbox::{ExitStatus, ProcessEvent, Signal};
use ci_core::{ErrorKind, Result};

use super::stage::gone;
use super::{Outcome, Stage};
use crate::conformance::guest::{Guest, PATIENCE, finish, unexpected, within};
use crate::conformance::machine::{Bystander, boot, eventually, namespace, processes_with, unique};

/// How long the machine's process table may take to show what has happened.
const MOMENT: Duration = Duration::from_secs(2);

pub(super) async fn fork_bomb(stage: &Stage) -> Result<Outcome> {
    const ALLOWED: u32 = 100;
    let guest = stage.fresh_within(Limits::default().with_processes(ALLOWED)).await?;
    let outcome = guest.attack(&["P-1", &ALLOWED.to_string()]).await?;
    gone(guest).await?;
    Ok(outcome)
}

pub(super) async fn daemon(stage: &Stage) -> Result<Outcome> {
    let marker = unique("daemon-");
    let guest = stage.fresh().await?;
    let ran = guest.run(&["daemon", &marker]).await?;
    if ran.exit.status != ExitStatus::Code(0) {
        return Err(unexpected("start a daemon", ran.exit.status.to_string()));
    }
    is_gone(guest, &marker).await
}

/// Takes a sandbox down in which programs have `marker` among their arguments; they must not be seen afterwards.
async fn is_gone(guest: Guest, marker: &str) -> Result<Outcome> {
    let is_seen = eventually(Duration::from_millis(500), || processes_with(marker) > 0).await;
    let residue = match guest.destroy().await {
        Err(error) if error.kind() == ErrorKind::TimedOut => {
            return Ok(Outcome::Broken("it could: keep the sandbox from ending".to_owned()));
        }
        residue => residue?,
    };
    // The backend has said that nothing is left: then nothing is, now.
    let left = processes_with(marker);
    if left > 0 {
        return Ok(Outcome::Broken(format!("it could: live on, {left} processes of it, after the sandbox")));
    }
    if !residue.is_empty() {
        return Ok(Outcome::Broken(format!("it could: leave something behind ({residue:?})")));
    }
    let seen = if is_seen { "it was seen before, and not after" } else { "the backend counts nothing left" };
    Ok(Outcome::Held(seen.to_owned()))
}

pub(super) async fn deaf(stage: &Stage) -> Result<Outcome> {
    let guest = stage.fresh().await?;
    let mut process = guest.start_up(&["stubborn"]).await?;
    process.signal(Signal::Terminate).await?;
    if let Ok(event) = tokio::time::timeout(Duration::from_millis(100), process.next()).await {
        return Ok(Outcome::Broken(format!("a program that ignores SIGTERM was taken for ended: {event:?}")));
    }
    process.signal(Signal::Kill).await?;
    let status = finish(&mut *process).await?.exit.status;
    drop(process);
    gone(guest).await?;
    Ok(match status {
        ExitStatus::Signal(9) => Outcome::Held("SIGKILL ended it".to_owned()),
        other => Outcome::Broken(format!("a program that SIGKILL ended was told as {other}")),
    })
}

pub(super) async fn stopped(stage: &Stage) -> Result<Outcome> {
    let marker = unique("stopped-");
    let guest = stage.fresh().await?;
    let mut alone = guest.start_up(&["stop", "self", &marker]).await?;
    alone.signal(Signal::Kill).await?;
    let status = finish(&mut *alone).await?.exit.status;
    if status != ExitStatus::Signal(9) {
        return Ok(Outcome::Broken(format!("a stopped program that SIGKILL ended was told as {status}")));
    }
    let all = guest.start_up(&["stop", "all", &marker]).await?;
    drop((alone, all));
    is_gone(guest, &marker).await
}

pub(super) async fn race(stage: &Stage) -> Result<Outcome> {
    let marker = unique("race-");
    let guest = stage.fresh().await?;
    let process = guest.start_up(&["races", &marker]).await?;
    drop(process);
    is_gone(guest, &marker).await
}

pub(super) async fn parked(stage: &Stage) -> Result<Outcome> {
    let marker = unique("parked-");
    let guest = stage.fresh().await?;
    let process = guest.start_up(&["parked", &marker]).await?;
    drop(process);
    is_gone(guest, &marker).await
}

pub(super) async fn kill_everything(stage: &Stage) -> Result<Outcome> {
    let failed = |error| unexpected("start a process", format!("{error}"));
    let mut bystander = Bystander::new(&unique("bystander-")).map_err(failed)?;
    let (guest, sibling) = (stage.fresh().await?, stage.fresh().await?);
    let outcome = guest.attack(&["P-8", &namespace("pid"), &boot()]).await;
    // The sandbox may be the worse for it, and nobody else.
    if !bystander.lives() {
        return Ok(Outcome::Broken("it could: kill a process of the machine".to_owned()));
    }
    let beside = sibling.run(&["exit", "0"]).await;
    gone(guest).await?;
    gone(sibling).await?;
    if beside.is_err() {
        return Ok(Outcome::Broken("it could: kill another sandbox".to_owned()));
    }
    match outcome {
        Err(error) if error.kind() == ErrorKind::Unavailable => {
            Ok(Outcome::Held("the sandbox died of it, alone".to_owned()))
        }
        other => other,
    }
}

pub(super) async fn wedge(stage: &Stage) -> Result<Outcome> {
    let guest = stage.fresh().await?;
    // Whether it works is the other case's; that it ends, and stops nobody, is this one's.
    drop(guest.attack(&["P-9"]).await);
    let start = Instant::now();
    let destroyed = guest.destroy().await;
    Ok(match destroyed {
        Ok(residue) if residue.is_empty() => {
            Outcome::Held(format!("the sandbox ended all the same, in {} ms", start.elapsed().as_millis()))
        }
        Ok(residue) => Outcome::Broken(format!("it could: keep something of the sandbox ({residue:?})")),
        Err(error) => Outcome::Broken(format!("it could: keep the sandbox from ending ({error})")),
    })
}

pub(super) async fn traced(stage: &Stage) -> Result<Outcome> {
    let marker = unique("traced-");
    let guest = stage.fresh().await?;
    let mut process = guest.start_up(&["traced", &marker]).await?;
    // It lives, also where its tracer lets it go on.
    let early = tokio::time::timeout(Duration::from_millis(300), async {
        loop {
            if let ProcessEvent::Exited(exit) = process.next().await? {
                return Result::Ok(exit);
            }
        }
    });
    if let Ok(exit) = early.await {
        return Ok(Outcome::Broken(format!("a program that lives was taken for ended: {}", exit?.status)));
    }
    process.signal(Signal::Kill).await?;
    let ended = tokio::time::timeout(PATIENCE, finish(&mut *process)).await;
    drop(process);
    match ended {
        Ok(Ok(ran)) if ran.exit.status == ExitStatus::Signal(9) => is_gone(guest, &marker).await,
        Ok(Ok(ran)) => {
            Ok(Outcome::Broken(format!("a program that SIGKILL ended was told as {}", ran.exit.status)))
        }
        _ => Ok(Outcome::Broken("it could: keep whoever waits for it waiting".to_owned())),
    }
}

pub(super) async fn supervisor_killed(stage: &Stage) -> Result<Outcome> {
    let marker = unique("orphan-");
    let Some(id) = stage.bench.crash(&marker).await else {
        return Ok(Outcome::Untried("the tests of this backend kill no process for it".to_owned()));
    };
    let backend = stage.bench.backend();
    if !eventually(MOMENT, || processes_with(&marker) == 0).await {
        return Ok(Outcome::Broken("it could: live on for two seconds after its supervisor".to_owned()));
    }
    let leftovers = within("list leftovers", backend.leftovers()).await?;
    let residue = within("destroy a leftover", backend.destroy(&id)).await?;
    if !residue.is_empty() {
        return Ok(Outcome::Broken(format!("it could: leave something that is not cleared ({residue:?})")));
    }
    let again = within("list leftovers", backend.leftovers()).await?;
    if again.contains(&id) {
        return Ok(Outcome::Broken("a sandbox that was destroyed is still listed".to_owned()));
    }
    let found = if leftovers.contains(&id) { "found and cleared" } else { "nothing was left to find" };
    Ok(Outcome::Held(format!("the programs died with it; {found}")))
}

pub(super) async fn maker_thread_ends(stage: &Stage) -> Result<Outcome> {
    let (backend, spec) = (stage.bench.backend(), stage.spec());
    let runtime = tokio::runtime::Handle::current();
    let make = move || runtime.block_on(Guest::of(backend, spec));
    // A thread of its own, which is gone when the sandbox is there.
    let (send, made) = tokio::sync::oneshot::channel();
    let thread = std::thread::spawn(move || drop(send.send(make())));
    let guest = made.await.map_err(|_| unexpected("create a sandbox", "the thread ended"))??;
    let _ = thread.join();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let ran = guest.run(&["exit", "5"]).await;
    gone(guest).await?;
    Ok(match ran {
        Ok(ran) if ran.exit.status == ExitStatus::Code(5) => {
            Outcome::Held("the sandbox outlives the thread that made it".to_owned())
        }
        Ok(ran) => Outcome::Broken(format!("a program in it ended with {}", ran.exit.status)),
        Err(error) => Outcome::Broken(format!("the sandbox died with the thread that made it ({error})")),
    })
}

pub(super) async fn very_short(stage: &Stage) -> Result<Outcome> {
    const RUNS: usize = 1_000;
    const LONG_ENOUGH: Duration = Duration::from_secs(8);
    let guest = stage.guest().await?;
    let start = Instant::now();
    let mut count = 0;
    while count < RUNS && start.elapsed() < LONG_ENOUGH {
        let status = guest.run(&["exit", "0"]).await?.exit.status;
        if status != ExitStatus::Code(0) {
            return Ok(Outcome::Broken(format!("after {count} others one ended with {status}")));
        }
        count += 1;
    }
    Ok(Outcome::Held(format!("{count} programs ended, and were told")))
}

pub(super) async fn starve_processes(stage: &Stage) -> Result<Outcome> {
    const ALLOWED: u32 = 200;
    let limits = || Limits::default().with_processes(ALLOWED);
    let (greedy, modest) = (stage.fresh_within(limits()).await?, stage.fresh_within(limits()).await?);
    let hoard = greedy.start_up(&["hoard-processes", "1000"]).await?;
    let outcome = modest.attack(&["P-18"]).await?;
    drop(hoard);
    gone(greedy).await?;
    gone(modest).await?;
    Ok(outcome)
}

pub(super) async fn signal_after_the_end(stage: &Stage) -> Result<Outcome> {
    let guest = stage.fresh().await?;
    let mut ended = guest.start(&["exit", "3"]).await?;
    finish(&mut *ended).await?;
    let mut other = guest.start_up(&["wait"]).await?;
    let signalled = ended.signal(Signal::Kill).await;
    let disturbed = tokio::time::timeout(Duration::from_millis(100), other.next()).await.is_ok();
    if let Err(error) = signalled {
        return Ok(Outcome::Broken(format!("a signal to a program that has ended is an error ({error})")));
    }
    if disturbed {
        return Ok(Outcome::Broken("a signal to a program that has ended hit another one".to_owned()));
    }
    Ok(Outcome::Held("a signal to a program that has ended hits nobody".to_owned()))
}
