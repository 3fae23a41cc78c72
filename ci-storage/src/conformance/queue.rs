//! What every [`Queue`](ci_core::queue::Queue) does.

use std::collections::BTreeSet;
use std::time::Duration;

use ci_core::ErrorKind;
use ci_core::clock::Timestamp;
use ci_core::id::{JobId, Label};
use ci_core::memory::Rig;
use ci_core::queue::{End, Extended, Leased, MOST_ATTEMPTS, NewRow, Released, SealedOutcome, Stage, Ticket};
use ci_core::records::{Batch, Condition, Fence, Key};
use futures_util::future::join_all;

use super::{acme, kind, other};

const TTL: Duration = Duration::from_secs(10);
const DAY: Duration = Duration::from_hours(24);
const ALMOST: Duration = Duration::from_secs(9);

fn labels(names: &[&str]) -> Vec<Label> {
    names.iter().map(|name| Label::parse(name).expect("a label")).collect()
}

fn row(names: &[&str]) -> NewRow {
    let (job, ticket) = (JobId::random(), Ticket::from_stored(&b"a \0 ticket"[..]));
    NewRow { job, repository: acme(), labels: labels(names), ticket, longest_wait: DAY }
}

async fn push(rig: &Rig, names: &[&str]) -> JobId {
    push_row(rig, row(names)).await
}

/// A row that may be handed out for as long as `longest_wait`.
async fn push_for(rig: &Rig, longest_wait: Duration) -> JobId {
    push_row(rig, NewRow { longest_wait, ..row(&[]) }).await
}

async fn push_row(rig: &Rig, row: NewRow) -> JobId {
    let job = row.job.clone();
    rig.database.push(row).await.expect("pushed");
    job
}

async fn lease(rig: &Rig, names: &[&str]) -> Option<Leased> {
    rig.database.lease(&labels(names), TTL).await.expect("asked")
}

async fn leased(rig: &Rig) -> Fence {
    lease(rig, &[]).await.expect("a row waits").fence
}

async fn stage(rig: &Rig, job: &JobId) -> Stage {
    rig.database.row(job).await.expect("asked").expect("there is such a job").stage
}

/// The way of a job that goes well.
pub async fn a_job_waits_runs_and_finishes(rig: Rig) {
    assert_eq!(rig.database.row(&JobId::random()).await.expect("asked"), None);
    assert!(lease(&rig, &[]).await.is_none(), "an empty queue");
    let job = push(&rig, &[]).await;
    assert_eq!(stage(&rig, &job).await, Stage::Waiting);
    let fence = leased(&rig).await;
    assert_eq!(stage(&rig, &job).await, Stage::Running);
    assert!(lease(&rig, &[]).await.is_none(), "it is leased");
    let end = End::GaveUp;
    rig.database.finish(&fence, &end, Batch::new()).await.expect("finished");
    assert_eq!(stage(&rig, &job).await, Stage::Ended(end));
    rig.clock.advance(2 * TTL);
    assert!(lease(&rig, &[]).await.is_none(), "it is finished");
}

/// Whatever a worker or the dispatcher says comes back as it was said.
pub async fn an_end_comes_out_as_it_went_in(rig: Rig) {
    let outcome = SealedOutcome::from_stored(&b"an \0 outcome"[..]);
    for end in [End::Recorded(outcome), End::Cancelled, End::GaveUp, End::Refused] {
        let job = push(&rig, &[]).await;
        let fence = leased(&rig).await;
        rig.database.finish(&fence, &end, Batch::new()).await.expect("finished");
        assert_eq!(stage(&rig, &job).await, Stage::Ended(end));
    }
}

/// Job, repository and ticket come back as they were pushed.
pub async fn a_row_comes_out_as_it_went_in(rig: Rig) {
    let row = row(&[]);
    rig.database.push(row.clone()).await.expect("pushed");
    let Leased { fence, repository, ticket, attempt } = lease(&rig, &["any"]).await.expect("a row waits");
    assert_eq!((fence.job, repository, ticket, attempt), (row.job.clone(), row.repository, row.ticket, 1));
    assert_eq!(rig.database.row(&row.job).await.expect("asked").expect("there").repository, acme());
}

/// A second row with the same id is a conflict, and changes nothing.
pub async fn a_job_is_in_the_queue_once(rig: Rig) {
    let row = row(&[]);
    rig.database.push(row.clone()).await.expect("pushed");
    let other =
        NewRow { labels: labels(&["other"]), ticket: Ticket::from_stored(&b"other"[..]), ..row.clone() };
    assert_eq!(kind(rig.database.push(other).await), Some(ErrorKind::Conflict));
    assert_eq!(lease(&rig, &[]).await.expect("the first waits").ticket, row.ticket);
    assert!(lease(&rig, &["other"]).await.is_none());
}

/// Rows come out in the order in which they went in, also those that wait again.
pub async fn the_oldest_row_comes_first(rig: Rig) {
    let (first, second, third) = (push(&rig, &[]).await, push(&rig, &[]).await, push(&rig, &[]).await);
    let fence = leased(&rig).await;
    assert_eq!(fence.job, first);
    assert_eq!(leased(&rig).await.job, second);
    rig.database.release(&fence, Released::ShuttingDown, Duration::ZERO).await.expect("released");
    assert_eq!(leased(&rig).await.job, first);
    assert_eq!(leased(&rig).await.job, third);
}

/// A worker gets a row if it offers all of its labels, and may offer more.
pub async fn all_labels_of_a_row_must_be_offered(rig: Rig) {
    let both = push(&rig, &["linux", "gpu"]).await;
    for too_few in [&[][..], &["linux"], &["gpu", "linux-2", "Linux"]] {
        assert!(lease(&rig, too_few).await.is_none(), "{too_few:?}");
    }
    let plain = push(&rig, &[]).await;
    assert_eq!(
        lease(&rig, &["linux"]).await.expect("a row waits").fence.job,
        plain,
        "the older one does not fit"
    );
    assert_eq!(lease(&rig, &["arm64", "gpu", "linux"]).await.expect("a row waits").fence.job, both);
}

/// No row is handed to two workers, and none is withheld.
pub async fn workers_that_race_get_different_rows(rig: Rig) {
    let mut pushed = BTreeSet::new();
    for _ in 0..8 {
        pushed.insert(push(&rig, &[]).await);
    }
    let leased = join_all((0..12).map(|_| lease(&rig, &[]))).await;
    let jobs: Vec<JobId> = leased.into_iter().flatten().map(|leased| leased.fence.job).collect();
    assert_eq!(jobs.len(), 8);
    assert_eq!(jobs.into_iter().collect::<BTreeSet<_>>(), pushed);
}

/// When nobody extends a lease, the row waits again, and the next lease is a later one.
pub async fn a_lapsed_lease_waits_again_with_a_larger_token(rig: Rig) {
    let job = push(&rig, &[]).await;
    let first = lease(&rig, &[]).await.expect("a row waits");
    rig.clock.advance(ALMOST);
    assert!(lease(&rig, &[]).await.is_none(), "there is a second left");
    rig.clock.advance(Duration::from_secs(1));
    assert_eq!(stage(&rig, &job).await, Stage::Waiting);
    let second = lease(&rig, &[]).await.expect("it waits again");
    assert_eq!((first.attempt, second.attempt), (1, 2));
    assert_eq!(second.fence.job, job);
    assert!(second.fence.token > first.fence.token);
}

/// After the last attempt the job is finished, and the next row is handed out.
pub async fn a_row_is_given_up_after_the_last_attempt(rig: Rig) {
    let job = push(&rig, &[]).await;
    for attempt in 1..=MOST_ATTEMPTS {
        assert_eq!(lease(&rig, &[]).await.expect("it waits").attempt, attempt);
        rig.clock.advance(TTL);
    }
    let next = push(&rig, &[]).await;
    assert_eq!(leased(&rig).await.job, next);
    assert_eq!(stage(&rig, &job).await, Stage::Ended(End::GaveUp));
}

/// A lease that was given back is over; the row waits, and has been handed out once more.
pub async fn a_released_row_waits_again_and_counts(rig: Rig) {
    let job = push(&rig, &[]).await;
    let mut token = None;
    for attempt in 1..=MOST_ATTEMPTS {
        let leased = lease(&rig, &[]).await.expect("it waits");
        assert_eq!(leased.attempt, attempt);
        assert!(Some(leased.fence.token) > token);
        token = Some(leased.fence.token);
        rig.database
            .release(&leased.fence, Released::InfrastructureFailed, Duration::ZERO)
            .await
            .expect("released");
        let again = rig.database.release(&leased.fence, Released::InfrastructureFailed, Duration::ZERO).await;
        assert_eq!(kind(again), Some(ErrorKind::Fenced));
        assert_eq!(kind(rig.database.extend(&leased.fence, TTL).await), Some(ErrorKind::Fenced));
    }
    assert!(lease(&rig, &[]).await.is_none());
    assert_eq!(stage(&rig, &job).await, Stage::Ended(End::GaveUp));
}

/// Workers may be restarted as often as one likes.
pub async fn a_row_that_was_released_by_a_worker_that_ends_counts_no_attempt(rig: Rig) {
    push(&rig, &[]).await;
    for why in [Released::ShuttingDown, Released::NotBegun].repeat(MOST_ATTEMPTS as usize) {
        let leased = lease(&rig, &[]).await.expect("it waits");
        assert_eq!(leased.attempt, 1);
        rig.database.release(&leased.fence, why, Duration::ZERO).await.expect("released");
    }
}

/// However a lease ended, whoever held it cannot pass for the next one.
pub async fn every_lease_has_a_larger_token_than_those_before(rig: Rig) {
    let job = push(&rig, &[]).await;
    let ends = [Released::ShuttingDown, Released::NotBegun, Released::InfrastructureFailed];
    let mut before = leased(&rig).await;
    for end in ends.map(Some).into_iter().chain([None]) {
        match end {
            Some(why) => rig.database.release(&before, why, Duration::ZERO).await.expect("released"),
            None => rig.clock.advance(TTL),
        }
        let fence = leased(&rig).await;
        assert_eq!(fence.job, job);
        assert!(fence.token > before.token, "{end:?}: {} after {}", fence.token, before.token);
        can_do_nothing(&rig, &before).await;
        rig.database.extend(&fence, TTL).await.expect("it holds");
        before = fence;
    }
}

/// A row that was given back for a while is not handed out before that has passed, and holds up no other.
pub async fn a_released_row_waits_for_as_long_as_was_said(rig: Rig) {
    for why in [Released::ShuttingDown, Released::NotBegun, Released::InfrastructureFailed] {
        let paused = push(&rig, &[]).await;
        let fence = leased(&rig).await;
        rig.database.release(&fence, why, 2 * TTL).await.expect("released");
        assert_eq!(stage(&rig, &paused).await, Stage::Waiting);
        assert!(lease(&rig, &[]).await.is_none(), "{why:?}: it pauses");
        let other = push(&rig, &[]).await;
        let other_fence = leased(&rig).await;
        assert_eq!(other_fence.job, other, "{why:?}");
        rig.database.finish(&other_fence, &End::Cancelled, Batch::new()).await.expect("finished");
        rig.clock.advance(TTL + ALMOST);
        assert!(lease(&rig, &[]).await.is_none(), "{why:?}: there is a second left");
        rig.clock.advance(Duration::from_secs(1));
        let again = leased(&rig).await;
        assert_eq!(again.job, paused, "{why:?}");
        rig.database.finish(&again, &End::Cancelled, Batch::new()).await.expect("finished");
    }
}

/// A row that nobody takes ends when it has waited for as long as it may.
pub async fn a_row_that_nobody_takes_expires(rig: Rig) {
    let (early, late) = (push_for(&rig, TTL).await, push_for(&rig, DAY).await);
    rig.clock.advance(ALMOST);
    assert_eq!(stage(&rig, &early).await, Stage::Waiting);
    rig.clock.advance(Duration::from_secs(1));
    assert_eq!(stage(&rig, &early).await, Stage::Ended(End::Expired));
    assert_eq!(leased(&rig).await.job, late);
    assert_eq!(stage(&rig, &early).await, Stage::Ended(End::Expired));
    rig.database.cancel(&early).await.expect("no error");
    assert_eq!(stage(&rig, &early).await, Stage::Ended(End::Expired), "it stays as it is");
}

/// A row is as old as when it was pushed: a worker that has it may take its time, and the next one gets none
/// that is too old.
pub async fn a_row_expires_only_while_it_waits(rig: Rig) {
    for is_released in [true, false] {
        let job = push_for(&rig, TTL).await;
        let fence = leased(&rig).await;
        rig.clock.advance(ALMOST);
        rig.database.extend(&fence, TTL).await.expect("it holds");
        rig.clock.advance(ALMOST);
        assert_eq!(stage(&rig, &job).await, Stage::Running);
        assert!(!rig.database.extend(&fence, TTL).await.expect("it holds").cancelled);
        if is_released {
            rig.database.release(&fence, Released::NotBegun, Duration::ZERO).await.expect("released");
        } else {
            rig.clock.advance(TTL);
        }
        assert!(lease(&rig, &[]).await.is_none(), "it is too old");
        assert_eq!(stage(&rig, &job).await, Stage::Ended(End::Expired));
    }
}

/// An extended lease lasts from now on, and no longer.
pub async fn a_lease_is_extended_while_it_holds(rig: Rig) {
    push(&rig, &[]).await;
    let fence = leased(&rig).await;
    for _ in 0..5 {
        rig.clock.advance(ALMOST);
        let extended = rig.database.extend(&fence, TTL).await.expect("it holds");
        assert_eq!(extended, Extended { ttl: TTL, cancelled: false });
    }
    let short = TTL / 2;
    assert_eq!(rig.database.extend(&fence, short).await.expect("it holds").ttl, short);
    rig.clock.advance(short);
    assert_eq!(kind(rig.database.extend(&fence, TTL).await), Some(ErrorKind::Fenced));
}

/// What somebody with this fence tries is refused, and leaves nothing.
async fn can_do_nothing(rig: &Rig, fence: &Fence) {
    let key = Key::new("written");
    let with = Batch::new().put(key.clone(), "1");
    assert_eq!(kind(rig.database.extend(fence, TTL).await), Some(ErrorKind::Fenced));
    assert_eq!(
        kind(rig.database.release(fence, Released::ShuttingDown, Duration::ZERO).await),
        Some(ErrorKind::Fenced)
    );
    let finished = rig.database.finish(fence, &End::Cancelled, with.clone()).await;
    assert_eq!(kind(finished), Some(ErrorKind::Fenced));
    let committed = rig.database.commit(with.require(Condition::Held(fence.clone()))).await;
    assert_eq!(kind(committed), Some(ErrorKind::Fenced));
    assert_eq!(rig.database.get(&key).await.expect("read"), None);
}

/// A worker whose lease has run out is refused even while nobody else has the job.
pub async fn a_lapsed_worker_can_do_nothing(rig: Rig) {
    let job = push(&rig, &[]).await;
    let fence = leased(&rig).await;
    rig.clock.advance(TTL);
    can_do_nothing(&rig, &fence).await;
    assert_eq!(stage(&rig, &job).await, Stage::Waiting);
}

/// A worker whose job somebody else has is refused, and does not disturb the other.
pub async fn a_replaced_worker_can_do_nothing(rig: Rig) {
    let job = push(&rig, &[]).await;
    let lost = leased(&rig).await;
    rig.clock.advance(TTL);
    let fence = leased(&rig).await;
    can_do_nothing(&rig, &lost).await;
    can_do_nothing(&rig, &Fence { token: fence.token + 1, ..fence.clone() }).await;
    can_do_nothing(&rig, &Fence { job: JobId::random(), ..fence.clone() }).await;
    assert_eq!(stage(&rig, &job).await, Stage::Running);
    rig.database.extend(&fence, TTL).await.expect("it holds");
}

/// Outcome and batch are written together, or neither is.
pub async fn a_job_finishes_together_with_its_batch(rig: Rig) {
    let job = push(&rig, &[]).await;
    let (fence, key) = (leased(&rig).await, Key::new("audit"));
    let with = Batch::new().require(Condition::Absent(key.clone())).put(key.clone(), "new");
    rig.database.commit(Batch::new().put(key.clone(), "old")).await.expect("committed");
    let end = End::Cancelled;
    let refused = rig.database.finish(&fence, &end, with.clone()).await;
    assert_eq!(kind(refused), Some(ErrorKind::Conflict));
    assert_eq!(stage(&rig, &job).await, Stage::Running);
    rig.database.commit(Batch::new().delete(key.clone())).await.expect("deleted");
    let with = with.require(Condition::Held(fence.clone()));
    rig.database.finish(&fence, &end, with).await.expect("finished");
    assert_eq!(stage(&rig, &job).await, Stage::Ended(end.clone()));
    assert_eq!(rig.database.get(&key).await.expect("read").expect("written").value, "new");
    let again = rig.database.finish(&fence, &end, Batch::new()).await;
    assert_eq!(kind(again), Some(ErrorKind::Fenced), "the lease is over");
}

/// A lost worker's job does not wait for as long as the calendar was set back.
pub async fn a_calendar_that_is_set_back_makes_no_lease_longer(rig: Rig) {
    push(&rig, &[]).await;
    leased(&rig).await;
    rig.clock.jump_to(Timestamp::from_unix_millis(1_000_000_000_000));
    assert!(lease(&rig, &[]).await.is_none(), "its worker may be there");
    rig.clock.advance(TTL);
    assert!(lease(&rig, &[]).await.is_some());
}

/// Neither does what was given back for a while.
pub async fn a_calendar_that_is_set_back_makes_no_pause_longer(rig: Rig) {
    push(&rig, &[]).await;
    let fence = leased(&rig).await;
    rig.database.release(&fence, Released::NotBegun, TTL).await.expect("released");
    rig.clock.jump_to(Timestamp::from_unix_millis(1_000_000_000_000));
    assert!(lease(&rig, &[]).await.is_none(), "it pauses");
    rig.clock.advance(TTL);
    assert!(lease(&rig, &[]).await.is_some());
}

/// A commit with a fence happens while the lease holds. A lost lease is told before a condition on a key.
pub async fn a_fence_holds_in_a_commit_as_long_as_the_lease(rig: Rig) {
    push(&rig, &[]).await;
    let (fence, key) = (leased(&rig).await, Key::new("a"));
    let batch = Batch::new().require(Condition::Absent(key.clone())).require(Condition::Held(fence.clone()));
    let batch = batch.put(key, "1");
    rig.database.commit(batch.clone()).await.expect("it holds");
    assert_eq!(kind(rig.database.commit(batch.clone()).await), Some(ErrorKind::Conflict));
    rig.clock.advance(TTL);
    assert_eq!(kind(rig.database.commit(batch).await), Some(ErrorKind::Fenced));
}

/// Nobody has it, so nobody needs to be told.
pub async fn a_waiting_job_is_cancelled_at_once(rig: Rig) {
    let (job, lapsed) = (push(&rig, &[]).await, push(&rig, &["b"]).await);
    rig.database.cancel(&job).await.expect("cancelled");
    assert_eq!(stage(&rig, &job).await, Stage::Ended(End::Cancelled));
    assert!(lease(&rig, &[]).await.is_none());
    assert!(lease(&rig, &["b"]).await.is_some());
    rig.clock.advance(TTL);
    rig.database.cancel(&lapsed).await.expect("cancelled");
    assert_eq!(stage(&rig, &lapsed).await, Stage::Ended(End::Cancelled));
    assert_eq!(kind(rig.database.cancel(&JobId::random()).await), Some(ErrorKind::NotFound));
}

/// Its worker hears of it at the next heartbeat, and ends it as it likes.
pub async fn a_running_job_is_told(rig: Rig) {
    let job = push(&rig, &[]).await;
    let fence = leased(&rig).await;
    rig.database.cancel(&job).await.expect("asked for");
    assert_eq!(stage(&rig, &job).await, Stage::Running);
    for _ in 0..2 {
        let extended = rig.database.extend(&fence, TTL).await.expect("it holds");
        assert_eq!(extended, Extended { ttl: TTL, cancelled: true });
    }
    rig.database.finish(&fence, &End::GaveUp, Batch::new()).await.expect("finished");
    assert_eq!(stage(&rig, &job).await, Stage::Ended(End::GaveUp));
}

/// When the worker that was told is lost or gives the job back, nobody else gets it.
pub async fn a_cancelled_job_is_not_handed_out_again(rig: Rig) {
    let (released, lost) = (push(&rig, &[]).await, push(&rig, &[]).await);
    let (fence, _) = (leased(&rig).await, leased(&rig).await);
    for job in [&released, &lost] {
        rig.database.cancel(job).await.expect("asked for");
    }
    rig.database.release(&fence, Released::ShuttingDown, Duration::ZERO).await.expect("released");
    assert_eq!(stage(&rig, &released).await, Stage::Ended(End::Cancelled));
    rig.clock.advance(TTL);
    assert!(lease(&rig, &[]).await.is_none());
    assert_eq!(stage(&rig, &lost).await, Stage::Ended(End::Cancelled));
}

/// To cancel what has ended is no error, and changes nothing.
pub async fn a_finished_job_stays_as_it_is(rig: Rig) {
    let job = push(&rig, &[]).await;
    let fence = leased(&rig).await;
    rig.database.finish(&fence, &End::GaveUp, Batch::new()).await.expect("finished");
    rig.database.cancel(&job).await.expect("no error");
    assert_eq!(stage(&rig, &job).await, Stage::Ended(End::GaveUp));
}

/// The jobs of a repository come newest first, at any stage, and page by page; nobody else's are among them.
pub async fn the_newest_jobs_of_a_repository_come_first(rig: Rig) {
    let mut pushed = Vec::new();
    for _ in 0..5 {
        pushed.insert(0, push(&rig, &[]).await);
        push_row(&rig, NewRow { repository: other(), ..row(&["other"]) }).await;
    }
    let fence = leased(&rig).await;
    rig.database.finish(&fence, &End::GaveUp, Batch::new()).await.expect("finished");
    leased(&rig).await;
    let jobs = async |before: Option<&JobId>, limit| {
        rig.database.jobs(&acme(), before, limit).await.expect("listed")
    };
    assert_eq!(jobs(None, 100).await, pushed, "one has ended, one runs, and three wait");
    assert_eq!(jobs(None, 2).await, pushed[..2]);
    assert_eq!(jobs(Some(&pushed[1]), 2).await, pushed[2..4]);
    assert_eq!(jobs(Some(&pushed[3]), 2).await, pushed[4..]);
    assert_eq!(jobs(Some(&pushed[4]), 2).await, []);
    assert_eq!(jobs(None, 0).await, []);
    assert_eq!(jobs(Some(&JobId::random()), 2).await, pushed[..2], "no job of that id bounds the list");
    for before in [None, Some(&pushed[4])] {
        let theirs = rig.database.jobs(&other(), before, 100).await.expect("listed");
        assert_eq!(theirs.len(), 5, "a job of another repository bounds no list");
    }
}
