//! Helper sandboxes that go wrong, in memory.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use ci_core::forge::{RevisionName, Source as _, SourcePath};
use ci_core::memory::{Reply, Scripted};
use ci_core::sandbox::{Capabilities, ExitStatus, Residue, Sandboxes};
use ci_core::{ByteSize, ErrorKind, Result};

use crate::world::World;

/// A backend whose `git` answers every question in the same way, after the helper was prepared.
fn scripted(answer: Reply) -> Scripted {
    let backend = Scripted::new();
    backend.set_capabilities(Capabilities::default().with_host_folders());
    backend.on("git", move |call| {
        let is_prepared = call.arguments().contains(&"config");
        if is_prepared { Reply::exit(0) } else { answer.clone() }
    });
    backend
}

async fn resolve(world: &World, backend: &Scripted) -> Result<()> {
    let sandboxes = Sandboxes::new(Arc::new(backend.clone()));
    let name = RevisionName::parse("main").unwrap();
    world.git.resolve(world.grant.scope().unwrap(), &sandboxes, &name).await.map(drop)
}

async fn read(world: &World, backend: &Scripted) -> Result<()> {
    let sandboxes = Sandboxes::new(Arc::new(backend.clone()));
    let (commit, path) = ("c".repeat(40).parse().unwrap(), SourcePath::parse("f").unwrap());
    let (scope, most) = (world.grant.scope().unwrap(), ByteSize::bytes(8));
    world.git.read(scope, &sandboxes, &commit, &path, most).await.map(drop)
}

fn found() -> Reply {
    Reply::exit(0).stdout(format!("{} commit   refs/heads/main\n", "a".repeat(40)))
}

/// What git says about a file need not be true in a repository that was made to do harm.
#[tokio::test]
async fn a_file_that_is_longer_than_git_said_is_refused() {
    let (world, backend) = (World::new().await, Scripted::new());
    backend.set_capabilities(Capabilities::default().with_host_folders());
    backend.on("git", |call| {
        let asks = |word| call.arguments().contains(&word);
        match () {
            () if asks("-t") => Reply::exit(0).stdout("commit\n"),
            () if asks("ls-tree") => Reply::exit(0).stdout(format!("100644 blob {} 1\tf\0", "a".repeat(40))),
            () if asks("blob") => (0..9).fold(Reply::hang(), |reply, _| reply.stdout("x")),
            () => Reply::exit(0),
        }
    });
    let read = read(&world, &backend).await;
    assert_eq!(read.unwrap_err().kind(), ErrorKind::LimitExceeded);
    assert!(backend.living().is_empty());
}

#[tokio::test]
async fn a_git_that_was_ended_has_not_said_that_a_commit_is_missing() {
    let world = World::new().await;
    for (answer, expected) in [
        (Reply::exit(128).stderr("fatal: git cat-file: could not get object info\n"), ErrorKind::NotFound),
        (Reply::end(ExitStatus::Signal(9)), ErrorKind::Unavailable),
        (Reply::end(ExitStatus::OutOfMemory), ErrorKind::LimitExceeded),
    ] {
        assert_eq!(read(&world, &scripted(answer)).await.unwrap_err().kind(), expected);
    }
}

#[tokio::test]
async fn a_helper_of_which_something_is_left_is_no_success() {
    let (world, backend) = (World::new().await, scripted(found()));
    assert!(resolve(&world, &backend).await.is_ok());
    let residue = Residue { processes: 1, ..Residue::default() };
    backend.leave_residue(residue);
    assert_eq!(resolve(&world, &backend).await.unwrap_err().kind(), ErrorKind::Internal);
}

#[tokio::test]
async fn a_helper_is_abandoned_when_nobody_waits_for_it() {
    let (world, backend) = (World::new().await, scripted(Reply::hang()));
    {
        let mut waiting = Box::pin(resolve(&world, &backend));
        while backend.living().is_empty() {
            let polled = waiting.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert!(matches!(polled, Poll::Pending), "it hangs");
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(backend.abandoned().len(), 1);
}

#[tokio::test]
async fn what_git_says_is_bounded_and_how_it_ended_counts() {
    let world = World::new().await;
    let out_of_memory = Reply::end(ExitStatus::OutOfMemory);
    let endless = (0..5).fold(Reply::exit(0), |reply, _| reply.stdout(vec![b'x'; 1024 * 1024]));
    for (answer, expected) in [
        (endless, ErrorKind::LimitExceeded),
        (out_of_memory, ErrorKind::LimitExceeded),
        (Reply::end(ExitStatus::Signal(9)).stdout("a"), ErrorKind::Unavailable),
        (Reply::exit(0).stdout("not what git prints\n"), ErrorKind::NotFound),
        (Reply::exit(0).stdout([0xff, 0xfe, b'\n'].to_vec()), ErrorKind::NotFound),
    ] {
        assert_eq!(resolve(&world, &scripted(answer)).await.unwrap_err().kind(), expected);
    }
    assert!(
        resolve(&world, &scripted(found().stderr(vec![b'x'; 100_000]))).await.is_ok(),
        "warnings are cut"
    );
}
