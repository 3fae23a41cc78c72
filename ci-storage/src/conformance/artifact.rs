//! What every [`ArtifactStore`] does.

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use ci_core::access::{Access, Grant, Read, Write};
use ci_core::artifact::{Artifact, ArtifactStore};
use ci_core::id::{ArtifactName, Digest, JobId, RepositoryId};
use ci_core::job::Limits;
use ci_core::memory::Rig;
use ci_core::queue::Claim;
use ci_core::trust::Origin;
use ci_core::{ByteSize, ByteStream, Error, ErrorKind, Result, stream};
use futures_util::StreamExt as _;
use tokio::sync::mpsc;

use super::{Bench, LAPSE, acme, claim, claim_of_stalled_worker, kind, other};

type Backend = Bench<dyn ArtifactStore>;

fn name(text: &str) -> ArtifactName {
    ArtifactName::parse(text).expect("a name")
}

/// Bytes that differ from place to place.
pub(super) fn content(size: usize) -> Vec<u8> {
    (0..size).map(|index| (index.wrapping_mul(2_654_435_761) >> 11).to_le_bytes()[0]).collect()
}

/// A stream of these bytes in small pieces, which do not fall together with anybody's chunks.
pub(super) fn pieces(bytes: &[u8]) -> ByteStream<'static> {
    let pieces: Vec<_> = bytes.chunks(10_007).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    futures_util::stream::iter(pieces).boxed()
}

/// A stream that a test feeds by hand.
pub(super) fn by_hand() -> (mpsc::UnboundedSender<Result<Bytes>>, ByteStream<'static>) {
    let (hand, pieces) = mpsc::unbounded_channel();
    let next = |mut pieces: mpsc::UnboundedReceiver<_>| async move {
        pieces.recv().await.map(|piece| (piece, pieces))
    };
    (hand, futures_util::stream::unfold(pieces, next).boxed())
}

/// Some bytes, and then an error.
pub(super) fn failing() -> ByteStream<'static> {
    let error = Error::new(ErrorKind::TimedOut, "make content");
    futures_util::stream::iter([Ok(Bytes::from(content(100_000))), Err(error)]).boxed()
}

async fn grant<A: Access>(bench: &Backend, repository: &RepositoryId) -> Grant<A> {
    bench.rig.grant(&Rig::user("ada").expect("a user"), repository).await.expect("a grant")
}

async fn keep(bench: &Backend, claim: &Claim, text: &str, bytes: &[u8]) -> Result<Artifact> {
    bench.store.put(claim, &name(text), pieces(bytes)).await
}

async fn list(bench: &Backend, job: &JobId) -> Vec<Artifact> {
    bench.store.list(&grant(bench, &acme()).await, job).await.expect("listed")
}

async fn read(bench: &Backend, job: &JobId, text: &str) -> Result<Vec<u8>> {
    let stream = bench.store.get(&grant(bench, &acme()).await, job, &name(text)).await?;
    stream::collect(stream, ByteSize::gib(1)).await
}

async fn is_invisible(bench: &Backend, job: &JobId, text: &str) {
    assert_eq!(list(bench, job).await, []);
    assert_eq!(kind(read(bench, job, text).await), Some(ErrorKind::NotFound));
}

/// Nothing, one byte, and sizes around those in which stores cut content into chunks and parts.
pub async fn content_of_any_size_is_read_as_it_was_kept(bench: Backend) {
    const KIB: usize = 1_024;
    let claim = claim(&bench.rig).await;
    let sizes = [0, 1, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, 128 * KIB, 1_000_000, 17 * KIB * KIB];
    for size in sizes {
        let (text, bytes) = (format!("size-{size}"), content(size));
        let artifact = keep(&bench, &claim, &text, &bytes).await.expect("kept");
        let expected =
            Artifact { name: name(&text), size: ByteSize::bytes(size as u64), digest: Digest::of(&bytes) };
        assert_eq!(artifact, expected);
        assert!(read(&bench, claim.job(), &text).await.expect("read") == bytes, "size {size}");
    }
}

/// All artifacts of the job, no other's, in the order of their names.
pub async fn a_list_is_by_name(bench: Backend) {
    let one = claim(&bench.rig).await;
    assert_eq!(list(&bench, one.job()).await, []);
    let mut kept = Vec::new();
    for text in ["b", "a-2", "a", "Z.tar", "a_"] {
        kept.push(keep(&bench, &one, text, text.as_bytes()).await.expect("kept"));
    }
    let two = claim(&bench.rig).await;
    let other = keep(&bench, &two, "a", b"other").await.expect("kept");
    kept.sort_by(|left, right| left.name.cmp(&right.name));
    assert_eq!(list(&bench, one.job()).await, kept);
    assert_eq!(list(&bench, two.job()).await, [other]);
    assert_eq!(list(&bench, &JobId::random()).await, []);
}

/// While the content is still coming nobody sees the artifact.
pub async fn nothing_is_visible_before_it_is_whole(bench: Backend) {
    let (claim, text, bytes) = (claim(&bench.rig).await, name("a"), content(300_000));
    let (hand, stream) = by_hand();
    let mut put = pin!(bench.store.put(&claim, &text, stream));
    hand.send(Ok(Bytes::copy_from_slice(&bytes[..200_000]))).expect("it listens");
    for _ in 0..10 {
        assert!(futures_util::poll!(&mut put).is_pending());
        is_invisible(&bench, claim.job(), "a").await;
    }
    hand.send(Ok(Bytes::copy_from_slice(&bytes[200_000..]))).expect("it listens");
    drop(hand);
    put.await.expect("kept");
    assert!(read(&bench, claim.job(), "a").await.expect("read") == bytes);
}

/// A put that is dropped on its way was never there, and can be made again.
pub async fn a_dropped_put_leaves_nothing_visible(bench: Backend) {
    let (claim, text) = (claim(&bench.rig).await, name("a"));
    {
        let (hand, stream) = by_hand();
        let mut put = pin!(bench.store.put(&claim, &text, stream));
        hand.send(Ok(Bytes::from(content(200_000)))).expect("it listens");
        for _ in 0..10 {
            assert!(futures_util::poll!(&mut put).is_pending());
            tokio::task::yield_now().await;
        }
    }
    is_invisible(&bench, claim.job(), "a").await;
    keep(&bench, &claim, "a", b"again").await.expect("kept");
    assert_eq!(read(&bench, claim.job(), "a").await.expect("read"), b"again");
}

/// The stream's error is the answer, and there is nothing then.
pub async fn a_failed_stream_leaves_nothing_visible(bench: Backend) {
    let claim = claim(&bench.rig).await;
    let failed = bench.store.put(&claim, &name("a"), failing()).await;
    assert_eq!(kind(failed), Some(ErrorKind::TimedOut));
    is_invisible(&bench, claim.job(), "a").await;
    keep(&bench, &claim, "a", b"again").await.expect("kept");
}

/// A second one is refused, and the first stays.
pub async fn a_name_is_kept_once_per_lease(bench: Backend) {
    let claim = claim(&bench.rig).await;
    let first = keep(&bench, &claim, "a", b"first").await.expect("kept");
    assert_eq!(kind(keep(&bench, &claim, "a", b"second").await), Some(ErrorKind::Conflict));
    let again = keep(&bench, &claim, "a", b"first").await.expect("the answer may have been lost");
    assert_eq!(again, first);
    assert_eq!(list(&bench, claim.job()).await, [first]);
    assert_eq!(read(&bench, claim.job(), "a").await.expect("read"), b"first");
}

/// What a lost worker left does not stand in the way of the next.
pub async fn a_later_lease_replaces_what_an_earlier_one_kept(bench: Backend) {
    let lost = claim(&bench.rig).await;
    keep(&bench, &lost, "a", b"first").await.expect("kept");
    bench.rig.clock.advance(LAPSE);
    let claim = bench.rig.dispatcher.next(&[]).await.expect("asked").expect("it waits again");
    assert_eq!(read(&bench, claim.job(), "a").await.expect("read"), b"first");
    let second = keep(&bench, &claim, "a", b"second").await.expect("kept");
    assert_eq!(list(&bench, claim.job()).await, [second]);
    assert_eq!(read(&bench, claim.job(), "a").await.expect("read"), b"second");
    assert_eq!(kind(keep(&bench, &claim, "a", b"third").await), Some(ErrorKind::Conflict));
}

/// A worker that does not know that its lease has run out is stopped by the store.
pub async fn a_lapsed_worker_keeps_nothing(bench: Backend) {
    let claim = claim_of_stalled_worker(&bench.rig).await;
    bench.rig.clock.advance(LAPSE);
    assert!(claim.fence().is_ok(), "it does not know");
    assert_eq!(kind(keep(&bench, &claim, "a", b"late").await), Some(ErrorKind::Fenced));
    is_invisible(&bench, claim.job(), "a").await;
}

/// So is one whose lease runs out on the way.
pub async fn a_worker_that_lapses_while_it_uploads_keeps_nothing(bench: Backend) {
    let (claim, text) = (claim(&bench.rig).await, name("a"));
    let (hand, stream) = by_hand();
    let mut put = pin!(bench.store.put(&claim, &text, stream));
    hand.send(Ok(Bytes::from(content(100_000)))).expect("it listens");
    assert!(futures_util::poll!(&mut put).is_pending());
    bench.rig.clock.advance(LAPSE);
    drop(hand);
    assert_eq!(kind(put.await), Some(ErrorKind::Fenced));
    is_invisible(&bench, claim.job(), "a").await;
}

/// The job's own limit holds.
pub async fn an_artifact_is_no_larger_than_the_job_may(bench: Backend) {
    let spec = Rig::spec().with_limits(Limits::default().with_artifact(ByteSize::kib(100)));
    let claim = bench.rig.claim(&acme(), Origin::Repository, spec).await.expect("a claim");
    let refused = keep(&bench, &claim, "a", &content(100 * 1_024 + 1)).await;
    assert_eq!(kind(refused), Some(ErrorKind::LimitExceeded));
    is_invisible(&bench, claim.job(), "a").await;
    keep(&bench, &claim, "a", &content(100 * 1_024)).await.expect("kept");
}

/// Another repository's artifact does not exist.
pub async fn only_readers_of_the_repository_read(bench: Backend) {
    let claim = claim(&bench.rig).await;
    keep(&bench, &claim, "a", b"ours").await.expect("kept");
    let theirs = grant::<Write>(&bench, &other()).await;
    let get = bench.store.get(&theirs.lower(), claim.job(), &name("a")).await;
    assert_eq!(kind(get), Some(ErrorKind::NotFound));
    let delete = bench.store.delete(&theirs, claim.job(), &name("a")).await;
    assert_eq!(kind(delete), Some(ErrorKind::NotFound));
    assert_eq!(bench.store.list(&theirs.lower(), claim.job()).await.expect("listed"), []);
    assert_eq!(read(&bench, claim.job(), "a").await.expect("read"), b"ours");
}

/// A grant that has expired opens nothing.
pub async fn a_grant_that_is_over_does_nothing(bench: Backend) {
    let claim = claim(&bench.rig).await;
    keep(&bench, &claim, "a", b"ours").await.expect("kept");
    let (writer, reader) = (grant::<Write>(&bench, &acme()).await, grant::<Read>(&bench, &acme()).await);
    bench.rig.clock.advance(Duration::from_mins(1));
    assert_eq!(kind(bench.store.list(&reader, claim.job()).await), Some(ErrorKind::Denied));
    assert_eq!(kind(bench.store.get(&reader, claim.job(), &name("a")).await), Some(ErrorKind::Denied));
    assert_eq!(kind(bench.store.delete(&writer, claim.job(), &name("a")).await), Some(ErrorKind::Denied));
    assert_eq!(read(&bench, claim.job(), "a").await.expect("read"), b"ours");
}

/// Nobody reads it any more, and to delete it again is an error.
pub async fn a_deleted_artifact_is_gone(bench: Backend) {
    let claim = claim(&bench.rig).await;
    keep(&bench, &claim, "a", b"gone").await.expect("kept");
    let kept = keep(&bench, &claim, "b", b"kept").await.expect("kept");
    let writer = grant::<Write>(&bench, &acme()).await;
    bench.store.delete(&writer, claim.job(), &name("a")).await.expect("deleted");
    assert_eq!(kind(read(&bench, claim.job(), "a").await), Some(ErrorKind::NotFound));
    assert_eq!(list(&bench, claim.job()).await, [kept]);
    let again = bench.store.delete(&writer, claim.job(), &name("a")).await;
    assert_eq!(kind(again), Some(ErrorKind::NotFound));
}
