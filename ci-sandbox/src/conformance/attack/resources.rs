//! Bounds, and what reads a program's output.

use std::time::Duration;

use ci_core::job::Limits;
use ci_core::sandbox::{ExitStatus, OutputStream, ProcessEvent, TerminalSize};
use ci_core::{ByteSize, ErrorKind, Result};

use super::stage::gone;
use super::{Outcome, Stage};
use crate::conformance::guest::{command, finish, unexpected, within};
use crate::conformance::tar::entries;

pub(super) async fn fill_the_disk(stage: &Stage) -> Result<Outcome> {
    const MIB: u64 = 8;
    let guest = stage.fresh_within(Limits::default().with_disk(ByteSize::mib(MIB))).await?;
    let mut told = Vec::new();
    for folder in ["/work", "/tmp", "/dev/shm", "/var/tmp"] {
        match guest.attack(&["F-13", folder, &MIB.to_string()]).await? {
            Outcome::Held(how) => told.push(format!("{folder}: {how}")),
            other => return Ok(other),
        }
    }
    gone(guest).await?;
    Ok(Outcome::Held(told.join("; ")))
}

pub(super) async fn anonymous(stage: &Stage) -> Result<Outcome> {
    memory(stage, "anonymous").await
}

pub(super) async fn files(stage: &Stage) -> Result<Outcome> {
    memory(stage, "file").await
}

pub(super) async fn shared(stage: &Stage) -> Result<Outcome> {
    memory(stage, "shm").await
}

pub(super) async fn memory_files(stage: &Stage) -> Result<Outcome> {
    memory(stage, "memfd").await
}

pub(super) async fn segments(stage: &Stage) -> Result<Outcome> {
    memory(stage, "sysv").await
}

pub(super) async fn pipes(stage: &Stage) -> Result<Outcome> {
    memory(stage, "pipes").await
}

pub(super) async fn sockets(stage: &Stage) -> Result<Outcome> {
    memory(stage, "sockets").await
}

pub(super) async fn page_tables(stage: &Stage) -> Result<Outcome> {
    memory(stage, "tables").await
}

/// Half as much again as is allowed.
async fn memory(stage: &Stage, kind: &str) -> Result<Outcome> {
    const ALLOWED: u64 = 48;
    let guest = stage.fresh_within(Limits::default().with_memory(ByteSize::mib(ALLOWED))).await?;
    let wanted = (ALLOWED + ALLOWED / 2).to_string();
    let ran = guest.run(&["F-14", kind, &wanted]).await;
    let outcome = match ran {
        Ok(ran) if ran.exit.status == ExitStatus::OutOfMemory => {
            Outcome::Held("it ran out of memory, and the outcome says so".to_owned())
        }
        Ok(ran) if ran.exit.status == ExitStatus::Signal(9) => {
            Outcome::Broken("it was killed, and the outcome does not say for what".to_owned())
        }
        Ok(ran) => match ran.text().trim_end().split_once(": ") {
            Some(("held", how)) => Outcome::Held(how.to_owned()),
            Some(("BROKEN", how)) => Outcome::Broken(how.to_owned()),
            _ => return Err(unexpected("fill the memory", format!("{ran:?}"))),
        },
        Err(error) if error.kind() == ErrorKind::Unavailable => {
            Outcome::Held("the sandbox ended with it".to_owned())
        }
        Err(error) => return Err(error),
    };
    gone(guest).await?;
    Ok(outcome)
}

pub(super) async fn starve_watches(stage: &Stage) -> Result<Outcome> {
    let (greedy, modest) = (stage.fresh().await?, stage.fresh().await?);
    let hoard = greedy.start_up(&["hoard-watches"]).await?;
    let outcome = modest.attack(&["F-21"]).await?;
    drop(hoard);
    gone(greedy).await?;
    gone(modest).await?;
    Ok(outcome)
}

pub(super) async fn processor(stage: &Stage) -> Result<Outcome> {
    const MILLIS: u32 = 50;
    let guest = stage.fresh_within(Limits::default().with_cpu_millis(MILLIS)).await?;
    let outcome = guest.attack(&["R-4", &MILLIS.to_string()]).await?;
    gone(guest).await?;
    Ok(outcome)
}

/// Work in short lives that nobody waits for.
pub(super) async fn hidden_work(stage: &Stage) -> Result<Outcome> {
    const WORK: Duration = Duration::from_millis(400);
    let guest = stage.fresh().await?;
    let usage = || async { Ok::<_, ci_core::Error>(guest.instance().usage().await?.cpu) };
    let before = within("ask what a sandbox uses", usage()).await?;
    guest.run(&["hidden-work", &WORK.as_millis().to_string(), "/work/worked"]).await?;
    within("wait for the work to be done", async {
        while guest.run(&["read", "/work/worked"]).await?.text() != "done" {}
        Ok(())
    })
    .await?;
    let after = within("ask what a sandbox uses", usage()).await?;
    gone(guest).await?;
    let (Some(before), Some(after)) = (before, after) else {
        return Ok(Outcome::Untried("the machine cannot tell what a sandbox uses".to_owned()));
    };
    let counted = after.saturating_sub(before);
    Ok(if counted >= WORK * 3 / 4 {
        Outcome::Held(format!("{counted:?} were counted of {WORK:?} of hidden work"))
    } else {
        Outcome::Broken(format!("it could: work for {WORK:?} of which {counted:?} are counted"))
    })
}

/// On a terminal that it was given, whose other end the supervisor reads.
pub(super) async fn given_terminal(stage: &Stage) -> Result<Outcome> {
    let guest = stage.guest().await?;
    let typing = command(&["S-2"]).with_terminal(TerminalSize { rows: 24, columns: 80 });
    let mut process = match guest.exec(&typing).await {
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            return Ok(Outcome::Untried("the backend has no terminals".to_owned()));
        }
        process => process?,
    };
    let ran = finish(&mut *process).await?;
    let text = ran.text();
    Ok(match text.lines().last().and_then(|line| line.split_once(": ")) {
        Some(("held", how)) => Outcome::Held(how.to_owned()),
        Some(("BROKEN", how)) => Outcome::Broken(how.to_owned()),
        Some(("untried", why)) => Outcome::Untried(why.to_owned()),
        _ => return Err(unexpected("type into a terminal", format!("{}, {text:?}", ran.exit.status))),
    })
}

pub(super) async fn flood(stage: &Stage) -> Result<Outcome> {
    const MOST: u64 = 64 * 1024 * 1024;
    let guest = stage.fresh().await?;
    let flood = guest.start(&["flood"]).await?;
    // Nobody reads. It must come to a halt, and not in the supervisor's memory.
    let (mut before, mut halted) = (0, false);
    for _ in 0..40 {
        tokio::time::sleep(Duration::from_millis(250)).await;
        let archive = guest.download("/work/flood").await.unwrap_or_default();
        let counted = entries(&archive)
            .unwrap_or_default()
            .iter()
            .find_map(|entry| std::str::from_utf8(&entry.content).ok()?.trim().parse::<u64>().ok());
        let now = counted.unwrap_or(before);
        if now > MOST {
            return Ok(Outcome::Broken(format!("it could: write {now} bytes that nobody reads")));
        }
        if now == before {
            halted = true;
            break;
        }
        before = now;
    }
    drop(flood);
    guest.run(&["exit", "0"]).await?;
    gone(guest).await?;
    Ok(if halted {
        Outcome::Held(format!("it waits for its reader, after {before} bytes at most"))
    } else {
        Outcome::Broken("it could: write without a reader".to_owned())
    })
}

pub(super) async fn held_output(stage: &Stage) -> Result<Outcome> {
    let guest = stage.fresh().await?;
    let mut process = guest.start(&["hold-output"]).await?;
    let ran = within("wait for a program", async {
        tokio::time::timeout(Duration::from_secs(10), finish(&mut *process))
            .await
            .map_err(|_| unexpected("wait for a program", "another process holds its output"))?
    })
    .await;
    drop(process);
    gone(guest).await?;
    Ok(match ran {
        Ok(ran) if ran.exit.status == ExitStatus::Code(7) && ran.text().contains("up") => {
            Outcome::Held("a program ends when it ends, whoever has its output".to_owned())
        }
        Ok(ran) => Outcome::Broken(format!("it ended with {} and {:?}", ran.exit.status, ran.text())),
        Err(error) => Outcome::Broken(format!("it could: seem to live on ({error})")),
    })
}

pub(super) async fn closed_output(stage: &Stage) -> Result<Outcome> {
    let ran = stage.guest().await?.run(&["close-output", "300"]).await?;
    Ok(match ran.exit.status {
        ExitStatus::Code(9) => Outcome::Held("a program that closes its output is waited for".to_owned()),
        other => Outcome::Broken(format!("a program that closes its output was told as {other}")),
    })
}

pub(super) async fn slow_reader(stage: &Stage) -> Result<Outcome> {
    const BYTES: usize = 4 * 1024 * 1024;
    const PERIOD: usize = 251;
    let guest = stage.guest().await?;
    let mut process = guest.start(&["write", &BYTES.to_string()]).await?;
    let (mut count, mut pieces) = (0, 0);
    loop {
        match within("read a program's output", process.next()).await? {
            ProcessEvent::Output(OutputStream::Stdout, bytes) => {
                let is_whole =
                    bytes.iter().enumerate().all(|(at, byte)| usize::from(*byte) == (count + at) % PERIOD);
                if !is_whole {
                    return Ok(Outcome::Broken(format!("bytes are lost or changed after {count} of them")));
                }
                count += bytes.len();
                pieces += 1;
                if pieces < 20 {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
            ProcessEvent::Output(OutputStream::Stderr, _) => {
                return Ok(Outcome::Broken("what was written to one stream came from the other".to_owned()));
            }
            ProcessEvent::Exited(exit) if exit.status == ExitStatus::Code(0) && count == BYTES => break,
            ProcessEvent::Exited(exit) => {
                return Ok(Outcome::Broken(format!("{count} of {BYTES} bytes came, then {}", exit.status)));
            }
        }
    }
    Ok(Outcome::Held(format!("all {BYTES} bytes came, in order")))
}

pub(super) async fn forged_frames(stage: &Stage) -> Result<Outcome> {
    let expected: [&[u8]; 6] = [
        b"\x01\x00\x00\x00\x00\x00\x00\x04fake\x02\x00\x00\x00\x00\x00\x00\x04fake",
        b"{\"exit-code\":0}\n{\"StatusCode\":0}\nexit status 0\n",
        b"\x1b]0;title\x07\x1b[2J\x1b[?1049h\x9b31m",
        b"\xff\xfe\xc3\x28\xe2\x82",
        &[0; 64],
        b"held: everything\n",
    ];
    let ran = stage.guest().await?.run(&["forge"]).await?;
    Ok(if ran.exit.status != ExitStatus::Code(42) {
        Outcome::Broken(format!("it could: choose what is told of its end ({})", ran.exit.status))
    } else if ran.stdout != expected.concat() || !ran.stderr.is_empty() {
        Outcome::Broken("it could: have its output read as something else than output".to_owned())
    } else {
        Outcome::Held("output is output, byte by byte".to_owned())
    })
}

pub(super) async fn many_programs(stage: &Stage) -> Result<Outcome> {
    const COUNT: usize = 100;
    let guest = stage.guest().await?;
    let words: Vec<String> = (0..COUNT).map(|number| number.to_string()).collect();
    let runs = words.iter().map(|word| async move { guest.run(&["say", word]).await });
    for (ran, word) in futures_util::future::join_all(runs).await.into_iter().zip(&words) {
        if ran?.text() != *word {
            return Ok(Outcome::Broken("it could: get another program's output".to_owned()));
        }
    }
    Ok(Outcome::Held(format!("{COUNT} programs at once, each with its own output")))
}
