//! How a sandbox begins and ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ci_core::ErrorKind;
use ci_core::id::{ImageName, SandboxId};
use ci_core::sandbox::{Backend, Spec};

use super::{gone, refusal, sandbox};
use crate::conformance::Bench;
use crate::conformance::guest::{Guest, PATIENCE, command, no_secrets};
use crate::conformance::machine::{eventually, processes_with, unique};

#[doc(hidden)]
pub async fn an_unknown_image_is_not_found(bench: Arc<dyn Bench>) {
    let id = SandboxId::random();
    let spec = Spec::new(ImageName::parse("no-such-image-of-the-kit").expect("a name"));
    let error = refusal(bench.backend().create(&id, &spec).await);
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
    empty(&*bench.backend(), &id).await;
}

/// Destroys what may be there, of which nothing must be left.
async fn empty(backend: &dyn Backend, id: &SandboxId) {
    let destroyed = tokio::time::timeout(PATIENCE, backend.destroy(id)).await.expect("it ends");
    let residue = destroyed.expect("it can be taken down");
    assert!(residue.is_empty(), "something of it is left: {residue:?}");
}

#[doc(hidden)]
pub async fn an_id_is_used_once_at_a_time(bench: Arc<dyn Bench>) {
    let guest = sandbox(&bench).await;
    let error = refusal(bench.backend().create(&guest.id, &Spec::new(bench.image())).await);
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
    guest.run(&["exit", "0"]).await.expect("the first one lives");
    gone(guest).await;
}

#[doc(hidden)]
pub async fn destroying_again_is_no_error(bench: Arc<dyn Bench>) {
    let guest = sandbox(&bench).await;
    let (backend, id) = (bench.backend(), guest.id.clone());
    // Two at once, and one after them.
    let (one, other) = tokio::join!(backend.destroy(&id), backend.destroy(&id));
    assert!(one.expect("it is destroyed").is_empty() && other.expect("it is destroyed").is_empty());
    empty(&*backend, &id).await;
    empty(&*backend, &SandboxId::random()).await;
    drop(guest);
    empty(&*backend, &id).await;
}

#[doc(hidden)]
pub async fn what_is_gone_cannot_be_used(bench: Arc<dyn Bench>) {
    let guest = sandbox(&bench).await;
    let mut process = guest.start_up(&["wait"]).await.expect("it starts");
    empty(&*bench.backend(), &guest.id).await;
    let ended = tokio::time::timeout(PATIENCE / 6, process.next()).await.expect("it ends");
    assert_eq!(refusal(ended).kind(), ErrorKind::Unavailable);
    drop(process);
    assert_eq!(refusal(guest.start(&["exit", "0"]).await).kind(), ErrorKind::Unavailable);
    assert_eq!(refusal(guest.download("/work").await).kind(), ErrorKind::Unavailable);
}

#[doc(hidden)]
pub async fn an_abandoned_sandbox_goes(bench: Arc<dyn Bench>) {
    let marker = unique("abandoned-");
    let guest = sandbox(&bench).await;
    let id = guest.id.clone();
    drop(guest.start_up(&["daemon", &marker]).await);
    // Dropping it abandons it.
    drop(guest);
    assert!(eventually(PATIENCE / 6, || processes_with(&marker) == 0).await, "its programs still run");
    empty(&*bench.backend(), &id).await;
}

#[doc(hidden)]
pub async fn destroyed_while_it_is_made(bench: Arc<dyn Bench>) {
    for round in 0..20_u32 {
        let (backend, id, spec) = (bench.backend(), SandboxId::random(), Spec::new(bench.image()));
        let making = {
            let (backend, id) = (backend.clone(), id.clone());
            tokio::spawn(async move { backend.create(&id, &spec).await })
        };
        tokio::time::sleep(Duration::from_micros(u64::from(round) * 300)).await;
        // Somebody else may be at it.
        let first = tokio::time::timeout(PATIENCE, backend.destroy(&id)).await.expect("it ends");
        let made = tokio::time::timeout(PATIENCE, making).await.expect("it ends").expect("no panic");
        drop((first, made));
        empty(&*backend, &id).await;
    }
}

#[doc(hidden)]
pub async fn dropped_at_any_moment(bench: Arc<dyn Bench>) {
    const LONG_ENOUGH: Duration = Duration::from_secs(8);
    let marker = unique("dropped-");
    // How long a whole life takes here says where to cut.
    let start = Instant::now();
    gone(sandbox(&bench).await).await;
    let step = start.elapsed() / 30;
    let start = Instant::now();
    for cut in 0..60 {
        let (backend, id) = (bench.backend(), SandboxId::random());
        let life = async {
            let guest = Guest::empty(backend.clone(), id.clone(), &Spec::new(bench.image())).await?;
            let waiting = command(&["stubborn", &marker]);
            guest.upload("/work", crate::conformance::guest::program()).await?;
            let mut process = guest.instance().exec(&waiting, &no_secrets()).await?;
            process.next().await?;
            guest.download("/work").await
        };
        let _ = tokio::time::timeout(step * cut, life).await;
        empty(&*backend, &id).await;
        if start.elapsed() > LONG_ENOUGH {
            break;
        }
    }
    assert_eq!(processes_with(&marker), 0);
}

#[doc(hidden)]
pub async fn many_live_side_by_side(bench: Arc<dyn Bench>) {
    const COUNT: usize = 10;
    let lives = (0..COUNT).map(|number| {
        let bench = bench.clone();
        async move {
            let (guest, mine) = (sandbox(&bench).await, number.to_string());
            guest.run(&["put", "/work/mine", &mine]).await.expect("it runs");
            assert_eq!(guest.run(&["read", "/work/mine"]).await.expect("it runs").text(), mine);
            gone(guest).await;
        }
    });
    futures_util::future::join_all(lives).await;
}

#[doc(hidden)]
pub async fn nobody_lists_what_is_in_use(bench: Arc<dyn Bench>) {
    let guest = sandbox(&bench).await;
    let leftovers = bench.backend().leftovers().await.expect("a list");
    assert!(!leftovers.contains(&guest.id), "a sandbox that lives is listed as left over");
    guest.run(&["exit", "0"]).await.expect("it lives");
    let id = guest.id.clone();
    gone(guest).await;
    assert!(!bench.backend().leftovers().await.expect("a list").contains(&id));
}
