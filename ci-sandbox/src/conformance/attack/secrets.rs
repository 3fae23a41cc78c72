//! Secrets, processes outside, and what names the machine.

use std::fs;
use std::sync::Arc;

use ci_core::Result;
use ci_core::memory::{Masking, Rig};
use ci_core::queue::Claim;
use ci_core::sandbox::{OutputStream, ProcessEvent};
use ci_core::secret::{SecretLease, SecretValue};
use ci_core::trust::Origin;

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
