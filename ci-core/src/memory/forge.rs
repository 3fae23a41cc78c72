//! A forge: code, states of commits, and webhooks.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;

use async_trait::async_trait;
use bytes::Bytes;
use secrecy::SecretString;

use super::hook::Registered;
use super::tar::{Archive, Content, Entry};
use crate::access::Scope;
use crate::error::{Error, ErrorKind, Result};
use crate::external::External;
use crate::forge::{CheckState, Checks, HookScope, Revision, RevisionName, Source, SourcePath};
use crate::id::{CommitId, JobId, RepositoryId};
use crate::lock::lock;
use crate::queue::Claim;
use crate::sandbox::{Sandbox, SandboxPath, Sandboxes};
use crate::stream;
use crate::units::ByteSize;

/// A forge in memory: commits are maps from path to content, and what was reported is remembered.
///
/// Its [`Hooks`](crate::forge::Hooks) recognise deliveries with the header `x-ci-signature: sha256=<hex>`, an
/// HMAC-SHA256 (RFC 2104) over the raw body, and a body like this one, where all but `repository` and `kind` may
/// be left out:
///
/// ```json
/// {
///   "repository": { "tenant": "acme", "forge": "memory", "native": "1" },
///   "owner": "17",
///   "actor": "4",
///   "kind": "push",
///   "revision": { "commit": "0123456789abcdef0123456789abcdef01234567", "origin": "Repository", "reference": "main" }
/// }
/// ```
///
/// The other kinds are `pull_request` (with `number` and `author`), `permissions_changed` (with `user`, if it is
/// one person's), `gone`, and anything else.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use std::sync::Arc;
/// use ci_core::forge::{HookScope, Inbox};
/// use ci_core::memory::{Forge, Rig};
///
/// let (rig, secret) = (Rig::new()?, "webhook secret".into());
/// let repository = Rig::repository("1", "acme")?;
/// rig.forge.add_hook(HookScope::Repository(repository.clone()), &secret)?;
///
/// let inbox = Inbox::new(rig.forge.clone(), rig.database.clone(), rig.clock.clone());
/// let body = r#"{"repository": {"tenant": "acme", "forge": "memory", "native": "1"}, "kind": "gone"}"#;
/// let event = inbox.receive(Forge::signed(&secret, body)?).await?.parse()?;
/// assert_eq!(event.repository(), &repository);
/// assert!(inbox.receive(Forge::signed(&"a guess".into(), body)?).await.is_err());
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Default)]
pub struct Forge {
    commits: Mutex<BTreeMap<RepositoryId, Vec<Commit>>>,
    reports: Mutex<Vec<Report>>,
    pub(super) hooks: Mutex<Vec<Registered>>,
}

#[derive(Debug)]
struct Commit {
    revision: Revision,
    files: Archive,
}

impl Commit {
    fn read(&self, path: &SourcePath, limit: ByteSize) -> Result<Bytes> {
        let is_below =
            |entry: &Entry| entry.name.strip_prefix(path.as_str()).is_some_and(|rest| rest.starts_with('/'));
        let entries = &self.files.entries;
        let (kind, why) = match entries.iter().rev().find(|entry| entry.name == path.as_str()) {
            Some(Entry { content: Content::File(bytes), .. }) => {
                if bytes.len() as u64 <= limit.as_u64() {
                    return Ok(bytes.clone());
                }
                (ErrorKind::LimitExceeded, "the file is larger than allowed")
            }
            Some(_) => (ErrorKind::Invalid, "it is not a regular file"),
            None if entries.iter().any(is_below) => (ErrorKind::Invalid, "it is a folder"),
            None => (ErrorKind::NotFound, "there is no such file in the commit"),
        };
        Err(Error::new(kind, READ).because(why))
    }
}

const READ: &str = "read a file of a commit";

/// What the forge was told about a job.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Which job.
    pub job: JobId,
    /// The commit whose state it is.
    pub commit: CommitId,
    /// How the job goes.
    pub state: CheckState,
    /// The same in words.
    pub description: String,
}

impl Forge {
    /// A forge without repositories.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a commit to a repository, and moves its branch or tag there. What was added last is `HEAD`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when a path is absolute or leaves the folder.
    pub fn add_commit<P: Into<String>, C: Into<Bytes>>(
        &self,
        repository: &RepositoryId,
        revision: Revision,
        files: impl IntoIterator<Item = (P, C)>,
    ) -> Result<()> {
        let mut entries = Vec::new();
        for (path, content) in files {
            let name = path.into();
            SandboxPath::work().join(&name)?;
            entries.push(Entry { name, content: Content::File(content.into()) });
        }
        let commit = Commit { revision, files: Archive { entries } };
        lock(&self.commits).entry(repository.clone()).or_default().push(commit);
        Ok(())
    }

    /// Everything that was reported, in order.
    pub fn reports(&self) -> Vec<Report> {
        lock(&self.reports).clone()
    }

    /// Recognises deliveries that are signed with `secret`, and believes them within `scope`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for an empty secret, with which anybody could sign, and for one that is registered
    /// already.
    pub fn add_hook(&self, scope: HookScope, secret: &SecretString) -> Result<()> {
        let hook = Registered::new(scope, secret)?;
        let mut hooks = lock(&self.hooks);
        if hooks.iter().any(|other| other.has_secret_of(&hook)) {
            return Err(
                Error::new(ErrorKind::Invalid, "register a webhook").because("another one has this secret")
            );
        }
        hooks.push(hook);
        Ok(())
    }
}

#[async_trait]
impl Source for Forge {
    async fn resolve(&self, scope: Scope<'_>, _helpers: &Sandboxes, name: &RevisionName) -> Result<Revision> {
        let is_named = |commit: &&Commit| {
            let Revision { commit, origin: _, reference } = &commit.revision;
            let by_reference = reference.as_ref().is_some_and(|reference| reference == name.as_str());
            name.as_str() == "HEAD" || by_reference || commit.as_str() == name.as_str()
        };
        let commits = lock(&self.commits);
        let latest = commits.get(scope.repository()).and_then(|commits| commits.iter().rev().find(is_named));
        latest.map(|commit| commit.revision.clone()).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "resolve a revision")
                .with("repository", scope.repository())
                .with("revision", name.as_str())
        })
    }

    /// The content is the test's own, so it needs no helper to be looked at.
    async fn checkout(&self, claim: &Claim, _helpers: &Sandboxes, into: &Sandbox) -> Result<()> {
        let (repository, id) = (claim.scope()?.repository(), claim.code().commit());
        let tar = {
            let commits = lock(&self.commits);
            let mut ours = commits.get(repository).into_iter().flatten();
            ours.find(|commit| commit.revision.commit == *id).map(|commit| commit.files.to_bytes())
        };
        let tar = tar.ok_or_else(|| {
            let missing = Error::new(ErrorKind::NotFound, "check out a commit");
            missing.with("repository", repository).with("commit", id)
        })?;
        into.upload(&SandboxPath::work(), stream::once(tar)).await
    }

    /// The content is the test's own, so it needs no helper to be looked at.
    async fn read(
        &self,
        scope: Scope<'_>,
        _helpers: &Sandboxes,
        commit: &CommitId,
        path: &SourcePath,
        limit: ByteSize,
    ) -> Result<Bytes> {
        let commits = lock(&self.commits);
        let mut ours = commits.get(scope.repository()).into_iter().flatten();
        let found = ours.find(|known| known.revision.commit == *commit).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, READ).because("there is no such commit in the repository")
        });
        found.and_then(|found| found.read(path, limit)).map_err(|error| {
            let error = error.with("repository", scope.repository()).with("commit", commit);
            error.with("path", External::new(path.as_str()))
        })
    }
}

#[async_trait]
impl Checks for Forge {
    async fn report(&self, claim: &Claim, state: CheckState, description: &str) -> Result<()> {
        let job = claim.fence()?.job.clone();
        let commit = claim.code().commit().clone();
        lock(&self.reports).push(Report { job, commit, state, description: description.to_owned() });
        Ok(())
    }
}

impl fmt::Debug for Forge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forge").field("repositories", &lock(&self.commits).keys()).finish_non_exhaustive()
    }
}
