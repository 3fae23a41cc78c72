//! What stands between a caller and a backend: a test says what it changes, and the rest is done as ever.

use std::fmt;
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use ci_core::access::Scope;
use ci_core::forge::{CheckState, Checks, Revision, RevisionName, Source, SourcePath};
use ci_core::id::{CommitId, JobId, KeyId, Label, RepositoryId, SandboxId};
use ci_core::memory::{Database, Forge, Scripted};
use ci_core::network::NetworkReport;
use ci_core::queue::{Claim, End, Extended, Leased, NewRow, Queue, Released, Row};
use ci_core::records::{Batch, Fence, Key, Record, Records, Version};
use ci_core::sandbox::{
    Backend, Capabilities, Command, Input, Instance, IsolationReport, Process, ProcessEvent, Residue,
    Sandbox, SandboxPath, SandboxUsage, Sandboxes, Signal, Spec, TerminalSize,
};
use ci_core::seal::DataKey;
use ci_core::secret::{KeyRing, Purpose, SecretLease};
use ci_core::{ByteSize, ByteStream, Result};
use futures_util::StreamExt as _;

/// Which call of a port is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Call {
    Push,
    Lease,
    Extend,
    Release,
    Finish,
    Cancel,
    Row,
    Jobs,
    Get,
    List,
    Commit,
    Purge,
    ScanRaw,
    DataKey,
    Create,
    Destroy,
    Leftovers,
    Exec,
    Upload,
    Download,
    Usage,
    Next,
    Signal,
    Resize,
    Resolve,
    Checkout,
    Read,
    Report,
}

/// What a test changes.
pub(crate) trait Hook: fmt::Debug + Send + Sync + 'static {
    /// Answers `call`, by awaiting `done` or otherwise.
    fn around<T: Send>(
        &self,
        _call: Call,
        done: impl Future<Output = Result<T>> + Send,
    ) -> impl Future<Output = Result<T>> + Send {
        done
    }

    /// Changes what a queue hands out.
    fn alter(&self, _: &mut Leased) {}
}

/// A backend behind a hook.
#[derive(Debug)]
pub(crate) struct Hooked<B, H> {
    inner: B,
    hook: Arc<H>,
}

impl<B, H> Hooked<B, H> {
    pub(crate) fn new(inner: B, hook: H) -> Self {
        Self { inner, hook: Arc::new(hook) }
    }

    /// Behind a hook that others are behind too.
    pub(crate) fn sharing(inner: B, hook: &Arc<H>) -> Self {
        Self { inner, hook: hook.clone() }
    }
}

#[async_trait]
impl<H: Hook> Queue for Hooked<Arc<Database>, H> {
    async fn push(&self, row: NewRow) -> Result<()> {
        self.hook.around(Call::Push, self.inner.push(row)).await
    }

    async fn lease(&self, labels: &[Label], ttl: Duration) -> Result<Option<Leased>> {
        let mut leased = self.hook.around(Call::Lease, self.inner.lease(labels, ttl)).await?;
        if let Some(leased) = &mut leased {
            self.hook.alter(leased);
        }
        Ok(leased)
    }

    async fn extend(&self, fence: &Fence, ttl: Duration) -> Result<Extended> {
        self.hook.around(Call::Extend, self.inner.extend(fence, ttl)).await
    }

    async fn release(&self, fence: &Fence, why: Released, pause: Duration) -> Result<()> {
        self.hook.around(Call::Release, self.inner.release(fence, why, pause)).await
    }

    async fn finish(&self, fence: &Fence, end: &End, with: Batch) -> Result<()> {
        self.hook.around(Call::Finish, self.inner.finish(fence, end, with)).await
    }

    async fn cancel(&self, job: &JobId) -> Result<()> {
        self.hook.around(Call::Cancel, self.inner.cancel(job)).await
    }

    async fn row(&self, job: &JobId) -> Result<Option<Row>> {
        self.hook.around(Call::Row, self.inner.row(job)).await
    }

    async fn jobs(
        &self,
        repository: &RepositoryId,
        before: Option<&JobId>,
        limit: usize,
    ) -> Result<Vec<JobId>> {
        self.hook.around(Call::Jobs, self.inner.jobs(repository, before, limit)).await
    }
}

#[async_trait]
impl<H: Hook> Records for Hooked<Arc<Database>, H> {
    async fn get(&self, key: &Key) -> Result<Option<Record>> {
        self.hook.around(Call::Get, self.inner.get(key)).await
    }

    async fn list(&self, prefix: &Key, after: Option<&Key>, limit: usize) -> Result<Vec<Record>> {
        self.hook.around(Call::List, self.inner.list(prefix, after, limit)).await
    }

    async fn commit(&self, batch: Batch) -> Result<Version> {
        self.hook.around(Call::Commit, self.inner.commit(batch)).await
    }

    async fn purge(&self, prefix: &Key) -> Result<usize> {
        self.hook.around(Call::Purge, self.inner.purge(prefix)).await
    }

    async fn scan_raw(&self, needle: &[u8]) -> Result<usize> {
        self.hook.around(Call::ScanRaw, self.inner.scan_raw(needle)).await
    }
}

#[async_trait]
impl<H: Hook> KeyRing for Hooked<Arc<dyn KeyRing>, H> {
    async fn data_key(
        &self,
        scope: Scope<'_>,
        purpose: &Purpose,
        id: Option<&KeyId>,
    ) -> Result<Arc<DataKey>> {
        self.hook.around(Call::DataKey, self.inner.data_key(scope, purpose, id)).await
    }
}

#[async_trait]
impl<H: Hook> Source for Hooked<Arc<Forge>, H> {
    async fn resolve(&self, scope: Scope<'_>, helpers: &Sandboxes, name: &RevisionName) -> Result<Revision> {
        self.hook.around(Call::Resolve, self.inner.resolve(scope, helpers, name)).await
    }

    async fn checkout(&self, claim: &Claim, helpers: &Sandboxes, into: &Sandbox) -> Result<()> {
        self.hook.around(Call::Checkout, self.inner.checkout(claim, helpers, into)).await
    }

    async fn read(
        &self,
        scope: Scope<'_>,
        helpers: &Sandboxes,
        commit: &CommitId,
        path: &SourcePath,
        limit: ByteSize,
    ) -> Result<Bytes> {
        self.hook.around(Call::Read, self.inner.read(scope, helpers, commit, path, limit)).await
    }
}

#[async_trait]
impl<H: Hook> Checks for Hooked<Arc<Forge>, H> {
    async fn report(&self, claim: &Claim, state: CheckState, description: &str) -> Result<()> {
        self.hook.around(Call::Report, self.inner.report(claim, state, description)).await
    }
}

#[async_trait]
impl<H: Hook> Backend for Hooked<Scripted, H> {
    async fn create(&self, id: &SandboxId, spec: &Spec) -> Result<Box<dyn Instance>> {
        let inner = self.hook.around(Call::Create, self.inner.create(id, spec)).await?;
        Ok(Box::new(Hooked::sharing(inner, &self.hook)))
    }

    async fn create_beside(
        &self,
        id: &SandboxId,
        spec: &Spec,
        other: &SandboxId,
    ) -> Result<Box<dyn Instance>> {
        let inner = self.hook.around(Call::Create, self.inner.create_beside(id, spec, other)).await?;
        Ok(Box::new(Hooked::sharing(inner, &self.hook)))
    }

    async fn destroy(&self, id: &SandboxId) -> Result<Residue> {
        self.hook.around(Call::Destroy, self.inner.destroy(id)).await
    }

    async fn leftovers(&self) -> Result<Vec<SandboxId>> {
        self.hook.around(Call::Leftovers, self.inner.leftovers()).await
    }

    fn abandon(&self, id: &SandboxId) {
        self.inner.abandon(id);
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
}

#[async_trait]
impl<H: Hook> Instance for Hooked<Box<dyn Instance>, H> {
    async fn exec<'a>(&'a self, command: &Command, lease: &SecretLease) -> Result<Box<dyn Process + 'a>> {
        let inner = self.hook.around(Call::Exec, self.inner.exec(command, lease)).await?;
        Ok(Box::new(Hooked::sharing(inner, &self.hook)))
    }

    async fn upload(&self, path: &SandboxPath, tar: ByteStream<'_>) -> Result<()> {
        self.hook.around(Call::Upload, self.inner.upload(path, tar)).await
    }

    fn download(&self, path: &SandboxPath) -> ByteStream<'_> {
        let pieces = self.inner.download(path);
        Box::pin(pieces.then(|piece| self.hook.around(Call::Download, ready(piece))))
    }

    fn isolation(&self) -> &IsolationReport {
        self.inner.isolation()
    }

    async fn usage(&self) -> Result<SandboxUsage> {
        self.hook.around(Call::Usage, self.inner.usage()).await
    }

    fn network(&self) -> NetworkReport {
        self.inner.network()
    }
}

#[async_trait]
impl<H: Hook> Process for Hooked<Box<dyn Process + '_>, H> {
    async fn next(&mut self) -> Result<ProcessEvent> {
        self.hook.around(Call::Next, self.inner.next()).await
    }

    async fn signal(&self, signal: Signal) -> Result<()> {
        self.hook.around(Call::Signal, self.inner.signal(signal)).await
    }

    fn input(&mut self) -> Option<Box<dyn Input>> {
        self.inner.input()
    }

    async fn resize(&self, size: TerminalSize) -> Result<()> {
        self.hook.around(Call::Resize, self.inner.resize(size)).await
    }
}
