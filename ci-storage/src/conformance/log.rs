//! What every [`LogStore`] does.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use ci_core::access::{Grant, Read};
use ci_core::id::JobId;
use ci_core::log::{Appended, Cursor, LogStore, LogStoreExt as _, MOST_CHUNK, Page};
use ci_core::memory::{Masking, Rig};
use ci_core::queue::{Claim, End};
use ci_core::records::Batch;
use ci_core::secret::{Masked, SecretLease};
use ci_core::{ByteSize, ErrorKind, Result, stream};
use futures_util::future::join;

use super::{Bench, LAPSE, acme, claim, claim_of_stalled_worker, kind, other};

type Backend = Bench<dyn LogStore>;

fn masked(claim: &Claim, bytes: &[u8]) -> Masked {
    SecretLease::empty(claim, Arc::new(Masking::new())).mask().push(bytes)
}

async fn append(bench: &Backend, claim: &Claim, seq: u64, bytes: &[u8]) -> Result<Appended> {
    bench.store.append(claim, seq, masked(claim, bytes)).await
}

async fn write(bench: &Backend, claim: &Claim, chunks: &[&[u8]]) {
    for (seq, chunk) in (0..).zip(chunks) {
        assert_eq!(append(bench, claim, seq, chunk).await.expect("appended"), Appended::Stored);
    }
}

async fn reader(bench: &Backend) -> Grant<Read> {
    bench.rig.grant(&Rig::user("ada").expect("a user"), &acme()).await.expect("a grant")
}

async fn read(bench: &Backend, job: &JobId, from: u64, limit: usize) -> Page {
    bench.store.read(&reader(bench).await, job, Cursor(from), limit).await.expect("read")
}

fn page(bytes: &'static [u8], next: u64, end: bool) -> Page {
    Page { bytes: bytes.into(), next: Cursor(next), end }
}

/// Any bytes, from any chunk on, in their order.
pub async fn a_log_is_read_as_it_was_written(bench: Backend) {
    let claim = claim(&bench.rig).await;
    write(&bench, &claim, &[b"one\n", b"", b"\0\xff\n", b"four"]).await;
    assert_eq!(read(&bench, claim.job(), 0, 1_000_000).await, page(b"one\n\0\xff\nfour", 4, false));
    assert_eq!(read(&bench, claim.job(), 2, 1_000_000).await, page(b"\0\xff\nfour", 4, false));
    assert_eq!(read(&bench, claim.job(), 4, 1_000_000).await, page(b"", 4, false));
}

/// No output is not the same as no job.
pub async fn a_job_that_wrote_nothing_has_an_empty_log(bench: Backend) {
    let claim = claim(&bench.rig).await;
    assert_eq!(read(&bench, claim.job(), 0, 1_000).await, page(b"", 0, false));
    bench.store.close(&claim).await.expect("closed");
    assert_eq!(read(&bench, claim.job(), 0, 1_000).await, page(b"", 0, true));
}

/// Pages stay within the limit, but always go on, and together are the whole.
pub async fn a_page_has_no_more_bytes_than_asked_and_at_least_a_chunk(bench: Backend) {
    let claim = claim(&bench.rig).await;
    let chunks: Vec<Vec<u8>> = (1..30_u8).map(|number| vec![number; usize::from(number) * 20]).collect();
    write(&bench, &claim, &chunks.iter().map(Vec::as_slice).collect::<Vec<_>>()).await;
    bench.store.close(&claim).await.expect("closed");
    let expected = chunks.concat();
    for limit in [0, 1, 333, 1_000, usize::MAX] {
        let (mut whole, mut cursor) = (Vec::new(), 0);
        loop {
            let Page { bytes, next, end } = read(&bench, claim.job(), cursor, limit).await;
            let is_one_chunk = next.0 == cursor + 1;
            assert!(next.0 > cursor && (bytes.len() <= limit || is_one_chunk), "limit {limit}");
            whole.extend_from_slice(&bytes);
            cursor = next.0;
            if end {
                break;
            }
        }
        assert_eq!(whole, expected, "limit {limit}");
    }
}

/// A call that is made again with the same bytes is answered, and stores nothing twice.
pub async fn a_chunk_is_stored_once(bench: Backend) {
    let claim = claim(&bench.rig).await;
    write(&bench, &claim, &[b"one", b"two"]).await;
    for (seq, bytes) in [(0, b"one"), (1, b"two")] {
        assert_eq!(append(&bench, &claim, seq, bytes).await.expect("answered"), Appended::Repeated);
    }
    for other in [&b"ONE"[..], b"on", b"one ", b""] {
        assert_eq!(kind(append(&bench, &claim, 0, other).await), Some(ErrorKind::Conflict));
    }
    assert_eq!(read(&bench, claim.job(), 0, 1_000).await, page(b"onetwo", 2, false));
}

/// What is missing is said, and what came too early is not stored.
pub async fn a_hole_is_told(bench: Backend) {
    let claim = claim(&bench.rig).await;
    assert_eq!(append(&bench, &claim, 1, b"x").await.expect("answered"), Appended::Gap { expected: 0 });
    write(&bench, &claim, &[b"one"]).await;
    for seq in [2, 7, u64::MAX] {
        assert_eq!(append(&bench, &claim, seq, b"x").await.expect("answered"), Appended::Gap { expected: 1 });
    }
    assert_eq!(read(&bench, claim.job(), 0, 1_000).await, page(b"one", 1, false));
}

/// The largest chunk is stored; one byte more is refused.
pub async fn a_chunk_has_a_bound(bench: Backend) {
    let claim = claim(&bench.rig).await;
    let largest = vec![b'x'; MOST_CHUNK];
    write(&bench, &claim, &[&largest]).await;
    assert_eq!(read(&bench, claim.job(), 0, usize::MAX).await.bytes, largest);
    let larger = vec![b'x'; MOST_CHUNK + 1];
    assert_eq!(kind(append(&bench, &claim, 1, &larger).await), Some(ErrorKind::LimitExceeded));
}

/// Nothing follows after the end, and to close twice is no error.
pub async fn a_closed_log_stays_as_it_is(bench: Backend) {
    let claim = claim(&bench.rig).await;
    write(&bench, &claim, &[b"one", b"two"]).await;
    for _ in 0..2 {
        bench.store.close(&claim).await.expect("closed");
    }
    assert_eq!(kind(append(&bench, &claim, 2, b"x").await), Some(ErrorKind::Conflict));
    assert_eq!(read(&bench, claim.job(), 0, 1_000).await, page(b"onetwo", 2, true));
    assert_eq!(read(&bench, claim.job(), 1, 1_000).await, page(b"two", 2, true));
    assert!(!read(&bench, claim.job(), 0, 1).await.end, "the second chunk follows");
}

/// What another job's lease hides is not what this job's does.
pub async fn bytes_that_were_masked_for_another_job_are_refused(bench: Backend) {
    let (mine, other) = (claim(&bench.rig).await, claim(&bench.rig).await);
    let chunk = masked(&other, b"a secret of mine");
    let appended = bench.store.append(&mine, 0, chunk).await;
    assert_eq!(kind(appended), Some(ErrorKind::Denied));
    assert_eq!(read(&bench, mine.job(), 0, 1_000).await, page(b"", 0, false));
}

/// A worker that does not know that its lease has run out is stopped by the store.
pub async fn a_lapsed_worker_writes_nothing(bench: Backend) {
    let claim = claim_of_stalled_worker(&bench.rig).await;
    write(&bench, &claim, &[b"one"]).await;
    bench.rig.clock.advance(LAPSE);
    assert!(claim.fence().is_ok(), "it does not know");
    assert_eq!(kind(append(&bench, &claim, 1, b"two").await), Some(ErrorKind::Fenced));
    assert_eq!(kind(bench.store.close(&claim).await), Some(ErrorKind::Fenced));
    assert_eq!(read(&bench, claim.job(), 0, 1_000).await, page(b"one", 1, false));
}

/// So is one that knows.
pub async fn a_claim_that_is_over_writes_nothing(bench: Backend) {
    let claim = claim(&bench.rig).await;
    bench.rig.clock.advance(LAPSE);
    assert_eq!(kind(append(&bench, &claim, 0, b"one").await), Some(ErrorKind::Fenced));
    assert_eq!(kind(bench.store.close(&claim).await), Some(ErrorKind::Fenced));
}

/// The log of a job is one, however many workers it takes: a new one is told where to go on.
pub async fn a_later_lease_goes_on_behind_an_earlier_one(bench: Backend) {
    let lost = claim(&bench.rig).await;
    write(&bench, &lost, &[b"one", b"two"]).await;
    bench.rig.clock.advance(LAPSE);
    let claim = bench.rig.dispatcher.next(&[]).await.expect("asked").expect("it waits again");
    assert_eq!(claim.job(), lost.job());
    // Also with the very bytes that are there: they are another lease's.
    for bytes in [b"one", b"ONE"] {
        assert_eq!(append(&bench, &claim, 0, bytes).await.expect("answered"), Appended::Gap { expected: 2 });
    }
    assert_eq!(append(&bench, &claim, 2, b"three").await.expect("appended"), Appended::Stored);
    assert_eq!(append(&bench, &claim, 2, b"three").await.expect("answered"), Appended::Repeated);
    bench.store.close(&claim).await.expect("closed");
    assert_eq!(read(&bench, claim.job(), 0, 1_000).await, page(b"onetwothree", 3, true));
}

/// A worker that closed the log and was lost before it could say how the job ended does not silence the next.
pub async fn a_later_lease_finds_a_closed_log_open(bench: Backend) {
    let lost = claim(&bench.rig).await;
    write(&bench, &lost, &[b"one"]).await;
    bench.store.close(&lost).await.expect("closed");
    bench.rig.clock.advance(LAPSE);
    let claim = bench.rig.dispatcher.next(&[]).await.expect("asked").expect("it waits again");
    assert_eq!(append(&bench, &claim, 0, b"").await.expect("answered"), Appended::Gap { expected: 1 });
    assert_eq!(append(&bench, &claim, 1, b"two").await.expect("appended"), Appended::Stored);
    assert_eq!(read(&bench, claim.job(), 0, 1_000).await, page(b"onetwo", 2, false));
    bench.store.close(&claim).await.expect("closed");
    assert_eq!(read(&bench, claim.job(), 0, 1_000).await, page(b"onetwo", 2, true));
}

/// Nobody waits for a worker that was lost.
pub async fn the_log_of_a_job_that_has_ended_is_at_its_end(bench: Backend) {
    let claim = claim(&bench.rig).await;
    write(&bench, &claim, &[b"one"]).await;
    let fence = claim.fence().expect("held");
    bench.rig.database.finish(fence, &End::Cancelled, Batch::new()).await.expect("finished");
    assert_eq!(read(&bench, claim.job(), 0, 1_000).await, page(b"one", 1, true));
    bench.store.changed(&reader(&bench).await, claim.job(), Cursor(1)).await.expect("at once");
}

/// Another repository's job does not exist, and neither does one that never was.
pub async fn only_readers_of_the_repository_read(bench: Backend) {
    let claim = claim(&bench.rig).await;
    write(&bench, &claim, &[b"one"]).await;
    let user = Rig::user("eve").expect("a user");
    let grant = bench.rig.grant::<Read>(&user, &other()).await.expect("a grant");
    for job in [claim.job(), &JobId::random()] {
        let page = bench.store.read(&grant, job, Cursor(0), 1_000).await;
        assert_eq!(kind(page), Some(ErrorKind::NotFound));
        assert_eq!(kind(bench.store.changed(&grant, job, Cursor(0)).await), Some(ErrorKind::NotFound));
    }
}

/// A grant that has expired opens nothing.
pub async fn a_grant_that_is_over_reads_nothing(bench: Backend) {
    let claim = claim(&bench.rig).await;
    write(&bench, &claim, &[b"one"]).await;
    let grant = reader(&bench).await;
    bench.rig.clock.advance(Duration::from_mins(1));
    assert_eq!(kind(bench.store.read(&grant, claim.job(), Cursor(0), 1_000).await), Some(ErrorKind::Denied));
    assert_eq!(kind(bench.store.changed(&grant, claim.job(), Cursor(0)).await), Some(ErrorKind::Denied));
}

/// Whoever waits is woken by a chunk, and whoever is behind does not wait. The clock stands still all the time.
pub async fn a_reader_hears_of_a_chunk(bench: Backend) {
    let (claim, grant) = (claim(&bench.rig).await, reader(&bench).await);
    let mut changed = pin!(bench.store.changed(&grant, claim.job(), Cursor(0)));
    assert!(futures_util::poll!(&mut changed).is_pending());
    let (heard, ()) = join(changed, write(&bench, &claim, &[b"one"])).await;
    heard.expect("it has changed");
    bench.store.changed(&grant, claim.job(), Cursor(0)).await.expect("it has changed");
}

/// Whoever waits is woken by the end, and whoever has seen it does not wait.
pub async fn a_reader_hears_of_the_end(bench: Backend) {
    let (claim, grant) = (claim(&bench.rig).await, reader(&bench).await);
    write(&bench, &claim, &[b"one"]).await;
    let changed = bench.store.changed(&grant, claim.job(), Cursor(1));
    let (heard, closed) = join(changed, bench.store.close(&claim)).await;
    heard.and(closed).expect("it has ended");
    bench.store.changed(&grant, claim.job(), Cursor(1)).await.expect("it has ended");
}

/// A reader who follows gets every byte once, in order, and then the end.
pub async fn a_log_is_followed_to_its_end(bench: Backend) {
    let (claim, grant) = (claim(&bench.rig).await, reader(&bench).await);
    let follow =
        bench.store.clone().follow(grant, bench.rig.authority.clone(), claim.job().clone(), Cursor(0));
    let write = async {
        for seq in 0..50_u64 {
            append(&bench, &claim, seq, format!("line {seq}\n").as_bytes()).await.expect("appended");
            tokio::task::yield_now().await;
        }
        bench.store.close(&claim).await.expect("closed");
    };
    let (followed, ()) = join(stream::collect(follow, ByteSize::mib(1)), write).await;
    let expected: Vec<String> = (0..50).map(|seq| format!("line {seq}\n")).collect();
    assert_eq!(followed.expect("followed"), expected.concat().into_bytes());
}
