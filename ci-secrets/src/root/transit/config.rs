//! Which key of which engine of which server.

use ci_core::{Error, ErrorKind, Result};

use crate::root::https::{CertificateAuthorities, Server};
use crate::root::remote::Patience;

const SET_UP: &str = "set up the transit engine";
/// A reference has 256 bytes at most, with what is in front of the names.
const LONGEST: usize = 240;

/// Where the root key of a [`TransitRoot`](crate::TransitRoot) is; its example shows it.
#[derive(Debug)]
pub struct TransitConfig {
    pub(super) server: Server,
    pub(super) namespace: Option<String>,
    pub(super) mount: String,
    pub(super) key: String,
    pub(super) patience: Patience,
}

impl TransitConfig {
    /// The key `key` at the server `address` (`https://host:port`), which shows a certificate by one of
    /// `authorities`; in the engine that is mounted at `transit`.
    ///
    /// The reference of the root key ([`key_ref`](crate::RootKey::key_ref)) follows from address, namespace, mount and
    /// name: a server that is to be reached by another name later needs one for life.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when the address is not one, or the name holds other characters than ASCII letters,
    /// digits, `_`, `-` and `.`.
    pub fn new(address: &str, authorities: &CertificateAuthorities, key: &str) -> Result<Self> {
        let server = Server::new(address, authorities)?;
        let key = part(key, "its key's name")?;
        let patience = Patience::default();
        Ok(Self { server, namespace: None, mount: "transit".to_owned(), key, patience })
    }

    /// In the engine that is mounted at `mount`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when it is not a path of names, as of a key, with `/` between them.
    pub fn with_mount(self, mount: &str) -> Result<Self> {
        Ok(Self { mount: path(mount, "its mount")?, ..self })
    }

    /// In the namespace `namespace`, which goes along as `X-Vault-Namespace`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when it is not a path of names, as of a key, with `/` between them.
    pub fn with_namespace(self, namespace: &str) -> Result<Self> {
        Ok(Self { namespace: Some(path(namespace, "its namespace")?), ..self })
    }

    /// With such patience.
    pub fn with_patience(self, patience: Patience) -> Self {
        Self { patience, ..self }
    }

    pub(super) fn reference(&self) -> Result<String> {
        let namespace = self.namespace.as_ref().map(|namespace| format!("{namespace}/")).unwrap_or_default();
        let place = format!("{}/{namespace}{}/{}", self.server.authority(), self.mount, self.key);
        if place.len() > LONGEST {
            return Err(Error::new(ErrorKind::Invalid, SET_UP).because("its address and names are too long"));
        }
        Ok(format!("transit:{place}"))
    }
}

fn path(text: &str, what: &'static str) -> Result<String> {
    let trimmed = text.trim_matches('/');
    for one in trimmed.split('/') {
        part(one, what)?;
    }
    Ok(trimmed.to_owned())
}

fn part(text: &str, what: &'static str) -> Result<String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    if text.is_empty() || text.bytes().all(|byte| byte == b'.') || !text.bytes().all(is_plain) {
        return Err(Error::new(ErrorKind::Invalid, SET_UP)
            .because(format!("{what} is not made of ASCII letters, digits, '_', '-' and '.'")));
    }
    Ok(text.to_owned())
}
