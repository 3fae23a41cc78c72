//! A webhook's body, signed or not: nothing is read before it is verified, and nothing that is read breaks the reader.
#![no_main]

use std::sync::Arc;

use bytes::Bytes;
use ci_core::clock::ManualClock;
use ci_core::forge::{HookScope, Inbox, RawDelivery};
use ci_core::memory::{Database, Forge, Rig};
use libfuzzer_sys::fuzz_target;
use secrecy::SecretString;

fuzz_target!(|input: (&[u8], &[u8])| {
    let (body, signature) = input;
    let clock = Arc::new(ManualClock::new());
    let (forge, secret) = (Forge::new(), SecretString::from("s3cr3t"));
    let repository = Rig::repository("1", "acme").expect("a repository");
    forge.add_hook(HookScope::Repository(repository.clone()), &secret).expect("a hook");
    let inbox = Inbox::new(Arc::new(forge), Arc::new(Database::new(clock.clone())), clock);
    let receive = |raw: RawDelivery| at_once(inbox.receive(raw));
    let headers = [("x-ci-signature", Bytes::copy_from_slice(signature))];
    let unsigned = RawDelivery::new(headers, Bytes::copy_from_slice(body)).expect("small");
    assert!(receive(unsigned).is_err(), "not signed");
    let signed = Forge::signed(&secret, Bytes::copy_from_slice(body)).expect("small");
    if let Ok(event) = receive(signed).expect("signed").parse() {
        assert_eq!(*event.repository(), repository, "of the hook's own repository");
    }
});

/// What is in memory is ready at once.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        std::task::Poll::Ready(done) => done,
        std::task::Poll::Pending => unreachable!("nothing here waits"),
    }
}
