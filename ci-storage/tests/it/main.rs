//! The kits against every backend, and what only these backends promise.

mod backends;
mod broken;
mod faults;
mod files;
mod kits;
mod model;
mod sweeping;
mod tampering;
