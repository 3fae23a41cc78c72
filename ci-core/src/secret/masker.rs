//! What a masker is asked to do, and its filters.

use std::fmt;

use super::{Leak, Learned, SecretValue, Sensitive};

/// What hides the secrets of one job. It is shared by all of the job's streams.
///
/// It hides a value as it is, every line of a value of several lines, and both in Base64 (either alphabet, wherever in
/// an encoded text) and in hexadecimal digits (either case); other forms are its own choice. Where hidden bytes overlap,
/// all of them are hidden. When it and its redactors are dropped, nothing of a value is left in memory.
///
/// # Example
///
/// ```
/// use ci_core::memory::Masking;
/// use ci_core::secret::{Learned, Masker, Redactor, Sensitive, SecretValue};
///
/// /// Hides what another masker hides, and every value backwards.
/// #[derive(Debug)]
/// struct AlsoBackwards<M>(M);
///
/// impl<M: Masker> Masker for AlsoBackwards<M> {
///     fn learn(&self, what: &Sensitive, value: &SecretValue) -> Learned {
///         let backwards: Vec<u8> = value.expose().iter().rev().copied().collect();
///         self.0.learn(what, &SecretValue::new(backwards));
///         self.0.learn(what, value)
///     }
///
///     fn redactor(&self) -> Box<dyn Redactor> {
///         self.0.redactor()
///     }
/// }
/// # let masker = AlsoBackwards(Masking::new());
/// # masker.learn(&Sensitive::Credential, &SecretValue::new("hunter2"));
/// # let (mut redactor, mut out) = (masker.redactor(), Vec::new());
/// # redactor.push(b"2retnuh is hunter2", &mut out);
/// # redactor.finish(&mut out);
/// # assert_eq!(out, b"*** is ***");
/// ```
pub trait Masker: fmt::Debug + Send + Sync + 'static {
    /// Adds a value. From now on it is hidden in every stream, bytes that a redactor still holds included, and
    /// reported as `what`. What cannot be hidden is not, and the answer says so.
    fn learn(&self, what: &Sensitive, value: &SecretValue) -> Learned;

    /// A filter for one stream.
    fn redactor(&self) -> Box<dyn Redactor>;
}

/// A filter over one stream: bytes in, bytes without secrets out.
///
/// However the input is split into calls, the concatenated output is the same. It holds back only what may be the
/// beginning of a secret, so that whoever watches sees the rest at once. Callers have a [`Mask`](crate::secret::Mask) around it.
pub trait Redactor: fmt::Debug + Send {
    /// Takes more of the stream and adds to `out` what is safe to show.
    fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>);

    /// The stream pauses: adds what is held back and is no more than a quarter of each secret that it may begin. If
    /// the rest of one comes after all, that rest is hidden.
    fn flush(&mut self, out: &mut Vec<u8>);

    /// The stream has ended: adds what was held back.
    fn finish(&mut self, out: &mut Vec<u8>);

    /// What was hidden since this was asked last, without a step: one for each value and form, in the order of these, however
    /// often it was there. A place counts once.
    fn leaks(&mut self) -> Vec<Leak>;
}
