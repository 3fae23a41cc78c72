//! Secrets, processes outside, and what names the machine.

use std::fs;
use std::sync::Arc;

use ci_core::memory::{Masking, Rig};
use ci_core::queue::Claim;
use ci_core::sandbox::{OutputStream, ProcessEvent, SecretUse};
use ci_core::secret::{SecretLease, SecretValue};
use ci_core::trust::Origin;
use ci_core::{ErrorKind, Result};

use super::stage::gone;
use super::{Outcome, Stage};
use crate::conformance::guest::{Guest, command, unexpected, within};
use crate::conformance::machine::{Bystander, backwards, boot, namespace, unique};

/// A claim that may have secrets.
pub(crate) async fn claim() -> Result<(Rig, Claim)> {
    let rig = Rig::new()?;
    let claim = rig.claim(&Rig::repository("1", "tenant")?, Origin::Protected, Rig::spec()).await?;
    Ok((rig, claim))
}

/// A lease of one secret of that name.
pub(crate) fn lease(claim: &Claim, name: &str, value: impl Into<Vec<u8>>) -> Result<SecretLease> {
    let secret = (name.parse()?, SecretValue::new(value));
    Ok(SecretLease::new(claim.trusted()?, [secret], Arc::new(Masking::new())))
}

pub(super) async fn processes_outside(stage: &Stage) -> Result<Outcome> {
    let secret = unique("supervisor-");
    let failed = |error| unexpected("start a process", format!("{error}"));
    let bystander = Bystander::new(&secret).map_err(failed)?;
    // In this program's memory, at this address.
    let in_memory = secret.clone().into_bytes();
    let words = [
        "S-3".to_owned(),
        backwards(&secret),
        std::process::id().to_string(),
        format!("{:x}", in_memory.as_ptr() as usize),
        bystander.pid().to_string(),
        "0".to_owned(),
    ];
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let outcome = stage.guest().await?.attack(&words).await;
    drop(std::hint::black_box(in_memory));
    outcome
}

pub(super) async fn messages(stage: &Stage) -> Result<Outcome> {
    const KEY: u32 = 0x00c1_5a7d;
    let key = (KEY ^ std::process::id()).to_string();
    let other = stage.fresh().await?;
    let mut holder = other.start(&["messages", &key]).await?;
    let made = crate::conformance::guest::line(&mut *holder).await?;
    let outcome = stage.guest().await?.attack(&["S-4", &key]).await?;
    drop(holder);
    gone(other).await?;
    // Those of a sandbox that is gone are gone too, and not on the machine.
    let later = stage.fresh().await?.attack(&["S-4", &key]).await?;
    for table in ["shm", "msg", "sem"] {
        let table = fs::read_to_string(format!("/proc/sysvipc/{table}")).unwrap_or_default();
        if table.lines().any(|line| line.split_whitespace().next() == Some(key.as_str())) {
            return Ok(Outcome::Broken("it could: leave messages on the machine".to_owned()));
        }
    }
    Ok(match (outcome, later) {
        (_, _) if made == "0" => {
            Outcome::Untried("nothing of the kind can be made in the sandbox".to_owned())
        }
        (Outcome::Held(_), later) => later,
        (outcome, _) => outcome,
    })
}

pub(super) async fn namespaces(stage: &Stage) -> Result<Outcome> {
    // A user namespace is one way among several to have other ids.
    let kinds = ["mnt", "pid", "net", "ipc", "uts"].map(namespace);
    let boot = boot();
    let words: Vec<&str> =
        ["namespaces", &boot].into_iter().chain(kinds.iter().map(String::as_str)).collect();
    stage.guest().await?.attack(&words).await
}

pub(super) async fn of_another_program(stage: &Stage) -> Result<Outcome> {
    let secret = unique("secret-");
    let (_rig, claim) = claim().await?;
    let lease = lease(&claim, "TOKEN", secret.clone())?;
    let guest = stage.fresh().await?;
    // One that has it and waits, and one that had it and is gone.
    let asking = command(&["environment"]).with_secrets(["TOKEN".parse::<ci_core::id::SecretName>()?]);
    let mut owner = within("start a program", guest.instance().exec(&asking, &lease)).await?;
    let ran = crate::conformance::guest::finish(&mut *owner).await?;
    if !ran.text().contains(&secret) {
        return Err(unexpected("hand a secret over", "the program that asked for it does not have it"));
    }
    drop(owner);
    let waiting = command(&["wait"]).with_secrets(["TOKEN".parse::<ci_core::id::SecretName>()?]);
    let mut owner = within("start a program", guest.instance().exec(&waiting, &lease)).await?;
    let first = within("read a program's output", owner.next()).await?;
    if !matches!(first, ProcessEvent::Output(OutputStream::Stdout, _)) {
        return Err(unexpected("start a program", "it ended"));
    }
    // Its number inside; its variables are its own.
    let number = guest.run(&["find", &backwards("wait")]).await?.text();
    let outcome = search(&guest, &secret, number.trim()).await?;
    drop(owner);
    gone(guest).await?;
    Ok(outcome)
}

async fn search(guest: &Guest, secret: &str, owner: &str) -> Result<Outcome> {
    guest.attack(&["E-1", &backwards(secret), owner]).await
}

pub(super) async fn of_another_sandbox(stage: &Stage) -> Result<Outcome> {
    let secret = unique("secret-");
    let (_rig, claim) = claim().await?;
    let lease = lease(&claim, "TOKEN", secret.clone())?;
    let owner = stage.fresh().await?;
    let waiting = command(&["wait"]).with_secrets(["TOKEN".parse::<ci_core::id::SecretName>()?]);
    let mut process = within("start a program", owner.instance().exec(&waiting, &lease)).await?;
    let _up = within("read a program's output", process.next()).await?;
    let beside = search(&stage.fresh().await?, &secret, "0").await?;
    drop(process);
    gone(owner).await?;
    let after = search(&stage.fresh().await?, &secret, "0").await?;
    Ok(match beside {
        Outcome::Held(_) => after,
        other => other,
    })
}

/// As a file: in no argument and no variable of anybody while its program lives, and nowhere afterwards.
pub(super) async fn in_a_file(stage: &Stage) -> Result<Outcome> {
    let secret = unique("secret-");
    let (_rig, claim) = claim().await?;
    let lease = lease(&claim, "KEY", secret.clone())?;
    let guest = stage.fresh().await?;
    let asking = |last| {
        Result::Ok(command(&["secret-file", "KEY", last]).with_secrets([SecretUse::file("KEY".parse()?)]))
    };
    let owner = within("start a program", guest.instance().exec(&asking("stay")?, &lease)).await;
    let mut owner = match owner {
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            return Ok(Outcome::Untried("the backend has no secrets as files".to_owned()));
        }
        owner => owner?,
    };
    let said = crate::conformance::guest::line(&mut *owner).await?;
    let path = said.lines().next().unwrap_or_default().to_owned();
    let living = guest.attack(&["E-1", &backwards(&secret), "0", "processes"]).await?;
    let beside = search(&stage.fresh().await?, &secret, "0").await?;
    drop(owner);
    // Another has ended by itself, and left a process behind.
    let mut ended = within("start a program", guest.instance().exec(&asking("leave")?, &lease)).await?;
    crate::conformance::guest::finish(&mut *ended).await?;
    drop(ended);
    let mut left = guest.run(&["read", &path]).await?.text();
    let start = std::time::Instant::now();
    while !left.is_empty() && start.elapsed() < crate::conformance::guest::PATIENCE / 10 {
        left = guest.run(&["read", &path]).await?.text();
    }
    let after = search(&guest, &secret, "0").await?;
    gone(guest).await?;
    if !left.is_empty() {
        return Ok(Outcome::Broken(format!("it could: read {path} after its program has ended")));
    }
    Ok([living, beside].into_iter().find(|outcome| !matches!(outcome, Outcome::Held(_))).unwrap_or(after))
}

/// What a service sees of its job, beside the network.
pub(super) async fn beside(stage: &Stage) -> Result<Outcome> {
    if !stage.bench.backend().capabilities().services {
        return Ok(Outcome::Untried("the backend has no services".to_owned()));
    }
    let (word, key) = (unique("jobs-"), (0x00c1_5a7e ^ std::process::id()).to_string());
    let job = stage.fresh().await?;
    let service = Guest::beside(stage.bench.backend(), stage.spec(), &job.id).await?;
    let marked = job.run(&["mark", &word]).await?.text();
    let mut waiting = job.start_up(&["wait", &word]).await?;
    let mut holder = job.start(&["messages", &key]).await?;
    crate::conformance::guest::line(&mut *holder).await?;
    let mut shared = None;
    for folder in marked.lines() {
        let file = format!("{}/{word}", folder.trim_end_matches('/'));
        if !service.run(&["read", &file]).await?.stdout.is_empty() {
            shared = Some(format!("it could: read the job's {folder}"));
        }
    }
    if !service.run(&["find", &backwards(&word)]).await?.text().is_empty() {
        shared = Some("it could: see the job's programs".to_owned());
    }
    let messages = service.attack(&["S-4", &key]).await?;
    let signalled = service.attack(&["P-8", &namespace("pid"), &boot()]).await;
    let disturbed = tokio::time::timeout(std::time::Duration::from_millis(100), waiting.next()).await.is_ok();
    drop((waiting, holder));
    gone(service).await?;
    gone(job).await?;
    Ok(match (shared, messages, signalled) {
        (Some(how), ..) => Outcome::Broken(how),
        _ if disturbed => Outcome::Broken("it could: end the job's programs".to_owned()),
        (None, Outcome::Held(_), Ok(Outcome::Held(_)) | Err(_)) => {
            Outcome::Held("files, programs and messages of the job are not its own".to_owned())
        }
        (None, Outcome::Held(_), Ok(other)) | (None, other, _) => other,
    })
}

pub(super) async fn names_of_the_machine(stage: &Stage) -> Result<Outcome> {
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default().trim().to_owned();
    let or_none = |text: String| if text.is_empty() { unique("none-") } else { text };
    let host = or_none(read("/proc/sys/kernel/hostname"));
    let machine = or_none(read("/etc/machine-id"));
    stage.guest().await?.attack(&["E-2", &boot(), &host, &machine]).await
}

pub(super) async fn randomness(stage: &Stage) -> Result<Outcome> {
    let one = stage.fresh().await?.run(&["random"]).await?.text();
    let two = stage.fresh().await?.run(&["random"]).await?.text();
    Ok(if one == two || one.len() != 32 {
        Outcome::Broken("it could: know the random numbers of another sandbox".to_owned())
    } else {
        Outcome::Held("two sandboxes have different random numbers".to_owned())
    })
}
