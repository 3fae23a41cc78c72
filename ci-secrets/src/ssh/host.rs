//! The keys by which SSH servers are recognised.

use std::fmt;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA512, RsaPublicKeyComponents, UnparsedPublicKey,
    VerificationAlgorithm,
};
use ci_core::{Error, ErrorKind, Result};
use data_encoding::BASE64;

use super::wire::Reader;

/// The public key of an SSH server: Ed25519, ECDSA over P-256, P-384 or P-521, or RSA of 2,048 to 8,192 bits with
/// SHA-2. There are no certificates.
///
/// # Example
///
/// ```
/// use ci_secrets::ssh::HostKey;
///
/// // What github.com publishes.
/// let key = HostKey::parse(
///     "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl",
/// )?;
/// assert_eq!(key.algorithm(), "ssh-ed25519");
/// assert!(HostKey::parse("ssh-dss AAAAB3NzaC1kc3MAAAAA").is_err());
/// # Ok::<(), ci_core::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct HostKey {
    kind: Kind,
    blob: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Ed25519,
    P256,
    P384,
    P521,
    Rsa,
}

const KINDS: [Kind; 5] = [Kind::Ed25519, Kind::P256, Kind::P384, Kind::P521, Kind::Rsa];

impl HostKey {
    /// Takes a key as OpenSSH writes it: algorithm and base64, perhaps with a comment behind (the host's `.pub` file, or a
    /// line of `known_hosts` without its first word).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for anything else, certificates and DSA keys included.
    pub fn parse(line: &str) -> Result<Self> {
        let mut words = line.split_ascii_whitespace();
        let (name, blob) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let kind = KINDS.into_iter().find(|kind| kind.name() == name);
        let blob = BASE64.decode(blob.as_bytes()).ok();
        let key = kind.zip(blob).map(|(kind, blob)| Self { kind, blob });
        key.filter(|key| key.parts().is_some()).ok_or_else(|| {
            Error::new(ErrorKind::Invalid, "parse a host key")
                .because("it must be an Ed25519, ECDSA or RSA key as OpenSSH writes it: algorithm and base64")
        })
    }

    /// The name of its algorithm.
    pub fn algorithm(&self) -> &'static str {
        self.kind.name()
    }

    /// The key as SSH sends it.
    pub(super) fn blob(&self) -> &[u8] {
        &self.blob
    }

    /// Whether `signature`, as SSH sends it, is this key's over `message`.
    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        self.checked(message, signature).is_some()
    }

    fn checked(&self, message: &[u8], signature: &[u8]) -> Option<()> {
        let mut reader = Reader(signature);
        let (name, body) = (reader.string()?, reader.string()?);
        reader.end()?;
        let parts = self.parts()?;
        if let Parts::Rsa { e, n } = parts {
            let algorithm = match name {
                b"rsa-sha2-256" => &RSA_PKCS1_2048_8192_SHA256,
                b"rsa-sha2-512" => &RSA_PKCS1_2048_8192_SHA512,
                _ => return None,
            };
            return RsaPublicKeyComponents { n, e }.verify(algorithm, message, body).ok();
        }
        let Parts::Point(point) = parts else { return None };
        if name != self.kind.name().as_bytes() {
            return None;
        }
        let (algorithm, body): (&'static dyn VerificationAlgorithm, _) = match self.kind {
            Kind::Ed25519 => (&ED25519, body.to_vec()),
            Kind::P256 => (&ECDSA_P256_SHA256_FIXED, two_numbers(body, 32)?),
            Kind::P384 => (&ECDSA_P384_SHA384_FIXED, two_numbers(body, 48)?),
            Kind::P521 => (&ECDSA_P521_SHA512_FIXED, two_numbers(body, 66)?),
            Kind::Rsa => return None,
        };
        UnparsedPublicKey::new(algorithm, point).verify(message, &body).ok()
    }

    /// What the key consists of, if it has the form of its kind.
    fn parts(&self) -> Option<Parts<'_>> {
        let mut reader = Reader(&self.blob);
        if reader.string()? != self.kind.name().as_bytes() {
            return None;
        }
        let parts = match self.kind {
            Kind::Ed25519 => Parts::Point(reader.string().filter(|key| key.len() == 32)?),
            Kind::P256 => curve(&mut reader, b"nistp256", 32)?,
            Kind::P384 => curve(&mut reader, b"nistp384", 48)?,
            Kind::P521 => curve(&mut reader, b"nistp521", 66)?,
            Kind::Rsa => Parts::Rsa { e: reader.positive()?, n: reader.positive()? },
        };
        reader.end()?;
        Some(parts)
    }
}

enum Parts<'a> {
    Point(&'a [u8]),
    Rsa { e: &'a [u8], n: &'a [u8] },
}

/// RFC 5656, section 3.1: the curve's name and a point that is not compressed.
fn curve<'a>(reader: &mut Reader<'a>, name: &[u8], size: usize) -> Option<Parts<'a>> {
    let (found, point) = (reader.string()?, reader.string()?);
    let is_point = found == name && point.len() == 1 + 2 * size && point.first() == Some(&4);
    is_point.then_some(Parts::Point(point))
}

/// RFC 5656, section 3.1.2: r and s, which the library wants with `size` bytes each.
fn two_numbers(body: &[u8], size: usize) -> Option<Vec<u8>> {
    let mut reader = Reader(body);
    let numbers = [reader.positive()?, reader.positive()?];
    reader.end()?;
    let mut fixed = vec![0; 2 * size];
    for (place, number) in fixed.chunks_exact_mut(size).zip(numbers) {
        let zeros = size.checked_sub(number.len())?;
        place[zeros..].copy_from_slice(number);
    }
    Some(fixed)
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Ed25519 => "ssh-ed25519",
            Self::P256 => "ecdsa-sha2-nistp256",
            Self::P384 => "ecdsa-sha2-nistp384",
            Self::P521 => "ecdsa-sha2-nistp521",
            Self::Rsa => "ssh-rsa",
        }
    }
}

impl fmt::Display for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.algorithm(), BASE64.encode(&self.blob))
    }
}

impl fmt::Debug for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostKey({self})")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ssh::wire::put_string;

    /// Keys of each kind, made with `ssh-keygen`.
    const KEYS: [&str; 3] = [
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl",
        "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBEmKSENjQEezOmxkZMy7opKgwFB9nkt5YRrYMjNuG5N87uRgg6CLrbo5wAdT/y6v0mKV0U2w0WZ2YB/++Tpockg=",
        "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABgQCj7ndNxQowgcQnjshcLrqPEiiphnt+VTTvDP6mHBL9j1aNUkY4Ue1gvwnGLVlOhGeYrnZaMgRK6+PKCUXaDbC7qtbW8gIkhL7aGCsOr/C56SJMy/BCZfxd1nWzAOxSDPgVsmerOBYfNqltV9/hWCqBywINIR+5dIg6JTJ72pcEpEjcYgXkE2YEFXV1JHnsKgbLWNlhScqb2UmyRkQyytRLtL+38TGxkxCflmO+5Z8CSSNY7GidjMIZ7Q4zMjA2n1nGrlTDkzwDCsw+wqFPGQA179cnfGWOWRVruj16z6XyvxvjJwbz0wQZ75XK5tKSb7FNyeIEs4TT4jk+S4dhPeAUC5y+bDYirYgM4GC7uEnztnZyaVWQ7B381AK4Qdrwt51ZqExKbQpTUNn+EjqoTwvqNj4kqx5QUCI0ThS/YkOxJCXmPUWZbhjpCg56i+2aB6CmK2JGhn57K5mj0MNdBXA4/WnwH6XoPWJzK5Nyu2zB3nAZp+S5hpQs+p1vN1/wsjk=",
    ];

    proptest! {
        #[test]
        fn no_bytes_pass_for_a_signature(bytes: Vec<u8>, parts: Vec<Vec<u8>>, is_sha2_256: bool) {
            for key in KEYS {
                let key = HostKey::parse(key).expect("a key that a forge publishes");
                let names = if is_sha2_256 { b"rsa-sha2-256" } else { b"rsa-sha2-512" };
                let name = if key.kind == Kind::Rsa { names } else { key.kind.name().as_bytes() };
                let mut body = Vec::new();
                for part in &parts {
                    put_string(&mut body, part);
                }
                let mut framed = Vec::new();
                put_string(&mut framed, name);
                put_string(&mut framed, &body);
                for signature in [&bytes, &body, &framed] {
                    prop_assert!(!key.verifies(b"session", signature));
                }
            }
        }
    }

    fn strings(parts: &[&[u8]]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for part in parts {
            put_string(&mut bytes, part);
        }
        bytes
    }

    fn line(name: &str, blob: &[u8]) -> String {
        format!("{name} {}", BASE64.encode(blob))
    }

    #[test]
    fn a_signature_is_written_in_one_way_only() {
        use ed25519_dalek::Signer as _;
        let signer = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
        let blob = strings(&[b"ssh-ed25519", signer.verifying_key().as_bytes()]);
        let key = HostKey::parse(&line("ssh-ed25519", &blob)).expect("a key");
        let body = signer.sign(b"session").to_bytes();
        let right = strings(&[b"ssh-ed25519", &body]);
        assert!(key.verifies(b"session", &right));
        assert!(!key.verifies(b"another session", &right));
        assert!(!key.verifies(b"session", &strings(&[b"ssh-rsa", &body])), "of another algorithm");
        assert!(!key.verifies(b"session", &[&right[..], &[0]].concat()), "with more behind it");
    }

    #[test]
    fn a_signature_of_two_numbers_has_no_third() {
        use aws_lc_rs::rand::SystemRandom;
        use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
        let signer = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
        let blob = strings(&[b"ecdsa-sha2-nistp256", b"nistp256", signer.public_key().as_ref()]);
        let key = HostKey::parse(&line("ecdsa-sha2-nistp256", &blob)).expect("a key");
        let signature = signer.sign(&SystemRandom::new(), b"session").expect("it is signed");
        let (r, s) = signature.as_ref().split_at(32);
        // A zero in front keeps a number positive.
        let numbers = strings(&[&[&[0], r].concat(), &[&[0], s].concat()]);
        let verifies =
            |numbers: &[u8]| key.verifies(b"session", &strings(&[b"ecdsa-sha2-nistp256", numbers]));
        assert!(verifies(&numbers));
        assert!(!verifies(&[&numbers[..], &strings(&[s])[..]].concat()));
    }

    #[test]
    fn a_key_is_of_the_kind_that_it_says() {
        let mut words = KEYS[1].split(' ');
        let (name, blob) = (words.next().expect("a name"), words.next().expect("a key"));
        let point = BASE64.decode(blob.as_bytes()).expect("a key").split_off(4 + 19 + 4 + 8 + 4);
        let parse = |kind: &[u8], curve: &[u8], point: &[u8]| {
            HostKey::parse(&line(name, &strings(&[kind, curve, point])))
        };
        let kind = name.as_bytes();
        assert!(parse(kind, b"nistp256", &point).is_ok());
        assert!(parse(b"ssh-ed25519", b"nistp256", &point).is_err(), "another kind inside");
        assert!(parse(kind, b"nistp384", &point).is_err(), "another curve");
        assert!(parse(kind, b"nistp256", &point[..64]).is_err(), "a shorter point");
        assert!(parse(kind, b"nistp256", &[&[2], &point[1..]].concat()).is_err(), "another form of a point");
    }

    #[test]
    fn a_server_is_pinned_for_somebody() {
        let key = HostKey::parse(KEYS[0]).expect("a key");
        assert!(super::super::agent::Destination::new("", [key]).is_err());
    }
}
