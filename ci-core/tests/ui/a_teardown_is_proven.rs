//! Only what counted nothing left makes the proof that a sandbox is gone.

use ci_core::id::SandboxId;
use ci_core::sandbox::{Residue, Teardown};

fn proven(id: SandboxId) -> Teardown {
    Teardown::prove(id, Residue::default()).expect("nothing is left")
}

fn main() {}
