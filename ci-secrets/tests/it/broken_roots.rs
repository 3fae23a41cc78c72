//! Root keys that are wrong on purpose: the kits must catch each of them.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use ci_core::conformance::{Setup, run};
use ci_core::seal::Context;
use ci_core::{Error, ErrorKind, Result};
use ci_secrets::RootKey;
use ci_secrets::conformance::root_key::remote::{self, RemoteUnderTest};
use ci_secrets::conformance::root_key::{self, Faults, FaultyRoot, RootsUnderTest};
use secrecy::SecretBox;

use crate::bench::Switched;

/// What a broken root does with a good one.
#[derive(Clone, Copy, PartialEq)]
enum Defect {
    /// Reads a prefix only.
    TakesMore,
    /// Tells in its `Debug` what it has wrapped last.
    Shows,
    /// Repeats an error of the provider in front of everybody.
    Tells,
    /// Says that a row was altered, whatever went wrong.
    Accuses,
    /// Asks again until the provider answers.
    Hammers,
    /// Takes every context for the same when they begin alike.
    Shortens,
    /// Unwraps what it wrapped last without asking the provider.
    Remembers,
}

struct Broken {
    inner: Arc<dyn RootKey>,
    defect: Defect,
    last: std::sync::Mutex<[u8; 32]>,
}

impl Broken {
    fn new(inner: Arc<dyn RootKey>, defect: Defect) -> Arc<Self> {
        Arc::new(Self { inner, defect, last: std::sync::Mutex::default() })
    }

    fn place(&self, context: &Context) -> Context {
        let bytes = context.as_bytes();
        let length = if self.defect == Defect::Shortens { bytes.len().min(512) } else { bytes.len() };
        Context::new("broken").field(&bytes[..length])
    }
}

#[async_trait]
impl RootKey for Broken {
    async fn wrap(&self, context: &Context, key: &[u8; 32]) -> Result<Bytes> {
        *self.last.lock().expect("unpoisoned") = *key;
        self.inner.wrap(&self.place(context), key).await
    }

    async fn unwrap(&self, context: &Context, wrapped: &[u8]) -> Result<SecretBox<[u8; 32]>> {
        let place = self.place(context);
        if self.defect == Defect::Remembers {
            return Ok(SecretBox::new(Box::new(*self.last.lock().expect("unpoisoned"))));
        }
        let length = self.inner.wrap(&place, &[0; 32]).await.map_or(usize::MAX, |wrapped| wrapped.len());
        let wrapped = match self.defect {
            Defect::TakesMore => &wrapped[..wrapped.len().min(length)],
            _ => wrapped,
        };
        let mut unwrapped = self.inner.unwrap(&place, wrapped).await;
        for _ in 0..100 {
            if self.defect != Defect::Hammers || unwrapped.is_ok() {
                break;
            }
            unwrapped = self.inner.unwrap(&place, wrapped).await;
        }
        unwrapped.map_err(|error| match self.defect {
            Defect::Accuses => Error::new(ErrorKind::Tampered, "unwrap a key"),
            Defect::Tells => {
                let last = *self.last.lock().expect("unpoisoned");
                error.detail(format!("asked was {}", data_encoding::BASE64.encode(&last)))
            }
            _ => error,
        })
    }

    fn key_ref(&self) -> &str {
        self.inner.key_ref()
    }
}

impl fmt::Debug for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = self.last.lock().expect("unpoisoned");
        let shown = if self.defect == Defect::Shows { &last[..] } else { &[] };
        f.debug_struct("Broken").field("last", &String::from_utf8_lossy(shown)).finish_non_exhaustive()
    }
}

fn roots(defect: Defect) -> Setup<RootsUnderTest> {
    let root = || Broken::new(Switched::new(), defect);
    Setup::ready(RootsUnderTest { one: root(), other: root() })
}

fn remote(make: impl FnOnce(Arc<FaultyRoot>) -> Arc<dyn RootKey>) -> Setup<RemoteUnderTest> {
    let provider = Arc::new(FaultyRoot::new(Switched::new()));
    Setup::ready(RemoteUnderTest { root: make(provider.clone()), provider: provider as Arc<dyn Faults> })
}

#[test]
#[should_panic(expected = "an added byte: it was allowed")]
fn a_root_that_reads_a_prefix_is_caught() {
    run("prefix", async || roots(Defect::TakesMore), root_key::what_was_added_is_noticed);
}

#[test]
#[should_panic(expected = "another end: it was allowed")]
fn a_root_that_shortens_contexts_is_caught() {
    run("short", async || roots(Defect::Shortens), root_key::a_long_context_counts_to_its_end);
}

#[test]
#[should_panic(expected = "a key is shown")]
fn a_root_that_shows_a_key_is_caught() {
    run("showing", async || roots(Defect::Shows), root_key::nothing_shows_a_key);
}

#[test]
#[should_panic(expected = "a key is shown")]
fn a_root_whose_errors_tell_a_key_is_caught() {
    run("telling", async || roots(Defect::Tells), root_key::nothing_shows_a_key);
}

#[test]
#[should_panic(expected = "it cannot have succeeded")]
fn a_root_that_believes_its_provider_is_caught() {
    run("believing", async || remote(|provider| provider), remote::another_key_is_refused);
}

#[test]
#[should_panic(expected = "it cannot have succeeded")]
fn a_root_that_answers_out_of_its_memory_is_caught() {
    let remembering = async || remote(|provider| Broken::new(provider, Defect::Remembers));
    run("remembering", remembering, remote::a_key_that_would_be_lost_is_not_kept);
}

#[test]
#[should_panic(expected = "a few failures are borne")]
fn a_root_without_patience_is_caught() {
    run("impatient", async || remote(|provider| provider), remote::a_few_failures_are_borne);
}

#[test]
#[should_panic(expected = "the provider was asked")]
fn a_root_that_hammers_is_caught() {
    let hammering = async || remote(|provider| Broken::new(provider, Defect::Hammers));
    run("hammering", hammering, remote::an_outage_is_not_hammered);
}

#[test]
#[should_panic(expected = "was tried again")]
fn a_root_that_insists_is_caught() {
    let hammering = async || remote(|provider| Broken::new(provider, Defect::Hammers));
    run("insisting", hammering, remote::a_refusal_is_not_tried_again);
}

#[test]
#[should_panic(expected = "does not say that it passes")]
fn a_root_that_takes_an_outage_for_an_attack_is_caught() {
    let accusing = async || remote(|provider| Broken::new(provider, Defect::Accuses));
    run("accusing", accusing, remote::an_outage_is_a_retryable_error);
}

/// Without a defect nothing is caught.
#[test]
fn what_is_broken_is_sound_otherwise() {
    run("sound", async || roots(Defect::Hammers), root_key::what_was_added_is_noticed);
    run("sound", async || roots(Defect::TakesMore), root_key::a_long_context_counts_to_its_end);
    run("sound", async || roots(Defect::Shortens), root_key::nothing_shows_a_key);
    run("sound", async || remote(|provider| provider), remote::a_key_that_would_be_lost_is_not_kept);
}
