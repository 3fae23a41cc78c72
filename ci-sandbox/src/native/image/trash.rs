//! Removes a folder whose content an enemy has made: of any depth, with names of any kind.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, renameat, statat, unlinkat};
use rustix::io::Errno;

/// Removes what stands at `path`; nothing there is no error.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        stat if FileType::from_raw_mode(stat?.st_mode) != FileType::Directory => {
            return Ok(unlinkat(CWD, path, AtFlags::empty())?);
        }
        _ => {}
    }
    let folder = open_folder(CWD, path)?;
    empty(&folder)?;
    Ok(unlinkat(CWD, path, AtFlags::REMOVEDIR)?)
}

/// Removes everything in `folder`.
///
/// A folder in it is not descended into: what it holds comes up to `folder` first, under a name that is free. So no
/// depth takes more than two descriptors, and no stack.
pub(super) fn empty(folder: &OwnedFd) -> io::Result<()> {
    let mut free = 0_u64;
    while let Some((name, kind)) = names(folder.as_fd())?.next().transpose()? {
        if kind == FileType::Directory {
            let below = open_folder(folder, &name)?;
            for entry in names(below.as_fd())? {
                match entry? {
                    (name, FileType::Directory) => move_up(&below, &name, folder, &mut free)?,
                    (name, _) => unlinkat(&below, &name, AtFlags::empty())?,
                }
            }
            unlinkat(folder, &name, AtFlags::REMOVEDIR)?;
        } else {
            unlinkat(folder, &name, AtFlags::empty())?;
        }
    }
    Ok(())
}

fn move_up(from: &OwnedFd, name: &CStr, to: &OwnedFd, free: &mut u64) -> io::Result<()> {
    loop {
        let fresh = format!("removed-{free}");
        *free += 1;
        match rustix::fs::renameat_with(from, name, to, &fresh, rustix::fs::RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            // Not every file system can refuse; then only an empty folder could be replaced.
            Err(Errno::INVAL) => return Ok(renameat(from, name, to, &fresh)?),
            moved => return Ok(moved?),
        }
    }
}

fn open_folder(directory: impl AsFd, path: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(directory, path, flags, Mode::empty())?)
}

/// What is in a folder.
fn names(folder: BorrowedFd<'_>) -> io::Result<impl Iterator<Item = io::Result<(CString, FileType)>>> {
    let entries = Dir::read_from(folder)?;
    let folder = folder.try_clone_to_owned()?;
    Ok(entries.filter_map(move |entry| {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => return Some(Err(error.into())),
        };
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            return None;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => match statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                Err(error) => return Some(Err(error.into())),
            },
            known => known,
        };
        Some(Ok((name.to_owned(), kind)))
    }))
}
