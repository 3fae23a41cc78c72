//! A file that only this process's user can read.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;

use ci_core::{Error, ErrorKind, Result};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use zeroize::Zeroizing;

const OPEN: &str = "open the root key";
const CREATE: &str = "create the root key";

/// Writes `content` into a new file at `path`, durably, or leaves no file.
pub(super) fn create(path: &Path, content: &[u8]) -> Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR).map_err(|e| failed(CREATE, path, e))?;
    if let Err(error) = write(file.into(), path, content) {
        // Half a key is of no use, and would be in the way of the next try.
        let _ = std::fs::remove_file(path);
        return Err(Error::new(ErrorKind::Unavailable, CREATE).detail(shown(path)).caused_by(error));
    }
    Ok(())
}

/// Reads the file at `path`, up to `most` bytes of it, if nobody but this process's user can.
pub(super) fn read(path: &Path, most: usize) -> Result<Zeroizing<Vec<u8>>> {
    // Without NONBLOCK, opening a pipe waits for whoever writes to it.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| failed(OPEN, path, error))?;
    // The opened file is looked at, not the path: the path may mean another file by now.
    let stat = rustix::fs::fstat(&file).map_err(|error| failed(OPEN, path, error))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(refused(ErrorKind::Invalid, path, "it is not a regular file"));
    }
    if stat.st_uid != rustix::process::geteuid().as_raw() {
        let reason = "its owner is not the user that this process runs as";
        return Err(refused(ErrorKind::Denied, path, reason));
    }
    if stat.st_mode & 0o7777 & !0o600 != 0 {
        let reason = "others than its owner may use it; run chmod 600 on it, and replace the key if they did";
        return Err(refused(ErrorKind::Denied, path, reason));
    }
    let mut content = Zeroizing::new(vec![0; most]);
    let length = read_some(File::from(file), &mut content)
        .map_err(|error| Error::new(ErrorKind::Unavailable, OPEN).detail(shown(path)).caused_by(error))?;
    content.truncate(length);
    Ok(content)
}

/// The error that the file at `path` cannot be used, for `reason`.
pub(super) fn refused(kind: ErrorKind, path: &Path, reason: &'static str) -> Error {
    Error::new(kind, OPEN).because(reason).detail(shown(path))
}

fn write(mut file: File, path: &Path, content: &[u8]) -> std::io::Result<()> {
    // The umask may have taken the owner's own rights away.
    rustix::fs::fchmod(&file, Mode::RUSR | Mode::WUSR)?;
    file.write_all(content)?;
    file.sync_all()?;
    // The name is as durable as the folder that holds it.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

fn read_some(mut file: File, into: &mut [u8]) -> std::io::Result<usize> {
    let mut length = 0;
    while length < into.len() {
        match file.read(&mut into[length..]) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

fn failed(operation: &'static str, path: &Path, errno: Errno) -> Error {
    let (kind, reason) = match errno {
        Errno::NOENT | Errno::NOTDIR => (
            ErrorKind::NotFound,
            "there is no such file or folder; restore the copy of the key, or make one for a new installation",
        ),
        Errno::EXIST => (ErrorKind::Conflict, "there is something at its path, which is not overwritten"),
        Errno::LOOP | Errno::MLINK => {
            (ErrorKind::Denied, "its path is a symbolic link; name the file itself")
        }
        Errno::ACCESS | Errno::PERM | Errno::ROFS => (ErrorKind::Denied, "this process's user may not do so"),
        Errno::ISDIR | Errno::NXIO => (ErrorKind::Invalid, "it is not a regular file"),
        _ => (ErrorKind::Unavailable, "the disk or the operating system failed"),
    };
    Error::new(kind, operation).because(reason).detail(shown(path)).caused_by(errno)
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
