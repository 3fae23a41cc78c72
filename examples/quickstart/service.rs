//! A whole CI service on one machine: which backend stands behind which port.
//!
//! To go beyond one machine, change the lines that construct the backends, and nothing else.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::future::Future;
use std::io::ErrorKind as Io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ci_core::access::{Authority, Session, Write};
use ci_core::artifact::ArtifactStore;
use ci_core::audit::Audit;
use ci_core::clock::{Clock, SystemClock};
use ci_core::error::{Error, ErrorKind, Result};
use ci_core::forge::Challenge;
use ci_core::id::{Digest, ForgeId, ImageName, JobId, NativeId, RepositoryId, TenantId};
use ci_core::log::LogStore;
use ci_core::outcome::Outcome;
use ci_core::queue::{Dispatcher, State};
use ci_core::runner::{Observer, Parts, Runner, Stop};
use ci_core::sandbox::Sandboxes;
use ci_sandbox::native::{Config, ImageSource, Native};
use ci_scm::git::{
    AccessFile, AccessFileOptions, Git, HostFetcher, HostFetcherOptions, Protocols, RemoteUrl,
};
use ci_secrets::{FileRoot, Vault};
use ci_storage::objects::Objects;
use ci_storage::sqlite::Sqlite;
use futures_util::future::{FusedFuture as _, FutureExt as _};
use secrecy::SecretString;

/// The service, and the two people that the quickstart knows.
#[derive(Debug)]
pub struct Service {
    pub repository: RepositoryId,
    pub url: String,
    pub authority: Authority,
    pub owner: Session,
    pub stranger: Session,
    pub git: Arc<Git>,
    pub sandboxes: Sandboxes,
    pub vault: Arc<Vault>,
    pub dispatcher: Dispatcher,
    pub logs: Arc<dyn LogStore>,
    pub artifacts: Arc<dyn ArtifactStore>,
    runner: Runner,
    // Held, not read: one quickstart at a time works in a state folder.
    _lock: fs::File,
}

impl Service {
    /// Opens the service whose state lies in `state`, for one repository.
    pub async fn open(state: &Path, repository: &str, observer: Arc<dyn Observer>) -> Result<Self> {
        let url = url_of(repository)?;
        let lock = own_folder(state)?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());

        // Rows, queue and logs in one file; objects in a folder; keys under a root key in a file of its own.
        let database = Arc::new(Sqlite::open(state.join("ci.sqlite"), clock.clone()).await?);
        let audit = Audit::new(database.clone(), clock.clone());
        let root = Arc::new(root_key(state)?);
        let vault = Arc::new(Vault::new(database.clone(), audit.clone(), root, clock.clone()));
        let logs: Arc<dyn LogStore> = Arc::new(database.logs(vault.clone()));
        let objects = Objects::folder(state.join("objects"), database.clone(), vault.clone(), clock.clone())?;

        // Sandboxes from this machine's own kernel. What an earlier run left behind goes first.
        let image = ImageName::parse("host")?;
        let config = Config::new(state).with_image(image, ImageSource::host_toolchain());
        let sandboxes = Sandboxes::new(Arc::new(Native::new(config)?));
        sandboxes.reap().await?;

        // A forge that is nothing but git and a file that says who may do what.
        let id = id_of(&url)?;
        let (tokens, file) = access_file(state, &url)?;
        let path = state.join("access.toml");
        write_private(&path, &file)?;
        let access = Arc::new(AccessFile::open(&path, clock.clone(), AccessFileOptions::default())?);
        let fetcher = HostFetcher::new(state.join("fetched"), HostFetcherOptions::default())?;
        let git = Arc::new(Git::new(access.clone()).with_fetcher(Arc::new(fetcher)));
        let repository = RepositoryId::new(id, ForgeId::parse("git")?, TenantId::parse("quickstart")?);

        let authority = Authority::new(access.clone(), clock.clone());
        let [owner, stranger] = tokens;
        let owner = authority.sign_in(&*access, &Challenge::Credential, owner).await?;
        let stranger = authority.sign_in(&*access, &Challenge::Credential, stranger).await?;
        let dispatcher = Dispatcher::new(database, vault.clone(), authority.clone(), clock.clone());
        let (artifacts, caches) = (Arc::new(objects.artifacts()), Arc::new(objects.caches()));
        let runner = Runner::new(Parts {
            secrets: vault.clone(),
            sandboxes: sandboxes.clone(),
            source: git.clone(),
            logs: logs.clone(),
            artifacts: artifacts.clone(),
            caches,
            checks: None,
            audit,
            observer,
            clock,
        });
        Ok(Self {
            repository,
            url,
            authority,
            owner,
            stranger,
            git,
            sandboxes,
            vault,
            dispatcher,
            logs,
            artifacts,
            runner,
            _lock: lock,
        })
    }

    /// Works on the queue until `job` has ended, or `stop` is ready.
    ///
    /// A job that an earlier run did not end comes first: a worker that dies loses no job.
    pub async fn run(&self, job: &JobId, stop: impl Future<Output = Stop> + Send) -> Result<Outcome> {
        let mut stop = std::pin::pin!(stop.fuse());
        while !stop.is_terminated() {
            let Some(claim) = self.dispatcher.next(&[]).await? else { break };
            let is_it = claim.job() == job;
            let outcome = self.runner.run(claim, stop.as_mut()).await?;
            if is_it {
                return Ok(outcome);
            }
        }
        // It was stopped before its turn came, or refused when it came.
        let grant = self.authority.grant::<Write>(&self.owner, &self.repository).await?;
        self.dispatcher.cancel(&grant, job).await?;
        match self.dispatcher.state(&grant.lower(), job).await? {
            State::Finished(outcome) => Ok(*outcome),
            State::Waiting | State::Running => Err(Error::new(ErrorKind::Internal, "run the job")),
        }
    }
}

/// The root key, made at the first start.
fn root_key(state: &Path) -> Result<FileRoot> {
    let path = state.join("root.key");
    if !path.exists() && state.join("access.toml").exists() {
        return Err(Error::new(ErrorKind::NotFound, "open the root key")
            .because(
                "it is gone, and nothing that was sealed opens without it; restore it, or delete the folder",
            )
            .with("path", path.display()));
    }
    if path.exists() { FileRoot::open(path) } else { FileRoot::create(path) }
}

/// What the forge calls a repository: it follows from the URL, so that every run finds the same.
fn id_of(url: &str) -> Result<NativeId> {
    NativeId::parse(Digest::of(url.as_bytes()).as_str())
}

/// Tokens for the owner and a stranger, and the file that knows them and every repository that was ever named.
fn access_file(state: &Path, url: &str) -> Result<([SecretString; 2], String)> {
    // Before it is written down: what the file may not hold would stand in the way of every later start.
    RemoteUrl::parse(url, &Protocols::default())?;
    let known = state.join("repositories");
    let mut urls: BTreeSet<String> =
        fs::read_to_string(&known).unwrap_or_default().lines().map(str::to_owned).collect();
    urls.insert(url.to_owned());
    write_private(&known, &urls.iter().fold(String::new(), |lines, url| lines + url + "\n"))?;
    let (owner, owner_digest) = AccessFile::new_token();
    let (stranger, stranger_digest) = AccessFile::new_token();
    let mut file = format!(
        "forge = \"git\"\n\
         tenant = \"quickstart\"\n\
         [people.owner]\n\
         token = \"{owner_digest}\"\n\
         [people.stranger]\n\
         token = \"{stranger_digest}\"\n"
    );
    for url in urls {
        // JSON's strings are also TOML's.
        let (id, url) = (id_of(&url)?, serde_json::Value::from(url));
        let _ = write!(file, "[[repository]]\nid = \"{id}\"\nurl = {url}\nadmin = [\"owner\"]\n");
    }
    Ok(([owner, stranger], file))
}

/// The URL of a repository that was named by a URL, or by a folder in it.
fn url_of(repository: &str) -> Result<String> {
    if repository.contains("://") {
        return Ok(repository.to_owned());
    }
    let not_found = |reason: &'static str| {
        Error::new(ErrorKind::NotFound, "open the repository").because(reason).with("folder", repository)
    };
    let start = fs::canonicalize(repository)
        .map_err(|_| not_found("there is no such folder; name one that is in a git repository, or a URL"))?;
    let is_bare = |folder: &Path| ["HEAD", "objects", "refs"].iter().all(|name| folder.join(name).exists());
    let found = start.ancestors().find(|folder| folder.join(".git").exists() || is_bare(folder));
    let top = found
        .ok_or_else(|| not_found("it is not in a git repository; make one with `git init` and commit"))?;
    if top.join(".git").is_file() {
        return Err(not_found("it is a worktree or a submodule; name the repository that it belongs to"));
    }
    let path = top.to_str().ok_or_else(|| not_found("its path is not UTF-8"))?;
    Ok(format!("file://{path}"))
}

/// A folder for this user alone, and for this process until it drops the lock.
fn own_folder(path: &Path) -> Result<fs::File> {
    let refused = |reason: &'static str| {
        Error::new(ErrorKind::Denied, "open the state folder").because(reason).with("path", path.display())
    };
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    let about = made
        .and_then(|()| fs::metadata(path))
        .map_err(|error| cannot("make the state folder", path, error))?;
    let ours = fs::metadata("/proc/self").map_err(|error| cannot("look at this process", path, error))?;
    if about.uid() != ours.uid() {
        return Err(refused("it belongs to somebody else; choose another with --state"));
    }
    if about.permissions().mode() & 0o077 != 0 {
        return Err(refused(
            "others may look into it; run `chmod 700` on it, or choose another with --state",
        ));
    }
    let mut options = fs::OpenOptions::new();
    let lock = options.create(true).append(true).mode(0o600).open(path.join("lock"));
    let lock = lock.map_err(|error| cannot("open the state folder", path, error))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(fs::TryLockError::WouldBlock) => {
            Err(refused("another quickstart works in it; wait for that one, or choose another with --state"))
        }
        Err(fs::TryLockError::Error(error)) => Err(cannot("lock the state folder", path, error)),
    }
}

/// Replaces a file that only this user may read.
fn write_private(path: &Path, text: &str) -> Result<()> {
    let new: PathBuf = path.with_extension("new");
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let written = options
        .open(&new)
        .and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()))
        .and_then(|()| fs::rename(&new, path));
    written.map_err(|error| cannot("write to the state folder", path, error))
}

fn cannot(what: &'static str, path: &Path, error: std::io::Error) -> Error {
    let reason = match error.kind() {
        Io::StorageFull | Io::QuotaExceeded => {
            "the disk is full; free space, or choose another folder with --state"
        }
        Io::PermissionDenied | Io::ReadOnlyFilesystem => {
            "it cannot be written; choose another folder with --state"
        }
        _ => "it cannot be used; choose another folder with --state",
    };
    Error::new(ErrorKind::Unavailable, what).because(reason).with("path", path.display()).caused_by(error)
}
