//! What the root keys in this process's own memory have in common.

use bytes::Bytes;
use ci_core::Result;
use ci_core::id::KeyId;
use ci_core::seal::{Context, DataKey};
use data_encoding::HEXLOWER;
use secrecy::SecretBox;

use super::{boxed, boxed_key};

/// A root key whose id follows from it, so that a wrong one is noticed.
pub(super) struct Local {
    key: DataKey,
    reference: String,
}

impl Local {
    /// The root key with these bytes, whose reference begins with `kind`.
    pub(super) fn new(kind: &str, key: &[u8; 32]) -> Self {
        // Deriving does not depend on the id, which is not known yet.
        let nameless = DataKey::new(KeyId::random(), boxed(key));
        let fingerprint = nameless.derive(&Context::new("root key id"));
        let id = HEXLOWER.encode(&fingerprint.expose()[..16]);
        let id = KeyId::parse(id).expect("16 bytes are 32 hexadecimal digits");
        let reference = format!("{kind}:{id}");
        Self { key: DataKey::new(id, boxed(key)), reference }
    }

    pub(super) fn id(&self) -> &str {
        self.key.id().as_str()
    }

    pub(super) fn expose(&self) -> &[u8; 32] {
        self.key.expose()
    }

    pub(super) fn reference(&self) -> &str {
        &self.reference
    }

    pub(super) fn wrap(&self, context: &Context, key: &[u8; 32]) -> Bytes {
        self.key.seal(context, key)
    }

    pub(super) fn unwrap(&self, context: &Context, wrapped: &[u8]) -> Result<SecretBox<[u8; 32]>> {
        boxed_key(&self.key.open(context, wrapped)?)
    }
}
