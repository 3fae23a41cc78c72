//! What every root key must do, and what every root key at a provider over a network must do when that fails.

mod faults;
pub mod remote;

use std::fmt::Debug;
use std::sync::Arc;

use ci_core::seal::Context;
use ci_core::{ErrorKind, Result};
use data_encoding::{BASE64, HEXLOWER};
use futures_util::future::poll_immediate;
use secrecy::ExposeSecret as _;

use super::refused;
use crate::root::RootKey;

pub use faults::{Fault, Faults, FaultyRoot};

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
        what_was_added_is_noticed,
        nonsense_does_not_unwrap,
        a_long_context_counts_to_its_end,
        what_is_wrapped_is_bounded,
        many_at_once_are_not_mixed_up,
        a_dropped_call_has_no_effect,
        nothing_shows_a_key,
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

/// No byte can be put in front or behind.
pub async fn what_was_added_is_noticed(roots: RootsUnderTest) {
    let wrapped = roots.one.wrap(&context(), &KEY).await.expect("it is wrapped");
    for added in [[&wrapped[..], b"\0"].concat(), [&b"\0"[..], &wrapped].concat(), wrapped.repeat(2)] {
        refused(roots.one.unwrap(&context(), &added).await, &[ErrorKind::Tampered], "an added byte");
    }
}

/// What never was a wrapped key is none, however long it is.
pub async fn nonsense_does_not_unwrap(roots: RootsUnderTest) {
    for length in [0, 1, 16, 32, 33, 64, 128, 1_000, 100_000] {
        for byte in [0, 1, b'A', 0xff] {
            let nonsense = vec![byte; length];
            refused(roots.one.unwrap(&context(), &nonsense).await, &[ErrorKind::Tampered], "nonsense");
        }
    }
}

/// A context of a kilobyte is bound as one of a few bytes is.
pub async fn a_long_context_counts_to_its_end(roots: RootsUnderTest) {
    let long = |last: &str| Context::new("test").field("x".repeat(1_024)).field(last);
    let wrapped = roots.one.wrap(&long("1"), &KEY).await.expect("it is wrapped");
    refused(roots.one.unwrap(&long("2"), &wrapped).await, &[ErrorKind::Tampered], "another end");
    let key = roots.one.unwrap(&long("1"), &wrapped).await.expect("it unwraps");
    assert_eq!(*key.expose_secret(), KEY);
}

/// Whatever a provider makes of a key has room in a row.
pub async fn what_is_wrapped_is_bounded(roots: RootsUnderTest) {
    let wrapped = roots.one.wrap(&context(), &KEY).await.expect("it is wrapped");
    assert!((32..=16 * 1024).contains(&wrapped.len()), "{} bytes", wrapped.len());
}

/// Calls at the same time get each their own answer.
pub async fn many_at_once_are_not_mixed_up(roots: RootsUnderTest) {
    let mut running = Vec::new();
    for number in 0..8_u8 {
        let root = roots.one.clone();
        running.push(tokio::spawn(async move {
            let (context, key) = (context().field([number]), [number; 32]);
            let wrapped = root.wrap(&context, &key).await.expect("it is wrapped");
            let again = root.unwrap(&context, &wrapped).await.expect("it unwraps");
            assert_eq!(*again.expose_secret(), key);
        }));
    }
    for one in running {
        one.await.expect("it ends");
    }
}

/// Giving up in the middle leaves nothing behind that is in the way.
pub async fn a_dropped_call_has_no_effect(roots: RootsUnderTest) {
    let wrapped = roots.one.wrap(&context(), &KEY).await.expect("it is wrapped");
    for _ in 0..8 {
        // What is not done at once is dropped.
        let _ = poll_immediate(roots.one.wrap(&context(), &KEY)).await;
        let _ = poll_immediate(roots.one.unwrap(&context(), &wrapped)).await;
    }
    let key = roots.one.unwrap(&context(), &wrapped).await.expect("it unwraps");
    assert_eq!(*key.expose_secret(), KEY);
}

/// Neither the root's `Debug`, nor an error, nor a reference holds a piece of a key.
pub async fn nothing_shows_a_key(roots: RootsUnderTest) {
    let wrapped = roots.one.wrap(&context(), &KEY).await.expect("it is wrapped");
    shows_no_key(&roots.one);
    shows_no_key(&roots.one.key_ref());
    let mut altered = wrapped.to_vec();
    altered[wrapped.len() / 2] ^= 1;
    shows_no_key(&roots.one.unwrap(&context(), &altered).await.expect_err("it was altered"));
    let other = roots.other.unwrap(&context(), &wrapped).await;
    shows_no_key(&other.expect_err("it is another root's"));
}

/// That what `thing` shows of itself holds no piece of [`KEY`], in any form in which it travels.
#[track_caller]
fn shows_no_key(thing: &impl Debug) {
    let shown = format!("{thing:?} {thing:#?}");
    let plain = String::from_utf8_lossy(&KEY).into_owned();
    let forms = [plain, HEXLOWER.encode(&KEY), BASE64.encode(&KEY), format!("{:?}", &KEY[..4])];
    for form in forms {
        let piece = &form[..form.len().min(10)];
        assert!(!shown.contains(piece), "a key is shown: {shown}");
    }
}

/// That `root` wraps and unwraps.
async fn works(root: &dyn RootKey) -> Result<()> {
    let wrapped = root.wrap(&context(), &KEY).await?;
    let key = root.unwrap(&context(), &wrapped).await?;
    assert_eq!(*key.expose_secret(), KEY);
    Ok(())
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
