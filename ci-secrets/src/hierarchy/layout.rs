//! Where keys lie in the records, how their rows are read, and what they are bound to.
//!
//! ```text
//! key/tenant/<tenant>/current                           the id of the key that wraps new repository keys
//! key/tenant/<tenant>/wrapped/<id>                      format 1 | length 2 | root key's reference | wrapped key
//! key/repository/<tenant>/<forge>/<native>/current      the id of the key that seals new content
//! key/repository/<tenant>/<forge>/<native>/wrapped/<id> the key, sealed under the tenant's key
//! ```

use bytes::{BufMut as _, Bytes, BytesMut};
use ci_core::id::{ForgeId, KeyId, NativeId, RepositoryId, TenantId};
use ci_core::records::Key;
use ci_core::seal::Context;
use ci_core::{Error, ErrorKind, Result};

const FORMAT: u8 = 1;

/// Above the keys of all tenants.
pub(crate) fn tenants() -> Key {
    Key::new("key").part("tenant")
}

pub(crate) fn tenant_folder(tenant: &TenantId) -> Key {
    tenants().part(tenant.as_str())
}

/// Above the keys of all repositories of `tenant`.
pub(crate) fn repositories(tenant: &TenantId) -> Key {
    Key::new("key").part("repository").part(tenant.as_str())
}

pub(crate) fn repository_folder(repository: &RepositoryId) -> Key {
    Key::new("key").part("repository").repository(repository)
}

pub(crate) fn current_place(folder: &Key) -> Key {
    folder.clone().part("current")
}

/// Above all wrapped keys of `folder`.
pub(crate) fn wrapped(folder: &Key) -> Key {
    folder.clone().part("wrapped")
}

pub(crate) fn wrapped_place(folder: &Key, id: &KeyId) -> Key {
    wrapped(folder).part(id.as_str())
}

pub(super) fn tenant_context(tenant: &TenantId, id: &KeyId, root: &str) -> Context {
    Context::new("tenant key").field([FORMAT]).field(tenant.as_str()).field(id.as_str()).field(root)
}

pub(crate) fn repository_context(repository: &RepositoryId, id: &KeyId) -> Context {
    Context::new("repository key")
        .field([FORMAT])
        .field(repository.tenant().as_str())
        .field(repository.forge().as_str())
        .field(repository.native().as_str())
        .field(id.as_str())
}

pub(super) fn write_tenant_row(root: &str, wrapped: &[u8]) -> Result<Bytes> {
    const MOST: usize = 256;
    let length = u16::try_from(root.len()).ok().filter(|_| root.len() <= MOST);
    let length = length.ok_or_else(|| {
        Error::new(ErrorKind::Internal, "wrap a key").because("the root key's reference is too long")
    })?;
    let mut row = BytesMut::with_capacity(3 + root.len() + wrapped.len());
    row.put_u8(FORMAT);
    row.put_u16(length);
    row.put_slice(root.as_bytes());
    row.put_slice(wrapped);
    Ok(row.freeze())
}

/// The root key's reference and what it wrapped.
pub(crate) fn read_tenant_row(row: &[u8]) -> Result<(&str, &[u8])> {
    let read = || {
        let rest = row.strip_prefix(&[FORMAT])?;
        let (length, rest) = rest.split_first_chunk::<2>()?;
        let (root, wrapped) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        Some((std::str::from_utf8(root).ok()?, wrapped))
    };
    read()
        .ok_or_else(|| Error::new(ErrorKind::Tampered, "fetch a key").because("the row of a key is not one"))
}

/// Whose key lies at `place`, when it is the place of a tenant's wrapped key.
pub(crate) fn tenant_of(place: &Key) -> Option<(TenantId, KeyId)> {
    let [tenant, id] = parts_between(place, &tenants(), "wrapped")?;
    let (tenant, id) = (owner(tenant)?, KeyId::parse(id).ok()?);
    (wrapped_place(&tenant_folder(&tenant), &id) == *place).then_some((tenant, id))
}

/// Whose key lies at `place`, when it is the place of a repository's wrapped key.
pub(crate) fn repository_of(place: &Key) -> Option<(RepositoryId, KeyId)> {
    let [tenant, forge, native, id] = parts_between(place, &Key::new("key").part("repository"), "wrapped")?;
    let (repository, id) = (repository(tenant, forge, native)?, KeyId::parse(id).ok()?);
    (wrapped_place(&repository_folder(&repository), &id) == *place).then_some((repository, id))
}

/// Whose it is, when `place` is the one that says which key of a repository is current.
pub(crate) fn repository_of_pointer(place: &Key) -> Option<RepositoryId> {
    let text = place.as_str().strip_prefix("key/repository/")?.strip_suffix("/current")?;
    let mut parts = text.split('/').map(decoded);
    let repository = repository(parts.next()??, parts.next()??, parts.next()??)?;
    (current_place(&repository_folder(&repository)) == *place).then_some(repository)
}

fn repository(tenant: String, forge: String, native: String) -> Option<RepositoryId> {
    let (native, forge) = (NativeId::parse(native).ok()?, ForgeId::parse(forge).ok()?);
    Some(RepositoryId::new(native, forge, owner(tenant)?))
}

/// A tenant, or the service itself, which has keys too and a name that no tenant can have.
fn owner(tenant: String) -> Option<TenantId> {
    let service = TenantId::service();
    if tenant == service.as_str() { Some(service) } else { TenantId::parse(tenant).ok() }
}

/// The parts of `place` below `prefix`; the last but one must be `word`, and is left out.
fn parts_between<const COUNT: usize>(place: &Key, prefix: &Key, word: &str) -> Option<[String; COUNT]> {
    let rest = place.as_str().strip_prefix(prefix.as_str())?.strip_prefix('/')?;
    let mut parts: Vec<&str> = rest.split('/').collect();
    let at = parts.len().checked_sub(2)?;
    if parts.remove(at) != word {
        return None;
    }
    parts.into_iter().map(decoded).collect::<Option<Vec<_>>>()?.try_into().ok()
}

/// A part as it was before it became one of a key.
fn decoded(part: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let [first, after @ ..] = rest {
        if *first == b'%' {
            let (digits, after) = after.split_first_chunk::<2>()?;
            bytes.push(data_encoding::HEXUPPER.decode(digits).ok()?[0]);
            rest = after;
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(native: &str, tenant: TenantId) -> RepositoryId {
        let native = NativeId::parse(native).expect("an id");
        RepositoryId::new(native, ForgeId::parse("bitbucket").expect("a forge"), tenant)
    }

    fn ours() -> RepositoryId {
        of("{3f2b-1}", TenantId::parse("acme").expect("a tenant"))
    }

    #[test]
    fn a_place_says_whose_key_it_is() {
        for repository in [ours(), of("https://ci.example.org", TenantId::service())] {
            let (folder, id) = (repository_folder(&repository), KeyId::random());
            assert_eq!(repository_of(&wrapped_place(&folder, &id)), Some((repository.clone(), id.clone())));
            assert_eq!(repository_of_pointer(&current_place(&folder)), Some(repository.clone()));
            let folder = tenant_folder(repository.tenant());
            assert_eq!(tenant_of(&wrapped_place(&folder, &id)), Some((repository.tenant().clone(), id)));
        }
    }

    #[test]
    fn other_places_are_nobodys() {
        let folder = repository_folder(&ours());
        let others = [
            current_place(&folder),
            wrapped(&folder),
            wrapped(&folder).part("short"),
            wrapped_place(&folder, &KeyId::random()).part("deeper"),
            Key::new("key").part("wrapped").part(KeyId::random().as_str()),
        ];
        for place in others {
            assert_eq!((tenant_of(&place), repository_of(&place)), (None, None), "{place}");
        }
        assert_eq!(repository_of_pointer(&folder), None);
    }
}
