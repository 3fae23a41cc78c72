//! Hides the secrets of one job in its output.

mod automaton;
mod filter;
mod pattern;
mod redactor;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ci_core::secret::{Learned, Masker, Redactor, SecretValue};

use automaton::Automaton;
use pattern::{Pattern, patterns_of};
use redactor::PlainRedactor;

/// How many bytes of values one masker tells apart. Beyond it hides everything.
const MOST_BYTES: usize = 4 * 1024 * 1024;

/// Hides values as they are: the whole value, and each line of a value of several lines.
///
/// Blanks around a value or a line are not part of the secret. What is shorter than
/// [`SHORTEST`](Self::SHORTEST) bytes is not hidden, because that would hide ordinary text. Every run of hidden
/// bytes, where secrets overlap or touch as well, becomes one `***`.
///
/// A stream is held back only where a secret may have begun: its longest end that is the beginning of a secret,
/// never as long as the longest secret. The time that masking takes grows with the text, not with the number of
/// secrets; it is built anew when the first bytes come after something was learned.
///
/// A masker stops accidents, not attacks. It does not recognise a secret in another form (Base64, reversed, one
/// letter to a line): a job that wants to tell its secrets can. Who is hostile is not given any.
///
/// Learned values and held bytes are wiped from memory. The search automaton that is built from the values holds
/// their bytes too, spread over its tables, and is freed without being wiped.
///
/// # Example
///
/// ```
/// use ci_core::secret::{Learned, Masker as _, SecretValue};
/// use ci_secrets::PlainMasker;
///
/// let masker = PlainMasker::new();
/// assert_eq!(masker.learn(&SecretValue::new("hunter2")), Learned::Hidden);
/// assert_eq!(masker.learn(&SecretValue::new("no")), Learned::TooShort);
///
/// let (mut redactor, mut out) = (masker.redactor(), Vec::new());
/// redactor.push(b"the password is hun", &mut out);
/// assert_eq!(out, b"the password is ");
/// redactor.push(b"ter2\n", &mut out);
/// redactor.finish(&mut out);
/// assert_eq!(out, b"the password is ***\n");
/// ```
#[derive(Default)]
pub struct PlainMasker {
    known: Arc<Known>,
}

impl PlainMasker {
    /// How many bytes a value must have to be hidden.
    pub const SHORTEST: usize = 4;

    /// A masker that knows no value yet.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Masker for PlainMasker {
    fn learn(&self, value: &SecretValue) -> Learned {
        let found = patterns_of(value.expose());
        if found.is_empty() {
            return Learned::TooShort;
        }
        self.known.add(found);
        Learned::Hidden
    }

    fn redactor(&self) -> Box<dyn Redactor> {
        Box::new(PlainRedactor::new(self.known.clone()))
    }
}

impl fmt::Debug for PlainMasker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlainMasker").field("patterns", &self.known.lock().patterns.len()).finish()
    }
}

/// What one masker and its redactors share.
#[derive(Default)]
struct Known {
    /// Grows with everything that is learned, so that a redactor sees without a lock that nothing was.
    generation: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// In order, each of them once.
    patterns: Vec<Pattern>,
    bytes: usize,
    built: Option<Arc<Automaton>>,
}

impl Known {
    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    fn add(&self, found: Vec<Pattern>) {
        let mut state = self.lock();
        let before = state.patterns.len();
        state.patterns.extend(found);
        // Two sorted runs are merged in one pass; one insertion each would take quadratic time.
        state.patterns.sort();
        state.patterns.dedup();
        if state.patterns.len() > before {
            state.bytes = state.patterns.iter().map(|pattern| pattern.as_bytes().len()).sum();
            state.built = None;
            self.generation.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// The automaton for everything that is known, and which generation that is.
    fn automaton(&self) -> (Arc<Automaton>, u64) {
        let mut state = self.lock();
        let built = match state.built.take() {
            Some(built) => built,
            None if state.bytes > MOST_BYTES => Arc::new(Automaton::hiding_everything()),
            None => Arc::new(Automaton::new(&state.patterns)),
        };
        state.built = Some(built.clone());
        (built, self.generation())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_learned_twice_is_kept_once() {
        let masker = PlainMasker::new();
        for _ in 0..3 {
            masker.learn(&SecretValue::new("hunter2"));
        }
        assert_eq!(masker.known.lock().patterns.len(), 1);
        assert_eq!(masker.known.generation(), 1);
    }

    #[test]
    fn more_than_can_be_told_apart_hides_everything() {
        let masker = PlainMasker::new();
        masker.learn(&SecretValue::new(vec![b'x'; MOST_BYTES + 1]));
        let (mut redactor, mut out) = (masker.redactor(), Vec::new());
        redactor.push(b"any", &mut out);
        redactor.push(b"thing", &mut out);
        redactor.finish(&mut out);
        assert_eq!(out, b"***");
    }
}
