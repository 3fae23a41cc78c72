//! Entries that each hold the hash of the one before.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Logged;
use super::tree::Tree;
use crate::error::{Error, ErrorKind, Result};
use crate::id::Digest;

/// The end of a chain. Who keeps it elsewhere notices when the whole log is put back to an earlier state.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use ci_core::audit::Head;
/// use ci_core::id::TenantId;
/// use ci_core::memory::Rig;
///
/// let head = Rig::new()?.audit.verify(&TenantId::parse("acme")?).await?;
/// let line = head.to_string(); // for a file, a ticket, a printer
/// assert!(line.starts_with("0:"));
/// assert_eq!(Head::parse(&line)?, head);
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// How many entries there are.
    pub count: u64,
    /// The hash of the last one.
    pub hash: Digest,
}

impl Head {
    /// The end of a chain without entries.
    pub fn start() -> Self {
        Self { count: 0, hash: Digest::of(b"ci audit log") }
    }

    /// Takes the text that `Display` gives: the count, a colon, and the hash.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when it is none.
    pub fn parse(text: &str) -> Result<Self> {
        let parsed = text
            .split_once(':')
            .and_then(|(count, hash)| Some(Self { count: decimal(count)?, hash: Digest::parse(hash).ok()? }));
        parsed.ok_or_else(|| {
            Error::new(ErrorKind::Invalid, "parse the end of an audit log")
                .because("it must be a number, a colon, and 64 lower-case hexadecimal digits")
        })
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.count, self.hash)
    }
}

/// A number as it is written, and in no other way: without a sign, and without zeros in front.
pub(super) fn decimal(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// Checks entries that were [exported](super::Audit::export), one after the other: for an auditor, who has no access to
/// the store.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use ci_core::audit::Chain;
/// use ci_core::memory::Rig;
/// # use ci_core::id::TenantId;
///
/// # let (rig, tenant) = (Rig::new()?, TenantId::parse("acme")?);
/// let act = rig.operator.act(&tenant, "audit.exported").await?;
/// let exported = rig.audit.export(&act, &tenant, 0).await?;
///
/// let mut chain = Chain::new();
/// let mut said = Vec::new();
/// for entry in &exported {
///     said.push(chain.push(entry)?.entry.action);
/// }
/// assert_eq!(said, ["audit.exported"]);
/// assert_eq!(*chain.head(), rig.audit.verify(&tenant).await?);
/// assert!(chain.push(&exported[0]).is_err()); // it has been
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Chain {
    head: Head,
    tree: Tree,
}

impl Default for Chain {
    fn default() -> Self {
        Self::new()
    }
}

impl Chain {
    /// A chain without entries.
    pub fn new() -> Self {
        Self { head: Head::start(), tree: Tree::default() }
    }

    pub(super) fn at(head: Head, tree: Tree) -> Option<Self> {
        (head.count == tree.size()).then_some(Self { head, tree })
    }

    /// Adds an entry as it is stored, and returns what it says.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Tampered`] when it is not the next one.
    pub fn push(&mut self, stored: &[u8]) -> Result<Logged> {
        let logged: Logged = serde_json::from_slice(stored).map_err(|error| {
            Error::new(ErrorKind::Tampered, "read the audit log")
                .with("entry", self.head.count)
                .caused_by(error)
        })?;
        if logged.number != self.head.count || logged.previous != self.head.hash {
            return Err(Error::new(ErrorKind::Tampered, "verify the audit log")
                .because("an entry was changed, removed, added or moved")
                .with("entry", self.head.count));
        }
        self.head = Head { count: self.head.count + 1, hash: Digest::of(stored) };
        self.tree.push(stored);
        Ok(logged)
    }

    /// Its end.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The root of the Merkle tree over its entries (RFC 6962, section 2.1): what a [`Checkpoint`](super::Checkpoint)
    /// signs.
    pub fn root(&self) -> Digest {
        Digest::from_sha256(self.tree.root())
    }

    pub(super) fn tree(&self) -> &Tree {
        &self.tree
    }
}
