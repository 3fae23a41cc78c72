//! JSON and base64 that hold a key for a moment, and are wiped after it.

use std::ops::Deref;

use bytes::Bytes;
use data_encoding::BASE64;
use serde::{Deserialize, Deserializer, Serialize};
use zeroize::Zeroizing;

/// A string of an answer, wiped when it is dropped.
pub(super) struct Wiped(Zeroizing<String>);

impl Deref for Wiped {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Wiped {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

/// `value` as the body of a request, which wipes itself.
pub(super) fn json(value: &impl Serialize) -> Bytes {
    // More than any request has, so that the buffer does not grow and leave copies behind.
    const ROOM: usize = 64 * 1024;
    let mut body = Zeroizing::new(Vec::with_capacity(ROOM));
    serde_json::to_writer(&mut *body, value).expect("text can always be written into memory");
    Bytes::from_owner(body)
}

/// The key in base64.
pub(super) fn encoded(key: &[u8; 32]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(BASE64.encode_len(key.len())));
    BASE64.encode_append(key, &mut text);
    text
}

/// What `text` is in base64, or `None`.
pub(super) fn decoded(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let length = BASE64.decode_len(text.len()).ok()?;
    let mut plain = Zeroizing::new(vec![0; length]);
    let length = BASE64.decode_mut(text.as_bytes(), &mut plain).ok()?;
    plain.truncate(length);
    Some(plain)
}
