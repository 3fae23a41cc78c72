//! Where sealed content of the vault belongs: what its key and its associated data are made of.
//!
//! All fields stand in it, each with its length in front, so that two different places never look the same. The header
//! of everything sealed adds the format of the seal, the suite and the key's id, which go into the derivation of the
//! record's key as well (see [`ci_core::seal`]).

use ci_core::id::{Digest, KeyId, RepositoryId};
use ci_core::seal::{Context, DataKey};

/// The format of the rows.
const FORMAT: u8 = 2;
/// For whom a secret is. There is one answer today; a secret of several repositories would have another.
const SCOPE: &str = "repository";

/// What kind of thing is sealed. Each has a key of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// What people may see of a secret.
    Info,
    /// A value that may be a variable.
    Variable,
    /// A value that is given as a file only.
    File,
    /// A decoy.
    Canary,
    /// SSH keys.
    SshKeys,
    /// Keys that sign identity tokens.
    TokenKeys,
    /// The list of a repository's secrets and private keys.
    Manifest,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Info => "secret info",
            Self::Variable => "secret variable",
            Self::File => "secret file",
            Self::Canary => "secret canary",
            Self::SshKeys => "ssh keys",
            Self::TokenKeys => "token keys",
            Self::Manifest => "secret manifest",
        }
    }

    /// The key that follows from the repository's for things of this kind.
    pub(super) fn key(self, repository: &DataKey) -> DataKey {
        repository.derive(&Context::new("purpose").field(self.as_str()))
    }
}

/// Where something belongs. What has no name, version or policy has empty ones.
#[derive(Clone, Copy, Debug)]
pub(super) struct Belonging<'a> {
    pub(super) kind: Kind,
    pub(super) repository: &'a RepositoryId,
    pub(super) name: &'a str,
    pub(super) version: u64,
    pub(super) key: &'a KeyId,
    pub(super) policy: Option<&'a Digest>,
}

impl Belonging<'_> {
    pub(super) fn context(&self) -> Context {
        let Self { kind, repository, name, version, key, policy } = self;
        Context::new("secret")
            .field([FORMAT])
            .field(kind.as_str())
            .field(repository.tenant().as_str())
            .field(repository.forge().as_str())
            .field(repository.native().as_str())
            .field(SCOPE)
            .field(name)
            .field(version.to_be_bytes())
            .field(key.as_str())
            .field(policy.map_or("", Digest::as_str))
    }
}

#[cfg(test)]
mod tests {
    use ci_core::id::{ForgeId, NativeId, TenantId};
    use proptest::prelude::*;

    use super::*;

    const ALL: [Kind; 7] = [
        Kind::Info,
        Kind::Variable,
        Kind::File,
        Kind::Canary,
        Kind::SshKeys,
        Kind::TokenKeys,
        Kind::Manifest,
    ];

    /// The fields of an encoded list.
    fn fields(mut encoded: &[u8]) -> Vec<Vec<u8>> {
        let mut fields = Vec::new();
        while let Some((length, rest)) = encoded.split_first_chunk::<8>() {
            let length = usize::try_from(u64::from_be_bytes(*length)).expect("a length");
            let (field, rest) = rest.split_at(length);
            fields.push(field.to_vec());
            encoded = rest;
        }
        assert!(encoded.is_empty(), "nothing is left over");
        fields
    }

    type Parts = (usize, String, String, String, String, u64, u8, Option<u8>);

    fn parts() -> impl Strategy<Value = Parts> {
        let (kind, version) = (0..ALL.len(), prop_oneof![0..3_u64, any::<u64>()]);
        let text = || "[a/]{1,3}";
        (kind, "[ab]{1,2}", "[ab]{1,2}", text(), "[AB]{0,3}", version, 0..2_u8, prop::option::of(0..2_u8))
    }

    fn with<T>(parts: &Parts, then: impl FnOnce(&Belonging<'_>) -> T) -> T {
        let (kind, tenant, forge, native, name, version, key, policy) = parts;
        let repository = RepositoryId::new(
            NativeId::parse(native).expect("an id"),
            ForgeId::parse(forge).expect("a name"),
            TenantId::parse(tenant).expect("a name"),
        );
        let key = KeyId::parse(format!("{key:032x}")).expect("an id");
        let policy = policy.map(|policy| Digest::of(&[policy]));
        let (version, policy) = (*version, policy.as_ref());
        then(&Belonging { kind: ALL[*kind], repository: &repository, name, version, key: &key, policy })
    }

    proptest! {
        #[test]
        fn different_places_have_different_contexts(one in parts(), other in parts()) {
            let contexts = [&one, &other].map(|parts| with(parts, |place| (place.kind.as_str(), place.context())));
            prop_assert_eq!(one == other, contexts[0] == contexts[1]);
        }

        #[test]
        fn every_field_can_be_read_back(parts in parts()) {
            let (context, kind) = with(&parts, |place| (place.context(), place.kind));
            let policy = parts.7.map_or(String::new(), |policy| Digest::of(&[policy]).as_str().to_owned());
            let expected: Vec<Vec<u8>> = vec![
                b"secret".to_vec(),
                vec![FORMAT],
                kind.as_str().into(),
                parts.1.clone().into(),
                parts.2.clone().into(),
                parts.3.clone().into(),
                SCOPE.into(),
                parts.4.clone().into(),
                parts.5.to_be_bytes().to_vec(),
                format!("{:032x}", parts.6).into(),
                policy.into(),
            ];
            prop_assert_eq!(fields(context.as_bytes()), expected);
        }
    }

    #[test]
    fn every_kind_has_its_own_key() {
        let repository = DataKey::random();
        let keys: std::collections::BTreeSet<_> =
            ALL.iter().map(|kind| *kind.key(&repository).expose()).collect();
        assert_eq!(keys.len(), ALL.len());
    }
}
