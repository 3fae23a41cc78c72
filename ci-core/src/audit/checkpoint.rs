//! Signed statements of how far a log had come.

use std::fmt;

use data_encoding::{BASE64, HEXLOWER};
use serde::{Deserialize, Serialize};

use super::chain::{Chain, decimal};
use super::note::{SigningKey, VerifyingKey};
use super::tree::Tree;
use super::{Head, tampered};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Digest, TenantId};

/// What a log was at a moment, signed: its name, how many entries it had, and the root of the Merkle tree over them (RFC
/// 6962), in the format of <https://c2sp.org/tlog-checkpoint>.
///
/// Anybody who has the [`VerifyingKey`] can check it, and with it, later, that the log still begins with those entries:
/// [`Audit::verify_checkpoint`](super::Audit::verify_checkpoint) where the log is, [`verify`](Self::verify) where it was
/// exported to.
///
/// ```text
/// ci.example.org/audit/acme
/// 1027
/// CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=
///
/// — ci.example.org/audit/acme Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDe...
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    note: String,
    size: u64,
    root: Digest,
}

impl Checkpoint {
    /// Takes a checkpoint's text, if `key` has signed it, for the log that the key is for. Signatures of others, such as
    /// witnesses, are not looked at.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Tampered`] when it is not what was signed, or no checkpoint.
    pub fn open(note: &str, key: &VerifyingKey) -> Result<Self> {
        Self::read(key.open(note)?, note, key)
    }

    fn read(text: &str, note: &str, key: &VerifyingKey) -> Result<Self> {
        let wrong = || tampered("open a checkpoint").because("what was signed is no checkpoint of this log");
        let mut lines = text.lines();
        let (origin, size, root) = (lines.next(), lines.next(), lines.next());
        let size = size.and_then(decimal).ok_or_else(wrong)?;
        let root =
            root.and_then(|root| BASE64.decode(root.as_bytes()).ok()?.try_into().ok()).ok_or_else(wrong)?;
        if origin != Some(key.name()) || lines.any(str::is_empty) {
            return Err(wrong());
        }
        Ok(Self { note: note.to_owned(), size, root: Digest::from_sha256(root) })
    }

    /// How many entries the log had.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The root of the Merkle tree over them, as [`Chain::root`] gives it.
    pub fn root(&self) -> &Digest {
        &self.root
    }

    /// Checks `entries`, which were [exported](super::Audit::export) from the first one on, each as it was stored, and that
    /// they begin with those that were signed. Returns what they are together: its end, and the same
    /// [`Chain`] for the next entries.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Tampered`] when they are not the entries of this log, are not in order, or are fewer than were signed.
    ///
    /// # Example
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
    /// use ci_core::audit::{Checkpoint, SigningKey, VerifyingKey};
    /// # use std::{num::NonZeroU64, sync::Arc};
    /// # use ci_core::{id::TenantId, memory::Rig};
    /// # let (rig, tenant) = (Rig::new()?, TenantId::parse("acme")?);
    /// # let signing = Arc::new(SigningKey::random("ci.example.org/audit")?);
    /// # let audit = rig.audit.clone().with_checkpoints(signing.clone(), NonZeroU64::MIN);
    /// // The service hands out three texts.
    /// let act = rig.operator.act(&tenant, "audit.exported").await?;
    /// let key = signing.verifying_key(&tenant).to_string();
    /// let note = audit.checkpoint(&tenant).await?.to_string();
    /// let lines = audit.export(&act, &tenant, 0).await?.join(&b'\n'); // an entry has no line break
    ///
    /// // An auditor, elsewhere.
    /// let checkpoint = Checkpoint::open(&note, &VerifyingKey::parse(&key)?)?;
    /// let chain = checkpoint.verify(lines.split(|byte| *byte == b'\n'))?;
    /// assert_eq!(chain.head().count, 1);
    /// assert!(checkpoint.verify([b"none of them"]).is_err());
    /// # Ok::<(), ci_core::Error>(()) })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn verify<E: AsRef<[u8]>>(&self, entries: impl IntoIterator<Item = E>) -> Result<Chain> {
        let mut chain = Chain::new();
        self.check(&chain)?;
        for entry in entries {
            chain.push(entry.as_ref())?;
            self.check(&chain)?;
        }
        if chain.head().count < self.size {
            return Err(tampered("verify the audit log")
                .because("it has fewer entries than were signed: its end was cut off, or more were exported")
                .with("entries", chain.head().count)
                .with("signed", self.size));
        }
        Ok(chain)
    }

    /// The signed note.
    pub fn as_str(&self) -> &str {
        &self.note
    }

    /// That `chain` is what it was, when it is as long as it was then.
    pub(super) fn check(&self, chain: &Chain) -> Result<()> {
        if chain.head().count == self.size && chain.root() != self.root {
            return Err(tampered("verify the audit log")
                .because("its entries are not those that were signed")
                .with("entries", self.size));
        }
        Ok(())
    }
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.note)
    }
}

/// The latest checkpoint as it is stored, with what it takes to go on from there.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Stored {
    note: String,
    head: Head,
    peaks: Vec<Digest>,
}

impl Stored {
    /// Signs the state of `chain`.
    pub(super) fn sign(key: &SigningKey, tenant: &TenantId, chain: &Chain) -> Result<(Self, Checkpoint)> {
        let public = key.verifying_key(tenant);
        let (size, root) = (chain.tree().size(), BASE64.encode(&chain.tree().root()));
        let note = key.sign(tenant, &format!("{}\n{size}\n{root}\n", public.name()));
        let peaks = chain.tree().peaks().iter().map(|peak| Digest::from_sha256(*peak)).collect();
        let checkpoint = Checkpoint::open(&note, &public)?;
        Ok((Self { note, head: chain.head().clone(), peaks }, checkpoint))
    }

    /// What was signed and the chain that goes on from there, or `None` when another key signed it.
    ///
    /// The signature covers the peaks, which have its root; the hash of the last entry is checked by the entry that
    /// follows on it, and by who verifies all of the log.
    pub(super) fn open(&self, key: &VerifyingKey) -> Result<Option<(Checkpoint, Chain)>> {
        let wrong = || tampered("read the latest checkpoint").because("it is not what was stored");
        let Some(text) = key.look(&self.note)? else { return Ok(None) };
        let checkpoint = Checkpoint::read(text, &self.note, key)?;
        let bytes = |digest: &Digest| HEXLOWER.decode(digest.as_str().as_bytes()).ok()?.try_into().ok();
        let peaks: Option<Vec<[u8; 32]>> = self.peaks.iter().map(bytes).collect();
        let tree = peaks.and_then(|peaks| Tree::of(checkpoint.size, peaks)).ok_or_else(wrong)?;
        let chain = Chain::at(self.head.clone(), tree).ok_or_else(wrong)?;
        if chain.root() == checkpoint.root { Ok(Some((checkpoint, chain))) } else { Err(wrong()) }
    }
}

pub(super) fn no_key() -> Error {
    Error::new(ErrorKind::Unsupported, "sign a checkpoint")
        .because("the audit log has no key that signs; give it one with `Audit::with_checkpoints`")
}
