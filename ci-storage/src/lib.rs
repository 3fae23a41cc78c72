//! What outlives a job: records, queue, logs, artifacts and caches.
//!
//! This crate implements the storage ports of `ci-core`, for a service on one machine without any server beside
//! it: one SQLite file and one folder. Nothing but the lines that construct them knows which backends they are.
//!
//! | Port | Backend | Feature |
//! |---|---|---|
//! | [`Records`], [`Queue`] | [`sqlite::Sqlite`] | `sqlite` (default) |
//! | [`LogStore`] | [`sqlite::SqliteLogs`] | `sqlite` (default) |
//! | [`ArtifactStore`] | [`objects::ObjectArtifacts`] | `object-store` (default) |
//! | [`CacheStore`] | [`objects::ObjectCaches`] | `object-store` (default) |
//!
//! [`objects::Objects`] takes any `object_store::ObjectStore`, so the same code keeps artifacts in a bucket. Who
//! writes another backend runs the kits in [`conformance`](https://docs.rs/ci-storage/latest/ci_storage/conformance/)
//! (feature `conformance`) as its tests.
//!
//! # Example
//!
//! The embedded default, and a job that writes a log and keeps an artifact:
//!
#![cfg_attr(all(feature = "sqlite", feature = "object-store"), doc = "```")]
#![cfg_attr(not(all(feature = "sqlite", feature = "object-store")), doc = "```ignore")]
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! # use std::sync::Arc;
//! # use ci_core::{access::Read, id::ArtifactName, log::Cursor, stream};
//! # use ci_core::memory::{Masking, Rig, Ring};
//! # use ci_core::{secret::SecretLease, trust::Origin};
//! use ci_storage::objects::Objects;
//! use ci_storage::sqlite::Sqlite;
//! use ci_storage::{ArtifactStore as _, LogStore as _};
//! # let folder = tempfile::tempdir()?;
//! # let state = folder.path();
//! # let clock = Arc::new(ci_core::clock::ManualClock::new());
//! # let ring = Arc::new(Ring::new());
//!
//! // `state` is a folder, `clock` the system's clock, `ring` the vault of `ci-secrets`.
//! let database = Arc::new(Sqlite::open(state.join("ci.db"), clock.clone()).await?);
//! let logs = database.logs(ring.clone());
//! let objects = Objects::folder(state.join("objects"), database.clone(), ring.clone(), clock.clone())?;
//! let artifacts = objects.artifacts();
//! # let rig = Rig::on(clock)?.with_database(database.clone())?.with_ring(ring);
//! # let repository = Rig::repository("1", "acme")?;
//! # let claim = rig.claim(&repository, Origin::Repository, Rig::spec()).await?;
//! # let lease = SecretLease::empty(&claim, Arc::new(Masking::new()));
//! # let name = ArtifactName::parse("report.tar")?;
//!
//! // A worker holds a claim, and a lease that masks what the job prints.
//! logs.append(&claim, 0, lease.mask().push(b"all tests passed\n")).await?;
//! artifacts.put(&claim, &name, stream::once("content")).await?;
//! # let grant = rig.grant::<Read>(&Rig::user("ada")?, &repository).await?;
//!
//! // A person holds a grant.
//! let page = logs.read(&grant, claim.job(), Cursor::default(), 64 * 1024).await?;
//! assert_eq!(page.bytes, "all tests passed\n");
//! assert_eq!(artifacts.list(&grant, claim.job()).await?[0].name, name);
//! # Ok::<(), Box<dyn std::error::Error>>(()) })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The database is what a [`Dispatcher`](ci_core::queue::Dispatcher), an [`Audit`](ci_core::audit::Audit) and the vault
//! are built over; logs, artifacts and caches go into [`Parts`](ci_core::runner::Parts).
//!
//! # What is promised
//!
//! - What was answered is on the disk, and stays whole when the process is killed.
//! - A worker that lost its lease writes nothing more: the lease is checked in the transaction that writes.
//! - Logs, artifacts and caches are sealed with keys of their repository before they reach a file. Whoever can
//!   write to the files can neither read them nor change, cut, swap or move them unnoticed.
//!
//! # What is not protected from
//!
//! - Whoever can write to the files can destroy what is in them: keep a backup.
//! - They can put it back as a whole to what it once was. Noticing that takes a
//!   [`FreshnessAnchor`](ci_core::secret::FreshnessAnchor), which the service asks when it starts.
//! - Rows of the queue are not sealed, the tickets and outcomes in them are: whoever can write to the database can make
//!   a job wait or end, but can neither make one up nor say that one succeeded.
//! - Ids, states and sizes are not hidden: which repository has how many jobs, artifacts and caches, how they are
//!   called, how large they are, and when they were written.
//!
//! # Features
//!
//! Both backends are for Unix systems.
//!
//! - `sqlite` (default): the module `sqlite`. It compiles SQLite's C source, which takes a C compiler.
//! - `object-store` (default): the module `objects`.
//! - `aws-lc`: opens, and with a key ring that says so seals, with AES-256-GCM too; see [`Suite`](ci_core::seal::Suite).
//! - `conformance`: kits that any other backend of these ports runs as its own tests.

#![forbid(unsafe_code)]

#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(feature = "object-store")]
pub mod objects;
#[cfg(feature = "sqlite")]
pub mod sqlite;

pub use ci_core::artifact::ArtifactStore;
pub use ci_core::cache::CacheStore;
pub use ci_core::log::LogStore;
pub use ci_core::queue::{Database, Queue};
pub use ci_core::records::Records;
