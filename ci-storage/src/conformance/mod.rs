//! Conformance kits: every sentence of the storage ports' contracts as a test that a backend runs as its own.
//!
//! | Port | Kit | What it is given |
//! |---|---|---|
//! | [`Records`](ci_core::records::Records) | [`records_kit!`](crate::records_kit) | the records |
//! | [`Queue`](ci_core::queue::Queue) | [`queue_kit!`](crate::queue_kit) | a [`Rig`] over a database |
//! | [`LogStore`](ci_core::log::LogStore) | [`log_kit!`](crate::log_kit) | a [`Bench`] |
//! | [`ArtifactStore`](ci_core::artifact::ArtifactStore) | [`artifact_kit!`](crate::artifact_kit) | a [`Bench`] |
//! | [`CacheStore`](ci_core::cache::CacheStore) | [`cache_kit!`](crate::cache_kit) | a [`Bench`] |
//!
//! # How to run them
//!
//! The `Cargo.toml` of an implementor's crate, beside whatever else is in it:
//!
//! ```toml
//! [dependencies]
//! ci-core = "0.1"
//!
//! [dev-dependencies]
//! ci-storage = { version = "0.1", default-features = false, features = ["conformance"] }
//! ```
//!
//! The feature turns on `conformance` and `memory` of `ci-core`, for the tests only; they need no other
//! dependency. Without the default features, nobody has to compile SQLite for them.
//!
//! One file of tests, `tests/kits.rs`, with a module for each kit, because a kit's cases are functions beside each
//! other. A backend of some of the ports takes the others from [`Rig::new`]:
//!
//! ```
//! use std::sync::Arc;
//! use ci_core::artifact::ArtifactStore;
//! use ci_core::cache::CacheStore;
//! use ci_core::clock::ManualClock;
//! use ci_core::conformance::Setup;
//! use ci_core::log::LogStore;
//! use ci_core::memory::Rig;
//! use ci_core::records::Records;
//! use ci_storage::conformance::Bench;
//! # use ci_core::memory::{Artifacts as MyArtifacts, Caches as MyCaches, Database as MyDatabase, Logs as MyLogs};
//!
//! /// A rig over the database under test. Leases run out by the rig's clock, which the cases move.
//! fn rig() -> Rig {
//!     let clock = Arc::new(ManualClock::new());
//!     let database = Arc::new(MyDatabase::new(clock.clone()));
//!     Rig::on(clock).and_then(|rig| rig.with_database(database)).expect("a rig")
//! }
//!
//! async fn records() -> Setup<Arc<dyn Records>> {
//!     Setup::ready(rig().records())
//! }
//!
//! async fn logs() -> Setup<Bench<dyn LogStore>> {
//!     let rig = rig();
//!     let logs = MyLogs::new(rig.database.clone(), rig.clock.clone());
//!     Setup::ready(Bench::new(rig, Arc::new(logs)))
//! }
//!
//! async fn artifacts() -> Setup<Bench<dyn ArtifactStore>> {
//!     let rig = Rig::new().expect("a rig");
//!     let artifacts = MyArtifacts::new(rig.records()); // checks leases where the rig makes them
//!     Setup::ready(Bench::new(rig, Arc::new(artifacts)))
//! }
//!
//! async fn caches() -> Setup<Bench<dyn CacheStore>> {
//!     let rig = Rig::new().expect("a rig");
//!     let caches = MyCaches::new(rig.records());
//!     Setup::ready(Bench::new(rig, Arc::new(caches)))
//! }
//!
//! mod records {
//!     ci_storage::records_kit!(super::records);
//! }
//! mod queue {
//!     ci_storage::queue_kit!(async || super::Setup::ready(super::rig()));
//! }
//! mod logs {
//!     ci_storage::log_kit!(super::logs);
//! }
//! mod artifacts {
//!     ci_storage::artifact_kit!(super::artifacts);
//! }
//! mod caches {
//!     ci_storage::cache_kit!(super::caches);
//! }
//! # fn main() {
//! #     use ci_core::conformance::run;
//! #     use ci_storage::conformance as kits;
//! #     run("records", records, kits::records::a_record_is_read_as_it_was_written);
//! #     run("queue", async || Setup::ready(rig()), kits::queue::a_job_waits_runs_and_finishes);
//! #     run("logs", logs, kits::log::a_log_is_read_as_it_was_written);
//! #     run("artifacts", artifacts, kits::artifact::a_list_is_by_name);
//! #     run("caches", caches, kits::cache::the_last_save_counts);
//! # }
//! ```
//!
//! The setup is called anew for every case, and makes something that no other case uses: cases run at the same time.
//! What must outlive it (a temporary folder, a server) goes into [`Setup::with_guard`]. Where there is nothing to test
//! (no server, say), it answers [`Setup::Skip`], which is a failure under `CI_REQUIRE`. No kit waits for real time to
//! pass.
//!
//! A store of files or logs must look at leases in the database that the rig makes them in, or a lapsed worker could
//! still write: give it `rig.records()`, `rig.database` or the handle that the rig was made with. What it seals, it
//! seals with `rig.ring`, or with a key ring of its own that is under the rig too ([`Rig::with_ring`]).
//!
//! [`Setup::with_guard`]: ci_core::conformance::Setup::with_guard
//! [`Setup::Skip`]: ci_core::conformance::Setup::Skip

#![expect(clippy::missing_panics_doc, reason = "a case that fails panics; that is what it is for")]

pub mod artifact;
pub mod cache;
pub mod log;
pub mod queue;
pub mod records;

use std::sync::Arc;
use std::time::Duration;

use ci_core::clock::ManualClock;
use ci_core::id::RepositoryId;
use ci_core::memory::Rig;
use ci_core::queue::{Claim, Dispatcher};
use ci_core::trust::Origin;
use ci_core::{ErrorKind, Result};

/// A store under test, and the rig over the database that knows the leases of its jobs. The example of
/// [this module](self) makes some.
#[derive(Debug)]
pub struct Bench<S: ?Sized> {
    /// What makes claims and grants, over that database.
    pub rig: Rig,
    /// The store.
    pub store: Arc<S>,
}

impl<S: ?Sized> Bench<S> {
    /// The store `store`, whose jobs are those of `rig`.
    pub fn new(rig: Rig, store: Arc<S>) -> Self {
        Self { rig, store }
    }
}

/// Longer than any lease of the rig's lasts.
const LAPSE: Duration = Duration::from_secs(31);

fn acme() -> RepositoryId {
    Rig::repository("1", "acme").expect("a repository")
}

fn other() -> RepositoryId {
    Rig::repository("2", "acme").expect("a repository")
}

async fn claim(rig: &Rig) -> Claim {
    rig.claim(&acme(), Origin::Repository, Rig::spec()).await.expect("a claim")
}

/// A worker whose own clock stands still: it goes on believing in a lease that has run out, so that only the
/// store can stop it.
async fn claim_of_stalled_worker(rig: &Rig) -> Claim {
    let clock = Arc::new(ManualClock::new());
    let dispatcher = Dispatcher::new(rig.database.clone(), rig.ring.clone(), rig.authority.clone(), clock);
    rig.claim_by(&dispatcher, &acme(), Origin::Repository, Rig::spec()).await.expect("a claim")
}

fn kind<T>(result: Result<T>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

ci_core::declare_kit! {
    /// Runs every case about [`Records`](ci_core::records::Records). The setup makes an `Arc<dyn Records>`.
    records_kit for ci_storage::conformance::records {
        a_record_is_read_as_it_was_written,
        many_records_are_read_in_their_order,
        a_put_replaces_and_a_delete_removes,
        versions_only_grow_and_are_those_of_the_commit,
        a_batch_happens_whole_or_not_at_all,
        absent_holds_only_where_nothing_is,
        is_holds_only_for_the_version_that_is_there,
        a_fence_of_no_lease_is_refused,
        of_commits_that_race_one_wins,
        a_list_has_what_lies_below_in_the_order_of_keys,
        a_list_goes_on_after_a_key,
        a_purge_takes_all_that_lies_below_and_nothing_else,
        what_was_purged_is_nowhere,
        what_was_scrubbed_is_nowhere,
        few_bytes_are_not_looked_for,
    }
}

ci_core::declare_kit! {
    /// Runs every case about [`Queue`](ci_core::queue::Queue). The setup makes a
    /// [`Rig`](ci_core::memory::Rig) over the database.
    queue_kit for ci_storage::conformance::queue {
        a_job_waits_runs_and_finishes,
        an_end_comes_out_as_it_went_in,
        a_row_comes_out_as_it_went_in,
        a_job_is_in_the_queue_once,
        the_oldest_row_comes_first,
        all_labels_of_a_row_must_be_offered,
        workers_that_race_get_different_rows,
        a_lapsed_lease_waits_again_with_a_larger_token,
        a_row_is_given_up_after_the_last_attempt,
        a_released_row_waits_again_and_counts,
        a_row_that_was_released_by_a_worker_that_ends_counts_no_attempt,
        every_lease_has_a_larger_token_than_those_before,
        a_released_row_waits_for_as_long_as_was_said,
        a_row_that_nobody_takes_expires,
        a_row_expires_only_while_it_waits,
        a_lease_is_extended_while_it_holds,
        a_calendar_that_is_set_back_makes_no_lease_longer,
        a_calendar_that_is_set_back_makes_no_pause_longer,
        a_lapsed_worker_can_do_nothing,
        a_replaced_worker_can_do_nothing,
        a_job_finishes_together_with_its_batch,
        a_fence_holds_in_a_commit_as_long_as_the_lease,
        a_waiting_job_is_cancelled_at_once,
        a_running_job_is_told,
        a_cancelled_job_is_not_handed_out_again,
        a_finished_job_stays_as_it_is,
        the_newest_jobs_of_a_repository_come_first,
    }
}

ci_core::declare_kit! {
    /// Runs every case about [`LogStore`](ci_core::log::LogStore). The setup makes a
    /// [`Bench<dyn LogStore>`](crate::conformance::Bench).
    log_kit for ci_storage::conformance::log {
        a_log_is_read_as_it_was_written,
        a_job_that_wrote_nothing_has_an_empty_log,
        a_page_has_no_more_bytes_than_asked_and_at_least_a_chunk,
        a_chunk_is_stored_once,
        a_hole_is_told,
        a_chunk_has_a_bound,
        a_closed_log_stays_as_it_is,
        bytes_that_were_masked_for_another_job_are_refused,
        a_lapsed_worker_writes_nothing,
        a_claim_that_is_over_writes_nothing,
        a_later_lease_goes_on_behind_an_earlier_one,
        a_later_lease_finds_a_closed_log_open,
        the_log_of_a_job_that_has_ended_is_at_its_end,
        only_readers_of_the_repository_read,
        a_grant_that_is_over_reads_nothing,
        a_reader_hears_of_a_chunk,
        a_reader_hears_of_the_end,
        a_log_is_followed_to_its_end,
    }
}

ci_core::declare_kit! {
    /// Runs every case about [`ArtifactStore`](ci_core::artifact::ArtifactStore). The setup makes a
    /// [`Bench<dyn ArtifactStore>`](crate::conformance::Bench).
    artifact_kit for ci_storage::conformance::artifact {
        content_of_any_size_is_read_as_it_was_kept,
        a_list_is_by_name,
        nothing_is_visible_before_it_is_whole,
        a_dropped_put_leaves_nothing_visible,
        a_failed_stream_leaves_nothing_visible,
        a_name_is_kept_once_per_lease,
        a_later_lease_replaces_what_an_earlier_one_kept,
        a_lapsed_worker_keeps_nothing,
        a_worker_that_lapses_while_it_uploads_keeps_nothing,
        an_artifact_is_no_larger_than_the_job_may,
        only_readers_of_the_repository_read,
        a_grant_that_is_over_does_nothing,
        a_deleted_artifact_is_gone,
    }
}

ci_core::declare_kit! {
    /// Runs every case about [`CacheStore`](ci_core::cache::CacheStore). The setup makes a
    /// [`Bench<dyn CacheStore>`](crate::conformance::Bench).
    cache_kit for ci_storage::conformance::cache {
        a_cache_is_restored_as_it_was_saved,
        the_last_save_counts,
        nobody_restores_what_less_trusted_jobs_saved,
        a_job_restores_its_own_before_that_of_more_trusted_ones,
        repositories_share_nothing,
        keys_that_look_alike_are_different,
        a_failed_stream_leaves_the_earlier_one,
        a_lapsed_worker_saves_nothing,
        a_claim_that_is_over_restores_nothing,
    }
}
