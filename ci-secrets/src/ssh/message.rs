//! What clients send to an SSH agent (draft-ietf-sshm-ssh-agent; OpenSSH's `PROTOCOL.agent`), and what is answered.

use ci_core::secret::SshPublicKey;

use super::wire::{Reader, put_string};

/// A message that this agent does not refuse unread.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Request<'a> {
    /// Which keys are there?
    Identities,
    /// Sign this.
    Sign { key: &'a [u8], data: &'a [u8], flags: u32 },
    /// I am connected to the server with this key (`session-bind@openssh.com`).
    Bind(Bind<'a>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bind<'a> {
    pub(super) host_key: &'a [u8],
    pub(super) session: &'a [u8],
    pub(super) signature: &'a [u8],
    pub(super) is_forwarding: bool,
}

const REQUEST_IDENTITIES: u8 = 11;
const SIGN_REQUEST: u8 = 13;
const EXTENSION: u8 = 27;
const FAILURE: u8 = 5;
const SUCCESS: u8 = 6;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_RESPONSE: u8 = 14;

impl<'a> Request<'a> {
    /// Reads a message; `None` for what is none, and for everything that this agent does not do: adding, removing,
    /// locking, other extensions.
    pub(super) fn read(message: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(message);
        let request = match reader.byte()? {
            REQUEST_IDENTITIES => Self::Identities,
            SIGN_REQUEST => {
                Self::Sign { key: reader.string()?, data: reader.string()?, flags: reader.number()? }
            }
            EXTENSION if reader.string()? == b"session-bind@openssh.com" => Self::Bind(Bind {
                host_key: reader.string()?,
                session: reader.string()?,
                signature: reader.string()?,
                is_forwarding: reader.flag()?,
            }),
            _ => return None,
        };
        reader.end()?;
        Some(request)
    }
}

/// What a client asks to be signed when it signs in with a public key (RFC 4252, section 7), or in OpenSSH's variant
/// `publickey-hostbound-v00@openssh.com`, which names the server's key too.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SignIn<'a> {
    pub(super) session: &'a [u8],
    pub(super) user: &'a [u8],
    pub(super) key: &'a [u8],
    pub(super) host_key: Option<&'a [u8]>,
}

impl<'a> SignIn<'a> {
    pub(super) fn read(data: &'a [u8]) -> Option<Self> {
        const USERAUTH_REQUEST: u8 = 50;
        let mut reader = Reader(data);
        let session = reader.string()?;
        if reader.byte()? != USERAUTH_REQUEST {
            return None;
        }
        let (user, service, method) = (reader.string()?, reader.string()?, reader.string()?);
        let (is_signed, algorithm, key) = (reader.byte()?, reader.string()?, reader.string()?);
        let host_key = match method {
            b"publickey" => None,
            b"publickey-hostbound-v00@openssh.com" => Some(reader.string()?),
            _ => return None,
        };
        reader.end()?;
        let is_ours = service == b"ssh-connection"
            && is_signed == 1
            && algorithm == SshPublicKey::ALGORITHM.as_bytes()
            && !session.is_empty();
        is_ours.then_some(Self { session, user, key, host_key })
    }
}

pub(super) fn failure() -> Vec<u8> {
    vec![FAILURE]
}

pub(super) fn success() -> Vec<u8> {
    vec![SUCCESS]
}

pub(super) fn identities(key: Option<&SshPublicKey>) -> Vec<u8> {
    let mut answer = vec![IDENTITIES_ANSWER];
    answer.extend_from_slice(&u32::from(key.is_some()).to_be_bytes());
    if let Some(key) = key {
        put_string(&mut answer, &key.to_blob());
        put_string(&mut answer, b"checkout");
    }
    answer
}

pub(super) fn signed(signature: &[u8; 64]) -> Vec<u8> {
    let mut inner = Vec::with_capacity(83);
    put_string(&mut inner, SshPublicKey::ALGORITHM.as_bytes());
    put_string(&mut inner, signature);
    let mut answer = vec![SIGN_RESPONSE];
    put_string(&mut answer, &inner);
    answer
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn strings(parts: &[&[u8]]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for part in parts {
            put_string(&mut bytes, part);
        }
        bytes
    }

    proptest! {
        #[test]
        fn no_bytes_break_the_readers(first in any::<u8>(), rest: Vec<u8>, parts: Vec<Vec<u8>>) {
            let parts = strings(&parts.iter().map(Vec::as_slice).collect::<Vec<_>>());
            let both = [parts.as_slice(), &rest].concat();
            for body in [rest, parts, both] {
                let message = [&[first], &body[..]].concat();
                let _ = (Request::read(&message), SignIn::read(&body));
            }
        }

        #[test]
        fn what_is_cut_or_longer_is_no_message(key: Vec<u8>, data: Vec<u8>, more in 1_u8..) {
            let message = [&[SIGN_REQUEST], &strings(&[&key, &data])[..], &[0; 4]].concat();
            prop_assert_eq!(Request::read(&message), Some(Request::Sign { key: &key, data: &data, flags: 0 }));
            for length in 0..message.len() {
                prop_assert_eq!(Request::read(&message[..length]), None);
            }
            let longer = [message.as_slice(), &[more]].concat();
            prop_assert_eq!(Request::read(&longer), None);
        }
    }
}
