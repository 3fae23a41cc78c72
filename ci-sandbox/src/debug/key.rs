//! Keys, and what a person has to know of the server.

use std::fmt;
use std::net::SocketAddr;

use ci_core::id::JobId;
use ci_core::{Error, ErrorKind, Result};
use russh::keys::ssh_key::private::Ed25519Keypair;
use russh::keys::{Algorithm, HashAlg, PrivateKey, PublicKey};

/// A public key that lets a person in, as it stands in an `authorized_keys` file (sshd(8)) and in accounts at forges.
///
/// # Example
///
/// ```
/// use ci_sandbox::debug::AuthorizedKey;
///
/// let text = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIO9HNE4z1yjKLBMBXhrrRQqnX7hUXe3ckdQh3p3hXPWM ada";
/// assert!(AuthorizedKey::parse(text).is_ok());
/// assert!(AuthorizedKey::parse(&format!("command=\"id\" {text}")).is_err()); // no options
/// # Ok::<(), ci_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorizedKey(PublicKey);

impl AuthorizedKey {
    /// Takes one line: the algorithm, the key in Base64, and perhaps a comment. Options before it are refused.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when it is none; [`ErrorKind::Unsupported`] for RSA and DSA.
    pub fn parse(line: &str) -> Result<Self> {
        const OPERATION: &str = "parse a public key";
        // Ours are a few hundred bytes; the longest that others use, a few thousand.
        const LONGEST: usize = 16 * 1024;
        let invalid = || {
            Error::new(ErrorKind::Invalid, OPERATION)
                .because("it must be one line as in an authorized_keys file, without options")
        };
        if line.len() > LONGEST || line.trim().contains(char::is_control) {
            return Err(invalid());
        }
        let key = PublicKey::from_openssh(line.trim()).map_err(|error| invalid().caused_by(error))?;
        match key.algorithm() {
            Algorithm::Rsa { .. } | Algorithm::Dsa => Err(Error::new(ErrorKind::Unsupported, OPERATION)
                .because("RSA and DSA keys are not taken; use an Ed25519 or ECDSA key")),
            _ => Ok(Self(key)),
        }
    }

    pub(super) fn into_inner(self) -> PublicKey {
        self.0
    }
}

/// The private key that a server proves to be itself with. `Debug` shows its fingerprint alone.
#[derive(Clone)]
pub struct HostKey(PrivateKey);

impl HostKey {
    /// A fresh Ed25519 key. It is gone with the process, and people have to be told the new one then.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] when the operating system has no random bytes.
    pub fn random() -> Result<Self> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|error| {
            Error::new(ErrorKind::Unavailable, "make a host key").caused_by(std::io::Error::from(error))
        })?;
        Ok(Self(PrivateKey::from(Ed25519Keypair::from_seed(&seed))))
    }

    /// A key that the operator keeps, in the format of `ssh-keygen` (Ed25519 or ECDSA, without a passphrase).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when it is none, or has a passphrase; [`ErrorKind::Unsupported`] for RSA and DSA.
    pub fn from_openssh(text: &str) -> Result<Self> {
        const OPERATION: &str = "read a host key";
        let invalid = |why: &'static str| Error::new(ErrorKind::Invalid, OPERATION).because(why);
        let key = PrivateKey::from_openssh(text)
            .map_err(|error| invalid("it is no private key in OpenSSH's format").caused_by(error))?;
        if key.is_encrypted() {
            return Err(invalid("it has a passphrase; remove it, and protect the file"));
        }
        match key.algorithm() {
            Algorithm::Rsa { .. } | Algorithm::Dsa => Err(Error::new(ErrorKind::Unsupported, OPERATION)
                .because("RSA and DSA keys are not used; make an Ed25519 key")),
            _ => Ok(Self(key)),
        }
    }

    pub(super) fn into_inner(self) -> PrivateKey {
        self.0
    }

    fn fingerprint(&self) -> String {
        self.0.fingerprint(HashAlg::Sha256).to_string()
    }
}

impl fmt::Debug for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HostKey").field(&self.fingerprint()).finish()
    }
}

/// Where a person finds a debug session, and how they know that it is the right one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    address: SocketAddr,
    user: String,
    fingerprint: String,
    public_key: String,
}

impl Endpoint {
    pub(super) fn new(address: SocketAddr, job: &JobId, host_key: &HostKey) -> Self {
        let public = host_key.0.public_key();
        let mut public = public.clone();
        public.set_comment("");
        // What was made or parsed can be written.
        let public_key = public.to_openssh().unwrap_or_default().trim_end().to_owned();
        Self { address, user: job.as_str().to_owned(), fingerprint: host_key.fingerprint(), public_key }
    }

    /// Where the server listens, as it sees itself.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The user's name: the job's id.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The host key's fingerprint as `ssh` shows it: `SHA256:` and Base64.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The line for a client's `known_hosts` file (sshd(8)), where the server is reached as `host`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when `host` is no name or address.
    pub fn known_hosts_line(&self, host: &str) -> Result<String> {
        let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
        if host.is_empty() || host.len() > 253 || !host.bytes().all(is_host) {
            return Err(Error::new(ErrorKind::Invalid, "name a host").because("it is no name or address"));
        }
        let host = match self.address.port() {
            22 => host.to_owned(),
            port => format!("[{host}]:{port}"),
        };
        Ok(format!("{host} {}", self.public_key))
    }
}
