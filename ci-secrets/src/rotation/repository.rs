//! Rotating a repository's key: its secrets are sealed anew, and everything else keeps opening under the former key.

use ci_core::Result;
use ci_core::audit::Entry;
use ci_core::clock::Timestamp;
use ci_core::id::{KeyId, RepositoryId};
use ci_core::operator::Act;
use ci_core::records::{Batch, Condition, Key};

use super::note::{self, Former, Note, Noted, Then};
use super::report::Work;
use super::{MOST_ROUNDS, PAGE, Progress, RotationReport, Step, overtaken};
use crate::Vault;
use crate::hierarchy::{Current, layout};
use crate::vault::{Item, Treated, about, row};

impl Vault {
    /// Gives `repository` a new key for everything that is sealed from now on, and seals its secrets with it, and the
    /// private keys that [`ssh`](crate::ssh) and `identity` keep for it. A repository without a key gets none.
    ///
    /// Logs, artifacts, caches and tickets keep opening under the former key, which they name; when they are gone,
    /// [`retire_keys`](Self::retire_keys) destroys it. Jobs can lease secrets all the while. What the audit log calls a
    /// secret ([`audit_tag`](Self::audit_tag)) follows from the key, and is another text afterwards.
    ///
    /// When one was begun earlier and something is left of it to do, this ends it, and begins none. `watch` is told after
    /// every 200 secrets.
    ///
    /// # Errors
    ///
    /// [`Denied`](ci_core::ErrorKind::Denied) when the act is for another tenant;
    /// [`Tampered`](ci_core::ErrorKind::Tampered) when a key is not what was stored;
    /// [`Unavailable`](ci_core::ErrorKind::Unavailable) when the records or the root key cannot be reached now, or
    /// somebody else rotates the same key: calling again goes on.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, a part is done; calling again goes on.
    ///
    /// # Example
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
    /// # use ci_core::{access::Write, id::{JobId, SecretName}, memory::Rig};
    /// # use ci_secrets::{KeyRing as _, Purpose, SecretStore as _, SecretValue};
    /// # let folder = tempfile::tempdir().expect("a folder");
    /// # let root = std::sync::Arc::new(ci_secrets::FileRoot::create(folder.path().join("root.key"))?);
    /// # let rig = Rig::new()?;
    /// # let vault = ci_secrets::Vault::new(rig.records(), rig.audit.clone(), root, rig.clock.clone());
    /// # let (repository, log) = (Rig::repository("1", "acme")?, Purpose::log(&JobId::random(), 1));
    /// # let grant = rig.grant::<Write>(&Rig::user("ada")?, &repository).await?;
    /// # vault.put(&grant, &SecretName::parse("TOKEN")?, SecretValue::new("hunter2")).await?;
    /// let before = vault.seal(grant.scope()?, &log, b"12 passed").await?;
    ///
    /// let act = rig.operator.act(repository.tenant(), "repository_key.rotated").await?;
    /// let report = vault.rotate_repository(&act, &repository, &mut |_| {}).await?;
    /// assert_eq!((report.made, report.resealed), (1, 1));
    /// assert_eq!(vault.open(grant.scope()?, &log, &before).await?, "12 passed");
    /// # Ok::<(), ci_core::Error>(()) })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn rotate_repository(
        &self,
        act: &Act<'_>,
        repository: &RepositoryId,
        watch: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<RotationReport> {
        act.covers(repository.tenant())?;
        let mut work = Work::new(watch);
        self.rotate_to(repository, Then::Reseal, &mut work).await?;
        Ok(work.report)
    }

    /// Destroys the keys of `repository` that have been former ones since before `before`, with everything that they
    /// sealed and that still lies anywhere: choose a time from before which no log, artifact or cache is kept, and no
    /// job waits. Secrets do not depend on them; while some do, because a rotation has not ended, none is destroyed.
    ///
    /// # Errors
    ///
    /// [`Denied`](ci_core::ErrorKind::Denied) when the act is for another tenant;
    /// [`Unavailable`](ci_core::ErrorKind::Unavailable) when the records cannot be reached now: calling again goes on.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, some may be destroyed; calling again goes on.
    pub async fn retire_keys(
        &self,
        act: &Act<'_>,
        repository: &RepositoryId,
        before: Timestamp,
    ) -> Result<RotationReport> {
        act.covers(repository.tenant())?;
        let mut watch = |_| {};
        let mut work = Work::new(&mut watch);
        let folder = layout::repository_folder(repository);
        let Some(pointer) = self.hierarchy.pointer(&folder).await? else { return Ok(work.report) };
        let used = self.keys_in_use(repository).await?;
        let mut after = None;
        loop {
            let page = self.records.list(&note::former_folder(repository), after.as_ref(), PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.key.clone());
            for record in &page {
                let since = note::read::<Former>(record)?.since;
                let id = record.key.as_str().rsplit('/').next().and_then(|id| KeyId::parse(id).ok());
                let Some(id) = id.filter(|_| since < before) else { continue };
                if id == pointer.id || used.contains(&id) {
                    let error =
                        overtaken().because("secrets depend on it; end the rotation of the repository's key");
                    work.leave_for_now(&record.key, &error);
                    continue;
                }
                self.destroy_former(repository, &id, &record.key, &pointer.still).await?;
                work.report.destroyed += 1;
            }
        }
        self.hierarchy.forget_below(&folder);
        // Also when none was destroyed by this call: an earlier one may not have come this far.
        work.report.forgotten = self.scrub().await?;
        Ok(work.report)
    }

    /// Destroys the former key `id`, and what is noted of it at `noted`, while the current one is what it was.
    async fn destroy_former(
        &self,
        repository: &RepositoryId,
        id: &KeyId,
        noted: &Key,
        still: &Condition,
    ) -> Result<()> {
        let wrapped = layout::wrapped_place(&layout::repository_folder(repository), id);
        let entry = Entry::new("repository_key.destroyed", "operator").about("key", id);
        let commit = async |audit: Batch| {
            if !self.hierarchy.holds(still).await? {
                return Err(overtaken());
            }
            let batch = audit.require(still.clone()).delete(wrapped.clone()).delete(noted.clone());
            self.records.commit(batch).await.map(drop)
        };
        self.audit.attempt(repository.tenant(), about(entry, repository), commit).await
    }

    /// Begins a rotation and ends it, or ends one of which something is left to do.
    pub(super) async fn rotate_to(
        &self,
        repository: &RepositoryId,
        then: Then,
        work: &mut Work<'_>,
    ) -> Result<()> {
        for _ in 0..MOST_ROUNDS {
            if !self.hierarchy.exists(repository).await? {
                return Ok(());
            }
            let before = work.count();
            let Some(noted) = self.begin_repository(repository, then, work).await? else { continue };
            self.finish_repository(repository, &noted, work).await?;
            if work.count() > before && (then == Then::Reseal || noted.note.then == then) {
                return Ok(());
            }
        }
        Err(overtaken())
    }

    /// Makes the new key, moves the pointer on to it and writes that down, all at once; or finds what was written down.
    /// `None` when somebody else has begun one and ended it meanwhile.
    async fn begin_repository(
        &self,
        repository: &RepositoryId,
        then: Then,
        work: &mut Work<'_>,
    ) -> Result<Option<Noted>> {
        let (place, folder) = (note::repository_place(repository), layout::repository_folder(repository));
        let earlier = self.records.get(&place).await?;
        let Some(before) = self.hierarchy.pointer(&folder).await? else { return Ok(None) };
        // What is to be revoked is not sealed anew first: that which cannot be would be in the way.
        let goes_on = |noted: &Noted| then == Then::Reseal || noted.note.then == then;
        if let Some(noted) = Noted::of(earlier.as_ref(), &before.id).filter(goes_on) {
            work.began(false);
            return Ok(Some(noted));
        }
        let unchanged = note::unchanged(&place, earlier.as_ref());
        let new = self.hierarchy.new_key();
        let note = Note { from: before.id.clone(), to: new.id().clone(), then };
        let former = note::former_folder(repository).part(before.id.as_str());
        let entry = Entry::new("repository_key.rotated", "operator").about("from", &note.from);
        let entry = about(entry.about("to", &note.to), repository);
        let commit = async |audit: Batch| {
            if !self.hierarchy.holds(&unchanged).await? {
                return Ok(false);
            }
            if !self.hierarchy.holds(&before.still).await? {
                return Err(overtaken());
            }
            let above = self.hierarchy.current_of_tenant(repository.tenant()).await?;
            let row = above.key.seal(&layout::repository_context(repository, new.id()), new.expose());
            let batch = audit
                .require(before.still.clone())
                .require(above.still)
                .require(unchanged.clone())
                .put(layout::current_place(&folder), new.id().as_str().to_owned())
                .put(layout::wrapped_place(&folder, new.id()), row)
                .put(former.clone(), note::write(&Former { since: self.clock.now() })?)
                .put(place.clone(), note::write(&note)?);
            self.records.commit(batch).await.map(|_| true)
        };
        let is_first = self.audit.attempt(repository.tenant(), entry, commit).await?;
        work.began(is_first);
        self.records.get(&place).await?.map(|record| Noted::read(&record)).transpose()
    }

    /// Does what is noted with every secret that the new key has not sealed.
    pub(super) async fn finish_repository(
        &self,
        repository: &RepositoryId,
        noted: &Noted,
        work: &mut Work<'_>,
    ) -> Result<()> {
        let current = self.hierarchy.current_to_write(repository).await?;
        if *current.key.id() != noted.note.to {
            return Err(overtaken());
        }
        let left = work.report.left;
        match self.items(repository).await {
            Ok(items) => {
                for page in items.chunks(PAGE) {
                    for item in page {
                        self.treat_item(repository, item, noted.note.then, &current, work).await?;
                    }
                    work.tell(Step::Secrets);
                }
            }
            Err(error) => work.leave(&row::manifest(repository), error)?,
        }
        // What was revoked must not be found in free pages, which the former key still opens.
        if noted.note.then != Then::Reseal {
            work.report.forgotten = self.scrub().await?;
        }
        if work.report.left == left {
            self.end(noted).await?;
        }
        Ok(())
    }

    async fn treat_item(
        &self,
        repository: &RepositoryId,
        item: &Item,
        then: Then,
        to: &Current,
        work: &mut Work<'_>,
    ) -> Result<()> {
        let is_secret = matches!(item, Item::Secret(_));
        match self.treat(repository, item, to, then.treatment()).await {
            Ok(Treated::Done) if !is_secret => {}
            Ok(Treated::Done) if then == Then::Reseal => work.report.resealed += 1,
            Ok(Treated::Done) => work.report.revoked += 1,
            Ok(Treated::WasDone) => {}
            Ok(Treated::Overtaken) => return Err(overtaken()),
            Err(error) => work.leave(&item.place(repository), error)?,
        }
        Ok(())
    }
}
