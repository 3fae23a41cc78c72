//! Deliveries are verified before they are read, and done with once.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{Actor, EventKind, HookScope, Hooks, Occurrence, RawDelivery, RevisionName, Source, SourcePath};
use crate::access::Scope;
use crate::clock::{Clock, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Digest, JobId, RepositoryId, TenantId};
use crate::operator::Act;
use crate::records::{Batch, Key, Records};
use crate::sandbox::Sandboxes;
use crate::trust::Provenance;
use crate::units::ByteSize;

/// Receives webhook deliveries: verified before they are read, and refused once they are [`done`](Self::done).
///
/// Until then a delivery may be received again, so that one whose program ended, or whose forge or queue could not be
/// reached, is not lost when it is sent again. It makes no second job: the jobs of an event have ids of its own.
///
/// What to answer a forge: 200 for a delivery that is done, and for [`ErrorKind::Conflict`], which was done before; 403
/// for [`ErrorKind::Denied`]; 400 for [`ErrorKind::Invalid`]; 503 for everything else, so that it is sent again.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use ci_core::{ByteSize, ErrorKind};
/// use ci_core::forge::{EventKind, HookScope, Inbox, SourcePath};
/// # use ci_core::forge::Revision;
/// # use ci_core::trust::Origin;
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
///     # rig.forge.add_commit(event.repository(), Revision::new(code.commit().clone(), Origin::Repository), [(".ci.yml", "test: true")])?;
///     let (path, most) = (SourcePath::parse(".ci.yml")?, ByteSize::kib(64));
///     let pipeline = event.read(&*rig.forge, &rig.sandboxes, code, &path, most).await?;
///     # assert_eq!(pipeline, "test: true");
///     let spec = Rig::spec(); // what the product makes of `pipeline`
///     rig.dispatcher.enqueue(&NewJob::from_event(&event, code.clone(), "test", spec)?).await?;
/// }
/// inbox.done(&event).await?;
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
    /// same content was done before; [`ErrorKind::Unavailable`] when the records cannot be reached: ask the forge to
    /// send it again.
    pub async fn receive(&self, raw: RawDelivery) -> Result<VerifiedDelivery> {
        let scope = self.hooks.authenticate(&raw, self.clock.now())?;
        // The delivery's id is a header that most forges do not sign; its content is what cannot be changed.
        let mark = Self::seen().part(scope.mark().as_str()).part(Digest::of(raw.body()).as_str());
        if self.records.get(&mark).await?.is_some() {
            return Err(Error::new(ErrorKind::Conflict, "receive a webhook")
                .because("it was received before; there is nothing to do"));
        }
        Ok(VerifiedDelivery { raw, scope, mark, hooks: self.hooks.clone() })
    }

    /// Has the delivery of `event` refused from now on: what was to be made of it is made, its jobs are enqueued.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] when the records cannot be reached: call again, or have the forge send it again.
    pub async fn done(&self, event: &Event) -> Result<()> {
        let now = self.clock.now().unix_millis().to_string();
        self.records.commit(Batch::new().put(event.mark.clone(), now)).await.map(drop)
    }

    /// Forgets which deliveries were done longer than `age` ago, and returns how many those were. A delivery
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
    mark: Key,
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
        Ok(Event { repository, actor, kind, code, mark: self.mark })
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
    /// What the delivery is remembered by.
    mark: Key,
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

    /// Which exact code `name` means now in the event's repository, and where it comes from: the protected branch that a
    /// pull request is for, say.
    ///
    /// # Errors
    ///
    /// As for [`Source::resolve`].
    pub async fn resolve(
        &self,
        source: &dyn Source,
        helpers: &Sandboxes,
        name: &RevisionName,
    ) -> Result<Provenance> {
        super::resolve(source, Scope::new(&self.repository), helpers, name).await
    }

    /// The content of the file at `path` in exactly `code`, of at most `limit` bytes: the pipeline file of the commit
    /// that was pushed.
    ///
    /// # Errors
    ///
    /// As for [`read()`](super::read()).
    pub async fn read(
        &self,
        source: &dyn Source,
        helpers: &Sandboxes,
        code: &Provenance,
        path: &SourcePath,
        limit: ByteSize,
    ) -> Result<Bytes> {
        super::read(source, Scope::new(&self.repository), helpers, code, path, limit).await
    }

    /// The id of the event's job that a product calls `name`, the same whenever the delivery comes.
    pub(crate) fn job(&self, name: &str) -> JobId {
        let digest = Digest::of(Key::new(name).part(self.mark.as_str()).as_str().as_bytes());
        JobId::parse(&digest.as_str()[..32]).expect("half of a digest is as long as an id")
    }
}
