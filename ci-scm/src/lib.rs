//! Forges for an embeddable CI SDK: who somebody is, what they may do, and the code itself.
//!
//! | Module | Forge | Feature |
//! |---|---|---|
//! | [`git`] | plain git: people and permissions from a file, code by the `git` program | `git`, on by default |
#![cfg_attr(
    feature = "conformance",
    doc = "| [`conformance`] | none: the tests that every forge must pass | `conformance` |"
)]
//!
//! The ports are those of `ci-core`; they are re-exported here, for one who reads only about forges.
//!
//! # Example
//!
//! Plain git with an access file. Whoever signs in with a token of that file can read a commit's pipeline file if
//! they may read the repository, and start jobs if they may write to it:
//!
//! ```
//! # use std::{fs, os::unix::fs::PermissionsExt as _};
//! use std::sync::Arc;
//! use ci_core::ByteSize;
//! use ci_core::access::{Authority, Write};
//! use ci_core::clock::SystemClock;
//! use ci_core::forge::{self, RevisionName, SignIn as _, SourcePath};
//! use ci_scm::git::{AccessFile, AccessFileOptions, Git};
//!
//! # let folder = tempfile::tempdir()?;
//! # let (path, url) = (folder.path().join("access.toml"), format!("file://{}", folder.path().display()));
//! # let (token, digest) = AccessFile::new_token();
//! # fs::write(&path, format!("forge = \"git\"\ntenant = \"acme\"\n[people.ada]\ntoken = \"{digest}\"\n\
//! #     [[repository]]\nid = \"app\"\nurl = \"{url}\"\nprotected = [\"main\"]\nwrite = [\"ada\"]\n"))?;
//! # fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
//! # // Sandboxes in memory, which guarantee nothing, with as much of a `git` as this needs.
//! # let rig = ci_core::memory::Rig::new()?;
//! # rig.backend.set_capabilities(ci_core::sandbox::Capabilities::default().with_host_folders());
//! # rig.backend.on("git", |call| {
//! #     let id = "a".repeat(40);
//! #     let answers = [
//! #         ("for-each-ref", format!("{id} commit   refs/heads/main\n")),
//! #         ("-t", "commit\n".to_owned()),
//! #         ("ls-tree", format!("100644 blob {id} 16\t.ci.yml\0")),
//! #         ("blob", "test: cargo test".to_owned()),
//! #     ];
//! #     let answer = answers.into_iter().find(|(asked, _)| call.arguments().contains(asked));
//! #     ci_core::memory::Reply::exit(0).stdout(answer.unwrap_or_default().1)
//! # });
//! # let (helper, sandboxes) = (ci_scm::git::HelperOptions::default().with_minimum([]), rig.sandboxes.clone());
//! # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
//! let clock = Arc::new(SystemClock::new());
//! let access = Arc::new(AccessFile::open(path, clock.clone(), AccessFileOptions::default())?);
//! let authority = Authority::new(access.clone(), clock);
//! let git = Git::new(access.clone());
//! # let git = git.with_options(helper);
//!
//! let ada = authority.sign_in(&*access, &access.begin().await?, token).await?;
//! let app = access.repositories()?.remove(0);
//! let grant = authority.grant::<Write>(&ada, &app).await?;
//!
//! let (name, path) = (RevisionName::parse("main")?, SourcePath::parse(".ci.yml")?);
//! let code = forge::resolve(&git, grant.scope()?, &sandboxes, &name).await?;
//! let most = ByteSize::kib(64);
//! let pipeline = forge::read(&git, grant.scope()?, &sandboxes, &code, &path, most).await?;
//! assert_eq!(pipeline, "test: cargo test");
//! # Ok::<(), Box<dyn std::error::Error>>(()) })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`AccessFile`](git::AccessFile) says what is in the file, and [`HostFetcher`](git::HostFetcher) reaches
//! repositories over SSH and HTTPS.
//!
//! # A forge of your own
//!
//! Implement [`SignIn`], [`PermissionSource`] and [`Source`], those that your forge has, and let the conformance kits
//! tell whether they keep their contracts. In your crate's `Cargo.toml`:
//!
//! ```toml
//! [dev-dependencies]
//! ci-core = { version = "0.1", features = ["conformance", "memory"] }
//! ci-scm = { version = "0.1", default-features = false, features = ["conformance"] }
//! ```
//!
//! and in its tests one call of each kit, which becomes one `#[test]` per case:
//!
//! ```
//! use std::sync::Arc;
//! use ci_core::conformance::Setup;
//! use ci_scm::conformance::{permission, source};
//!
//! mod permissions {
//!     # use super::*;
//!     ci_scm::permission_source_kit!(async || Setup::ready(super::bench_of_permissions()));
//! }
//! mod code {
//!     # use super::*;
//!     ci_scm::source_kit!(async || Setup::ready(super::bench_of_code()));
//! }
//!
//! fn bench_of_permissions() -> Arc<dyn permission::Bench> {
//!     /* your forge */
//!     # unreachable!("an example")
//! }
//! fn bench_of_code() -> Arc<dyn source::Bench> {
//!     /* your forge */
//!     # unreachable!("an example")
//! }
//! # fn main() {}
//! ```
//!
//! A bench is your forge together with the hands that change it: who pushes, who takes a permission away.
#![cfg_attr(
    feature = "conformance",
    doc = "[`conformance::permission::Bench`] and [`conformance::source::Bench`] show one each."
)]
//!
//! # What it does not protect from
//!
//! - **A forge that lies about itself.** Which commit a branch is at and who may do what is the forge's word. With
//!   plain git, the access file says which branches are protected; that only the right people can move those must be
//!   held by the server's own means.
//! - **Whoever can write the access file**, or the folder it lies in: they can give themselves everything.
//! - **What a commit holds.** Names, paths and objects are harmless for this crate and for the machine. What a file
//!   says is as hostile as who wrote it: a fork's pipeline file is marked [`Untrusted`](ci_core::trust::Trust), not
//!   made safe.
//! - **A defect in `git`.** Content is unpacked in a helper sandbox, which confines as much as its backend
//!   guarantees. Packs from SSH and HTTPS servers are received by a `git` on the host, with the rights of this
//!   process.
//! - **Too many questions.** One question has a deadline and a bound on size; how many somebody may ask is the
//!   product's to limit. A question by a commit's id fetches the repository's whole history.

#![forbid(unsafe_code)]

#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(feature = "git")]
pub mod git;

pub use ci_core::access::PermissionSource;
pub use ci_core::forge::{SignIn, Source};
