//! What every [`CacheStore`] does.

use ci_core::cache::CacheStore;
use ci_core::id::{CacheKey, RepositoryId};
use ci_core::memory::Rig;
use ci_core::queue::Claim;
use ci_core::trust::Origin;
use ci_core::{ByteSize, ErrorKind, Result, stream};

use super::artifact::{content, failing, pieces};
use super::{Bench, LAPSE, acme, claim, claim_of_stalled_worker, kind, other};

type Backend = Bench<dyn CacheStore>;

const LEVELS: [Origin; 3] = [Origin::Fork, Origin::Repository, Origin::Protected];

fn key(text: &str) -> CacheKey {
    CacheKey::parse(text).expect("a key")
}

async fn claim_of(bench: &Backend, repository: &RepositoryId, origin: Origin) -> Claim {
    bench.rig.claim(repository, origin, Rig::spec()).await.expect("a claim")
}

async fn save(bench: &Backend, claim: &Claim, text: &str, bytes: &[u8]) {
    bench.store.save(claim, &key(text), pieces(bytes)).await.expect("saved");
}

async fn restore(bench: &Backend, claim: &Claim, text: &str) -> Result<Option<Vec<u8>>> {
    match bench.store.restore(claim, &key(text)).await? {
        Some(content) => stream::collect(content, ByteSize::gib(1)).await.map(Some),
        None => Ok(None),
    }
}

async fn restored(bench: &Backend, claim: &Claim, text: &str) -> Option<Vec<u8>> {
    restore(bench, claim, text).await.expect("asked")
}

/// Any size, for this job and the next.
pub async fn a_cache_is_restored_as_it_was_saved(bench: Backend) {
    let one = claim(&bench.rig).await;
    assert_eq!(restored(&bench, &one, "cargo").await, None);
    for size in [0, 1, 64 * 1_024, 64 * 1_024 + 1, 1_000_000] {
        let (text, bytes) = (format!("size {size}"), content(size));
        save(&bench, &one, &text, &bytes).await;
        assert!(restored(&bench, &one, &text).await.as_ref() == Some(&bytes), "size {size}");
        let two = claim(&bench.rig).await;
        assert!(restored(&bench, &two, &text).await.as_ref() == Some(&bytes), "size {size}");
    }
}

/// A later save replaces an earlier one, whoever made it.
pub async fn the_last_save_counts(bench: Backend) {
    let (one, two) = (claim(&bench.rig).await, claim(&bench.rig).await);
    for (number, claim) in [&one, &two, &one, &two].into_iter().enumerate() {
        let bytes = number.to_string().into_bytes();
        save(&bench, claim, "cargo", &bytes).await;
        assert_eq!(restored(&bench, &one, "cargo").await, Some(bytes.clone()));
        assert_eq!(restored(&bench, &two, "cargo").await, Some(bytes));
    }
}

/// Every level that writes, against every level that reads.
pub async fn nobody_restores_what_less_trusted_jobs_saved(bench: Backend) {
    for (saver, origin) in LEVELS.into_iter().enumerate() {
        let text = format!("saved by {saver}");
        save(&bench, &claim_of(&bench, &acme(), origin).await, &text, b"content").await;
        for (reader, origin) in LEVELS.into_iter().enumerate() {
            let found = restored(&bench, &claim_of(&bench, &acme(), origin).await, &text).await;
            let expected = (saver >= reader).then(|| b"content".to_vec());
            assert_eq!(found, expected, "saved by level {saver}, restored by level {reader}");
        }
    }
}

/// A job's own namespace comes first, and nothing that it saves changes what more trusted jobs get.
pub async fn a_job_restores_its_own_before_that_of_more_trusted_ones(bench: Backend) {
    let [fork, branch, protected] = [
        claim_of(&bench, &acme(), LEVELS[0]).await,
        claim_of(&bench, &acme(), LEVELS[1]).await,
        claim_of(&bench, &acme(), LEVELS[2]).await,
    ];
    save(&bench, &protected, "cargo", b"protected").await;
    assert_eq!(restored(&bench, &fork, "cargo").await.as_deref(), Some(&b"protected"[..]));
    save(&bench, &branch, "cargo", b"branch").await;
    assert_eq!(restored(&bench, &fork, "cargo").await.as_deref(), Some(&b"branch"[..]));
    save(&bench, &fork, "cargo", b"fork").await;
    assert_eq!(restored(&bench, &fork, "cargo").await.as_deref(), Some(&b"fork"[..]));
    assert_eq!(restored(&bench, &branch, "cargo").await.as_deref(), Some(&b"branch"[..]));
    assert_eq!(restored(&bench, &protected, "cargo").await.as_deref(), Some(&b"protected"[..]));
}

/// The same key in two repositories is two caches.
pub async fn repositories_share_nothing(bench: Backend) {
    let (ours, theirs) = (claim(&bench.rig).await, claim_of(&bench, &other(), Origin::Repository).await);
    save(&bench, &ours, "cargo", b"ours").await;
    assert_eq!(restored(&bench, &theirs, "cargo").await, None);
    save(&bench, &theirs, "cargo", b"theirs").await;
    assert_eq!(restored(&bench, &ours, "cargo").await.as_deref(), Some(&b"ours"[..]));
}

/// A key is a name and no path: no text reaches another key, namespace or repository.
pub async fn keys_that_look_alike_are_different(bench: Backend) {
    let (fork, branch) =
        (claim_of(&bench, &acme(), Origin::Fork).await, claim_of(&bench, &acme(), Origin::Repository).await);
    let texts = ["a", "./a", "a/", "a/.", "../trusted/a", "/a", "A", "%61", "trusted/a", "a ", "..", "*"];
    for text in texts {
        save(&bench, &fork, text, text.as_bytes()).await;
    }
    for text in texts {
        assert_eq!(restored(&bench, &fork, text).await, Some(text.as_bytes().to_vec()), "{text:?}");
        assert_eq!(restored(&bench, &branch, text).await, None, "{text:?}");
    }
}

/// The stream's error is the answer, and the cache stays what it was.
pub async fn a_failed_stream_leaves_the_earlier_one(bench: Backend) {
    let claim = claim(&bench.rig).await;
    let failed = bench.store.save(&claim, &key("cargo"), failing()).await;
    assert_eq!(kind(failed), Some(ErrorKind::TimedOut));
    assert_eq!(restored(&bench, &claim, "cargo").await, None);
    save(&bench, &claim, "cargo", b"earlier").await;
    let failed = bench.store.save(&claim, &key("cargo"), failing()).await;
    assert_eq!(kind(failed), Some(ErrorKind::TimedOut));
    assert_eq!(restored(&bench, &claim, "cargo").await.as_deref(), Some(&b"earlier"[..]));
}

/// A worker that does not know that its lease has run out is stopped by the store.
pub async fn a_lapsed_worker_saves_nothing(bench: Backend) {
    let stalled = claim_of_stalled_worker(&bench.rig).await;
    save(&bench, &stalled, "cargo", b"earlier").await;
    bench.rig.clock.advance(LAPSE);
    assert!(stalled.fence().is_ok(), "it does not know");
    let late = bench.store.save(&stalled, &key("cargo"), pieces(b"late")).await;
    assert_eq!(kind(late), Some(ErrorKind::Fenced));
    let next = bench.rig.dispatcher.next(&[]).await.expect("asked").expect("it waits again");
    assert_eq!(restored(&bench, &next, "cargo").await.as_deref(), Some(&b"earlier"[..]));
}

/// So is one that knows, also where there is nothing to restore.
pub async fn a_claim_that_is_over_restores_nothing(bench: Backend) {
    let claim = claim(&bench.rig).await;
    save(&bench, &claim, "cargo", b"content").await;
    bench.rig.clock.advance(LAPSE);
    for text in ["cargo", "nothing"] {
        assert_eq!(kind(restore(&bench, &claim, text).await), Some(ErrorKind::Fenced));
    }
    assert_eq!(kind(bench.store.save(&claim, &key("cargo"), pieces(b"x")).await), Some(ErrorKind::Fenced));
}
