//! What every root key must do.

use std::sync::Arc;

use ci_core::ErrorKind;
use ci_core::seal::Context;
use secrecy::ExposeSecret as _;

use super::refused;
use crate::root::RootKey;

/// Two different root keys of the same provider: the kit looks whether one opens what the other has wrapped.
#[derive(Clone, Debug)]
pub struct RootsUnderTest {
    /// One.
    pub one: Arc<dyn RootKey>,
    /// Another one.
    pub other: Arc<dyn RootKey>,
}

ci_core::declare_kit! {
    /// Runs every case about root keys; takes a closure that makes a
    /// [`RootsUnderTest`](crate::conformance::root_key::RootsUnderTest).
    root_key_kit for ci_secrets::conformance::root_key {
        what_is_wrapped_unwraps,
        it_unwraps_in_its_context_only,
        another_root_key_does_not_unwrap,
        every_altered_byte_is_noticed,
        what_was_cut_short_is_noticed,
        wrapping_hides_the_key_and_never_repeats,
        a_reference_names_one_key,
    }
}

const KEY: [u8; 32] = *b"the thirty-two bytes of one key.";

fn context() -> Context {
    Context::new("test").field("acme").field("1")
}

/// The same key comes back.
pub async fn what_is_wrapped_unwraps(roots: RootsUnderTest) {
    let wrapped = roots.one.wrap(&context(), &KEY).await.expect("it is wrapped");
    let key = roots.one.unwrap(&context(), &wrapped).await.expect("it unwraps");
    assert_eq!(*key.expose_secret(), KEY);
}

/// A wrapped key that was moved does not unwrap.
pub async fn it_unwraps_in_its_context_only(roots: RootsUnderTest) {
    let wrapped = roots.one.wrap(&context(), &KEY).await.expect("it is wrapped");
    let elsewhere = [
        Context::new("test").field("acme").field("2"),
        Context::new("test").field("acme1"),
        Context::new("test").field("acme"),
        Context::new("other").field("acme").field("1"),
        context().field(""),
    ];
    for context in elsewhere {
        refused(roots.one.unwrap(&context, &wrapped).await, &[ErrorKind::Tampered], "another context");
    }
}

/// A key of another root does not unwrap, and is not an outage.
pub async fn another_root_key_does_not_unwrap(roots: RootsUnderTest) {
    let wrapped = roots.one.wrap(&context(), &KEY).await.expect("it is wrapped");
    refused(roots.other.unwrap(&context(), &wrapped).await, &[ErrorKind::Tampered], "another root key");
}

/// No byte can be changed.
pub async fn every_altered_byte_is_noticed(roots: RootsUnderTest) {
    let wrapped = roots.one.wrap(&context(), &KEY).await.expect("it is wrapped");
    for index in 0..wrapped.len() {
        let mut altered = wrapped.to_vec();
        altered[index] ^= 1;
        refused(roots.one.unwrap(&context(), &altered).await, &[ErrorKind::Tampered], "an altered byte");
    }
}

/// No end can be cut off, and nothing is not something.
pub async fn what_was_cut_short_is_noticed(roots: RootsUnderTest) {
    let wrapped = roots.one.wrap(&context(), &KEY).await.expect("it is wrapped");
    for length in 0..wrapped.len() {
        refused(roots.one.unwrap(&context(), &wrapped[..length]).await, &[ErrorKind::Tampered], "a cut");
    }
}

/// What is stored says nothing about the key, nor that two are the same.
pub async fn wrapping_hides_the_key_and_never_repeats(roots: RootsUnderTest) {
    let first = roots.one.wrap(&context(), &KEY).await.expect("it is wrapped");
    let second = roots.one.wrap(&context(), &KEY).await.expect("it is wrapped");
    assert!(!first.windows(8).any(|bytes| bytes == &KEY[..8]), "the key lies in the open");
    assert_ne!(first, second);
}

/// References are short text, and different for different keys.
pub async fn a_reference_names_one_key(roots: RootsUnderTest) {
    let (one, other) = (roots.one.key_ref(), roots.other.key_ref());
    assert_ne!(one, other);
    for text in [one, other] {
        assert!((1..=256).contains(&text.len()) && !text.chars().any(char::is_control), "{text:?}");
    }
}
