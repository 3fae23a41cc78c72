//! The language of an embeddable CI SDK: ids, capabilities, jobs, ports, and the [`Runner`](runner::Runner) that
//! composes them.
//!
//! Who builds a CI product or a runner calls what is here; who writes a backend implements the traits that are here.
//!
//! # Example
//!
//! A whole service in memory. `examples/quickstart.rs` in the repository does the same with git, a real sandbox, a
//! vault and files; what runs the job is the same.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! use ci_core::ErrorKind;
//! use ci_core::access::{Read, Write};
//! use ci_core::id::{ImageName, StepName};
//! use ci_core::job::{JobSpec, Script, Step};
//! use ci_core::log::{Cursor, LogStore as _};
//! use ci_core::memory::{Reply, Rig};
//! use ci_core::outcome::Conclusion;
//! use ci_core::queue::NewJob;
//! use ci_core::runner::Runner;
//! use ci_core::trust::Origin;
//!
//! let rig = Rig::new()?; // sign-in, permissions, queue, keys, a forge and sandboxes
//! let parts = rig.parts(); // the other ports, in memory too
//! let logs = parts.logs.clone();
//! let runner = Runner::new(parts);
//!
//! // Somebody who may write to a repository asks for a job on one of its commits.
//! let (ada, repository) = (Rig::user("ada")?, Rig::repository("1", "acme")?);
//! let grant = rig.grant::<Write>(&ada, &repository).await?;
//! let code = rig.code(&repository, Origin::Repository).await?;
//! let greet = Step::script(StepName::parse("greet")?, Script::literal("echo hello"));
//! let spec = JobSpec::new(ImageName::parse("host")?).with_step(greet);
//! let job = rig.dispatcher.enqueue(&NewJob::requested(&grant, code, spec)?).await?;
//!
//! // A worker claims it and runs it, in a sandbox whose shell is a closure.
//! rig.backend.on("sh", |_| Reply::exit(0).stdout("hello\n"));
//! let claim = rig.dispatcher.next(&[]).await?.expect("the job");
//! let outcome = runner.run(claim, std::future::pending()).await?;
//! assert_eq!(outcome.conclusion, Conclusion::Succeeded);
//!
//! // Whoever may read the repository reads its log, and nobody else does.
//! let page = logs.read(&grant.lower(), &job, Cursor::default(), 64 * 1024).await?;
//! assert_eq!((&page.bytes[..], page.end), (&b"hello\n"[..], true));
//! let stranger = rig.sign_in(&Rig::user("eve")?).await?;
//! let refused = rig.authority.grant::<Read>(&stranger, &repository).await.expect_err("a stranger");
//! assert_eq!(refused.kind(), ErrorKind::Denied);
//! # Ok::<(), ci_core::Error>(()) })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Capabilities
//!
//! Everything guarded asks for one of three values. Ports return facts; only this crate makes the values.
//!
//! - [`access::Grant`]: a *person's* fresh permission for one repository, made by [`access::Authority`].
//! - [`queue::Claim`]: a *job's* right to act, made by [`queue::Dispatcher`] from a sealed ticket.
//! - [`operator::Act`]: one recorded use of the [`Operator`](operator::Operator)'s power.
//!
//! # Ports
//!
//! | Port | What it is asked |
//! |---|---|
//! | [`access::PermissionSource`] | what may this person do? |
//! | [`forge::SignIn`], [`forge::Hooks`], [`forge::Checks`], [`forge::Source`] | who is it, what happened, tell how it went, get the code |
//! | [`sandbox::Backend`], [`sandbox::Instance`], [`sandbox::Process`] | run this, isolated, and leave nothing |
//! | [`secret::SecretStore`], [`secret::KeyRing`], [`secret::Masker`], [`secret::SshSigner`], [`secret::FreshnessAnchor`] | keep, lease and hide secrets |
//! | [`identity::TokenIssuer`] | prove who a job is |
//! | [`records::Records`], [`queue::Queue`], [`log::LogStore`] | keep rows, work and output |
//! | [`artifact::ArtifactStore`], [`cache::CacheStore`] | keep files |
//! | [`clock::Clock`] | what time is it? |
//! | [`runner::Observer`] | look: this happened |
//!
//! Ports are small, object-safe and used as `Arc<dyn _>`. A method's documentation is the contract that an
//! implementor signs; the conformance kits of the domain crates check it.
//!
//! # Backends
//!
//! | Crate | Brings |
//! |---|---|
//! | `ci-scm` | plain git: sign-in and permissions from a file, code by the `git` program |
//! | `ci-sandbox` | sandboxes out of this machine's own Linux kernel |
//! | `ci-secrets` | the vault (secrets and keys over any [`records::Records`]), the masker |
//! | `ci-storage` | SQLite for records, queue and logs; a folder or bucket for artifacts and caches |
//! | this one | every port [in memory](#features), for tests, examples and prototypes |
//!
//! # Debug sessions
//!
//! [`debug`] lets a person who may write to a repository look into the sandbox of one of its jobs: for a time, recorded,
//! and told in the job's outcome.
//!
//! # Errors
//!
//! Every fallible call returns [`Error`]: a caller branches on its [`kind`](Error::kind), and tries again when it
//! [`is_retryable`](Error::is_retryable). A tenant may read its `Display`; the operator reads
//! [`for_operator`](Error::for_operator).
//!
//! # Logs
//!
//! What an operator has to know and no caller is told is an event of `tracing`, with the job's id as `job`: a job that
//! was refused or not begun, a heartbeat that failed, a worker that goes on after an error, a log, cache or status that
//! could not be stored or told (`WARN`); spans of calls that reach a forge (`INFO`). No event holds a secret or output.
//!
//! # Cancel safety
//!
//! Any future may be dropped at any time. Dropping one that only asks has no effect; what happens to one that
//! writes stands at its method or trait.
//!
//! # Features
//!
//! None is on by default.
//!
//! - `memory`: the module `memory`, with every port in memory and the `Rig` that wires them for tests and examples.
//! - `conformance`: the module `conformance` and the macro `declare_kit!`, which conformance kits are made of; `audit_kit!`.
//! - `aws-lc`: [`seal::Suite`] has AES-256-GCM too, by the C and assembly of AWS-LC, which takes a C compiler.

#![forbid(unsafe_code)]

pub mod access;
pub mod artifact;
pub mod audit;
pub mod cache;
pub mod clock;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod debug;
pub mod error;
mod external;
pub mod forge;
pub mod id;
pub mod identity;
pub mod job;
mod lock;
pub mod log;
#[cfg(feature = "memory")]
pub mod memory;
pub mod network;
pub mod operator;
pub mod outcome;
pub mod queue;
pub mod records;
pub mod runner;
pub mod sandbox;
pub mod seal;
pub mod secret;
pub mod stream;
pub mod trust;
mod units;

#[doc(no_inline)]
pub use secrecy;

pub use error::{Error, ErrorKind, Result};
pub use external::External;
pub use stream::ByteStream;
pub use units::ByteSize;
