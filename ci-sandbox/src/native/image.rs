//! An image as the list of what has to be attached to a sandbox's root.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use ci_core::{Error, ErrorKind, Result};

use super::config::ImageSource;
use super::wire::mount;

/// One thing to attach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    /// A constant of [`mount`].
    pub(super) kind: u32,
    /// A path of the host, or what a symbolic link says.
    pub(super) source: Vec<u8>,
    /// Where it goes.
    pub(super) target: Vec<u8>,
}

/// The sandbox has these of its own.
const OWN: [&str; 7] = ["dev", "home", "proc", "run", "sys", "tmp", "work"];

/// Looks up what `source` consists of.
pub(super) fn resolve(source: &ImageSource) -> Result<Vec<Mount>> {
    match source {
        ImageSource::HostToolchain { paths } => {
            let mounts = paths.iter().map(|path| entry(path, path));
            mounts.filter_map(Result::transpose).collect()
        }
        ImageSource::Directory(root) => {
            let mut mounts = Vec::new();
            let mut names = fs::read_dir(root)
                .and_then(|entries| {
                    entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()
                })
                .map_err(|error| unreadable(root, error))?;
            names.sort();
            for name in names {
                if !OWN.iter().any(|own| name == *own) {
                    mounts.extend(entry(&root.join(&name), &Path::new("/").join(&name))?);
                }
            }
            Ok(mounts)
        }
    }
}

/// How to show `source` at `target`; nothing where it does not exist.
fn entry(source: &Path, target: &Path) -> Result<Option<Mount>> {
    let target = bytes(target.to_owned());
    let metadata = match fs::symlink_metadata(source) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        metadata => metadata.map_err(|error| unreadable(source, error))?,
    };
    if !metadata.is_symlink() {
        return Ok(Some(Mount { kind: mount::BIND, source: bytes(source.to_owned()), target }));
    }
    let link = fs::read_link(source).map_err(|error| unreadable(source, error))?;
    Ok(Some(Mount { kind: mount::SYMLINK, source: bytes(link), target }))
}

fn bytes(path: PathBuf) -> Vec<u8> {
    path.into_os_string().into_vec()
}

fn unreadable(path: &Path, error: io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, "read an image")
        .because("a path that the configuration names cannot be read")
        .detail(path.display().to_string())
        .caused_by(error)
        .permanent()
}
