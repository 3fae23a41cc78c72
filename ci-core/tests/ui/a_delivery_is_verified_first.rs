//! A delivery is not read before it is verified.

use ci_core::forge::RawDelivery;
use ci_core::job::JobSpec;
use ci_core::queue::NewJob;

fn unverified(raw: RawDelivery, spec: JobSpec) {
    let _ = NewJob::from_event(&raw, spec);
    let _ = raw.parse();
}

fn main() {}
