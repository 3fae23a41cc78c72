//! Fresh, isolated, provably destroyed sandboxes for CI jobs.
//!
//! The ports are those of [`ci_core::sandbox`]; here are the backends:
//!
//! | Module | Feature | A job runs |
//! |---|---|---|
//! | [`native`] | `native` (on by default, Linux) | in namespaces of this machine's kernel |

#![deny(unsafe_code)]

#[cfg(all(feature = "native", target_os = "linux"))]
pub mod native;
