//! The kits bite: backends that break their contract in one point each, and the cases that notice.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use ci_core::access::{Grant, Read, Write};
use ci_core::artifact::{Artifact, ArtifactStore};
use ci_core::cache::{CacheStore, readable};
use ci_core::clock::ManualClock;
use ci_core::conformance::bites;
use ci_core::id::{ArtifactName, CacheKey, JobId, Label, RepositoryId};
use ci_core::log::{Appended, Cursor, LogStore, Page};
use ci_core::memory::{Artifacts, Caches, Database, Logs, Rig};
use ci_core::queue::{Claim, End, Extended, Leased, NewRow, Queue, Released, Row};
use ci_core::records::{Batch, Condition, Fence, Key, Record, Records, Version};
use ci_core::secret::Masked;
use ci_core::trust::Trust;
use ci_core::{ByteStream, Result};
use ci_storage::conformance::{Bench, artifact, cache, log, queue, records};

use crate::backends::{memory_rig, rig};

/// What a broken database does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    Nothing,
    ConditionsIgnored,
    FencesIgnored,
    RowsHandedOutTwice,
    LeasesNeverLapse,
    TokensReused,
    PausesIgnored,
    RowsNeverExpire,
    PagesIgnored,
    HalfCommits,
    PurgesNothing,
}

#[derive(Debug)]
struct BrokenDatabase {
    inner: Database,
    wrong: Wrong,
    last: Mutex<Option<Leased>>,
}

fn broken_rig(wrong: Wrong) -> Rig {
    let clock = Arc::new(ManualClock::new());
    let inner = Database::new(clock.clone());
    rig(clock, Arc::new(BrokenDatabase { inner, wrong, last: Mutex::default() }))
}

#[async_trait]
impl Records for BrokenDatabase {
    async fn get(&self, key: &Key) -> Result<Option<Record>> {
        self.inner.get(key).await
    }

    async fn list(&self, prefix: &Key, after: Option<&Key>, limit: usize) -> Result<Vec<Record>> {
        self.inner.list(prefix, after, limit).await
    }

    async fn commit(&self, mut batch: Batch) -> Result<Version> {
        match self.wrong {
            Wrong::ConditionsIgnored => batch.conditions.retain(|it| matches!(it, Condition::Held(_))),
            Wrong::FencesIgnored => batch.conditions.retain(|it| !matches!(it, Condition::Held(_))),
            Wrong::HalfCommits => {
                let first = batch.puts.iter().take(1).cloned();
                let half = first.fold(Batch::new(), |half, (key, value)| half.put(key, value));
                self.inner.commit(half).await?;
            }
            _ => {}
        }
        self.inner.commit(batch).await
    }

    async fn purge(&self, prefix: &Key) -> Result<usize> {
        match self.wrong {
            Wrong::PurgesNothing => Ok(self.inner.list(prefix, None, usize::MAX).await?.len()),
            _ => self.inner.purge(prefix).await,
        }
    }

    async fn scan_raw(&self, needle: &[u8]) -> Result<usize> {
        self.inner.scan_raw(needle).await
    }
}

#[async_trait]
impl Queue for BrokenDatabase {
    async fn push(&self, mut row: NewRow) -> Result<()> {
        if self.wrong == Wrong::RowsNeverExpire {
            row.longest_wait *= 1_000_000;
        }
        self.inner.push(row).await
    }

    async fn lease(&self, labels: &[Label], ttl: Duration) -> Result<Option<Leased>> {
        let ttl = if self.wrong == Wrong::LeasesNeverLapse { Duration::from_secs(1_000_000) } else { ttl };
        if self.wrong == Wrong::RowsHandedOutTwice
            && let Some(again) = self.last.lock().expect("a lock").take()
        {
            return Ok(Some(again));
        }
        let mut leased = self.inner.lease(labels, ttl).await?;
        if let (Wrong::TokensReused, Some(leased)) = (self.wrong, &mut leased) {
            leased.fence.token = 1;
        }
        self.last.lock().expect("a lock").clone_from(&leased);
        Ok(leased)
    }

    async fn extend(&self, fence: &Fence, ttl: Duration) -> Result<Extended> {
        self.inner.extend(fence, ttl).await
    }

    async fn release(&self, fence: &Fence, why: Released, pause: Duration) -> Result<()> {
        let pause = if self.wrong == Wrong::PausesIgnored { Duration::ZERO } else { pause };
        self.inner.release(fence, why, pause).await
    }

    async fn finish(&self, fence: &Fence, end: &End, with: Batch) -> Result<()> {
        if self.wrong == Wrong::HalfCommits {
            self.inner.commit(with).await?;
            return self.inner.finish(fence, end, Batch::new()).await;
        }
        self.inner.finish(fence, end, with).await
    }

    async fn cancel(&self, job: &JobId) -> Result<()> {
        self.inner.cancel(job).await
    }

    async fn row(&self, job: &JobId) -> Result<Option<Row>> {
        self.inner.row(job).await
    }

    async fn jobs(
        &self,
        repository: &RepositoryId,
        before: Option<&JobId>,
        limit: usize,
    ) -> Result<Vec<JobId>> {
        let before = before.filter(|_| self.wrong != Wrong::PagesIgnored);
        self.inner.jobs(repository, before, limit).await
    }
}

#[tokio::test]
async fn the_records_kit_bites() {
    let of = |wrong| broken_rig(wrong).records();
    assert!(!bites(records::absent_holds_only_where_nothing_is(of(Wrong::Nothing))).await);
    assert!(bites(records::absent_holds_only_where_nothing_is(of(Wrong::ConditionsIgnored))).await);
    assert!(bites(records::is_holds_only_for_the_version_that_is_there(of(Wrong::ConditionsIgnored))).await);
    assert!(bites(records::of_commits_that_race_one_wins(of(Wrong::ConditionsIgnored))).await);
    assert!(bites(records::a_fence_of_no_lease_is_refused(of(Wrong::FencesIgnored))).await);
    assert!(bites(records::a_batch_happens_whole_or_not_at_all(of(Wrong::HalfCommits))).await);
    assert!(bites(records::what_was_purged_is_nowhere(of(Wrong::PurgesNothing))).await);
}

#[tokio::test]
async fn the_queue_kit_bites() {
    let of = broken_rig;
    assert!(!bites(queue::workers_that_race_get_different_rows(of(Wrong::Nothing))).await);
    assert!(bites(queue::workers_that_race_get_different_rows(of(Wrong::RowsHandedOutTwice))).await);
    assert!(bites(queue::a_lapsed_worker_can_do_nothing(of(Wrong::FencesIgnored))).await);
    assert!(bites(queue::a_lapsed_lease_waits_again_with_a_larger_token(of(Wrong::LeasesNeverLapse))).await);
    assert!(bites(queue::a_replaced_worker_can_do_nothing(of(Wrong::HalfCommits))).await);
    assert!(bites(queue::every_lease_has_a_larger_token_than_those_before(of(Wrong::TokensReused))).await);
    assert!(bites(queue::a_released_row_waits_for_as_long_as_was_said(of(Wrong::PausesIgnored))).await);
    assert!(bites(queue::a_row_that_nobody_takes_expires(of(Wrong::RowsNeverExpire))).await);
    assert!(bites(queue::a_row_expires_only_while_it_waits(of(Wrong::RowsNeverExpire))).await);
    assert!(bites(queue::the_newest_jobs_of_a_repository_come_first(of(Wrong::PagesIgnored))).await);
}

/// Logs over a database that ignores fences, and over one that is right but whose log has no memory.
#[derive(Debug)]
struct ForgetfulLogs(Logs);

#[async_trait]
impl LogStore for ForgetfulLogs {
    async fn append(&self, claim: &Claim, _seq: u64, chunk: Masked) -> Result<Appended> {
        for seq in 0.. {
            match self.0.append(claim, seq, chunk.clone()).await {
                Ok(Appended::Stored) => return Ok(Appended::Stored),
                Err(error) if error.kind() != ci_core::ErrorKind::Conflict => return Err(error),
                _ => {}
            }
        }
        unreachable!("a log has an end")
    }

    async fn close(&self, claim: &Claim) -> Result<()> {
        self.0.close(claim).await
    }

    async fn read(&self, grant: &Grant<Read>, job: &JobId, from: Cursor, limit: usize) -> Result<Page> {
        self.0.read(grant, job, from, limit).await
    }

    async fn changed(&self, grant: &Grant<Read>, job: &JobId, from: Cursor) -> Result<()> {
        self.0.changed(grant, job, from).await
    }
}

#[tokio::test]
async fn the_log_kit_bites() {
    let of = |wrong| {
        let rig = broken_rig(wrong);
        let logs: Arc<dyn LogStore> = Arc::new(Logs::new(rig.database.clone(), rig.clock.clone()));
        Bench::new(rig, logs)
    };
    let forgetful = || {
        let rig = memory_rig();
        let logs = ForgetfulLogs(Logs::new(rig.database.clone(), rig.clock.clone()));
        Bench::<dyn LogStore>::new(rig, Arc::new(logs))
    };
    assert!(!bites(log::a_lapsed_worker_writes_nothing(of(Wrong::Nothing))).await);
    assert!(bites(log::a_lapsed_worker_writes_nothing(of(Wrong::FencesIgnored))).await);
    assert!(bites(log::a_chunk_is_stored_once(forgetful())).await);
    assert!(bites(log::a_hole_is_told(forgetful())).await);
}

/// Artifacts that are there as soon as somebody begins to write them.
#[derive(Debug)]
struct HastyArtifacts(Artifacts);

#[async_trait]
impl ArtifactStore for HastyArtifacts {
    async fn put(&self, claim: &Claim, name: &ArtifactName, content: ByteStream<'_>) -> Result<Artifact> {
        self.0.put(claim, name, ci_core::stream::once("")).await?;
        self.0.put(claim, name, content).await
    }

    async fn list(&self, grant: &Grant<Read>, job: &JobId) -> Result<Vec<Artifact>> {
        self.0.list(grant, job).await
    }

    async fn get(
        &self,
        grant: &Grant<Read>,
        job: &JobId,
        name: &ArtifactName,
    ) -> Result<ByteStream<'static>> {
        self.0.get(grant, job, name).await
    }

    async fn delete(&self, grant: &Grant<Write>, job: &JobId, name: &ArtifactName) -> Result<()> {
        self.0.delete(grant, job, name).await
    }
}

#[tokio::test]
async fn the_artifact_kit_bites() {
    let hasty = || {
        let rig = memory_rig();
        let artifacts = HastyArtifacts(Artifacts::new(rig.records()));
        Bench::<dyn ArtifactStore>::new(rig, Arc::new(artifacts))
    };
    let fenceless = || {
        let rig = broken_rig(Wrong::FencesIgnored);
        let artifacts: Arc<dyn ArtifactStore> = Arc::new(Artifacts::new(rig.records()));
        Bench::new(rig, artifacts)
    };
    assert!(bites(artifact::nothing_is_visible_before_it_is_whole(hasty())).await);
    assert!(bites(artifact::a_dropped_put_leaves_nothing_visible(hasty())).await);
    assert!(bites(artifact::a_failed_stream_leaves_nothing_visible(hasty())).await);
    assert!(bites(artifact::a_lapsed_worker_keeps_nothing(fenceless())).await);
}

/// Caches where everybody restores what untrusted jobs saved.
#[derive(Debug)]
struct SharedCaches(Caches, Mutex<Vec<(CacheKey, Vec<u8>)>>);

#[async_trait]
impl CacheStore for SharedCaches {
    async fn restore(&self, claim: &Claim, key: &CacheKey) -> Result<Option<ByteStream<'static>>> {
        let own = self.0.restore(claim, key).await?;
        let shared = self.1.lock().expect("a lock");
        let found = shared.iter().rev().find(|(saved, _)| saved == key);
        Ok(own.or_else(|| found.map(|(_, bytes)| ci_core::stream::once(bytes.clone()))))
    }

    async fn save(&self, claim: &Claim, key: &CacheKey, content: ByteStream<'_>) -> Result<()> {
        let bytes = ci_core::stream::collect(content, ci_core::ByteSize::mib(1)).await?;
        self.1.lock().expect("a lock").push((key.clone(), bytes.clone()));
        self.0.save(claim, key, ci_core::stream::once(bytes)).await
    }
}

#[tokio::test]
async fn the_cache_kit_bites() {
    let shared = || {
        let rig = memory_rig();
        let caches = SharedCaches(Caches::new(rig.records()), Mutex::default());
        Bench::<dyn CacheStore>::new(rig, Arc::new(caches))
    };
    assert_eq!(readable(Trust::Protected), ["protected"]);
    assert!(bites(cache::nobody_restores_what_less_trusted_jobs_saved(shared())).await);
    assert!(bites(cache::repositories_share_nothing(shared())).await);
}
