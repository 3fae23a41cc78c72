//! Sealed objects, and the sealed records that say what they are.
//!
//! An object is the header and the chunks of [`ci_core::seal`], under the key of its purpose. Its context is that
//! of the purpose and its own random name, so that the object of one upload never opens in place of another's.

use std::fmt;

use bytes::{Bytes, BytesMut};
use ci_core::access::Scope;
use ci_core::id::{Digest, KeyId};
use ci_core::records::{Batch, Key, Record};
use ci_core::seal::{CHUNK, CHUNK_HEADER, CHUNK_OVERHEAD, ChunkOpener, ChunkSealer, Context, DataKey, Place};
use ci_core::secret::Purpose;
use ci_core::{ByteSize, ByteStream, Error, ErrorKind, Result};
use data_encoding::HEXLOWER;
use futures_util::stream::{BoxStream, StreamExt as _};
use object_store::path::Path;
use object_store::{ObjectStoreExt as _, PutPayload};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Objects, error};

/// How much is handed to the store at a time: a store of Amazon's kind takes parts of at least 5 MiB.
const PART: usize = 8 * 1024 * 1024;

/// The name of an object: random, so it says nothing.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct ObjectName(String);

impl ObjectName {
    fn random() -> Result<Self> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)
            .map_err(|error| Error::new(ErrorKind::Internal, "name an object").caused_by(error))?;
        Ok(Self(HEXLOWER.encode(&bytes)))
    }

    /// The folder of all objects.
    pub(super) const FOLDER: &str = "objects";

    /// The name that consists of these two parts, if it is one of ours.
    pub(super) fn from_parts(first: &str, rest: &str) -> Option<Self> {
        let name = Self(format!("{first}{rest}"));
        (first.len() == 2 && name.is_well_formed()).then_some(name)
    }

    /// The name of the object at `path`, if it is one of ours.
    pub(super) fn from_path(path: &Path) -> Option<Self> {
        let (folder, parts) = path.as_ref().split_once('/')?;
        let (first, rest) = parts.split_once('/')?;
        (folder == Self::FOLDER).then(|| Self::from_parts(first, rest)).flatten()
    }

    /// Where it lies: no folder gets too many entries.
    pub(super) fn path(&self) -> Path {
        let (first, rest) = self.0.split_at(2);
        Path::from_iter([Self::FOLDER, first, rest])
    }

    /// The record that says where the object is in use: its value is the key of the record that names it.
    pub(super) fn mark(&self) -> Key {
        Key::new("object").part(&self.0)
    }

    fn is_well_formed(&self) -> bool {
        self.0.len() == 32 && self.0.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    }
}

impl fmt::Debug for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a record says of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stored {
    /// Which object.
    pub(super) object: ObjectName,
    /// Which key sealed it.
    pub(super) key: KeyId,
    /// How many bytes of content it has.
    pub(super) size: u64,
    /// The digest of the content.
    pub(super) digest: Digest,
    /// Which lease of its job wrote it.
    pub(super) token: u64,
}

impl Objects {
    /// Writes `content` to a new object. Nothing knows of it yet.
    pub(super) async fn upload(
        &self,
        scope: Scope<'_>,
        purpose: &Purpose,
        token: u64,
        content: ByteStream<'_>,
    ) -> Result<Stored> {
        const OPERATION: &str = "write an object";
        let key = self.ring.data_key(scope, purpose, None).await?;
        let object = ObjectName::random()?;
        let (sealing, header) = Sealing::new(&key, &place(purpose, &object));
        let path = object.path();
        let mut upload =
            self.store.put_multipart(&path).await.map_err(|fault| error::told(fault, OPERATION))?;
        let written = async {
            let (mut sealing, mut content, mut part) = (sealing, content, BytesMut::from(&header[..]));
            while let Some(piece) = content.next().await {
                sealing.push(&piece?, &mut part);
                while part.len() >= PART {
                    // All parts but the last are of the same size: some stores ask for that.
                    let full = PutPayload::from(part.split_to(PART).freeze());
                    upload.put_part(full).await.map_err(|fault| error::told(fault, OPERATION))?;
                }
            }
            let (size, digest) = sealing.finish(&mut part);
            let last = PutPayload::from(part.freeze());
            upload.put_part(last).await.map_err(|fault| error::told(fault, OPERATION))?;
            upload.complete().await.map_err(|fault| error::told(fault, OPERATION))?;
            Ok(Stored { object: object.clone(), key: key.id().clone(), size, digest, token })
        };
        match written.await {
            Ok(stored) => Ok(stored),
            Err(error) => {
                if let Err(fault) = upload.abort().await {
                    tracing::debug!(%fault, "an upload could not be taken back; the store forgets it by itself");
                }
                Err(error)
            }
        }
    }

    /// Makes an uploaded object visible at `place`, if and only if `batch` can be committed with it.
    pub(super) async fn publish(
        &self,
        scope: Scope<'_>,
        purpose: &Purpose,
        place: Key,
        stored: &Stored,
        batch: Batch,
    ) -> Result<()> {
        let plain = serde_json::to_vec(stored)
            .map_err(|error| Error::new(ErrorKind::Internal, "describe an object").caused_by(error))?;
        let sealed = self.ring.seal(scope, purpose, &plain).await?;
        let mark = place.as_str().to_owned();
        self.records.commit(batch.put(stored.object.mark(), mark).put(place, sealed)).await?;
        Ok(())
    }

    /// Deletes what is of no use after an attempt to publish: the object that was replaced, or the new one.
    pub(super) async fn settle(&self, stored: &Stored, published: Result<Option<ObjectName>>) -> Result<()> {
        match published {
            Ok(None) => Ok(()),
            Ok(Some(replaced)) => {
                self.discard(&replaced).await;
                Ok(())
            }
            // Nobody knows whether it was committed; the next sweep looks.
            Err(error) if error.is_retryable() => Err(error),
            Err(error) => {
                self.discard(&stored.object).await;
                Err(error)
            }
        }
    }

    /// What a record says of its object.
    pub(super) async fn describe(
        &self,
        scope: Scope<'_>,
        purpose: &Purpose,
        record: &Record,
    ) -> Result<Stored> {
        let plain = self.ring.open(scope, purpose, &record.value).await?;
        let stored: Option<Stored> = serde_json::from_slice(&plain).ok();
        stored.filter(|stored| stored.object.is_well_formed()).ok_or_else(tampered)
    }

    /// The content of an object, piece by piece, each verified before it comes out; the last one comes out when
    /// the digest of the whole is right. `None` when the store has no such object.
    pub(super) async fn download(
        &self,
        scope: Scope<'_>,
        purpose: &Purpose,
        stored: &Stored,
    ) -> Result<Option<ByteStream<'static>>> {
        let key = self.ring.data_key(scope, purpose, Some(&stored.key)).await?;
        let found = match self.store.get(&stored.object.path()).await {
            Ok(found) => found,
            Err(fault) if error::is_missing(&fault) => return Ok(None),
            Err(fault) => return Err(error::told(fault, "read an object")),
        };
        let mut opening = Opening {
            sealed: found.into_stream(),
            buffer: BytesMut::new(),
            chunks: None,
            left: stored.size,
            is_done: false,
            hash: Sha256::new(),
            digest: stored.digest.clone(),
        };
        let header = opening.take(CHUNK_HEADER).await?;
        let header = header[..].try_into().map_err(|_| tampered())?;
        opening.chunks = Some(ChunkOpener::new(&key, &place(purpose, &stored.object), header)?);
        Ok(Some(Box::pin(futures_util::stream::try_unfold(opening, |mut opening| async move {
            Ok(opening.next().await?.map(|piece| (piece, opening)))
        }))))
    }

    /// Deletes an object that no record knows. If that fails, the next sweep does it.
    pub(super) async fn discard(&self, object: &ObjectName) {
        match self.store.delete(&object.path()).await {
            Err(fault) if !error::is_missing(&fault) => {
                tracing::warn!(?object, %fault, "an object could not be deleted; the next sweep does it");
            }
            _ => {}
        }
    }
}

/// Where the chunks of an object belong.
fn place(purpose: &Purpose, object: &ObjectName) -> Context {
    purpose.context().clone().field("object").field(&object.0)
}

pub(super) fn tampered() -> Error {
    Error::new(ErrorKind::Tampered, "read an object")
}

/// Turns content into sealed chunks.
struct Sealing {
    chunks: ChunkSealer,
    /// Less than a chunk, or a whole one that may turn out to be the last.
    pending: Vec<u8>,
    size: u64,
    hash: Sha256,
}

impl Sealing {
    fn new(key: &DataKey, context: &Context) -> (Self, [u8; CHUNK_HEADER]) {
        let (chunks, header) = ChunkSealer::new(key, context);
        (
            Self {
                chunks,
                pending: Vec::with_capacity(CHUNK + CHUNK_OVERHEAD),
                size: 0,
                hash: Sha256::new(),
            },
            header,
        )
    }

    fn push(&mut self, mut piece: &[u8], out: &mut BytesMut) {
        self.hash.update(piece);
        self.size += piece.len() as u64;
        while !piece.is_empty() {
            if self.pending.len() == CHUNK {
                self.seal(Place::Inner, out);
            }
            let (now, later) = piece.split_at(piece.len().min(CHUNK - self.pending.len()));
            self.pending.extend_from_slice(now);
            piece = later;
        }
    }

    fn finish(mut self, out: &mut BytesMut) -> (u64, Digest) {
        self.seal(Place::Last, out);
        (self.size, Digest::from_sha256(self.hash.finalize().into()))
    }

    fn seal(&mut self, place: Place, out: &mut BytesMut) {
        self.chunks.seal(&mut self.pending, place);
        out.extend_from_slice(&self.pending);
        self.pending.clear();
    }
}

/// Turns sealed chunks into content.
struct Opening {
    sealed: BoxStream<'static, object_store::Result<Bytes>>,
    buffer: BytesMut,
    // `None` only until the header has been read.
    chunks: Option<ChunkOpener>,
    left: u64,
    is_done: bool,
    hash: Sha256,
    digest: Digest,
}

impl Opening {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        if self.is_done {
            return Ok(None);
        }
        let size = usize::try_from(self.left).unwrap_or(CHUNK).min(CHUNK);
        self.left -= size as u64;
        let place = if self.left == 0 { Place::Last } else { Place::Inner };
        let sealed = self.take(size + CHUNK_OVERHEAD).await?;
        let mut plain = self.chunks.as_mut().ok_or_else(tampered)?.open(&sealed, place)?;
        self.hash.update(&plain[..]);
        if place == Place::Last {
            self.is_done = true;
            let digest = Digest::from_sha256(std::mem::take(&mut self.hash).finalize().into());
            if self.has_more().await? || digest != self.digest {
                return Err(tampered());
            }
        }
        // An empty content has one empty chunk, which is nothing to a reader.
        Ok((!plain.is_empty()).then(|| Bytes::from(std::mem::take(&mut *plain))))
    }

    /// The next `size` bytes of the object.
    async fn take(&mut self, size: usize) -> Result<BytesMut> {
        while self.buffer.len() < size {
            match self.sealed.next().await {
                Some(piece) => self.buffer.extend_from_slice(&piece.map_err(unreadable)?),
                None => return Err(tampered()),
            }
        }
        Ok(self.buffer.split_to(size))
    }

    async fn has_more(&mut self) -> Result<bool> {
        while self.buffer.is_empty() {
            match self.sealed.next().await {
                Some(piece) => self.buffer.extend_from_slice(&piece.map_err(unreadable)?),
                None => return Ok(false),
            }
        }
        Ok(true)
    }
}

fn unreadable(fault: object_store::Error) -> Error {
    error::told(fault, "read an object")
}

/// What [`Stored`] says to people.
pub(super) fn size(stored: &Stored) -> ByteSize {
    ByteSize::bytes(stored.size)
}
