//! What proves something is made by this crate alone: its fields are private.

use ci_core::access::Session;
use ci_core::forge::{Event, VerifiedDelivery};
use ci_core::operator::{Act, Operator};
use ci_core::queue::{Claim, NewJob};
use ci_core::sandbox::Teardown;
use ci_core::secret::{Masked, SecretLease};
use ci_core::trust::{Approval, Provenance};

fn any<T>() -> T {
    loop {}
}

fn main() {
    let _ = Session { user: any(), signed_in_at: any(), start: any(), until: any() };
    let _ = Claim { tenure: any(), slip: any(), attempt: any(), ttl: any(), queue: any(), ring: any() };
    let _ = NewJob { job: any(), code: any(), trigger: any(), spec: any() };
    let _ = VerifiedDelivery { raw: any(), scope: any(), mark: any(), hooks: any() };
    let _ = Event { repository: any(), actor: any(), kind: any(), code: any(), mark: any() };
    let _ = Provenance { repository: any(), commit: any(), origin: any(), reference: any() };
    let _ = Approval { repository: any(), commit: any(), by: any() };
    let _ = SecretLease { values: any(), unmasked: any(), masker: any(), leaks: any(), tenure: any(), end: any() };
    let _ = Masked { bytes: any(), job: any() };
    let _ = Teardown { id: any() };
    let _ = Operator { audit: any() };
    let _ = Act { _operator: any(), tenant: any() };
}
