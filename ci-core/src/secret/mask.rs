//! What stands between a stream of output and whoever reads it.

use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::{Leak, Redactor};
use crate::error::{Error, ErrorKind, Result};
use crate::id::JobId;
use crate::lock::lock;
use crate::queue::Claim;

/// Turns one stream of raw output into bytes that may be shown.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use std::sync::Arc;
/// use ci_core::id::SecretName;
/// use ci_core::memory::{Masking, Rig};
/// use ci_core::secret::{SecretLease, SecretValue};
/// # use ci_core::trust::Origin;
///
/// # let rig = Rig::new()?;
/// # let claim = rig.claim(&Rig::repository("1", "acme")?, Origin::Repository, Rig::spec()).await?;
/// let value = (SecretName::parse("TOKEN")?, SecretValue::new("hunter2"));
/// let lease = SecretLease::new(claim.trusted()?, [value], Arc::new(Masking::new()));
/// let mut mask = lease.mask(); // one for every stream
///
/// assert_eq!(mask.push(b"it is hun").as_bytes(), "it is "); // the rest may be a secret
/// assert_eq!(mask.push(b"ter2, or hun").as_bytes(), "***, or ");
/// assert_eq!(mask.finish().as_bytes(), "hun");
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Mask {
    redactor: Box<dyn Redactor>,
    job: Option<JobId>,
    untold: Untold,
}

impl Mask {
    pub(super) fn new(redactor: Box<dyn Redactor>, job: Option<JobId>, untold: Untold) -> Self {
        Self { redactor, job, untold }
    }

    /// Takes more output and returns what is safe to show so far.
    pub fn push(&mut self, bytes: &[u8]) -> Masked {
        let mut out = Vec::with_capacity(bytes.len());
        self.redactor.push(bytes, &mut out);
        Masked { bytes: out.into(), job: self.job.clone() }
    }

    /// The stream pauses: returns what was held back, but for long beginnings of secrets; see [`Redactor::flush`].
    pub fn flush(&mut self) -> Masked {
        let mut out = Vec::new();
        self.redactor.flush(&mut out);
        Masked { bytes: out.into(), job: self.job.clone() }
    }

    /// The stream has ended: returns the rest.
    pub fn finish(mut self) -> Masked {
        let mut out = Vec::new();
        self.redactor.finish(&mut out);
        lock(&self.untold).extend(self.redactor.leaks());
        Masked { bytes: out.into(), job: self.job }
    }

    /// What was hidden since this was asked last. What nobody asks for goes to [`SecretLease::leaks`](crate::secret::SecretLease::leaks) at the end.
    ///
    /// # Example
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use ci_core::{memory::Masking, secret::{SecretLease, SecretValue}};
    /// # let lease = SecretLease::for_helper(Arc::new(Masking::new()));
    /// # lease.teach(&SecretValue::new("hunter2"));
    /// let mut mask = lease.mask();
    /// mask.push(b"hunter2 and hunter2");
    /// assert_eq!(mask.leaks()[0].times, 2);
    /// assert!(mask.leaks().is_empty(), "it has been told");
    /// ```
    pub fn leaks(&mut self) -> Vec<Leak> {
        self.redactor.leaks()
    }
}

/// Bytes that went through a [`Mask`], and whose secrets that mask knew. There is no other way to make them.
///
/// ```compile_fail
/// let bytes = bytes::Bytes::from_static(b"raw");
/// let unmasked = ci_core::secret::Masked { bytes, job: None }; // the fields are private
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Masked {
    bytes: Bytes,
    job: Option<JobId>,
}

impl Masked {
    /// The bytes.
    pub fn as_bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The bytes, for the log of the claim's job.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when they were masked with the lease of another job, or of none: it knows other secrets.
    pub fn for_log_of(self, claim: &Claim) -> Result<Bytes> {
        if self.is_empty() || self.job.as_ref() == Some(claim.job()) {
            return Ok(self.bytes);
        }
        Err(Error::new(ErrorKind::Denied, "append to a log")
            .because("the bytes were masked for another job; mask them with the lease of this one")
            .with("job", claim.job()))
    }

    /// How many bytes they are.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// These bytes, then `next`.
    pub(crate) fn append(&mut self, next: &Self) {
        if self.is_empty() {
            *self = next.clone();
        } else if !next.is_empty() {
            self.bytes = [self.bytes.as_ref(), next.bytes.as_ref()].concat().into();
        }
    }
}

/// What masks have hidden and not told.
pub(super) type Untold = Arc<Mutex<Vec<Leak>>>;
