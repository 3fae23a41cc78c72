//! Plain git: repositories by URL, people and permissions from a file, code by the `git` program.
//!
//! - [`AccessFile`] is the forge's word: who there is, which repositories there are, who may do what, which
//!   branches are protected. It is a [`SignIn`](ci_core::forge::SignIn) and a
//!   [`PermissionSource`](ci_core::access::PermissionSource).
//! - [`Git`] is the [`Source`] of the same repositories. Their URLs come from the access file and from nowhere
//!   else: no job and no payload names one.
//! - A [`Fetcher`] brings objects to this machine: [`LocalFetcher`] for `file://`, [`HostFetcher`] for `ssh://` and
//!   `https://`.
//!
//! # Where hostile content is met
//!
//! Everything that can be pushed is hostile. It is unpacked and checked out in a helper sandbox without network,
//! without secrets and without job code, by a `git` that reads no configuration but its own list of settings (one
//! file holds them all, each with its reason). Two things happen outside of it: the library reads names and
//! commits that the helper's `git` prints, and [`HostFetcher`] receives packs on the host; see there.
//!
//! # What is trusted, and what it protects from
//!
//! A revision is [`Origin::Protected`](ci_core::trust::Origin) when it was found on a branch or tag that the access
//! file protects. Plain git cannot protect a branch itself: that the right people alone can move it must be held
//! by the server's own means (a hook, gitolite, file permissions). The file only says which ones are.

mod access;
mod checkout;
mod failure;
mod fetcher;
mod hardening;
mod helper;
mod host;
mod options;
mod program;
mod read;
mod resolve;
mod ssh;
mod table;
mod url;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use ci_core::access::Scope;
use ci_core::forge::{Revision, RevisionName, Source, SourcePath};
use ci_core::id::CommitId;
use ci_core::queue::Claim;
use ci_core::sandbox::{Sandbox, Sandboxes};
use ci_core::{ByteSize, Error, ErrorKind, External, Result};

pub use self::access::{AccessFile, AccessFileOptions};
pub use self::fetcher::{Depth, Fetched, Fetcher, LocalFetcher, Want};
pub use self::host::{HostFetcher, HostFetcherOptions};
pub use self::options::HelperOptions;
pub use self::ssh::{SshIdentity, SshOptions};
pub use self::url::{Protocol, Protocols, RemoteUrl};

/// Code of the repositories of an [`AccessFile`].
///
/// # What a name means
///
/// A branch, a tag, `HEAD` (if it is on a branch), a full reference (`refs/heads/…`, `refs/tags/…`) or a full
/// commit id. A branch goes before a tag of the same name. What looks like a full commit id is one, whatever
/// branch may be called so. Abbreviated commits are not taken: somebody could push another that begins alike.
///
/// A commit that was named by its id is as trusted as the branches and tags from which it can be reached, and
/// not at all ([`Origin::Fork`](ci_core::trust::Origin)) when there is none.
///
/// # What a job gets
///
/// The files of the exact commit in `/work`, with a `.git` folder beside them: a detached `HEAD`, no remote, no
/// hook, no credential, and as much history as [`HelperOptions::depth`] says; tags come with
/// [`Depth::Full`] only, so `git describe` needs that. Submodules are not checked out, and
/// a job that asks for them is refused: their URLs are chosen by whoever wrote the commit.
///
/// # What is read before there is a job
///
/// [`forge::read`](ci_core::forge::read()) looks into the exact commit in a helper, and checks nothing out. It takes
/// regular files alone; a symbolic link is refused and never followed, wherever in the path it stands, and so is a
/// tree that holds a name twice. From a server, the whole commit is fetched for it.
///
/// # Example
///
/// ```
/// # use std::{fs, os::unix::fs::PermissionsExt as _, sync::Arc};
/// # use ci_core::access::{Grant, Read};
/// # use ci_core::memory::{Reply, Rig};
/// # use ci_core::sandbox::Capabilities;
/// use ci_core::forge::{self, RevisionName};
/// use ci_core::trust::Trust;
/// use ci_scm::git::{AccessFile, AccessFileOptions, Git, HelperOptions};
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("access.toml");
/// # let url = format!("file://{}", folder.path().display());
/// # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
/// fs::write(&path, format!(r#"
///     forge = "git"
///     tenant = "acme"
///     [[repository]]
///     id = "app"
///     url = "{url}"
///     protected = ["main"]
/// "#))?;
/// # fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
/// # let rig = Rig::new()?;
/// # // Sandboxes in memory, which guarantee nothing, with as much of a `git` as this needs.
/// # rig.backend.set_capabilities(Capabilities::default().with_host_folders());
/// # let main = format!("{} commit   refs/heads/main\n", "a".repeat(40));
/// # rig.backend.on("git", move |_| Reply::exit(0).stdout(main.clone()));
/// # let helper = HelperOptions::default().with_minimum([]);
/// # let (clock, sandboxes) = (rig.clock.clone(), rig.sandboxes.clone());
/// let access = Arc::new(AccessFile::open(&path, clock, AccessFileOptions::default())?);
/// let app = access.repositories()?.remove(0);
/// # let grant: Grant<Read> = rig.grant(&Rig::user("ada")?, &app).await?;
///
/// let git = Git::new(access);
/// # let git = git.with_options(helper);
/// let code = forge::resolve(&git, grant.scope()?, &sandboxes, &RevisionName::parse("main")?).await?;
/// assert_eq!(code.trust(), Trust::Protected);
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Git {
    access: Arc<AccessFile>,
    fetchers: Vec<Arc<dyn Fetcher>>,
    options: HelperOptions,
}

impl Git {
    /// The code of the repositories in `access` that lie on this machine.
    pub fn new(access: Arc<AccessFile>) -> Self {
        Self { access, fetchers: vec![Arc::new(LocalFetcher::new())], options: HelperOptions::default() }
    }

    /// Adds a way to repositories elsewhere. For a protocol that two fetchers serve, the first one is used.
    pub fn with_fetcher(mut self, fetcher: Arc<dyn Fetcher>) -> Self {
        self.fetchers.push(fetcher);
        self
    }

    /// Replaces how helper sandboxes are used.
    pub fn with_options(mut self, options: HelperOptions) -> Self {
        self.options = options;
        self
    }

    fn fetcher(&self, protocol: Protocol) -> Result<&dyn Fetcher> {
        let found = self.fetchers.iter().find(|fetcher| fetcher.serves(protocol));
        found.map(AsRef::as_ref).ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, "reach a repository")
                .because("no fetcher serves its protocol; add one with Git::with_fetcher, and give a HostFetcher SshOptions for ssh://")
                .with("protocol", protocol)
        })
    }
}

#[async_trait]
impl Source for Git {
    #[tracing::instrument(skip_all, err(level = "debug"), fields(vcs.repository.name = %scope.repository()))]
    async fn resolve(&self, scope: Scope<'_>, helpers: &Sandboxes, name: &RevisionName) -> Result<Revision> {
        let repository = scope.repository();
        let named = |error: Error| error.with("repository", repository);
        self.find(scope, helpers, name).await.map_err(named)
    }

    #[tracing::instrument(skip_all, err(level = "debug"), fields(vcs.ref.head.revision = %claim.code().commit()))]
    async fn checkout(&self, claim: &Claim, helpers: &Sandboxes, into: &Sandbox) -> Result<()> {
        let named = |error: Error| error.with("commit", claim.code().commit());
        self.put(claim, helpers, into).await.map_err(named)
    }

    #[tracing::instrument(
        skip_all,
        err(level = "debug"),
        fields(vcs.repository.name = %scope.repository(), vcs.ref.head.revision = %commit)
    )]
    async fn read(
        &self,
        scope: Scope<'_>,
        helpers: &Sandboxes,
        commit: &CommitId,
        path: &SourcePath,
        limit: ByteSize,
    ) -> Result<Bytes> {
        let (repository, shown) = (scope.repository(), External::new(path.as_str()));
        let named =
            |error: Error| error.with("repository", repository).with("commit", commit).with("path", &shown);
        self.content(scope, helpers, commit, path, limit).await.map_err(named)
    }
}
