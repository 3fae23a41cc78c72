//! Fresh, isolated, provably destroyed sandboxes for CI jobs.
//!
//! The ports are those of [`ci_core::sandbox`]; here are the backends:
//!
//! | Module | Feature | A job runs |
//! |---|---|---|
//! | [`native`] | `native` (on by default, Linux) | in namespaces of this machine's kernel |
//!
//! [`debug`] (feature `debug`, Linux) is an SSH server by which people who were granted it look into a job's sandbox, of
//! whatever backend. [`conformance`] (feature `conformance`, Linux) is for who writes a backend, and for tests alone.
//!
//! Without features, and on other systems, the crate is empty and builds everywhere.
//!
//! # Example
//!
//! From the machine's kernel to a finished command, and to the proof that nothing of it is left. A sandbox is made for a
//! job, so it takes the job's [`Claim`](ci_core::queue::Claim), and a program the job's
//! [`SecretLease`](ci_core::secret::SecretLease). A [`Runner`](ci_core::runner::Runner) has both and does all of this by
//! itself; who wants to try sandboxes alone gets them from a [`Rig`](ci_core::memory::Rig) (`ci-core` with its feature
//! `memory`), whose claim lasts as long as its clock stands still:
//!
//! ```no_run
//! # #[cfg(all(feature = "native", target_os = "linux"))]
//! # async fn example() -> ci_core::Result<()> {
//! use std::sync::Arc;
//!
//! use ci_core::id::ImageName;
//! use ci_core::job::Arg;
//! use ci_core::memory::{Masking, Rig};
//! use ci_core::sandbox::{Command, ProcessEvent, Sandboxes, Spec};
//! use ci_core::secret::SecretLease;
//! use ci_core::trust::Origin;
//! use ci_sandbox::native::{Config, ImageSource, Native};
//!
//! let rig = Rig::new()?;
//! let claim = rig.claim(&Rig::repository("1", "acme")?, Origin::Repository, Rig::spec()).await?;
//! let lease = SecretLease::empty(&claim, Arc::new(Masking::new()));
//!
//! let image = ImageName::parse("host")?;
//! let config = Config::new("/var/lib/ci").with_image(image.clone(), ImageSource::host_toolchain());
//! let sandboxes = Sandboxes::new(Arc::new(Native::new(config)?));
//! // What an earlier run of this program has left, should it have been killed.
//! sandboxes.reap().await?;
//!
//! let sandbox = sandboxes.create(&claim, &Spec::new(image)).await?;
//! let command = Command::new(Arg::new("make")?, [Arg::new("test")?]);
//! let mut process = sandbox.exec(&command, &lease).await?;
//! let exit = loop {
//!     match process.next().await? {
//!         // Secrets are not masked yet: `ci_core::runner` does that, and keeps the log.
//!         ProcessEvent::Output(_stream, bytes) => println!("{} bytes", bytes.len()),
//!         ProcessEvent::Exited(exit) => break exit,
//!     }
//! };
//! drop(process);
//! let teardown = sandbox.destroy().await?;
//! println!("{:?}, and {} is gone", exit.status, teardown.sandbox());
//! # Ok(())
//! # }
//! ```
//!
//! Print an error of the configuration with [`for_operator`](ci_core::Error::for_operator): which path it is about, and
//! what the system said, is in neither its `Display` nor its `Debug`, which may reach tenants.
//!
//! # What native sandboxes do not protect from
//!
//! - **A bug in the kernel.** All sandboxes share the machine's, behind a filter that is as strict as Docker's. Code
//!   that is hostile *and* precious enough for a kernel exploit belongs in a virtual machine.
//! - **Side channels.** Processors, their caches and the page cache of an image's files are shared.
//! - **A bug that writes to the page cache.** It would change an image for all sandboxes that show it, until the kernel
//!   reads the page from disk again.
//! - **Knowing the machine.** A job sees the kernel's version, the processors, the machine's load and memory, and which
//!   host paths the folders of a helper are shown from.
//! - **Reading the image.** What everybody may read in the folders that an image shows, every job can read. Nobody else
//!   sees by watches and locks what it reads, where the report says so
//!   ([`Guarantee::OwnImage`](ci_core::sandbox::Guarantee::OwnImage)).
//! - **Using up what cannot be limited.** Bounds on memory and processors need control groups that this program may
//!   make, and mapped ids need root. What is missing is in the
//!   [`IsolationReport`](ci_core::sandbox::IsolationReport); ask for what a job needs with
//!   [`Spec::with_minimum`](ci_core::sandbox::Spec::with_minimum), and it is refused where it would not hold. Bandwidth of
//!   memory is not limited at all.
//! - **A job from itself.** Its programs run as one user: while a step has a secret, whatever an earlier step has left
//!   running can read it, in a variable or in a file, and can read and write the terminal of another. What is left of a
//!   file's value when its program has ended is what the job has copied. Without a range of ids, a job can also move the
//!   files away, or stand in the way of new ones, which then do not start.
//! - **A job that gives itself away.** A crash is written down nowhere, but a program that sets its own limit on core
//!   dumps to zero hands its crash to what the machine has in `kernel.core_pattern`, if that is a program.
//! - **What an allowed host does.** Rules say which hosts and networks a job connects to, and a connection says nothing
//!   of what it carries: see [what a proxy cannot see](native#what-a-proxy-cannot-see).
//!
//! # A backend of your own
//!
//! [`conformance`] (feature `conformance`, Linux) has the tests that every backend has to pass, and the attacks that it has
//! to withstand.

#![deny(unsafe_code)]

#[cfg(all(feature = "conformance", target_os = "linux"))]
pub mod conformance;

#[cfg(all(feature = "debug", target_os = "linux"))]
pub mod debug;

#[cfg(all(feature = "native", target_os = "linux"))]
pub mod native;
