//! One error for every port.
//!
//! An [`Error`] says what was being done ([`operation`](Error::operation)), what went wrong
//! ([`kind`](Error::kind) and the reason in its text), to what ([`with`](Error::with)), and, as a separate
//! fact, whether the same call may succeed later ([`is_retryable`](Error::is_retryable)).
//!
//! Two people read an error. A tenant reads its `Display`: no path of the host, no address of a server, no
//! text of another program. An operator reads [`Error::for_operator`]: the same, the detail, and the chain of
//! sources.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

/// The result of every fallible call of the SDK.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of thing went wrong: what a caller branches on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The caller may not do this, or may no longer.
    Denied,
    /// The thing does not exist, or the caller may not know that it does.
    NotFound,
    /// What the caller handed in cannot be right; the same call will never succeed.
    Invalid,
    /// Somebody else changed the thing first.
    Conflict,
    /// The lease of this worker is over; nothing more may be written under it.
    Fenced,
    /// Somebody asked for the work to stop.
    Cancelled,
    /// It took longer than it was allowed to.
    TimedOut,
    /// A bound on size, count or rate was reached.
    LimitExceeded,
    /// This backend, or this machine, cannot do it.
    Unsupported,
    /// A server, disk or network is down or overloaded.
    Unavailable,
    /// Stored data is not what was stored: altered, swapped, cut short or put back.
    Tampered,
    /// A defect of the SDK or of a backend.
    Internal,
}

impl ErrorKind {
    const fn words(self) -> &'static str {
        match self {
            Self::Denied => "permission denied",
            Self::NotFound => "not found",
            Self::Invalid => "invalid input",
            Self::Conflict => "changed by somebody else in the meantime",
            Self::Fenced => "the lease on this job is over",
            Self::Cancelled => "cancelled",
            Self::TimedOut => "timed out",
            Self::LimitExceeded => "limit exceeded",
            Self::Unsupported => "not supported here",
            Self::Unavailable => "temporarily unavailable",
            Self::Tampered => "stored data has been tampered with",
            Self::Internal => "internal error",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}

/// What went wrong, while doing what, to what.
///
/// # Example
///
/// ```
/// use ci_core::{Error, ErrorKind};
///
/// let error = Error::new(ErrorKind::Denied, "read the log")
///     .because("the permission has expired; sign in again")
///     .with("job", "1f3a");
/// assert_eq!(error.kind(), ErrorKind::Denied);
/// assert_eq!(error.to_string(), "read the log: the permission has expired; sign in again (job: 1f3a)");
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    operation: Cow<'static, str>,
    reason: Option<Cow<'static, str>>,
    context: Vec<(&'static str, String)>,
    detail: Option<String>,
    retry: Retry,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Retry {
    Never,
    Later,
    After(Duration),
}

impl Error {
    /// An error of `kind` that came up while doing `operation` ("read the log").
    ///
    /// Errors of kind [`Unavailable`](ErrorKind::Unavailable) are retryable from the start, all others are not.
    pub fn new(kind: ErrorKind, operation: impl Into<Cow<'static, str>>) -> Self {
        let retry = if kind == ErrorKind::Unavailable { Retry::Later } else { Retry::Never };
        Self(Box::new(Inner {
            kind,
            operation: operation.into(),
            reason: None,
            context: Vec::new(),
            detail: None,
            retry,
            source: None,
        }))
    }

    /// Says why, and what to do next, in words that a tenant may read.
    pub fn because(mut self, reason: impl Into<Cow<'static, str>>) -> Self {
        self.0.reason = Some(reason.into());
        self
    }

    /// Names a thing that was involved, in words that a tenant may read.
    pub fn with(mut self, name: &'static str, value: impl fmt::Display) -> Self {
        self.0.context.push((name, value.to_string()));
        self
    }

    /// Adds what only an operator may read: paths, addresses, the words of another program.
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.0.detail = Some(detail.into());
        self
    }

    /// Keeps the error that caused this one; only operators see it.
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Marks that the same call may succeed later.
    pub fn retryable(mut self) -> Self {
        self.0.retry = Retry::Later;
        self
    }

    /// Marks that the same call may succeed after `delay`, as the other side said.
    pub fn retryable_after(mut self, delay: Duration) -> Self {
        self.0.retry = Retry::After(delay);
        self
    }

    /// Marks that the same call will not succeed later.
    pub fn permanent(mut self) -> Self {
        self.0.retry = Retry::Never;
        self
    }

    /// What kind of thing went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// What was being done.
    pub fn operation(&self) -> &str {
        &self.0.operation
    }

    /// The things that were involved, as name and value, in the order in which they were added.
    pub fn context(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.context.iter().map(|(name, value)| (*name, value.as_str()))
    }

    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        self.0.retry != Retry::Never
    }

    /// How long to wait before trying again, where the other side said so.
    pub fn retry_after(&self) -> Option<Duration> {
        match self.0.retry {
            Retry::After(delay) => Some(delay),
            Retry::Never | Retry::Later => None,
        }
    }

    /// The text for an operator: what a tenant reads, the detail, and every source below.
    ///
    /// It may name paths, servers and other programs' words: never show it to a tenant.
    pub fn for_operator(&self) -> impl fmt::Display {
        let mut text = self.to_string();
        if let Some(detail) = &self.0.detail {
            text.push_str(": ");
            text.push_str(detail);
        }
        let mut source = self.source();
        while let Some(error) = source {
            text.push_str(": ");
            text.push_str(&error.to_string());
            source = error.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = self.0.reason.as_deref().unwrap_or(self.0.kind.words());
        write!(f, "{}: {reason}", self.0.operation)?;
        for (index, (name, value)) in self.0.context.iter().enumerate() {
            let before = if index == 0 { " (" } else { ", " };
            write!(f, "{before}{name}: {value}")?;
        }
        if self.0.context.is_empty() { Ok(()) } else { f.write_str(")") }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("text", &self.for_operator().to_string())
            .field("retryable", &self.is_retryable())
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_words() {
        let words = [
            (ErrorKind::Denied, "permission denied"),
            (ErrorKind::NotFound, "not found"),
            (ErrorKind::Invalid, "invalid input"),
            (ErrorKind::Conflict, "changed by somebody else in the meantime"),
            (ErrorKind::Fenced, "the lease on this job is over"),
            (ErrorKind::Cancelled, "cancelled"),
            (ErrorKind::TimedOut, "timed out"),
            (ErrorKind::LimitExceeded, "limit exceeded"),
            (ErrorKind::Unsupported, "not supported here"),
            (ErrorKind::Unavailable, "temporarily unavailable"),
            (ErrorKind::Tampered, "stored data has been tampered with"),
            (ErrorKind::Internal, "internal error"),
        ];
        for (kind, expected) in words {
            assert_eq!(Error::new(kind, "do it").to_string(), format!("do it: {expected}"));
        }
    }

    #[test]
    fn a_tenant_reads_neither_detail_nor_source() {
        let error = Error::new(ErrorKind::Unavailable, "read the log")
            .detail("/var/lib/ci/db.sqlite")
            .caused_by("disk I/O error");
        assert_eq!(error.to_string(), "read the log: temporarily unavailable");
        assert_eq!(
            error.for_operator().to_string(),
            "read the log: temporarily unavailable: /var/lib/ci/db.sqlite: disk I/O error"
        );
    }

    #[test]
    fn retry_is_a_fact_of_its_own() {
        assert!(Error::new(ErrorKind::Unavailable, "x").is_retryable());
        assert!(!Error::new(ErrorKind::Unavailable, "x").permanent().is_retryable());
        assert!(!Error::new(ErrorKind::Internal, "x").is_retryable());
        let later = Error::new(ErrorKind::LimitExceeded, "x").retryable_after(Duration::from_secs(3));
        assert_eq!(later.retry_after(), Some(Duration::from_secs(3)));
    }
}
