//! Secrets: how they are kept, leased to one job, and kept out of its output.
//!
//! A [`SecretLease`] is the only form in which values reach a sandbox, and it makes the [`Mask`] that output
//! goes through: what can be injected is masked. A log store takes nothing but [`Masked`] bytes.

mod anchor;
mod end;
mod leak;
mod policy;
mod ssh;
mod stored;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use secrecy::{ExposeSecret as _, SecretBox};

use crate::access::{Grant, Read, Scope, Write};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ArtifactName, CacheKey, JobId, KeyId, SecretName};
use crate::queue::{Claim, Tenure, TrustedClaim};
use crate::seal::{Context, DataKey};

pub use anchor::{FreshnessAnchor, Mark};
pub use end::LeaseEnd;
pub use leak::{Form, Leak, Learned, Sensitive, Unmasked};
pub use policy::{RefPattern, SecretPolicy};
pub use ssh::{SshPublicKey, SshSigner};
pub use stored::{NewSecret, SecretInfo, SecretKind, Stored};

/// The value of a secret. It has no `Display` and no `Serialize`, shows nothing in `Debug`, and is wiped when it
/// is dropped.
///
/// # Example
///
/// ```
/// use ci_core::secret::SecretValue;
///
/// let value = SecretValue::new("hunter2");
/// assert_eq!(format!("{value:?}"), "SecretValue(..)");
/// assert_eq!(value.expose(), b"hunter2");
/// ```
pub struct SecretValue(SecretBox<Vec<u8>>);

impl SecretValue {
    /// Takes a value.
    pub fn new(value: impl Into<Vec<u8>>) -> Self {
        Self(SecretBox::new(Box::new(value.into())))
    }

    /// Shows the value. Whoever calls this answers for where it goes.
    pub fn expose(&self) -> &[u8] {
        self.0.expose_secret()
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue(..)")
    }
}

/// Where secrets are kept. People write them; only trusted jobs read them. Every change and every lease has its entry
/// in the audit log, which names no secret and holds no value; a value has between 1 byte and 1 MiB, and one that may be a
/// variable at most [`NewSecret::MOST_IN_VARIABLE`].
///
/// # Cancel safety
///
/// When the future of [`put`](Self::put), [`set`](Self::set) or [`delete`](Self::delete) is dropped, it may have
/// happened: look at [`list`](Self::list). A dropped [`lease`](Self::lease) may have left its entry in the audit log.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use std::sync::Arc;
/// use ci_core::access::Write;
/// use ci_core::id::SecretName;
/// use ci_core::memory::{Rig, Secrets};
/// use ci_core::secret::{Learned, SecretStore, SecretValue};
/// use ci_core::trust::Origin;
///
/// # let (rig, repository) = (Rig::new()?, Rig::repository("1", "acme")?);
/// let secrets: Arc<dyn SecretStore> = Arc::new(Secrets::new(rig.audit.clone(), rig.clock.clone()));
/// let (grant, token) = (rig.grant::<Write>(&Rig::user("ada")?, &repository).await?, SecretName::parse("TOKEN")?);
/// let stored = secrets.put(&grant, &token, SecretValue::new("hunter2")).await?;
/// assert_eq!(stored.masking, Learned::Hidden); // else tell whoever set it
/// assert_eq!(secrets.list(&grant.lower()).await?[0].version, 1); // a name, a version, a time: no value
///
/// let claim = rig.claim(&repository, Origin::Repository, Rig::spec()).await?;
/// let lease = secrets.lease(claim.trusted()?, &[token.clone()]).await?;
/// assert_eq!(lease.value(&token)?.expose(), b"hunter2");
///
/// let fork = rig.claim(&repository, Origin::Fork, Rig::spec()).await?;
/// assert!(fork.trusted().is_err()); // nothing to ask with
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[async_trait]
pub trait SecretStore: fmt::Debug + Send + Sync + 'static {
    /// Opens the named secrets for one job, all or none, each as its [`SecretInfo::admit`] allows. They are released if
    /// and only if the audit log holds the entry that says so.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] when one of them does not exist; [`ErrorKind::Denied`] when the job may not have one of
    /// them, naming it and the rule; [`ErrorKind::Tampered`] when a row is not what was stored;
    /// [`ErrorKind::LimitExceeded`] when together they are more than the store gives to one job;
    /// [`ErrorKind::Fenced`] when the claim is over; [`ErrorKind::Unavailable`] when a key or the audit log cannot be
    /// reached.
    async fn lease(&self, claim: TrustedClaim<'_>, names: &[SecretName]) -> Result<SecretLease>;

    /// Sets a value, in place of an earlier one of that name, whose kind and policy it keeps: [`set`](Self::set) without
    /// anything else.
    ///
    /// # Errors
    ///
    /// As for [`set`](Self::set).
    async fn put(&self, grant: &Grant<Write>, name: &SecretName, value: SecretValue) -> Result<Stored> {
        self.set(grant, name, NewSecret::new(value)).await
    }

    /// Sets a secret, in place of an earlier one of that name, and says whether it can be hidden in output.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when the grant is over; [`ErrorKind::Invalid`] when the value is empty, larger than
    /// 1 MiB, or too large for the forms that it may have, and when its policy is too large;
    /// [`ErrorKind::LimitExceeded`] when the repository has as many secrets as the store keeps for one;
    /// [`ErrorKind::Tampered`] when the earlier one is not what was stored; [`ErrorKind::Unavailable`] when the store or
    /// a key cannot be reached.
    async fn set(&self, grant: &Grant<Write>, name: &SecretName, new: NewSecret) -> Result<Stored>;

    /// The secrets of a repository in the order of their names, without their values.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when the grant is over; [`ErrorKind::Tampered`] when a row is not what was stored;
    /// [`ErrorKind::Unavailable`] when the store or a key cannot be reached.
    async fn list(&self, grant: &Grant<Read>) -> Result<Vec<SecretInfo>>;

    /// Deletes a secret, also one that is not what was stored: this is the way out then.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] when there is none of that name; [`ErrorKind::Denied`] when the grant is over;
    /// [`ErrorKind::Unavailable`] when the store or a key cannot be reached.
    async fn delete(&self, grant: &Grant<Write>, name: &SecretName) -> Result<()>;

    /// A masker that knows no value yet, for one job.
    fn masker(&self) -> Arc<dyn Masker>;
}

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
/// beginning of a secret, so that whoever watches sees the rest at once. Callers have a [`Mask`] around it.
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

/// What masks have hidden and not told.
type Untold = Arc<Mutex<Vec<Leak>>>;

/// The secrets of one job, while it runs.
///
/// It ends with the claim: a worker that lost its lease, or whose job was cancelled, can no longer read a value. Values are wiped when it is
/// dropped. [`SecretStore::lease`] makes it, and the example there shows one; [`Mask`] shows what it hides.
pub struct SecretLease {
    values: BTreeMap<SecretName, SecretValue>,
    unmasked: Vec<Unmasked>,
    masker: Arc<dyn Masker>,
    leaks: Untold,
    tenure: Option<Arc<Tenure>>,
    end: LeaseEnd,
}

impl SecretLease {
    /// A lease of `values`; the masker learns all of them.
    ///
    /// This is for implementors of [`SecretStore`]. A claim that is not trusted enough cannot be passed:
    ///
    /// ```compile_fail
    /// # use ci_core::{queue::Claim, secret::{SecretLease, Masker}};
    /// fn lease(claim: &Claim, masker: std::sync::Arc<dyn Masker>) -> SecretLease {
    ///     SecretLease::new(claim, Vec::new(), masker) // a `Claim` is no `TrustedClaim`
    /// }
    /// ```
    pub fn new(
        claim: TrustedClaim<'_>,
        values: impl IntoIterator<Item = (SecretName, SecretValue)>,
        masker: Arc<dyn Masker>,
    ) -> Self {
        let mut lease = Self::with(masker, Some(claim.tenure()));
        lease.values = values.into_iter().collect();
        for (secret, value) in &lease.values {
            match lease.masker.learn(&Sensitive::Secret(secret.clone()), value) {
                Learned::Hidden => {}
                why => lease.unmasked.push(Unmasked { secret: secret.clone(), why }),
            }
        }
        lease
    }

    /// A lease of secrets under their policies; the masker learns all of them. This is what a store calls that keeps
    /// policies: what it forgot to ask is asked here.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when the job may not have one of them; [`ErrorKind::Fenced`] when the claim is over.
    pub fn under_policies(
        claim: TrustedClaim<'_>,
        secrets: impl IntoIterator<Item = (SecretInfo, SecretValue)>,
        masker: Arc<dyn Masker>,
    ) -> Result<Self> {
        let mut values = Vec::new();
        for (info, value) in secrets {
            info.admit(claim)?;
            values.push((info.name, value));
        }
        claim.claim().fence()?;
        Ok(Self::new(claim, values, masker))
    }

    /// A lease without secrets: for a job that asks for none, or may have none.
    pub fn empty(claim: &Claim, masker: Arc<dyn Masker>) -> Self {
        Self::with(masker, Some(claim.tenure()))
    }

    /// A lease without secrets for a helper sandbox, which belongs to no claim.
    pub fn for_helper(masker: Arc<dyn Masker>) -> Self {
        Self::with(masker, None)
    }

    fn with(masker: Arc<dyn Masker>, tenure: Option<Arc<Tenure>>) -> Self {
        Self {
            values: BTreeMap::new(),
            unmasked: Vec::new(),
            masker,
            leaks: Untold::default(),
            tenure,
            end: LeaseEnd::new(),
        }
    }

    /// The same lease, which also ends with `end`.
    pub fn ending_with(mut self, end: &LeaseEnd) -> Self {
        self.end = end.clone();
        self
    }

    /// The same lease, in which `name` is a credential that was made for the job of `claim`: an identity token, say. It is
    /// hidden, and reported as [`Sensitive::Credential`].
    ///
    /// This is for a [`SecretStore`] around another one, whose jobs ask for the credential as they do for a secret.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when the lease is another job's; [`ErrorKind::Conflict`] when it has a value of that name;
    /// [`ErrorKind::Fenced`] when the claim is over.
    ///
    /// # Example
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
    /// # use ci_core::{id::{SecretName, StepName}, memory::{Rig, Secrets, Tokens}, trust::Origin};
    /// # use ci_core::secret::{SecretStore as _, SecretValue};
    /// use ci_core::identity::{Audience, IssuerUrl, MOST_TTL, TokenIssuer as _};
    ///
    /// # let rig = Rig::new()?;
    /// # let repository = Rig::repository("1", "acme")?;
    /// # let grant = rig.grant::<ci_core::access::Write>(&Rig::user("ada")?, &repository).await?;
    /// # let secrets = Secrets::new(rig.audit.clone(), rig.clock.clone());
    /// # let deploy_key = SecretName::parse("DEPLOY_KEY")?;
    /// # secrets.put(&grant, &deploy_key, SecretValue::new("hunter2")).await?;
    /// # let held = rig.claim(&repository, Origin::Repository, Rig::spec()).await?;
    /// # let claim = held.trusted()?;
    /// # let issuer = Tokens::new(IssuerUrl::parse("https://ci.example.org")?, rig.clock.clone());
    /// // In `lease` of a store around `secrets`, for a job that asks for `DEPLOY_KEY` and for `ID_TOKEN`:
    /// let lease = secrets.lease(claim, &[deploy_key]).await?;
    /// let (name, cloud) = (SecretName::parse("ID_TOKEN")?, Audience::parse("https://cloud.example.org")?);
    /// let token = issuer.token(claim.claim(), &StepName::parse("test")?, &cloud, MOST_TTL).await?;
    /// let lease = lease.with_credential(claim, name.clone(), token)?;
    /// # let printed = String::from_utf8_lossy(lease.value(&name)?.expose()).into_owned();
    /// # assert_eq!(lease.mask_text(&printed), "***");
    /// # Ok::<(), ci_core::Error>(()) })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn with_credential(
        mut self,
        claim: TrustedClaim<'_>,
        name: SecretName,
        value: SecretValue,
    ) -> Result<Self> {
        const ADD: &str = "add a credential to a lease";
        claim.claim().fence()?;
        if !self.is_of(Some(&claim.tenure())) {
            return Err(Error::new(ErrorKind::Denied, ADD).because("it is the lease of another job"));
        }
        if self.values.contains_key(&name) {
            return Err(Error::new(ErrorKind::Conflict, ADD)
                .because("the job has a secret of that name; call the credential otherwise")
                .with("secret", name));
        }
        match self.teach(&value) {
            Learned::Hidden => {}
            why => self.unmasked.push(Unmasked { secret: name.clone(), why }),
        }
        self.values.insert(name, value);
        Ok(self)
    }

    /// A value of this lease, for a backend that injects it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] when the lease has none of that name; [`ErrorKind::Fenced`] when the claim is
    /// over, or the lease was [ended](LeaseEnd) before it; [`ErrorKind::Cancelled`] when somebody has asked for the job
    /// to stop.
    pub fn value(&self, name: &SecretName) -> Result<&SecretValue> {
        if self.end.has_come() {
            return Err(Error::new(ErrorKind::Fenced, "read a leased secret")
                .because("the secrets of the repository were revoked")
                .with("secret", name));
        }
        if let Some(tenure) = &self.tenure {
            tenure.check_wanted("read a leased secret")?;
        }
        self.values.get(name).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "read a leased secret")
                .because("the job did not ask for it")
                .with("secret", name)
        })
    }

    /// Whether it was leased for the job of `tenure`, or for a helper as that is.
    pub(crate) fn is_of(&self, tenure: Option<&Arc<Tenure>>) -> bool {
        match (&self.tenure, tenure) {
            (Some(of), Some(tenure)) => Arc::ptr_eq(of, tenure),
            (None, None) => true,
            _ => false,
        }
    }

    /// Adds a credential that was made after the lease (a checkout token, say) to what is hidden.
    pub fn teach(&self, value: &SecretValue) -> Learned {
        self.masker.learn(&Sensitive::Credential, value)
    }

    /// Hides a decoy as well, and reports it as [`Sensitive::Canary`] where it appears: a value that lies where secrets
    /// lie and is given to no job.
    pub fn watch_for(&self, canary: &SecretName, value: &SecretValue) -> Learned {
        self.masker.learn(&Sensitive::Canary(canary.clone()), value)
    }

    /// The secrets that cannot be hidden, and why; tell their owner.
    pub fn unmasked(&self) -> &[Unmasked] {
        &self.unmasked
    }

    /// A mask for one stream of output.
    pub fn mask(&self) -> Mask {
        let job = self.tenure.as_ref().map(|tenure| tenure.job().clone());
        Mask { redactor: self.masker.redactor(), job, untold: self.leaks.clone() }
    }

    /// A whole text without secrets: an error message, a status description, an annotation, the name of a cache.
    pub fn mask_text(&self, text: &str) -> String {
        let mut mask = self.mask();
        let mut masked = mask.push(text.as_bytes()).bytes.to_vec();
        masked.extend_from_slice(&mask.finish().bytes);
        String::from_utf8_lossy(&masked).into_owned()
    }

    /// What was hidden by [`mask_text`](Self::mask_text), and by masks that ended and had not
    /// [told](Mask::leaks) it, since this was asked last.
    pub fn leaks(&self) -> Vec<Leak> {
        std::mem::take(&mut *self.leaks.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for SecretLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretLease").field("values", &self.values.len()).finish_non_exhaustive()
    }
}

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
        self.untold.lock().unwrap_or_else(PoisonError::into_inner).extend(self.redactor.leaks());
        Masked { bytes: out.into(), job: self.job }
    }

    /// What was hidden since this was asked last. What nobody asks for goes to [`SecretLease::leaks`] at the end.
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

/// Keys for what is stored on behalf of a repository. No key serves two repositories.
///
/// An implementor writes [`data_key`](Self::data_key); sealing and opening are built on it.
///
/// # Cancel safety
///
/// Dropping a future has no effect, except that the first key of a repository may have been made.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use std::sync::Arc;
/// use ci_core::access::Read;
/// use ci_core::id::JobId;
/// use ci_core::memory::{Rig, Ring};
/// use ci_core::secret::{KeyRing, Purpose};
///
/// # let (rig, repository) = (Rig::new()?, Rig::repository("1", "acme")?);
/// let ring: Arc<dyn KeyRing> = Arc::new(Ring::new());
/// let grant = rig.grant::<Read>(&Rig::user("ada")?, &repository).await?;
/// let (first, second) = (Purpose::log(&JobId::random(), 0), Purpose::log(&JobId::random(), 0));
///
/// let sealed = ring.seal(grant.scope()?, &first, b"12 passed").await?;
/// assert_eq!(ring.open(grant.scope()?, &first, &sealed).await?, "12 passed");
/// assert!(ring.open(grant.scope()?, &second, &sealed).await.is_err()); // moved to another job's log
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[async_trait]
pub trait KeyRing: fmt::Debug + Send + Sync + 'static {
    /// Seals `plain` for `scope` and `purpose`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] when the key cannot be had now; [`ErrorKind::Tampered`] when the stored key
    /// is not what was stored.
    async fn seal(&self, scope: Scope<'_>, purpose: &Purpose, plain: &[u8]) -> Result<Bytes> {
        Ok(self.data_key(scope, purpose, None).await?.seal(purpose.context(), plain))
    }

    /// Opens what was sealed for the same scope and purpose.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Tampered`] for anything else; [`ErrorKind::NotFound`] when the key has been destroyed;
    /// [`ErrorKind::Unavailable`] when it cannot be had now.
    async fn open(&self, scope: Scope<'_>, purpose: &Purpose, sealed: &[u8]) -> Result<Bytes> {
        let id = crate::seal::key_id(sealed)?;
        let key = self.data_key(scope, purpose, Some(&id)).await?;
        Ok(Bytes::from(std::mem::take(&mut *key.open(purpose.context(), sealed)?)))
    }

    /// The key for `scope` and the kind of `purpose`: the current one, or the one with `id`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] when there is no key with that id, or it has been destroyed;
    /// [`ErrorKind::Unavailable`] when it cannot be had now; [`ErrorKind::Tampered`] when the stored key is
    /// not what was stored.
    async fn data_key(&self, scope: Scope<'_>, purpose: &Purpose, id: Option<&KeyId>)
    -> Result<Arc<DataKey>>;
}

/// What something is sealed for. Things sealed for different purposes have different keys, and content that is
/// moved to another place within its purpose does not open. The example of [`KeyRing`] moves some.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Purpose {
    kind: &'static str,
    context: Context,
}

impl Purpose {
    /// The ticket of a job. Only a [`Dispatcher`](crate::queue::Dispatcher) seals and opens one: with a key ring alone
    /// nobody makes a job that is trusted more than its code.
    pub(crate) fn ticket(job: &JobId) -> Self {
        Self::of("ticket", &[job.as_str().as_bytes()])
    }

    /// How a job ended. Only its claim seals one.
    pub(crate) fn outcome(job: &JobId) -> Self {
        Self::of("outcome", &[job.as_str().as_bytes()])
    }

    /// One chunk of a job's log.
    pub fn log(job: &JobId, seq: u64) -> Self {
        Self::of("log", &[job.as_str().as_bytes(), &seq.to_be_bytes()])
    }

    /// One artifact of a job.
    pub fn artifact(job: &JobId, name: &ArtifactName) -> Self {
        Self::of("artifact", &[job.as_str().as_bytes(), name.as_str().as_bytes()])
    }

    /// One cache, in the namespace of one trust level.
    pub fn cache(namespace: &str, key: &CacheKey) -> Self {
        Self::of("cache", &[namespace.as_bytes(), key.as_str().as_bytes()])
    }

    fn of(kind: &'static str, fields: &[&[u8]]) -> Self {
        let context = fields.iter().fold(Context::new(kind), Context::field);
        Self { kind, context }
    }

    /// The kind of thing: what a key is for.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// The exact place: what content is bound to.
    pub fn context(&self) -> &Context {
        &self.context
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::FileExt as _;

    use super::*;
    use crate::id::random_bytes;

    /// How often the bytes whose complement is `complement` lie in this process's writable memory. The bytes
    /// themselves are never put together, lest they be found here.
    fn copies_in_memory(complement: &[u8; 32]) -> usize {
        let memory = File::open("/proc/self/mem").expect("our own memory");
        let maps = fs::read_to_string("/proc/self/maps").expect("our own maps");
        let mut copies = 0;
        for line in maps.lines().filter(|line| line.contains(" rw")) {
            let range = line.split(' ').next().and_then(|range| range.split_once('-')).expect("a range");
            let address = |text| u64::from_str_radix(text, 16).expect("an address");
            let (start, end) = (address(range.0), address(range.1));
            let mut page = [0; 4096];
            let mut before = [0; 32];
            for at in (start..end).step_by(page.len()) {
                if memory.read_exact_at(&mut page, at).is_err() {
                    break;
                }
                // In place, so that the copy that was just read does not count.
                for byte in &mut page {
                    *byte = !*byte;
                }
                copies += page.windows(32).filter(|window| *window == complement).count();
                let across = [&before[..], &page[..32]].concat();
                copies += across.windows(32).skip(1).take(31).filter(|window| *window == complement).count();
                before.copy_from_slice(&page[page.len() - 32..]);
            }
        }
        copies
    }

    #[test]
    fn a_value_is_wiped() {
        let mut bytes: Vec<u8> = random_bytes::<32>().to_vec();
        let mut complement = [0; 32];
        for (place, byte) in complement.iter_mut().zip(&bytes) {
            *place = !*byte;
        }
        bytes.shrink_to_fit();
        let value = SecretValue::new(bytes);
        let alive = copies_in_memory(&complement);
        assert!(alive > 0, "the search finds a value that is there");
        drop(value);
        assert!(copies_in_memory(&complement) < alive, "the value's memory still holds it");
    }

    #[test]
    fn nothing_shows_a_value() {
        let value = SecretValue::new("hunter2hunter2");
        assert_eq!(format!("{value:?}"), "SecretValue(..)");
    }
}
