//! What goes wrong at the provider of a root key, on purpose.

use std::fmt;
use std::future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use ci_core::seal::Context;
use ci_core::{Error, ErrorKind, Result};
use secrecy::{ExposeSecret as _, SecretBox};

use crate::root::RootKey;

/// What goes wrong. For the clock that jumps, take [`ManualClock::jump_to`](ci_core::clock::ManualClock::jump_to).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// It cannot be reached: connections are refused or cut.
    Down,
    /// It takes a request and never answers.
    Hangs,
    /// It answers after so long.
    Slow(Duration),
    /// It answers the next so many requests with an error of its own, and is well after them.
    Fails(usize),
    /// It does not accept who asks: a token that has ended, a policy.
    Refuses,
    /// It answers successfully, with another key.
    WrongKey,
    /// It answers successfully, with something else than an answer.
    Nonsense,
    /// It answers with more than anybody may want to read.
    Endless,
    /// It answers with an error whose text holds what it was asked.
    Echoes,
}

/// A provider that can be made to fail.
pub trait Faults: fmt::Debug + Send + Sync + 'static {
    /// Lets `fault` happen from now on, or nothing.
    fn set(&self, fault: Option<Fault>);

    /// How many requests have come so far, whatever was answered.
    fn asked(&self) -> usize;
}

/// A root key that fails as it is told: for tests of what stands on one.
///
/// It has no patience: every fault is felt at once, as what a root key answers in the end.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use std::sync::Arc;
/// use ci_core::seal::Context;
/// use ci_secrets::conformance::root_key::{Fault, Faults as _, FaultyRoot};
/// use ci_secrets::{FileRoot, RootKey as _};
///
/// # let folder = tempfile::tempdir().expect("a folder");
/// # let path = folder.path().join("root.key");
/// let root = FaultyRoot::new(Arc::new(FileRoot::create(path)?));
/// root.set(Some(Fault::Fails(1)));
/// let context = Context::new("test");
/// assert!(root.wrap(&context, &[7; 32]).await.is_err_and(|error| error.is_retryable()));
/// assert!(root.wrap(&context, &[7; 32]).await.is_ok());
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct FaultyRoot {
    inner: Arc<dyn RootKey>,
    fault: Mutex<Option<Fault>>,
    asked: AtomicUsize,
}

impl FaultyRoot {
    /// `inner`, and nothing wrong with it yet.
    pub fn new(inner: Arc<dyn RootKey>) -> Self {
        Self { inner, fault: Mutex::default(), asked: AtomicUsize::default() }
    }

    /// Lets happen what is to happen before an answer; what is left is whether the answer is to be wrong.
    async fn fail(&self) -> Result<bool> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let error = |kind, reason| Err(Error::new(kind, "ask the provider of the root key").because(reason));
        match self.next() {
            None => Ok(false),
            Some(Fault::WrongKey) => Ok(true),
            Some(Fault::Hangs) => future::pending().await,
            Some(Fault::Slow(by)) => {
                tokio::time::sleep(by).await;
                Ok(false)
            }
            Some(Fault::Refuses) => error(ErrorKind::Denied, "the token is not accepted"),
            Some(Fault::Down) => error(ErrorKind::Unavailable, "it cannot be connected to"),
            Some(Fault::Fails(_) | Fault::Nonsense | Fault::Endless | Fault::Echoes) => {
                error(ErrorKind::Unavailable, "its answer is none")
            }
        }
    }

    fn next(&self) -> Option<Fault> {
        let mut fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Fault::Fails(left)) = &mut *fault {
            match left.checked_sub(1) {
                Some(fewer) => *left = fewer,
                None => *fault = None,
            }
        }
        *fault
    }
}

impl Faults for FaultyRoot {
    fn set(&self, fault: Option<Fault>) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl RootKey for FaultyRoot {
    async fn wrap(&self, context: &Context, key: &[u8; 32]) -> Result<Bytes> {
        self.fail().await?;
        self.inner.wrap(context, key).await
    }

    async fn unwrap(&self, context: &Context, wrapped: &[u8]) -> Result<SecretBox<[u8; 32]>> {
        let is_wrong = self.fail().await?;
        let key = self.inner.unwrap(context, wrapped).await?;
        if !is_wrong {
            return Ok(key);
        }
        Ok(SecretBox::init_with_mut(|other: &mut [u8; 32]| {
            other.copy_from_slice(key.expose_secret());
            other[0] ^= 1;
        }))
    }

    fn key_ref(&self) -> &str {
        self.inner.key_ref()
    }
}
