//! An SSH server in front of debug sessions: a person who was let into a job's sandbox reaches it with any SSH client.
//!
//! [`ci_core::debug`] decides who comes in, for how long, and keeps the record. This is the way there: what a
//! [`DebugAccess`] starts, an SSH client sees, and nothing else.
//!
//! - There is a listener only while an access is open that was given to [`Server::admit`]. With the last one it goes.
//! - The user's name is the job's id, and one of the keys that came with the access has to sign. There are no passwords.
//!   Six attempts, 20 seconds and a bounded number of connections are all that a stranger has.
//! - A connection has one session: a shell or a command, with or without a terminal. Agents, ports, sockets and X11 are not
//!   forwarded, variables of the client are not taken, and there are no subsystems (`sftp`). Files come and go by
//!   `scp -O`, where the image has `scp`, or as `tar c folder | ssh ... tar x`.
//! - When the access ends, however it does, its connections are told why and are cut within two seconds.
//!
//! The host key is the server's own: a fresh one, or one that the operator keeps. [`Endpoint::known_hosts_line`] is what a
//! person's client has to believe, and [`Endpoint::fingerprint`] what it asks about.
//!
//! Keys are Ed25519 or ECDSA, also of a security key; RSA is not taken. An account at a forge often has a key of each:
//! take those that are supported, as the example does, and tell the person when there is none.
//!
//! # Example
//!
//! ```no_run
//! # async fn example(
//! #     desk: ci_core::debug::Desk,
//! #     grant: ci_core::access::Grant<ci_core::access::Write>,
//! #     job: ci_core::id::JobId,
//! #     keys_of_ada: &str,
//! # ) -> ci_core::Result<()> {
//! use std::time::Duration;
//!
//! use ci_sandbox::debug::{AuthorizedKey, Config, HostKey, Server};
//!
//! // Once: where people can reach it, which the operator decides.
//! let server = Server::new(Config::new("192.0.2.7:2222".parse().expect("an address"), HostKey::random()?));
//!
//! // When somebody asks: `grant` is theirs, and so are the keys, from their account at the forge.
//! let access = desk.open(&grant, &job, Duration::from_secs(1800)).await?;
//! let keys: Vec<_> = keys_of_ada.lines().filter_map(|line| AuthorizedKey::parse(line).ok()).collect();
//! let endpoint = server.admit(access, keys).await?;
//! println!("ssh -p {} {}@ci.example.org", endpoint.address().port(), endpoint.user());
//! println!("{}", endpoint.fingerprint());
//! # Ok(())
//! # }
//! ```
//!
//! # What it does not protect from
//!
//! A flood of connections keeps others out for as long as it lasts: where the world can reach the address, put a firewall
//! or a private network around it.

mod connection;
mod key;
mod terminal;

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener as Socket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ci_core::debug::DebugAccess;
use ci_core::{Error, ErrorKind, Result};
use russh::keys::PublicKey;
use russh::{MethodKind, MethodSet, SshId, server};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::sleep;

pub use self::key::{AuthorizedKey, Endpoint, HostKey};

const OPERATION: &str = "open a way to a debug session";

/// How many keys may come with an access.
pub const MOST_KEYS: usize = 32;

/// Where and how a [`Server`] listens.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// Where it listens; port 0 is any free one, another one whenever nobody was let in for a while.
    pub address: SocketAddr,
    /// What it proves to be with.
    pub host_key: HostKey,
    /// How long a client may take until it has proven who it is: 20 seconds.
    pub handshake: Duration,
    /// How many connections there may be at a time: 32. Half as many may not yet have proven who they are.
    pub most_connections: usize,
}

impl Config {
    /// Listens at `address`, as `host_key`.
    pub fn new(address: SocketAddr, host_key: HostKey) -> Self {
        Self { address, host_key, handshake: Duration::from_secs(20), most_connections: 32 }
    }

    /// Replaces how long a client may take until it has proven who it is.
    pub fn with_handshake(mut self, handshake: Duration) -> Self {
        self.handshake = handshake;
        self
    }

    /// Replaces how many connections there may be at a time.
    pub fn with_most_connections(mut self, most: usize) -> Self {
        self.most_connections = most;
        self
    }
}

/// An SSH server for the debug sessions of one process. Clones are the same server.
///
/// It works in tasks of the runtime in which [`admit`](Self::admit) is called, and goes on until the last access ends,
/// whether or not it is dropped.
#[derive(Clone, Debug)]
pub struct Server {
    shared: Arc<Shared>,
}

struct Shared {
    config: Config,
    protocol: Arc<server::Config>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    admitted: Vec<Arc<Admitted>>,
    listening: Option<Listening>,
}

/// Who may come in.
struct Admitted {
    access: DebugAccess,
    keys: Vec<PublicKey>,
}

/// A listener, which goes when this is dropped.
struct Listening {
    address: SocketAddr,
    _end: oneshot::Sender<()>,
}

impl Server {
    /// A server that listens nowhere yet.
    pub fn new(config: Config) -> Self {
        let protocol = Arc::new(protocol(&config));
        Self { shared: Arc::new(Shared { config, protocol, state: Mutex::default() }) }
    }

    /// Lets in whoever proves to have one of `keys`, as the user of the access's job, until the access ends. Keep a clone
    /// of it to close it earlier.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] without a key, or with more than [`MOST_KEYS`]; [`ErrorKind::Conflict`] when somebody else
    /// listens at the address; [`ErrorKind::Unavailable`] when nobody can listen there, and outside of a tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, nobody is let in, and the access is dropped.
    pub async fn admit(
        &self,
        access: DebugAccess,
        keys: impl IntoIterator<Item = AuthorizedKey>,
    ) -> Result<Endpoint> {
        let keys: Vec<_> = keys.into_iter().take(MOST_KEYS + 1).map(AuthorizedKey::into_inner).collect();
        if keys.is_empty() || keys.len() > MOST_KEYS {
            return Err(Error::new(ErrorKind::Invalid, OPERATION)
                .because("an access comes with 1 to 32 keys")
                .with("job", access.job()));
        }
        let runtime = Handle::try_current().map_err(|error| {
            Error::new(ErrorKind::Unavailable, OPERATION).because("it needs a tokio runtime").caused_by(error)
        })?;
        let admitted = Arc::new(Admitted { access, keys });
        let address = self.listen(&runtime, &admitted).await?;
        let (shared, ended) = (self.shared.clone(), admitted.access.ended());
        let endpoint = Endpoint::new(address, admitted.access.job(), &self.shared.config.host_key);
        runtime.spawn(async move {
            ended.await;
            shared.dismiss(&admitted);
        });
        Ok(endpoint)
    }

    /// Adds somebody, and listens if nobody does yet.
    async fn listen(&self, runtime: &Handle, admitted: &Arc<Admitted>) -> Result<SocketAddr> {
        // A listener of ours that is just going.
        const PATIENCE: u32 = 100;
        const PAUSE: Duration = Duration::from_millis(10);
        let mut tries = 0;
        loop {
            match self.shared.try_listen(runtime, admitted) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries < PATIENCE => {
                    tries += 1;
                    sleep(PAUSE).await;
                }
                listening => return listening.map_err(|error| self.no_listener(error)),
            }
        }
    }

    fn no_listener(&self, error: io::Error) -> Error {
        let kind = match error.kind() {
            io::ErrorKind::AddrInUse => ErrorKind::Conflict,
            _ => ErrorKind::Unavailable,
        };
        Error::new(kind, OPERATION)
            .because("nobody can listen at the address of the configuration")
            .detail(self.shared.config.address.to_string())
            .caused_by(error)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One step, so that a listener never goes while somebody is added.
    fn try_listen(self: &Arc<Self>, runtime: &Handle, admitted: &Arc<Admitted>) -> io::Result<SocketAddr> {
        let mut state = self.state();
        let listening = match state.listening.take() {
            Some(listening) => listening,
            None => self.bind(runtime)?,
        };
        let address = listening.address;
        state.listening = Some(listening);
        state.admitted.push(admitted.clone());
        Ok(address)
    }

    fn bind(self: &Arc<Self>, runtime: &Handle) -> io::Result<Listening> {
        let socket = Socket::bind(self.config.address)?;
        socket.set_nonblocking(true)?;
        let (address, socket) = (socket.local_addr()?, TcpListener::from_std(socket)?);
        let (end, ended) = oneshot::channel();
        runtime.spawn(connection::serve(self.clone(), socket, ended));
        Ok(Listening { address, _end: end })
    }

    /// An access has ended. With the last one the listener goes.
    fn dismiss(&self, admitted: &Arc<Admitted>) {
        let mut state = self.state();
        state.admitted.retain(|other| !Arc::ptr_eq(other, admitted));
        if state.admitted.is_empty() {
            state.listening = None;
        }
    }

    /// The access of whoever says to be `user` and shows `key`.
    fn access(&self, user: &str, key: &PublicKey) -> Option<DebugAccess> {
        let state = self.state();
        let is_meant = |admitted: &&Arc<Admitted>| {
            admitted.access.job().as_str() == user
                && admitted.keys.iter().any(|known| known.key_data() == key.key_data())
        };
        state.admitted.iter().find(is_meant).map(|admitted| admitted.access.clone())
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("config", &self.config)
            .field("admitted", &self.state().admitted.len())
            .finish_non_exhaustive()
    }
}

/// What the protocol's implementation is told.
fn protocol(config: &Config) -> server::Config {
    server::Config {
        server_id: SshId::Standard("SSH-2.0-ci".into()),
        methods: MethodSet::from(&[MethodKind::PublicKey][..]),
        auth_rejection_time: Duration::from_millis(500),
        // A client asks for nothing first, only to hear what there is.
        auth_rejection_time_initial: Some(Duration::ZERO),
        max_auth_attempts: 6,
        keys: vec![config.host_key.clone().into_inner()],
        window_size: 256 * 1024,
        inactivity_timeout: None,
        keepalive_interval: Some(Duration::from_secs(15)),
        keepalive_max: 3,
        ..server::Config::default()
    }
}
