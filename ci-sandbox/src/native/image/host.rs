//! An image out of this machine's own files.
//!
//! Large folders are shown as they are. Small ones, files and links are copied into one folder of the store: one layer
//! then shows them all, and a sandbox costs no more for having many.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, lchown, symlink};
use std::path::{Component, Path, PathBuf};

use ci_core::{Error, ErrorKind, Result};
use sha2::{Digest as _, Sha256};

use super::super::files::FILES;
use super::super::ledger::boot_id;
use super::format::Digest;
use super::store::{Held, Store};
use super::{OPERATION, OWN, unreadable, unusable_store};

/// A folder with more in it is shown as it is.
const SMALL_BYTES: u64 = 4 * 1024 * 1024;
const SMALL_ENTRIES: usize = 4_096;

/// What the machine's paths come to.
#[derive(Debug, Default)]
pub(super) struct Toolchain {
    /// What is copied, by path without the leading slash.
    copies: BTreeMap<PathBuf, Copied>,
    /// Folders that are shown as they are.
    pub(super) folders: Vec<PathBuf>,
    /// Files that can only be shown as they are.
    pub(super) files: Vec<PathBuf>,
}

/// One thing to copy.
#[derive(Debug)]
struct Copied {
    content: Content,
    mode: u32,
    owner: Option<(u32, u32)>,
}

#[derive(Debug)]
enum Content {
    Folder,
    Link(PathBuf),
    File { source: PathBuf, digest: [u8; 32] },
    Bytes(&'static [u8]),
}

impl Toolchain {
    /// Looks at `paths`. `keep_owners` says whether a copy can have the owner of its original.
    pub(super) fn survey(paths: &[PathBuf], keep_owners: bool) -> Result<Self> {
        let mut toolchain = Self::default();
        // A folder comes before what is in it.
        let mut paths: Vec<&Path> = paths.iter().map(PathBuf::as_path).collect();
        paths.sort_unstable();
        for path in paths {
            check(path)?;
            toolchain.add(path, keep_owners).map_err(|error| unreadable(path, error))?;
        }
        for (name, content) in FILES {
            let path = Path::new("etc").join(name.to_str().unwrap_or_default());
            toolchain.copies.entry(path).or_insert(Copied {
                content: Content::Bytes(content),
                mode: 0o644,
                owner: None,
            });
        }
        Ok(toolchain)
    }

    /// The folder of the store with the copies.
    pub(super) fn copy(&self, store: &Store) -> Result<Held> {
        let name = format!("host-{}", self.digest());
        store.get_or_make(&name, false, unusable_store, |new| self.copy_to(&new.root))
    }

    fn add(&mut self, path: &Path, keep_owners: bool) -> io::Result<()> {
        let metadata = match fs::symlink_metadata(path) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(());
            }
            metadata => metadata?,
        };
        let inside = path.strip_prefix("/").unwrap_or(path);
        if self.shows(inside) {
            return Ok(());
        }
        // A copy would be covered by the sandbox's own folder.
        if OWN.iter().any(|own| inside.starts_with(own)) {
            let list = if fs::metadata(path)?.is_dir() { &mut self.folders } else { &mut self.files };
            list.push(path.to_owned());
            return Ok(());
        }
        if metadata.is_dir() {
            let mut small = BTreeMap::new();
            let mut bytes = 0;
            if !collect(path, &metadata, keep_owners, &mut small, &mut bytes)? {
                let folder = Copied { content: Content::Folder, mode: 0o755, owner: None };
                self.copies.insert(inside.to_owned(), folder);
                self.folders.push(path.to_owned());
                return Ok(());
            }
            self.copies.extend(small);
        } else if let Some(copied) = Copied::of(path, &metadata, keep_owners)? {
            self.copies.insert(inside.to_owned(), copied);
        }
        Ok(())
    }

    /// Whether a path is shown already, with a folder above it or through a link.
    fn shows(&self, inside: &Path) -> bool {
        let is_shown = |above: &Path| {
            self.folders.iter().any(|folder| folder.strip_prefix("/") == Ok(above))
                || matches!(self.copies.get(above), Some(Copied { content: Content::Link(_), .. }))
        };
        self.copies.contains_key(inside)
            || inside.ancestors().skip(1).any(|above| !above.as_os_str().is_empty() && is_shown(above))
    }

    fn digest(&self) -> String {
        let mut hasher = Sha256::new();
        // Waiting for the disk would take longer than copying again after the next start of the machine.
        hasher.update(boot_id());
        for (path, Copied { content, mode, owner }) in &self.copies {
            let (kind, content): (u8, &[u8]) = match content {
                Content::Folder => (b'd', &[]),
                Content::Link(target) => (b'l', target.as_os_str().as_bytes()),
                Content::File { digest, .. } => (b'f', digest),
                Content::Bytes(bytes) => (b'b', bytes),
            };
            for field in [path.as_os_str().as_bytes(), content] {
                hasher.update((field.len() as u64).to_le_bytes());
                hasher.update(field);
            }
            hasher.update([kind]);
            hasher.update(format!("{mode:o} {owner:?};"));
        }
        Digest::from(hasher).file_name()
    }

    fn copy_to(&self, root: &Path) -> Result<()> {
        for (path, copied) in &self.copies {
            let target = root.join(path);
            let copy = || -> io::Result<()> {
                let parent = target.parent().unwrap_or(root);
                fs::DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
                copied.make(&target)
            };
            copy().map_err(|error| unreadable(&Path::new("/").join(path), error))?;
        }
        Ok(())
    }
}

/// Collects a folder and all that is in it; false when that is more than a little.
fn collect(
    path: &Path,
    metadata: &Metadata,
    keep_owners: bool,
    into: &mut BTreeMap<PathBuf, Copied>,
    bytes: &mut u64,
) -> io::Result<bool> {
    // Something mounted here is not part of the folder.
    let Some(copied) = Copied::of(path, metadata, keep_owners)? else { return Ok(true) };
    let inside = path.strip_prefix("/").unwrap_or(path).to_owned();
    into.insert(inside, copied);
    *bytes += metadata.len();
    if into.len() > SMALL_ENTRIES || *bytes > SMALL_BYTES {
        return Ok(false);
    }
    if metadata.is_dir() {
        let entries = match fs::read_dir(path) {
            // What this user may not read, its job may not either.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(true),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            if !collect(&entry.path(), &entry.metadata()?, keep_owners, into, bytes)? {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

impl Copied {
    /// What is to be copied of `path`; nothing where it is neither folder, file nor link, or must not be read.
    fn of(path: &Path, metadata: &Metadata, keep_owners: bool) -> io::Result<Option<Self>> {
        let content = if metadata.is_dir() {
            Content::Folder
        } else if metadata.is_symlink() {
            Content::Link(fs::read_link(path)?)
        } else if metadata.is_file() {
            match File::open(path).and_then(|mut file| copy_hashed(&mut file, &mut io::sink())) {
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(None),
                digest => Content::File { source: path.to_owned(), digest: digest? },
            }
        } else {
            return Ok(None);
        };
        let owner = keep_owners.then(|| (metadata.uid(), metadata.gid()));
        Ok(Some(Self { content, mode: metadata.mode() & 0o777, owner }))
    }

    fn make(&self, target: &Path) -> io::Result<()> {
        let create = || File::options().write(true).create_new(true).mode(0o600).open(target);
        match &self.content {
            Content::Folder => match fs::create_dir(target) {
                // What is in it was copied first, or it is the copy's own root.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => made?,
            },
            Content::Link(link) => symlink(link, target)?,
            Content::File { source, digest } => {
                if copy_hashed(&mut File::open(source)?, &mut create()?)? != *digest {
                    return Err(io::Error::other("it was changed while it was copied"));
                }
            }
            Content::Bytes(bytes) => create()?.write_all(bytes)?,
        }
        if let Some((uid, gid)) = self.owner {
            lchown(target, Some(uid), Some(gid))?;
        }
        match self.content {
            Content::Link(_) => Ok(()),
            // Without an owner's rights a folder could not be filled, nor removed.
            Content::Folder => set_mode(target, self.mode | 0o700),
            _ => set_mode(target, self.mode),
        }
    }
}

fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))
}

/// Copies all there is, and returns its SHA-256.
fn copy_hashed(from: &mut impl Read, to: &mut impl Write) -> io::Result<[u8; 32]> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finalize().into()),
            Ok(read) => {
                hasher.update(&buffer[..read]);
                to.write_all(&buffer[..read])?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn check(path: &Path) -> Result<()> {
    let is_plain = path.is_absolute()
        && path.components().skip(1).all(|part| matches!(part, Component::Normal(_)))
        && path.components().count() > 1;
    if is_plain {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Invalid, OPERATION)
        .because("a path of the machine must be absolute, without .., and less than the whole machine")
        .detail(path.display().to_string()))
}
