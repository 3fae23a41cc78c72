//! Repositories elsewhere, fetched by `git` on the host.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use ci_core::forge::RevisionName;
use ci_core::id::CommitId;
use ci_core::{ByteSize, Error, ErrorKind, Result};
use secrecy::{ExposeSecret as _, SecretString};

use super::checkout::{all_tags, deepen, object_format};
use super::fetcher::{Fetched, Fetcher, Want};
use super::hardening;
use super::options::PATH;
use super::program::{Bounds, Git};
use super::ssh::SshOptions;
use super::url::{Protocol, RemoteUrl};

/// Fetches over SSH and HTTPS with the `git` of this machine, into a bare repository that lives as long as one
/// checkout.
///
/// # What it exposes
///
/// Sandboxes have no network of their own yet, so this `git` runs on the host, as the user of this process. It
/// reads what the forge sends: the protocol and the pack, which are checked for malformed objects. It never
/// checks files out, runs no hook, and looks into no object for a name of a program or server. A defect in git's
/// reading of packs would still be met with the rights of this process, and not with a helper's. Where that is
/// too much, mirror the repositories by other means and use `file://`, or write a [`Fetcher`] that runs `git` on a
/// machine of its own.
///
/// The private key or token is handed to this `git` alone; helper and job see neither. A token is in the
/// environment of `git` while it runs, which root and this user can read, and never in a URL or an argument.
///
/// # Files
///
/// The folder is open to this user only. What lies in it is readable for everybody who gets there, because a
/// helper reads it, through the sandbox, as another user. A repository is removed when its checkout ends; what a
/// killed process left is removed when the next one starts.
///
/// # Example
///
/// ```
/// use ci_scm::git::{Fetcher, HostFetcher, HostFetcherOptions, Protocol, SshIdentity, SshOptions};
///
/// # let folder = tempfile::tempdir()?;
/// # let folder = folder.path().join("fetched");
/// let ssh = SshOptions::new("/etc/ci/known_hosts", SshIdentity::KeyFile("/etc/ci/id_ed25519".into()));
/// let fetcher = HostFetcher::new(&folder, HostFetcherOptions::default().with_ssh(ssh))?;
/// assert!(fetcher.serves(Protocol::Ssh));
/// assert!(HostFetcher::new(&folder, HostFetcherOptions::default()).is_err(), "one process uses a folder");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct HostFetcher {
    folder: PathBuf,
    /// Held for its lock, which keeps other processes from sweeping the folder.
    _lock: File,
    options: HostFetcherOptions,
    ssh: Option<String>,
}

/// How a [`HostFetcher`] reaches forges.
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use ci_core::ByteSize;
/// use ci_scm::git::HostFetcherOptions;
///
/// let options = HostFetcherOptions::default()
///     .with_credential("forge.example", "ci", "a token that may only read".into())
///     .with_largest(ByteSize::gib(1))
///     .with_deadline(Duration::from_mins(5));
/// assert!(!format!("{options:?}").contains("a token"));
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HostFetcherOptions {
    /// The `PATH` in which `git` and `ssh` are looked for: the usual folders by default.
    pub path: String,
    /// How long one `git` may take: 10 minutes.
    pub deadline: Duration,
    /// How large a pack may be: 4 GiB. It is held on Linux.
    pub largest: ByteSize,
    /// Without it there is no SSH.
    pub ssh: Option<SshOptions>,
    /// The certificate authorities that HTTPS servers are checked against, in PEM: by default those of the system.
    pub certificate_authorities: Option<PathBuf>,
    credentials: BTreeMap<String, (String, SecretString)>,
}

impl Default for HostFetcherOptions {
    fn default() -> Self {
        Self {
            path: PATH.to_owned(),
            deadline: Duration::from_mins(10),
            largest: ByteSize::gib(4),
            ssh: None,
            certificate_authorities: None,
            credentials: BTreeMap::new(),
        }
    }
}

impl HostFetcherOptions {
    /// Replaces the `PATH` in which `git` and `ssh` are looked for.
    pub fn with_path(mut self, path: impl Into<String>) -> Self {
        self.path = path.into();
        self
    }

    /// Replaces how long one `git` may take.
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Replaces how large a pack may be.
    pub fn with_largest(mut self, largest: ByteSize) -> Self {
        self.largest = largest;
        self
    }

    /// Allows SSH.
    pub fn with_ssh(mut self, ssh: SshOptions) -> Self {
        self.ssh = Some(ssh);
        self
    }

    /// Checks HTTPS servers against the authorities in this file, and no others.
    pub fn with_certificate_authorities(mut self, file: impl Into<PathBuf>) -> Self {
        self.certificate_authorities = Some(file.into());
        self
    }

    /// Shows `user` and `token` to the HTTPS server at `authority` (`forge.example` or `forge.example:8443`, as in
    /// the URLs), and to no other one.
    pub fn with_credential(
        mut self,
        authority: impl Into<String>,
        user: impl Into<String>,
        token: SecretString,
    ) -> Self {
        self.credentials.insert(authority.into(), (user.into(), token));
        self
    }
}

const OPEN: &str = "open the folder for fetched repositories";
const FETCH: &str = "fetch a repository";
const PREFIX: &str = "fetched-";

impl HostFetcher {
    /// A fetcher that keeps repositories in `folder` while they are used. The folder is made where it does not
    /// exist, and what an earlier process left in it is removed.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Conflict`] when another fetcher uses the folder; [`ErrorKind::Denied`] when it belongs to
    /// somebody else or is open to others; [`ErrorKind::Invalid`] for options that cannot be;
    /// [`ErrorKind::Unavailable`] when it cannot be made or swept.
    pub fn new(folder: impl Into<PathBuf>, options: HostFetcherOptions) -> Result<Self> {
        let folder = folder.into();
        let ssh = options.ssh.as_ref().map(SshOptions::command).transpose()?;
        if let Some(user) = options.credentials.values().map(|(user, _)| user).find(|user| user.contains(':'))
        {
            return Err(Error::new(ErrorKind::Invalid, OPEN)
                .because("the user of a credential may hold no colon (RFC 7617)")
                .with("user", user));
        }
        let failed = |error: io::Error| {
            Error::new(ErrorKind::Unavailable, OPEN).detail(folder.display().to_string()).caused_by(error)
        };
        make_private(&folder, failed)?;
        let lock = lock(&folder, failed)?;
        sweep(&folder).map_err(failed)?;
        Ok(Self { folder, _lock: lock, options, ssh })
    }

    async fn bring(&self, from: &RemoteUrl, want: &Want) -> Result<Fetched> {
        let session = Session::new(self, from)?;
        let place = Place::new(&self.folder)?;
        match want {
            Want::Tips | Want::History => {
                let Head { branch, format, is_born } = session.head(&place).await?;
                session.git(&place, init(&format!("--initial-branch={branch}"), format)).await?;
                // Files are not asked for: a server that cannot leave them out sends them all.
                let mut fetch =
                    vec!["fetch", "--quiet", "--no-write-fetch-head", "--no-tags", "--filter=tree:0"];
                // Git fails without a word when it is to cut the history of an empty repository.
                fetch.extend((*want == Want::Tips && is_born).then_some("--depth=1"));
                fetch.extend(["--", from.as_str(), "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"]);
                session.git(&place, fetch).await?;
            }
            Want::Commit(commit, depth) => {
                session.git(&place, init("--initial-branch=main", object_format(commit))).await?;
                let deepen = deepen(*depth);
                let mut fetch = vec!["fetch", "--quiet", "--no-write-fetch-head", "--no-tags"];
                fetch.extend(deepen.as_deref());
                fetch.extend(["--", from.as_str(), commit.as_str()]);
                fetch.extend(all_tags(*depth));
                match session.git(&place, fetch).await {
                    Err(error) if error.kind() == ErrorKind::Unsupported => {
                        session.fetch_all(&place, commit).await?;
                    }
                    done => drop(done?),
                }
            }
        }
        Ok(Fetched::new(place.0.clone(), place))
    }
}

#[async_trait]
impl Fetcher for HostFetcher {
    fn serves(&self, protocol: Protocol) -> bool {
        match protocol {
            Protocol::Ssh => self.ssh.is_some(),
            Protocol::Https => true,
            Protocol::File => false,
        }
    }

    async fn fetch(&self, from: &RemoteUrl, want: &Want) -> Result<Fetched> {
        self.bring(from, want).await
    }
}

/// A bare repository that keeps no settings but git's own, and that a helper can read as another user.
fn init<'a>(branch: &'a str, format: &'a str) -> Vec<&'a str> {
    vec!["init", "--quiet", "--bare", "--shared=0644", branch, format]
}

/// What is the same for every `git` of one fetch.
struct Session<'a> {
    fetcher: &'a HostFetcher,
    from: &'a RemoteUrl,
    settings: Vec<String>,
    /// The setting that holds the token, as the variables in which git takes it (git-config(1), "ENVIRONMENT").
    token: Option<(String, SecretString)>,
}

impl<'a> Session<'a> {
    fn new(fetcher: &'a HostFetcher, from: &'a RemoteUrl) -> Result<Self> {
        let options = &fetcher.options;
        let mut settings = hardening::arguments(from.protocol());
        let mut set = |name: &str, value: &str| settings.extend(["-c".to_owned(), format!("{name}={value}")]);
        let mut token = None;
        match (from.protocol(), &fetcher.ssh) {
            (Protocol::Ssh, Some(ssh)) => set("core.sshCommand", ssh),
            (Protocol::Https, _) => {
                if let Some(file) = &options.certificate_authorities {
                    set("http.sslCAInfo", &file.to_string_lossy());
                }
                token = options.credentials.get(from.authority()).map(|(user, token)| {
                    let pair = SecretString::from(format!("{user}:{}", token.expose_secret()));
                    let pair =
                        SecretString::from(data_encoding::BASE64.encode(pair.expose_secret().as_bytes()));
                    let header = SecretString::from(format!("Authorization: Basic {}", pair.expose_secret()));
                    (format!("http.https://{}/.extraHeader", from.authority()), header)
                });
            }
            _ => return Err(Error::new(ErrorKind::Unsupported, FETCH).with("protocol", from.protocol())),
        }
        Ok(Self { fetcher, from, settings, token })
    }

    async fn git(&self, place: &Place, arguments: Vec<&str>) -> Result<Vec<u8>> {
        let HostFetcherOptions { path, deadline, largest, .. } = &self.fetcher.options;
        let mut variables: Vec<_> = hardening::variables(path, "/dev/null", self.from.protocol()).collect();
        if let Some((setting, header)) = &self.token {
            variables.push(("GIT_CONFIG_COUNT", "1"));
            variables.push(("GIT_CONFIG_KEY_0", setting));
            variables.push(("GIT_CONFIG_VALUE_0", header.expose_secret()));
        }
        let arguments =
            self.settings.iter().cloned().chain(arguments.into_iter().map(str::to_owned)).collect();
        let bounds = Bounds { deadline: *deadline, largest: *largest };
        Git { arguments, variables, directory: &place.0 }.run(FETCH, bounds).await
    }

    /// Fetches every branch and tag to get at one commit: for servers that speak protocol 0, which hands out nothing
    /// but tips. An `sshd` that does not accept the variable `GIT_PROTOCOL` is one of them.
    async fn fetch_all(&self, place: &Place, commit: &CommitId) -> Result<()> {
        let all = ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"];
        let mut fetch =
            vec!["fetch", "--quiet", "--no-write-fetch-head", "--no-tags", "--", self.from.as_str()];
        fetch.extend(all);
        self.git(place, fetch).await?;
        let exists = format!("{commit}^{{commit}}");
        self.git(place, vec!["cat-file", "-e", &exists]).await.map(drop).map_err(|error| {
            Error::new(ErrorKind::NotFound, FETCH)
                .because("the commit is on no branch and no tag, and the server hands out no others")
                .caused_by(error)
        })
    }

    /// The branch that the forge's `HEAD` names, and the hash function of its commits.
    async fn head(&self, place: &Place) -> Result<Head> {
        let printed =
            self.git(place, vec!["ls-remote", "--symref", "--", self.from.as_str(), "HEAD"]).await?;
        Ok(Head::parse(&String::from_utf8_lossy(&printed)))
    }
}

/// What `git ls-remote --symref` says of `HEAD`.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    branch: String,
    format: &'static str,
    /// Whether there is a commit at it, as in every repository that has one at all, but for a few.
    is_born: bool,
}

impl Head {
    /// Reads `ref: refs/heads/main<tab>HEAD` and `<commit><tab>HEAD`.
    fn parse(printed: &str) -> Self {
        let lines = || printed.lines().filter_map(|line| line.strip_suffix("\tHEAD"));
        let branch = lines().find_map(|line| line.strip_prefix("ref: refs/heads/"));
        let branch = branch.filter(|branch| RevisionName::parse(branch).is_ok());
        let commit = lines().find_map(|line| CommitId::parse(line).ok());
        Self {
            // A name that no branch can have: a `HEAD` on no branch is found on none.
            branch: branch.unwrap_or("ci/head-is-on-no-branch").to_owned(),
            format: commit.as_ref().map_or("--object-format=sha1", object_format),
            is_born: commit.is_some(),
        }
    }
}

/// A folder for one repository, removed with this value.
#[derive(Debug)]
struct Place(PathBuf);

impl Place {
    fn new(folder: &Path) -> Result<Self> {
        let failed = |error: io::Error| {
            Error::new(ErrorKind::Unavailable, FETCH).detail(folder.display().to_string()).caused_by(error)
        };
        let mut random = [0_u8; 16];
        getrandom::fill(&mut random)
            .map_err(|error| Error::new(ErrorKind::Unavailable, FETCH).caused_by(error))?;
        let place = Self(folder.join(format!("{PREFIX}{}", data_encoding::HEXLOWER.encode(&random))));
        std::fs::create_dir(&place.0).map_err(failed)?;
        // Whatever the process's mask is: a helper enters it as another user. The folder around it is closed.
        std::fs::set_permissions(&place.0, Permissions::from_mode(0o755)).map_err(failed)?;
        Ok(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, folder = %self.0.display(), "a fetched repository is left; the next start removes it");
        }
    }
}

/// The permissions of group and others.
const OPEN_TO_OTHERS: u32 = 0o077;

fn make_private(folder: &Path, failed: impl Fn(io::Error) -> Error) -> Result<()> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    let metadata = std::fs::symlink_metadata(folder).map_err(&failed)?;
    let is_ours = metadata.uid() == rustix::process::geteuid().as_raw();
    if metadata.is_dir() && is_ours && (metadata.mode() & OPEN_TO_OTHERS) == 0 {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Denied, OPEN)
        .because("it must be a folder of this process's user that is closed to others; run chmod 700 on it")
        .detail(folder.display().to_string()))
}

fn lock(folder: &Path, failed: impl Fn(io::Error) -> Error) -> Result<File> {
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(folder.join("lock"))
        .map_err(&failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::new(ErrorKind::Conflict, OPEN)
            .because("another fetcher uses it; give each its own folder")
            .detail(folder.display().to_string())),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// Removes what an earlier process left.
fn sweep(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_head_is_a_branch_or_none() {
        let id = "b".repeat(64);
        let head = Head::parse(&format!("ref: refs/heads/trunk\tHEAD\n{id}\tHEAD\n"));
        let format = "--object-format=sha256";
        assert_eq!(head, Head { branch: "trunk".to_owned(), format, is_born: true });
        for hostile in [
            "",
            "ref: refs/heads/--upload-pack=id\tHEAD",
            "ref: refs/tags/v1\tHEAD",
            "ref: refs/heads/a b\tHEAD",
        ] {
            assert_eq!(Head::parse(hostile).branch, "ci/head-is-on-no-branch", "{hostile}");
        }
    }

    proptest! {
        #[test]
        fn no_answer_makes_an_option(printed in "(ref: refs/heads/)?.{0,40}(\tHEAD\n)?") {
            prop_assert!(!Head::parse(&printed).branch.starts_with('-'));
        }
    }
}
