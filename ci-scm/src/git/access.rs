//! People and permissions from a file that the operator keeps.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use ci_core::access::{Level, PermissionSource, Session, Verdict};
use ci_core::clock::{Clock, Timestamp};
use ci_core::forge::{Challenge, SignIn};
use ci_core::id::{ForgeId, NativeId, RepositoryId, UserId};
use ci_core::{Error, ErrorKind, Result};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq as _};

use super::table::{Repository, Table, TokenDigest, invalid};
use super::url::Protocols;

/// People, repositories and permissions from a TOML file: the sign-in and the permission source of a forge that
/// is nothing but git repositories.
///
/// ```toml
/// forge = "git"
/// tenant = "acme"
///
/// [people.alice]
/// token = "sha256:…"                        # the second value of `AccessFile::new_token`
///
/// [people.bob]
/// token = "sha256:…"
///
/// [[repository]]
/// id = "app"                                # for ever: logs, caches and secrets belong to this id
/// url = "file:///srv/git/app.git"
/// protected = ["main", "release/*"]         # branches: exact names, `folder/*`, or `*`
/// protected_tags = ["*"]
/// admin = ["alice"]
/// write = ["bob"]
/// everyone = "read"                         # all people of this file
/// ```
///
/// Whoever can write the file can give themselves everything, so it is refused unless it belongs to root or to
/// the user of this process and neither group nor others can write to it. Keep its folder as closed, and replace
/// the file by renaming a new one over it.
///
/// It is read again for every question, so that a permission taken away in it stops at once: the next question
/// gets the new answer, and [`withdrawn`](PermissionSource::withdrawn) ends grants that were made before. A file
/// that is missing, open to others or malformed grants nobody anything until it is whole again; the state before
/// does not live on. A person whose token was replaced while this value lives is signed out, and jobs that they had
/// started with the old one and that still wait are refused; of a token that was replaced before, nothing is known.
///
/// Reading blocks for as long as the file system does: keep the file on a disk of this machine.
///
/// # Example
///
/// ```
/// # use std::{fs, sync::Arc};
/// use ci_core::access::{Authority, Read, Write};
/// use ci_core::clock::SystemClock;
/// use ci_core::forge::SignIn as _;
/// use ci_scm::git::{AccessFile, AccessFileOptions};
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("access.toml");
/// let (token, digest) = AccessFile::new_token(); // the token is alice's, the digest goes into the file
/// fs::write(&path, format!(r#"
///     forge = "git"
///     tenant = "acme"
///     [people.alice]
///     token = "{digest}"
///     [[repository]]
///     id = "app"
///     url = "file:///srv/git/app.git"
///     read = ["alice"]
/// "#))?;
/// # use std::os::unix::fs::PermissionsExt as _;
/// # fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
///
/// let clock = Arc::new(SystemClock::new());
/// let file = Arc::new(AccessFile::open(&path, clock.clone(), AccessFileOptions::default())?);
/// let authority = Authority::new(file.clone(), clock);
///
/// let alice = authority.sign_in(file.as_ref(), &file.begin().await?, token).await?;
/// let app = file.repositories()?.remove(0);
/// assert!(authority.grant::<Read>(&alice, &app).await.is_ok());
/// assert!(authority.grant::<Write>(&alice, &app).await.is_err());
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct AccessFile {
    path: PathBuf,
    protocols: Protocols,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

/// What an [`AccessFile`] may contain.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct AccessFileOptions {
    /// Which protocols its URLs may use.
    pub protocols: Protocols,
}

impl AccessFileOptions {
    /// Replaces which protocols the file's URLs may use.
    pub fn with_protocols(mut self, protocols: Protocols) -> Self {
        self.protocols = protocols;
        self
    }
}

#[derive(Debug)]
struct State {
    /// The file's text as it was read last, to parse it only when it has changed.
    digest: TokenDigest,
    /// What it says; `None` while it cannot be believed.
    table: Option<Arc<Table>>,
    /// Grows with every change.
    generation: u64,
    read_at: Timestamp,
    /// The last tokens that were believed, also while the file is broken.
    tokens: BTreeMap<NativeId, TokenDigest>,
    /// Sessions of these people that began at this time or before belong to a token that is gone.
    ended: BTreeMap<NativeId, Timestamp>,
}

impl AccessFile {
    /// How many bytes the file may have.
    pub const MOST: u64 = 1024 * 1024;

    /// Opens the file at `path` and reads it for the first time.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] when there is none; [`ErrorKind::Denied`] when others could have written it;
    /// [`ErrorKind::LimitExceeded`] when it is longer than [`MOST`](Self::MOST); [`ErrorKind::Invalid`] when it
    /// is not a file, or does not hold what it must.
    pub fn open(path: impl Into<PathBuf>, clock: Arc<dyn Clock>, options: AccessFileOptions) -> Result<Self> {
        let (path, AccessFileOptions { protocols }) = (path.into(), options);
        let text = read(&path)?;
        let table = Table::parse(&text, &protocols)?;
        let state = State {
            digest: Sha256::digest(&text).into(),
            tokens: table.tokens.clone(),
            table: Some(Arc::new(table)),
            generation: 1,
            read_at: clock.now(),
            ended: BTreeMap::new(),
        };
        Ok(Self { path, protocols, clock, state: Mutex::new(state) })
    }

    /// A new token for a person, and what to write into the file for it.
    ///
    /// The token is 256 random bits. That is why a plain digest is enough: there is nothing to guess.
    ///
    /// # Panics
    ///
    /// When the operating system has no random bytes to give.
    pub fn new_token() -> (SecretString, String) {
        let mut random = [0_u8; 32];
        getrandom::fill(&mut random).expect("the operating system gives random bytes");
        let token = SecretString::from(data_encoding::BASE64URL_NOPAD.encode(&random));
        let line = format!("sha256:{}", data_encoding::HEXLOWER.encode(&digest_of(&token)));
        (token, line)
    }

    /// The repositories in the file.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] when the file cannot be believed.
    pub fn repositories(&self) -> Result<Vec<RepositoryId>> {
        Ok(self.refreshed().believed("list repositories")?.repositories.keys().cloned().collect())
    }

    /// What the file says about one repository.
    pub(crate) fn repository(&self, id: &RepositoryId) -> Result<Repository> {
        let table = self.refreshed().believed("look up a repository")?;
        table.repositories.get(id).cloned().ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "look up a repository")
                .because("there is no such repository in the access file")
        })
    }

    /// The state after the file was read once more.
    fn refreshed(&self) -> MutexGuard<'_, State> {
        // The lock is held while the file is read, so that an older text cannot overtake a newer one.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let text = read(&self.path);
        let digest: TokenDigest = Sha256::digest(text.as_deref().unwrap_or_default()).into();
        let is_known = text.is_ok() && state.table.is_some() && state.digest == digest;
        if !is_known {
            match text.and_then(|text| Table::parse(&text, &self.protocols)) {
                Ok(table) => state.replace(table, digest),
                Err(error) => state.distrust(&error),
            }
        }
        state.read_at = self.clock.now();
        state
    }
}

impl State {
    fn replace(&mut self, table: Table, digest: TokenDigest) {
        for (person, token) in &self.tokens {
            if table.tokens.get(person) != Some(token) {
                // The old token was good until the last reading at most; whoever signs in after it has the new one.
                self.ended.insert(person.clone(), self.read_at);
            }
        }
        self.tokens.clone_from(&table.tokens);
        self.table = Some(Arc::new(table));
        self.digest = digest;
        self.generation += 1;
    }

    fn distrust(&mut self, error: &Error) {
        if self.table.take().is_some() {
            self.generation += 1;
            tracing::error!(error = %error.for_operator(), "the access file cannot be used; nobody gets anything");
        }
    }

    fn believed(&self, operation: &'static str) -> Result<Arc<Table>> {
        self.table.clone().ok_or_else(|| {
            Error::new(ErrorKind::Unavailable, operation)
                .because("the list of people and permissions cannot be used now; the operator's log says why")
        })
    }

    fn level(&self, table: &Table, who: &Session, repository: &RepositoryId) -> Level {
        let person = who.user().native();
        let is_ended = self.ended.get(person).is_some_and(|ended| who.signed_in_at() <= *ended);
        if is_ended || *who.user().forge() != table.forge || !table.tokens.contains_key(person) {
            return Level::None;
        }
        table.repositories.get(repository).map_or(Level::None, |found| found.level(person))
    }
}

#[async_trait]
impl PermissionSource for AccessFile {
    async fn permission(&self, who: &Session, repository: &RepositoryId) -> Result<Verdict> {
        let observed_at = self.clock.now();
        let state = self.refreshed();
        let table = state.believed("ask for a permission")?;
        let level = state.level(&table, who, repository);
        Ok(Verdict::new(level, observed_at).with_generation(state.generation))
    }

    /// It reads the file, a local one of at most [`MOST`](AccessFile::MOST) bytes.
    fn withdrawn(&self, who: &Session, repository: &RepositoryId, verdict: &Verdict) -> bool {
        let state = self.refreshed();
        match &state.table {
            Some(_) if state.generation == verdict.generation => false,
            Some(table) => state.level(table, who, repository) < verdict.level,
            None => true,
        }
    }
}

#[async_trait]
impl SignIn for AccessFile {
    async fn begin(&self) -> Result<Challenge> {
        self.refreshed().believed("begin to sign in")?;
        Ok(Challenge::Credential)
    }

    async fn complete(&self, challenge: &Challenge, answer: SecretString) -> Result<UserId> {
        let denied = || Error::new(ErrorKind::Denied, "sign in");
        let table = self.refreshed().believed("sign in")?;
        if !matches!(challenge, Challenge::Credential) {
            return Err(denied().because("this forge asks for a token and nothing else"));
        }
        if answer.expose_secret().is_empty() {
            return Err(denied().because("an empty token is no credential"));
        }
        let given = digest_of(&answer);
        // Every digest is looked at, whichever it is: the time tells nothing about who is in the file.
        let mut found = None;
        for (person, token) in &table.tokens {
            let is_theirs: Choice = token.ct_eq(&given);
            if bool::from(is_theirs) {
                found = Some(person);
            }
        }
        let person = found.ok_or_else(|| denied().because("nobody has this token"))?;
        Ok(UserId::new(person.clone(), ForgeId::clone(&table.forge)))
    }
}

fn digest_of(token: &SecretString) -> TokenDigest {
    Sha256::digest(token.expose_secret()).into()
}

/// The text of the file at `path`, if nobody else could have written it.
fn read(path: &Path) -> Result<String> {
    let failed = |error: std::io::Error| {
        let kind = if error.kind() == std::io::ErrorKind::NotFound {
            ErrorKind::NotFound
        } else {
            ErrorKind::Unavailable
        };
        Error::new(kind, "read the access file").detail(path.display().to_string()).caused_by(error)
    };
    // Not blocking, so that a pipe in place of the file does not hold up everybody.
    let nonblock = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(nonblock).open(path).map_err(failed)?;
    check_owner(&file, path, failed)?;
    let mut text = String::new();
    let read = file.take(AccessFile::MOST + 1).read_to_string(&mut text);
    match read {
        Ok(length) if length as u64 > AccessFile::MOST => {
            Err(Error::new(ErrorKind::LimitExceeded, "read the access file")
                .because("it is longer than 1 MiB")
                .detail(path.display().to_string()))
        }
        Ok(_) => Ok(text),
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => Err(invalid("it is not UTF-8")),
        Err(error) => Err(failed(error)),
    }
}

/// Looks at the opened file, not at its path, which could name another one by now.
fn check_owner(file: &File, path: &Path, failed: impl Fn(std::io::Error) -> Error) -> Result<()> {
    const WRITABLE_BY_OTHERS: u32 = 0o022;
    let metadata = file.metadata().map_err(failed)?;
    let denied = |why: &'static str| {
        Err(Error::new(ErrorKind::Denied, "read the access file")
            .because(why)
            .detail(path.display().to_string()))
    };
    if !metadata.is_file() {
        return Err(invalid("it is not a regular file").detail(path.display().to_string()));
    }
    if metadata.mode() & WRITABLE_BY_OTHERS != 0 {
        return denied("its group or others can write to it; run chmod go-w on it");
    }
    let owner = metadata.uid();
    if owner != 0 && owner != rustix::process::geteuid().as_raw() {
        return denied("it belongs to somebody else than root and the user of this process; run chown on it");
    }
    Ok(())
}
