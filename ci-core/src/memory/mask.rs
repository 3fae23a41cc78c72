//! Masking by brute force: slow, short, and right.

use std::fmt;
use std::sync::{Arc, Mutex};

use data_encoding::{BASE64_NOPAD, BASE64URL_NOPAD, HEXLOWER, HEXUPPER};
use zeroize::Zeroizing;

use crate::lock::lock;
use crate::secret::{Form, Leak, Learned, Masker, Redactor, SecretValue, Sensitive};

/// What stands in place of secrets.
const MARK: &[u8] = b"***";
/// The fewest bytes that are hidden.
const SHORTEST: usize = 4;

/// Hides what every [`Masker`] must, and each run of hidden bytes as one `***`.
///
/// It looks at every form of every value for every byte: a reference for tests.
///
/// # Example
///
/// ```
/// use ci_core::memory::Masking;
/// use ci_core::secret::{Masker as _, SecretValue, Sensitive};
///
/// let masking = Masking::new();
/// masking.learn(&Sensitive::Credential, &SecretValue::new("secret"));
/// masking.learn(&Sensitive::Credential, &SecretValue::new("retry"));
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

type Values = Mutex<Vec<Value>>;

/// One form of one value.
struct Value {
    bytes: Zeroizing<Vec<u8>>,
    what: Sensitive,
    form: Form,
}

impl Masking {
    /// A masker that knows no value yet.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Masker for Masking {
    fn learn(&self, what: &Sensitive, value: &SecretValue) -> Learned {
        if value.expose().len() < SHORTEST {
            return Learned::TooShort;
        }
        let mut values = lock(&self.values);
        for (form, bytes) in forms(value.expose()) {
            if bytes.len() >= SHORTEST && values.iter().all(|known| known.bytes != bytes) {
                values.push(Value { bytes, what: what.clone(), form });
            }
        }
        Learned::Hidden
    }

    fn redactor(&self) -> Box<dyn Redactor> {
        let (bytes, hidden, leaks) = (Zeroizing::new(Vec::with_capacity(ROOM)), Vec::new(), Vec::new());
        Box::new(Window {
            values: self.values.clone(),
            bytes,
            hidden,
            looked_at: 0,
            out: 0,
            in_run: false,
            leaks,
        })
    }
}

/// How many bytes a window holds before it grows, which leaves copies behind.
const ROOM: usize = 64 * 1024;

fn forms(value: &[u8]) -> Vec<(Form, Zeroizing<Vec<u8>>)> {
    let mut forms = vec![(Form::Plain, Zeroizing::new(value.to_vec()))];
    let lines = value.split(|byte| *byte == b'\n');
    forms.extend(lines.map(|line| (Form::Line, Zeroizing::new(line.to_vec()))));
    for encoding in [HEXLOWER, HEXUPPER] {
        forms.push((Form::Hex, Zeroizing::new(encoding.encode(value).into_bytes())));
    }
    for (encoding, before) in [BASE64_NOPAD, BASE64URL_NOPAD].iter().flat_map(|e| (0..3).map(move |n| (e, n)))
    {
        // The characters that stand for bits of the value alone, with `before` unknown bytes in front of it.
        let text = Zeroizing::new([&[0; 2][..before], value].concat());
        let text = Zeroizing::new(encoding.encode(&text).into_bytes());
        let core = &text[(before * 8).div_ceil(6)..(before + value.len()) * 8 / 6];
        forms.push((Form::Base64, Zeroizing::new(core.to_vec())));
    }
    forms
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
    /// How many of `bytes` were there when values were looked for last.
    looked_at: usize,
    /// How many of `bytes` went out, or were hidden.
    out: usize,
    /// Whether the last byte that went out belonged to a value.
    in_run: bool,
    leaks: Vec<Leak>,
}

impl Window {
    fn mark(&mut self, values: &[Value]) {
        for value in values {
            for start in 0..self.bytes.len() {
                if self.bytes[start..].starts_with(&value.bytes) {
                    let end = start + value.bytes.len();
                    self.hidden[start..end].fill(true);
                    if end > self.looked_at {
                        self.count(value);
                    }
                }
            }
        }
        self.looked_at = self.bytes.len();
    }

    fn count(&mut self, value: &Value) {
        let is_it = |leak: &&mut Leak| leak.what == value.what && leak.form == value.form;
        match self.leaks.iter_mut().find(is_it) {
            Some(leak) => leak.times += 1,
            None => self.leaks.push(Leak::new(value.what.clone(), value.form, 1)),
        }
    }

    /// The first place where a value may begin whose end has not been seen, of those that `may_wait`.
    fn undecided(&self, values: &[Value], may_wait: impl Fn(usize, usize) -> bool) -> usize {
        let may_begin = |start: &usize| {
            let rest = &self.bytes[*start..];
            let begins = |value: &[u8]| rest.len() < value.len() && value.starts_with(rest);
            values.iter().any(|value| begins(&value.bytes) && may_wait(rest.len(), value.bytes.len()))
        };
        (0..self.bytes.len()).find(may_begin).unwrap_or(self.bytes.len())
    }

    /// Lets out all before `until` that is not out yet.
    fn let_out(&mut self, until: usize, out: &mut Vec<u8>) {
        for index in self.out..until {
            if !self.hidden[index] {
                out.push(self.bytes[index]);
            } else if !self.in_run {
                out.extend_from_slice(MARK);
            }
            self.in_run = self.hidden[index];
        }
        self.out = self.out.max(until);
    }

    /// Forgets what is out and in which no value begins that may go on.
    fn forget(&mut self, count: usize) {
        self.bytes.drain(..count);
        self.hidden.drain(..count);
        self.looked_at -= count;
        self.out -= count;
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
        let decided = self.undecided(&values, |_, _| true);
        self.let_out(decided, out);
        self.forget(decided);
    }

    fn flush(&mut self, out: &mut Vec<u8>) {
        let values = self.values.clone();
        let values = lock(&values);
        self.mark(&values);
        self.let_out(self.undecided(&values, |length, of| length * 4 > of), out);
    }

    fn finish(&mut self, out: &mut Vec<u8>) {
        let values = self.values.clone();
        self.mark(&lock(&values));
        self.let_out(self.bytes.len(), out);
        self.forget(self.bytes.len());
    }

    fn leaks(&mut self) -> Vec<Leak> {
        self.leaks.sort_by(|one, other| (&one.what, one.form).cmp(&(&other.what, other.form)));
        std::mem::take(&mut self.leaks)
    }
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Window").field("held", &self.bytes.len()).finish_non_exhaustive()
    }
}
