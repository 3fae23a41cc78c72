//! An SSH agent for one checkout.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ci_core::clock::Clock;
use ci_core::queue::Claim;
use ci_core::secret::SshSigner;
use ci_core::{Error, ErrorKind, Result};
use data_encoding::HEXLOWER;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

use super::host::HostKey;
use super::session::Session;

/// How long a message may be. The longest that is answered holds an RSA host key of 8,192 bits twice.
const MOST_BYTES: usize = 16 * 1024;
/// What the kernels take (unix(7)), with the zero at the end.
const MOST_PATH: usize = 104;
const OPEN: &str = "open an agent's socket";

/// An SSH agent in this process, for one checkout: `ssh` signs in with the repository's key over a socket, and the key
/// stays here.
///
/// It is the least an agent can be. It lists one key, and signs nothing but that a client signs in over SSH (RFC 4252,
/// section 7) as the expected user in a session with a pinned server, which that server has confirmed with its host key
/// (`session-bind@openssh.com`, OpenSSH 8.9 or newer). Whoever reaches the socket can therefore sign in to that server, as
/// the repository's deploy key may, and nowhere else. It refuses everything else: other data, other servers, forwarded
/// connections, a second server on one connection, adding and removing of keys, locking, other extensions.
///
/// The socket is open to this process's user only, in a folder of its own that is too, and both are removed when the
/// agent is dropped. It answers only during [`during`](Self::during), while the claim lasts. What a killed process left
/// answers nobody; keep the parent folder where it is cleared, such as in `/run`.
///
/// A forge's [`Source`](ci_core::forge::Source) opens one for each checkout. With `ci-scm` that is a source around `Git`: in
/// `checkout` it gives the socket (`SshIdentity::Agent`) to a `HostFetcher` of its own, in a folder of the job's, and has
/// the agent answer [during](Self::during) the checkout of a `Git` with that fetcher. What is asked before there is a
/// job, `resolve` and `read`, has no claim that a key would sign for: it takes a key of the operator's.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_io().build()?.block_on(async {
/// # use std::sync::Arc;
/// # use ci_core::memory::{Rig, Signer};
/// use ci_secrets::ssh::{Destination, HostKey, SshAgent};
/// # use ci_core::trust::Origin;
/// # let folder = tempfile::tempdir().expect("a folder");
/// # let (rig, signer) = (Rig::new()?, Arc::new(Signer::new()));
/// # let claim = rig.claim(&Rig::repository("1", "acme")?, Origin::Protected, Rig::spec()).await?;
///
/// let host = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl";
/// let forge = Destination::new("git", [HostKey::parse(host)?])?;
/// let agent = SshAgent::open(folder.path(), forge, signer, rig.clock.clone())?;
/// let socket = agent.socket().to_owned();
/// let checkout = async { assert!(socket.exists()) }; // `git` with `SSH_AUTH_SOCK` or `IdentityAgent`
/// agent.during(&claim, checkout).await;
/// assert!(!socket.exists());
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct SshAgent {
    place: Place,
    listener: UnixListener,
    destination: Destination,
    signer: Arc<dyn SshSigner>,
    clock: Arc<dyn Clock>,
    options: SshAgentOptions,
}

/// Where a checkout signs in: a user, and the keys by which the server is recognised.
#[derive(Clone, Debug)]
pub struct Destination {
    pub(super) user: String,
    pub(super) host_keys: Vec<HostKey>,
}

impl Destination {
    /// `user` at a server that has one of `host_keys`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] without a user or without a key.
    pub fn new(user: &str, host_keys: impl IntoIterator<Item = HostKey>) -> Result<Self> {
        let host_keys: Vec<_> = host_keys.into_iter().collect();
        if user.is_empty() || host_keys.is_empty() {
            return Err(Error::new(ErrorKind::Invalid, "pin an SSH server")
                .because("it takes a user and at least one host key"));
        }
        Ok(Self { user: user.to_owned(), host_keys })
    }
}

/// The bounds of an [`SshAgent`]; for [`SshAgent::with_options`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct SshAgentOptions {
    /// How many signatures it makes at most: 64. A checkout takes one for each connection.
    pub signatures: u32,
    /// How many connections it has open at a time: 8. Others wait.
    pub connections: usize,
    /// How long a connection may last: 1 minute. `ssh` closes it when it has signed in.
    pub connection: Duration,
}

impl Default for SshAgentOptions {
    fn default() -> Self {
        Self { signatures: 64, connections: 8, connection: Duration::from_mins(1) }
    }
}

impl SshAgentOptions {
    /// Replaces how many signatures it makes at most.
    pub fn with_signatures(mut self, signatures: u32) -> Self {
        self.signatures = signatures;
        self
    }

    /// Replaces how many connections it has open at a time, at least one.
    pub fn with_connections(mut self, connections: usize) -> Self {
        self.connections = connections.max(1);
        self
    }

    /// Replaces how long a connection may last.
    pub fn with_connection(mut self, connection: Duration) -> Self {
        self.connection = connection;
        self
    }
}

impl SshAgent {
    /// Opens a socket in a new folder below `parent`, on the tokio runtime that this is called on.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when the path would be longer than a socket's may be (about 100 bytes: keep `parent` short);
    /// [`ErrorKind::Unavailable`] when folder or socket cannot be made.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime that has I/O enabled.
    pub fn open(
        parent: &Path,
        destination: Destination,
        signer: Arc<dyn SshSigner>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let (place, listener) = Place::open(parent)?;
        Ok(Self { place, listener, destination, signer, clock, options: SshAgentOptions::default() })
    }

    /// Replaces the bounds.
    pub fn with_options(mut self, options: SshAgentOptions) -> Self {
        self.options = options;
        self
    }

    /// The path of the socket.
    pub fn socket(&self) -> &Path {
        &self.place.socket
    }

    /// Answers on the socket for the job that holds `claim`, until `work` is done; then the socket is gone.
    ///
    /// Nothing runs beside the returned future: whoever does not poll it gets no answers.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops `work`, closes every connection and removes the socket.
    pub async fn during<T>(self, claim: &Claim, work: impl Future<Output = T>) -> T {
        let quota = Quota(AtomicU32::new(self.options.signatures));
        tokio::select! {
            done = work => done,
            never = self.serve(claim, &quota) => match never {},
        }
    }

    async fn serve(&self, claim: &Claim, quota: &Quota) -> std::convert::Infallible {
        let mut open = FuturesUnordered::new();
        loop {
            tokio::select! {
                stream = self.accept(), if open.len() < self.options.connections => {
                    let session = Session::new(&self.destination, self.signer.as_ref(), claim, quota);
                    open.push(self.talk(stream, session));
                }
                Some(()) = open.next() => {}
            }
        }
    }

    /// The next connection. When there are too many open files, say, it waits for one.
    async fn accept(&self) -> UnixStream {
        const PAUSE: Duration = Duration::from_millis(100);
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => return stream,
                Err(error) => {
                    tracing::warn!(%error, "an agent's socket accepts no connection");
                    self.clock.sleep(PAUSE).await;
                }
            }
        }
    }

    /// Answers on one connection, until the client closes it or its time is up.
    async fn talk(&self, mut stream: UnixStream, mut session: Session<'_>) {
        // A client that goes away is nobody's error.
        let talk = async {
            loop {
                let length = usize::try_from(stream.read_u32().await?).unwrap_or(usize::MAX);
                if !(1..=MOST_BYTES).contains(&length) {
                    return Ok(());
                }
                let mut message = vec![0; length];
                stream.read_exact(&mut message).await?;
                let answer = session.answer(&message).await;
                let mut framed = Vec::with_capacity(4 + answer.len());
                super::wire::put_string(&mut framed, &answer);
                stream.write_all(&framed).await?;
            }
        };
        let talk = async {
            let ended: io::Result<()> = talk.await;
            ended.unwrap_or_default();
        };
        tokio::select! {
            () = talk => {}
            () = self.clock.sleep(self.options.connection) => {}
        }
    }
}

/// How many more signatures there are.
pub(super) struct Quota(AtomicU32);

impl Quota {
    /// Takes one, if there is one.
    pub(super) fn take(&self) -> bool {
        let less = |left: u32| left.checked_sub(1);
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, less).is_ok()
    }
}

/// The socket and its folder, which are removed when this is dropped.
#[derive(Debug)]
struct Place {
    folder: PathBuf,
    socket: PathBuf,
}

impl Place {
    fn open(parent: &Path) -> Result<(Self, UnixListener)> {
        let unavailable = |error: io::Error| Error::new(ErrorKind::Unavailable, OPEN).caused_by(error);
        let mut name = [0; 8];
        getrandom::fill(&mut name).map_err(|error| Error::new(ErrorKind::Internal, OPEN).caused_by(error))?;
        let folder = parent.join(format!("agent-{}", HEXLOWER.encode(&name)));
        let socket = folder.join("socket");
        if socket.as_os_str().len() >= MOST_PATH {
            return Err(Error::new(ErrorKind::Invalid, OPEN)
                .because("its path would be too long; choose a shorter folder")
                .detail(socket.display().to_string()));
        }
        DirBuilder::new().mode(0o700).create(&folder).map_err(unavailable)?;
        // From here on dropping it cleans up.
        let place = Self { folder, socket };
        let listener = UnixListener::bind(&place.socket).map_err(unavailable)?;
        fs::set_permissions(&place.socket, Permissions::from_mode(0o600)).map_err(unavailable)?;
        Ok((place, listener))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.socket);
        let _ = fs::remove_dir(&self.folder);
    }
}
