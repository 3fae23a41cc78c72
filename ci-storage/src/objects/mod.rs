//! Artifacts and caches as sealed objects in a folder or a bucket.

mod artifacts;
mod caches;
mod error;
mod sealed;
mod sweep;

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ci_core::clock::Clock;
use ci_core::id::TenantId;
use ci_core::operator::Act;
use ci_core::records::Records;
use ci_core::secret::KeyRing;
use ci_core::{Error, ErrorKind, Result};
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;

pub use self::artifacts::ObjectArtifacts;
pub use self::caches::ObjectCaches;

/// Where the content of artifacts and caches lies: objects in a folder or a bucket, and a record for each in a
/// database.
///
/// An object has a random name and sealed content. Its record says which object belongs to which artifact or
/// cache, how large it is and what its digest is, and is sealed too: whoever can write to bucket *and* database
/// can destroy and can put back what once was there, but cannot read, change or swap anything unnoticed. The
/// store learns how many objects there are, how large they are, and when they are written and read.
///
/// An object is written first and its record committed afterwards, together with the check that the writer's
/// lease holds; it exists for readers if and only if the record does. What was written in vain (by a worker that
/// was lost, say) is deleted by [`sweep`](Self::sweep), which an operator should call once a day.
///
/// Its futures must be polled within a tokio runtime, which `object_store` asks for.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// use std::sync::Arc;
/// use ci_core::access::Read;
/// use ci_core::artifact::ArtifactStore as _;
/// use ci_core::id::ArtifactName;
/// use ci_core::memory::Rig;
/// use ci_core::{ByteSize, stream, trust::Origin};
/// use ci_storage::objects::Objects;
///
/// let (folder, rig) = (tempfile::tempdir()?, Rig::new()?);
/// let objects = Objects::folder(
///     folder.path().join("objects"),
///     rig.records(),
///     rig.ring.clone(),
///     rig.clock.clone(),
/// )?;
/// let artifacts = objects.artifacts();
///
/// let (repository, name) = (Rig::repository("1", "acme")?, ArtifactName::parse("report.tar")?);
/// let claim = rig.claim(&repository, Origin::Repository, Rig::spec()).await?;
/// artifacts.put(&claim, &name, stream::once("content")).await?;
///
/// let grant = rig.grant::<Read>(&Rig::user("ada")?, &repository).await?;
/// let content = artifacts.get(&grant, claim.job(), &name).await?;
/// assert_eq!(stream::collect(content, ByteSize::kib(1)).await?, b"content");
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Objects {
    store: Arc<dyn ObjectStore>,
    records: Arc<dyn Records>,
    ring: Arc<dyn KeyRing>,
    clock: Arc<dyn Clock>,
    /// Where the objects lie, if that is a local folder.
    folder: Option<PathBuf>,
}

impl Objects {
    /// Objects in `store`, known to `records`, sealed with the keys of `ring`.
    ///
    /// The store has to be consistent: an object that was written is there for the next reader. Bound its
    /// timeouts and retries where it is made, and let the bucket forget uploads that were never completed.
    /// The age of an object is the store's time of its last change before `clock`'s time.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        records: Arc<dyn Records>,
        ring: Arc<dyn KeyRing>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { store, records, ring, clock, folder: None }
    }

    /// Objects in a local folder, which is made if it is not there, for its owner only. What was written is
    /// synced to the disk before it is committed.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when the folder above does not exist or may not be written to, or something else than a
    /// folder is there; [`ErrorKind::Unavailable`] when it cannot be opened now.
    pub fn folder(
        path: impl AsRef<Path>,
        records: Arc<dyn Records>,
        ring: Arc<dyn KeyRing>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        const OPERATION: &str = "open the folder for objects";
        let path = path.as_ref();
        let invalid = |why: &'static str| {
            Error::new(ErrorKind::Invalid, OPERATION).because(why).detail(path.display().to_string())
        };
        match fs::DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                let reason =
                    "it cannot be made; the folder above must exist, and be this program's to write to";
                return Err(invalid(reason).caused_by(error));
            }
            _ if !path.is_dir() => return Err(invalid("it is not a folder")),
            _ => {}
        }
        let store = LocalFileSystem::new_with_prefix(path).map_err(|fault| error::told(fault, OPERATION))?;
        let folder = Some(path.to_owned());
        Ok(Self { folder, ..Self::new(Arc::new(store.with_fsync(true)), records, ring, clock) })
    }

    /// The artifacts among the objects.
    pub fn artifacts(&self) -> ObjectArtifacts {
        ObjectArtifacts::new(self.clone())
    }

    /// The caches among the objects.
    pub fn caches(&self) -> ObjectCaches {
        ObjectCaches::new(self.clone())
    }

    /// Deletes objects that no record knows and that were written longer than `grace` ago, and returns how many
    /// those were.
    ///
    /// An object is without a record while it is being written: `grace` must be longer than that can take. One
    /// hour is the least that is accepted, and a day is a good choice.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when the act is not for [the service](TenantId::service): objects are of all tenants;
    /// [`ErrorKind::Invalid`] for a `grace` of less than an hour; [`ErrorKind::Tampered`] when the record of an object
    /// is not what was stored; [`ErrorKind::Unavailable`] when store or records cannot be reached: the next sweep
    /// goes on.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, some have been deleted; the next sweep goes on.
    pub async fn sweep(&self, act: &Act<'_>, grace: Duration) -> Result<usize> {
        act.covers(&TenantId::service())?;
        sweep::sweep(self, grace).await
    }
}
