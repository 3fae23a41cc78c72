//! Folders that are this program's own.

use std::fs::{self, DirBuilder, File, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;

const WRITABLE_BY_OTHERS: u32 = 0o022;
/// In such a folder anybody may make something, and only its owner may remove or rename it.
const STICKY: u32 = 0o1000;

/// Makes the folder, or takes the one that is there, for nobody else.
///
/// # Errors
///
/// When it belongs to somebody else, or others can write to it or to the folder above: what stands in it may then be
/// theirs.
pub(super) fn make_own(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let folder = File::open(path)?;
    let metadata = folder.metadata()?;
    if !is_mine(&metadata) || is_writable_by_others(&metadata) {
        return Err(theirs(path));
    }
    if let Some(above) = fs::canonicalize(path)?.parent() {
        let metadata = fs::metadata(above)?;
        let is_trusted = is_mine(&metadata) || metadata.uid() == 0;
        if !is_trusted || is_writable_by_others(&metadata) && metadata.mode() & STICKY == 0 {
            return Err(theirs(above));
        }
    }
    if metadata.mode() & 0o077 != 0 {
        folder.set_permissions(fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

fn is_mine(folder: &Metadata) -> bool {
    folder.uid() == rustix::process::geteuid().as_raw()
}

fn is_writable_by_others(folder: &Metadata) -> bool {
    folder.mode() & WRITABLE_BY_OTHERS != 0
}

fn theirs(folder: &Path) -> io::Error {
    let why =
        "belongs to somebody else, or others can write to it; own it, and take that from them (chmod go-w)";
    let text = format!("{} {why}", folder.display());
    io::Error::new(io::ErrorKind::PermissionDenied, text)
}
