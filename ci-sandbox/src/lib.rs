//! Fresh, isolated, provably destroyed sandboxes for CI jobs.
//!
//! The ports are those of [`ci_core::sandbox`]; here are the backends:
//!
//! | Module | Feature | A job runs |
//! |---|---|---|
//! | [`native`] | `native` (on by default, Linux) | in namespaces of this machine's kernel |
//!
//! Without features, and on other systems, the crate is empty and builds everywhere.
//!
//! # Example
//!
//! From the machine's kernel to a finished command, and to the proof that nothing of it is left:
//!
//! ```no_run
//! # #[cfg(all(feature = "native", target_os = "linux"))]
//! # async fn example(
//! #     claim: &ci_core::queue::Claim,
//! #     lease: &ci_core::secret::SecretLease,
//! # ) -> ci_core::Result<()> {
//! use std::sync::Arc;
//!
//! use ci_core::id::ImageName;
//! use ci_core::job::Arg;
//! use ci_core::sandbox::{Command, ProcessEvent, Sandboxes, Spec};
//! use ci_sandbox::native::{Config, ImageSource, Native};
//!
//! let image = ImageName::parse("host")?;
//! let config = Config::new("/var/lib/ci").with_image(image.clone(), ImageSource::host_toolchain());
//! let sandboxes = Sandboxes::new(Arc::new(Native::new(config)?));
//! // What an earlier run of this program has left, should it have been killed.
//! sandboxes.reap().await?;
//!
//! let sandbox = sandboxes.create(claim, &Spec::new(image)).await?;
//! let command = Command::new(Arg::new("make")?, [Arg::new("test")?]);
//! let mut process = sandbox.exec(&command, lease).await?;
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
//! # What native sandboxes do not protect from
//!
//! - **A bug in the kernel.** All sandboxes share the machine's, behind a filter that is as strict as Docker's. Code
//!   that is hostile *and* precious enough for a kernel exploit belongs in a virtual machine.
//! - **Side channels.** Processors, their caches and the page cache of an image's files are shared.
//! - **Knowing the machine.** A job sees the kernel's version, the processors, the machine's load and memory, and which
//!   host paths its image and folders are shown from.
//! - **Reading the image.** What everybody may read in the folders that an image shows, every job can read. They are the
//!   machine's own files: a job can watch (`inotify(7)`) which of them others open, and hold locks (`flock(2)`) on them
//!   that others wait for. Show jobs a copy where that matters.
//! - **Using up what cannot be limited.** Bounds on memory and processors need control groups that this program may
//!   make, and mapped ids need root. What is missing is in the
//!   [`IsolationReport`](ci_core::sandbox::IsolationReport); ask for what a job needs with
//!   [`Spec::with_minimum`](ci_core::sandbox::Spec::with_minimum), and it is refused where it would not hold. Bandwidth of
//!   memory is not limited at all.
//! - **A job that gives itself away.** A crash is written down nowhere, but a program that sets its own limit on core
//!   dumps to zero hands its crash to what the machine has in `kernel.core_pattern`, if that is a program.
//!
//! There is no network in a native sandbox but loopback, so a job that has to fetch something needs it brought in.

//!
//! # A backend of your own
//!
//! [`conformance`] (feature `conformance`, Linux) has the tests that every backend has to pass, and the attacks that it has
//! to withstand.

#![deny(unsafe_code)]

#[cfg(all(feature = "conformance", target_os = "linux"))]
pub mod conformance;

#[cfg(all(feature = "native", target_os = "linux"))]
pub mod native;
