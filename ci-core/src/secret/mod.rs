//! Secrets: how they are kept, leased to one job, and kept out of its output.
//!
//! A [`SecretLease`] is the only form in which values reach a sandbox, and it makes the [`Mask`] that output
//! goes through: what can be injected is masked. A log store takes nothing but [`Masked`] bytes.

mod anchor;
mod end;
mod key_ring;
mod leak;
mod lease;
mod mask;
mod masker;
mod policy;
mod ssh;
mod store;
mod stored;
mod value;

pub use anchor::{FreshnessAnchor, Mark};
pub use end::LeaseEnd;
pub use key_ring::{KeyRing, Purpose};
pub use leak::{Form, Leak, Learned, Sensitive, Unmasked};
pub use lease::SecretLease;
pub use mask::{Mask, Masked};
pub use masker::{Masker, Redactor};
pub use policy::{RefPattern, SecretPolicy};
pub use ssh::{SshPublicKey, SshSigner};
pub use store::SecretStore;
pub use stored::{NewSecret, SecretInfo, SecretKind, Stored};
pub use value::SecretValue;
