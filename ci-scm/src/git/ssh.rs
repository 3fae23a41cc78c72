//! The `ssh` that git may start: one key, pinned host keys, and nothing of a user's configuration.

use std::path::{Path, PathBuf};

use ci_core::{Error, ErrorKind, Result};

/// How SSH servers are recognised, and how they recognise us.
///
/// # Example
///
/// ```
/// use ci_scm::git::{HostFetcherOptions, SshIdentity, SshOptions};
///
/// let ssh = SshOptions::new("/etc/ci/known_hosts", SshIdentity::Agent("/run/ci/agent".into()));
/// let options = HostFetcherOptions::default().with_ssh(ssh);
/// assert!(options.ssh.is_some());
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SshOptions {
    /// A file of host keys in OpenSSH's format (see sshd(8)). A server with another
    /// key is refused; nothing is ever added to the file.
    pub known_hosts: PathBuf,
    /// The key that is offered.
    pub identity: SshIdentity,
}

impl SshOptions {
    /// Servers whose keys are in `known_hosts` get offered `identity`.
    pub fn new(known_hosts: impl Into<PathBuf>, identity: SshIdentity) -> Self {
        Self { known_hosts: known_hosts.into(), identity }
    }
}

/// The key that is offered to SSH servers.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum SshIdentity {
    /// A private key without a passphrase in this file, which `ssh` refuses if others can read it.
    KeyFile(PathBuf),
    /// The keys of the agent that listens on this socket.
    Agent(PathBuf),
}

impl SshOptions {
    /// The value for `core.sshCommand`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for a path that is not absolute or holds characters which a shell or `ssh` reads as
    /// something else.
    pub(crate) fn command(&self) -> Result<String> {
        let Self { known_hosts, identity } = self;
        let mut command = format!("ssh -F /dev/null -o UserKnownHostsFile={}", plain(known_hosts)?);
        let identity = match identity {
            SshIdentity::KeyFile(key) => {
                format!(" -o IdentityFile={} -o IdentitiesOnly=yes -o IdentityAgent=none", plain(key)?)
            }
            SshIdentity::Agent(socket) => {
                format!(" -o IdentityFile=none -o IdentityAgent={}", plain(socket)?)
            }
        };
        command.push_str(&identity);
        for (option, _why) in OPTIONS {
            command.push_str(" -o ");
            command.push_str(option);
        }
        Ok(command)
    }
}

const OPTIONS: &[(&str, &str)] = &[
    ("StrictHostKeyChecking=yes", "a server that is not in the file is refused, never asked about or added"),
    ("GlobalKnownHostsFile=/dev/null", "the operator's file is the only one"),
    ("UpdateHostKeys=no", "a server cannot add keys of its own"),
    ("VerifyHostKeyDNS=no", "nor can a name server"),
    ("KnownHostsCommand=none", "nor a program"),
    ("CheckHostIP=no", "the name is what was pinned"),
    ("CanonicalizeHostname=no", "the name in the URL is the name that is compared"),
    ("BatchMode=yes", "nobody is there to answer"),
    ("PreferredAuthentications=publickey", "no password and no ticket of a user is tried"),
    ("PasswordAuthentication=no", "no password is tried"),
    ("ForwardAgent=no", "the server gets no use of the key"),
    ("ForwardX11=no", "nor of a display"),
    ("ClearAllForwardings=yes", "nor of ports"),
    ("PermitLocalCommand=no", "no program but ssh"),
    ("ProxyCommand=none", "no program but ssh"),
    ("ControlMaster=no", "no connection of somebody else is used, and none is left"),
    ("ControlPath=none", "no connection of somebody else is used, and none is left"),
    ("EscapeChar=none", "bytes are bytes"),
    ("ConnectTimeout=30", "a server that hangs is an error"),
    ("ServerAliveInterval=15", "a server that hangs is an error"),
    ("ServerAliveCountMax=4", "a server that hangs is an error"),
    ("LogLevel=ERROR", "only what explains a failure"),
];

/// The path, if it means only itself: git hands the command to a shell, and ssh expands `%` and `~`.
fn plain(path: &Path) -> Result<&str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._+=@,-".contains(c);
    let text = path.to_str().filter(|text| text.starts_with('/') && text.chars().all(is_plain));
    text.ok_or_else(|| {
        Error::new(ErrorKind::Invalid, "configure ssh")
            .because("its paths must be absolute and hold only A-Z a-z 0-9 / . _ + = @ , -")
            .detail(path.display().to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_cannot_add_to_the_command() {
        for bad in ["relative", "/a b", "/a'b", "/a$(id)", "/a;id", "/%h", "~/x", "/a\nb", "/a\"b"] {
            let options = SshOptions::new(bad, SshIdentity::KeyFile("/key".into()));
            assert_eq!(options.command().expect_err(bad).kind(), ErrorKind::Invalid);
            let options = SshOptions::new("/known_hosts", SshIdentity::Agent(bad.into()));
            assert!(options.command().is_err(), "{bad}");
        }
    }

    #[test]
    fn host_keys_are_pinned_whatever_the_identity() {
        for identity in [SshIdentity::KeyFile("/key".into()), SshIdentity::Agent("/agent".into())] {
            let command = SshOptions::new("/etc/ci/known_hosts", identity).command().expect("a command");
            assert!(command.starts_with("ssh -F /dev/null -o UserKnownHostsFile=/etc/ci/known_hosts "));
            assert!(command.contains(" -o StrictHostKeyChecking=yes"));
        }
    }
}
