//! What proves something comes out of no file and is not copied.

use ci_core::access::{Grant, Read, Session};
use ci_core::forge::{Event, VerifiedDelivery};
use ci_core::operator::{Act, Operator};
use ci_core::queue::{Claim, NewJob};
use ci_core::sandbox::{Sandbox, Teardown};
use ci_core::secret::{Masked, SecretLease, SecretValue};
use ci_core::trust::Provenance;

fn is_read<T: serde::de::DeserializeOwned>() {}

fn is_copied<T: Clone>() {}

fn main() {
    is_read::<Session>();
    is_read::<Grant<Read>>();
    is_read::<Claim>();
    is_read::<NewJob>();
    is_read::<VerifiedDelivery>();
    is_read::<Event>();
    is_read::<Provenance>();
    is_read::<Masked>();
    is_read::<SecretLease>();
    is_read::<SecretValue>();
    is_read::<Teardown>();
    is_read::<Act<'_>>();

    is_copied::<Claim>();
    is_copied::<NewJob>();
    is_copied::<Operator>();
    is_copied::<Act<'_>>();
    is_copied::<SecretLease>();
    is_copied::<Sandbox>();
    is_copied::<Teardown>();
}
