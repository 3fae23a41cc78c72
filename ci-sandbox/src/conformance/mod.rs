//! What every sandbox must be and do, as tests that a backend of your own can run.
//!
//! A kit is called once, with a closure that makes a fresh [`Bench`] for every case, and becomes one `#[test]` per case
//! ([`declare_kit!`](ci_core::declare_kit)):
//!
//! | Kit | What it is about |
//! |---|---|
//! | [`sandbox_kit!`](crate::sandbox_kit) | what [`ci_core::sandbox`] promises: programs, files, bounds, secrets, and how a sandbox ends |
//! | [`sandbox_attack_kit!`](crate::sandbox_attack_kit) | what hostile code does: every [`Attack`](attack::Attack) that is known here, one case each |
//!
//! Whether a case counts is decided by what the backend says of itself. A guarantee that it *declares*
//! ([`Capabilities`](ci_core::sandbox::Capabilities)) is tried; one that it says is *missing* is not demanded: the case
//! is skipped ([`skip`](ci_core::conformance::skip), need `guarantee`), which is counted and is not a pass. What no
//! guarantee stands for is demanded of every backend.
//!
//! # How it works
//!
//! An attack is tried by a program of this crate (the folder `attack/`), which the kit uploads into the sandbox and runs
//! there. It is static and needs nothing of the image: no shell, no C library. What an attack needs outside - a sandbox
//! beside it, a listener, a secret in this program's memory - the kit has itself. It sends nothing beyond this machine:
//! an address is looked up before anything is sent to it, and where no way leads there nothing is.
//!
//! Two things a backend's tests bring along where the backend has them, and the cases that need them are skipped
//! otherwise: a [`World`] for sandboxes that may connect to somebody, and a way to make an image of an OCI layout
//! ([`Bench::with_image`]), which the kit fills with what an image must not do.
//!
//! A machine that runs the tests for backends on *other* machines (a cluster, a virtual machine) needs no more than the
//! port. Then what a test looks for on its own machine is not there to be found, and those parts pass; run the kit on a
//! node as well.
//!
//! # For an operator
//!
//! [`assess`] tries every attack against one backend and returns a table that a person can read: what is declared, what
//! was tried, what came of it, and what that means for the build levels of SLSA. In it, *untried* is an attack that the
//! tests had no hands for, with the reason below the table; *not tried* is a guarantee that no attack is about.
//!
//! # Example
//!
//! The tests of a backend, with `ci-sandbox` and `ci-core` among its `dev-dependencies`, both with the feature
//! `conformance`:
//!
//! ```no_run
//! # #[cfg(feature = "native")]
//! # mod example {
//! use std::sync::Arc;
//!
//! use ci_core::conformance::Setup;
//! use ci_core::id::ImageName;
//! use ci_core::sandbox::Backend;
//! use ci_sandbox::conformance::Bench;
//! use ci_sandbox::native::{Config, ImageSource, Native};
//!
//! #[derive(Debug)]
//! struct OnThisMachine(Native);
//!
//! impl Bench for OnThisMachine {
//!     fn backend(&self) -> Arc<dyn Backend> {
//!         Arc::new(self.0.clone())
//!     }
//!
//!     fn image(&self) -> ImageName {
//!         ImageName::parse("host").expect("a name")
//!     }
//! }
//!
//! fn bench() -> Setup<Arc<dyn Bench>> {
//!     let state = std::env::temp_dir().join("sandboxes");
//!     let image = ImageName::parse("host").expect("a name");
//!     let config = Config::new(state).with_image(image, ImageSource::host_toolchain());
//!     Setup::ready(Arc::new(OnThisMachine(Native::new(config).expect("a backend"))))
//! }
//!
//! mod contract {
//!     ci_sandbox::sandbox_kit!(async || super::bench());
//! }
//! mod attacks {
//!     ci_sandbox::sandbox_attack_kit!(async || super::bench());
//! }
//! # }
//! # fn main() {}
//! ```

pub mod attack;
pub mod contract;

mod assess;
mod bench;
mod guest;
mod layout;
mod machine;
mod tar;
mod world;

pub use assess::{Assessment, Finding, assess, assess_by};
pub use attack::Outcome;
pub use bench::{Bench, inhabit};
pub use world::{Server, World};
