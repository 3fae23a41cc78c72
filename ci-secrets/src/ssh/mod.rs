//! SSH keys of repositories, and the agent that lends them to a checkout.
//!
//! - [`SshKeys`] keeps one Ed25519 key for every repository, sealed, and replaces it. It implements
//!   [`SshSigner`](ci_core::secret::SshSigner).
//! - `SshAgent` (feature `ssh-agent`, on Unix) hands signatures to `ssh` over a socket that lives as long as one checkout,
//!   and only for signing in to a pinned server.

#[cfg(all(unix, feature = "ssh-agent"))]
mod agent;
#[cfg(all(unix, feature = "ssh-agent"))]
mod host;
mod keys;
#[cfg(all(unix, feature = "ssh-agent"))]
mod message;
mod pair;
#[cfg(all(unix, feature = "ssh-agent"))]
mod session;
#[cfg(all(unix, feature = "ssh-agent"))]
mod wire;

#[cfg(all(unix, feature = "ssh-agent"))]
pub use agent::{Destination, SshAgent, SshAgentOptions};
#[cfg(all(unix, feature = "ssh-agent"))]
pub use host::HostKey;
pub use keys::SshKeys;
pub use pair::{SshKeyInfo, SshKeyStage};
