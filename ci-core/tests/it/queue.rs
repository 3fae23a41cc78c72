//! What a queue and its records promise, over the database in memory.

use std::sync::Arc;
use std::time::Duration;

use ci_core::clock::ManualClock;
use ci_core::id::{JobId, Label};
use ci_core::memory::Database;
use ci_core::queue::{End, MOST_ATTEMPTS, NewRow, Queue, Released, Stage, Ticket};
use ci_core::records::{Batch, Condition, Fence, Key, Records};
use ci_core::{ErrorKind, Result};

use crate::{ours, refused};

const TTL: Duration = Duration::from_secs(30);

struct Setup {
    clock: Arc<ManualClock>,
    database: Database,
}

const DAY: Duration = Duration::from_hours(24);

impl Setup {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::new());
        Self { database: Database::new(clock.clone()), clock }
    }

    async fn push(&self, labels: &[&str]) -> Result<JobId> {
        let job = JobId::random();
        let labels = labels.iter().map(Label::parse).collect::<Result<_>>()?;
        let ticket = Ticket::from_stored("sealed");
        self.database
            .push(NewRow { job: job.clone(), repository: ours(), labels, ticket, longest_wait: DAY })
            .await?;
        Ok(job)
    }

    async fn lease(&self, labels: &[&str]) -> Result<Option<Fence>> {
        let labels: Vec<Label> = labels.iter().map(Label::parse).collect::<Result<_>>()?;
        Ok(self.database.lease(&labels, TTL).await?.map(|leased| leased.fence))
    }

    async fn stage(&self, job: &JobId) -> Result<Stage> {
        Ok(self.database.row(job).await?.expect("a row").stage)
    }
}

#[tokio::test]
async fn the_oldest_job_that_fits_is_leased() -> Result<()> {
    let setup = Setup::new();
    let (gpu, one) = (setup.push(&["linux", "gpu"]).await?, setup.push(&["linux"]).await?);
    let two = setup.push(&[]).await?;
    assert_eq!(setup.lease(&["linux", "arm64"]).await?.expect("a job").job, one);
    assert_eq!(setup.lease(&[]).await?.expect("a job").job, two);
    assert_eq!(setup.lease(&["linux"]).await?, None);
    assert_eq!(setup.lease(&["gpu", "linux"]).await?.expect("a job").job, gpu);
    Ok(())
}

#[tokio::test]
async fn tokens_grow_and_a_lost_job_is_given_up() -> Result<()> {
    let setup = Setup::new();
    let job = setup.push(&[]).await?;
    let mut token = 0;
    for _ in 0..MOST_ATTEMPTS {
        let fence = setup.lease(&[]).await?.expect("the job");
        assert!(fence.token > token);
        token = fence.token;
        setup.clock.advance(TTL);
        assert_eq!(refused(setup.database.extend(&fence, TTL).await), ErrorKind::Fenced);
        assert_eq!(setup.stage(&job).await?, Stage::Waiting);
    }
    assert_eq!(setup.lease(&[]).await?, None);
    assert_eq!(setup.stage(&job).await?, Stage::Ended(End::GaveUp));
    Ok(())
}

#[tokio::test]
async fn a_job_can_be_cancelled_at_every_stage() -> Result<()> {
    let setup = Setup::new();
    let waiting = setup.push(&[]).await?;
    setup.database.cancel(&waiting).await?;
    assert_eq!(setup.stage(&waiting).await?, Stage::Ended(End::Cancelled));
    assert_eq!(setup.lease(&[]).await?, None);

    let running = setup.push(&[]).await?;
    let fence = setup.lease(&[]).await?.expect("the job");
    setup.database.cancel(&running).await?;
    assert!(setup.database.extend(&fence, TTL).await?.cancelled);
    setup.clock.advance(TTL);
    assert_eq!(setup.stage(&running).await?, Stage::Ended(End::Cancelled), "its worker is lost");

    setup.database.cancel(&running).await?;
    assert_eq!(refused(setup.database.cancel(&JobId::random()).await), ErrorKind::NotFound);
    Ok(())
}

#[tokio::test]
async fn who_lost_the_lease_writes_nothing() -> Result<()> {
    let setup = Setup::new();
    let (job, key) = (setup.push(&[]).await?, Key::new("result"));
    let old = setup.lease(&[]).await?.expect("the job");
    setup.clock.advance(TTL);
    let new = setup.lease(&[]).await?.expect("the job");
    let write = |fence: &Fence| Batch::new().require(Condition::Held(fence.clone())).put(key.clone(), "x");
    assert_eq!(refused(setup.database.commit(write(&old)).await), ErrorKind::Fenced);
    let end = End::Cancelled;
    let with = Batch::new().put(key.clone(), "x");
    assert_eq!(refused(setup.database.finish(&old, &end, with.clone()).await), ErrorKind::Fenced);
    assert_eq!(
        refused(setup.database.release(&old, Released::ShuttingDown, Duration::ZERO).await),
        ErrorKind::Fenced
    );
    assert_eq!(setup.database.get(&key).await?, None);

    setup.database.commit(write(&new)).await?;
    let condition = Condition::Absent(key.clone());
    let refusal = setup.database.finish(&new, &end, with.clone().require(condition)).await;
    assert_eq!(refused(refusal), ErrorKind::Conflict);
    assert_eq!(setup.stage(&job).await?, Stage::Running, "both happen, or neither");
    setup.database.finish(&new, &end, with).await?;
    assert_eq!(refused(setup.database.commit(write(&new)).await), ErrorKind::Fenced, "the job has ended");
    Ok(())
}

#[tokio::test]
async fn a_commit_happens_whole_or_not_at_all() -> Result<()> {
    let database = Setup::new().database;
    let (a, b) = (Key::new("a"), Key::new("b"));
    let first = database.commit(Batch::new().put(a.clone(), "1")).await?;
    let second = database.commit(Batch::new().put(a.clone(), "2")).await?;
    assert!(second > first);
    let late = Batch::new().require(Condition::Is(a.clone(), first)).put(b.clone(), "x").delete(a.clone());
    assert_eq!(refused(database.commit(late).await), ErrorKind::Conflict);
    assert_eq!(database.get(&b).await?, None);
    assert_eq!(database.get(&a).await?.expect("a record").value, "2");
    let now = Batch::new().require(Condition::Is(a.clone(), second)).put(b.clone(), "x").delete(a.clone());
    database.commit(now).await?;
    assert_eq!(database.get(&a).await?, None);
    Ok(())
}

#[tokio::test]
async fn a_list_has_what_lies_below_a_prefix() -> Result<()> {
    let database = Setup::new().database;
    let prefix = Key::new("a");
    let below: Vec<Key> = (0..5).map(|number| prefix.clone().number(number)).collect();
    let beside = [prefix.clone(), Key::new("a-b").part("x"), Key::new("a.b"), Key::new("ab"), Key::new("b")];
    let all = below.iter().chain(&beside).fold(Batch::new(), |batch, key| batch.put(key.clone(), "a value"));
    database.commit(all).await?;
    let keys = async |after: Option<&Key>, limit| -> Result<Vec<Key>> {
        Ok(database.list(&prefix, after, limit).await?.into_iter().map(|record| record.key).collect())
    };
    assert_eq!(keys(None, 100).await?, below);
    assert_eq!(keys(None, 2).await?, below[..2]);
    assert_eq!(keys(Some(&below[1]), 2).await?, below[2..4]);
    assert_eq!(keys(Some(&below[4]), 2).await?, []);
    assert_eq!(database.purge(&prefix).await?, 5);
    assert_eq!(keys(None, 100).await?, []);
    assert!(database.get(&beside[0]).await?.is_some());
    Ok(())
}

#[tokio::test]
async fn what_is_purged_is_not_found_in_the_raw_store() -> Result<()> {
    let database = Setup::new().database;
    database.commit(Batch::new().put(Key::new("a").part("b"), "the needle and the needle")).await?;
    assert_eq!(database.scan_raw(b"the needle").await?, 2);
    database.purge(&Key::new("a")).await?;
    assert_eq!(database.scan_raw(b"the needle").await?, 0);
    assert_eq!(refused(database.scan_raw(b"short").await), ErrorKind::Invalid);
    Ok(())
}
