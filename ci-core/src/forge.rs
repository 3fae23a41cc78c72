//! What the SDK asks of a forge, in small ports: who somebody is ([`SignIn`]), what happened ([`Hooks`]), how a
//! job went ([`Checks`]), and the code itself ([`Source`]). What somebody may do is
//! [`PermissionSource`](crate::access::PermissionSource).
//!
//! An implementor writes the ports that their forge has. An integrator calls what is built on them:
//! [`Authority::sign_in`](crate::access::Authority::sign_in), [`Inbox`], [`resolve`] and [`read()`]; the
//! [`Runner`](crate::runner::Runner) reports to [`Checks`] and checks the code out.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::access::Scope;
use crate::clock::{Clock, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::external::External;
use crate::id::{CommitId, Digest, ForgeId, NativeId, RepositoryId, TenantId, UserId};
use crate::operator::Act;
use crate::queue::Claim;
use crate::records::{Batch, Condition, Key, Records};
use crate::sandbox::{Sandbox, Sandboxes};
use crate::trust::{Origin, Provenance};
use crate::units::ByteSize;

/// Finds out who somebody is. [`Authority::sign_in`](crate::access::Authority::sign_in) makes the session.
///
/// An implementor answers with the id that the forge never gives to anybody else: a login name that can be renamed
/// and taken by the next person is none. What was answered once is not believed again where the forge can tell.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use ci_core::forge::SignIn;
/// use ci_core::memory::{People, Rig};
///
/// let (people, ada) = (People::new(), Rig::user("ada")?);
/// people.add(&ada, &"a token of ada's".into())?;
///
/// let challenge = people.begin().await?;
/// assert_eq!(people.complete(&challenge, "a token of ada's".into()).await?, ada);
/// assert!(people.complete(&challenge, "a guess".into()).await.is_err());
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[async_trait]
pub trait SignIn: fmt::Debug + Send + Sync + 'static {
    /// What the person has to answer.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] when the forge cannot be asked.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves nothing that would have to be answered.
    async fn begin(&self) -> Result<Challenge>;

    /// Who answered `challenge` with `answer`. Returns a person if and only if the forge says that it is them.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when the answer is wrong or late; [`ErrorKind::Unavailable`] when the forge cannot be
    /// asked.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, an answer that counts once may be used up: [`begin`](Self::begin) again.
    async fn complete(&self, challenge: &Challenge, answer: SecretString) -> Result<UserId>;
}

/// What somebody who signs in has to answer.
#[derive(Debug)]
#[non_exhaustive]
pub enum Challenge {
    /// A credential of their own, a token for instance.
    Credential,
    /// The code that the forge sends back after the person has agreed there (RFC 6749, section 4.1).
    Redirect {
        /// Where to send the person's browser.
        url: String,
        /// What must come back with the code, bound to the person's browser and used once.
        state: SecretString,
    },
}

/// Recognises webhook deliveries of one forge.
///
/// An implementor verifies bytes and reads them; [`Inbox`] makes sure that nothing is read before it is
/// verified, that nothing is received twice, and that a hook speaks for nothing but what it was registered for.
///
/// # Example
///
/// What [`Inbox`] asks of the forge in memory:
///
/// ```
/// use ci_core::clock::Timestamp;
/// use ci_core::forge::{EventKind, HookScope, Hooks};
/// use ci_core::memory::{Forge, Rig};
///
/// let (forge, secret) = (Forge::new(), "webhook secret".into());
/// let ours = HookScope::Repository(Rig::repository("1", "acme")?);
/// forge.add_hook(ours.clone(), &secret)?;
///
/// let body = r#"{"repository": {"tenant": "acme", "forge": "memory", "native": "1"}, "kind": "push"}"#;
/// let raw = Forge::signed(&secret, body)?;
/// assert_eq!(forge.authenticate(&raw, Timestamp::default())?, ours);
/// assert_eq!(forge.parse(&raw)?.kind, EventKind::Push);
///
/// let forged = Forge::signed(&"a guess".into(), body)?;
/// assert!(forge.authenticate(&forged, Timestamp::default()).is_err());
/// # Ok::<(), ci_core::Error>(())
/// ```
pub trait Hooks: fmt::Debug + Send + Sync + 'static {
    /// For whom the sender of `raw` may speak. Returns a scope if and only if the sender has proven that they hold
    /// the secret of a hook that was registered for it. It must look at nothing in the body but its bytes, compare
    /// in constant time, and take an empty or missing secret for no proof. `now` is there for forges that sign the
    /// time.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when the signature is missing or wrong, or the delivery is too old.
    fn authenticate(&self, raw: &RawDelivery, now: Timestamp) -> Result<HookScope>;

    /// What the delivery says. It is called only for authenticated ones; its content is hostile all the same:
    /// titles, names of branches and authors are chosen by whoever pushed.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when the body is not what this forge sends.
    fn parse(&self, raw: &RawDelivery) -> Result<Occurrence>;
}

/// For whom a webhook speaks: what it was registered for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum HookScope {
    /// One repository.
    Repository(RepositoryId),
    /// All repositories of one organisation, group or installation of an app.
    Owner(ForgeId, NativeId),
    /// All repositories of a forge.
    Forge(ForgeId),
}

impl HookScope {
    /// Deliveries of two hooks are two deliveries, whatever is in them.
    fn mark(&self) -> Digest {
        Digest::of(&serde_json::to_vec(self).unwrap_or_default())
    }

    fn covers(&self, occurrence: &Occurrence) -> bool {
        match self {
            Self::Repository(repository) => *repository == occurrence.repository,
            Self::Owner(forge, owner) => {
                forge == occurrence.repository.forge() && Some(owner) == occurrence.owner.as_ref()
            }
            Self::Forge(forge) => forge == occurrence.repository.forge(),
        }
    }
}

/// A webhook delivery as it arrived: nobody knows yet who sent it.
///
/// # Example
///
/// ```
/// use ci_core::forge::RawDelivery;
///
/// let headers = [("X-Signature", "sha256=5e1c"), ("X-Id", "1"), ("x-id", "2")];
/// let raw = RawDelivery::new(headers, "{}".into())?;
/// assert_eq!(raw.header("x-signature"), Some(&b"sha256=5e1c"[..]));
/// assert_eq!(raw.header("x-id"), None, "it was sent twice");
/// # Ok::<(), ci_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct RawDelivery {
    headers: Vec<(String, Bytes)>,
    body: Bytes,
}

impl RawDelivery {
    /// How many bytes a body may have: what the large forges send at most.
    pub const MOST: usize = 25 * 1024 * 1024;

    /// Takes the headers and the raw body of a request.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::LimitExceeded`] for a body of more than [`MOST`](Self::MOST) bytes.
    pub fn new<N: AsRef<str>, V: Into<Bytes>>(
        headers: impl IntoIterator<Item = (N, V)>,
        body: Bytes,
    ) -> Result<Self> {
        if body.len() > Self::MOST {
            return Err(Error::new(ErrorKind::LimitExceeded, "receive a webhook").with("bytes", body.len()));
        }
        let lower = |(name, value): (N, V)| (name.as_ref().to_ascii_lowercase(), value.into());
        Ok(Self { headers: headers.into_iter().map(lower).collect(), body })
    }

    /// The value of a header, if it was sent exactly once: two values are as good as none.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        let mut values = self.headers.iter().filter(|(given, _)| given.eq_ignore_ascii_case(name));
        let first = values.next()?;
        values.next().is_none().then_some(&first.1)
    }

    /// The raw body.
    pub fn body(&self) -> &Bytes {
        &self.body
    }
}

/// What a delivery says, as a [`Hooks`] read it. It is a claim: [`VerifiedDelivery::parse`] makes an [`Event`] of it.
///
/// # Example
///
/// ```
/// use ci_core::External;
/// use ci_core::forge::{EventKind, Occurrence, Revision};
/// use ci_core::id::CommitId;
/// use ci_core::memory::Rig;
/// use ci_core::trust::Origin;
///
/// let commit = CommitId::parse("a".repeat(40))?;
/// let main = Revision::new(commit, Origin::Protected).with_reference(External::new("refs/heads/main"));
/// let pushed = Occurrence::new(Rig::repository("1", "acme")?, EventKind::Push).with_revision(main);
/// assert_eq!(pushed.kind, EventKind::Push);
/// # Ok::<(), ci_core::Error>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Occurrence {
    /// Which repository it is about.
    pub repository: RepositoryId,
    /// The organisation, group or installation that the repository belongs to, as the body says.
    pub owner: Option<NativeId>,
    /// Who caused it.
    pub actor: Option<Actor>,
    /// What happened.
    pub kind: EventKind,
    /// The code it is about.
    pub revision: Option<Revision>,
}

impl Occurrence {
    /// Something of `kind` happened to `repository`.
    pub fn new(repository: RepositoryId, kind: EventKind) -> Self {
        Self { repository, owner: None, actor: None, kind, revision: None }
    }

    /// Says which organisation, group or installation the repository belongs to.
    pub fn with_owner(mut self, owner: NativeId) -> Self {
        self.owner = Some(owner);
        self
    }

    /// Says who caused it.
    pub fn with_actor(mut self, actor: Actor) -> Self {
        self.actor = Some(actor);
        self
    }

    /// Says which code it is about.
    pub fn with_revision(mut self, revision: Revision) -> Self {
        self.revision = Some(revision);
        self
    }
}

/// Receives webhook deliveries: verified before they are read, and each of them at most once. A delivery that was
/// received and then lost, because the program ended before it made a job of it, is refused when the forge sends it
/// again: ask for the branch's newest commit at the next start.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use ci_core::ErrorKind;
/// use ci_core::forge::{EventKind, HookScope, Inbox};
/// use ci_core::memory::{Forge, Rig};
/// use ci_core::queue::NewJob;
/// use ci_core::trust::Trust;
///
/// let (rig, secret) = (Rig::new()?, "webhook secret".into());
/// rig.forge.add_hook(HookScope::Repository(Rig::repository("1", "acme")?), &secret)?;
/// let inbox = Inbox::new(rig.forge.clone(), rig.records(), rig.clock.clone());
///
/// let body = r#"{
///     "repository": { "tenant": "acme", "forge": "memory", "native": "1" }, "kind": "push",
///     "revision": { "commit": "0123456789abcdef0123456789abcdef01234567", "origin": "Repository" }
/// }"#;
/// let event = inbox.receive(Forge::signed(&secret, body)?).await?.parse()?;
/// if let (EventKind::Push, Some(code)) = (event.kind(), event.code()) {
///     assert_eq!(code.trust(), Trust::Trusted);
///     rig.dispatcher.enqueue(&NewJob::from_event(&event, Rig::spec())?).await?;
/// }
///
/// let replayed = inbox.receive(Forge::signed(&secret, body)?).await.unwrap_err();
/// assert_eq!(replayed.kind(), ErrorKind::Conflict);
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Inbox {
    hooks: Arc<dyn Hooks>,
    records: Arc<dyn Records>,
    clock: Arc<dyn Clock>,
}

impl Inbox {
    /// An inbox for the deliveries that `hooks` recognises; it remembers in `records` which it has seen.
    pub fn new(hooks: Arc<dyn Hooks>, records: Arc<dyn Records>, clock: Arc<dyn Clock>) -> Self {
        Self { hooks, records, clock }
    }

    /// Verifies a delivery.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when its sender cannot be believed; [`ErrorKind::Conflict`] when a delivery with the
    /// same content was received before; [`ErrorKind::Unavailable`] when the records cannot be reached: ask the
    /// forge to send it again.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, the delivery may count as received: do not drop it with the connection that the
    /// delivery came by.
    pub async fn receive(&self, raw: RawDelivery) -> Result<VerifiedDelivery> {
        let now = self.clock.now();
        let scope = self.hooks.authenticate(&raw, now)?;
        // The delivery's id is a header that most forges do not sign; its content is what cannot be changed.
        let key = Self::seen().part(scope.mark().as_str()).part(Digest::of(&raw.body).as_str());
        let batch =
            Batch::new().require(Condition::Absent(key.clone())).put(key, now.unix_millis().to_string());
        match self.records.commit(batch).await {
            Ok(_) => Ok(VerifiedDelivery { raw, scope, hooks: self.hooks.clone() }),
            Err(error) if error.kind() == ErrorKind::Conflict => {
                Err(Error::new(ErrorKind::Conflict, "receive a webhook").because("it was received before"))
            }
            Err(error) => Err(error),
        }
    }

    /// Forgets which deliveries were seen longer than `age` ago, and returns how many those were. A delivery
    /// could be replayed after that, unless its forge signs the time.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, some may be forgotten; calling again goes on.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when the act is not for [the service](TenantId::service): deliveries are of all tenants;
    /// [`ErrorKind::Unavailable`] when the records cannot be reached.
    pub async fn forget(&self, act: &Act<'_>, age: Duration) -> Result<usize> {
        const PAGE: usize = 500;
        act.covers(&TenantId::service())?;
        let (now, mut after, mut forgotten) = (self.clock.now(), None, 0);
        loop {
            let page = self.records.list(&Self::seen(), after.as_ref(), PAGE).await?;
            let Some(last) = page.last() else { return Ok(forgotten) };
            after = Some(last.key.clone());
            let seen_at = |value: &[u8]| std::str::from_utf8(value).ok()?.parse().ok();
            let is_old = |value: &[u8]| {
                let at = Timestamp::from_unix_millis(seen_at(value).unwrap_or_default());
                at.until(now).is_some_and(|since| since > age)
            };
            let old: Vec<Key> = page.into_iter().filter(|r| is_old(&r.value)).map(|r| r.key).collect();
            forgotten += old.len();
            self.records.commit(old.into_iter().fold(Batch::new(), Batch::delete)).await?;
        }
    }

    fn seen() -> Key {
        Key::new("inbox")
    }
}

/// A delivery whose sender has been verified, and which nobody has read yet. [`Inbox::receive`] makes it.
#[derive(Debug)]
pub struct VerifiedDelivery {
    raw: RawDelivery,
    scope: HookScope,
    hooks: Arc<dyn Hooks>,
}

impl VerifiedDelivery {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when the body is not what the forge sends; [`ErrorKind::Denied`] when it speaks
    /// about a repository that its hook was not registered for.
    pub fn parse(self) -> Result<Event> {
        let occurrence = self.hooks.parse(&self.raw)?;
        if !self.scope.covers(&occurrence) {
            return Err(Error::new(ErrorKind::Denied, "read a webhook")
                .because("it speaks about a repository that the hook was not registered for"));
        }
        let Occurrence { repository, owner: _, actor, kind, revision } = occurrence;
        let code = revision.map(|revision| Provenance::new(repository.clone(), revision));
        Ok(Event { repository, actor, kind, code })
    }
}

/// Something that happened at the forge, for sure: a [`NewJob`](crate::queue::NewJob) may be made from it. See
/// [`Inbox`] for an example.
#[derive(Clone, Debug)]
pub struct Event {
    repository: RepositoryId,
    actor: Option<Actor>,
    kind: EventKind,
    code: Option<Provenance>,
}

impl Event {
    /// Which repository it is about.
    pub fn repository(&self) -> &RepositoryId {
        &self.repository
    }

    /// Who caused it.
    pub fn actor(&self) -> Option<&Actor> {
        self.actor.as_ref()
    }

    /// What happened.
    pub fn kind(&self) -> &EventKind {
        &self.kind
    }

    /// The code it is about.
    pub fn code(&self) -> Option<&Provenance> {
        self.code.as_ref()
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventKind {
    /// A branch or tag moved.
    Push,
    /// A pull request was opened or changed.
    PullRequest {
        /// Its number.
        number: u64,
        /// Who opened it.
        author: PullRequestAuthor,
    },
    /// Somebody's permission changed, or everybody's.
    PermissionsChanged(Option<UserId>),
    /// The repository was deleted or disconnected.
    Gone,
    /// Something that the SDK has no use for.
    Other,
}

/// Who caused an event. It need not be who wrote the code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor(pub UserId);

/// Who opened a pull request. It need not be who pushed to it last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullRequestAuthor(pub UserId);

/// Who a commit says wrote it. Anybody can write anything there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitAuthor {
    /// The name.
    pub name: External,
    /// The address.
    pub email: External,
}

/// Tells the forge how a job goes.
///
/// An implementor reports for the claim's exact commit and repository, and repeats nothing of `description` as
/// markup: whoever wrote the job can have a say in it.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use std::time::Duration;
/// use ci_core::ErrorKind;
/// use ci_core::forge::{CheckState, Checks};
/// use ci_core::memory::Rig;
/// use ci_core::trust::Origin;
///
/// let rig = Rig::new()?;
/// let claim = rig.claim(&Rig::repository("1", "acme")?, Origin::Repository, Rig::spec()).await?;
/// rig.forge.report(&claim, CheckState::Running, "step 1 of 3").await?;
/// assert_eq!(rig.forge.reports()[0].state, CheckState::Running);
///
/// rig.clock.advance(Duration::from_mins(5)); // another worker may have the job by now
/// let late = rig.forge.report(&claim, CheckState::Succeeded, "all steps").await.unwrap_err();
/// assert_eq!(late.kind(), ErrorKind::Fenced);
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[async_trait]
pub trait Checks: fmt::Debug + Send + Sync + 'static {
    /// Reports the state of the claim's commit. The same state may be reported again.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Fenced`] when the claim is over; [`ErrorKind::Unavailable`] when the forge cannot be reached.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, the forge may or may not show the state; the next report replaces it.
    async fn report(&self, claim: &Claim, state: CheckState, description: &str) -> Result<()>;
}

/// How a job goes, as forges show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CheckState {
    /// It runs.
    Running,
    /// It succeeded.
    Succeeded,
    /// It failed.
    Failed,
    /// It could not be run, or was stopped.
    Errored,
}

/// Gets code from a forge.
///
/// The forge's content is hostile: an implementor looks at it only inside of a helper sandbox, on the operator's
/// image, where neither host nor job nor key can be reached.
///
/// An integrator calls [`resolve`] and [`read()`], and the [`Runner`](crate::runner::Runner) calls
/// [`checkout`](Self::checkout). The kit in `ci-scm`'s feature `conformance` tells an implementor whether their
/// source keeps this contract.
///
/// # Example
///
/// From a branch to a job, with a look at the pipeline file between:
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use ci_core::access::Write;
/// use ci_core::forge::{self, Revision, RevisionName, Source, SourcePath};
/// use ci_core::id::{CommitId, ImageName, StepName};
/// use ci_core::job::{JobSpec, Script, Step};
/// use ci_core::memory::Rig;
/// use ci_core::queue::NewJob;
/// use ci_core::trust::Origin;
/// use ci_core::{ByteSize, External};
///
/// # let (rig, repository) = (Rig::new()?, Rig::repository("1", "acme")?);
/// # let commit = CommitId::parse("a".repeat(40))?;
/// # let main = Revision::new(commit, Origin::Repository).with_reference(External::new("main"));
/// # rig.forge.add_commit(&repository, main, [(".ci.yml", "cargo test")])?;
/// # let grant = rig.grant::<Write>(&Rig::user("ada")?, &repository).await?;
/// let source: &dyn Source = &*rig.forge;
/// let (name, path) = (RevisionName::parse("main")?, SourcePath::parse(".ci.yml")?);
///
/// let code = forge::resolve(source, grant.scope()?, &rig.sandboxes, &name).await?;
/// let most = ByteSize::kib(64);
/// let pipeline = forge::read(source, grant.scope()?, &rig.sandboxes, &code, &path, most).await?;
///
/// // A product's own syntax: here, the file is the script.
/// let script = Script::authored(String::from_utf8_lossy(&pipeline).into_owned());
/// let step = Step::script(StepName::parse("the only step")?, script);
/// let spec = JobSpec::new(ImageName::parse("host")?).with_step(step);
/// rig.dispatcher.enqueue(&NewJob::requested(&grant, code, spec)?).await?;
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[async_trait]
pub trait Source: fmt::Debug + Send + Sync + 'static {
    /// The exact commit that `name` means now, and where it was found. [`resolve`] makes a provenance of it.
    ///
    /// [`Origin::Protected`] or [`Origin::Repository`] may be answered if and only if the commit lies on a branch or
    /// tag of the scope's own repository, as the forge says; what is not known is [`Origin::Fork`]. A shortened
    /// commit is not found: somebody could push another that begins alike.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] when there is no such repository, branch, tag or commit;
    /// [`ErrorKind::Unavailable`] when the forge cannot be reached.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves nothing: a helper is abandoned.
    async fn resolve(&self, scope: Scope<'_>, helpers: &Sandboxes, name: &RevisionName) -> Result<Revision>;

    /// Puts the files of the claim's exact commit into [`SandboxPath::work`](crate::sandbox::SandboxPath::work)
    /// of the job's sandbox.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] when the commit is gone; [`ErrorKind::Fenced`] when the claim is over;
    /// [`ErrorKind::Unsupported`] when the job asks for what the source cannot bring, submodules for instance;
    /// [`ErrorKind::Invalid`] when the commit is malformed; [`ErrorKind::LimitExceeded`] when the files do not fit;
    /// [`ErrorKind::Unavailable`] when the forge cannot be reached.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, a part of the files may lie in `into`; a helper is abandoned.
    async fn checkout(&self, claim: &Claim, helpers: &Sandboxes, into: &Sandbox) -> Result<()>;

    /// The content of one file of one exact commit: the pipeline file, before there is a job. [`read()`] makes sure
    /// that the commit is of the scope's repository.
    ///
    /// It returns what was committed at `path`, if and only if a regular file was. A symbolic link is never
    /// followed, wherever in the path it stands: whoever wrote the commit chose where it leads.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] when there is no such repository, commit or file; [`ErrorKind::Invalid`] when there
    /// is a folder, a symbolic link or a submodule at `path`, or the commit is malformed;
    /// [`ErrorKind::LimitExceeded`] when the file has more than `limit` bytes, which are then not kept in memory;
    /// [`ErrorKind::Unavailable`] when the forge cannot be reached.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves nothing: a helper is abandoned.
    async fn read(
        &self,
        scope: Scope<'_>,
        helpers: &Sandboxes,
        commit: &CommitId,
        path: &SourcePath,
        limit: ByteSize,
    ) -> Result<Bytes>;
}

/// What a [`Source`] found, or a webhook speaks of. It is a fact of the forge; [`resolve`] and
/// [`VerifiedDelivery::parse`] make a [`Provenance`] of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Revision {
    /// The exact commit.
    pub commit: CommitId,
    /// Where it was found.
    pub origin: Origin,
    /// The branch or tag it was found by.
    pub reference: Option<External>,
}

impl Revision {
    /// The commit `commit`, found in `origin`.
    pub fn new(commit: CommitId, origin: Origin) -> Self {
        Self { commit, origin, reference: None }
    }

    /// Says by which branch or tag it was found.
    pub fn with_reference(mut self, reference: External) -> Self {
        self.reference = Some(reference);
        self
    }
}

/// Which exact code `name` means now in the repository of `scope`, and where it comes from.
///
/// # Errors
///
/// As for [`Source::resolve`].
///
/// # Cancel safety
///
/// As for [`Source::resolve`].
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use ci_core::access::Read;
/// use ci_core::forge::{self, Revision, RevisionName};
/// use ci_core::id::CommitId;
/// use ci_core::memory::Rig;
/// use ci_core::trust::{Origin, Trust};
/// use ci_core::{ErrorKind, External};
///
/// let (rig, repository) = (Rig::new()?, Rig::repository("1", "acme")?);
/// let commit = CommitId::parse("a".repeat(40))?;
/// let main = Revision::new(commit.clone(), Origin::Protected).with_reference(External::new("main"));
/// rig.forge.add_commit(&repository, main, [("README", "hello")])?;
///
/// let grant = rig.grant::<Read>(&Rig::user("ada")?, &repository).await?;
/// let main = RevisionName::parse("main")?;
/// let code = forge::resolve(&*rig.forge, grant.scope()?, &rig.sandboxes, &main).await?;
/// assert_eq!((code.commit(), code.trust()), (&commit, Trust::Protected));
///
/// let gone = RevisionName::parse("no-such-branch")?;
/// let error = forge::resolve(&*rig.forge, grant.scope()?, &rig.sandboxes, &gone).await.unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::NotFound);
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub async fn resolve(
    source: &dyn Source,
    scope: Scope<'_>,
    helpers: &Sandboxes,
    name: &RevisionName,
) -> Result<Provenance> {
    let repository = scope.repository().clone();
    let revision = source.resolve(scope, helpers, name).await?;
    Ok(Provenance::new(repository, revision))
}

/// The content of the file at `path` in exactly `code`, of at most `limit` bytes: the pipeline file, for instance,
/// before there is a job.
///
/// It may be hostile, whoever asks for it: whoever wrote the commit wrote it, and
/// [`code.trust()`](Provenance::trust) says who that can be.
///
/// # Errors
///
/// [`ErrorKind::Denied`] when `code` is of another repository than `scope`; otherwise as for [`Source::read`].
///
/// # Cancel safety
///
/// As for [`Source::read`].
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use ci_core::access::Read;
/// use ci_core::forge::{self, Revision, RevisionName, SourcePath};
/// use ci_core::id::CommitId;
/// use ci_core::memory::Rig;
/// use ci_core::trust::Origin;
/// use ci_core::{ByteSize, ErrorKind, External};
///
/// # let (rig, repository) = (Rig::new()?, Rig::repository("1", "acme")?);
/// # let commit = CommitId::parse("a".repeat(40))?;
/// # let main = Revision::new(commit, Origin::Repository).with_reference(External::new("main"));
/// # rig.forge.add_commit(&repository, main, [(".ci.yml", "test: cargo test")])?;
/// # let grant = rig.grant::<Read>(&Rig::user("ada")?, &repository).await?;
/// # let (source, sandboxes) = (rig.forge.clone(), rig.sandboxes.clone());
/// let name = RevisionName::parse("main")?;
/// let code = forge::resolve(&*source, grant.scope()?, &sandboxes, &name).await?;
///
/// let (path, most) = (SourcePath::parse(".ci.yml")?, ByteSize::kib(64));
/// let pipeline = forge::read(&*source, grant.scope()?, &sandboxes, &code, &path, most).await?;
/// assert_eq!(pipeline, "test: cargo test");
///
/// let most = ByteSize::bytes(3);
/// let error = forge::read(&*source, grant.scope()?, &sandboxes, &code, &path, most).await.unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::LimitExceeded);
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub async fn read(
    source: &dyn Source,
    scope: Scope<'_>,
    helpers: &Sandboxes,
    code: &Provenance,
    path: &SourcePath,
    limit: ByteSize,
) -> Result<Bytes> {
    if code.repository() != scope.repository() {
        return Err(Error::new(ErrorKind::Denied, "read a file of a commit")
            .because(
                "the commit is of another repository than the permission; ask for one for its repository",
            )
            .with("repository", scope.repository()));
    }
    source.read(scope, helpers, code.commit(), path, limit).await
}

/// A branch, a tag, `HEAD` or a commit, as a person named it: a plain name, never an expression, a pattern or an
/// option.
///
/// # Example
///
/// ```
/// use ci_core::forge::RevisionName;
///
/// for name in ["main", "feature/login", "refs/tags/v1", "HEAD"] {
///     assert_eq!(RevisionName::parse(name)?.as_str(), name);
/// }
/// for name in ["--upload-pack=id", "main~1", "main..evil", "@{u}", "release/*"] {
///     assert!(RevisionName::parse(name).is_err());
/// }
/// # Ok::<(), ci_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RevisionName(String);

impl RevisionName {
    /// Checks and takes a name by git's rules for references (git-check-ref-format(1)).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for a name that no reference can have, and for any that a program could take for
    /// an option.
    pub fn parse(text: &str) -> Result<Self> {
        let is_part =
            |part: &str| !part.is_empty() && !part.starts_with('.') && part.strip_suffix(".lock").is_none();
        let is_bad = |c: char| c.is_control() || " ~^:?*[\\".contains(c);
        let good = (1..=255).contains(&text.len())
            && text.split('/').all(is_part)
            && !text.starts_with('-')
            && !text.ends_with('.')
            && text != "@"
            && !text.contains("..")
            && !text.contains("@{")
            && !text.contains(is_bad);
        if good {
            return Ok(Self(text.to_owned()));
        }
        Err(Error::new(ErrorKind::Invalid, "parse a branch, tag or commit")
            .because("git allows no such name")
            .with("given", format_args!("{:?}", crate::external::shortened(text))))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A file in the code: its path from the root of the repository.
///
/// It has no part that git refuses in a tree: none that is empty, `.`, `..` or, in any case of its letters, `.git`
/// (git-fsck(1): `emptyName`, `hasDot`, `hasDotdot`, `hasDotgit`). No program takes it for an option. It is not
/// escaped for anything else: a forge's implementor who puts it into a URL encodes it, and it is compared byte for
/// byte, never as a pattern.
///
/// # Example
///
/// ```
/// use ci_core::forge::SourcePath;
///
/// let path = SourcePath::parse("ci/pipeline.yml")?;
/// assert_eq!(path.parts().collect::<Vec<_>>(), ["ci", "pipeline.yml"]);
/// assert!(SourcePath::parse("../other/secret").is_err());
/// assert!(SourcePath::parse(".git/config").is_err());
/// # Ok::<(), ci_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourcePath(String);

impl SourcePath {
    /// How many bytes a path may have.
    pub const MOST: usize = 1_024;

    /// Checks and takes a path.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for a path that is absolute, ends in `/`, has a part that git refuses, holds a control
    /// character, starts with `-`, or is longer than [`MOST`](Self::MOST).
    pub fn parse(text: &str) -> Result<Self> {
        let is_part = |part: &str| !matches!(part, "" | "." | "..") && !part.eq_ignore_ascii_case(".git");
        let good = text.len() <= Self::MOST
            && text.split('/').all(is_part)
            && !text.starts_with('-')
            && !text.contains(char::is_control);
        if good {
            return Ok(Self(text.to_owned()));
        }
        Err(Error::new(ErrorKind::Invalid, "parse the path of a file in a repository")
            .because(
                "it must be relative and at most 1024 bytes long, without empty, ., .. and .git parts, without \
                 control characters and without a leading -",
            )
            .with("given", format_args!("{:?}", crate::external::shortened(text))))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The names of the folders that lead to the file, and its own.
    pub fn parts(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_path_stays_in_the_repository_and_is_never_an_option() {
        let too_long = "a".repeat(SourcePath::MOST + 1);
        let bad = [
            "",
            "/",
            "/a",
            "a/",
            "a//b",
            ".",
            "..",
            "../a",
            "a/../b",
            "a/..",
            "./a",
            "a/.",
            ".git",
            ".git/config",
            "a/.GIT/x",
            "sub/.Git",
            "-",
            "-x",
            "--output=x",
            "a\nb",
            "a\0",
            "\u{1b}[2J",
            "a\u{85}b",
            &too_long,
        ];
        for text in bad {
            assert_eq!(SourcePath::parse(text).expect_err(text).kind(), ErrorKind::Invalid, "{text:?}");
        }
        for text in
            [".ci.yml", "ci/-x", ".github/a", ".gitignore", "a b", "*", ":(top)a", "ä", "...", &too_long[1..]]
        {
            assert_eq!(SourcePath::parse(text).expect("a path").as_str(), text);
        }
    }

    #[test]
    fn a_refused_path_is_shown_harmless_and_short() {
        let error = SourcePath::parse(&format!("/\u{1b}[2J{}", "x".repeat(9_000))).expect_err("absolute");
        assert!(!error.to_string().contains('\u{1b}') && error.to_string().len() < 400, "{error}");
    }

    proptest! {
        #[test]
        fn no_path_leads_out(text in "(/|-|)([a.]{0,3}/|\\.git/|[^/]{0,4}/){0,4}(.{0,5}|\\.\\.|\\.git)") {
            if let Ok(path) = SourcePath::parse(&text) {
                prop_assert!(!path.as_str().starts_with(['/', '-']));
                prop_assert!(!path.as_str().contains(|c: char| c.is_control()));
                prop_assert!(path.parts().all(|part| !["", ".", "..", ".git"].contains(&part)));
            }
        }
    }

    #[test]
    fn a_revision_is_never_an_option_or_an_expression() {
        let bad = [
            "",
            "-x",
            "--upload-pack=id",
            "a..b",
            "a b",
            "HEAD~1",
            "HEAD^",
            "a:b",
            "@{u}",
            "@",
            "a//b",
            "/a",
            "a/",
            ".a",
            "a/.b",
            "a.lock",
            "a.",
            "a\n",
            "a*",
            "refs/heads/[",
            "a\\b",
            "a\u{0}",
        ];
        for text in bad {
            assert!(RevisionName::parse(text).is_err(), "{text:?}");
        }
        for text in ["main", "HEAD", "v1.2", "feature/x-1", "refs/heads/main", "0123abc"] {
            assert!(RevisionName::parse(text).is_ok(), "{text:?}");
        }
    }

    #[test]
    fn a_header_that_was_sent_twice_is_none() {
        let headers = [("X-Sig", "a"), ("x-sig", "b"), ("X-One", "1")];
        let raw = RawDelivery::new(headers, Bytes::new()).expect("small");
        assert_eq!(raw.header("x-sig"), None);
        assert_eq!(raw.header("x-one"), Some(&b"1"[..]));
    }
}
