//! What all providers over a network have in common: patience, and a check of what they answer.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use ci_core::clock::Clock;
use ci_core::id::KeyId;
use ci_core::seal::{Context, DataKey};
use ci_core::{Error, ErrorKind, Result};
use futures_util::future::{Either, select};
use secrecy::{ExposeSecret as _, SecretBox};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::{boxed, boxed_key};

const FORMAT: u8 = 1;
const CHECK: usize = 32;
/// The most bytes that a provider may make of a key: AWS KMS says 6,144.
const LARGEST: usize = 8 * 1024;
/// The most bytes of a context: AWS KMS takes 8 KiB of text together.
const LARGEST_CONTEXT: usize = 4 * 1024;
const WRAP: &str = "wrap a key";
const UNWRAP: &str = "unwrap a key";

/// How long a provider of a root key is waited for, and how often it is asked, until a call fails.
///
/// A call is tried again when the provider cannot be reached, does not answer in time, or says that it is overloaded
/// or broken; never after a refusal. What fails in the end for one of these reasons is a retryable error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Patience {
    /// How long one request may take, connecting included: 5 seconds.
    pub attempt: Duration,
    /// How long all of them together may take, with the pauses: 15 seconds.
    pub total: Duration,
    /// How often the provider is asked at most: 4 times.
    pub attempts: u32,
    /// The pause before the second attempt: 200 milliseconds. It doubles from attempt to attempt, and is cut by
    /// a random part of up to a half, so that workers that failed together do not come back together. Where the
    /// provider says how long to wait, that counts, if it is longer.
    pub pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            attempt: Duration::from_secs(5),
            total: Duration::from_secs(15),
            attempts: 4,
            pause: Duration::from_millis(200),
        }
    }
}

impl Patience {
    /// With so much time for one request.
    pub fn with_attempt(self, attempt: Duration) -> Self {
        Self { attempt, ..self }
    }

    /// With so much time for a call.
    pub fn with_total(self, total: Duration) -> Self {
        Self { total, ..self }
    }

    /// With so many requests for a call; at least one is made.
    pub fn with_attempts(self, attempts: u32) -> Self {
        Self { attempts, ..self }
    }

    /// With such a pause before the second attempt.
    pub fn with_pause(self, pause: Duration) -> Self {
        Self { pause, ..self }
    }

    /// Calls `once` until it succeeds, fails for good, or the patience is at its end.
    pub(super) async fn call<T, F>(&self, clock: &dyn Clock, mut once: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send,
    {
        let start = clock.elapsed();
        let left = || self.total.saturating_sub(clock.elapsed().saturating_sub(start));
        let mut pause = self.pause;
        for attempt in 1.. {
            let error = match within(clock, self.attempt.min(left()), once()).await {
                Err(error) if is_passing(&error) => error,
                done => return done,
            };
            let wait = error.retry_after().unwrap_or_default().max(shortened(pause));
            if attempt >= self.attempts || wait >= left() {
                return Err(error);
            }
            clock.sleep(wait).await;
            pause = pause.saturating_mul(2);
        }
        unreachable!("the attempts are bounded")
    }
}

/// A server that encrypts and decrypts with a key of its own, and is asked once.
#[async_trait]
pub(super) trait Provider: fmt::Debug + Send + Sync {
    /// Encrypts `key` so that it decrypts with the same context only.
    async fn encrypt(&self, context: &Context, key: &[u8; 32]) -> Result<Vec<u8>>;

    /// Decrypts what [`encrypt`](Self::encrypt) returned.
    async fn decrypt(&self, context: &Context, encrypted: &[u8]) -> Result<Zeroizing<Vec<u8>>>;
}

/// A provider that is asked as often as it takes, and not believed.
///
/// ```text
/// format 1 | check 32 | what the provider returned
/// ```
///
/// The check follows from the key, the context and what the provider returned (HKDF-SHA-256). A provider that
/// answers with another key is noticed by it, and so is every altered byte, whether or not the provider would mind.
#[derive(Debug)]
pub(super) struct Remote<P> {
    pub(super) provider: P,
    pub(super) patience: Patience,
    pub(super) clock: Arc<dyn Clock>,
}

impl<P: Provider> Remote<P> {
    /// Wraps `key`. Whether the provider gives it back is for the [hierarchy](crate::hierarchy) to see, which asks every
    /// root key before it stores anything.
    pub(super) async fn wrap(&self, context: &Context, key: &[u8; 32]) -> Result<Bytes> {
        if context.as_bytes().len() > LARGEST_CONTEXT {
            return Err(Error::new(ErrorKind::Invalid, WRAP).because("its context is longer than 4 KiB"));
        }
        let encrypt = || self.provider.encrypt(context, key);
        let encrypted = self.patience.call(&*self.clock, encrypt).await?;
        if encrypted.len() > LARGEST {
            let reason = "the provider made more than 8 KiB of it";
            return Err(Error::new(ErrorKind::LimitExceeded, WRAP).because(reason));
        }
        let check = check(context, key, &encrypted);
        Ok([&[FORMAT], check.expose().as_slice(), &encrypted].concat().into())
    }

    /// Unwraps what [`wrap`](Self::wrap) made, and nothing else.
    pub(super) async fn unwrap(&self, context: &Context, wrapped: &[u8]) -> Result<SecretBox<[u8; 32]>> {
        let tampered = |reason| Error::new(ErrorKind::Tampered, UNWRAP).because(reason);
        let parts = wrapped.strip_prefix(&[FORMAT]).and_then(|rest| rest.split_first_chunk::<CHECK>());
        let parts = parts.filter(|(_, encrypted)| (1..=LARGEST).contains(&encrypted.len()));
        let (expected, encrypted) = parts.ok_or_else(|| tampered("it is not a wrapped key"))?;
        let decrypt = || self.provider.decrypt(context, encrypted);
        let key = boxed_key(&self.patience.call(&*self.clock, decrypt).await?)?;
        let check = check(context, key.expose_secret(), encrypted);
        if bool::from(check.expose().ct_eq(expected)) {
            Ok(key)
        } else {
            Err(tampered("what the provider answers is not the key that was wrapped"))
        }
    }
}

fn check(context: &Context, key: &[u8; 32], encrypted: &[u8]) -> DataKey {
    // Deriving does not depend on the id.
    let key = DataKey::new(KeyId::random(), boxed(key));
    key.derive(&Context::new("root key check").field(context.as_bytes()).field(encrypted))
}

/// The same request may succeed in a moment, and does no harm: not so after a refusal, which an operator has to lift.
fn is_passing(error: &Error) -> bool {
    error.is_retryable() && matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::TimedOut)
}

pub(super) async fn within<T>(
    clock: &dyn Clock,
    bound: Duration,
    call: impl Future<Output = Result<T>> + Send,
) -> Result<T> {
    match select(pin!(call), clock.sleep(bound)).await {
        Either::Left((done, _)) => done,
        Either::Right(_) => Err(Error::new(ErrorKind::TimedOut, "ask the provider of the root key")
            .because("it did not answer in time")
            .retryable()),
    }
}

/// Between a half of `pause` and all of it.
fn shortened(pause: Duration) -> Duration {
    // Without random bytes the pause is whole, which does as well.
    let random = getrandom::u32().unwrap_or(u32::MAX);
    pause / 2 + (pause / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
}

/// What a server says about an error, for an operator: short, in one line, and without a piece of `secrets`, which a
/// server that echoes what it was asked would show.
pub(super) fn words(text: &str, secrets: &[&str]) -> String {
    const MOST: usize = 300;
    const PIECE: usize = 8;
    let shows = |secret: &&str| {
        let mut pieces = secret.as_bytes().windows(PIECE.min(secret.len()).max(1));
        pieces.any(|piece| text.as_bytes().windows(piece.len()).any(|part| part == piece))
    };
    if secrets.iter().any(shows) {
        return "it repeats what is secret, and is left out".to_owned();
    }
    let shown = |letter: char| if letter.is_control() { ' ' } else { letter };
    text.chars().take(MOST).map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn what_a_server_says_is_one_short_line_without_secrets() {
        assert_eq!(
            words("no such key\r\n\u{1b}[2Jgone\u{9b}", &["hvs.secret-token"]),
            "no such key   [2Jgone "
        );
        assert_eq!(words(&"x".repeat(10_000), &[]).len(), 300);
        for said in ["token hvs.secret-token is bad", "...s.secret..."] {
            assert_eq!(words(said, &["hvs.secret-token"]), "it repeats what is secret, and is left out");
        }
    }
}
