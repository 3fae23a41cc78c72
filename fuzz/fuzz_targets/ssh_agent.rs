//! What a client sends to the SSH agent, and what it wants signed: no bytes break the readers, and what they take for
//! signing in says so for the key, session and user that it names, byte by byte.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[allow(dead_code)]
#[path = "../../ci-secrets/src/ssh/message.rs"]
mod message;
#[allow(dead_code)]
#[path = "../../ci-secrets/src/ssh/wire.rs"]
mod wire;

use message::{Request, SignIn};
use wire::put_string;

/// The one encoding of what a client signs in with.
fn written(asked: &SignIn<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_string(&mut bytes, asked.session);
    bytes.push(50);
    put_string(&mut bytes, asked.user);
    put_string(&mut bytes, b"ssh-connection");
    let method: &[u8] = match asked.host_key {
        None => b"publickey",
        Some(_) => b"publickey-hostbound-v00@openssh.com",
    };
    put_string(&mut bytes, method);
    bytes.push(1);
    put_string(&mut bytes, b"ssh-ed25519");
    put_string(&mut bytes, asked.key);
    if let Some(key) = asked.host_key {
        put_string(&mut bytes, key);
    }
    bytes
}

fuzz_target!(|input: (Vec<u8>, Vec<u8>, Vec<u8>, Vec<u8>, bool, usize, u8)| {
    let (message, session, user, key, is_bound, at, flip) = input;
    if let Some(Request::Sign { data, .. }) = Request::read(&message) {
        let _ = SignIn::read(data);
    }
    let host_key = is_bound.then_some(key.as_slice());
    let right = SignIn { session: &session, user: &user, key: &key, host_key };
    let mut bytes = written(&right);
    assert_eq!(SignIn::read(&bytes).is_some(), !session.is_empty());
    // Whatever became of it, what is read is all that is there.
    let at = at % bytes.len();
    bytes[at] ^= flip;
    for data in [bytes.as_slice(), &message] {
        if let Some(read) = SignIn::read(data) {
            assert_eq!(written(&read), data);
        }
    }
});
