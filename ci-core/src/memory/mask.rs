//! Masking by brute force: slow, short, and right.

use std::fmt;
use std::sync::{Arc, Mutex};

use zeroize::Zeroizing;

use super::lock::lock;
use crate::secret::{Learned, Masker, Redactor, SecretValue};

/// What stands in place of secrets.
const MARK: &[u8] = b"***";
/// The fewest bytes that are hidden.
const SHORTEST: usize = 4;

/// Hides values exactly as they were learned, each run of hidden bytes as one `***`.
///
/// It knows no encodings of a value and looks at every value for every byte: a reference for tests.
///
/// # Example
///
/// ```
/// use ci_core::memory::Masking;
/// use ci_core::secret::{Masker as _, SecretValue};
///
/// let masking = Masking::new();
/// masking.learn(&SecretValue::new("secret"));
/// masking.learn(&SecretValue::new("retry"));
/// let (mut redactor, mut out) = (masking.redactor(), Vec::new());
/// redactor.push(b"a sec", &mut out);
/// redactor.push(b"retry b", &mut out);
/// redactor.finish(&mut out);
/// assert_eq!(out, b"a *** b"); // the two overlap
/// ```
#[derive(Default)]
pub struct Masking {
    values: Arc<Values>,
}

type Values = Mutex<Vec<Zeroizing<Vec<u8>>>>;

impl Masking {
    /// A masker that knows no value yet.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Masker for Masking {
    fn learn(&self, value: &SecretValue) -> Learned {
        if value.expose().len() < SHORTEST {
            return Learned::TooShort;
        }
        lock(&self.values).push(Zeroizing::new(value.expose().to_vec()));
        Learned::Hidden
    }

    fn redactor(&self) -> Box<dyn Redactor> {
        let (bytes, hidden) = (Zeroizing::default(), Vec::new());
        Box::new(Window { values: self.values.clone(), bytes, hidden, in_run: false })
    }
}

impl fmt::Debug for Masking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Masking").field("values", &lock(&self.values).len()).finish()
    }
}

/// The end of a stream that is held back, because a value may begin in it.
struct Window {
    values: Arc<Values>,
    bytes: Zeroizing<Vec<u8>>,
    /// Which of `bytes` belong to a value.
    hidden: Vec<bool>,
    /// Whether the last byte that went out belonged to a value.
    in_run: bool,
}

impl Window {
    fn mark(&mut self, values: &[Zeroizing<Vec<u8>>]) {
        for value in values {
            for start in 0..self.bytes.len() {
                if self.bytes[start..].starts_with(value) {
                    self.hidden[start..start + value.len()].fill(true);
                }
            }
        }
    }

    /// The first place where a value may begin whose end has not been seen.
    fn undecided(&self, values: &[Zeroizing<Vec<u8>>]) -> usize {
        let may_begin = |start: &usize| {
            let rest = &self.bytes[*start..];
            values.iter().any(|value| rest.len() < value.len() && value.starts_with(rest))
        };
        (0..self.bytes.len()).find(may_begin).unwrap_or(self.bytes.len())
    }

    fn let_out(&mut self, count: usize, out: &mut Vec<u8>) {
        for (byte, is_hidden) in self.bytes.drain(..count).zip(self.hidden.drain(..count)) {
            if !is_hidden {
                out.push(byte);
            } else if !self.in_run {
                out.extend_from_slice(MARK);
            }
            self.in_run = is_hidden;
        }
    }
}

impl Redactor for Window {
    fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        self.bytes.extend_from_slice(bytes);
        self.hidden.resize(self.bytes.len(), false);
        let values = self.values.clone();
        // One lock for both, so that no value is learned between them and let out.
        let values = lock(&values);
        self.mark(&values);
        self.let_out(self.undecided(&values), out);
    }

    fn finish(&mut self, out: &mut Vec<u8>) {
        let values = self.values.clone();
        self.mark(&lock(&values));
        self.let_out(self.bytes.len(), out);
    }
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Window").field("held", &self.bytes.len()).finish_non_exhaustive()
    }
}
