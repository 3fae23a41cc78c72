//! The token, and until when it lasts.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ci_core::clock::Clock;
use ci_core::{Error, ErrorKind, Result};
use secrecy::{ExposeSecret as _, SecretString};

/// How often [`keep_renewed`](super::TransitRoot::keep_renewed) looks at least, so that it notices another token.
pub(super) const CHECK_EVERY: Duration = Duration::from_mins(1);

pub(super) struct Token(Mutex<State>);

struct State {
    token: Arc<SecretString>,
    lasting: Lasting,
}

/// By the clock's elapsed time: a calendar that jumps does not change how long a token lasts.
#[derive(Clone, Copy)]
enum Lasting {
    Unknown,
    Forever,
    Until { due: Duration, end: Duration, is_renewable: bool },
}

impl Token {
    pub(super) fn new(token: SecretString) -> Result<Self> {
        Ok(Self(Mutex::new(State { token: Arc::new(checked(token)?), lasting: Lasting::Unknown })))
    }

    pub(super) fn replace(&self, token: SecretString) -> Result<()> {
        let token = Arc::new(checked(token)?);
        *self.lock() = State { token, lasting: Lasting::Unknown };
        Ok(())
    }

    pub(super) fn current(&self) -> Arc<SecretString> {
        self.lock().token.clone()
    }

    pub(super) fn is_unknown(&self) -> bool {
        matches!(self.lock().lasting, Lasting::Unknown)
    }

    /// Whether it is time to renew it, and it can be.
    pub(super) fn is_due(&self, clock: &dyn Clock) -> bool {
        match self.lock().lasting {
            Lasting::Until { due, is_renewable, .. } => is_renewable && clock.elapsed() >= due,
            Lasting::Unknown | Lasting::Forever => false,
        }
    }

    /// Takes down that `token` lasts for so many seconds from now, if it is still the one in use.
    pub(super) fn lasts(
        &self,
        token: &Arc<SecretString>,
        clock: &dyn Clock,
        seconds: u64,
        is_renewable: bool,
    ) {
        let mut state = self.lock();
        if !Arc::ptr_eq(&state.token, token) {
            return;
        }
        // A token of the server's root policy has no end, and says 0.
        state.lasting = if seconds == 0 {
            Lasting::Forever
        } else {
            // The server says any number that it likes.
            let (now, lasts) = (clock.elapsed(), Duration::from_secs(seconds));
            let (due, end) = (now.saturating_add(lasts / 3 * 2), now.saturating_add(lasts));
            Lasting::Until { due, end, is_renewable }
        };
    }

    /// When to look again.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when the token is about to end and cannot be renewed.
    pub(super) fn check_again_in(&self, clock: &dyn Clock) -> Result<Duration> {
        let now = clock.elapsed();
        match self.lock().lasting {
            Lasting::Until { due, end, is_renewable: false } if now >= due => {
                let left = end.saturating_sub(now).as_secs();
                Err(Error::new(ErrorKind::Denied, "keep the token of the transit engine renewed")
                    .because("it cannot be renewed and is about to end; hand in another one")
                    .with("seconds left", left))
            }
            Lasting::Until { due, .. } => {
                Ok(due.saturating_sub(now).clamp(Duration::from_secs(1), CHECK_EVERY))
            }
            Lasting::Unknown | Lasting::Forever => Ok(CHECK_EVERY),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

fn checked(token: SecretString) -> Result<SecretString> {
    let text = token.expose_secret();
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Error::new(ErrorKind::Invalid, "take a token for the transit engine")
            .because("it is not one line of visible ASCII; look for a line break at its end"));
    }
    Ok(token)
}
