//! How the objects of a repository come to where a helper sandbox sees them.

use std::any::Any;
use std::fmt;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use ci_core::id::CommitId;
use ci_core::{Error, ErrorKind, Result};

use super::url::{Protocol, RemoteUrl};

/// Brings the objects of a repository into a folder of this machine, which a helper sandbox is then shown
/// read-only.
///
/// # Example
///
/// Mirrors that something else keeps up to date:
///
/// ```
/// use std::path::PathBuf;
/// use async_trait::async_trait;
/// use ci_core::id::Digest;
/// use ci_core::{Error, ErrorKind, Result};
/// use ci_scm::git::{Fetched, Fetcher, Protocol, RemoteUrl, Want};
///
/// #[derive(Debug)]
/// struct Mirrors {
///     folder: PathBuf,
/// }
///
/// #[async_trait]
/// impl Fetcher for Mirrors {
///     fn serves(&self, protocol: Protocol) -> bool {
///         protocol == Protocol::Https
///     }
///
///     async fn fetch(&self, from: &RemoteUrl, _want: &Want) -> Result<Fetched> {
///         let mirror = self.folder.join(Digest::of(from.as_str().as_bytes()).as_str());
///         if mirror.is_dir() {
///             return Ok(Fetched::new(mirror, ()));
///         }
///         Err(Error::new(ErrorKind::NotFound, "look for a mirror").because("the repository is not mirrored"))
///     }
/// }
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// # let folder = tempfile::tempdir()?;
/// # let mirrors = Mirrors { folder: folder.path().to_owned() };
/// # let url = RemoteUrl::parse("https://forge.example/app.git", &ci_scm::git::Protocols::default())?;
/// # assert_eq!(mirrors.fetch(&url, &Want::Tips).await.unwrap_err().kind(), ErrorKind::NotFound);
/// # std::fs::create_dir(folder.path().join(Digest::of(url.as_str().as_bytes()).as_str()))?;
/// # assert!(mirrors.fetch(&url, &Want::Tips).await?.folder().is_dir());
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[async_trait]
pub trait Fetcher: fmt::Debug + Send + Sync + 'static {
    /// Whether it can reach repositories in this way.
    fn serves(&self, protocol: Protocol) -> bool;

    /// Brings what `want` asks for; it may bring more.
    ///
    /// Only objects that `from` itself sent may be in the folder, and its `refs/heads` and `refs/tags` are those
    /// of `from`: the trust of a commit follows from them.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] when there is no such repository or commit; [`ErrorKind::Unavailable`] when it
    /// cannot be reached; [`ErrorKind::TimedOut`] and [`ErrorKind::LimitExceeded`] when it takes too long or is
    /// too large.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops the transfer and leaves nothing.
    async fn fetch(&self, from: &RemoteUrl, want: &Want) -> Result<Fetched>;
}

/// What is wanted of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Want {
    /// Its branches, tags and `HEAD`, and the commits that they name.
    Tips,
    /// Its branches and tags with every commit that can be reached from them; files need not come.
    History,
    /// One exact commit with its files.
    Commit(CommitId, Depth),
}

/// How much of the history a job sees. [`HelperOptions::depth`](super::HelperOptions::depth) holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Depth {
    /// So many commits, without tags.
    Last(NonZeroU32),
    /// All that led to the commit, and all tags: what `git describe` needs.
    Full,
}

impl Default for Depth {
    /// The commit alone, as the hosted services do: most jobs look at nothing else, and it is the fastest.
    fn default() -> Self {
        Self::Last(NonZeroU32::MIN)
    }
}

/// A folder with a git repository, bare or not, for as long as this value lives. A [`Fetcher`] makes it.
#[derive(Debug)]
pub struct Fetched {
    folder: PathBuf,
    _guard: Guard,
}

struct Guard(#[expect(dead_code, reason = "held for its destructor")] Box<dyn Any + Send + Sync>);

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Guard")
    }
}

impl Fetched {
    /// The repository in `folder`; `guard` is dropped when it is no longer needed.
    pub fn new(folder: PathBuf, guard: impl Any + Send + Sync) -> Self {
        Self { folder, _guard: Guard(Box::new(guard)) }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

/// Repositories that lie on this machine: there is nothing to bring, the folder itself is shown.
///
/// The helper sees this folder and nothing around it. A repository that borrows objects from another one
/// (`objects/info/alternates`), or that is a linked worktree, is therefore incomplete there, and refused. The
/// files must be readable for the user that the helper runs as.
///
/// # Example
///
/// ```
/// use ci_scm::git::{Fetcher, LocalFetcher, Protocols, RemoteUrl, Want};
///
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// # let folder = tempfile::tempdir()?;
/// # let folder = folder.path();
/// let url = RemoteUrl::parse(&format!("file://{}", folder.display()), &Protocols::default())?;
/// assert_eq!(LocalFetcher::new().fetch(&url, &Want::Tips).await?.folder(), folder);
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct LocalFetcher;

impl LocalFetcher {
    /// The fetcher for `file://`.
    pub fn new() -> Self {
        Self
    }
}

#[async_trait]
impl Fetcher for LocalFetcher {
    fn serves(&self, protocol: Protocol) -> bool {
        protocol == Protocol::File
    }

    async fn fetch(&self, from: &RemoteUrl, _want: &Want) -> Result<Fetched> {
        let failed = |kind| Error::new(kind, "open a repository");
        let Some(folder) = from.folder() else {
            return Err(failed(ErrorKind::Unsupported).because("it does not lie on this machine"));
        };
        match tokio::fs::metadata(folder).await {
            Ok(metadata) if metadata.is_dir() => Ok(Fetched::new(folder.to_owned(), ())),
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(failed(ErrorKind::Unavailable).detail(folder.display().to_string()).caused_by(error))
            }
            _ => Err(failed(ErrorKind::NotFound)
                .because("there is no git repository at the configured URL; check whether it was moved")
                .detail(folder.display().to_string())),
        }
    }
}
