//! Where code comes from is what the forge says, and its trust cannot be raised.

use ci_core::forge::Revision;
use ci_core::id::RepositoryId;
use ci_core::trust::{Approval, Origin, Provenance, Trust};

fn made(repository: RepositoryId, revision: Revision) -> Provenance {
    Provenance::new(repository, revision)
}

fn raised(mut code: Provenance) -> Provenance {
    code.origin = Origin::Protected;
    code
}

fn set(code: &mut Provenance) {
    code.set_trust(Trust::Protected);
}

fn approved(approval: &Approval, code: Provenance) -> Provenance {
    approval.approve(code)
}

fn main() {}
