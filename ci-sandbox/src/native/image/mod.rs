//! Images: what has to be attached to a sandbox's root, and where it comes from.

mod archive;
mod blobs;
mod format;
mod host;
mod oci;
mod refusal;
mod store;
mod stream;
mod trash;
mod unpack;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use ci_core::{Error, ErrorKind, Result};

use self::host::Toolchain;
pub(super) use self::oci::Bounds;
use self::oci::Found;
use self::store::Held;
pub(super) use self::store::Store;
use super::config::ImageSource;
use super::wire::mount;

const OPERATION: &str = "read an image";

/// The sandbox has these of its own, and shows none of the image's.
const OWN: [&str; 6] = ["dev", "home", "proc", "run", "tmp", "work"];

/// An image that sandboxes can show.
#[derive(Debug)]
pub(super) struct Image {
    /// What is attached, in this order.
    pub(super) mounts: Vec<Mount>,
    /// What its programs find in their environment unless the command says otherwise.
    pub(super) environment: BTreeMap<String, Vec<u8>>,
    /// Keeps it in the store.
    _held: Option<Held>,
}

/// One thing to attach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    /// A constant of [`mount`].
    pub(super) kind: u32,
    /// A path of the host.
    pub(super) source: Vec<u8>,
    /// Where it goes.
    pub(super) target: Vec<u8>,
}

/// What images are looked up with.
#[derive(Debug)]
pub(super) struct Finder<'a> {
    pub(super) store: &'a Store,
    /// Whether sandboxes have a range of ids, to which an image's owners can belong.
    pub(super) range: bool,
    /// Whether the kernel can show a layer's owners as others (Linux 5.19).
    pub(super) maps_layers: bool,
    pub(super) bounds: Bounds,
}

impl Finder<'_> {
    /// Looks up what `source` consists of.
    pub(super) fn resolve(&self, source: &ImageSource) -> Result<Image> {
        match source {
            ImageSource::HostToolchain { paths } => {
                let toolchain = Toolchain::survey(paths, self.range)?;
                let held = toolchain.copy(self.store)?;
                let mut mounts = self.layers(&held.root, Path::new("/"))?;
                for folder in &toolchain.folders {
                    mounts.extend(self.layers(folder, folder)?);
                }
                mounts.extend(toolchain.files.iter().map(|file| Mount::new(mount::BIND, file, file)));
                Ok(Image { mounts, environment: BTreeMap::new(), _held: Some(held) })
            }
            ImageSource::Directory(root) => {
                let mounts = self.layers(root, Path::new("/"))?;
                Ok(Image { mounts, environment: BTreeMap::new(), _held: None })
            }
            ImageSource::OciLayout { path, reference } => {
                self.unpacked(Found::in_layout(path, reference.as_deref())?)
            }
            ImageSource::Archive { path, reference } => {
                self.unpacked(Found::in_tarball(path, reference.as_deref())?)
            }
        }
    }

    fn unpacked(&self, found: Found) -> Result<Image> {
        let held = found.unpack(self.store, self.bounds, self.range)?;
        let mounts = self.layers(&held.root, Path::new("/"))?;
        Ok(Image { mounts, environment: found.environment, _held: Some(held) })
    }

    /// The folder `source` as a layer at `target`, and what is mounted below it as further layers.
    fn layers(&self, source: &Path, target: &Path) -> Result<Vec<Mount>> {
        let source = fs::canonicalize(source).map_err(|error| unreadable(source, error))?;
        if !source.is_dir() {
            return Err(unreadable(&source, io::ErrorKind::NotADirectory.into()));
        }
        let kind = if self.maps_layers { mount::LAYER_MAPPED } else { mount::LAYER };
        let mut layers = vec![Mount::new(kind, &source, target)];
        // To an ordinary user the kernel does not give what lies under a mount of somebody else's.
        if self.range {
            let table = fs::read("/proc/self/mountinfo").map_err(|error| unreadable(&source, error))?;
            for place in mounted_below(&table, &source) {
                let kind = if place.is_dir() { kind } else { mount::BIND };
                let target = target.join(place.strip_prefix(&source).unwrap_or(&place));
                if !OWN.iter().any(|own| target.starts_with(Path::new("/").join(own))) {
                    layers.push(Mount::new(kind, &place, &target));
                }
            }
        }
        Ok(layers)
    }
}

impl Image {
    /// Whether all of it can be a sandbox's own: a single file can only be shown as it is.
    pub(super) fn is_all_layers(&self) -> bool {
        self.mounts.iter().all(|mount| mount.kind != mount::BIND)
    }
}

impl Mount {
    fn new(kind: u32, source: &Path, target: &Path) -> Self {
        let bytes = |path: &Path| path.as_os_str().as_bytes().to_vec();
        Self { kind, source: bytes(source), target: bytes(target) }
    }
}

/// Where something is mounted below `folder`, outermost first (proc(5), `mountinfo`).
fn mounted_below(table: &[u8], folder: &Path) -> Vec<PathBuf> {
    let places =
        table.split(|byte| *byte == b'\n').filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
    let places = places.map(|place| PathBuf::from(std::ffi::OsString::from_vec(unescape(place))));
    let mut below: Vec<PathBuf> =
        places.filter(|place| place.starts_with(folder) && place != folder).collect();
    below.sort();
    below.dedup();
    below
}

/// Undoes the kernel's escapes: a backslash and three octal digits.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, more @ ..] = rest {
        let octal = more.get(..3).filter(|_| *first == b'\\').and_then(|digits| {
            digits.iter().try_fold(0_u32, |value, digit| Some(value * 8 + char::from(*digit).to_digit(8)?))
        });
        if let Some(byte) = octal.and_then(|value| u8::try_from(value).ok()) {
            out.push(byte);
            rest = &more[3..];
        } else {
            out.push(*first);
            rest = more;
        }
    }
    out
}

/// What a stranger has written, as it may stand in an error.
fn shown(text: &str) -> String {
    const LONGEST: usize = 200;
    format!("{:?}", text.chars().take(LONGEST).collect::<String>())
}

fn unreadable(path: &Path, error: io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, OPERATION)
        .because("a path that the configuration names cannot be read")
        .detail(path.display().to_string())
        .caused_by(error)
        .permanent()
}

pub(super) fn unusable_store(error: io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, OPERATION)
        .because("the folder for unpacked images cannot be used")
        .caused_by(error)
        .permanent()
}
