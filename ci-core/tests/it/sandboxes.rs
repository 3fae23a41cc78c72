//! Sandboxes: whatever is dropped is taken down, and only what is gone is proven gone.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use ci_core::id::SecretName;
use ci_core::job::{Arg, Limits};
use ci_core::memory::{Files, Masking, Reply, Rig, Secrets};
use ci_core::network::{Destination, EgressRule, NetworkPolicy};
use ci_core::queue::Claim;
use ci_core::sandbox::{
    Capabilities, Command, ExitStatus, Guarantee, IsolationReport, OutputStream, ProcessEvent, Residue,
    SandboxPath, Signal, Spec,
};
use ci_core::secret::{SecretLease, SecretStore as _, SecretValue};
use ci_core::trust::Origin;
use ci_core::{ByteSize, ErrorKind, Result, stream};
use futures_util::poll;

use crate::{ours, refused, writer};

async fn claim(rig: &Rig) -> Result<Claim> {
    rig.claim(&ours(), Origin::Repository, Rig::spec()).await
}

fn spec() -> Spec {
    Spec::new(Rig::spec().image)
}

fn nothing_secret(claim: &Claim) -> SecretLease {
    SecretLease::empty(claim, Arc::new(Masking::new()))
}

fn residue() -> Residue {
    Residue { processes: 1, ..Residue::default() }
}

#[tokio::test]
async fn a_sandbox_that_is_destroyed_is_proven_gone() -> Result<()> {
    let rig = Rig::new()?;
    let sandbox = rig.sandboxes.create(&claim(&rig).await?, &spec()).await?;
    let id = sandbox.id().clone();
    assert_eq!(rig.backend.living(), std::slice::from_ref(&id));
    assert_eq!(sandbox.destroy().await?.sandbox(), &id);
    assert_eq!(rig.backend.living(), []);
    assert_eq!(rig.backend.abandoned(), []);
    Ok(())
}

#[tokio::test]
async fn a_spec_that_nobody_can_mean_reaches_no_backend() -> Result<()> {
    let rig = Rig::new()?;
    let claim = claim(&rig).await?;
    let rule = EgressRule { destination: Destination::Network("10.0.0.0/8".parse()?), ports: Vec::new() };
    let wrong = [
        spec().with_limits(Limits::default().with_weight(0)),
        spec().with_limits(Limits::default().with_processes(0)),
        spec().with_network(NetworkPolicy::Allow(vec![rule])),
    ];
    let job = rig.sandboxes.create(&claim, &spec()).await?;
    for wrong in wrong {
        assert_eq!(refused(rig.sandboxes.create(&claim, &wrong).await), ErrorKind::Invalid);
    }
    let service = spec().with_limits(Limits::default().with_weight(0));
    assert_eq!(refused(job.create_beside(&service).await), ErrorKind::Invalid);
    assert_eq!(rig.backend.living(), std::slice::from_ref(job.id()));
    Ok(())
}

#[tokio::test]
async fn a_dropped_create_leaves_nothing() -> Result<()> {
    let rig = Rig::new()?;
    let (claim, spec) = (claim(&rig).await?, spec());
    rig.backend.hang_create();
    {
        let mut create = pin!(rig.sandboxes.create(&claim, &spec));
        assert!(poll!(&mut create).is_pending());
        assert_eq!(rig.backend.living().len(), 1);
    }
    assert_eq!(rig.backend.living(), []);
    assert_eq!(rig.backend.abandoned().len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_create_that_fails_leaves_nothing() -> Result<()> {
    let rig = Rig::new()?;
    rig.backend.fail_create(ErrorKind::Unavailable);
    assert_eq!(refused(rig.sandboxes.create(&claim(&rig).await?, &spec()).await), ErrorKind::Unavailable);
    assert_eq!(rig.backend.living(), []);
    Ok(())
}

#[tokio::test]
async fn a_dropped_sandbox_is_abandoned() -> Result<()> {
    let rig = Rig::new()?;
    let sandbox = rig.sandboxes.create(&claim(&rig).await?, &spec()).await?;
    let id = sandbox.id().clone();
    drop(sandbox);
    assert_eq!(rig.backend.abandoned(), [id]);
    assert_eq!(rig.backend.living(), []);
    Ok(())
}

#[tokio::test]
async fn what_is_left_is_no_teardown() -> Result<()> {
    let rig = Rig::new()?;
    let sandbox = rig.sandboxes.create(&claim(&rig).await?, &spec()).await?;
    let id = sandbox.id().clone();
    rig.backend.leave_residue(residue());
    assert_eq!(refused(sandbox.destroy().await), ErrorKind::Internal);
    assert_eq!(rig.backend.living(), [id]);

    rig.backend.leave_residue(residue());
    assert_eq!(refused(rig.sandboxes.reap().await), ErrorKind::Internal, "it is still there");
    assert_eq!(rig.sandboxes.reap().await?, 1);
    assert_eq!(rig.backend.living(), []);
    assert_eq!(rig.sandboxes.reap().await?, 0);
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_cleared_does_not_keep_the_rest() -> Result<()> {
    let rig = Rig::new()?;
    let claim = claim(&rig).await?;
    for _ in 0..3 {
        std::mem::forget(rig.sandboxes.create(&claim, &spec()).await?);
    }
    rig.backend.restart();
    rig.backend.leave_residue(residue());
    assert_eq!(refused(rig.sandboxes.reap().await), ErrorKind::Internal);
    assert_eq!(rig.backend.living().len(), 1, "the one of which something is left");
    assert_eq!(rig.sandboxes.reap().await?, 1);
    Ok(())
}

#[tokio::test]
async fn what_earlier_processes_left_is_reaped_and_nothing_else() -> Result<()> {
    let rig = Rig::new()?;
    let claim = claim(&rig).await?;
    std::mem::forget(rig.sandboxes.create(&claim, &spec()).await?);
    rig.backend.restart();
    let living = rig.sandboxes.create(&claim, &spec()).await?;
    assert_eq!(rig.sandboxes.reap().await?, 1);
    assert_eq!(rig.backend.living(), [living.id().clone()]);
    Ok(())
}

#[tokio::test]
async fn a_sandbox_is_made_for_a_living_claim_that_it_satisfies() -> Result<()> {
    let rig = Rig::new()?;
    let claim = claim(&rig).await?;
    let demanding = spec().with_minimum([Guarantee::MemoryOnly]);
    assert_eq!(refused(rig.sandboxes.create(&claim, &demanding).await), ErrorKind::Unsupported);
    rig.backend.set_capabilities(Capabilities::new(IsolationReport::new([Guarantee::MemoryOnly])));
    assert!(
        rig.sandboxes.create(&claim, &demanding).await?.isolation().held.contains(&Guarantee::MemoryOnly)
    );
    rig.clock.advance(Duration::from_secs(30));
    assert_eq!(refused(rig.sandboxes.create(&claim, &spec()).await), ErrorKind::Fenced);
    assert_eq!(rig.backend.living(), []);
    Ok(())
}

#[tokio::test]
async fn a_program_sees_what_its_command_names_and_nothing_else() -> Result<()> {
    let rig = Rig::new()?;
    let (token, other) = (SecretName::parse("TOKEN")?, SecretName::parse("OTHER")?);
    let secrets = Secrets::new(rig.audit.clone(), rig.clock.clone());
    let grant = writer(&rig, &ours()).await?;
    for name in [&token, &other] {
        secrets.put(&grant, name, SecretValue::new("hunter2")).await?;
    }
    let claim = claim(&rig).await?;
    let lease = secrets.lease(claim.trusted()?, &[token.clone(), other]).await?;
    rig.backend.on("show", |call| {
        let names = ["TOKEN", "OTHER", "PATH"];
        let seen = names.into_iter().filter(|name| call.variable(name).is_some()).collect::<Vec<_>>();
        Reply::exit(0).stdout(seen.join(" "))
    });
    let sandbox = rig.sandboxes.create(&claim, &spec()).await?;
    let command = Command::new(Arg::new("/usr/bin/show")?, []).with_secrets([token]);
    let mut process = sandbox.exec(&command, &lease).await?;
    assert_eq!(process.next().await?, ProcessEvent::Output(OutputStream::Stdout, "TOKEN".into()));

    let missing = Command::new(Arg::new("missing")?, []);
    assert_eq!(refused(sandbox.exec(&missing, &lease).await), ErrorKind::NotFound);
    let nowhere = command.clone().with_directory(SandboxPath::parse("/nowhere")?);
    assert_eq!(refused(sandbox.exec(&nowhere, &lease).await), ErrorKind::NotFound);
    assert_eq!(refused(sandbox.exec(&command, &nothing_secret(&claim)).await), ErrorKind::NotFound);
    rig.clock.advance(Duration::from_secs(30));
    assert_eq!(refused(sandbox.exec(&command, &lease).await), ErrorKind::Fenced);
    Ok(())
}

#[tokio::test]
async fn a_program_that_hangs_ends_by_a_signal() -> Result<()> {
    let rig = Rig::new()?;
    let claim = claim(&rig).await?;
    rig.backend.on("wait", |_| Reply::hang().stderr("waiting"));
    let sandbox = rig.sandboxes.create(&claim, &spec()).await?;
    let mut process = sandbox.exec(&Command::new(Arg::new("wait")?, []), &nothing_secret(&claim)).await?;
    assert_eq!(process.next().await?, ProcessEvent::Output(OutputStream::Stderr, "waiting".into()));
    assert!(poll!(process.next()).is_pending());
    process.signal(Signal::Terminate).await?;
    match process.next().await? {
        ProcessEvent::Exited(exit) => assert_eq!(exit.status, ExitStatus::Signal(15)),
        event @ ProcessEvent::Output(..) => panic!("{event:?}"),
    }
    rig.backend.restart();
    assert_eq!(refused(process.next().await), ErrorKind::Unavailable);
    Ok(())
}

#[tokio::test]
async fn files_go_in_and_out_as_archives() -> Result<()> {
    let rig = Rig::new()?;
    let claim = claim(&rig).await?;
    let write = |files: &mut Files| files.write(&SandboxPath::work().join("out/report")?, "fine");
    rig.backend.on("make", move |call| write(call.files()).map_or(Reply::exit(1), |()| Reply::exit(0)));
    let (from, to) =
        (rig.sandboxes.create(&claim, &spec()).await?, rig.sandboxes.create(&claim, &spec()).await?);
    from.exec(&Command::new(Arg::new("make")?, []), &nothing_secret(&claim)).await?;
    let folder = SandboxPath::work().join("out")?;
    let tar = stream::collect(from.download(&folder), ByteSize::mib(1)).await?;
    to.upload(&SandboxPath::parse("/tmp")?, stream::once(tar.clone())).await?;

    rig.backend.on("read", |call| {
        let content = SandboxPath::parse("/tmp/out/report").ok().and_then(|path| call.files().read(&path));
        Reply::exit(0).stdout(content.unwrap_or_default())
    });
    let mut read = to.exec(&Command::new(Arg::new("read")?, []), &nothing_secret(&claim)).await?;
    assert_eq!(read.next().await?, ProcessEvent::Output(OutputStream::Stdout, "fine".into()));

    let nothing = stream::collect(from.download(&SandboxPath::parse("/nothing")?), ByteSize::mib(1)).await;
    assert_eq!(refused(nothing), ErrorKind::NotFound);
    let cut = stream::once(tar[..100].to_vec());
    assert_eq!(refused(to.upload(&SandboxPath::work(), cut).await), ErrorKind::Invalid);
    Ok(())
}
