//! What a root key must do when its provider, over a network, does not do what it should.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ci_core::access::Write;
use ci_core::records::Key;
use ci_core::secret::{SecretStore as _, SecretValue};
use ci_core::{Error, ErrorKind, Result};
use futures_util::future::{Either, select};
use secrecy::ExposeSecret as _;

use super::{Fault, Faults, KEY, context, shows_no_key, works};
use crate::conformance::{name, repository, rig, user};
use crate::root::RootKey;
use crate::vault::Vault;

/// A root key, and its provider, which can be made to fail.
///
/// The root key should have little patience: every case of an outage waits until it is at its end. It must ask more
/// than twice, though, and wait for an answer for a second at least.
#[derive(Clone, Debug)]
pub struct RemoteUnderTest {
    /// The root key.
    pub root: Arc<dyn RootKey>,
    /// Its provider.
    pub provider: Arc<dyn Faults>,
}

ci_core::declare_kit! {
    /// Runs every case about root keys whose provider fails; takes a closure that makes a
    /// [`RemoteUnderTest`](crate::conformance::root_key::remote::RemoteUnderTest).
    remote_root_key_kit for ci_secrets::conformance::root_key::remote {
        an_outage_is_a_retryable_error,
        a_provider_that_hangs_is_given_up,
        a_slow_provider_is_waited_for,
        a_few_failures_are_borne,
        an_outage_is_not_hammered,
        a_refusal_is_not_tried_again,
        another_key_is_refused,
        a_key_that_would_be_lost_is_not_kept,
        an_answer_that_is_none_is_an_error,
        an_endless_answer_is_not_read_to_its_end,
        no_error_shows_what_was_asked,
        a_call_can_be_dropped_while_the_provider_hangs,
    }
}

/// No call may take longer than this, whatever the provider does.
const BOUND: Duration = Duration::from_mins(1);
/// More requests than this for one call are a second outage.
const MOST: usize = 16;

/// That nobody can be asked is no reason to believe that anything was tampered with.
pub async fn an_outage_is_a_retryable_error(it: RemoteUnderTest) {
    let wrapped = wrapped(&it).await;
    it.provider.set(Some(Fault::Down));
    for error in fails(&it, &wrapped).await {
        passes(&error, "an outage");
    }
    recovers(&it).await;
}

/// A provider that never answers holds nobody up for ever.
pub async fn a_provider_that_hangs_is_given_up(it: RemoteUnderTest) {
    let wrapped = wrapped(&it).await;
    it.provider.set(Some(Fault::Hangs));
    for error in fails(&it, &wrapped).await {
        passes(&error, "a provider that hangs");
    }
    recovers(&it).await;
}

/// Slow is not down.
pub async fn a_slow_provider_is_waited_for(it: RemoteUnderTest) {
    it.provider.set(Some(Fault::Slow(Duration::from_millis(100))));
    bounded(works(&*it.root)).await.expect("a slow provider is waited for");
}

/// What is over in a moment nobody notices.
pub async fn a_few_failures_are_borne(it: RemoteUnderTest) {
    let wrapped = wrapped(&it).await;
    for failures in 1..=2 {
        it.provider.set(Some(Fault::Fails(failures)));
        let key = bounded(it.root.unwrap(&context(), &wrapped)).await.expect("a few failures are borne");
        assert_eq!(*key.expose_secret(), KEY);
    }
}

/// A provider that is broken is not asked over and over.
pub async fn an_outage_is_not_hammered(it: RemoteUnderTest) {
    let wrapped = wrapped(&it).await;
    it.provider.set(Some(Fault::Fails(usize::MAX)));
    let before = it.provider.asked();
    passes(&failed(it.root.unwrap(&context(), &wrapped)).await, "a provider that is broken");
    let asked = it.provider.asked() - before;
    assert!((2..=MOST).contains(&asked), "the provider was asked {asked} times");
    recovers(&it).await;
}

/// Asking again changes nothing, and locks accounts; and nothing was tampered with.
pub async fn a_refusal_is_not_tried_again(it: RemoteUnderTest) {
    let wrapped = wrapped(&it).await;
    it.provider.set(Some(Fault::Refuses));
    for error in fails(&it, &wrapped).await {
        assert_eq!(error.kind(), ErrorKind::Denied, "a refusal: {error:?}");
    }
    let before = it.provider.asked();
    failed(it.root.unwrap(&context(), &wrapped)).await;
    // One request, and one about whoever asks.
    assert!(it.provider.asked() - before <= 2, "a refusal was tried again");
    recovers(&it).await;
}

/// A provider is not believed: another key than the one that was wrapped is a final error.
pub async fn another_key_is_refused(it: RemoteUnderTest) {
    let wrapped = wrapped(&it).await;
    it.provider.set(Some(Fault::WrongKey));
    let error = failed(it.root.unwrap(&context(), &wrapped)).await;
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Tampered, false), "another key: {error:?}");
    recovers(&it).await;
}

/// What cannot be unwrapped to the same key would be lost with everything under it: a vault keeps none. It asks the root
/// key, which must not answer out of its own memory.
pub async fn a_key_that_would_be_lost_is_not_kept(it: RemoteUnderTest) {
    let rig = rig();
    let vault = Vault::new(rig.records(), rig.audit.clone(), it.root.clone(), rig.clock.clone());
    let grant = rig.grant::<Write>(&user(), &repository("1")).await.expect("a grant");
    let token = name("TOKEN");
    let put = || vault.put(&grant, &token, SecretValue::new("some value"));
    it.provider.set(Some(Fault::WrongKey));
    let error = failed(put()).await;
    assert!(!error.is_retryable(), "a key that would be lost: {error:?}");
    let kept = rig.records().list(&Key::new("key"), None, 9).await.expect("a list");
    assert_eq!(kept, [], "a key was kept that would be lost");
    it.provider.set(None);
    bounded(put()).await.expect("it works when the provider does");
}

/// A page of a proxy in between, another server at the same address.
pub async fn an_answer_that_is_none_is_an_error(it: RemoteUnderTest) {
    let wrapped = wrapped(&it).await;
    it.provider.set(Some(Fault::Nonsense));
    for error in fails(&it, &wrapped).await {
        assert_ne!(error.kind(), ErrorKind::Tampered, "an answer that is none: {error:?}");
    }
    recovers(&it).await;
}

/// An answer is read up to a bound.
pub async fn an_endless_answer_is_not_read_to_its_end(it: RemoteUnderTest) {
    let wrapped = wrapped(&it).await;
    it.provider.set(Some(Fault::Endless));
    fails(&it, &wrapped).await;
    recovers(&it).await;
}

/// Not even where the provider repeats what it was asked.
pub async fn no_error_shows_what_was_asked(it: RemoteUnderTest) {
    let wrapped = wrapped(&it).await;
    let shows_nothing = |error: &Error| {
        shows_no_key(error);
        shows_no_key(&error.for_operator().to_string());
        shows_no_key(&it.root);
    };
    for fault in [Fault::Echoes, Fault::Fails(usize::MAX), Fault::Nonsense, Fault::Refuses] {
        it.provider.set(Some(fault));
        fails(&it, &wrapped).await.iter().for_each(shows_nothing);
    }
    it.provider.set(Some(Fault::WrongKey));
    shows_nothing(&failed(it.root.unwrap(&context(), &wrapped)).await);
}

/// A job that is cancelled does not wait for the provider, and the next one is not disturbed by it.
pub async fn a_call_can_be_dropped_while_the_provider_hangs(it: RemoteUnderTest) {
    let wrapped = wrapped(&it).await;
    it.provider.set(Some(Fault::Hangs));
    for _ in 0..4 {
        let (before, context) = (it.provider.asked(), context());
        let is_asked = async {
            while it.provider.asked() == before {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let call = it.root.unwrap(&context, &wrapped);
        // Dropped as soon as it has asked.
        if let Either::Left((Ok(_), _)) = bounded(select(call, Box::pin(is_asked))).await {
            panic!("a provider that hangs has answered");
        }
    }
    recovers(&it).await;
}

async fn wrapped(it: &RemoteUnderTest) -> Bytes {
    bounded(it.root.wrap(&context(), &KEY)).await.expect("it is wrapped while all is well")
}

/// The errors of both directions.
async fn fails(it: &RemoteUnderTest, wrapped: &[u8]) -> [Error; 2] {
    let unwrapping = failed(it.root.unwrap(&context(), wrapped)).await;
    [unwrapping, failed(it.root.wrap(&context(), &KEY)).await]
}

async fn failed<T>(call: impl Future<Output = Result<T>>) -> Error {
    bounded(call).await.err().expect("it cannot have succeeded")
}

/// That it works again as soon as the provider does.
async fn recovers(it: &RemoteUnderTest) {
    it.provider.set(None);
    bounded(works(&*it.root)).await.expect("it works when the provider does");
}

#[track_caller]
fn passes(error: &Error, what: &str) {
    let is_passing = matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::TimedOut);
    assert!(is_passing && error.is_retryable(), "{what}: {error:?} does not say that it passes");
}

async fn bounded<T>(call: impl Future<Output = T>) -> T {
    tokio::time::timeout(BOUND, call).await.expect("a call ends within a minute")
}
