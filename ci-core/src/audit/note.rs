//! Signed notes (<https://c2sp.org/signed-note>), with Ed25519.

use std::fmt;

use data_encoding::{BASE64, HEXLOWER};
use ed25519_dalek as ed25519;
use ed25519_dalek::Signer as _;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::error::{Error, ErrorKind, Result};
use crate::id::{TenantId, random_bytes};
use crate::secret::SecretValue;

/// How large a note may be. A checkpoint has less than 1 KiB, and each witness adds a line.
const MOST_BYTES: usize = 64 * 1024;
const ED25519: u8 = 1;
const SIGN: &str = "read a key that signs";
const VERIFY: &str = "read a key that verifies";
const OPEN: &str = "open a signed note";

/// The key with which a service signs the state of its audit logs.
///
/// It must lie where nobody who can write to the logs' store can read it: beside the root key, say. It signs, and not a key
/// of the key ring, because who could check such a code could also make one: an auditor needs no more than the
/// [`VerifyingKey`].
///
/// # Example
///
/// ```
/// use ci_core::audit::SigningKey;
/// use ci_core::id::TenantId;
///
/// let key = SigningKey::random("ci.example.org/audit")?; // once
/// let kept = key.to_text(); // into a file, from then on `SigningKey::parse`
/// let public = key.verifying_key(&TenantId::parse("acme")?).to_string(); // for whoever audits
/// assert!(public.starts_with("ci.example.org/audit/acme+"));
/// assert_eq!(SigningKey::parse(&kept)?.verifying_key(&TenantId::parse("acme")?).to_string(), public);
/// # Ok::<(), ci_core::Error>(())
/// ```
pub struct SigningKey {
    name: String,
    key: ed25519::SigningKey,
}

impl SigningKey {
    /// A new key of the service `name`: a host and a path, without `https://`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] unless the name has 1 to 128 bytes without spaces, control characters and `+`.
    pub fn random(name: &str) -> Result<Self> {
        let seed = Zeroizing::new(random_bytes());
        Ok(Self { name: checked(name, SIGN)?, key: ed25519::SigningKey::from_bytes(&seed) })
    }

    /// Takes the text that [`to_text`](Self::to_text) gives.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when it is none. The error does not show it.
    pub fn parse(text: &SecretValue) -> Result<Self> {
        let wrong =
            || Error::new(ErrorKind::Invalid, SIGN).because("it must be a key as `SigningKey` writes it");
        let text = std::str::from_utf8(text.expose()).map_err(|_| wrong())?;
        let (name, id, key) = text.strip_prefix("PRIVATE+KEY+").and_then(parts).ok_or_else(wrong)?;
        let seed = key.as_slice().try_into().map_err(|_| wrong())?;
        let key = Self { name: checked(name, SIGN)?, key: ed25519::SigningKey::from_bytes(seed) };
        if id_of(name, &key.key.verifying_key()) == id { Ok(key) } else { Err(wrong()) }
    }

    /// The key as text, to be kept: `PRIVATE+KEY+<name>+<id>+<Base64>`, as Go's `sumdb/note` writes it.
    pub fn to_text(&self) -> SecretValue {
        let id = HEXLOWER.encode(&id_of(&self.name, &self.key.verifying_key()));
        let mut key = Zeroizing::new([ED25519; 33]);
        key[1..].copy_from_slice(self.key.as_bytes());
        let front = format!("PRIVATE+KEY+{}+{id}+", self.name);
        let mut text = Vec::with_capacity(front.len() + BASE64.encode_len(key.len()));
        text.extend_from_slice(front.as_bytes());
        text.resize(text.capacity(), 0);
        BASE64.encode_mut(key.as_slice(), &mut text[front.len()..]);
        SecretValue::new(text)
    }

    /// What verifies that it has signed the state of the log of `tenant`, and of no other.
    pub fn verifying_key(&self, tenant: &TenantId) -> VerifyingKey {
        VerifyingKey { name: format!("{}/{tenant}", self.name), key: self.key.verifying_key() }
    }

    /// The note that says `text` about the log of `tenant`.
    pub(super) fn sign(&self, tenant: &TenantId, text: &str) -> String {
        let of_log = self.verifying_key(tenant);
        let signature = self.key.sign(text.as_bytes()).to_bytes();
        let signature = BASE64.encode(&[&of_log.id()[..], &signature].concat());
        format!("{text}\n\u{2014} {} {signature}\n", of_log.name)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What verifies signatures about one audit log. Its text is `<name>+<id>+<Base64>`, as
/// <https://c2sp.org/signed-note> and Go's `sumdb/note` have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyingKey {
    name: String,
    key: ed25519::VerifyingKey,
}

impl VerifyingKey {
    /// Takes a key's text.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when it is none.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = || {
            Error::new(ErrorKind::Invalid, VERIFY)
                .because("it must be a name, 8 hexadecimal digits and an Ed25519 key, joined by `+`")
        };
        let (name, id, key) = parts(text).ok_or_else(wrong)?;
        let key = key.as_slice().try_into().map_err(|_| wrong())?;
        let key = ed25519::VerifyingKey::from_bytes(key).map_err(|_| wrong())?;
        let key = Self { name: checked(name, VERIFY)?, key };
        if key.id() == id { Ok(key) } else { Err(wrong()) }
    }

    /// Which log it is for: the service's name and the tenant.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn id(&self) -> [u8; 4] {
        id_of(&self.name, &self.key)
    }

    /// The text of `note`, if this key has signed it.
    pub(super) fn open<'a>(&self, note: &'a str) -> Result<&'a str> {
        match self.look(note)? {
            Some(text) => Ok(text),
            None => Err(refused("this key has not signed it").with("key", &self.name)),
        }
    }

    /// The text of `note`, or `None` when it bears no signature by this name and id.
    pub(super) fn look<'a>(&self, note: &'a str) -> Result<Option<&'a str>> {
        if note.len() > MOST_BYTES || note.contains(|c: char| c.is_ascii_control() && c != '\n') {
            return Err(refused("it is no signed note"));
        }
        let blank = note.rfind("\n\n").ok_or_else(|| refused("it is no signed note"))?;
        let (text, signatures) = (&note[..=blank], &note[blank + 2..]);
        let signatures = signatures.strip_suffix('\n').ok_or_else(|| refused("its last line has no end"))?;
        let mut is_signed = false;
        for line in signatures.split('\n') {
            let (name, signature) = signature(line).ok_or_else(|| refused("a line is no signature"))?;
            let Some((id, signature)) = signature.split_first_chunk() else {
                return Err(refused("a signature is cut short"));
            };
            if name != self.name || *id != self.id() {
                continue;
            }
            let signature = ed25519::Signature::from_slice(signature);
            let checked = signature.and_then(|signature| self.key.verify_strict(text.as_bytes(), &signature));
            checked.map_err(|_| refused("its text is not what was signed").with("key", &self.name))?;
            is_signed = true;
        }
        Ok(is_signed.then_some(text))
    }
}

impl fmt::Display for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = BASE64.encode(&[&[ED25519], &self.key.to_bytes()[..]].concat());
        write!(f, "{}+{}+{key}", self.name, HEXLOWER.encode(&self.id()))
    }
}

/// A name, an id, and a key without its algorithm.
type Parts<'a> = (&'a str, [u8; 4], Zeroizing<Vec<u8>>);

/// The parts of `<name>+<id>+<Base64 of the algorithm and the key>`.
fn parts(text: &str) -> Option<Parts<'_>> {
    let (name, rest) = text.split_once('+')?;
    let (id, key) = rest.split_once('+')?;
    let id = HEXLOWER.decode(id.as_bytes()).ok()?.try_into().ok()?;
    let key = Zeroizing::new(BASE64.decode(key.as_bytes()).ok()?);
    let key = Zeroizing::new(key.strip_prefix(&[ED25519])?.to_vec());
    Some((name, id, key))
}

/// The name and the bytes of a signature.
fn signature(line: &str) -> Option<(&str, Vec<u8>)> {
    let (name, signature) = line.strip_prefix("\u{2014} ")?.split_once(' ')?;
    Some((name, BASE64.decode(signature.as_bytes()).ok()?)).filter(|_| !name.is_empty())
}

fn id_of(name: &str, key: &ed25519::VerifyingKey) -> [u8; 4] {
    let hash = Sha256::new().chain_update(name).chain_update([b'\n', ED25519]).chain_update(key.as_bytes());
    let hash: [u8; 32] = hash.finalize().into();
    [hash[0], hash[1], hash[2], hash[3]]
}

fn checked(name: &str, operation: &'static str) -> Result<String> {
    let is_bad = |c: char| c.is_whitespace() || c.is_control() || c == '+';
    if (1..=256).contains(&name.len()) && !name.contains(is_bad) {
        return Ok(name.to_owned());
    }
    Err(Error::new(ErrorKind::Invalid, operation)
        .because("its name must have 1 to 256 bytes without spaces, control characters and `+`"))
}

fn refused(reason: &'static str) -> Error {
    Error::new(ErrorKind::Tampered, OPEN).because(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRIVATE: &str = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";
    const PUBLIC: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    const NOTE: &str = "If you think cryptography is the answer to your problem,\n\
        then you don't know what your problem is.\n\n\
        \u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";

    fn kind<T>(result: Result<T>) -> ErrorKind {
        result.err().expect("refused").kind()
    }

    /// The example in the documentation of `golang.org/x/mod/sumdb/note`.
    #[test]
    fn keys_and_notes_are_those_of_the_first_implementation() {
        let key = VerifyingKey::parse(PUBLIC).expect("a key");
        assert_eq!(key.to_string(), PUBLIC);
        let text = key.open(NOTE).expect("it is signed");
        assert!(text.ends_with("problem is.\n"));
        let private = SigningKey::parse(&SecretValue::new(PRIVATE)).expect("a key");
        assert_eq!(private.to_text().expose(), PRIVATE.as_bytes());
        assert_eq!(private.key.verifying_key(), key.key);
        let signature =
            BASE64.encode(&[&key.id()[..], &private.key.sign(text.as_bytes()).to_bytes()].concat());
        assert!(NOTE.contains(&signature), "Ed25519 signs the same text with the same signature");
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let key = VerifyingKey::parse(PUBLIC).expect("a key");
        for at in 0..NOTE.len() {
            let mut bad = NOTE.as_bytes().to_vec();
            bad[at] ^= 1;
            if let Ok(bad) = std::str::from_utf8(&bad) {
                assert_eq!(kind(key.open(bad)), ErrorKind::Tampered, "{bad}");
            }
            if NOTE.is_char_boundary(at) {
                assert_eq!(kind(key.open(&NOTE[..at])), ErrorKind::Tampered, "{at}");
            }
        }
    }

    #[test]
    fn lines_of_others_are_not_looked_at() {
        let key = VerifyingKey::parse(PUBLIC).expect("a key");
        let witness = SigningKey::random("witness.example").expect("a key");
        let tenant = TenantId::parse("w1").expect("a tenant");
        let text = key.open(NOTE).expect("it is signed");
        let line = witness.sign(&tenant, text).split_off(text.len() + 1);
        assert!(key.open(&format!("{NOTE}{line}")).is_ok());
        assert!(witness.verifying_key(&tenant).open(&format!("{NOTE}{line}")).is_ok());
        assert_eq!(kind(witness.verifying_key(&tenant).open(NOTE)), ErrorKind::Tampered);
    }

    #[test]
    fn a_signature_for_one_log_is_none_for_another() {
        let key = SigningKey::random("ci.example.org/audit").expect("a key");
        let [ours, theirs] = ["acme", "globex"].map(|tenant| TenantId::parse(tenant).expect("a tenant"));
        let note = key.sign(&ours, "text\n");
        assert_eq!(key.verifying_key(&ours).open(&note).expect("it is signed"), "text\n");
        assert_eq!(kind(key.verifying_key(&theirs).open(&note)), ErrorKind::Tampered);
        let other = SigningKey::random("ci.example.org/audit").expect("a key");
        assert_eq!(kind(other.verifying_key(&ours).open(&note)), ErrorKind::Tampered);
    }

    #[test]
    fn what_is_no_key_is_refused_and_not_shown() {
        for bad in ["", "a", "a+b+c", "PRIVATE+KEY+", &PRIVATE.replace("c74f", "c74e"), &PRIVATE[..70]] {
            let error = SigningKey::parse(&SecretValue::new(bad)).expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(!format!("{error:?} {}", error.for_operator()).contains("AYEKFALV"));
        }
        for bad in ["", "a+b+c", &PUBLIC.replace("c74f", "c74e"), &PUBLIC[1..], &PUBLIC[..60]] {
            assert_eq!(kind(VerifyingKey::parse(bad)), ErrorKind::Invalid, "{bad}");
        }
        for bad in ["", "a b", "a+b", "a\n", &"x".repeat(257)] {
            assert_eq!(kind(SigningKey::random(bad)), ErrorKind::Invalid, "{bad:?}");
        }
        let key = SigningKey::parse(&SecretValue::new(PRIVATE)).expect("a key");
        assert_eq!(format!("{key:?}"), "SigningKey { name: \"PeterNeumann\", .. }");
    }
}
