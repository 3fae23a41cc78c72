//! Where images lie that had to be unpacked or put together: once, by digest, for all who use them.
//!
//! ```text
//! <store>/<name>        the root of an image; whatever stands under this name is whole
//! <store>/<name>.new/   where one is being made, in `root`, or was when its maker died
//! <store>/<name>.lock   held with flock(2): shared by those who use or make it, alone by the one who removes it
//! <store>/<name>.making held with flock(2) by the one who makes it
//! ```

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use ci_core::{Error, Result};
use rustix::fs::{FlockOperation, flock, syncfs};
use rustix::io::Errno;

use super::super::folder::make_own;
use super::trash;

/// A folder of images.
#[derive(Clone, Debug)]
pub(in super::super) struct Store {
    folder: PathBuf,
}

/// An image that stays for as long as this value lives.
#[derive(Debug)]
pub(super) struct Held {
    /// Its root.
    pub(super) root: PathBuf,
    _lock: File,
}

impl Store {
    /// Opens the store in `folder`, for nobody else: files in it have owners and modes of the image's choice.
    pub(in super::super) fn open(folder: &Path) -> io::Result<Self> {
        make_own(folder)?;
        // An image is found by its path long after this.
        Ok(Self { folder: fs::canonicalize(folder)? })
    }

    /// The image `name`, which `make` puts into an empty folder if it is not there yet. Who else makes it at this time
    /// is waited for.
    ///
    /// One that is not to last may be found damaged after a power failure; its name must then be another one.
    pub(super) fn get_or_make(
        &self,
        name: &str,
        lasting: bool,
        unusable: impl Fn(io::Error) -> Error,
        make: impl FnOnce(&Workshop) -> Result<()>,
    ) -> Result<Held> {
        let root = self.folder.join(name);
        // Held from here on, so that nobody removes what is about to be made.
        let lock = self.lock(name, "lock", FlockOperation::LockShared).map_err(&unusable)?;
        if !root.is_dir() {
            let _making = self.lock(name, "making", FlockOperation::LockExclusive).map_err(&unusable)?;
            // Whoever was waited for may have made it.
            let made = if root.is_dir() { Ok(()) } else { self.make(name, &root, lasting, &unusable, make) };
            let _ = fs::remove_file(self.beside(name, "making"));
            made?;
        }
        Ok(Held { root, _lock: lock })
    }

    fn make(
        &self,
        name: &str,
        root: &Path,
        lasting: bool,
        unusable: impl Fn(io::Error) -> Error,
        make: impl FnOnce(&Workshop) -> Result<()>,
    ) -> Result<()> {
        let new = self.beside(name, "new");
        trash::remove(&new).map_err(&unusable)?;
        let workshop = Workshop::new(&new).map_err(&unusable)?;
        let made = make(&workshop).and_then(|()| settle(&workshop, root, lasting).map_err(&unusable));
        // What is left if this fails is cleared by the next one.
        let _ = trash::remove(&new);
        made
    }

    /// Removes every image that nobody holds, and returns their names.
    pub(in super::super) fn remove_unused(&self) -> io::Result<Vec<String>> {
        let mut removed = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?.file_name();
            let Some(name) = entry.to_str().and_then(|name| name.strip_suffix(".lock")) else { continue };
            let lock = match self.lock(name, "lock", FlockOperation::NonBlockingLockExclusive) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                lock => lock?,
            };
            let (root, new) = (self.folder.join(name), self.beside(name, "new"));
            trash::remove(&new)?;
            if root.exists() {
                // Half an image must not stand under its name.
                fs::rename(&root, &new)?;
                trash::remove(&new)?;
                removed.push(name.to_owned());
            }
            fs::remove_file(self.beside(name, "lock"))?;
            drop(lock);
        }
        Ok(removed)
    }

    fn beside(&self, name: &str, what: &str) -> PathBuf {
        self.folder.join(format!("{name}.{what}"))
    }

    fn lock(&self, name: &str, what: &str, how: FlockOperation) -> io::Result<File> {
        let path = self.beside(name, what);
        loop {
            let lock = File::options().create(true).append(true).open(&path)?;
            match flock(&lock, how) {
                Err(Errno::INTR) => continue,
                locked => locked?,
            }
            // It may have been removed while it was waited for.
            if lock.metadata()?.nlink() > 0 {
                return Ok(lock);
            }
        }
    }
}

/// Where an image is made.
#[derive(Debug)]
pub(super) struct Workshop {
    /// The folder that becomes the image's root, empty at first.
    pub(super) root: PathBuf,
    /// An empty folder beside it, for what has to go.
    pub(super) removed: PathBuf,
}

impl Workshop {
    fn new(folder: &Path) -> io::Result<Self> {
        fs::create_dir(folder)?;
        let workshop = Self { root: folder.join("root"), removed: folder.join("removed") };
        fs::DirBuilder::new().mode(0o755).create(&workshop.root)?;
        fs::create_dir(&workshop.removed)?;
        Ok(workshop)
    }
}

/// Gives a whole image its name.
fn settle(made: &Workshop, root: &Path, lasting: bool) -> io::Result<()> {
    if lasting {
        syncfs(File::open(&made.root)?)?;
    }
    fs::rename(&made.root, root)?;
    if !lasting {
        return Ok(());
    }
    let parent = root.parent().unwrap_or(root);
    File::open(parent)?.sync_all()
}
