//! Tests across the crates, against real backends.

#![expect(unreachable_pub, reason = "a test has no outside")]

mod architecture;
mod fixture;
mod job;
mod keys;
mod quickstart;
mod services;
mod surgery;
mod traces;

/// The service of the quickstart: what integrators start from is what is tested.
#[expect(dead_code, reason = "the quickstart uses more of it")]
#[path = "../../examples/quickstart/service.rs"]
mod service;
