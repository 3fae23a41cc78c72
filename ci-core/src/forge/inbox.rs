//! Deliveries are verified before they are read, and read once.

use std::sync::Arc;
use std::time::Duration;

use super::{Actor, EventKind, HookScope, Hooks, Occurrence, RawDelivery};
use crate::clock::{Clock, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Digest, RepositoryId, TenantId};
use crate::operator::Act;
use crate::records::{Batch, Condition, Key, Records};
use crate::trust::Provenance;

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
        let key = Self::seen().part(scope.mark().as_str()).part(Digest::of(raw.body()).as_str());
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
