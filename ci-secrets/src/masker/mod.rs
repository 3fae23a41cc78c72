//! Hides the secrets of one job in its output.
//!
//! From a value to the bytes that are looked for: `judge.rs` says whether it can be hidden, `forms/` how programs write
//! it, `pattern.rs` cuts what is long, `patterns.rs` puts all in order. From output to what may be shown: `normal.rs`
//! leaves out line breaks and colours, which `controls.rs` finds, `filter.rs` finds where something may begin,
//! `patterns.rs` what does, `inside.rs` what does in that which was left out, and `redactor.rs` holds back no more than
//! it must; `tally.rs` counts.

mod controls;
mod filter;
mod forms;
mod inside;
mod judge;
mod known;
mod normal;
mod pattern;
mod patterns;
mod redactor;
mod tally;

use std::fmt;
use std::sync::Arc;

use ci_core::secret::{Learned, Masker, Redactor, SecretValue, Sensitive};

use forms::forms;
use judge::judge;
use known::Known;
use normal::settled;
use redactor::StreamRedactor;

/// Hides values in every form in which programs usually print them.
///
/// | Form | Which |
/// |---|---|
/// | plain | the value without blanks around it; each line of at least eight bytes of a value of several lines; its words with one blank between them, as an unquoted variable is printed |
/// | Base64 | both alphabets, wherever in the encoded text the value begins (RFC 4648) |
/// | hexadecimal | both cases |
/// | percent-encoding | RFC 3986, `encodeURIComponent`, paths, forms; both cases; `%20` and `+` |
/// | JSON | RFC 8259; with `\u` for what is not ASCII, with `\/`, with `\u003c` |
/// | shell | single quotes, double quotes, backslashes |
/// | XML, HTML | with the usual names and numbers for quotation marks |
/// | strings | of C, Go, Rust, Python and `$'...'` |
/// | UTF-16 | the lower byte first, as PowerShell writes |
///
/// Line breaks, carriage returns and escape sequences (colours) between the bytes of a secret, up to 128 bytes in one
/// place, do not save it, so that wrapped text is hidden too: they are hidden with it. Nor does what stands before a
/// secret: where an ESC makes an escape sequence out of its first bytes, they are hidden as well. A form that is longer
/// than 128 bytes is hidden in pieces of 64 to 128 bytes, so that a file that is printed in part is hidden up to the last
/// whole piece. Every run of hidden bytes, where secrets overlap or touch as well, becomes one `***`.
///
/// What is shorter than [`SHORTEST`](Self::SHORTEST) bytes is not hidden, nor a number of up to ten digits, a word that
/// builds print all the time, or one or two characters again and again: [`Learned`] says so. Line breaks, escape sequences
/// and the beginning of one at the end do not count.
///
/// A stream is held back only where a secret may have begun: its longest end that is the beginning of a pattern, at most
/// 127 bytes and what was left out between them; [`flush`](Redactor::flush) lets go of short ones, but for an escape
/// sequence that is not whole. The time that masking takes grows with the text, and hardly with the number of secrets;
/// one that is shorter than eleven bytes makes it slower. What is learned takes effect when the next bytes come.
///
/// # What it does not do
///
/// A masker stops accidents, not attacks. It does not recognise a secret that is encoded twice, compressed, reversed,
/// with blanks between its letters (`xxd`), or one letter to a line with other text: a job that wants to tell its
/// secrets can. Who is hostile is not given any. Of Base64, up to two characters at either end of a secret stay, which
/// share bits with what is beside it: they tell less than a byte. Of a value that ends with half of an escape sequence,
/// that half stays where the text goes on with the other one.
///
/// Everything that is learned, built from that, or held back is wiped from memory.
///
/// # Example
///
/// ```
/// use ci_core::id::SecretName;
/// use ci_core::secret::{Form, Learned, Masker as _, SecretValue, Sensitive};
/// use ci_secrets::StreamMasker;
///
/// let masker = StreamMasker::new();
/// let token = Sensitive::Secret(SecretName::parse("TOKEN")?);
/// assert_eq!(masker.learn(&token, &SecretValue::new("hunter2")), Learned::Hidden);
/// assert_eq!(masker.learn(&token, &SecretValue::new("true")), Learned::TooCommon);
///
/// let (mut redactor, mut out) = (masker.redactor(), Vec::new());
/// redactor.push(b"the password is hun", &mut out);
/// assert_eq!(out, b"the password is ");
/// redactor.push(b"ter2\nAuthorization: Basic YWRhOmh1bnRlcjI=\n", &mut out);
/// redactor.finish(&mut out);
/// assert_eq!(out, b"the password is ***\nAuthorization: Basic YWRhOm***I=\n");
/// assert_eq!(redactor.leaks()[1].form, Form::Base64);
/// # Ok::<(), ci_core::Error>(())
/// ```
#[derive(Default)]
pub struct StreamMasker {
    known: Arc<Known>,
}

impl StreamMasker {
    /// How many bytes a value must have to be hidden.
    pub const SHORTEST: usize = 4;

    /// A masker that knows no value yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether a masker could hide `value`.
    pub(crate) fn judged(value: &SecretValue) -> Learned {
        judge(&settled(value.expose().trim_ascii()))
    }
}

impl Masker for StreamMasker {
    fn learn(&self, what: &Sensitive, value: &SecretValue) -> Learned {
        let judged = Self::judged(value);
        if judged == Learned::Hidden {
            self.known.add(what, &forms(value.expose().trim_ascii()));
        }
        judged
    }

    fn redactor(&self) -> Box<dyn Redactor> {
        Box::new(StreamRedactor::new(self.known.clone()))
    }
}

impl fmt::Debug for StreamMasker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamMasker").field("patterns", &self.known.len()).finish()
    }
}
