//! A delivery is not read before it is verified.

use ci_core::forge::RawDelivery;
use ci_core::job::JobSpec;
use ci_core::queue::NewJob;
use ci_core::trust::Provenance;

fn unverified(raw: RawDelivery, code: Provenance, spec: JobSpec) {
    let _ = NewJob::from_event(&raw, code, "test", spec);
    let _ = raw.parse();
}

fn main() {}
